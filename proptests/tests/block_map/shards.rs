//! The shards that the containers are in: one, and two from a split on. Together they answer as one
//! that was never split.

use hedgerow_env::{BlobName, ContainerId, GroupId, LayerId, MapEpoch, StoreId};
use hedgerow_pages::shard::{ShardMachine, moving, query, split};
use hedgerow_pages::{Machine, MemoryState};
use hedgerow_protocol::{
    Change, MapView, NameState, ShardBatch, ShardCommand, ShardOutcome, ShardRange, ShardRefusal,
    ShardReply, ShardStatistics, decode, encode, shard_hash,
};

use super::model::id;

const NEW: GroupId = GroupId(2);
const EPOCH: MapEpoch = MapEpoch(5);

/// One shard's state and how long its log is.
#[derive(Default)]
struct Shard {
    state: MemoryState,
    index: u64,
}

impl Shard {
    /// One log entry, through the codec as the log has it.
    fn apply(&mut self, command: &ShardCommand) -> ShardOutcome {
        self.index += 1;
        let before = self.state.clone();
        let batch = encode(&ShardBatch(vec![command.clone()]));
        let outcomes = ShardMachine.apply(&mut self.state, self.index, &batch);
        let outcomes: Vec<ShardOutcome> = decode(&outcomes.expect("memory")).expect("outcomes");
        let [outcome] = <[ShardOutcome; 1]>::try_from(outcomes).expect("one for each");
        if matches!(outcome, ShardOutcome::Refused(_)) {
            assert_eq!(self.state, before, "a refusal changes nothing");
        }
        outcome
    }

    fn position(&self) -> u64 {
        split::position(&self.state, self.index).expect("memory")
    }

    /// The rows of containers of `range`.
    fn rows_of(&self, range: ShardRange) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.state.0.iter().filter(|(key, value)| {
            let home = moving::home_of(key, value).expect("its own rows");
            home.is_some_and(|(family, index)| range.contains(family, index))
        });
        rows.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// All shards.
pub(crate) struct Shards {
    old: Shard,
    new: Option<Shard>,
    /// What moves at the split: the half in which exactly one of the first two containers is.
    moves: ShardRange,
}

impl Shards {
    pub(crate) fn new() -> Self {
        let hash = |at| shard_hash(id(at).family, id(at).index);
        let bit = (hash(0) ^ hash(1)).trailing_zeros();
        let mask = (1_u64 << bit) - 1;
        let whole = ShardRange {
            bits: u8::try_from(bit).expect("less than 64"),
            pattern: u32::try_from(hash(0) & mask).expect("few bits"),
        };
        Self {
            old: Shard::default(),
            new: None,
            moves: whole.halves().1,
        }
    }

    fn moves(&self, container: ContainerId) -> bool {
        self.moves.contains(container.family, container.index)
    }

    fn of(&self, container: ContainerId) -> &Shard {
        match &self.new {
            Some(new) if self.moves(container) => new,
            _ => &self.old,
        }
    }

    /// The position of the last entry of the container's shard.
    pub(crate) fn position(&self, at: u32) -> u64 {
        self.of(id(at)).position()
    }

    pub(crate) fn apply(&mut self, command: &ShardCommand) -> ShardOutcome {
        let container = match command {
            ShardCommand::Place { container, .. }
            | ShardCommand::Fence { container, .. }
            | ShardCommand::Void { container, .. }
            | ShardCommand::Collect { container, .. }
            | ShardCommand::Retired { container, .. } => *container,
            ShardCommand::Commit(commit) => commit.container,
            ShardCommand::Relocate(relocate) => relocate.container,
            ShardCommand::Confirm { names, .. } if names.is_empty() => id(0),
            ShardCommand::Confirm { names, .. } => names[0].0.container,
            ShardCommand::Floor { .. } => return self.apply_to_all(command),
            other => panic!("not sent here: {other:?}"),
        };
        match &mut self.new {
            Some(new) if self.moves.contains(container.family, container.index) => {
                if !matches!(command, ShardCommand::Confirm { .. }) {
                    let refused = self.old.apply(command);
                    let moved = ShardRefusal::Moved { epoch: EPOCH };
                    assert_eq!(refused, ShardOutcome::Refused(moved), "by the old shard");
                }
                new.apply(command)
            }
            _ => self.old.apply(command),
        }
    }

    /// Every shard says the same of a whole disk.
    fn apply_to_all(&mut self, command: &ShardCommand) -> ShardOutcome {
        let outcome = self.old.apply(command);
        if let Some(new) = &mut self.new {
            assert_eq!(new.apply(command), outcome);
        }
        outcome
    }

    /// Splits the shard, once; `twice` tells which pages come a second time.
    pub(crate) fn split(&mut self, twice: u8) {
        if self.new.is_some() {
            return;
        }
        let (range, epoch) = (self.moves, EPOCH);
        let before = self.old.rows_of(range);
        let command = ShardCommand::Split {
            to: NEW,
            range,
            epoch,
        };
        let ShardOutcome::Split { position: base } = self.old.apply(&command) else {
            panic!("it is split");
        };
        let mut new = Shard::default();
        let begin = ShardCommand::Begin { range, base, epoch };
        let mut outcome = new.apply(&begin);
        let mut page = 0;
        while let ShardOutcome::Adopted { next: Some(from) } = outcome {
            let reply = moving::page(&self.old.state, NEW, &from).expect("memory");
            let ShardReply::Moving { rows, next } = reply else {
                panic!("{reply:?}");
            };
            let adopt = ShardCommand::Adopt { from, rows, next };
            outcome = new.apply(&adopt);
            if twice & (1 << (page % 8)) != 0 {
                assert_eq!(new.apply(&adopt), outcome, "it changes nothing twice");
                assert_eq!(new.apply(&begin), outcome);
            }
            page += 1;
        }
        assert_eq!(new.apply(&ShardCommand::Open), ShardOutcome::Done);
        assert_eq!(new.rows_of(range), before, "all of what moved");
        let clear = ShardCommand::Clear { to: NEW, epoch };
        while self.old.apply(&clear) != (ShardOutcome::Cleared { finished: true }) {}
        assert_eq!(self.old.rows_of(range), [], "nothing is left of it");
        self.new = Some(new);
    }

    /// What a store is told that reads each feed from its beginning.
    pub(crate) fn changes(&self, store: u64) -> Vec<Change> {
        let shards = std::iter::once(&self.old).chain(&self.new);
        let pulled = shards.flat_map(|shard| {
            match query::pull(&shard.state, shard.position(), StoreId(store), 0, 4096) {
                Ok(ShardReply::Changes { changes, .. }) => changes,
                other => panic!("{other:?}"),
            }
        });
        pulled.collect()
    }

    pub(crate) fn view(&self, at: u32, layer: LayerId, first_block: u32, blocks: u32) -> MapView {
        let shard = self.of(id(at));
        let index = shard.position();
        let reply = query::look_up(&shard.state, index, id(at), &[layer], first_block, blocks);
        match reply {
            Ok(ShardReply::View(view)) => view,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn names(&self, at: u32, names: &[BlobName]) -> Vec<NameState> {
        match query::names(&self.of(id(at)).state, names) {
            Ok(ShardReply::Names(states)) => states,
            other => panic!("names are answered, not {other:?}"),
        }
    }

    pub(crate) fn statistics(&self) -> ShardStatistics {
        let mut sum = ShardStatistics::default();
        for shard in std::iter::once(&self.old).chain(&self.new) {
            let one = query::statistics(&shard.state).expect("memory");
            sum.containers += one.containers;
            sum.blobs += one.blobs;
            sum.stored_bytes += one.stored_bytes;
            sum.incomplete += one.incomplete;
            sum.under_replicated_bytes += one.under_replicated_bytes;
        }
        sum
    }
}
