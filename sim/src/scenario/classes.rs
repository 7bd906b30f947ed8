//! The classes of faults that are drawn apart from the mix, each from a stream of its own: for certain
//! where they are asked for, and in some seeds otherwise.
//!
//! Invariant: a class that is not drawn leaves the rest of a plan as it is.

use hedgerow_env::Random;

macro_rules! classes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A class of faults that is drawn apart from the mix. `--with NAME` gives a seed some of it for
        /// certain.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Class {
            $($(#[$doc])* $variant,)*
        }

        impl Class {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// How the command line calls it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

classes! {
    /// Bits of the journal rot.
    RottenJournal = "rotten-journal",
    /// Bits of the state of Pages rot.
    RottenPages = "rotten-pages",
    /// A bit of the superblock rots.
    RottenSuperblock = "rotten-superblock",
    /// Writes to the journal get lost or land elsewhere, reads of it are stale.
    LostJournal = "lost-journal",
    /// Writes to the state of Pages get lost or land elsewhere, reads of it are stale.
    LostPages = "lost-pages",
    /// Writes of the superblock get lost.
    LostSuperblock = "lost-superblock",
    /// Writes land in other files of the disk.
    MisplacedWrites = "misplaced-writes",
    /// A sync fails, later ones lie.
    LyingSyncs = "lying-syncs",
    /// The disk is gone for a while.
    LostDisk = "lost-disk",
    /// The node comes back with an empty disk.
    WipedDisk = "wiped-disk",
    /// The node comes back with an image of its disk that is older than what peers know of it.
    OldImage = "old-image",
    /// Two nodes come back with each other's disk.
    SwappedDisks = "swapped-disks",
    /// Operators are at work.
    Operators = "operators",
    /// Faults wait for phases.
    Phases = "phases",
    /// The cluster has an unusual shape.
    Shapes = "shapes",
    /// Figures of the nodes are at their extremes.
    Extremes = "extremes",
    /// A process dies again and again, shortly after each of its starts.
    CrashLoops = "crash-loops",
    /// Blank nodes join the cluster while it is used.
    Additions = "additions",
}

impl Class {
    /// What seeds draw by themselves. The rest has failures that are not understood to the end yet:
    /// see docs/simulation.md.
    pub const DRAWN: &'static [Self] = Self::ALL;

    /// The class of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|class| class.name() == name)
    }

    /// Whether a plan has it: in one seed of `one_of`, or because it is wanted.
    pub(super) fn is_due(self, random: &mut Random, one_of: u64, wanted: &[Self]) -> bool {
        let drawn = random.chance(1, one_of) && Self::DRAWN.contains(&self);
        drawn || wanted.contains(&self)
    }

    /// Whether it damages a disk below its blobs.
    #[must_use]
    pub fn is_damage(self) -> bool {
        !matches!(
            self,
            Self::Operators
                | Self::Phases
                | Self::Shapes
                | Self::Extremes
                | Self::CrashLoops
                | Self::Additions
        )
    }
}
