//! What nodes themselves call wrong, whether or not they stop over it: a broken invariant; a replica that is
//! given up for lost though nothing happened to its disk; and a disk, or a session, that a proxy lost while
//! its lease stood, which nobody may take from it.
//!
//! A proxy may take a disk from itself: an attachment that it asked for and gave up waiting for may be granted
//! seconds later, when it holds the disk by another one. Then its generation is stale, and the root has the
//! disk as its session's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_pages::root::query::answer;
use hedgerow_protocol::{DiskRecord, ROOT_GROUP, RootAnswer, RootQuery};

use crate::scenario::{Cluster, DISK, Failure};
use crate::world::{NodeIndex, World};

/// A replica answers at once, unless it is stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks at what was logged since the last look.
///
/// # Errors
/// A node spoke of a broken invariant, or lost what it held by a lease that stood.
pub async fn check(world: &World, cluster: &Cluster) -> Result<(), Failure> {
    for (node, text) in world.take_errors() {
        // A store whose records rotted may hold something else under a name.
        if text.contains("broken invariant") && !cluster.is_damaged(node) {
            return Err(Failure::crash("invariants", format!("node {node}: {text}")));
        }
        let is_lost = text.contains(" is lost: ");
        if is_lost && !cluster.is_damaged(node) {
            let text = format!("node {node}, whose disk is sound: {text}");
            return Err(Failure::correctness("replicas", text));
        }
        let ended = text.contains("the lease was ended while it stood");
        // The other disks are deleted under load.
        let lost = text.contains(&format!("{DISK} lost while its lease stood"));
        let by_generation = text.contains("generation");
        if ended || lost && !(by_generation && has_it_still(world, cluster, node).await) {
            return Err(Failure::correctness(
                "leases",
                format!("node {node}: {text}"),
            ));
        }
    }
    Ok(())
}

/// Whether the root, as the replica that has applied the most knows it, has the disk as the node's own.
async fn has_it_still(world: &World, cluster: &Cluster, node: NodeIndex) -> bool {
    let Some(holder) = cluster.node(node) else {
        return false;
    };
    let nodes = cluster.nodes().into_iter();
    let replicas = nodes.flat_map(|(_, node)| node.replicas());
    let roots = replicas.filter(|replica| replica.group() == ROOT_GROUP);
    let Some(newest) = roots.max_by_key(|replica| replica.applied_index()) else {
        return false;
    };
    let found: Arc<Mutex<Option<DiskRecord>>> = Arc::default();
    let filling = Arc::clone(&found);
    let read = newest.read(Box::new(move |view, _| {
        let query = RootQuery::DiskByName(DISK.into());
        let answered = view.ok().and_then(|view| answer(view, &query).ok());
        if let Some(RootAnswer::Disk(record)) = answered {
            *filling.lock().expect("no panic under this lock") = record;
        }
    }));
    // A replica that is stopped meanwhile never answers.
    let limit = std::pin::pin!(world.sleep(PATIENCE));
    drop(futures_util::future::select(read, limit).await);
    let found = found.lock().expect("no panic under this lock");
    let mut attachments = found.iter().flat_map(|record| &record.attachments);
    attachments.any(|held| held.session.node == holder.id())
}
