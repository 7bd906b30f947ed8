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
use super::objects::{Step, Stop};
use super::spec::Call;
use super::specs::{MultiRegister, Txn};
use super::{Verdict, Witness, minimise};
use crate::history::{HistoryError, Value};
use std::collections::BTreeMap;

/// The most blocks of one request: far beyond any device's, little enough to list them.
const MOST_BLOCKS: u64 = 1 << 20;
/// The most blocks of all requests together: a gigabyte or two.
const MOST_ACCESSES: u64 = 1 << 25;

/// The block accesses of a history, without snapshots.
pub(super) fn accesses(steps: &[Step<'_>]) -> Result<ByBlock, Stop> {
    check_size(steps)?;
    let mut blocks = ByBlock::new();
    for step in steps {
        add_access(&mut blocks, step)?;
    }
    Ok(blocks)
}

/// Refuses the request with which a history becomes too large to be judged, before memory is taken.
fn check_size(steps: &[Step<'_>]) -> Result<(), HistoryError> {
    let mut sum = 0;
    for step in steps.iter().filter(|step| !step.failed()) {
        if let Some([_, count, ..]) = step.argument.sequence() {
            sum += natural(count).unwrap_or(0).min(MOST_BLOCKS);
        }
        if sum > MOST_ACCESSES {
            let expected = format!("at most {MOST_ACCESSES} blocks in all requests together");
            return Err(step.refuse(&expected, step.argument));
        }
    }
    Ok(())
}

fn add_access(blocks: &mut ByBlock, step: &Step<'_>) -> Result<(), HistoryError> {
    let (invoke, complete) = (step.call.invoke, step.complete());
    let argument = step.argument.sequence().unwrap_or_default();
    let shape = "[first count tag] to write, [first count] to zero or read";
    let (range, tag) = match (step.function(), argument) {
        ("write", [first, count, tag]) => {
            let tag = natural(tag).ok_or_else(|| step.refuse("a tag from 0", tag))?;
            (range(step, first, count)?, Some(tag))
        }
        ("zero", [first, count]) => (range(step, first, count)?, Some(ZEROS)),
        ("read", [first, count, ..]) => (range(step, first, count)?, None),
        _ => return Err(step.refuse(shape, step.argument)),
    };
    if step.failed() {
        return Ok(());
    }
    let id = step.at as u64;
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
        let found = tags(step, &argument[..2], range.end - range.start)?;
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
    step: &Step<'_>,
    first: &Value,
    count: &Value,
) -> Result<std::ops::Range<u64>, HistoryError> {
    let bounds = natural(first).zip(natural(count));
    match bounds.and_then(|(first, count)| Some((first, count, first.checked_add(count)?))) {
        Some((first, count, end)) if count <= MOST_BLOCKS => Ok(first..end),
        _ => Err(step.refuse("a first block and at most 1048576 blocks", step.argument)),
    }
}

/// The tags of an answer: what was asked for, and one tag a block.
fn tags(step: &Step<'_>, asked: &[Value], count: u64) -> Result<Vec<u64>, HistoryError> {
    let answer = step.answer.sequence().unwrap_or_default();
    let found = match answer.split_last() {
        Some((tags, repeated)) if repeated == asked => tags.sequence(),
        _ => None,
    };
    let found: Option<Vec<u64>> =
        found.and_then(|tags| tags.iter().map(natural).collect::<Option<_>>());
    let found = found.filter(|tags| tags.len() as u64 == count);
    found.ok_or_else(|| {
        let asked: Vec<String> = asked.iter().map(Value::to_string).collect();
        let asked = asked.join(" ");
        let expected = format!("[{asked} [tag ..]] with {count} tags");
        step.refuse_answer(&expected, step.answer)
    })
}

/// What reads through one snapshot showed.
#[derive(Default)]
struct Image<'a> {
    /// The first call that may have taken it.
    taken_by: Option<Step<'a>>,
    /// The call that was told so; another than the first if the outcome of earlier ones is unknown.
    told: Option<Step<'a>>,
    /// Per block its tag and a call that read it.
    blocks: BTreeMap<u64, (u64, usize)>,
    /// When the first read through it ended, and which that is.
    seen: Option<(u64, usize)>,
}

/// What is known of a history with snapshots.
pub(super) struct Prepared<'a> {
    blocks: ByBlock,
    images: BTreeMap<&'a Value, Image<'a>>,
}

/// Reads a history with snapshots.
pub(super) fn prepare<'a>(steps: &[Step<'a>]) -> Result<Prepared<'a>, Stop> {
    check_size(steps)?;
    let mut blocks = ByBlock::new();
    let mut images: BTreeMap<&Value, Image<'_>> = BTreeMap::new();
    let mut refusal = None;
    for step in steps {
        match step.function() {
            "snapshot" if step.failed() => {}
            "snapshot" => {
                let image = images.entry(step.argument).or_default();
                image.taken_by = image.taken_by.or(Some(*step));
                if step.answered() && image.told.replace(*step).is_some() {
                    let expected = "each snapshot taken once";
                    return Err(step.refuse(expected, step.argument).into());
                }
            }
            "read-snapshot" => {
                let found = note_read(&mut images, step)?;
                refusal = refusal.or(found);
            }
            _ => add_access(&mut blocks, step)?,
        }
    }
    if let Some(witness) = refusal.or_else(|| images.values().find_map(Image::untaken)) {
        return Err(Stop::Contradiction(Verdict::Invalid(witness)));
    }
    Ok(Prepared { blocks, images })
}

impl Image<'_> {
    /// The contradiction, if it was read before it can have been taken.
    fn untaken(&self) -> Option<Witness> {
        let taken = self.taken_by.map(|step| step.call.invoke);
        let (seen, reader) = self.seen?;
        if taken.is_some_and(|taken| seen >= taken) {
            return None;
        }
        let taken_by = self.taken_by.map(|step| step.at as u64);
        let operations = taken_by.into_iter().chain([reader as u64]).collect();
        let what = "a snapshot was read that had not been taken";
        Some(Witness::new(operations, what.to_owned()))
    }
}

/// Notes a read through a snapshot; the contradiction, if an earlier one showed something else.
fn note_read<'a>(
    images: &mut BTreeMap<&'a Value, Image<'a>>,
    step: &Step<'a>,
) -> Result<Option<Witness>, HistoryError> {
    let shape = "[id first count]";
    let Some(asked @ [id, first, count]) = step.argument.sequence() else {
        return Err(step.refuse(shape, step.argument));
    };
    let range = range(step, first, count)?;
    if !step.answered() {
        return Ok(None);
    }
    let found = tags(step, asked, range.end - range.start)?;
    let image = images.entry(id).or_default();
    let ended = step.complete().map(|complete| (complete, step.at));
    image.seen = image.seen.into_iter().chain(ended).min();
    let mut refusal = None;
    for (block, tag) in range.zip(found) {
        let shown = image.blocks.entry(block).or_insert((tag, step.at));
        let (known, reader) = *shown;
        // Whoever saw it first may be the proof of when it was taken, too.
        if known == tag && image.seen == ended {
            shown.1 = step.at;
        }
        if known != tag && refusal.is_none() {
            let what = format!("block {block} of one snapshot was read with two contents");
            let operations = vec![reader as u64, step.at as u64];
            refusal = Some(Witness::new(operations, what));
        }
    }
    Ok(refusal)
}

/// Judges a history with snapshots.
pub(super) fn judge(prepared: Prepared<'_>) -> Verdict {
    let Prepared { blocks, images } = prepared;
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    let mut number = |block: u64| {
        let next = numbers.len();
        *numbers.entry(block).or_insert(next)
    };
    let mut txns: Vec<Call<Txn>> = Vec::new();
    for (&block, accesses) in &blocks {
        txns.extend(block_calls(number(block), accesses));
    }
    for image in images.values().filter(|image| !image.blocks.is_empty()) {
        let Some(taken_by) = image.taken_by else {
            continue;
        };
        let blocks = image.blocks.iter();
        let op = Txn {
            reads: blocks.map(|(&at, &(tag, _))| (number(at), tag)).collect(),
            writes: vec![],
        };
        let told = image.told.and_then(|step| step.complete());
        let seen = image.seen.map(|(complete, _)| complete);
        txns.push(Call {
            complete: told.into_iter().chain(seen).min(),
            ..taken_by.timed(op)
        });
    }
    txns.sort_by_key(|call| call.id);
    let start = vec![ZEROS; numbers.len()];
    match judge_components(&start, txns.clone()) {
        Verdict::Invalid(witness) => {
            let shown = Shown {
                spec: MultiRegister { initial: start },
                txns,
                numbers,
            };
            Verdict::Invalid(shown.with_reads(witness, &images))
        }
        other => other,
    }
}

/// What it takes to say which reads of an image a witness needs.
struct Shown {
    spec: MultiRegister,
    txns: Vec<Call<Txn>>,
    numbers: BTreeMap<u64, usize>,
}

impl Shown {
    /// Adds to each snapshot in a witness the reads that showed what it cannot have held, and the one
    /// that showed that it was there by then, as far as they are needed.
    fn with_reads(mut self, witness: Witness, images: &BTreeMap<&Value, Image<'_>>) -> Witness {
        let mut operations = witness.operations.clone();
        for image in images.values() {
            let Some(taken_by) = image.taken_by else {
                continue;
            };
            let id = taken_by.at as u64;
            if !witness.operations.contains(&id) {
                continue;
            }
            operations.extend(image.told.map(|step| step.at as u64));
            let Ok(at) = self.txns.binary_search_by_key(&id, |call| call.id) else {
                continue;
            };
            let alone = image.told.and_then(|step| step.complete());
            let bounded = std::mem::replace(&mut self.txns[at].complete, alone);
            if bounded != alone && !self.is_refused(&witness) {
                self.txns[at].complete = bounded;
                operations.extend(image.seen.map(|(_, reader)| reader as u64));
            }
            for (block, (_, reader)) in &image.blocks {
                let number = self.numbers[block];
                let whole = self.txns[at].op.reads.clone();
                self.txns[at].op.reads.retain(|(known, _)| *known != number);
                if !self.is_refused(&witness) {
                    self.txns[at].op.reads = whole;
                    operations.push(*reader as u64);
                }
            }
        }
        Witness {
            part: witness.part,
            ..Witness::new(operations, witness.explanation)
        }
    }

    /// Whether the witness is a proof all the same.
    fn is_refused(&self, witness: &Witness) -> bool {
        let chosen: Vec<usize> = (0..self.txns.len())
            .filter(|&at| witness.operations.contains(&self.txns[at].id))
            .collect();
        minimise::is_proof(&self.spec, &self.txns, &chosen)
    }
}
