//! Relocations against the model: planned from what the map says at one time, sent at another.

use std::collections::BTreeSet;

use hedgerow_env::{BlobName, Generation, PlacementEpoch, Sequence, StoreId, WriterId};
use hedgerow_protocol::{AttemptEnd, Digest, Move, Relocate, ShardCommand, ShardOutcome};

use super::model::{Attempts, BLOCKS, Block, Content, Place, id, some_of};
use super::steps::PlannedRelocate;
use super::{Asked, LAYER, Run};

/// A relocation, and what its blob has in it: read when it was planned.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    command: Relocate,
    contents: Vec<(Place, Content)>,
}

impl Run {
    /// Reads what the planned ranges refer to now.
    pub(crate) fn plan_relocation(&mut self, planned: &PlannedRelocate) {
        let writer = self.writer(planned.writer);
        let own = &self.containers[planned.container as usize];
        let settled = own.attempts.get(&writer).map_or(1, Attempts::settled);
        let sequence = settled + planned.ahead;
        let mut moves: Vec<Move> = Vec::new();
        let mut contents = Vec::new();
        let end = (planned.first_block + planned.blocks).min(BLOCKS);
        let runs = self.runs(planned.container, planned.first_block, end);
        for (at, run) in runs.iter().enumerate() {
            if planned.taken & (1 << (at % 8)) == 0 {
                continue;
            }
            let (first_block, blocks, from) = *run;
            let unit = u16::try_from(moves.len() / 2).expect("few");
            // Two ranges share a unit, in other places than they had.
            let unit_offset_blocks = u16::try_from(moves.len() % 2).expect("one bit") * 64;
            for within in 0..u16::try_from(blocks).expect("few") {
                let new = Place {
                    blob: (writer, sequence),
                    unit,
                    offset: unit_offset_blocks + within,
                };
                let mut old = from;
                old.offset += within;
                contents.push((new, own.contents[&old]));
            }
            moves.push(Move {
                first_block,
                blocks,
                from: BlobName {
                    container: id(planned.container),
                    writer: WriterId(from.blob.0),
                    sequence: Sequence(from.blob.1),
                },
                from_unit: from.unit,
                from_offset_blocks: from.offset,
                from_digest: Digest(u128::from(from.blob.1)),
                unit,
                unit_offset_blocks,
                digest: Digest(u128::from(sequence)),
            });
        }
        if moves.is_empty() {
            return;
        }
        let standing = self.standing(planned.container);
        let generation = standing.map_or(1, |(generation, _)| *generation);
        let command = Relocate {
            container: id(planned.container),
            layer: LAYER,
            generation: Generation(generation.saturating_add_signed(planned.generation)),
            epoch: PlacementEpoch(own.epoch.saturating_add_signed(planned.epoch)),
            writer: WriterId(writer),
            sequence: Sequence(sequence),
            low_water: Sequence(settled),
            moves,
            acknowledged: some_of(&own.members, planned.stores),
            stored_bytes: planned.bytes,
        };
        self.planned.push(Planned { command, contents });
    }

    /// Ranges of blocks that refer to one unit, one block after the other.
    fn runs(&self, container: u32, first: u32, end: u32) -> Vec<(u32, u32, Place)> {
        let own = &self.containers[container as usize];
        let mut runs: Vec<(u32, u32, Place)> = Vec::new();
        for block in first..end {
            let Block::Data(_, place) = own.blocks[block as usize] else {
                continue;
            };
            if let Some((first, blocks, from)) = runs.last_mut() {
                let mut next = *from;
                next.offset += u16::try_from(*blocks).expect("few");
                if *first + *blocks == block && next == place {
                    *blocks += 1;
                    continue;
                }
            }
            runs.push((block, 1, place));
        }
        runs
    }

    /// Sends a relocation that was planned before.
    pub(crate) fn relocate(&mut self, which: usize, is_fresh: bool, stores: u8) {
        if self.planned.is_empty() {
            return;
        }
        // Recent ones more often.
        let count = self.planned.len();
        let at = count - 1 - which % count.min(1 + which / 7 % 4);
        let mut planned = self.planned[at].clone();
        let command = &mut planned.command;
        let container = command.container.index.0;
        if is_fresh {
            let own = &self.containers[container as usize];
            command.epoch = PlacementEpoch(own.epoch);
            command.acknowledged = some_of(&own.members, stores);
            let standing = self.standing(container);
            command.generation = Generation(standing.map_or(1, |(generation, _)| *generation));
        }
        let expected = self.expect(&Asked {
            container,
            name: (command.writer.0, command.sequence.0),
            generation: command.generation,
            epoch: command.epoch,
            low_water: command.low_water,
            acknowledged: Some(&command.acknowledged),
        });
        let outcome = self.apply(ShardCommand::Relocate(command.clone()));
        match (&expected, &outcome) {
            (Ok(Some(())), ShardOutcome::Committed { index }) => {
                assert_eq!(*index, self.shards.position(command.container.index.0));
                self.moved(&planned);
            }
            (Ok(None), ShardOutcome::Committed { index }) => {
                assert!(*index < self.shards.position(command.container.index.0));
            }
            (Err(_), ShardOutcome::Refused(_)) => {}
            _ => panic!("{planned:?}: expected {expected:?}, found {outcome:?}"),
        }
    }

    /// What still refers to what was read refers to the new blob, under its own version.
    fn moved(&mut self, planned: &Planned) {
        let command = &planned.command;
        let name = (command.writer.0, command.sequence.0);
        let own = self.container(command.container.index.0);
        assert!(!own.collected.contains(&name), "{name:?} was collected");
        let attempts = own.attempts.entry(name.0).or_default();
        attempts.ends.insert(name.1, AttemptEnd::Applied);
        attempts.low_water = attempts.low_water.max(command.low_water.0);
        for one in &command.moves {
            for within in 0..u16::try_from(one.blocks).expect("few") {
                let at = (one.first_block + u32::from(within)) as usize;
                let old = Place {
                    blob: (one.from.writer.0, one.from.sequence.0),
                    unit: one.from_unit,
                    offset: one.from_offset_blocks + within,
                };
                let new = Place {
                    blob: name,
                    unit: one.unit,
                    offset: one.unit_offset_blocks + within,
                };
                if let Block::Data(version, place) = own.blocks[at]
                    && place == old
                {
                    own.blocks[at] = Block::Data(version, new);
                }
            }
        }
        own.contents.extend(planned.contents.iter().copied());
        let held: BTreeSet<u64> = own
            .writable()
            .filter(|store| command.acknowledged.contains(&StoreId(*store)))
            .collect();
        own.blobs.insert(name, (held, command.stored_bytes));
    }
}
