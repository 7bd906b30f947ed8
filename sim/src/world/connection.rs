//! One connection: two ends, a bounded number of bytes on the way in each direction.
//!
//! Invariants: on a Client stream bytes arrive in order, complete and unchanged, or the stream ends
//! with an error; on an Rpc stream whole writes may be lost, doubled, held back or corrupted, but
//! never torn. An end that nobody owns any more answers data with a reset.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use hedgerow_env::{NetworkError, StreamKind};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::World;
use super::link::LinkState;
use super::network::NetworkSpec;
use super::node::Life;
use super::seeds::Dice;
use super::topology::NodeIndex;
use super::trace::EventKind;

/// Small arrivals are handed out together up to this many bytes, as a kernel does.
const GATHER_BYTES: usize = 16 * 1024;

/// A part at least this long is handed out alone, without copying.
const GATHER_PART_BYTES: usize = 4 * 1024;

/// The two ends of a connection: the client's and the server's.
pub(super) type EndIndex = usize;

/// What travels.
pub(super) enum Packet {
    /// One write, and when it was sent.
    Data(Vec<Bytes>, u64),
    Finish,
    Reset,
}

/// One connection.
pub(super) struct Connection {
    pub(super) kind: StreamKind,
    pub(super) lives: [Arc<Life>; 2],
    dice: Dice,
    spec: NetworkSpec,
    ends: Mutex<[End; 2]>,
}

/// The state of one end.
#[derive(Default)]
struct End {
    inbox: VecDeque<Bytes>,
    inbox_bytes: usize,
    /// Bytes sent from this end that its peer has not consumed.
    outstanding: usize,
    /// The last time at which something ordered arrives here.
    last_arrival_ns: u64,
    /// What waits before a cut or clogged link, bound for this end.
    stalled: VecDeque<Packet>,
    giving_up: bool,
    reads: u64,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
    /// The peer will send no more.
    finished: bool,
    /// We told the peer that we will send no more.
    shut: bool,
    broken: Option<&'static str>,
    reader_gone: bool,
    writer_gone: bool,
}

impl End {
    fn closed(&self) -> bool {
        self.reader_gone && self.writer_gone
    }

    fn wake(&mut self) {
        for waker in [self.read_waker.take(), self.write_waker.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

fn size_of(parts: &[Bytes]) -> usize {
    parts.iter().map(Bytes::len).sum()
}

pub(super) fn checksum_of(parts: &[Bytes]) -> u64 {
    match parts {
        [only] => xxh3_64(only),
        _ => {
            let mut hasher = Xxh3::new();
            parts.iter().for_each(|part| hasher.update(part));
            hasher.digest()
        }
    }
}

/// `parts` as one buffer in which one bit is flipped.
fn flipped(parts: &[Bytes], bit: u64) -> Vec<Bytes> {
    let mut whole = parts.concat();
    if !whole.is_empty() {
        let bits = u64::try_from(whole.len()).expect("a length fits 64 bits") * 8;
        let at = usize::try_from(bit % bits).expect("within a buffer");
        whole[at / 8] ^= 1 << (at % 8);
    }
    vec![Bytes::from(whole)]
}

impl Connection {
    pub(super) fn new(
        kind: StreamKind,
        lives: [Arc<Life>; 2],
        dice: Dice,
        spec: NetworkSpec,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind,
            lives,
            dice,
            spec,
            ends: Mutex::default(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [End; 2]> {
        self.ends
            .lock()
            .expect("no panic while a connection is held")
    }

    fn node(&self, end: EndIndex) -> NodeIndex {
        self.lives[end].node
    }

    /// Whether neither end can act any more.
    pub(super) fn is_over(&self) -> bool {
        let ends = self.lock();
        (0..2).all(|end| ends[end].closed() || self.lives[end].is_over())
    }

    /// Ready when `size` more bytes may be sent from `end`; one write always may when none is out.
    pub(super) fn poll_window(
        &self,
        end: EndIndex,
        size: usize,
        context: &Context<'_>,
    ) -> Poll<Result<(), NetworkError>> {
        if self.lives[end].is_over() {
            return Poll::Pending;
        }
        let own = &mut self.lock()[end];
        if let Some(reason) = own.broken {
            return Poll::Ready(Err(NetworkError::Closed {
                reason: reason.to_owned(),
            }));
        }
        if own.shut {
            let reason = "this side was shut down".to_owned();
            return Poll::Ready(Err(NetworkError::Closed { reason }));
        }
        if own.outstanding > 0 && own.outstanding + size > self.spec.window_bytes {
            own.write_waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        own.outstanding += size;
        Poll::Ready(Ok(()))
    }

    /// Sends one write from `end`; its bytes were admitted by [`Self::poll_window`].
    pub(super) fn send(self: &Arc<Self>, world: &World, end: EndIndex, parts: Vec<Bytes>) {
        let (from, to) = (self.node(end), self.node(1 - end));
        let size = size_of(&parts);
        let now_ns = world.now_ns();
        let length = u64::try_from(size).expect("a length fits 64 bits");
        let passage = world.with_link(from, to, |link| {
            link.judge((from, to), self.kind, (now_ns, length), &world.0.faults)
        });
        world.message_struck(&passage, [from, to]);
        let Some(mut at_ns) = passage.arrives_ns else {
            world.record_message(EventKind::Lose, (from, to), now_ns, &parts);
            self.refund(end, size);
            return;
        };
        if !passage.unordered {
            let target = &mut self.lock()[1 - end];
            at_ns = at_ns.max(target.last_arrival_ns);
            target.last_arrival_ns = at_ns;
        }
        if let Some(again_ns) = passage.again_ns {
            self.post(
                world,
                1 - end,
                again_ns,
                Packet::Data(parts.clone(), now_ns),
            );
        }
        let parts = match passage.flip {
            Some(bit) => flipped(&parts, bit),
            None => parts,
        };
        self.post(world, 1 - end, at_ns, Packet::Data(parts, now_ns));
    }

    /// Has `packet` arrive at end `to` at `at_ns`.
    fn post(self: &Arc<Self>, world: &World, to: EndIndex, at_ns: u64, packet: Packet) {
        let connection = Arc::clone(self);
        world.call_at(at_ns, move |world| connection.arrive(world, to, packet));
    }

    /// Sends a control packet from `end`, behind all that it sent.
    fn send_control(self: &Arc<Self>, world: &World, end: EndIndex, packet: Packet) {
        let (from, to) = (self.node(end), self.node(1 - end));
        let now_ns = world.now_ns();
        let mut at_ns = world.with_link(from, to, |link| link.control(now_ns));
        {
            let target = &mut self.lock()[1 - end];
            at_ns = at_ns.max(target.last_arrival_ns);
            target.last_arrival_ns = at_ns;
        }
        self.post(world, 1 - end, at_ns, packet);
    }

    /// Bytes sent from `end` need no room any more.
    fn refund(&self, end: EndIndex, size: usize) {
        let own = &mut self.lock()[end];
        own.outstanding = own.outstanding.saturating_sub(size);
        if let Some(waker) = own.write_waker.take() {
            waker.wake();
        }
    }

    /// A packet reaches the link's far side: it may still find the link cut.
    fn arrive(self: &Arc<Self>, world: &World, to: EndIndex, packet: Packet) {
        let (from_node, to_node) = (self.node(1 - to), self.node(to));
        let state = world.link(from_node, to_node).state;
        let waits = !self.lock()[to].stalled.is_empty();
        if state != LinkState::Open {
            world.blocked(from_node, to_node);
        }
        match (state, &packet) {
            (LinkState::Cut | LinkState::Clogged, Packet::Reset) => {}
            (LinkState::Cut, Packet::Data(parts, sent_ns)) if self.kind == StreamKind::Rpc => {
                world.record_message(EventKind::Lose, (from_node, to_node), *sent_ns, parts);
                self.refund(1 - to, size_of(parts));
                self.give_up_later(world, to);
            }
            (LinkState::Cut, Packet::Finish) if self.kind == StreamKind::Rpc => {}
            (LinkState::Cut | LinkState::Clogged, _) => {
                self.lock()[to].stalled.push_back(packet);
                self.give_up_later(world, to);
            }
            (LinkState::Open, _) if waits => self.lock()[to].stalled.push_back(packet),
            (LinkState::Open, _) => self.take_in(world, to, packet),
        }
    }

    /// A sender whose packets do not pass for long enough takes the connection for broken.
    fn give_up_later(self: &Arc<Self>, world: &World, to: EndIndex) {
        if std::mem::replace(&mut self.lock()[to].giving_up, true) {
            return;
        }
        let connection = Arc::clone(self);
        world.call_at(world.now_ns() + self.spec.give_up_ns, move |world| {
            connection.lock()[to].giving_up = false;
            let (from_node, to_node) = (connection.node(1 - to), connection.node(to));
            let unheard = connection.lives[to].is_over();
            if unheard || world.link(from_node, to_node).state != LinkState::Open {
                connection.lock()[to].stalled.clear();
                connection.break_end(world, 1 - to, "connection timed out");
            }
        });
    }

    /// Lets what waited for end `to` in, in its order, after one more passage of the link.
    pub(super) fn release(self: &Arc<Self>, world: &World, to: EndIndex) {
        if self.lock()[to].stalled.is_empty() {
            return;
        }
        let (from_node, to_node) = (self.node(1 - to), self.node(to));
        let now_ns = world.now_ns();
        let at_ns = world.with_link(from_node, to_node, |link| link.control(now_ns));
        let connection = Arc::clone(self);
        world.call_at(at_ns, move |world| {
            while world.link(from_node, to_node).state == LinkState::Open {
                let Some(packet) = connection.lock()[to].stalled.pop_front() else {
                    break;
                };
                connection.take_in(world, to, packet);
            }
        });
    }

    /// A packet has arrived at end `to`.
    fn take_in(self: &Arc<Self>, world: &World, to: EndIndex, packet: Packet) {
        let (from_node, to_node) = (self.node(1 - to), self.node(to));
        if self.lives[to].is_over() {
            // The process is gone. Its machine, if it runs, says so.
            if matches!(packet, Packet::Reset) {
            } else if world.node(to_node).is_powered() {
                self.send_control(world, to, Packet::Reset);
            } else {
                self.give_up_later(world, to);
            }
            return;
        }
        let mut ends = self.lock();
        let end = &mut ends[to];
        match packet {
            Packet::Reset => {
                drop(ends);
                self.break_end(world, to, "connection reset by peer");
            }
            Packet::Finish => {
                end.finished = true;
                end.wake();
            }
            Packet::Data(..) if end.closed() => {
                drop(ends);
                self.send_control(world, to, Packet::Reset);
            }
            Packet::Data(..) if end.broken.is_some() => {}
            Packet::Data(parts, sent_ns) => {
                let size = size_of(&parts);
                end.inbox_bytes += size;
                end.inbox
                    .extend(parts.iter().filter(|part| !part.is_empty()).cloned());
                if let Some(waker) = end.read_waker.take() {
                    waker.wake();
                }
                drop(ends);
                world.record_message(EventKind::Deliver, (from_node, to_node), sent_ns, &parts);
            }
        }
    }

    /// Breaks one end: it finds an error once it has read what had arrived.
    pub(super) fn break_end(&self, world: &World, end: EndIndex, reason: &'static str) {
        if self.lives[end].is_over() {
            return;
        }
        let mut ends = self.lock();
        let own = &mut ends[end];
        if own.broken.is_none() && !own.closed() {
            own.broken = Some(reason);
            own.wake();
            drop(ends);
            let peer = u64::from(self.node(1 - end).0);
            world.record(EventKind::Reset, Some(self.node(end)), peer, 0, 0);
        }
    }

    /// The process at `end` is gone: what had arrived is lost, and the peer is told if `reset`.
    pub(super) fn abandon(self: &Arc<Self>, world: &World, end: EndIndex, reset: bool) {
        let was_closed = {
            let own = &mut self.lock()[end];
            own.inbox.clear();
            own.inbox_bytes = 0;
            own.closed()
        };
        if reset && !was_closed {
            self.send_control(world, end, Packet::Reset);
        }
    }

    /// Up to `maximum` bytes that arrived at `end`.
    pub(super) fn poll_read(
        &self,
        end: EndIndex,
        maximum: usize,
        context: &Context<'_>,
    ) -> Poll<Result<Bytes, NetworkError>> {
        if self.lives[end].is_over() {
            return Poll::Pending;
        }
        let mut ends = self.lock();
        let own = &mut ends[end];
        if own.inbox.is_empty() || maximum == 0 {
            if let Some(reason) = own.broken {
                return Poll::Ready(Err(NetworkError::Closed {
                    reason: reason.to_owned(),
                }));
            }
            if own.finished || maximum == 0 {
                return Poll::Ready(Ok(Bytes::new()));
            }
            own.read_waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let number = u64::try_from(end).expect("0 or 1") + 2 * own.reads;
        own.reads += 1;
        let dice = self.dice.of(number);
        let mut limit = maximum.min(own.inbox_bytes);
        if dice.chance(0, self.spec.short_read_ppm) {
            let bound = u64::try_from(limit).expect("a length fits 64 bits");
            limit = 1 + usize::try_from(dice.below(1, bound)).expect("below a length");
        }
        let bytes = take(&mut own.inbox, limit);
        own.inbox_bytes -= bytes.len();
        let sender = &mut ends[1 - end];
        sender.outstanding = sender.outstanding.saturating_sub(bytes.len());
        if let Some(waker) = sender.write_waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes))
    }

    /// Tells the peer that `end` will send no more.
    pub(super) fn shut(self: &Arc<Self>, world: &World, end: EndIndex) {
        let first = {
            let own = &mut self.lock()[end];
            own.broken.is_none() && !std::mem::replace(&mut own.shut, true)
        };
        if first && !self.lives[end].is_over() {
            self.send_control(world, end, Packet::Finish);
        }
    }

    /// Half of `end` was dropped; with the second half the end closes. Unread data makes that a
    /// reset, as TCP has it.
    pub(super) fn drop_half(self: &Arc<Self>, world: &World, end: EndIndex, reader: bool) {
        let closing = {
            let own = &mut self.lock()[end];
            let was_closed = own.closed();
            if reader {
                own.reader_gone = true;
            } else {
                own.writer_gone = true;
            }
            let told = own.broken.is_some() || (own.shut && own.inbox.is_empty());
            let unread = !own.inbox.is_empty();
            let closing = own.closed() && !was_closed && !told;
            if own.closed() {
                own.inbox.clear();
                own.read_waker = None;
                own.write_waker = None;
            }
            closing.then_some(unread)
        };
        if self.lives[end].is_over() {
            return;
        }
        match closing {
            Some(true) => self.send_control(world, end, Packet::Reset),
            Some(false) => self.send_control(world, end, Packet::Finish),
            None => {}
        }
    }
}

/// Takes up to `limit` bytes: a long part alone, short ones together.
fn take(inbox: &mut VecDeque<Bytes>, limit: usize) -> Bytes {
    let Some(front) = inbox.front_mut() else {
        return Bytes::new();
    };
    if front.len() > limit {
        return front.split_to(limit);
    }
    if front.len() >= GATHER_PART_BYTES || front.len() == limit {
        return inbox.pop_front().unwrap_or_default();
    }
    let limit = limit.min(GATHER_BYTES);
    let mut gathered = BytesMut::with_capacity(limit);
    while gathered.len() < limit {
        let Some(front) = inbox.front_mut() else {
            break;
        };
        let room = limit - gathered.len();
        if front.len() <= room {
            gathered.extend_from_slice(front);
            inbox.pop_front();
        } else {
            gathered.extend_from_slice(&front.split_to(room));
        }
    }
    gathered.freeze()
}
