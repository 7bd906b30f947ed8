//! The placement of a container: who holds its blobs, under which epoch, and how many must answer.

use hedgerow_env::{Generation, NodeId, PlacementEpoch, StoreId};
use serde::{Deserialize, Serialize};

/// What a member of a placement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberState {
    /// Holds, or is listed in `incomplete` for, every live blob.
    Active,
    /// Counts for new blobs at once, for old ones after it confirmed them.
    Filling,
    /// Substituted: no new blobs, no acknowledgements; serves what it has until drained.
    Resting,
}

/// One member of a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlacementMember {
    /// The store.
    pub store: StoreId,
    /// The node that had it when this was decided.
    pub node: NodeId,
    /// What it does.
    pub state: MemberState,
}

/// How blobs are laid out over the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layout {
    /// Every member holds every blob.
    Replicated {
        /// The number of copies.
        copies: u8,
    },
}

/// The placement of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Rises by one with each change.
    pub epoch: PlacementEpoch,
    /// The generation under which it was made.
    pub generation: Generation,
    /// The members.
    pub members: Vec<PlacementMember>,
    /// How blobs are laid out.
    pub layout: Layout,
    /// How many members must have a blob before it may be committed.
    pub write_quorum: u8,
}

impl Placement {
    /// Members that take new blobs and whose acknowledgements count.
    pub fn writable(&self) -> impl Iterator<Item = &PlacementMember> {
        self.members
            .iter()
            .filter(|member| member.state != MemberState::Resting)
    }

    /// Whether `store` is a member in any state.
    #[must_use]
    pub fn has(&self, store: StoreId) -> bool {
        self.members.iter().any(|member| member.store == store)
    }
}
