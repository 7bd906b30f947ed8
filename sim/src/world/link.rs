//! Directed links between nodes: latency, and what may go wrong on the way.
//!
//! Whether a message is lost, doubled, delayed or corrupted is decided from its identity (the link
//! and the message's number on it) or by a script, never from a shared random stream.

use std::collections::BTreeMap;

use hedgerow_env::StreamKind;
use serde::{Deserialize, Serialize};

use super::World;
use super::faults::{FaultNumber, Faults, MessageFault, MessageId};
use super::seeds::Dice;
use super::topology::{Latency, NodeIndex};

/// Extra delay of the second copy of a doubled message, at most, unless the rules say more.
const DUPLICATE_DELAY_NS: u64 = 20_000_000;

const TAG_LOSS: u64 = 1;
const TAG_DUPLICATE: u64 = 2;
const TAG_REORDER: u64 = 3;
const TAG_CORRUPT: u64 = 4;
const TAG_LATENCY: u64 = 5;
const TAG_JITTER: u64 = 6;
const TAG_DUPLICATE_DELAY: u64 = 7;
const TAG_REORDER_DELAY: u64 = 8;
const TAG_CORRUPT_BIT: u64 = 9;

/// Whether anything passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum LinkState {
    /// Messages pass.
    #[default]
    Open,
    /// Rpc messages are lost; Client bytes wait and connections time out.
    Cut,
    /// Messages of both kinds wait until the link opens again.
    Clogged,
}

/// What a directed link does to messages. Rates in parts per million apply to Rpc streams alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkRules {
    /// Whether anything passes.
    pub state: LinkState,
    /// Lost messages.
    pub loss_ppm: u32,
    /// Messages that arrive twice.
    pub duplicate_ppm: u32,
    /// By how much the second copy is late at most, where that is more than 20 ms.
    pub duplicate_ns: u64,
    /// Messages that are held back while later ones overtake.
    pub reorder_ppm: u32,
    /// By how much they are held back at most.
    pub reorder_ns: u64,
    /// Messages in which one bit flips.
    pub corrupt_ppm: u32,
    /// Delay added to the topology's latency (a gray link), for both kinds.
    pub delay_ns: u64,
    /// Uniform delay added at most, for both kinds.
    pub jitter_ns: u64,
    /// Bandwidth; zero means unlimited.
    pub bytes_per_second: u64,
}

impl LinkRules {
    /// Both at once: the worse of each pair of rates and states, and the sum of the delays.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let bandwidth = [self.bytes_per_second, other.bytes_per_second];
        Self {
            state: self.state.max(other.state),
            loss_ppm: self.loss_ppm.max(other.loss_ppm),
            duplicate_ppm: self.duplicate_ppm.max(other.duplicate_ppm),
            duplicate_ns: self.duplicate_ns.max(other.duplicate_ns),
            reorder_ppm: self.reorder_ppm.max(other.reorder_ppm),
            reorder_ns: self.reorder_ns.max(other.reorder_ns),
            corrupt_ppm: self.corrupt_ppm.max(other.corrupt_ppm),
            delay_ns: self.delay_ns.saturating_add(other.delay_ns),
            jitter_ns: self.jitter_ns.saturating_add(other.jitter_ns),
            bytes_per_second: bandwidth
                .into_iter()
                .filter(|rate| *rate > 0)
                .min()
                .unwrap_or(0),
        }
    }
}

/// What became of messages on a directed link: the evidence that its rules struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkTally {
    /// Messages sent.
    pub sent: u64,
    /// Messages and openings that met a link that was not open.
    pub blocked: u64,
    /// Messages that the rules made late.
    pub late: u64,
    /// Lost on an open link.
    pub lost: u64,
    /// Doubled.
    pub doubled: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Connections broken on purpose.
    pub broken: u64,
}

/// One directed link.
#[derive(Debug)]
pub(super) struct Link {
    /// What was set and all that stands, together.
    pub(super) rules: LinkRules,
    /// What was set.
    set: LinkRules,
    /// What stands besides until it is ended.
    standing: BTreeMap<FaultNumber, LinkRules>,
    pub(super) tally: LinkTally,
    latency: Latency,
    dice: Dice,
    sent: u64,
    busy_until_ns: u64,
}

/// How one message will fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passage {
    /// When it arrives; none when it is lost.
    pub(super) arrives_ns: Option<u64>,
    /// When its second copy arrives, if it is doubled.
    pub(super) again_ns: Option<u64>,
    /// Which of its bits flips, modulo its length.
    pub(super) flip: Option<u64>,
    /// Whether it may overtake or be overtaken.
    pub(super) unordered: bool,
}

impl Link {
    pub(super) fn new(latency: Latency, dice: Dice) -> Self {
        Self {
            rules: LinkRules::default(),
            set: LinkRules::default(),
            standing: BTreeMap::new(),
            tally: LinkTally::default(),
            latency,
            dice,
            sent: 0,
            busy_until_ns: 0,
        }
    }

    /// The one-way delay of the next message, `size` bytes long, sent at `now_ns`.
    fn delay(&mut self, dice: Dice, now_ns: u64, size: u64) -> u64 {
        let mut delay_ns = self.latency.minimum_ns
            + dice.below(TAG_LATENCY, self.latency.jitter_ns + 1)
            + self.rules.delay_ns
            + dice.below(TAG_JITTER, self.rules.jitter_ns + 1);
        let transmission = size.saturating_mul(1_000_000_000);
        if let Some(busy_ns) = transmission.checked_div(self.rules.bytes_per_second) {
            self.busy_until_ns = self.busy_until_ns.max(now_ns) + busy_ns;
            delay_ns += self.busy_until_ns - now_ns;
        }
        delay_ns
    }

    /// When a control packet (an open, a close, a reset) sent now arrives: it is never lost here.
    pub(super) fn control(&mut self, now_ns: u64) -> u64 {
        let dice = self.dice.of(self.sent);
        self.sent += 1;
        now_ns + self.delay(dice, now_ns, 0)
    }

    /// Decides on the next message of this link.
    pub(super) fn judge(
        &mut self,
        (from, to): (NodeIndex, NodeIndex),
        kind: StreamKind,
        (now_ns, size): (u64, u64),
        faults: &Faults,
    ) -> Passage {
        let number = self.sent;
        let dice = self.dice.of(number);
        self.sent += 1;
        let at_ns = now_ns + self.delay(dice, now_ns, size);
        let mut passage = Passage {
            arrives_ns: Some(at_ns),
            again_ns: None,
            flip: None,
            unordered: false,
        };
        self.tally.sent += 1;
        self.tally.late += u64::from(self.rules.delay_ns + self.rules.jitter_ns > 0);
        if kind == StreamKind::Client {
            return passage;
        }
        let fault = faults.message(MessageId { from, to, number }, || self.draw(dice));
        match fault {
            None => {}
            Some(MessageFault::Lose) => passage.arrives_ns = None,
            Some(MessageFault::Duplicate { after_ns }) => passage.again_ns = Some(at_ns + after_ns),
            Some(MessageFault::HoldBack { for_ns }) => {
                passage.arrives_ns = Some(at_ns + for_ns);
                passage.unordered = true;
            }
            Some(MessageFault::Corrupt { bit }) => passage.flip = Some(bit),
        }
        self.tally.lost += u64::from(passage.arrives_ns.is_none());
        self.tally.doubled += u64::from(passage.again_ns.is_some());
        self.tally.corrupted += u64::from(passage.flip.is_some());
        passage
    }

    /// The fault that chance has for a message, if any.
    fn draw(&self, dice: Dice) -> Option<MessageFault> {
        let rules = &self.rules;
        if dice.chance(TAG_LOSS, rules.loss_ppm) {
            Some(MessageFault::Lose)
        } else if dice.chance(TAG_DUPLICATE, rules.duplicate_ppm) {
            let most_ns = rules.duplicate_ns.max(DUPLICATE_DELAY_NS);
            let after_ns = dice.below(TAG_DUPLICATE_DELAY, most_ns);
            Some(MessageFault::Duplicate { after_ns })
        } else if dice.chance(TAG_REORDER, rules.reorder_ppm) {
            let for_ns = dice.below(TAG_REORDER_DELAY, rules.reorder_ns + 1);
            Some(MessageFault::HoldBack { for_ns })
        } else if dice.chance(TAG_CORRUPT, rules.corrupt_ppm) {
            Some(MessageFault::Corrupt {
                bit: dice.bits(TAG_CORRUPT_BIT),
            })
        } else {
            None
        }
    }
}

impl World {
    /// The rules of a directed link: what was set, and all that stands besides.
    #[must_use]
    pub fn link(&self, from: NodeIndex, to: NodeIndex) -> LinkRules {
        self.with_link(from, to, |link| link.rules)
    }

    /// What became of messages on a directed link until now.
    #[must_use]
    pub fn link_tally(&self, from: NodeIndex, to: NodeIndex) -> LinkTally {
        self.with_link(from, to, |link| link.tally)
    }

    /// Something met a link that is not open.
    pub(super) fn blocked(&self, from: NodeIndex, to: NodeIndex) {
        self.with_link(from, to, |link| link.tally.blocked += 1);
    }

    /// Sets the rules of a directed link, beside whatever stands there under a number. What waited
    /// passes when it opens.
    pub fn set_link(&self, from: NodeIndex, to: NodeIndex, rules: LinkRules) {
        self.change_link(from, to, |link| link.set = rules);
    }

    /// Has rules stand at a directed link until [`World::end_link`], beside all others.
    pub fn begin_link(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        number: FaultNumber,
        rules: LinkRules,
    ) {
        self.change_link(from, to, |link| {
            link.standing.insert(number, rules);
        });
    }

    /// Ends what stands at a directed link under a number.
    pub fn end_link(&self, from: NodeIndex, to: NodeIndex, number: FaultNumber) {
        self.change_link(from, to, |link| {
            link.standing.remove(&number);
        });
    }

    fn change_link(&self, from: NodeIndex, to: NodeIndex, change: impl FnOnce(&mut Link)) {
        let (before, rules) = self.with_link(from, to, |link| {
            let before = link.rules;
            change(link);
            let standing = link.standing.values();
            link.rules = standing.fold(link.set, |rules, other| rules.and(*other));
            (before, link.rules)
        });
        if before.state != LinkState::Open && rules.state == LinkState::Open {
            self.release_link(from, to);
        }
        if before != rules {
            self.links_changed([from, to]);
        }
    }

    /// Sets the state of a directed link alone.
    pub fn set_link_state(&self, from: NodeIndex, to: NodeIndex, state: LinkState) {
        let rules = LinkRules {
            state,
            ..self.with_link(from, to, |link| link.set)
        };
        self.set_link(from, to, rules);
    }

    /// Changes the rules that were set of every link between two different nodes.
    pub fn update_links(&self, change: impl Fn(NodeIndex, NodeIndex, &mut LinkRules)) {
        let nodes = self.node_indexes();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                let mut rules = self.with_link(*from, *to, |link| link.set);
                change(*from, *to, &mut rules);
                self.set_link(*from, *to, rules);
            }
        }
    }

    /// Cuts both directions between two nodes.
    pub fn cut(&self, one: NodeIndex, other: NodeIndex) {
        self.set_link_state(one, other, LinkState::Cut);
        self.set_link_state(other, one, LinkState::Cut);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: NodeIndex) {
        self.update_links(|from, to, rules| {
            if from == node || to == node {
                rules.state = LinkState::Cut;
            }
        });
    }

    /// Divides the nodes for as long as this stands, beside all other partitions: two nodes talk
    /// only when some group holds both.
    pub fn begin_partition(&self, number: FaultNumber, groups: &[Vec<NodeIndex>]) {
        let cut = LinkRules {
            state: LinkState::Cut,
            ..LinkRules::default()
        };
        let nodes = self.node_indexes();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                let both = |group: &Vec<NodeIndex>| group.contains(from) && group.contains(to);
                if !groups.iter().any(both) {
                    self.begin_link(*from, *to, number, cut);
                }
            }
        }
    }

    /// Ends a partition.
    pub fn end_partition(&self, number: FaultNumber) {
        let nodes = self.node_indexes();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                self.end_link(*from, *to, number);
            }
        }
    }

    /// Divides the nodes: two nodes talk exactly when some group holds both. Overlapping groups
    /// make bridges and rings; a node in no group is alone.
    pub fn partition(&self, groups: &[Vec<NodeIndex>]) {
        self.update_links(|from, to, rules| {
            let together = groups
                .iter()
                .any(|group| group.contains(&from) && group.contains(&to));
            rules.state = if together {
                LinkState::Open
            } else {
                LinkState::Cut
            };
        });
    }

    /// Opens every link that was set; other rules, and whatever stands under a number, stay.
    pub fn heal_links(&self) {
        self.update_links(|_, _, rules| rules.state = LinkState::Open);
    }

    /// Gives every link plain rules, and ends whatever stands at one.
    pub fn reset_links(&self) {
        let nodes = self.node_indexes();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                self.change_link(*from, *to, |link| link.standing.clear());
            }
        }
        self.update_links(|_, _, rules| *rules = LinkRules::default());
    }
}
