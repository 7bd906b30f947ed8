//! Names and files of one disk, with what of them would survive a power loss.
//!
//! Invariants: a name change is durable only after a sync of its directory that began after it; a
//! file's contents live as long as any durable or visible name, pending change or open handle leads
//! to them. Does not: know of faults, latency or tasks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use hedgerow_env::{DiskError, OpenMode};

use super::cached_file::{CachedFile, PAGE_BYTES, Survival};
use super::seeds::Dice;

/// A file, whatever its name is now.
pub(super) type FileId = u64;

#[derive(Debug, Clone)]
enum NameChange {
    Create {
        path: String,
        file: FileId,
    },
    Rename {
        from: String,
        to: String,
        file: FileId,
    },
    Remove {
        path: String,
        file: FileId,
    },
}

impl NameChange {
    fn file(&self) -> FileId {
        match self {
            Self::Create { file, .. } | Self::Rename { file, .. } | Self::Remove { file, .. } => {
                *file
            }
        }
    }

    /// The directory whose sync makes it durable.
    fn directory(&self) -> &str {
        match self {
            Self::Create { path, .. } | Self::Remove { path, .. } => parent(path),
            Self::Rename { to, .. } => parent(to),
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Create { path, file } => drop(names.insert(path.clone(), *file)),
            Self::Rename { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
            Self::Remove { path, file } => {
                if names.get(path) == Some(file) {
                    names.remove(path);
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
struct PendingName {
    completes_ns: u64,
    change: NameChange,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    file: CachedFile,
    handles: u32,
    /// Whether a visible name leads here: its length counts as used space.
    linked: bool,
}

/// The files of one disk.
#[derive(Debug, Clone)]
pub(super) struct FileSystem {
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    pending_names: VecDeque<PendingName>,
    files: BTreeMap<FileId, Entry>,
    next_file: FileId,
    used_bytes: u64,
    capacity_bytes: u64,
    thin: bool,
}

/// A path in its plain form: parts joined by single slashes, none in front.
pub(super) fn plain(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn allocated(length: u64) -> u64 {
    length.div_ceil(PAGE_BYTES) * PAGE_BYTES
}

fn not_found(path: &str) -> DiskError {
    DiskError::NotFound {
        path: path.to_owned(),
    }
}

impl FileSystem {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: VecDeque::new(),
            files: BTreeMap::new(),
            next_file: 0,
            used_bytes: 0,
            capacity_bytes,
            thin: false,
        }
    }

    /// On a `thin` volume overwriting takes space as well.
    pub(super) fn set_capacity(&mut self, capacity_bytes: u64, thin: bool) {
        self.thin = thin;
        self.capacity_bytes = capacity_bytes;
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes)
    }

    /// Opens or creates `path`, and holds the file until [`Self::close`].
    pub(super) fn open(
        &mut self,
        path: &str,
        mode: OpenMode,
        completes_ns: u64,
    ) -> Result<FileId, DiskError> {
        let present = self.names.get(path).copied();
        let file = match (present, mode) {
            (Some(_), OpenMode::CreateNew) => {
                return Err(DiskError::AlreadyExists {
                    path: path.to_owned(),
                });
            }
            (None, OpenMode::Existing) => return Err(not_found(path)),
            (Some(file), _) => file,
            (None, _) => {
                let file = self.next_file;
                self.next_file += 1;
                self.files.insert(
                    file,
                    Entry {
                        linked: true,
                        ..Entry::default()
                    },
                );
                let change = NameChange::Create {
                    path: path.to_owned(),
                    file,
                };
                self.change_names(change, completes_ns);
                file
            }
        };
        self.entry(file).handles += 1;
        Ok(file)
    }

    /// Lets go of an opened file.
    pub(super) fn close(&mut self, file: FileId) {
        if let Some(entry) = self.files.get_mut(&file) {
            entry.handles = entry.handles.saturating_sub(1);
            if entry.handles == 0 && !entry.linked {
                self.collect();
            }
        }
    }

    /// The process that held the handles is gone.
    pub(super) fn close_all(&mut self) {
        for entry in self.files.values_mut() {
            entry.handles = 0;
        }
        self.collect();
    }

    fn change_names(&mut self, change: NameChange, completes_ns: u64) {
        change.apply(&mut self.names);
        self.pending_names.push_back(PendingName {
            completes_ns,
            change,
        });
    }

    fn unlink(&mut self, file: FileId) {
        let entry = self.entry(file);
        entry.linked = false;
        let freed = allocated(entry.file.length());
        self.used_bytes = self.used_bytes.saturating_sub(freed);
    }

    pub(super) fn rename(
        &mut self,
        from: &str,
        to: &str,
        completes_ns: u64,
    ) -> Result<(), DiskError> {
        let file = *self.names.get(from).ok_or_else(|| not_found(from))?;
        if from == to {
            return Ok(());
        }
        if let Some(replaced) = self.names.get(to).copied() {
            self.unlink(replaced);
        }
        let (from, to) = (from.to_owned(), to.to_owned());
        self.change_names(NameChange::Rename { from, to, file }, completes_ns);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str, completes_ns: u64) -> Result<(), DiskError> {
        let file = *self.names.get(path).ok_or_else(|| not_found(path))?;
        self.unlink(file);
        let path = path.to_owned();
        self.change_names(NameChange::Remove { path, file }, completes_ns);
        Ok(())
    }

    pub(super) fn list(&self, directory: &str) -> Vec<String> {
        let prefix = if directory.is_empty() {
            String::new()
        } else {
            format!("{directory}/")
        };
        let found: BTreeSet<&str> = self
            .names
            .range(prefix.clone()..)
            .map_while(|(path, _)| path.strip_prefix(prefix.as_str()))
            .map(|rest| rest.split_once('/').map_or(rest, |(first, _)| first))
            .collect();
        found.into_iter().map(str::to_owned).collect()
    }

    /// A sync of `directory` begun at `began_ns` succeeded.
    pub(super) fn sync_names(&mut self, directory: &str, began_ns: u64) {
        let durable = &mut self.durable_names;
        self.pending_names.retain(|pending| {
            let covered =
                pending.completes_ns <= began_ns && pending.change.directory() == directory;
            if covered {
                pending.change.apply(durable);
            }
            !covered
        });
        self.collect();
    }

    fn entry(&mut self, file: FileId) -> &mut Entry {
        self.files
            .get_mut(&file)
            .expect("a file lives while it is named or open")
    }

    /// The contents behind a handle.
    pub(super) fn file(&mut self, file: FileId) -> &mut CachedFile {
        &mut self.entry(file).file
    }

    /// The file now called `path`.
    pub(super) fn named(&mut self, path: &str) -> Option<&mut CachedFile> {
        let file = *self.names.get(path)?;
        Some(self.file(file))
    }

    /// Every visible path.
    pub(super) fn paths(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// Takes the space that a file needs to become `length` bytes long; false when there is none.
    fn reserve(&mut self, file: FileId, length: u64) -> bool {
        let (used, capacity) = (self.used_bytes, self.capacity_bytes);
        let entry = self.entry(file);
        if !entry.linked {
            return true;
        }
        let after = used.saturating_sub(allocated(entry.file.length())) + allocated(length);
        if after > used && after > capacity {
            return false;
        }
        self.used_bytes = after;
        true
    }

    /// Writes; false when the disk is full, and then nothing was done.
    pub(super) fn write(
        &mut self,
        file: FileId,
        offset: u64,
        data: Bytes,
        completes_ns: u64,
    ) -> bool {
        let end = offset + u64::try_from(data.len()).expect("a length fits 64 bits");
        let within = end <= self.file(file).length();
        let overwrites = within && (!self.thin || self.used_bytes < self.capacity_bytes);
        let fits = overwrites || (!within && self.reserve(file, end));
        if fits {
            self.file(file).write(offset, data, completes_ns);
        }
        fits
    }

    /// Sets the length; false when the disk is full, and then nothing was done.
    pub(super) fn resize(&mut self, file: FileId, length: u64, completes_ns: u64) -> bool {
        let fits = self.reserve(file, length);
        if fits {
            self.file(file).resize(length, completes_ns);
        }
        fits
    }

    /// The power fails: handles are gone, and of what was not synced only some is left.
    pub(super) fn power_loss(&mut self, survival: Survival, dice: Dice) {
        let pending = std::mem::take(&mut self.pending_names);
        let count = u64::try_from(pending.len()).expect("a length fits 64 bits");
        let names_dice = dice.of(0);
        let point = names_dice.below(u64::MAX, count + 1);
        for (number, PendingName { change, .. }) in (0..).zip(&pending) {
            let kept = match survival {
                Survival::Everything => true,
                Survival::Nothing => false,
                Survival::Prefix => number < point,
                Survival::Changes | Survival::Sectors => names_dice.chance(number, 500_000),
            };
            if kept {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
        self.used_bytes = 0;
        for (file, entry) in &mut self.files {
            entry.handles = 0;
            entry.linked = true;
            entry.file.power_loss(survival, dice.of(file + 1));
            self.used_bytes += allocated(entry.file.length());
        }
    }

    /// Drops files to which nothing leads any more.
    fn collect(&mut self) {
        if self
            .files
            .values()
            .all(|entry| entry.linked || entry.handles > 0)
        {
            return;
        }
        let mut reached: BTreeSet<FileId> = self.durable_names.values().copied().collect();
        reached.extend(
            self.pending_names
                .iter()
                .map(|pending| pending.change.file()),
        );
        self.files
            .retain(|file, entry| entry.linked || entry.handles > 0 || reached.contains(file));
    }

    /// Files whose contents are still held.
    #[cfg(test)]
    pub(super) fn held_files(&self) -> usize {
        self.files.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_file_lives_until_nothing_leads_to_it() {
        let mut files = FileSystem::new(1 << 20);
        let file = files.open("f", OpenMode::Create, 1).expect("new");
        assert!(files.write(file, 0, Bytes::from_static(b"contents"), 2));
        files.sync_names("", 3);
        files.remove("f", 4).expect("exists");
        assert_eq!(files.free_bytes(), 1 << 20, "its space is free at once");
        assert_eq!(
            files.file(file).read(0, 8, false),
            b"contents",
            "it is open"
        );
        files.close(file);
        assert_eq!(files.held_files(), 1, "its name is durable still");
        files.sync_names("", 5);
        assert_eq!(files.held_files(), 0);
    }

    #[test]
    fn a_file_replaced_by_a_rename_gives_its_space_back() {
        let mut files = FileSystem::new(1 << 20);
        for path in ["old", "new"] {
            let file = files.open(path, OpenMode::Create, 1).expect("new");
            assert!(files.write(file, 0, Bytes::from_static(b"contents"), 2));
        }
        assert_eq!(files.free_bytes(), (1 << 20) - 2 * PAGE_BYTES);
        files.rename("new", "old", 3).expect("exists");
        assert_eq!(files.free_bytes(), (1 << 20) - PAGE_BYTES);
        assert_eq!(files.list(""), ["old"]);
    }

    #[test]
    fn a_full_disk_refuses_growth_and_a_thin_one_every_write() {
        let mut files = FileSystem::new(1 << 20);
        let file = files.open("f", OpenMode::Create, 1).expect("new");
        let write = |files: &mut FileSystem, offset| {
            files.write(file, offset, Bytes::from_static(b"contents"), 2)
        };
        assert!(write(&mut files, 0));
        files.set_capacity(0, false);
        assert!(write(&mut files, 0) && !write(&mut files, PAGE_BYTES));
        files.set_capacity(0, true);
        assert!(!write(&mut files, 0) && !write(&mut files, PAGE_BYTES));
        files.set_capacity(1 << 20, true);
        assert!(write(&mut files, 0) && write(&mut files, PAGE_BYTES));
    }
}
