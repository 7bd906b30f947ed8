//! A store's reading of one shard's feed: what is due, what is confirmed, how far it is handled.
//!
//! Invariants:
//! - [`Feed::handled`] covers a batch only when every change of it and of all earlier batches is
//!   done; a crash therefore repeats changes, and never skips one;
//! - a blob stays listed until the shard took its CONFIRM, or the store may no longer want it: an
//!   answer that was not seen, or *unknown*, is tried again later;
//! - the list is bounded: when it is full, nothing more is pulled.
//!
//! Does not: perform anything. Time is an argument; all changes but `Incomplete` are applied by the
//! driver before it hands the batch over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, Instant, PlacementEpoch, StoreId};

/// Times and limits of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedConfig {
    /// Pause between pulls while there is news: long enough that changes gather into batches.
    pub active_pause: Duration,
    /// The pause doubles up to this while there is none.
    pub idle_pause: Duration,
    /// Pause between two pulls that are asked for at once: reasons that follow one another closely
    /// must not become a pull each.
    pub soon_pause: Duration,
    /// A blob that is lacking may still be on its way from the member that coordinates the write;
    /// it is not fetched before this has passed.
    pub patience: Duration,
    /// First pause after a failed fetch or confirmation; doubles with each further one.
    pub retry_first: Duration,
    /// Longest such pause.
    pub retry_limit: Duration,
    /// How often the handled position is made durable and reported, at most.
    pub persist_interval: Duration,
    /// Most changes in one pull.
    pub page: u32,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            active_pause: Duration::from_millis(200),
            idle_pause: Duration::from_secs(1),
            soon_pause: Duration::from_millis(50),
            patience: Duration::from_millis(500),
            retry_first: Duration::from_millis(100),
            retry_limit: Duration::from_secs(10),
            persist_interval: Duration::from_secs(1),
            page: PULL_LIMIT,
        }
    }
}

/// Most blobs listed at a time; about 3 MiB of names.
pub const MAXIMUM_LISTED: usize = 16 << 10;

/// Most changes in one pull, usually.
pub const PULL_LIMIT: u32 = 1024;

/// CONFIRMs answered *unknown* after which the shard is asked what became of the name.
pub const UNKNOWN_LIMIT: u32 = 3;

/// How often a position that moved without any change is made durable and reported. The report also
/// lets the shard go on with listing what the store lacks.
const IDLE_PERSIST_INTERVAL: Duration = Duration::from_secs(60);

/// The longest that a driver waits without anything being due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A blob that the shard expects here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The blob.
    pub name: BlobName,
    /// The epoch to confirm it under, at least.
    pub epoch: PlacementEpoch,
    /// Members that have it.
    pub sources: Vec<StoreId>,
}

/// How an attempt to have a blob ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It is held durably.
    Held,
    /// Not yet: try again later.
    Lacking,
    /// It is not wanted here any more.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is under way; look again at this time.
    Waiting(Instant),
    /// The driver looks, or fetches.
    Busy,
    /// Held; to be confirmed.
    Ready,
    /// A CONFIRM is under way.
    Confirming,
}

#[derive(Debug)]
struct Item {
    epoch: PlacementEpoch,
    sources: Vec<StoreId>,
    batches: Vec<u64>,
    state: State,
    listed_at: Instant,
    failures: u32,
    unknowns: u32,
}

#[derive(Debug)]
struct Batch {
    next: u64,
    open: usize,
    news: bool,
}

/// A store's reading of one shard's feed.
#[derive(Debug)]
pub struct Feed {
    config: FeedConfig,
    read: u64,
    handled: u64,
    durable: u64,
    reported: u64,
    /// Changes were handled since the position was made durable.
    unsaved: bool,
    first_batch: u64,
    batches: VecDeque<Batch>,
    items: BTreeMap<BlobName, Item>,
    waiting: BTreeSet<(Instant, BlobName)>,
    ready: BTreeSet<BlobName>,
    busy: usize,
    pause: Duration,
    pull_at: Instant,
    soon_from: Instant,
    persist_at: Instant,
    held: bool,
}

impl Feed {
    /// A feed of which everything up to `handled` was durably handled before.
    #[must_use]
    pub fn new(config: FeedConfig, handled: u64, now: Instant) -> Self {
        Self {
            config,
            read: handled,
            handled,
            durable: handled,
            // The shard may not have heard of it; it is told again with the first news.
            reported: 0,
            unsaved: false,
            first_batch: 0,
            batches: VecDeque::new(),
            items: BTreeMap::new(),
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            busy: 0,
            pause: config.active_pause,
            pull_at: now,
            soon_from: now,
            persist_at: now,
            held: false,
        }
    }

    /// The feed index to pull after, when a pull is due and its changes would find room.
    #[must_use]
    pub fn pull_due(&self, now: Instant) -> Option<u64> {
        let room = MAXIMUM_LISTED - self.items.len().min(MAXIMUM_LISTED);
        let limit = usize::try_from(self.config.page).expect("a small number");
        (self.pull_at <= now && room >= limit).then_some(self.read)
    }

    /// There is reason to think that the shard has news: pull soon.
    pub fn pull_soon(&mut self, now: Instant) {
        self.pull_at = self.pull_at.min(now.max(self.soon_from));
        self.pause = self.config.active_pause;
    }

    /// The pull failed; the next one comes after the longest pause.
    pub fn pull_failed(&mut self, now: Instant) {
        self.pull_at = now + self.config.idle_pause;
    }

    /// A pull was answered. All its changes but `expected` were applied durably by the caller, who
    /// counted them. Positions are the shard's: they are handed back as they came.
    pub fn batch(
        &mut self,
        now: Instant,
        applied: usize,
        expected: Vec<Expected>,
        next: u64,
        more: bool,
    ) {
        let news = applied > 0 || !expected.is_empty();
        self.pause = if news {
            self.config.active_pause
        } else {
            (self.pause * 2).min(self.config.idle_pause)
        };
        self.pull_at = match (more, news) {
            (true, true) => now,
            // The shard prepares more for us; asking at once would only ask in vain.
            (true, false) => now + self.config.soon_pause,
            (false, _) => now + self.pause,
        };
        self.soon_from = now + self.config.soon_pause;
        self.read = next;
        let number = self.first_batch + u64::try_from(self.batches.len()).expect("bounded");
        let mut open = 0;
        for expected in expected {
            if self.list(now, expected, number) {
                open += 1;
            }
        }
        self.batches.push_back(Batch { next, open, news });
        self.advance();
    }

    /// Blobs to look for now, at most `limit` with those already being looked for; each is then
    /// answered by [`Feed::attempted`]. The flag says whether a lacking one may be fetched yet.
    pub fn begin(&mut self, now: Instant, limit: usize) -> Vec<(Expected, bool)> {
        let mut begun = Vec::new();
        while self.busy < limit {
            let Some((due, name)) = self.waiting.first().copied() else {
                break;
            };
            if due > now {
                break;
            }
            self.waiting.pop_first();
            let patience = self.config.patience;
            let item = self.items.get_mut(&name).expect("a waiting blob is listed");
            item.state = State::Busy;
            self.busy += 1;
            let expected = Expected {
                name,
                epoch: item.epoch,
                sources: item.sources.clone(),
            };
            begun.push((expected, now.since(item.listed_at) >= patience));
        }
        begun
    }

    /// How the attempt to have `name` ended.
    pub fn attempted(&mut self, now: Instant, name: BlobName, attempt: Attempt) {
        let Some(item) = self.items.get_mut(&name) else {
            return;
        };
        if item.state != State::Busy {
            // The blob was given up and listed again meanwhile; its new attempt will tell.
            return;
        }
        match attempt {
            Attempt::Held => {
                self.busy -= 1;
                item.state = State::Ready;
                self.ready.insert(name);
            }
            Attempt::Lacking => {
                self.busy -= 1;
                let patient_until = item.listed_at + self.config.patience;
                if now < patient_until {
                    self.wait(name, patient_until);
                } else {
                    self.retry(now, name);
                }
            }
            Attempt::Gone => self.done(name),
        }
    }

    /// Blobs to confirm, at most `limit`; each is then answered by [`Feed::confirmed`],
    /// [`Feed::unconfirmed`] or [`Feed::gone`].
    pub fn confirmable(&mut self, limit: usize) -> Vec<(BlobName, PlacementEpoch)> {
        let mut names = Vec::new();
        while names.len() < limit {
            let Some(name) = self.ready.pop_first() else {
                break;
            };
            let item = self.items.get_mut(&name).expect("a ready blob is listed");
            item.state = State::Confirming;
            names.push((name, item.epoch));
        }
        names
    }

    /// The shard took the CONFIRM of `name`.
    pub fn confirmed(&mut self, name: BlobName) {
        self.done(name);
    }

    /// The shard did not know `name`, or not under that epoch. True when it was so often enough
    /// that the shard should be asked what became of it.
    pub fn unknown(&mut self, now: Instant, name: BlobName) -> bool {
        let Some(item) = self.items.get_mut(&name) else {
            return false;
        };
        item.unknowns += 1;
        let ask = item.unknowns >= UNKNOWN_LIMIT;
        self.retry(now, name);
        ask
    }

    /// Whether the shard took the CONFIRM of `name` was not seen; it is sent again.
    pub fn unconfirmed(&mut self, now: Instant, name: BlobName) {
        self.retry(now, name);
    }

    /// `name` is not wanted here any more.
    pub fn gone(&mut self, name: BlobName) {
        self.done(name);
    }

    /// The position to make durable, when one is due. A position that moved without any change
    /// hardly matters (each proposal to the shard moves it), so that is done rarely.
    #[must_use]
    pub fn persist_due(&self, now: Instant) -> Option<u64> {
        (!self.held && self.handled != self.durable && self.persist_time() <= now)
            .then_some(self.handled)
    }

    /// While `held`, the position does not become durable: after a restart everything is read
    /// again.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    fn persist_time(&self) -> Instant {
        if self.unsaved {
            self.persist_at
        } else {
            self.persist_at + IDLE_PERSIST_INTERVAL
        }
    }

    /// The position is durable.
    pub fn persisted(&mut self, now: Instant, position: u64) {
        self.durable = position;
        self.unsaved = self.handled != position && self.unsaved;
        self.persist_at = now + self.config.persist_interval;
    }

    /// The durable position, when the shard has not taken it yet.
    #[must_use]
    pub fn report_due(&self) -> Option<u64> {
        (self.durable != self.reported).then_some(self.durable)
    }

    /// The shard took the position.
    pub fn reported(&mut self, position: u64) {
        self.reported = position;
    }

    /// Everything up to this feed index is done.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// How many blobs are listed.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.items.len()
    }

    /// When to look again, unless something happens before. `capacity` as in [`Feed::begin`].
    #[must_use]
    pub fn wake_at(&self, now: Instant, capacity: usize) -> Instant {
        let room = MAXIMUM_LISTED.saturating_sub(self.items.len());
        let limit = usize::try_from(self.config.page).expect("a small number");
        let far = now + LOOK_INTERVAL;
        let pull = if room >= limit { self.pull_at } else { far };
        let look = match self.waiting.first() {
            Some((due, _)) if self.busy < capacity => *due,
            _ => far,
        };
        let persist = if self.held || self.handled == self.durable {
            far
        } else {
            self.persist_time()
        };
        pull.min(look).min(persist)
    }

    /// Lists a blob for batch `number`; false when that batch has it already.
    fn list(&mut self, now: Instant, expected: Expected, number: u64) -> bool {
        if let Some(item) = self.items.get_mut(&expected.name) {
            item.epoch = item.epoch.max(expected.epoch);
            item.sources = expected.sources;
            if item.batches.contains(&number) {
                return false;
            }
            item.batches.push(number);
            return true;
        }
        self.waiting.insert((now, expected.name));
        let item = Item {
            epoch: expected.epoch,
            sources: expected.sources,
            batches: vec![number],
            state: State::Waiting(now),
            listed_at: now,
            failures: 0,
            unknowns: 0,
        };
        self.items.insert(expected.name, item);
        true
    }

    fn retry(&mut self, now: Instant, name: BlobName) {
        let Some(item) = self.items.get_mut(&name) else {
            return;
        };
        let doublings = item.failures.min(16);
        item.failures = item.failures.saturating_add(1);
        let pause = self.config.retry_first * 2_u32.pow(doublings);
        let due = now + pause.min(self.config.retry_limit);
        self.wait(name, due);
    }

    fn wait(&mut self, name: BlobName, due: Instant) {
        let item = self.items.get_mut(&name).expect("only a listed blob waits");
        item.state = State::Waiting(due);
        self.waiting.insert((due, name));
    }

    fn done(&mut self, name: BlobName) {
        let Some(item) = self.items.remove(&name) else {
            return;
        };
        match item.state {
            State::Waiting(due) => {
                self.waiting.remove(&(due, name));
            }
            State::Ready => {
                self.ready.remove(&name);
            }
            State::Busy => self.busy -= 1,
            State::Confirming => {}
        }
        for number in item.batches {
            let index = usize::try_from(number - self.first_batch).expect("a kept batch");
            let batch = &mut self.batches[index];
            assert!(batch.open > 0, "a batch counts its open blobs");
            batch.open -= 1;
        }
        self.advance();
    }

    fn advance(&mut self) {
        while self.batches.front().is_some_and(|batch| batch.open == 0) {
            let batch = self.batches.pop_front().expect("looked at above");
            self.first_batch += 1;
            self.handled = batch.next;
            self.unsaved |= batch.news;
        }
        if active(Mutant::FeedAdvancesEarly)
            && let Some(newest) = self.batches.back()
        {
            self.handled = newest.next;
            self.unsaved |= newest.news;
        }
    }
}
