//! [`SimCluster`]: a simulated cluster as a target of tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hedgerow_env::{AbortOnDrop, BoxFuture, Env, HaltReason, event};
use hedgerow_jepsen::run::workload::WorkloadPlan;
use hedgerow_jepsen::run::{
    Client, Fault, Incident, Struck, Target, TargetError, TestPlan, node_name,
};
use hedgerow_jepsen_clients::{Clients, DISK, Ends, Operator};
use hedgerow_net::{Rpc, admin};
use hedgerow_protocol::{AdminReply, AdminRequest, DiskRecord};

use crate::oracles;
use crate::scenario::{Cluster, Failure, Plan, converge};
use crate::world::{DiskFaults, LinkTally, NodeIndex, NodeStatus, Survival, World};

use super::repeated::WrongClock;

/// A store that is refused is refused within this time of the start.
const REFUSAL_LIMIT: Duration = Duration::from_secs(8);
/// Shards of the cluster, as processes under test have them.
const SHARDS: u32 = 2;
/// How much slower than an SSD a disk is where power is lost: like a hard disk, so that what is
/// promised too soon is promised for long enough to be lost.
const SLOW_DISKS: u32 = 20;

/// A fault of links that is on: which links, and what they had done when it began.
pub(super) struct OnLinks {
    pub(super) fault: Fault,
    pub(super) links: Vec<(NodeIndex, NodeIndex)>,
    pub(super) before: LinkTally,
    /// What breaks connections until it is dropped.
    pub(super) _breaking: Option<AbortOnDrop>,
}

/// The cluster.
pub(super) struct SimCluster {
    pub(super) world: World,
    pub(super) cluster: Cluster,
    plan: TestPlan,
    env: OnceLock<Env>,
    ready: OnceLock<Ready>,
    pub(super) on_links: Mutex<Vec<OnLinks>>,
    /// Clocks that are wrong.
    pub(super) clocks: Mutex<BTreeMap<u16, WrongClock>>,
    /// Nodes that were told to stop, and whether they have.
    pub(super) stops: Mutex<BTreeMap<u16, Arc<AtomicBool>>>,
    incidents: Mutex<Vec<Incident>>,
    /// Lives whose ends were noted.
    noted: Mutex<BTreeSet<(NodeIndex, u32)>>,
}

struct Ready {
    clients: Clients,
    operator: Operator,
    rpc: Rpc,
}

impl SimCluster {
    /// Starts the nodes of `plan`.
    pub(super) fn start(world: &World, plan: &TestPlan) -> Self {
        let shape = Plan {
            seed: plan.seed,
            nodes: plan.all_nodes(),
            racks: plan.racks,
            data_centres: 2,
            shards: SHARDS,
            ..Plan::plain()
        };
        Self {
            world: world.clone(),
            cluster: Cluster::start_alone(world, &shape, plan.spares, plan.small_stores),
            plan: plan.clone(),
            env: OnceLock::new(),
            ready: OnceLock::new(),
            on_links: Mutex::default(),
            clocks: Mutex::default(),
            stops: Mutex::default(),
            incidents: Mutex::default(),
            noted: Mutex::default(),
        }
    }

    /// The tester's machine.
    pub(super) fn machine(&self) -> NodeIndex {
        self.cluster.machine()
    }

    /// The tester is here.
    pub(super) fn attend(&self, env: Env) {
        assert!(self.env.set(env).is_ok(), "a target has one tester");
    }

    pub(super) fn env(&self) -> &Env {
        self.env.get().expect("a tester attends before it tests")
    }

    /// The operator, once the cluster was set up.
    pub(super) fn operator(&self) -> &Operator {
        &self.ready().operator
    }

    fn ready(&self) -> &Ready {
        let ready = self.ready.get();
        ready.expect("nobody asks a target that was not set up")
    }

    async fn form(&self) -> Result<(), TargetError> {
        let env = self.env();
        let rpc = admin::client(env.clone()).map_err(|error| TargetError(error.to_string()))?;
        let ends: Vec<Ends> = self
            .cluster
            .indexes()
            .into_iter()
            .map(|index| Ends {
                rpc: self.cluster.address(index),
                portal: self.cluster.portal(index),
            })
            .collect();
        let workload = &self.plan.workload;
        let clients = Clients::prepare(env, &rpc, (&ends, self.plan.spares), workload).await?;
        let addresses = ends.into_iter().map(|end| end.rpc).collect();
        let operator = Operator::new(env.clone(), rpc.clone(), addresses);
        let ready = Ready {
            clients,
            operator,
            rpc,
        };
        assert!(self.ready.set(ready).is_ok(), "a target is set up once");
        for index in self.cluster.indexes() {
            self.world.set_disk_faults(index, self.disks());
        }
        Ok(())
    }

    /// What disks do wrong whatever strikes.
    pub(super) fn disks(&self) -> DiskFaults {
        let powerless = self.has(|fault| matches!(fault, Fault::PowerLoss { .. }));
        if !powerless && self.plan.slow_disks_ms == 0 {
            return DiskFaults::default();
        }
        DiskFaults {
            slow_factor: SLOW_DISKS,
            survival: Some(Survival::Nothing),
            ..DiskFaults::default()
        }
    }

    pub(super) fn note(&self, node: &str, text: String, defect: bool) {
        event!(self.env(), Warn, "jepsen", "{node}: {text}");
        let node = node.to_owned();
        let mut incidents = self.incidents.lock().expect("no panic under this lock");
        incidents.push(Incident { node, text, defect });
    }

    /// Notes the nodes that ended by themselves.
    pub(super) fn note_ends(&self) {
        for index in self.cluster.indexes() {
            let reason = match self.world.status(index) {
                NodeStatus::Halted(reason) => Some(reason),
                NodeStatus::Exited => None,
                _ => continue,
            };
            let life = (index, self.world.incarnation(index));
            let fresh = self
                .noted
                .lock()
                .expect("no panic under this lock")
                .insert(life);
            if fresh {
                let defect = reason.as_ref().is_none_or(|reason| self.is_defect(reason));
                let why = reason.map_or_else(|| "it returned".to_owned(), |why| why.to_string());
                self.note(
                    &node_name(index.0),
                    format!("ended by itself: {why}"),
                    defect,
                );
            }
        }
    }

    /// A node may stop itself, or refuse to start, when its disk was made to fail, and never
    /// otherwise: the rule of the target `processes`.
    fn is_defect(&self, reason: &HaltReason) -> bool {
        let fails = |fault: &Fault| matches!(fault, Fault::Damage { .. } | Fault::FullDisk { .. });
        let disks_fail = self.plan.faults.iter().any(|timed| fails(&timed.fault));
        matches!(reason, HaltReason::Invariant(_)) || !disks_fail
    }

    fn has(&self, wanted: impl Fn(&Fault) -> bool) -> bool {
        self.plan.faults.iter().any(|timed| wanted(&timed.fault))
    }

    async fn heal_all(&self) {
        self.world.reset_links();
        for index in self.cluster.indexes() {
            self.world.set_disk_faults(index, DiskFaults::default());
            self.world.set_drift(index, 0);
            self.world.resume(index);
        }
        self.note_ends();
        for index in self.cluster.indexes() {
            self.world.restart_if_down(index);
        }
        if self.has(|fault| matches!(fault, Fault::Damage { .. })) {
            self.replace_refused().await;
        }
        if self.has(|fault| matches!(fault, Fault::Drain { .. }))
            && let Err(why) = self.operator().end_drains().await
        {
            self.note("operator", why, false);
        }
    }

    /// A node that refuses its damaged store is wiped and joins anew, as its message advises.
    async fn replace_refused(&self) {
        self.env().sleep(REFUSAL_LIMIT).await;
        self.note_ends();
        for index in self.cluster.indexes() {
            let absent = !self.cluster.has_appeared(index);
            if !absent && self.world.env(index).is_none() {
                self.world.wipe_disk(index);
                let text = "its damaged store was refused; wiped, and started as a new node";
                self.note(&node_name(index.0), text.to_owned(), false);
                self.world.restart_if_down(index);
            }
        }
    }

    /// What the simulator sees and a test of processes cannot: the replicas' contents and every
    /// copy of every blob.
    async fn judge_stores(&self) -> Result<(), Failure> {
        converge(&self.world, &self.cluster).await?;
        oracles::replicas::check_groups(&self.world, &self.cluster, 0).await?;
        match self.disk().await {
            Some(disk) => {
                let patience = oracles::copies::PATIENCE;
                oracles::copies::check(&self.world, &self.cluster, &[disk], 0, patience).await
            }
            None => Ok(()),
        }
    }

    /// The record of the workload's disk, if it has one.
    async fn disk(&self) -> Option<DiskRecord> {
        if !matches!(self.plan.workload, WorkloadPlan::Block(_)) {
            return None;
        }
        let request = AdminRequest::ShowDisk { name: DISK.into() };
        for index in self.cluster.indexes() {
            let address = self.cluster.address(index);
            if let Ok(AdminReply::Disk(disk)) =
                admin::ask(&self.ready().rpc, &address, &request).await
            {
                return Some(disk.record);
            }
        }
        None
    }
}

impl Target for SimCluster {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn set_up<'a>(&'a self, _plan: &'a TestPlan) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(self.form())
    }

    fn client(&self, process: u64) -> Box<dyn Client> {
        self.ready().clients.client(process)
    }

    fn used_node(&self) -> Option<u16> {
        self.ready().clients.used_node()
    }

    fn says_it_is_whole(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.operator().says_it_is_whole())
    }

    fn begin<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move {
            self.note_ends();
            self.begin_fault(fault).await
        })
    }

    fn end<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Struck> {
        Box::pin(async move { self.end_fault(fault).await })
    }

    fn has_defect(&self) -> BoxFuture<'_, bool> {
        self.note_ends();
        let incidents = self.incidents.lock().expect("no panic under this lock");
        let ready = self.ready.get();
        let wrong = ready.is_some_and(|ready| !ready.clients.wrong_answers().is_empty());
        let has_defect = wrong || incidents.iter().any(|incident| incident.defect);
        Box::pin(std::future::ready(has_defect))
    }

    fn heal(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move {
            self.heal_all().await;
            Ok(())
        })
    }

    fn tear_down(&self) -> BoxFuture<'_, Vec<Incident>> {
        Box::pin(async move {
            self.note_ends();
            // A node that was lost with its disk stays listed, and its copies stay missed.
            let lost = self.has(|fault| matches!(fault, Fault::Damage { .. } | Fault::Wipe { .. }));
            if !lost
                && self.ready.get().is_some()
                && let Err(failure) = self.judge_stores().await
            {
                self.note(failure.oracle, failure.text, true);
            }
            self.note_ends();
            for wrong in self
                .ready
                .get()
                .iter()
                .flat_map(|ready| ready.clients.wrong_answers())
            {
                self.note(&wrong.node, wrong.text, wrong.defect);
            }
            std::mem::take(&mut *self.incidents.lock().expect("no panic under this lock"))
        })
    }
}
