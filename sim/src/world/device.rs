//! One simulated disk: a file system behind a device that takes time and fails.
//!
//! Which call a fault strikes is decided from the call's identity (disk, path, kind, number) or by a
//! script. Invariants: a call that reports an error did nothing that a reader may rely on; an honest
//! device never loses what a successful sync covered.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use bytes::Bytes;
use hedgerow_env::{DiskError, OpenMode};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::World;
use super::cached_file::{SECTOR_BYTES, Survival};
use super::faults::{DiskCall, DiskCallId, DiskFault, FaultNumber};
use super::file_system::{FileId, FileSystem};
use super::rot::WrittenPlaces;
use super::seeds::Dice;

const TAG_ERROR: u64 = 1;
const TAG_PHANTOM: u64 = 2;
const TAG_MISDIRECT: u64 = 3;
const TAG_STALE: u64 = 4;
const TAG_FLIP: u64 = 5;
const TAG_JITTER: u64 = 6;
pub(super) const TAG_PLACE: u64 = 7;
const TAG_MISPLACE: u64 = 8;

/// What a disk is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Space for files.
    pub capacity_bytes: u64,
    /// The fixed part of a read.
    pub read_ns: u64,
    /// The fixed part of a write into the device's cache.
    pub write_ns: u64,
    /// The fixed part of a sync.
    pub sync_ns: u64,
    /// The variable part of each, for 4 KiB.
    pub page_ns: u64,
    /// What is added at random at most, in parts per million of the rest.
    pub jitter_ppm: u32,
    /// Calls served at the same time; later ones wait.
    pub channels: u16,
}

impl Default for DiskSpec {
    /// A middling SSD of 64 GiB.
    fn default() -> Self {
        Self {
            capacity_bytes: 64 << 30,
            read_ns: 80_000,
            write_ns: 15_000,
            sync_ns: 400_000,
            page_ns: 2_000,
            jitter_ppm: 300_000,
            channels: 8,
        }
    }
}

/// How syncs behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum SyncMode {
    /// As promised.
    #[default]
    Honest,
    /// Each fails.
    Fail,
    /// The next fails; later ones report success and do nothing.
    FailThenLie,
    /// Each reports success and does nothing.
    Lie,
}

/// Which of a disk's files faults strike: by a folder, or a file's name, anywhere in their paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskArea {
    /// Every file.
    #[default]
    Everything,
    /// Blobs that were flushed.
    Extents,
    /// What is not flushed yet, and logs.
    Journal,
    /// The state of metadata replicas.
    Pages,
    /// The pages that metadata replicas have written back.
    PageState,
    /// What a store knows of itself.
    Superblock,
}

impl DiskArea {
    /// Whether a path lies in it.
    #[must_use]
    pub fn holds(self, path: &str) -> bool {
        let part = match self {
            Self::Everything => return true,
            Self::Extents => "extents",
            Self::Journal => "journal",
            Self::Pages => "pages",
            Self::PageState => return path.ends_with(".state"),
            Self::Superblock => "superblock",
        };
        path.split('/').any(|name| name == part)
    }
}

/// What a disk does wrong, from now on. Rates are in parts per million of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskFaults {
    /// Reads that fail.
    pub read_error_ppm: u32,
    /// Writes and resizes that fail.
    pub write_error_ppm: u32,
    /// Syncs that fail.
    pub sync_error_ppm: u32,
    /// Writes that report success and do nothing.
    pub phantom_write_ppm: u32,
    /// Writes that land elsewhere in their file.
    pub misdirected_write_ppm: u32,
    /// Writes that land in another file of the disk.
    pub misplaced_write_ppm: u32,
    /// Reads that return what was last durable.
    pub stale_read_ppm: u32,
    /// Reads that return a flipped bit.
    pub flip_on_read_ppm: u32,
    /// Which files the rates above concern.
    pub area: DiskArea,
    /// How syncs behave.
    pub sync: SyncMode,
    /// How many times slower than its figures it is; zero and one mean not at all.
    pub slow_factor: u32,
    /// Calls do not come back until this ends.
    pub stuck: bool,
    /// The disk is gone: every call fails.
    pub lost: bool,
    /// Less space than its figures say.
    pub capacity_bytes: Option<u64>,
    /// Overwriting takes space as well, as on a thin volume: when there is none every write is refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub thin: bool,
    /// What the next power losses leave; at random if none.
    pub survival: Option<Survival>,
}

impl DiskFaults {
    /// What two faults come to together, but for the rates: each rate strikes its own files.
    fn and(self, other: Self) -> Self {
        let capacities = [self.capacity_bytes, other.capacity_bytes];
        Self {
            read_error_ppm: self.read_error_ppm.max(other.read_error_ppm),
            write_error_ppm: self.write_error_ppm.max(other.write_error_ppm),
            sync_error_ppm: self.sync_error_ppm.max(other.sync_error_ppm),
            phantom_write_ppm: self.phantom_write_ppm.max(other.phantom_write_ppm),
            misdirected_write_ppm: self.misdirected_write_ppm.max(other.misdirected_write_ppm),
            misplaced_write_ppm: self.misplaced_write_ppm.max(other.misplaced_write_ppm),
            stale_read_ppm: self.stale_read_ppm.max(other.stale_read_ppm),
            flip_on_read_ppm: self.flip_on_read_ppm.max(other.flip_on_read_ppm),
            area: if self.area == other.area {
                self.area
            } else {
                DiskArea::Everything
            },
            sync: self.sync.max(other.sync),
            slow_factor: self.slow_factor.max(other.slow_factor),
            stuck: self.stuck || other.stuck,
            lost: self.lost || other.lost,
            capacity_bytes: capacities.into_iter().flatten().min(),
            thin: self.thin || other.thin,
            survival: other.survival.or(self.survival),
        }
    }
}

/// What a disk does wrong: what was set, and what stands besides until it is ended.
#[derive(Debug, Default)]
pub(super) struct StandingFaults {
    /// What was set.
    pub(super) set: DiskFaults,
    /// What stands besides.
    pub(super) standing: BTreeMap<FaultNumber, DiskFaults>,
}

impl StandingFaults {
    fn together(&self) -> DiskFaults {
        let standing = self.standing.values();
        standing.fold(self.set, |all, other| all.and(*other))
    }

    fn each_mut(&mut self) -> impl Iterator<Item = &mut DiskFaults> {
        std::iter::once(&mut self.set).chain(self.standing.values_mut())
    }

    /// The fault that chance has for a call on `path`, each fault's by itself.
    fn chance(&self, dice: Dice, call: DiskCall, path: &str) -> Option<DiskFault> {
        let of = |dice, faults: &DiskFaults| {
            let struck = faults.area.holds(path);
            struck.then(|| chance(dice, call, faults)).flatten()
        };
        of(dice, &self.set).or_else(|| {
            let mut standing = self.standing.iter();
            standing.find_map(|(number, faults)| of(dice.of(u64::from(number.0)), faults))
        })
    }
}

/// A disk's durable contents at some moment, to be restored there or on another node.
#[derive(Debug, Clone)]
pub struct DiskImage(FileSystem);

/// One disk. See the file's head.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) dice: Dice,
    spec: DiskSpec,
    state: Mutex<DeviceState>,
}

pub(super) struct DeviceState {
    pub(super) files: FileSystem,
    pub(super) written: WrittenPlaces,
    wrong: StandingFaults,
    /// All of `wrong` together.
    faults: DiskFaults,
    /// When each channel is free again.
    channels: Vec<u64>,
    /// How many calls of a kind a path has seen.
    numbers: BTreeMap<(u64, DiskCall), u64>,
    power_losses: u64,
    stuck: Vec<Waker>,
    /// A call failed in the present or last life of the process.
    failed: bool,
    /// Calls that found no space, since the disk was last given other faults.
    refused: u64,
}

/// A file that a call concerns.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) file: FileId,
    pub(super) path: String,
    pub(super) path_hash: u64,
}

/// A call that the device has taken.
pub(super) struct Taken<T> {
    /// When it comes back.
    pub(super) done_ns: u64,
    /// How long the device itself works on it.
    pub(super) work_ns: u64,
    /// With what.
    pub(super) result: Result<T, DiskError>,
    /// What struck it.
    pub(super) fault: Option<DiskFault>,
}

impl Device {
    pub(super) fn new(world: &World, name: &str, spec: DiskSpec) -> Self {
        Self {
            name: name.to_owned(),
            dice: Dice::new(world.seed(), "disk").of(xxh3_64(name.as_bytes())),
            spec,
            state: Mutex::new(DeviceState {
                files: FileSystem::new(spec.capacity_bytes),
                written: WrittenPlaces::default(),
                wrong: StandingFaults::default(),
                faults: DiskFaults::default(),
                channels: vec![0; usize::from(spec.channels.max(1))],
                numbers: BTreeMap::new(),
                power_losses: 0,
                stuck: Vec::new(),
                failed: false,
                refused: 0,
            }),
        }
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, DeviceState> {
        self.state.lock().expect("no panic while a disk is held")
    }

    /// The dice and the fault of the next call of a kind on a path.
    fn draw(
        &self,
        world: &World,
        state: &mut DeviceState,
        (path, path_hash): (&str, u64),
        call: DiskCall,
    ) -> (Dice, Option<DiskFault>) {
        let count = state.numbers.entry((path_hash, call)).or_insert(0);
        let number = *count;
        *count += 1;
        let dice = self.dice.of(path_hash).of(call as u64).of(number);
        let id = || DiskCallId {
            disk: self.name.clone(),
            path: path.to_owned(),
            call,
            number,
        };
        let by_chance = || state.wrong.chance(dice, call, path);
        let fault = world.0.faults.disk_call(id, by_chance);
        if let Some(fault) = fault {
            world.disk_struck(&self.name, fault);
        }
        (dice, fault)
    }

    /// When a call begun at `now_ns` comes back: it waits for a free channel, then for the medium.
    fn serve(&self, state: &mut DeviceState, now_ns: u64, base_ns: u64, dice: Dice) -> (u64, u64) {
        let jitter = u64::from(self.spec.jitter_ppm) * (base_ns / 1_000) / 1_000;
        let slow = u64::from(state.faults.slow_factor.max(1));
        let work_ns = (base_ns + dice.below(TAG_JITTER, jitter + 1)).max(1) * slow;
        let channel = state
            .channels
            .iter_mut()
            .min()
            .expect("a device has a channel");
        *channel = (*channel).max(now_ns) + work_ns;
        (*channel, work_ns)
    }

    fn pages_ns(&self, bytes: u64) -> u64 {
        bytes.div_ceil(4_096) * self.spec.page_ns
    }

    /// Reads.
    pub(super) fn read(
        &self,
        world: &World,
        handle: &Handle,
        offset: u64,
        length: usize,
    ) -> Taken<Bytes> {
        let mut state = self.lock();
        let path = (handle.path.as_str(), handle.path_hash);
        let (dice, fault) = self.draw(world, &mut state, path, DiskCall::Read);
        let bytes = u64::try_from(length).expect("a length fits 64 bits");
        let base_ns = self.spec.read_ns + self.pages_ns(bytes);
        let (done_ns, work_ns) = self.serve(&mut state, world.now_ns(), base_ns, dice);
        let result = if state.faults.lost || fault == Some(DiskFault::Error) {
            Err(state.fail(&handle.path, "read", "input/output error"))
        } else {
            let stale = fault == Some(DiskFault::Stale);
            let mut data = state.files.file(handle.file).read(offset, length, stale);
            if let (Some(DiskFault::FlipOnRead { bit }), false) = (fault, data.is_empty()) {
                let bits = u64::try_from(data.len()).expect("a length fits 64 bits") * 8;
                let at = usize::try_from(bit % bits).expect("within a buffer");
                data[at / 8] ^= 1 << (at % 8);
            }
            Ok(Bytes::from(data))
        };
        Taken {
            done_ns,
            work_ns,
            result,
            fault,
        }
    }

    /// Writes. The new bytes are seen at once; `immediate` writes complete at once too.
    pub(super) fn write(
        &self,
        world: &World,
        handle: &Handle,
        offset: u64,
        data: &Bytes,
        immediate: bool,
    ) -> Taken<()> {
        let mut state = self.lock();
        let path = (handle.path.as_str(), handle.path_hash);
        let (dice, fault) = self.draw(world, &mut state, path, DiskCall::Write);
        let bytes = u64::try_from(data.len()).expect("a length fits 64 bits");
        let base_ns = self.spec.write_ns + self.pages_ns(bytes);
        let now_ns = world.now_ns();
        let (done_ns, work_ns) = self.serve(&mut state, now_ns, base_ns, dice);
        let at_ns = if immediate { now_ns } else { done_ns };
        if state.faults.lost {
            let result = Err(state.fail(&handle.path, "write", "no such device"));
            return Taken {
                done_ns,
                work_ns,
                result,
                fault,
            };
        }
        let length = state.files.file(handle.file).length();
        let result = match fault {
            Some(DiskFault::Error) => {
                state
                    .files
                    .file(handle.file)
                    .write_partly(offset, data, at_ns, dice);
                Err(state.fail(&handle.path, "write", "input/output error"))
            }
            Some(DiskFault::Phantom) => Ok(true),
            Some(DiskFault::Misplace { choice }) => {
                state.misplace(&handle.path, choice, data, at_ns);
                Ok(true)
            }
            Some(DiskFault::Misdirect { sector }) if length > bytes => {
                let places = (length - bytes) / SECTOR_BYTES + 1;
                let elsewhere = sector % places * SECTOR_BYTES;
                Ok(state
                    .files
                    .write(handle.file, elsewhere, data.clone(), at_ns))
            }
            _ => Ok(state.files.write(handle.file, offset, data.clone(), at_ns)),
        };
        if fault.is_none() && result == Ok(true) {
            state.written.note(&handle.path, offset, bytes, now_ns);
        }
        let result = result.and_then(|fits| state.full_unless(fits, &handle.path));
        Taken {
            done_ns,
            work_ns,
            result,
            fault,
        }
    }

    /// Sets a length.
    pub(super) fn resize(
        &self,
        world: &World,
        handle: &Handle,
        length: u64,
        immediate: bool,
    ) -> Taken<()> {
        let mut state = self.lock();
        let path = (handle.path.as_str(), handle.path_hash);
        let (dice, fault) = self.draw(world, &mut state, path, DiskCall::Resize);
        let now_ns = world.now_ns();
        let (done_ns, work_ns) = self.serve(&mut state, now_ns, self.spec.write_ns, dice);
        let at_ns = if immediate { now_ns } else { done_ns };
        let result = if state.faults.lost || fault == Some(DiskFault::Error) {
            Err(state.fail(&handle.path, "resize", "input/output error"))
        } else {
            let fits = state.files.resize(handle.file, length, at_ns);
            state.full_unless(fits, &handle.path)
        };
        Taken {
            done_ns,
            work_ns,
            result,
            fault,
        }
    }

    /// Begins a sync; [`Self::end_sync`] ends it.
    pub(super) fn begin_sync(&self, world: &World, handle: &Handle) -> Taken<()> {
        let mut state = self.lock();
        let path = (handle.path.as_str(), handle.path_hash);
        let (dice, fault) = self.draw(world, &mut state, path, DiskCall::Sync);
        let now_ns = world.now_ns();
        let dirty = state.files.file(handle.file).dirty_bytes(now_ns);
        let base_ns = self.spec.sync_ns + self.pages_ns(dirty);
        let (done_ns, work_ns) = self.serve(&mut state, now_ns, base_ns, dice);
        let (failed, lied) = state.sync_outcome(fault);
        let error = failed.then(|| state.fail(&handle.path, "sync", "input/output error"));
        let fault = if lied {
            Some(DiskFault::Phantom)
        } else {
            fault
        };
        Taken {
            done_ns,
            work_ns,
            result: error.map_or(Ok(()), Err),
            fault,
        }
    }

    /// A sync begun at `began_ns` comes back.
    pub(super) fn end_sync(&self, handle: &Handle, began_ns: u64, taken: &Taken<()>) {
        let mut state = self.lock();
        let file = state.files.file(handle.file);
        match (&taken.result, taken.fault) {
            (Err(_), _) => file.sync_failed(began_ns),
            (Ok(()), Some(DiskFault::Phantom)) => {}
            (Ok(()), _) => file.sync(began_ns),
        }
    }

    /// Takes a call that concerns names. `act` is given the time at which it completes.
    pub(super) fn names<T>(
        &self,
        world: &World,
        path: &str,
        operation: &'static str,
        act: impl FnOnce(&mut FileSystem, u64) -> Result<T, DiskError>,
    ) -> Taken<T> {
        let mut state = self.lock();
        let key = (path, xxh3_64(path.as_bytes()));
        let (dice, fault) = self.draw(world, &mut state, key, DiskCall::Name);
        let now_ns = world.now_ns();
        let (done_ns, work_ns) = self.serve(&mut state, now_ns, self.spec.write_ns, dice);
        let result = if state.faults.lost || fault == Some(DiskFault::Error) {
            Err(state.fail(path, operation, "input/output error"))
        } else {
            // Names change at once; only a directory sync begun later covers them.
            act(&mut state.files, now_ns)
        };
        Taken {
            done_ns,
            work_ns,
            result,
            fault,
        }
    }

    /// Begins a directory sync; [`Self::end_sync_names`] ends it.
    pub(super) fn begin_sync_names(&self, world: &World, directory: &str) -> Taken<()> {
        let mut taken = self.names(world, directory, "sync directory", |_, _| Ok(()));
        let mut state = self.lock();
        let (failed, lied) = state.sync_outcome(None);
        if failed && taken.result.is_ok() {
            taken.result = Err(state.fail(directory, "sync directory", "input/output error"));
        }
        if lied {
            taken.fault = Some(DiskFault::Phantom);
        }
        taken.done_ns += self.spec.sync_ns;
        taken.work_ns += self.spec.sync_ns;
        taken
    }

    /// A directory sync begun at `began_ns` comes back.
    pub(super) fn end_sync_names(&self, directory: &str, began_ns: u64, taken: &Taken<()>) {
        if taken.result.is_ok() && taken.fault != Some(DiskFault::Phantom) {
            self.lock().files.sync_names(directory, began_ns);
        }
    }

    /// Opens a file at once.
    pub(super) fn open(&self, world: &World, path: &str, mode: OpenMode) -> Taken<Handle> {
        self.names(world, path, "open", |files, now_ns| {
            let file = files.open(path, mode, now_ns)?;
            Ok(Handle {
                file,
                path: path.to_owned(),
                path_hash: xxh3_64(path.as_bytes()),
            })
        })
    }

    pub(super) fn close(&self, file: FileId) {
        self.lock().files.close(file);
    }

    pub(super) fn length(&self, handle: &Handle) -> Result<u64, DiskError> {
        let mut state = self.lock();
        if state.faults.lost {
            return Err(state.fail(&handle.path, "length", "no such device"));
        }
        Ok(state.files.file(handle.file).length())
    }

    /// A process begins to use the disk.
    pub(super) fn process_began(&self) {
        self.lock().failed = false;
    }

    /// Whether a call failed in the present or last life of the process.
    pub(super) fn failed(&self) -> bool {
        self.lock().failed
    }

    /// Calls that found no space, since the disk was last given other faults.
    pub(super) fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// The process that used the disk is gone.
    pub(super) fn process_ended(&self) {
        let mut state = self.lock();
        state.files.close_all();
        state.stuck.clear();
    }

    /// The power fails.
    pub(super) fn power_loss(&self) -> Survival {
        let mut state = self.lock();
        let dice = self.dice.of(u64::MAX).of(state.power_losses);
        state.power_losses += 1;
        state.written.forget();
        let survival = state.faults.survival.unwrap_or(match dice.below(0, 8) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 | 3 => Survival::Prefix,
            4 | 5 => Survival::Changes,
            _ => Survival::Sectors,
        });
        state.files.power_loss(survival, dice.of(1));
        state.channels.fill(0);
        survival
    }

    /// Changes what the disk does wrong; answers all of it together.
    pub(super) fn change_faults(&self, change: impl FnOnce(&mut StandingFaults)) -> DiskFaults {
        let (faults, wakers) = {
            let mut state = self.lock();
            change(&mut state.wrong);
            let faults = state.wrong.together();
            state.faults = faults;
            state.refused = 0;
            let capacity = faults.capacity_bytes.unwrap_or(self.spec.capacity_bytes);
            state.files.set_capacity(capacity, faults.thin);
            let wakers = if faults.stuck {
                Vec::new()
            } else {
                std::mem::take(&mut state.stuck)
            };
            (faults, wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        faults
    }

    pub(super) fn faults(&self) -> DiskFaults {
        self.lock().faults
    }

    /// Waits while the device is stuck.
    pub(super) async fn unstuck(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.lock();
            if state.faults.stuck {
                state.stuck.push(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Forgets everything: a new, empty disk.
    pub(super) fn wipe(&self) {
        let mut state = self.lock();
        let capacity = state
            .faults
            .capacity_bytes
            .unwrap_or(self.spec.capacity_bytes);
        let thin = state.faults.thin;
        state.files = FileSystem::new(capacity);
        state.written.forget();
        state.files.set_capacity(capacity, thin);
        state
            .wrong
            .each_mut()
            .for_each(|faults| faults.lost = false);
        state.faults.lost = false;
    }

    /// Exchanges what two disks hold; what each does wrong stays with its machine.
    pub(super) fn swap(&self, other: &Self) {
        let mut taken = self.lock();
        let mut given = other.lock();
        std::mem::swap(&mut taken.files, &mut given.files);
        for state in [&mut *taken, &mut *given] {
            let (capacity, thin) = (state.faults.capacity_bytes, state.faults.thin);
            state
                .files
                .set_capacity(capacity.unwrap_or(self.spec.capacity_bytes), thin);
        }
    }

    /// The contents as a power loss that spares everything would leave them.
    pub(super) fn image(&self) -> DiskImage {
        let mut files = self.lock().files.clone();
        files.power_loss(Survival::Everything, self.dice);
        DiskImage(files)
    }

    pub(super) fn restore(&self, image: &DiskImage) {
        self.lock().files = image.0.clone();
    }
}

impl DeviceState {
    /// A write lands in a file that it was not meant for, within its length: nowhere, if no other has
    /// room for it.
    fn misplace(&mut self, meant: &str, choice: u64, data: &Bytes, at_ns: u64) {
        let bytes = u64::try_from(data.len()).expect("a length fits 64 bits");
        let mut homes = Vec::new();
        for path in self.files.paths() {
            let length = self.files.named(&path).map_or(0, |file| file.length());
            if path != meant && length >= bytes {
                homes.push((path, (length - bytes) / SECTOR_BYTES + 1));
            }
        }
        let count = u64::try_from(homes.len())
            .expect("a length fits 64 bits")
            .max(1);
        let home = usize::try_from(choice % count).expect("below a length");
        if let Some((path, places)) = homes.get(home)
            && let Some(file) = self.files.named(path)
        {
            let sector = choice / count % places;
            file.write(sector * SECTOR_BYTES, data.clone(), at_ns);
        }
    }

    fn fail(&mut self, path: &str, operation: &'static str, reason: &str) -> DiskError {
        self.failed = true;
        DiskError::Device {
            path: path.to_owned(),
            operation,
            reason: reason.to_owned(),
        }
    }

    fn full_unless(&mut self, fits: bool, path: &str) -> Result<(), DiskError> {
        if fits {
            return Ok(());
        }
        self.refused += 1;
        Err(DiskError::NoSpace {
            path: path.to_owned(),
        })
    }

    /// Whether the next sync fails, and whether it lies.
    fn sync_outcome(&mut self, fault: Option<DiskFault>) -> (bool, bool) {
        let (mut fails, mut lies) = (false, false);
        for faults in self.wrong.each_mut() {
            fails |= matches!(faults.sync, SyncMode::Fail | SyncMode::FailThenLie);
            lies |= faults.sync == SyncMode::Lie;
            if faults.sync == SyncMode::FailThenLie {
                faults.sync = SyncMode::Lie;
            }
        }
        self.faults.sync = self.wrong.together().sync;
        let failed = self.faults.lost || fault == Some(DiskFault::Error) || fails;
        let lied = fault == Some(DiskFault::Phantom) || lies;
        (failed, lied && !failed)
    }
}

/// The fault that chance has for a call, if any.
fn chance(dice: Dice, call: DiskCall, faults: &DiskFaults) -> Option<DiskFault> {
    let error_ppm = match call {
        DiskCall::Read => faults.read_error_ppm,
        DiskCall::Write | DiskCall::Resize => faults.write_error_ppm,
        DiskCall::Sync => faults.sync_error_ppm,
        DiskCall::Name => 0,
    };
    if dice.chance(TAG_ERROR, error_ppm) {
        return Some(DiskFault::Error);
    }
    match call {
        DiskCall::Write if dice.chance(TAG_PHANTOM, faults.phantom_write_ppm) => {
            Some(DiskFault::Phantom)
        }
        DiskCall::Write if dice.chance(TAG_MISDIRECT, faults.misdirected_write_ppm) => {
            Some(DiskFault::Misdirect {
                sector: dice.bits(TAG_PLACE),
            })
        }
        DiskCall::Write if dice.chance(TAG_MISPLACE, faults.misplaced_write_ppm) => {
            Some(DiskFault::Misplace {
                choice: dice.bits(TAG_PLACE),
            })
        }
        DiskCall::Read if dice.chance(TAG_STALE, faults.stale_read_ppm) => Some(DiskFault::Stale),
        DiskCall::Read if dice.chance(TAG_FLIP, faults.flip_on_read_ppm) => {
            Some(DiskFault::FlipOnRead {
                bit: dice.bits(TAG_PLACE),
            })
        }
        _ => None,
    }
}
