//! Operators at work: each of a plan's actions is asked of some node as the command line asks it, again
//! and again until it is done.
//!
//! Invariants: what concerns one disk or node is done in its order; every action ends within the bound
//! of service after the last fault, or the run fails. A node that is down when it is to drain is left
//! alone; one that drains does so no more in the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hedgerow_env::{NodeId, event};
use hedgerow_jepsen::check::Outcome;
use hedgerow_node::Node;
use hedgerow_protocol::{
    AdminReply, AdminRequest, DiskRecord, NodeState, Policy, RootAnswer, RootCommand, RootOutcome,
    RootQuery,
};

use crate::world::{NodeIndex, World};

use super::clients::{Agents, DISK, fresh_process};
use super::cluster::Cluster;
use super::operations::identity_seed;
use super::operators::{OperatorAction, OperatorDeed, Subject};
use super::other_disks::name;
use super::plan::Plan;
use super::run::{ASK_LIMIT, Failure, LOOK_PAUSE, SERVE_LIMIT, ask, nanoseconds, on_node};

const ORACLE: &str = "operators";

/// The operators of a run.
#[derive(Clone)]
pub(super) struct Operators(Arc<Inner>);

struct Inner {
    world: World,
    cluster: Cluster,
    agents: Arc<Agents>,
    plan: Plan,
    began_ns: u64,
    /// Subjects that are not through yet.
    at_work: AtomicUsize,
    /// What each is doing, for the failure's text.
    doing: Mutex<BTreeMap<Subject, String>>,
    /// What was asked and heard last, for the failure's text.
    last: Mutex<String>,
    /// What an operator found that he had not asked for.
    wrong: Mutex<Option<String>>,
    turn: AtomicUsize,
}

impl Operators {
    /// Has every subject's actions begin at their times from now on.
    pub(super) fn start(
        world: &World,
        plan: &Plan,
        cluster: &Cluster,
        agents: &Arc<Agents>,
    ) -> Self {
        let mut subjects: BTreeMap<Subject, Vec<OperatorAction>> = BTreeMap::new();
        for action in &plan.operators {
            let of_subject = subjects.entry(action.subject()).or_default();
            of_subject.push(action.clone());
        }
        let operators = Self(Arc::new(Inner {
            world: world.clone(),
            cluster: cluster.clone(),
            agents: Arc::clone(agents),
            plan: plan.clone(),
            began_ns: world.now_ns(),
            at_work: AtomicUsize::new(subjects.len()),
            doing: Mutex::default(),
            last: Mutex::default(),
            wrong: Mutex::default(),
            turn: AtomicUsize::new(0),
        }));
        let machine = world.env(cluster.machine());
        let machine = machine.expect("the machine of the initiators runs as long as the world");
        for (subject, actions) in subjects {
            let this = operators.clone();
            machine.spawn("operator", async move {
                for action in actions {
                    this.perform(subject, &action).await;
                }
                this.0.at_work.fetch_sub(1, Ordering::Relaxed);
            });
        }
        operators
    }

    /// Waits until everything is done.
    ///
    /// # Errors
    /// It is not within the bound of service from now on, or something came out otherwise than asked.
    pub(super) async fn finish(&self) -> Result<(), Failure> {
        let world = &self.0.world;
        let give_up = world.now_ns() + nanoseconds(SERVE_LIMIT);
        while self.0.at_work.load(Ordering::Relaxed) > 0 {
            if world.now_ns() >= give_up {
                let doing = self.0.doing.lock().expect("no panic under this lock");
                let last = self.0.last.lock().expect("no panic under this lock");
                let text = format!("not done {SERVE_LIMIT:?} after service: {doing:?}; {last}");
                return Err(Failure::liveness(ORACLE, text));
            }
            for index in self.0.cluster.indexes() {
                self.0.cluster.start_again(index);
            }
            world.sleep(LOOK_PAUSE).await;
        }
        let wrong = self.0.wrong.lock().expect("no panic under this lock");
        match &*wrong {
            Some(text) => Err(Failure::correctness(ORACLE, text.clone())),
            None => Ok(()),
        }
    }

    async fn perform(&self, subject: Subject, action: &OperatorAction) {
        let Inner {
            world, began_ns, ..
        } = &*self.0;
        world.sleep_until_ns(began_ns + action.at_ns).await;
        self.note(subject, format!("{action:?}"));
        match &action.deed {
            OperatorDeed::Create {
                disk,
                policy,
                halves,
                ..
            } => self.create(*disk, policy, *halves).await,
            OperatorDeed::Resize { disk, halves } => self.resize(*disk, *halves).await,
            OperatorDeed::Delete { disk } => self.delete(*disk).await,
            OperatorDeed::Drain { node, until_ns } => {
                let until_ns = began_ns + until_ns;
                if let Some((id, name)) = self.name_of(*node, until_ns).await {
                    let mut asked = self.set_draining(&name, true).await;
                    while !asked && world.now_ns() < until_ns {
                        world.sleep(LOOK_PAUSE).await;
                        asked = self.set_draining(&name, true).await;
                    }
                    world.sleep_until_ns(until_ns).await;
                    if asked {
                        self.still_drains(id).await;
                    }
                    while !self.set_draining(&name, false).await {
                        world.sleep(LOOK_PAUSE).await;
                    }
                }
            }
        }
        self.note(subject, String::new());
    }

    fn note(&self, subject: Subject, text: String) {
        let mut doing = self.0.doing.lock().expect("no panic under this lock");
        if text.is_empty() {
            doing.remove(&subject);
        } else {
            doing.insert(subject, text);
        }
    }

    /// A node's id: its name alone may be that of an earlier node as well, whose disk was wiped. None
    /// if it does not run until then.
    async fn name_of(&self, index: NodeIndex, until_ns: u64) -> Option<(NodeId, String)> {
        loop {
            if let Some(node) = self.0.cluster.node(index) {
                return Some((node.id(), format!("{:016x}", node.id().0)));
            }
            if self.0.world.now_ns() >= until_ns {
                return None;
            }
            self.0.world.sleep(LOOK_PAUSE).await;
        }
    }

    /// What an operator asked for outlives whatever became of the node since.
    async fn still_drains(&self, id: NodeId) {
        let topology = loop {
            if let Some(node) = self.any_node() {
                let groups = node.groups().clone();
                let asking = async move {
                    let asked = groups.root_query(RootQuery::Topology, ASK_LIMIT).await;
                    asked.ok()
                };
                let answer = on_node(&self.0.world, &node, asking).await.flatten();
                if let Some(RootAnswer::Topology(topology)) = answer {
                    break topology;
                }
            }
            self.0.world.sleep(LOOK_PAUSE).await;
        };
        let record = topology.nodes.into_iter().find(|one| one.node == id);
        if let Some(record) = record.filter(|one| one.state != NodeState::Draining) {
            let text = format!("drained, and does not drain any more: {record:?}");
            let mut wrong = self.0.wrong.lock().expect("no panic under this lock");
            wrong.get_or_insert(text);
        }
    }

    /// Some node that runs, another each time.
    fn any_node(&self) -> Option<Node> {
        let nodes = self.0.cluster.nodes();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let (_, node) = nodes.get(turn % nodes.len().max(1))?;
        Some(node.clone())
    }

    /// What some node answers, if it does.
    async fn request(&self, request: AdminRequest) -> Option<AdminReply> {
        let node = self.any_node()?;
        let (asked, what) = (node.clone(), format!("{request:?}"));
        let reply = async move { asked.admin(request).await };
        let reply = on_node(&self.0.world, &node, reply).await;
        let heard = format!("{what}: {reply:?}");
        if let Some(env) = self.0.world.env(self.0.cluster.machine()) {
            event!(env, Debug, "operator", "{heard}");
        }
        let mut last = self.0.last.lock().expect("no panic under this lock");
        last.clone_from(&heard);
        reply
    }

    async fn set_draining(&self, node: &str, draining: bool) -> bool {
        let request = AdminRequest::SetDraining {
            node: node.to_owned(),
            draining,
        };
        matches!(self.request(request).await, Some(AdminReply::Done))
    }

    async fn create(&self, disk: u32, policy: &Policy, halves: u32) {
        let plan = &self.0.plan;
        let command = RootCommand::CreateDisk {
            nonce: identity_seed(plan.seed, "create", [u64::from(disk)]),
            name: name(disk),
            size_bytes: u64::from(halves) * (plan.container_bytes / 2),
            container_bytes: plan.container_bytes,
            policy: policy.clone(),
            description: String::new(),
        };
        loop {
            if let Some(node) = self.any_node()
                && let Some(RootOutcome::Disk(_)) = ask(&self.0.world, &node, command.clone()).await
            {
                break;
            }
            self.0.world.sleep(LOOK_PAUSE).await;
        }
        self.0.agents.with_others(|others| {
            if let Some(one) = others.get_mut(&disk) {
                (one.is_offered, one.stays) = (true, true);
            }
        });
    }

    /// The disk as it is; none once nobody has such a disk.
    async fn show(&self, disk: u32) -> Option<DiskRecord> {
        let name = if disk == 0 {
            DISK.to_owned()
        } else {
            name(disk)
        };
        loop {
            match self
                .request(AdminRequest::ShowDisk { name: name.clone() })
                .await
            {
                Some(AdminReply::Disk(view)) => return Some(view.record),
                Some(AdminReply::Refused(_)) => return None,
                _ => self.0.world.sleep(LOOK_PAUSE).await,
            }
        }
    }

    async fn resize(&self, disk: u32, halves: u32) {
        let wanted = u64::from(halves) * (self.0.plan.container_bytes / 2);
        let agents = &self.0.agents;
        let Some(mut record) = self.show(disk).await else {
            return;
        };
        let before = record.size_bytes;
        let cut = agents.with_others(|others| {
            let Some(one) = others.get_mut(&disk).filter(|_| wanted < before) else {
                return Vec::new();
            };
            one.is_offered = false;
            one.cut(wanted, before)
        });
        let began = |op| agents.begin(fresh_process(agents), op);
        let cut: Vec<_> = cut.into_iter().map(began).collect();
        loop {
            let request = AdminRequest::ResizeSeenDisk {
                disk: record.disk,
                from_bytes: record.size_bytes,
                generation: record.generation,
                size_bytes: wanted,
            };
            match self.request(request).await {
                Some(AdminReply::Disk(_) | AdminReply::Done) => break,
                // Held, or not as it was seen any more: looked at again, as an operator would. What
                // was begun is the same then, and goes on.
                Some(AdminReply::Refused(_) | AdminReply::TryAgain(_)) => {
                    match self.show(disk).await {
                        Some(seen) => record = seen,
                        None => break,
                    }
                }
                _ => {}
            }
            self.0.world.sleep(LOOK_PAUSE).await;
        }
        for op in cut {
            agents.finish_aside(op, Outcome::Ok(None));
        }
        agents.with_others(|others| {
            if let Some(one) = others.get_mut(&disk) {
                one.is_offered = true;
            }
        });
    }

    async fn delete(&self, disk: u32) {
        let Some(record) = self.show(disk).await else {
            return;
        };
        self.0.agents.with_others(|others| {
            if let Some(one) = others.get_mut(&disk) {
                one.stays = false;
            }
        });
        let request = AdminRequest::DeleteDiskById { disk: record.disk };
        loop {
            match self.request(request.clone()).await {
                Some(AdminReply::Disk(_) | AdminReply::Done) => break,
                _ => self.0.world.sleep(LOOK_PAUSE).await,
            }
        }
        self.0.agents.with_others(|others| {
            if let Some(one) = others.get_mut(&disk) {
                one.is_offered = false;
            }
        });
    }
}

/// Every disk that is there, as the root has it.
///
/// # Errors
/// Nobody answers within the bound of service.
pub(super) async fn disks(world: &World, cluster: &Cluster) -> Result<Vec<DiskRecord>, Failure> {
    let give_up = world.now_ns() + nanoseconds(SERVE_LIMIT);
    while world.now_ns() < give_up {
        for (_, node) in cluster.nodes() {
            let groups = node.groups().clone();
            let asking = async move { groups.root_query(RootQuery::Disks, ASK_LIMIT).await.ok() };
            let answer = on_node(world, &node, asking).await.flatten();
            if let Some(RootAnswer::Disks(records)) = answer {
                return Ok(records);
            }
        }
        world.sleep(LOOK_PAUSE).await;
    }
    Err(Failure::liveness(
        ORACLE,
        "the root does not list its disks",
    ))
}
