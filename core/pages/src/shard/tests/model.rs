//! A randomized comparison with a model that knows blocks, sequences and members one by one.

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_env::Random;
use hedgerow_protocol::AttemptEnd;

use super::*;

const BLOCKS: u32 = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Never,
    Hole(u64, u64),
    Data(u64, u64),
}

impl Block {
    fn version(self) -> Option<(u64, u64)> {
        match self {
            Self::Never => None,
            Self::Hole(writer, sequence) | Self::Data(writer, sequence) => Some((writer, sequence)),
        }
    }
}

/// What the state should be, in the plainest form.
struct Model {
    blocks: Vec<Block>,
    generation: u64,
    writer: u64,
    low_water: u64,
    ends: BTreeMap<u64, AttemptEnd>,
    epoch: u64,
    members: Vec<(u64, bool)>,
}

impl Model {
    fn acknowledged(&self, commit: &Commit) -> usize {
        let counts = |(store, rests): &&(u64, bool)| {
            !rests && commit.acknowledged.contains(&StoreId(*store))
        };
        self.members.iter().filter(counts).count()
    }

    fn live(&self, writer: u64, sequence: u64) -> bool {
        self.blocks.contains(&Block::Data(writer, sequence))
    }

    /// What a commit must be answered with: applied anew, applied before, or refused.
    fn expect(&self, commit: &Commit) -> &'static str {
        let sequence = commit.sequence.0;
        let has_data = commit
            .extents
            .iter()
            .any(|extent| extent.target != CommitTarget::Hole);
        if commit.generation.0 < self.generation {
            return "generation";
        }
        if commit.writer.0 != self.writer {
            return "writer";
        }
        let known = self.ends.get(&sequence).copied();
        let below = sequence < self.low_water;
        if (!below && known == Some(AttemptEnd::Applied))
            || (below && self.live(commit.writer.0, sequence))
        {
            return "again";
        }
        if has_data && commit.epoch.0 != self.epoch {
            return "epoch";
        }
        if has_data && self.acknowledged(commit) < 2 {
            return "quorum";
        }
        if below || known.is_some() {
            return "name";
        }
        "applied"
    }

    fn apply(&mut self, commit: &Commit) {
        let (writer, sequence) = (commit.writer.0, commit.sequence.0);
        self.ends.insert(sequence, AttemptEnd::Applied);
        self.low_water = self.low_water.max(commit.low_water.0);
        for extent in &commit.extents {
            for block in extent.first_block..extent.first_block + extent.blocks {
                let block = &mut self.blocks[usize::try_from(block).unwrap()];
                let later = block
                    .version()
                    .is_some_and(|(other, later)| other == writer && later > sequence);
                if !later {
                    *block = match extent.target {
                        CommitTarget::Hole => Block::Hole(writer, sequence),
                        CommitTarget::Data { .. } => Block::Data(writer, sequence),
                    };
                }
            }
        }
    }

    /// L as an honest writer says it.
    fn settled(&self) -> u64 {
        (self.low_water.max(1)..)
            .find(|sequence| !self.ends.contains_key(sequence))
            .expect("sequences do not end")
    }
}

fn category(outcome: &ShardOutcome) -> &'static str {
    match outcome {
        ShardOutcome::Committed { .. } => "committed",
        ShardOutcome::Refused(refusal) => match refusal {
            ShardRefusal::StaleGeneration { .. } => "generation",
            ShardRefusal::NotAdmitted => "writer",
            ShardRefusal::StaleEpoch { .. } => "epoch",
            ShardRefusal::TooFewAcknowledged { .. } => "quorum",
            ShardRefusal::Void | ShardRefusal::BelowLowWater | ShardRefusal::Collected => "name",
            other => panic!("unexpected refusal {other:?}"),
        },
        other => panic!("unexpected outcome {other:?}"),
    }
}

struct Run {
    random: Random,
    shard: Shard,
    model: Model,
    sent: Vec<Commit>,
    next_sequence: u64,
    seen: BTreeSet<&'static str>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::from_seed(seed),
            shard: Shard::ready(),
            model: Model {
                blocks: vec![Block::Never; usize::try_from(BLOCKS).unwrap()],
                generation: 1,
                writer: 1,
                low_water: 0,
                ends: BTreeMap::new(),
                epoch: 1,
                members: vec![(1, false), (2, false), (3, false)],
            },
            sent: Vec::new(),
            next_sequence: 1,
            seen: BTreeSet::new(),
        }
    }

    fn number(&mut self, bound: u32) -> u32 {
        u32::try_from(self.random.below(u64::from(bound))).unwrap()
    }

    /// A fresh commit, or one that was sent before, under what is believed of the container now or
    /// was then.
    fn some_commit(&mut self) -> Commit {
        if !self.sent.is_empty() && self.random.chance(1, 3) {
            let at = self.random.index(self.sent.len());
            let mut again = self.sent[at].clone();
            if self.random.chance(1, 2) {
                again.epoch = PlacementEpoch(self.model.epoch);
                again.acknowledged = self.some_stores();
            }
            return again;
        }
        let sequence = self.next_sequence + self.random.below(4);
        self.next_sequence += self.random.below(3);
        let mut commit = write(sequence, 0, 0);
        commit.generation = Generation(self.model.generation);
        commit.writer = WriterId(self.model.writer);
        commit.epoch = PlacementEpoch(self.model.epoch);
        commit.low_water = Sequence(self.model.settled().min(sequence));
        commit.acknowledged = self.some_stores();
        commit.stored_bytes = 512;
        let first = self.number(BLOCKS - 16);
        let length = 1 + self.number(8);
        let mut extent = commit.extents[0];
        extent.first_block = first;
        extent.blocks = length;
        if self.random.chance(1, 4) {
            extent.target = CommitTarget::Hole;
            commit.stored_bytes = 0;
        }
        commit.extents = vec![extent];
        if self.random.chance(1, 3) {
            extent.first_block = first + length;
            extent.blocks = 1 + self.number(8);
            commit.extents.push(extent);
        }
        self.sent.push(commit.clone());
        commit
    }

    fn some_stores(&mut self) -> Vec<StoreId> {
        let members = self.model.members.clone();
        let mut some: Vec<StoreId> = members.iter().map(|(store, _)| StoreId(*store)).collect();
        let dropped = self.random.index(some.len());
        some.remove(dropped);
        if self.random.chance(1, 8) {
            some.truncate(1);
        }
        some
    }

    fn commit(&mut self) {
        let commit = self.some_commit();
        let expected = self.model.expect(&commit);
        self.seen.insert(expected);
        if expected == "applied" {
            self.model.apply(&commit);
        }
        let outcome = self.shard.commit(commit.clone());
        let got = category(&outcome);
        let same = match expected {
            "applied" | "again" => got == "committed",
            other => got == other,
        };
        assert!(same, "{commit:?}: expected {expected}, got {outcome:?}");
    }

    fn void(&mut self) {
        let sequence = self.model.low_water + self.random.below(8);
        if sequence == 0 {
            return;
        }
        let mut command = void(&[sequence], 0);
        if let ShardCommand::Void {
            writer, low_water, ..
        } = &mut command
        {
            *writer = WriterId(self.model.writer);
            *low_water = Sequence(self.model.settled());
        }
        let settled = self.model.settled();
        let known = self.model.ends.get(&sequence).copied();
        let end = known.unwrap_or(AttemptEnd::Void);
        let outcome = self.shard.run(command);
        assert_eq!(
            outcome,
            ShardOutcome::Ended(vec![(Sequence(sequence), end)])
        );
        self.model.ends.insert(sequence, end);
        self.model.low_water = self.model.low_water.max(settled);
    }

    /// A new writer takes over.
    fn take_over(&mut self) {
        self.model.generation += 1;
        self.model.writer += 1;
        self.model.low_water = 0;
        self.model.ends.clear();
        self.next_sequence = 1;
        let (generation, writer) = (self.model.generation, self.model.writer);
        let by_floor = self.random.chance(1, 2);
        let command = if by_floor {
            floor(generation, &[writer])
        } else {
            fence(generation, &[writer])
        };
        self.shard.run(command);
    }

    /// One member rests and another takes its place; or those who rest leave when they may.
    fn replace(&mut self) {
        let mut members = self.model.members.clone();
        if members.iter().any(|(_, rests)| *rests) {
            members.retain(|(_, rests)| !rests);
        } else {
            let at = self.random.index(members.len());
            members[at].1 = true;
            let spare = (1..9).find(|store| members.iter().all(|(known, _)| known != store));
            members.push((spare.unwrap(), false));
        }
        let named: Vec<(u64, MemberState)> = members
            .iter()
            .map(|(store, rests)| {
                let state = if *rests {
                    MemberState::Resting
                } else {
                    MemberState::Active
                };
                (*store, state)
            })
            .collect();
        let mut command = place(self.model.epoch + 1, super::members(&named));
        if let ShardCommand::Place { generation, .. } = &mut command {
            *generation = Generation(self.model.generation);
        }
        match self.shard.run(command) {
            ShardOutcome::Placed(_) => {
                self.seen.insert("placed");
                self.model.members = members;
                self.model.epoch += 1;
            }
            ShardOutcome::Refused(ShardRefusal::BadPlacement { .. }) => {
                self.seen.insert("not drained");
            }
            other => panic!("{other:?}"),
        }
        for store in 1..9 {
            for change in self.shard.pull(store, 0, 4096).changes {
                if let Change::Retire { container, epoch } = change {
                    let store = StoreId(store);
                    self.shard.run(ShardCommand::Retired {
                        container,
                        store,
                        epoch,
                    });
                }
            }
        }
    }

    /// Some store confirms some of what it lacks.
    fn confirm(&mut self) {
        let at = self.random.index(self.model.members.len());
        let store = self.model.members[at].0;
        let news = self.shard.pull(store, 0, 4096).changes;
        let lacked = news.into_iter().filter_map(|change| match change {
            Change::Incomplete { blob, epoch, .. } => Some((blob, epoch)),
            _ => None,
        });
        let names: Vec<(BlobName, PlacementEpoch)> = lacked.take(8).collect();
        let count = names.len();
        let store = StoreId(store);
        let outcome = self.shard.run(ShardCommand::Confirm { store, names });
        assert_eq!(outcome, ShardOutcome::Confirmed(vec![true; count]));
    }

    /// Asks to collect every name that was ever used: what is live must stay.
    fn collect(&mut self) {
        for writer in 1..=self.model.writer {
            self.shard
                .run(collect(writer, &(1..60).collect::<Vec<u64>>()));
        }
    }

    fn compare(&self) {
        let view = self.shard.view(&[1], 0, BLOCKS);
        let mut next = 0;
        for extent in &view.extents {
            assert_eq!(extent.first_block, next, "no gaps");
            next += extent.blocks;
            let version = extent.version.map(|at| (at.writer.0, at.sequence.0));
            for block in extent.first_block..next {
                let known = self.model.blocks[usize::try_from(block).unwrap()];
                match (extent.target, known) {
                    (MapTarget::Data { blob, .. }, Block::Data(writer, sequence)) => {
                        assert_eq!((blob.writer.0, blob.sequence.0), (writer, sequence));
                    }
                    (MapTarget::Hole, Block::Never) => assert_eq!(version, None),
                    (MapTarget::Hole, Block::Hole(writer, sequence)) => {
                        let settled = writer < self.model.writer || sequence < self.model.low_water;
                        let kept = version == Some((writer, sequence));
                        assert!(kept || (version.is_none() && settled), "block {block}");
                    }
                    (target, known) => panic!("block {block}: {target:?} is not {known:?}"),
                }
            }
        }
        assert_eq!(next, BLOCKS);
    }
}

#[test]
fn random_histories_agree_with_a_model_of_single_blocks() {
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        let mut run = Run::new(seed);
        for _ in 0..150 {
            match run.random.below(20) {
                0 => run.take_over(),
                1 => run.collect(),
                2 | 3 => run.void(),
                4 => run.replace(),
                5..8 => run.confirm(),
                _ => run.commit(),
            }
            run.compare();
        }
        seen.extend(run.seen);
    }
    let all = [
        "again",
        "applied",
        "epoch",
        "generation",
        "name",
        "not drained",
        "placed",
        "quorum",
    ];
    assert_eq!(seen, BTreeSet::from(all), "every case came up");
}
