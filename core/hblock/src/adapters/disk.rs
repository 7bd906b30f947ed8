//! A disk store behind the [`BlobStore`] port, with HBlock's control records in its journal.
//!
//! A control record is a key and a value; the newest of a key counts. Layout:
//! docs/format/hblock-records.md.
//!
//! Invariants: a record is released only when its successor is durable; records that hold back the
//! journal's oldest segment are copied forward; the order of one key's records is the order in
//! which they were put.
//! Does not: interpret records or blobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hedgerow_disk::journal::{
    AppendError, CLOSED, CopyForward, Journal, Position, Receipt, Record, Stopped, StreamTag,
};
use hedgerow_disk::{ReadError, Recovery, Store, StoreError};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    AbortOnDrop, BlobName, BoxFuture, ContainerId, ContainerIndex, Env, FamilyId, GroupId, StoreId,
    VirtualDiskId,
};
use hedgerow_protocol::{BlobHeader, UnitRecord, decode, encode};

use crate::ports::{BlobStore, ControlKey, ScrubStretch, StoreFault, StoreUsage};
use crate::pull::FeedRecord;

/// Journal kind of a container's record.
const KIND_CONTAINER: u8 = 1;
/// Journal kind of a feed's record.
const KIND_FEED: u8 = 2;

/// How long a blob waits for the flush to make room in the journal before it is *busy*: a client
/// that writes faster than the disks is slowed down, not sent away with all of its bytes.
const JOURNAL_ROOM_WAIT: Duration = Duration::from_millis(200);

/// How often an append waits for room in the journal's queue before it is *busy*.
const QUEUE_ATTEMPTS: usize = 8;

/// One disk store, with its recovered control records.
pub struct DiskStore {
    shared: Arc<Shared>,
    /// Copies that were found lost when the store was opened.
    lost: Vec<BlobName>,
    _copier: AbortOnDrop,
}

struct Shared {
    env: Env,
    store: Store,
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    newest: BTreeMap<ControlKey, (Position, Bytes)>,
    /// Superseded records, by the position of their successors.
    superseded: BTreeMap<Position, Position>,
}

impl DiskStore {
    /// Takes HBlock's part out of `recovery`.
    #[must_use]
    pub fn new(env: &Env, store: Store, recovery: &mut Recovery) -> Self {
        let mut records = Records::default();
        let mut released = Vec::new();
        let found = recovery.control.remove(&StreamTag::HBLOCK);
        for found in found.unwrap_or_default() {
            // A kind of a newer build is kept for it.
            let Some(key) = decode_key(found.record.kind, &found.record.header) else {
                continue;
            };
            let value = (found.position, found.record.payload);
            if let Some((older, _)) = records.newest.insert(key, value) {
                released.push(older);
            }
        }
        let mut copies = recovery
            .damaged
            .iter()
            .flat_map(|range| range.records.iter());
        let records_lost = copies.any(|copy| copy.stream == StreamTag::HBLOCK);
        let mut anew = Vec::new();
        if records_lost || recovery.names_lost {
            // Some container's record, or blobs whose names are not known, may be lost: reading
            // every feed from its beginning brings back what the shards know.
            anew = records
                .newest
                .keys()
                .copied()
                .filter_map(feed_anew)
                .collect();
        }
        store.release_control(released);
        let requests = store.copy_forward_requests(StreamTag::HBLOCK);
        let shared = Arc::new(Shared {
            env: env.clone(),
            store,
            records: Mutex::new(records),
        });
        for (key, value) in anew {
            // Nobody waits for it: without it the damage is found again at the next start, as long
            // as the older record is.
            let appended = shared.append(key, &value, None);
            appended.map(drop).unwrap_or_else(|_| shared.forget(key));
        }
        let copier = env.spawn(
            "hblock-copy-forward",
            copy_forward(Arc::clone(&shared), requests),
        );
        Self {
            shared,
            lost: std::mem::take(&mut recovery.damaged_blobs),
            _copier: copier.abort_on_drop(),
        }
    }
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().expect("no panic under this lock")
    }

    fn forget(&self, key: ControlKey) {
        self.records().newest.remove(&key);
    }

    fn journal(&self) -> &Journal {
        self.store.journal()
    }

    /// Appends `value` as the newest record of `key`, unless `only_over` is no longer that.
    fn append(
        &self,
        key: ControlKey,
        value: &Bytes,
        only_over: Option<Position>,
    ) -> Result<Option<Receipt>, AppendError> {
        let (kind, header) = encode_key(key);
        // The lock is held over the append: the order of one key's records is its history.
        let mut records = self.records();
        let older = records.newest.get(&key).map(|(position, _)| *position);
        if only_over.is_some() && older != only_over {
            return Ok(None);
        }
        let receipt = self.journal().append(Record {
            stream: StreamTag::HBLOCK,
            kind,
            header,
            payload: value.clone(),
        })?;
        let position = receipt.position();
        records.newest.insert(key, (position, value.clone()));
        if let Some(older) = older {
            records.superseded.insert(position, older);
        }
        Ok(Some(receipt))
    }

    /// Frees the records whose successors are durable.
    fn release_superseded(&self) {
        let durable = self.journal().durable();
        let free: Vec<Position> = {
            let mut records = self.records();
            // A record that begins at the durable end is not durable yet.
            let later = records.superseded.split_off(&durable);
            let free = std::mem::replace(&mut records.superseded, later);
            free.into_values().collect()
        };
        self.store.release_control(free);
    }

    async fn put(
        &self,
        key: ControlKey,
        value: Bytes,
        only_over: Option<Position>,
    ) -> Result<(), StoreFault> {
        let mut attempts = 0;
        let receipt = loop {
            match self.append(key, &value, only_over) {
                Ok(Some(receipt)) => break receipt,
                Ok(None) => return Ok(()),
                Err(AppendError::Busy) if attempts < QUEUE_ATTEMPTS => {
                    attempts += 1;
                    self.store.ready().await;
                }
                Err(error) => return Err(fault(error.into())),
            }
        };
        receipt.durable().await.map_err(stopped)?;
        self.release_superseded();
        Ok(())
    }
}

/// Copies forward what holds back the journal's oldest segment.
async fn copy_forward(shared: Arc<Shared>, mut requests: tokio::sync::mpsc::Receiver<CopyForward>) {
    while let Some(request) = requests.recv().await {
        let mut newest = BTreeMap::new();
        for (key, (position, value)) in &shared.records().newest {
            newest.insert(*position, (*key, value.clone()));
        }
        for position in request.positions {
            match newest.remove(&position) {
                Some((key, value)) => {
                    // Full or stopped: the journal asks again, or is beyond asking.
                    let _copied = shared.put(key, value, Some(position)).await;
                }
                None => shared.release_superseded(),
            }
        }
    }
}

impl BlobStore for DiskStore {
    fn id(&self) -> StoreId {
        self.shared.store.id()
    }

    fn is_system(&self) -> bool {
        self.shared.store.superblock().content().is_system
    }

    fn usage(&self) -> StoreUsage {
        let usage = self.shared.store.usage();
        StoreUsage {
            capacity_bytes: usage.capacity,
            used_bytes: usage.used,
            blobs: usage.blobs,
        }
    }

    fn stopped(&self) -> BoxFuture<'static, StoreFault> {
        let store = self.shared.store.clone();
        Box::pin(async move { stopped(store.stopped().await) })
    }

    fn header(&self, name: BlobName) -> Result<BlobHeader, StoreFault> {
        header(&self.shared.store, name)
    }

    fn damaged(&self) -> Vec<BlobName> {
        let mut names = self.lost.clone();
        names.extend(self.shared.store.damaged_blobs());
        names
    }

    fn put(
        &self,
        header: BlobHeader,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<(), StoreFault>> {
        let (env, store) = (self.shared.env.clone(), self.shared.store.clone());
        Box::pin(async move {
            // The nearer the end of the room, the slower blobs come in.
            let delay = store.put_delay();
            if delay > Duration::ZERO {
                env.sleep(delay).await;
            }
            let encoded = encode(&header);
            let mut attempts = 0;
            let mut waited = false;
            let receipt = loop {
                match store.put_blob(header.name, encoded.clone(), payload.clone()) {
                    Ok(receipt) => break receipt,
                    Err(StoreError::Full) if !waited => {
                        waited = true;
                        if !store.journal_room(JOURNAL_ROOM_WAIT).await {
                            return Err(fault(StoreError::Full));
                        }
                    }
                    Err(StoreError::Busy) if attempts < QUEUE_ATTEMPTS => {
                        attempts += 1;
                        store.ready().await;
                    }
                    Err(error) => return Err(fault(error)),
                }
            };
            if active(Mutant::HeldBeforeSync) {
                return Ok(());
            }
            receipt.durable().await.map_err(stopped)
        })
    }

    fn read_units(
        &self,
        name: BlobName,
        units: Vec<u16>,
    ) -> BoxFuture<'static, Result<(Vec<UnitRecord>, Bytes), StoreFault>> {
        let store = self.shared.store.clone();
        Box::pin(async move { read_units(&store, name, &units).await })
    }

    fn read_blob(
        &self,
        name: BlobName,
    ) -> BoxFuture<'static, Result<(BlobHeader, Bytes), StoreFault>> {
        let store = self.shared.store.clone();
        Box::pin(async move {
            let header = header(&store, name)?;
            let length =
                usize::try_from(header.payload_bytes()).map_err(|_| StoreFault::Damaged)?;
            let payload = store.read_blob(name, 0, length).await.map_err(read_fault)?;
            Ok((header, payload))
        })
    }

    fn delete(&self, names: Vec<BlobName>) -> BoxFuture<'static, Result<(), StoreFault>> {
        let store = self.shared.store.clone();
        Box::pin(async move {
            let mut last = None;
            for name in names {
                let mut attempts = 0;
                while store.contains(name) {
                    match store.delete_blob(name) {
                        Ok(receipt) => last = Some(receipt),
                        Err(StoreError::Busy) if attempts < QUEUE_ATTEMPTS => {
                            attempts += 1;
                            store.ready().await;
                        }
                        Err(error) => return Err(fault(error)),
                    }
                }
            }
            // Durability is of a prefix: the last receipt speaks for all.
            match last {
                Some(receipt) => receipt.durable().await.map_err(stopped),
                None => Ok(()),
            }
        })
    }

    fn names(&self, after: Option<BlobName>, limit: usize) -> Vec<BlobName> {
        self.shared.store.blobs(after, limit)
    }

    fn put_record(
        &self,
        key: ControlKey,
        value: Bytes,
    ) -> BoxFuture<'static, Result<(), StoreFault>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.put(key, value, None).await })
    }

    fn records(&self) -> BoxFuture<'static, Result<Vec<(ControlKey, Bytes)>, StoreFault>> {
        let records = self.shared.records();
        let all = records.newest.iter();
        let all: Vec<_> = all.map(|(key, (_, value))| (*key, value.clone())).collect();
        Box::pin(async move { Ok(all) })
    }

    fn scrub(&self, bytes: u64) -> BoxFuture<'static, Result<ScrubStretch, StoreFault>> {
        let store = self.shared.store.clone();
        Box::pin(async move {
            let report = store.scrub(bytes).await.map_err(fault)?;
            Ok(ScrubStretch {
                bytes: report.bytes,
                damaged: report.bad,
                finished: report.wrapped,
            })
        })
    }
}

/// The record of a feed that is read from its beginning.
fn feed_anew(key: ControlKey) -> Option<(ControlKey, Bytes)> {
    let ControlKey::Feed(group) = key else {
        return None;
    };
    let record = FeedRecord { group, handled: 0 };
    Some((key, encode(&record)))
}

fn header(store: &Store, name: BlobName) -> Result<BlobHeader, StoreFault> {
    let bytes = store.blob_header(name).ok_or(StoreFault::Missing)?;
    let header: BlobHeader = decode(&bytes).map_err(|_| StoreFault::Damaged)?;
    if header.name == name {
        Ok(header)
    } else {
        Err(StoreFault::Damaged)
    }
}

/// Reads units in the order asked for; neighbours are read together.
async fn read_units(
    store: &Store,
    name: BlobName,
    units: &[u16],
) -> Result<(Vec<UnitRecord>, Bytes), StoreFault> {
    let header = header(store, name)?;
    let mut records = Vec::with_capacity(units.len());
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for unit in units {
        // A unit that the blob does not have: whoever asks means another blob.
        let (offset, length) = header.unit_range(*unit).ok_or(StoreFault::Missing)?;
        records.push(header.units[usize::from(*unit)]);
        match runs.last_mut() {
            Some((start, bytes)) if *start + *bytes == offset => *bytes += u64::from(length),
            _ => runs.push((offset, u64::from(length))),
        }
    }
    let mut parts = Vec::with_capacity(runs.len());
    for (offset, bytes) in runs {
        let narrow = |value: u64| usize::try_from(value).map_err(|_| StoreFault::Damaged);
        let (offset, length) = (narrow(offset)?, narrow(bytes)?);
        parts.push(
            store
                .read_blob(name, offset, length)
                .await
                .map_err(read_fault)?,
        );
    }
    if parts.len() == 1 {
        return Ok((records, parts.remove(0)));
    }
    let mut payload = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in &parts {
        payload.extend_from_slice(part);
    }
    Ok((records, payload.freeze()))
}

fn stopped(stopped: Stopped) -> StoreFault {
    if stopped.reason == CLOSED {
        return StoreFault::Closed;
    }
    StoreFault::Stopped {
        reason: stopped.reason,
    }
}

fn fault(error: StoreError) -> StoreFault {
    match error {
        StoreError::Stopped(reason) => stopped(reason),
        StoreError::Full => StoreFault::Full,
        error => StoreFault::Busy {
            reason: error.to_string(),
        },
    }
}

fn read_fault(error: ReadError) -> StoreFault {
    match error {
        ReadError::Missing(_) => StoreFault::Missing,
        // A sector that cannot be read is as bad as one that reads wrong; and a payload that is
        // shorter than its header says is not that blob's.
        ReadError::Damaged(_) | ReadError::OutOfRange { .. } | ReadError::Device(_) => {
            StoreFault::Damaged
        }
    }
}

/// Journal kind and header of a record: the key, in fixed widths.
fn encode_key(key: ControlKey) -> (u8, Bytes) {
    let mut bytes = Vec::with_capacity(20);
    match key {
        ControlKey::Container(container) => {
            bytes.extend_from_slice(&container.family.0.to_le_bytes());
            bytes.extend_from_slice(&container.disk.0.to_le_bytes());
            bytes.extend_from_slice(&container.index.0.to_le_bytes());
            (KIND_CONTAINER, Bytes::from(bytes))
        }
        ControlKey::Feed(group) => {
            bytes.extend_from_slice(&group.0.to_le_bytes());
            (KIND_FEED, Bytes::from(bytes))
        }
    }
}

fn decode_key(kind: u8, header: &[u8]) -> Option<ControlKey> {
    match kind {
        KIND_CONTAINER => {
            let (family, rest) = header.split_first_chunk::<8>()?;
            let (disk, rest) = rest.split_first_chunk::<8>()?;
            let index = <[u8; 4]>::try_from(rest).ok()?;
            Some(ControlKey::Container(ContainerId {
                family: FamilyId(u64::from_le_bytes(*family)),
                disk: VirtualDiskId(u64::from_le_bytes(*disk)),
                index: ContainerIndex(u32::from_le_bytes(index)),
            }))
        }
        KIND_FEED => {
            let group = <[u8; 4]>::try_from(header).ok()?;
            Some(ControlKey::Feed(GroupId(u32::from_le_bytes(group))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_control_records_have_fixed_bytes() {
        let container = ControlKey::Container(ContainerId {
            family: FamilyId(0x0102),
            disk: VirtualDiskId(0x0304),
            index: ContainerIndex(0x0506),
        });
        let feed = ControlKey::Feed(GroupId(7));
        let golden = [
            (
                container,
                1,
                &[2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 6, 5, 0, 0][..],
            ),
            (feed, 2, &[7, 0, 0, 0][..]),
        ];
        for (key, kind, bytes) in golden {
            assert_eq!(encode_key(key), (kind, Bytes::from_static(bytes)));
            assert_eq!(decode_key(kind, bytes), Some(key));
        }
        assert_eq!(decode_key(1, &[0; 19]), None, "too short");
        assert_eq!(decode_key(1, &[0; 21]), None, "too long");
        assert_eq!(decode_key(9, &[0; 4]), None, "of a newer build");
    }
}
