//! The production [`Network`]: TCP on tokio. The only file of this crate that touches the operating
//! system.
//!
//! Invariants: small writes leave at once (`TCP_NODELAY`); all parts of a write go out in vectored
//! calls, uncopied; every future works on whatever thread polls it, because it enters the runtime
//! that it was made with.
//! Does not: retry, time out, or encrypt.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hedgerow_env::{
    BoxFuture, Listener, Network, NetworkError, Stream, StreamKind, StreamReader, StreamWriter,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::runtime::Handle;

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 1024;
/// One allocation of a reader; many small frames share it.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// A read into less room than this is not worth its system call: a new buffer is taken.
const SMALLEST_READ_BYTES: usize = 8 << 10;
/// The most that is asked of the kernel at once; larger bodies take several reads.
const LARGEST_READ_BYTES: usize = 1 << 20;
/// Parts handed to the kernel in one call; far below its own limit of 1024.
const PARTS_AT_ONCE: usize = 64;

/// TCP on one tokio runtime. RPC and client streams are the same here.
#[derive(Debug, Clone)]
pub struct TcpNetwork {
    runtime: Handle,
}

impl TcpNetwork {
    /// Streams whose input and output `runtime` drives.
    #[must_use]
    pub const fn new(runtime: Handle) -> Self {
        Self { runtime }
    }
}

impl Network for TcpNetwork {
    fn listen(
        &self,
        address: &str,
        _kind: StreamKind,
    ) -> BoxFuture<'static, Result<Box<dyn Listener>, NetworkError>> {
        let (address, runtime) = (address.to_owned(), self.runtime.clone());
        enter(&self.runtime, async move {
            let socket_address = *resolve(&address)
                .await?
                .first()
                .ok_or_else(|| nowhere(&address))?;
            let failed = |error: io::Error| refused(&address, &error);
            let socket = match socket_address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }
            .map_err(failed)?;
            // A restarted node takes its port back at once.
            socket.set_reuseaddr(true).map_err(failed)?;
            socket.bind(socket_address).map_err(failed)?;
            let listener = socket.listen(BACKLOG).map_err(failed)?;
            let local_address = listener.local_addr().map_err(failed)?.to_string();
            Ok(Box::new(TcpAcceptor {
                listener,
                local_address,
                runtime,
            }) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        address: &str,
        _kind: StreamKind,
    ) -> BoxFuture<'static, Result<Stream, NetworkError>> {
        let (address, runtime) = (address.to_owned(), self.runtime.clone());
        enter(&self.runtime, async move {
            let mut failure = nowhere(&address);
            for candidate in resolve(&address).await? {
                match TcpStream::connect(candidate).await {
                    Ok(stream) => return split(stream, &runtime),
                    Err(error) => failure = refused(&address, &error),
                }
            }
            Err(failure)
        })
    }
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, NetworkError> {
    // A literal needs no look-up, which would take a thread.
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    match lookup_host(address).await {
        Ok(found) => Ok(found.collect()),
        Err(error) => Err(NetworkError::BadAddress {
            address: address.to_owned(),
            reason: error.to_string(),
        }),
    }
}

fn nowhere(address: &str) -> NetworkError {
    NetworkError::BadAddress {
        address: address.to_owned(),
        reason: "resolves to no address".to_owned(),
    }
}

fn refused(address: &str, error: &io::Error) -> NetworkError {
    let address = address.to_owned();
    match error.kind() {
        io::ErrorKind::AddrInUse => NetworkError::AddressInUse { address },
        io::ErrorKind::ConnectionRefused => NetworkError::Refused { address },
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput => NetworkError::BadAddress {
            address,
            reason: error.to_string(),
        },
        _ => NetworkError::Closed {
            reason: format!("{address}: {error}"),
        },
    }
}

fn closed(error: &io::Error) -> NetworkError {
    NetworkError::Closed {
        reason: error.to_string(),
    }
}

fn split(stream: TcpStream, runtime: &Handle) -> Result<Stream, NetworkError> {
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
    let runtime = runtime.clone();
    Ok(Stream {
        reader: Box::new(TcpReader {
            half: reader,
            buffer: BytesMut::new(),
            runtime: runtime.clone(),
        }),
        writer: Box::new(TcpWriter {
            half: writer,
            runtime,
        }),
        local_address,
        peer_address,
    })
}

struct TcpAcceptor {
    listener: TcpListener,
    local_address: String,
    runtime: Handle,
}

impl Listener for TcpAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, Result<Stream, NetworkError>> {
        enter(&self.runtime, async {
            let (stream, _) = self
                .listener
                .accept()
                .await
                .map_err(|error| closed(&error))?;
            split(stream, &self.runtime)
        })
    }

    fn local_address(&self) -> String {
        self.local_address.clone()
    }
}

struct TcpReader {
    half: OwnedReadHalf,
    buffer: BytesMut,
    runtime: Handle,
}

impl StreamReader for TcpReader {
    fn read(&mut self, maximum: usize) -> BoxFuture<'_, Result<Bytes, NetworkError>> {
        let (half, buffer) = (&mut self.half, &mut self.buffer);
        enter(&self.runtime, async move {
            let wanted = maximum.min(LARGEST_READ_BYTES);
            let room = buffer.capacity() - buffer.len();
            if room < wanted.min(SMALLEST_READ_BYTES) {
                // Takes the old allocation again when nobody holds a slice of it any more. A large
                // body gets room for all of it at once and is then read into that, piece by piece.
                buffer.reserve(wanted.max(READ_BUFFER_BYTES));
            }
            let mut limited = (&mut *buffer).limit(wanted);
            // Cancel-safe: what was read stands in the buffer, and is taken in the same poll.
            half.read_buf(&mut limited)
                .await
                .map_err(|error| closed(&error))?;
            Ok(buffer.split().freeze())
        })
    }
}

struct TcpWriter {
    half: OwnedWriteHalf,
    runtime: Handle,
}

impl StreamWriter for TcpWriter {
    fn write(&mut self, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), NetworkError>> {
        let half = &mut self.half;
        enter(&self.runtime, async move {
            let mut parts: VecDeque<Bytes> =
                parts.into_iter().filter(|part| !part.is_empty()).collect();
            while !parts.is_empty() {
                let slices: Vec<io::IoSlice<'_>> = parts
                    .iter()
                    .take(PARTS_AT_ONCE)
                    .map(|part| io::IoSlice::new(part))
                    .collect();
                let written = half
                    .write_vectored(&slices)
                    .await
                    .map_err(|error| closed(&error))?;
                if written == 0 {
                    return Err(NetworkError::Closed {
                        reason: "nothing is taken".to_owned(),
                    });
                }
                advance(&mut parts, written);
            }
            Ok(())
        })
    }

    fn shutdown(&mut self) -> BoxFuture<'_, Result<(), NetworkError>> {
        let half = &mut self.half;
        enter(&self.runtime, async move {
            half.shutdown().await.map_err(|error| closed(&error))
        })
    }
}

/// Drops the first `written` bytes of `parts`.
fn advance(parts: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(front) = parts.front_mut() {
        if written < front.len() {
            front.advance(written);
            return;
        }
        written -= front.len();
        parts.pop_front();
    }
    assert_eq!(written, 0, "no more is written than was given");
}

/// Polls `future` within `runtime`, whoever polls.
fn enter<'a, T, F>(runtime: &Handle, future: F) -> BoxFuture<'a, T>
where
    F: Future<Output = T> + Send + 'a,
    T: 'a,
{
    Box::pin(Entered {
        runtime: runtime.clone(),
        future: Box::pin(future),
    })
}

struct Entered<F> {
    runtime: Handle,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Entered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        this.future.as_mut().poll(context)
    }
}
