//! The target `etcd`: three or more processes of a program that we did not write, to show that the
//! checks test the system and not themselves.
//!
//! It needs the program `etcd` (Debian: `apt-get install etcd-server`). Peers reach one another
//! through fault proxies, clients go to the members directly.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::bail;
use hedgerow_env::{BoxFuture, Env};
use hedgerow_jepsen::history::Value;
use hedgerow_jepsen::run::etcd::{EtcdClient, EtcdClients};
use hedgerow_jepsen::run::workload::WorkloadPlan;
use hedgerow_jepsen::run::{
    Client, Completion, Fault, Incident, Operation, Struck, Target, TargetError, TestPlan,
    TimedFault, node_name,
};

use super::cluster::{Cluster, IsDefect, may_strike};
use super::namespaces::Namespaces;
use super::node_process::Start;

/// Members elect a leader within seconds; a busy machine takes longer.
const FORM_LIMIT: Duration = Duration::from_secs(60);
const ASK_PAUSE: Duration = Duration::from_millis(250);
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// A cluster of etcd.
pub(super) struct Etcd {
    cluster: Cluster,
    program: PathBuf,
    folder: PathBuf,
    serializable_reads: bool,
    clients: OnceLock<EtcdClients>,
    is_defect: IsDefect,
}

impl Etcd {
    pub(super) fn new(
        env: Env,
        namespaces: Option<Namespaces>,
        program: Option<PathBuf>,
        folder: PathBuf,
        serializable_reads: bool,
    ) -> Self {
        Self {
            cluster: Cluster::new(env, namespaces),
            program: program.unwrap_or_else(|| "etcd".into()),
            folder,
            serializable_reads,
            clients: OnceLock::new(),
            is_defect: Box::new(|_| true),
        }
    }

    async fn form(&self, plan: &TestPlan) -> anyhow::Result<()> {
        let places = self.cluster.places(plan.nodes).await?;
        let (peers, addresses, proxies) = (&places.listen, &places.clients, &places.advertised);
        std::fs::create_dir_all(self.folder.join("logs"))?;
        std::fs::create_dir_all(self.folder.join("data"))?;
        let members: Vec<String> = (0..plan.nodes)
            .zip(proxies)
            .map(|(number, proxy)| format!("{}=http://{proxy}", node_name(number)))
            .collect();
        let members = members.join(",");
        let nodes = (0..plan.nodes).map(|number| {
            let at = usize::from(number);
            let ends = (peers[at].as_str(), proxies[at].as_str());
            let member = self.member(number, ends, &addresses[at], &members);
            self.cluster.process(number, member)
        });
        self.cluster.start(nodes.collect()).await?;
        let clients = EtcdClients {
            env: self.cluster.env.clone(),
            addresses: addresses.to_vec(),
            serializable_reads: self.serializable_reads,
        };
        self.wait_formed(&clients).await?;
        if self.clients.set(clients).is_err() {
            bail!("a target is set up once");
        }
        Ok(())
    }

    fn member(
        &self,
        number: u16,
        (peer, proxy): (&str, &str),
        client: &str,
        members: &str,
    ) -> Start {
        let name = node_name(number);
        let arguments = [
            ("--name", name.clone()),
            (
                "--data-dir",
                self.folder.join("data").join(&name).display().to_string(),
            ),
            ("--listen-peer-urls", format!("http://{peer}")),
            ("--initial-advertise-peer-urls", format!("http://{proxy}")),
            ("--listen-client-urls", format!("http://{client}")),
            ("--advertise-client-urls", format!("http://{client}")),
            ("--initial-cluster", members.to_owned()),
            ("--initial-cluster-state", "new".to_owned()),
        ];
        let pairs = arguments.into_iter();
        Start {
            program: self.program.clone(),
            arguments: pairs
                .flat_map(|(name, value)| [name.to_owned(), value])
                .collect(),
            variables: Vec::new(),
            log: self.folder.join("logs").join(format!("{name}.log")),
            name,
        }
    }

    /// Returns when every member answers a linearizable read.
    async fn wait_formed(&self, clients: &EtcdClients) -> anyhow::Result<()> {
        let env = &self.cluster.env;
        let give_up = env.now() + FORM_LIMIT;
        let read = Operation {
            function: "read",
            key: Some(-1),
            argument: Value::Nil,
        };
        for process in 0..clients.addresses.len() as u64 {
            loop {
                let mut client = EtcdClient::new(clients.clone(), process);
                let answer = env.timeout(ASK_LIMIT, client.perform(&read)).await;
                if let Ok(Completion::Ok(_)) = answer {
                    break;
                }
                self.cluster.note_ends(&self.is_defect).await;
                if env.now() >= give_up {
                    bail!("etcd did not form a cluster: {answer:?}; see its logs");
                }
                env.sleep(ASK_PAUSE).await;
            }
        }
        Ok(())
    }
}

/// Whether etcd can be tested so.
pub(super) fn check(plan: &TestPlan) -> anyhow::Result<()> {
    if !matches!(plan.workload, WorkloadPlan::CasRegister(_)) {
        bail!("etcd is no block device: use --workload cas-register");
    }
    let foreign = plan.faults.iter().find(|timed| !may_strike(&timed.fault));
    if let Some(TimedFault { kind, .. }) = foreign {
        bail!(
            "--nemesis {kind}: etcd's processes can be killed, restarted and paused, and its links cut, \
             slowed and damaged; the clocks, disks and members of etcd are its own"
        );
    }
    if plan.small_stores || plan.slow_disks_ms > 0 {
        bail!("--small-stores and --slow-disks are about stores of Hedgerow: leave them out");
    }
    Ok(())
}

fn failed(error: &anyhow::Error) -> TargetError {
    TargetError(format!("{error:#}"))
}

impl Target for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn set_up<'a>(&'a self, plan: &'a TestPlan) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move { self.form(plan).await.map_err(|error| failed(&error)) })
    }

    fn client(&self, process: u64) -> Box<dyn Client> {
        let clients = self.clients.get();
        let clients = clients.expect("nobody asks a target that was not set up");
        Box::new(EtcdClient::new(clients.clone(), process))
    }

    fn begin<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move {
            match self.cluster.begin(fault).await {
                Some(begun) => begun.map_err(|error| failed(&error)),
                None => Err(TargetError("etcd was not made for this fault".to_owned())),
            }
        })
    }

    fn end<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Struck> {
        Box::pin(async move {
            let ended = self.cluster.end(fault).await;
            ended.unwrap_or_else(|error| Struck::No(format!("{error:#}")))
        })
    }

    fn has_defect(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.cluster.has_defect(&self.is_defect))
    }

    fn heal(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        Box::pin(async move {
            let healed = self.cluster.heal(&self.is_defect).await;
            healed.map_err(|error| failed(&error))
        })
    }

    fn tear_down(&self) -> BoxFuture<'_, Vec<Incident>> {
        Box::pin(async move { self.cluster.tear_down(&self.is_defect).await })
    }
}
