//! The disk of the test world.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hedgerow_env::{BlockingFile, BoxFuture, Disk, DiskError, File, OpenMode, Random};

use crate::codec::{narrow, wide};

/// What survives or not at a crash, one by one.
const SECTOR_BYTES: usize = 512;

#[derive(Default)]
struct Node {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

fn apply_write(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

struct State {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    random: Random,
    crash_in: Option<u64>,
    crashed: bool,
    /// Raised by each crash: files opened before it are of a process that is no more.
    incarnation: u64,
    operations: u64,
    failing_syncs: Option<String>,
    capacity: u64,
    writes_in_flight: usize,
    most_writes_in_flight: usize,
    held_syncs: Option<String>,
    held: Vec<Waker>,
    misreads: Vec<Misread>,
}

/// A byte that reads wrong a few times, and is as it was.
struct Misread {
    node: u64,
    offset: usize,
    times: u32,
}

/// The disk; clones are handles on the same one.
#[derive(Clone)]
pub struct FaultDisk(Arc<Mutex<State>>);

impl FaultDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            nodes: BTreeMap::new(),
            next_node: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            random: Random::from_seed(seed),
            crash_in: None,
            crashed: false,
            incarnation: 0,
            operations: 0,
            failing_syncs: None,
            capacity: u64::MAX,
            writes_in_flight: 0,
            most_writes_in_flight: 0,
            held_syncs: None,
            held: Vec::new(),
            misreads: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("tests do not panic while holding the disk")
    }

    /// Crashes at the `operations`-th changing call from now (0: the next).
    pub fn crash_in(&self, operations: u64) {
        self.state().crash_in = Some(operations);
    }

    /// Whether the crash has come.
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Changing calls so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Loses unsynced changes (each sector for itself) and starts again.
    pub fn restart(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.crashed = false;
        state.crash_in = None;
        state.incarnation += 1;
        state.writes_in_flight = 0;
        // Order matters to the seed: nodes by number, changes by time, sectors by offset.
        for node in state.nodes.values_mut() {
            for change in std::mem::take(&mut node.unsynced) {
                match change {
                    Change::Resize(length) if state.random.chance(1, 2) => {
                        node.durable.resize(length, 0);
                    }
                    Change::Resize(_) => {}
                    Change::Write(offset, data) => {
                        keep_some(&mut node.durable, offset, &data, &mut state.random);
                    }
                }
            }
            node.current = node.durable.clone();
        }
        if state.random.chance(1, 2) {
            state.durable_names = state.names.clone();
        }
        state.names = state.durable_names.clone();
        let named: Vec<u64> = state.names.values().copied().collect();
        state.nodes.retain(|number, _| named.contains(number));
    }

    /// Syncs of files whose path contains `part` fail from now on; none for no file.
    pub fn fail_syncs(&self, part: Option<&str>) {
        self.state().failing_syncs = part.map(str::to_owned);
    }

    /// Syncs of files whose path contains `part` do not complete until this is called with none.
    pub fn hold_syncs(&self, part: Option<&str>) {
        let mut state = self.state();
        state.held_syncs = part.map(str::to_owned);
        let held = std::mem::take(&mut state.held);
        drop(state);
        held.into_iter().for_each(Waker::wake);
    }

    /// All files together may have this many bytes.
    pub fn limit(&self, capacity: u64) {
        self.state().capacity = capacity;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        used(&self.state())
    }

    /// Flips every bit of `length` bytes, as rot does.
    pub fn rot(&self, path: &str, offset: u64, length: usize) {
        let mut state = self.state();
        let node = state.names[path];
        let node = state.nodes.get_mut(&node).expect("names name nodes");
        for content in [&mut node.durable, &mut node.current] {
            let end = content.len().min(narrow(offset) + length);
            for byte in content.iter_mut().take(end).skip(narrow(offset)) {
                *byte = !*byte;
            }
        }
    }

    /// The next reads of this byte, so many, have every bit of it wrong; the medium is as it was.
    pub fn misread(&self, path: &str, offset: u64, times: u32) {
        let mut state = self.state();
        let node = state.names[path];
        state.misreads = vec![Misread {
            node,
            offset: narrow(offset),
            times,
        }];
    }

    /// Replaces bytes, as a misdirected write does.
    pub fn overwrite(&self, path: &str, offset: u64, data: &[u8]) {
        let mut state = self.state();
        let node = state.names[path];
        let node = state.nodes.get_mut(&node).expect("names name nodes");
        apply_write(&mut node.durable, narrow(offset), data);
        apply_write(&mut node.current, narrow(offset), data);
    }

    /// A file's present bytes.
    #[must_use]
    pub fn content(&self, path: &str) -> Vec<u8> {
        let state = self.state();
        state.nodes[&state.names[path]].current.clone()
    }

    /// Paths of all files below `prefix`.
    #[must_use]
    pub fn paths(&self, prefix: &str) -> Vec<String> {
        let state = self.state();
        state
            .names
            .keys()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// The most writes that were ever under way together.
    #[must_use]
    pub fn most_writes_in_flight(&self) -> usize {
        self.state().most_writes_in_flight
    }

    /// How many turns a call takes.
    fn delay(&self) -> u64 {
        self.state().random.below(4)
    }

    /// Counts a changing call; true when the disk dies with it.
    fn step(&self) -> bool {
        let mut state = self.state();
        state.operations += 1;
        match state.crash_in {
            Some(0) => state.crashed = true,
            Some(left) => state.crash_in = Some(left - 1),
            None => {}
        }
        state.crashed
    }

    /// Performs `change` after some turns, unless the disk dies before or during it.
    fn perform<T: Send + 'static>(
        &self,
        changes: bool,
        change: impl FnOnce(&mut State) -> Result<T, DiskError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, DiskError>> {
        let disk = self.clone();
        let incarnation = self.state().incarnation;
        Box::pin(async move {
            Turns(disk.delay()).await;
            let was_crashed = disk.state().crashed || disk.state().incarnation != incarnation;
            let dies = !was_crashed && changes && disk.step();
            if was_crashed {
                return std::future::pending().await;
            }
            let outcome = change(&mut disk.state());
            if dies {
                return std::future::pending().await;
            }
            outcome
        })
    }
}

fn used(state: &State) -> u64 {
    let lengths = state
        .names
        .values()
        .map(|node| wide(state.nodes[node].current.len()));
    lengths.sum()
}

fn keep_some(content: &mut Vec<u8>, offset: usize, data: &[u8], random: &mut Random) {
    let mut at = 0;
    while at < data.len() {
        let sector_end = (offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset;
        let end = sector_end.min(data.len());
        if random.chance(1, 2) {
            apply_write(content, offset + at, &data[at..end]);
        }
        at = end;
    }
}

/// Lets others go first so many times.
struct Turns(u64);

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn open_node(state: &mut State, path: &str, mode: OpenMode) -> Result<u64, DiskError> {
    let path = path.to_owned();
    match (state.names.get(&path).copied(), mode) {
        (Some(_), OpenMode::CreateNew) => Err(DiskError::AlreadyExists { path }),
        (Some(node), _) => Ok(node),
        (None, OpenMode::Existing) => Err(DiskError::NotFound { path }),
        (None, OpenMode::Create | OpenMode::CreateNew) => {
            let node = state.next_node;
            state.next_node += 1;
            state.nodes.insert(node, Node::default());
            state.names.insert(path, node);
            Ok(node)
        }
    }
}

impl Disk for FaultDisk {
    fn open(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>> {
        let disk = self.clone();
        let path = path.to_owned();
        let incarnation = self.state().incarnation;
        self.perform(mode != OpenMode::Existing, move |state| {
            let node = open_node(state, &path, mode)?;
            let file = FaultFile {
                disk,
                node,
                path,
                incarnation,
            };
            Ok(Arc::new(file) as Arc<dyn File>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.perform(true, move |state| {
            let node = state.names.remove(&from);
            let node = node.ok_or(DiskError::NotFound { path: from })?;
            state.names.insert(to, node);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let path = path.to_owned();
        self.perform(true, move |state| {
            let removed = state.names.remove(&path);
            removed.map(drop).ok_or(DiskError::NotFound { path })
        })
    }

    fn list(&self, directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>> {
        let prefix = format!("{directory}/");
        self.perform(false, move |state| {
            let below = state
                .names
                .keys()
                .filter_map(|name| name.strip_prefix(&prefix));
            let names = below.map(|name| name.split('/').next().unwrap_or(name).to_owned());
            let mut names: Vec<String> = names.collect();
            names.dedup();
            Ok(names)
        })
    }

    fn sync_directory(&self, directory: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let directory = directory.to_owned();
        self.perform(true, move |state| {
            state
                .durable_names
                .retain(|name, _| directory_of(name) != directory);
            let own = state
                .names
                .iter()
                .filter(|(name, _)| directory_of(name) == directory);
            let own: Vec<_> = own.map(|(name, node)| (name.clone(), *node)).collect();
            state.durable_names.extend(own);
            Ok(())
        })
    }

    fn free_bytes(&self, _directory: &str) -> BoxFuture<'static, Result<u64, DiskError>> {
        self.perform(false, |state| {
            Ok(state.capacity.saturating_sub(used(state)).min(1 << 40))
        })
    }

    fn open_blocking(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> Result<Arc<dyn BlockingFile>, DiskError> {
        let node = open_node(&mut self.state(), path, mode)?;
        Ok(Arc::new(FaultFile {
            disk: self.clone(),
            node,
            path: path.to_owned(),
            incarnation: self.state().incarnation,
        }))
    }
}

struct FaultFile {
    disk: FaultDisk,
    node: u64,
    path: String,
    incarnation: u64,
}

impl fmt::Debug for FaultFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.path)
    }
}

fn read(state: &State, node: u64, offset: u64, length: usize) -> Bytes {
    let Some(node) = state.nodes.get(&node) else {
        return Bytes::new();
    };
    let start = node.current.len().min(narrow(offset));
    let end = node.current.len().min(start + length);
    Bytes::copy_from_slice(&node.current[start..end])
}

fn misread(state: &mut State, node: u64, offset: u64, bytes: Bytes) -> Bytes {
    let range = narrow(offset)..narrow(offset) + bytes.len();
    let mut wrong = state.misreads.iter_mut();
    let wrong =
        wrong.find(|wrong| wrong.node == node && wrong.times > 0 && range.contains(&wrong.offset));
    let Some(wrong) = wrong else { return bytes };
    wrong.times -= 1;
    let mut bytes = bytes.to_vec();
    let at = wrong.offset - range.start;
    bytes[at] = !bytes[at];
    bytes.into()
}

fn write(
    state: &mut State,
    node: u64,
    path: &str,
    offset: u64,
    data: &[u8],
) -> Result<(), DiskError> {
    let offset = narrow(offset);
    let length = state.nodes[&node].current.len();
    let grows = (offset + data.len()).saturating_sub(length);
    if grows > 0 && used(state) + wide(grows) > state.capacity {
        return Err(DiskError::NoSpace {
            path: path.to_owned(),
        });
    }
    let node = state.nodes.get_mut(&node).expect("open files have nodes");
    apply_write(&mut node.current, offset, data);
    node.unsynced.push(Change::Write(offset, data.to_vec()));
    Ok(())
}

fn resize(state: &mut State, node: u64, path: &str, length: u64) -> Result<(), DiskError> {
    let grows = narrow(length).saturating_sub(state.nodes[&node].current.len());
    if grows > 0 && used(state) + wide(grows) > state.capacity {
        return Err(DiskError::NoSpace {
            path: path.to_owned(),
        });
    }
    let node = state.nodes.get_mut(&node).expect("open files have nodes");
    node.current.resize(narrow(length), 0);
    node.unsynced.push(Change::Resize(narrow(length)));
    Ok(())
}

/// Makes the first `count` unsynced changes durable.
fn sync(state: &mut State, node: u64, path: &str, count: usize) -> Result<(), DiskError> {
    if state
        .failing_syncs
        .as_ref()
        .is_some_and(|part| path.contains(part.as_str()))
    {
        return Err(DiskError::Device {
            path: path.to_owned(),
            operation: "sync",
            reason: "injected".to_owned(),
        });
    }
    let node = state.nodes.get_mut(&node).expect("open files have nodes");
    let count = count.min(node.unsynced.len());
    for change in node.unsynced.drain(..count) {
        match change {
            Change::Write(offset, data) => apply_write(&mut node.durable, offset, &data),
            Change::Resize(length) => node.durable.resize(length, 0),
        }
    }
    Ok(())
}

impl File for FaultFile {
    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'static, Result<Bytes, DiskError>> {
        let node = self.node;
        self.disk.perform(false, move |state| {
            let bytes = read(state, node, offset, length);
            Ok(misread(state, node, offset, bytes))
        })
    }

    fn write_at(
        &self,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(), DiskError>> {
        let (disk, node, path) = (self.disk.clone(), self.node, self.path.clone());
        {
            let mut state = disk.state();
            state.writes_in_flight += 1;
            state.most_writes_in_flight = state.most_writes_in_flight.max(state.writes_in_flight);
        }
        self.disk.perform(true, move |state| {
            state.writes_in_flight = state.writes_in_flight.saturating_sub(1);
            write(state, node, &path, offset, &parts.concat())
        })
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        let (disk, node, path) = (self.disk.clone(), self.node, self.path.clone());
        // Only what was written before the call is promised.
        let count = disk
            .state()
            .nodes
            .get(&node)
            .map_or(0, |node| node.unsynced.len());
        let outer = self.disk.clone();
        Box::pin(async move {
            std::future::poll_fn(|context| {
                let mut state = disk.state();
                let held = state.held_syncs.as_ref();
                if held.is_none_or(|part| !path.contains(part.as_str())) {
                    return Poll::Ready(());
                }
                state.held.push(context.waker().clone());
                Poll::Pending
            })
            .await;
            let path = path.clone();
            outer
                .perform(true, move |state| sync(state, node, &path, count))
                .await
        })
    }

    fn resize(&self, length: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        let (node, path) = (self.node, self.path.clone());
        self.disk
            .perform(true, move |state| resize(state, node, &path, length))
    }

    fn length(&self) -> BoxFuture<'static, Result<u64, DiskError>> {
        let node = self.node;
        self.disk.perform(false, move |state| {
            Ok(wide(state.nodes[&node].current.len()))
        })
    }
}

impl FaultFile {
    fn check(&self, operation: &'static str) -> Result<(), DiskError> {
        let state = self.disk.state();
        if state.crashed || state.incarnation != self.incarnation {
            return Err(DiskError::Device {
                path: self.path.clone(),
                operation,
                reason: "the node has crashed".to_owned(),
            });
        }
        Ok(())
    }

    fn change(
        &self,
        operation: &'static str,
        change: impl FnOnce(&mut State) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        self.check(operation)?;
        self.disk.step();
        let outcome = change(&mut self.disk.state());
        self.check(operation)?;
        outcome
    }
}

impl BlockingFile for FaultFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.check("read")?;
        let bytes = read(&self.disk.state(), self.node, offset, buffer.len());
        if bytes.len() < buffer.len() {
            return Err(DiskError::Device {
                path: self.path.clone(),
                operation: "read",
                reason: "past the end".to_owned(),
            });
        }
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.change("write", |state| {
            write(state, self.node, &self.path, offset, data)
        })
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.change("sync", |state| {
            sync(state, self.node, &self.path, usize::MAX)
        })
    }

    fn resize(&self, length: u64) -> Result<(), DiskError> {
        self.change("resize", |state| {
            resize(state, self.node, &self.path, length)
        })
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.check("length")?;
        Ok(wide(self.disk.state().nodes[&self.node].current.len()))
    }
}
