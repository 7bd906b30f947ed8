//! What nodes themselves call wrong, whether or not they stop over it: a broken invariant; damage to the
//! journal of a disk that nothing has damaged; a replica that is given up for lost though nothing happened to its
//! disk; and a disk, or a session, that a proxy lost while its lease stood, which nobody may take from it.

use crate::scenario::{Cluster, DISK, Failure};
use crate::world::World;

/// Looks at what was logged since the last look.
///
/// # Errors
/// A node spoke of a broken invariant, or lost what it held by a lease that stood.
pub fn check(world: &World, cluster: &Cluster) -> Result<(), Failure> {
    for (node, text) in world.take_errors() {
        // A store whose records rotted may hold something else under a name.
        if text.contains("broken invariant") && !cluster.is_damaged(node) {
            return Err(Failure::crash("invariants", format!("node {node}: {text}")));
        }
        // What a journal lost where its disk lost nothing was never durable, or was overwritten too soon.
        let is_lost = text.contains(": journal ") && text.contains(" is damaged, ");
        if is_lost && !cluster.is_damaged(node) {
            return Err(Failure::correctness(
                "damage",
                format!("node {node}: {text}"),
            ));
        }
        let is_lost = text.contains(" is lost: ");
        if is_lost && !cluster.is_damaged(node) {
            let text = format!("node {node}, whose disk is sound: {text}");
            return Err(Failure::correctness("replicas", text));
        }
        let ended = text.contains("the lease was ended while it stood");
        // The other disks are deleted under load.
        let lost = text.contains(&format!("{DISK} lost while its lease stood"));
        if ended || lost {
            return Err(Failure::correctness(
                "leases",
                format!("node {node}: {text}"),
            ));
        }
    }
    Ok(())
}
