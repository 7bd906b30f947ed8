//! The numbers of the RPC services.

/// Raft messages between replicas.
pub const SERVICE_RAFT: u16 = 1;
/// Requests to a group's leader: [`crate::GroupRequest`].
pub const SERVICE_GROUP: u16 = 2;
/// Requests to an HBlock: [`crate::HBlockRequest`].
pub const SERVICE_HBLOCK: u16 = 3;
/// Requests to a node as such: [`crate::NodeRequest`].
pub const SERVICE_NODE: u16 = 4;
/// Operators' requests: [`crate::AdminRequest`].
pub const SERVICE_ADMIN: u16 = 5;
/// Requests to a replica's log store, whether the replica runs or not: [`crate::LogFetch`].
pub const SERVICE_LOG: u16 = 6;
/// A node's quiet groups, told to the nodes of their members: [`crate::QuietOffers`].
pub const SERVICE_QUIET: u16 = 7;
