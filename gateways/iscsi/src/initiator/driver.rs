//! Runs the initiator's core over `Env`: one task a session, callers wait for their commands.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, Env, NetworkError, Stream, StreamKind, StreamReader, StreamWriter};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::{Command, CommandError, Initiator, InitiatorConfig, Output, SessionError};
use crate::codec::frame::{Digests, Framer, Gather};
use crate::port::Geometry;

/// Commands that may wait in one session's queue; callers beyond it wait themselves.
const QUEUE_LENGTH: usize = 256;

/// The most that is read at once.
const READ_BYTES: usize = 256 << 10;

/// While so many bytes wait to be sent, callers wait.
const OUTBOUND_BYTES_MAX: usize = 4 << 20;

/// Data segments before the end of login (RFC 7143 13.12).
const LOGIN_DATA_BYTES: usize = 8192;

/// A session could not begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// No connection.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// No login.
    #[error(transparent)]
    Session(#[from] SessionError),
}

type Answer = oneshot::Sender<Result<Bytes, CommandError>>;

enum Order {
    Command(Command, Answer),
    LogOut(oneshot::Sender<()>),
}

/// A logged-in session. When it is dropped the connection closes without logout.
#[derive(Debug, Clone)]
pub struct InitiatorSession {
    orders: mpsc::Sender<Order>,
}

impl InitiatorSession {
    /// Connects to `address` and logs in. May take for ever: use a deadline.
    ///
    /// # Errors
    /// No connection, or the login was refused.
    pub async fn connect(
        env: &Env,
        address: &str,
        config: InitiatorConfig,
    ) -> Result<Self, ConnectError> {
        let stream = env.network().connect(address, StreamKind::Client).await?;
        let mut challenge = [0; 16];
        challenge.copy_from_slice(&env.secret(16));
        let (orders, queue) = mpsc::channel(QUEUE_LENGTH);
        let (logged_in, begun) = oneshot::channel();
        let driver = Driver::new(Initiator::new(config, challenge), stream, logged_in);
        let _running = env.spawn("iscsi-initiator", driver.run(queue));
        match begun.await {
            Ok(Ok(())) => Ok(Self { orders }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SessionError::EndedByTarget.into()),
        }
    }

    /// Performs a command. Dropping the future leaves the command running.
    ///
    /// # Errors
    /// What the target answered, or that nobody knows.
    pub async fn perform(&self, command: Command) -> Result<Bytes, CommandError> {
        let (answer, result) = oneshot::channel();
        if self
            .orders
            .send(Order::Command(command, answer))
            .await
            .is_err()
        {
            return Err(CommandError::Unknown);
        }
        result.await.unwrap_or(Err(CommandError::Unknown))
    }

    /// The unit's block size and count. Unit attentions that were pending are passed over.
    ///
    /// # Errors
    /// As [`InitiatorSession::perform`].
    pub async fn geometry(&self) -> Result<Geometry, CommandError> {
        /// A fresh session has one, rarely two.
        const ATTENTIONS_MAX: usize = 8;
        for _ in 0..ATTENTIONS_MAX {
            match self.perform(Command::TestUnitReady).await {
                Err(CommandError::Sense { key: 6, .. }) => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        let data = self.perform(Command::ReadCapacity).await?;
        let (Some(last), Some(size)) = (data.get(..8), data.get(8..12)) else {
            return Err(CommandError::Length);
        };
        let mut last_block = [0; 8];
        last_block.copy_from_slice(last);
        let mut block_size = [0; 4];
        block_size.copy_from_slice(size);
        let block_size = u32::from_be_bytes(block_size);
        if !block_size.is_power_of_two() || block_size < 512 {
            return Err(CommandError::Length);
        }
        Ok(Geometry::new(
            block_size,
            u64::from_be_bytes(last_block).saturating_add(1),
        ))
    }

    /// Ends the session in order; resolves when the target confirmed it or the connection ended.
    pub async fn log_out(self) {
        let (answer, done) = oneshot::channel();
        if self.orders.send(Order::LogOut(answer)).await.is_ok() {
            let _ended = done.await;
        }
    }
}

type Reading = BoxFuture<'static, (Box<dyn StreamReader>, Result<Bytes, NetworkError>)>;
type Writing = BoxFuture<'static, (Box<dyn StreamWriter>, Result<(), NetworkError>)>;

enum Happening {
    Written(Box<dyn StreamWriter>, Result<(), NetworkError>),
    Read(Box<dyn StreamReader>, Result<Bytes, NetworkError>),
    Ordered(Option<Order>),
}

struct Driver {
    core: Initiator,
    framer: Framer,
    digests: Digests,
    out: Vec<Output>,
    outbound: Gather,
    writer: Option<Box<dyn StreamWriter>>,
    writing: Option<Writing>,
    reading: Reading,
    answers: BTreeMap<u64, Answer>,
    logged_in: Option<oneshot::Sender<Result<(), ConnectError>>>,
    logged_out: Option<oneshot::Sender<()>>,
    over: bool,
}

impl Driver {
    fn new(
        core: Initiator,
        stream: Stream,
        logged_in: oneshot::Sender<Result<(), ConnectError>>,
    ) -> Self {
        Self {
            core,
            framer: Framer::new(LOGIN_DATA_BYTES),
            digests: Digests::default(),
            out: Vec::new(),
            outbound: Gather::default(),
            writer: Some(stream.writer),
            writing: None,
            reading: read(stream.reader),
            answers: BTreeMap::new(),
            logged_in: Some(logged_in),
            logged_out: None,
            over: false,
        }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        self.core.start(&mut self.out);
        self.perform();
        while !self.over {
            if self.writing.is_none()
                && self.outbound.length_bytes() > 0
                && let Some(writer) = self.writer.take()
            {
                self.writing = Some(write(writer, self.outbound.take()));
            }
            // A full target stops reading: then no more commands are taken either.
            let takes_orders = self.outbound.length_bytes() < OUTBOUND_BYTES_MAX;
            let happening = poll_fn(|context| {
                if let Some(writing) = &mut self.writing
                    && let Poll::Ready((writer, result)) = writing.as_mut().poll(context)
                {
                    self.writing = None;
                    return Poll::Ready(Happening::Written(writer, result));
                }
                if let Poll::Ready((reader, result)) = self.reading.as_mut().poll(context) {
                    return Poll::Ready(Happening::Read(reader, result));
                }
                if takes_orders {
                    return queue.poll_recv(context).map(Happening::Ordered);
                }
                Poll::Pending
            });
            match happening.await {
                Happening::Written(writer, Ok(())) => self.writer = Some(writer),
                Happening::Read(reader, Ok(bytes)) if !bytes.is_empty() => {
                    self.reading = read(reader);
                    self.received(bytes);
                }
                Happening::Ordered(Some(order)) => self.take(order),
                Happening::Written(..) | Happening::Read(..) | Happening::Ordered(None) => break,
            }
        }
        self.core.disconnected(&mut self.out);
        self.perform();
    }

    fn received(&mut self, bytes: Bytes) {
        self.framer.push(bytes);
        while !self.over {
            match self.framer.next_pdu() {
                Ok(Some(pdu)) => {
                    self.core.handle(&pdu, &mut self.out);
                    self.perform();
                }
                Ok(None) => break,
                Err(_) => self.over = true,
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Command(command, answer) => {
                let ticket = self.core.submit(command, &mut self.out);
                self.answers.insert(ticket, answer);
            }
            Order::LogOut(answer) => {
                self.core.log_out(&mut self.out);
                self.logged_out = Some(answer);
            }
        }
        self.perform();
    }

    fn perform(&mut self) {
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Send(request) => request.encode().encode(self.digests, &mut self.outbound),
                Output::Framing(digests, data_limit) => {
                    self.digests = digests;
                    self.framer.set_digests(digests);
                    self.framer.set_data_limit(data_limit);
                }
                Output::LoggedIn => {
                    if let Some(logged_in) = self.logged_in.take() {
                        let _gone = logged_in.send(Ok(()));
                    }
                }
                Output::Completed(ticket, result) => {
                    if let Some(answer) = self.answers.remove(&ticket) {
                        let _gone = answer.send(result);
                    }
                }
                Output::Failed(error) => {
                    self.over = true;
                    if let Some(logged_in) = self.logged_in.take() {
                        let _gone = logged_in.send(Err(error.into()));
                    }
                }
                Output::LoggedOut => {
                    self.over = true;
                    if let Some(logged_out) = self.logged_out.take() {
                        let _gone = logged_out.send(());
                    }
                }
            }
        }
    }
}

fn read(mut reader: Box<dyn StreamReader>) -> Reading {
    Box::pin(async move {
        let result = reader.read(READ_BYTES).await;
        (reader, result)
    })
}

fn write(mut writer: Box<dyn StreamWriter>, parts: Vec<Bytes>) -> Writing {
    Box::pin(async move {
        let result = writer.write(parts).await;
        (writer, result)
    })
}
