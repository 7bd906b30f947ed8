//! The three messages of a handshake, as bytes (`docs/format/rpc-frame.md`).
//!
//! Invariant: decoding takes any bytes and answers a value or a [`WireError`]. Bytes after the last
//! known field are ignored, so that a later version may append.
//! Does not: decide anything; `handshake.rs` does.

use bytes::Bytes;
use hedgerow_env::{ClusterId, NodeId, StoreId};

use crate::wire::{Fields, WireError, put_text, put_u16, put_u32, put_u64};
use crate::{Identity, RoleSet, StoreStamp};

/// The oldest and newest protocol version that a process speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

/// What this code speaks.
pub const SPOKEN: VersionRange = VersionRange {
    oldest: 1,
    newest: 1,
};

/// Longest sentence in a refusal of a handshake.
const MAXIMUM_TEXT_BYTES: usize = 512;

/// What one side of a connection says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The versions that it speaks.
    pub versions: VersionRange,
    /// Who it is.
    pub identity: Identity,
    /// Drawn for this connection.
    pub nonce: u64,
    /// The largest head and payload together that it receives, in bytes.
    pub maximum_message_bytes: u64,
    /// The requests that it serves at once on this connection.
    pub served_requests: u32,
}

/// Opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The caller.
    pub from: Introduction,
    /// The node that the caller wants to reach.
    pub expected: Option<NodeId>,
}

/// Whether one side talks to the other. Numbers are part of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It does.
    Accepted = 0,
    /// The other belongs to another cluster.
    ForeignCluster = 1,
    /// Another node than expected.
    WrongNode = 2,
    /// No common protocol version.
    Version = 3,
    /// A store of the other shows less than is known of it: it was rolled back.
    StoreBehind = 4,
    /// No room for another connection, or stopping: later.
    Busy = 5,
    /// The other's message does not decode.
    Malformed = 6,
}

impl Verdict {
    fn from_number(number: u8) -> Result<Self, WireError> {
        Ok(match number {
            0 => Self::Accepted,
            1 => Self::ForeignCluster,
            2 => Self::WrongNode,
            3 => Self::Version,
            4 => Self::StoreBehind,
            5 => Self::Busy,
            6 => Self::Malformed,
            _ => return Err(WireError::Wrong { field: "verdict" }),
        })
    }
}

/// A verdict with its reason and what the judge knows of the other's stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, for people; empty when accepted.
    pub text: String,
    /// What is known of the other's stores.
    pub known: Vec<StoreStamp>,
}

/// Answers a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloReply {
    /// The nonce of the hello.
    pub answers: u64,
    /// The version that both speak from now on; 0 when refused.
    pub version: u16,
    /// What the called side thinks of the caller.
    pub judgement: Judgement,
    /// The called side.
    pub from: Introduction,
}

/// Ends the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloConfirm {
    /// What the caller thinks of the called side.
    pub judgement: Judgement,
}

impl Hello {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(256);
        put_introduction(&mut bytes, &self.from);
        bytes.push(u8::from(self.expected.is_some()));
        put_u64(&mut bytes, self.expected.unwrap_or_default().0);
        Bytes::from(bytes)
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::new(bytes);
        let from = introduction(&mut fields)?;
        let present = flag(&mut fields, "expected node")?;
        let node = NodeId(fields.u64("expected node")?);
        fields.end();
        Ok(Self {
            from,
            expected: present.then_some(node),
        })
    }
}

impl HelloReply {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(256);
        put_u64(&mut bytes, self.answers);
        put_u16(&mut bytes, self.version);
        put_judgement(&mut bytes, &self.judgement);
        put_introduction(&mut bytes, &self.from);
        Bytes::from(bytes)
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::new(bytes);
        let reply = Self {
            answers: fields.u64("answered nonce")?,
            version: fields.u16("version")?,
            judgement: judgement(&mut fields)?,
            from: introduction(&mut fields)?,
        };
        fields.end();
        Ok(reply)
    }
}

impl HelloConfirm {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(64);
        put_judgement(&mut bytes, &self.judgement);
        Bytes::from(bytes)
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::new(bytes);
        let confirm = Self {
            judgement: judgement(&mut fields)?,
        };
        fields.end();
        Ok(confirm)
    }
}

fn put_introduction(bytes: &mut Vec<u8>, from: &Introduction) {
    put_u16(bytes, from.versions.oldest);
    put_u16(bytes, from.versions.newest);
    bytes.push(u8::from(from.identity.cluster.is_some()));
    bytes.extend_from_slice(&from.identity.cluster.unwrap_or_default().0.to_le_bytes());
    put_u64(bytes, from.identity.node.0);
    bytes.push(from.identity.roles.0);
    put_u64(bytes, from.nonce);
    put_u64(bytes, from.maximum_message_bytes);
    put_u32(bytes, from.served_requests);
    put_text(
        bytes,
        &from.identity.address,
        Identity::MAXIMUM_ADDRESS_BYTES,
    );
    put_stamps(bytes, &from.identity.stores);
}

fn introduction(fields: &mut Fields<'_>) -> Result<Introduction, WireError> {
    let versions = VersionRange {
        oldest: fields.u16("versions")?,
        newest: fields.u16("versions")?,
    };
    let member = flag(fields, "cluster")?;
    let cluster = ClusterId(fields.u128("cluster")?);
    let node = NodeId(fields.u64("node")?);
    let roles = RoleSet(fields.u8("roles")?);
    let nonce = fields.u64("nonce")?;
    let maximum_message_bytes = fields.u64("largest message")?;
    let served_requests = fields.u32("served requests")?;
    if maximum_message_bytes == 0 || served_requests == 0 {
        return Err(WireError::Wrong { field: "limits" });
    }
    let address = fields.text("address", Identity::MAXIMUM_ADDRESS_BYTES)?;
    let stores = stamps(fields)?;
    let cluster = member.then_some(cluster);
    let identity = Identity {
        cluster,
        node,
        stores,
        roles,
        address,
    };
    Ok(Introduction {
        versions,
        identity,
        nonce,
        maximum_message_bytes,
        served_requests,
    })
}

fn put_judgement(bytes: &mut Vec<u8>, judgement: &Judgement) {
    bytes.push(judgement.verdict as u8);
    put_text(bytes, &judgement.text, MAXIMUM_TEXT_BYTES);
    put_stamps(bytes, &judgement.known);
}

fn judgement(fields: &mut Fields<'_>) -> Result<Judgement, WireError> {
    Ok(Judgement {
        verdict: Verdict::from_number(fields.u8("verdict")?)?,
        text: fields.text("reason", MAXIMUM_TEXT_BYTES)?,
        known: stamps(fields)?,
    })
}

fn put_stamps(bytes: &mut Vec<u8>, stamps: &[StoreStamp]) {
    assert!(
        stamps.len() <= Identity::MAXIMUM_STORES,
        "checked when the identity was set"
    );
    put_u16(
        bytes,
        u16::try_from(stamps.len()).expect("the limit fits 16 bits"),
    );
    for stamp in stamps {
        put_u64(bytes, stamp.store.0);
        put_u64(bytes, stamp.start_count);
        put_u64(bytes, stamp.start_nonce);
        put_u64(bytes, stamp.reported_durable);
    }
}

fn stamps(fields: &mut Fields<'_>) -> Result<Vec<StoreStamp>, WireError> {
    let count = usize::from(fields.u16("store count")?);
    if count > Identity::MAXIMUM_STORES {
        return Err(WireError::Wrong {
            field: "store count",
        });
    }
    let stamp = |fields: &mut Fields<'_>| {
        Ok(StoreStamp {
            store: StoreId(fields.u64("store")?),
            start_count: fields.u64("start count")?,
            start_nonce: fields.u64("start nonce")?,
            reported_durable: fields.u64("reported durable")?,
        })
    };
    (0..count).map(|_| stamp(fields)).collect()
}

fn flag(fields: &mut Fields<'_>, field: &'static str) -> Result<bool, WireError> {
    match fields.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireError::Wrong { field }),
    }
}
