//! Counting acknowledgements: when may the chosen member answer a write, and with what.
//!
//! Invariants:
//! - *written* is answered only when W distinct targets hold the blob durably under the write's
//!   epoch and, where the targets lie in two domains or more, those W span two (DESIGN section 4.4);
//! - the verdict is given once; what comes later changes nothing of it;
//! - a target that did not answer is unknown: it is neither counted nor reported as failed.
//!
//! Does not: send, wait, or retry; the driver does.

use hedgerow_env::StoreId;
use hedgerow_env::mutants::{self, Mutant};
use hedgerow_protocol::{HBlockRefusal, Quorum};

/// Most targets of a write: replication factor 6, and as many that fill in their place.
pub const MAXIMUM_TARGETS: usize = 12;

/// How an attempt at one target ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetOutcome {
    /// It holds the blob durably.
    Held,
    /// It refused.
    Refused(HBlockRefusal),
    /// No answer was seen.
    Unknown,
}

/// What the chosen member answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Enough members hold it; all that did by now.
    Written(Vec<StoreId>),
    /// Too few, and no more can come or the time is up.
    TooFew(Vec<StoreId>),
    /// As above, for lack of room: had the full ones some, it would be written.
    NoRoom(Vec<StoreId>),
    /// A member knows that this write is stale or broken; no number of others can help.
    Refused(HBlockRefusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Held,
    /// It refused for lack of room.
    Full,
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    store: StoreId,
    state: State,
}

/// The acknowledgements of one write.
#[derive(Debug)]
pub struct Acknowledgements {
    targets: Vec<Target>,
    quorum: Quorum,
    needed: usize,
    decided: bool,
}

impl Acknowledgements {
    /// Begins to count. `domains` is empty under an agnostic policy, else one for each target.
    ///
    /// # Errors
    /// A sentence that says how the request contradicts itself.
    pub fn new(stores: &[StoreId], domains: &[u16], write_quorum: u8) -> Result<Self, String> {
        if stores.is_empty() || stores.len() > MAXIMUM_TARGETS {
            return Err(format!("{} targets", stores.len()));
        }
        let quorum = Quorum::new(stores, domains, write_quorum)?;
        let target = |store: &StoreId| Target {
            store: *store,
            state: State::Open,
        };
        Ok(Self {
            targets: stores.iter().map(target).collect(),
            quorum,
            needed: usize::from(write_quorum),
            decided: false,
        })
    }

    /// The target at `index` answered, or will not. Repeated outcomes of one target are ignored.
    pub fn record(&mut self, index: usize, outcome: &TargetOutcome) -> Option<Verdict> {
        let target = self.targets.get_mut(index)?;
        if target.state != State::Open {
            return None;
        }
        target.state = match outcome {
            TargetOutcome::Held => State::Held,
            TargetOutcome::Refused(HBlockRefusal::NoRoom { .. }) => State::Full,
            TargetOutcome::Refused(_) | TargetOutcome::Unknown => State::Failed,
        };
        if self.decided {
            return None;
        }
        if self.is_enough(|target| target.state == State::Held) {
            return Some(self.decide(Verdict::Written(self.held())));
        }
        if let Some(verdict) = self.one_short() {
            return Some(self.decide(verdict));
        }
        if let TargetOutcome::Refused(refusal) = outcome
            && is_final(refusal)
        {
            return Some(self.decide(Verdict::Refused(refusal.clone())));
        }
        if !self.is_enough(|target| matches!(target.state, State::Open | State::Held)) {
            let verdict = self.too_few();
            return Some(self.decide(verdict));
        }
        None
    }

    /// The time is up.
    pub fn deadline(&mut self) -> Option<Verdict> {
        let verdict = self.too_few();
        (!self.decided).then(|| self.decide(verdict))
    }

    fn too_few(&self) -> Verdict {
        if self.is_enough(|target| matches!(target.state, State::Full | State::Held)) {
            Verdict::NoRoom(self.held())
        } else {
            Verdict::TooFew(self.held())
        }
    }

    /// Whether the verdict was given.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.decided
    }

    fn held(&self) -> Vec<StoreId> {
        self.targets
            .iter()
            .filter(|target| target.state == State::Held)
            .map(|target| target.store)
            .collect()
    }

    fn is_enough(&self, counts: impl Fn(&Target) -> bool) -> bool {
        let counted = |store| {
            let mut targets = self.targets.iter();
            targets.any(|target| target.store == store && counts(target))
        };
        self.quorum.is_met(counted)
    }

    fn decide(&mut self, verdict: Verdict) -> Verdict {
        assert!(!self.decided, "the verdict is given once");
        self.decided = true;
        verdict
    }

    /// The planted bug: a member that was only sent the blob is taken for one that holds it.
    fn one_short(&self) -> Option<Verdict> {
        if !mutants::active(Mutant::QuorumOneShort) {
            return None;
        }
        let mut held = self.held();
        let open = self
            .targets
            .iter()
            .find(|target| target.state == State::Open)?;
        held.push(open.store);
        (held.len() >= self.needed).then_some(Verdict::Written(held))
    }
}

/// Whether a member's refusal holds for the write as a whole.
#[must_use]
fn is_final(refusal: &HBlockRefusal) -> bool {
    match refusal {
        HBlockRefusal::StaleEpoch { .. }
        | HBlockRefusal::StaleGeneration { .. }
        | HBlockRefusal::OtherDigest
        | HBlockRefusal::Collected
        | HBlockRefusal::Malformed { .. } => true,
        HBlockRefusal::NoSuchStore
        | HBlockRefusal::Missing
        | HBlockRefusal::Damaged
        | HBlockRefusal::TooFew { .. }
        | HBlockRefusal::Busy { .. }
        | HBlockRefusal::NoRoom { .. }
        | HBlockRefusal::Stopped { .. } => false,
    }
}
