//! The network seam: listening, connecting and streams over the world's own message bus.
//!
//! Addresses are `host:port`; the host is a node's name, or one of the usual names of the node
//! itself (`localhost`, `127.0.0.1`, `0.0.0.0`, `[::]`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Waker};

use bytes::Bytes;
use hedgerow_env::{
    BoxFuture, Listener, Network, NetworkError, Stream, StreamKind, StreamReader, StreamWriter,
};
use serde::{Deserialize, Serialize};

use super::World;
use super::connection::{Connection, EndIndex};
use super::coverage::FaultKind;
use super::link::{Link, LinkState};
use super::node::{Life, NodeEnv};
use super::seeds::Dice;
use super::timers::TrueSleep;
use super::topology::{LatencyMatrix, NodeIndex, NodeSpec};
use super::trace::EventKind;

/// Connections that wait to be accepted, at most; more are tried again by their openers.
const BACKLOG: usize = 128;

/// The first wait before an opening that found no answer is tried again; it doubles.
const OPEN_RETRY_NS: u64 = 1_000_000_000;

/// An opening without an answer fails after this time, as Linux has it by default.
const OPEN_LIMIT_NS: u64 = 127_000_000_000;

/// Ports that the world chooses itself start here.
const FIRST_CHOSEN_PORT: u16 = 32_768;

/// After so many new connections the records of ended ones are dropped.
const SWEEP_CONNECTIONS: usize = 256;

/// Figures of the whole network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Bytes on the way in one direction of a stream, at most (one write always passes).
    pub window_bytes: usize,
    /// A sender whose bytes do not pass for so long takes its connection for broken.
    pub give_up_ns: u64,
    /// Reads that return less than they could.
    pub short_read_ppm: u32,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            window_bytes: 1 << 20,
            give_up_ns: 15_000_000_000,
            short_read_ppm: 20_000,
        }
    }
}

/// The state of the network.
pub(super) struct NetworkState {
    spec: NetworkSpec,
    /// `links[from][to]`.
    links: Mutex<Vec<Vec<Link>>>,
    listeners: Mutex<BTreeMap<(NodeIndex, u16), Arc<Listening>>>,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    /// In the order in which they were made.
    made: Vec<Weak<Connection>>,
    swept: usize,
}

/// One listening address.
struct Listening {
    kind: StreamKind,
    life: Arc<Life>,
    port: u16,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    streams: VecDeque<Stream>,
    waker: Option<Waker>,
}

impl Listening {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .expect("no panic while a listener is held")
    }
}

impl NetworkState {
    pub(super) fn new(spec: NetworkSpec) -> Self {
        Self {
            spec,
            links: Mutex::default(),
            listeners: Mutex::default(),
            connections: Mutex::default(),
        }
    }

    /// Makes the links of the nodes that are new.
    pub(super) fn grow(&self, specs: &[&NodeSpec], latency: &LatencyMatrix, dice: Dice) {
        let mut links = self.links.lock().expect("no panic while links are held");
        links.resize_with(specs.len(), Vec::new);
        for (from, row) in links.iter_mut().enumerate() {
            for to in row.len()..specs.len() {
                let ids = [from, to].map(|id| u64::try_from(id).expect("an index fits 64 bits"));
                let between = latency.between(specs[from], specs[to]);
                row.push(Link::new(between, dice.of(ids[0]).of(ids[1])));
            }
        }
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, BTreeMap<(NodeIndex, u16), Arc<Listening>>> {
        self.listeners
            .lock()
            .expect("no panic while listeners are held")
    }

    fn enter(&self, connection: &Arc<Connection>) {
        let mut connections = self.connections.lock().expect("no panic while entering");
        connections.made.push(Arc::downgrade(connection));
        if connections.made.len() >= connections.swept * 2 + SWEEP_CONNECTIONS {
            connections
                .made
                .retain(|weak| weak.upgrade().is_some_and(|alive| !alive.is_over()));
            connections.swept = connections.made.len();
        }
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        let connections = self.connections.lock().expect("no panic while entering");
        connections.made.iter().filter_map(Weak::upgrade).collect()
    }
}

impl World {
    pub(super) fn with_link<T>(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        change: impl FnOnce(&mut Link) -> T,
    ) -> T {
        let mut links = self
            .0
            .network
            .links
            .lock()
            .expect("no panic while links are held");
        change(&mut links[from.position()][to.position()])
    }

    /// Every open connection between two nodes, with the end that stands at `one`.
    fn between(&self, one: NodeIndex, other: NodeIndex) -> Vec<(Arc<Connection>, EndIndex)> {
        let mut found = Vec::new();
        for connection in self.0.network.connections() {
            let nodes = [connection.lives[0].node, connection.lives[1].node];
            for end in 0..2 {
                if nodes[end] == one && nodes[1 - end] == other {
                    found.push((Arc::clone(&connection), end));
                }
            }
        }
        found
    }

    /// What waited before a link that has opened passes.
    pub(super) fn release_link(&self, from: NodeIndex, to: NodeIndex) {
        for (connection, end) in self.between(to, from) {
            connection.release(self, end);
        }
    }

    /// Resets every connection between two nodes, at both ends at once.
    pub fn break_connections(&self, one: NodeIndex, other: NodeIndex) {
        for (connection, end) in self.between(one, other) {
            self.struck(FaultKind::Reset, one);
            self.struck(FaultKind::Reset, other);
            self.with_link(one, other, |link| link.tally.broken += 1);
            connection.break_end(self, end, "connection reset by peer");
            connection.break_end(self, 1 - end, "connection reset by peer");
        }
    }

    /// Breaks the end at `one` of its connections with `other`, which is not told.
    pub fn half_open(&self, one: NodeIndex, other: NodeIndex) {
        for (connection, end) in self.between(one, other) {
            self.struck(FaultKind::HalfOpen, one);
            self.struck(FaultKind::HalfOpen, other);
            connection.break_end(self, end, "connection timed out");
        }
    }

    /// A process is gone: its listeners close, its connections are abandoned, in fixed order.
    pub(super) fn drop_connections_of(&self, life: &Arc<Life>, reset: bool) {
        let closed: Vec<Arc<Listening>> = {
            let mut listeners = self.0.network.listeners();
            let ports: Vec<u16> = listeners
                .range((life.node, 0)..=(life.node, u16::MAX))
                .filter(|(_, listening)| Arc::ptr_eq(&listening.life, life))
                .map(|((_, port), _)| *port)
                .collect();
            ports
                .iter()
                .filter_map(|port| listeners.remove(&(life.node, *port)))
                .collect()
        };
        drop(closed);
        for connection in self.0.network.connections() {
            for end in 0..2 {
                if Arc::ptr_eq(&connection.lives[end], life) {
                    connection.abandon(self, end, reset);
                }
            }
        }
    }
}

/// Splits `host:port`.
fn parse(address: &str) -> Result<(&str, u16), NetworkError> {
    let bad = |reason: &str| NetworkError::BadAddress {
        address: address.to_owned(),
        reason: reason.to_owned(),
    };
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| bad("expected host:port"))?;
    let port = port
        .parse()
        .map_err(|_| bad("the port is not a number below 65536"))?;
    if host.is_empty() {
        Err(bad("the host is empty"))
    } else {
        Ok((host, port))
    }
}

impl NodeEnv {
    fn resolve(&self, host: &str, address: &str) -> Result<NodeIndex, NetworkError> {
        if matches!(
            host,
            "localhost" | "127.0.0.1" | "0.0.0.0" | "[::]" | "[::1]"
        ) {
            return Ok(self.node.index);
        }
        self.world
            .find(host)
            .ok_or_else(|| NetworkError::BadAddress {
                address: address.to_owned(),
                reason: "no such host".to_owned(),
            })
    }

    fn listen_now(
        &self,
        address: &str,
        kind: StreamKind,
    ) -> Result<Box<dyn Listener>, NetworkError> {
        let (host, port) = parse(address)?;
        if self.resolve(host, address)? != self.node.index {
            return Err(NetworkError::BadAddress {
                address: address.to_owned(),
                reason: "not an address of this node".to_owned(),
            });
        }
        let mut listeners = self.world.0.network.listeners();
        let free = |port: &u16| !listeners.contains_key(&(self.node.index, *port));
        let port = match port {
            0 => (FIRST_CHOSEN_PORT..=u16::MAX).find(free),
            port => Some(port).filter(free),
        };
        let port = port.ok_or_else(|| NetworkError::AddressInUse {
            address: address.to_owned(),
        })?;
        let life = Arc::clone(&self.life);
        let listening = Arc::new(Listening {
            kind,
            life,
            port,
            waiting: Mutex::default(),
        });
        listeners.insert((self.node.index, port), Arc::clone(&listening));
        Ok(Box::new(SimListener {
            env: self.clone(),
            listening,
        }))
    }

    async fn connect_now(self, address: String, kind: StreamKind) -> Result<Stream, NetworkError> {
        let (host, port) = parse(&address)?;
        let target = self.resolve(host, &address)?;
        let own = self.node.index;
        let number = self.life.connects.fetch_add(1, Ordering::Relaxed);
        let deadline_ns = self.world.now_ns() + OPEN_LIMIT_NS;
        let mut retry_ns = OPEN_RETRY_NS;
        let mut opened: Option<Stream> = None;
        loop {
            let reached = self.travel(own, target).await && self.world.node(target).is_powered();
            let mut refused = false;
            if reached && opened.is_none() {
                match self.knock(target, port, kind, number) {
                    Knock::Opened(stream) => opened = Some(stream),
                    Knock::Refused => refused = true,
                    Knock::Full => {}
                }
            }
            let answered = reached && (refused || opened.is_some());
            if answered && self.travel(target, own).await {
                return match opened.take() {
                    Some(stream) => Ok(stream),
                    None => Err(NetworkError::Refused { address }),
                };
            }
            if self.world.now_ns() + retry_ns > deadline_ns {
                let reason = format!("{address}: no answer");
                return Err(NetworkError::Closed { reason });
            }
            let until_ns = self.world.now_ns() + retry_ns;
            TrueSleep::until(&self.world, Some(&self.life), until_ns).await;
            retry_ns *= 2;
        }
    }

    /// One passage of a link by an opening or its answer; false when it is lost.
    async fn travel(&self, from: NodeIndex, to: NodeIndex) -> bool {
        let now_ns = self.world.now_ns();
        let at_ns = self.world.with_link(from, to, |link| link.control(now_ns));
        TrueSleep::until(&self.world, Some(&self.life), at_ns).await;
        let open = self.world.link(from, to).state == LinkState::Open;
        if !open {
            self.world.blocked(from, to);
        }
        open
    }

    /// An opening reaches its target.
    fn knock(&self, target: NodeIndex, port: u16, kind: StreamKind, number: u64) -> Knock {
        let world = &self.world;
        let listening = world.0.network.listeners().get(&(target, port)).cloned();
        let Some(listening) = listening.filter(|listening| listening.kind == kind) else {
            return Knock::Refused;
        };
        if listening.life.is_over() || self.life.is_over() {
            return Knock::Refused;
        }
        if listening.lock().streams.len() >= BACKLOG {
            return Knock::Full;
        }
        let dice = world
            .dice("connection")
            .of(u64::from(self.node.index.0))
            .of(u64::from(self.life.incarnation))
            .of(number);
        let lives = [Arc::clone(&self.life), Arc::clone(&listening.life)];
        let connection = Connection::new(kind, lives, dice, world.0.network.spec);
        world.0.network.enter(&connection);
        let ports = u64::from(u16::MAX - FIRST_CHOSEN_PORT);
        let client_port = u64::from(FIRST_CHOSEN_PORT) + number % ports;
        let client = format!("{}:{client_port}", self.node.spec.name);
        let server = format!("{}:{port}", world.node(target).spec.name);
        let from = u64::from(self.node.index.0);
        world.record(
            EventKind::Connect,
            Some(target),
            from,
            u64::from(port),
            number,
        );
        let accepted = stream(world, &connection, 1, server.clone(), client.clone());
        let mut waiting = listening.lock();
        waiting.streams.push_back(accepted);
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
        drop(waiting);
        Knock::Opened(stream(world, &connection, 0, client, server))
    }
}

/// What an opening finds.
enum Knock {
    Opened(Stream),
    Refused,
    Full,
}

fn stream(
    world: &World,
    connection: &Arc<Connection>,
    end: EndIndex,
    local_address: String,
    peer_address: String,
) -> Stream {
    let half = |reader| Half {
        world: world.clone(),
        connection: Arc::clone(connection),
        end,
        reader,
    };
    Stream {
        reader: Box::new(SimReader(half(true))),
        writer: Box::new(SimWriter(half(false))),
        local_address,
        peer_address,
    }
}

impl Network for NodeEnv {
    fn listen(
        &self,
        address: &str,
        kind: StreamKind,
    ) -> BoxFuture<'static, Result<Box<dyn Listener>, NetworkError>> {
        let result = self.listen_now(address, kind);
        Box::pin(std::future::ready(result))
    }

    fn connect(
        &self,
        address: &str,
        kind: StreamKind,
    ) -> BoxFuture<'static, Result<Stream, NetworkError>> {
        Box::pin(self.clone().connect_now(address.to_owned(), kind))
    }
}

struct SimListener {
    env: NodeEnv,
    listening: Arc<Listening>,
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, Result<Stream, NetworkError>> {
        Box::pin(std::future::poll_fn(|context| {
            let mut waiting = self.listening.lock();
            if let Some(stream) = waiting.streams.pop_front() {
                return Poll::Ready(Ok(stream));
            }
            waiting.waker = Some(context.waker().clone());
            Poll::Pending
        }))
    }

    fn local_address(&self) -> String {
        format!("{}:{}", self.env.node.spec.name, self.listening.port)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let key = (self.env.node.index, self.listening.port);
        {
            let mut listeners = self.env.world.0.network.listeners();
            // A later life may listen at the same port by now.
            if listeners
                .get(&key)
                .is_some_and(|present| Arc::ptr_eq(present, &self.listening))
            {
                listeners.remove(&key);
            }
        }
        let waiting = std::mem::take(&mut self.listening.lock().streams);
        drop(waiting);
    }
}

/// Half of one end of a connection.
struct Half {
    world: World,
    connection: Arc<Connection>,
    end: EndIndex,
    reader: bool,
}

impl Drop for Half {
    fn drop(&mut self) {
        self.connection
            .drop_half(&self.world, self.end, self.reader);
    }
}

struct SimReader(Half);

impl StreamReader for SimReader {
    fn read(&mut self, maximum: usize) -> BoxFuture<'_, Result<Bytes, NetworkError>> {
        let half = &self.0;
        Box::pin(std::future::poll_fn(move |context| {
            half.connection.poll_read(half.end, maximum, context)
        }))
    }
}

struct SimWriter(Half);

impl StreamWriter for SimWriter {
    fn write(&mut self, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), NetworkError>> {
        let half = &self.0;
        Box::pin(async move {
            let size = parts.iter().map(Bytes::len).sum();
            std::future::poll_fn(|context| half.connection.poll_window(half.end, size, context))
                .await?;
            if size == 0 {
                return Ok(());
            }
            half.connection.send(&half.world, half.end, parts);
            Ok(())
        })
    }

    fn shutdown(&mut self) -> BoxFuture<'_, Result<(), NetworkError>> {
        let half = &self.0;
        Box::pin(async move {
            half.connection.shut(&half.world, half.end);
            Ok(())
        })
    }
}
