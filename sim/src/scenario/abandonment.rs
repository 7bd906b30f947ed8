//! A writer that never returns: it is killed in the midst of its writes, and no proxy takes the disk
//! after it until what it left behind is to be gone.
//!
//! Only then do the end of a lease and the floors that it leaves count: whoever takes the disk fences
//! every container by himself.

use std::sync::Arc;

use hedgerow_node::Node;
use hedgerow_proxy::VirtualDisk;

use crate::world::{Crash, World};

use super::clients::{Agents, DISK, fresh_process, operate};
use super::cluster::Cluster;
use super::operations::{ClientId, ClientOperation, Deed};
use super::plan::Abandonment;
use super::run::{Failure, LOOK_PAUSE, SERVE_LIMIT, nanoseconds, on_node};

/// The client that abandons the disk; no plan gives a node so many.
const CLIENT: u32 = ClientId::FIRST_INITIATOR - 1;

/// Has the node take the disk and die in the midst of writes, then starts it again.
///
/// # Errors
/// It cannot take the disk within the bound of service.
pub(super) async fn abandon(
    world: &World,
    cluster: &Cluster,
    agents: &Arc<Agents>,
    abandonment: &Abandonment,
) -> Result<(), Failure> {
    let give_up = world.now_ns() + nanoseconds(SERVE_LIMIT);
    let index = abandonment.node;
    while world.now_ns() < give_up {
        world.sleep(LOOK_PAUSE).await;
        let Some((node, proxy)) = cluster
            .node(index)
            .and_then(|node| Some((node.clone(), node.proxy()?)))
        else {
            continue;
        };
        let attaching = async move { proxy.attach(DISK).await.ok() };
        let Some(disk) = on_node(world, &node, attaching).await.flatten() else {
            continue;
        };
        for first in 0..abandonment.writes {
            let agents = Arc::clone(agents);
            let writing = write(agents, node.clone(), disk.clone(), *abandonment, first);
            node.env().spawn("abandoned-write", writing);
        }
        world
            .sleep_until_ns(world.now_ns() + abandonment.after_ns)
            .await;
        world.crash(index, Crash::KILL);
        world.restart_if_down(index);
        return Ok(());
    }
    let text = format!("node {index} could not take the disk within {SERVE_LIMIT:?}");
    Err(Failure::liveness("service", text))
}

/// Writes one block after the other until the node dies, or a write fails.
async fn write(
    agents: Arc<Agents>,
    node: Node,
    disk: VirtualDisk,
    abandonment: Abandonment,
    first: u32,
) {
    let env = node.env();
    let step = usize::try_from(abandonment.writes).expect("few writes");
    for number in (u64::from(first)..).step_by(step) {
        let operation = ClientOperation {
            at_ns: 0,
            node: abandonment.node,
            client: CLIENT,
            number,
            block: number % agents.hot_blocks(),
            count: 1,
            deed: Deed::Write,
        };
        let process = fresh_process(&agents);
        if !operate(&agents, env, &disk, &operation, process).await {
            return;
        }
    }
}
