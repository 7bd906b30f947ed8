//! SPLIT, BEGIN, ADOPT, OPEN and CLEAR: half of a shard's containers become another shard's.
//!
//! Invariants (docs/protocol/pages.md, 24 to 29): from SPLIT on the old shard neither serves nor
//! changes anything of what moves, until CLEAR removes it; rows are adopted in their order, each
//! once; the new shard serves nobody before it has all of them; positions only rise, also from the
//! old log to the new one.
//! Does not: know who drives it, or which replicas a shard has (the root does).

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ContainerId, GroupId, MapEpoch};
use hedgerow_protocol::{ShardCommand, ShardOutcome, ShardRange, ShardRefusal};

use super::apply::{Apply, Stop};
use super::attempt::malformed;
use super::rows::StoreRow;
use super::{keys, moving, tables};
use crate::fields::{Put, Take};
use crate::{Pair, StateError, View};

/// Rows that one CLEAR looks at: as much work as a large commit.
const CLEAR_STEP_ROWS: usize = 1024;

/// Most bytes of an adopted page, keys and values: an entry must travel in one message.
pub(super) const PAGE_BYTES: usize = 256 << 10;

/// What a shard does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// It answers for its range.
    Serves,
    /// It answers for nothing: rows before `next` were adopted, all of them when there is none.
    Receives { next: Option<Vec<u8>> },
    /// It answers for its range; the other half of what it had stands still, or is being cleared
    /// from `cursor` on.
    HandsOver {
        to: GroupId,
        position: u64,
        cursor: Vec<u8>,
    },
}

/// What a shard has to do with splits. One that was neither split nor made by a split has no such
/// row: no table ever named it for a container of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShardRow {
    /// Positions are log indices and this.
    pub(super) base: u64,
    /// What it answers for.
    pub(super) range: ShardRange,
    /// What those are told who ask for anything else.
    pub(super) epoch: MapEpoch,
    pub(super) stage: Stage,
}

impl ShardRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let put = Put::value()
            .u64(self.base)
            .u8(self.range.bits)
            .u32(self.range.pattern)
            .u64(self.epoch.0);
        match &self.stage {
            Stage::Serves => put.u8(0),
            Stage::Receives { next: Some(next) } => put.u8(1).bytes(next),
            Stage::Receives { next: None } => put.u8(2),
            Stage::HandsOver {
                to,
                position,
                cursor,
            } => put.u8(3).u32(to.0).u64(*position).bytes(cursor),
        }
        .done()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "shard");
        let base = take.u64()?;
        let range = ShardRange {
            bits: take.u8()?,
            pattern: take.u32()?,
        };
        let epoch = MapEpoch(take.u64()?);
        let stage = match take.u8()? {
            0 => {
                take.end()?;
                Stage::Serves
            }
            1 => Stage::Receives {
                next: Some(take.rest().to_vec()),
            },
            2 => {
                take.end()?;
                Stage::Receives { next: None }
            }
            3 => Stage::HandsOver {
                to: GroupId(take.u32()?),
                position: take.u64()?,
                cursor: take.rest().to_vec(),
            },
            _ => return Err(take.damaged("names no stage")),
        };
        Ok(Self {
            base,
            range,
            epoch,
            stage,
        })
    }

    /// Why the shard does not answer for `container`, if it does not.
    pub(super) fn refusal(&self, container: ContainerId) -> Option<ShardRefusal> {
        if matches!(self.stage, Stage::Receives { .. }) {
            return Some(ShardRefusal::NotServing);
        }
        let is_own = self.range.contains(container.family, container.index);
        if is_own || active(Mutant::OldShardServesOn) {
            return None;
        }
        Some(ShardRefusal::Moved { epoch: self.epoch })
    }

    /// What moves, or has moved, to `to`.
    pub(super) fn hands_over(&self, group: GroupId) -> Option<ShardRange> {
        match &self.stage {
            Stage::HandsOver { to, .. } if *to == group => Some(self.range.whole()?.halves().1),
            _ => None,
        }
    }
}

/// The container whose authority a command needs. A CONFIRM asks for each name; what concerns a
/// whole disk or store concerns every shard.
fn container_of(command: &ShardCommand) -> Option<ContainerId> {
    match command {
        ShardCommand::Place { container, .. }
        | ShardCommand::Fence { container, .. }
        | ShardCommand::Void { container, .. }
        | ShardCommand::Collect { container, .. }
        | ShardCommand::Retired { container, .. } => Some(*container),
        ShardCommand::Commit(commit) => Some(commit.container),
        ShardCommand::Relocate(relocate) => Some(relocate.container),
        _ => None,
    }
}

/// Refuses what is not this shard's to do, or not yet.
pub(super) fn check_serves(apply: &Apply<'_>, command: &ShardCommand) -> Result<(), ShardRefusal> {
    let Some(row) = apply.shard() else {
        return Ok(());
    };
    let receiving = matches!(
        command,
        ShardCommand::Begin { .. } | ShardCommand::Adopt { .. } | ShardCommand::Open
    );
    if receiving {
        return Ok(());
    }
    if matches!(row.stage, Stage::Receives { .. }) {
        return Err(ShardRefusal::NotServing);
    }
    match container_of(command).and_then(|container| row.refusal(container)) {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

/// SPLIT.
pub(super) fn split(
    apply: &mut Apply<'_>,
    to: GroupId,
    range: ShardRange,
    epoch: MapEpoch,
) -> Result<ShardOutcome, Stop> {
    let Some(whole) = range.whole().filter(|whole| whole.halves().1 == range) else {
        return Err(malformed("no half that moves").into());
    };
    let (stays, _) = whole.halves();
    let base = match apply.shard() {
        None => 0,
        Some(row) => match &row.stage {
            Stage::Serves if row.range == whole => row.base,
            Stage::HandsOver {
                to: known,
                position,
                ..
            } if *known == to && row.range == stays => {
                return Ok(ShardOutcome::Split {
                    position: *position,
                });
            }
            _ => return Err(malformed("the shard does not have what is to be split").into()),
        },
    };
    let position = apply.index();
    apply.set_shard(ShardRow {
        base,
        range: stays,
        epoch,
        stage: Stage::HandsOver {
            to,
            position,
            cursor: Vec::new(),
        },
    })?;
    Ok(ShardOutcome::Split { position })
}

/// BEGIN.
pub(super) fn begin(
    apply: &mut Apply<'_>,
    range: ShardRange,
    base: u64,
    epoch: MapEpoch,
) -> Result<ShardOutcome, Stop> {
    let Some(row) = apply.shard() else {
        apply.write_back()?;
        // A shard that has served anybody would mix two truths.
        if !apply.view().scan(&[0], &[u8::MAX], 1)?.is_empty() {
            return Err(malformed("the shard is not blank").into());
        }
        let next = (!active(Mutant::OpenedBeforeAdopted)).then(Vec::new);
        apply.set_shard(ShardRow {
            base: if active(Mutant::SplitBaseForgotten) {
                0
            } else {
                base
            },
            range,
            epoch,
            stage: Stage::Receives { next: next.clone() },
        })?;
        return Ok(ShardOutcome::Adopted { next });
    };
    match &row.stage {
        Stage::Receives { next } if row.range == range => {
            Ok(ShardOutcome::Adopted { next: next.clone() })
        }
        Stage::Receives { .. } => Err(malformed("the shard was begun for another range").into()),
        Stage::Serves | Stage::HandsOver { .. } => Ok(ShardOutcome::Adopted { next: None }),
    }
}

/// ADOPT.
pub(super) fn adopt(
    apply: &mut Apply<'_>,
    from: &[u8],
    rows: &[Pair],
    next: Option<&Vec<u8>>,
) -> Result<ShardOutcome, Stop> {
    let Some(mut row) = apply.shard().cloned() else {
        return Err(malformed("the shard was not begun").into());
    };
    let expected = match &row.stage {
        Stage::Receives { next } => next.clone(),
        Stage::Serves | Stage::HandsOver { .. } => None,
    };
    if expected.as_deref() != Some(from) {
        // A page that was adopted before, or comes too early: whoever asks goes on from here.
        return Ok(ShardOutcome::Adopted { next: expected });
    }
    let ends = next.map(Vec::as_slice);
    let in_order = rows.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let first = rows.first().is_none_or(|(key, _)| key.as_slice() >= from);
    let last = rows.last();
    let inside = last.is_none_or(|(key, _)| ends.is_none_or(|ends| key.as_slice() < ends));
    let known = rows.iter().all(|(key, _)| moving::is_adoptable(key));
    if !(in_order && first && inside && known && ends.is_none_or(|ends| ends > from)) {
        return Err(malformed("the page is not what lies between its ends").into());
    }
    for (key, value) in rows {
        adopt_row(apply, key, value)?;
    }
    row.stage = Stage::Receives {
        next: next.cloned(),
    };
    apply.set_shard(row)?;
    Ok(ShardOutcome::Adopted {
        next: next.cloned(),
    })
}

/// What the row of a store counts is counted anew: the old shard keeps some of it.
fn adopt_row(apply: &mut Apply<'_>, key: &[u8], value: &[u8]) -> Result<(), StateError> {
    if keys::is_collected(key) {
        let store = keys::store_of_feed(key)?;
        let mut counted = tables::store(apply.view(), store)?;
        counted.collected += 1;
        apply.put(&keys::store(store), &counted.encode())?;
    } else if let Some(store) = keys::store_of_key(key)? {
        let counted = tables::store(apply.view(), store)?.collected;
        let adopted = StoreRow {
            collected: counted,
            ..StoreRow::decode(value)?
        };
        return apply.put(key, &adopted.encode());
    }
    apply.put(key, value)
}

/// OPEN.
pub(super) fn open(apply: &mut Apply<'_>) -> Result<ShardOutcome, Stop> {
    let Some(mut row) = apply.shard().cloned() else {
        return Err(malformed("the shard was not begun").into());
    };
    match row.stage {
        Stage::Receives { next: Some(_) } => Err(malformed("rows are still to be adopted").into()),
        Stage::Receives { next: None } => {
            row.stage = Stage::Serves;
            apply.set_shard(row)?;
            Ok(ShardOutcome::Done)
        }
        Stage::Serves | Stage::HandsOver { .. } => Ok(ShardOutcome::Done),
    }
}

/// CLEAR.
pub(super) fn clear(
    apply: &mut Apply<'_>,
    group: GroupId,
    epoch: MapEpoch,
) -> Result<ShardOutcome, Stop> {
    let Some(mut row) = apply.shard().cloned() else {
        return Ok(ShardOutcome::Cleared { finished: true });
    };
    let (Some(range), Stage::HandsOver { cursor, .. }) = (row.hands_over(group), &mut row.stage)
    else {
        // Cleared before.
        return Ok(ShardOutcome::Cleared { finished: true });
    };
    apply.write_back()?;
    let rows = apply.view().scan(cursor, &[u8::MAX], CLEAR_STEP_ROWS)?;
    for (key, value) in &rows {
        let home = moving::home_of(key, value)?;
        if active(Mutant::SplitNotCleared)
            || home.is_none_or(|(family, index)| !range.contains(family, index))
        {
            continue;
        }
        if keys::is_collected(key) {
            let store = keys::store_of_feed(key)?;
            let mut counted = tables::store(apply.view(), store)?;
            counted.collected -= 1;
            apply.put(&keys::store(store), &counted.encode())?;
        }
        apply.delete(key)?;
    }
    let finished = rows.len() < CLEAR_STEP_ROWS;
    if finished {
        row.stage = Stage::Serves;
    } else if let Some((last, _)) = rows.last() {
        cursor.clone_from(last);
        cursor.push(0);
    }
    row.epoch = row.epoch.max(epoch);
    apply.set_shard(row)?;
    Ok(ShardOutcome::Cleared { finished })
}

/// The position that `index` of the log is in `view`.
///
/// # Errors
/// [`StateError`].
pub fn position(view: &dyn View, index: u64) -> Result<u64, StateError> {
    Ok(index + tables::shard(view)?.map_or(0, |row| row.base))
}
