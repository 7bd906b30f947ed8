//! The clients of a run: tasks beside a node's proxy that write, zero and read single blocks and
//! short ranges with unique contents, and note what they see.
//!
//! One node at a time is *designated* to hold the disk; when the designation moves the former holder
//! either releases it or goes on reading from what it believes to hold, as a proxy does whose
//! network or clock failed. An operation whose node dies stays open: its outcome is unknown.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, Random, event};
use hedgerow_jepsen::check::{BlockHistory, BlockOp, OpId, Outcome};
use hedgerow_node::Node;
use hedgerow_proxy::{IoError, OperationTag, VirtualDisk};

use crate::world::{NodeIndex, World};

use super::plan::Plan;

/// The disk of a run.
pub(super) const DISK: &str = "d0";
/// What a block reads as when its bytes are no content that was ever written.
pub(super) const GARBAGE: u64 = u64::MAX;

/// What the clients of all nodes share.
pub struct Agents {
    world: World,
    plan: Plan,
    state: Mutex<State>,
}

struct State {
    history: BlockHistory,
    designated: NodeIndex,
    /// Whether a former holder releases the disk when the designation moves.
    releases: bool,
    running: bool,
    next_tag: u64,
    next_process: u64,
    succeeded: u64,
}

impl Agents {
    /// Clients that begin when [`Agents::run`] is called.
    #[must_use]
    pub fn new(world: &World, plan: &Plan) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            plan: plan.clone(),
            state: Mutex::new(State {
                history: BlockHistory::new(),
                designated: NodeIndex(0),
                releases: true,
                running: false,
                next_tag: 1,
                next_process: 1,
                succeeded: 0,
            }),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no panic under this lock"))
    }

    /// Lets the clients run, or has them pause.
    pub fn run(&self, running: bool) {
        self.with(|state| state.running = running);
    }

    /// Moves the disk to another node.
    pub fn designate(&self, node: NodeIndex, releases: bool) {
        self.with(|state| {
            state.designated = node;
            state.releases = releases;
        });
    }

    /// The history so far.
    #[must_use]
    pub fn history(&self) -> BlockHistory {
        self.with(|state| state.history.clone())
    }

    /// Operations that succeeded so far.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.with(|state| state.succeeded)
    }

    /// The byte offset of a hot block: blocks are spread over the containers.
    fn offset(&self, block: u64) -> u64 {
        let plan = &self.plan;
        let containers = u64::from(plan.containers);
        let within = block / containers * u64::from(plan.policy.block_size);
        assert!(
            within < plan.container_bytes,
            "no two hot blocks share a place"
        );
        block % containers * plan.container_bytes + within
    }

    fn begin(&self, process: u64, op: BlockOp) -> OpId {
        let time = self.world.now_ns();
        self.with(|state| state.history.begin(process, time, op))
    }

    fn finish(&self, id: OpId, outcome: Outcome) {
        let time = self.world.now_ns();
        self.with(|state| {
            state.succeeded += u64::from(matches!(outcome, Outcome::Ok(_)));
            state
                .history
                .finish(id, time, outcome)
                .expect("an operation ends once, in time");
        });
    }
}

/// Runs the clients of one node for as long as it lives.
pub(super) async fn run_agents(agents: &Arc<Agents>, index: NodeIndex, node: Node) {
    let env = node.env().clone();
    let mut held: Option<VirtualDisk> = None;
    loop {
        let (designated, running, releases) =
            agents.with(|state| (state.designated, state.running, state.releases));
        if !running || designated != index {
            if let Some(disk) = held.take() {
                if running && !releases {
                    haunt(agents, &env, &disk).await;
                }
                if let Some(proxy) = node.proxy() {
                    drop(proxy.detach(&disk).await);
                }
            }
            env.sleep(Duration::from_millis(50)).await;
            continue;
        }
        held = held.filter(|disk| !disk.is_lost());
        if held.is_none()
            && let Some(proxy) = node.proxy()
        {
            match proxy.attach(DISK).await {
                Ok(disk) => held = Some(disk),
                Err(error) => event!(env, Debug, "client", "attach: {error}"),
            }
        }
        match &held {
            Some(disk) => work(agents, &env, index, disk).await,
            None => env.sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The clients of a holder, until the disk is lost or the designation moves.
async fn work(agents: &Arc<Agents>, env: &Env, index: NodeIndex, disk: &VirtualDisk) {
    let clients = (0..agents.plan.clients).map(|_| async {
        let mut random = env.random("client");
        let mut process = fresh_process(agents);
        loop {
            let go_on = agents.with(|state| state.running && state.designated == index);
            if !go_on || disk.is_lost() {
                return;
            }
            if !operate(agents, env, disk, &mut random, process, true).await {
                process = fresh_process(agents);
            }
            let most = u64::try_from(agents.plan.pause.as_millis()).expect("short");
            env.sleep(Duration::from_millis(random.below(most + 1)))
                .await;
        }
    });
    futures_util::future::join_all(clients).await;
}

/// A holder that does not know that it should be none: it reads, and writes now and then.
async fn haunt(agents: &Arc<Agents>, env: &Env, disk: &VirtualDisk) {
    let mut random = env.random("haunt");
    let mut process = fresh_process(agents);
    for _ in 0..400 {
        if disk.is_lost() || !agents.with(|state| state.running) {
            return;
        }
        let writes = random.chance(1, 8);
        if !operate(agents, env, disk, &mut random, process, writes).await {
            process = fresh_process(agents);
        }
        env.sleep(Duration::from_millis(1 + random.below(40))).await;
    }
}

fn fresh_process(agents: &Agents) -> u64 {
    agents.with(|state| {
        state.next_process += 1;
        state.next_process
    })
}

/// One operation; false when its outcome is unknown, so that the process must not go on.
async fn operate(
    agents: &Arc<Agents>,
    env: &Env,
    disk: &VirtualDisk,
    random: &mut Random,
    process: u64,
    may_write: bool,
) -> bool {
    let block = random.below(agents.plan.hot_blocks);
    if may_write && random.chance(1, 2) {
        if random.chance(1, 6) {
            zero(agents, disk, block, process).await
        } else {
            {
                let cancel = random.chance(1, 8);
                let after = Duration::from_micros(random.below(60_000));
                write(agents, env, disk, block, process, cancel.then_some(after)).await
            }
        }
    } else {
        read(agents, env, disk, block, process).await
    }
}

fn tag(agents: &Agents) -> u64 {
    agents.with(|state| {
        state.next_tag += 1;
        state.next_tag
    })
}

/// A block's bytes: the tag and the block, over and over, so that misplaced and torn blocks show.
pub(super) fn content(tag: u64, block: u64, size: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&block.to_le_bytes());
    }
    bytes.into()
}

/// The tag of a block's bytes: 0 for zeros, [`GARBAGE`] for anything that was never written there.
pub(super) fn tag_of(bytes: &[u8], block: u64) -> u64 {
    let word = |at: usize| {
        let word: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
        u64::from_le_bytes(word)
    };
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let tag = word(0);
    let whole = (0..bytes.len())
        .step_by(16)
        .all(|at| word(at) == tag && word(at + 8) == block);
    if whole && tag != 0 { tag } else { GARBAGE }
}

async fn write(
    agents: &Arc<Agents>,
    env: &Env,
    disk: &VirtualDisk,
    block: u64,
    process: u64,
    cancel_after: Option<Duration>,
) -> bool {
    let tag = tag(agents);
    let size = usize::try_from(agents.plan.policy.block_size).expect("a small size");
    let id = agents.begin(
        process,
        BlockOp::Write {
            first_block: block,
            count: 1,
            tag,
        },
    );
    let data = content(tag, block, size);
    let writing = disk.write(agents.offset(block), data, OperationTag(tag));
    let result = match cancel_after {
        None => writing.await,
        Some(after) => {
            let cancelling = async {
                env.sleep(after).await;
                disk.cancel(OperationTag(tag)).await;
            };
            futures_util::future::join(writing, cancelling).await.0
        }
    };
    settle(agents, id, result)
}

async fn zero(agents: &Arc<Agents>, disk: &VirtualDisk, block: u64, process: u64) -> bool {
    let tag = tag(agents);
    let id = agents.begin(
        process,
        BlockOp::Zero {
            first_block: block,
            count: 1,
        },
    );
    let size = u64::from(agents.plan.policy.block_size);
    let result = disk
        .zero(agents.offset(block), size, OperationTag(tag))
        .await;
    settle(agents, id, result)
}

fn settle(agents: &Agents, id: OpId, result: Result<(), IoError>) -> bool {
    match result {
        Ok(()) => {
            agents.finish(id, Outcome::Ok(None));
            true
        }
        Err(IoError::Cancelled | IoError::OutOfRange | IoError::Misaligned { .. }) => {
            agents.finish(id, Outcome::Fail);
            true
        }
        Err(IoError::Fenced | IoError::Unavailable(_)) => {
            agents.finish(id, Outcome::Info);
            false
        }
    }
}

/// Says which runs of (tag, block) a wrong block holds.
fn describe_garbage(env: &Env, block: u64, bytes: &[u8]) {
    let mut runs: Vec<(u64, u64, usize)> = Vec::new();
    for pair in bytes.chunks_exact(16) {
        let word = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().expect("eight"));
        match runs.last_mut() {
            Some((tag, of, count)) if *tag == word(0) && *of == word(8) => *count += 1,
            _ => runs.push((word(0), word(8), 1)),
        }
    }
    runs.truncate(8);
    event!(
        env,
        Error,
        "client",
        "block {block} is garbage: (tag, block, times 16 bytes) {runs:?}"
    );
}

async fn read(
    agents: &Arc<Agents>,
    env: &Env,
    disk: &VirtualDisk,
    block: u64,
    process: u64,
) -> bool {
    let id = agents.begin(
        process,
        BlockOp::Read {
            first_block: block,
            count: 1,
        },
    );
    let size = u64::from(agents.plan.policy.block_size);
    match disk.read(agents.offset(block), size).await {
        Ok(bytes) => {
            let tag = tag_of(&bytes, block);
            if tag == GARBAGE {
                describe_garbage(env, block, &bytes);
            }
            agents.finish(id, Outcome::Ok(Some(vec![tag])));
        }
        // A read that failed says nothing.
        Err(_) => agents.finish(id, Outcome::Fail),
    }
    true
}

/// Reads every hot block once; false when some could not be read.
pub(super) async fn read_all(agents: &Arc<Agents>, disk: &VirtualDisk) -> bool {
    let process = fresh_process(agents);
    for block in 0..agents.plan.hot_blocks {
        let id = agents.begin(
            process,
            BlockOp::Read {
                first_block: block,
                count: 1,
            },
        );
        let size = u64::from(agents.plan.policy.block_size);
        match disk.read(agents.offset(block), size).await {
            Ok(bytes) => agents.finish(id, Outcome::Ok(Some(vec![tag_of(&bytes, block)]))),
            Err(_) => {
                agents.finish(id, Outcome::Fail);
                return false;
            }
        }
    }
    true
}
