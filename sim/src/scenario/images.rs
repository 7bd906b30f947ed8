//! Which images of disks may be restored while faults strike: those that somebody can tell from the
//! store that they were taken of.
//!
//! Nodes tell one another every few seconds what is durable with them. Of a store that was idle until
//! shortly before its image came back, nobody knows more than the image holds: a voter that forgets,
//! which no consensus survives.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hedgerow_env::StoreId;
use hedgerow_node::Node;

use crate::world::{DiskImage, FaultAction, NodeIndex, World};

use super::cluster::Cluster;

/// What an image holds: its store, the count of its start, and how far its journal went.
type Content = (StoreId, u64, u64);

/// The images of a run.
pub(super) struct Images {
    cluster: Cluster,
    kept: Mutex<BTreeMap<NodeIndex, Vec<Content>>>,
}

impl Images {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            kept: Mutex::default(),
        }
    }

    /// Notes what an image holds; whether it may be kept, or restored.
    pub(super) fn permits(&self, action: &FaultAction) -> bool {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        match action {
            FaultAction::KeepImage(node) => {
                let running = self.cluster.node(*node);
                let content = running.as_ref().map(content_of).unwrap_or_default();
                let is_known = !content.is_empty();
                kept.insert(*node, content);
                is_known
            }
            FaultAction::RestoreImage(node) => kept.get(node).is_some_and(|content| {
                !content.is_empty() && content.iter().all(|image| self.is_told_apart(image))
            }),
            _ => true,
        }
    }

    /// Whether some node that runs knows more of the store than the image holds.
    fn is_told_apart(&self, (store, start, position): &Content) -> bool {
        self.cluster.nodes().iter().any(|(_, node)| {
            node.stores().iter().any(|keeper| {
                let known = keeper.superblock().content();
                let known = known.peers.get(store);
                known.is_some_and(|known| (known.start_count, known.position) > (*start, *position))
            })
        })
    }
}

/// An image that is kept for the end of a run.
pub(super) struct Image {
    pub(super) node: NodeIndex,
    pub(super) disk: DiskImage,
    content: Vec<Content>,
}

impl Image {
    /// What the node's disk holds now.
    pub(super) fn of(world: &World, cluster: &Cluster, node: NodeIndex) -> Self {
        let running = cluster.node(node);
        Self {
            node,
            disk: world.disk_image(node),
            content: running.as_ref().map(content_of).unwrap_or_default(),
        }
    }

    /// Whether the disk holds more by now. A node that was down then has been started since.
    pub(super) fn is_outdated(&self, cluster: &Cluster) -> bool {
        let running = cluster.node(self.node);
        self.content.is_empty() || running.is_none_or(|node| content_of(&node) != self.content)
    }
}

fn content_of(node: &Node) -> Vec<Content> {
    let content = |store: &hedgerow_disk::Store| {
        let position = store.journal().reported().0;
        (store.id(), store.session(), position)
    };
    node.stores().iter().map(content).collect()
}
