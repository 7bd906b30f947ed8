//! Phases: which steps of the protocols are under way on a node. Production may count them; the
//! simulator notes which faults struck during which.
//!
//! Invariant: whoever says that a phase begins holds an [`InPhase`], which ends it when dropped, so
//! that a cancelled step ends, too.

use std::sync::Arc;

use crate::Events;

macro_rules! phases {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A step of a protocol that takes time and may be struck in the middle.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Phase {
            $($(#[$doc])* $variant,)*
        }

        impl Phase {
            /// Every phase, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// How reports call it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

phases! {
    /// A node that starts, from its stores to the moment when it serves.
    Recovery = "recovery",
    /// A blank node that gets into a cluster.
    Formation = "formation",
    /// A proxy that takes a disk.
    Attach = "attach",
    /// A proxy that renews its lease.
    Renewal = "lease renewal",
    /// A proxy that stores the frames of a write on its replicas.
    Store = "write",
    /// An HBlock that makes a frame durable.
    Replica = "replica write",
    /// A proxy that commits a map change.
    Commit = "map commit",
    /// A proxy that voids a write of unknown outcome.
    Void = "void",
    /// A proxy that fences former holders from a container.
    Fence = "fence",
    /// A proxy that reads from replicas.
    Read = "read",
    /// A shard's leader that places a container, or substitutes members.
    Placement = "placement",
    /// An HBlock that fetches what it lacks.
    CatchUp = "catch-up",
    /// An HBlock that repairs a copy.
    Repair = "repair",
    /// An HBlock that collects what no map names.
    Collection = "collection",
    /// An HBlock that drops a container it left.
    Retirement = "retirement",
    /// An HBlock that reads its copies over.
    Scrub = "scrub",
    /// A journal that writes a batch and syncs it.
    JournalSync = "journal sync",
    /// A store that moves entries from the journal into extents.
    Flush = "flush",
    /// A store that finishes an extent segment.
    Seal = "segment seal",
    /// A store that copies live entries forward to free space.
    Compaction = "compaction",
    /// A Raft replica that makes its state durable.
    Checkpoint = "checkpoint",
    /// A file of Pages' state that writes pages back from its log.
    WriteBack = "page write-back",
    /// A Raft replica that sends a snapshot.
    SnapshotSend = "snapshot send",
    /// A Raft replica that installs a snapshot.
    SnapshotInstall = "snapshot install",
    /// A root's leader that has a shard split, up to the point where the new one serves.
    SplitCopy = "split: copy",
    /// A root's leader that has cleared what moved.
    SplitClear = "split: clear",
    /// A Raft replica that fetches lost entries from its peers' logs.
    Refill = "log refill",
    /// A group's leader that changes its members.
    Membership = "membership change",
    /// The root's leader that changes something of itself: ends a lease, judges a node, drops a disk.
    RootWork = "root work",
}

/// A phase under way; dropping it ends the phase.
pub struct InPhase {
    events: Arc<dyn Events>,
    phase: Phase,
}

impl InPhase {
    pub(crate) fn begin(events: Arc<dyn Events>, phase: Phase) -> Self {
        events.phase(phase, true);
        Self { events, phase }
    }
}

impl Drop for InPhase {
    fn drop(&mut self) {
        self.events.phase(self.phase, false);
    }
}
