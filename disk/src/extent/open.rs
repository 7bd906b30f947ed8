//! Opens the extent store: reads footers, scans the segment that has none, and finishes that.
//!
//! Where there is no room for its footer, that segment stays the one being written.
//!
//! Invariants: an entry without a footer is verified whole before it is believed, because its sync
//! may never have happened; a file without a valid entry is removed; where entries are gone and not
//! even their names are known, that is told; nothing is written back that was not read whole.
//! Does not: decide which of two copies of a name counts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{DiskError, Env, File, OpenMode, Phase, StoreId};

use super::format::{
    BATCH_ALIGNMENT, DATA_AT, DEAD_SLOT_AT, DEAD_SLOT_BYTES, ENTRIES_MAX, ENTRY_ALIGNMENT,
    TRAILER_BYTES, decode_dead, decode_footer, decode_meta, decode_trailer, encode_flagged,
    segment_number, segment_path,
};
use super::{ExtentConfig, Extents, Found, Open, Segment, State, chunks_match};
use crate::codec::{align_up, narrow, wide, word};

/// How often what does not read whole is read before it counts as damaged.
const LOOKS: usize = 3;

impl Extents {
    /// Opens the segments in `directory`.
    pub(crate) async fn open(
        env: &Env,
        directory: &str,
        store: StoreId,
        config: ExtentConfig,
    ) -> Result<(Self, Opened), DiskError> {
        let extents = Self {
            env: env.clone(),
            directory: directory.to_owned(),
            store,
            config,
            state: Mutex::new(State {
                segments: BTreeMap::new(),
                open: None,
                next_number: 1,
            }),
        };
        let mut numbers: Vec<u64> = Vec::new();
        for name in env.disk().list(directory).await? {
            numbers.extend(segment_number(&name));
        }
        numbers.sort_unstable();
        let mut opened = Opened::default();
        for number in numbers {
            extents.state().next_number = number + 1;
            let (found, names_lost) = extents.open_existing(number).await?;
            opened.found.extend(found);
            opened.names_lost |= names_lost;
        }
        Ok((extents, opened))
    }

    async fn open_existing(&self, number: u64) -> Result<(Vec<Found>, bool), DiskError> {
        let path = segment_path(&self.directory, number);
        let file = self.env.disk().open(&path, OpenMode::Existing).await?;
        let length = file.length().await?;
        let indexed = read_footer(&*file, self.store, number, length).await?;
        let mut names_lost = false;
        let (found, unfinished) = match indexed {
            Some(entries) => (entries, None),
            None => {
                let mut scanned = read_scanned(&*file, self.store, number, length).await?;
                names_lost = scanned.has_unnamed();
                if scanned.found.is_empty() {
                    self.env.disk().remove(&path).await?;
                    return Ok((scanned.found, names_lost));
                }
                (std::mem::take(&mut scanned.found), Some(scanned))
            }
        };
        let mut segment = Segment::new(Arc::clone(&file), length);
        segment.finished = unfinished.is_none();
        for entry in &found {
            let bytes = align_up(entry.meta.entry_bytes(), ENTRY_ALIGNMENT);
            segment.push_lost_until(entry.place.ordinal);
            segment.push(entry.meta.name, word(narrow(bytes)), entry.place.offset);
        }
        if let Some((sequence, bits)) = read_dead(&*file, self.store, number).await? {
            segment.apply_dead(sequence, &bits);
        }
        let alive = |entry: &Found| !segment.is_dead(entry.place.ordinal);
        let (live, dead): (Vec<_>, Vec<_>) = found.into_iter().partition(alive);
        self.state().segments.insert(number, segment);
        if let Some(scanned) = unfinished {
            self.finish_scanned(number, &scanned, &live, dead).await?;
        }
        Ok((live, names_lost))
    }

    /// Gives a scanned segment its footer. What was read may have come from a cache, so the entries
    /// are written again and synced first: those that were read whole, for where one was not, the
    /// device may hold better than it said.
    async fn finish_scanned(
        &self,
        number: u64,
        scanned: &Scanned,
        live: &[Found],
        dead: Vec<Found>,
    ) -> Result<(), DiskError> {
        let _phase = self.env.phase(Phase::Seal);
        let file = Arc::clone(&self.state().segments[&number].file);
        let end = scanned.end;
        let mut entries: Vec<&Found> = live.iter().chain(&dead).collect();
        entries.sort_by_key(|found| found.place.ordinal);
        for run in sound_runs(&entries, end) {
            let bytes = scanned.bytes.slice(narrow(run.start)..narrow(run.end));
            file.write_at(run.start, vec![bytes]).await?;
        }
        // Synced apart: a footer that outlived a crash without its entries would be believed.
        if !active(Mutant::FooterBeforeEntries) {
            file.sync().await?;
        }
        let encoded: Vec<u8> = entries
            .into_iter()
            .flat_map(|found| encode_flagged(self.store, found.place, &found.meta, found.bad))
            .collect();
        match self.finish(number, end, &encoded).await {
            Err(DiskError::NoSpace { .. }) if self.state().open.is_none() => {
                // What follows is appended as if nothing had happened since it was written.
                self.state().open = Some(Open {
                    number,
                    end: align_up(end, BATCH_ALIGNMENT),
                    footer: encoded,
                });
                Ok(())
            }
            finished => finished,
        }
    }
}

/// What the segments hold.
#[derive(Default)]
pub(crate) struct Opened {
    /// The entries that are not dead.
    pub(crate) found: Vec<Found>,
    /// There were more, of which not even the names are known.
    pub(crate) names_lost: bool,
}

/// A segment without a footer, as far as it could be read.
struct Scanned {
    bytes: Bytes,
    found: Vec<Found>,
    /// Where the last entry ends.
    end: u64,
}

impl Scanned {
    fn of(store: StoreId, number: u64, bytes: Bytes) -> Self {
        let (found, end) = scan(store, number, &bytes);
        Self { bytes, found, end }
    }

    /// Whether there have been entries that the scan did not find: their ordinals are missing between
    /// those that are there, or there is something and no entry in it. (A batch that a crash tore may
    /// look the same; the store then only compares itself with its shards.)
    fn has_unnamed(&self) -> bool {
        let mut expected = 0;
        for entry in &self.found {
            if entry.place.ordinal != expected {
                return true;
            }
            expected = entry.place.ordinal + 1;
        }
        let data = self.bytes.get(narrow(DATA_AT)..).unwrap_or_default();
        self.found.is_empty() && data.iter().any(|byte| *byte != 0)
    }

    /// Takes over what another look read better.
    fn mend(&mut self, again: Self) {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        for entry in again.found {
            let ordinal = |found: &Found| found.place.ordinal;
            let at = match self.found.binary_search_by_key(&ordinal(&entry), ordinal) {
                Ok(at) if self.found[at].bad && !entry.bad => Some(at),
                Ok(_) => None,
                Err(at) => {
                    self.found.insert(at, entry.clone());
                    Some(at)
                }
            };
            if let Some(at) = at {
                let range = narrow(entry.place.offset)..narrow(end_of(&entry));
                let range = range.start..range.end.min(bytes.len());
                bytes[range.clone()].copy_from_slice(&again.bytes[range]);
                self.found[at] = entry;
            }
        }
        self.end = self.end.max(again.end);
        self.bytes = bytes.freeze();
    }
}

fn end_of(entry: &Found) -> u64 {
    entry.place.offset + align_up(entry.meta.entry_bytes(), ENTRY_ALIGNMENT)
}

/// Reads a segment without a footer, and again where it does not read whole: a device may read wrong
/// once what it holds well.
async fn read_scanned(
    file: &dyn File,
    store: StoreId,
    number: u64,
    length: u64,
) -> Result<Scanned, DiskError> {
    let length = narrow(length);
    let mut scanned = Scanned::of(store, number, file.read_at(0, length).await?);
    for _ in 1..LOOKS {
        if !scanned.has_unnamed() && scanned.found.iter().all(|entry| !entry.bad) {
            break;
        }
        scanned.mend(Scanned::of(store, number, file.read_at(0, length).await?));
    }
    Ok(scanned)
}

/// The blocks below `end` that hold something of an entry that was read whole, without what they hold
/// of one that was not.
fn sound_runs(entries: &[&Found], end: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.bad) {
        let mut start = (entry.place.offset / BATCH_ALIGNMENT * BATCH_ALIGNMENT).max(DATA_AT);
        let mut until = align_up(end_of(entry), BATCH_ALIGNMENT).min(end);
        if let Some(before) = entries[..at].last().filter(|before| before.bad) {
            start = start.max(end_of(before));
        }
        if let Some(after) = entries.get(at + 1).filter(|after| after.bad) {
            until = until.min(after.place.offset);
        }
        match runs.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(until),
            _ => runs.push(start..until),
        }
    }
    runs
}

/// The entries that a footer names, if there is one.
async fn read_footer(
    file: &dyn File,
    store: StoreId,
    number: u64,
    length: u64,
) -> Result<Option<Vec<Found>>, DiskError> {
    for _ in 0..LOOKS {
        let entries = look_for_footer(file, store, number, length).await?;
        if entries.is_some() {
            return Ok(entries);
        }
    }
    Ok(None)
}

async fn look_for_footer(
    file: &dyn File,
    store: StoreId,
    number: u64,
    length: u64,
) -> Result<Option<Vec<Found>>, DiskError> {
    let Some(trailer_at) = length.checked_sub(wide(TRAILER_BYTES)) else {
        return Ok(None);
    };
    let trailer = file.read_at(trailer_at, TRAILER_BYTES).await?;
    let Some((at, bytes)) = decode_trailer(store, number, &trailer) else {
        return Ok(None);
    };
    if at.checked_add(bytes).is_none_or(|end| end > length) {
        return Ok(None);
    }
    let entries = file.read_at(at, narrow(bytes)).await?;
    Ok(decode_footer(store, number, &entries, &trailer))
}

async fn read_dead(
    file: &dyn File,
    store: StoreId,
    number: u64,
) -> Result<Option<(u64, Vec<u8>)>, DiskError> {
    let mut best: Option<(u64, Vec<u8>)> = None;
    for offset in DEAD_SLOT_AT {
        for _ in 0..LOOKS {
            let bytes = file.read_at(offset, DEAD_SLOT_BYTES).await?;
            let read = decode_dead(store, number, &bytes);
            let is_blank = bytes.iter().all(|byte| *byte == 0);
            let is_final = read.is_some() || is_blank;
            if let Some((sequence, bits)) = read
                && best.as_ref().is_none_or(|(highest, _)| sequence > *highest)
            {
                best = Some((sequence, bits));
            }
            if is_final {
                break;
            }
        }
    }
    Ok(best)
}

/// Every entry of a segment without a footer, and where the last one ends.
fn scan(store: StoreId, number: u64, bytes: &Bytes) -> (Vec<Found>, u64) {
    let mut found: Vec<Found> = Vec::new();
    let mut at = DATA_AT;
    let mut end = DATA_AT;
    while at < wide(bytes.len()) {
        let rest = &bytes[narrow(at)..];
        let entry = decode_meta(store, number, rest).filter(|entry| {
            let (place, meta) = (entry.place, &entry.meta);
            let expected = found.last().map_or(0, |last| last.place.ordinal + 1);
            place.offset == at
                && place.ordinal >= expected
                && narrow(u64::from(place.ordinal)) < ENTRIES_MAX
                && meta.entry_bytes() <= wide(rest.len())
        });
        let Some(mut entry) = entry else {
            let next = align_up(at + 1, BATCH_ALIGNMENT);
            at = next;
            continue;
        };
        let meta = &entry.meta;
        let payload = &rest[meta.encoded_bytes()..narrow(meta.entry_bytes())];
        entry.bad = !chunks_match(payload, &meta.sums);
        at += align_up(meta.entry_bytes(), ENTRY_ALIGNMENT);
        end = at;
        found.push(entry);
    }
    (found, end.min(align_up(wide(bytes.len()), BATCH_ALIGNMENT)))
}
