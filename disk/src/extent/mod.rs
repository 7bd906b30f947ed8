//! The extent store of a pool: blobs in large segments that are written front to back.
//!
//! A batch is written, synced and only then indexed. A finished segment ends in a footer from which
//! the index is rebuilt; the one unfinished segment is scanned and verified, then finished, at
//! open. Which entries are dead is a small map in the segment itself, kept twice and written
//! alternately.
//!
//! Invariants: durable bytes are never overwritten except dead maps; a segment's file is removed
//! only when all its entries are dead or moved and no read pins it; a full disk costs no entry that
//! was written before it was met, and no file is made that is known not to fit.
//! Does not: hold the index of names (the pool's `Store` does) or decide when to flush.
//! Layout: `docs/format/extent.md`.

pub(crate) mod format;
mod open;
mod segment;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, DiskError, Env, File, OpenMode, Phase, StoreId};
use xxhash_rust::xxh3::xxh3_64;

use self::format::{
    BATCH_ALIGNMENT, DATA_AT, DEAD_SLOT_AT, ENTRIES_MAX, ENTRY_ALIGNMENT, encode_dead,
    encode_footer, encode_meta, encode_segment_header, segment_path,
};
pub(crate) use self::format::{CHUNK_BYTES, Found, Meta, Place, chunk_sums};
use self::segment::Segment;
use crate::codec::{align_up, narrow, wide};

/// How the extent store is sized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentConfig {
    /// Bytes of data after which a segment is finished.
    pub segment_bytes: u64,
    /// A finished segment is compacted once this share of its data is dead.
    pub compact_dead_percent: u64,
    /// The share that is enough while space is short.
    pub compact_dead_percent_when_full: u64,
}

impl Default for ExtentConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            compact_dead_percent: 50,
            compact_dead_percent_when_full: 5,
        }
    }
}

impl ExtentConfig {
    /// Small segments for tests and simulation.
    #[must_use]
    pub fn small() -> Self {
        Self {
            segment_bytes: 256 << 10,
            ..Self::default()
        }
    }
}

/// A blob to be written.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) meta: Meta,
    pub(crate) payload: Bytes,
}

/// Why stored bytes could not be returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    /// The bytes fail their checksum.
    #[error("damaged")]
    Damaged,
    /// The segment is gone: look the name up again.
    #[error("moved")]
    Moved,
    /// The device failed the read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Sizes of the extent store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ExtentUsage {
    pub(crate) file_bytes: u64,
    pub(crate) data_bytes: u64,
    pub(crate) dead_bytes: u64,
}

struct Open {
    number: u64,
    /// Where the next batch begins.
    end: u64,
    /// The encoded entries so far: the footer's contents.
    footer: Vec<u8>,
}

struct State {
    segments: BTreeMap<u64, Segment>,
    open: Option<Open>,
    next_number: u64,
}

/// The extent segments of one pool. Appends are made by one task at a time.
pub(crate) struct Extents {
    env: Env,
    directory: String,
    store: StoreId,
    config: ExtentConfig,
    state: Mutex<State>,
}

impl Extents {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nobody panics while holding the extents' lock")
    }

    /// Writes and syncs a batch, as far as it goes. The places are of the batch's first entries, which
    /// are stored whatever became of the rest: the caller refers to them, or nobody ever frees them.
    pub(crate) async fn append(&self, batch: &[Outgoing]) -> (Vec<Place>, Result<(), DiskError>) {
        let mut places = Vec::with_capacity(batch.len());
        while let Some(rest) = batch.get(places.len()..).filter(|rest| !rest.is_empty()) {
            match self.append_some(rest).await {
                Ok(written) => places.extend(written),
                Err(error) => return (places, Err(error)),
            }
        }
        (places, Ok(()))
    }

    async fn append_some(&self, batch: &[Outgoing]) -> Result<Vec<Place>, DiskError> {
        let number = self.open_segment(batch[0].meta.entry_bytes()).await?;
        self.append_run(number, batch).await
    }

    /// The number of a segment with room for at least one entry of `bytes`.
    async fn open_segment(&self, bytes: u64) -> Result<u64, DiskError> {
        let full = {
            let state = self.state();
            match &state.open {
                None => None,
                Some(open) => {
                    let entries = state.segments[&open.number].entries.len();
                    let begun = open.end > DATA_AT;
                    let too_long = begun && open.end + bytes > DATA_AT + self.config.segment_bytes;
                    if !too_long && entries < ENTRIES_MAX {
                        return Ok(open.number);
                    }
                    Some(open.number)
                }
            }
        };
        if full.is_some() {
            self.finish_open().await?;
        }
        self.create_segment(bytes).await
    }

    async fn create_segment(&self, bytes: u64) -> Result<u64, DiskError> {
        let number = self.state().next_number;
        let path = segment_path(&self.directory, number);
        let length = DATA_AT
            + self
                .config
                .segment_bytes
                .max(align_up(bytes, BATCH_ALIGNMENT));
        // A file that is made and removed in vain leaves two names to be synced, each time.
        if self.env.disk().free_bytes(&self.directory).await? < length {
            return Err(DiskError::NoSpace { path });
        }
        // Left behind by a crash or a full disk before its first batch.
        match self.env.disk().remove(&path).await {
            Ok(()) | Err(DiskError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let file = self.env.disk().open(&path, OpenMode::Create).await?;
        let prepared = async {
            file.resize(length).await?;
            file.write_at(0, vec![encode_segment_header(self.store, number)])
                .await?;
            file.sync().await?;
            self.env.disk().sync_directory(&self.directory).await
        };
        if let Err(error) = prepared.await {
            if matches!(error, DiskError::NoSpace { .. }) {
                self.env.disk().remove(&path).await?;
            }
            return Err(error);
        }
        let mut state = self.state();
        state.next_number = number + 1;
        state.segments.insert(number, Segment::new(file, length));
        state.open = Some(Open {
            number,
            end: DATA_AT,
            footer: Vec::new(),
        });
        Ok(number)
    }

    /// Appends as many entries as the open segment takes, at least one.
    async fn append_run(&self, number: u64, batch: &[Outgoing]) -> Result<Vec<Place>, DiskError> {
        let (file, start, first_ordinal) = {
            let state = self.state();
            let open = state.open.as_ref().expect("the caller opened a segment");
            let segment = &state.segments[&number];
            (Arc::clone(&segment.file), open.end, segment.entries.len())
        };
        let limit = DATA_AT + self.config.segment_bytes;
        let mut end = start;
        let mut parts = Vec::new();
        let mut metas = Vec::new();
        let mut lengths = Vec::new();
        let mut places = Vec::new();
        for (index, outgoing) in batch.iter().enumerate() {
            let length = align_up(outgoing.meta.entry_bytes(), ENTRY_ALIGNMENT);
            let no_room = end + length > limit || first_ordinal + index >= ENTRIES_MAX;
            if index > 0 && no_room {
                break;
            }
            let place = Place {
                segment: number,
                ordinal: crate::codec::word(first_ordinal + index),
                offset: end,
            };
            let meta = encode_meta(self.store, place, &outgoing.meta);
            metas.extend_from_slice(&meta);
            parts.push(meta.into());
            parts.push(outgoing.payload.clone());
            parts.push(zeros(length - outgoing.meta.entry_bytes()));
            lengths.push(crate::codec::word(narrow(length)));
            places.push(place);
            end += length;
        }
        file.write_at(start, parts).await?;
        if !active(Mutant::ExtentUnsynced) {
            file.sync().await?;
        }

        let mut state = self.state();
        let segment = state
            .segments
            .get_mut(&number)
            .expect("the open segment is never removed");
        for ((place, outgoing), length) in places.iter().zip(batch).zip(lengths) {
            let ordinal = segment.push(outgoing.meta.name, length, place.offset);
            assert_eq!(ordinal, place.ordinal, "one task appends at a time");
        }
        let open = state.open.as_mut().expect("one task appends at a time");
        open.end = align_up(end, BATCH_ALIGNMENT);
        open.footer.extend_from_slice(&metas);
        Ok(places)
    }

    /// Writes the open segment's footer and gives back what it did not use.
    async fn finish_open(&self) -> Result<(), DiskError> {
        let _phase = self.env.phase(Phase::Seal);
        let open = self.state().open.take();
        let Some(open) = open else { return Ok(()) };
        let finished = self.finish(open.number, open.end, &open.footer).await;
        if finished.is_err() {
            self.state().open = Some(open);
        }
        finished
    }

    async fn finish(&self, number: u64, end: u64, footer: &[u8]) -> Result<(), DiskError> {
        let file = Arc::clone(&self.state().segments[&number].file);
        let at = align_up(end, BATCH_ALIGNMENT);
        let footer = encode_footer(self.store, number, at, footer);
        let length = at + wide(footer.len());
        file.write_at(at, vec![footer]).await?;
        file.resize(length).await?;
        file.sync().await?;
        let mut state = self.state();
        let segment = state
            .segments
            .get_mut(&number)
            .expect("an open segment is not removed");
        segment.finished = true;
        segment.file_bytes = length;
        Ok(())
    }

    /// Marks an entry dead in memory; [`Extents::sync_dead`] makes it durable.
    pub(crate) fn kill(&self, place: Place) {
        if let Some(segment) = self.state().segments.get_mut(&place.segment) {
            segment.kill(place.ordinal);
        }
    }

    /// Makes every entry killed so far durably dead.
    pub(crate) async fn sync_dead(&self) -> Result<(), DiskError> {
        loop {
            let next = {
                let mut state = self.state();
                let mut dirty = state
                    .segments
                    .iter_mut()
                    .filter(|(_, segment)| segment.dead_dirty);
                dirty.next().map(|(number, segment)| {
                    segment.dead_dirty = false;
                    segment.dead_sequence += 1;
                    let sequence = segment.dead_sequence;
                    let bytes = encode_dead(self.store, *number, sequence, segment.dead_bits());
                    (Arc::clone(&segment.file), sequence, bytes)
                })
            };
            let Some((file, sequence, bytes)) = next else {
                return Ok(());
            };
            file.write_at(DEAD_SLOT_AT[narrow(sequence % 2)], vec![bytes])
                .await?;
            file.sync().await?;
        }
    }

    /// Reads and verifies `length` bytes at `offset` of the payload of the entry at `place`.
    pub(crate) async fn read(
        &self,
        place: Place,
        meta: &Meta,
        offset: usize,
        length: usize,
    ) -> Result<Bytes, FetchError> {
        let (file, _pin) = {
            let state = self.state();
            let segment = state
                .segments
                .get(&place.segment)
                .ok_or(FetchError::Moved)?;
            (Arc::clone(&segment.file), Arc::clone(&segment.pin))
        };
        let payload_at = place.offset + wide(meta.encoded_bytes());
        read_chunks(&*file, payload_at, meta, offset, length).await
    }

    /// Verifies everything stored for the entry at `place`.
    pub(crate) async fn verify(&self, place: Place, meta: &Meta) -> Result<(), FetchError> {
        let (file, _pin) = {
            let state = self.state();
            let segment = state
                .segments
                .get(&place.segment)
                .ok_or(FetchError::Moved)?;
            (Arc::clone(&segment.file), Arc::clone(&segment.pin))
        };
        let stored = file.read_at(place.offset, meta.encoded_bytes()).await?;
        if stored != encode_meta(self.store, place, meta) {
            return Err(FetchError::Damaged);
        }
        let payload_at = place.offset + wide(meta.encoded_bytes());
        let length = narrow(u64::from(meta.payload_bytes));
        read_chunks(&*file, payload_at, meta, 0, length)
            .await
            .map(drop)
    }

    /// The finished segment most worth compacting, with its live entries.
    pub(crate) fn to_compact(&self, is_full: bool) -> Option<(u64, Vec<(u32, BlobName)>)> {
        let percent = if is_full {
            self.config.compact_dead_percent_when_full
        } else {
            self.config.compact_dead_percent
        };
        let state = self.state();
        let dead = |segment: &Segment| segment.dead_bytes * 100 / segment.data_bytes.max(1);
        let candidates = state.segments.iter().filter(|(_, segment)| {
            segment.finished && !segment.is_all_dead() && dead(segment) >= percent.max(1)
        });
        let (number, segment) = candidates.max_by_key(|(_, segment)| dead(segment))?;
        Some((*number, segment.live_entries()))
    }

    /// Removes finished segments in which nothing lives and that no read pins.
    pub(crate) async fn remove_dead(&self) -> Result<bool, DiskError> {
        let mut removed = false;
        loop {
            let next = {
                let state = self.state();
                let mut unused = state.segments.iter().filter(|(_, segment)| {
                    let dead = segment.is_all_dead()
                        || active(Mutant::MostlyDeadExtentRemoved)
                            && segment.dead_entries + 1 == segment.entries.len();
                    segment.finished && dead && !segment.is_pinned()
                });
                unused.next().map(|(number, _)| *number)
            };
            let Some(number) = next else { break };
            self.state().segments.remove(&number);
            self.env
                .disk()
                .remove(&segment_path(&self.directory, number))
                .await?;
            removed = true;
        }
        if removed {
            self.env.disk().sync_directory(&self.directory).await?;
        }
        Ok(removed)
    }

    /// The first live entry at or after (`segment`, `ordinal`), for scrubbing in disk order.
    pub(crate) fn next_live(&self, segment: u64, ordinal: u32) -> Option<(u64, u32, BlobName)> {
        let state = self.state();
        for (number, candidate) in state.segments.range(segment..) {
            let from = if *number == segment {
                narrow(u64::from(ordinal))
            } else {
                0
            };
            for index in from..candidate.entries.len() {
                let ordinal = crate::codec::word(index);
                if !candidate.is_dead(ordinal) {
                    return Some((*number, ordinal, candidate.entries[index].0));
                }
            }
        }
        None
    }

    pub(crate) fn usage(&self) -> ExtentUsage {
        let state = self.state();
        let mut usage = ExtentUsage::default();
        for segment in state.segments.values() {
            usage.file_bytes += segment.file_bytes;
            usage.data_bytes += segment.data_bytes;
            usage.dead_bytes += segment.dead_bytes;
        }
        usage
    }
}

fn zeros(length: u64) -> Bytes {
    const ZEROS: [u8; 64] = [0; 64];
    Bytes::from_static(&ZEROS[..narrow(length)])
}

/// Reads the chunks that cover a range of a payload, verifies them, and cuts the range out.
async fn read_chunks(
    file: &dyn File,
    payload_at: u64,
    meta: &Meta,
    offset: usize,
    length: usize,
) -> Result<Bytes, FetchError> {
    let payload = narrow(u64::from(meta.payload_bytes));
    assert!(
        offset + length <= payload,
        "the store checks ranges before it reads"
    );
    let first = offset / CHUNK_BYTES;
    let start = first * CHUNK_BYTES;
    let end = (offset + length).next_multiple_of(CHUNK_BYTES).min(payload);
    let bytes = file.read_at(payload_at + wide(start), end - start).await?;
    if bytes.len() != end - start || !chunks_match(&bytes, &meta.sums[first..]) {
        return Err(FetchError::Damaged);
    }
    Ok(bytes.slice(offset - start..offset - start + length))
}

/// Whether every chunk of `bytes`, which begin at a chunk's start, has its checksum.
pub(crate) fn chunks_match(bytes: &[u8], sums: &[u64]) -> bool {
    if active(Mutant::DigestUnchecked) {
        return true;
    }
    let mut pairs = bytes.chunks(CHUNK_BYTES).zip(sums);
    bytes.len().div_ceil(CHUNK_BYTES) <= sums.len()
        && pairs.all(|(chunk, sum)| xxh3_64(chunk) == *sum)
}
