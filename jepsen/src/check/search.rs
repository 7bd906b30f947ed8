//! The general search: every object, every history, exponential only in what is open at once.
//!
//! It walks through the history in order of time and keeps all *configurations*: which of the open
//! calls have taken effect, and the state that gave (the just-in-time linearisation of Lowe over
//! the search of Wing and Gong). A call takes effect only when it must, that is, when its ending
//! is reached, or when it must make room for another that must; so memory depends on what is
//! open at once, not on the length of the history. Three reductions keep the set small:
//!
//! - calls that never change the state take effect as soon as their answer fits;
//! - of equal open calls the one that ends first takes effect first;
//! - a configuration is dropped if another with the same state and the same changes made has used
//!   no more of the calls of unknown outcome and explained no fewer reads.
//!
//! Invariants: calls at equal times are concurrent; a call of unknown outcome may take effect at
//! any time after it was sent, or never. It answers [`SearchAnswer::TooLarge`] only when a limit
//! of [`Limits`] is reached.

use super::spec::{Call, Spec};
use crate::hash::FixedMap;

/// How much the search may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Configurations and states held at once. One takes some 50 to 100 bytes unless states are
    /// large.
    pub most_held: usize,
    /// Comparisons of configurations in all: some hundreds of millions a second.
    pub most_compared: u64,
}

impl Default for Limits {
    /// Four million: a few hundred megabytes at the worst; and about a minute.
    fn default() -> Self {
        Self {
            most_held: 4 << 20,
            most_compared: 1 << 37,
        }
    }
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchAnswer {
    /// Some order explains every answer.
    Linearizable,
    /// No order does. Without what followed the ending of this call, some still might have.
    Stuck {
        /// The place of the call in the list.
        call: usize,
    },
    /// A limit was reached first.
    TooLarge(String),
}

/// Judges the calls.
pub fn search<S: Spec>(spec: &S, calls: &[Call<S::Op>], limits: Limits) -> SearchAnswer {
    let plan = Plan::new(spec, calls);
    match plan.slots {
        0..=64 => Search::<S, 1>::new(spec, calls, &plan, limits).run(),
        65..=256 => Search::<S, 4>::new(spec, calls, &plan, limits).run(),
        257..=2048 => Search::<S, 32>::new(spec, calls, &plan, limits).run(),
        more => SearchAnswer::TooLarge(format!("{more} calls were open at once")),
    }
}

/// The events in order, and the slot each call occupies while it is open.
struct Plan {
    /// Time, whether it is the ending, and the call.
    events: Vec<(u64, bool, usize)>,
    slot_of: Vec<usize>,
    slots: usize,
}

impl Plan {
    fn new<S: Spec>(spec: &S, calls: &[Call<S::Op>]) -> Self {
        let mut events = Vec::with_capacity(2 * calls.len());
        for (number, call) in calls.iter().enumerate() {
            if call.complete.is_none() && spec.is_pure(&call.op) {
                continue;
            }
            events.push((call.invoke, false, number));
            events.extend(call.complete.map(|complete| (complete, true, number)));
        }
        events.sort_unstable();
        let mut slot_of = vec![0; calls.len()];
        let (mut free, mut slots) = (Vec::new(), 0);
        for &(_, ending, number) in &events {
            if ending {
                free.push(slot_of[number]);
            } else {
                slot_of[number] = free.pop().unwrap_or_else(|| {
                    slots += 1;
                    slots - 1
                });
            }
        }
        Self {
            events,
            slot_of,
            slots,
        }
    }
}

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Bits<const N: usize>([u64; N]);

impl<const N: usize> Bits<N> {
    const NONE: Self = Self([0; N]);

    fn has(&self, slot: usize) -> bool {
        self.0[slot / 64] & (1 << (slot % 64)) != 0
    }

    fn set(&mut self, slot: usize) {
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    fn clear(&mut self, slot: usize) {
        self.0[slot / 64] &= !(1 << (slot % 64));
    }

    fn combine(&self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let mut out = [0; N];
        for (word, (a, b)) in out.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *word = with(*a, *b);
        }
        Self(out)
    }

    fn contains(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| b & !a == 0)
    }
}

/// Which open calls took effect, and the state after them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Configuration<const N: usize> {
    state: u32,
    done: Bits<N>,
}

/// An open call that can change the state.
#[derive(Clone, Copy)]
struct Change<const N: usize> {
    slot: usize,
    class: u32,
    /// Equal calls that end earlier: they take effect first.
    after: Bits<N>,
}

/// Configurations of which none makes another needless.
struct Frontier<const N: usize> {
    /// By state and changes made: the reads explained and the unknown calls left, per
    /// configuration.
    groups: FixedMap<Configuration<N>, Vec<Bits<N>>>,
    held: usize,
    compared: u64,
}

struct Search<'a, S: Spec, const N: usize> {
    spec: &'a S,
    calls: &'a [Call<S::Op>],
    plan: &'a Plan,
    limits: Limits,
    states: Vec<S::State>,
    state_numbers: FixedMap<S::State, u32>,
    steps: FixedMap<(u32, u32), Option<u32>>,
    class_of: Vec<u32>,
    classes: Vec<S::Op>,
    /// Open calls by place in the list.
    open: Vec<usize>,
    /// Slots of open calls that never change the state.
    pure: Bits<N>,
    /// Slots of calls of unknown outcome.
    unknown: Bits<N>,
    current: Vec<Configuration<N>>,
    compared: u64,
}

impl<'a, S: Spec, const N: usize> Search<'a, S, N> {
    fn new(spec: &'a S, calls: &'a [Call<S::Op>], plan: &'a Plan, limits: Limits) -> Self {
        let mut numbers: FixedMap<&S::Op, u32> = FixedMap::default();
        let mut classes = Vec::new();
        let class_of = calls
            .iter()
            .map(|call| {
                *numbers.entry(&call.op).or_insert_with(|| {
                    classes.push(call.op.clone());
                    number(classes.len() - 1)
                })
            })
            .collect();
        let mut search = Self {
            spec,
            calls,
            plan,
            limits,
            states: Vec::new(),
            state_numbers: FixedMap::default(),
            steps: FixedMap::default(),
            class_of,
            classes,
            open: Vec::new(),
            pure: Bits::NONE,
            unknown: Bits::NONE,
            current: Vec::new(),
            compared: 0,
        };
        let state = search.state_number(spec.initial());
        search.current.push(Configuration {
            state,
            done: Bits::NONE,
        });
        search
    }

    fn run(mut self) -> SearchAnswer {
        for &(_, ending, call) in &self.plan.events {
            if !ending {
                self.begin(call);
                continue;
            }
            let Some(next) = self.end(call) else {
                let Limits {
                    most_held,
                    most_compared,
                } = self.limits;
                let id = self.calls[call].id;
                return SearchAnswer::TooLarge(if self.compared > most_compared {
                    format!("more than {most_compared} comparisons until call {id} ended")
                } else {
                    format!("more than {most_held} configurations where call {id} ended")
                });
            };
            if next.is_empty() {
                return SearchAnswer::Stuck { call };
            }
            self.current = next;
            self.forget_states();
        }
        SearchAnswer::Linearizable
    }

    fn state_number(&mut self, state: S::State) -> u32 {
        let next = number(self.states.len());
        let found = *self.state_numbers.entry(state.clone()).or_insert(next);
        if found == next {
            self.states.push(state);
        }
        found
    }

    fn step(&mut self, state: u32, class: u32) -> Option<u32> {
        if let Some(&known) = self.steps.get(&(state, class)) {
            return known;
        }
        let op = &self.classes[class as usize];
        let next = self.spec.step(&self.states[state as usize], op);
        let next = next.map(|next| self.state_number(next));
        self.steps.insert((state, class), next);
        next
    }

    fn begin(&mut self, call: usize) {
        let slot = self.plan.slot_of[call];
        self.open.push(call);
        if self.spec.is_pure(&self.calls[call].op) {
            self.pure.set(slot);
            let class = self.class_of[call];
            let mut current = std::mem::take(&mut self.current);
            for configuration in &mut current {
                if self.step(configuration.state, class).is_some() {
                    configuration.done.set(slot);
                }
            }
            self.current = current;
        } else if self.calls[call].complete.is_none() {
            self.unknown.set(slot);
        }
    }

    /// The configurations in which `call` took effect; nothing if they are too many.
    fn end(&mut self, call: usize) -> Option<Vec<Configuration<N>>> {
        let slot = self.plan.slot_of[call];
        let changes = self.changes();
        let reads: Vec<(usize, u32)> = self
            .open
            .iter()
            .map(|&open| (self.plan.slot_of[open], self.class_of[open]))
            .filter(|&(slot, _)| self.pure.has(slot))
            .collect();
        let mut seen = Frontier::new();
        let mut work = Vec::new();
        let mut next = Vec::new();
        for configuration in std::mem::take(&mut self.current) {
            if configuration.done.has(slot) {
                next.push(configuration);
            } else if seen.admit(configuration, &self.pure, &self.unknown) {
                work.push(configuration);
            }
        }
        while let Some(configuration) = work.pop() {
            for change in &changes {
                let Some(after) = self.apply(configuration, change, &reads) else {
                    continue;
                };
                if after.done.has(slot) {
                    next.push(after);
                } else if seen.admit(after, &self.pure, &self.unknown) {
                    work.push(after);
                }
            }
            let held = seen.held + next.len() + self.states.len();
            let compared = self.compared + seen.compared;
            if held > self.limits.most_held || compared > self.limits.most_compared {
                self.compared = compared;
                return None;
            }
        }
        self.compared += seen.compared;
        self.open.retain(|&open| open != call);
        let settled = self.settle(next, slot);
        (self.compared <= self.limits.most_compared).then_some(settled)
    }

    /// Drops needless configurations and frees the slot of the call that ended.
    fn settle(&mut self, mut next: Vec<Configuration<N>>, slot: usize) -> Vec<Configuration<N>> {
        self.pure.clear(slot);
        for configuration in &mut next {
            configuration.done.clear(slot);
        }
        // The fewest unknown calls used come first, so that they make the others needless.
        let used = |c: &Configuration<N>| {
            c.done
                .combine(&self.unknown, |a, b| a & b)
                .0
                .iter()
                .map(|w| w.count_ones())
                .sum::<u32>()
        };
        next.sort_by_key(used);
        let mut frontier = Frontier::new();
        next.retain(|configuration| frontier.admit(*configuration, &self.pure, &self.unknown));
        self.compared += frontier.compared;
        next
    }

    fn changes(&self) -> Vec<Change<N>> {
        let mut open: Vec<usize> = self
            .open
            .iter()
            .copied()
            .filter(|&call| !self.pure.has(self.plan.slot_of[call]))
            .collect();
        open.sort_unstable_by_key(|&call| {
            (
                self.class_of[call],
                self.calls[call].complete.unwrap_or(u64::MAX),
                call,
            )
        });
        let mut changes: Vec<Change<N>> = Vec::with_capacity(open.len());
        for call in open {
            let (slot, class) = (self.plan.slot_of[call], self.class_of[call]);
            let after = match changes.last() {
                Some(last) if last.class == class => {
                    let mut after = last.after;
                    after.set(last.slot);
                    after
                }
                _ => Bits::NONE,
            };
            changes.push(Change { slot, class, after });
        }
        changes
    }

    fn apply(
        &mut self,
        before: Configuration<N>,
        change: &Change<N>,
        reads: &[(usize, u32)],
    ) -> Option<Configuration<N>> {
        if before.done.has(change.slot) || !before.done.contains(&change.after) {
            return None;
        }
        let state = self.step(before.state, change.class)?;
        let mut after = Configuration {
            state,
            done: before.done,
        };
        after.done.set(change.slot);
        for &(slot, class) in reads {
            if !after.done.has(slot) && self.step(state, class).is_some() {
                after.done.set(slot);
            }
        }
        Some(after)
    }

    /// Forgets states no configuration is in once they are many.
    fn forget_states(&mut self) {
        let most = 1024 + 4 * self.current.len();
        if self.states.len() < most && self.steps.len() < 16 * most {
            return;
        }
        let states = std::mem::take(&mut self.states);
        self.state_numbers.clear();
        self.steps.clear();
        let mut current = std::mem::take(&mut self.current);
        for configuration in &mut current {
            configuration.state = self.state_number(states[configuration.state as usize].clone());
        }
        self.current = current;
    }
}

impl<const N: usize> Frontier<N> {
    fn new() -> Self {
        Self {
            groups: FixedMap::default(),
            held: 0,
            compared: 0,
        }
    }

    /// Whether the configuration offers what none admitted before does.
    fn admit(&mut self, c: Configuration<N>, pure: &Bits<N>, unknown: &Bits<N>) -> bool {
        let either = pure.combine(unknown, |a, b| a | b);
        let key = Configuration {
            state: c.state,
            done: c.done.combine(&either, |a, b| a & !b),
        };
        let reads = c.done.combine(pure, |a, b| a & b);
        let left = unknown.combine(&c.done, |a, b| a & !b);
        let worth = reads.combine(&left, |a, b| a | b);
        let group = self.groups.entry(key).or_default();
        self.compared += 2 * group.len() as u64 + 1;
        if group.iter().any(|other| other.contains(&worth)) {
            return false;
        }
        let before = group.len();
        group.retain(|other| !worth.contains(other));
        group.push(worth);
        self.held = self.held + group.len() - before;
        true
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than 2^32 states and kinds of calls")
}
