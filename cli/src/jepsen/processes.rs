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
use hedgerow_jepsen::run::{
    Client, Fault, Incident, Struck, Target, TargetError, TestPlan, node_name,
};
use hedgerow_jepsen_clients::{Clients, Ends};
use hedgerow_net::{Rpc, admin};

use super::cluster::{Cluster, IsDefect};
use super::control::Control;
use super::damage::damage;
use super::namespaces::Namespaces;
use super::node_process::{Ended, NodeProcess, Start};

/// A store that is refused is refused within this time of the start.
const REFUSAL_LIMIT: Duration = Duration::from_secs(8);
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
        check_build(plan)?;
        let places = self.cluster.places(plan.nodes).await?;
        let (addresses, portals) = (&places.listen, &places.clients);
        std::fs::create_dir_all(self.place.folder.join("logs"))?;
        let (mut nodes, mut controls) = (Vec::new(), Vec::new());
        for number in 0..plan.nodes {
            let at = usize::from(number);
            let control = Control::new(&self.place.folder.join("control").join(node_name(number)))?;
            let ends = (addresses[at].as_str(), portals[at].as_str());
            let text = self.configuration(plan, number, ends, &places.advertised, &control);
            nodes.push(self.cluster.process(number, self.configure(number, &text)?));
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
        let clients = Clients::prepare(env, &self.rpc, &ends, &plan.workload).await?;
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
        self.ready().clients.client(process)
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
