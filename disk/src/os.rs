//! The real file system behind the [`Disk`] seam: the only file of this crate that touches it.
//!
//! Every call runs on tokio's pool of blocking threads, so writes and syncs of one or many files
//! overlap. Paths are confined below a root directory, whose lock file keeps a second process out.
//!
//! Invariants: a sync is `fdatasync` of the file; a directory sync covers every directory up to the
//! root, so that a new directory is durable with what it holds; running out of space or quota is
//! always [`DiskError::NoSpace`].
//! Does not: bypass the page cache, or retry anything but interrupted calls.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BlockingFile, BoxFuture, Disk, DiskError, File, OpenMode};

use crate::codec::wide;

/// The file in the root that is locked while a process uses it.
const LOCK_NAME: &str = ".lock";
/// Data belongs to the service's user alone.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Parts of one `pwritev` call; Linux refuses more than 1,024.
const PARTS_MAX: usize = 1024;
/// How often, and how long apart, a lock is tried: one that was killed a moment ago holds it until
/// the kernel has closed its files.
const LOCK_ATTEMPTS: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

#[expect(
    clippy::disallowed_methods,
    reason = "before there is an Env, in the thread that starts the process"
)]
fn take_lock(
    lock: &std::fs::File,
    held: DiskError,
    fail: impl Fn(io::Error) -> DiskError,
) -> Result<(), DiskError> {
    for attempt in 1.. {
        match lock.try_lock() {
            Ok(()) => break,
            Err(std::fs::TryLockError::WouldBlock) if attempt == LOCK_ATTEMPTS => return Err(held),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(std::fs::TryLockError::Error(error)) => return Err(fail(error)),
        }
    }
    Ok(())
}

/// The file system below one root directory.
pub struct OsDisk {
    root: Arc<Path>,
    /// Holds the lock until the last file is closed.
    lock: Arc<std::fs::File>,
}

impl OsDisk {
    /// Takes `root`, creating it when absent, as [`create_root`] does.
    ///
    /// # Errors
    /// [`DiskError::Locked`] when another process uses it.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let fail = |operation| move |error| failure(&root.display().to_string(), operation, &error);
        create_root(root).map_err(fail("create"))?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(root.join(LOCK_NAME))
            .map_err(fail("lock"))?;
        let locked = DiskError::Locked {
            path: root.display().to_string(),
        };
        take_lock(&lock, locked, fail("lock"))?;
        Ok(Self {
            root: root.into(),
            lock: Arc::new(lock),
        })
    }

    /// The real path of `path`, which must stay below the root.
    fn resolve(&self, path: &str) -> Result<PathBuf, DiskError> {
        let refuse = |reason: &str| DiskError::Device {
            path: path.to_owned(),
            operation: "resolve",
            reason: reason.to_owned(),
        };
        if path.is_empty() {
            return Ok(self.root.to_path_buf());
        }
        for part in path.split('/') {
            if part.is_empty() || part == "." || part == ".." || part == LOCK_NAME {
                return Err(refuse("parts of a path must be plain names"));
            }
            if part.bytes().any(|byte| byte == 0 || byte == b'\\') {
                return Err(refuse("names must not hold NUL or a backslash"));
            }
        }
        Ok(self.root.join(path))
    }

    fn run<T, J>(
        &self,
        path: &str,
        operation: &'static str,
        job: J,
    ) -> BoxFuture<'static, Result<T, DiskError>>
    where
        T: Send + 'static,
        J: FnOnce(&Path, &Path) -> io::Result<T> + Send + 'static,
    {
        let resolved = self.resolve(path);
        let root = Arc::clone(&self.root);
        let name = path.to_owned();
        Box::pin(async move {
            let resolved = resolved?;
            blocking(name, operation, move || job(&root, &resolved)).await
        })
    }

    fn open_file(&self, path: &str, mode: OpenMode) -> Result<OsFile, DiskError> {
        let resolved = self.resolve(path)?;
        let file = open(&resolved, mode).map_err(|error| failure(path, "open", &error))?;
        Ok(OsFile(Arc::new(Handle {
            file,
            path: path.to_owned(),
            _lock: Arc::clone(&self.lock),
        })))
    }
}

impl Disk for OsDisk {
    fn open(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>> {
        let lock = Arc::clone(&self.lock);
        let name = path.to_owned();
        self.run(path, "open", move |_, resolved| {
            let handle = Handle {
                file: open(resolved, mode)?,
                path: name,
                _lock: lock,
            };
            Ok(Arc::new(OsFile(Arc::new(handle))) as Arc<dyn File>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let target = self.resolve(to);
        self.run(from, "rename", |_, from| {
            let to = target.map_err(|error| io::Error::other(error.to_string()))?;
            std::fs::rename(from, to)
        })
    }

    fn remove(&self, path: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        self.run(path, "remove", |_, path| std::fs::remove_file(path))
    }

    fn list(&self, directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>> {
        self.run(directory, "list", |_, path| {
            let mut names = Vec::new();
            let entries = match std::fs::read_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
                entries => entries?,
            };
            for entry in entries {
                // A name that is not UTF-8 is none of ours.
                names.extend(entry?.file_name().into_string().ok());
            }
            names.retain(|name| name != LOCK_NAME);
            names.sort_unstable();
            Ok(names)
        })
    }

    fn sync_directory(&self, directory: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        self.run(directory, "sync directory", |root, path| {
            for ancestor in path.ancestors() {
                OpenOptions::new().read(true).open(ancestor)?.sync_all()?;
                if ancestor == root {
                    break;
                }
            }
            Ok(())
        })
    }

    fn free_bytes(&self, directory: &str) -> BoxFuture<'static, Result<u64, DiskError>> {
        self.run(directory, "statvfs", |root, path| {
            match free_bytes(path) {
                // Not created yet: its parent's file system will hold it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => free_bytes(root),
                answer => answer,
            }
        })
    }

    fn open_blocking(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> Result<Arc<dyn BlockingFile>, DiskError> {
        Ok(Arc::new(self.open_file(path, mode)?))
    }
}

#[derive(Debug)]
struct Handle {
    file: std::fs::File,
    path: String,
    _lock: Arc<std::fs::File>,
}

impl Handle {
    fn fail(&self, operation: &'static str) -> impl FnOnce(io::Error) -> DiskError {
        move |error| failure(&self.path, operation, &error)
    }
}

#[derive(Debug)]
struct OsFile(Arc<Handle>);

impl OsFile {
    fn run<T, J>(&self, operation: &'static str, job: J) -> BoxFuture<'static, Result<T, DiskError>>
    where
        T: Send + 'static,
        J: FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    {
        let handle = Arc::clone(&self.0);
        Box::pin(async move {
            let path = handle.path.clone();
            blocking(path, operation, move || job(&handle.file)).await
        })
    }
}

impl File for OsFile {
    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'static, Result<Bytes, DiskError>> {
        self.run("read", move |file| read_up_to(file, offset, length))
    }

    fn write_at(
        &self,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(), DiskError>> {
        self.run("write", move |file| {
            write_parts(file, offset, parts, Durability::Later)
        })
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        self.run("sync", std::fs::File::sync_data)
    }

    fn write_durably(
        &self,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> Result<BoxFuture<'static, Result<(), DiskError>>, Vec<Bytes>> {
        Ok(self.run("write", move |file| {
            write_parts(file, offset, parts, Durability::WithWrite)
        }))
    }

    fn resize(&self, length: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        self.run("resize", move |file| resize(file, length))
    }

    fn length(&self) -> BoxFuture<'static, Result<u64, DiskError>> {
        self.run("length", |file| Ok(file.metadata()?.len()))
    }
}

impl BlockingFile for OsFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.0
            .file
            .read_exact_at(buffer, offset)
            .map_err(self.0.fail("read"))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.0
            .file
            .write_all_at(data, offset)
            .map_err(self.0.fail("write"))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.0.file.sync_data().map_err(self.0.fail("sync"))
    }

    fn resize(&self, length: u64) -> Result<(), DiskError> {
        resize(&self.0.file, length).map_err(self.0.fail("resize"))
    }

    fn length(&self) -> Result<u64, DiskError> {
        Ok(self.0.file.metadata().map_err(self.0.fail("length"))?.len())
    }
}

/// Runs `job` on a blocking thread. It runs to its end even when the caller stops waiting.
async fn blocking<T, J>(path: String, operation: &'static str, job: J) -> Result<T, DiskError>
where
    T: Send + 'static,
    J: FnOnce() -> io::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(job).await {
        Ok(outcome) => outcome.map_err(|error| failure(&path, operation, &error)),
        Err(_) => Err(DiskError::Device {
            path,
            operation,
            reason: "the process is shutting down".to_owned(),
        }),
    }
}

fn failure(path: &str, operation: &'static str, error: &io::Error) -> DiskError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { path },
        io::ErrorKind::AlreadyExists => DiskError::AlreadyExists { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace { path },
        _ => DiskError::Device {
            path,
            operation,
            reason: error.to_string(),
        },
    }
}

/// Creates the directory `path` and those above it as far as they lack, each durable by its name: what
/// is synced below a directory is lost with it if its own name was never synced.
///
/// # Errors
/// What the operating system says.
pub fn create_root(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing = path.ancestors().take_while(|ancestor| !ancestor.exists());
    let missing: Vec<&Path> = missing.collect();
    create_directories(&path)?;
    for parent in missing.iter().rev().filter_map(|created| created.parent()) {
        OpenOptions::new().read(true).open(parent)?.sync_all()?;
    }
    Ok(())
}

fn create_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
}

fn open(path: &Path, mode: OpenMode) -> io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    // A link could lead out of the root.
    options
        .read(true)
        .write(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW);
    match mode {
        OpenMode::Existing => {}
        OpenMode::Create => {
            options.create(true);
        }
        OpenMode::CreateNew => {
            options.create_new(true);
        }
    }
    if mode != OpenMode::Existing
        && let Some(parent) = path.parent()
    {
        create_directories(parent)?;
    }
    options.open(path)
}

fn read_up_to(file: &std::fs::File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut buffer[filled..], offset + wide(filled)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

/// When what is written becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// With a later sync.
    Later,
    /// Before the call returns, as by `O_DSYNC`.
    WithWrite,
}

impl Durability {
    fn flags(self) -> libc::c_int {
        match self {
            Self::Later => 0,
            Self::WithWrite => libc::RWF_DSYNC,
        }
    }
}

/// Writes all parts with as few calls as the kernel allows.
fn write_parts(
    file: &std::fs::File,
    mut offset: u64,
    parts: Vec<Bytes>,
    durability: Durability,
) -> io::Result<()> {
    let mut rest = parts;
    rest.retain(|part| !part.is_empty());
    rest.reverse();
    while !rest.is_empty() {
        let mut written = match write_some(file, offset, &rest, durability) {
            // A file system that does not know the flag: nothing was written.
            Err(error) if is_unsupported(&error) && durability == Durability::WithWrite => {
                rest.reverse();
                write_parts(file, offset, rest, Durability::Later)?;
                return file.sync_data();
            }
            written => written?,
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += wide(written);
        while let Some(mut part) = rest.pop() {
            if part.len() > written {
                let _ = part.split_to(written);
                rest.push(part);
                break;
            }
            written -= part.len();
        }
    }
    Ok(())
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)
    )
}

/// One `pwritev2` of the parts, the last first.
#[expect(
    unsafe_code,
    reason = "the standard library has no positioned vectored write yet"
)]
fn write_some(
    file: &std::fs::File,
    offset: u64,
    reversed: &[Bytes],
    durability: Durability,
) -> io::Result<usize> {
    let vectors: Vec<libc::iovec> = reversed
        .iter()
        .rev()
        .take(PARTS_MAX)
        .map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        })
        .collect();
    let count = libc::c_int::try_from(vectors.len()).map_err(io::Error::other)?;
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    loop {
        // SAFETY: the vectors point into `reversed`, which outlives the call; pwritev2 only reads
        // from them; the descriptor is open for as long as `file` is borrowed.
        let written = unsafe {
            let (file, flags) = (file.as_raw_fd(), durability.flags());
            libc::pwritev2(file, vectors.as_ptr(), count, offset, flags)
        };
        if let Ok(written) = usize::try_from(written) {
            return Ok(written);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sets the length; growth takes real space where the file system can.
#[expect(
    unsafe_code,
    reason = "the standard library cannot allocate file space"
)]
fn resize(file: &std::fs::File, length: u64) -> io::Result<()> {
    let present = file.metadata()?.len();
    if length <= present {
        return file.set_len(length);
    }
    let from = libc::off_t::try_from(present).map_err(io::Error::other)?;
    let more = libc::off_t::try_from(length - present).map_err(io::Error::other)?;
    loop {
        // SAFETY: plain integers and a descriptor that is open while `file` is borrowed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, from, more) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return file.set_len(length),
            _ => {
                // What was taken of the space before it ran out is given back.
                file.set_len(present)?;
                return Err(error);
            }
        }
    }
}

#[expect(unsafe_code, reason = "the standard library has no statvfs")]
fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut answer = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is a NUL-terminated string and `answer` has room for one statvfs.
    if unsafe { libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and filled it; all-zero bytes would be valid too.
    let answer = unsafe { answer.assume_init() };
    Ok(answer.f_bavail.saturating_mul(answer.f_frsize))
}

#[cfg(test)]
#[path = "os_tests.rs"]
mod tests;
