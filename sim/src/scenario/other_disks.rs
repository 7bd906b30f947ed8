//! The disks that operators make, and the client of each: it uses blocks beside the borders of
//! halves of containers, where a smaller size may end.
//!
//! Their blocks stand in the run's one history under numbers of their own, so that whatever is asked of
//! the first disk is asked of them. What an operator cuts off counts as zeroed by him.
//!
//! Invariants: a client's n-th operation is a function of the seed, the disk and n; nothing is noted
//! of a block that lies beyond the end of the disk as its client attached it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, Random};
use hedgerow_jepsen::check::{BlockOp, Outcome};
use hedgerow_node::Node;
use hedgerow_protocol::{DiskRecord, Policy};
use hedgerow_proxy::{IoError, OperationTag, VirtualDisk};

use crate::world::{NodeIndex, World};

use super::clients::{Agents, content, fresh_process, tag_of};
use super::cluster::Cluster;
use super::operations::{ClientId, identity_seed};
use super::operators::OperatorDeed;
use super::plan::Plan;
use super::run::{Failure, LOOK_PAUSE, SERVE_LIMIT, nanoseconds, on_node};

/// The clients of other disks: below those of initiators, and no plan draws so many of a node's own.
const FIRST_CLIENT: u32 = 96;
/// Blocks of the first disk have lower numbers than this one's, and each other disk its own range.
const BLOCKS_OF_A_DISK: u64 = 1 << 32;
/// The longest pause between two operations.
const PAUSE_MAXIMUM_MS: u64 = 120;

/// A disk as its operator and its client see it.
#[derive(Debug, Clone)]
pub(super) struct OtherDisk {
    number: u32,
    client: NodeIndex,
    policy: Policy,
    container_bytes: u64,
    /// Whether the client may use it now.
    pub(super) is_offered: bool,
    /// Whether it is there for good: made, and not to be deleted any more.
    pub(super) stays: bool,
    operations: u64,
}

/// The disks that a plan's operators make.
pub(super) fn planned(plan: &Plan) -> BTreeMap<u32, OtherDisk> {
    let mut disks = BTreeMap::new();
    for action in &plan.operators {
        if let OperatorDeed::Create {
            disk,
            client,
            policy,
            ..
        } = &action.deed
        {
            let made = OtherDisk {
                number: *disk,
                client: *client,
                policy: policy.clone(),
                container_bytes: plan.container_bytes,
                is_offered: false,
                stays: false,
                operations: 0,
            };
            disks.entry(*disk).or_insert(made);
        }
    }
    disks
}

/// The name of a disk.
pub(super) fn name(disk: u32) -> String {
    format!("d{disk}")
}

impl OtherDisk {
    fn block_bytes(&self) -> u64 {
        u64::from(self.policy.block_size)
    }

    /// The blocks that are used of a disk of so many bytes: the first two and the last of each half
    /// of a container.
    pub(super) fn blocks(&self, size_bytes: u64) -> impl Iterator<Item = u64> + use<> {
        let of_half = self.container_bytes / 2 / self.block_bytes();
        let halves = size_bytes / (self.container_bytes / 2);
        (0..halves).flat_map(move |half| [0, 1, of_half - 1].map(|at| half * of_half + at))
    }

    /// A block's number in the history.
    fn recorded(&self, block: u64) -> u64 {
        u64::from(self.number) * BLOCKS_OF_A_DISK + block
    }

    /// What an operator does to the blocks in use between two sizes when he makes the disk smaller.
    pub(super) fn cut(&self, to_bytes: u64, from_bytes: u64) -> Vec<BlockOp> {
        let kept = self.blocks(to_bytes).count();
        let cut = self.blocks(from_bytes).skip(kept);
        let zero = |block| BlockOp::Zero {
            first_block: self.recorded(block),
            count: 1,
        };
        cut.map(zero).collect()
    }
}

/// Runs the clients that sit on one node, for as long as it lives.
pub(super) async fn run_clients(agents: &Arc<Agents>, index: NodeIndex, node: &Node) {
    let numbers = agents.with_others(|others| {
        let here = others.iter().filter(|(_, disk)| disk.client == index);
        here.map(|(number, _)| *number).collect::<Vec<u32>>()
    });
    let clients = numbers
        .into_iter()
        .map(|disk| run_client(agents, disk, node));
    futures_util::future::join_all(clients).await;
}

async fn run_client(agents: &Arc<Agents>, disk: u32, node: &Node) {
    let env = node.env();
    let mut held: Option<VirtualDisk> = None;
    let mut process = fresh_process(agents);
    loop {
        let offered = agents.is_running()
            && agents.with_others(|others| others.get(&disk).is_some_and(|one| one.is_offered));
        if !offered {
            // Until it is released: nobody else would ever have it.
            if let (Some(disk), Some(proxy)) = (&held, node.proxy())
                && (disk.is_lost() || proxy.detach(disk).await.is_ok())
            {
                held = None;
            }
            env.sleep(Duration::from_millis(50)).await;
            continue;
        }
        held = held.filter(|held| !held.is_lost());
        let Some(held) = &held else {
            if let Some(proxy) = node.proxy() {
                held = proxy.attach(&name(disk)).await.ok();
            }
            env.sleep(Duration::from_millis(100)).await;
            continue;
        };
        if !operate(agents, env, disk, held, process).await {
            process = fresh_process(agents);
        }
    }
}

/// The client's next operation; false when its outcome is unknown.
async fn operate(
    agents: &Arc<Agents>,
    env: &Env,
    disk: u32,
    held: &VirtualDisk,
    process: u64,
) -> bool {
    let (one, number) = agents.with_others(|others| {
        let one = others.get_mut(&disk).expect("it is planned");
        one.operations += 1;
        (one.clone(), one.operations)
    });
    let seed = identity_seed(agents.seed(), "other disk", [u64::from(disk), number]);
    let mut random = Random::from_seed(seed);
    let pause = Duration::from_millis(random.below(PAUSE_MAXIMUM_MS));
    env.sleep(pause).await;
    let blocks: Vec<u64> = one.blocks(held.size_bytes()).collect();
    let Some(block) = (!blocks.is_empty()).then(|| blocks[random.index(blocks.len())]) else {
        return true;
    };
    let (first_block, count) = (one.recorded(block), 1);
    let id = ClientId {
        node: one.client,
        client: FIRST_CLIENT + disk,
    };
    let (offset, tag) = (block * one.block_bytes(), id.tag(number));
    let (op, result) = match random.below(6) {
        0..3 => return read(agents, held, &one, block, process).await,
        3 => {
            let op = agents.begin(process, BlockOp::Zero { first_block, count });
            let zeroing = held.zero(offset, one.block_bytes(), OperationTag(tag));
            (op, zeroing.await)
        }
        _ => {
            let write = BlockOp::Write {
                first_block,
                count,
                tag,
            };
            let op = agents.begin(process, write);
            let size = usize::try_from(one.block_bytes()).expect("a small size");
            let data = Bytes::from(content(tag, first_block, size));
            (op, held.write(offset, data, OperationTag(tag)).await)
        }
    };
    let outcome = match result {
        Ok(()) => Outcome::Ok(None),
        Err(
            IoError::Cancelled
            | IoError::OutOfRange
            | IoError::Misaligned { .. }
            | IoError::NoRoom { in_part: false },
        ) => Outcome::Fail,
        Err(IoError::Fenced | IoError::Unavailable(_) | IoError::NoRoom { in_part: true }) => {
            Outcome::Info
        }
    };
    let known = outcome != Outcome::Info;
    agents.finish_aside(op, outcome);
    known
}

/// Reads one block; false when it could not be read.
async fn read(
    agents: &Agents,
    held: &VirtualDisk,
    one: &OtherDisk,
    block: u64,
    process: u64,
) -> bool {
    let (first_block, count) = (one.recorded(block), 1);
    let op = agents.begin(process, BlockOp::Read { first_block, count });
    let offset = block * one.block_bytes();
    let (outcome, was_read) = match held.read(offset, one.block_bytes()).await {
        Ok(bytes) => (Outcome::Ok(Some(vec![tag_of(&bytes, first_block)])), true),
        Err(_) => (Outcome::Fail, false),
    };
    agents.finish_aside(op, outcome);
    was_read
}

/// Reads every block in use of the disks that are to be there, through a proxy that never held them.
///
/// # Errors
/// Some disk cannot be read within the bound of service.
pub(super) async fn final_reads(
    world: &World,
    cluster: &Cluster,
    agents: &Arc<Agents>,
    records: &[DiskRecord],
) -> Result<(), Failure> {
    let others: Vec<OtherDisk> = agents.with_others(|others| others.values().cloned().collect());
    for one in others.into_iter().filter(|one| one.stays) {
        let found = records.iter().any(|record| record.name == name(one.number));
        if !found {
            let text = format!("the disk {} is gone", name(one.number));
            return Err(Failure::correctness("operators", text));
        }
        let give_up = world.now_ns() + nanoseconds(SERVE_LIMIT);
        let mut turn = usize::from(one.client.0);
        loop {
            if world.now_ns() >= give_up {
                let text = format!("disk {}: not possible within {SERVE_LIMIT:?}", one.number);
                return Err(Failure::liveness("final-reads", text));
            }
            world.sleep(LOOK_PAUSE).await;
            turn += 1;
            let nodes = cluster.nodes();
            let Some((_, node)) = nodes.get(turn % nodes.len().max(1)) else {
                continue;
            };
            let (node, reading, one) = (node.clone(), Arc::clone(agents), one.clone());
            let running = node.clone();
            let work = async move { read_whole(&reading, &running, &one).await };
            if on_node(world, &node, work).await == Some(true) {
                break;
            }
        }
    }
    Ok(())
}

async fn read_whole(agents: &Arc<Agents>, node: &Node, one: &OtherDisk) -> bool {
    let Some(proxy) = node.proxy() else {
        return false;
    };
    let Ok(disk) = proxy.attach(&name(one.number)).await else {
        return false;
    };
    let process = fresh_process(agents);
    let mut complete = true;
    for block in one.blocks(disk.size_bytes()) {
        complete = complete && read(agents, &disk, one, block, process).await;
    }
    drop(proxy.detach(&disk).await);
    complete
}
