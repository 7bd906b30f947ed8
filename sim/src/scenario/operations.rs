//! Client operations as data: which client does what, and when.
//!
//! A client's n-th operation is a function of the plan's seed, the client's identity and n; no
//! stream is shared, so that leaving one operation out changes no other. What was drawn is noted.
//! Listed, the same operations are carried out at the same moments without any chance, and a list
//! may be cut down: that is how a tape is replayed and shrunk.
//!
//! Invariants: pure; each number of a client is given out once; a run of the complete list of what
//! another run drew gives out the same operations at the same moments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;

use hedgerow_env::Random;
use hedgerow_jepsen::check::BlockOp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::world::NodeIndex;

use super::plan::Plan;

/// The longest pause of a former holder between two of its operations.
const FORMER_HOLDER_PAUSE_MS: u64 = 40;

/// Clients work in bursts: of so many operations one comes after a rest. Faults strike both.
const ONE_RESTS_OF: u64 = 40;
/// The longest rest. Most of a fast client's time is rest, so that a run's cost lies in what
/// happens to it and not in tens of thousands of operations that nothing happens to.
const REST_MAXIMUM_MS: u64 = 2_000;

/// A client cancels its write at most so long after it began.
const CANCEL_AFTER_MAXIMUM_US: u64 = 60_000;

/// Numbers of generated operations that follow a list begin here, so that none is given out twice.
const FIRST_NUMBER_AFTER_LIST: u64 = 1 << 32;

/// A client: a task beside a node's proxy, or an initiator that uses the node's portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId {
    /// Where it runs, or whose portal it uses.
    pub node: NodeIndex,
    /// Which of the node's: [`ClientId::FORMER_HOLDER`], one of those of a rightful holder, or from
    /// [`ClientId::FIRST_INITIATOR`] on an initiator.
    pub client: u32,
}

impl ClientId {
    /// The client of a holder that does not know that it should be none.
    pub const FORMER_HOLDER: u32 = 0;

    /// The first of the initiators that use the node's portal, over iSCSI, from a machine of theirs.
    pub const FIRST_INITIATOR: u32 = 128;

    /// The unique, non-zero tag of this client's operation `number`.
    #[must_use]
    pub fn tag(self, number: u64) -> u64 {
        ((u64::from(self.node.0) + 1) << 48) | (u64::from(self.client) << 40) | (number + 1)
    }
}

/// What an operation does to its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Reads it.
    Read,
    /// Fills it with the operation's tag.
    Write,
    /// Writes, and cancels so long after the write began.
    WriteThenCancel {
        /// In microseconds.
        after_us: u64,
    },
    /// Zeroes it.
    Zero,
}

/// One operation of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientOperation {
    /// When it begins, from the beginning of the safety phase; later when its client is not ready.
    pub at_ns: u64,
    /// Where.
    pub node: NodeIndex,
    /// Whose; see [`ClientId`].
    pub client: u32,
    /// Its number among its client's, from zero.
    pub number: u64,
    /// Which block, the first if there are several.
    pub block: u64,
    /// How many blocks, one after the other.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
    /// What it does.
    pub deed: Deed,
}

impl ClientOperation {
    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        ClientId {
            node: self.node,
            client: self.client,
        }
    }

    /// The tag of what it writes.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.id().tag(self.number)
    }

    /// How it stands in the history.
    #[must_use]
    pub fn recorded(&self) -> BlockOp {
        let (first_block, count) = (self.block, self.count);
        match self.deed {
            Deed::Read => BlockOp::Read { first_block, count },
            Deed::Zero => BlockOp::Zero { first_block, count },
            Deed::Write | Deed::WriteThenCancel { .. } => BlockOp::Write {
                first_block,
                count,
                tag: self.tag(),
            },
        }
    }
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(count: &u64) -> bool {
    *count == 1
}

/// Gives out the operations of a run.
#[derive(Debug)]
pub struct Operations {
    seed: u64,
    hot_blocks: u64,
    window_blocks: u64,
    most_blocks: u64,
    pause_ms: u64,
    /// Of so many changes one is no write but zeroes; in some seeds every other.
    one_zeroes_of: u64,
    /// Of so many writes one is cancelled; in some seeds every other.
    one_cancels_of: u64,
    listed: BTreeMap<ClientId, VecDeque<ClientOperation>>,
    generates: bool,
    next_numbers: BTreeMap<ClientId, u64>,
    drawn: Vec<ClientOperation>,
    performed: BTreeSet<(ClientId, u64)>,
}

impl Operations {
    /// Operations drawn from the plan's seed, or exactly those of a list.
    #[must_use]
    pub fn new(plan: &Plan, list: Option<&[ClientOperation]>) -> Self {
        let mut listed: BTreeMap<ClientId, VecDeque<ClientOperation>> = BTreeMap::new();
        for operation in list.unwrap_or_default() {
            listed
                .entry(operation.id())
                .or_default()
                .push_back(*operation);
        }
        for queue in listed.values_mut() {
            queue
                .make_contiguous()
                .sort_by_key(|operation| operation.at_ns);
        }
        let mut mix = Random::from_seed(identity_seed(plan.seed, "mix", []));
        let one_zeroes_of = [6, 6, 2][mix.index(3)];
        let one_cancels_of = [8, 8, 2][mix.index(3)];
        Self {
            seed: plan.seed,
            one_zeroes_of,
            one_cancels_of: plan.one_cancels_of.map_or(one_cancels_of, NonZeroU64::get),
            hot_blocks: plan.hot_blocks,
            window_blocks: plan.window_blocks(),
            most_blocks: plan.most_blocks(),
            pause_ms: u64::try_from(plan.pause.as_millis()).expect("a pause is short"),
            listed,
            generates: list.is_none(),
            next_numbers: BTreeMap::new(),
            drawn: Vec::new(),
            performed: BTreeSet::new(),
        }
    }

    /// The client's next operation, asked for at `now_ns` after the safety phase began; none when
    /// its list is at its end.
    pub fn next(&mut self, client: ClientId, now_ns: u64) -> Option<ClientOperation> {
        let listed = self
            .listed
            .get_mut(&client)
            .and_then(|queue| queue.pop_front());
        let operation = match listed {
            Some(operation) => operation,
            None if self.generates => self.generate(client, now_ns),
            None => return None,
        };
        self.drawn.push(operation);
        Some(operation)
    }

    /// From now on clients whose lists end go on with generated operations.
    pub fn generate_after_list(&mut self) {
        if !self.generates {
            self.generates = true;
            for client in self.listed.keys() {
                self.next_numbers.insert(*client, FIRST_NUMBER_AFTER_LIST);
            }
        }
    }

    fn generate(&mut self, client: ClientId, now_ns: u64) -> ClientOperation {
        let next = self.next_numbers.entry(client).or_default();
        let number = *next;
        *next += 1;
        let mut random = Random::from_seed(identity_seed(
            self.seed,
            "operation",
            [u64::from(client.node.0), u64::from(client.client), number],
        ));
        let block = random.below(self.hot_blocks);
        let former = client.client == ClientId::FORMER_HOLDER;
        // A former holder mostly shows what it believes, and overwrites little of what others see.
        let may_write = !former || random.chance(1, 4);
        let deed = if !may_write || random.chance(1, 2) {
            Deed::Read
        } else if random.chance(1, self.one_zeroes_of) {
            Deed::Zero
        } else if random.chance(1, self.one_cancels_of) {
            let after_us = random.below(CANCEL_AFTER_MAXIMUM_US);
            Deed::WriteThenCancel { after_us }
        } else {
            Deed::Write
        };
        let count = self.draw_count(&mut random, block);
        let pause_ms = if former {
            1 + random.below(FORMER_HOLDER_PAUSE_MS)
        } else {
            let rest_ms = u64::from(random.chance(1, ONE_RESTS_OF)) * REST_MAXIMUM_MS;
            random.below(self.pause_ms + 1) + random.below(rest_ms + 1)
        };
        ClientOperation {
            at_ns: now_ns + pause_ms * 1_000_000,
            node: client.node,
            client: client.client,
            number,
            block,
            count,
            deed,
        }
    }

    /// Most operations concern one block; the others end with their window at the latest.
    fn draw_count(&self, random: &mut Random, block: u64) -> u64 {
        if !random.chance(1, 4) {
            return 1;
        }
        let left = (self.window_blocks - block % self.window_blocks).min(self.hot_blocks - block);
        1 + random.below(left.min(self.most_blocks))
    }

    /// Notes that an operation began.
    pub fn performs(&mut self, operation: &ClientOperation) {
        let fresh = self.performed.insert((operation.id(), operation.number));
        assert!(fresh, "no operation begins twice: {operation:?}");
    }

    /// When the last listed operation that was not given out yet is due.
    #[must_use]
    pub fn listed_until_ns(&self) -> Option<u64> {
        let last = self.listed.values().filter_map(VecDeque::back);
        last.map(|operation| operation.at_ns).max()
    }

    /// Everything that was given out, in that order, whether or not it came to be performed.
    #[must_use]
    pub fn drawn(&self) -> &[ClientOperation] {
        &self.drawn
    }

    /// Those that began, in the order in which they were given out.
    #[must_use]
    pub fn performed(&self) -> Vec<ClientOperation> {
        let began = |operation: &&ClientOperation| {
            self.performed.contains(&(operation.id(), operation.number))
        };
        self.drawn.iter().filter(began).copied().collect()
    }
}

/// The seed of a decision that belongs to the thing named by `label` and `identity` alone.
pub(super) fn identity_seed<const N: usize>(seed: u64, label: &str, identity: [u64; N]) -> u64 {
    let labelled = xxh3_64_with_seed(label.as_bytes(), seed);
    identity.iter().fold(labelled, |key, word| {
        xxh3_64_with_seed(&word.to_le_bytes(), key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientId = ClientId {
        node: NodeIndex(2),
        client: 1,
    };

    /// A client asks for its next operation when the last one has ended: after the longest pause.
    const APART_NS: u64 = 3_000_000_000;

    fn draw(operations: &mut Operations, count: u64) -> Vec<ClientOperation> {
        let next = |at| operations.next(CLIENT, at * APART_NS);
        (0..count).map_while(next).collect()
    }

    #[test]
    fn an_operation_depends_on_its_own_identity_alone() {
        let plan = Plan::draw(7);
        let mut alone = Operations::new(&plan, None);
        let mut beside = Operations::new(&plan, None);
        let other = ClientId {
            client: 2,
            ..CLIENT
        };
        let expected = draw(&mut alone, 50);
        let mut others = Vec::new();
        for (number, expected) in (0..50).zip(&expected) {
            others.extend(beside.next(other, 0));
            assert_eq!(
                beside.next(CLIENT, number * APART_NS).as_ref(),
                Some(expected)
            );
        }
        let blocks = |all: &[ClientOperation]| all.iter().map(|one| one.block).collect::<Vec<_>>();
        assert_ne!(blocks(&expected), blocks(&others));
    }

    #[test]
    fn a_list_gives_out_what_was_drawn_and_a_shorter_list_the_rest() {
        let plan = Plan::draw(7);
        let mut first = Operations::new(&plan, None);
        let drawn = draw(&mut first, 50);
        let mut again = Operations::new(&plan, Some(&drawn));
        assert_eq!(draw(&mut again, 60), drawn);
        let kept: Vec<_> = drawn.iter().copied().step_by(7).collect();
        let mut shorter = Operations::new(&plan, Some(&kept));
        assert_eq!(
            shorter.listed_until_ns(),
            kept.last().map(|last| last.at_ns)
        );
        assert_eq!(draw(&mut shorter, 60), kept);
        assert_eq!(shorter.next(CLIENT, 0), None);
        shorter.generate_after_list();
        let more = shorter.next(CLIENT, 5).expect("generated");
        assert!(drawn.iter().all(|operation| operation.tag() != more.tag()));
    }

    #[test]
    fn only_what_began_counts_as_performed() {
        let plan = Plan::draw(7);
        let mut operations = Operations::new(&plan, None);
        let drawn = draw(&mut operations, 3);
        operations.performs(&drawn[2]);
        assert_eq!(operations.performed(), vec![drawn[2]]);
        assert_eq!(operations.drawn(), drawn);
    }
}
