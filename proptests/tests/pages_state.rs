//! The rows of Pages' state (docs/format/pages-state.md) have the bytes that they must have for ever.
//!
//! One story of a shard and one of the root touch every table. `golden/pages-state.txt` holds, for
//! each table, the first row that the story put there: its key and its value. A replica of an older
//! build left such rows behind, and this one must read them.
//!
//! After adding a table, run the test once with `HEDGEROW_GOLDEN=write` and read the difference: only
//! lines may have been added.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use hedgerow_env::{
    ClusterId, ContainerId, ContainerIndex, FamilyId, Generation, GroupId, LayerId, MapEpoch,
    NodeId, PlacementEpoch, Sequence, StoreId, VirtualDiskId, WriterId,
};
use hedgerow_pages::root::RootMachine;
use hedgerow_pages::shard::ShardMachine;
use hedgerow_pages::{Machine, MemoryState};
use hedgerow_protocol::{
    Commit, CommitExtent, CommitTarget, Digest, GroupMember, GroupRecord, Layout, Location,
    MemberId, MemberState, Move, NodeRecord, NodeState, PlacementMember, Policy, ProxySession,
    ROOT_GROUP, Relocate, Residence, Roles, RootBatch, RootCommand, RootOutcome, ShardBatch,
    ShardCommand, ShardOutcome, ShardRange, StoreRecord, decode, encode,
};

const GOLDEN: &str = include_str!("../golden/pages-state.txt");

const HEAD: &str = "\
# Golden vectors of Pages' state (docs/format/pages-state.md): table, key, value. Made by
# tests/pages_state.rs with HEDGEROW_GOLDEN=write. Lines are added, never changed.
";

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory");
        text
    })
}

/// The first row that was ever seen of each table, by its kind; of the map and the feeds, whose
/// values begin with a tag, of each tag.
#[derive(Default)]
struct Tables {
    state: MemoryState,
    index: u64,
    is_shard: bool,
    rows: BTreeMap<(u8, u8), (Vec<u8>, Vec<u8>)>,
}

impl Tables {
    fn apply(&mut self, machine: &dyn Machine, batch: &[u8]) -> Vec<u8> {
        self.index += 1;
        let outcomes = machine.apply(&mut self.state, self.index, batch);
        for (key, value) in &self.state.0 {
            let has_tag = self.is_shard && matches!(key[0], 3 | 8);
            let tag = if has_tag { value[0] } else { 0 };
            let row = (key.clone(), value.clone());
            self.rows.entry((key[0], tag)).or_insert(row);
        }
        outcomes.expect("a state in memory does not fail").to_vec()
    }

    fn shard(&mut self, command: ShardCommand) {
        let outcomes = self.apply(&ShardMachine, &encode(&ShardBatch(vec![command])));
        let outcomes: Vec<ShardOutcome> = decode(&outcomes).expect("outcomes");
        assert!(
            !matches!(outcomes[0], ShardOutcome::Refused(_)),
            "{outcomes:?}"
        );
    }

    fn root(&mut self, command: RootCommand) {
        let outcomes = self.apply(&RootMachine, &encode(&RootBatch(vec![command])));
        let outcomes: Vec<RootOutcome> = decode(&outcomes).expect("outcomes");
        assert!(
            !matches!(outcomes[0], RootOutcome::Refused(_)),
            "{outcomes:?}"
        );
    }

    fn lines(&self, name: &str) -> String {
        let mut text = format!("\n## {name}\n");
        for ((kind, _), (key, value)) in &self.rows {
            let (key, value) = (hexadecimal(key), hexadecimal(value));
            writeln!(text, "{kind} {key} {value}").expect("writing to memory");
        }
        text
    }
}

fn home() -> ContainerId {
    ContainerId {
        family: FamilyId(0xfa),
        disk: VirtualDiskId(0xd1),
        index: ContainerIndex(0xc0),
    }
}

fn place(epoch: u64, members: &[(u64, MemberState)], lost: &[u64]) -> ShardCommand {
    let member = |(id, state): &(u64, MemberState)| PlacementMember {
        store: StoreId(0x5000 + id),
        node: NodeId(0x4000 + id),
        state: *state,
    };
    ShardCommand::Place {
        container: home(),
        generation: Generation(3),
        epoch: PlacementEpoch(epoch),
        members: members.iter().map(member).collect(),
        layout: Layout::Replicated { copies: 3 },
        write_quorum: 2,
        lost: lost.iter().map(|id| StoreId(0x5000 + id)).collect(),
    }
}

fn commit(sequence: u64, first_block: u32, blocks: u32, is_hole: bool) -> ShardCommand {
    let data = CommitTarget::Data {
        unit: 1,
        unit_offset_blocks: 2,
        digest: Digest(0xd16e),
    };
    ShardCommand::Commit(Commit {
        container: home(),
        layer: LayerId(0x1a),
        generation: Generation(3),
        epoch: PlacementEpoch(1),
        writer: WriterId(7),
        sequence: Sequence(sequence),
        low_water: Sequence(1),
        extents: vec![CommitExtent {
            first_block,
            blocks,
            target: if is_hole { CommitTarget::Hole } else { data },
        }],
        acknowledged: if is_hole {
            Vec::new()
        } else {
            vec![StoreId(0x5001), StoreId(0x5002)]
        },
        stored_bytes: if is_hole { 0 } else { blocks * 512 },
    })
}

fn relocate(sequence: u64, from: u64, first_block: u32, blocks: u32) -> ShardCommand {
    ShardCommand::Relocate(Relocate {
        container: home(),
        layer: LayerId(0x1a),
        generation: Generation(3),
        epoch: PlacementEpoch(1),
        writer: WriterId(7),
        sequence: Sequence(sequence),
        low_water: Sequence(1),
        moves: vec![Move {
            first_block,
            blocks,
            from: hedgerow_env::BlobName {
                container: home(),
                writer: WriterId(7),
                sequence: Sequence(from),
            },
            from_unit: 1,
            from_offset_blocks: 6,
            from_digest: Digest(0xd16e),
            unit: 3,
            unit_offset_blocks: 4,
            digest: Digest(0xd16f),
        }],
        acknowledged: vec![StoreId(0x5001), StoreId(0x5002)],
        stored_bytes: blocks * 512,
    })
}

/// A shard's story.
fn shard_story() -> Tables {
    use MemberState::Active;
    let mut tables = Tables {
        is_shard: true,
        ..Tables::default()
    };
    tables.shard(ShardCommand::Floor {
        disk: home().disk,
        family: home().family,
        generation: Generation(3),
        writers: vec![WriterId(7)],
        layer: LayerId(0x1a),
    });
    tables.shard(place(1, &[(1, Active), (2, Active), (3, Active)], &[]));
    tables.shard(commit(1, 0, 8, false));
    tables.shard(commit(2, 8, 8, true));
    tables.shard(commit(3, 0, 4, false));
    tables.shard(commit(4, 0, 4, false));
    tables.shard(ShardCommand::Void {
        container: home(),
        writer: WriterId(7),
        sequences: vec![Sequence(5)],
        low_water: Sequence(4),
    });
    tables.shard(ShardCommand::Collect {
        container: home(),
        writer: WriterId(7),
        sequences: vec![Sequence(3)],
    });
    tables.shard(relocate(6, 1, 4, 4));
    // More blobs than one step of a sweep looks at.
    for sequence in 10..600 {
        let at = u32::try_from(sequence).expect("small") * 8;
        tables.shard(commit(sequence, at, 8, false));
    }
    // A store that retires, and a new member's sweep under way.
    tables.shard(place(2, &[(1, Active), (2, Active), (4, Active)], &[3]));
    tables.shard(ShardCommand::Split {
        to: GroupId(2),
        range: ShardRange {
            bits: 2,
            pattern: 3,
        },
        epoch: MapEpoch(0xe0),
    });
    tables
}

fn node(id: u64) -> NodeRecord {
    NodeRecord {
        node: NodeId(id),
        name: format!("node{id}"),
        address: format!("node{id}:700"),
        roles: Roles::ALL,
        location: Location {
            data_centre: "dc".into(),
            rack: "rack".into(),
        },
        stores: vec![StoreRecord {
            store: StoreId(id * 16),
            capacity_bytes: 1 << 40,
            residence: Residence::Hdd,
            system: true,
        }],
        state: NodeState::Up,
        reason: String::new(),
    }
}

fn group(group: GroupId) -> GroupRecord {
    GroupRecord {
        group,
        members: vec![GroupMember {
            member: MemberId {
                store: StoreId(16),
                replica: hedgerow_env::ReplicaNumber(1),
            },
            node: NodeId(1),
            address: "node1:700".into(),
        }],
    }
}

fn root_story() -> Tables {
    let mut tables = Tables::default();
    let session = |incarnation| ProxySession {
        node: NodeId(1),
        incarnation,
    };
    let disk = VirtualDiskId(1);
    let create = |nonce, name: &str| RootCommand::CreateDisk {
        nonce,
        name: name.into(),
        size_bytes: 8 << 30,
        container_bytes: 1 << 30,
        policy: Policy::default(),
        description: "for people".into(),
    };
    let attach = |nonce, incarnation| RootCommand::Attach {
        disk,
        session: session(incarnation),
        nonce,
    };
    for command in [
        RootCommand::Initialise {
            cluster: ClusterId(0xc1),
            nodes: vec![node(1), node(2), node(3)],
            members: group(ROOT_GROUP).members,
        },
        RootCommand::JoinAtStart {
            record: node(2),
            start: 5,
        },
        RootCommand::CreateShards {
            shards: vec![group(GroupId(1))],
        },
        RootCommand::NextReplica {
            group: GroupId(1),
            store: StoreId(32),
        },
        create(0xa1, "demo"),
        attach(0xb1, 0x11),
    ] {
        tables.root(command);
    }
    let renewed_at = tables.index;
    tables.root(RootCommand::ExpireLease {
        session: session(0x11),
        renewed_at,
    });
    tables.root(create(0xa2, "cut"));
    tables.root(RootCommand::Resize {
        disk: VirtualDiskId(2),
        from_bytes: 8 << 30,
        generation: Generation(1),
        size_bytes: 4 << 30,
    });
    tables.root(RootCommand::DeleteDisk { disk });
    tables.root(RootCommand::SplitShard {
        group: GroupId(1),
        epoch: MapEpoch(2),
    });
    tables
}

#[expect(
    clippy::disallowed_methods,
    reason = "a developer asked for new vectors"
)]
fn write_file(path: &str, text: &str) {
    std::fs::write(path, text).expect("the golden vectors can be written");
}

#[test]
fn every_table_has_rows_of_the_bytes_that_it_always_had() {
    let shard = shard_story();
    let kinds =
        |tables: &Tables| -> BTreeSet<u8> { tables.rows.keys().map(|(kind, _)| *kind).collect() };
    // Not yet 13 of a shard, 16 of the root: the first feature level above 1 makes their rows.
    let known = (1..=14).filter(|kind| *kind != 13).collect();
    assert_eq!(kinds(&shard), known, "tables of a shard");
    assert_eq!(
        shard.rows.len(),
        17,
        "three rows of the map, three of a feed"
    );
    let mut text = HEAD.to_owned();
    text.push_str(&shard.lines("shard"));
    let root = root_story();
    let known = (1..=21).filter(|kind| *kind != 16).collect();
    assert_eq!(kinds(&root), known, "tables of the root");
    text.push_str(&root.lines("root"));
    if std::env::var("HEDGEROW_GOLDEN").as_deref() == Ok("write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/pages-state.txt");
        write_file(path, &text);
        return;
    }
    for (expected, found) in text.lines().zip(GOLDEN.lines()) {
        assert_eq!(found, expected, "see the head of this file");
    }
    assert_eq!(GOLDEN.lines().count(), text.lines().count());
}
