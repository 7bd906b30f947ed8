//! Which replicas this store has: one journal record for each group, in a stream of their own.
//!
//! Invariants: a replica is recorded before it runs; a retired number never runs again; the record
//! of a group is given up only for a newer durable one.
//! Does not: run replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::{BufMut, Bytes, BytesMut};
use hedgerow_disk::journal::{
    AppendError, CopyForward, DamagedRange, HeaderCopy, Journal, Position, Receipt, Record,
    RecoveredRecord, Stopped, StreamTag,
};
use hedgerow_env::{GroupId, ReplicaNumber};
use hedgerow_protocol::{Envelope, GroupMember, decode, encode};
use serde::{Deserialize, Serialize};

/// The stream of these records: beyond the numbers of groups, which have 32 bits.
pub(crate) const REGISTRY_STREAM: StreamTag = StreamTag::new(StreamTag::RAFT_KIND, 1 << 32);
/// A replica.
const REPLICA_KIND: u8 = 1;
/// Registrations may be lost of which nothing is known.
const DOUBT_KIND: u8 = 2;
const HEADER_VERSION: u32 = 1;

/// A replica of a group in this store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicaRecord {
    pub(crate) group: GroupId,
    pub(crate) member: GroupMember,
    /// Whether its number is retired for ever.
    pub(crate) retired: bool,
}

impl Envelope for ReplicaRecord {
    const KIND: u16 = 75;
    const VERSION: u16 = 1;
}

/// What of a record survives in the second copy of its header, 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaNumber,
    pub(crate) retired: bool,
}

impl Key {
    fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(16);
        bytes.put_u32_le(HEADER_VERSION);
        bytes.put_u32_le(self.group.0);
        bytes.put_u32_le(self.replica.0);
        bytes.put_u32_le(u32::from(self.retired));
        bytes.freeze()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.split_first_chunk::<16>()?;
        let word = |at: usize| {
            let word: [u8; 4] = fields[at..at + 4]
                .try_into()
                .expect("four bytes of sixteen");
            u32::from_le_bytes(word)
        };
        let ours = word(0) == HEADER_VERSION && rest.is_empty() && word(12) <= 1;
        ours.then(|| Self {
            group: GroupId(word(4)),
            replica: ReplicaNumber(word(8)),
            retired: word(12) == 1,
        })
    }
}

impl ReplicaRecord {
    pub(crate) fn key(&self) -> Key {
        Key {
            group: self.group,
            replica: self.member.member.replica,
            retired: self.retired,
        }
    }

    pub(crate) fn record(&self) -> Record {
        Record {
            stream: REGISTRY_STREAM,
            kind: REPLICA_KIND,
            header: self.key().encode(),
            payload: encode(self),
        }
    }
}

/// Why the registry could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The registry of a store.
pub(crate) struct Registry {
    journal: Journal,
    newest: Mutex<BTreeMap<GroupId, (ReplicaRecord, Position)>>,
    doubt: Mutex<Option<Position>>,
}

impl Registry {
    /// Reads the recovered records, releases the superseded ones, and answers also which replicas'
    /// newest records are damaged.
    pub(crate) fn recover(
        journal: Journal,
        records: Vec<RecoveredRecord>,
        damaged: &[DamagedRange],
    ) -> (Self, BTreeSet<Key>) {
        let mut newest: BTreeMap<GroupId, (ReplicaRecord, Position)> = BTreeMap::new();
        let mut doubt = None;
        for found in records {
            if found.record.kind == DOUBT_KIND {
                journal.release_all(doubt.replace(found.position));
                continue;
            }
            let Ok(record) = decode::<ReplicaRecord>(&found.record.payload) else {
                // The journal's checksum held, so this was written by a newer build: keep it.
                continue;
            };
            let known = newest.get(&record.group);
            if known.is_some_and(|(known, _)| known.key() >= record.key()) {
                journal.release(found.position);
            } else if let Some((_, old)) = newest.insert(record.group, (record, found.position)) {
                journal.release(old);
            }
        }
        let lost =
            damaged
                .iter()
                .flat_map(|range| &range.records)
                .filter_map(|copy: &HeaderCopy| {
                    let key =
                        (copy.stream == REGISTRY_STREAM).then(|| Key::decode(&copy.header))??;
                    let known = newest.get(&key.group).map(|(known, _)| known.key());
                    (known < Some(key)).then_some(key)
                });
        let lost = lost.collect();
        let registry = Self {
            journal,
            newest: Mutex::new(newest),
            doubt: Mutex::new(doubt),
        };
        (registry, lost)
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, (ReplicaRecord, Position)>> {
        self.newest.lock().expect("no panic under this lock")
    }

    /// Whether registrations may be lost of which nothing is known.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubt_position().is_some()
    }

    fn doubt_position(&self) -> Option<Position> {
        *self.doubt.lock().expect("no panic under this lock")
    }

    /// Remembers for good that registrations may be lost; durable on return.
    pub(crate) async fn doubt(&self) -> Result<(), RegistryError> {
        let record = Record::new(REGISTRY_STREAM, DOUBT_KIND, Bytes::new());
        let receipt = self.journal.append_when_ready(record).await?;
        let position = receipt.position();
        receipt.durable().await?;
        let mut doubt = self.doubt.lock().expect("no panic under this lock");
        self.journal.release_all(doubt.replace(position));
        Ok(())
    }

    /// The newest record of each group.
    pub(crate) fn records(&self) -> Vec<ReplicaRecord> {
        self.newest()
            .values()
            .map(|(record, _)| record.clone())
            .collect()
    }

    /// The newest record of `group`.
    pub(crate) fn record(&self, group: GroupId) -> Option<ReplicaRecord> {
        self.newest().get(&group).map(|(record, _)| record.clone())
    }

    /// Makes `record` the newest of its group; durable on return.
    pub(crate) async fn write(&self, record: ReplicaRecord) -> Result<(), RegistryError> {
        let receipt = self.append(&record).await?;
        let position = receipt.position();
        receipt.durable().await?;
        let old = self.newest().insert(record.group, (record, position));
        self.journal.release_all(old.map(|(_, position)| position));
        Ok(())
    }

    async fn append(&self, record: &ReplicaRecord) -> Result<Receipt, RegistryError> {
        Ok(self.journal.append_when_ready(record.record()).await?)
    }

    /// Answers a request to free a segment.
    pub(crate) async fn free_segment(&self, request: CopyForward) -> Result<(), RegistryError> {
        for position in request.positions {
            if self.doubt_position() == Some(position) {
                self.doubt().await?;
            }
            let live = self
                .newest()
                .values()
                .find(|(_, at)| *at == position)
                .map(|(record, _)| record.clone());
            if let Some(record) = live {
                self.write(record).await?;
            }
        }
        Ok(())
    }
}
