//! The records of a Raft log in the journal: kinds, headers, bodies (docs/format/raft-log.md).
//!
//! Invariants: each record of a replica has a sequence of its own, in the order in which they were
//! made; a record that is copied forward keeps it, so that recovery replays the order of making,
//! not of lying. The header is short enough to be kept a second time by the journal.
//! Does not: decide which records are live.

use bytes::{BufMut, Bytes, BytesMut};
use hedgerow_disk::journal::{Record, StreamTag};
use hedgerow_env::{GroupId, ReplicaNumber};
use hedgerow_protocol::{CodecError, decode, encode};
use xxhash_rust::xxh3::xxh3_64;

use super::types::{
    Entry, LogId, StoredEntry, StoredPurge, StoredTruncation, StoredVote, Vote, term_of,
};

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// One log entry.
    Entry,
    /// The vote.
    Vote,
    /// Entries up to here are gone: a snapshot covers them.
    Purge,
    /// Entries after here are gone: another leader's replace them.
    Truncation,
}

impl Kind {
    /// The journal's number for it.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Vote => 2,
            Self::Purge => 3,
            Self::Truncation => 4,
        }
    }

    /// The kind of that number.
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Entry),
            2 => Some(Self::Vote),
            3 => Some(Self::Purge),
            4 => Some(Self::Truncation),
            _ => None,
        }
    }
}

/// The header of a record: 40 bytes, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Which replica of the group made it.
    pub(crate) replica: ReplicaNumber,
    /// The replica's number for it.
    pub(crate) sequence: u64,
    /// Of the entry, purge or truncation; zero for others.
    pub(crate) index: u64,
    /// Of the entry, vote, purge or truncation.
    pub(crate) term: u64,
    /// XXH3-64 of the payload: the same for the same entry in every replica.
    pub(crate) checksum: u64,
}

impl Header {
    /// Bytes of an encoded header.
    pub(crate) const BYTES: usize = 40;
    const VERSION: u32 = 1;

    /// The bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::BYTES);
        bytes.put_u32_le(Self::VERSION);
        bytes.put_u32_le(self.replica.0);
        bytes.put_u64_le(self.sequence);
        bytes.put_u64_le(self.index);
        bytes.put_u64_le(self.term);
        bytes.put_u64_le(self.checksum);
        bytes.freeze()
    }

    /// The header in `bytes`, unless they are none of ours.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        let (replica, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let (term, rest) = rest.split_first_chunk::<8>()?;
        let (checksum, rest) = rest.split_first_chunk::<8>()?;
        let ours = u32::from_le_bytes(*version) == Self::VERSION && rest.is_empty();
        ours.then(|| Self {
            replica: ReplicaNumber(u32::from_le_bytes(*replica)),
            sequence: u64::from_le_bytes(*sequence),
            index: u64::from_le_bytes(*index),
            term: u64::from_le_bytes(*term),
            checksum: u64::from_le_bytes(*checksum),
        })
    }
}

/// The decoded body of a record.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// See [`Kind::Entry`].
    Entry(Entry),
    /// See [`Kind::Vote`].
    Vote(Vote),
    /// See [`Kind::Purge`].
    Purge(LogId),
    /// See [`Kind::Truncation`].
    Truncation(Option<LogId>),
}

impl Body {
    /// Which kind it is.
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Entry(_) => Kind::Entry,
            Self::Vote(_) => Kind::Vote,
            Self::Purge(_) => Kind::Purge,
            Self::Truncation(_) => Kind::Truncation,
        }
    }

    /// The body of a record of `kind`.
    pub(crate) fn decode(kind: Kind, payload: &[u8]) -> Result<Self, CodecError> {
        Ok(match kind {
            Kind::Entry => Self::Entry(decode::<StoredEntry>(payload)?.0),
            Kind::Vote => Self::Vote(decode::<StoredVote>(payload)?.0),
            Kind::Purge => Self::Purge(decode::<StoredPurge>(payload)?.0),
            Kind::Truncation => Self::Truncation(decode::<StoredTruncation>(payload)?.0),
        })
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Entry(entry) => encode(&StoredEntry(entry.clone())),
            Self::Vote(vote) => encode(&StoredVote(*vote)),
            Self::Purge(log_id) => encode(&StoredPurge(*log_id)),
            Self::Truncation(log_id) => encode(&StoredTruncation(*log_id)),
        }
    }

    /// Index and term for the header.
    fn place(&self) -> (u64, u64) {
        let of = |log_id: &LogId| (log_id.index, term_of(log_id));
        match self {
            Self::Entry(entry) => of(&entry.log_id),
            Self::Purge(log_id) => of(log_id),
            Self::Truncation(log_id) => log_id.as_ref().map_or((0, 0), of),
            Self::Vote(vote) => (0, vote.leader_id.term),
        }
    }

    /// The journal record of this body.
    pub(crate) fn record(&self, group: GroupId, replica: ReplicaNumber, sequence: u64) -> Record {
        let payload = self.payload();
        let (index, term) = self.place();
        let header = Header {
            replica,
            sequence,
            index,
            term,
            checksum: xxh3_64(&payload),
        };
        Record {
            stream: StreamTag::raft(group),
            kind: self.kind().number(),
            header: header.encode(),
            payload,
        }
    }
}
