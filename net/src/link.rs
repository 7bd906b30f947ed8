//! One open connection: its reader, its writer and its keep-alive, three small tasks.
//!
//! Invariants: each frame is one write; frames of another session end the connection; what waits
//! to be written is bounded; the first reason to close wins, ends all three tasks and reaches the
//! handler once.
//! Does not: know whether it calls or serves; its [`Handler`] does.

use std::any::Any;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use hedgerow_env::{BoxFuture, Env, Instant, Stream, StreamReader, StreamWriter, event};
use tokio::sync::mpsc;

use crate::frame::{self, Decoded, Decoder, Header, Kind, RequestId};
use crate::handshake::Agreement;
use crate::keep_alive::{KeepAlive, Step};
use crate::signal::{CloseReason, Signal};
use crate::{Message, RpcConfig};

/// Room in the queue for pings, pongs and cancels, beyond that for requests or responses. When it
/// is full they are dropped: each is a hint.
const CONTROL_FRAMES: usize = 64;
/// For telling the peer that no more will come; it finds out by itself otherwise.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(100);

/// Whatever a frame keeps until it is written.
pub(crate) type Hold = Box<dyn Any + Send>;

/// One frame on its way out.
pub(crate) struct Outgoing {
    pub(crate) header: Header,
    pub(crate) message: Message,
    /// A request's deadline; what remains is stated when it is written.
    pub(crate) deadline: Option<Instant>,
    /// Let go when the frame was written or dropped: permits of the queue or of serving.
    pub(crate) hold: Option<Hold>,
}

impl Outgoing {
    /// A frame without a body.
    pub(crate) fn bare(kind: Kind, session: u64, request: RequestId) -> Self {
        Self {
            header: Header::bare(kind, session, request),
            message: Message::default(),
            deadline: None,
            hold: None,
        }
    }
}

/// What one side of a connection does with what arrives.
pub(crate) trait Handler: Send + Sync {
    /// A frame other than ping and pong. With a future, nothing is read until it completes.
    fn arrived(&self, link: &Arc<Link>, decoded: Decoded) -> Option<BoxFuture<'static, ()>>;
    /// Whether this request is still to be sent; it counts as sent from here on.
    fn sending(&self, request: RequestId) -> bool;
    /// In which of how many intervals this side pings: 1 means in each.
    fn ping_every(&self) -> u32;
    /// A round trip was measured.
    fn round_trip(&self, link: &Link, sample: Duration);
    /// Why the connection is not needed any more, if so. Asked at least once a ping interval.
    fn unneeded(&self, now: Instant) -> Option<CloseReason>;
    /// The connection ended. Called once.
    fn closed(&self, link: &Link, reason: &CloseReason);
}

/// In which of how many intervals a ping is due, so that one may be lost before the other side's time
/// is over: it is twice as frequent as that.
fn pings_within(interval: Duration, timeout: Duration) -> u32 {
    let intervals = timeout.as_nanos() / (interval.as_nanos() * 2).max(1);
    u32::try_from(intervals).unwrap_or(u32::MAX).max(1)
}

/// One open connection.
pub(crate) struct Link {
    pub(crate) env: Env,
    pub(crate) agreement: Agreement,
    pub(crate) began: Instant,
    pub(crate) closed: Signal,
    /// The peer's address of the stream, for logs.
    peer_address: String,
    outgoing: mpsc::Sender<Outgoing>,
    keep_alive: Mutex<KeepAlive>,
    handler: Arc<dyn Handler>,
}

impl Link {
    /// Starts the three tasks on `stream`, after its handshake; `decoder` may hold early frames.
    pub(crate) fn start(
        env: &Env,
        config: &RpcConfig,
        agreement: Agreement,
        (stream, decoder): (Stream, Decoder),
        queue: u32,
        handler: Arc<dyn Handler>,
    ) -> Arc<Self> {
        let queue = usize::try_from(queue).expect("32 bits fit a usize") + CONTROL_FRAMES;
        let (sender, receiver) = mpsc::channel(queue);
        let now = env.now();
        let (interval, timeout) = (config.keep_alive_interval, config.keep_alive_timeout);
        let every = handler.ping_every().min(pings_within(interval, timeout));
        let keep_alive = KeepAlive::new(now, interval, every, timeout);
        let link = Arc::new(Self {
            env: env.clone(),
            agreement,
            began: now,
            closed: Signal::default(),
            peer_address: stream.peer_address,
            outgoing: sender,
            keep_alive: Mutex::new(keep_alive),
            handler,
        });
        env.spawn("rpc-read", Arc::clone(&link).read(stream.reader, decoder));
        env.spawn(
            "rpc-write",
            Arc::clone(&link).write(stream.writer, receiver),
        );
        env.spawn("rpc-keep-alive", Arc::clone(&link).stay_alive());
        link
    }

    /// Queues a frame; waits while the queue is full. An error means that the link is closed.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<(), ()> {
        if self.closed.fired().is_some() {
            return Err(());
        }
        self.outgoing.send(outgoing).await.map_err(|_| ())
    }

    /// Queues a frame that may be lost.
    pub(crate) fn hint(&self, kind: Kind, request: RequestId) {
        // A full queue or a closed link: a hint may be lost.
        drop(
            self.outgoing
                .try_send(Outgoing::bare(kind, self.agreement.session, request)),
        );
    }

    /// Queues a small frame with a body that may be lost as well.
    pub(crate) fn hint_with(&self, outgoing: Outgoing) {
        drop(self.outgoing.try_send(outgoing));
    }

    /// Ends the connection. The first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        if !self.closed.fire(reason.clone()) {
            return;
        }
        let peer = &self.agreement.peer.identity;
        match reason {
            CloseReason::BadFrame(_) | CloseReason::Protocol(_) | CloseReason::Silent => {
                event!(
                    self.env,
                    Warn,
                    "net",
                    "connection with {} ({}) closed: {reason}",
                    peer.node,
                    self.peer_address
                );
            }
            _ => event!(
                self.env,
                Debug,
                "net",
                "connection with {} ({}) closed: {reason}",
                peer.node,
                self.peer_address
            ),
        }
        self.handler.closed(self, &reason);
    }

    async fn read(self: Arc<Self>, mut reader: Box<dyn StreamReader>, mut decoder: Decoder) {
        let mut closed = pin!(self.closed.wait());
        loop {
            if !self.drain(&mut decoder).await {
                return;
            }
            let read = pin!(reader.read(decoder.wanted()));
            match select(closed.as_mut(), read).await {
                Either::Left(_) => return,
                Either::Right((Ok(bytes), _)) if bytes.is_empty() => {
                    return self.close(CloseReason::PeerClosed);
                }
                Either::Right((Ok(bytes), _)) => {
                    self.alive().received(self.env.now());
                    decoder.push(bytes);
                }
                Either::Right((Err(error), _)) => return self.close(error.into()),
            }
        }
    }

    /// Handles every frame that has arrived. False when the connection is closed.
    async fn drain(self: &Arc<Self>, decoder: &mut Decoder) -> bool {
        loop {
            let decoded = match decoder.next_frame() {
                Ok(Some(decoded)) => decoded,
                Ok(None) => return self.closed.fired().is_none(),
                Err(error) => {
                    self.close(error.into());
                    return false;
                }
            };
            if let Some(room) = self.dispatch(decoded) {
                // Too much is being served: the peer feels it, its silence is not held against it.
                self.alive().reading(false, self.env.now());
                if let Either::Left(_) = select(pin!(self.closed.wait()), room).await {
                    return false;
                }
                self.alive().reading(true, self.env.now());
            }
            if self.closed.fired().is_some() {
                return false;
            }
        }
    }

    fn dispatch(self: &Arc<Self>, decoded: Decoded) -> Option<BoxFuture<'static, ()>> {
        let (Decoded::Frame(header, _) | Decoded::Damaged(header) | Decoded::Oversized(header)) =
            &decoded;
        let greeting = matches!(header.kind, Kind::Hello | Kind::HelloReply);
        if header.session != self.agreement.session && !greeting {
            self.close(CloseReason::Protocol("frame of another session"));
            return None;
        }
        match header.kind {
            Kind::Ping => self.hint(Kind::Pong, header.request),
            Kind::Pong => {
                let sample = self.alive().pong(header.request, self.env.now());
                if let Some(sample) = sample {
                    self.handler.round_trip(self, sample);
                }
            }
            // A second copy of what the handshake has answered already.
            Kind::Hello | Kind::HelloReply => {}
            _ => return self.handler.arrived(self, decoded),
        }
        None
    }

    async fn write(
        self: Arc<Self>,
        mut writer: Box<dyn StreamWriter>,
        mut outgoing: mpsc::Receiver<Outgoing>,
    ) {
        let mut closed = pin!(self.closed.wait());
        loop {
            let next = match select(closed.as_mut(), pin!(outgoing.recv())).await {
                Either::Right((Some(next), _)) => next,
                Either::Right((None, _)) | Either::Left(_) => break,
            };
            let Some((parts, _hold)) = self.ready(next) else {
                continue;
            };
            match select(closed.as_mut(), writer.write(parts)).await {
                // A dropped write leaves half a frame behind: the stream is of no more use.
                Either::Left(_) => return,
                Either::Right((Ok(()), _)) => {}
                Either::Right((Err(error), _)) => return self.close(error.into()),
            }
        }
        // The peer may not read any more; it learns of the end by itself then.
        drop(self.env.timeout(SHUTDOWN_LIMIT, writer.shutdown()).await);
    }

    /// The bytes of a frame whose turn has come; `None` when nobody waits for it any more.
    fn ready(&self, next: Outgoing) -> Option<(Vec<Bytes>, Option<Hold>)> {
        let Outgoing {
            mut header,
            message,
            deadline,
            hold,
        } = next;
        if let Some(deadline) = deadline {
            let remaining = deadline.since(self.env.now());
            header.remaining_us = u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX);
            if header.remaining_us == 0 {
                return None;
            }
        }
        if header.kind == Kind::Request && !self.handler.sending(header.request) {
            return None;
        }
        Some((frame::parts(&header, message), hold))
    }

    async fn stay_alive(self: Arc<Self>) {
        let mut closed = pin!(self.closed.wait());
        loop {
            let now = self.env.now();
            let step = self.alive().step(now);
            match step {
                Step::Ping(id) => self.hint(Kind::Ping, id),
                Step::Dead => return self.close(CloseReason::Silent),
                Step::Wait(until) => {
                    if let Some(reason) = self.handler.unneeded(now) {
                        return self.close(reason);
                    }
                    let sleep = self.env.sleep_until(until);
                    if let Either::Left(_) = select(closed.as_mut(), sleep).await {
                        return;
                    }
                }
            }
        }
    }

    fn alive(&self) -> std::sync::MutexGuard<'_, KeepAlive> {
        self.keep_alive.lock().expect("no panic under this lock")
    }
}
