//! Nodes, stores, where they stand, and which replicas make up each Raft group.

use std::fmt;

use hedgerow_env::{ContainerIndex, FamilyId, GroupId, MapEpoch, NodeId, ReplicaNumber, StoreId};
use serde::{Deserialize, Serialize};

use crate::Residence;

/// The root group.
pub const ROOT_GROUP: GroupId = GroupId(0);

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Location {
    /// Data centre.
    pub data_centre: String,
    /// Rack, unique within its data centre.
    pub rack: String,
}

/// Role bits of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Roles(pub u8);

impl Roles {
    /// Metadata service.
    pub const PAGES: Self = Self(1);
    /// Data service.
    pub const HBLOCK: Self = Self(2);
    /// Storage Proxy.
    pub const PROXY: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names, for people and JSON.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            (Self::PAGES, "pages"),
            (Self::HBLOCK, "hblock"),
            (Self::PROXY, "proxy"),
        ]
        .into_iter()
        .filter(|(role, _)| self.contains(*role))
        .map(|(_, name)| name)
        .collect()
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.names().join("+"))
    }
}

/// What the root knows of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord {
    /// Its identity.
    pub store: StoreId,
    /// Usable bytes.
    pub capacity_bytes: u64,
    /// Kind of device.
    pub residence: Residence,
    /// Whether it is its node's system pool (holds the Raft logs and Pages state).
    pub system: bool,
}

/// Whether a node can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Heartbeats arrive.
    Up,
    /// None arrived for a while; nothing is moved yet.
    Down,
    /// Being emptied.
    Draining,
}

/// What the root knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its identity.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where its RPC server listens (`host:port`).
    pub address: String,
    /// Its roles.
    pub roles: Roles,
    /// Where it stands.
    pub location: Location,
    /// Its stores.
    pub stores: Vec<StoreRecord>,
    /// Whether it can be used.
    pub state: NodeState,
    /// Why it is in that state.
    pub reason: String,
}

impl NodeRecord {
    /// Whether copies can lie on it: it has the role and a store.
    #[must_use]
    pub fn keeps_data(&self) -> bool {
        self.roles.contains(Roles::HBLOCK) && !self.stores.is_empty()
    }
}

/// A member of a Raft group: a store with the replica number that the group handed out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct MemberId {
    /// The system store of the member's node.
    pub store: StoreId,
    /// The number that the group handed out.
    pub replica: ReplicaNumber,
}

impl fmt::Display for MemberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.store, self.replica)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A member of a group and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupMember {
    /// Its identity.
    pub member: MemberId,
    /// Its node.
    pub node: NodeId,
    /// Its node's RPC address when this was written; the node record has the newest.
    pub address: String,
}

/// A Raft group and its members.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The group.
    pub group: GroupId,
    /// Its members.
    pub members: Vec<GroupMember>,
}

/// The shard table: which groups exist and who serves them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShardTable {
    /// Rises with each change.
    pub epoch: MapEpoch,
    /// The root group.
    pub root: GroupRecord,
    /// The slots: a power of two of them, each with the shard that answers for it, or none before
    /// the root's leader made the shards. A container's slot is the low bits of its hash. A shard
    /// stands in every slot that agrees with its [`ShardRange`], so more than once where others
    /// were split more often.
    pub shards: Vec<GroupRecord>,
}

/// Most slots of a shard table: each shard costs every Pages node a share of a log, and each node
/// holds the table.
pub const MAXIMUM_SLOTS: usize = 1024;

/// What a container's shard is decided by: the table's slots are its low bits.
#[must_use]
pub fn shard_hash(family: FamilyId, index: ContainerIndex) -> u64 {
    let mut key = [0_u8; 12];
    key[..8].copy_from_slice(&family.0.to_le_bytes());
    key[8..].copy_from_slice(&index.0.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&key)
}

/// The containers of a shard: those whose hash has these low bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShardRange {
    /// How many low bits count; 0: every container.
    pub bits: u8,
    /// What they are.
    pub pattern: u32,
}

impl ShardRange {
    fn mask(self) -> u32 {
        1_u32
            .checked_shl(u32::from(self.bits))
            .map_or(u32::MAX, |bit| bit - 1)
    }

    /// Whether `slot` of a table, or the low bits of a hash, lies within it.
    #[must_use]
    pub fn contains_slot(self, slot: u32) -> bool {
        slot & self.mask() == self.pattern
    }

    /// Whether the container is of it.
    #[must_use]
    pub fn contains(self, family: FamilyId, index: ContainerIndex) -> bool {
        let low = shard_hash(family, index) & u64::from(u32::MAX);
        self.contains_slot(u32::try_from(low).expect("cut to 32 bits"))
    }

    /// What stays and what moves when it is split by one bit more.
    #[must_use]
    pub fn halves(self) -> (Self, Self) {
        let bits = self.bits + 1;
        let stays = Self {
            bits,
            pattern: self.pattern,
        };
        let moves = Self {
            bits,
            pattern: self.pattern | (1 << self.bits),
        };
        (stays, moves)
    }

    /// What it was a half of.
    #[must_use]
    pub fn whole(self) -> Option<Self> {
        let bits = self.bits.checked_sub(1)?;
        let pattern = self.pattern & !(1 << bits);
        Some(Self { bits, pattern })
    }
}

/// A split under way: what moves out of one shard, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// The shard that is split.
    pub from: GroupId,
    /// The new shard with its members.
    pub to: GroupRecord,
    /// The containers that move.
    pub range: ShardRange,
    /// The map epoch at which it began: every table with the new shard has a higher one.
    pub began: MapEpoch,
    /// Whether the table shows the new shard. Else rows are still copied.
    pub opened: bool,
}

impl ShardTable {
    /// The shard that is the authority for `(family, index)`.
    #[must_use]
    pub fn shard_of(&self, family: FamilyId, index: ContainerIndex) -> Option<&GroupRecord> {
        let count = u64::try_from(self.shards.len()).ok()?;
        if count == 0 {
            return None;
        }
        debug_assert!(
            count.is_power_of_two(),
            "a shard table holds a power of two"
        );
        let slot = shard_hash(family, index) & (count - 1);
        self.shards.get(usize::try_from(slot).ok()?)
    }

    /// Each shard once, by its first slot.
    #[must_use]
    pub fn distinct(&self) -> Vec<&GroupRecord> {
        let mut seen = std::collections::BTreeSet::new();
        let shards = self.shards.iter();
        shards.filter(|shard| seen.insert(shard.group)).collect()
    }

    /// The slots of `group` in order.
    #[must_use]
    pub fn slots_of(&self, group: GroupId) -> Vec<u32> {
        let slots = (0_u32..).zip(&self.shards);
        let own = slots.filter(|(_, shard)| shard.group == group);
        own.map(|(slot, _)| slot).collect()
    }

    /// The containers of `group`, by its slots.
    #[must_use]
    pub fn range_of(&self, group: GroupId) -> Option<ShardRange> {
        let slots = self.slots_of(group);
        let pattern = *slots.first()?;
        // All slots that agree in as many bits are its own: their number tells how many.
        let share = self.shards.len() / slots.len();
        let bits = u8::try_from(share.trailing_zeros()).ok()?;
        Some(ShardRange { bits, pattern })
    }

    /// Gives the slots of `range` to `shard`; twice as many slots where the range needs them.
    pub fn assign(&mut self, range: ShardRange, shard: &GroupRecord) {
        while self.shards.len() < 1 << range.bits {
            let copy = self.shards.clone();
            self.shards.extend(copy);
        }
        for (slot, standing) in (0_u32..).zip(&mut self.shards) {
            if range.contains_slot(slot) {
                standing.clone_from(shard);
            }
        }
    }

    /// The record of `group`.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&GroupRecord> {
        if group == ROOT_GROUP {
            return Some(&self.root);
        }
        self.shards.iter().find(|record| record.group == group)
    }
}

/// The nodes as the root last told them: the input of placement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topology {
    /// The root's log index at which this was true.
    pub index: u64,
    /// Every node, by id.
    pub nodes: Vec<NodeRecord>,
}

impl Topology {
    /// The node that has `store`.
    #[must_use]
    pub fn node_of(&self, store: StoreId) -> Option<&NodeRecord> {
        self.nodes
            .iter()
            .find(|node| node.stores.iter().any(|record| record.store == store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(group: u32) -> GroupRecord {
        GroupRecord {
            group: GroupId(group),
            members: Vec::new(),
        }
    }

    fn groups(table: &ShardTable) -> Vec<u32> {
        table.shards.iter().map(|shard| shard.group.0).collect()
    }

    #[test]
    fn a_split_shard_gives_half_of_its_slots_away_and_others_keep_all_of_theirs() {
        let mut table = ShardTable {
            shards: vec![shard(1), shard(2)],
            ..ShardTable::default()
        };
        let split = |table: &mut ShardTable, from: u32, to: u32| {
            let range = table.range_of(GroupId(from)).expect("it has slots");
            let (_, moves) = range.halves();
            assert_eq!(moves.whole(), Some(range));
            table.assign(moves, &shard(to));
        };
        split(&mut table, 1, 3);
        assert_eq!(groups(&table), [1, 2, 3, 2], "group 2 has two slots now");
        split(&mut table, 2, 4);
        assert_eq!(groups(&table), [1, 2, 3, 4], "no slot more is needed");
        split(&mut table, 3, 5);
        assert_eq!(groups(&table), [1, 2, 3, 4, 1, 2, 5, 4]);
        assert_eq!(table.range_of(GroupId(9)), None);
        let distinct = table.distinct();
        assert_eq!(distinct.len(), 5);
        for group in 1..=5 {
            let range = table.range_of(GroupId(group)).expect("it has slots");
            for index in 0..200 {
                let (family, index) = (FamilyId(7), ContainerIndex(index));
                let own = table.shard_of(family, index).map(|shard| shard.group.0);
                assert_eq!(range.contains(family, index), own == Some(group));
            }
        }
    }
}
