//! Planted bugs. Each proves that some oracle would notice its like; none is in a production build.
//!
//! Without the feature `mutants` [`active`] is a constant `false` and the compiler removes the
//! planted code. With it, one mutant at most is chosen for the whole process at its start.

macro_rules! catalogue {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// The catalogue.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Mutant {
            $($(#[$doc])* $variant,)+
        }

        impl Mutant {
            /// Every mutant, in the catalogue's order.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$variant,)+];

            /// The name used on command lines and in tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

catalogue! {
    /// The journal reports a record durable before its sync completed.
    AcknowledgeBeforeSync = "acknowledge-before-sync",
    /// A write is acknowledged by one member fewer than W.
    QuorumOneShort = "quorum-one-short",
    /// The shard does not check the placement epoch: the proxy's view decides.
    PlacementCheckedOutsideShard = "placement-checked-outside-shard",
    /// A commit does not enter the members that lack the blob into `incomplete`.
    IncompleteDropped = "incomplete-dropped",
    /// A collected name may be committed later.
    CollectWithoutRefusal = "collect-without-refusal",
    /// An unmap removes entries instead of leaving a versioned hole.
    UnmapWithoutVersionedHole = "unmap-without-versioned-hole",
    /// A metacache fill older than a newer change of its range is kept.
    LateMetacacheFill = "late-metacache-fill",
    /// Freeing a journal segment forgets a live vote instead of copying it forward.
    VoteNotCopiedForward = "vote-not-copied-forward",
    /// A container is read without fencing it first.
    FenceSkippedOnRead = "fence-skipped-on-read",
    /// The proxy counts its lease from the receipt of the grant, without the drift bound.
    LeaseCountedFromReceipt = "lease-counted-from-receipt",
}

#[cfg(feature = "mutants")]
mod chosen {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Mutant;

    const NONE: u32 = u32::MAX;
    static CHOSEN: AtomicU32 = AtomicU32::new(NONE);

    /// Chooses the mutant of this process, before anything else runs.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.store(
            mutant.map_or(NONE, |mutant| mutant as u32),
            Ordering::Relaxed,
        );
    }

    /// Whether `mutant` was chosen.
    #[must_use]
    pub fn active(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant as u32
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{active, choose};

/// Always false: this build holds no mutants.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn active(_mutant: Mutant) -> bool {
    false
}

/// The mutant called `name`.
#[must_use]
pub fn find(name: &str) -> Option<Mutant> {
    Mutant::ALL
        .iter()
        .copied()
        .find(|mutant| mutant.name() == name)
}
