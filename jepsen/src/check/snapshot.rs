//! Block histories written as EDN, and the model `snapshot`: a frozen image is the state of all
//! blocks at one moment while it was being taken, and reading it never gives anything else.
//!
//! Taking a snapshot is one read of every block that was later read through it, in one step; all
//! reads through it must agree. Blocks tied together by a snapshot are judged together by the
//! general search; blocks no snapshot read through are judged each by itself.
//!
//! Invariants: a snapshot whose outcome is unknown was taken if somebody read through it, and then
//! before the first such read ended. Blocks of one request need not take effect together.

use super::block::{BlockAccess, ByBlock, ZEROS, block_calls};
use super::judge::judge_components;
use super::models::refuse;
use super::spec::Call;
use super::specs::Txn;
use super::{Verdict, Witness};
use crate::history::{self, Ending, HistoryError, Value};
use std::collections::BTreeMap;

/// The most blocks of one request: far beyond any device's, little enough to list them.
const MOST_BLOCKS: u64 = 1 << 20;

/// The block accesses of a history, without snapshots.
pub(super) fn accesses(calls: &[history::Call]) -> Result<ByBlock, HistoryError> {
    let mut blocks = ByBlock::new();
    for (at, call) in calls.iter().enumerate() {
        add_access(&mut blocks, at as u64, call)?;
    }
    Ok(blocks)
}

fn add_access(blocks: &mut ByBlock, id: u64, call: &history::Call) -> Result<(), HistoryError> {
    let invoke = call.invoke;
    let complete = if call.ending == Ending::Ok {
        call.complete
    } else {
        None
    };
    let argument = call.argument.sequence().unwrap_or_default();
    let shape = "[first count tag] to write, [first count] to zero or read";
    let (range, tag) = match (call.function.as_str(), argument) {
        ("write", [first, count, tag]) => {
            let tag = natural(tag).ok_or_else(|| refuse(call, "a tag from 0", tag))?;
            (range(call, first, count)?, Some(tag))
        }
        ("zero", [first, count]) => (range(call, first, count)?, Some(ZEROS)),
        ("read", [first, count, ..]) => (range(call, first, count)?, None),
        _ => return Err(refuse(call, shape, &call.argument)),
    };
    if call.ending == Ending::Fail {
        return Ok(());
    }
    if let Some(tag) = tag {
        for block in range {
            let access = BlockAccess::Write {
                invoke,
                complete,
                tag,
            };
            blocks.entry(block).or_default().push((id, access));
        }
    } else if let Some(complete) = complete {
        let answer = call.answer.sequence().unwrap_or_default();
        let found = tags(call, answer.get(2), range.end - range.start)?;
        for (block, tag) in range.zip(found) {
            let access = BlockAccess::Read {
                invoke,
                complete,
                tag,
            };
            blocks.entry(block).or_default().push((id, access));
        }
    }
    Ok(())
}

fn natural(value: &Value) -> Option<u64> {
    value.int().and_then(|number| u64::try_from(number).ok())
}

fn range(
    call: &history::Call,
    first: &Value,
    count: &Value,
) -> Result<std::ops::Range<u64>, HistoryError> {
    let bounds = natural(first).zip(natural(count));
    match bounds.and_then(|(first, count)| Some((first, count, first.checked_add(count)?))) {
        Some((first, count, end)) if count <= MOST_BLOCKS => Ok(first..end),
        _ => Err(refuse(
            call,
            "a first block and at most 1048576 blocks",
            &call.argument,
        )),
    }
}

fn tags(call: &history::Call, value: Option<&Value>, count: u64) -> Result<Vec<u64>, HistoryError> {
    let found: Option<Vec<u64>> = value
        .and_then(Value::sequence)
        .and_then(|tags| tags.iter().map(natural).collect());
    found
        .filter(|tags| tags.len() as u64 == count)
        .ok_or_else(|| {
            refuse(
                call,
                "[.. first count [tag ..]] with one tag a block",
                &call.answer,
            )
        })
}

/// What reads through one snapshot showed.
#[derive(Default)]
struct Image {
    /// The call that took it.
    taken_by: Option<usize>,
    /// Per block its tag and the first call that read it.
    blocks: BTreeMap<u64, (u64, usize)>,
    /// When the first read through it ended.
    seen: Option<u64>,
}

/// Judges a history with snapshots.
pub(super) fn check(calls: &[history::Call]) -> Result<Verdict, HistoryError> {
    let mut blocks = ByBlock::new();
    let mut images: BTreeMap<&Value, Image> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        match call.function.as_str() {
            "snapshot" => {
                let image = images.entry(&call.argument).or_default();
                if call.ending != Ending::Fail && image.taken_by.replace(at).is_some() {
                    return Err(refuse(call, "each snapshot taken once", &call.argument));
                }
            }
            "read-snapshot" if call.ending == Ending::Ok => {
                if let Some(refusal) = note_read(&mut images, at, call)? {
                    return Ok(Verdict::Invalid(refusal));
                }
            }
            "read-snapshot" => {}
            _ => add_access(&mut blocks, at as u64, call)?,
        }
    }
    for image in images.values() {
        let Some((_, read)) = image.blocks.values().next() else {
            continue;
        };
        let taken = image.taken_by.map(|at| calls[at].invoke);
        if taken.is_none() || image.seen < taken {
            let operations = image
                .taken_by
                .into_iter()
                .chain([*read])
                .map(|at| at as u64);
            let what = "a snapshot was read that had not been taken";
            return Ok(Verdict::Invalid(Witness::new(
                operations.collect(),
                what.to_owned(),
            )));
        }
    }
    Ok(judge(calls, &blocks, &images))
}

/// Notes a read through a snapshot, unless it contradicts an earlier one.
fn note_read<'a>(
    images: &mut BTreeMap<&'a Value, Image>,
    at: usize,
    call: &'a history::Call,
) -> Result<Option<Witness>, HistoryError> {
    let shape = "[id first count [tag ..]]";
    let Some([id, first, count, found]) = call.answer.sequence() else {
        return Err(refuse(call, shape, &call.answer));
    };
    let range = range(call, first, count)?;
    let found = tags(call, Some(found), range.end - range.start)?;
    let image = images.entry(id).or_default();
    image.seen = match (image.seen, call.complete) {
        (Some(seen), Some(complete)) => Some(seen.min(complete)),
        (seen, complete) => seen.or(complete),
    };
    for (block, tag) in range.zip(found) {
        let (known, reader) = *image.blocks.entry(block).or_insert((tag, at));
        if known != tag {
            let what = format!("block {block} of one snapshot was read with two contents");
            return Ok(Some(Witness::new(vec![reader as u64, at as u64], what)));
        }
    }
    Ok(None)
}

fn judge(calls: &[history::Call], blocks: &ByBlock, images: &BTreeMap<&Value, Image>) -> Verdict {
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    let mut number = |block: u64| {
        let next = numbers.len();
        *numbers.entry(block).or_insert(next)
    };
    let mut txns: Vec<Call<Txn>> = Vec::new();
    for (&block, accesses) in blocks {
        txns.extend(block_calls(number(block), accesses));
    }
    for image in images.values().filter(|image| !image.blocks.is_empty()) {
        let Some(at) = image.taken_by else { continue };
        let complete = if calls[at].ending == Ending::Ok {
            calls[at].complete
        } else {
            None
        };
        let complete = complete.into_iter().chain(image.seen).min();
        let reads = image
            .blocks
            .iter()
            .map(|(&block, &(tag, _))| (number(block), tag))
            .collect();
        let op = Txn {
            reads,
            writes: vec![],
        };
        txns.push(Call {
            id: at as u64,
            invoke: calls[at].invoke,
            complete,
            op,
        });
    }
    txns.sort_by_key(|call| call.id);
    let start = vec![ZEROS; numbers.len()];
    match judge_components(&start, txns) {
        Verdict::Invalid(mut witness) => {
            show_reads(&mut witness, images);
            Verdict::Invalid(witness)
        }
        other => other,
    }
}

/// Adds to each snapshot in a witness the reads that showed its content.
fn show_reads(witness: &mut Witness, images: &BTreeMap<&Value, Image>) {
    let mut operations = witness.operations.clone();
    for image in images.values() {
        let taken = image.taken_by.map(|at| at as u64);
        if taken.is_some_and(|taken| witness.operations.contains(&taken)) {
            operations.extend(image.blocks.values().map(|&(_, reader)| reader as u64));
        }
    }
    *witness = Witness {
        part: witness.part.take(),
        ..Witness::new(operations, witness.explanation.clone())
    };
}
