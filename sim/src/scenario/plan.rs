//! What a seed stands for: cluster, disk, workload and faults, all drawn before the run begins.
//!
//! Each part is drawn from its own stream, so that a change of one part does not shift another.

use std::time::Duration;

use hedgerow_env::Random;
use hedgerow_protocol::{PlacementRule, Policy};
use serde::{Deserialize, Serialize};

use crate::world::{NodeIndex, TimedFault};

use super::nemesis;

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
}

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
    /// Pause between a client's operations, at most.
    pub pause: Duration,
    /// How long faults strike.
    pub safety: Duration,
    /// Where the disk moves when; it begins at node 0, where it also is once the faults have ended.
    pub moves: Vec<Move>,
    /// Clock drift of each node, in parts per million; none where the list has ended.
    pub drift_ppm: Vec<i32>,
    /// What strikes when, counted from the beginning of the safety phase.
    pub faults: Vec<TimedFault>,
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
            pause: Duration::from_millis(10),
            safety: Duration::from_secs(1),
            moves: Vec::new(),
            drift_ppm: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// The clock drift of a node outside its faults, in parts per million.
    #[must_use]
    pub fn drift(&self, node: NodeIndex) -> i32 {
        self.drift_ppm
            .get(node.position())
            .copied()
            .unwrap_or_default()
    }

    /// The plan of `seed`.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut shape = stream(seed, 1);
        let nodes = 5;
        let racks = 3;
        let mut disk = stream(seed, 2);
        let factors: [u8; 8] = [3, 3, 3, 3, 3, 5, 2, 1];
        let rules = [
            PlacementRule::Agnostic,
            PlacementRule::RackAware,
            PlacementRule::DataCentreAware,
        ];
        let policy = Policy {
            replication_factor: factors[disk.index(factors.len())],
            placement: rules[disk.index(rules.len())],
            block_size: [512, 4096, 4096, 65_536][disk.index(4)],
            compression: disk.chance(1, 3),
            ..Policy::default()
        };
        let mut work = stream(seed, 3);
        let safety = Duration::from_millis(15_000 + work.below(20_000));
        let mut clocks = stream(seed, 4);
        let containers = 1 + u32::try_from(disk.below(4)).expect("small");
        let container_bytes = 1 << 20;
        let room = u64::from(containers) * (container_bytes / u64::from(policy.block_size));
        let drift = |_| i32::try_from(clocks.below(180_000)).expect("small") - 90_000;
        Self {
            seed,
            nodes,
            racks,
            data_centres: 1 + u16::try_from(shape.below(3)).expect("small"),
            shards: [1, 2, 4][shape.index(3)],
            policy,
            containers,
            container_bytes,
            hot_blocks: (4 + work.below(28)).min(room),
            clients: 2 + u32::try_from(work.below(4)).expect("small"),
            pause: Duration::from_millis([2, 10, 50][work.index(3)]),
            safety,
            moves: draw_moves(&mut stream(seed, 6), nodes, safety),
            drift_ppm: (0..nodes).map(drift).collect(),
            faults: nemesis::draw(&mut stream(seed, 5), nodes, safety),
        }
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
            at_ns,
            to,
            former_goes_on_ns,
        });
        at_ns += every / 2 + random.below(every);
    }
    moves
}
