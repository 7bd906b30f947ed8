//! Finding a group's leader and asking it: the one client of Pages that every role uses.
//!
//! [`Directory`] caches the shard table and the topology; [`GroupClient`] walks the members of a
//! group, follows leader hints and repeats until its deadline. Everything that it sends bears
//! repetition: commands are named by nonce, sequence, epoch or generation.
//!
//! Invariant: [`GroupError::Unknown`] is answered when any attempt may have had an effect whose
//! result was not seen; [`GroupError::Unavailable`] only when no attempt was ever accepted.
//! Does not: decide what an outcome means, or cache answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{ContainerId, Env, GroupId, Instant, MapEpoch, NodeId, StoreId};
use hedgerow_protocol::{
    GroupBody, GroupMember, GroupRecord, GroupReply, GroupRequest, MemberId, NodeReply,
    NodeRequest, ROOT_GROUP, RootAnswer, RootCommand, RootOutcome, RootQuery, RootReply,
    RootRequest, SERVICE_GROUP, SERVICE_NODE, ShardCommand, ShardOutcome, ShardReply, ShardRequest,
    ShardTable, Topology, decode, encode,
};

use crate::{CallError, CallOptions, Lane, Message, Peer, RefusalCode, Rpc, ServiceId};

/// One attempt waits at most this long, so that a silent leader costs one attempt and not the call.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(1500);
/// Pause after a round in which nobody led; elections take about a second.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The pause doubles up to this.
const RETRY_PAUSE_LIMIT: Duration = Duration::from_millis(400);
/// A node that is asked for its table answers from memory.
const TABLE_LIMIT: Duration = Duration::from_millis(500);

/// What this process believes of the cluster's shape; refreshed by whoever learns better.
#[derive(Default)]
pub struct Directory {
    state: Mutex<DirectoryState>,
}

#[derive(Default)]
struct DirectoryState {
    table: ShardTable,
    topology: Arc<Topology>,
    /// Addresses to ask while the table is empty (`seeds` of the configuration).
    seeds: Vec<String>,
    /// A shard that a split makes, until the table shows it.
    coming: Option<GroupRecord>,
    /// The last known leader of each group.
    leaders: BTreeMap<GroupId, GroupMember>,
}

impl Directory {
    /// A directory that knows only where to ask first.
    #[must_use]
    pub fn new(seeds: Vec<String>) -> Self {
        Self {
            state: Mutex::new(DirectoryState {
                seeds,
                ..DirectoryState::default()
            }),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut DirectoryState) -> T) -> T {
        act(&mut self.state.lock().expect("no panic under this lock"))
    }

    /// The shard table as last seen.
    #[must_use]
    pub fn table(&self) -> ShardTable {
        self.with(|state| state.table.clone())
    }

    /// The epoch of the table as last seen.
    #[must_use]
    pub fn epoch(&self) -> MapEpoch {
        self.with(|state| state.table.epoch)
    }

    /// Remembers a table unless a newer one is known. True when it was news.
    pub fn learn_table(&self, table: ShardTable) -> bool {
        self.with(|state| {
            let news = table.epoch > state.table.epoch;
            if news {
                state.table = table;
            }
            news
        })
    }

    /// Remembers the root's first members, until a table is known.
    pub fn bootstrap_root(&self, root: GroupRecord) {
        self.with(|state| {
            if state.table.epoch == MapEpoch(0) {
                state.table.root = root;
            }
        });
    }

    /// Remembers where a shard is that the table does not show yet, in place of an earlier one.
    pub fn expect_shard(&self, record: GroupRecord) {
        self.with(|state| state.coming = Some(record));
    }

    /// The topology as last seen.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        self.with(|state| Arc::clone(&state.topology))
    }

    /// Remembers a topology unless a newer one is known. True when it was news.
    pub fn learn_topology(&self, topology: Topology) -> bool {
        self.with(|state| {
            let news = topology.index > state.topology.index;
            if news {
                state.topology = Arc::new(topology);
            }
            news
        })
    }

    /// The shard of a container, once the table is known.
    #[must_use]
    pub fn shard_of(&self, container: ContainerId) -> Option<GroupId> {
        self.with(|state| {
            let record = state.table.shard_of(container.family, container.index);
            record.map(|record| record.group)
        })
    }

    /// The shards, once the table is known.
    #[must_use]
    pub fn shards(&self) -> Vec<GroupId> {
        self.with(|state| {
            let shards = state.table.distinct().into_iter();
            shards.map(|record| record.group).collect()
        })
    }

    /// Where `node` listens, by the newest knowledge.
    #[must_use]
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        let topology = self.topology();
        let record = topology.nodes.iter().find(|record| record.node == node)?;
        Some(record.address.clone())
    }

    /// The peer that has `store`.
    #[must_use]
    pub fn peer_of_store(&self, store: StoreId) -> Option<Peer> {
        let topology = self.topology();
        let record = topology.node_of(store)?;
        Some(Peer::new(record.address.clone(), record.node))
    }

    /// Addresses of nodes to ask for the table, in a fixed order.
    fn acquaintances(&self) -> Vec<Peer> {
        self.with(|state| {
            let known = state.topology.nodes.iter();
            let mut peers: Vec<Peer> = known
                .map(|record| Peer::new(record.address.clone(), record.node))
                .collect();
            for seed in &state.seeds {
                if !peers.iter().any(|peer| peer.address == *seed) {
                    peers.push(Peer::anyone_at(seed.clone()));
                }
            }
            peers
        })
    }

    /// Members of `group` to try, the likely leader first.
    fn candidates(&self, group: GroupId) -> Vec<Peer> {
        self.with(|state| {
            let coming = state.coming.iter();
            let known = state
                .table
                .group(group)
                .or_else(|| coming.into_iter().find(|record| record.group == group));
            let mut members: Vec<GroupMember> = known
                .map(|record| record.members.clone())
                .unwrap_or_default();
            if let Some(leader) = state.leaders.get(&group) {
                members.retain(|member| member.node != leader.node);
                members.insert(0, leader.clone());
            }
            let topology = &state.topology;
            members
                .into_iter()
                .map(|member| {
                    let newest = topology
                        .nodes
                        .iter()
                        .find(|record| record.node == member.node);
                    let address = newest.map_or(member.address, |record| record.address.clone());
                    Peer::new(address, member.node)
                })
                .collect()
        })
    }

    fn set_leader(&self, group: GroupId, leader: Option<GroupMember>) {
        self.with(|state| match leader {
            Some(leader) => {
                state.leaders.insert(group, leader);
            }
            None => {
                state.leaders.remove(&group);
            }
        });
    }

    /// The last known leader of a group, for status pages; a guess.
    #[must_use]
    pub fn leader_of(&self, group: GroupId) -> Option<GroupMember> {
        self.with(|state| state.leaders.get(&group).cloned())
    }
}

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
        let Some(node) = peer.node else { return };
        self.directory.with(|state| {
            let members = state
                .table
                .group(group)
                .map(|record| record.members.as_slice());
            let member = members
                .unwrap_or_default()
                .iter()
                .find(|member| member.node == node);
            if let Some(member) = member.cloned() {
                state.leaders.insert(group, member);
            }
        });
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
