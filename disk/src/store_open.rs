//! Opens a pool: superblock, journal, extents, and the index rebuilt from what they hold.
//!
//! Each extent entry knows the journal position that its bytes came from. Replaying the blob stream
//! in order therefore decides every crash: a put not yet flushed stays in the journal, a flushed
//! one is released, a deletion hides exactly the copies older than itself.
//!
//! Invariants: the start count is raised above every session found and synced, with a nonce drawn
//! for this start, before anything else is written; what this returns is durable.
//! Does not: judge damage; it is reported to the owners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use hedgerow_env::{BlobName, Env, NodeId, StoreId, event};
use tokio::sync::Notify;

use crate::blob_record::{DELETE, PUT, decode_put, name_of};
use crate::extent::{Extents, Found};
use crate::index::{Garbage, Index, Location};
use crate::journal::{
    DamagedRange, Journal, JournalOpenError, JournalRecovery, Opening, Position, RecoveredRecord,
    StreamTag,
};
use crate::life::{Life, Tombstones};
use crate::maintenance::{self, Worker};
use crate::store::{Capacity, Inner, Others, Store, StoreConfig, StoreError};
use crate::superblock::{Superblock, SuperblockContent};

/// What an open found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Control records of every stream, each in the journal's order. Some are superseded: their
    /// owner decides, and releases those.
    pub control: BTreeMap<StreamTag, Vec<RecoveredRecord>>,
    /// Acknowledged journal bytes that are lost. Records with a known header are named; when a
    /// range is not `complete`, any stream may have lost records in it.
    pub damaged: Vec<DamagedRange>,
    /// Blobs of which the only copy here is lost, by name. In a range that is not `complete` there
    /// may be more.
    pub damaged_blobs: Vec<BlobName>,
    /// There were more such blobs, whose names are not known: whoever has a list of what should be
    /// here compares it.
    pub names_lost: bool,
    /// How many blobs there are.
    pub blobs: usize,
    /// The start count of this start.
    pub session: u64,
    /// The journal position at which this start begins.
    pub began_at: Position,
    /// Whether the pool was blank.
    pub created: bool,
}

impl Store {
    /// Opens the pool in `directory`, or creates it when there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(
        env: &Env,
        directory: &str,
        mut config: StoreConfig,
    ) -> Result<(Self, Recovery), StoreError> {
        config.journal.check().map_err(StoreError::Configuration)?;
        let superblock = open_superblock(env, directory, &config).await?;
        let content = superblock.content();
        config.journal.segment_bytes = content.journal.segment_bytes;
        config.journal.alignment = content.journal.alignment;
        let store = content.store;

        let (journal, found, session) = open_journal(env, directory, &config, &superblock).await?;
        let start_nonce = superblock.content().starts[&session];

        let extent_directory = format!("{directory}/extents");
        let (extents, opened) =
            Extents::open(env, &extent_directory, store, config.extent.clone()).await?;
        let mut replay = Replay::default();
        replay.extent_entries(opened.found);
        let (blobs, control): (Vec<_>, Vec<_>) = found
            .records
            .into_iter()
            .partition(|found| found.record.stream == StreamTag::BLOBS);
        replay.journal_records(&blobs, &found.damaged);
        discard(&replay, &journal, &extents);
        if replay.deletes_without_record {
            extents.sync_dead().await?;
        }
        let recovery = Recovery {
            damaged_blobs: replay.damaged_blobs(),
            names_lost: opened.names_lost || found.damaged.iter().any(|range| !range.complete),
            damaged: found.damaged,
            blobs: replay.index.count(),
            session,
            began_at: found.began_at,
            created: !content.journal_born,
            control: by_stream(control),
        };

        let free_bytes = env.disk().free_bytes(directory).await?;
        let used = extents.usage().file_bytes + journal.usage().capacity_bytes;
        let requests = journal.copy_forward_requests(StreamTag::BLOBS);
        let inner = Arc::new(Inner {
            capacity: Mutex::new(Capacity {
                capacity_bytes: config.capacity_bytes.unwrap_or(used + free_bytes),
                free_bytes,
                refused: false,
                others: Others::default(),
            }),
            env: env.clone(),
            directory: directory.to_owned(),
            superblock,
            journal,
            extents,
            index: Arc::new(Mutex::new(replay.index)),
            worker: tokio::sync::Mutex::new(Worker::default()),
            work: Notify::new(),
            doomed: Mutex::default(),
            tombstones: Arc::new(Mutex::new(replay.tombstones)),
            damage: Arc::default(),
            session,
            start_nonce,
            began_at: recovery.began_at,
            config,
        });
        report(&inner, &recovery);
        leave_life(&inner);
        let task = env.spawn("store", maintenance::run(Arc::clone(&inner), requests));
        let store = Self {
            inner,
            _task: Arc::new(task.abort_on_drop()),
        };
        Ok((store, recovery))
    }
}

/// Reads the journal, raises the start count above every session in it, and begins this session.
async fn open_journal(
    env: &Env,
    directory: &str,
    config: &StoreConfig,
    superblock: &Superblock,
) -> Result<(Journal, JournalRecovery, u64), StoreError> {
    let content = superblock.content();
    let journal_directory = format!("{directory}/journal");
    let opening = Opening::scan(
        env,
        &journal_directory,
        config.journal.clone(),
        content.store,
    )
    .await?;
    if content.journal_born && !opening.found() {
        return Err(StoreError::JournalLost {
            directory: directory.to_owned(),
        });
    }
    let session = content.start_count.max(opening.highest_session()) + 1;
    let nonce = env.random("store-start").bits();
    superblock
        .update(move |content| content.begin_start(session, nonce))
        .await?;
    let (journal, found) = opening.begin(session).await?;
    if !content.journal_born {
        superblock
            .update(|content| content.journal_born = true)
            .await?;
    }
    Ok((journal, found, session))
}

/// Gives up what no blob needs any more.
fn discard(replay: &Replay, journal: &Journal, extents: &Extents) {
    for place in &replay.garbage {
        match *place {
            Garbage::Journal(position) => journal.release(position),
            Garbage::Extent(place) => extents.kill(place),
        }
    }
}

fn by_stream(records: Vec<RecoveredRecord>) -> BTreeMap<StreamTag, Vec<RecoveredRecord>> {
    let mut streams: BTreeMap<StreamTag, Vec<RecoveredRecord>> = BTreeMap::new();
    for found in records {
        streams.entry(found.record.stream).or_default().push(found);
    }
    streams
}

impl From<JournalOpenError> for StoreError {
    fn from(error: JournalOpenError) -> Self {
        match error {
            JournalOpenError::Disk(error) => Self::Disk(error),
            JournalOpenError::Stopped(stopped) => Self::Stopped(stopped),
        }
    }
}

/// Lets whoever judges compare this life of the pool with the next one.
fn leave_life(inner: &Inner) {
    if inner.env.events().is_judged() {
        let durable = inner.journal.durable_end();
        let life = Life::begin(
            inner.superblock.content().store,
            &inner.index,
            &inner.tombstones,
            &durable,
            &inner.damage,
        );
        inner.env.events().leave(Arc::new(life));
    }
}

fn report(inner: &Inner, recovery: &Recovery) {
    event!(
        inner.env,
        Info,
        "disk",
        "{}: session {} begins at {}, {} blobs",
        inner.directory,
        recovery.session,
        recovery.began_at,
        recovery.blobs
    );
    for range in &recovery.damaged {
        event!(
            inner.env,
            Error,
            "disk",
            "{}: journal {}..{} is damaged, {} records known there",
            inner.directory,
            range.start,
            range.end,
            range.records.len()
        );
    }
}

async fn open_superblock(
    env: &Env,
    directory: &str,
    config: &StoreConfig,
) -> Result<Superblock, StoreError> {
    let superblock = Superblock::open_or_create(env, directory, || {
        let mut random = env.random("store-identity");
        let store = StoreId(random.bits());
        SuperblockContent {
            store,
            node: config.node.unwrap_or_else(|| NodeId(random.bits())),
            cluster: None,
            pool: config.pool,
            is_system: config.is_system,
            start_count: 0,
            starts: BTreeMap::new(),
            rolled_back: false,
            journal_born: false,
            feature_level: 0,
            journal: config.journal.geometry(),
            peers: BTreeMap::new(),
            retired: BTreeSet::new(),
            values: BTreeMap::new(),
        }
    })
    .await?;
    let content = superblock.content();
    let expected_node = config.node.unwrap_or(content.node);
    if (content.node, content.pool) != (expected_node, config.pool) {
        return Err(StoreError::Foreign {
            directory: directory.to_owned(),
            found: format!("node {} pool {}", content.node, content.pool),
            expected: format!("node {expected_node} pool {}", config.pool),
        });
    }
    Ok(superblock)
}

/// Rebuilds the index. Pure.
#[derive(Default)]
struct Replay {
    index: Index,
    garbage: Vec<Garbage>,
    tombstones: Tombstones,
    lost: BTreeSet<BlobName>,
    /// A deletion is known from the second copy of its header only.
    deletes_without_record: bool,
}

impl Replay {
    fn extent_entries(&mut self, entries: Vec<Found>) {
        for found in entries {
            let present = self.index.get(found.meta.name);
            // A copy that compaction left half written does not hide the whole one it was made
            // from.
            let is_worse = present.is_some_and(|present| {
                let same = present.meta.origin == found.meta.origin;
                present.meta.origin > found.meta.origin || same && found.bad
            });
            if is_worse {
                self.garbage.push(Garbage::Extent(found.place));
                continue;
            }
            let location = if found.bad {
                Location::Lost(Some(found.place))
            } else {
                Location::Extent(found.place)
            };
            let garbage = self.index.insert(Arc::new(found.meta), location);
            self.garbage.extend(garbage);
        }
    }

    fn journal_records(&mut self, records: &[RecoveredRecord], damaged: &[DamagedRange]) {
        // Deletions survive in the copies of their headers: their header is all there is of them.
        let mut deletions = damaged
            .iter()
            .flat_map(|range| &range.records)
            .filter(|copy| copy.stream == StreamTag::BLOBS)
            .peekable();
        for found in records {
            while let Some(copy) = deletions.next_if(|copy| copy.position < found.position) {
                self.lost_record(copy.position, copy.kind, name_of(&copy.header));
            }
            self.record(found);
        }
        for copy in deletions {
            self.lost_record(copy.position, copy.kind, name_of(&copy.header));
        }
    }

    fn lost_record(&mut self, position: Position, kind: u8, name: Option<BlobName>) {
        let Some(name) = name else { return };
        if kind == DELETE {
            self.delete(name, position);
            self.deletes_without_record = true;
        } else if self
            .index
            .get(name)
            .is_none_or(|present| present.meta.origin < position)
        {
            self.lost.insert(name);
        }
    }

    fn record(&mut self, found: &RecoveredRecord) {
        let position = found.position;
        match found.record.kind {
            PUT => match decode_put(position, &found.record.header) {
                Some(meta) => self.put(meta),
                None => self.garbage.push(Garbage::Journal(position)),
            },
            DELETE => match name_of(&found.record.header) {
                Some(name) => {
                    self.tombstones.push((position, name));
                    self.delete(name, position);
                }
                None => self.garbage.push(Garbage::Journal(position)),
            },
            _ => self.garbage.push(Garbage::Journal(position)),
        }
    }

    fn put(&mut self, meta: crate::extent::Meta) {
        let present = self.index.get(meta.name);
        let flushed = present.is_some_and(|present| {
            let whole = !matches!(present.location, Location::Lost(_));
            present.meta.origin > meta.origin || present.meta.origin == meta.origin && whole
        });
        if flushed {
            self.garbage.push(Garbage::Journal(meta.origin));
            return;
        }
        self.lost.remove(&meta.name);
        let garbage = self.index.insert(Arc::new(meta), Location::Journal);
        self.garbage.extend(garbage);
    }

    fn delete(&mut self, name: BlobName, position: Position) {
        self.lost.remove(&name);
        if self
            .index
            .get(name)
            .is_some_and(|present| present.meta.origin < position)
        {
            let garbage = self.index.remove(name);
            self.garbage.extend(garbage);
        }
    }

    /// Blobs with no whole copy here.
    fn damaged_blobs(&self) -> Vec<BlobName> {
        let mut names = self.lost.clone();
        names.extend(self.index.lost());
        names.into_iter().collect()
    }
}
