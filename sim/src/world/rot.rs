//! Rot: bits of the medium that change by themselves.
//!
//! Invariant: what rots *settled* is of a journal, was written whole, in this life of the machine, and has been
//! followed by more writes than a journal has on the way at a time, or by the mark that a journal writes when it
//! has nothing to do. So whatever it held was called durable by something that is still to be read, and nobody can
//! take it for a write that was never finished.

use std::collections::VecDeque;

use super::device::{Device, DiskArea, TAG_PLACE};

/// Writes of journals that are remembered.
const REMEMBERED: usize = 48;
/// Writes that follow one that has settled. Journals have four on the way at most.
const FOLLOWING: usize = 12;

/// A journal with nothing to do has long written its mark: it waits 20 ms.
const QUIET_NS: u64 = 250_000_000;
/// The last of what has settled, of which every other bit is.
const LAST: u64 = 3;

/// Where journals were written to, the latest last.
#[derive(Debug, Default)]
pub(super) struct WrittenPlaces(VecDeque<Place>);

#[derive(Debug)]
struct Place {
    path: String,
    offset: u64,
    bytes: u64,
    at_ns: u64,
}

impl Place {
    fn overlaps(&self, other: &Self) -> bool {
        let (end, other_end) = (self.offset + self.bytes, other.offset + other.bytes);
        self.path == other.path && self.offset < other_end && other.offset < end
    }
}

impl WrittenPlaces {
    /// Something was written whole.
    pub(super) fn note(&mut self, path: &str, offset: u64, bytes: u64, at_ns: u64) {
        if bytes == 0 || !DiskArea::Journal.holds(path) {
            return;
        }
        let place = Place {
            path: path.to_owned(),
            offset,
            bytes,
            at_ns,
        };
        self.0.retain(|older| !older.overlaps(&place));
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(place);
    }

    /// What was written so far may be gone.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Everything that has settled, the latest first. The machine runs, and has run since.
    fn settled(&self, now_ns: u64) -> impl Iterator<Item = &Place> {
        let places = self.0.iter().rev().enumerate();
        let settled = places
            .filter(move |(later, place)| *later >= FOLLOWING || now_ns - place.at_ns >= QUIET_NS);
        settled.map(|(_, place)| place)
    }
}

impl Device {
    /// Flips one bit of a file; false when nothing was ever written there.
    pub(super) fn rot(&self, path: &str, offset: u64, bit: u32) -> bool {
        self.lock()
            .files
            .named(path)
            .is_some_and(|file| file.rot(offset, bit))
    }

    /// Flips one bit somewhere in a written page of an area that `choice` chooses; the path and
    /// offset.
    pub(super) fn rot_somewhere(&self, area: DiskArea, choice: u64) -> Option<(String, u64)> {
        let dice = self.dice.of(TAG_PLACE).of(choice);
        let mut state = self.lock();
        let mut places = Vec::new();
        let paths = state.files.paths().into_iter();
        for path in paths.filter(|path| area.holds(path)) {
            let pages = state.files.named(&path)?.written_pages();
            places.extend(pages.map(|offset| (path.clone(), offset)));
        }
        let count = u64::try_from(places.len()).expect("a length fits 64 bits");
        let at = usize::try_from(dice.below(0, count)).expect("below a length");
        let (path, page) = places.get(at)?.clone();
        let offset = page + dice.below(1, 4_096);
        let bit = u32::try_from(dice.below(2, 8)).expect("below eight");
        state
            .files
            .named(&path)?
            .rot(offset, bit)
            .then_some((path, offset))
    }

    /// Flips one bit of a settled write of the journal that `choice` chooses; the path and offset.
    pub(super) fn rot_settled(&self, choice: u64, now_ns: u64) -> Option<(String, u64)> {
        let dice = self.dice.of(TAG_PLACE).of(choice);
        let mut state = self.lock();
        let mut count = u64::try_from(state.written.settled(now_ns).count()).expect("few");
        if dice.below(3, 2) == 0 {
            count = count.min(LAST);
        }
        let at = usize::try_from(dice.below(0, count)).expect("below a length");
        let place = state.written.settled(now_ns).nth(at)?;
        let (path, offset) = (
            place.path.clone(),
            place.offset + dice.below(1, place.bytes),
        );
        let bit = u32::try_from(dice.below(2, 8)).expect("below eight");
        state
            .files
            .named(&path)?
            .rot(offset, bit)
            .then_some((path, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_followed_by_many_and_is_not_overwritten_has_settled() {
        let mut written = WrittenPlaces::default();
        let offsets = |written: &WrittenPlaces| -> Vec<u64> {
            written
                .settled(300_000_000)
                .map(|place| place.offset)
                .collect()
        };
        written.note("0/extents/a", 0, 512, 100_000_000);
        for number in 0..14 {
            written.note("0/journal/a", number * 512, 512, 100_000_000);
        }
        assert_eq!(offsets(&written), [512, 0]);
        written.note("0/journal/a", 0, 512, 100_000_000);
        assert_eq!(offsets(&written), [1024, 512]);
        written.note("0/journal/b", 4096, 512, 50_000_000);
        assert_eq!(offsets(&written), [4096, 1536, 1024, 512]);
        written.forget();
        assert!(offsets(&written).is_empty());
    }
}
