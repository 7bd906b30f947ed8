//! The target `processes`: a cluster of `hedgerow node` processes on this machine.
//!
//! Each node advertises the address of a fault proxy that stands before it; the proxy finds out which
//! process connects, so every directed link can be broken and the nodes know nothing of it. Clients
//! talk to the nodes' iSCSI portals directly, as machines outside the cluster's network do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hedgerow_env::{BoxFuture, Env, event};
use hedgerow_iscsi::target_name;
use hedgerow_jepsen::run::fault_proxy::{FaultProxy, LinkCounters, Links};
use hedgerow_jepsen::run::workload::WorkloadPlan;
use hedgerow_jepsen::run::{
    Client, Fault, Incident, Link, Struck, Target, TargetError, TestPlan, node_name,
};
use hedgerow_net::Rpc;
use hedgerow_protocol::{AdminReply, AdminRequest, NodeState, PlacementRule, Policy};

use super::iscsi::{BlockClient, BlockClients, Portals};
use super::node_process::{Ended, NodeProcess, Start};
use super::os::{self, Pids};
use crate::client;

/// A cluster forms within seconds; a busy machine takes longer.
const FORM_LIMIT: Duration = Duration::from_secs(90);
/// Pause between questions to a cluster that is not ready.
const ASK_PAUSE: Duration = Duration::from_millis(250);
/// The disk of the workload `block`.
const DISK: &str = "jepsen";
/// Exit code of a node that stopped itself.
const HALTED: i32 = crate::production::EXIT_HALTED;

/// What a test needs to know of the machine.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The program to test.
    pub(super) program: PathBuf,
    /// The test's folder: logs, and the nodes' data.
    pub(super) folder: PathBuf,
    /// A planted bug to test the test with.
    pub(super) mutant: Option<String>,
}

/// The cluster.
pub(super) struct Processes {
    env: Env,
    place: Place,
    rpc: Rpc,
    pids: Pids,
    links: Links,
    nodes: tokio::sync::Mutex<Vec<NodeProcess>>,
    incidents: Mutex<Vec<Incident>>,
    /// What links had done when the present fault of links began.
    counters: Mutex<Vec<(Fault, Vec<Link>, LinkCounters)>>,
    ready: OnceLock<Ready>,
}

/// What is known once the cluster was set up.
struct Ready {
    nodes: u16,
    block: Option<BlockClients>,
    disks_break: bool,
    _proxies: Vec<FaultProxy>,
}

impl Processes {
    pub(super) fn new(env: Env, place: Place) -> anyhow::Result<Self> {
        let rpc = client::admin_rpc(env.clone())?;
        Ok(Self {
            links: Links::new(env.random("links")),
            env,
            place,
            rpc,
            pids: Pids::default(),
            nodes: tokio::sync::Mutex::default(),
            incidents: Mutex::default(),
            counters: Mutex::default(),
            ready: OnceLock::new(),
        })
    }

    async fn form(&self, plan: &TestPlan) -> anyhow::Result<()> {
        let count = usize::from(plan.nodes);
        let free = os::free_addresses(2 * count)?;
        let (addresses, portals) = free.split_at(count);
        let identify = os::identify(&self.pids);
        let mut proxies = Vec::new();
        for (node, address) in (0..plan.nodes).zip(addresses) {
            let links = self.links.clone();
            let before = (node, address.clone());
            let identify = Arc::clone(&identify);
            let proxy = FaultProxy::start(&self.env, "127.0.0.1:0", before, links, identify);
            proxies.push(proxy.await?);
        }
        let advertised: Vec<String> = proxies.iter().map(|proxy| proxy.address().into()).collect();
        std::fs::create_dir_all(self.place.folder.join("logs"))?;
        let mut nodes = self.nodes.lock().await;
        for number in 0..plan.nodes {
            let at = usize::from(number);
            let text = self.configuration(plan, number, &addresses[at], &advertised, &portals[at]);
            nodes.push(NodeProcess::new(self.configure(number, &text)?));
        }
        for node in nodes.iter_mut() {
            node.start()?;
        }
        self.note_pids(&mut nodes);
        drop(nodes);
        self.wait_formed(plan.nodes, &addresses[0]).await?;
        let block = self.disk(plan, &addresses[0], portals).await?;
        let ready = Ready {
            nodes: plan.nodes,
            block,
            disks_break: plan.faults.iter().any(|timed| breaks_disks(&timed.fault)),
            _proxies: proxies,
        };
        if self.ready.set(ready).is_err() {
            bail!("a target is set up once");
        }
        Ok(())
    }

    fn configuration(
        &self,
        plan: &TestPlan,
        number: u16,
        address: &str,
        advertised: &[String],
        portal: &str,
    ) -> String {
        let rack = number % plan.racks + 1;
        format!(
            "name = \"{}\"\n\
             data_directory = {:?}\n\
             listen = \"{address}\"\n\
             advertise = \"{}\"\n\
             seeds = {advertised:?}\n\
             shards = 2\n\
             \n\
             [location]\n\
             rack = \"rack-{rack}\"\n\
             \n\
             [iscsi]\n\
             listen = \"{portal}\"\n\
             exports = \"all\"\n\
             \n\
             [[pool]]\n\
             directory = \"pool-0\"\n\
             capacity = \"20GiB\"\n",
            node_name(number),
            self.data_directory(number),
            advertised[usize::from(number)],
        )
    }

    fn data_directory(&self, number: u16) -> PathBuf {
        self.place.folder.join("data").join(node_name(number))
    }

    #[expect(clippy::disallowed_methods, reason = "written before there is a node")]
    fn configure(&self, number: u16, text: &str) -> anyhow::Result<Start> {
        let name = node_name(number);
        let folder = &self.place.folder;
        let config = folder.join("data").join(format!("{name}.toml"));
        std::fs::create_dir_all(folder.join("data"))?;
        std::fs::write(&config, text)?;
        let mutant = self.place.mutant.iter();
        Ok(Start {
            program: self.place.program.clone(),
            arguments: vec![
                "--log".into(),
                "info".into(),
                "node".into(),
                "--config".into(),
                config.display().to_string(),
            ],
            variables: mutant
                .map(|name| ("HEDGEROW_MUTANT".into(), name.clone()))
                .collect(),
            log: folder.join("logs").join(format!("{name}.log")),
            name,
        })
    }

    fn note_pids(&self, nodes: &mut [NodeProcess]) {
        let running = nodes.iter_mut().zip(0_u16..);
        let pids: BTreeMap<u16, u32> = running
            .filter_map(|(node, number)| Some((number, node.pid()?)))
            .collect();
        *self.pids.lock().expect("no panic under this lock") = pids;
    }

    async fn wait_formed(&self, nodes: u16, address: &str) -> anyhow::Result<()> {
        let give_up = self.env.now() + FORM_LIMIT;
        let mut last = String::new();
        while self.env.now() < give_up {
            match client::ask_node(&self.rpc, address, &AdminRequest::Status).await {
                Ok(AdminReply::Status(status)) => {
                    let up = status
                        .nodes
                        .iter()
                        .filter(|node| node.state == NodeState::Up);
                    if up.count() == usize::from(nodes) && status.silent_groups.is_empty() {
                        return Ok(());
                    }
                    last = format!("{} nodes are listed", status.nodes.len());
                }
                Ok(other) => last = format!("{other:?}"),
                Err(error) => last = error.to_string(),
            }
            self.env.sleep(ASK_PAUSE).await;
        }
        bail!(
            "the cluster did not form in {} s: {last}",
            FORM_LIMIT.as_secs()
        )
    }

    /// Creates the disk of the workload `block`, if that is it.
    async fn disk(
        &self,
        plan: &TestPlan,
        address: &str,
        portals: &[String],
    ) -> anyhow::Result<Option<BlockClients>> {
        let WorkloadPlan::Block(block) = &plan.workload else {
            return Ok(None);
        };
        let request = AdminRequest::CreateDisk {
            nonce: self.env.random("disk-nonce").bits(),
            name: DISK.into(),
            size_bytes: block.disk_bytes,
            policy: Policy {
                replication_factor: u8::try_from(plan.nodes.min(3)).expect("at most three"),
                placement: PlacementRule::RackAware,
                block_size: block.block_size,
                ..Policy::default()
            },
            description: "a test's disk".into(),
        };
        let give_up = self.env.now() + FORM_LIMIT;
        loop {
            match client::ask_node(&self.rpc, address, &request).await {
                Ok(AdminReply::Disk(_)) => break,
                Ok(AdminReply::Refused(text)) => bail!("creating the disk: {text}"),
                other if self.env.now() >= give_up => bail!("creating the disk: {other:?}"),
                _ => self.env.sleep(ASK_PAUSE).await,
            }
        }
        Ok(Some(BlockClients {
            env: self.env.clone(),
            portals: Portals::new(portals.to_vec()),
            target_name: target_name(DISK)?,
            block_size: block.block_size,
        }))
    }

    fn ready(&self) -> &Ready {
        self.ready
            .get()
            .expect("nobody asks a target that was not set up")
    }

    /// Runs `act` on some nodes, all or as many as it takes until one fails.
    async fn on(
        &self,
        numbers: &[u16],
        mut act: impl FnMut(&mut NodeProcess) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut nodes = self.nodes.lock().await;
        let mut outcome = Ok(());
        for number in numbers {
            let node = nodes
                .get_mut(usize::from(*number))
                .context("no such node")?;
            outcome = outcome.and(act(node));
        }
        self.note_ends(&mut nodes);
        self.note_pids(&mut nodes);
        outcome
    }

    fn note_ends(&self, nodes: &mut [NodeProcess]) {
        for node in nodes {
            for ended in node.take_ended() {
                let incident = self.incident(node.name(), &ended);
                event!(
                    self.env,
                    Warn,
                    "jepsen",
                    "{}: {}",
                    incident.node,
                    incident.text
                );
                self.incidents
                    .lock()
                    .expect("no panic under this lock")
                    .push(incident);
            }
        }
    }

    /// A node may stop itself when its disk was made to fail, and never otherwise.
    fn incident(&self, name: &str, ended: &Ended) -> Incident {
        let words = &ended.last_words;
        let may_stop = self.ready.get().is_some_and(|ready| ready.disks_break);
        let broken = words.contains("broken invariant");
        let halted = ended.status.code() == Some(HALTED) || ended.status.code() == Some(1);
        Incident {
            node: name.to_owned(),
            text: format!("ended by itself: {}; {words}", ended.status),
            defect: broken || !(halted && may_stop),
        }
    }

    async fn begin_fault(&self, fault: &Fault) -> anyhow::Result<()> {
        let ready = self.ready();
        match fault {
            Fault::Kill { nodes } => self.on(nodes, NodeProcess::kill).await,
            Fault::Pause { nodes } => self.on(nodes, NodeProcess::pause).await,
            Fault::Restart { node } => {
                let mut nodes = self.nodes.lock().await;
                let process = nodes.get_mut(usize::from(*node)).context("no such node")?;
                if process.pid().is_none() {
                    bail!("{} does not run", process.name());
                }
                let stopped = process.terminate(&self.env).await;
                self.note_pids(&mut nodes);
                stopped
            }
            Fault::Partition { groups, .. } => {
                let cut = self.links.partition(ready.nodes, groups);
                self.remember(fault, cut);
                Ok(())
            }
            Fault::Links { links, rules, .. } => {
                self.links.set(links, *rules);
                self.remember(fault, links.clone());
                Ok(())
            }
            other => bail!("processes cannot do this: {}", other.text()),
        }
    }

    fn remember(&self, fault: &Fault, links: Vec<Link>) {
        let before = self.links.counters(&links);
        let mut counters = self.counters.lock().expect("no panic under this lock");
        counters.push((fault.clone(), links, before));
    }

    fn end_links(&self, fault: &Fault) -> Struck {
        let mut counters = self.counters.lock().expect("no panic under this lock");
        let place = counters.iter().position(|(known, ..)| known == fault);
        let Some((_, links, before)) = place.map(|place| counters.swap_remove(place)) else {
            return Struck::No("it never began".to_owned());
        };
        let done = self.links.counters(&links).since(&before);
        self.links.heal(&links);
        if done.any() {
            Struck::Yes(done.to_string())
        } else {
            Struck::No(done.to_string())
        }
    }

    async fn end_fault(&self, fault: &Fault) -> anyhow::Result<Struck> {
        match fault {
            Fault::Kill { nodes } => {
                self.on(nodes, NodeProcess::start).await?;
                Ok(Struck::Yes("died of SIGKILL, started again".to_owned()))
            }
            Fault::Restart { node } => {
                self.on(&[*node], NodeProcess::start).await?;
                Ok(Struck::Yes(
                    "stopped with exit code 0, started again".to_owned(),
                ))
            }
            Fault::Pause { nodes } => {
                let mut stopped = 0;
                self.on(nodes, |node| {
                    stopped += usize::from(node.resume()?);
                    Ok(())
                })
                .await?;
                let all = nodes.len();
                let text = format!("{stopped} of {all} processes were stopped until the end");
                Ok(if stopped == all {
                    Struck::Yes(text)
                } else {
                    Struck::No(text)
                })
            }
            Fault::Partition { .. } | Fault::Links { .. } => Ok(self.end_links(fault)),
            other => bail!("processes cannot do this: {}", other.text()),
        }
    }

    async fn heal_all(&self) -> anyhow::Result<()> {
        self.links.heal_all();
        let all: Vec<u16> = (0..self.ready().nodes).collect();
        self.on(&all, |node| {
            if node.pid().is_some() {
                node.resume()?;
            }
            node.start()
        })
        .await
    }
}

fn breaks_disks(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Damage { .. }
            | Fault::LoseUnsynced { .. }
            | Fault::FullDisk { .. }
            | Fault::Wipe { .. }
    )
}

fn failed(error: &anyhow::Error) -> TargetError {
    TargetError(format!("{error:#}"))
}

impl Target for Processes {
    fn name(&self) -> &'static str {
        "processes"
    }

    fn set_up<'a>(&'a self, plan: &'a TestPlan) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move { self.form(plan).await.map_err(|error| failed(&error)) })
    }

    fn client(&self, process: u64) -> Box<dyn Client> {
        let ready = self.ready();
        match &ready.block {
            Some(shared) => Box::new(BlockClient::new(shared.clone(), process)),
            None => unreachable!("set-up refused other workloads"),
        }
    }

    fn begin<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move {
            self.begin_fault(fault)
                .await
                .map_err(|error| failed(&error))
        })
    }

    fn end<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Struck> {
        Box::pin(async move {
            let ended = self.end_fault(fault).await;
            ended.unwrap_or_else(|error| Struck::No(format!("{error:#}")))
        })
    }

    fn heal(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move { self.heal_all().await.map_err(|error| failed(&error)) })
    }

    fn tear_down(&self) -> BoxFuture<'_, Vec<Incident>> {
        Box::pin(async move {
            let mut nodes = self.nodes.lock().await;
            self.note_ends(&mut nodes);
            for node in nodes.iter_mut() {
                if let Err(error) = node.terminate(&self.env).await {
                    let incident = Incident {
                        node: node.name().to_owned(),
                        text: format!("{error:#}"),
                        defect: true,
                    };
                    let mut incidents = self.incidents.lock().expect("no panic under this lock");
                    incidents.push(incident);
                }
            }
            std::mem::take(&mut *self.incidents.lock().expect("no panic under this lock"))
        })
    }
}
