//! The damaged copies of one store: which are known, which is to be repaired next.
//!
//! Invariants: a copy that is listed here is not acknowledged or confirmed; it leaves the list only
//! when it was found sound, written anew, or deleted. The list is bounded: what finds no room is
//! found again by a reader or by the scrub.
//! Does not: read, fetch or write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hedgerow_env::{BlobName, Instant};

/// Most damaged copies known at a time. A store with more has lost a disk's worth, which is a
/// matter of replacing it.
pub const MAXIMUM_WOUNDS: usize = 16 << 10;

/// First pause after a repair that found no sound copy; doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest such pause.
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// Counters of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WoundCounters {
    /// Copies known to be damaged now.
    pub damaged: u64,
    /// Copies found damaged since the start.
    pub found: u64,
    /// Copies written anew since the start.
    pub repaired: u64,
}

/// The damaged copies of one store.
#[derive(Debug, Default)]
pub struct Wounds {
    listed: BTreeMap<BlobName, (Instant, u32)>,
    due: BTreeSet<(Instant, BlobName)>,
    found: u64,
    repaired: u64,
}

impl Wounds {
    /// The copy of `name` was found damaged. True when it is news and a repair is wanted.
    pub fn found(&mut self, now: Instant, name: BlobName) -> bool {
        if self.listed.contains_key(&name) || self.listed.len() >= MAXIMUM_WOUNDS {
            return false;
        }
        self.found += 1;
        self.listed.insert(name, (now, 0));
        self.due.insert((now, name));
        true
    }

    /// Whether the copy of `name` is known to be damaged.
    #[must_use]
    pub fn contains(&self, name: BlobName) -> bool {
        self.listed.contains_key(&name)
    }

    /// The copy to repair now; it stays listed, and comes up again later unless settled.
    pub fn next(&mut self, now: Instant) -> Option<BlobName> {
        let (due, name) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        let (at, failures) = self.listed.get_mut(&name).expect("what is due is listed");
        let pause = RETRY_FIRST * 2_u32.pow((*failures).min(16));
        *failures = failures.saturating_add(1);
        *at = now + pause.min(RETRY_LIMIT);
        self.due.insert((*at, name));
        Some(name)
    }

    /// When [`Wounds::next`] will answer again; `None` when nothing is listed.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The copy of `name` was written anew.
    pub fn repaired(&mut self, name: BlobName) {
        self.repaired += 1;
        self.settled(name);
    }

    /// The copy of `name` is sound after all, or gone.
    pub fn settled(&mut self, name: BlobName) {
        if let Some((at, _)) = self.listed.remove(&name) {
            self.due.remove(&(at, name));
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> WoundCounters {
        WoundCounters {
            damaged: u64::try_from(self.listed.len()).expect("bounded"),
            found: self.found,
            repaired: self.repaired,
        }
    }
}
