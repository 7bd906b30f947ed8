//! Relocation: what is left of mostly dead blobs is read, written as one new blob, and moved to it.
//!
//! Invariants: the bytes that are written are those that were read under the digests of the map;
//! the shard moves only entries that still refer to what was read, whatever was written meanwhile;
//! at most one blob ([`MAXIMUM_BLOB_BYTES`]) is on its way for an attachment, and at most one in
//! [`STEP_PAUSE`]; it gives way to clients: a step begins only while none of their operations is
//! under way, and one that cannot end soon is made void, so that it never holds the low-water mark.
//! It ends with the attachment.
//!
//! Does not: choose blobs (the shard does, by its accounts), or hold up a detach.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hedgerow_env::{AbortOnDrop, BLOCK_UNIT_BYTES, BlobName, ContainerIndex, event};
use hedgerow_protocol::{
    BlobHeader, MAXIMUM_UNIT_BYTES, MapTarget, Move, MovedRange, ShardReply, ShardRequest,
    UnitRecord, Version,
};

use crate::container::{Container, ContainerState, known_extents};
use crate::disk::{IoError, Shared};
use crate::lasting::Operation;
use crate::metacache::KnownExtent;
use crate::read::Units;
use crate::unit::encode_units;
use crate::write::{Attempt, Change, Ended, Frame};

/// Pause between two steps of one attachment: with a blob of at most 1 MiB in each, relocation reads
/// and writes half a MiB a second at most, beside clients that move hundreds.
const STEP_PAUSE: Duration = Duration::from_secs(2);
/// A question to the shard.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// A relocation that has not ended by then is made void: nobody waits for it, and while it is open it
/// keeps the low-water mark down.
const MOVE_LIMIT: Duration = Duration::from_secs(5);

/// How far the walk over the containers of an attachment has come.
#[derive(Debug, Default)]
struct Walk {
    container: ContainerIndex,
    first_block: u32,
}

/// A new blob put together from pieces of others, under no name yet.
struct Packed {
    units: Vec<UnitRecord>,
    payload: Bytes,
    moved: Vec<MovedRange>,
    moves: Vec<Move>,
}

impl Shared {
    /// Relocates until the attachment ends.
    pub(crate) async fn relocate(self: Arc<Self>) {
        let mut walk = Walk::default();
        loop {
            let mut wait = STEP_PAUSE;
            self.pause(&mut wait, None).await;
            if self.is_lost() {
                return;
            }
            if self.is_idle() && self.relocate_step(&mut walk).await.is_err() {
                return;
            }
        }
    }

    /// Looks at one page of one container's map, and moves what it finds there.
    async fn relocate_step(self: &Arc<Self>, walk: &mut Walk) -> Result<(), IoError> {
        let Some(container) = self.next_to_walk(walk) else {
            *walk = Walk::default();
            return Ok(());
        };
        self.ensure_fenced(&container).await?;
        let mark = container.with(|state| state.sequences.low_water());
        let Some((extents, next)) = self.ask_sparse(&container, walk.first_block).await? else {
            return Ok(());
        };
        if walk.first_block == 0 {
            container.with(|state| state.walked = Some(mark));
        }
        if let Some(next) = next {
            walk.first_block = next;
        } else {
            walk.container = ContainerIndex(container.id.index.0.saturating_add(1));
            walk.first_block = 0;
        }
        if extents.is_empty() {
            return Ok(());
        }
        let lacking = Mutex::default();
        let Some(units) = self.fetch_units(&container, &extents, &lacking).await else {
            // It is walked again.
            container.with(|state| state.walked = None);
            return Ok(());
        };
        let packed = pack(&extents, &units, self.record.policy.compression);
        self.move_to_new(&container, packed).await
    }

    /// The container to go on with, and where; none when the walk has come to its end. A container
    /// is walked once after the attach, and again when something was written to it.
    fn next_to_walk(&self, walk: &mut Walk) -> Option<Arc<Container>> {
        for container in self.known_containers() {
            let index = container.id.index;
            if index < walk.container {
                continue;
            }
            if index > walk.container {
                *walk = Walk {
                    container: index,
                    first_block: 0,
                };
            }
            if walk.first_block > 0 {
                return Some(container);
            }
            let is_new = |state: &ContainerState| state.walked != Some(state.sequences.low_water());
            if container.with(|state| is_new(state)) {
                return Some(container);
            }
            walk.container = ContainerIndex(index.0.saturating_add(1));
        }
        None
    }

    /// Asks what refers to mostly dead blobs. None: not now.
    async fn ask_sparse(
        &self,
        container: &Container,
        first_block: u32,
    ) -> Result<Option<(Vec<KnownExtent>, Option<u32>)>, IoError> {
        let Some(group) = self.group_of(container) else {
            return Ok(None);
        };
        let request = ShardRequest::Sparse {
            container: container.id,
            layer: self.layer(),
            first_block,
        };
        match self.groups.shard(group, request, ASK_LIMIT).await {
            Ok(ShardReply::Sparse { view, next }) => {
                for (id, placement) in &view.placements {
                    container.learn(*id, placement.clone());
                }
                Ok(Some((known_extents(&view), next)))
            }
            Ok(ShardReply::Refused(refusal)) => {
                self.refused(&refusal)?;
                self.follow(&refusal).await;
                Ok(None)
            }
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Stores the new blob and proposes the moves, under one name.
    async fn move_to_new(
        self: &Arc<Self>,
        container: &Arc<Container>,
        packed: Packed,
    ) -> Result<(), IoError> {
        let Some(sequence) = container.with(|state| state.sequences.begin()) else {
            return Ok(());
        };
        let name = BlobName {
            container: container.id,
            writer: self.writer,
            sequence,
        };
        let moves = packed.moves;
        let header = BlobHeader {
            name,
            layer: self.layer(),
            first_block: moves.first().map_or(0, |first| first.first_block),
            version: Version {
                writer: self.writer,
                sequence,
            },
            units: packed.units,
            key: 0,
            moved: packed.moved,
        };
        let operation = Arc::new(Operation::default());
        let attempt = Attempt {
            container,
            operation: &operation,
            change: Change::Relocate(moves.clone()),
            sequence,
            frame: Some(Frame {
                header,
                payload: packed.payload,
            }),
        };
        // What the cache knows of these ranges is dropped, and nothing older fills them.
        let tokens: Vec<_> = container.with(|state| {
            let ranges = moves.iter();
            let ranges = ranges.map(|one| one.first_block..one.first_block + one.blocks);
            ranges
                .map(|range| state.cache.begin_commit(range))
                .collect()
        });
        let limit = self.cancel_later(&operation);
        let ended = self.run_attempt(&attempt).await;
        drop(limit);
        container.with(|state| {
            for token in tokens {
                state.cache.end_commit(token, Vec::new());
            }
            if ended.is_ok() {
                state.sequences.settle(sequence);
            }
        });
        if let Ended::Applied = ended?.0 {
            let blobs: BTreeSet<BlobName> = moves.iter().map(|one| one.from).collect();
            let blocks: u32 = moves.iter().map(|one| one.blocks).sum();
            let count = blobs.len();
            event!(
                self.env,
                Debug,
                "proxy",
                "{blocks} blocks of {count} blobs move to {name}"
            );
        }
        Ok(())
    }

    /// Cancels `operation` when its time is up, unless what is answered is dropped before.
    fn cancel_later(&self, operation: &Arc<Operation>) -> AbortOnDrop {
        let (env, operation) = (self.env.clone(), Arc::clone(operation));
        let wait = async move {
            env.sleep(MOVE_LIMIT).await;
            operation.cancel();
        };
        self.env.spawn("proxy-relocate-limit", wait).abort_on_drop()
    }
}

/// Puts the ranges of `extents` together, each within one unit.
fn pack(extents: &[KnownExtent], units: &Units, compression: bool) -> Packed {
    let unit_bytes = usize::try_from(MAXIMUM_UNIT_BYTES).expect("64 KiB");
    let bytes_of =
        |blocks: u64| usize::try_from(blocks * BLOCK_UNIT_BYTES).expect("a blob is at most 1 MiB");
    let mut plain: Vec<BytesMut> = Vec::new();
    let mut moves = Vec::new();
    let mut moved = Vec::new();
    for extent in extents {
        let (
            MapTarget::Data {
                blob,
                unit: from_unit,
                unit_offset_blocks: from_offset_blocks,
                digest: from_digest,
            },
            Some(version),
        ) = (extent.target, extent.version)
        else {
            continue;
        };
        let start = bytes_of(from_offset_blocks.into());
        let length = bytes_of(extent.blocks.into());
        let bytes = &units[&(blob, from_unit)][start..start + length];
        if plain
            .last()
            .is_none_or(|unit| unit.len() + length > unit_bytes)
        {
            plain.push(BytesMut::new());
        }
        let last = plain.len() - 1;
        let unit = u16::try_from(last).expect("a blob has few units");
        let offset = plain[last].len() / bytes_of(1);
        let unit_offset_blocks = u16::try_from(offset).expect("a unit is at most 64 KiB");
        plain[last].extend_from_slice(bytes);
        moved.push(MovedRange {
            first_block: extent.first_block,
            blocks: extent.blocks,
            unit,
            unit_offset_blocks,
            version,
        });
        moves.push(Move {
            first_block: extent.first_block,
            blocks: extent.blocks,
            from: blob,
            from_unit,
            from_offset_blocks,
            from_digest,
            unit,
            unit_offset_blocks,
            // Known when the unit is complete.
            digest: from_digest,
        });
    }
    let mut records = Vec::with_capacity(plain.len());
    let mut payload = BytesMut::new();
    for unit in plain {
        let (record, stored) = encode_units(&unit.freeze(), compression);
        records.extend(record);
        payload.extend_from_slice(&stored);
    }
    for one in &mut moves {
        one.digest = records[usize::from(one.unit)].digest;
    }
    Packed {
        units: records,
        payload: payload.freeze(),
        moved,
        moves,
    }
}
