//! The target `processes`: a cluster of `hedgerow node` processes on this machine.
//!
//! Each node advertises the address of a fault proxy that stands before it; the proxy finds out
//! which process connects, so every directed link can be broken and the nodes know nothing of it.
//! Clients talk to the nodes' portals directly, as machines outside the cluster's network do.
//!
//! Clocks and disks lie by order ([`super::orders`]) in builds with the feature `testing`;
//! everything else strikes unmodified programs.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hedgerow_env::{BoxFuture, Env};
use hedgerow_jepsen::run::{
    Client, Fault, Incident, Struck, Target, TargetError, TestPlan, data_centre_of, node_name,
};
use hedgerow_jepsen_clients::{Clients, Ends, Operator};
use hedgerow_net::{Rpc, admin};

use super::cluster::{Cluster, IsDefect};
use super::control::Control;
use super::damage::damage;
use super::namespaces::Namespaces;
use super::node_process::{Ended, NodeProcess, Start};

/// A store that is refused is refused within this time of the start.
const REFUSAL_LIMIT: Duration = Duration::from_secs(8);
/// How long disks take to sync at most where power is lost: what is promised too soon is then lost.
const SYNC_MS: u64 = 60;
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
    operator: Operator,
    controls: Vec<Control>,
    is_defect: IsDefect,
    damages: bool,
    drains: bool,
}

impl Processes {
    pub(super) fn new(
        env: Env,
        namespaces: Option<Namespaces>,
        place: Place,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            rpc: admin::client(env.clone())?,
            cluster: Cluster::new(env, namespaces),
            place,
            ready: OnceLock::new(),
        })
    }

    async fn form(&self, plan: &TestPlan) -> anyhow::Result<()> {
        let places = self.cluster.places(plan.all_nodes()).await?;
        let (addresses, portals) = (&places.listen, &places.clients);
        std::fs::create_dir_all(self.place.folder.join("logs"))?;
        let (mut nodes, mut controls) = (Vec::new(), Vec::new());
        for number in 0..plan.all_nodes() {
            let at = usize::from(number);
            let control = Control::new(&self.place.folder.join("control").join(node_name(number)))?;
            let ends = (addresses[at].as_str(), portals[at].as_str());
            let seeds = places.advertised.split_at(usize::from(plan.nodes)).0;
            let names = (places.advertised[at].as_str(), seeds);
            let text = self.configuration(plan, number, ends, names, &control);
            let start = self.configure(number, &text)?;
            nodes.push(if number < plan.nodes {
                self.cluster.process(number, start)
            } else {
                self.cluster.absent(number, start)
            });
            controls.push(control);
        }
        self.cluster.start(nodes).await?;
        let ends: Vec<Ends> = addresses
            .iter()
            .zip(portals)
            .map(|(rpc, portal)| Ends {
                rpc: rpc.clone(),
                portal: portal.clone(),
            })
            .collect();
        let env = &self.cluster.env;
        let clients = Clients::prepare(env, &self.rpc, (&ends, plan.spares), &plan.workload);
        let clients = clients.await?;
        let operator = Operator::new(env.clone(), self.rpc.clone(), addresses.clone());
        let ready = Ready {
            clients,
            operator,
            controls,
            is_defect: is_defect(plan),
            damages: has(plan, |fault| matches!(fault, Fault::Damage { .. })),
            drains: has(plan, |fault| matches!(fault, Fault::Drain { .. })),
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
        (advertised, seeds): (&str, &[String]),
        control: &Control,
    ) -> String {
        let rack = number % plan.racks;
        let (centre, rack) = (data_centre_of(rack) + 1, rack + 1);
        let powerless = has(plan, |fault| matches!(fault, Fault::PowerLoss { .. }));
        let forgets = |fault: &Fault| matches!(fault, Fault::LoseUnsynced { .. });
        let forgetful = powerless || plan.slow_disks_ms > 0 || has(plan, forgets);
        let (sync_ms, write_ms) = match plan.slow_disks_ms {
            0 if powerless => (SYNC_MS, SYNC_MS / 10),
            // So long a write that later ones overtake it, and a sync begins between them.
            slow => (slow, slow / 2),
        };
        let test = if cfg!(feature = "testing") {
            let folder = control.folder();
            format!(
                "\n[test]\ncontrol = {folder:?}\nforgetful_disk = {forgetful}\n\
                 sync_ms = {sync_ms}\nwrite_ms = {write_ms}\nsmall_stores = {}\n",
                plan.small_stores
            )
        } else {
            String::new()
        };
        format!(
            "name = \"{}\"\n\
             data_directory = {:?}\n\
             listen = \"{address}\"\n\
             advertise = \"{advertised}\"\n\
             seeds = {seeds:?}\n\
             shards = 2\n\
             \n\
             [location]\n\
             data_centre = \"dc-{centre}\"\n\
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
            Fault::PowerLoss { nodes } => self.cluster.kill_at_once(nodes).await,
            Fault::Damage { node, .. } | Fault::Wipe { node } => {
                self.cluster.on(&[*node], NodeProcess::kill).await
            }
            Fault::Join { node } => self.cluster.on(&[*node], NodeProcess::appear).await,
            Fault::Drain { node } => {
                let name = node_name(*node);
                let set = self.ready().operator.set_draining(&name, true);
                set.await.map_err(anyhow::Error::msg)
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
            Fault::PowerLoss { nodes } => {
                let unsynced = nodes
                    .iter()
                    .map(|node| self.control(*node).unsynced_bytes());
                let unsynced: u64 = unsynced.sum();
                self.cluster.on(nodes, NodeProcess::start).await?;
                let text =
                    format!("died of SIGKILL at one moment, {unsynced} bytes unsynced just before");
                Ok(Struck::Yes(text))
            }
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
            Fault::Join { node } => Ok(self.ready().operator.has_joined(&node_name(*node)).await),
            Fault::Drain { node } => Ok(self.ready().operator.end_drain(&node_name(*node)).await),
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
        if ready.drains {
            ready
                .operator
                .end_drains()
                .await
                .map_err(anyhow::Error::msg)?;
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
pub(super) fn check_build(plan: &TestPlan) -> anyhow::Result<()> {
    let lying = has(plan, |fault| {
        matches!(
            fault,
            Fault::Clock { .. }
                | Fault::LoseUnsynced { .. }
                | Fault::PowerLoss { .. }
                | Fault::FullDisk { .. }
        )
    }) || plan.small_stores
        || plan.slow_disks_ms > 0;
    if lying && !cfg!(feature = "testing") {
        bail!(
            "clocks and disks that lie, and small stores, are in builds for tests alone: cargo build -p hedgerow \
             --features testing"
        );
    }
    Ok(())
}

/// Whether the program holds the bug.
pub(super) fn check_mutant(program: &Path, name: &str) -> anyhow::Result<()> {
    let mut command = std::process::Command::new(program);
    // Whatever it is asked, a program refuses a bug that it does not hold.
    command.args(["jepsen", "run", "--nemesis", "help"]);
    let asked = command.env("HEDGEROW_MUTANT", name).output();
    let asked = asked.with_context(|| program.display().to_string())?;
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr);
        bail!(
            "--mutant {name}: {}",
            said.trim().trim_start_matches("hedgerow: ")
        );
    }
    Ok(())
}

/// A node may stop itself, or refuse to start, when its disk was made to fail, and never otherwise.
fn is_defect(plan: &TestPlan) -> IsDefect {
    let disks_fail = has(plan, |fault| {
        matches!(fault, Fault::Damage { .. } | Fault::FullDisk { .. })
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
        self.ready().clients.client(process)
    }

    fn used_node(&self) -> Option<u16> {
        self.ready().clients.used_node()
    }

    fn says_it_is_whole(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.ready().operator.says_it_is_whole())
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

    fn has_defect(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let ready = self.ready();
            let wrong = !ready.clients.wrong_answers().is_empty();
            self.cluster.has_defect(&ready.is_defect).await || wrong
        })
    }

    fn heal(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move { self.heal_all().await.map_err(|error| failed(&error)) })
    }

    fn tear_down(&self) -> BoxFuture<'_, Vec<Incident>> {
        Box::pin(async move {
            let always: IsDefect = Box::new(|_| true);
            let ready = self.ready.get();
            let is_defect = ready.map_or(&always, |ready| &ready.is_defect);
            let mut incidents = self.cluster.tear_down(is_defect).await;
            incidents.extend(ready.iter().flat_map(|ready| ready.clients.wrong_answers()));
            incidents
        })
    }
}
