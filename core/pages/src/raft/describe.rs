//! What a message of the Raft service says, for people who read traces.
//!
//! Invariant: the text is for eyes alone; nothing parses it, and it may change.
//! Does not: fail. What cannot be decoded is simply not described.

use hedgerow_protocol::{Envelope as _, decode};

use super::types::{RaftMessage, RaftReply, RaftRequest};

/// The words for an encoded request or reply of the Raft service; none for anything else.
#[must_use]
pub fn describe(head: &[u8]) -> Option<String> {
    let (kind, _) = head.split_first_chunk::<2>()?;
    match u16::from_le_bytes(*kind) {
        RaftMessage::KIND => decode::<RaftMessage>(head).ok().map(|m| request(&m)),
        RaftReply::KIND => decode::<RaftReply>(head).ok().map(|r| reply(&r)),
        _ => None,
    }
}

fn request(message: &RaftMessage) -> String {
    let group = message.group;
    match &message.request {
        RaftRequest::Append(append) if append.entries.is_empty() => {
            format!("heartbeat {group} {append}")
        }
        RaftRequest::Append(append) => {
            format!("append {} to {group} {append}", append.entries.len())
        }
        RaftRequest::Vote(vote) => format!("vote? {group} {vote}"),
        RaftRequest::PreVote(vote) => format!("pre-vote? {group} {vote}"),
        RaftRequest::TransferLeader(transfer) => format!("transfer {group} {transfer}"),
        RaftRequest::SnapshotBegin { snapshot } => format!("snapshot begins {group} {snapshot}"),
        RaftRequest::SnapshotChunk {
            snapshot, pairs, ..
        } => format!("snapshot {group} {snapshot}: {} pairs", pairs.len()),
        RaftRequest::SnapshotEnd { meta, length, .. } => {
            format!("snapshot ends {group}: {length} pairs, {meta}")
        }
    }
}

fn reply(reply: &RaftReply) -> String {
    match reply {
        RaftReply::Append(append) => format!("append: {append}"),
        RaftReply::Vote(vote) => format!("vote: {vote}"),
        RaftReply::Transferred(transferred) => format!("transfer: {transferred:?}"),
        RaftReply::SnapshotHeld(_) => "snapshot held so far".to_owned(),
        RaftReply::SnapshotOutOfStep => "snapshot out of step".to_owned(),
        RaftReply::SnapshotBusy => "snapshot busy".to_owned(),
        RaftReply::SnapshotEnded(ended) => format!("snapshot ended: {ended:?}"),
    }
}
