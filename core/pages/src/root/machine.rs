//! [`RootMachine`]: the commands of one log entry, in order.

use bytes::Bytes;
use hedgerow_protocol::{
    FEATURE_LEVEL, RootBatch, RootCommand, RootOutcome, RootRefusal, decode, encode,
};

use super::tables::{self, Stop};
use super::{cluster, disks, keys, leases, split};
use crate::{Machine, StateError, Update, View};

/// The state machine of the root group.
#[derive(Debug, Clone, Copy, Default)]
pub struct RootMachine;

impl RootMachine {
    /// Applies `commands` as the log entry at `index`, and answers each.
    ///
    /// # Errors
    /// [`StateError`]: the replica stops.
    pub fn apply_commands(
        state: &mut dyn Update,
        index: u64,
        commands: &[RootCommand],
    ) -> Result<Vec<RootOutcome>, StateError> {
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            outcomes.push(match apply_one(state, index, command) {
                Ok(outcome) => outcome,
                Err(Stop::Refused(refusal)) => RootOutcome::Refused(refusal),
                Err(Stop::State(error)) => return Err(error),
            });
        }
        Ok(outcomes)
    }

    /// The feature level that the group's log has committed.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn feature_level(view: &dyn View) -> Result<u16, StateError> {
        let level = tables::read_number(view, &keys::feature())?.unwrap_or(1);
        u16::try_from(level)
            .map_err(|_| StateError::Damaged(format!("{level} is no feature level")))
    }
}

impl Machine for RootMachine {
    fn apply(&self, state: &mut dyn Update, index: u64, batch: &[u8]) -> Result<Bytes, StateError> {
        let RootBatch(commands) = decode(batch).map_err(|error| {
            StateError::Damaged(format!("entry {index} of the root's log: {error}"))
        })?;
        Ok(encode(&Self::apply_commands(state, index, &commands)?))
    }
}

fn create_disk(state: &mut dyn Update, command: &RootCommand) -> Result<RootOutcome, Stop> {
    let RootCommand::CreateDisk {
        nonce,
        name,
        size_bytes,
        container_bytes,
        policy,
        description,
    } = command
    else {
        unreachable!("called for this command alone");
    };
    let wish = disks::Wish {
        nonce: *nonce,
        name,
        size_bytes: *size_bytes,
        container_bytes: *container_bytes,
        policy,
        description,
    };
    disks::create(state, &wish)
}

fn apply_one(
    state: &mut dyn Update,
    index: u64,
    command: &RootCommand,
) -> Result<RootOutcome, Stop> {
    match command {
        RootCommand::Initialise {
            cluster,
            nodes,
            members,
        } => cluster::initialise(state, index, *cluster, nodes, members),
        RootCommand::Join(record) => cluster::join(state, index, record, None),
        RootCommand::JoinAtStart { record, start } => {
            cluster::join(state, index, record, Some(*start))
        }
        RootCommand::SetNodeState {
            node,
            state: node_state,
            reason,
        } => cluster::set_node_state(state, index, *node, *node_state, reason),
        RootCommand::Drain(wish) => cluster::drain(state, index, wish),
        RootCommand::TellDraining { node, reason } => {
            cluster::tell_draining(state, index, *node, reason)
        }
        RootCommand::JudgeNode {
            node,
            seen,
            state: verdict,
            reason,
        } => cluster::judge_node(state, index, *node, (*seen, *verdict), reason),
        RootCommand::CreateShards { shards } => cluster::create_shards(state, shards),
        RootCommand::SetGroupMembers(record) => cluster::set_group_members(state, record),
        RootCommand::NextReplica { group, store } => cluster::next_replica(state, *group, *store),
        create @ RootCommand::CreateDisk { .. } => create_disk(state, create),
        RootCommand::ResizeDisk { disk, size_bytes } => {
            disks::resize_unseen(state, *disk, *size_bytes)
        }
        RootCommand::Resize {
            disk,
            from_bytes,
            generation,
            size_bytes,
        } => disks::resize(state, *disk, (*from_bytes, *generation), *size_bytes),
        RootCommand::CutDone {
            disk,
            generation,
            end_bytes,
        } => disks::cut_done(state, *disk, *generation, *end_bytes),
        RootCommand::DeleteDisk { disk } => disks::delete(state, *disk),
        RootCommand::DiskDropped { disk, group } => disks::dropped(state, *disk, *group),
        RootCommand::Attach {
            disk,
            session,
            nonce,
        } => leases::attach(state, index, *disk, *session, *nonce),
        RootCommand::Detach { disk, writer } => leases::detach(state, *disk, *writer),
        RootCommand::Renew(session) => leases::renew(state, index, *session),
        RootCommand::ExpireLease {
            session,
            renewed_at,
        } => leases::expire(state, index, *session, *renewed_at),
        RootCommand::FloorApplied {
            disk,
            generation,
            group,
        } => leases::floor_applied(state, *disk, *generation, *group),
        RootCommand::Finalise { feature_level } => finalise(state, *feature_level),
        RootCommand::SplitShard { group, epoch } => split::begin(state, *group, *epoch),
        RootCommand::ShardOpened { group } => split::opened(state, *group),
        RootCommand::SplitDone { group } => split::done(state, *group),
    }
}

fn finalise(state: &mut dyn Update, level: u16) -> Result<RootOutcome, Stop> {
    let committed = RootMachine::feature_level(state)?;
    if level > FEATURE_LEVEL {
        return Err(RootRefusal::FeatureLevel {
            needed: level,
            committed,
        }
        .into());
    }
    if level > committed {
        tables::write_number(state, &keys::feature(), u64::from(level))?;
    }
    Ok(RootOutcome::Done)
}
