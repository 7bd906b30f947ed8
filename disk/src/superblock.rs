//! The superblock of a pool: who this store is, how often it started, what it knows of its peers.
//!
//! One file holds two copies. An update writes one copy and syncs it, then the other and syncs
//! that: never both at once, so a crash leaves at least one whole, and after an update either may
//! rot. The copy that is not known to be good is always the first to be written.
//!
//! Invariants: the sequence number only grows; an update that returned is found by every later
//! open; an update once begun goes on to its end, whoever stops waiting for it; after a failed write
//! or sync no further update is accepted. Does not: judge by peers' knowledge (the node judges a
//! rollback) or interpret the owners' values. Layout: `docs/format/superblock.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    ClusterId, DiskError, Env, File, GroupId, NodeId, OpenMode, ReplicaNumber, StoreId,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::codec::{Reader, Writer, narrow, wide, word};

const MAGIC: u64 = u64::from_le_bytes(*b"HEDGEROW");
const VERSION: u16 = 2;
/// Version 1 kept no nonces of starts, and its positions of peers counted marks.
const FIRST_WITH_NONCES: u16 = 2;
/// Magic, version, reserved, length of the body, sequence; the checksum follows.
const HEADER_BYTES: usize = 8 + 2 + 2 + 4 + 8;
const CHECKSUM_BYTES: usize = 16;
/// Room for one copy. 4,000 peers and as many retired replicas need 160 KiB; the rest is for
/// values.
pub const SUPERBLOCK_COPY_BYTES: u64 = 256 * 1024;
/// Starts whose nonces are kept. A store meets a peer in almost every start, so it is judged long
/// before this many have passed.
const STARTS_KEPT: usize = 32;
/// Copies are written in whole blocks of the largest physical sector in use.
const BLOCK_BYTES: usize = 4096;

/// The sizes with which a journal was created; positions mean nothing under others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalGeometry {
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Frames begin at multiples of this many bytes.
    pub alignment: u32,
}

/// The highest that this store has heard of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerKnowledge {
    /// The peer's highest start count.
    pub start_count: u64,
    /// The nonce of that start, as first heard.
    pub start_nonce: u64,
    /// The end of the last record that the peer reported durable.
    pub position: u64,
}

impl PeerKnowledge {
    /// Takes in what a handshake showed. The first nonce heard of a start stays: another one for
    /// the same count is another history.
    pub fn learn(&mut self, shown: Self) {
        if shown.start_count > self.start_count {
            self.start_count = shown.start_count;
            self.start_nonce = shown.start_nonce;
        }
        self.position = self.position.max(shown.position);
    }
}

/// Everything that the superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuperblockContent {
    /// This store; drawn when the pool was blank.
    pub store: StoreId,
    /// The node that made it.
    pub node: NodeId,
    /// The cluster that it belongs to; none while it is blank.
    pub cluster: Option<ClusterId>,
    /// The pool's number in its node.
    pub pool: u16,
    /// Whether it holds the logs of the node's Raft groups.
    pub is_system: bool,
    /// How often the store was started; raised and synced before the first handshake.
    pub start_count: u64,
    /// The nonces of the newest starts by their counts, the present start's included: two histories
    /// that grew from one image have starts of the same count, but never of the same nonce.
    pub starts: BTreeMap<u64, u64>,
    /// A peer knew more of this store than the store itself: it never serves again.
    pub rolled_back: bool,
    /// The journal has been written to once: finding none of its frames is damage.
    pub journal_born: bool,
    /// The finalised feature level that this store has seen.
    pub feature_level: u32,
    /// The journal's sizes.
    pub journal: JournalGeometry,
    /// What was heard of peers.
    pub peers: BTreeMap<StoreId, PeerKnowledge>,
    /// Replica numbers that never act again.
    pub retired: BTreeSet<(GroupId, ReplicaNumber)>,
    /// Values of owners, by key.
    pub values: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl SuperblockContent {
    /// Enters a start, which counts more than every one before it.
    pub fn begin_start(&mut self, count: u64, nonce: u64) {
        assert!(count > self.start_count, "a start count is used once");
        self.start_count = count;
        self.starts.insert(count, nonce);
        while self.starts.len() > STARTS_KEPT {
            self.starts.pop_first();
        }
    }
}

/// Why a superblock call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Both copies fail their checksum.
    #[error(
        "{path}: both copies of the superblock are damaged. This store cannot say who it is: \
         remove its folder and let the node join with a blank store; the cluster rebuilds its contents"
    )]
    BothDamaged {
        /// The superblock's file.
        path: String,
    },
    /// Written by a newer program.
    #[error("{path}: written by format version {found}; this program reads up to {VERSION}")]
    TooNew {
        /// The superblock's file.
        path: String,
        /// The version found.
        found: u16,
    },
    /// The content no longer fits its copy: remove values.
    #[error("superblock content of {bytes} bytes exceeds {SUPERBLOCK_COPY_BYTES}")]
    TooLarge {
        /// The encoded size.
        bytes: usize,
    },
    /// An earlier update failed; the disk's state is unknown until the next start.
    #[error("superblock updates stopped after a disk failure")]
    Stopped,
    /// The disk failed the call.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The open superblock of one pool.
pub struct Superblock {
    env: Env,
    open: Arc<Open>,
}

struct Open {
    file: Arc<dyn File>,
    content: Mutex<SuperblockContent>,
    writer: tokio::sync::Mutex<WriterState>,
}

struct WriterState {
    sequence: u64,
    /// The copy to write first: the one not known to be the best.
    first: u64,
    stopped: bool,
}

impl Superblock {
    /// Opens the superblock at `path`, or creates it with what `blank` gives.
    ///
    /// # Errors
    /// See [`SuperblockError`].
    pub async fn open_or_create(
        env: &Env,
        directory: &str,
        blank: impl FnOnce() -> SuperblockContent,
    ) -> Result<Self, SuperblockError> {
        let path = format!("{directory}/superblock");
        let file = match env.disk().open(&path, OpenMode::Existing).await {
            Ok(file) => file,
            Err(DiskError::NotFound { .. }) => create(env, directory, &path, blank()).await?,
            Err(error) => return Err(error.into()),
        };
        let (sequence, good, content) = read_best(&*file, &path).await?;
        Ok(Self {
            env: env.clone(),
            open: Arc::new(Open {
                file,
                content: Mutex::new(content),
                writer: tokio::sync::Mutex::new(WriterState {
                    sequence,
                    first: 1 - good,
                    stopped: false,
                }),
            }),
        })
    }

    /// A copy of the present content.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    #[must_use]
    pub fn content(&self) -> SuperblockContent {
        self.open.content()
    }

    /// Changes the content; durable in both copies when this returns. Dropping this does not stop an
    /// update that was begun: its outcome is then unknown, and the next one comes after it.
    ///
    /// # Errors
    /// See [`SuperblockError`]; after a disk failure every later update is refused.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub async fn update<R>(
        &self,
        change: impl FnOnce(&mut SuperblockContent) -> R + Send + 'static,
    ) -> Result<R, SuperblockError>
    where
        R: Send + 'static,
    {
        let open = Arc::clone(&self.open);
        let update = async move { open.update(change).await };
        self.env.to_the_end("superblock", update).await
    }
}

impl Open {
    fn content(&self) -> SuperblockContent {
        self.content.lock().expect(UNPOISONED).clone()
    }

    async fn update<R>(
        &self,
        change: impl FnOnce(&mut SuperblockContent) -> R,
    ) -> Result<R, SuperblockError> {
        let mut writer = self.writer.lock().await;
        if writer.stopped {
            return Err(SuperblockError::Stopped);
        }
        let mut content = self.content();
        let answer = change(&mut content);
        let sequence = writer.sequence + 1;
        let encoded = encode(sequence, &content)?;
        // Stays so when a call fails: the first copy's state is unknown then.
        writer.stopped = true;
        let mut copies = vec![writer.first, 1 - writer.first];
        if active(Mutant::SuperblockOneCopy) {
            copies = vec![1 - writer.first];
        }
        let together = active(Mutant::SuperblockCopiesTogether);
        for copy in &copies {
            self.file
                .write_at(copy * SUPERBLOCK_COPY_BYTES, vec![encoded.clone()])
                .await?;
            if !together || Some(copy) == copies.last() {
                self.file.sync().await?;
            }
        }
        writer.sequence = sequence;
        writer.stopped = false;
        *self.content.lock().expect(UNPOISONED) = content;
        Ok(answer)
    }
}

const UNPOISONED: &str = "nobody panics while holding the superblock's lock";

/// Written apart and renamed, so that a superblock that exists was whole once.
async fn create(
    env: &Env,
    directory: &str,
    path: &str,
    content: SuperblockContent,
) -> Result<Arc<dyn File>, SuperblockError> {
    let new = format!("{path}.new");
    let encoded = encode(1, &content)?;
    let file = env.disk().open(&new, OpenMode::Create).await?;
    file.resize(2 * SUPERBLOCK_COPY_BYTES).await?;
    for copy in [0, 1] {
        file.write_at(copy * SUPERBLOCK_COPY_BYTES, vec![encoded.clone()])
            .await?;
        file.sync().await?;
    }
    env.disk().rename(&new, path).await?;
    env.disk().sync_directory(directory).await?;
    Ok(env.disk().open(path, OpenMode::Existing).await?)
}

async fn read_best(
    file: &dyn File,
    path: &str,
) -> Result<(u64, u64, SuperblockContent), SuperblockError> {
    let mut best = None;
    let mut too_new = None;
    for copy in [0, 1] {
        let offset = copy * SUPERBLOCK_COPY_BYTES;
        let bytes = file.read_at(offset, narrow(SUPERBLOCK_COPY_BYTES)).await?;
        match decode(&bytes) {
            Decoded::Valid(sequence, content) => {
                if best
                    .as_ref()
                    .is_none_or(|(highest, _, _)| sequence > *highest)
                {
                    best = Some((sequence, copy, *content));
                }
            }
            Decoded::TooNew(found) => too_new = Some(found),
            Decoded::Invalid => {}
        }
    }
    match (too_new, best) {
        (Some(found), _) => Err(SuperblockError::TooNew {
            path: path.to_owned(),
            found,
        }),
        (None, Some(best)) => Ok(best),
        (None, None) => Err(SuperblockError::BothDamaged {
            path: path.to_owned(),
        }),
    }
}

/// The bytes of one copy.
fn encode(sequence: u64, content: &SuperblockContent) -> Result<Bytes, SuperblockError> {
    let body = encode_body(content);
    let total = HEADER_BYTES + body.len() + CHECKSUM_BYTES;
    if wide(total) > SUPERBLOCK_COPY_BYTES {
        return Err(SuperblockError::TooLarge { bytes: total });
    }
    let mut writer = Writer::with_capacity(total + BLOCK_BYTES);
    writer
        .u64(MAGIC)
        .u16(VERSION)
        .u16(0)
        .u32(word(body.len()))
        .u64(sequence)
        .bytes(&body);
    let checksum = xxh3_128(&writer.0);
    writer.u128(checksum).pad(BLOCK_BYTES);
    Ok(writer.0.into())
}

fn encode_body(content: &SuperblockContent) -> Vec<u8> {
    let flags = u16::from(content.is_system)
        | u16::from(content.rolled_back) << 1
        | u16::from(content.journal_born) << 2
        | u16::from(content.cluster.is_some()) << 3;
    let mut writer = Writer::default();
    writer
        .u64(content.store.0)
        .u64(content.node.0)
        .u128(content.cluster.unwrap_or_default().0)
        .u16(content.pool)
        .u16(flags)
        .u32(content.feature_level)
        .u64(content.start_count)
        .u64(content.journal.segment_bytes)
        .u32(content.journal.alignment)
        .u32(word(content.peers.len()))
        .u32(word(content.retired.len()))
        .u32(word(content.values.len()))
        .u32(word(content.starts.len()));
    for (count, nonce) in &content.starts {
        writer.u64(*count).u64(*nonce);
    }
    for (store, known) in &content.peers {
        writer
            .u64(store.0)
            .u64(known.start_count)
            .u64(known.start_nonce)
            .u64(known.position);
    }
    for (group, number) in &content.retired {
        writer.u32(group.0).u32(number.0);
    }
    for (key, value) in &content.values {
        writer
            .u32(word(key.len()))
            .bytes(key)
            .u32(word(value.len()))
            .bytes(value);
    }
    writer.0
}

enum Decoded {
    Valid(u64, Box<SuperblockContent>),
    TooNew(u16),
    Invalid,
}

fn decode(bytes: &[u8]) -> Decoded {
    try_decode(bytes).unwrap_or(Decoded::Invalid)
}

fn try_decode(bytes: &[u8]) -> Option<Decoded> {
    let mut reader = Reader(bytes);
    if reader.u64()? != MAGIC {
        return None;
    }
    let version = reader.u16()?;
    reader.u16()?;
    let body_length = usize::try_from(reader.u32()?).ok()?;
    let sequence = reader.u64()?;
    let body = reader.take(body_length)?;
    if reader.u128()? != xxh3_128(&bytes[..HEADER_BYTES + body_length]) {
        return None;
    }
    // The checksum's place is the same in all versions, so a newer copy is told from a damaged one.
    if version > VERSION {
        return Some(Decoded::TooNew(version));
    }
    Some(Decoded::Valid(
        sequence,
        Box::new(decode_body(version, body)?),
    ))
}

fn decode_body(version: u16, body: &[u8]) -> Option<SuperblockContent> {
    let mut reader = Reader(body);
    let store = StoreId(reader.u64()?);
    let node = NodeId(reader.u64()?);
    let cluster = ClusterId(reader.u128()?);
    let pool = reader.u16()?;
    let flags = reader.u16()?;
    let feature_level = reader.u32()?;
    let start_count = reader.u64()?;
    let journal = JournalGeometry {
        segment_bytes: reader.u64()?,
        alignment: reader.u32()?,
    };
    let (peer_count, retired_count, value_count) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let has_nonces = version >= FIRST_WITH_NONCES;
    let kept_starts = if has_nonces { reader.u32()? } else { 0 };
    let mut content = SuperblockContent {
        store,
        node,
        cluster: (flags & 8 != 0).then_some(cluster),
        pool,
        is_system: flags & 1 != 0,
        start_count,
        starts: BTreeMap::new(),
        rolled_back: flags & 2 != 0,
        journal_born: flags & 4 != 0,
        feature_level,
        journal,
        peers: BTreeMap::new(),
        retired: BTreeSet::new(),
        values: BTreeMap::new(),
    };
    for _ in 0..kept_starts {
        content.starts.insert(reader.u64()?, reader.u64()?);
    }
    for _ in 0..peer_count {
        let peer = StoreId(reader.u64()?);
        if !has_nonces {
            // Forgotten: such positions counted marks, which a store may lose.
            reader.take(16)?;
            continue;
        }
        let known = PeerKnowledge {
            start_count: reader.u64()?,
            start_nonce: reader.u64()?,
            position: reader.u64()?,
        };
        content.peers.insert(peer, known);
    }
    for _ in 0..retired_count {
        content
            .retired
            .insert((GroupId(reader.u32()?), ReplicaNumber(reader.u32()?)));
    }
    for _ in 0..value_count {
        let key = reader.sized()?.to_vec();
        content.values.insert(key, reader.sized()?.to_vec());
    }
    Some(content)
}

#[cfg(test)]
#[path = "superblock_tests.rs"]
mod tests;
