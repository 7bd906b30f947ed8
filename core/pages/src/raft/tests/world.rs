//! Nodes for tests: each with a disk that can crash, on one network in memory and virtual time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_disk::journal::{AppendError, Record, StreamTag};
use hedgerow_disk::testing::FaultDisk;
use hedgerow_disk::{Store, StoreConfig, VerifiedConfig};
use hedgerow_env::{
    AbortHandle, BoxFuture, ClusterId, Env, EnvParts, GroupId, HaltReason, NodeId, Random,
    ReplicaNumber, Seeds, TaskHandle, Tasks,
};
use hedgerow_net::testing::{MemoryNetwork, TestParts};
use hedgerow_net::{Identity, RoleSet, Rpc, RpcConfig};
use hedgerow_protocol::{GroupMember, MemberId, ROOT_GROUP};

use super::super::{HostConfig, PagesHost, RaftTiming};
use crate::root::RootMachine;
use crate::shard::ShardMachine;
use crate::{GroupReplica, Machine, ProposeError, StateError, Update, View};

pub(crate) const GROUP: GroupId = GroupId(3);
/// Virtual time within which a healthy group must have done what it is asked.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Batches are `key=value`; the outcome is the value before. `key=` deletes.
pub(crate) struct Registers;

impl Machine for Registers {
    fn apply(
        &self,
        state: &mut dyn Update,
        _index: u64,
        batch: &[u8],
    ) -> Result<Bytes, StateError> {
        let at = batch
            .iter()
            .position(|byte| *byte == b'=')
            .expect("key=value");
        let (key, value) = (&batch[..at], &batch[at + 1..]);
        let before = state.get(key)?.unwrap_or_default();
        if value.is_empty() {
            state.delete(key)?;
        } else {
            state.put(key, value)?;
        }
        Ok(Bytes::from(before))
    }
}

/// The machine of a group: of [`GROUP`] the one above.
pub(crate) fn machine_of(group: GroupId) -> Arc<dyn Machine> {
    match group {
        GROUP => Arc::new(Registers),
        ROOT_GROUP => Arc::new(RootMachine),
        _ => Arc::new(ShardMachine),
    }
}

/// Tasks that die together.
#[derive(Default)]
struct NodeTasks {
    running: Mutex<Vec<tokio::task::AbortHandle>>,
    halted: Mutex<Option<HaltReason>>,
}

struct Abort(tokio::task::AbortHandle);

impl AbortHandle for Abort {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Tasks for NodeTasks {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle {
        let task = tokio::runtime::Handle::current().spawn(future);
        let mut running = self.running.lock().unwrap();
        running.retain(|task| !task.is_finished());
        running.push(task.abort_handle());
        TaskHandle::new(Arc::new(Abort(task.abort_handle())))
    }

    fn blocking(
        &self,
        _name: &'static str,
        job: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move { job() })
    }

    fn halt(&self, reason: HaltReason) {
        self.halted.lock().unwrap().get_or_insert(reason);
    }
}

/// Streams of one incarnation of one node.
struct NodeSeeds {
    seed: u64,
    calls: AtomicU64,
}

impl Seeds for NodeSeeds {
    fn stream(&self, _label: &str) -> Random {
        Random::from_seed(self.seed + self.calls.fetch_add(1, Ordering::Relaxed))
    }

    fn secret(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream("secret").fill(&mut bytes);
        bytes
    }
}

struct Running {
    host: Arc<PagesHost>,
    rpc: Rpc,
    store: Store,
    tasks: Arc<NodeTasks>,
    env: Env,
}

pub(crate) struct Node {
    number: u64,
    network: MemoryNetwork,
    pub(crate) disk: FaultDisk,
    timing: RaftTiming,
    seed: u64,
    starts: u64,
    running: Option<Running>,
}

/// Quick elections and small logs.
pub(crate) fn timing() -> RaftTiming {
    RaftTiming {
        snapshot_entries: 64,
        kept_entries: 16,
        log_cache_bytes: 4 << 10,
        state_cache_bytes: 1 << 20,
        ..RaftTiming::default()
    }
}

impl Node {
    pub(crate) fn new(network: &MemoryNetwork, number: u64, seed: u64) -> Self {
        Self {
            number,
            network: network.clone(),
            disk: FaultDisk::new(seed + number),
            timing: timing(),
            seed,
            starts: 0,
            running: None,
        }
    }

    fn address(&self) -> String {
        format!("node{}:700", self.number)
    }

    /// Starts the node; what its disk kept is what it knows.
    pub(crate) async fn start(&mut self) {
        assert!(self.running.is_none(), "stop it first");
        self.starts += 1;
        let tasks = Arc::new(NodeTasks::default());
        let parts = TestParts::with_network(Arc::new(self.network.clone()));
        let env = Env::new(EnvParts {
            tasks: Arc::clone(&tasks) as Arc<dyn Tasks>,
            disk: Arc::new(self.disk.clone()),
            seeds: Arc::new(NodeSeeds {
                // Nodes and starts lie far apart, calls close together.
                seed: (self.seed << 40) + (self.number << 32) + (self.starts << 24),
                calls: AtomicU64::new(0),
            }),
            ..parts
        });
        let config = StoreConfig {
            is_system: true,
            ..StoreConfig::small()
        };
        let (store, recovery) = Store::open(&env, "pool", config)
            .await
            .expect("the store opens");
        let identity = Identity {
            cluster: Some(ClusterId(7)),
            node: NodeId(self.number),
            stores: Vec::new(),
            roles: RoleSet::PAGES,
            address: String::new(),
        };
        self.network.unlisten(&self.address());
        let rpc = Rpc::start(env.clone(), identity, RpcConfig::default(), &self.address())
            .await
            .expect("nobody else listens there");
        let host = PagesHost::start(HostConfig {
            env: env.clone(),
            rpc: rpc.clone(),
            store: store.id(),
            node: NodeId(self.number),
            journal: store.journal().clone(),
            recovered: recovery.control,
            damaged: recovery.damaged,
            directory: "pool/pages".to_owned(),
            timing: self.timing.clone(),
            verified: VerifiedConfig::small(),
            machines: Arc::new(machine_of),
            addresses: Arc::new(|_| None),
        })
        .await
        .expect("the host starts");
        self.running = Some(Running {
            host: Arc::new(host),
            rpc,
            store,
            tasks,
            env,
        });
    }

    /// Ends the node at once and loses what was not synced.
    pub(crate) async fn power_cut(&mut self) {
        let running = self.running.take().expect("it runs");
        // From here on its disk takes nothing more, whatever is dropped below.
        self.disk.crash_in(0);
        for task in running.tasks.running.lock().unwrap().drain(..) {
            task.abort();
        }
        self.network.unlisten(&self.address());
        drop(running);
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.disk.restart();
    }

    /// Stops the node in order.
    pub(crate) async fn stop(&mut self) {
        let running = self.running.take().expect("it runs");
        running.host.shutdown().await;
        running.rpc.shutdown().await;
        running.store.close().await;
        for task in running.tasks.running.lock().unwrap().drain(..) {
            task.abort();
        }
        self.network.unlisten(&self.address());
    }

    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    pub(crate) fn host(&self) -> &PagesHost {
        &self.running().host
    }

    pub(crate) fn shared_host(&self) -> Arc<PagesHost> {
        Arc::clone(&self.running().host)
    }

    pub(crate) fn env(&self) -> &Env {
        &self.running().env
    }

    pub(crate) fn rpc(&self) -> &Rpc {
        &self.running().rpc
    }

    pub(crate) fn journal_used(&self) -> u64 {
        self.running().store.journal().usage().used_bytes
    }

    /// Passes `bytes` through the journal as an owner that needs none of them for long.
    pub(crate) async fn pass_through_journal(&self, bytes: usize) {
        const RECORD_BYTES: usize = 16 << 10;
        let journal = self.running().store.journal();
        let record = Record {
            stream: StreamTag::new(StreamTag::RAFT_KIND, 99),
            kind: 1,
            header: Bytes::new(),
            payload: vec![7; RECORD_BYTES].into(),
        };
        for _ in 0..bytes / RECORD_BYTES {
            let receipt = loop {
                match journal.append_data(record.clone()) {
                    Ok(receipt) => break receipt,
                    Err(AppendError::Busy | AppendError::Full) => {
                        self.env().sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            let position = receipt.position();
            receipt.durable().await.unwrap();
            journal.release(position);
        }
    }

    pub(crate) fn halted(&self) -> Option<HaltReason> {
        self.running().tasks.halted.lock().unwrap().clone()
    }

    /// This node's member of a group under `replica`.
    pub(crate) fn member(&self, replica: u32) -> GroupMember {
        GroupMember {
            member: MemberId {
                store: self.running().store.id(),
                replica: ReplicaNumber(replica),
            },
            node: NodeId(self.number),
            address: self.address(),
        }
    }

    pub(crate) fn replica(&self) -> Arc<dyn GroupReplica> {
        self.host().replica(GROUP).expect("it has a replica")
    }

    /// Runs `job` as a task of the node.
    pub(crate) async fn inside<T: Send + 'static>(
        &self,
        job: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.env().spawn("test", async move {
            let _ = sender.send(job.await);
        });
        receiver.await.expect("the node lives on")
    }

    pub(crate) async fn start_replica(&self, number: u32, initialise: Option<Vec<GroupMember>>) {
        let host = Arc::clone(&self.running().host);
        let member = self.member(number);
        self.inside(async move {
            host.start_replica(GROUP, member, Arc::new(Registers), initialise)
                .await
                .map(drop)
        })
        .await
        .expect("the replica starts");
    }

    /// The whole state of the group, as it stands here.
    pub(crate) async fn contents(&self) -> BTreeMap<String, String> {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        let job = Box::new(move |view: Result<&dyn View, StateError>, _index| {
            let pairs = view.unwrap().scan(&[0], &[0xff], usize::MAX).unwrap();
            *filled.lock().unwrap() = Some(pairs);
        });
        self.inside(self.replica().read(job)).await;
        let pairs = slot.lock().unwrap().take().expect("the job ran");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        pairs
            .into_iter()
            .map(|(key, value)| (text(key), text(value)))
            .collect()
    }
}

/// A group of nodes with a replica each.
pub(crate) struct Cluster {
    pub(crate) network: MemoryNetwork,
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    /// Nodes without replicas.
    pub(crate) async fn blank(count: u64, seed: u64) -> Self {
        let network = MemoryNetwork::new(seed);
        let mut nodes = Vec::new();
        for number in 1..=count {
            let mut node = Node::new(&network, number, seed);
            node.start().await;
            nodes.push(node);
        }
        Self { network, nodes }
    }

    /// Three nodes whose replicas make up the group.
    pub(crate) async fn of_three(seed: u64) -> Self {
        let cluster = Self::blank(3, seed).await;
        let members: Vec<GroupMember> = cluster.nodes.iter().map(|node| node.member(1)).collect();
        for (at, node) in cluster.nodes.iter().enumerate() {
            let initialise = (at == 0).then(|| members.clone());
            node.start_replica(1, initialise).await;
        }
        cluster
    }

    /// Where the leader is, once there is one that can commit.
    pub(crate) async fn leader(&self) -> usize {
        let wait = async {
            loop {
                for (at, node) in self.nodes.iter().enumerate() {
                    if !node.runs() || node.host().replica(GROUP).is_none() {
                        continue;
                    }
                    let replica = node.replica();
                    if replica.leadership().is_leader
                        && node
                            .inside(async move { replica.linearize().await })
                            .await
                            .is_ok()
                    {
                        return at;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("a leader is elected")
    }

    /// Writes until it is acknowledged, wherever the leader is; answers the value before.
    pub(crate) async fn write(&self, key: &str, value: &str) -> String {
        let wait = async {
            loop {
                let leader = self.leader().await;
                match self.propose_at(leader, key, value).await {
                    Ok(before) => return before,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the write is acknowledged")
    }

    pub(crate) async fn propose_at(
        &self,
        at: usize,
        key: &str,
        value: &str,
    ) -> Result<String, ProposeError> {
        let replica = self.nodes[at].replica();
        let batch = Bytes::from(format!("{key}={value}"));
        let limit = Duration::from_secs(5);
        let propose = async move { tokio::time::timeout(limit, replica.propose(batch)).await };
        match self.nodes[at].inside(propose).await {
            Ok(answer) => answer.map(|done| String::from_utf8(done.outcomes.to_vec()).unwrap()),
            Err(_) => Err(ProposeError::Unknown {
                reason: "time-out".to_owned(),
            }),
        }
    }

    /// Waits until every running replica holds `expected`.
    pub(crate) async fn converge(&self, expected: &BTreeMap<String, String>) {
        for (at, node) in self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.runs())
        {
            let wait = async {
                while node.contents().await != *expected {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let caught_up = tokio::time::timeout(PATIENCE, wait).await;
            assert!(caught_up.is_ok(), "node {at} does not catch up");
        }
    }
}
