//! One file as a disk with a volatile cache holds it: what a reader sees, what would survive now,
//! and the ordered list of changes in between.
//!
//! Contents are sparse 4 KiB pages shared by reference, so that a preallocated or copied file costs
//! nothing. Invariants: a page that no pending change touches is durable as the reader sees it; every
//! page that some pending change touches has its durable form in `shadow`. After a power loss each
//! sector holds its durable form or that of some pending change, and nothing else.
//! Does not: know of time (it is an argument), names or faults.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::seeds::Dice;

/// A page of contents.
pub(super) const PAGE_BYTES: u64 = 4_096;

const PAGE: usize = 4_096;

/// What a device writes as a whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

type Page = Arc<[u8; PAGE]>;

/// What a power loss leaves of the changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Survival {
    /// All of them.
    Everything,
    /// None of them.
    Nothing,
    /// Those before some point in order; the one at that point is torn.
    Prefix,
    /// Each change as a whole, or not at all, at random.
    Changes,
    /// Each sector of each change at random.
    Sectors,
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset within a page or buffer fits a usize")
}

fn long(length: usize) -> u64 {
    u64::try_from(length).expect("a length fits 64 bits")
}

/// Sparse contents.
#[derive(Debug, Clone, Default)]
struct Sparse {
    length: u64,
    pages: BTreeMap<u64, Page>,
}

impl Sparse {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + long(done);
            let (number, within) = (at / PAGE_BYTES, position(at % PAGE_BYTES));
            let count = (PAGE - within).min(data.len() - done);
            let part = &data[done..done + count];
            if let Ok(whole) = <[u8; PAGE]>::try_from(part) {
                self.pages.insert(number, Arc::new(whole));
            } else {
                let page = self
                    .pages
                    .entry(number)
                    .or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(page)[within..within + count].copy_from_slice(part);
            }
            done += count;
        }
        self.length = self.length.max(offset + long(data.len()));
    }

    fn resize(&mut self, length: u64) {
        if length < self.length {
            self.pages.split_off(&length.div_ceil(PAGE_BYTES));
            let within = position(length % PAGE_BYTES);
            if within > 0
                && let Some(page) = self.pages.get_mut(&(length / PAGE_BYTES))
            {
                Arc::make_mut(page)[within..].fill(0);
            }
        }
        self.length = length;
    }
}

/// A change that is not durable yet.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, data: Bytes },
    Resize { length: u64 },
}

impl Change {
    fn touches(&self, page: u64) -> bool {
        match self {
            Self::Write { offset, data } => {
                let end = offset + long(data.len());
                (offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).contains(&page)
            }
            Self::Resize { length } => page >= length / PAGE_BYTES,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Write { data, .. } => long(data.len()),
            Self::Resize { .. } => 0,
        }
    }
}

#[derive(Debug, Clone)]
struct Pending {
    completes_ns: u64,
    /// A sync that covered it failed: no later sync makes it durable.
    forsaken: bool,
    /// It is durable, and stays in the list only because an earlier change is not: whatever a
    /// power loss leaves of that one, this one lies above it.
    durable: bool,
    change: Change,
}

impl Pending {
    fn new(completes_ns: u64, change: Change) -> Self {
        Self {
            completes_ns,
            forsaken: false,
            durable: false,
            change,
        }
    }

    /// Whether a sync begun at `began_ns` makes it durable.
    fn is_covered(&self, began_ns: u64) -> bool {
        self.completes_ns <= began_ns && !self.forsaken && !self.durable
    }
}

/// One file. See the file's head.
#[derive(Debug, Clone, Default)]
pub(super) struct CachedFile {
    cache: Sparse,
    durable_length: u64,
    shadow: BTreeMap<u64, Option<Page>>,
    pending: VecDeque<Pending>,
}

impl CachedFile {
    pub(super) fn length(&self) -> u64 {
        self.cache.length
    }

    /// Bytes at `offset`, fewer where the file ends; as last durable if `stale`.
    pub(super) fn read(&self, offset: u64, length: usize, stale: bool) -> Vec<u8> {
        let available = self.cache.length.saturating_sub(offset).min(long(length));
        let mut bytes = vec![0; position(available)];
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + long(done);
            let (number, within) = (at / PAGE_BYTES, position(at % PAGE_BYTES));
            let count = (PAGE - within).min(bytes.len() - done);
            let page = match self.shadow.get(&number) {
                Some(durable) if stale => durable.as_ref(),
                _ => self.cache.pages.get(&number),
            };
            if let Some(page) = page {
                bytes[done..done + count].copy_from_slice(&page[within..within + count]);
            }
            done += count;
        }
        bytes
    }

    /// Writes; the device completes it at `completes_ns`.
    pub(super) fn write(&mut self, offset: u64, data: Bytes, completes_ns: u64) {
        if data.is_empty() {
            return;
        }
        let end = offset + long(data.len());
        for page in offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            self.keep_durable(page);
        }
        self.cache.write(offset, &data);
        let change = Change::Write { offset, data };
        self.pending.push_back(Pending::new(completes_ns, change));
    }

    /// Writes some sectors of `data` only, at random: a write that failed.
    pub(super) fn write_partly(&mut self, offset: u64, data: &Bytes, at_ns: u64, dice: Dice) {
        for (number, (at, part)) in sectors(offset, data).enumerate() {
            if dice.chance(long(number), 500_000) {
                self.write(at, data.slice(part), at_ns);
            }
        }
    }

    /// Sets the length.
    pub(super) fn resize(&mut self, length: u64, completes_ns: u64) {
        if length < self.cache.length {
            let from = length / PAGE_BYTES;
            let touched: Vec<u64> = self
                .cache
                .pages
                .range(from..)
                .map(|(page, _)| *page)
                .collect();
            for page in touched {
                self.keep_durable(page);
            }
        }
        self.cache.resize(length);
        let change = Change::Resize { length };
        self.pending.push_back(Pending::new(completes_ns, change));
    }

    /// Remembers the durable form of a page that is about to change.
    fn keep_durable(&mut self, page: u64) {
        let cache = &self.cache;
        self.shadow
            .entry(page)
            .or_insert_with(|| cache.pages.get(&page).cloned());
    }

    /// Bytes that a sync begun at `began_ns` has to write.
    pub(super) fn dirty_bytes(&self, began_ns: u64) -> u64 {
        self.pending
            .iter()
            .filter(|pending| pending.is_covered(began_ns))
            .map(|pending| pending.change.size())
            .sum()
    }

    /// A sync begun at `began_ns` succeeded: what had completed by then is durable.
    pub(super) fn sync(&mut self, began_ns: u64) {
        let mut pending = std::mem::take(&mut self.pending);
        let first = pending
            .iter()
            .position(|pending| pending.is_covered(began_ns));
        for pending in pending
            .iter_mut()
            .filter(|pending| pending.is_covered(began_ns))
        {
            pending.durable = true;
        }
        if pending.iter().all(|pending| pending.durable) {
            self.shadow.clear();
            self.durable_length = self.cache.length;
            return;
        }
        // In the order of the changes: a later one that was durable before lies above.
        let first = first.unwrap_or(pending.len());
        for Pending { change, .. } in pending.range(first..).filter(|pending| pending.durable) {
            self.harden(change);
        }
        while pending.pop_front_if(|pending| pending.durable).is_some() {}
        self.shadow.retain(|page, _| {
            pending
                .iter()
                .any(|rest| !rest.durable && rest.change.touches(*page))
        });
        self.pending = pending;
    }

    /// Applies a change to the durable form of the pages that have one apart.
    fn harden(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => {
                let end = offset + long(data.len());
                self.durable_length = self.durable_length.max(end);
                for (number, durable) in self
                    .shadow
                    .range_mut(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES))
                {
                    let page = durable.get_or_insert_with(|| Arc::new([0; PAGE]));
                    let start = number * PAGE_BYTES;
                    let (low, high) = (start.max(*offset), (start + PAGE_BYTES).min(end));
                    let source = position(low - offset)..position(high - offset);
                    let target = position(low - start)..position(high - start);
                    Arc::make_mut(page)[target].copy_from_slice(&data[source]);
                }
            }
            Change::Resize { length } => {
                if *length < self.durable_length {
                    for (number, durable) in self.shadow.range_mut(length / PAGE_BYTES..) {
                        let within = length.saturating_sub(number * PAGE_BYTES);
                        if within == 0 {
                            *durable = None;
                        } else if let Some(page) = durable {
                            Arc::make_mut(page)[position(within)..].fill(0);
                        }
                    }
                }
                self.durable_length = *length;
            }
        }
    }

    /// A sync begun at `began_ns` failed: what it covered is never made durable by a later one.
    pub(super) fn sync_failed(&mut self, began_ns: u64) {
        for pending in &mut self.pending {
            pending.forsaken |= pending.completes_ns <= began_ns;
        }
    }

    /// The power fails. What is left is durable.
    pub(super) fn power_loss(&mut self, survival: Survival, dice: Dice) {
        let mut left = std::mem::take(&mut self.cache);
        for (page, durable) in std::mem::take(&mut self.shadow) {
            match durable {
                Some(durable) => drop(left.pages.insert(page, durable)),
                None => drop(left.pages.remove(&page)),
            }
        }
        left.length = self.durable_length;
        let pending = std::mem::take(&mut self.pending);
        let point = dice.below(u64::MAX, long(pending.len()) + 1);
        for (
            number,
            Pending {
                change, durable, ..
            },
        ) in pending.iter().enumerate()
        {
            let dice = dice.of(long(number));
            let (whole, torn) = match survival {
                _ if *durable => (true, false),
                Survival::Everything => (true, false),
                Survival::Nothing => (false, false),
                Survival::Prefix => (long(number) < point, long(number) == point),
                Survival::Changes => (dice.chance(0, 500_000), false),
                Survival::Sectors => (dice.chance(0, 200_000), true),
            };
            leave(&mut left, change, whole, torn, dice);
        }
        self.durable_length = left.length;
        self.cache = left;
    }

    /// Flips a bit of the medium; false when the place was never written.
    pub(super) fn rot(&mut self, offset: u64, bit: u32) -> bool {
        let (number, within) = (offset / PAGE_BYTES, position(offset % PAGE_BYTES));
        let mask = 1_u8 << (bit % 8);
        let mut rotted = false;
        if let Some(page) = self.cache.pages.get_mut(&number) {
            Arc::make_mut(page)[within] ^= mask;
            rotted = true;
        }
        if let Some(Some(page)) = self.shadow.get_mut(&number) {
            Arc::make_mut(page)[within] ^= mask;
            rotted = true;
        }
        rotted
    }

    /// The offsets of the pages that hold anything.
    pub(super) fn written_pages(&self) -> impl ExactSizeIterator<Item = u64> {
        self.cache.pages.keys().map(|page| page * PAGE_BYTES)
    }
}

/// Leaves a change on the medium: whole, torn at random sectors, or not at all.
fn leave(left: &mut Sparse, change: &Change, whole: bool, torn: bool, dice: Dice) {
    match change {
        Change::Resize { length } if whole => left.resize(*length),
        Change::Resize { .. } => {}
        Change::Write { offset, data } if whole => left.write(*offset, data),
        Change::Write { offset, data } if torn => {
            // The length and the data are made durable apart from each other.
            let end = offset + long(data.len());
            let grows = end > left.length;
            if grows && dice.chance(1, 500_000) {
                left.resize(end);
            }
            let rate_ppm = [100_000, 500_000, 900_000][position(dice.below(2, 3))];
            for (number, (at, part)) in sectors(*offset, data).enumerate() {
                if dice.chance(3 + long(number), rate_ppm) {
                    left.write(at, &data[part]);
                }
            }
        }
        Change::Write { .. } => {}
    }
}

/// The parts of a write at `offset` that fall into different sectors: where, and which bytes.
fn sectors(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = offset + long(data.len());
    (offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).map(move |sector| {
        let low = (sector * SECTOR_BYTES).max(offset);
        let high = ((sector + 1) * SECTOR_BYTES).min(end);
        (low, position(low - offset)..position(high - offset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The obvious model: every change ever made, in order, and whether it is durable.
    #[derive(Default)]
    struct Model(Vec<(u64, bool, Change)>);

    impl Model {
        fn change(&mut self, completes_ns: u64, change: Change) {
            self.0.push((completes_ns, false, change));
        }

        fn sync(&mut self, began_ns: u64) {
            for (completes_ns, durable, _) in &mut self.0 {
                *durable |= *completes_ns <= began_ns;
            }
        }

        fn contents(&self, durable_only: bool) -> Vec<u8> {
            let mut contents = Vec::new();
            for (_, durable, change) in &self.0 {
                match change {
                    _ if durable_only && !durable => {}
                    Change::Resize { length } => contents.resize(position(*length), 0),
                    Change::Write { offset, data } => {
                        let (start, end) = (position(*offset), position(*offset) + data.len());
                        contents.resize(contents.len().max(end), 0);
                        contents[start..end].copy_from_slice(data);
                    }
                }
            }
            contents
        }
    }

    fn whole(file: &CachedFile, stale: bool) -> Vec<u8> {
        file.read(0, position(file.length()), stale)
    }

    /// Random changes and syncs, some of which overlap; then the power fails.
    fn compare(seed: u64, survival: Survival) -> (CachedFile, Model) {
        let dice = Dice::new(seed, "cached file");
        let (mut file, mut model) = (CachedFile::default(), Model::default());
        for step in 0..60 {
            let dice = dice.of(step);
            // Some changes complete only after the next syncs have begun.
            let completes_ns = step + dice.below(1, 2) * 3;
            match dice.below(0, 10) {
                0 | 1 => {
                    file.sync(step);
                    model.sync(step);
                }
                2 if step > 50 || dice.chance(9, 300_000) => {
                    let length = dice.below(2, 20_000);
                    file.resize(length, completes_ns);
                    model.change(completes_ns, Change::Resize { length });
                }
                _ => {
                    let (offset, size) = (dice.below(2, 16_000), 1 + dice.below(3, 6_000));
                    let byte = u8::try_from(step + 1).expect("few steps");
                    let data = Bytes::from(vec![byte; position(size)]);
                    file.write(offset, data.clone(), completes_ns);
                    model.change(completes_ns, Change::Write { offset, data });
                }
            }
            let seen = model.contents(false);
            assert_eq!(whole(&file, false), seen, "seed {seed}, step {step}");
        }
        file.power_loss(survival, dice);
        (file, model)
    }

    #[test]
    fn what_is_seen_and_what_survives_agree_with_a_plain_model() {
        for seed in 0..200 {
            let (file, model) = compare(seed, Survival::Nothing);
            assert_eq!(whole(&file, false), model.contents(true), "seed {seed}");
            let (file, model) = compare(seed, Survival::Everything);
            assert_eq!(whole(&file, false), model.contents(false), "seed {seed}");
        }
    }

    #[test]
    fn a_torn_file_holds_only_what_someone_wrote() {
        for seed in 0..200 {
            let (file, model) = compare(seed, Survival::Sectors);
            for (at, byte) in whole(&file, false).iter().enumerate() {
                let written = model.0.iter().any(|(_, _, change)| match change {
                    Change::Write { offset, data } => {
                        at.checked_sub(position(*offset))
                            .and_then(|at| data.get(at))
                            == Some(byte)
                    }
                    Change::Resize { .. } => false,
                });
                assert!(written || *byte == 0, "seed {seed} at {at}");
            }
        }
    }
}
