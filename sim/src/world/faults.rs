//! Faults as data. A scenario, a nemesis or a replayed tape breaks the world by [`FaultAction`]s at
//! virtual times, and single messages and disk calls by [`Strike`]s keyed by their identity.
//!
//! Whatever chance decides for a message or a disk call is noted as a strike, so that a run's
//! strikes, scripted into a run whose rates are zero, break the same messages and calls.
//! Does not: choose faults; that is the nemesis's work.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hedgerow_env::Phase;
use serde::{Deserialize, Serialize};

use super::World;
use super::crash_loop::CrashLoop;
use super::disk::{DiskArea, DiskFaults, DiskImage};
use super::lifecycle::Crash;
use super::link::LinkRules;
use super::topology::NodeIndex;
use super::trace::EventKind;

/// Strikes noted at most in one run; later ones still strike.
const NOTED_STRIKES_MAXIMUM: usize = 1_000_000;

/// A message's identity: its number on its directed link, over the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId {
    /// The sender.
    pub from: NodeIndex,
    /// The receiver.
    pub to: NodeIndex,
    /// Counted from zero.
    pub number: u64,
}

/// What befalls one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageFault {
    /// It never arrives.
    Lose,
    /// It arrives a second time.
    Duplicate {
        /// So much later.
        after_ns: u64,
    },
    /// Later messages overtake it.
    HoldBack {
        /// For so long.
        for_ns: u64,
    },
    /// One bit flips.
    Corrupt {
        /// Which, modulo the length.
        bit: u64,
    },
}

/// The kinds of disk calls that faults know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DiskCall {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Syncing a file.
    Sync,
    /// Changing a file's length.
    Resize,
    /// Creating, renaming, removing or syncing names.
    Name,
}

/// A disk call's identity: its number among the calls of its kind on its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskCallId {
    /// The disk's name.
    pub disk: String,
    /// The path within it.
    pub path: String,
    /// The kind.
    pub call: DiskCall,
    /// Counted from zero, over the whole run.
    pub number: u64,
}

/// What befalls one disk call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskFault {
    /// The device reports an error. Of a failed write any part may be there; after a failed sync
    /// the writes that it covered are never made durable by a later one.
    Error,
    /// Success is reported, and nothing is done: a phantom write, a sync that lies.
    Phantom,
    /// A write lands at another offset.
    Misdirect {
        /// The offset it lands at, in sectors, modulo the length of the file.
        sector: u64,
    },
    /// A write lands in another file of the disk.
    Misplace {
        /// Which file and where, modulo the places that there are.
        choice: u64,
    },
    /// A read returns what was last durable.
    Stale,
    /// A read returns one flipped bit; the medium is as it was.
    FlipOnRead {
        /// Which, modulo the length.
        bit: u64,
    },
}

/// A scripted or noted fault of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strike {
    /// Of a message.
    Message(MessageId, MessageFault),
    /// Of a disk call.
    Disk(DiskCallId, DiskFault),
}

/// Scripted strikes by identity, and the strikes that happened.
#[derive(Default)]
pub(super) struct Faults {
    scripted: AtomicBool,
    script: Mutex<Script>,
    noted: Mutex<Vec<Strike>>,
    /// What stands under a number.
    standing: Mutex<BTreeMap<FaultNumber, FaultAction>>,
    /// What waits for a phase; the flag spares every other phase the look.
    armed: Mutex<Vec<(NodeIndex, Phase, Vec<TimedFault>)>>,
    is_armed: AtomicBool,
    images: Mutex<BTreeMap<NodeIndex, DiskImage>>,
    images_guard: Mutex<Option<ImagesGuard>>,
}

/// Is told of [`FaultAction::KeepImage`], and asked whether [`FaultAction::RestoreImage`] may be done.
pub type ImagesGuard = Arc<dyn Fn(&FaultAction) -> bool + Send + Sync>;

#[derive(Debug, Default)]
struct Script {
    messages: BTreeMap<MessageId, MessageFault>,
    disk_calls: BTreeMap<DiskCallId, DiskFault>,
}

impl Faults {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script
            .lock()
            .expect("no panic while the script is held")
    }

    fn note(&self, strike: Strike) {
        let mut noted = self.noted.lock().expect("no panic while a strike is noted");
        if noted.len() < NOTED_STRIKES_MAXIMUM {
            noted.push(strike);
        }
    }

    fn images(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeIndex, DiskImage>> {
        self.images.lock().expect("no panic while images are held")
    }

    fn arm(&self, node: NodeIndex, phase: Phase, faults: Vec<TimedFault>) {
        let mut armed = self.armed.lock().expect("no panic while faults are armed");
        armed.push((node, phase, faults));
        self.is_armed.store(true, Ordering::Relaxed);
    }

    /// What has waited for a node to begin a phase.
    fn due(&self, node: NodeIndex, phase: Phase) -> Vec<TimedFault> {
        let mut armed = self.armed.lock().expect("no panic while faults are armed");
        let is_due =
            |one: &mut (NodeIndex, Phase, Vec<TimedFault>)| (one.0, one.1) == (node, phase);
        let due: Vec<_> = armed.extract_if(.., is_due).collect();
        self.is_armed.store(!armed.is_empty(), Ordering::Relaxed);
        due.into_iter().flat_map(|(.., faults)| faults).collect()
    }

    fn is_scripted(&self) -> bool {
        self.scripted.load(Ordering::Relaxed)
    }

    /// The fault of a message: the script's, else what `chance` has for it.
    pub(super) fn message(
        &self,
        id: MessageId,
        chance: impl FnOnce() -> Option<MessageFault>,
    ) -> Option<MessageFault> {
        let scripted = if self.is_scripted() {
            self.script().messages.remove(&id)
        } else {
            None
        };
        let fault = scripted.or_else(chance)?;
        self.note(Strike::Message(id, fault));
        Some(fault)
    }

    /// The fault of a disk call: the script's, else what `chance` has for it.
    pub(super) fn disk_call(
        &self,
        id: impl Fn() -> DiskCallId,
        chance: impl FnOnce() -> Option<DiskFault>,
    ) -> Option<DiskFault> {
        let scripted = if self.is_scripted() {
            self.script().disk_calls.remove(&id())
        } else {
            None
        };
        let fault = scripted.or_else(chance)?;
        self.note(Strike::Disk(id(), fault));
        Some(fault)
    }
}

/// The number of a fault that stands until it is ended by that number. Others may stand beside it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct FaultNumber(pub u32);

/// Something done to the world at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultAction {
    /// [`World::crash`].
    Crash(NodeIndex, Crash),
    /// [`World::crash_after_calls`].
    CrashAfterCalls(NodeIndex, u64, Crash),
    /// The process dies, and again after each start, until it ends: under a number alone.
    CrashLoop(NodeIndex, CrashLoop),
    /// [`World::restart`], when the node is down and was started before.
    Restart(NodeIndex),
    /// [`World::pause`].
    Pause(NodeIndex),
    /// [`World::resume`].
    Resume(NodeIndex),
    /// [`World::set_link`].
    Link(NodeIndex, NodeIndex, LinkRules),
    /// [`World::partition`].
    Partition(Vec<Vec<NodeIndex>>),
    /// [`World::heal_links`].
    HealLinks,
    /// [`World::break_connections`].
    BreakConnections(NodeIndex, NodeIndex),
    /// [`World::half_open`].
    HalfOpen(NodeIndex, NodeIndex),
    /// [`World::set_disk_faults`].
    Disk(NodeIndex, DiskFaults),
    /// [`World::rot`] at a place that the number chooses.
    Rot(NodeIndex, u64),
    /// [`World::rot`] at a place of an area that the number chooses.
    RotIn(NodeIndex, DiskArea, u64),
    /// [`World::rot_settled`], where the number chooses.
    RotSettled(NodeIndex, u64),
    /// [`World::wipe_disk`], of a node that is down.
    WipeDisk(NodeIndex),
    /// An image of the node's disk is taken and kept, in the place of one that was.
    KeepImage(NodeIndex),
    /// [`World::restore_disk`] from the image that was kept, of a node that is down.
    RestoreImage(NodeIndex),
    /// [`World::swap_disks`], of nodes that are down.
    SwapDisks(NodeIndex, NodeIndex),
    /// The disk, link, partition or pause stands under a number until that ends, beside all others:
    /// [`World::begin_disk_faults`], [`World::begin_link`], [`World::begin_partition`]. Any other
    /// action is done as if it had no number.
    Begin(FaultNumber, Box<FaultAction>),
    /// What began under the number ends.
    End(FaultNumber),
    /// When the node next begins a phase of this name: all of these, each so long after that. Each
    /// strikes once.
    AtPhase(NodeIndex, String, Vec<TimedFault>),
    /// [`World::set_drift`], in parts per million.
    Drift(NodeIndex, i32),
    /// [`World::step_wall`], in milliseconds.
    StepWall(NodeIndex, i64),
}

impl FaultAction {
    /// Every node that it names, to be checked or renumbered.
    pub fn nodes_mut(&mut self) -> Vec<&mut NodeIndex> {
        match self {
            Self::Crash(node, _)
            | Self::CrashAfterCalls(node, ..)
            | Self::CrashLoop(node, _)
            | Self::Restart(node)
            | Self::Pause(node)
            | Self::Resume(node)
            | Self::Disk(node, _)
            | Self::Rot(node, _)
            | Self::RotIn(node, ..)
            | Self::RotSettled(node, _)
            | Self::WipeDisk(node)
            | Self::KeepImage(node)
            | Self::RestoreImage(node)
            | Self::Drift(node, _)
            | Self::StepWall(node, _) => vec![node],
            Self::Link(one, other, _)
            | Self::BreakConnections(one, other)
            | Self::HalfOpen(one, other)
            | Self::SwapDisks(one, other) => vec![one, other],
            Self::Partition(groups) => groups.iter_mut().flatten().collect(),
            Self::Begin(_, begun) => begun.nodes_mut(),
            Self::AtPhase(node, _, faults) => {
                let then = faults.iter_mut().flat_map(|fault| fault.action.nodes_mut());
                std::iter::once(node).chain(then).collect()
            }
            Self::HealLinks | Self::End(_) => Vec::new(),
        }
    }

    /// What is done, whether or not it stands under a number.
    #[must_use]
    pub fn deed(&self) -> &Self {
        match self {
            Self::Begin(_, begun) => begun.deed(),
            other => other,
        }
    }

    /// See [`FaultAction::deed`].
    pub fn deed_mut(&mut self) -> &mut Self {
        match self {
            Self::Begin(_, begun) => begun.deed_mut(),
            other => other,
        }
    }
}

/// A [`FaultAction`] with its true virtual time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedFault {
    /// When it strikes.
    pub at_ns: u64,
    /// What is done.
    pub action: FaultAction,
}

impl World {
    /// Scripts a fault of one message or disk call to come. It strikes at most once.
    pub fn script(&self, strike: Strike) {
        let faults = &self.0.faults;
        let mut script = faults.script();
        match strike {
            Strike::Message(id, fault) => drop(script.messages.insert(id, fault)),
            Strike::Disk(id, fault) => drop(script.disk_calls.insert(id, fault)),
        }
        faults.scripted.store(true, Ordering::Relaxed);
    }

    /// The strikes that happened since this was last asked, in their order.
    #[must_use]
    pub fn take_strikes(&self) -> Vec<Strike> {
        let mut noted = self
            .0
            .faults
            .noted
            .lock()
            .expect("no panic while a strike is noted");
        std::mem::take(&mut *noted)
    }

    /// Has timed faults strike at their times.
    pub fn schedule(&self, faults: impl IntoIterator<Item = TimedFault>) {
        for TimedFault { at_ns, action } in faults {
            self.call_at(at_ns, move |world| {
                world.apply(&action);
            });
        }
    }

    /// Does `action` now. False when the world's state leaves it nothing to do: a crash of a node
    /// that is down, a restart of one that is up. Tapes that were shrunk rely on this.
    pub fn apply(&self, action: &FaultAction) -> bool {
        let text = format!("{action:?}");
        let checksum = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
        self.record_text(EventKind::Fault, None, [0, 0, checksum], text);
        match action {
            FaultAction::Crash(node, crash) => return self.crash(*node, *crash),
            FaultAction::CrashAfterCalls(node, calls, crash) => {
                self.crash_after_calls(*node, *calls, *crash);
            }
            // Nothing would ever end it.
            FaultAction::CrashLoop(..) => return false,
            FaultAction::Restart(node) => return self.restart_if_down(*node),
            FaultAction::Pause(node) => return self.pause(*node),
            FaultAction::Resume(node) => return self.resume(*node),
            FaultAction::Link(from, to, rules) => self.set_link(*from, *to, *rules),
            FaultAction::Partition(groups) => self.partition(groups),
            FaultAction::HealLinks => self.heal_links(),
            FaultAction::BreakConnections(one, other) => self.break_connections(*one, *other),
            FaultAction::HalfOpen(one, other) => self.half_open(*one, *other),
            FaultAction::Disk(node, faults) => self.set_disk_faults(*node, *faults),
            FaultAction::Rot(node, choice) => {
                return self.rot_somewhere(*node, DiskArea::Everything, *choice);
            }
            FaultAction::RotIn(node, area, choice) => {
                return self.rot_somewhere(*node, *area, *choice);
            }
            FaultAction::RotSettled(node, choice) => return self.rot_settled(*node, *choice),
            FaultAction::WipeDisk(node) => return self.wipe_disk(*node),
            FaultAction::KeepImage(_) | FaultAction::RestoreImage(_)
                if !self.permits_image(action) =>
            {
                return false;
            }
            FaultAction::KeepImage(node) => {
                let image = self.disk_image(*node);
                self.0.faults.images().insert(*node, image);
            }
            FaultAction::RestoreImage(node) => {
                let image = self.0.faults.images().get(node).cloned();
                return image.is_some_and(|image| self.restore_disk(*node, &image));
            }
            FaultAction::SwapDisks(one, other) => return self.swap_disks(*one, *other),
            FaultAction::Begin(number, begun) => return self.begin(*number, begun),
            FaultAction::End(number) => return self.end(*number),
            FaultAction::AtPhase(node, phase, faults) => {
                let Some(phase) = Phase::ALL.iter().find(|one| one.name() == phase) else {
                    return false;
                };
                self.0.faults.arm(*node, *phase, faults.clone());
            }
            FaultAction::Drift(node, drift_ppm) => self.set_drift(*node, *drift_ppm),
            FaultAction::StepWall(node, step_ms) => self.step_wall(*node, *step_ms),
        }
        true
    }

    /// Has a fault stand beside all others. One that has the number already ends before.
    fn begin(&self, number: FaultNumber, begun: &FaultAction) -> bool {
        self.end(number);
        match begun {
            FaultAction::Disk(node, faults) => self.begin_disk_faults(*node, number, *faults),
            FaultAction::Link(from, to, rules) => self.begin_link(*from, *to, number, *rules),
            FaultAction::Partition(groups) => self.begin_partition(number, groups),
            FaultAction::Pause(node) => {
                self.pause(*node);
            }
            FaultAction::CrashLoop(node, rule) => self.begin_crash_loop(*node, number, *rule),
            other => return self.apply(other),
        }
        let standing = &self.0.faults.standing;
        let mut standing = standing.lock().expect("no panic while faults are counted");
        standing.insert(number, begun.clone());
        true
    }

    /// Whether something stands under a number.
    pub(super) fn is_standing(&self, number: FaultNumber) -> bool {
        let standing = &self.0.faults.standing;
        let standing = standing.lock().expect("no panic while faults are counted");
        standing.contains_key(&number)
    }

    fn end(&self, number: FaultNumber) -> bool {
        let (ended, paused) = {
            let standing = &self.0.faults.standing;
            let mut standing = standing.lock().expect("no panic while faults are counted");
            let ended = standing.remove(&number);
            let paused = ended.as_ref().is_some_and(|ended| {
                let pauses = matches!(ended, FaultAction::Pause(_));
                pauses && standing.values().any(|other| other == ended)
            });
            (ended, paused)
        };
        match ended {
            Some(FaultAction::Disk(node, _)) => self.end_disk_faults(node, number),
            Some(FaultAction::Link(from, to, _)) => self.end_link(from, to, number),
            Some(FaultAction::Partition(_)) => self.end_partition(number),
            Some(FaultAction::Pause(node)) if !paused => {
                self.resume(node);
            }
            Some(_) => {}
            None => return false,
        }
        true
    }

    /// Keeps no image of a disk any more.
    pub(super) fn forget_images(&self) {
        self.0.faults.images().clear();
    }

    /// Has images of disks kept and restored only as `guard` permits, or as scheduled from now on.
    pub fn guard_images(&self, guard: Option<ImagesGuard>) {
        let kept = &self.0.faults.images_guard;
        *kept.lock().expect("no panic under this lock") = guard;
    }

    fn permits_image(&self, action: &FaultAction) -> bool {
        let guard = &self.0.faults.images_guard;
        let guard = guard.lock().expect("no panic under this lock").clone();
        guard.is_none_or(|guard| guard(action))
    }

    /// A node begins a phase: whatever waited for that comes, at a step of its own.
    pub(super) fn phase_began(&self, node: NodeIndex, phase: Phase) {
        if !self.0.faults.is_armed.load(Ordering::Relaxed) {
            return;
        }
        let now_ns = self.now_ns();
        let due = self.0.faults.due(node, phase).into_iter();
        self.schedule(due.map(|fault| TimedFault {
            at_ns: now_ns + fault.at_ns,
            action: fault.action,
        }));
    }

    /// Ends everything that stands under a number, at links, disks and nodes, and waits for no phase
    /// any more.
    pub fn end_all_standing(&self) {
        {
            let armed = &self.0.faults.armed;
            armed
                .lock()
                .expect("no panic while faults are armed")
                .clear();
            self.0.faults.is_armed.store(false, Ordering::Relaxed);
        }
        let numbers: Vec<FaultNumber> = {
            let standing = &self.0.faults.standing;
            let standing = standing.lock().expect("no panic while faults are counted");
            standing.keys().copied().collect()
        };
        for number in numbers {
            self.end(number);
        }
    }
}
