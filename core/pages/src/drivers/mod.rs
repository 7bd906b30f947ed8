//! The leaders' duties: loops that run on every node with a replica, and act only for the groups
//! that are led here.
//!
//! `leases` and `health` decide when time is up; `growth` decides who joins and leaves a group;
//! `drain` has members on nodes that drain substituted; `split` makes two shards of one;
//! `root` and `shard` are the loops. `rejoin` alone runs for members that are retired.
//!
//! Invariants: whatever a driver proposes is conditional, so a leader of the past does no harm;
//! each round is bounded, and a group that does not answer holds up no other: the duties towards a
//! group run in a task of its own.
//! Does not: keep anything that must survive the leader.

mod drain;
mod growth;
mod health;
mod leases;
mod members;
mod rejoin;
mod root;
mod shard;
mod split;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hedgerow_env::{Env, GroupId};
use hedgerow_net::GroupClient;
use hedgerow_protocol::{GroupBody, GroupReply, GroupRequest, ROOT_GROUP};

use crate::GroupReplica;
use crate::service::{GroupService, Replicas};

/// How many groups of which size, and how fast the leaders act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverConfig {
    /// Shards that are made after bootstrap, a power of two.
    pub shards: usize,
    /// Most replicas of a group: 3 or 5.
    pub replicas: usize,
    /// Pause between two rounds of a duty that is not urgent.
    pub round: Duration,
    /// A node that did not answer for so long is down.
    pub down_after: Duration,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            shards: 4,
            replicas: 5,
            round: Duration::from_secs(1),
            down_after: Duration::from_secs(5),
        }
    }
}

/// What every duty needs.
#[derive(Clone)]
pub struct Drivers {
    env: Env,
    replicas: Arc<dyn Replicas>,
    service: GroupService,
    client: GroupClient,
    config: DriverConfig,
    /// The index of the root's state here from which the directory has learned; 0: none.
    learned: Arc<AtomicU64>,
}

impl Drivers {
    /// Starts every duty of this node; they end with the node.
    pub fn start(
        env: Env,
        replicas: Arc<dyn Replicas>,
        service: GroupService,
        client: GroupClient,
        config: DriverConfig,
    ) {
        let drivers = Self {
            env: env.clone(),
            replicas,
            service,
            client,
            config,
            learned: Arc::default(),
        };
        env.spawn("pages-leases", drivers.clone().leases());
        env.spawn("pages-health", drivers.clone().health());
        env.spawn("pages-root-work", drivers.clone().root_work());
        env.spawn("pages-drain", drivers.clone().draining());
        env.spawn("pages-split", drivers.clone().splitting());
        let shards = drivers.clone();
        env.spawn("pages-shard-work", async move {
            let is_shard = |group| group != ROOT_GROUP;
            shards.each_group(is_shard, Self::shard_work).await;
        });
        env.spawn("pages-rejoin", drivers.clone().rejoin());
        env.spawn("pages-members", async move {
            drivers.each_group(|_| true, Self::members).await;
        });
    }

    /// Keeps `duty` running in a task of its own for each group that is led here. The duty ends
    /// when the group is led here no more; what it waits for then ends with the leadership.
    async fn each_group<W>(
        self,
        wanted: impl Fn(GroupId) -> bool,
        duty: impl Fn(Self, GroupId) -> W,
    ) where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut running = BTreeMap::<GroupId, Arc<AtomicBool>>::new();
        loop {
            self.env.sleep(self.config.round).await;
            running.retain(|_, running| running.load(Ordering::SeqCst));
            for group in self.replicas.groups() {
                if !wanted(group) || running.contains_key(&group) || self.leading(group).is_none() {
                    continue;
                }
                let flag = Arc::new(AtomicBool::new(true));
                running.insert(group, Arc::clone(&flag));
                let work = duty(self.clone(), group);
                self.env.spawn("pages-duty", async move {
                    work.await;
                    flag.store(false, Ordering::SeqCst);
                });
            }
        }
    }

    /// The replica of `group` here, if it leads, and its term.
    fn leading(&self, group: GroupId) -> Option<(Arc<dyn GroupReplica>, u64)> {
        let replica = self.replicas.replica(group)?;
        let leadership = replica.leadership();
        leadership.is_leader.then_some((replica, leadership.term))
    }

    fn leading_root(&self) -> Option<(Arc<dyn GroupReplica>, u64)> {
        self.leading(ROOT_GROUP)
    }

    /// Asks a group that is led here.
    async fn ask(&self, group: GroupId, body: GroupBody) -> GroupReply {
        self.service.answer(GroupRequest { group, body }).await
    }
}

#[cfg(test)]
mod tests;
