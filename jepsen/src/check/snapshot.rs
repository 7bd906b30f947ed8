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
use super::specs::Txn;
use super::{Verdict, Witness};
use crate::history::{HistoryError, Value};
use std::collections::BTreeMap;

/// The most blocks of one request: far beyond any device's, little enough to list them.
const MOST_BLOCKS: u64 = 1 << 20;

/// The block accesses of a history, without snapshots.
pub(super) fn accesses(steps: &[Step<'_>]) -> Result<ByBlock, Stop> {
    let mut blocks = ByBlock::new();
    for step in steps {
        add_access(&mut blocks, step)?;
    }
    Ok(blocks)
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
    /// The call that took it.
    taken_by: Option<Step<'a>>,
    /// Per block its tag and the first call that read it.
    blocks: BTreeMap<u64, (u64, usize)>,
    /// When the first read through it ended.
    seen: Option<u64>,
}

/// What is known of a history with snapshots.
pub(super) struct Prepared<'a> {
    blocks: ByBlock,
    images: BTreeMap<&'a Value, Image<'a>>,
}

/// Reads a history with snapshots.
pub(super) fn prepare<'a>(steps: &[Step<'a>]) -> Result<Prepared<'a>, Stop> {
    let mut blocks = ByBlock::new();
    let mut images: BTreeMap<&Value, Image<'_>> = BTreeMap::new();
    let mut refusal = None;
    for step in steps {
        match step.function() {
            "snapshot" => {
                let image = images.entry(step.argument).or_default();
                if !step.failed() && image.taken_by.replace(*step).is_some() {
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
        if taken.is_some() && self.seen >= taken {
            return None;
        }
        let (_, reader) = self.blocks.values().next()?;
        let taken_by = self.taken_by.map(|step| step.at as u64);
        let operations = taken_by.into_iter().chain([*reader as u64]).collect();
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
    image.seen = match (image.seen, step.complete()) {
        (Some(seen), Some(complete)) => Some(seen.min(complete)),
        (seen, complete) => seen.or(complete),
    };
    let mut refusal = None;
    for (block, tag) in range.zip(found) {
        let (known, reader) = *image.blocks.entry(block).or_insert((tag, step.at));
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
        let reads = image
            .blocks
            .iter()
            .map(|(&block, &(tag, _))| (number(block), tag))
            .collect();
        let op = Txn {
            reads,
            writes: vec![],
        };
        let complete = taken_by.complete().into_iter().chain(image.seen).min();
        txns.push(Call {
            complete,
            ..taken_by.timed(op)
        });
    }
    txns.sort_by_key(|call| call.id);
    let start = vec![ZEROS; numbers.len()];
    match judge_components(&start, txns) {
        Verdict::Invalid(mut witness) => {
            show_reads(&mut witness, &images);
            Verdict::Invalid(witness)
        }
        other => other,
    }
}

/// Adds to each snapshot in a witness the reads that showed its content.
fn show_reads(witness: &mut Witness, images: &BTreeMap<&Value, Image<'_>>) {
    let mut operations = witness.operations.clone();
    for image in images.values() {
        let taken = image.taken_by.map(|step| step.at as u64);
        if taken.is_some_and(|taken| witness.operations.contains(&taken)) {
            operations.extend(image.blocks.values().map(|&(_, reader)| reader as u64));
        }
    }
    *witness = Witness {
        part: witness.part.take(),
        ..Witness::new(operations, witness.explanation.clone())
    };
}
