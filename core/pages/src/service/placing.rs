//! *Ensure placed* and *substitute*: the placement rules on this node's copy of the topology, made
//! into PLACE.
//!
//! Invariant: whatever the copy says, the shard checks the proposal when it applies it; a proposal
//! that lost a race is answered with the placement that won.

use hedgerow_env::{ContainerId, Generation, Phase, PlacementEpoch, StoreId, event};
use hedgerow_protocol::{
    Layout, Placement, Policy, ShardCommand, ShardOutcome, ShardRefusal, ShardReply,
};

use super::{Asked, Failure, reads};
use crate::placement::{Decision, Unplaceable, place_new, substitute};
use crate::shard::{moving, query};

/// A race is lost to another placement, which is then the answer; more are odd.
const ATTEMPTS: usize = 4;

/// What a substitution asks for.
pub(super) struct Substitution<'a> {
    pub(super) container: ContainerId,
    pub(super) generation: Generation,
    pub(super) policy: &'a Policy,
    pub(super) known: PlacementEpoch,
    pub(super) unavailable: &'a [StoreId],
}

/// How a proposed placement fared.
enum Fared {
    Answer(ShardReply),
    /// Another placement stands now.
    Lost(Placement),
}

fn unplaceable(error: Unplaceable) -> ShardReply {
    ShardReply::Refused(ShardRefusal::Unplaceable { reason: error.0 })
}

impl Asked<'_> {
    /// Answers the container's placement, and makes one if there is none.
    pub(super) async fn ensure_placed(
        &self,
        container: ContainerId,
        generation: Generation,
        policy: &Policy,
    ) -> Result<ShardReply, Failure> {
        if let Err(reason) = policy.check() {
            return Ok(ShardReply::Refused(ShardRefusal::Malformed { reason }));
        }
        let ask = move |view: &dyn crate::View, _| {
            let refusal = moving::refusal(view, container)?;
            Ok((refusal, query::placement(view, container)?))
        };
        // A placement never goes away while its disk is there: the local state is good enough, also
        // where the container has moved since.
        match reads::local(&self.replica, ask).await? {
            (Some(refusal), _) => return Ok(ShardReply::Refused(refusal)),
            (None, Some(placement)) => return Ok(ShardReply::Placed { placement }),
            (None, None) => {}
        }
        let topology = self.service.0.directory.topology();
        let decision = match place_new(container, &topology, policy) {
            Ok(decision) => decision,
            Err(error) => return Ok(unplaceable(error)),
        };
        self.note(container, &decision);
        let command = ShardCommand::Place {
            container,
            generation,
            epoch: PlacementEpoch(1),
            members: decision.members,
            layout: Layout::Replicated {
                copies: policy.replication_factor,
            },
            write_quorum: policy.write_quorum(),
            lost: Vec::new(),
        };
        Ok(match self.place(command).await? {
            Fared::Answer(reply) => reply,
            Fared::Lost(placement) => ShardReply::Placed { placement },
        })
    }

    /// Replaces members that do not answer.
    pub(super) async fn substitute(&self, wish: &Substitution<'_>) -> Result<ShardReply, Failure> {
        let container = wish.container;
        let mut reply = ShardReply::Refused(ShardRefusal::NotPlaced);
        for _ in 0..ATTEMPTS {
            let ask = move |view: &dyn crate::View, _| {
                let refusal = moving::refusal(view, container)?;
                let placement = query::placement(view, container)?;
                Ok((refusal, placement, query::retiring(view, container)?))
            };
            let (refusal, placement, retiring) = self.read(ask).await?;
            if let Some(refusal) = refusal {
                return Ok(ShardReply::Refused(refusal));
            }
            let Some(current) = placement else {
                return Ok(ShardReply::Refused(ShardRefusal::NotPlaced));
            };
            if current.epoch > wish.known {
                return Ok(ShardReply::Placed { placement: current });
            }
            let topology = self.service.0.directory.topology();
            let decided = substitute(
                container,
                &topology,
                wish.policy,
                &current,
                wish.unavailable,
                &retiring,
            );
            let decision = match decided {
                Ok(decision) => decision,
                Err(error) => return Ok(unplaceable(error)),
            };
            self.note(container, &decision);
            let command = ShardCommand::Place {
                container,
                generation: wish.generation,
                epoch: PlacementEpoch(current.epoch.0 + 1),
                members: decision.members,
                layout: current.layout,
                write_quorum: current.write_quorum,
                lost: Vec::new(),
            };
            match self.place(command).await? {
                Fared::Answer(answer) => return Ok(answer),
                Fared::Lost(placement) => reply = ShardReply::Placed { placement },
            }
        }
        Ok(reply)
    }

    fn note(&self, container: ContainerId, decision: &Decision) {
        for note in &decision.notes {
            event!(self.service.0.env, Info, "pages", "{container}: {note}");
        }
    }

    async fn place(&self, command: ShardCommand) -> Result<Fared, Failure> {
        let _phase = self.service.0.env.phase(Phase::Placement);
        let replica = self.replica.clone();
        let mut outcomes = self.front.shard.propose(replica, vec![command]).await?;
        let outcome = outcomes.pop().expect("one outcome for each command");
        Ok(match outcome {
            ShardOutcome::Placed(placement) => Fared::Answer(ShardReply::Placed { placement }),
            ShardOutcome::Refused(
                ShardRefusal::StaleEpoch { current }
                | ShardRefusal::BadPlacement {
                    current: Some(current),
                    ..
                },
            ) => Fared::Lost(current),
            ShardOutcome::Refused(refusal) => Fared::Answer(ShardReply::Refused(refusal)),
            other => unreachable!("a PLACE is placed or refused, not {other:?}"),
        })
    }
}
