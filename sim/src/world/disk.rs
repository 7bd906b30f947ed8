//! The disk seam: async files, blocking files, and a node's disk as the scenario sees it.
//!
//! Invariants: once a life is over none of its calls has an effect, and its async calls never come
//! back; its blocking calls fail. A write is in the device's hands from the moment of the call: a
//! power loss before it completes may keep any part of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hedgerow_env::{BlockingFile, BoxFuture, Disk, DiskError, File, OpenMode};
use xxhash_rust::xxh3::xxh3_64;

use super::World;
pub use super::cached_file::{SECTOR_BYTES, Survival};
use super::coverage::FaultKind;
use super::device::{Device, Handle, StandingFaults, Taken};
pub use super::device::{DiskArea, DiskFaults, DiskImage, DiskSpec, SyncMode};
use super::faults::FaultNumber;
use super::file_system::plain;
use super::lifecycle::Crash;
use super::node::{NodeEnv, NodeStatus};
use super::timers::TrueSleep;
use super::topology::NodeIndex;
use super::trace::EventKind;

/// What a blocking call of a crashed process gets.
const CRASHED: &str = "the process has crashed";

/// A node's disk, and the crash that awaits one of its calls.
pub(super) struct NodeDisk {
    device: Arc<Device>,
    calls: AtomicU64,
    crash_at: Mutex<Option<(u64, Crash)>>,
}

impl NodeDisk {
    pub(super) fn new(world: &World, name: &str, spec: DiskSpec) -> Self {
        Self {
            device: Arc::new(Device::new(world, name, spec)),
            calls: AtomicU64::new(0),
            crash_at: Mutex::new(None),
        }
    }

    pub(super) fn power_loss(&self, world: &World) {
        let survival = self.device.power_loss();
        let checksum = xxh3_64(self.device.name.as_bytes());
        world.record(EventKind::DiskFault, None, survival as u64, 0, checksum);
    }

    pub(super) fn process_began(&self) {
        self.device.process_began();
    }

    pub(super) fn process_ended(&self) {
        *self.crash_at.lock().expect("no panic while held") = None;
        self.device.process_ended();
    }

    /// Counts a call; the crash that is due at it, if any.
    fn count_call(&self) -> Option<Crash> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let mut crash_at = self.crash_at.lock().expect("no panic while held");
        let (_, crash) = crash_at.take_if(|(at, _)| *at <= call)?;
        Some(crash)
    }
}

impl World {
    /// Crashes a node at its `calls`-th disk call from now (the first is 1), whichever kind that
    /// is: the call's effect is as that of any call in flight at a crash.
    pub fn crash_after_calls(&self, node: NodeIndex, calls: u64, crash: Crash) {
        let node = self.node(node);
        let at = node.disk.calls.load(Ordering::Relaxed) + calls.max(1);
        *node.disk.crash_at.lock().expect("no panic while held") = Some((at, crash));
    }

    /// Disk calls of a node so far, in all its lives.
    #[must_use]
    pub fn disk_calls(&self, node: NodeIndex) -> u64 {
        self.node(node).disk.calls.load(Ordering::Relaxed)
    }

    /// Sets what a node's disk does wrong from now on, beside what stands there under a number; the
    /// default is nothing.
    pub fn set_disk_faults(&self, node: NodeIndex, faults: DiskFaults) {
        self.change_disk_faults(node, |all| all.set = faults);
    }

    /// Has a node's disk do this wrong, too, until [`World::end_disk_faults`].
    pub fn begin_disk_faults(&self, node: NodeIndex, number: FaultNumber, faults: DiskFaults) {
        self.change_disk_faults(node, |all| {
            all.standing.insert(number, faults);
        });
    }

    /// Ends what a node's disk does wrong under a number.
    pub fn end_disk_faults(&self, node: NodeIndex, number: FaultNumber) {
        self.change_disk_faults(node, |all| {
            all.standing.remove(&number);
        });
    }

    fn change_disk_faults(&self, node: NodeIndex, change: impl FnOnce(&mut StandingFaults)) {
        let faults = self.node(node).disk.device.change_faults(change);
        self.disk_faults_stand(node, &faults);
    }

    /// What a node's disk does wrong now, all together.
    #[must_use]
    pub fn disk_faults(&self, node: NodeIndex) -> DiskFaults {
        self.node(node).disk.device.faults()
    }

    /// Calls of a node's disk that found no space, since what it does wrong last changed.
    #[must_use]
    pub fn writes_refused(&self, node: NodeIndex) -> u64 {
        self.node(node).disk.device.refused()
    }

    /// Whether a call of the node's disk failed in the node's present or last life: only then may
    /// it say that its disk failed. A full disk refuses calls and does not fail.
    #[must_use]
    pub fn disk_failed(&self, node: NodeIndex) -> bool {
        self.node(node).disk.device.failed()
    }

    /// Flips a bit of a file on the medium; false when nothing was ever written there.
    pub fn rot(&self, node: NodeIndex, path: &str, offset: u64, bit: u32) -> bool {
        self.node(node).disk.device.rot(&plain(path), offset, bit)
    }

    /// Flips a bit somewhere in what a node's disk holds in an area; false when it holds nothing
    /// there.
    pub fn rot_somewhere(&self, node: NodeIndex, area: DiskArea, choice: u64) -> bool {
        let device = &self.node(node).disk.device;
        let rotten = device.rot_somewhere(area, choice).is_some();
        if rotten {
            self.struck(FaultKind::Rot, node);
        }
        rotten
    }

    /// Flips a bit of something that a node's journal wrote not long ago, and has since written more behind;
    /// false when there is no such thing, or the node is down.
    pub fn rot_settled(&self, node: NodeIndex, choice: u64) -> bool {
        let runs = self.node(node).life().is_some();
        let device = &self.node(node).disk.device;
        let rotten = runs && device.rot_settled(choice, self.now_ns()).is_some();
        if rotten {
            self.struck(FaultKind::Rot, node);
        }
        rotten
    }

    /// Replaces the disk of a node that is down by an empty one; false when the node is up.
    pub fn wipe_disk(&self, node: NodeIndex) -> bool {
        let node = self.node(node);
        let down = node.life().is_none();
        if down {
            node.disk.device.wipe();
        }
        down
    }

    /// Gives two nodes that are down each other's disk, as it is; false when one of them is up.
    pub fn swap_disks(&self, one: NodeIndex, other: NodeIndex) -> bool {
        let nodes = [self.node(one), self.node(other)];
        let down = one != other && nodes.iter().all(|node| node.life().is_none());
        if down {
            nodes[0].disk.device.swap(&nodes[1].disk.device);
        }
        down
    }

    /// The contents of a node's disk, as if everything had been synced.
    #[must_use]
    pub fn disk_image(&self, node: NodeIndex) -> DiskImage {
        self.node(node).disk.device.image()
    }

    /// Gives a node that is down the contents of an image, its own or another node's; false when
    /// the node is up.
    pub fn restore_disk(&self, node: NodeIndex, image: &DiskImage) -> bool {
        let node = self.node(node);
        let down = node.life().is_none();
        if down {
            node.disk.device.restore(image);
        }
        down
    }
}

impl NodeEnv {
    fn device(&self) -> &Arc<Device> {
        &self.node.disk.device
    }

    fn crash_now(&self, crash: Crash) {
        self.world
            .end_life(&self.node, &self.life, crash, NodeStatus::Down);
    }

    fn record_fault<T>(&self, taken: &Taken<T>) {
        if let Some(fault) = taken.fault {
            let checksum = xxh3_64(format!("{fault:?}").as_bytes());
            self.world
                .record(EventKind::DiskFault, Some(self.node.index), 0, 0, checksum);
        }
    }

    /// Makes one async call: `take` hands it to the device, `end` acts when it comes back.
    async fn call<T>(
        &self,
        take: impl FnOnce(&Device, &World) -> Taken<T>,
        end: impl FnOnce(&Device, &Taken<T>),
    ) -> Result<T, DiskError> {
        if self.life.is_over() {
            return std::future::pending().await;
        }
        let crash = self.node.disk.count_call();
        let taken = take(self.device(), &self.world);
        if let Some(crash) = crash {
            self.crash_now(crash);
            return std::future::pending().await;
        }
        TrueSleep::until(&self.world, Some(&self.life), taken.done_ns).await;
        self.device().unstuck().await;
        end(self.device(), &taken);
        self.record_fault(&taken);
        taken.result
    }

    /// Makes one blocking call. Its time is charged, its effect is immediate.
    fn call_blocking<T>(
        &self,
        path: &str,
        operation: &'static str,
        take: impl FnOnce(&Device, &World) -> Taken<T>,
    ) -> Result<Taken<T>, DiskError> {
        let crashed = || DiskError::Device {
            path: path.to_owned(),
            operation,
            reason: CRASHED.to_owned(),
        };
        if self.life.is_over() {
            return Err(crashed());
        }
        if let Some(crash) = self.node.disk.count_call() {
            if operation == "write" {
                drop(take(self.device(), &self.world));
            }
            self.crash_now(crash);
            return Err(crashed());
        }
        let taken = take(self.device(), &self.world);
        self.life.charge(taken.work_ns);
        self.record_fault(&taken);
        Ok(taken)
    }

    fn record_call(&self, kind: EventKind, subject: u64, size: usize, checksum: u64) {
        let size = u64::try_from(size).expect("a length fits 64 bits");
        self.world
            .record(kind, Some(self.node.index), subject, size, checksum);
    }

    /// Waits while the disk is stuck; for blocking jobs, which cannot wait themselves.
    pub(super) async fn disk_unstuck(&self) {
        self.device().unstuck().await;
    }
}

impl Disk for NodeEnv {
    fn open(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>> {
        let (env, path) = (self.clone(), plain(path));
        Box::pin(async move {
            let handle = env
                .call(|device, world| device.open(world, &path, mode), |_, _| {})
                .await?;
            env.record_call(EventKind::DiskOther, 1, 0, handle.path_hash);
            Ok(Arc::new(SimFile(Arc::new(Opened { env, handle }))) as Arc<dyn File>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let (env, from, to) = (self.clone(), plain(from), plain(to));
        Box::pin(async move {
            let rename = |device: &Device, world: &World| {
                device.names(world, &from, "rename", |files, at| {
                    files.rename(&from, &to, at)
                })
            };
            env.call(rename, |_, _| {}).await?;
            env.record_call(EventKind::DiskOther, 2, 0, xxh3_64(to.as_bytes()));
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let (env, path) = (self.clone(), plain(path));
        Box::pin(async move {
            let remove = |device: &Device, world: &World| {
                device.names(world, &path, "remove", |files, at| files.remove(&path, at))
            };
            env.call(remove, |_, _| {}).await?;
            env.record_call(EventKind::DiskOther, 3, 0, xxh3_64(path.as_bytes()));
            Ok(())
        })
    }

    fn list(&self, directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>> {
        let (env, directory) = (self.clone(), plain(directory));
        Box::pin(async move {
            let list = |device: &Device, world: &World| {
                device.names(world, &directory, "list", |files, _| {
                    Ok(files.list(&directory))
                })
            };
            env.call(list, |_, _| {}).await
        })
    }

    fn sync_directory(&self, directory: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let (env, directory) = (self.clone(), plain(directory));
        Box::pin(async move {
            let began_ns = env.world.now_ns();
            env.call(
                |device, world| device.begin_sync_names(world, &directory),
                |device, taken| device.end_sync_names(&directory, began_ns, taken),
            )
            .await?;
            env.record_call(EventKind::DiskOther, 4, 0, xxh3_64(directory.as_bytes()));
            Ok(())
        })
    }

    fn free_bytes(&self, directory: &str) -> BoxFuture<'static, Result<u64, DiskError>> {
        let (env, directory) = (self.clone(), plain(directory));
        Box::pin(async move {
            let free = |device: &Device, world: &World| {
                device.names(world, &directory, "free", |files, _| Ok(files.free_bytes()))
            };
            env.call(free, |_, _| {}).await
        })
    }

    fn open_blocking(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> Result<Arc<dyn BlockingFile>, DiskError> {
        let path = plain(path);
        let taken = self.call_blocking(&path, "open", |device, world| {
            device.open(world, &path, mode)
        })?;
        let handle = taken.result?;
        self.record_call(EventKind::DiskOther, 1, 0, handle.path_hash);
        Ok(Arc::new(SimBlockingFile(Opened {
            env: self.clone(),
            handle,
        })))
    }
}

/// An open file of one life.
struct Opened {
    env: NodeEnv,
    handle: Handle,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // The end of a life closed all of its files.
        if !self.env.life.is_over() {
            self.env.device().close(self.handle.file);
        }
    }
}

/// The async file. Calls in flight keep it open.
struct SimFile(Arc<Opened>);

impl File for SimFile {
    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'static, Result<Bytes, DiskError>> {
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            let read =
                |device: &Device, world: &World| device.read(world, &file.handle, offset, length);
            let data = file.env.call(read, |_, _| {}).await?;
            file.env
                .record_call(EventKind::DiskRead, offset, data.len(), xxh3_64(&data));
            Ok(data)
        })
    }

    fn write_at(
        &self,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(), DiskError>> {
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            let data = joined(parts);
            let write = |device: &Device, world: &World| {
                device.write(world, &file.handle, offset, &data, false)
            };
            let result = file.env.call(write, |_, _| {}).await;
            file.env
                .record_call(EventKind::DiskWrite, offset, data.len(), xxh3_64(&data));
            result
        })
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            let began_ns = file.env.world.now_ns();
            let result = file
                .env
                .call(
                    |device, world| device.begin_sync(world, &file.handle),
                    |device, taken| device.end_sync(&file.handle, began_ns, taken),
                )
                .await;
            file.env
                .record_call(EventKind::DiskSync, 0, 0, file.handle.path_hash);
            result
        })
    }

    fn resize(&self, length: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            let resize =
                |device: &Device, world: &World| device.resize(world, &file.handle, length, false);
            let result = file.env.call(resize, |_, _| {}).await;
            file.env
                .record_call(EventKind::DiskOther, 5, 0, file.handle.path_hash ^ length);
            result
        })
    }

    fn length(&self) -> BoxFuture<'static, Result<u64, DiskError>> {
        let file = Arc::clone(&self.0);
        Box::pin(async move {
            if file.env.life.is_over() {
                return std::future::pending().await;
            }
            file.env.device().length(&file.handle)
        })
    }
}

/// One buffer of all parts; the only part is not copied.
fn joined(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        1 => parts.pop().unwrap_or_default(),
        _ => Bytes::from(parts.concat()),
    }
}

/// The blocking file.
struct SimBlockingFile(Opened);

impl std::fmt::Debug for SimBlockingFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SimBlockingFile({})", self.0.handle.path)
    }
}

impl BlockingFile for SimBlockingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let Opened { env, handle } = &self.0;
        let taken = env.call_blocking(&handle.path, "read", |device, world| {
            device.read(world, handle, offset, buffer.len())
        })?;
        let data = taken.result?;
        if data.len() < buffer.len() {
            return Err(DiskError::Device {
                path: handle.path.clone(),
                operation: "read",
                reason: "unexpected end of file".to_owned(),
            });
        }
        buffer.copy_from_slice(&data);
        env.record_call(EventKind::DiskRead, offset, data.len(), xxh3_64(&data));
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let Opened { env, handle } = &self.0;
        let owned = Bytes::copy_from_slice(data);
        let taken = env.call_blocking(&handle.path, "write", |device, world| {
            device.write(world, handle, offset, &owned, true)
        })?;
        env.record_call(EventKind::DiskWrite, offset, data.len(), xxh3_64(data));
        taken.result
    }

    fn sync(&self) -> Result<(), DiskError> {
        let Opened { env, handle } = &self.0;
        let began_ns = env.world.now_ns();
        let taken = env.call_blocking(&handle.path, "sync", |device, world| {
            device.begin_sync(world, handle)
        })?;
        env.device().end_sync(handle, began_ns, &taken);
        env.record_call(EventKind::DiskSync, 0, 0, handle.path_hash);
        taken.result
    }

    fn resize(&self, length: u64) -> Result<(), DiskError> {
        let Opened { env, handle } = &self.0;
        let taken = env.call_blocking(&handle.path, "resize", |device, world| {
            device.resize(world, handle, length, true)
        })?;
        env.record_call(EventKind::DiskOther, 5, 0, handle.path_hash ^ length);
        taken.result
    }

    fn length(&self) -> Result<u64, DiskError> {
        let Opened { env, handle } = &self.0;
        if env.life.is_over() {
            return Err(DiskError::Device {
                path: handle.path.clone(),
                operation: "length",
                reason: CRASHED.to_owned(),
            });
        }
        env.device().length(handle)
    }
}
