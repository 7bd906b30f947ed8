//! The cluster of a plan: its nodes in the world, each running the production [`Node`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{Env, HaltReason, event};
use hedgerow_node::{Exports, GroupTiming, IscsiConfig, Node, NodeConfig, PoolConfig, StoreScale};
use hedgerow_protocol::{Location, Residence, Roles};

use crate::oracles::openings::{self, Openings};
use crate::oracles::promises::Lives;
use crate::world::{NodeIndex, NodeSpec, World};

use super::clients::{Agents, run_agents};
use super::initiators::{PORTAL_PORT, run_initiators};
use super::other_disks::run_clients;
use super::plan::Plan;
use super::survival::Survival;

/// The RPC port of every node.
const PORT: u16 = 7100;

/// The running cluster.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    world: World,
    plan: Plan,
    manner: Manner,
    indexes: Vec<NodeIndex>,
    /// Where the initiators run; not one of the cluster's nodes.
    machine: NodeIndex,
    live: Mutex<BTreeMap<NodeIndex, Node>>,
    damage: Mutex<Damage>,
    lives: Lives,
    /// The clients that sit on the nodes, if any do.
    agents: Option<Arc<Agents>>,
    openings: Openings,
}

/// Whose disks may be damaged, and which were lost.
#[derive(Debug, Default)]
struct Damage {
    expected: BTreeSet<NodeIndex>,
    forgetful: BTreeSet<NodeIndex>,
    /// Those whose disks may look damaged when they are read.
    misread: BTreeSet<NodeIndex>,
    lost: BTreeSet<NodeIndex>,
}

/// In what scenarios differ from tests that processes run, too.
struct Manner {
    /// The number in the first node's name.
    first_number: u16,
    /// Nodes that are not started with the others.
    spares: u16,
    pool_bytes: u64,
    timing: GroupTiming,
    scale: StoreScale,
}

impl Manner {
    /// Small and quick, so that rare things happen within half a minute.
    fn scenario(plan: &Plan) -> Self {
        let plain = Self {
            first_number: 0,
            spares: 0,
            pool_bytes: 256 << 20,
            // As many heartbeats to an election as by default.
            timing: GroupTiming {
                heartbeat: Duration::from_millis(333),
                election: Duration::from_millis(1_000),
            },
            scale: StoreScale::Simulation,
        };
        let Some(tunables) = &plan.tunables else {
            return plain;
        };
        Self {
            timing: tunables.timing(),
            scale: StoreScale::Extreme(tunables.extremes()),
            ..plain
        }
    }

    /// As processes under test are configured.
    fn test(spares: u16, small_stores: bool) -> Self {
        Self {
            first_number: 1,
            spares,
            pool_bytes: 20 << 30,
            timing: GroupTiming::default(),
            scale: if small_stores {
                StoreScale::Trial
            } else {
                StoreScale::Workstation
            },
        }
    }
}

impl Cluster {
    /// Adds the plan's nodes to the world and starts them, with clients beside them.
    #[must_use]
    pub fn start(world: &World, plan: &Plan, agents: Arc<Agents>) -> Self {
        Self::start_all(world, plan, Manner::scenario(plan), Some(agents))
    }

    /// Adds the plan's nodes to the world and starts them, and nothing else but a machine for
    /// whoever uses them. The last `spares` of them are not started yet.
    #[must_use]
    pub fn start_alone(world: &World, plan: &Plan, spares: u16, small_stores: bool) -> Self {
        let manner = Manner::test(spares, small_stores);
        Self::start_all(world, plan, manner, None)
    }

    fn start_all(world: &World, plan: &Plan, manner: Manner, agents: Option<Arc<Agents>>) -> Self {
        let mut indexes = Vec::new();
        for number in 0..plan.nodes {
            let rack = number % plan.racks;
            let spec = NodeSpec::new(
                &format!("node-{}", number + manner.first_number),
                &format!("rack-{rack}"),
                &format!("dc-{}", rack % plan.data_centres),
            );
            let index = world.add_node(spec);
            world.set_drift(index, plan.drift(index));
            indexes.push(index);
        }
        let machine = world.add_node(NodeSpec::new("initiators", "rack-0", "dc-0"));
        match &agents {
            Some(agents) => {
                let agents = Arc::clone(agents);
                drop(world.start(machine, move |env| {
                    Box::pin(run_initiators(Arc::clone(&agents), env))
                }));
            }
            None => drop(world.start_idle(machine)),
        }
        let cluster = Self(Arc::new(Inner {
            world: world.clone(),
            plan: plan.clone(),
            manner,
            indexes,
            machine,
            live: Mutex::default(),
            damage: Mutex::default(),
            lives: Lives::default(),
            agents,
            openings: Openings::default(),
        }));
        let begin = plan.nodes.saturating_sub(cluster.0.manner.spares);
        let first = cluster.indexes().into_iter().take(usize::from(begin));
        for index in first.filter(|index| plan.is_founder(*index)) {
            cluster.start_one(index);
        }
        cluster
    }

    /// Starts a node that was not started with the others.
    pub fn start_one(&self, index: NodeIndex) {
        let running = self.clone();
        drop(self.0.world.start(index, move |env| {
            let running = running.clone();
            Box::pin(async move { running.program(index, env).await })
        }));
    }

    /// Whether a node has ever been started.
    #[must_use]
    pub fn has_appeared(&self, index: NodeIndex) -> bool {
        self.0.world.incarnation(index) > 0
    }

    /// The disks of nodes may be damaged, and these are lost with all that they held.
    pub(super) fn expect_damage(&self, survival: &Survival, lost: BTreeSet<NodeIndex>) {
        let mut damage = self.0.damage.lock().expect("no panic under this lock");
        *damage = Damage {
            expected: survival.damaged().clone(),
            forgetful: survival.forgetful().clone(),
            misread: survival.misread().clone(),
            lost,
        };
    }

    /// Whether the node's disk may be damaged.
    pub(crate) fn is_damaged(&self, index: NodeIndex) -> bool {
        let damage = self.0.damage.lock().expect("no panic under this lock");
        damage.expected.contains(&index)
    }

    /// Whether the node's disk may be damaged, or look so when it is read.
    pub(crate) fn may_look_damaged(&self, index: NodeIndex) -> bool {
        let damage = self.0.damage.lock().expect("no panic under this lock");
        damage.expected.contains(&index) || damage.misread.contains(&index)
    }

    /// Whether the node's disk may be damaged so that nothing tells what it lost.
    pub(crate) fn is_forgetful(&self, index: NodeIndex) -> bool {
        let damage = self.0.damage.lock().expect("no panic under this lock");
        damage.forgetful.contains(&index)
    }

    /// How many disks are lost with all that they held.
    pub(super) fn lost_disks(&self) -> usize {
        let damage = self.0.damage.lock().expect("no panic under this lock");
        damage.lost.len()
    }

    /// Starts a node that is down. One that refused its damaged store gets an empty disk before, as
    /// its message advises.
    pub(super) fn start_again(&self, index: NodeIndex) {
        let world = &self.0.world;
        let refused = matches!(
            world.halted(index),
            Some(HaltReason::CannotServe(_) | HaltReason::RolledBack(_))
        );
        if refused && self.is_damaged(index) && world.wipe_disk(index) {
            let mut damage = self.0.damage.lock().expect("no panic under this lock");
            damage.lost.insert(index);
        }
        world.restart_if_down(index);
    }

    /// What opened stores lacked.
    pub(super) fn openings(&self) -> &Openings {
        &self.0.openings
    }

    /// How many replicas a group has at most.
    pub(crate) fn group_replicas(&self) -> usize {
        match self.0.manner.scale {
            StoreScale::Extreme(extremes) => extremes.group_replicas,
            _ => hedgerow_pages::drivers::DriverConfig::default().replicas,
        }
    }

    /// The replicas' lives that were seen.
    pub(crate) fn lives(&self) -> &Lives {
        &self.0.lives
    }

    pub(crate) fn world(&self) -> &World {
        &self.0.world
    }

    /// The machine of the initiators.
    #[must_use]
    pub fn machine(&self) -> NodeIndex {
        self.0.machine
    }

    /// Where a node's RPC answers.
    #[must_use]
    pub fn address(&self, index: NodeIndex) -> String {
        format!("{}:{PORT}", self.0.world.spec(index).name)
    }

    /// Where a node's portal answers.
    #[must_use]
    pub fn portal(&self, index: NodeIndex) -> String {
        format!("{}:{PORTAL_PORT}", self.0.world.spec(index).name)
    }

    /// The nodes.
    #[must_use]
    pub fn indexes(&self) -> Vec<NodeIndex> {
        self.0.indexes.clone()
    }

    /// The production node that runs at `index` now.
    #[must_use]
    pub fn node(&self, index: NodeIndex) -> Option<Node> {
        self.0.world.env(index)?;
        self.live().get(&index).cloned()
    }

    /// Every production node that runs now.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeIndex, Node)> {
        let nodes = self.indexes().into_iter();
        nodes
            .filter_map(|index| Some((index, self.node(index)?)))
            .collect()
    }

    fn live(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeIndex, Node>> {
        self.0.live.lock().expect("no panic under this lock")
    }

    fn config(&self, index: NodeIndex) -> NodeConfig {
        let spec = self.0.world.spec(index);
        let seeds = self
            .0
            .indexes
            .iter()
            .filter(|seed| self.0.plan.is_founder(**seed))
            .take(3)
            .map(|seed| self.address(*seed))
            .collect();
        NodeConfig {
            name: spec.name,
            listen: self.address(index),
            advertise: self.address(index),
            seeds,
            roles: Roles::ALL,
            location: Location {
                data_centre: spec.dc,
                rack: spec.rack,
            },
            pools: vec![PoolConfig {
                directory: "pool-0".into(),
                residence: Residence::Hdd,
                capacity_bytes: self.0.manner.pool_bytes,
            }],
            iscsi: Some(IscsiConfig {
                listen: self.portal(index),
                exports: Exports::All,
                chap: None,
            }),
            shards: self.0.plan.shards,
            timing: self.0.manner.timing,
            scale: self.0.manner.scale,
        }
    }

    /// What a simulated machine runs: the production node, and the clients that sit on it.
    async fn program(&self, index: NodeIndex, env: Env) {
        self.live().remove(&index);
        let watches = self.0.plan.watches_openings;
        let before = match watches {
            true => openings::held(&self.0.world, self).await,
            false => Vec::new(),
        };
        let node = match Node::start(env.clone(), self.config(index)).await {
            Ok(node) => node,
            Err(error) => {
                event!(env, Error, "sim", "node did not start: {error}");
                env.halt(error.halt_reason());
                return;
            }
        };
        self.live().insert(index, node.clone());
        self.0.openings.compare(self, index, &before);
        match &self.0.agents {
            Some(agents) => {
                let others = run_clients(agents, index, &node);
                futures_util::future::join(run_agents(agents, index, node.clone()), others).await;
            }
            None => std::future::pending().await,
        }
    }
}
