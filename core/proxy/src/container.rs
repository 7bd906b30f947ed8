//! One container under one attachment: its fence, placements, metacache and sequences.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hedgerow_env::{ContainerId, Sequence};
use hedgerow_protocol::{MapView, Placement};

use crate::metacache::{KnownExtent, Metacache};
use crate::sequences::Sequences;

/// Extents cached for one container; about 100 bytes each.
const CACHED_EXTENTS: usize = 128 << 10;

/// What the driver knows of a container.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    /// Held while a fence is asked for, so that one task asks and the others wait.
    pub(crate) fencing: tokio::sync::Mutex<()>,
    state: Mutex<ContainerState>,
}

pub(crate) struct ContainerState {
    /// Whether the fence of this attachment stands.
    pub(crate) fenced: bool,
    /// Placements of this container and of those whose blobs it refers to.
    pub(crate) placements: BTreeMap<ContainerId, Placement>,
    pub(crate) cache: Metacache,
    pub(crate) sequences: Sequences,
    /// The low-water mark that the shard was last told.
    pub(crate) told_low_water: Sequence,
    /// The low-water mark when it was last walked for mostly dead blobs.
    pub(crate) walked: Option<Sequence>,
    /// Why it could not be placed, as last told in the log.
    waiting: Option<String>,
}

impl Container {
    pub(crate) fn new(id: ContainerId) -> Self {
        Self {
            id,
            fencing: tokio::sync::Mutex::new(()),
            state: Mutex::new(ContainerState {
                fenced: false,
                placements: BTreeMap::new(),
                cache: Metacache::new(CACHED_EXTENTS),
                sequences: Sequences::default(),
                told_low_water: Sequence(1),
                walked: None,
                waiting: None,
            }),
        }
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut ContainerState) -> T) -> T {
        act(&mut self.state.lock().expect("no panic under this lock"))
    }

    /// The placement of this container, if it is known.
    pub(crate) fn placement(&self) -> Option<Placement> {
        self.with(|state| state.placements.get(&self.id).cloned())
    }

    /// Remembers a placement unless a newer one is known.
    pub(crate) fn learn(&self, container: ContainerId, placement: Placement) {
        self.with(|state| {
            let known = state.placements.get(&container);
            if known.is_none_or(|known| known.epoch < placement.epoch) {
                state.placements.insert(container, placement);
                state.waiting = None;
            }
        });
    }

    /// Remembers why it cannot be placed; true when that is news.
    pub(crate) fn tell_waiting(&self, reason: String) -> bool {
        self.with(|state| {
            let news = state.waiting.as_ref() != Some(&reason);
            state.waiting = Some(reason);
            news
        })
    }

    /// Forgets the own placement, so that it is asked for again.
    pub(crate) fn forget_placement(&self) {
        self.with(|state| state.placements.remove(&self.id));
    }
}

/// A look-up's extents with the members that lack each blob.
pub(crate) fn known_extents(view: &MapView) -> Vec<KnownExtent> {
    let incomplete: BTreeMap<_, std::sync::Arc<[_]>> = view
        .incomplete
        .iter()
        .map(|(blob, stores)| (*blob, stores.clone().into()))
        .collect();
    let known = view.extents.iter().map(|extent| {
        let missing = match extent.target {
            hedgerow_protocol::MapTarget::Data { blob, .. } => incomplete.get(&blob).cloned(),
            hedgerow_protocol::MapTarget::Hole => None,
        };
        KnownExtent {
            first_block: extent.first_block,
            blocks: extent.blocks,
            target: extent.target,
            version: extent.version,
            missing,
        }
    });
    known.collect()
}
