//! The tables of the root's state and their keys. Kinds are never reused.
//!
//! | kind | key | value |
//! | --- | --- | --- |
//! | 1 cluster | | cluster id |
//! | 2 node | node | node record |
//! | 3 topology index | | log index of the newest change to a node |
//! | 4 table | | shard table |
//! | 5 replica | group | the replica number handed out last |
//! | 6 disk | disk | disk record |
//! | 7 name | name | disk |
//! | 8 creation | nonce | disk |
//! | 9 nonce of a disk | disk | nonce |
//! | 10 lease | node, incarnation | log index of its newest renewal |
//! | 11 ended lease | node, incarnation | log index at which it ended |
//! | 12 attached | node, incarnation, disk | nothing |
//! | 13 pending floor | disk, group | generation |
//! | 14 pending drop | disk, group | nothing |
//! | 15 counter | which | the number handed out last |
//! | 16 feature level | | level |
//! | 17 offered | group, store | replica number, how often |
//! | 18 cut | disk | the end of what is not zeroed yet, in bytes |
//! | 19 start | node, system store | its newest start count |
//! | 20 split | | the split that is under way |
//! | 21 newest attach | disk, node, incarnation | the highest nonce that was granted |

use hedgerow_env::{GroupId, NodeId, StoreId, VirtualDiskId};
use hedgerow_protocol::ProxySession;

use crate::StateError;
use crate::fields::{Put, Take};

pub(super) const NODE: u8 = 2;
pub(super) const DISK: u8 = 6;
pub(super) const NAME: u8 = 7;
pub(super) const LEASE: u8 = 10;
pub(super) const PENDING_FLOOR: u8 = 13;
pub(super) const PENDING_DROP: u8 = 14;
const NEWEST_ATTACH: u8 = 21;

/// What the root numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counter {
    Disk,
    Family,
    Layer,
    Writer,
}

pub(super) fn kind(kind: u8) -> Vec<u8> {
    Put::new(kind).done()
}

pub(super) fn cluster() -> Vec<u8> {
    kind(1)
}

pub(super) fn node(node: NodeId) -> Vec<u8> {
    Put::new(NODE).u64(node.0).done()
}

pub(super) fn topology_index() -> Vec<u8> {
    kind(3)
}

pub(super) fn table() -> Vec<u8> {
    kind(4)
}

pub(super) fn replica(group: GroupId) -> Vec<u8> {
    Put::new(5).u32(group.0).done()
}

pub(super) fn disk(disk: VirtualDiskId) -> Vec<u8> {
    Put::new(DISK).u64(disk.0).done()
}

pub(super) fn name(name: &str) -> Vec<u8> {
    Put::new(NAME).bytes(name.as_bytes()).done()
}

pub(super) fn creation(nonce: u64) -> Vec<u8> {
    Put::new(8).u64(nonce).done()
}

pub(super) fn cut(disk: VirtualDiskId) -> Vec<u8> {
    Put::new(18).u64(disk.0).done()
}

pub(super) fn start(node: NodeId, store: StoreId) -> Vec<u8> {
    Put::new(19).u64(node.0).u64(store.0).done()
}

pub(super) fn split() -> Vec<u8> {
    kind(20)
}

pub(super) fn newest_attach(disk: VirtualDiskId, session: ProxySession) -> Vec<u8> {
    Put::new(NEWEST_ATTACH)
        .u64(disk.0)
        .u64(session.node.0)
        .u64(session.incarnation)
        .done()
}

/// Those of every session of `node`.
pub(super) fn newest_attach_of(disk: VirtualDiskId, node: NodeId) -> Vec<u8> {
    Put::new(NEWEST_ATTACH).u64(disk.0).u64(node.0).done()
}

/// Those of every session.
pub(super) fn newest_attaches(disk: VirtualDiskId) -> Vec<u8> {
    Put::new(NEWEST_ATTACH).u64(disk.0).done()
}

pub(super) fn nonce_of(disk: VirtualDiskId) -> Vec<u8> {
    Put::new(9).u64(disk.0).done()
}

pub(super) fn lease(session: ProxySession) -> Vec<u8> {
    Put::new(LEASE)
        .u64(session.node.0)
        .u64(session.incarnation)
        .done()
}

/// The session of a lease key.
pub(super) fn session_of_key(key: &[u8]) -> Result<ProxySession, StateError> {
    let mut take = Take::new(key, "lease key");
    take.u8()?;
    let session = ProxySession {
        node: NodeId(take.u64()?),
        incarnation: take.u64()?,
    };
    take.end()?;
    Ok(session)
}

pub(super) fn ended(session: ProxySession) -> Vec<u8> {
    Put::new(11)
        .u64(session.node.0)
        .u64(session.incarnation)
        .done()
}

pub(super) fn ended_of(node: NodeId) -> Vec<u8> {
    Put::new(11).u64(node.0).done()
}

pub(super) fn attached(session: ProxySession, disk: VirtualDiskId) -> Vec<u8> {
    Put::new(12)
        .u64(session.node.0)
        .u64(session.incarnation)
        .u64(disk.0)
        .done()
}

pub(super) fn attached_of(session: ProxySession) -> Vec<u8> {
    Put::new(12)
        .u64(session.node.0)
        .u64(session.incarnation)
        .done()
}

/// The disk of an attached key.
pub(super) fn disk_of_attached(key: &[u8]) -> Result<VirtualDiskId, StateError> {
    let mut take = Take::new(key, "attached key");
    take.u8()?;
    take.u64()?;
    take.u64()?;
    let disk = VirtualDiskId(take.u64()?);
    take.end()?;
    Ok(disk)
}

pub(super) fn pending(kind: u8, disk: VirtualDiskId, group: GroupId) -> Vec<u8> {
    Put::new(kind).u64(disk.0).u32(group.0).done()
}

pub(super) fn pending_of(kind: u8, disk: VirtualDiskId) -> Vec<u8> {
    Put::new(kind).u64(disk.0).done()
}

/// The disk and group of a pending key.
pub(super) fn pending_of_key(key: &[u8]) -> Result<(VirtualDiskId, GroupId), StateError> {
    let mut take = Take::new(key, "pending key");
    take.u8()?;
    let disk = VirtualDiskId(take.u64()?);
    let group = GroupId(take.u32()?);
    take.end()?;
    Ok((disk, group))
}

pub(super) fn counter(counter: Counter) -> Vec<u8> {
    let which = match counter {
        Counter::Disk => 0,
        Counter::Family => 1,
        Counter::Layer => 2,
        Counter::Writer => 3,
    };
    Put::new(15).u8(which).done()
}

pub(super) fn feature() -> Vec<u8> {
    kind(16)
}

pub(super) fn offered(group: GroupId, store: StoreId) -> Vec<u8> {
    Put::new(17).u32(group.0).u64(store.0).done()
}
