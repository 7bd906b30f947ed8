//! Histories of a block device, and their check.
//!
//! Every block number is a register by itself: it starts as zeros (value 0), a write gives each of
//! its blocks the write's tag, zeroing (unmap, write-zeroes) gives them 0 again. Tags are meant to
//! be unique; then the check is exact and near-linear. A tag that was written twice to one block is
//! handed to the general search.
//!
//! Invariants: the harness may feed operations as they happen, in any order of processes; an
//! operation that never finished counts as one of unknown outcome. What is not checked: that the
//! blocks of one request take effect together (block devices do not promise it).

use super::Verdict;
use super::judge::judge_txn;
use super::spec::Call;
use super::specs::Txn;
use super::zones::{ZoneAnswer, ZoneChecker};
use crate::history::{Event, EventKind, History, Process, Value};
use std::collections::BTreeMap;
use thiserror::Error;

/// The value of a block that was never written, or zeroed.
pub const ZEROS: u64 = 0;

/// A request to the block device. Blocks count from 0; a range must not be empty to matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockOp {
    /// Fill `count` blocks from `first_block` with content named by `tag`; tag 0 is zeros.
    Write {
        /// The first block written.
        first_block: u64,
        /// How many blocks are written.
        count: u64,
        /// The name of the content, unique in the history.
        tag: u64,
    },
    /// Make `count` blocks from `first_block` read as zeros.
    Zero {
        /// The first block zeroed.
        first_block: u64,
        /// How many blocks are zeroed.
        count: u64,
    },
    /// Read `count` blocks from `first_block`.
    Read {
        /// The first block read.
        first_block: u64,
        /// How many blocks are read.
        count: u64,
    },
}

/// The number of an operation in its history, from 0 in order of [`BlockHistory::begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded; a read carries one tag a block (0 for zeros), the others nothing.
    Ok(Option<Vec<u64>>),
    /// It certainly did not happen.
    Fail,
    /// Nobody knows whether it happened, or will.
    Info,
}

/// Why an ending could not be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockHistoryError {
    /// No such operation was begun.
    #[error("operation {0} was never begun")]
    NeverBegun(u64),
    /// The operation has an ending already.
    #[error("operation {0} ended twice")]
    EndedTwice(u64),
    /// The ending lies before the beginning.
    #[error("operation {0} ended before it began")]
    EndedBeforeBegin(u64),
    /// A successful read must carry exactly one tag a block, anything else none.
    #[error("operation {op} must return {expected} tags and returned {found}")]
    WrongLength {
        /// The operation.
        op: u64,
        /// The blocks it asked for.
        expected: u64,
        /// The tags it brought.
        found: u64,
    },
}

#[derive(Clone, Debug)]
struct Entry {
    process: u64,
    invoke: u64,
    op: BlockOp,
    end: Option<(u64, Outcome)>,
    /// The places of beginning and ending in the order in which they were recorded.
    steps: (u64, u64),
}

/// A history of requests to one block device, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub struct BlockHistory {
    entries: Vec<Entry>,
    steps: u64,
}

/// What one request did to one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockAccess {
    Write {
        invoke: u64,
        complete: Option<u64>,
        tag: u64,
    },
    Read {
        invoke: u64,
        complete: u64,
        tag: u64,
    },
}

impl BlockHistory {
    /// An empty history of a device that reads as zeros everywhere.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that `process` sent `op` at `time`. Times may be nanoseconds or a counter of
    /// events: equal times count as concurrent.
    pub fn begin(&mut self, process: u64, time: u64, op: BlockOp) -> OpId {
        let id = OpId(self.entries.len() as u64);
        self.entries.push(Entry {
            process,
            invoke: time,
            op,
            end: None,
            steps: (self.steps, 0),
        });
        self.steps += 1;
        id
    }

    /// Records how an operation ended, and when.
    ///
    /// # Errors
    /// See [`BlockHistoryError`]; the history is unchanged then.
    pub fn finish(
        &mut self,
        id: OpId,
        time: u64,
        outcome: Outcome,
    ) -> Result<(), BlockHistoryError> {
        let entry = usize::try_from(id.0)
            .ok()
            .and_then(|place| self.entries.get_mut(place))
            .ok_or(BlockHistoryError::NeverBegun(id.0))?;
        if entry.end.is_some() {
            return Err(BlockHistoryError::EndedTwice(id.0));
        }
        if time < entry.invoke {
            return Err(BlockHistoryError::EndedBeforeBegin(id.0));
        }
        if let Outcome::Ok(tags) = &outcome {
            let expected = match entry.op {
                BlockOp::Read { count, .. } => count,
                BlockOp::Write { .. } | BlockOp::Zero { .. } => 0,
            };
            let found = tags.as_ref().map_or(0, |tags| tags.len() as u64);
            if found != expected {
                return Err(BlockHistoryError::WrongLength {
                    op: id.0,
                    expected,
                    found,
                });
            }
        }
        entry.end = Some((time, outcome));
        entry.steps.1 = self.steps;
        self.steps += 1;
        Ok(())
    }

    /// How many operations were begun.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no operation was begun.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One line for people about an operation, if it exists: process, times, request and ending.
    pub fn describe(&self, id: OpId) -> Option<String> {
        let entry = self.entries.get(usize::try_from(id.0).ok()?)?;
        let end = match &entry.end {
            None => "never ended".to_owned(),
            Some((time, outcome)) => format!("{time} {outcome:?}"),
        };
        Some(format!(
            "{}: process {} from {}: {:?}, {end}",
            id.0, entry.process, entry.invoke, entry.op
        ))
    }

    /// The same history as events, by time, and at equal times in the order in which they were
    /// recorded: a client may begin at the moment at which its last operation ended. (For
    /// [`BlockHistory::check`] equal times are concurrent, here there is an order.)
    /// [`History::calls`] numbers the calls as [`OpId`]s do if operations were begun in the order
    /// of their times.
    pub fn to_history(&self) -> History {
        let mut events: Vec<((u64, u64), Event)> = Vec::new();
        for entry in &self.entries {
            let (function, asked) = match entry.op {
                BlockOp::Write {
                    first_block,
                    count,
                    tag,
                } => (
                    "write",
                    vec![number(first_block), number(count), number(tag)],
                ),
                BlockOp::Zero { first_block, count } => {
                    ("zero", vec![number(first_block), number(count)])
                }
                BlockOp::Read { first_block, count } => {
                    ("read", vec![number(first_block), number(count)])
                }
            };
            let event = |kind, time: u64, value| Event {
                line: 0,
                kind,
                process: Process::Client(entry.process),
                function: function.to_owned(),
                key: None,
                value: Value::Vector(value),
                time_ns: i64::try_from(time).ok(),
                error: None,
            };
            let begun = event(EventKind::Invoke, entry.invoke, asked.clone());
            events.push(((entry.invoke, entry.steps.0), begun));
            let Some((time, outcome)) = &entry.end else {
                continue;
            };
            let (kind, answer) = match outcome {
                Outcome::Ok(tags) => (EventKind::Ok, tags.as_ref()),
                Outcome::Fail => (EventKind::Fail, None),
                Outcome::Info => (EventKind::Info, None),
            };
            let seen = answer.map(|tags| Value::Vector(tags.iter().copied().map(number).collect()));
            let value = asked.into_iter().chain(seen).collect();
            events.push(((*time, entry.steps.1), event(kind, *time, value)));
        }
        events.sort_by_key(|&(place, _)| place);
        let numbered = events.into_iter().zip(1..);
        History {
            events: numbered
                .map(|((_, event), line)| Event { line, ..event })
                .collect(),
            dropped_bytes: 0,
        }
    }

    /// Judges every block. The first block (by number) that cannot be explained gives the witness.
    pub fn check(&self) -> Verdict {
        check_blocks(&self.by_block())
    }

    /// What happened to each block, in order of beginning, with the operation's number.
    pub(super) fn by_block(&self) -> ByBlock {
        let mut blocks = ByBlock::new();
        for (number, entry) in self.entries.iter().enumerate() {
            let invoke = entry.invoke;
            let (first, count, tag) = match entry.op {
                BlockOp::Write {
                    first_block,
                    count,
                    tag,
                } => (first_block, count, Some(tag)),
                BlockOp::Zero { first_block, count } => (first_block, count, Some(ZEROS)),
                BlockOp::Read { first_block, count } => (first_block, count, None),
            };
            let blocks_touched = (first..first.saturating_add(count)).zip(0_usize..);
            let mut add = |block, access| {
                blocks
                    .entry(block)
                    .or_default()
                    .push((number as u64, access));
            };
            match (&entry.end, tag) {
                (Some((_, Outcome::Fail)), _) => {}
                (Some((complete, Outcome::Ok(tags))), None) => {
                    for (block, at) in blocks_touched {
                        let tag = tags.as_ref().map_or(ZEROS, |tags| tags[at]);
                        add(
                            block,
                            BlockAccess::Read {
                                invoke,
                                complete: *complete,
                                tag,
                            },
                        );
                    }
                }
                (None | Some((_, Outcome::Info)), None) => {}
                (end, Some(tag)) => {
                    let complete = match end {
                        Some((complete, Outcome::Ok(_))) => Some(*complete),
                        _ => None,
                    };
                    for (block, _) in blocks_touched {
                        add(
                            block,
                            BlockAccess::Write {
                                invoke,
                                complete,
                                tag,
                            },
                        );
                    }
                }
            }
        }
        blocks
    }
}

/// A block, count or tag as a value; a tag above what EDN's integers hold is written as text.
fn number(number: u64) -> Value {
    i64::try_from(number).map_or_else(|_| Value::String(number.to_string()), Value::Int)
}

/// What happened to each block, with the operation's number.
pub(super) type ByBlock = BTreeMap<u64, Vec<(u64, BlockAccess)>>;

/// Judges every block.
pub(super) fn check_blocks(blocks: &ByBlock) -> Verdict {
    let mut unknown = None;
    for (block, accesses) in blocks {
        match check_block(accesses) {
            Verdict::Valid => {}
            Verdict::Invalid(mut witness) => {
                witness.part = Some(format!("block {block}"));
                return Verdict::Invalid(witness);
            }
            Verdict::Unknown(why) => unknown = unknown.or(Some(format!("block {block}: {why}"))),
        }
    }
    unknown.map_or(Verdict::Valid, Verdict::Unknown)
}

/// Judges one block's accesses.
pub(super) fn check_block(accesses: &[(u64, BlockAccess)]) -> Verdict {
    let mut checker = ZoneChecker::with_repeatable(ZEROS, ZEROS);
    for &(_, access) in accesses {
        match access {
            BlockAccess::Write {
                invoke,
                complete,
                tag,
            } => checker.write(invoke, complete, tag),
            BlockAccess::Read {
                invoke,
                complete,
                tag,
            } => checker.read(invoke, complete, tag),
        };
    }
    if checker.finish() == ZoneAnswer::Valid {
        return Verdict::Valid;
    }
    judge_txn(vec![ZEROS], &block_calls(0, accesses))
}

/// The accesses as calls on the register of this number.
pub(super) fn block_calls(register: usize, accesses: &[(u64, BlockAccess)]) -> Vec<Call<Txn>> {
    let call = |&(id, access): &(u64, BlockAccess)| match access {
        BlockAccess::Write {
            invoke,
            complete,
            tag,
        } => {
            let op = Txn {
                reads: vec![],
                writes: vec![(register, tag)],
            };
            Call {
                id,
                invoke,
                complete,
                op,
            }
        }
        BlockAccess::Read {
            invoke,
            complete,
            tag,
        } => {
            let op = Txn {
                reads: vec![(register, tag)],
                writes: vec![],
            };
            Call {
                id,
                invoke,
                complete: Some(complete),
                op,
            }
        }
    };
    accesses.iter().map(call).collect()
}
