//! The near-linear register checker: zones (Gibbons and Korach, 1997) with chained compare-and-set
//! and one repeatable value.
//!
//! When every value is written once, a read names the write it saw. A value's write and its reads
//! form a cluster; a successful compare-and-set from `a` to `b` ties the cluster of `b` directly
//! behind that of `a`, and a chain of clusters is a *block*: in any explaining order nothing stands
//! inside it. With `f` the earliest finish and `s` the latest start in a block, block X must come
//! before block Y when `f(X) < s(Y)`, and the history is linearizable if and only if every chain is
//! consistent inside and no two blocks must come before one another. The latter is decided by a
//! sort and a sweep. One value may be written any number of times (zeros, or nil): the
//! schedule in [`super::repeatable`] is exact for it.
//!
//! Invariants: a tie in time counts as concurrent; the initial value is written before all time;
//! a write whose outcome is unknown counts only once someone saw its value.
//!
//! Streaming: [`ZoneChecker::advance`] promises that no operation invoked before a time will be fed
//! any more; values that could not be read again without a violation are then forgotten, so memory
//! holds open operations and live values only. It does not judge histories in which two values are
//! written more than once: those get [`ZoneAnswer::Ambiguous`] and belong to the general search.

use super::Witness;
use super::repeatable::{self, Window};
use super::zone_blocks::{Block, Blocks};
use crate::hash::FixedMap;

/// Inside, 0 lies before all time and the maximum after it.
pub(super) const BEFORE_ALL: u64 = 0;
/// The finish of an operation that never finished.
pub(super) const AFTER_ALL: u64 = u64::MAX;
/// Sweeping fewer clusters than this saves no memory worth the sort.
const SWEEP_FLOOR: usize = 4096;

/// What the zone checker found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZoneAnswer {
    /// Linearizable.
    Valid,
    /// Not linearizable; the numbers are those the feeding calls returned.
    Invalid(Witness),
    /// This value was written more than once, or compared and set though it is repeatable: the
    /// zone argument does not apply.
    Ambiguous(u64),
}

/// A point in time and the operation it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) time: u64,
    pub(super) op: u64,
}

/// The write or compare-and-set that made a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub(super) op: u64,
    pub(super) start: u64,
    pub(super) finish: u64,
    pub(super) from: Option<u64>,
}

/// One value's write and reads. Marks of reads are meaningful only if `read`.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) value: u64,
    pub(super) writer: Option<Writer>,
    pub(super) read: bool,
    pub(super) first_read_finish: Mark,
    pub(super) last_read_start: Mark,
}

/// The part of a register's history fed so far, one cluster a value.
#[derive(Clone, Debug)]
pub struct ZoneChecker {
    repeatable: Option<u64>,
    initially_repeatable: bool,
    clusters: Vec<Cluster>,
    index: FixedMap<u64, u32>,
    repeat_writes: Vec<Window>,
    repeat_reads: Vec<Window>,
    operations: u64,
    watermark: u64,
    sweep_floor: usize,
    sweep_at: usize,
    answer: ZoneAnswer,
}

/// No operation: the number of the write that happened before all time.
pub(super) const NO_OP: u64 = u64::MAX;

fn inner_time(time: u64) -> u64 {
    time.saturating_add(1).min(AFTER_ALL - 1)
}

impl ZoneChecker {
    /// A register holding `initial`, in which every value is written once.
    pub fn new(initial: u64) -> Self {
        let mut checker = Self::empty(None, false);
        checker.add_initial(initial);
        checker
    }

    /// A register holding `initial`, in which `repeatable` may be written any number of times and
    /// every other value once.
    pub fn with_repeatable(initial: u64, repeatable: u64) -> Self {
        let mut checker = Self::empty(Some(repeatable), initial == repeatable);
        if initial != repeatable {
            checker.add_initial(initial);
        }
        checker
    }

    /// Holds no more than about this many values that could be forgotten (4096 if not said).
    #[must_use]
    pub fn sweep_from(mut self, values: usize) -> Self {
        self.sweep_floor = values;
        self.sweep_at = values;
        self
    }

    fn empty(repeatable: Option<u64>, initially_repeatable: bool) -> Self {
        Self {
            repeatable,
            initially_repeatable,
            clusters: Vec::new(),
            index: FixedMap::default(),
            repeat_writes: Vec::new(),
            repeat_reads: Vec::new(),
            operations: 0,
            watermark: BEFORE_ALL,
            sweep_floor: SWEEP_FLOOR,
            sweep_at: SWEEP_FLOOR,
            answer: ZoneAnswer::Valid,
        }
    }

    fn add_initial(&mut self, initial: u64) {
        let place = self.place(initial);
        self.clusters[place].writer = Some(Writer {
            op: NO_OP,
            start: BEFORE_ALL,
            finish: BEFORE_ALL,
            from: None,
        });
    }

    fn place(&mut self, value: u64) -> usize {
        let next = u32::try_from(self.clusters.len()).expect("fewer than 2^32 live values");
        let place = *self.index.entry(value).or_insert(next);
        if place == next {
            let (late, early) = (AFTER_ALL, BEFORE_ALL);
            self.clusters.push(Cluster {
                value,
                writer: None,
                read: false,
                first_read_finish: Mark {
                    time: late,
                    op: NO_OP,
                },
                last_read_start: Mark {
                    time: early,
                    op: NO_OP,
                },
            });
        }
        place as usize
    }

    fn number(&mut self) -> u64 {
        let op = self.operations;
        self.operations += 1;
        op
    }

    /// Feeds a write of `value`; `complete` is absent while its outcome is unknown. A write known
    /// to have failed is not fed. Returns the operation's number.
    pub fn write(&mut self, invoke: u64, complete: Option<u64>, value: u64) -> u64 {
        self.put(invoke, complete, None, value)
    }

    /// Feeds a compare-and-set from `from` to `to` that succeeded, or whose outcome is unknown.
    pub fn compare_and_set(
        &mut self,
        invoke: u64,
        complete: Option<u64>,
        from: u64,
        to: u64,
    ) -> u64 {
        if self.repeatable == Some(from) || self.repeatable == Some(to) || from == to {
            self.answer = ZoneAnswer::Ambiguous(from);
        }
        self.put(invoke, complete, Some(from), to)
    }

    fn put(&mut self, invoke: u64, complete: Option<u64>, from: Option<u64>, value: u64) -> u64 {
        let op = self.number();
        let (start, finish) = (inner_time(invoke), complete.map_or(AFTER_ALL, inner_time));
        if self.repeatable == Some(value) {
            self.repeat_writes.push(Window { op, start, finish });
            return op;
        }
        let place = self.place(value);
        let cluster = &mut self.clusters[place];
        if cluster.writer.is_some() {
            self.answer = ZoneAnswer::Ambiguous(value);
        } else {
            cluster.writer = Some(Writer {
                op,
                start,
                finish,
                from,
            });
        }
        op
    }

    /// Feeds a completed read that returned `value`. Reads without an answer are not fed.
    pub fn read(&mut self, invoke: u64, complete: u64, value: u64) -> u64 {
        let op = self.number();
        let (start, finish) = (inner_time(invoke), inner_time(complete));
        if self.repeatable == Some(value) {
            self.repeat_reads.push(Window { op, start, finish });
            return op;
        }
        let place = self.place(value);
        let cluster = &mut self.clusters[place];
        cluster.read = true;
        if finish < cluster.first_read_finish.time {
            cluster.first_read_finish = Mark { time: finish, op };
        }
        if start > cluster.last_read_start.time {
            cluster.last_read_start = Mark { time: start, op };
        }
        op
    }

    /// Gives the next operation this number.
    pub(super) fn number_next(&mut self, number: u64) {
        self.operations = number;
    }

    /// Promises that every operation fed from now on was invoked at `watermark` or later; an
    /// operation of unknown outcome is fed when that is known to be unknown. Lets the checker
    /// forget settled values; a read of a forgotten value is a violation whose witness is that
    /// read alone.
    pub fn advance(&mut self, watermark: u64) {
        self.watermark = self.watermark.max(inner_time(watermark));
        if self.clusters.len() >= self.sweep_at && self.answer == ZoneAnswer::Valid {
            if let Err(answer) = self.sweep() {
                self.answer = answer;
            }
            self.sweep_at = self.sweep_floor.max(2 * self.clusters.len());
        }
    }

    /// How many values are held in memory.
    pub fn live_values(&self) -> usize {
        self.clusters.len()
    }

    /// What is known already; a violation never goes away.
    pub fn answer(&self) -> &ZoneAnswer {
        &self.answer
    }

    /// Judges the whole history: nothing more will be fed.
    pub fn finish(mut self) -> ZoneAnswer {
        self.watermark = AFTER_ALL;
        if self.answer == ZoneAnswer::Valid
            && let Err(answer) = self.judge_all()
        {
            return answer;
        }
        self.answer
    }

    fn judge_all(&self) -> Result<(), ZoneAnswer> {
        let blocks = Blocks::judged(&self.clusters, &self.index, self.watermark)?;
        if self.repeatable.is_some() {
            let zones = blocks.zones(&self.clusters);
            let (writes, reads) = (&self.repeat_writes, &self.repeat_reads);
            repeatable::schedule(self.initially_repeatable, &zones, writes, reads)
                .map_err(ZoneAnswer::Invalid)?;
        }
        Ok(())
    }

    /// Judges what is there and forgets the blocks that nothing can legally touch any more.
    fn sweep(&mut self) -> Result<(), ZoneAnswer> {
        let blocks = Blocks::judged(&self.clusters, &self.index, self.watermark)?;
        if self.repeatable.is_some() {
            // The schedule needs every zone at the end.
            return Ok(());
        }
        let mut settled = vec![false; self.clusters.len()];
        let overwritten = Overwritten::new(&blocks.list, self.watermark);
        for (number, block) in blocks.list.iter().enumerate() {
            let members = blocks.clusters_of(block);
            // A chain whose first value is still to be fed must wait for it.
            let root = members
                .first()
                .and_then(|&root| self.clusters[root as usize].writer);
            let is_whole = root.is_some_and(|root| root.from.is_none());
            if is_whole && overwritten.is_settled(number, block) {
                for &cluster in members {
                    settled[cluster as usize] = true;
                }
            }
        }
        self.forget(&settled);
        Ok(())
    }

    fn forget(&mut self, settled: &[bool]) {
        let mut place = 0;
        self.clusters.retain(|_| {
            place += 1;
            !settled[place - 1]
        });
        self.index.clear();
        for (place, cluster) in self.clusters.iter().enumerate() {
            let place = u32::try_from(place).expect("fewer than 2^32 live values");
            self.index.insert(cluster.value, place);
        }
    }
}

/// Which blocks could not grow by an operation invoked at the watermark or later: those after
/// which another block must come that has to precede any such operation.
struct Overwritten {
    watermark: u64,
    /// The latest and second latest start among blocks that must precede later operations.
    latest: Option<(u64, usize)>,
    second: Option<u64>,
}

impl Overwritten {
    fn new(blocks: &[Block], watermark: u64) -> Self {
        let (mut latest, mut second) = (None::<(u64, usize)>, None);
        for (number, block) in blocks.iter().enumerate() {
            if block.first_finish.0.time >= watermark {
                continue;
            }
            let start = block.last_start.0.time;
            if latest.is_none_or(|(time, _)| start > time) {
                second = latest.map(|(time, _)| time);
                latest = Some((start, number));
            } else if second.is_none_or(|time| start > time) {
                second = Some(start);
            }
        }
        Self {
            watermark,
            latest,
            second,
        }
    }

    fn is_settled(&self, number: usize, block: &Block) -> bool {
        let other = match self.latest {
            Some((_, owner)) if owner == number => self.second,
            latest => latest.map(|(time, _)| time),
        };
        let finish = block.first_finish.0.time;
        finish < self.watermark
            && block.last_start.0.time <= self.watermark
            && other.is_some_and(|start| finish < start)
    }
}

#[cfg(test)]
#[path = "zones_tests.rs"]
mod tests;
