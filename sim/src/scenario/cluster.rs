//! The cluster of a plan: its nodes in the world, each running the production [`Node`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{Env, event};
use hedgerow_node::{Exports, GroupTiming, IscsiConfig, Node, NodeConfig, PoolConfig, StoreScale};
use hedgerow_protocol::{Location, Residence, Roles};

use crate::world::{NodeIndex, NodeSpec, World};

use super::clients::{Agents, run_agents};
use super::initiators::{PORTAL_PORT, run_initiators};
use super::plan::Plan;

/// The RPC port of every node.
const PORT: u16 = 7100;

/// The running cluster.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    world: World,
    plan: Plan,
    indexes: Vec<NodeIndex>,
    /// Where the initiators run; not one of the cluster's nodes.
    machine: NodeIndex,
    live: Mutex<BTreeMap<NodeIndex, Node>>,
    agents: Arc<Agents>,
}

fn address(index: NodeIndex) -> String {
    format!("node-{}:{PORT}", index.0)
}

impl Cluster {
    /// Adds the plan's nodes to the world and starts them.
    #[must_use]
    pub fn start(world: &World, plan: &Plan, agents: Arc<Agents>) -> Self {
        let mut indexes = Vec::new();
        for number in 0..plan.nodes {
            let rack = number % plan.racks;
            let spec = NodeSpec::new(
                &format!("node-{number}"),
                &format!("rack-{rack}"),
                &format!("dc-{}", rack % plan.data_centres),
            );
            let index = world.add_node(spec);
            world.set_drift(index, plan.drift(index));
            indexes.push(index);
        }
        let machine = world.add_node(NodeSpec::new("initiators", "rack-0", "dc-0"));
        let initiators = Arc::clone(&agents);
        drop(world.start(machine, move |env| {
            Box::pin(run_initiators(Arc::clone(&initiators), env))
        }));
        let cluster = Self(Arc::new(Inner {
            world: world.clone(),
            plan: plan.clone(),
            indexes,
            machine,
            live: Mutex::default(),
            agents,
        }));
        for index in cluster.indexes() {
            let running = cluster.clone();
            drop(world.start(index, move |env| {
                let running = running.clone();
                Box::pin(async move { running.program(index, env).await })
            }));
        }
        cluster
    }

    /// The machine of the initiators.
    #[must_use]
    pub fn machine(&self) -> NodeIndex {
        self.0.machine
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
            .take(3)
            .map(|seed| address(*seed))
            .collect();
        NodeConfig {
            name: spec.name,
            listen: address(index),
            advertise: address(index),
            seeds,
            roles: Roles::ALL,
            location: Location {
                data_centre: spec.dc,
                rack: spec.rack,
            },
            pools: vec![PoolConfig {
                directory: "pool-0".into(),
                residence: Residence::Hdd,
                capacity_bytes: 256 << 20,
            }],
            iscsi: Some(IscsiConfig {
                listen: format!("node-{}:{PORTAL_PORT}", index.0),
                exports: Exports::All,
                chap: None,
            }),
            shards: self.0.plan.shards,
            timing: GroupTiming {
                heartbeat: Duration::from_millis(250),
                election: Duration::from_millis(1_000),
            },
            scale: StoreScale::Simulation,
        }
    }

    /// What a simulated machine runs: the production node, and the clients that sit on it.
    async fn program(&self, index: NodeIndex, env: Env) {
        self.live().remove(&index);
        let node = match Node::start(env.clone(), self.config(index)).await {
            Ok(node) => node,
            Err(error) => {
                event!(env, Error, "sim", "node did not start: {error}");
                env.halt(error.halt_reason());
                return;
            }
        };
        self.live().insert(index, node.clone());
        run_agents(&self.0.agents, index, node).await;
    }
}
