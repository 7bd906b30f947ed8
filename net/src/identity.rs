//! Who a process is, and what peers remember of its stores.
//!
//! Invariant: a [`StoreStamp`] only grows; a peer that is shown a smaller one than it knows, or
//! another start of the same count, is talking to a rolled-back store (DESIGN section 6) and the
//! store itself judges that.
//! Does not: keep any of this durably; the [`PeerObserver`] of the node does.

use hedgerow_env::{ClusterId, NodeId, StoreId};

use crate::NetError;

/// The roles of a process, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RoleSet(pub u8);

impl RoleSet {
    /// No role at all.
    pub const NONE: Self = Self(0);
    /// The metadata service.
    pub const PAGES: Self = Self(1);
    /// The data service.
    pub const HBLOCK: Self = Self(2);
    /// The access tier.
    pub const PROXY: Self = Self(4);
    /// A command line or another tool that serves nothing.
    pub const CLIENT: Self = Self(8);

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every role of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for RoleSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

/// How far a store has come, for the detection of a rolled-back one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreStamp {
    /// Which store.
    pub store: StoreId,
    /// How often it was started; raised and synced before the first handshake of a start.
    pub start_count: u64,
    /// Drawn for that start: an image restored later has starts of the same counts, not of the same
    /// nonces.
    pub start_nonce: u64,
    /// The end of the last journal record that it reported durable to anybody.
    pub reported_durable: u64,
}

impl StoreStamp {
    /// Whether this stamp shows less than is `known` of the store, or another start where the
    /// counts are equal.
    #[must_use]
    pub const fn is_behind(&self, known: &Self) -> bool {
        self.start_count < known.start_count
            || self.reported_durable < known.reported_durable
            || self.start_count == known.start_count && self.start_nonce != known.start_nonce
    }
}

/// What a process says of itself in every handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to; `None` while it is blank.
    pub cluster: Option<ClusterId>,
    /// The process.
    pub node: NodeId,
    /// Its stores with their stamps, at most [`Identity::MAXIMUM_STORES`].
    pub stores: Vec<StoreStamp>,
    /// Its roles.
    pub roles: RoleSet,
    /// The `host:port` at which others reach its RPC; [`crate::Rpc::start`] fills it in when
    /// empty.
    pub address: String,
}

impl Identity {
    /// A node has one to four pools; the rest is room. Bounds the size of a hello.
    pub const MAXIMUM_STORES: usize = 64;
    /// A host name has at most 253 bytes, a port five digits.
    pub const MAXIMUM_ADDRESS_BYTES: usize = 300;

    /// Refuses what does not fit a handshake.
    ///
    /// # Errors
    /// [`NetError::Identity`] names the limit.
    pub fn validate(&self) -> Result<(), NetError> {
        if self.stores.len() > Self::MAXIMUM_STORES {
            let text = format!(
                "{} stores, at most {}",
                self.stores.len(),
                Self::MAXIMUM_STORES
            );
            return Err(NetError::Identity(text));
        }
        if self.address.len() > Self::MAXIMUM_ADDRESS_BYTES {
            let text = format!("address over {} bytes", Self::MAXIMUM_ADDRESS_BYTES);
            return Err(NetError::Identity(text));
        }
        Ok(())
    }

    /// Whether `other` differs in nothing but how far its stores have come.
    #[must_use]
    pub fn is_same_but_for_stamps(&self, other: &Self) -> bool {
        let stores = |identity: &Self| -> Vec<StoreId> {
            identity.stores.iter().map(|stamp| stamp.store).collect()
        };
        self.cluster == other.cluster
            && self.node == other.node
            && self.roles == other.roles
            && self.address == other.address
            && stores(self) == stores(other)
    }
}

/// Whom to call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// `host:port`.
    pub address: String,
    /// The node that must answer there; `None` takes whoever does (bootstrap only).
    pub node: Option<NodeId>,
}

impl Peer {
    /// The peer `node` at `address`.
    #[must_use]
    pub fn new(address: impl Into<String>, node: NodeId) -> Self {
        Self {
            address: address.into(),
            node: Some(node),
        }
    }

    /// Whoever answers at `address`.
    #[must_use]
    pub fn anyone_at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            node: None,
        }
    }
}

/// What the node keeps about peers and stores, its own and theirs. Called in handshakes; must not
/// block.
pub trait PeerObserver: Send + Sync {
    /// A peer of this cluster said that it is `node` and listens at `address`, whether or not it was
    /// the node that was wanted.
    fn met(&self, node: NodeId, address: &str);
    /// The highest that is known, durably, of a peer's store.
    fn knowledge(&self, store: StoreId) -> Option<StoreStamp>;
    /// A peer showed these stamps and none was behind what was known: remember them.
    fn learned(&self, node: NodeId, stores: &[StoreStamp]);
    /// A peer told what it knows of *our* stores; each store judges itself by it. Stores that the
    /// peer never met are left out.
    fn judged(&self, by: NodeId, known: &[StoreStamp]);
}
