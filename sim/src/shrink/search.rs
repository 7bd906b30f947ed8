//! The search for a smaller script that fails in the same way: a pure state machine.
//!
//! Invariants: see the module's head. A script that did not fail is never offered a second time.
//! Does not: promise the smallest; it ends when a round with several seeds finds nothing to leave
//! out, or when its driver stops asking.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64;

use crate::scenario::Script;
use crate::tape::Verdict;

use super::edit::Edit;
use super::outcome::Outcome;
use super::plan::{STEPS, Step, Walk, walk};
use super::size::Size;

/// Later rounds try each edit under so many seeds at most: another order of ready tasks may show
/// the failure where this one does not.
const SEEDS_MAXIMUM: u64 = 4;

/// What the search offered, and which part of its walk that was.
#[derive(Debug)]
struct Offer {
    script: Script,
    /// Which alternative or range of the walk, counted from the present one.
    part: usize,
}

/// Whether a candidate brought the search on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// None of them failed in the wanted way.
    Nothing,
    /// The candidate with this place is the best now.
    Better(usize),
}

/// The search. See the file's head.
#[derive(Debug)]
pub struct Search {
    wanted: Verdict,
    containing: Option<String>,
    best: Script,
    outcome: Outcome,
    step: usize,
    round: u64,
    changed: bool,
    walk: Option<Walk>,
    offered: Vec<Offer>,
    passed: BTreeSet<u64>,
    before_strikes: Option<(Script, Outcome)>,
    strikes_tried: bool,
}

impl Search {
    /// A search that begins with a script that failed; `containing` must be part of the failure's
    /// text, if given.
    ///
    /// # Panics
    /// When `outcome` is none of a failed run.
    #[must_use]
    pub fn new(script: Script, outcome: Outcome, containing: Option<String>) -> Self {
        let wanted = outcome.failure.clone().expect("a failed run is shrunk");
        Self {
            wanted,
            containing,
            best: script,
            outcome,
            step: 0,
            round: 1,
            changed: false,
            walk: None,
            offered: Vec::new(),
            passed: BTreeSet::new(),
            before_strikes: None,
            strikes_tried: false,
        }
    }

    /// The smallest script so far, and what its run came to.
    #[must_use]
    pub fn best(&self) -> (&Script, &Outcome) {
        (&self.best, &self.outcome)
    }

    /// The round that the search is in, from one.
    #[must_use]
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Scripts to run next, the more promising first; about `most`, none when the search is over.
    pub fn offer(&mut self, most: usize) -> Vec<Script> {
        loop {
            let step = STEPS[self.step];
            if self.walk.is_none() {
                self.walk = Some(self.begin(step));
            }
            self.offered = self.alternatives(most);
            if !self.offered.is_empty() {
                let scripts = self.offered.iter().map(|offer| offer.script.clone());
                return scripts.collect();
            }
            if !self.exhausted() {
                continue;
            }
            if !self.next_step() {
                return Vec::new();
            }
        }
    }

    fn begin(&mut self, step: Step) -> Walk {
        match step {
            Step::Rates if self.strikes_tried || !self.best.strikes.is_empty() => {
                Walk::Each(Vec::new())
            }
            Step::Rates => {
                self.strikes_tried = true;
                self.before_strikes = Some((self.best.clone(), self.outcome.clone()));
                walk(step, &self.best, &self.outcome)
            }
            Step::Weigh => {
                if let Some((script, outcome)) = self.before_strikes.take()
                    && Size::of(&self.best) > Size::of(&script)
                {
                    (self.best, self.outcome) = (script, outcome);
                }
                Walk::Each(Vec::new())
            }
            _ => walk(step, &self.best, &self.outcome),
        }
    }

    fn exhausted(&self) -> bool {
        match &self.walk {
            None => true,
            Some(Walk::Each(edits)) => edits.is_empty(),
            Some(Walk::Delete(_, deletion)) => deletion.ranges(1).is_empty(),
        }
    }

    /// False when the search is over.
    fn next_step(&mut self) -> bool {
        self.walk = None;
        self.step += 1;
        if self.step < STEPS.len() {
            return true;
        }
        self.step = 0;
        if !self.changed && self.round >= SEEDS_MAXIMUM {
            return false;
        }
        self.changed = false;
        self.round += 1;
        true
    }

    /// The next alternatives of the walk; those that change nothing or are known to pass are
    /// passed over.
    fn alternatives(&mut self, most: usize) -> Vec<Offer> {
        let mut offers = Vec::new();
        let mut seen = BTreeSet::new();
        let parts: Vec<Vec<Edit>> = match self.walk.as_ref().expect("a walk has begun") {
            Walk::Each(edits) => edits.iter().take(most).cloned().collect(),
            Walk::Delete(edit, deletion) => {
                let ranges = deletion.ranges(most).into_iter();
                ranges.map(|range| vec![edit(range)]).collect()
            }
        };
        for (part, edits) in parts.iter().enumerate() {
            for seed in self.seeds() {
                let Some(mut script) = apply(&self.best, edits) else {
                    break;
                };
                script.plan.seed = seed;
                let identity = identity(&script);
                if !self.passed.contains(&identity) && seen.insert(identity) {
                    offers.push(Offer { script, part });
                }
            }
        }
        if offers.is_empty() {
            self.advance(parts.len());
        }
        offers
    }

    /// The seeds to try: the present one, and in later rounds others.
    fn seeds(&self) -> Vec<u64> {
        let own = self.best.plan.seed;
        let others = self.round.min(SEEDS_MAXIMUM) - 1;
        let other = |number: u64| xxh3_64(&[own.to_le_bytes(), number.to_le_bytes()].concat());
        std::iter::once(own)
            .chain((1..=others).map(other))
            .collect()
    }

    /// So many parts of the walk brought nothing.
    fn advance(&mut self, parts: usize) {
        match self.walk.as_mut().expect("a walk has begun") {
            Walk::Each(edits) => drop(edits.drain(..parts)),
            Walk::Delete(_, deletion) => deletion.kept(parts),
        }
    }

    /// Learns what came of the scripts last offered, in their order; none for what came
    /// to no end, or was not run because one before it failed as wanted.
    pub fn judge(&mut self, outcomes: Vec<Option<Outcome>>) -> Judgement {
        let offered = std::mem::take(&mut self.offered);
        let parts = offered.last().map_or(0, |offer| offer.part + 1);
        for (place, (offer, outcome)) in offered.into_iter().zip(outcomes).enumerate() {
            match outcome {
                Some(outcome) if self.is_wanted(&outcome) => {
                    self.take(offer, outcome);
                    return Judgement::Better(place);
                }
                // Before one that fails as wanted all have run; none came of those that took too long.
                _ => drop(self.passed.insert(identity(&offer.script))),
            }
        }
        self.advance(parts);
        Judgement::Nothing
    }

    /// Whether a run failed in the wanted way.
    #[must_use]
    pub fn is_wanted(&self, outcome: &Outcome) -> bool {
        outcome.failure.as_ref().is_some_and(|failure| {
            let text = self.containing.as_deref().unwrap_or_default();
            failure.is_like(&self.wanted) && failure.text.contains(text)
        })
    }

    fn take(&mut self, offer: Offer, outcome: Outcome) {
        self.advance(offer.part);
        match self.walk.as_mut().expect("a walk has begun") {
            Walk::Each(edits) => drop(edits.remove(0)),
            Walk::Delete(_, deletion) => deletion.deleted(),
        }
        self.best = offer.script;
        self.outcome = outcome;
        self.changed = true;
    }
}

/// The script after all of these edits; none when they change nothing.
fn apply(script: &Script, edits: &[Edit]) -> Option<Script> {
    let mut after = None;
    for edit in edits {
        let before = after.as_ref().unwrap_or(script);
        if let Some(changed) = edit.apply(before) {
            after = Some(changed);
        }
    }
    after
}

fn identity(script: &Script) -> u64 {
    xxh3_64(format!("{script:?}").as_bytes())
}

#[cfg(test)]
mod tests;
