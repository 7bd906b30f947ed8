//! Which faults struck a node during which phases: the counts behind the table of coverage.
//!
//! A fault that passes counts in the moment in which it strikes; one that stands (a cut link, a slow
//! disk, a drifting clock) counts where it begins and where a phase begins under it.
//! Does not: enter the trace, or change a run in any way.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use hedgerow_env::Phase;

use super::World;
use super::device::DiskFaults;
use super::faults::DiskFault;
use super::link::{LinkRules, LinkState, Passage};
use super::node::{Life, Node};
use super::topology::NodeIndex;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A kind of fault, as the table of coverage counts them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $variant,)*
        }

        impl FaultKind {
            /// Every kind, in the table's order.
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

kinds! {
    /// The process dies, its machine lives.
    Kill = "kill",
    /// The machine loses power, and what was not synced suffers.
    PowerLoss = "power loss",
    /// The process stands still.
    Pause = "pause",
    /// Some link of the node is cut, one way or both.
    Cut = "cut link",
    /// Some link of the node is slow.
    SlowLink = "slow link",
    /// A message is lost.
    Lost = "message lost",
    /// A message arrives twice.
    Doubled = "message doubled",
    /// A message is overtaken.
    Late = "message late",
    /// A message arrives with a flipped bit.
    Corrupted = "message corrupted",
    /// A connection is reset.
    Reset = "connection reset",
    /// One end of a connection is gone and the other is not told.
    HalfOpen = "half-open connection",
    /// The disk takes much longer.
    SlowDisk = "slow disk",
    /// The disk does not answer.
    StuckDisk = "stuck disk",
    /// The disk is full.
    FullDisk = "full disk",
    /// A disk call fails.
    IoError = "disk error",
    /// A write or a sync is reported and not done.
    Phantom = "phantom write",
    /// A write lands elsewhere.
    Misdirected = "misdirected write",
    /// A read returns old or flipped bytes.
    BadRead = "bad read",
    /// A bit on the medium flips.
    Rot = "bit rot",
    /// The disk is gone.
    LostDisk = "lost disk",
    /// The monotonic clock runs fast or slow.
    Drift = "clock drift",
    /// The wall clock steps.
    WallStep = "clock step",
}

impl FaultKind {
    fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

/// How often each kind of fault struck during each phase.
pub type Coverage = BTreeMap<(FaultKind, Phase), u64>;

/// The counts of one world.
#[derive(Debug, Default)]
pub(super) struct CoverageState(Mutex<Coverage>);

impl CoverageState {
    fn add(&self, kind: FaultKind, phase: Phase) {
        let mut table = self.0.lock().expect("no panic while counting");
        *table.entry((kind, phase)).or_default() += 1;
    }
}

/// The phases that one life is in, each with its number of steps under way.
#[derive(Debug)]
pub(super) struct Phases([AtomicU32; Phase::ALL.len()]);

impl Default for Phases {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; Phase::ALL.len()])
    }
}

impl Phases {
    fn present(&self) -> impl Iterator<Item = Phase> {
        let all = Phase::ALL.iter().zip(&self.0);
        all.filter(|(_, count)| count.load(Ordering::Relaxed) > 0)
            .map(|(phase, _)| *phase)
    }
}

/// The faults that stand at a node now.
#[derive(Debug, Default)]
pub(super) struct Standing(AtomicU32);

impl World {
    /// What struck during what, so far.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let table = self.0.coverage.0.lock().expect("no panic while counting");
        table.clone()
    }

    /// A phase begins or ends in a life.
    pub(super) fn phase(&self, node: &Node, life: &Life, phase: Phase, begins: bool) {
        let count = &life.phases.0[phase as usize];
        if !begins {
            count.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let standing = node.standing.0.load(Ordering::Relaxed);
        for kind in FaultKind::ALL {
            if standing & kind.bit() != 0 {
                self.0.coverage.add(*kind, phase);
            }
        }
        self.phase_began(node.index, phase);
    }

    /// A fault strikes a node now.
    pub(super) fn struck(&self, kind: FaultKind, node: NodeIndex) {
        if let Some(life) = self.node(node).life() {
            self.struck_life(kind, &life);
        }
    }

    pub(super) fn struck_life(&self, kind: FaultKind, life: &Life) {
        for phase in life.phases.present() {
            self.0.coverage.add(kind, phase);
        }
    }

    /// A fault stands at a node from now on, or no more.
    pub(super) fn stands(&self, kind: FaultKind, node: NodeIndex, stands: bool) {
        let standing = &self.node(node).standing.0;
        let before = if stands {
            standing.fetch_or(kind.bit(), Ordering::Relaxed)
        } else {
            standing.fetch_and(!kind.bit(), Ordering::Relaxed)
        };
        if stands && before & kind.bit() == 0 {
            self.struck(kind, node);
        }
    }

    /// The rules of some link of these nodes have changed.
    pub(super) fn links_changed(&self, nodes: [NodeIndex; 2]) {
        let all = self.node_indexes();
        for node in nodes {
            let others = all.iter().filter(|other| **other != node);
            let links: Vec<LinkRules> = others
                .flat_map(|other| [self.link(node, *other), self.link(*other, node)])
                .collect();
            let cut = links.iter().any(|link| link.state != LinkState::Open);
            let slow = |link: &LinkRules| link.delay_ns + link.jitter_ns > 0;
            self.stands(FaultKind::Cut, node, cut);
            self.stands(FaultKind::SlowLink, node, links.iter().any(slow));
        }
    }

    /// What befell a message, counted at both ends.
    pub(super) fn message_struck(&self, passage: &Passage, ends: [NodeIndex; 2]) {
        let kinds = [
            (passage.arrives_ns.is_none(), FaultKind::Lost),
            (passage.again_ns.is_some(), FaultKind::Doubled),
            (passage.unordered, FaultKind::Late),
            (passage.flip.is_some(), FaultKind::Corrupted),
        ];
        for (_, kind) in kinds.into_iter().filter(|(happened, _)| *happened) {
            for node in ends {
                self.struck(kind, node);
            }
        }
    }

    /// What befell a call of the disk called `name`.
    pub(super) fn disk_struck(&self, name: &str, fault: DiskFault) {
        let kind = match fault {
            DiskFault::Error => FaultKind::IoError,
            DiskFault::Phantom => FaultKind::Phantom,
            DiskFault::Misdirect { .. } | DiskFault::Misplace { .. } => FaultKind::Misdirected,
            DiskFault::Stale | DiskFault::FlipOnRead { .. } => FaultKind::BadRead,
        };
        if let Some(node) = self.find(name) {
            self.struck(kind, node);
        }
    }

    pub(super) fn disk_faults_stand(&self, node: NodeIndex, faults: &DiskFaults) {
        self.stands(FaultKind::SlowDisk, node, faults.slow_factor > 1);
        self.stands(FaultKind::StuckDisk, node, faults.stuck);
        self.stands(FaultKind::LostDisk, node, faults.lost);
        self.stands(FaultKind::FullDisk, node, faults.capacity_bytes.is_some());
    }
}
