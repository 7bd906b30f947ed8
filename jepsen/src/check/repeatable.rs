//! The exact treatment of one value that may be written any number of times.
//!
//! Block devices need it: every write-zeroes and unmap writes "zero", and so does the state before
//! all writes. A read of zero does not name the write it saw, and with two or more such values the
//! question is NP-complete. With one it is a scheduling problem that a greedy sweep solves.
//!
//! Let the zones of all other values be known and pairwise consistent. A forward zone `[f, s]`
//! occupies its span; a backward zone can be shrunk to a point anywhere in `[s, f]`; writes and
//! reads of the repeatable value are points in their windows outside forward zones. A read needs
//! the *held* state: the last point or zone before it is a repeatable write. The sweep keeps:
//!
//! - in the held state pending reads are explained at once; in the other one, pending backward
//!   zones are placed at once: neither costs anything;
//! - just before any repeatable write every pending backward zone is placed: it disturbs nothing;
//! - a backward zone is placed at its last moment while the value is held, a repeatable write at
//!   its last moment, or earlier for a read that is at its own last moment; then the write that
//!   expires first is taken. Waiting never loses an option (exchange argument).
//!
//! Invariants: time points are closed, ties are concurrent. It does not minimise its witness.

use super::Witness;
use super::zones::{AFTER_ALL, BEFORE_ALL};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When an operation took effect at the latest and the earliest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) op: u64,
    pub(super) start: u64,
    pub(super) finish: u64,
}

/// The zone of another value's block.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub(super) first_finish: u64,
    pub(super) last_start: u64,
    /// The operations that fix the zone.
    pub(super) operations: Vec<u64>,
}

/// What happens at one time, in the order in which it must be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    WriteArrives(usize),
    ZoneArrives(usize),
    ReadArrives(usize),
    WriteExpires(usize),
    ZoneExpires(usize),
    ReadExpires(usize),
    ForwardZone(usize),
}

/// Finds a place for every operation of the repeatable value, or says which one has none.
pub(super) fn schedule(
    initially_held: bool,
    zones: &[Zone],
    writes: &[Window],
    reads: &[Window],
) -> Result<(), Witness> {
    if reads.is_empty() && writes.iter().all(|write| write.finish == AFTER_ALL) {
        return Ok(());
    }
    let mut forward: Vec<usize> = (0..zones.len())
        .filter(|&zone| zones[zone].first_finish < zones[zone].last_start)
        .collect();
    forward.sort_unstable_by_key(|&zone| zones[zone].first_finish);
    let clip = Clip {
        zones,
        forward: &forward,
    };
    let mut events: Vec<(u64, Event)> = forward
        .iter()
        .map(|&zone| (zones[zone].first_finish, Event::ForwardZone(zone)))
        .collect();
    for (number, write) in writes.iter().enumerate() {
        let (start, finish) = clip.window(write)?;
        events.push((start, Event::WriteArrives(number)));
        events.push((finish, Event::WriteExpires(number)));
    }
    for (number, read) in reads.iter().enumerate() {
        let (start, finish) = clip.window(read)?;
        events.push((start, Event::ReadArrives(number)));
        events.push((finish, Event::ReadExpires(number)));
    }
    for (number, zone) in zones.iter().enumerate() {
        if zone.last_start <= zone.first_finish {
            let (start, finish) = (clip.start(zone.last_start), clip.finish(zone.first_finish));
            events.push((start, Event::ZoneArrives(number)));
            events.push((finish, Event::ZoneExpires(number)));
        }
    }
    events.sort_unstable();
    let mut sweep = Sweep::new(initially_held, zones, writes, reads);
    events
        .into_iter()
        .try_for_each(|(_, event)| sweep.handle(event))
}

/// Moves the ends of windows out of forward zones.
struct Clip<'a> {
    zones: &'a [Zone],
    forward: &'a [usize],
}

impl Clip<'_> {
    /// The last forward zone that began before `time`, if it is still going on then.
    fn around(&self, time: u64) -> Option<&Zone> {
        let begun = self
            .forward
            .partition_point(|&zone| self.zones[zone].first_finish < time);
        let zone = &self.zones[*self.forward.get(begun.checked_sub(1)?)?];
        (time < zone.last_start).then_some(zone)
    }

    fn start(&self, time: u64) -> u64 {
        self.around(time).map_or(time, |zone| zone.last_start)
    }

    fn finish(&self, time: u64) -> u64 {
        self.around(time).map_or(time, |zone| zone.first_finish)
    }

    fn window(&self, window: &Window) -> Result<(u64, u64), Witness> {
        let (start, finish) = (self.start(window.start), self.finish(window.finish));
        if start <= finish {
            return Ok((start, finish));
        }
        let zone = self
            .around(window.finish)
            .expect("only a forward zone moves an end");
        let mut operations = zone.operations.clone();
        operations.push(window.op);
        let op = window.op;
        Err(Witness::new(
            operations,
            format!("operation {op} lies wholly in a span in which another value was held"),
        ))
    }
}

/// The state of the greedy sweep.
struct Sweep<'a> {
    zones: &'a [Zone],
    writes: &'a [Window],
    reads: &'a [Window],
    held: bool,
    /// The zone that ended the held state last.
    ended_by: Option<usize>,
    /// Pending writes, the one that expires first on top; used ones stay until they surface.
    available: BinaryHeap<Reverse<(u64, usize)>>,
    used: Vec<bool>,
    zone_placed: Vec<bool>,
    read_placed: Vec<bool>,
    pending_zones: Vec<usize>,
    pending_reads: Vec<usize>,
}

impl<'a> Sweep<'a> {
    fn new(held: bool, zones: &'a [Zone], writes: &'a [Window], reads: &'a [Window]) -> Self {
        Self {
            zones,
            writes,
            reads,
            held,
            ended_by: None,
            available: BinaryHeap::new(),
            used: vec![false; writes.len()],
            zone_placed: vec![false; zones.len()],
            read_placed: vec![false; reads.len()],
            pending_zones: Vec::new(),
            pending_reads: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Witness> {
        match event {
            Event::WriteArrives(write) => {
                self.available
                    .push(Reverse((self.writes[write].finish, write)));
            }
            Event::ZoneArrives(zone) if self.held => self.pending_zones.push(zone),
            Event::ZoneArrives(zone) => self.zone_placed[zone] = true,
            Event::ReadArrives(read) if self.held => self.read_placed[read] = true,
            Event::ReadArrives(read) => self.pending_reads.push(read),
            // A write of unknown outcome need not have happened.
            Event::WriteExpires(write) if self.writes[write].finish == AFTER_ALL => {}
            Event::WriteExpires(write) if !self.used[write] => self.place_write(write),
            Event::ZoneExpires(zone) if !self.zone_placed[zone] => {
                self.place_zones();
                self.held = false;
                self.ended_by = Some(zone);
            }
            Event::ReadExpires(read) if !self.read_placed[read] => {
                let write = self.next_write().ok_or_else(|| self.stuck(read))?;
                self.place_write(write);
            }
            Event::ForwardZone(zone) => {
                self.place_zones();
                self.held = false;
                self.ended_by = Some(zone);
            }
            Event::WriteExpires(_) | Event::ZoneExpires(_) | Event::ReadExpires(_) => {}
        }
        Ok(())
    }

    fn next_write(&mut self) -> Option<usize> {
        while let Some(Reverse((_, write))) = self.available.pop() {
            if !self.used[write] {
                return Some(write);
            }
        }
        None
    }

    fn place_write(&mut self, write: usize) {
        self.used[write] = true;
        self.place_zones();
        self.held = true;
        for read in self.pending_reads.drain(..) {
            self.read_placed[read] = true;
        }
    }

    fn place_zones(&mut self) {
        for zone in self.pending_zones.drain(..) {
            self.zone_placed[zone] = true;
        }
    }

    fn stuck(&self, read: usize) -> Witness {
        let op = self.reads[read].op;
        let mut operations = vec![op];
        if let Some(zone) = self.ended_by {
            operations.extend(&self.zones[zone].operations);
        }
        Witness::new(
            operations,
            format!(
                "operation {op} found the value that can be written again and again, but no \
                 write of it can stand between the last other value and this read"
            ),
        )
    }
}

/// Windows never begin before all time.
const _: () = assert!(BEFORE_ALL == 0);
