//! Messages, services and the outcomes of calls.
//!
//! Invariant: [`CallError::Unreachable`] means that no byte of the request was handed to the
//! network; everything that could have run is [`CallError::Unknown`].

use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, ClusterId, Instant, NetworkError, NodeId, TenantId};

use crate::{Identity, RoleSet};

/// The number of a service; `core/protocol` hands them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceId(pub u16);

impl std::fmt::Display for ServiceId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "service {}", self.0)
    }
}

/// One request or response: an encoded head and bulk bytes, both opaque here.
///
/// What a receiver gets are slices of the buffer that was read. Whoever keeps a small slice for
/// long copies it, else it holds the whole buffer (up to 64 KiB).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The encoded message.
    pub head: Bytes,
    /// Bulk bytes, never copied when sent.
    pub payload: Bytes,
}

impl Message {
    /// A message of both parts.
    #[must_use]
    pub fn new(head: impl Into<Bytes>, payload: impl Into<Bytes>) -> Self {
        Self {
            head: head.into(),
            payload: payload.into(),
        }
    }

    /// Bytes of both parts.
    #[must_use]
    pub fn length(&self) -> u64 {
        u64::try_from(self.head.len()).expect("usize fits 64 bits")
            + u64::try_from(self.payload.len()).expect("usize fits 64 bits")
    }
}

/// Who calls, as proven by the handshake, and on whose behalf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The caller's cluster; `None` for a blank node.
    pub cluster: Option<ClusterId>,
    /// The calling node.
    pub node: NodeId,
    /// Its roles.
    pub roles: RoleSet,
    /// Its advertised RPC address.
    pub address: String,
    /// The tenant on whose behalf it calls.
    pub tenant: TenantId,
    /// The quality-of-service class of the call.
    pub class: u8,
}

impl Caller {
    /// The process `identity`, on its operator's own behalf.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self {
            cluster: identity.cluster,
            node: identity.node,
            roles: identity.roles,
            address: identity.address.clone(),
            tenant: TenantId(0),
            class: 0,
        }
    }
}

/// One service of a node.
pub trait Service: Send + Sync {
    /// Answers one request. The future is *dropped* at any suspension when `deadline` passes, the
    /// caller cancels or the connection ends: work that must finish is spawned by the service.
    /// The same request may arrive twice, also at the same time.
    fn call(
        &self,
        caller: Caller,
        request: Message,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>>;

    /// Whether callers that belong to no cluster (blank nodes, tools) may use it. Bootstrap
    /// services say yes.
    fn open_to_blank(&self) -> bool {
        false
    }
}

/// Why a request was not served. Numbers are part of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalCode {
    /// Too much to do: try again later or elsewhere.
    Overloaded,
    /// Nobody serves that here: look up where, then go there.
    NotHere,
    /// The request does not decode or contradicts itself: do not repeat it.
    Malformed,
    /// The service failed; whether it had an effect is unknown.
    Internal,
    /// Larger than the receiver takes.
    TooLarge,
    /// The caller belongs to no cluster and the service is for members.
    NotMember,
    /// The node is stopping: go elsewhere.
    Stopping,
    /// The frame arrived damaged.
    Damaged,
    /// A code of a newer version.
    Other(u16),
}

impl RefusalCode {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Overloaded => 1,
            Self::NotHere => 2,
            Self::Malformed => 3,
            Self::Internal => 4,
            Self::TooLarge => 5,
            Self::NotMember => 6,
            Self::Stopping => 7,
            Self::Damaged => 8,
            Self::Other(number) => number,
        }
    }

    /// The code of a number on the wire.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Overloaded,
            2 => Self::NotHere,
            3 => Self::Malformed,
            4 => Self::Internal,
            5 => Self::TooLarge,
            6 => Self::NotMember,
            7 => Self::Stopping,
            8 => Self::Damaged,
            other => Self::Other(other),
        }
    }
}

/// A refused request. It says that *this copy* was refused: where the network doubles frames,
/// another copy may have run, so a refusal too is no proof that nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused ({code:?}): {text}")]
pub struct Refusal {
    /// What the caller should do.
    pub code: RefusalCode,
    /// For people; cut at [`Refusal::MAXIMUM_TEXT_BYTES`] on the wire.
    pub text: String,
}

impl Refusal {
    /// Enough for a sentence with its numbers.
    pub const MAXIMUM_TEXT_BYTES: usize = 1024;

    /// A refusal.
    #[must_use]
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// How a call ended without a response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Definitely not sent: try again later or elsewhere.
    #[error("{address}: unreachable: {reason}")]
    Unreachable {
        /// Where it should have gone.
        address: String,
        /// Why it did not.
        reason: String,
    },
    /// Sent, and no answer seen: it may have run, be running, or never run.
    #[error("{address}: outcome unknown: {reason}")]
    Unknown {
        /// Where it went.
        address: String,
        /// Why no answer was seen.
        reason: String,
    },
    /// The peer refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not sent: another cluster or another node answers at that address. Look the address up.
    #[error("{address}: {reason}")]
    Foreign {
        /// The address.
        address: String,
        /// The node that answers there.
        node: NodeId,
        /// Its cluster.
        cluster: Option<ClusterId>,
        /// What does not fit.
        reason: String,
    },
    /// Request or response is larger than one side takes: cut it into smaller ones.
    #[error("message larger than the limit of {limit} bytes")]
    TooLarge {
        /// Head and payload together, in bytes.
        limit: u64,
    },
}

/// Which connection a call takes. Calls of one lane never wait behind bulk bytes of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Lane {
    /// Reads, writes, everything with a payload.
    #[default]
    Data,
    /// Small and urgent: Raft votes and heartbeats, lease renewals.
    Control,
}

/// Everything about a call but its destination and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallOptions {
    /// From now until the outcome is unknown; sent along, so that the server stops in time.
    pub timeout: Duration,
    /// Which connection.
    pub lane: Lane,
    /// On whose behalf.
    pub tenant: TenantId,
    /// The quality-of-service class.
    pub class: u8,
}

impl CallOptions {
    /// The operator's own call on the data lane.
    #[must_use]
    pub const fn within(timeout: Duration) -> Self {
        Self {
            timeout,
            lane: Lane::Data,
            tenant: TenantId(0),
            class: 0,
        }
    }

    /// The operator's own call on the control lane.
    #[must_use]
    pub const fn urgent(timeout: Duration) -> Self {
        Self {
            timeout,
            lane: Lane::Control,
            tenant: TenantId(0),
            class: 0,
        }
    }
}

/// Why RPC could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The address cannot be listened at.
    #[error("cannot listen: {0}")]
    Listen(#[from] NetworkError),
    /// A limit in the configuration contradicts another.
    #[error("rpc configuration: {0}")]
    Configuration(String),
    /// The identity does not fit a handshake.
    #[error("rpc identity: {0}")]
    Identity(String),
}
