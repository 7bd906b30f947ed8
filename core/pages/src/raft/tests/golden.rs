//! Golden vectors of what this folder stores and says: forms of openraft's types, which another
//! version of it must read as they are, or under a new version of their envelopes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bytes::Bytes;
use hedgerow_env::{GroupId, NodeId, ReplicaNumber, StoreId};
use hedgerow_protocol::{Envelope, GroupMember, MemberId, decode, encode};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesResponse, VoteRequest};
use openraft::vote::RaftLeaderId as _;

use super::super::registry::ReplicaRecord;
use super::super::types::{
    Batch, Entry, LeaderId, LogId, Membership, RaftMessage, RaftReply, RaftRequest, StoredApplied,
    StoredEntry, StoredMembership, StoredPurge, StoredTruncation, StoredVote, Vote,
};

fn member(store: u64) -> MemberId {
    MemberId {
        store: StoreId(store),
        replica: ReplicaNumber(2),
    }
}

fn group_member(store: u64) -> GroupMember {
    GroupMember {
        member: member(store),
        node: NodeId(store + 1),
        address: "a:1".into(),
    }
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new(5, member(3)).to_committed(), index)
}

fn membership() -> Membership {
    let voters = BTreeSet::from([member(3), member(4)]);
    let nodes: BTreeMap<_, _> = [3, 4]
        .map(|store| (member(store), group_member(store)))
        .into();
    Membership::new(vec![voters], nodes).expect("every voter is a node")
}

fn entry(index: u64, payload: EntryPayload<Batch, MemberId, GroupMember>) -> StoredEntry {
    StoredEntry(Entry {
        log_id: log_id(index),
        payload,
    })
}

/// The value is written as `golden`, and read back as the same.
fn check<T: Envelope + Debug>(value: &T, golden: &str) {
    let hexadecimal = |bytes: &[u8]| -> String {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        digits.collect()
    };
    let bytes = encode(value);
    assert_eq!(hexadecimal(&bytes), golden, "{value:?}");
    let read = decode::<T>(&bytes).expect("what was written is read");
    assert_eq!(format!("{read:?}"), format!("{value:?}"));
}

#[test]
fn what_is_stored_has_the_bytes_that_it_always_had() {
    let batch = Batch(Bytes::from_static(b"xyz"));
    check(
        &entry(7, EntryPayload::Normal(batch)),
        "460001000507010378797a",
    );
    check(&entry(8, EntryPayload::Blank), "46000100050800");
    check(
        &entry(9, EntryPayload::Membership(membership())),
        "4600010005090201020302040202030203020403613a31040204020503613a31",
    );
    check(&StoredVote(Vote::new(5, member(3))), "470001000501030200");
    check(
        &StoredVote(Vote::new_committed(300, member(4))),
        "47000100fb2c0101040201",
    );
    check(&StoredPurge(log_id(11)), "48000100050b");
    check(&StoredTruncation(None), "4900010000");
    check(&StoredTruncation(Some(log_id(12))), "4900010001050c");
    let stored = StoredMembership::new(Some(log_id(9)), membership());
    check(
        &StoredApplied((Some(log_id(13)), stored)),
        "4a00010001050d01050901020302040202030203020403613a31040204020503613a31",
    );
    let record = ReplicaRecord {
        group: GroupId(1),
        member: group_member(3),
        retired: true,
    };
    check(&record, "4b0001000103020403613a3101");
}

#[test]
fn what_is_said_has_the_bytes_that_it_always_had() {
    let request = VoteRequest::new(Vote::new(6, member(3)), Some(log_id(14)));
    let message = RaftMessage {
        group: GroupId(1),
        from: member(3),
        to: member(4),
        request: RaftRequest::Vote(request),
    };
    check(&message, "4c000100010302040201060103020001050e00");
    check(
        &RaftReply::Append(AppendEntriesResponse::Success),
        "4d0001000000",
    );
    check(&RaftReply::SnapshotBusy, "4d00010005");
}
