//! Blobs: their self-describing header, and the units that they are made of.

use hedgerow_env::{BlobName, LayerId, Sequence, WriterId};
use serde::{Deserialize, Serialize};

use crate::codec::envelope;
use crate::{Digest, PlacementMember};

/// Largest logical length of a unit, in bytes.
pub const MAXIMUM_UNIT_BYTES: u32 = 64 << 10;

/// Largest payload of a blob, in bytes; a larger client write becomes several blobs.
pub const MAXIMUM_BLOB_BYTES: u32 = 1 << 20;

/// Most ranges of a blob that was put together from others: their records, some 40 bytes each, fit
/// the header that a store keeps with the blob.
pub const MAXIMUM_MOVED: usize = 256;

/// The version of a client write: on one block a writer's higher sequence wins over its lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The writer.
    pub writer: WriterId,
    /// Its sequence within the container.
    pub sequence: Sequence,
}

/// How a unit's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UnitEncoding {
    /// As they came.
    Plain,
    /// Snappy (raw block format).
    Snappy,
}

/// One unit: compressed, sealed and digested by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// Length of the plain bytes, a multiple of 512, at most [`MAXIMUM_UNIT_BYTES`].
    pub logical_bytes: u32,
    /// Length as stored.
    pub stored_bytes: u32,
    /// How it is stored.
    pub encoding: UnitEncoding,
    /// Digest of the stored bytes.
    pub digest: Digest,
}

/// A range of a blob that was put together from others: where it belongs, and whose write it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRange {
    /// The first block within the container.
    pub first_block: u32,
    /// How many blocks.
    pub blocks: u32,
    /// The unit.
    pub unit: u16,
    /// Where in the unit's plain bytes the range begins, in 512-byte blocks.
    pub unit_offset_blocks: u16,
    /// The version of the client write that made it.
    pub version: Version,
}

/// The header stored with each blob: enough to rebuild the maps from the data alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobHeader {
    /// The blob's name.
    pub name: BlobName,
    /// The layer that it was written to.
    pub layer: LayerId,
    /// The first 512-byte unit of its address range within the container.
    pub first_block: u32,
    /// The version of the client write; of a relocation, its own name.
    pub version: Version,
    /// Its units, in address order; their stored bytes follow one another in the payload.
    pub units: Vec<UnitRecord>,
    /// The key that sealed the units. Reserved: 0, they are not sealed.
    pub key: u32,
    /// Where each range belongs, in a blob that a relocation put together; else empty: the units
    /// follow one another from `first_block` on.
    pub moved: Vec<MovedRange>,
}

impl BlobHeader {
    /// Length of the payload in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.units
            .iter()
            .map(|unit| u64::from(unit.stored_bytes))
            .sum()
    }

    /// Offset and length of a unit's stored bytes within the payload.
    #[must_use]
    pub fn unit_range(&self, unit: u16) -> Option<(u64, u32)> {
        let index = usize::from(unit);
        let record = self.units.get(index)?;
        let offset = self.units[..index]
            .iter()
            .map(|unit| u64::from(unit.stored_bytes))
            .sum();
        Some((offset, record.stored_bytes))
    }

    /// Digest over the header and the units' digests: two blobs of one name must agree on it.
    #[must_use]
    pub fn identity_digest(&self) -> Digest {
        crate::digest(&crate::encode(self))
    }
}

/// The members that a write is sent to, as the shard's placement named them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteTarget {
    /// The member.
    pub member: PlacementMember,
    /// Its node's RPC address.
    pub address: String,
}

envelope! { BlobHeader = 10 v 1 }
