//! The server: listens, and drives one [`Session`] per connection, all through `Env`.
//!
//! A connection is one task that waits for the first of: an operation's end, a settlement, a
//! finished write, a wake-up, the clock, received bytes - in that order, so that work under way ends
//! before new work begins. While a write is in flight further PDUs gather and leave together.
//!
//! Limits: connections, bytes that wait to be sent (then nothing more is read), and what the session
//! itself limits. Does not: decide anything about the protocol.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hedgerow_env::{
    BoxFuture, Env, Instant, Listener, NetworkError, Stream, StreamKind, StreamReader,
    StreamWriter, TaskHandle, event,
};
use thiserror::Error;
use tokio::sync::{Notify, Semaphore};

use crate::codec::frame::{Digests, Framer, Gather};
use crate::port::{BlockError, TargetCatalog};
use crate::session::{
    CloseReason, Effect, Event, MediumOperation, Operate, OperationId, Seed, Session,
};
use crate::target::Targets;

/// Most connections at a time, of all targets together.
pub const CONNECTIONS_MAX: usize = 1024;

/// While so many bytes wait to be sent, nothing more is read from the connection.
const OUTBOUND_BYTES_MAX: usize = 4 << 20;

/// The least that is read at once: a queue of small commands in one go.
const READ_BYTES_MIN: usize = 64 << 10;

/// The most that is read at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// How long a closing connection may take to send what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after a failed accept: the reason (no descriptors) may pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long [`IscsiServer::stop`] waits for sessions to end: they are told at once, and wait only for
/// commands under way, which end within milliseconds or not at all.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Data segments before the end of login (RFC 7143 13.12: 8192 until declared otherwise).
const LOGIN_DATA_BYTES: usize = 8192;

/// The server could not start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Choose another address, or stop what uses it.
    #[error("the iSCSI portal cannot listen: {0}")]
    Listen(#[from] NetworkError),
}

/// A running iSCSI portal. Dropping it leaves it running; use [`IscsiServer::stop`].
pub struct IscsiServer {
    env: Env,
    targets: Arc<Targets>,
    address: String,
    places: Arc<Semaphore>,
    accept: TaskHandle,
}

impl IscsiServer {
    /// Listens at `address` (`host:port`) and serves the targets of `catalog`.
    ///
    /// # Errors
    /// The address cannot be listened at.
    pub async fn start(
        env: &Env,
        address: &str,
        catalog: Arc<dyn TargetCatalog>,
    ) -> Result<Self, ServerError> {
        let listener = env.network().listen(address, StreamKind::Client).await?;
        let address = listener.local_address();
        let targets = Arc::new(Targets::new(catalog));
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        event!(env, Info, "iscsi", "portal at {address}");
        let accept = env.spawn(
            "iscsi-accept",
            accept(
                env.clone(),
                listener,
                Arc::clone(&targets),
                Arc::clone(&places),
            ),
        );
        Ok(Self {
            env: env.clone(),
            targets,
            address,
            places,
            accept,
        })
    }

    /// The address that the portal really listens at.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends the sessions of a target that the catalog no longer lists, and forgets its state.
    pub fn withdraw(&self, target_name: &str) {
        self.targets.withdraw(target_name);
    }

    /// Stops accepting and ends all sessions; returns when they have ended or after a while.
    pub async fn stop(&self) {
        self.accept.abort();
        self.targets.close_all();
        let all = u32::try_from(CONNECTIONS_MAX).expect("a small number");
        let ended = self
            .env
            .timeout(STOP_TIMEOUT, self.places.acquire_many(all))
            .await;
        if ended.is_err() {
            event!(self.env, Warn, "iscsi", "some sessions did not end in time");
        }
    }
}

async fn accept(
    env: Env,
    mut listener: Box<dyn Listener>,
    targets: Arc<Targets>,
    places: Arc<Semaphore>,
) {
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                event!(env, Warn, "iscsi", "accept failed: {error}");
                env.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            event!(
                env,
                Warn,
                "iscsi",
                "{}: too many connections",
                stream.peer_address
            );
            continue;
        };
        let connection = Connection::new(env.clone(), stream, Arc::clone(&targets));
        let _running = env.spawn("iscsi-session", async move {
            connection.run().await;
            drop(place);
        });
    }
}

type Completion = (OperationId, Result<Bytes, BlockError>);
type Reading = BoxFuture<'static, (Box<dyn StreamReader>, Result<Bytes, NetworkError>)>;
type Writing = BoxFuture<'static, (Box<dyn StreamWriter>, Result<(), NetworkError>)>;

/// What happened to a connection.
enum Happening {
    Completed(Completion),
    Settled((u64, bool)),
    Written(Box<dyn StreamWriter>, Result<(), NetworkError>),
    Woken,
    Tick,
    Read(Box<dyn StreamReader>, Result<Bytes, NetworkError>),
}

/// One connection and its session.
struct Connection {
    env: Env,
    peer: String,
    session: Session,
    framer: Framer,
    digests: Digests,
    effects: Vec<Effect>,
    reader: Option<Box<dyn StreamReader>>,
    writer: Option<Box<dyn StreamWriter>>,
    outbound: Gather,
    reading: Option<Reading>,
    writing: Option<Writing>,
    operations: FuturesUnordered<BoxFuture<'static, Completion>>,
    settlements: FuturesUnordered<BoxFuture<'static, (u64, bool)>>,
    wake: Arc<Notify>,
    woken: BoxFuture<'static, ()>,
    timer: Option<(Instant, BoxFuture<'static, ()>)>,
    /// When the queued bytes must have left, once the session closes.
    closing: Option<Instant>,
    connected: bool,
    ended: bool,
}

impl Connection {
    fn new(env: Env, stream: Stream, targets: Arc<Targets>) -> Self {
        let wake = Arc::new(Notify::new());
        let mut challenge = [0; 16];
        challenge.copy_from_slice(&env.secret(16));
        let local_address = stream.local_address;
        let seed = Seed {
            targets,
            wake: Arc::clone(&wake),
            local_address,
            challenge,
        };
        let session = Session::new(seed, env.now());
        Self {
            env,
            peer: stream.peer_address,
            session,
            framer: Framer::new(LOGIN_DATA_BYTES),
            digests: Digests::default(),
            effects: Vec::new(),
            reader: Some(stream.reader),
            writer: Some(stream.writer),
            outbound: Gather::default(),
            reading: None,
            writing: None,
            operations: FuturesUnordered::new(),
            settlements: FuturesUnordered::new(),
            woken: woken(&wake),
            wake,
            timer: None,
            closing: None,
            connected: true,
            ended: false,
        }
    }

    async fn run(mut self) {
        while !self.ended {
            self.start_io();
            self.arm_timer();
            let happening = std::future::poll_fn(|context| self.poll(context)).await;
            self.take(happening);
            let flushed = self.writing.is_none() && self.outbound.length_bytes() == 0;
            let late = self
                .closing
                .is_some_and(|deadline| self.env.now() >= deadline);
            if self.connected && self.closing.is_some() && (flushed || late) {
                self.disconnect();
            }
        }
    }

    fn start_io(&mut self) {
        if !self.connected {
            return;
        }
        if self.writing.is_none()
            && self.outbound.length_bytes() > 0
            && let Some(mut writer) = self.writer.take()
        {
            let parts = self.outbound.take();
            self.writing = Some(Box::pin(async move {
                let result = writer.write(parts).await;
                (writer, result)
            }));
        }
        let may_read = self.closing.is_none() && self.outbound.length_bytes() < OUTBOUND_BYTES_MAX;
        if may_read
            && self.reading.is_none()
            && let Some(mut reader) = self.reader.take()
        {
            let maximum = self
                .framer
                .missing_bytes()
                .clamp(READ_BYTES_MIN, READ_BYTES_MAX);
            self.reading = Some(Box::pin(async move {
                let result = reader.read(maximum).await;
                (reader, result)
            }));
        }
    }

    /// Keeps a timer that fires no later than the next deadline; firing early does no harm.
    fn arm_timer(&mut self) {
        let wanted = match self.closing {
            Some(deadline) => self.connected.then_some(deadline),
            None => self.session.deadline(),
        };
        let Some(wanted) = wanted else { return };
        if self.timer.as_ref().is_none_or(|(armed, _)| wanted < *armed) {
            self.timer = Some((wanted, self.env.sleep_until(wanted)));
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Happening> {
        if let Poll::Ready(Some(completion)) = self.operations.poll_next_unpin(context) {
            return Poll::Ready(Happening::Completed(completion));
        }
        if let Poll::Ready(Some(settled)) = self.settlements.poll_next_unpin(context) {
            return Poll::Ready(Happening::Settled(settled));
        }
        if let Some(writing) = &mut self.writing
            && let Poll::Ready((writer, result)) = writing.as_mut().poll(context)
        {
            self.writing = None;
            return Poll::Ready(Happening::Written(writer, result));
        }
        if self.woken.as_mut().poll(context).is_ready() {
            self.woken = woken(&self.wake);
            return Poll::Ready(Happening::Woken);
        }
        if let Some((_, timer)) = &mut self.timer
            && timer.as_mut().poll(context).is_ready()
        {
            self.timer = None;
            return Poll::Ready(Happening::Tick);
        }
        match &mut self.reading {
            Some(reading) => {
                let (reader, result) = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                Poll::Ready(Happening::Read(reader, result))
            }
            None => Poll::Pending,
        }
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Completed((operation, result)) => {
                self.handle(Event::Completed { operation, result });
            }
            Happening::Settled((ticket, settled)) => {
                self.handle(Event::Settled { ticket, settled });
            }
            Happening::Written(writer, Ok(())) => self.writer = Some(writer),
            Happening::Written(_, Err(error)) => self.broken(&error),
            Happening::Woken => self.handle(Event::Woken),
            Happening::Tick => self.handle(Event::Tick),
            Happening::Read(reader, Ok(bytes)) if !bytes.is_empty() => {
                self.reader = Some(reader);
                self.received(bytes);
            }
            Happening::Read(_, Ok(_)) => {
                if self.closing.is_none() {
                    self.log_end(&CloseReason::Disconnected);
                }
                self.disconnect();
            }
            Happening::Read(_, Err(error)) => self.broken(&error),
        }
    }

    fn received(&mut self, bytes: Bytes) {
        self.framer.push(bytes);
        while self.closing.is_none() {
            match self.framer.next_pdu() {
                Ok(Some(pdu)) => self.handle(Event::Received(pdu)),
                Ok(None) => break,
                Err(error) => self.handle(Event::Malformed(error)),
            }
        }
    }

    fn broken(&mut self, error: &NetworkError) {
        if self.closing.is_none() {
            event!(
                self.env,
                Info,
                "iscsi",
                "{} ({}): {error}",
                self.session.label(),
                self.peer
            );
        }
        self.disconnect();
    }

    /// Drops the connection and lets the session wind up.
    fn disconnect(&mut self) {
        if !self.connected {
            return;
        }
        self.connected = false;
        self.reading = None;
        self.writing = None;
        self.reader = None;
        self.writer = None;
        self.timer = None;
        let _unsent = self.outbound.take();
        self.handle(Event::Disconnected);
    }

    fn handle(&mut self, event: Event) {
        let now = self.env.now();
        let mut effects = std::mem::take(&mut self.effects);
        self.session.handle(now, event, &mut effects);
        for effect in effects.drain(..) {
            self.perform(effect);
        }
        self.effects = effects;
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send(response) => {
                if self.connected {
                    response.encode().encode(self.digests, &mut self.outbound);
                }
            }
            Effect::Operate(operate) => self.operations.push(operation(operate)),
            Effect::Await { ticket, settlement } => {
                self.settlements.push(Box::pin(async move {
                    let settled = settlement.wait().await;
                    (ticket, settled)
                }));
            }
            Effect::Framing {
                digests,
                data_limit,
            } => {
                event!(
                    self.env,
                    Info,
                    "iscsi",
                    "{} ({})",
                    self.session.label(),
                    self.peer
                );
                self.digests = digests;
                self.framer.set_digests(digests);
                self.framer.set_data_limit(data_limit);
            }
            Effect::Close(reason) => {
                self.log_end(&reason);
                self.closing = Some(self.env.now() + FLUSH_TIMEOUT);
            }
            Effect::Ended => self.ended = true,
        }
    }

    fn log_end(&self, reason: &CloseReason) {
        let (label, peer) = (self.session.label(), &self.peer);
        match reason {
            CloseReason::Logout | CloseReason::Disconnected => {
                event!(self.env, Info, "iscsi", "{label} ({peer}) ends: {reason}");
            }
            _ => event!(self.env, Warn, "iscsi", "{label} ({peer}) ends: {reason}"),
        }
    }
}

fn woken(wake: &Arc<Notify>) -> BoxFuture<'static, ()> {
    let wake = Arc::clone(wake);
    Box::pin(async move { wake.notified().await })
}

fn operation(operate: Operate) -> BoxFuture<'static, Completion> {
    let Operate {
        operation,
        device,
        medium,
        tag,
    } = operate;
    let work: BoxFuture<'static, Result<Bytes, BlockError>> = match medium {
        MediumOperation::Read {
            first_byte,
            length_bytes,
        } => device.read(first_byte, length_bytes),
        MediumOperation::Write { first_byte, data } => {
            let write = device.write(first_byte, data, tag);
            Box::pin(async move { write.await.map(|()| Bytes::new()) })
        }
        MediumOperation::WriteZeroes {
            first_byte,
            length_bytes,
            unmap,
        } => {
            let write = device.write_zeroes(first_byte, length_bytes, unmap, tag);
            Box::pin(async move { write.await.map(|()| Bytes::new()) })
        }
        MediumOperation::Flush => {
            let flush = device.flush();
            Box::pin(async move { flush.await.map(|()| Bytes::new()) })
        }
    };
    Box::pin(async move { (operation, work.await) })
}
