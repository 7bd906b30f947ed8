//! `hedgerow jepsen serve`: browse a store of runs.
//!
//! A thin driver: it takes connections from Env's network, reads one request of each, has
//! [`site`] decide in a blocking task, and sends the answer.
//!
//! Invariants: at most [`CONNECTIONS_MAXIMUM`] connections at a time, each within its deadlines (others
//! wait to be accepted, and no connection outlives its answer by more than a moment); a server that listens on loopback answers only requests addressed to loopback. It changes nothing
//! but the pages of runs, and authenticates nobody: whoever reaches its address can read the store.

mod http;
mod site;

use super::files::OpenFile;
use bytes::{Bytes, BytesMut};
use hedgerow_env::{
    Env, Listener, NetworkError, Stream, StreamKind, StreamReader, StreamWriter, event,
};
use site::Answer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections served at once: a browser opens six.
pub const CONNECTIONS_MAXIMUM: usize = 64;
/// A request's head arrives in this time, or the connection is closed.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// One piece of an answer is taken in this time.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// A peer that has its answer may read it for so long before the connection is closed on it: one that
/// keeps it open keeps somebody else out.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of an answer in memory.
const CHUNK_BYTES: u64 = 1 << 20;
/// Pause after a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that listens.
pub struct Server {
    env: Env,
    listener: Box<dyn Listener>,
    store: PathBuf,
}

impl Server {
    /// Listens at `address` (`host:port`; port 0 chooses one) for browsers of `store`.
    ///
    /// # Errors
    /// The address is taken or wrong.
    pub async fn listen(env: Env, address: &str, store: &Path) -> Result<Self, NetworkError> {
        let listener = env.network().listen(address, StreamKind::Client).await?;
        Ok(Self {
            env,
            listener,
            store: store.to_owned(),
        })
    }

    /// The address that it really listens at.
    #[must_use]
    pub fn address(&self) -> String {
        self.listener.local_address()
    }

    /// Serves until dropped.
    pub async fn run(mut self) {
        let address = self.address();
        let site = Arc::new(Site {
            loopback_only: http::is_loopback(http::without_port(&address)),
            store: self.store,
        });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAXIMUM));
        loop {
            let taken = Arc::clone(&places).acquire_owned().await;
            let taken = taken.expect("nobody closes it");
            match self.listener.accept().await {
                Ok(stream) => {
                    let (env, site) = (self.env.clone(), Arc::clone(&site));
                    drop(self.env.spawn("jepsen-serve", async move {
                        if let Err(error) = site.serve(&env, stream).await {
                            event!(env, Debug, "serve", "{error}");
                        }
                        drop(taken);
                    }));
                }
                Err(error) => {
                    event!(self.env, Warn, "serve", "accept: {error}");
                    self.env.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

struct Site {
    store: PathBuf,
    loopback_only: bool,
}

fn late(what: &str) -> NetworkError {
    NetworkError::Closed {
        reason: format!("the peer was too slow to {what}"),
    }
}

impl Site {
    async fn serve(self: Arc<Self>, env: &Env, mut stream: Stream) -> Result<(), NetworkError> {
        let head = env
            .timeout(HEAD_LIMIT, read_head(&mut stream))
            .await
            .map_err(|_| late("ask"))??;
        if head.is_empty() {
            return Ok(());
        }
        let (answer, head_only) = match http::parse(&head) {
            Err(error) => (site::problem(error.status(), &error.to_string()), false),
            Ok(request) if self.loopback_only && !http::is_loopback(&request.host) => {
                let what = "this server is for this machine: open it by the name localhost";
                (site::problem(421, what), request.head_only)
            }
            Ok(request) => {
                let head_only = request.head_only;
                let site = Arc::clone(&self);
                let decide = move || site::answer(&site.store, &request);
                (env.blocking("jepsen-serve", decide).await, head_only)
            }
        };
        let mut writer = stream.writer;
        send(env, writer.as_mut(), answer, head_only).await?;
        writer.shutdown().await?;
        // The peer may still be reading: wait for its end, so that no reset cuts the answer.
        let its_end = read_out(stream.reader.as_mut());
        env.timeout(LINGER, its_end).await.unwrap_or_default();
        Ok(())
    }
}

/// The head of a request, or what there was when it grew too long; empty when the peer went away.
async fn read_head(stream: &mut Stream) -> Result<Bytes, NetworkError> {
    let mut bytes = BytesMut::new();
    loop {
        let more = stream.reader.read(http::LONGEST_HEAD_BYTES).await?;
        if more.is_empty() {
            return Ok(Bytes::new());
        }
        bytes.extend_from_slice(&more);
        if let Some(length) = http::head_length(&bytes) {
            bytes.truncate(length);
            return Ok(bytes.freeze());
        }
        if bytes.len() > http::LONGEST_HEAD_BYTES {
            return Ok(bytes.freeze());
        }
    }
}

/// Reads what the peer still says, until its end.
async fn read_out(reader: &mut dyn StreamReader) {
    let limit = http::LONGEST_HEAD_BYTES;
    while let Ok(more) = reader.read(limit).await {
        if more.is_empty() {
            return;
        }
    }
}

async fn send(
    env: &Env,
    writer: &mut dyn StreamWriter,
    answer: Answer,
    head_only: bool,
) -> Result<(), NetworkError> {
    match answer {
        Answer::Text {
            status,
            content_type,
            body,
        } => {
            let head = http::answer_head(status, content_type, body.len() as u64, "");
            write(env, writer, head.into()).await?;
            if !head_only {
                write(env, writer, body.into()).await?;
            }
        }
        Answer::Moved(to) => {
            let more = format!("Location: {to}\r\n");
            let head = http::answer_head(302, "text/plain", 0, &more);
            write(env, writer, head.into()).await?;
        }
        Answer::File(file, content_type) => {
            let head = http::answer_head(200, content_type, file.length, "");
            write(env, writer, head.into()).await?;
            if !head_only {
                send_file(env, writer, file).await?;
            }
        }
    }
    Ok(())
}

/// Sends exactly as many bytes as were announced; a file that shrank meanwhile ends the stream early.
async fn send_file(
    env: &Env,
    writer: &mut dyn StreamWriter,
    mut file: OpenFile,
) -> Result<(), NetworkError> {
    let mut left = file.length;
    while left > 0 {
        let limit = left.min(CHUNK_BYTES);
        let job = move || (file.read_chunk(limit), file);
        let (chunk, back) = env.blocking("jepsen-serve", job).await;
        file = back;
        let chunk = chunk.map_err(|error| NetworkError::Closed {
            reason: error.to_string(),
        })?;
        if chunk.is_empty() {
            return Err(late("read a file that shrank"));
        }
        left -= chunk.len() as u64;
        write(env, writer, chunk.into()).await?;
    }
    Ok(())
}

async fn write(env: &Env, writer: &mut dyn StreamWriter, bytes: Bytes) -> Result<(), NetworkError> {
    let sending = env.timeout(SEND_LIMIT, writer.write(vec![bytes]));
    sending.await.map_err(|_| late("take the answer"))?
}
