//! The target `processes`: a cluster of `hedgerow node` processes on this machine.
//!
//! Each node advertises the address of a fault proxy that stands before it; the proxy finds out
//! which process connects, so every directed link can be broken and the nodes know nothing of it.
//! Clients talk to the nodes' portals directly, as machines outside the cluster's network do.
//!
//! Clocks and disks lie by order ([`super::orders`]) in builds with the feature `testing`;
//! everything else strikes unmodified programs.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::bail;
use hedgerow_env::{BoxFuture, Env};
use hedgerow_iscsi::target_name;
use hedgerow_jepsen::run::workload::{BlockPlan, WorkloadPlan};
use hedgerow_jepsen::run::{
    Client, Fault, Incident, Struck, Target, TargetError, TestPlan, node_name,
};
use hedgerow_net::Rpc;
use hedgerow_protocol::{AdminReply, AdminRequest, NodeState, PlacementRule, Policy};

use super::admin::{AdminClient, AdminClients};
use super::cluster::{Cluster, IsDefect};
use super::control::Control;
use super::damage::damage;
use super::iscsi::{BlockClient, BlockClients, Portals};
use super::node_process::{Ended, NodeProcess, Start};
use super::os;
use crate::asking;

/// A cluster forms within seconds; a busy machine takes longer.
const FORM_LIMIT: Duration = Duration::from_secs(90);
/// Pause between questions to a cluster that is not ready.
const ASK_PAUSE: Duration = Duration::from_millis(250);
/// A store that is refused is refused within this time of the start.
const REFUSAL_LIMIT: Duration = Duration::from_secs(8);
/// The disk of the workload `block`.
const DISK: &str = "jepsen";
/// How a node ends that stopped itself, and one that did not start.
const STOPPED: [Option<i32>; 2] = [Some(crate::production::EXIT_HALTED), Some(1)];

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
    cluster: Cluster,
    place: Place,
    rpc: Rpc,
    ready: OnceLock<Ready>,
}

/// What is known once the cluster was set up.
struct Ready {
    clients: Clients,
    controls: Vec<Control>,
    is_defect: IsDefect,
    damages: bool,
}

enum Clients {
    Block(BlockClients),
    Admin(AdminClients),
}

impl Processes {
    pub(super) fn new(env: Env, place: Place) -> anyhow::Result<Self> {
        Ok(Self {
            rpc: asking::admin_rpc(env.clone())?,
            cluster: Cluster::new(env),
            place,
            ready: OnceLock::new(),
        })
    }

    async fn form(&self, plan: &TestPlan) -> anyhow::Result<()> {
        check_build(plan)?;
        let count = usize::from(plan.nodes);
        let free = os::free_addresses(2 * count)?;
        let (addresses, portals) = free.split_at(count);
        let advertised = self.cluster.proxies(addresses).await?;
        std::fs::create_dir_all(self.place.folder.join("logs"))?;
        let (mut nodes, mut controls) = (Vec::new(), Vec::new());
        for number in 0..plan.nodes {
            let at = usize::from(number);
            let control = Control::new(&self.place.folder.join("control").join(node_name(number)))?;
            let ends = (addresses[at].as_str(), portals[at].as_str());
            let text = self.configuration(plan, number, ends, &advertised, &control);
            nodes.push(NodeProcess::new(self.configure(number, &text)?));
            controls.push(control);
        }
        self.cluster.start(nodes).await?;
        self.wait_formed(plan.nodes, &addresses[0]).await?;
        let replication_factor = u8::try_from(plan.nodes.min(3)).expect("at most three");
        let clients = match &plan.workload {
            WorkloadPlan::Block(block) => {
                self.create_disk(block, &addresses[0], replication_factor)
                    .await?;
                Clients::Block(BlockClients {
                    env: self.cluster.env.clone(),
                    portals: Portals::new(portals.to_vec()),
                    target_name: target_name(DISK)?,
                    block_size: block.block_size,
                })
            }
            WorkloadPlan::DiskLifecycle(_) => Clients::Admin(AdminClients {
                env: self.cluster.env.clone(),
                rpc: self.rpc.clone(),
                addresses: addresses.to_vec(),
                replication_factor,
            }),
            WorkloadPlan::CasRegister(_) => {
                bail!("the cluster has no registers: use --workload block or disk-lifecycle")
            }
        };
        let ready = Ready {
            clients,
            controls,
            is_defect: is_defect(plan),
            damages: has(plan, |fault| matches!(fault, Fault::Damage { .. })),
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
        (address, portal): (&str, &str),
        advertised: &[String],
        control: &Control,
    ) -> String {
        let rack = number % plan.racks + 1;
        let forgetful = has(plan, |fault| matches!(fault, Fault::LoseUnsynced { .. }));
        let test = if cfg!(feature = "testing") {
            let folder = control.folder();
            format!("\n[test]\ncontrol = {folder:?}\nforgetful_disk = {forgetful}\n")
        } else {
            String::new()
        };
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
             capacity = \"20GiB\"\n\
             {test}",
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
        let arguments = ["--log", "info", "node", "--config"].map(String::from);
        let mutant = self.place.mutant.iter();
        Ok(Start {
            program: self.place.program.clone(),
            arguments: [&arguments[..], &[config.display().to_string()]].concat(),
            variables: mutant
                .map(|name| ("HEDGEROW_MUTANT".into(), name.clone()))
                .collect(),
            log: folder.join("logs").join(format!("{name}.log")),
            name,
        })
    }

    async fn wait_formed(&self, nodes: u16, address: &str) -> anyhow::Result<()> {
        let env = &self.cluster.env;
        let give_up = env.now() + FORM_LIMIT;
        let mut last = String::new();
        while env.now() < give_up {
            match asking::ask_node(&self.rpc, address, &AdminRequest::Status).await {
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
            env.sleep(ASK_PAUSE).await;
        }
        let seconds = FORM_LIMIT.as_secs();
        bail!("the cluster did not form in {seconds} s: {last}")
    }

    async fn create_disk(
        &self,
        plan: &BlockPlan,
        address: &str,
        replication_factor: u8,
    ) -> anyhow::Result<()> {
        let env = &self.cluster.env;
        let request = AdminRequest::CreateDisk {
            nonce: env.random("disk-nonce").bits(),
            name: DISK.into(),
            size_bytes: plan.disk_bytes,
            policy: Policy {
                replication_factor,
                placement: PlacementRule::RackAware,
                block_size: plan.block_size,
                ..Policy::default()
            },
            description: "a test's disk".into(),
        };
        let give_up = env.now() + FORM_LIMIT;
        loop {
            match asking::ask_node(&self.rpc, address, &request).await {
                Ok(AdminReply::Disk(_)) => return Ok(()),
                Ok(AdminReply::Refused(text)) => bail!("creating the disk: {text}"),
                other if env.now() >= give_up => bail!("creating the disk: {other:?}"),
                _ => env.sleep(ASK_PAUSE).await,
            }
        }
    }

    fn ready(&self) -> &Ready {
        let ready = self.ready.get();
        ready.expect("nobody asks a target that was not set up")
    }

    fn control(&self, node: u16) -> &Control {
        &self.ready().controls[usize::from(node)]
    }

    async fn begin_fault(&self, fault: &Fault) -> anyhow::Result<()> {
        self.cluster.note_ends(&self.ready().is_defect).await;
        if let Some(begun) = self.cluster.begin(fault).await {
            return begun;
        }
        match fault {
            Fault::Clock {
                node,
                wall_offset_ms,
                rate_ppm,
                strobe_ms,
            } => self.control(*node).order(|orders| {
                orders.wall_offset_ms = *wall_offset_ms;
                orders.rate_ppm = *rate_ppm;
                orders.strobe_ms = *strobe_ms;
            }),
            Fault::FullDisk { node } => self.control(*node).order(|orders| orders.disk_full = true),
            Fault::LoseUnsynced { nodes } => {
                let ends = self.cluster.on(nodes, |node| {
                    node.expect_end();
                    Ok(())
                });
                ends.await?;
                for node in nodes {
                    self.control(*node)
                        .order(|orders| orders.lose_unsynced = true)?;
                }
                Ok(())
            }
            Fault::Damage { node, .. } | Fault::Wipe { node } => {
                self.cluster.on(&[*node], NodeProcess::kill).await
            }
            other => bail!("processes cannot do this: {}", other.text()),
        }
    }

    async fn end_fault(&self, fault: &Fault) -> anyhow::Result<Struck> {
        match fault {
            Fault::Clock { node, .. } => {
                let control = self.control(*node);
                let struck = control.clock_struck();
                control.order(|orders| {
                    (orders.wall_offset_ms, orders.rate_ppm, orders.strobe_ms) = (0, 0, 0);
                })?;
                Ok(struck)
            }
            Fault::FullDisk { node } => {
                let control = self.control(*node);
                let stopped = self.cluster.is_down(*node).await;
                let struck = if stopped {
                    // It stops at the first refusal and tells nothing more.
                    Struck::Yes("the node stopped itself for want of space".to_owned())
                } else {
                    control.full_struck()
                };
                control.order(|orders| orders.disk_full = false)?;
                // A node that stopped over it is started again, as an operator does.
                self.cluster.note_ends(&self.ready().is_defect).await;
                self.cluster.on(&[*node], NodeProcess::start).await?;
                Ok(struck)
            }
            Fault::LoseUnsynced { nodes } => self.end_loss(nodes).await,
            Fault::Damage {
                node,
                damage: kind,
                draw,
            } => {
                let done = damage(&self.data_directory(*node), *kind, *draw);
                self.cluster.on(&[*node], NodeProcess::start).await?;
                Ok(Struck::Yes(done?))
            }
            Fault::Wipe { node } => {
                self.wipe(*node)?;
                self.cluster.on(&[*node], NodeProcess::start).await?;
                Ok(Struck::Yes("everything it kept was removed".to_owned()))
            }
            other => self.cluster.end(other).await,
        }
    }

    async fn end_loss(&self, nodes: &[u16]) -> anyhow::Result<Struck> {
        let (mut lost, mut dead) = (0, 0);
        for node in nodes {
            let control = self.control(*node);
            lost += control.lost_bytes().unwrap_or(0);
            dead += usize::from(control.lost_bytes().is_some());
            control.order(|orders| orders.lose_unsynced = false)?;
        }
        self.cluster.on(nodes, NodeProcess::start).await?;
        let text = format!(
            "{dead} of {} lost {lost} unsynced bytes and died",
            nodes.len()
        );
        let all = dead == nodes.len();
        Ok(if all {
            Struck::Yes(text)
        } else {
            Struck::No(text)
        })
    }

    fn wipe(&self, node: u16) -> anyhow::Result<()> {
        let folder = self.data_directory(node);
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    async fn heal_all(&self) -> anyhow::Result<()> {
        let ready = self.ready();
        for control in &ready.controls {
            control.order(|orders| *orders = super::orders::Orders::default())?;
        }
        self.cluster.heal(&ready.is_defect).await?;
        if ready.damages {
            self.replace_refused().await?;
        }
        Ok(())
    }

    /// A node that refuses its damaged store is wiped and joins anew, as its message advises.
    async fn replace_refused(&self) -> anyhow::Result<()> {
        let ready = self.ready();
        self.cluster.env.sleep(REFUSAL_LIMIT).await;
        self.cluster.note_ends(&ready.is_defect).await;
        for number in (0..).take(ready.controls.len()) {
            if self.cluster.is_down(number).await {
                self.wipe(number)?;
                let text = "its damaged store was refused; wiped, and started as a new node";
                self.cluster
                    .note(&node_name(number), text.to_owned(), false);
                self.cluster.on(&[number], NodeProcess::start).await?;
            }
        }
        Ok(())
    }
}

fn has(plan: &TestPlan, wanted: impl Fn(&Fault) -> bool) -> bool {
    plan.faults.iter().any(|timed| wanted(&timed.fault))
}

/// Whether this build has the clocks and disks that the plan needs.
fn check_build(plan: &TestPlan) -> anyhow::Result<()> {
    let lying = has(plan, |fault| {
        matches!(
            fault,
            Fault::Clock { .. } | Fault::LoseUnsynced { .. } | Fault::FullDisk { .. }
        )
    });
    if lying && !cfg!(feature = "testing") {
        bail!(
            "clocks and disks that lie are in builds for tests alone: cargo build -p hedgerow \
             --features testing"
        );
    }
    Ok(())
}

/// A node may stop itself, or refuse to start, when its disk was made to fail, and never otherwise.
fn is_defect(plan: &TestPlan) -> IsDefect {
    let disks_fail = has(plan, |fault| {
        matches!(
            fault,
            Fault::Damage { .. } | Fault::FullDisk { .. } | Fault::LoseUnsynced { .. }
        )
    });
    Box::new(move |ended: &Ended| {
        let broken = ended.last_words.contains("broken invariant");
        broken || !(disks_fail && STOPPED.contains(&ended.status.code()))
    })
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
        match &self.ready().clients {
            Clients::Block(shared) => Box::new(BlockClient::new(shared.clone(), process)),
            Clients::Admin(shared) => Box::new(AdminClient::new(shared.clone(), process)),
        }
    }

    fn begin<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move {
            let begun = self.begin_fault(fault).await;
            begun.map_err(|error| failed(&error))
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
            let always: IsDefect = Box::new(|_| true);
            let is_defect = self.ready.get().map_or(&always, |ready| &ready.is_defect);
            self.cluster.tear_down(is_defect).await
        })
    }
}
