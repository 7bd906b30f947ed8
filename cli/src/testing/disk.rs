//! A disk that keeps writes in memory until they are synced, so that a process that is killed loses
//! them as a machine that loses power does; and that can be full.
//!
//! Why a layer in the process and not a file system below it: it needs no privileges and no module
//! of the kernel, and it can tell exactly what was lost.
//!
//! What it does not lose: lengths, names, creations and removals, which are durable at once. When
//! the disk is full, overwriting fails too, as on a copy-on-write file system or a thin volume.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BlockingFile, BoxFuture, Disk, DiskError, File, OpenMode};

/// Writes are kept by pages of the size that page caches use.
const PAGE_BYTES: u64 = 4096;
/// Pages of one file that are kept; then all are written, as a kernel that is short of memory does.
const PAGES_KEPT: usize = 32 << 10;

/// The disk.
pub(crate) struct TestDisk {
    real: Arc<dyn Disk>,
    shared: Arc<Shared>,
}

/// How a disk behaves. Only one that is forgetful is slow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Keeps unsynced writes in memory.
    pub(crate) forgetful: bool,
    /// A sync takes up to so long, and two thirds of it at least.
    pub(crate) sync_ms: u64,
    /// A write takes up to so long.
    pub(crate) write_ms: u64,
}

struct Shared {
    manner: Manner,
    /// How long each call takes is drawn from it.
    draws: AtomicU64,
    full: AtomicBool,
    refused: AtomicU64,
    /// Unsynced pages by file. Handles of one path share them.
    files: Mutex<BTreeMap<String, Arc<Unsynced>>>,
}

/// What of one file is not synced.
#[derive(Default)]
struct Unsynced {
    pages: Mutex<Pages>,
    /// Slow syncs that have begun, and the number of the last one that has ended.
    begun: AtomicU64,
    ended: Mutex<u64>,
}

type Pages = BTreeMap<u64, Page>;

#[derive(Clone)]
struct Page {
    /// Grows with every write of the disk.
    version: u64,
    bytes: Box<[u8]>,
}

impl TestDisk {
    /// A disk above `real`.
    pub(crate) fn new(real: Arc<dyn Disk>, manner: Manner) -> Self {
        Self {
            real,
            shared: Arc::new(Shared {
                manner,
                draws: AtomicU64::new(1),
                full: AtomicBool::new(false),
                refused: AtomicU64::new(0),
                files: Mutex::default(),
            }),
        }
    }

    pub(super) fn set_full(&self, full: bool) {
        self.shared.full.store(full, Ordering::SeqCst);
    }

    pub(super) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Files with unsynced writes, and their bytes.
    pub(super) fn unsynced(&self) -> (u64, u64) {
        let files = self.shared.files.lock().expect("no panic under this lock");
        let (mut count, mut bytes) = (0, 0);
        for pages in files.values() {
            let pages = pages.pages.lock().expect("no panic under this lock");
            let pages = pages.len() as u64;
            count += u64::from(pages > 0);
            bytes += pages * PAGE_BYTES;
        }
        (count, bytes)
    }
}

/// One open file.
#[derive(Clone)]
struct TestFile {
    real: Arc<dyn BlockingFile>,
    path: String,
    unsynced: Arc<Unsynced>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for TestFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TestFile({})", self.path)
    }
}

impl TestFile {
    /// A slow disk: takes `most` at most, and two thirds of it at least if it is not to be quick.
    #[expect(
        clippy::disallowed_methods,
        reason = "a device takes its time below the seams, on a thread for blocking calls"
    )]
    fn dawdle(&self, most: Duration, at_least_two_thirds: bool) {
        if !self.shared.manner.forgetful || most.is_zero() {
            return;
        }
        let draw = self.shared.draws.fetch_add(1, Ordering::Relaxed);
        let draw = draw.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let most = u64::try_from(most.as_micros()).expect("a short time");
        let least = if at_least_two_thirds { most / 3 * 2 } else { 0 };
        std::thread::sleep(Duration::from_micros(least + draw % (most - least + 1)));
    }

    /// No two writes take the same time: later ones overtake earlier ones.
    fn dawdle_writing(&self) {
        self.dawdle(Duration::from_millis(self.shared.manner.write_ms), false);
    }

    /// What is promised before a sync has ended is promised for long enough to be lost.
    fn dawdle_syncing(&self) {
        self.dawdle(Duration::from_millis(self.shared.manner.sync_ms), true);
    }

    fn refuse_when_full(&self) -> Result<(), DiskError> {
        if self.shared.full.load(Ordering::SeqCst) {
            self.shared.refused.fetch_add(1, Ordering::SeqCst);
            let path = self.path.clone();
            return Err(DiskError::NoSpace { path });
        }
        Ok(())
    }

    /// One page as a reader sees it: kept, or from the file, zeros beyond its end.
    fn page(&self, pages: &Pages, number: u64, length: u64) -> Result<Box<[u8]>, DiskError> {
        if let Some(page) = pages.get(&number) {
            return Ok(page.bytes.clone());
        }
        let mut page = vec![0; size(PAGE_BYTES)].into_boxed_slice();
        let start = number * PAGE_BYTES;
        let there = length.saturating_sub(start).min(PAGE_BYTES);
        self.real.read_at(start, &mut page[..size(there)])?;
        Ok(page)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.refuse_when_full()?;
        if !self.shared.manner.forgetful {
            return self.real.write_at(offset, data);
        }
        let version = self.shared.draws.fetch_add(1, Ordering::Relaxed);
        let mut pages = self.pages();
        let end = offset + data.len() as u64;
        let length = self.real.length()?;
        let mut at = offset;
        while at < end {
            let number = at / PAGE_BYTES;
            let stop = end.min((number + 1) * PAGE_BYTES);
            let mut bytes = self.page(&pages, number, length)?;
            let within = size(at % PAGE_BYTES);
            let part = &data[size(at - offset)..size(stop - offset)];
            bytes[within..within + part.len()].copy_from_slice(part);
            pages.insert(number, Page { version, bytes });
            at = stop;
        }
        if end > length {
            self.real.resize(end)?;
        }
        if pages.len() > PAGES_KEPT {
            self.write_back(&std::mem::take(&mut *pages))?;
        }
        Ok(())
    }

    fn write_back(&self, pages: &Pages) -> Result<(), DiskError> {
        let length = self.real.length()?;
        for (number, page) in pages {
            let start = number * PAGE_BYTES;
            let there = length.saturating_sub(start).min(PAGE_BYTES);
            self.real.write_at(start, &page.bytes[..size(there)])?;
        }
        Ok(())
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        let pages = self.unsynced.pages.lock();
        pages.expect("no panic under this lock")
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let pages = self.pages();
        self.real.read_at(offset, buffer)?;
        let end = offset + buffer.len() as u64;
        let first = offset / PAGE_BYTES;
        for (number, page) in pages.range(first..end.div_ceil(PAGE_BYTES)) {
            let start = number * PAGE_BYTES;
            let (from, to) = (start.max(offset), (start + PAGE_BYTES).min(end));
            let part = &page.bytes[size(from - start)..size(to - start)];
            buffer[size(from - offset)..size(to - offset)].copy_from_slice(part);
        }
        Ok(())
    }

    fn sync_now(&self) -> Result<(), DiskError> {
        if self.shared.manner.forgetful && self.shared.manner.sync_ms > 0 {
            return self.sync_slowly();
        }
        let mut pages = self.pages();
        self.write_back(&std::mem::take(&mut *pages))?;
        self.real.sync()
    }

    /// Makes durable what was written before it began, and nothing that is written while it lasts:
    /// no sync is bound to do more. One at a time; whoever asks meanwhile is served by the next.
    fn sync_slowly(&self) -> Result<(), DiskError> {
        let unsynced = &self.unsynced;
        let asked_at = unsynced.begun.load(Ordering::SeqCst);
        let mut ended = unsynced.ended.lock().expect("no panic under this lock");
        if *ended > asked_at {
            return Ok(());
        }
        let number = unsynced.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let written = self.pages().clone();
        self.dawdle_syncing();
        self.write_back(&written)?;
        self.real.sync()?;
        let is_newer = |number: &u64, page: &mut Page| {
            let known = written.get(number);
            known.is_none_or(|known| known.version != page.version)
        };
        self.pages().retain(is_newer);
        *ended = number;
        Ok(())
    }

    fn resize_now(&self, length: u64) -> Result<(), DiskError> {
        let mut pages = self.pages();
        let present = self.real.length()?;
        if length > present {
            self.refuse_when_full()?;
        } else {
            pages.retain(|number, _| number * PAGE_BYTES < length);
            if let Some(page) = pages.get_mut(&(length / PAGE_BYTES)) {
                page.bytes[size(length % PAGE_BYTES)..].fill(0);
            }
        }
        self.real.resize(length)
    }

    fn run<T, J>(&self, job: J) -> BoxFuture<'static, Result<T, DiskError>>
    where
        T: Send + 'static,
        J: FnOnce(&Self) -> Result<T, DiskError> + Send + 'static,
    {
        let this = self.clone();
        Box::pin(async move {
            let path = this.path.clone();
            let running = tokio::task::spawn_blocking(move || job(&this));
            running.await.unwrap_or_else(|_| {
                Err(DiskError::Device {
                    path,
                    operation: "run",
                    reason: "the process is shutting down".to_owned(),
                })
            })
        })
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("64 bits here")
}

impl BlockingFile for TestFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.read(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.write(offset, data)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.sync_now()
    }

    fn resize(&self, length: u64) -> Result<(), DiskError> {
        self.resize_now(length)
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.real.length()
    }
}

/// The same file as the other trait.
struct AsyncFile(TestFile);

impl File for AsyncFile {
    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'static, Result<Bytes, DiskError>> {
        self.0.run(move |file| {
            let there = file.real.length()?.saturating_sub(offset);
            let mut buffer = vec![0; length.min(size(there))];
            file.read(offset, &mut buffer)?;
            Ok(buffer.into())
        })
    }

    fn write_at(
        &self,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(), DiskError>> {
        self.0.run(move |file| {
            file.dawdle_writing();
            file.write(offset, &parts.concat())
        })
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        self.0.run(TestFile::sync_now)
    }

    fn resize(&self, length: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        self.0.run(move |file| file.resize_now(length))
    }

    fn length(&self) -> BoxFuture<'static, Result<u64, DiskError>> {
        self.0.run(|file| file.real.length())
    }
}

/// The same disk as a seam.
pub(crate) struct SharedDisk(pub(crate) Arc<TestDisk>);

impl SharedDisk {
    fn test_file(disk: &TestDisk, path: &str, mode: OpenMode) -> Result<TestFile, DiskError> {
        let real = disk.real.open_blocking(path, mode)?;
        let mut files = disk.shared.files.lock().expect("no panic under this lock");
        let pages = files.entry(path.to_owned()).or_default();
        Ok(TestFile {
            real,
            path: path.to_owned(),
            unsynced: Arc::clone(pages),
            shared: Arc::clone(&disk.shared),
        })
    }

    /// Unsynced writes follow their file.
    fn renamed(disk: &TestDisk, from: &str, to: Option<&str>) {
        let mut files = disk.shared.files.lock().expect("no panic under this lock");
        let pages = files.remove(from);
        if let (Some(to), Some(pages)) = (to, pages) {
            files.insert(to.to_owned(), pages);
        }
    }
}

impl Disk for SharedDisk {
    fn open(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>> {
        let (disk, path) = (Arc::clone(&self.0), path.to_owned());
        Box::pin(async move {
            let file = Self::test_file(&disk, &path, mode)?;
            Ok(Arc::new(AsyncFile(file)) as Arc<dyn File>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let renaming = self.0.real.rename(from, to);
        let disk = Arc::clone(&self.0);
        let (from, to) = (from.to_owned(), to.to_owned());
        Box::pin(async move {
            renaming.await?;
            Self::renamed(&disk, &from, Some(&to));
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let removing = self.0.real.remove(path);
        let (disk, path) = (Arc::clone(&self.0), path.to_owned());
        Box::pin(async move {
            removing.await?;
            Self::renamed(&disk, &path, None);
            Ok(())
        })
    }

    fn list(&self, directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>> {
        self.0.real.list(directory)
    }

    fn sync_directory(&self, directory: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        self.0.real.sync_directory(directory)
    }

    fn free_bytes(&self, directory: &str) -> BoxFuture<'static, Result<u64, DiskError>> {
        if self.0.shared.full.load(Ordering::SeqCst) {
            return Box::pin(async { Ok(0) });
        }
        self.0.real.free_bytes(directory)
    }

    fn open_blocking(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> Result<Arc<dyn BlockingFile>, DiskError> {
        Ok(Arc::new(Self::test_file(&self.0, path, mode)?))
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_disk::os::OsDisk;

    use super::*;

    fn forgetful(sync_ms: u64) -> Manner {
        Manner {
            forgetful: true,
            sync_ms,
            write_ms: 0,
        }
    }

    fn open(root: &std::path::Path) -> (Arc<TestDisk>, TestFile) {
        let real = Arc::new(OsDisk::open(root).unwrap());
        let disk = Arc::new(TestDisk::new(real, forgetful(0)));
        let file = SharedDisk::test_file(&disk, "a", OpenMode::Create).unwrap();
        (disk, file)
    }

    #[test]
    fn what_is_not_synced_is_read_back_and_lost_with_the_process() {
        let root = std::env::temp_dir().join(format!("hedgerow-forgetful-{}", std::process::id()));
        let (disk, file) = open(&root);
        file.write(0, &[1; 10_000]).unwrap();
        file.sync_now().unwrap();
        assert_eq!(disk.unsynced(), (0, 0));
        file.write(4_000, &[2; 5_000]).unwrap();
        file.write(12_000, &[3; 10]).unwrap();
        let mut seen = vec![0; 12_010];
        file.read(0, &mut seen).unwrap();
        assert_eq!(
            (seen[3_999], seen[4_000], seen[8_999], seen[9_000]),
            (1, 2, 2, 1)
        );
        assert_eq!((seen[11_000], seen[12_000]), (0, 3));
        assert_eq!(disk.unsynced(), (1, 3 * PAGE_BYTES));
        drop((file, disk));
        let (_disk, file) = open(&root);
        let mut seen = vec![9; 12_010];
        file.read(0, &mut seen).unwrap();
        assert!(seen[..10_000].iter().all(|byte| *byte == 1));
        assert!(seen[10_000..].iter().all(|byte| *byte == 0));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "two threads of one process are what is tested"
    )]
    fn a_slow_sync_makes_durable_what_was_written_before_it_began_and_no_more() {
        let root = std::env::temp_dir().join(format!("hedgerow-slow-{}", std::process::id()));
        let real = Arc::new(OsDisk::open(&root).unwrap());
        let disk = Arc::new(TestDisk::new(real, forgetful(300)));
        let file = SharedDisk::test_file(&disk, "a", OpenMode::Create).unwrap();
        file.write(0, &[1; 4096]).unwrap();
        let syncing = {
            let file = file.clone();
            std::thread::spawn(move || file.sync_now())
        };
        std::thread::sleep(Duration::from_millis(100));
        file.write(0, &[2; 4096]).unwrap();
        file.write(4096, &[2; 4096]).unwrap();
        syncing.join().unwrap().unwrap();
        assert_eq!(disk.unsynced(), (1, 2 * PAGE_BYTES));
        let mut seen = vec![9; 8192];
        file.real.read_at(0, &mut seen).unwrap();
        assert_eq!((seen[0], seen[4096]), (1, 0), "what power loss leaves");
        file.sync_now().unwrap();
        assert_eq!(disk.unsynced(), (0, 0));
        file.real.read_at(0, &mut seen).unwrap();
        assert!(seen.iter().all(|byte| *byte == 2));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_full_disk_refuses_and_counts() {
        let root = std::env::temp_dir().join(format!("hedgerow-full-{}", std::process::id()));
        let (disk, file) = open(&root);
        file.write(0, &[1; 10]).unwrap();
        disk.set_full(true);
        let refused = DiskError::NoSpace { path: "a".into() };
        assert_eq!(file.write(0, &[2; 1]), Err(refused.clone()));
        assert_eq!(file.resize_now(5_000), Err(refused));
        assert_eq!(disk.refused(), 2);
        file.resize_now(5).unwrap();
        disk.set_full(false);
        file.write(0, &[2; 1]).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
    }
}
