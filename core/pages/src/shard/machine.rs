//! [`ShardMachine`]: the commands of one log entry, in order.

use bytes::Bytes;
use hedgerow_protocol::{
    FEATURE_LEVEL, ShardBatch, ShardCommand, ShardOutcome, ShardRefusal, decode, encode,
};

use super::apply::{Apply, Stop};
use super::place::Proposal;
use super::{blobs, commit, drop, fence, keys, place, relocate, split};
use crate::fields::{Put, Take};
use crate::{Machine, StateError, Update, View};

/// The state machine of a shard group.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShardMachine;

impl ShardMachine {
    /// Applies `commands` as the log entry at `index`, and answers each.
    ///
    /// # Errors
    /// [`StateError`]: the replica stops.
    pub fn apply_commands(
        state: &mut dyn Update,
        index: u64,
        commands: &[ShardCommand],
    ) -> Result<Vec<ShardOutcome>, StateError> {
        let mut apply = Apply::new(state, index)?;
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            outcomes.push(match apply_one(&mut apply, command) {
                Ok(outcome) => outcome,
                Err(Stop::Refused(refusal)) => ShardOutcome::Refused(refusal),
                Err(Stop::State(error)) => return Err(error),
            });
        }
        apply.write_back()?;
        Ok(outcomes)
    }

    /// The feature level that the group's log has committed.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn feature_level(view: &dyn View) -> Result<u16, StateError> {
        match view.get(&keys::feature())? {
            Some(bytes) => {
                let mut take = Take::new(&bytes, "feature level");
                let level = take.u16()?;
                take.end()?;
                Ok(level)
            }
            None => Ok(1),
        }
    }
}

impl Machine for ShardMachine {
    fn apply(&self, state: &mut dyn Update, index: u64, batch: &[u8]) -> Result<Bytes, StateError> {
        let ShardBatch(commands) = decode(batch).map_err(|error| {
            StateError::Damaged(format!("entry {index} of a shard's log: {error}"))
        })?;
        Ok(encode(&Self::apply_commands(state, index, &commands)?))
    }
}

fn apply_one(apply: &mut Apply<'_>, command: &ShardCommand) -> Result<ShardOutcome, Stop> {
    split::check_serves(apply, command)?;
    match command {
        ShardCommand::Place {
            container,
            generation,
            epoch,
            members,
            layout,
            write_quorum,
            lost,
        } => {
            let proposal = Proposal {
                container: *container,
                generation: *generation,
                epoch: *epoch,
                members,
                layout: *layout,
                write_quorum: *write_quorum,
                lost,
            };
            place::place(apply, &proposal)
        }
        ShardCommand::Fence {
            container,
            generation,
            writers,
            layer,
        } => fence::fence(apply, *container, *generation, writers, *layer),
        ShardCommand::Floor {
            disk,
            family: _,
            generation,
            writers,
            layer,
        } => fence::floor(apply, *disk, *generation, writers, *layer),
        ShardCommand::Commit(commit) => commit::commit(apply, commit),
        ShardCommand::Void {
            container,
            writer,
            sequences,
            low_water,
        } => commit::void(apply, *container, *writer, sequences, *low_water),
        ShardCommand::Collect {
            container,
            writer,
            sequences,
        } => blobs::collect(apply, *container, *writer, sequences),
        ShardCommand::Confirm { store, names } => blobs::confirm(apply, *store, names),
        ShardCommand::Handled { store, index } => blobs::handled(apply, *store, *index),
        ShardCommand::Retired {
            container,
            store,
            epoch,
        } => place::retired(apply, *container, *store, *epoch),
        ShardCommand::Drop {
            disk,
            family,
            layers,
        } => drop::drop_step(apply, *disk, *family, layers),
        ShardCommand::Relocate(command) => relocate::relocate(apply, command),
        ShardCommand::Finalise { feature_level } => finalise(apply, *feature_level),
        ShardCommand::Split { .. }
        | ShardCommand::Begin { .. }
        | ShardCommand::Adopt { .. }
        | ShardCommand::Open
        | ShardCommand::Clear { .. } => apply_split(apply, command),
    }
}

/// The commands of a split.
fn apply_split(apply: &mut Apply<'_>, command: &ShardCommand) -> Result<ShardOutcome, Stop> {
    match command {
        ShardCommand::Split { to, range, epoch } => split::split(apply, *to, *range, *epoch),
        ShardCommand::Begin { range, base, epoch } => split::begin(apply, *range, *base, *epoch),
        ShardCommand::Adopt { from, rows, next } => split::adopt(apply, from, rows, next.as_ref()),
        ShardCommand::Open => split::open(apply),
        ShardCommand::Clear { to, epoch } => split::clear(apply, *to, *epoch),
        _ => unreachable!("called for these commands alone"),
    }
}

fn finalise(apply: &mut Apply<'_>, level: u16) -> Result<ShardOutcome, Stop> {
    let committed = ShardMachine::feature_level(apply.view())?;
    if level > FEATURE_LEVEL {
        return Err(ShardRefusal::FeatureLevel { needed: level }.into());
    }
    if level > committed {
        apply.put(&keys::feature(), &Put::value().u16(level).done())?;
    }
    Ok(ShardOutcome::Done)
}
