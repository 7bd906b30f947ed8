//! Which faults strike when: drawn from a seed, before the test begins.
//!
//! Faults of one lane never overlap; processes, disks and clocks share a lane, links have their
//! own, so a node may die while the network is split, but nobody pauses a dead node. Every kind
//! that was asked for has its turn, or the draw is refused.

use hedgerow_env::Random;

use super::bounds::SPARES;
use super::fault_proxy::LinkRules;
use super::faults::{DamageKind, Fault, Link, TimedFault};
use super::plan::PlanError;

/// Refuses the name of a nemesis that there is not: what it asks for would never be looked for.
pub(super) fn known(field: &str, name: &str) -> Result<(), PlanError> {
    if NEMESES.iter().any(|(_, known, _)| *known == name) {
        return Ok(());
    }
    Err(PlanError(format!(
        "{field} is {name:?}: no nemesis is called so; `hedgerow jepsen run --nemesis help` lists them"
    )))
}

/// A kind of fault that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of one node, of some, of all.
    Kill,
    /// A stop in order, and a start.
    Restart,
    /// Each node in turn is stopped and started.
    Rolling,
    /// SIGSTOP and SIGCONT, shorter and longer than a lease.
    Pause,
    /// Two halves that cannot talk.
    Halves,
    /// Each node sees its neighbours only.
    Ring,
    /// Two halves that share one node.
    Bridge,
    /// One node hears nobody, or nobody hears it.
    OneWay,
    /// One node alone.
    Isolate,
    /// One rack alone.
    Rack,
    /// Delays with jitter.
    Slow,
    /// Stalls as after lost packets, connections that break, damaged bytes.
    Lossy,
    /// Every connection breaks, again and again.
    Reset,
    /// Connections are opened twice, and the copy hears the same bytes.
    Duplicate,
    /// A clock that is off, and too fast or too slow.
    Clock,
    /// A clock that jumps back and forth.
    Strobe,
    /// Damage to a file of a node that is down.
    Damage,
    /// Unsynced writes are lost.
    Unsynced,
    /// No space left.
    Full,
    /// Everything that a node kept is lost.
    Wipe,
    /// A rack or the whole cluster is without power at one moment.
    Power,
    /// A blank node joins and stays.
    Join,
    /// A node is drained, then taken back.
    Drain,
    /// One data centre alone.
    DataCentre,
    /// Two nodes lose each other, and nobody else.
    Pair,
    /// All nodes but one die or stop at one moment.
    Strand,
}

/// Every kind with its name and what it does.
pub const NEMESES: &[(Kind, &str, &str)] = &[
    (Kind::Kill, "kill", "kill -9 of one node, some or all"),
    (Kind::Restart, "restart", "SIGTERM and a start"),
    (
        Kind::Rolling,
        "rolling",
        "each node in turn is stopped and started",
    ),
    (Kind::Pause, "pause", "SIGSTOP and SIGCONT"),
    (Kind::Halves, "halves", "two halves that cannot talk"),
    (Kind::Ring, "ring", "each node sees its neighbours only"),
    (Kind::Bridge, "bridge", "two halves that share one node"),
    (
        Kind::OneWay,
        "one-way",
        "one node hears nobody, or nobody hears it",
    ),
    (Kind::Isolate, "isolate", "one node alone"),
    (Kind::Rack, "rack", "one rack alone"),
    (Kind::Slow, "slow", "delays with jitter on some links"),
    (
        Kind::Lossy,
        "lossy",
        "stalls, damaged bytes and breaking connections",
    ),
    (
        Kind::Reset,
        "reset",
        "every connection breaks, again and again",
    ),
    (Kind::Duplicate, "duplicate", "connections are opened twice"),
    (
        Kind::Clock,
        "clock",
        "a wall clock that is off, a monotonic one that drifts",
    ),
    (Kind::Strobe, "strobe", "the same, on and off"),
    (
        Kind::Damage,
        "damage",
        "flipped, zeroed and cut off bytes of a node that is down",
    ),
    (
        Kind::Unsynced,
        "unsynced",
        "unsynced writes are lost with the process",
    ),
    (Kind::Full, "full", "no file of a node can grow"),
    (
        Kind::Wipe,
        "wipe",
        "a node loses everything and returns as a new one",
    ),
    (
        Kind::Power,
        "power",
        "a rack, or the whole cluster, loses power at one moment",
    ),
    (Kind::Join, "join", "a blank node joins and stays"),
    (
        Kind::Drain,
        "drain",
        "an operator drains a node, and takes it back",
    ),
    (Kind::DataCentre, "data-centre", "one data centre alone"),
    (
        Kind::Pair,
        "pair",
        "two nodes lose each other, and nobody else",
    ),
    (
        Kind::Strand,
        "strand",
        "all nodes but one die or stop at one moment",
    ),
];

/// Names that stand for several kinds.
const GROUPS: &[(&str, &[Kind])] = &[
    ("none", &[]),
    (
        "partition",
        &[
            Kind::Halves,
            Kind::Ring,
            Kind::Bridge,
            Kind::OneWay,
            Kind::Isolate,
            Kind::Rack,
            Kind::DataCentre,
            Kind::Pair,
        ],
    ),
    (
        "links",
        &[Kind::Slow, Kind::Lossy, Kind::Reset, Kind::Duplicate],
    ),
    ("clocks", &[Kind::Clock, Kind::Strobe]),
    ("members", &[Kind::Wipe, Kind::Join, Kind::Drain]),
];

impl Kind {
    /// What it is asked for by.
    #[must_use]
    pub fn name(self) -> &'static str {
        let row = NEMESES.iter().find(|(kind, ..)| *kind == self);
        row.map_or("", |(_, name, _)| name)
    }

    /// Whether it strikes links, not nodes.
    #[must_use]
    pub fn strikes_links(self) -> bool {
        (Self::Halves..=Self::Duplicate).contains(&self)
            || matches!(self, Self::DataCentre | Self::Pair)
    }

    /// Whether it cuts links, and nothing else.
    fn cuts_links(self) -> bool {
        (Self::Halves..=Self::Rack).contains(&self) || matches!(self, Self::DataCentre | Self::Pair)
    }

    /// The fewest nodes with which it makes sense.
    fn least_nodes(self) -> u16 {
        match self {
            Self::Ring | Self::Drain => 4,
            Self::Bridge | Self::Wipe | Self::Damage | Self::Pair => 3,
            Self::Strand => 2,
            kind if kind.strikes_links() => 2,
            _ => 1,
        }
    }
}

/// The kinds of a list such as `kill,partition`; `all` is everything that `nodes` nodes allow.
///
/// # Errors
/// A name that nobody knows, with those that are known.
pub fn kinds_named(list: &str, nodes: u16) -> Result<Vec<Kind>, PlanError> {
    let mut kinds = Vec::new();
    for name in list.split(',').map(str::trim) {
        let one = NEMESES.iter().find(|(_, known, _)| *known == name);
        let group = GROUPS.iter().find(|(known, _)| *known == name);
        let fits = |kind: &&Kind| kind.least_nodes() <= nodes;
        match (name, one, group) {
            ("all", ..) => {
                let all = NEMESES.iter().map(|(kind, ..)| kind);
                kinds.extend(all.filter(fits));
            }
            (_, Some((kind, ..)), _) => kinds.push(*kind),
            (_, _, Some((_, members))) => kinds.extend(members.iter().filter(fits)),
            _ => {
                let known: Vec<&str> = NEMESES.iter().map(|(_, known, _)| *known).collect();
                return Err(PlanError(format!(
                    "no nemesis is called {name:?}; there are {}, and none, partition, links, \
                     clocks, members, all",
                    known.join(", ")
                )));
            }
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    Ok(kinds)
}

/// The shortest cut of links, unless another is asked for; the longest is [`CUT_RANGE_MS`] longer.
pub const LEAST_CUT_MS: u64 = 3_000;
const CUT_RANGE_MS: u64 = 6_000;
/// A fault of links has so much time at least while two nodes run: bytes pass only between those.
const LEAST_BETWEEN_NODES_MS: u64 = 2_000;
/// A node that was started or woken speaks to others by then.
const VOICE_MS: u64 = 3_000;
/// The cluster is left alone at first, so that clients have something to lose.
const WARM_UP_MS: u64 = 2_000;
/// The last holder's lease has to end before clients are served again; then they need time to have
/// something to lose.
const ALL_PAUSE_MS: u64 = 6_000;
/// A blank node is one of the cluster by then.
const JOIN_MS: u64 = 8_000;
/// The data of a test's disk is elsewhere by then, where nothing else strikes.
const DRAIN_MS: u64 = 15_000;

/// Draws the faults of a test of `duration_ms`.
pub(super) fn draw(
    random: &mut Random,
    (kinds, least_cut_ms): (&[Kind], u64),
    (nodes, racks): (u16, u16),
    duration_ms: u64,
) -> Result<Vec<TimedFault>, PlanError> {
    for kind in kinds {
        let least = kind.least_nodes();
        if nodes < least {
            let name = kind.name();
            return Err(PlanError(format!(
                "the nemesis {name} needs {least} nodes or more, not {nodes}"
            )));
        }
    }
    let sick = u16::try_from(random.below(u64::from(nodes))).expect("few nodes");
    let mut draw = Draw {
        random,
        nodes,
        racks,
        sick,
        joined: 0,
        least_cut_ms,
        faults: Vec::new(),
    };
    for of_links in [false, true] {
        let lane = kinds.iter().filter(|kind| kind.strikes_links() == of_links);
        draw.lane(&lane.copied().collect::<Vec<_>>(), duration_ms)?;
    }
    let mut faults = draw.faults;
    faults.sort_by_key(|fault| fault.at_ms);
    Ok(faults)
}

/// The one node that a fault is about: the one it strikes, the one it spares, or the one whose links
/// it breaks; none if it is about several alike.
#[must_use]
pub(super) fn heart(timed: &TimedFault, nodes: u16) -> Option<u16> {
    if timed.kind == Kind::Rolling.name() {
        return None;
    }
    match &timed.fault {
        Fault::Restart { node } => Some(*node),
        Fault::Kill { nodes: struck }
        | Fault::Pause { nodes: struck }
        | Fault::LoseUnsynced { nodes: struck }
        | Fault::PowerLoss { nodes: struck } => match struck.as_slice() {
            [node] => Some(*node),
            _ => only((0..nodes).filter(|node| !struck.contains(node))),
        },
        Fault::Partition { groups, .. } => {
            let alone = groups.iter().find(|group| group.len() == 1);
            let lost = |group: &Vec<u16>| only((0..nodes).filter(|node| !group.contains(node)));
            // Of a pair the first group lacks the other.
            alone.map(|group| group[0]).or_else(|| lost(groups.get(1)?))
        }
        Fault::Links { links, .. } => {
            let on_all = |node: &u16| {
                let ends = |link: &Link| link.from == *node || link.to == *node;
                links.iter().all(ends)
            };
            only((0..nodes).filter(on_all))
        }
        _ => None,
    }
}

fn only(mut nodes: impl Iterator<Item = u16>) -> Option<u16> {
    let first = nodes.next()?;
    nodes.next().is_none().then_some(first)
}

/// The data centre of a rack: the first holds every other rack.
#[must_use]
pub fn data_centre_of(rack: u16) -> u16 {
    rack % 2
}

struct Draw<'a> {
    random: &'a mut Random,
    nodes: u16,
    racks: u16,
    /// The node whose disk is damaged: one in all, so that the rest is a majority.
    sick: u16,
    /// Spare nodes that have joined.
    joined: u16,
    least_cut_ms: u64,
    faults: Vec<TimedFault>,
}

impl Draw<'_> {
    /// Each kind in turn, in a drawn order, as often as the time allows.
    fn lane(&mut self, kinds: &[Kind], duration_ms: u64) -> Result<(), PlanError> {
        if kinds.is_empty() {
            return Ok(());
        }
        let mut order = kinds.to_vec();
        for place in (1..order.len()).rev() {
            order.swap(place, self.random.index(place + 1));
        }
        let mut at = WARM_UP_MS + self.random.below(1_000);
        for round in 0_usize.. {
            let kind = order[round % order.len()];
            let before = self.faults.len();
            let until = self.strike(kind, at);
            if until + 500 > duration_ms {
                self.faults.truncate(before);
                if round < order.len() {
                    let all = (until + 1_000) / 1000 * (order.len() as u64) / (round as u64 + 1);
                    return Err(PlanError(format!(
                        "{} s are too short for every nemesis to strike: give about {} s, or ask \
                         for fewer",
                        duration_ms / 1000,
                        all + 10
                    )));
                }
                return Ok(());
            }
            at = until + 2_000 + self.random.below(5_000);
        }
        Ok(())
    }

    fn some_node(&mut self) -> u16 {
        u16::try_from(self.random.below(u64::from(self.nodes))).expect("few nodes")
    }

    /// One node mostly, several now and then, all of them sometimes.
    fn victims(&mut self) -> Vec<u16> {
        match self.random.below(10) {
            0 => (0..self.nodes).collect(),
            1 | 2 => {
                let mut nodes: Vec<u16> = (0..self.nodes).collect();
                let count = 1 + self.random.index(usize::from(self.nodes).div_ceil(2));
                while nodes.len() > count {
                    nodes.swap_remove(self.random.index(nodes.len()));
                }
                nodes
            }
            _ => vec![self.some_node()],
        }
    }

    /// Every node, half of the time; else all but one, mostly: what that one remembers must not
    /// speak for what the others have lost. Else those of one rack.
    fn powerless(&mut self) -> Vec<u16> {
        match self.random.below(8) {
            0..4 => (0..self.nodes).collect(),
            4..7 => self.all_but_one(),
            _ => {
                let rack = self.rack();
                let all = 0..self.nodes;
                all.filter(|node| node % self.racks == rack).collect()
            }
        }
    }

    fn all_but_one(&mut self) -> Vec<u16> {
        let spared = self.some_node();
        let all = 0..self.nodes;
        let others = |node: &u16| self.nodes == 1 || *node != spared;
        all.filter(others).collect()
    }

    fn rack(&mut self) -> u16 {
        let rack = self.random.below(u64::from(self.racks));
        u16::try_from(rack).expect("few racks")
    }

    fn push(&mut self, kind: Kind, at_ms: u64, length_ms: u64, fault: Fault) -> u64 {
        let until_ms = at_ms + length_ms;
        self.faults.push(TimedFault {
            kind: kind.name().to_owned(),
            at_ms,
            until_ms,
            fault,
            aim: None,
        });
        until_ms
    }

    /// Between `least` and three times as long.
    fn length(&mut self, least: u64) -> u64 {
        least + self.random.below(2 * least)
    }

    /// Draws one fault (or a sequence of them) from `at` on; returns its end.
    fn strike(&mut self, kind: Kind, at: u64) -> u64 {
        if kind.strikes_links() {
            return self.strike_links(kind, at);
        }
        match kind {
            Kind::Kill => {
                let (nodes, length) = (self.victims(), self.length(1_500));
                self.push(kind, at, length, Fault::Kill { nodes })
            }
            Kind::Pause => {
                let (nodes, length) = (self.victims(), self.length(3_000));
                self.push(kind, at, length, Fault::Pause { nodes })
            }
            Kind::Strand => {
                let (nodes, length) = (self.all_but_one(), self.length(2_500));
                let fault = if self.random.chance(1, 2) {
                    Fault::Pause { nodes }
                } else {
                    Fault::Kill { nodes }
                };
                self.push(kind, at, length, fault) + ALL_PAUSE_MS
            }
            Kind::Restart => {
                let (node, length) = (self.some_node(), self.length(1_000));
                self.push(kind, at, length, Fault::Restart { node })
            }
            Kind::Rolling => (0..self.nodes).fold(at, |at, node| {
                self.push(kind, at, 2_000, Fault::Restart { node }) + 3_000
            }),
            Kind::Clock | Kind::Strobe => self.strike_clock(kind, at),
            Kind::Damage => {
                let damage = [DamageKind::Flip, DamageKind::Zero, DamageKind::Truncate];
                let fault = Fault::Damage {
                    node: self.sick,
                    damage: damage[self.random.index(3)],
                    draw: self.random.bits() >> 1,
                };
                self.push(kind, at, 1_500, fault)
            }
            Kind::Unsynced => {
                let (nodes, length) = (self.victims(), self.length(1_000));
                self.push(kind, at, length, Fault::LoseUnsynced { nodes })
            }
            Kind::Power => {
                let (nodes, length) = (self.powerless(), self.length(1_500));
                self.push(kind, at, length, Fault::PowerLoss { nodes }) + ALL_PAUSE_MS
            }
            Kind::Full => {
                let (node, length) = (self.some_node(), self.length(2_000));
                self.push(kind, at, length, Fault::FullDisk { node })
            }
            Kind::Join if u64::from(self.joined) == *SPARES.end() => at,
            Kind::Join => {
                self.joined += 1;
                let node = self.nodes + self.joined - 1;
                self.push(kind, at, JOIN_MS, Fault::Join { node })
            }
            Kind::Drain => {
                let (node, length) = (self.some_node(), self.length(DRAIN_MS));
                self.push(kind, at, length, Fault::Drain { node })
            }
            Kind::Wipe => self.push(kind, at, 2_000, Fault::Wipe { node: self.sick }),
            _ => unreachable!("the kinds that strike links were handled"),
        }
    }

    fn strike_clock(&mut self, kind: Kind, at: u64) -> u64 {
        let wall = i64::try_from(self.random.below(7_200_000)).expect("small") - 3_600_000;
        let rate = i32::try_from(self.random.below(190_000)).expect("small") - 95_000;
        let strobe_ms = if kind == Kind::Strobe {
            100 + self.random.below(400)
        } else {
            0
        };
        let fault = Fault::Clock {
            node: self.some_node(),
            wall_offset_ms: wall,
            rate_ppm: rate,
            strobe_ms,
        };
        let length = self.length(4_000);
        self.push(kind, at, length, fault)
    }

    fn strike_links(&mut self, kind: Kind, at: u64) -> u64 {
        let length = if kind.cuts_links() {
            self.least_cut_ms + self.random.below(CUT_RANGE_MS)
        } else {
            self.length(3_000)
        };
        let length = length + self.silence(at, at + length);
        let all: Vec<u16> = (0..self.nodes).collect();
        let partition = |groups| Fault::Partition {
            shape: kind.name().to_owned(),
            groups,
        };
        let fault = match kind {
            Kind::Halves | Kind::Bridge => {
                let mut order = all;
                for place in (1..order.len()).rev() {
                    order.swap(place, self.random.index(place + 1));
                }
                let middle = order.len() / 2;
                let bridge = usize::from(kind == Kind::Bridge);
                partition(vec![
                    order[..middle + bridge].to_vec(),
                    order[middle..].to_vec(),
                ])
            }
            Kind::Ring => {
                let pair = |node: &u16| vec![*node, (*node + 1) % self.nodes];
                partition(all.iter().map(pair).collect())
            }
            Kind::Isolate => {
                let node = self.some_node();
                let rest = all.into_iter().filter(|other| *other != node).collect();
                partition(vec![vec![node], rest])
            }
            Kind::Pair => {
                let one = self.some_node();
                let step = 1 + self.random.below(u64::from(self.nodes) - 1);
                let step = u16::try_from(step).expect("few nodes");
                let other = (one + step) % self.nodes;
                let without = |lost: u16| all.iter().copied().filter(move |node| *node != lost);
                partition(vec![without(other).collect(), without(one).collect()])
            }
            Kind::Rack => {
                let rack = self.rack();
                let (inside, outside): (Vec<u16>, Vec<u16>) =
                    all.into_iter().partition(|node| node % self.racks == rack);
                partition(vec![inside, outside])
            }
            Kind::DataCentre => {
                let first = |node: &u16| data_centre_of(node % self.racks) == 0;
                let (inside, outside): (Vec<u16>, Vec<u16>) = all.into_iter().partition(first);
                partition(vec![inside, outside])
            }
            _ => self.rules(kind),
        };
        self.push(kind, at, length, fault)
    }

    /// By how much a fault of links from `at` to `until` has to be longer, because for most of it
    /// no two nodes run that could speak to one another. Faults of nodes are drawn before.
    fn silence(&self, at: u64, until: u64) -> u64 {
        let stills = |timed: &&TimedFault| {
            let down = match &timed.fault {
                Fault::Kill { nodes }
                | Fault::Pause { nodes }
                | Fault::LoseUnsynced { nodes }
                | Fault::PowerLoss { nodes } => nodes.len(),
                _ => 0,
            };
            down + 1 >= usize::from(self.nodes) && timed.at_ms < until
        };
        let silent = self.faults.iter().filter(stills).map(|timed| {
            let end = timed.until_ms + VOICE_MS;
            (timed.at_ms.max(at), end, end.min(until))
        });
        let silent: Vec<_> = silent.filter(|(from, _, to)| from < to).collect();
        let heard = (until - at).saturating_sub(silent.iter().map(|(from, _, to)| to - from).sum());
        match silent.last() {
            Some((_, end, to)) if heard < LEAST_BETWEEN_NODES_MS => {
                // What follows the silence is heard.
                end - to + LEAST_BETWEEN_NODES_MS - heard
            }
            _ => 0,
        }
    }

    fn rules(&mut self, kind: Kind) -> Fault {
        let node = self.some_node();
        let others = (0..self.nodes).filter(|other| *other != node);
        let outward = others.clone().map(|to| Link { from: node, to });
        let inward = others.map(|from| Link { from, to: node });
        let both: Vec<Link> = outward.clone().chain(inward.clone()).collect();
        let everywhere: Vec<Link> = (0..self.nodes)
            .flat_map(|from| (0..self.nodes).map(move |to| Link { from, to }))
            .filter(|link| link.from != link.to)
            .collect();
        let (links, rules) = match kind {
            Kind::OneWay => {
                let outwards = self.random.chance(1, 2);
                let links = if outwards {
                    outward.collect()
                } else {
                    inward.collect()
                };
                (links, LinkRules::cut())
            }
            Kind::Slow => (
                both,
                LinkRules {
                    delay_ms: 5 + self.random.below(100),
                    jitter_ms: 1 + self.random.below(200),
                    ..LinkRules::default()
                },
            ),
            Kind::Lossy => (
                both,
                LinkRules {
                    stall_ppm: 20_000,
                    stall_ms: 100 + self.random.below(600),
                    reset_ppm: 2_000,
                    corrupt_ppm: 5_000,
                    ..LinkRules::default()
                },
            ),
            Kind::Reset => (
                everywhere,
                LinkRules {
                    reset_ppm: 30_000,
                    ..LinkRules::default()
                },
            ),
            _ => (
                everywhere,
                LinkRules {
                    duplicate_ppm: 1_000_000,
                    reset_ppm: 5_000,
                    ..LinkRules::default()
                },
            ),
        };
        Fault::Links {
            shape: kind.name().to_owned(),
            links,
            rules,
        }
    }
}

#[cfg(test)]
#[path = "nemesis_tests.rs"]
mod tests;
