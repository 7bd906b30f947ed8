//! What clusters of processes have in common, whoever wrote the program: processes, the fault
//! proxies before them, and the faults that need no help from the program.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hedgerow_env::{Env, event};
use hedgerow_jepsen::run::fault_proxy::{FaultProxy, LinkCounters, Links};
use hedgerow_jepsen::run::{Fault, Incident, Link, LinkRules, Struck, apart};

use super::namespaces::Namespaces;
use super::node_process::{Ended, NodeProcess, Start};
use super::os::{self, Pids};

/// A clean stop closes sessions and gives back what it holds, which takes up to ten seconds when
/// the cluster does not answer; much more is a hang.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const STOP_POLL: Duration = Duration::from_millis(50);

/// Where nodes answer one another within namespaces, where each has every port for itself.
const PEER_PORT: u16 = 7100;
/// Where they answer clients there.
const CLIENT_PORT: u16 = 3260;

/// Where the nodes of a cluster are.
pub(super) struct Places {
    /// Where each listens for the others.
    pub(super) listen: Vec<String>,
    /// Where the others reach it.
    pub(super) advertised: Vec<String>,
    /// Where it listens for clients.
    pub(super) clients: Vec<String>,
}

/// Whether an end that nobody asked for is a defect.
pub(super) type IsDefect = Box<dyn Fn(&Ended) -> bool + Send + Sync>;

/// The processes of a cluster.
pub(super) struct Cluster {
    pub(super) env: Env,
    nodes: tokio::sync::Mutex<Vec<NodeProcess>>,
    pids: Pids,
    links: Links,
    proxies: Mutex<Vec<FaultProxy>>,
    /// Instead of proxies: the kernel drops packets.
    namespaces: Option<Namespaces>,
    incidents: Mutex<Vec<Incident>>,
    /// What links had done when a fault of links began.
    counters: Mutex<Vec<(Fault, Vec<Link>, Done)>>,
}

/// What had been done to links at some moment.
enum Done {
    ByProxies(LinkCounters),
    PacketsDropped(u64),
}

/// Whether every program bears the fault: [`Cluster::begin`] begins it.
pub(super) fn may_strike(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Kill { .. }
            | Fault::Pause { .. }
            | Fault::Restart { .. }
            | Fault::Partition { .. }
            | Fault::Links { .. }
    )
}

impl Cluster {
    /// A cluster of processes behind proxies, or in `namespaces`.
    pub(super) fn new(env: Env, namespaces: Option<Namespaces>) -> Self {
        Self {
            namespaces,
            nodes: tokio::sync::Mutex::default(),
            pids: Pids::default(),
            links: Links::new(env.random("links")),
            env,
            proxies: Mutex::default(),
            incidents: Mutex::default(),
            counters: Mutex::default(),
        }
    }

    /// Where `count` nodes listen and what they tell the others of it, and as many further addresses
    /// for clients.
    pub(super) async fn places(&self, count: u16) -> anyhow::Result<Places> {
        if let Some(namespaces) = &self.namespaces {
            let at = |port: u16| (0..count).map(move |node| (node, port));
            let address = |(node, port)| format!("{}:{port}", namespaces.host(node));
            let listen: Vec<String> = at(PEER_PORT).map(address).collect();
            return Ok(Places {
                advertised: listen.clone(),
                clients: at(CLIENT_PORT).map(address).collect(),
                listen,
            });
        }
        let count = usize::from(count);
        let free = os::free_addresses(2 * count)?;
        let (listen, clients) = free.split_at(count);
        Ok(Places {
            advertised: self.proxies(listen).await?,
            listen: listen.to_vec(),
            clients: clients.to_vec(),
        })
    }

    /// The process of a node, in its namespace if it has one.
    pub(super) fn process(&self, number: u16, start: Start) -> NodeProcess {
        NodeProcess::new(self.within(number, start))
    }

    /// The process of a node that is not there yet.
    pub(super) fn absent(&self, number: u16, start: Start) -> NodeProcess {
        NodeProcess::absent(self.within(number, start))
    }

    fn within(&self, number: u16, mut start: Start) -> Start {
        if let Some(namespaces) = &self.namespaces {
            let within = namespaces.within(number, &start.program);
            start.arguments.splice(0..0, within);
            start.program = "ip".into();
        }
        start
    }

    /// Puts a proxy before each of `addresses`; returns where the proxies listen.
    async fn proxies(&self, addresses: &[String]) -> anyhow::Result<Vec<String>> {
        let identify = os::identify(&self.pids);
        let mut proxies = Vec::new();
        for (address, node) in addresses.iter().zip(0..) {
            let links = self.links.clone();
            let before = (node, address.clone());
            let identify = Arc::clone(&identify);
            let proxy = FaultProxy::start(&self.env, "127.0.0.1:0", before, links, identify);
            proxies.push(proxy.await?);
        }
        let listening = proxies.iter().map(|proxy| proxy.address().to_owned());
        let listening = listening.collect();
        *self.proxies.lock().expect("no panic under this lock") = proxies;
        Ok(listening)
    }

    /// Starts all of `nodes`, which stand in the order of their numbers.
    pub(super) async fn start(&self, nodes: Vec<NodeProcess>) -> anyhow::Result<()> {
        let mut own = self.nodes.lock().await;
        *own = nodes;
        for node in own.iter_mut() {
            node.start()?;
        }
        self.note_pids(&mut own);
        Ok(())
    }

    fn note_pids(&self, nodes: &mut [NodeProcess]) {
        let running = nodes.iter_mut().zip(0_u16..);
        let pids: BTreeMap<u16, u32> = running
            .filter_map(|(node, number)| Some((number, node.pid()?)))
            .collect();
        *self.pids.lock().expect("no panic under this lock") = pids;
    }

    /// Runs `act` on each of some nodes, whether or not it fails on another.
    pub(super) async fn on(
        &self,
        numbers: &[u16],
        mut act: impl FnMut(&mut NodeProcess) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut nodes = self.nodes.lock().await;
        let mut outcome = Ok(());
        for number in numbers {
            let node = nodes.get_mut(usize::from(*number));
            outcome = outcome.and(node.context("no such node").and_then(&mut act));
        }
        self.note_pids(&mut nodes);
        outcome
    }

    /// SIGKILL for each, all at the same moment: whoever is killed last does nothing meanwhile.
    pub(super) async fn kill_at_once(&self, numbers: &[u16]) -> anyhow::Result<()> {
        // A node that does not run is told of by the second step.
        drop(self.on(numbers, NodeProcess::pause).await);
        self.on(numbers, NodeProcess::kill).await
    }

    /// Whether a node's process has ended, of one that has been there.
    pub(super) async fn is_down(&self, number: u16) -> bool {
        let mut nodes = self.nodes.lock().await;
        let node = nodes.get_mut(usize::from(number));
        node.is_none_or(|node| !node.is_absent() && node.pid().is_none())
    }

    /// Waits until a node that was told to stop has done so; kills it when it hangs.
    async fn stopped(&self, number: u16) -> anyhow::Result<()> {
        let give_up = self.env.now() + STOP_LIMIT;
        loop {
            // The lock is not held while waiting: other nodes are hurt meanwhile.
            let mut nodes = self.nodes.lock().await;
            let node = nodes.get_mut(usize::from(number)).context("no such node")?;
            if let Some(stopped) = node.stopped() {
                return stopped;
            }
            if self.env.now() >= give_up {
                node.kill()?;
                let seconds = STOP_LIMIT.as_secs();
                bail!("{} did not stop within {seconds} s of SIGTERM", node.name());
            }
            drop(nodes);
            self.env.sleep(STOP_POLL).await;
        }
    }

    /// Begins a fault; `None` when it is not one that every program bears.
    pub(super) async fn begin(&self, fault: &Fault) -> Option<anyhow::Result<()>> {
        Some(match fault {
            Fault::Kill { nodes } => self.kill_at_once(nodes).await,
            Fault::Pause { nodes } => self.on(nodes, NodeProcess::pause).await,
            Fault::Restart { node } => self.on(&[*node], NodeProcess::begin_stop).await,
            Fault::Partition { groups, .. } => {
                let count = self.nodes.lock().await.len();
                let count = u16::try_from(count).expect("few nodes");
                self.begin_links(fault, apart(count, groups), LinkRules::cut())
            }
            Fault::Links { links, rules, .. } => self.begin_links(fault, links.clone(), *rules),
            _ => return None,
        })
    }

    fn begin_links(&self, fault: &Fault, links: Vec<Link>, rules: LinkRules) -> anyhow::Result<()> {
        let before = match &self.namespaces {
            Some(namespaces) if rules == LinkRules::cut() => {
                let before = namespaces.dropped(&links)?;
                namespaces.cut(&links)?;
                Done::PacketsDropped(before)
            }
            Some(_) => bail!("between namespaces links are cut, and nothing else"),
            None => {
                let before = self.links.counters(&links);
                self.links.set(&links, rules);
                Done::ByProxies(before)
            }
        };
        let mut counters = self.counters.lock().expect("no panic under this lock");
        counters.push((fault.clone(), links, before));
        Ok(())
    }

    /// Ends what [`Cluster::begin`] began.
    pub(super) async fn end(&self, fault: &Fault) -> anyhow::Result<Struck> {
        match fault {
            Fault::Kill { nodes } => {
                self.on(nodes, NodeProcess::start).await?;
                Ok(Struck::Yes("died of SIGKILL, started again".to_owned()))
            }
            Fault::Restart { node } => {
                let stopped = self.stopped(*node).await;
                self.on(&[*node], NodeProcess::start).await?;
                stopped?;
                let text = "stopped in order, started again";
                Ok(Struck::Yes(text.to_owned()))
            }
            Fault::Pause { nodes } => self.resume(nodes).await,
            Fault::Partition { .. } | Fault::Links { .. } => self.end_links(fault),
            other => bail!("it never began: {}", other.text()),
        }
    }

    async fn resume(&self, numbers: &[u16]) -> anyhow::Result<Struck> {
        let mut stopped = 0;
        self.on(numbers, |node| {
            stopped += usize::from(node.resume()?);
            Ok(())
        })
        .await?;
        let all = numbers.len();
        let text = format!("{stopped} of {all} processes were stopped until the end");
        Ok(if stopped == all {
            Struck::Yes(text)
        } else {
            Struck::No(text)
        })
    }

    fn end_links(&self, fault: &Fault) -> anyhow::Result<Struck> {
        let mut counters = self.counters.lock().expect("no panic under this lock");
        let place = counters.iter().position(|(known, ..)| known == fault);
        let Some((_, links, before)) = place.map(|place| counters.swap_remove(place)) else {
            return Ok(Struck::No("it never began".to_owned()));
        };
        let (any, text) = match (before, &self.namespaces) {
            (Done::PacketsDropped(before), Some(namespaces)) => {
                namespaces.heal(&links)?;
                let dropped = namespaces.dropped(&links)?.saturating_sub(before);
                (dropped > 0, format!("{dropped} packets dropped"))
            }
            (Done::PacketsDropped(_), None) => bail!("the namespaces are gone"),
            (Done::ByProxies(before), _) => {
                let done = self.links.counters(&links).since(&before);
                self.links.heal(&links);
                (done.any(), done.to_string())
            }
        };
        Ok(if any {
            Struck::Yes(text)
        } else {
            Struck::No(text)
        })
    }

    /// Opens every link, resumes and starts every process.
    pub(super) async fn heal(&self, is_defect: &IsDefect) -> anyhow::Result<()> {
        self.links.heal_all();
        if let Some(namespaces) = &self.namespaces {
            namespaces.heal_all()?;
        }
        let count = self.nodes.lock().await.len();
        let all: Vec<u16> = (0..u16::try_from(count).expect("few nodes")).collect();
        let healed = self.on(&all, |node| {
            if node.pid().is_some() {
                node.resume()?;
            }
            node.start()
        });
        let healed = healed.await;
        self.note_ends(is_defect).await;
        healed
    }

    /// Notes the ends that nobody asked for.
    pub(super) async fn note_ends(&self, is_defect: &IsDefect) {
        for node in self.nodes.lock().await.iter_mut() {
            for ended in node.take_ended() {
                let text = format!("ended by itself: {}; {}", ended.status, ended.last_words);
                event!(self.env, Warn, "jepsen", "{}: {text}", node.name());
                self.note(node.name(), text, is_defect(&ended));
            }
        }
    }

    /// Whether a node has shown a defect.
    pub(super) async fn has_defect(&self, is_defect: &IsDefect) -> bool {
        self.note_ends(is_defect).await;
        let incidents = self.incidents.lock().expect("no panic under this lock");
        incidents.iter().any(|incident| incident.defect)
    }

    pub(super) fn note(&self, node: &str, text: String, defect: bool) {
        let node = node.to_owned();
        let mut incidents = self.incidents.lock().expect("no panic under this lock");
        incidents.push(Incident { node, text, defect });
    }

    /// Stops every process; what happened that nobody asked for.
    pub(super) async fn tear_down(&self, is_defect: &IsDefect) -> Vec<Incident> {
        self.note_ends(is_defect).await;
        let mut stopping = Vec::new();
        for (node, number) in self.nodes.lock().await.iter_mut().zip(0_u16..) {
            if node.pid().is_some() && node.begin_stop().is_ok() {
                stopping.push((number, node.name().to_owned()));
            }
        }
        for (number, name) in stopping {
            if let Err(error) = self.stopped(number).await {
                self.note(&name, format!("{error:#}"), true);
            }
        }
        std::mem::take(&mut *self.incidents.lock().expect("no panic under this lock"))
    }
}
