//! What a seed stands for: cluster, disk, workload and faults, all drawn before the run begins.
//!
//! Each part is drawn from its own stream, so that a change of one part does not shift another.

use std::num::NonZeroU64;
use std::time::Duration;

use hedgerow_env::Random;
use hedgerow_protocol::{PlacementRule, Policy};
use serde::{Deserialize, Serialize};

use crate::world::{FaultAction, NodeIndex, TimedFault};

use super::additions::{self, Addition};
use super::classes::Class;
use super::operators::{self, OperatorAction};
use super::shape::{self, Shape, Tunables};
use super::splits::{self, Split};
use super::{
    catch_up_stories, crash_loops, damage_stories, deep_damage, disk_nemesis, group_stories,
    late_stories, lease_stories, nemesis, phase_aims, phase_nemesis, power_stories, stories,
    survival,
};

/// The disk moves to another proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// When, from the beginning of the safety phase.
    pub at_ns: u64,
    /// Where to.
    pub to: NodeIndex,
    /// The former holder goes on for so long, as if it knew nothing of it; zero: it releases.
    pub former_goes_on_ns: u64,
    /// A holder that comes in where the former one goes on reads for so long before its first
    /// write; a length of its own is drawn where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_ns: Option<u64>,
}

impl Move {
    /// A move of a disk that its holder releases.
    #[must_use]
    pub fn of_released(at_ns: u64, to: NodeIndex) -> Self {
        Self {
            at_ns,
            to,
            former_goes_on_ns: 0,
            recovery_ns: None,
        }
    }
}

/// Once the faults have ended, a node takes the disk, is killed in the midst of writes, and no proxy
/// takes the disk after it until what it left behind is to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abandonment {
    /// Which node.
    pub node: NodeIndex,
    /// How many writes are under way at once, one after the other.
    pub writes: u32,
    /// It is killed so long after they began.
    pub after_ns: u64,
}

/// An image of a node's disk is taken while faults strike, and restored when all has been judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restoration {
    /// Which node.
    pub node: NodeIndex,
    /// When the image is taken, from the beginning of the safety phase.
    pub image_at_ns: u64,
}

/// Bytes of one operation at most.
const OPERATION_BYTES: u64 = 65_536;
/// Blocks of one operation at most.
const OPERATION_BLOCKS: u64 = 5;

/// A run's plan. Written to and read from a tape, it needs no seed to be drawn from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The seed: of the world's own chances.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u16,
    /// How many racks they stand in.
    pub racks: u16,
    /// How many data centres.
    pub data_centres: u16,
    /// How many shards.
    pub shards: u32,
    /// The disk's policy.
    pub policy: Policy,
    /// Containers of the disk, each of [`Plan::container_bytes`].
    pub containers: u32,
    /// Bytes of a container.
    pub container_bytes: u64,
    /// Blocks that clients use, spread over the containers.
    pub hot_blocks: u64,
    /// Client tasks of the node that holds the disk.
    pub clients: u32,
    /// Initiators on a machine of their own, which use the portal of the node that holds the disk.
    #[serde(default)]
    pub initiators: u32,
    /// Pause between a client's operations, at most.
    pub pause: Duration,
    /// Of so many writes one is cancelled, where the plan says; else a number is drawn.
    #[serde(default)]
    pub one_cancels_of: Option<NonZeroU64>,
    /// Whoever attaches or releases the first disk waits so long for the answer; as long as it takes where
    /// none is given.
    #[serde(default)]
    pub patience: Option<Duration>,
    /// How long faults strike.
    pub safety: Duration,
    /// Where the disk moves when; it begins at node 0, where it also is once the faults have ended.
    pub moves: Vec<Move>,
    /// Clock drift of each node, in parts per million; none where the list has ended.
    pub drift_ppm: Vec<i32>,
    /// Figures of the nodes at their extremes.
    #[serde(default)]
    pub tunables: Option<Tunables>,
    /// What strikes while the cluster forms, counted from the beginning of the run.
    #[serde(default)]
    pub formation: Vec<TimedFault>,
    /// What strikes when, counted from the beginning of the safety phase.
    pub faults: Vec<TimedFault>,
    /// What operators do, counted from the beginning of the safety phase.
    #[serde(default)]
    pub operators: Vec<OperatorAction>,
    /// A writer that never returns, once the faults have ended.
    #[serde(default)]
    pub abandonment: Option<Abandonment>,
    /// A store that is rolled back in the end.
    #[serde(default)]
    pub restoration: Option<Restoration>,
    /// Shards that an operator has split.
    #[serde(default)]
    pub splits: Vec<Split>,
    /// Which of the nodes are not there from the beginning.
    #[serde(default)]
    pub additions: Vec<Addition>,
    /// Whether each store is compared with its shards in the moment in which it opens.
    #[serde(default)]
    pub watches_openings: bool,
}

fn stream(seed: u64, label: u64) -> Random {
    // Streams of one seed differ by an odd multiple; StdRng scatters them.
    Random::from_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ label.rotate_left(32))
}

impl Plan {
    /// The least that a plan can hold: what a tape does not mention.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            seed: 0,
            nodes: 1,
            racks: 1,
            data_centres: 1,
            shards: 1,
            policy: Policy::default(),
            containers: 1,
            container_bytes: 1 << 20,
            hot_blocks: 1,
            clients: 1,
            initiators: 0,
            pause: Duration::from_millis(10),
            one_cancels_of: None,
            patience: None,
            safety: Duration::from_secs(1),
            moves: Vec::new(),
            drift_ppm: Vec::new(),
            tunables: None,
            formation: Vec::new(),
            faults: Vec::new(),
            operators: Vec::new(),
            abandonment: None,
            restoration: None,
            splits: Vec::new(),
            additions: Vec::new(),
            watches_openings: false,
        }
    }

    /// Whether a node is there from the beginning.
    #[must_use]
    pub fn is_founder(&self, node: NodeIndex) -> bool {
        self.additions.iter().all(|addition| addition.node != node)
    }

    /// How many nodes are there from the beginning.
    #[must_use]
    pub fn founders(&self) -> u16 {
        let added = u16::try_from(self.additions.len()).unwrap_or(u16::MAX);
        self.nodes.saturating_sub(added)
    }

    /// Copies of the disk that has the fewest.
    #[must_use]
    pub fn fewest_copies(&self) -> u8 {
        let created = self.operators.iter().filter_map(OperatorAction::creates);
        let copies = created.map(|(_, policy)| policy.replication_factor);
        copies.fold(self.policy.replication_factor, u8::min)
    }

    /// The clock drift of a node outside its faults, in parts per million.
    #[must_use]
    pub fn drift(&self, node: NodeIndex) -> i32 {
        self.drift_ppm
            .get(node.position())
            .copied()
            .unwrap_or_default()
    }

    /// The blocks in use lie in windows around the borders of neighbouring containers.
    fn windows(&self) -> u64 {
        u64::from(self.containers).saturating_sub(1).max(1)
    }

    /// Blocks of a window; the last one may be shorter.
    #[must_use]
    pub fn window_blocks(&self) -> u64 {
        self.hot_blocks.div_ceil(self.windows()).max(1)
    }

    /// How many blocks can be in use at most.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.windows() * (self.container_bytes / u64::from(self.policy.block_size))
    }

    /// Blocks of one operation at most.
    #[must_use]
    pub fn most_blocks(&self) -> u64 {
        (OPERATION_BYTES / u64::from(self.policy.block_size)).clamp(1, OPERATION_BLOCKS)
    }

    /// Where a block in use begins, in bytes. Those of a window follow one another.
    #[must_use]
    pub fn offset(&self, block: u64) -> u64 {
        assert!(block < self.room(), "no two blocks share a place");
        let size = u64::from(self.policy.block_size);
        let (window, within) = (block / self.window_blocks(), block % self.window_blocks());
        let before_border = if self.containers > 1 {
            self.window_blocks() / 2 * size
        } else {
            self.container_bytes
        };
        (window + 1) * self.container_bytes - before_border + within * size
    }

    /// The plan of `seed`.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        Self::draw_with(seed, &[])
    }

    /// The plan of `seed`, with the `wanted` classes of faults for certain.
    #[must_use]
    pub fn draw_with(seed: u64, wanted: &[Class]) -> Self {
        let mut shape = stream(seed, 1);
        let mut disk = stream(seed, 2);
        let policy = draw_policy(&mut disk);
        let replication_factor = policy.replication_factor;
        let usual = draw_shape(&mut shape, replication_factor);
        let other = shape::draw(&mut stream(seed, 16), replication_factor, wanted);
        let Shape {
            nodes,
            racks,
            data_centres,
        } = other.unwrap_or(usual);
        let mut work = stream(seed, 3);
        let safety = Duration::from_millis(15_000 + work.below(20_000));
        let mut clocks = stream(seed, 4);
        let containers = 1 + u32::try_from(disk.below(4)).expect("small");
        let container_bytes = 1 << 20;
        let drift = |_| i32::try_from(clocks.below(180_000)).expect("small") - 90_000;
        let safety = match other {
            Some(other) => safety.min(other.longest()),
            None => safety,
        };
        let mut moves = draw_moves(&mut stream(seed, 6), nodes, safety);
        let mut ground = nemesis::Ground {
            nodes,
            racks,
            safety,
        };
        let struck = Struck::draw(seed, &mut ground, replication_factor, &mut moves, wanted);
        // Many blocks and few operations leave each alone for long: what comes late is not soon
        // overwritten.
        let (few_blocks, pauses) =
            [(4, [2, 10, 50]), (64, [50; 3])][usize::from(work.chance(1, 4))];
        let hot_blocks = few_blocks + work.below(28);
        let mut plan = Self {
            seed,
            nodes,
            racks,
            data_centres,
            shards: [1, 2, 4][shape.index(3)],
            policy,
            containers,
            container_bytes,
            hot_blocks,
            clients: 1 + u32::try_from(work.below(4)).expect("small"),
            initiators: u32::try_from(work.below(4)).expect("small"),
            pause: Duration::from_millis(pauses[work.index(3)]),
            one_cancels_of: None,
            patience: None,
            safety: ground.safety,
            moves,
            drift_ppm: (0..nodes).map(drift).collect(),
            tunables: shape::draw_tunables(&mut stream(seed, 15), wanted),
            formation: draw_formation(seed, ground),
            faults: struck.faults,
            operators: Vec::new(),
            abandonment: draw_abandonment(&mut stream(seed, 11), nodes),
            // An image is of one node's store: it must not be running elsewhere. And no second node may
            // be lost for good, since nothing replaces the first one.
            restoration: draw_restoration(&mut stream(seed, 10), ground, replication_factor)
                .filter(|_| !struck.moves_or_loses_disks),
            splits: splits::draw(&mut stream(seed, 20), ground.safety),
            additions: Vec::new(),
            watches_openings: false,
        };
        let story = struck.story.map(|story| story.tell(&mut plan));
        plan.hot_blocks = plan.hot_blocks.min(plan.room());
        if story.is_none() {
            plan.change_too(struck.operators, struck.splits, wanted);
        }
        plan
    }

    /// In a seed that tells no story operators, splits and additions change the cluster, too.
    fn change_too(&mut self, operators: Vec<OperatorAction>, splits: Vec<Split>, wanted: &[Class]) {
        self.operators = draw_operators(self, wanted);
        self.operators.extend(operators);
        self.operators.sort_by_key(|action| action.at_ns);
        self.splits.extend(splits);
        self.splits.sort_by_key(|split| split.at_ns);
        additions::draw(&mut stream(self.seed, 27), self, wanted);
    }
}

fn draw_operators(plan: &Plan, wanted: &[Class]) -> Vec<OperatorAction> {
    let estate = operators::Estate {
        nodes: plan.nodes,
        safety: plan.safety,
        containers: plan.containers,
        replication_factor: plan.policy.replication_factor,
    };
    operators::draw(&mut stream(plan.seed, 13), estate, wanted)
}

fn draw_formation(seed: u64, ground: nemesis::Ground) -> Vec<TimedFault> {
    let mut drawn = nemesis::draw_formation(&mut stream(seed, 7), ground.nodes);
    drawn.extend(phase_nemesis::draw_formation(&mut stream(seed, 18), ground));
    drawn
}

fn draw_policy(disk: &mut Random) -> Policy {
    let factors: [u8; 10] = [3, 3, 3, 3, 3, 5, 2, 1, 4, 6];
    let rules = [
        PlacementRule::Agnostic,
        PlacementRule::RackAware,
        PlacementRule::DataCentreAware,
    ];
    Policy {
        replication_factor: factors[disk.index(factors.len())],
        placement: rules[disk.index(rules.len())],
        block_size: [512, 4096, 4096, 65_536][disk.index(4)],
        compression: disk.chance(1, 3),
        ..Policy::default()
    }
}

/// The shape of most clusters. One member a node: six copies need six nodes, and one to spare.
fn draw_shape(shape: &mut Random, replication_factor: u8) -> Shape {
    let least = match replication_factor {
        6 => 7,
        _ => 5,
    };
    Shape {
        nodes: [5, 5, 5, 5, 5, 5, 6, 7][shape.index(8)].max(least),
        racks: 3,
        data_centres: 1 + u16::try_from(shape.below(3)).expect("small"),
    }
}

fn draw_moves(random: &mut Random, nodes: u16, safety: Duration) -> Vec<Move> {
    let end = u64::try_from(safety.as_nanos()).expect("a run is short");
    let every = 1_000_000 * (2_000 + random.below(12_000));
    let mut at_ns = every;
    let mut moves = Vec::new();
    while at_ns < end {
        let to = NodeIndex(u16::try_from(random.below(u64::from(nodes))).expect("few nodes"));
        let goes_on = random.chance(1, 2);
        let former_goes_on_ns = u64::from(goes_on) * 1_000_000_000 * (1 + random.below(10));
        moves.push(Move {
            former_goes_on_ns,
            ..Move::of_released(at_ns, to)
        });
        at_ns += every / 2 + random.below(every);
    }
    moves
}

/// What strikes in the safety phase.
struct Struck {
    faults: Vec<TimedFault>,
    /// Takes the place of all others.
    story: Option<stories::Story>,
    moves_or_loses_disks: bool,
    /// What brings about the phases that faults are aimed at.
    operators: Vec<OperatorAction>,
    splits: Vec<Split>,
}

impl Struck {
    fn draw(
        seed: u64,
        ground: &mut nemesis::Ground,
        replication_factor: u8,
        moves: &mut Vec<Move>,
        wanted: &[Class],
    ) -> Self {
        let mut faults = nemesis::draw(&mut stream(seed, 5), *ground, moves);
        // Whoever asks for damage is not told a story instead. (It would set the length of the run, too.)
        let story = match wanted.is_empty() {
            true => draw_story(seed, ground),
            false => None,
        };
        let of_disks = disk_nemesis::draw(&mut stream(seed, 9), *ground, replication_factor);
        let deep = draw_deep(seed, *ground, replication_factor, &of_disks.victims, wanted);
        faults.extend(of_disks.faults);
        faults.extend(disk_nemesis::draw_full(&mut stream(seed, 12), *ground));
        let waiting = phase_nemesis::Waiting {
            ground: *ground,
            victims: &of_disks.victims,
            goes_deep: !deep.is_empty(),
            wanted,
        };
        faults.extend(phase_nemesis::draw(&mut stream(seed, 17), &waiting));
        let mut aims = phase_aims::draw(&mut stream(seed, 24), &waiting);
        faults.append(&mut aims.faults);
        faults.extend(crash_loops::draw(&mut stream(seed, 25), *ground, wanted));
        deep_damage::keep_quiet(&deep, &mut faults);
        aims.keep_quiet(&mut faults);
        let moves_or_loses = |fault: &TimedFault| {
            matches!(
                fault.action,
                FaultAction::SwapDisks(..)
                    | FaultAction::WipeDisk(_)
                    | FaultAction::RestoreImage(_)
            )
        };
        let moves_or_loses_disks =
            story.is_none() && (aims.wipes_disk || deep.iter().any(moves_or_loses));
        faults.extend(deep);
        faults.sort_by_key(|fault| fault.at_ns);
        Self {
            faults,
            story,
            moves_or_loses_disks,
            operators: aims.operators,
            splits: aims.splits,
        }
    }
}

/// One story at most, each kind from a stream of its own.
fn draw_story(seed: u64, ground: &mut nemesis::Ground) -> Option<stories::Story> {
    damage_stories::draw(&mut stream(seed, 61), ground)
        .or_else(|| power_stories::draw(&mut stream(seed, 51), ground))
        .or_else(|| power_stories::draw_torn(&mut stream(seed, 57), ground))
        .or_else(|| catch_up_stories::draw(&mut stream(seed, 53), ground))
        .or_else(|| lease_stories::draw(&mut stream(seed, 59), ground))
        .or_else(|| late_stories::draw(&mut stream(seed, 36), ground))
        .or_else(|| stories::draw(&mut stream(seed, 8), ground))
        .or_else(|| group_stories::draw(&mut stream(seed, 41), ground))
}

/// Damage below the blobs to a node that is damaged already, or to one if that is survivable.
fn draw_deep(
    seed: u64,
    ground: nemesis::Ground,
    replication_factor: u8,
    victims: &[NodeIndex],
    wanted: &[Class],
) -> Vec<TimedFault> {
    let mut random = stream(seed, 14);
    let any = random.below(u64::from(ground.nodes));
    let any = NodeIndex(u16::try_from(any).expect("few nodes"));
    let bearable = survival::budget(replication_factor, ground.nodes) > 0;
    let victim = victims.first().copied().or(bearable.then_some(any));
    let deep = deep_damage::draw(&mut random, ground, victim, wanted);
    if deep.is_empty() && wanted.is_empty() {
        return deep_damage::draw_misplaced(&mut stream(seed, 26), ground, victim);
    }
    deep
}

/// In one seed of three.
fn draw_abandonment(random: &mut Random, nodes: u16) -> Option<Abandonment> {
    random.chance(1, 3).then(|| Abandonment {
        node: NodeIndex(u16::try_from(random.below(u64::from(nodes))).expect("few nodes")),
        writes: 2 + u32::try_from(random.below(15)).expect("small"),
        after_ns: 1_000_000 * (20 + random.below(400)),
    })
}

/// In one seed of four, where the disk can do without a node.
fn draw_restoration(
    random: &mut Random,
    ground: nemesis::Ground,
    replication_factor: u8,
) -> Option<Restoration> {
    let end = u64::try_from(ground.safety.as_nanos()).expect("a run is short");
    let node = random.below(u64::from(ground.nodes));
    let drawn = Restoration {
        node: NodeIndex(u16::try_from(node).expect("few nodes")),
        image_at_ns: random.below(end),
    };
    (random.chance(1, 4) && replication_factor > 1).then_some(drawn)
}
