//! Identities: one newtype each, so that no id can stand where another belongs.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal, $format:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($prefix, $format), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($prefix, $format), self.0)
            }
        }
    };
}

id!(
    /// A cluster, drawn at bootstrap.
    ClusterId(u128), "c", "{:032x}"
);
id!(
    /// A node: one process with its stores. Random, kept in the node's first superblock.
    NodeId(u64), "n", "{:016x}"
);
id!(
    /// A store: the random identity in a pool's superblock. A wiped pool is another store.
    StoreId(u64), "s", "{:016x}"
);
id!(
    /// A virtual disk, numbered by the root group, never reused.
    VirtualDiskId(u64), "d", "{}"
);
id!(
    /// A disk with its snapshots and clones.
    FamilyId(u64), "f", "{}"
);
id!(
    /// One layer of a family: made by create, snapshot or clone; unique in the cluster.
    LayerId(u64), "l", "{}"
);
id!(
    /// The position of a container in its disk (offset divided by the container size).
    ContainerIndex(u32), "i", "{}"
);
id!(
    /// A Raft group: 0 is the root, shards follow.
    GroupId(u32), "g", "{}"
);
id!(
    /// The replica number that a Raft group handed out; a retired number never returns.
    ReplicaNumber(u32), "r", "{}"
);
id!(
    /// A writer: granted at attach, unique per proxy incarnation and disk.
    WriterId(u64), "w", "{}"
);
id!(
    /// The number of a write of one writer within one container, from 1 on.
    Sequence(u64), "q", "{}"
);
id!(
    /// The generation of a virtual disk: the fence against stale writers.
    Generation(u64), "G", "{}"
);
id!(
    /// The epoch of a container's placement, from 1 on.
    PlacementEpoch(u64), "e", "{}"
);
id!(
    /// The epoch of the shard table.
    MapEpoch(u64), "m", "{}"
);
id!(
    /// A tenant; 0 is the operator's own.
    TenantId(u32), "t", "{}"
);

/// A container of a virtual disk: the unit of replica placement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ContainerId {
    /// The family, which with the index determines the shard.
    pub family: FamilyId,
    /// The disk whose policy places it.
    pub disk: VirtualDiskId,
    /// Its position in the disk.
    pub index: ContainerIndex,
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.family, self.disk, self.index)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The name of a blob: the immutable bytes of one write within one container.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct BlobName {
    /// The container that it was written to.
    pub container: ContainerId,
    /// Who wrote it.
    pub writer: WriterId,
    /// The writer's number for it within the container.
    pub sequence: Sequence,
}

impl fmt::Display for BlobName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}:{}",
            self.container, self.writer, self.sequence
        )
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
