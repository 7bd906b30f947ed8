//! [`Folder`]: the tester's disk, in memory outside the world, so that what a test wrote until a
//! panic is not lost with it. Its calls take no virtual time and never fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hedgerow_env::{BlockingFile, BoxFuture, Disk, DiskError, File, OpenMode};

type Files = BTreeMap<String, Vec<u8>>;

/// Files by their paths. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Folder(Arc<Mutex<Files>>);

impl Folder {
    fn with<T>(&self, act: impl FnOnce(&mut Files) -> T) -> T {
        // A panic of the world may have come while a file was written: its bytes are whole.
        let files = self.0.lock();
        act(&mut files.unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(super) fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.with(|files| files.get(path).cloned())
    }

    pub(super) fn write(&self, path: &str, contents: Vec<u8>) {
        self.with(|files| drop(files.insert(path.to_owned(), contents)));
    }

    pub(super) fn files(&self) -> Files {
        self.with(|files| files.clone())
    }
}

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(std::future::ready(value))
}

fn not_found(path: &str) -> DiskError {
    DiskError::NotFound {
        path: path.to_owned(),
    }
}

impl Disk for Folder {
    fn open(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>> {
        let exists = self.with(|files| files.contains_key(path));
        let opened = match mode {
            OpenMode::Existing if !exists => Err(not_found(path)),
            OpenMode::CreateNew if exists => Err(DiskError::AlreadyExists {
                path: path.to_owned(),
            }),
            _ => {
                self.with(|files| {
                    files.entry(path.to_owned()).or_default();
                });
                let file = OpenFile {
                    folder: self.clone(),
                    path: path.to_owned(),
                };
                Ok(Arc::new(file) as Arc<dyn File>)
            }
        };
        now(opened)
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        now(self.with(|files| {
            let contents = files.remove(from).ok_or_else(|| not_found(from))?;
            files.insert(to.to_owned(), contents);
            Ok(())
        }))
    }

    fn remove(&self, path: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        let removed = self.with(|files| files.remove(path));
        now(removed.map(drop).ok_or_else(|| not_found(path)))
    }

    fn list(&self, directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>> {
        let prefix = format!("{directory}/");
        let mut names: Vec<String> = self.with(|files| {
            let within = files.keys().filter_map(|path| path.strip_prefix(&prefix));
            within
                .filter_map(|rest| rest.split('/').next())
                .map(str::to_owned)
                .collect()
        });
        names.dedup();
        now(Ok(names))
    }

    fn sync_directory(&self, _directory: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        now(Ok(()))
    }

    fn free_bytes(&self, _directory: &str) -> BoxFuture<'static, Result<u64, DiskError>> {
        now(Ok(u64::MAX))
    }

    fn open_blocking(
        &self,
        path: &str,
        _mode: OpenMode,
    ) -> Result<Arc<dyn BlockingFile>, DiskError> {
        Err(DiskError::Device {
            path: path.to_owned(),
            operation: "open",
            reason: "a tester keeps no Pages store".to_owned(),
        })
    }
}

struct OpenFile {
    folder: Folder,
    path: String,
}

impl OpenFile {
    fn change<T>(&self, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.folder
            .with(|files| act(files.entry(self.path.clone()).or_default()))
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("a tester's files fit its memory")
}

impl File for OpenFile {
    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'static, Result<Bytes, DiskError>> {
        let bytes = self.change(|contents| {
            let from = place(offset).min(contents.len());
            let to = from.saturating_add(length).min(contents.len());
            Bytes::copy_from_slice(&contents[from..to])
        });
        now(Ok(bytes))
    }

    fn write_at(
        &self,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(), DiskError>> {
        self.change(|contents| {
            let mut at = place(offset);
            for part in parts {
                let end = at + part.len();
                if contents.len() < end {
                    contents.resize(end, 0);
                }
                contents[at..end].copy_from_slice(&part);
                at = end;
            }
        });
        now(Ok(()))
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        now(Ok(()))
    }

    fn resize(&self, length: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        self.change(|contents| contents.resize(place(length), 0));
        now(Ok(()))
    }

    fn length(&self) -> BoxFuture<'static, Result<u64, DiskError>> {
        now(Ok(self.change(|contents| contents.len() as u64)))
    }
}
