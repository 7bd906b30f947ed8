//! The clients of a run: tasks beside a node's proxy that write, zero and read single blocks and
//! short ranges with unique contents, and note what they see.
//!
//! One node at a time is *designated* to hold the disk; when the designation moves the former holder
//! either releases it or goes on reading from what it believes to hold, as a proxy does whose
//! network or clock failed. An operation whose node dies stays open: its outcome is unknown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, Random, event};
use hedgerow_jepsen::check::{BlockHistory, BlockOp, OpId, Outcome};
use hedgerow_node::Node;
use hedgerow_proxy::{IoError, OperationTag, VirtualDisk};

use crate::world::{NodeIndex, World};

use super::operations::{ClientId, ClientOperation, Deed, Operations, identity_seed};
use super::other_disks::{self, OtherDisk};
use super::plan::{Move, Plan};

/// A client that waits looks this often whether it is to stop; no pause is longer.
const CLIENT_LOOK_NS: u64 = 50_000_000;

/// A former holder's client gives an operation up after this time and turns to the next: what its
/// proxy answers at once, from what it believes, must not wait behind what it cannot answer.
const FORMER_HOLDER_PATIENCE: Duration = Duration::from_millis(120);

/// A host that recovers goes on reading for so long at most before its first write, unless the plan
/// says for how long.
const RECOVERY_MAXIMUM_MS: u64 = 1_500;

/// The disk of a run.
pub(crate) const DISK: &str = "d0";
/// What a block reads as when its bytes are no content that was ever written.
pub(super) const GARBAGE: u64 = u64::MAX;

/// What the clients of all nodes share.
pub struct Agents {
    world: World,
    plan: Plan,
    operations: Arc<Mutex<Operations>>,
    state: Mutex<State>,
}

struct State {
    history: BlockHistory,
    designated: NodeIndex,
    /// Until when a former holder goes on; others release the disk when the designation moves.
    goes_on_until_ns: BTreeMap<NodeIndex, u64>,
    /// The designated holder takes the disk from one that goes on, and writes nothing yet.
    recovering: bool,
    /// For how long it does so, where the plan says.
    recovery_ns: Option<u64>,
    running: bool,
    /// The beginning of the safety phase.
    began_ns: u64,
    next_process: u64,
    succeeded: u64,
    /// The disks that operators make.
    others: BTreeMap<u32, OtherDisk>,
}

impl Agents {
    /// Clients that begin when [`Agents::begin_safety`] is called and do what `operations` has.
    #[must_use]
    pub fn new(world: &World, plan: &Plan, operations: Arc<Mutex<Operations>>) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            plan: plan.clone(),
            operations,
            state: Mutex::new(State {
                history: BlockHistory::new(),
                designated: NodeIndex(0),
                goes_on_until_ns: BTreeMap::new(),
                recovering: false,
                recovery_ns: None,
                running: false,
                began_ns: 0,
                next_process: 1,
                succeeded: 0,
                others: other_disks::planned(plan),
            }),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no panic under this lock"))
    }

    pub(super) fn operations(&self) -> std::sync::MutexGuard<'_, Operations> {
        self.operations.lock().expect("no panic under this lock")
    }

    /// The safety phase begins: clients run, and their times count from here.
    pub fn begin_safety(&self) {
        let now_ns = self.world.now_ns();
        self.with(|state| {
            state.running = true;
            state.began_ns = now_ns;
        });
    }

    /// Lets the clients run, or has them pause.
    pub fn run(&self, running: bool) {
        self.with(|state| state.running = running);
    }

    /// Clients whose lists end go on with operations of their own: to show that they are served.
    pub fn go_on_after_list(&self) {
        self.operations().generate_after_list();
    }

    /// Whether listed operations are still to come.
    #[must_use]
    pub fn awaits_listed(&self) -> bool {
        let now_ns = self.since_began(self.world.now_ns());
        let until_ns = self.operations().listed_until_ns();
        until_ns.is_some_and(|until_ns| now_ns <= until_ns)
    }

    fn since_began(&self, at_ns: u64) -> u64 {
        at_ns.saturating_sub(self.with(|state| state.began_ns))
    }

    /// Who holds the disk by plan while clients run; none while they do not, or it recovers.
    pub(super) fn holder(&self) -> Option<NodeIndex> {
        self.with(|state| (state.running && !state.recovering).then_some(state.designated))
    }

    /// How many blocks clients use.
    pub(super) fn hot_blocks(&self) -> u64 {
        self.plan.hot_blocks
    }

    /// How many initiators there are.
    pub(super) fn initiators(&self) -> u32 {
        self.plan.initiators
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(&self) -> u32 {
        self.plan.policy.block_size
    }

    /// Moves the disk to another node; the former holder goes on for a while, unless that is zero.
    pub fn designate(&self, one: &Move) {
        let until_ns = self.world.now_ns() + one.former_goes_on_ns;
        self.with(|state| {
            if state.designated != one.to {
                state.goes_on_until_ns.insert(state.designated, until_ns);
                state.designated = one.to;
                state.recovering = one.former_goes_on_ns > 0 && one.recovery_ns != Some(0);
                state.recovery_ns = one.recovery_ns;
            }
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

    /// Where the operation's range begins, and its bytes.
    pub(super) fn range(&self, operation: &ClientOperation) -> (u64, u64) {
        let size = u64::from(self.plan.policy.block_size);
        (self.plan.offset(operation.block), operation.count * size)
    }

    /// The bytes that the operation writes.
    pub(super) fn contents(&self, operation: &ClientOperation) -> Bytes {
        let size = usize::try_from(self.plan.policy.block_size).expect("a small size");
        let blocks = operation.block..operation.block + operation.count;
        let mut bytes = Vec::with_capacity(size * blocks.clone().count());
        for block in blocks {
            bytes.extend(content(operation.tag(), block, size));
        }
        bytes.into()
    }

    /// The tags of the blocks that a read returned.
    pub(super) fn tags(&self, env: &Env, operation: &ClientOperation, bytes: &Bytes) -> Vec<u64> {
        let size = usize::try_from(self.plan.policy.block_size).expect("a small size");
        let tag = |(block, bytes): (u64, &[u8])| {
            let tag = tag_of(bytes, block);
            if tag == GARBAGE {
                describe_garbage(env, block, bytes);
            }
            tag
        };
        (operation.block..)
            .zip(bytes.chunks(size))
            .map(tag)
            .collect()
    }

    /// Looks at the disks that operators make.
    pub(super) fn with_others<T>(&self, act: impl FnOnce(&mut BTreeMap<u32, OtherDisk>) -> T) -> T {
        self.with(|state| act(&mut state.others))
    }

    /// Whether clients are to work.
    pub(super) fn is_running(&self) -> bool {
        self.with(|state| state.running)
    }

    /// The plan's seed.
    pub(super) fn seed(&self) -> u64 {
        self.plan.seed
    }

    /// As [`Agents::finish`], of an operation that does not show whether the first disk is served.
    pub(super) fn finish_aside(&self, id: OpId, outcome: Outcome) {
        let time = self.world.now_ns();
        self.with(|state| {
            let ended = state.history.finish(id, time, outcome);
            ended.expect("an operation ends once, in time");
        });
    }

    pub(super) fn begin(&self, process: u64, op: BlockOp) -> OpId {
        let time = self.world.now_ns();
        self.with(|state| state.history.begin(process, time, op))
    }

    pub(super) fn finish(&self, id: OpId, outcome: Outcome) {
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
        if !agents.holds(index) {
            if let Some(disk) = held.take() {
                let former = [ClientId::FORMER_HOLDER];
                session(agents, &env, index, &disk, former, || agents.haunts(index)).await;
                if let Some(proxy) = node.proxy() {
                    let release = async move { drop(proxy.detach(&disk).await) };
                    match agents.plan.patience {
                        // It goes on when nobody waits for it any more.
                        Some(patience) => {
                            let release = env.to_the_end("release", release);
                            let _ended = env.timeout(patience, release).await;
                        }
                        None => release.await,
                    }
                }
            }
            env.sleep(Duration::from_millis(50)).await;
            continue;
        }
        held = held.filter(|disk| !disk.is_lost());
        if held.is_none()
            && let Some(proxy) = node.proxy()
        {
            match before_patience_ends(agents, &env, proxy.attach(DISK)).await {
                Some(Ok(disk)) => {
                    if agents.with(|state| state.recovering) {
                        recover(agents, &env, index, &disk).await;
                    }
                    held = Some(disk);
                }
                Some(Err(error)) => event!(env, Debug, "client", "attach: {error}"),
                None => event!(env, Debug, "client", "attach: given up"),
            }
        }
        match &held {
            Some(disk) => {
                agents.recovered(index);
                let clients = 1..=agents.plan.clients;
                let rightful = session(agents, &env, index, disk, clients, || agents.holds(index));
                // A rightful client may hang in a write when the disk moves; this one goes on.
                let former = outstay(agents, &env, index, disk);
                futures_util::future::join(rightful, former).await;
            }
            None => env.sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Waits for an answer as long as the plan's clients do.
async fn before_patience_ends<T>(
    agents: &Agents,
    env: &Env,
    answer: impl Future<Output = T>,
) -> Option<T> {
    match agents.plan.patience {
        Some(patience) => env.timeout(patience, answer).await.ok(),
        None => Some(answer.await),
    }
}

impl Agents {
    /// Whether the node's clients are those of the rightful holder.
    pub(super) fn holds(&self, index: NodeIndex) -> bool {
        self.with(|state| state.running && state.designated == index)
    }

    /// The node has read what it wants to know before it writes.
    fn recovered(&self, index: NodeIndex) {
        self.with(|state| state.recovering &= state.designated != index);
    }

    /// Whether the node goes on although the disk has moved.
    pub(super) fn haunts(&self, index: NodeIndex) -> bool {
        let now_ns = self.world.now_ns();
        self.with(|state| {
            let until_ns = state.goes_on_until_ns.get(&index);
            state.running
                && state.designated != index
                && until_ns.is_some_and(|until_ns| now_ns < *until_ns)
        })
    }
}

/// What a host does first with a disk whose former user did not let go of it: it reads all of it,
/// and more than once, before it writes anything, as a file system or a database does to recover.
async fn recover(agents: &Arc<Agents>, env: &Env, index: NodeIndex, disk: &VirtualDisk) {
    let drawn_ns = || {
        let identity = [u64::from(index.0), disk.writer().0];
        let seed = identity_seed(agents.plan.seed, "recovery", identity);
        1_000_000 * Random::from_seed(seed).below(RECOVERY_MAXIMUM_MS)
    };
    let length_ns = agents
        .with(|state| state.recovery_ns)
        .unwrap_or_else(drawn_ns);
    let until = env.now() + Duration::from_nanos(length_ns);
    let process = fresh_process(agents);
    loop {
        for block in 0..agents.plan.hot_blocks {
            if disk.is_lost() || !agents.holds(index) {
                return;
            }
            read(agents, env, disk, &reading_of(block), process).await;
        }
        if env.now() >= until {
            return;
        }
        env.sleep(agents.plan.pause).await;
    }
}

/// The client that goes on with the disk when it has moved, as long as the plan says.
async fn outstay(agents: &Arc<Agents>, env: &Env, index: NodeIndex, disk: &VirtualDisk) {
    while agents.holds(index) && !disk.is_lost() {
        env.sleep(Duration::from_nanos(CLIENT_LOOK_NS / 2)).await;
    }
    let former = [ClientId::FORMER_HOLDER];
    session(agents, env, index, disk, former, || agents.haunts(index)).await;
}

/// Some clients of a node, until the disk is lost or they are not to go on.
async fn session(
    agents: &Arc<Agents>,
    env: &Env,
    index: NodeIndex,
    disk: &VirtualDisk,
    clients: impl IntoIterator<Item = u32>,
    may: impl Fn() -> bool,
) {
    let go_on = || !disk.is_lost() && may();
    let clients = clients.into_iter().map(|client| {
        let id = ClientId {
            node: index,
            client,
        };
        let go_on = &go_on;
        async move {
            let mut process = fresh_process(agents);
            while let Some(operation) = turn(agents, id, go_on).await {
                agents.operations().performs(&operation);
                if !operate(agents, env, disk, &operation, process).await {
                    process = fresh_process(agents);
                }
            }
        }
    });
    futures_util::future::join_all(clients).await;
}

/// Waits for the client's next operation; none when it is to stop first.
pub(super) async fn turn(
    agents: &Agents,
    client: ClientId,
    go_on: impl Fn() -> bool,
) -> Option<ClientOperation> {
    let world = &agents.world;
    let mut drawn = None;
    loop {
        if !go_on() {
            return None;
        }
        let now_ns = world.now_ns();
        if drawn.is_none() {
            let since_began_ns = agents.since_began(now_ns);
            drawn = agents.operations().next(client, since_began_ns);
        }
        let look_ns = now_ns + CLIENT_LOOK_NS;
        let due_ns = match &drawn {
            Some(operation) => agents.with(|state| state.began_ns) + operation.at_ns,
            // Its list is at its end, unless the service phase lets it go on.
            None => look_ns,
        };
        if due_ns <= now_ns {
            return drawn;
        }
        world.sleep_until_ns(due_ns.min(look_ns)).await;
    }
}

pub(super) fn fresh_process(agents: &Agents) -> u64 {
    agents.with(|state| {
        state.next_process += 1;
        state.next_process
    })
}

/// One operation; false when its outcome is unknown, so that the process must not go on.
pub(super) async fn operate(
    agents: &Arc<Agents>,
    env: &Env,
    disk: &VirtualDisk,
    operation: &ClientOperation,
    process: u64,
) -> bool {
    match operation.deed {
        Deed::Read => read(agents, env, disk, operation, process).await,
        Deed::Zero => zero(agents, env, disk, operation, process).await,
        Deed::Write => write(agents, env, disk, operation, process, None).await,
        Deed::WriteThenCancel { after_us } => {
            let after = Duration::from_micros(after_us);
            write(agents, env, disk, operation, process, Some(after)).await
        }
    }
}

/// What a block repeats: the tag and the block, so that misplaced and torn blocks show.
fn pattern(tag: u64, block: u64) -> [u8; 16] {
    (u128::from(tag) | u128::from(block) << 64).to_le_bytes()
}

/// A block's bytes; sizes of blocks are multiples of a pattern's.
pub(super) fn content(tag: u64, block: u64, size: usize) -> Vec<u8> {
    pattern(tag, block).repeat(size / 16)
}

/// The tag of a block's bytes: 0 for zeros, [`GARBAGE`] for anything that was never written there.
pub(super) fn tag_of(bytes: &[u8], block: u64) -> u64 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let tag = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let expected = pattern(tag, block);
    let whole = bytes.chunks(16).all(|piece| piece == expected);
    if whole && tag != 0 { tag } else { GARBAGE }
}

async fn write(
    agents: &Arc<Agents>,
    env: &Env,
    disk: &VirtualDisk,
    operation: &ClientOperation,
    process: u64,
    cancel_after: Option<Duration>,
) -> bool {
    let tag = operation.tag();
    let id = agents.begin(process, operation.recorded());
    let (offset, _) = agents.range(operation);
    let writing = disk.write(offset, agents.contents(operation), OperationTag(tag));
    let result = match cancel_after {
        None => patiently(env, operation, writing).await,
        Some(after) => {
            let cancelling = async {
                env.sleep(after).await;
                disk.cancel(OperationTag(tag)).await;
            };
            let both = async { futures_util::future::join(writing, cancelling).await.0 };
            patiently(env, operation, both).await
        }
    };
    settle(agents, operation, id, result)
}

async fn zero(
    agents: &Arc<Agents>,
    env: &Env,
    disk: &VirtualDisk,
    operation: &ClientOperation,
    process: u64,
) -> bool {
    let id = agents.begin(process, operation.recorded());
    let (offset, length) = agents.range(operation);
    let tag = OperationTag(operation.tag());
    let result = patiently(env, operation, disk.zero(offset, length, tag)).await;
    settle(agents, operation, id, result)
}

fn settle(
    agents: &Agents,
    operation: &ClientOperation,
    id: OpId,
    result: Result<(), IoError>,
) -> bool {
    match result {
        Ok(()) => {
            agents.finish(id, Outcome::Ok(None));
            true
        }
        // A cancelled write of several blocks may have been done in part.
        Err(IoError::Cancelled) if operation.count > 1 => {
            agents.finish(id, Outcome::Info);
            false
        }
        Err(
            IoError::Cancelled
            | IoError::OutOfRange
            | IoError::Misaligned { .. }
            | IoError::NoRoom { in_part: false },
        ) => {
            agents.finish(id, Outcome::Fail);
            true
        }
        Err(IoError::Fenced | IoError::Unavailable(_) | IoError::NoRoom { in_part: true }) => {
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
    operation: &ClientOperation,
    process: u64,
) -> bool {
    let id = agents.begin(process, operation.recorded());
    let (offset, length) = agents.range(operation);
    let outcome = match patiently(env, operation, disk.read(offset, length)).await {
        Ok(bytes) => Outcome::Ok(Some(agents.tags(env, operation, &bytes))),
        // A read that failed says nothing.
        Err(_) => Outcome::Fail,
    };
    agents.finish(id, outcome);
    true
}

/// Waits for what `work` comes to, or for as long as the operation's client has patience.
async fn patiently<T>(
    env: &Env,
    operation: &ClientOperation,
    work: impl Future<Output = Result<T, IoError>>,
) -> Result<T, IoError> {
    if operation.client != ClientId::FORMER_HOLDER {
        return work.await;
    }
    let given_up = || IoError::Unavailable("given up".into());
    let ended = env.timeout(FORMER_HOLDER_PATIENCE, work).await;
    ended.unwrap_or_else(|_| Err(given_up()))
}

/// A read of one block that belongs to nobody's list.
fn reading_of(block: u64) -> ClientOperation {
    ClientOperation {
        at_ns: 0,
        node: NodeIndex(0),
        client: ClientId::FIRST_INITIATOR - 1,
        number: 0,
        block,
        count: 1,
        deed: Deed::Read,
    }
}

/// Reads every hot block once; false when some could not be read.
pub(super) async fn read_all(agents: &Arc<Agents>, env: &Env, disk: &VirtualDisk) -> bool {
    let process = fresh_process(agents);
    for block in 0..agents.plan.hot_blocks {
        let operation = reading_of(block);
        let id = agents.begin(process, operation.recorded());
        let (offset, length) = agents.range(&operation);
        match disk.read(offset, length).await {
            Ok(bytes) => {
                let tags = agents.tags(env, &operation, &bytes);
                agents.finish(id, Outcome::Ok(Some(tags)));
            }
            Err(_) => {
                agents.finish(id, Outcome::Fail);
                return false;
            }
        }
    }
    true
}
