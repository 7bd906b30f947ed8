//! Group growth, done: one step of a group that is led here, round after round.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hedgerow_env::{GroupId, NodeId, StoreId, event};
use hedgerow_net::Peer;
use hedgerow_protocol::{NodeRequest, ROOT_GROUP, RootCommand, RootOutcome, ShardTable, Topology};

use super::Drivers;
use super::growth::{self, Step};
use crate::{GroupReplica, root};

/// A command to the root within one round.
const ROOT_LIMIT: Duration = Duration::from_secs(2);
/// Starting a replica makes files and syncs them.
const START_LIMIT: Duration = Duration::from_secs(5);
/// A learner is caught up by a snapshot at most once; beyond this the step is tried again.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

impl Drivers {
    /// The rounds of one group, as long as it is led here.
    pub(super) async fn members(self, group: GroupId) {
        while let Some((replica, _)) = self.leading(group) {
            self.grow(group, &replica).await;
            self.env.sleep(self.config.round).await;
        }
    }

    /// The topology and the table as this node knows them: the root's own replica knows best.
    async fn known(&self) -> (Arc<Topology>, ShardTable) {
        let directory = self.client.directory();
        if let Some((replica, _)) = self.leading_root()
            && self.learned.load(Ordering::SeqCst) != replica.applied_index()
        {
            let index = replica.applied_index();
            let ask = |view: &dyn crate::View, _| {
                Ok((root::query::topology(view)?, root::query::table(view)?))
            };
            if let Ok((topology, table)) = crate::service::read_local(&replica, ask).await {
                directory.learn_topology(topology);
                directory.learn_table(table);
                self.learned.store(index, Ordering::SeqCst);
            }
        }
        (directory.topology(), directory.table())
    }

    async fn grow(&self, group: GroupId, replica: &Arc<dyn GroupReplica>) {
        let (topology, table) = self.known().await;
        let leadership = replica.leadership();
        let most = self.config.replicas;
        let retired = self.service.retired(group);
        match growth::next_step(group, &leadership, &retired, &topology, &table, most) {
            Step::Rest => {}
            Step::Promote(voters) | Step::Remove(voters) => {
                let change = replica.change_voters(Vec::new(), voters);
                self.change(group, change).await;
            }
            Step::Add(node, store) => self.add(group, replica, &topology, node, store).await,
            Step::Record(record) => {
                let command = RootCommand::SetGroupMembers(record);
                if let Err(error) = self.client.root_command(command, ROOT_LIMIT).await {
                    event!(
                        self.env,
                        Info,
                        "pages",
                        "{group}: recording members: {error}"
                    );
                }
            }
        }
    }

    async fn change(
        &self,
        group: GroupId,
        change: hedgerow_env::BoxFuture<'static, Result<(), crate::ProposeError>>,
    ) {
        match self.env.timeout(CHANGE_LIMIT, change).await {
            Ok(Ok(())) => event!(self.env, Info, "pages", "{group}: members changed"),
            Ok(Err(error)) => event!(self.env, Info, "pages", "{group}: members: {error}"),
            Err(elapsed) => event!(self.env, Info, "pages", "{group}: members: {elapsed}"),
        }
    }

    async fn add(
        &self,
        group: GroupId,
        replica: &Arc<dyn GroupReplica>,
        topology: &Topology,
        node: NodeId,
        store: StoreId,
    ) {
        if group != ROOT_GROUP && topology.nodes.is_empty() {
            return;
        }
        let command = RootCommand::NextReplica { group, store };
        let number = match self.client.root_command(command, ROOT_LIMIT).await {
            Ok(RootOutcome::Replica(number)) => number,
            other => {
                event!(
                    self.env,
                    Info,
                    "pages",
                    "{group}: no replica number: {other:?}"
                );
                return;
            }
        };
        let new = growth::member(topology, node, store, number);
        let leadership = replica.leadership();
        let mut members = leadership.members.clone();
        members.push(new.clone());
        let request = NodeRequest::StartReplica {
            group,
            member: new.member,
            members,
            initialise: false,
        };
        let peer = Peer::new(new.address.clone(), node);
        let reply = self.client.node_request(&peer, &request, START_LIMIT).await;
        let Some(new) = growth::joining(new, reply.as_ref()) else {
            event!(
                self.env,
                Info,
                "pages",
                "{group}: {node} did not start: {reply:?}"
            );
            return;
        };
        let mut voters = leadership.voters;
        voters.push(new.member);
        let change = replica.change_voters(vec![new], voters);
        self.change(group, change).await;
    }
}
