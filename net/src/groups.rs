//! Finding a group's leader and asking it: the one client of Pages that every role uses.
//!
//! [`GroupClient`] walks the members of a group, as the [`Directory`] knows them, follows leader hints
//! and repeats until its deadline. Everything that it sends bears repetition: commands are named by
//! nonce, sequence, epoch or generation.
//!
//! Invariant: [`GroupError::Unknown`] is answered when any attempt may have had an effect whose
//! result was not seen; [`GroupError::Unavailable`] only when no attempt was ever accepted.
//! Does not: decide what an outcome means, or cache answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, GroupId, Instant};
use hedgerow_protocol::{
    GroupBody, GroupMember, GroupReply, GroupRequest, MemberId, NodeReply, NodeRequest, ROOT_GROUP,
    RootAnswer, RootCommand, RootOutcome, RootQuery, RootReply, RootRequest, SERVICE_GROUP,
    SERVICE_NODE, ShardCommand, ShardOutcome, ShardReply, ShardRequest, decode, encode,
};

use crate::{CallError, CallOptions, Directory, Lane, Message, Peer, RefusalCode, Rpc, ServiceId};

/// One attempt waits at most this long, so that a silent leader costs one attempt and not the call.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(1500);
/// Pause after a round in which nobody led; elections take about a second.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The pause doubles up to this.
const RETRY_PAUSE_LIMIT: Duration = Duration::from_millis(400);
/// A node that is asked for its table answers from memory.
const TABLE_LIMIT: Duration = Duration::from_millis(500);

/// How a question to a group ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Some attempt may have had an effect: ask again, or ask what became of it.
    #[error("{group}: outcome unknown: {reason}")]
    Unknown {
        /// The group.
        group: GroupId,
        /// The last reason seen.
        reason: String,
    },
    /// Nothing was accepted before the deadline: try again later.
    #[error("{group}: unavailable: {reason}")]
    Unavailable {
        /// The group.
        group: GroupId,
        /// The last reason seen.
        reason: String,
    },
    /// The answer does not fit the question: a peer of another version, or a bug.
    #[error("{group}: unexpected answer")]
    Unexpected {
        /// The group.
        group: GroupId,
    },
}

/// Asks groups.
#[derive(Clone)]
pub struct GroupClient {
    env: Env,
    rpc: Rpc,
    directory: Arc<Directory>,
}

/// Renewals of leases go ahead of bulk data: a lease that lapses because a slow link is busy with
/// writes would send every read to its shard, over the same link.
fn lane_of(body: &GroupBody) -> Lane {
    match body {
        GroupBody::Root(RootRequest::Propose(commands))
            if commands
                .iter()
                .all(|command| matches!(command, RootCommand::Renew(_))) =>
        {
            Lane::Control
        }
        _ => Lane::Data,
    }
}

/// What one attempt told.
enum Attempt {
    Answered(GroupReply),
    /// Go to this member next.
    Redirected(GroupMember),
    /// Not accepted here.
    Refused(String),
    /// May have had an effect.
    Unknown(String),
}

impl GroupClient {
    /// A client that shares `directory` with the rest of the process.
    #[must_use]
    pub fn new(env: Env, rpc: Rpc, directory: Arc<Directory>) -> Self {
        Self {
            env,
            rpc,
            directory,
        }
    }

    /// The shared directory.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Asks the root.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn root(
        &self,
        request: RootRequest,
        timeout: Duration,
    ) -> Result<RootReply, GroupError> {
        match self
            .ask(ROOT_GROUP, GroupBody::Root(request), timeout)
            .await?
        {
            GroupReply::Root(reply) => Ok(reply),
            _ => Err(GroupError::Unexpected { group: ROOT_GROUP }),
        }
    }

    /// Proposes one command to the root.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn root_command(
        &self,
        command: RootCommand,
        timeout: Duration,
    ) -> Result<RootOutcome, GroupError> {
        match self
            .root(RootRequest::Propose(vec![command]), timeout)
            .await?
        {
            RootReply::Outcomes(mut outcomes) if outcomes.len() == 1 => Ok(outcomes.remove(0)),
            _ => Err(GroupError::Unexpected { group: ROOT_GROUP }),
        }
    }

    /// Asks the root a linearizable question.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn root_query(
        &self,
        query: RootQuery,
        timeout: Duration,
    ) -> Result<RootAnswer, GroupError> {
        match self.root(RootRequest::Query(query), timeout).await? {
            RootReply::Answer(answer) => Ok(answer),
            RootReply::Outcomes(_) => Err(GroupError::Unexpected { group: ROOT_GROUP }),
        }
    }

    /// Asks a shard.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn shard(
        &self,
        group: GroupId,
        request: ShardRequest,
        timeout: Duration,
    ) -> Result<ShardReply, GroupError> {
        match self.ask(group, GroupBody::Shard(request), timeout).await? {
            GroupReply::Shard(reply) => Ok(reply),
            _ => Err(GroupError::Unexpected { group }),
        }
    }

    /// Proposes commands to a shard; one outcome for each.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn shard_commands(
        &self,
        group: GroupId,
        commands: Vec<ShardCommand>,
        timeout: Duration,
    ) -> Result<Vec<ShardOutcome>, GroupError> {
        let count = commands.len();
        match self
            .shard(group, ShardRequest::Propose(commands), timeout)
            .await?
        {
            ShardReply::Outcomes(outcomes) if outcomes.len() == count => Ok(outcomes),
            _ => Err(GroupError::Unexpected { group }),
        }
    }

    /// Tells a group that the number of one of its members is retired. True once the group counts
    /// it as a member no more.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn retired(
        &self,
        group: GroupId,
        member: MemberId,
        timeout: Duration,
    ) -> Result<bool, GroupError> {
        match self.ask(group, GroupBody::Retired(member), timeout).await? {
            GroupReply::Retired { is_gone } => Ok(is_gone),
            _ => Err(GroupError::Unexpected { group }),
        }
    }

    async fn ask(
        &self,
        group: GroupId,
        body: GroupBody,
        timeout: Duration,
    ) -> Result<GroupReply, GroupError> {
        let lane = lane_of(&body);
        let head = encode(&GroupRequest { group, body });
        let deadline = self.env.now() + timeout;
        let mut may_have_happened = false;
        let mut reason = String::from("no member of the group is known");
        let mut pause = RETRY_PAUSE;
        loop {
            let mut next: Vec<Peer> = self.directory.candidates(group);
            next.reverse();
            // Leader hints may point round in circles; a round ends after a few.
            let mut hops = next.len() + 3;
            while let Some(peer) = next.pop() {
                if self.env.now() >= deadline || hops == 0 {
                    break;
                }
                hops -= 1;
                let to = (group, &peer);
                match self.attempt(to, lane, head.clone(), deadline).await {
                    Attempt::Answered(reply) => return Ok(reply),
                    Attempt::Redirected(member) => {
                        self.directory.set_leader(group, Some(member.clone()));
                        let address = self
                            .directory
                            .address_of(member.node)
                            .unwrap_or(member.address);
                        next.push(Peer::new(address, member.node));
                    }
                    Attempt::Refused(text) => reason = text,
                    Attempt::Unknown(text) => {
                        may_have_happened = true;
                        reason = text;
                        self.directory.set_leader(group, None);
                    }
                }
            }
            if self.env.now() + pause >= deadline {
                return Err(if may_have_happened {
                    GroupError::Unknown { group, reason }
                } else {
                    GroupError::Unavailable { group, reason }
                });
            }
            self.env.sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_LIMIT);
            self.refresh(deadline).await;
        }
    }

    async fn attempt(
        &self,
        (group, peer): (GroupId, &Peer),
        lane: Lane,
        head: Bytes,
        deadline: Instant,
    ) -> Attempt {
        let limit = deadline.since(self.env.now()).min(ATTEMPT_LIMIT);
        let message = Message::new(head, Bytes::new());
        let options = CallOptions {
            lane,
            ..CallOptions::within(limit)
        };
        let result = self
            .rpc
            .call_with(peer, ServiceId(SERVICE_GROUP), message, options)
            .await;
        let reply = match result {
            Ok(message) => decode::<GroupReply>(&message.head),
            Err(CallError::Unknown { reason, .. }) => return Attempt::Unknown(reason),
            Err(CallError::Refused(refusal)) if refusal.code == RefusalCode::Internal => {
                return Attempt::Unknown(refusal.text);
            }
            Err(error) => return Attempt::Refused(error.to_string()),
        };
        match reply {
            Ok(GroupReply::NotLeader {
                leader: Some(leader),
            }) if Some(leader.node) != peer.node => Attempt::Redirected(leader),
            Ok(GroupReply::NotLeader { .. }) => Attempt::Refused("no leader is known".into()),
            Ok(GroupReply::NoSuchGroup { .. }) => Attempt::Refused("no replica there".into()),
            Ok(GroupReply::Busy { reason }) => Attempt::Refused(reason),
            Ok(GroupReply::Unknown { reason }) => Attempt::Unknown(reason),
            Ok(reply) => {
                self.remember_leader(group, peer);
                Attempt::Answered(reply)
            }
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }

    /// Whoever answered leads, or did a moment ago.
    fn remember_leader(&self, group: GroupId, peer: &Peer) {
        if let Some(node) = peer.node {
            self.directory.set_leading(group, node);
        }
    }

    /// Asks acquaintances for a newer table and topology until one has news.
    pub async fn refresh(&self, deadline: Instant) {
        for peer in self.directory.acquaintances() {
            let now = self.env.now();
            if now >= deadline {
                return;
            }
            let limit = deadline.since(now).min(TABLE_LIMIT);
            if self.refresh_from(&peer, limit).await {
                return;
            }
        }
    }

    /// As [`GroupClient::refresh`], for at most `limit`.
    pub async fn refresh_within(&self, limit: Duration) {
        self.refresh(self.env.now() + limit).await;
    }

    /// Asks one node for a newer table and topology. True when it had a newer table.
    pub async fn refresh_from(&self, peer: &Peer, limit: Duration) -> bool {
        let known = self.directory.topology().index;
        if let Some(NodeReply::Topology(Some(topology))) = self
            .node_request(peer, &NodeRequest::Topology { known }, limit)
            .await
        {
            self.directory.learn_topology(topology);
        }
        let known = self.directory.epoch();
        match self
            .node_request(peer, &NodeRequest::Table { known }, limit)
            .await
        {
            Some(NodeReply::Table(Some(table))) => self.directory.learn_table(table),
            _ => false,
        }
    }

    /// Asks a node as such; `None` when no answer was seen in time.
    pub async fn node_request(
        &self,
        peer: &Peer,
        request: &NodeRequest,
        limit: Duration,
    ) -> Option<NodeReply> {
        let message = Message::new(encode(request), Bytes::new());
        let options = CallOptions::urgent(limit);
        let reply = self
            .rpc
            .call_with(peer, ServiceId(SERVICE_NODE), message, options)
            .await;
        decode::<NodeReply>(&reply.ok()?.head).ok()
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_env::NodeId;
    use hedgerow_protocol::ProxySession;

    use super::*;

    #[test]
    fn renewals_of_leases_alone_go_ahead_of_bulk_data() {
        let session = ProxySession {
            node: NodeId(1),
            incarnation: 2,
        };
        let renewal = RootRequest::Propose(vec![RootCommand::Renew(session)]);
        assert_eq!(lane_of(&GroupBody::Root(renewal)), Lane::Control);
        assert_eq!(
            lane_of(&GroupBody::Shard(ShardRequest::Statistics)),
            Lane::Data
        );
    }
}
