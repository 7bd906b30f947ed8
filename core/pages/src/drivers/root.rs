//! The duties of the root's leader: leases, verdicts, pending floors and drops, the first shards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hedgerow_env::{GroupId, NodeId, Phase, VirtualDiskId, event};
use hedgerow_net::Peer;
use hedgerow_protocol::{
    DiskRecord, GroupBody, GroupRecord, MemberId, NodeReply, NodeRequest, PendingShardWork,
    ROOT_GROUP, RootAnswer, RootCommand, RootQuery, RootRequest, ShardCommand, ShardOutcome,
    ShardRefusal, ShardRequest, ShardTable, Topology,
};

use super::Drivers;
use super::growth::plan_shards;
use super::health::HealthWatch;
use super::leases::LeaseWatch;
use crate::service::read_local;
use crate::{GroupReplica, root};

/// Leases are looked at this often; it adds to the wait and never shortens it.
const LEASE_ROUND: Duration = Duration::from_millis(250);
/// Nodes probed at once.
const PROBES: usize = 64;
/// A probe is answered from memory.
const PROBE_LIMIT: Duration = Duration::from_millis(900);
/// One command to a shard; a shard that does not answer is tried again in the next round.
const SHARD_LIMIT: Duration = Duration::from_secs(2);
/// Starting a replica makes files and syncs them.
const START_LIMIT: Duration = Duration::from_secs(5);
/// Steps of one drop in one round, so that other duties have their turn.
const DROP_STEPS: usize = 64;

/// An answer of the root's state with the index that was applied before it was read.
type Kept = Option<(u64, RootAnswer)>;

impl Drivers {
    pub(super) async fn propose_root(&self, commands: Vec<RootCommand>) {
        if !commands.is_empty() {
            let _phase = self.env.phase(Phase::RootWork);
            let body = GroupBody::Root(RootRequest::Propose(commands));
            // Whatever was lost is seen to be pending in the next round.
            self.ask(ROOT_GROUP, body).await;
        }
    }

    /// As [`Drivers::root_answer`], from `kept` while nothing was applied since.
    async fn kept_answer(
        &self,
        replica: &Arc<dyn GroupReplica>,
        query: RootQuery,
        kept: &mut Kept,
    ) -> Option<RootAnswer> {
        // Taken before the state is read: an entry applied in between is looked at again.
        let index = replica.applied_index();
        if let Some((known, answer)) = kept
            && *known == index
        {
            return Some(answer.clone());
        }
        let answer = self.root_answer(replica, query).await?;
        *kept = Some((index, answer.clone()));
        Some(answer)
    }

    pub(super) async fn root_answer(
        &self,
        replica: &Arc<dyn GroupReplica>,
        query: RootQuery,
    ) -> Option<RootAnswer> {
        let ask = move |view: &dyn crate::View, _| root::query::answer(view, &query);
        match read_local(replica, ask).await {
            Ok(answer) => Some(answer),
            Err(reason) => {
                event!(self.env, Warn, "pages", "root: {reason}");
                None
            }
        }
    }

    /// Ends leases that were not renewed.
    pub(super) async fn leases(self) {
        let mut watch = LeaseWatch::default();
        let mut kept = None;
        loop {
            self.env.sleep(LEASE_ROUND).await;
            let Some((replica, term)) = self.leading_root() else {
                continue;
            };
            let answer = self.kept_answer(&replica, RootQuery::Leases, &mut kept);
            let Some(RootAnswer::Leases(leases)) = answer.await else {
                continue;
            };
            let ended = watch.ended(self.env.now(), term, &leases);
            let expire = ended.into_iter().map(|(session, renewed_at)| {
                event!(self.env, Info, "pages", "lease of {session:?} has ended");
                RootCommand::ExpireLease {
                    session,
                    renewed_at,
                }
            });
            self.propose_root(expire.collect()).await;
        }
    }

    pub(super) async fn topology(&self, replica: &Arc<dyn GroupReplica>) -> Option<Topology> {
        match self.root_answer(replica, RootQuery::Topology).await {
            Some(RootAnswer::Topology(topology)) => Some(topology),
            _ => None,
        }
    }

    /// Probes every node, and tells the root who is up or down.
    pub(super) async fn health(self) {
        let mut watch = HealthWatch::default();
        let mut kept = None;
        loop {
            self.env.sleep(self.config.round).await;
            let Some((replica, term)) = self.leading_root() else {
                continue;
            };
            let answer = self.kept_answer(&replica, RootQuery::Topology, &mut kept);
            let Some(RootAnswer::Topology(topology)) = answer.await else {
                continue;
            };
            let from = self.own_node(&replica);
            let mut answered = Vec::new();
            for nodes in topology.nodes.chunks(PROBES) {
                let probes = nodes.iter().map(|node| {
                    let peer = Peer::new(node.address.clone(), node.node);
                    self.probe(peer, node.node, from)
                });
                answered.extend(join_all(probes).await.into_iter().flatten());
            }
            let now = self.env.now();
            let verdicts = watch.judge(
                now,
                term,
                &topology.nodes,
                &answered,
                self.config.down_after,
            );
            let commands = verdicts.into_iter().map(|verdict| {
                let node = verdict.node;
                event!(self.env, Info, "pages", "{node} is {:?}", verdict.state);
                RootCommand::JudgeNode {
                    node,
                    seen: verdict.seen,
                    state: verdict.state,
                    reason: verdict.reason,
                }
            });
            self.propose_root(commands.collect()).await;
        }
    }

    fn own_node(&self, replica: &Arc<dyn GroupReplica>) -> NodeId {
        let own = replica.member();
        let members = replica.leadership().members;
        let own = members.iter().find(|member| member.member == own);
        own.map(|member| member.node).unwrap_or_default()
    }

    async fn probe(&self, peer: Peer, node: NodeId, from: NodeId) -> Option<NodeId> {
        let request = NodeRequest::Heartbeat { from };
        let reply = self.client.node_request(&peer, &request, PROBE_LIMIT).await;
        (reply == Some(NodeReply::Alive)).then_some(node)
    }

    /// Floors, drops and the first shards.
    pub(super) async fn root_work(self) {
        let mut alive = (0, BTreeSet::new());
        // The term and the applied index at which there was last nothing to do.
        let mut at_rest = None;
        loop {
            self.env.sleep(self.config.round / 2).await;
            let Some((replica, term)) = self.leading_root() else {
                continue;
            };
            let now = (term, replica.applied_index());
            if at_rest == Some(now) {
                continue;
            }
            if alive.0 != term {
                alive = (term, BTreeSet::new());
            }
            let mut rests = self.shards(&replica, &mut alive.1).await;
            let floors = self.root_answer(&replica, RootQuery::PendingFloors).await;
            rests &= floors == Some(RootAnswer::Pending(Vec::new()));
            if let Some(RootAnswer::Pending(work)) = floors {
                let work = self.opened(&replica, work).await;
                join_all(pairs(&work).map(|(disk, group)| self.floor(disk, group))).await;
            }
            let drops = self.root_answer(&replica, RootQuery::PendingDrops).await;
            rests &= drops == Some(RootAnswer::Pending(Vec::new()));
            if let Some(RootAnswer::Pending(work)) = drops {
                let work = self.opened(&replica, work).await;
                join_all(pairs(&work).map(|(disk, group)| self.drop_disk(disk, group))).await;
            }
            at_rest = rests.then_some(now);
        }
    }

    /// Fences a disk's containers in one shard.
    async fn floor(&self, disk: &DiskRecord, group: GroupId) {
        let Some(layer) = disk.layers.first() else {
            return;
        };
        let held = disk.attachments.iter();
        let command = ShardCommand::Floor {
            disk: disk.disk,
            family: disk.family,
            generation: disk.generation,
            writers: held.map(|attachment| attachment.writer).collect(),
            layer: *layer,
        };
        match self.shard_command(group, command).await {
            // A higher floor stands: this one is implied.
            Some(
                ShardOutcome::Done
                | ShardOutcome::Refused(ShardRefusal::StaleGeneration { .. })
                | ShardOutcome::Refused(ShardRefusal::Deleted),
            ) => {
                let applied = RootCommand::FloorApplied {
                    disk: disk.disk,
                    generation: disk.generation,
                    group,
                };
                self.propose_root(vec![applied]).await;
            }
            other => event!(
                self.env,
                Warn,
                "pages",
                "{group}: floor of {}: {other:?}",
                disk.disk
            ),
        }
    }

    /// Drops a disk in one shard, some steps at a time.
    async fn drop_disk(&self, disk: &DiskRecord, group: GroupId) {
        for _ in 0..DROP_STEPS {
            let command = ShardCommand::Drop {
                disk: disk.disk,
                family: disk.family,
                layers: disk.layers.clone(),
            };
            match self.shard_command(group, command).await {
                Some(ShardOutcome::Dropped { finished: true }) => {
                    return self.dropped(disk.disk, group).await;
                }
                Some(ShardOutcome::Dropped { finished: false }) => {}
                _ => return,
            }
        }
    }

    async fn dropped(&self, disk: VirtualDiskId, group: GroupId) {
        self.propose_root(vec![RootCommand::DiskDropped { disk, group }])
            .await;
    }

    pub(super) async fn shard_command(
        &self,
        group: GroupId,
        command: ShardCommand,
    ) -> Option<ShardOutcome> {
        let asked = self
            .client
            .shard_commands(group, vec![command], SHARD_LIMIT);
        match asked.await {
            Ok(mut outcomes) => outcomes.pop(),
            Err(error) => {
                event!(self.env, Info, "pages", "{error}");
                None
            }
        }
    }

    /// Makes the shards once, and starts those that nobody has seen alive in this term. Whether all
    /// have been.
    async fn shards(&self, replica: &Arc<dyn GroupReplica>, alive: &mut BTreeSet<GroupId>) -> bool {
        let Some(RootAnswer::Table(table)) = self.root_answer(replica, RootQuery::Table).await
        else {
            return false;
        };
        let Some(topology) = self.topology(replica).await else {
            return false;
        };
        let directory = self.client.directory();
        directory.learn_table(table.clone());
        directory.learn_topology(topology.clone());
        if table.shards.is_empty() {
            let (count, most) = (self.config.shards, self.config.replicas);
            if let Some(shards) = plan_shards(&topology, &table, count, most) {
                self.propose_root(vec![RootCommand::CreateShards { shards }])
                    .await;
            }
            return false;
        }
        let shards = table.distinct().into_iter();
        let unseen = shards.filter(|shard| !alive.contains(&shard.group));
        let started = join_all(unseen.map(|shard| self.start_shard(shard, &topology, &table)));
        alive.extend(started.await.into_iter().flatten());
        table
            .shards
            .iter()
            .all(|shard| alive.contains(&shard.group))
    }

    /// Answers the shard when it answers; else has its members started, and one of them begin the
    /// group: the first, or else the first that runs, since the first may have lost its disk before.
    ///
    /// Several may begin one after the other, and one may be asked when the group has long begun: who has
    /// a log takes no notice. Whoever is recorded as a member later than that is one by a change that a
    /// majority of the recorded ones has in its log, so those that are blank are too few to elect
    /// anybody. Until the first change all begin with the same members, that is, with the same entry.
    pub(super) async fn start_shard(
        &self,
        shard: &GroupRecord,
        topology: &Topology,
        table: &ShardTable,
    ) -> Option<GroupId> {
        let group = shard.group;
        if self.answers(group).await {
            return Some(group);
        }
        event!(
            self.env,
            Info,
            "pages",
            "starting {group} of map {}",
            table.epoch
        );
        let starts = shard.members.iter().map(|member| {
            let mut nodes = topology.nodes.iter();
            let record = nodes.find(|record| record.node == member.node);
            let address = record.map_or(&member.address, |record| &record.address);
            let peer = Peer::new(address.clone(), member.node);
            let is_first = shard.members.first().map(|first| first.member) == Some(member.member);
            async move {
                let started = self.start_member(shard, member.member, &peer, is_first);
                (member.member, peer.clone(), started.await)
            }
        });
        let started = join_all(starts).await;
        let begun = matches!(started.first(), Some((_, _, Ok(()))));
        let other = started.iter().find(|(_, _, started)| started.is_ok());
        if let (false, Some((member, peer, _))) = (begun, other)
            && let Err(reason) = self.start_member(shard, *member, peer, true).await
        {
            event!(self.env, Info, "pages", "{group}: {reason}");
        }
        let reason = started
            .into_iter()
            .find_map(|(_, _, started)| started.err())?;
        event!(self.env, Info, "pages", "{group}: {reason}");
        None
    }

    async fn start_member(
        &self,
        shard: &GroupRecord,
        member: MemberId,
        peer: &Peer,
        initialise: bool,
    ) -> Result<(), String> {
        let request = NodeRequest::StartReplica {
            group: shard.group,
            member,
            members: shard.members.clone(),
            initialise,
        };
        match self.client.node_request(peer, &request, START_LIMIT).await {
            Some(NodeReply::Started) => Ok(()),
            other => Err(format!(
                "{} did not start {member}: {other:?}",
                peer.address
            )),
        }
    }

    /// Whether the shard has a leader that answers.
    async fn answers(&self, group: GroupId) -> bool {
        let names = ShardRequest::Names {
            store: hedgerow_env::StoreId(0),
            names: Vec::new(),
        };
        self.client.shard(group, names, SHARD_LIMIT).await.is_ok()
    }
}

/// Every (disk, shard) of the pending work.
fn pairs(work: &[PendingShardWork]) -> impl Iterator<Item = (&DiskRecord, GroupId)> {
    work.iter().flat_map(|item| {
        let groups = item.groups.iter();
        groups.map(|group| (&item.disk, *group))
    })
}
