//! A shard's state machine against a model that knows blocks, sequences and holders one by one.
//!
//! Two containers of one disk; an honest root that raises generations and keeps or drops writers;
//! everything else arrives in any order, late, twice, or from the past: commits, relocations, voids,
//! fences, floors, collects, confirmations, changes of placement. After each log entry the map, the names
//! and the accounting are what the model says. At some point the shard is split, and one of the containers
//! goes on in the new one: the model does not know of that.
//!
//! Beside where the bytes of a block are, the model knows what is in them: whatever is moved, a block
//! has in it what the write of its version put there.
//!
//! The model has no indexes, no counters and no rows: every answer is computed from the blocks.

mod model;
mod relocate;
mod shards;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_env::{
    BlobName, FamilyId, Generation, LayerId, PlacementEpoch, Sequence, StoreId, VirtualDiskId,
    WriterId,
};
use hedgerow_proptests::config;
use hedgerow_protocol::{
    AttemptEnd, Change, Commit, CommitExtent, CommitTarget, Digest, MapTarget, MapView, NameState,
    ShardCommand, ShardOutcome, ShardStatistics,
};
use proptest::prelude::*;

use model::{
    Attempts, BLOCKS, Block, CONTAINERS, Container, Fence, Place, QUORUM, STORES, id,
    place_command, some_of,
};
use shards::Shards;
use steps::{PlannedCommit, Step, step};

const LAYER: LayerId = LayerId(1);

struct Run {
    shards: Shards,
    containers: Vec<Container>,
    floor: Option<Fence>,
    /// The root's generations, the newest last.
    root: Vec<Fence>,
    next_writer: u64,
    sent: Vec<Commit>,
    /// Relocations that were read, and sent or not.
    planned: Vec<relocate::Planned>,
}

/// What a shard checks of an attempt under a name.
struct Asked<'a> {
    container: u32,
    name: (u64, u64),
    generation: Generation,
    epoch: PlacementEpoch,
    low_water: Sequence,
    /// None without a blob.
    acknowledged: Option<&'a [StoreId]>,
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            shards: Shards::new(),
            containers: (0..CONTAINERS).map(|_| Container::new()).collect(),
            floor: None,
            root: vec![(1, BTreeSet::from([1, 2]))],
            next_writer: 3,
            sent: Vec::new(),
            planned: Vec::new(),
        };
        for container in 0..CONTAINERS {
            let members = run.containers[container as usize].members.clone();
            let outcome = run.apply(place_command(container, 1, &members, 1));
            assert!(matches!(outcome, ShardOutcome::Placed(_)), "{outcome:?}");
        }
        run
    }

    /// One log entry.
    fn apply(&mut self, command: ShardCommand) -> ShardOutcome {
        self.shards.apply(&command)
    }

    fn container(&mut self, at: u32) -> &mut Container {
        &mut self.containers[at as usize]
    }

    fn standing(&self, container: u32) -> Option<&Fence> {
        let own = self.containers[container as usize].fence.as_ref();
        own.into_iter()
            .chain(self.floor.as_ref())
            .max_by_key(|(generation, _)| *generation)
    }

    fn is_admitted(&self, container: u32, writer: u64) -> bool {
        self.standing(container)
            .is_some_and(|(_, writers)| writers.contains(&writer))
    }

    /// A writer of the root's newest generations, sometimes one that was fenced long ago.
    fn writer(&self, choice: usize) -> u64 {
        let count = usize::try_from(self.next_writer).expect("few writers") - 1;
        // Recent ones more often.
        let back = (choice % 7) * (choice / 7 % 2);
        u64::try_from(count - back.min(count - 1)).expect("few writers")
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Commit(planned) => {
                let commit = self.plan(planned);
                self.sent.push(commit.clone());
                self.commit(&commit);
            }
            Step::Again {
                which,
                is_fresh,
                stores,
            } => self.again(*which, *is_fresh, *stores),
            Step::Relocate(planned) => self.plan_relocation(planned),
            Step::Move {
                which,
                is_fresh,
                stores,
            } => self.relocate(*which, *is_fresh, *stores),
            Step::Void {
                container,
                writer,
                back,
                count,
            } => {
                let writer = self.writer(*writer);
                self.void(*container, writer, *back, *count);
            }
            Step::Root { keep } => {
                let (generation, writers) = self.root.last().expect("there is a first").clone();
                let kept = writers.into_iter().enumerate();
                let kept = kept
                    .filter(|(at, _)| keep & (1 << (at % 8)) != 0)
                    .map(|(_, id)| id);
                let mut writers: BTreeSet<u64> = kept.collect();
                writers.insert(self.next_writer);
                self.next_writer += 1;
                self.root.push((generation + 1, writers));
            }
            Step::Fence {
                container,
                generation,
            } => {
                let newest = self.root.len() - 1;
                let fence = self.root[newest.saturating_sub(*generation)].clone();
                self.fence(*container, fence);
            }
            Step::Place {
                container,
                replaced,
                by,
                is_back,
            } => {
                self.place(*container, *replaced, *by, *is_back);
            }
            Step::Confirm {
                container,
                store,
                skip,
                is_stale,
            } => {
                self.confirm(*container, *store, *skip, *is_stale);
            }
            Step::Split { twice } => self.shards.split(*twice),
            Step::Collect { container, writer } => {
                let writer = self.writer(*writer);
                self.collect(*container, writer);
            }
        }
    }

    fn again(&mut self, which: usize, is_fresh: bool, stores: u8) {
        if self.sent.is_empty() {
            return;
        }
        let mut commit = self.sent[which % self.sent.len()].clone();
        if is_fresh {
            let at = commit.container.index.0;
            let own = &self.containers[at as usize];
            commit.epoch = PlacementEpoch(own.epoch);
            commit.acknowledged = some_of(&own.members, stores);
            let standing = self.standing(at).map_or(1, |(generation, _)| *generation);
            commit.generation = Generation(standing);
        }
        self.commit(&commit);
    }

    fn plan(&self, planned: &PlannedCommit) -> Commit {
        let writer = self.writer(planned.writer);
        let own = &self.containers[planned.container as usize];
        let attempts = own.attempts.get(&writer);
        let settled = attempts.map_or(1, Attempts::settled);
        let sequence = settled + planned.ahead;
        let mut extents = Vec::new();
        let (mut at, mut has_data) = (0, false);
        for (gap, length, is_hole) in &planned.extents {
            let first_block = (at + gap).min(BLOCKS - 1);
            if first_block < at {
                break;
            }
            let blocks = (*length).min(BLOCKS - first_block);
            at = first_block + blocks;
            let data = CommitTarget::Data {
                unit: u16::try_from(extents.len()).expect("few"),
                unit_offset_blocks: u16::try_from(*gap).expect("small"),
                digest: Digest(u128::from(sequence)),
            };
            has_data |= !is_hole;
            let target = if *is_hole { CommitTarget::Hole } else { data };
            extents.push(CommitExtent {
                first_block,
                blocks,
                target,
            });
            if at == BLOCKS {
                break;
            }
        }
        let standing = self
            .standing(planned.container)
            .map_or(1, |(generation, _)| *generation);
        let acknowledged = if has_data {
            some_of(&own.members, planned.stores)
        } else {
            Vec::new()
        };
        Commit {
            container: id(planned.container),
            layer: LAYER,
            generation: Generation(standing.saturating_add_signed(planned.generation)),
            epoch: PlacementEpoch(own.epoch.saturating_add_signed(planned.epoch)),
            writer: WriterId(writer),
            sequence: Sequence(sequence),
            low_water: Sequence(settled.saturating_sub(planned.lag)),
            extents,
            acknowledged,
            stored_bytes: if has_data { planned.bytes } else { 0 },
        }
    }

    /// Whether the attempt takes effect now; none when it did before and must be answered so.
    fn expect(&self, asked: &Asked<'_>) -> Result<Option<()>, &'static str> {
        let own = &self.containers[asked.container as usize];
        let (writer, sequence) = asked.name;
        let Some((generation, _)) = self.standing(asked.container) else {
            return Err("no fence");
        };
        if asked.generation.0 != *generation || !self.is_admitted(asked.container, writer) {
            return Err("fenced");
        }
        let none = Attempts::default();
        let attempts = own.attempts.get(&writer).unwrap_or(&none);
        let is_below = sequence < attempts.low_water;
        let end = attempts.ends.get(&sequence);
        if end == Some(&AttemptEnd::Applied) {
            // Below L only the blob itself still tells.
            return if !is_below || own.is_live(asked.name) {
                Ok(None)
            } else {
                Err("below")
            };
        }
        if let Some(acknowledged) = asked.acknowledged {
            let counted = own
                .writable()
                .filter(|store| acknowledged.contains(&StoreId(*store)));
            if asked.epoch.0 != own.epoch || counted.count() < QUORUM {
                return Err("members");
            }
        }
        if is_below || end.is_some() || asked.low_water.0 > sequence {
            return Err("ended");
        }
        Ok(Some(()))
    }

    fn commit(&mut self, commit: &Commit) {
        let name = (commit.writer.0, commit.sequence.0);
        let is_data = |extent: &CommitExtent| extent.target != CommitTarget::Hole;
        let has_data = commit.extents.iter().any(is_data);
        let expected = self.expect(&Asked {
            container: commit.container.index.0,
            name,
            generation: commit.generation,
            epoch: commit.epoch,
            low_water: commit.low_water,
            acknowledged: has_data.then_some(&commit.acknowledged[..]),
        });
        let outcome = self.apply(ShardCommand::Commit(commit.clone()));
        match (&expected, &outcome) {
            (Ok(Some(())), ShardOutcome::Committed { index }) => {
                let position = self.shards.position(commit.container.index.0);
                assert_eq!(*index, position);
                let collected = &self.containers[commit.container.index.0 as usize].collected;
                assert!(!collected.contains(&name), "{name:?} was collected");
                self.overwrite(commit);
            }
            (Ok(None), ShardOutcome::Committed { index }) => {
                assert!(*index < self.shards.position(commit.container.index.0));
            }
            (Err(_), ShardOutcome::Refused(_)) => {}
            _ => panic!("{commit:?}: expected {expected:?}, found {outcome:?}"),
        }
    }

    fn overwrite(&mut self, commit: &Commit) {
        let (writer, sequence) = (commit.writer.0, commit.sequence.0);
        let own = self.container(commit.container.index.0);
        let attempts = own.attempts.entry(writer).or_default();
        attempts.ends.insert(sequence, AttemptEnd::Applied);
        attempts.low_water = attempts.low_water.max(commit.low_water.0);
        let held: BTreeSet<u64> = own
            .writable()
            .filter(|store| commit.acknowledged.contains(&StoreId(*store)))
            .collect();
        for extent in &commit.extents {
            for block in extent.first_block..extent.first_block + extent.blocks {
                let slot = &mut own.blocks[block as usize];
                let is_later = |(other, later): (u64, u64)| other == writer && later > sequence;
                if slot.version().is_some_and(is_later) {
                    continue;
                }
                *slot = match extent.target {
                    CommitTarget::Hole => Block::Hole(writer, sequence),
                    CommitTarget::Data {
                        unit,
                        unit_offset_blocks,
                        ..
                    } => {
                        let within = u16::try_from(block - extent.first_block).expect("short");
                        let place = Place {
                            blob: (writer, sequence),
                            unit,
                            offset: unit_offset_blocks + within,
                        };
                        own.contents.insert(place, ((writer, sequence), block));
                        Block::Data((writer, sequence), place)
                    }
                };
            }
        }
        if commit.stored_bytes > 0 {
            own.blobs
                .insert((writer, sequence), (held, commit.stored_bytes));
        }
    }

    fn void(&mut self, at: u32, writer: u64, back: u64, count: u64) {
        let admitted = self.is_admitted(at, writer);
        let own = &self.containers[at as usize];
        let none = Attempts::default();
        let attempts = own.attempts.get(&writer).unwrap_or(&none);
        let settled = attempts.settled();
        let first = (settled + 2).saturating_sub(back).max(1);
        let sequences: Vec<u64> = (first..first + count).collect();
        let forgotten =
            |sequence: &u64| *sequence < attempts.low_water && !own.is_live((writer, *sequence));
        let expected = admitted && !sequences.iter().any(forgotten);
        let ends: Vec<(Sequence, AttemptEnd)> = sequences
            .iter()
            .map(|sequence| {
                let end = attempts
                    .ends
                    .get(sequence)
                    .copied()
                    .unwrap_or(AttemptEnd::Void);
                (Sequence(*sequence), end)
            })
            .collect();
        let outcome = self.apply(ShardCommand::Void {
            container: id(at),
            writer: WriterId(writer),
            sequences: sequences
                .iter()
                .map(|sequence| Sequence(*sequence))
                .collect(),
            low_water: Sequence(settled),
        });
        match outcome {
            ShardOutcome::Ended(found) if expected => {
                assert_eq!(found, ends);
                let attempts = self.container(at).attempts.entry(writer).or_default();
                attempts
                    .ends
                    .extend(ends.into_iter().map(|(sequence, end)| (sequence.0, end)));
                attempts.low_water = attempts.low_water.max(settled);
            }
            ShardOutcome::Refused(_) if !expected => {}
            other => panic!("void of {sequences:?}: {other:?}"),
        }
    }

    fn fence(&mut self, container: Option<u32>, (generation, writers): Fence) {
        let writer_ids = writers.iter().map(|writer| WriterId(*writer)).collect();
        let command = match container {
            Some(at) => ShardCommand::Fence {
                container: id(at),
                generation: Generation(generation),
                writers: writer_ids,
                layer: LAYER,
            },
            None => ShardCommand::Floor {
                disk: VirtualDiskId(1),
                family: FamilyId(1),
                generation: Generation(generation),
                writers: writer_ids,
                layer: LAYER,
            },
        };
        let standing = match container {
            Some(at) => self.standing(at),
            None => self.floor.as_ref(),
        };
        let is_stale = standing.is_some_and(|(standing, _)| generation < *standing);
        let outcome = self.apply(command);
        assert_eq!(
            matches!(outcome, ShardOutcome::Refused(_)),
            is_stale,
            "{outcome:?}"
        );
        if is_stale {
            return;
        }
        match container {
            Some(at) => self.container(at).fence = Some((generation, writers)),
            None => self.floor = Some((generation, writers)),
        }
    }

    /// A member rests and another takes its place, or comes back; or those who rest leave.
    fn place(&mut self, at: u32, replaced: usize, by: u64, is_back: bool) {
        let own = &self.containers[at as usize];
        let mut members = own.members.clone();
        let rests = members.iter().position(|(_, rests)| *rests);
        match rests {
            Some(resting) if is_back => {
                let writable = members.iter().position(|(_, rests)| !rests).expect("three");
                members[resting].1 = false;
                members[writable].1 = true;
            }
            Some(_) => members.retain(|(_, rests)| !rests),
            None => {
                let spare: Vec<u64> = (1..=STORES)
                    .filter(|store| members.iter().all(|(known, _)| known != store))
                    .collect();
                let at = replaced % members.len();
                members[at].1 = true;
                let by = usize::try_from(by % spare.len() as u64).expect("few");
                members.push((spare[by], false));
            }
        }
        let generation = self.standing(at).map_or(1, |(generation, _)| *generation);
        let command = place_command(
            at,
            self.containers[at as usize].epoch + 1,
            &members,
            generation,
        );
        if let ShardOutcome::Placed(placement) = self.apply(command) {
            let own = self.container(at);
            own.epoch += 1;
            assert_eq!(placement.epoch.0, own.epoch);
            let left = own
                .members
                .iter()
                .filter(|(store, _)| members.iter().all(|(m, _)| m != store));
            let left: Vec<u64> = left.map(|(store, _)| *store).collect();
            own.members = members;
            if !left.is_empty() {
                // Nobody leaves before W others hold everything.
                let writable: BTreeSet<u64> = own.writable().collect();
                for (name, (held, _)) in own.live() {
                    let others = held.intersection(&writable).count();
                    assert!(
                        others >= QUORUM,
                        "{left:?} left, {name:?} is held by {held:?}"
                    );
                }
            }
            // A store that left holds nothing of it any more, also when it is named again.
            for (held, _) in own.blobs.values_mut() {
                held.retain(|store| !left.contains(store));
            }
        }
        self.retire(at);
    }

    /// Every store that was told so drops the container, so that it may be named again.
    fn retire(&mut self, at: u32) {
        for store in 1..=STORES {
            for change in self.changes(store) {
                if let Change::Retire { container, epoch } = change
                    && container == id(at)
                {
                    let store = StoreId(store);
                    self.apply(ShardCommand::Retired {
                        container,
                        store,
                        epoch,
                    });
                }
            }
        }
    }

    fn changes(&self, store: u64) -> Vec<Change> {
        self.shards.changes(store)
    }

    fn confirm(&mut self, at: u32, store: u64, skip: usize, is_stale: bool) {
        let lacked = self
            .changes(store)
            .into_iter()
            .filter_map(|change| match change {
                Change::Incomplete { blob, .. } if blob.container == id(at) => Some(blob),
                _ => None,
            });
        let names: Vec<BlobName> = lacked.skip(skip).take(3).collect();
        let epoch = self.containers[at as usize].epoch - u64::from(is_stale);
        let confirmed = names
            .iter()
            .map(|name| (*name, PlacementEpoch(epoch)))
            .collect();
        let outcome = self.apply(ShardCommand::Confirm {
            store: StoreId(store),
            names: confirmed,
        });
        assert_eq!(
            outcome,
            ShardOutcome::Confirmed(vec![!is_stale; names.len()])
        );
        if is_stale {
            return;
        }
        let own = self.container(at);
        for name in names {
            let blob = own.blobs.get_mut(&(name.writer.0, name.sequence.0));
            blob.expect("listed blobs were committed").0.insert(store);
        }
    }

    /// What may be collected: named by a writer that was admitted once, referred to by nothing,
    /// and refused for ever.
    fn collect(&mut self, at: u32, writer: u64) {
        let was_admitted = self.was_admitted(at, writer);
        let admitted = self.is_admitted(at, writer);
        let own = &self.containers[at as usize];
        let low_water = own
            .attempts
            .get(&writer)
            .map_or(0, |attempts| attempts.low_water);
        let free = |sequence: &u64| {
            was_admitted
                && !own.is_live((writer, *sequence))
                && (!admitted || *sequence < low_water)
        };
        let expected: Vec<u64> = (1..40).filter(free).collect();
        let outcome = self.apply(ShardCommand::Collect {
            container: id(at),
            writer: WriterId(writer),
            sequences: (1..40).map(Sequence).collect(),
        });
        let sequences: Vec<Sequence> = expected
            .iter()
            .map(|sequence| Sequence(*sequence))
            .collect();
        assert_eq!(outcome, ShardOutcome::Collected(sequences), "of w{writer}");
        let names = expected.into_iter().map(|sequence| (writer, sequence));
        self.container(at).collected.extend(names);
    }

    /// Writer ids rise, so a lower one than any admitted was admitted or never will be.
    fn was_admitted(&self, at: u32, writer: u64) -> bool {
        let own = self.containers[at as usize].fence.iter();
        let highest = own
            .chain(&self.floor)
            .filter_map(|(_, writers)| writers.last())
            .max();
        highest.is_some_and(|highest| writer <= *highest)
    }

    fn view(&self, at: u32, first_block: u32, blocks: u32) -> MapView {
        self.shards.view(at, LAYER, first_block, blocks)
    }

    fn compare(&self) {
        for at in 0..CONTAINERS {
            self.compare_map(at, 0, BLOCKS);
            self.compare_map(at, 5, 11);
            self.compare_names(at);
        }
        let mut expected = ShardStatistics {
            containers: u64::from(CONTAINERS),
            ..Default::default()
        };
        for own in &self.containers {
            for (_, (held, bytes)) in own.live() {
                expected.blobs += 1;
                expected.stored_bytes += u64::from(*bytes);
                let lacking = own.writable().filter(|store| !held.contains(store)).count() as u64;
                expected.incomplete += lacking;
                expected.under_replicated_bytes += lacking * u64::from(*bytes);
            }
        }
        assert_eq!(self.shards.statistics(), expected);
    }

    fn compare_map(&self, at: u32, first: u32, blocks: u32) {
        let own = &self.containers[at as usize];
        let view = self.view(at, first, blocks);
        let standing = self
            .standing(at)
            .map(|(generation, _)| Generation(*generation));
        assert_eq!(view.generation, standing);
        let mut next = first;
        let mut named = BTreeSet::new();
        for extent in &view.extents {
            assert_eq!(extent.first_block, next, "no gaps");
            next += extent.blocks;
            let version = extent.version.map(|at| (at.writer.0, at.sequence.0));
            for block in extent.first_block..next {
                let known = own.blocks[block as usize];
                let within = u16::try_from(block - extent.first_block).expect("short");
                match (extent.target, known) {
                    (
                        MapTarget::Data {
                            blob,
                            unit,
                            unit_offset_blocks,
                            digest,
                        },
                        Block::Data(known, place),
                    ) => {
                        let found = Place {
                            blob: (blob.writer.0, blob.sequence.0),
                            unit,
                            offset: unit_offset_blocks + within,
                        };
                        let content = own.contents.get(&found);
                        assert_eq!(content, Some(&(known, block)), "its version's bytes");
                        assert_eq!(found, place, "block {block}");
                        assert_eq!(digest, Digest(u128::from(place.blob.1)));
                        assert_eq!(version, Some(known));
                        named.insert(place.blob);
                    }
                    (MapTarget::Hole, Block::Never) => assert_eq!(version, None, "block {block}"),
                    (MapTarget::Hole, Block::Hole(writer, sequence)) => {
                        // A hole's version may go once nothing older can come.
                        let low_water = own.attempts.get(&writer).map_or(0, |a| a.low_water);
                        let settled = !self.is_admitted(at, writer) || sequence < low_water;
                        let kept = version == Some((writer, sequence));
                        assert!(
                            kept || (version.is_none() && settled),
                            "block {block}: {version:?}"
                        );
                    }
                    (target, known) => panic!("block {block}: {target:?} is not {known:?}"),
                }
            }
        }
        assert_eq!(next, first + blocks);
        let lacking = named.into_iter().filter_map(|name| {
            let (held, _) = &own.blobs[&name];
            let stores = own.members.iter().map(|(store, _)| *store);
            let lacking: BTreeSet<u64> = stores.filter(|store| !held.contains(store)).collect();
            (!lacking.is_empty()).then_some((name, lacking))
        });
        let told = view.incomplete.iter().map(|(blob, stores)| {
            let stores: BTreeSet<u64> = stores.iter().map(|store| store.0).collect();
            ((blob.writer.0, blob.sequence.0), stores)
        });
        assert_eq!(
            told.collect::<BTreeMap<_, _>>(),
            lacking.collect::<BTreeMap<_, _>>()
        );
    }

    fn compare_names(&self, at: u32) {
        let own = &self.containers[at as usize];
        for writer in 1..self.next_writer {
            let sequences = 1..12_u64;
            let names: Vec<BlobName> = sequences
                .clone()
                .map(|sequence| BlobName {
                    container: id(at),
                    writer: WriterId(writer),
                    sequence: Sequence(sequence),
                })
                .collect();
            let states = self.shards.names(at, &names);
            for (sequence, state) in sequences.zip(states) {
                let is_live = own.is_live((writer, sequence));
                assert_eq!(state == NameState::Live, is_live, "w{writer}:{sequence}");
                let collected = own.collected.contains(&(writer, sequence));
                assert!(
                    !collected || state == NameState::Collected,
                    "w{writer}:{sequence} returned"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_shard_agrees_with_a_model_of_single_blocks(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut run = Run::new();
        run.fence(None, (1, BTreeSet::from([1, 2])));
        for step in &steps {
            run.perform(step);
            run.compare();
        }
    }
}
