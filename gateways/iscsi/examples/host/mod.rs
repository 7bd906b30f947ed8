//! The least `Env` that the server and the initiator need, over tokio and real TCP. Shared by the
//! example and the loopback tests; the product has its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{
    AbortHandle, BlockingFile, BoxFuture, Clock, Disk, DiskError, Env, EnvParts, Events, File,
    HaltReason, Instant, Level, Listener, Network, NetworkError, OpenMode, Random, Seeds, Stream,
    StreamKind, StreamReader, StreamWriter, TaskHandle, Tasks, WallTime,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An `Env` on the running tokio runtime.
pub(crate) fn env() -> Env {
    let host = Arc::new(Host {
        started: tokio::time::Instant::now(),
        secrets: AtomicU64::new(1),
    });
    Env::new(EnvParts {
        clock: host.clone(),
        tasks: host.clone(),
        seeds: host.clone(),
        network: host.clone(),
        disk: host.clone(),
        events: host,
    })
}

/// All seams, over tokio.
struct Host {
    started: tokio::time::Instant,
    secrets: AtomicU64,
}

impl Clock for Host {
    fn now(&self) -> Instant {
        Instant::default() + self.started.elapsed()
    }

    fn wall(&self) -> WallTime {
        WallTime(0)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let until = self.started + Duration::from_nanos(deadline.as_nanoseconds());
        Box::pin(tokio::time::sleep_until(until))
    }
}

struct Abort(tokio::task::AbortHandle);

impl AbortHandle for Abort {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Tasks for Host {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle {
        TaskHandle::new(Arc::new(Abort(tokio::spawn(future).abort_handle())))
    }

    fn blocking(
        &self,
        _name: &'static str,
        job: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move { job() })
    }

    fn halt(&self, reason: HaltReason) {
        eprintln!("halt: {reason}");
        std::process::exit(1);
    }
}

impl Seeds for Host {
    fn stream(&self, _label: &str) -> Random {
        Random::from_seed(1)
    }

    /// Different at each call and the same in each run: no example for a product.
    fn secret(&self, length: usize) -> Vec<u8> {
        let mut secret = vec![0; length];
        Random::from_seed(self.secrets.fetch_add(1, Ordering::Relaxed)).fill(&mut secret);
        secret
    }
}

impl Events for Host {
    fn enabled(&self, level: Level) -> bool {
        level >= Level::Info
    }

    fn emit(&self, level: Level, component: &'static str, message: fmt::Arguments<'_>) {
        eprintln!("{level:?} {component}: {message}");
    }
}

fn closed(error: &std::io::Error) -> NetworkError {
    NetworkError::Closed {
        reason: error.to_string(),
    }
}

fn stream(stream: tokio::net::TcpStream) -> Result<Stream, NetworkError> {
    stream.set_nodelay(true).map_err(|error| closed(&error))?;
    let local_address = stream
        .local_addr()
        .map_err(|error| closed(&error))?
        .to_string();
    let peer_address = stream
        .peer_addr()
        .map_err(|error| closed(&error))?
        .to_string();
    let (reader, writer) = stream.into_split();
    let (reader, writer) = (Box::new(Reader(reader)), Box::new(Writer(writer)));
    Ok(Stream {
        reader,
        writer,
        local_address,
        peer_address,
    })
}

impl Network for Host {
    fn listen(
        &self,
        address: &str,
        _kind: StreamKind,
    ) -> BoxFuture<'static, Result<Box<dyn Listener>, NetworkError>> {
        let address = address.to_owned();
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(&address).await;
            let listener = listener.map_err(|_| NetworkError::AddressInUse { address })?;
            Ok(Box::new(Accepting(listener)) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        address: &str,
        _kind: StreamKind,
    ) -> BoxFuture<'static, Result<Stream, NetworkError>> {
        let address = address.to_owned();
        Box::pin(async move {
            let connected = tokio::net::TcpStream::connect(&address).await;
            stream(connected.map_err(|_| NetworkError::Refused { address })?)
        })
    }
}

struct Accepting(tokio::net::TcpListener);

impl Listener for Accepting {
    fn accept(&mut self) -> BoxFuture<'_, Result<Stream, NetworkError>> {
        Box::pin(async move {
            let (accepted, _) = self.0.accept().await.map_err(|error| closed(&error))?;
            stream(accepted)
        })
    }

    fn local_address(&self) -> String {
        self.0
            .local_addr()
            .map_or_else(|_| String::new(), |address| address.to_string())
    }
}

struct Reader(tokio::net::tcp::OwnedReadHalf);

impl StreamReader for Reader {
    fn read(&mut self, maximum: usize) -> BoxFuture<'_, Result<Bytes, NetworkError>> {
        Box::pin(async move {
            let mut buffer = bytes::BytesMut::with_capacity(maximum);
            self.0
                .read_buf(&mut buffer)
                .await
                .map_err(|error| closed(&error))?;
            Ok(buffer.freeze())
        })
    }
}

struct Writer(tokio::net::tcp::OwnedWriteHalf);

impl StreamWriter for Writer {
    fn write(&mut self, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async move {
            for part in parts {
                self.0
                    .write_all(&part)
                    .await
                    .map_err(|error| closed(&error))?;
            }
            Ok(())
        })
    }

    fn shutdown(&mut self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async move { self.0.shutdown().await.map_err(|error| closed(&error)) })
    }
}

/// The target opens no files.
fn no_files<T>() -> Result<T, DiskError> {
    Err(DiskError::NotFound {
        path: "(this example has no files)".to_owned(),
    })
}

impl Disk for Host {
    fn open(
        &self,
        _path: &str,
        _mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>> {
        Box::pin(async { no_files() })
    }

    fn rename(&self, _from: &str, _to: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        Box::pin(async { no_files() })
    }

    fn remove(&self, _path: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        Box::pin(async { no_files() })
    }

    fn list(&self, _directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>> {
        Box::pin(async { no_files() })
    }

    fn sync_directory(&self, _directory: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        Box::pin(async { no_files() })
    }

    fn free_bytes(&self, _directory: &str) -> BoxFuture<'static, Result<u64, DiskError>> {
        Box::pin(async { no_files() })
    }

    fn open_blocking(
        &self,
        _path: &str,
        _mode: OpenMode,
    ) -> Result<Arc<dyn BlockingFile>, DiskError> {
        no_files()
    }
}
