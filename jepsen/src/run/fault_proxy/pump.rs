//! One proxied connection: two directions, each read, held and passed on by its link's rules.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, join, select};
use hedgerow_env::{Env, Instant, Stream, StreamKind, StreamReader, StreamWriter};
use tokio::sync::{Notify, mpsc};

use super::super::faults::Link;
use super::Links;

/// Bytes of one piece of a stream.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces on their way; a slow link holds its sender back beyond it.
const PIECES_ON_THE_WAY: usize = 256;
/// A node that is up takes a connection at once.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A proxied connection.
pub(super) struct Pipe {
    pub(super) env: Env,
    pub(super) links: Links,
    pub(super) forth: Link,
    pub(super) back: Link,
}

type Piece = (Instant, Bytes);

impl Pipe {
    /// Passes bytes until both directions have ended or the connection is broken.
    pub(super) async fn run(self, caller: Stream, address: &str) {
        self.links.count(self.forth, |count| count.connections += 1);
        // What a cut link swallows first is the opening of the connection.
        if self.links.rules(self.forth).cut {
            self.links.count(self.forth, |count| count.held += 1);
            self.links.open(self.forth).await;
        }
        let Some(called) = self.connect(address).await else {
            return;
        };
        let mut copies = Vec::new();
        if self.links.draws(self.forth, |rules| rules.duplicate_ppm)
            && let Some(copy) = self.connect(address).await
        {
            self.links.count(self.forth, |count| count.duplicated += 1);
            copies.push(copy.writer);
            self.env.spawn("fault-copy", swallow(copy.reader));
        }
        let broken = Arc::new(Notify::new());
        copies.insert(0, called.writer);
        let forth = self.direction(self.forth, caller.reader, copies, &broken);
        let back = self.direction(self.back, called.reader, vec![caller.writer], &broken);
        let both = std::pin::pin!(join(forth, back));
        let end = std::pin::pin!(broken.notified());
        // Dropping what is left closes both connections.
        match select(end, both).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    async fn connect(&self, address: &str) -> Option<Stream> {
        let connecting = self.env.network().connect(address, StreamKind::Rpc);
        self.env.timeout(CONNECT_LIMIT, connecting).await.ok()?.ok()
    }

    async fn direction(
        &self,
        link: Link,
        reader: Box<dyn StreamReader>,
        writers: Vec<Box<dyn StreamWriter>>,
        broken: &Notify,
    ) {
        let (pieces, taken) = mpsc::channel(PIECES_ON_THE_WAY);
        let reading = self.read(link, reader, pieces, broken);
        let writing = self.write(link, writers, taken, broken);
        join(reading, writing).await;
    }

    /// Reads pieces and decides their fate.
    async fn read(
        &self,
        link: Link,
        mut reader: Box<dyn StreamReader>,
        pieces: mpsc::Sender<Piece>,
        broken: &Notify,
    ) {
        let mut not_before = self.env.now();
        loop {
            let bytes = match reader.read(PIECE_BYTES).await {
                Ok(bytes) if !bytes.is_empty() => bytes,
                Ok(_) => return,
                Err(_) => return broken.notify_one(),
            };
            let fate = self.links.draw(link);
            if fate.reset {
                self.links.count(link, |count| count.resets += 1);
                return broken.notify_one();
            }
            let late = Duration::from_millis(fate.delay_ms + fate.stall_ms);
            not_before = not_before.max(self.env.now() + late);
            self.links.count(link, |count| {
                count.delayed += u64::from(fate.delay_ms > 0);
                count.stalled += u64::from(fate.stall_ms > 0);
                count.corrupted += u64::from(fate.corrupt.is_some());
            });
            let bytes = match fate.corrupt {
                Some(bit) => flipped(&bytes, bit),
                None => bytes,
            };
            if pieces.send((not_before, bytes)).await.is_err() {
                return;
            }
        }
    }

    /// Passes pieces on when their time has come and the link is open.
    async fn write(
        &self,
        link: Link,
        mut writers: Vec<Box<dyn StreamWriter>>,
        mut pieces: mpsc::Receiver<Piece>,
        broken: &Notify,
    ) {
        while let Some((not_before, bytes)) = pieces.recv().await {
            if self.env.now() < not_before {
                self.env.sleep_until(not_before).await;
            }
            if self.links.rules(link).cut {
                self.links.count(link, |count| count.held += 1);
                self.links.open(link).await;
            }
            for (place, writer) in writers.iter_mut().enumerate() {
                let written = writer.write(vec![bytes.clone()]).await;
                // A copy that the node refused is no harm to the connection.
                if written.is_err() && place == 0 {
                    return broken.notify_one();
                }
            }
            self.links.count(link, |count| count.passed += 1);
        }
        for writer in &mut writers {
            // The other side hears that no more will come.
            drop(writer.shutdown().await);
        }
    }
}

/// Reads what nobody wants to hear.
async fn swallow(mut reader: Box<dyn StreamReader>) {
    while let Ok(bytes) = reader.read(PIECE_BYTES).await {
        if bytes.is_empty() {
            return;
        }
    }
}

fn flipped(bytes: &Bytes, bit: u64) -> Bytes {
    let mut bytes = BytesMut::from(bytes.as_ref());
    let bits = bytes.len() as u64 * 8;
    let place = usize::try_from(bit % bits / 8).expect("within the piece");
    bytes[place] ^= 1 << (bit % 8);
    bytes.freeze()
}
