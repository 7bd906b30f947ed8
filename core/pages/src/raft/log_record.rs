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
    /// In place of an entry whose record is damaged, until a peer has given it back: its header.
    Lost,
}

impl Kind {
    /// The journal's number for it.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Vote => 2,
            Self::Purge => 3,
            Self::Truncation => 4,
            Self::Lost => 5,
        }
    }

    /// The kind of that number.
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Entry),
            2 => Some(Self::Vote),
            3 => Some(Self::Purge),
            4 => Some(Self::Truncation),
            5 => Some(Self::Lost),
            _ => None,
        }
    }
}

/// The header of a record: 40 bytes, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether it was written again elsewhere, under the sequence that it had.
    pub(crate) copied: bool,
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
    /// Set in the version's word for copies.
    const COPIED: u32 = 1 << 16;

    /// The bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::BYTES);
        let copied = if self.copied { Self::COPIED } else { 0 };
        bytes.put_u32_le(Self::VERSION | copied);
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
        let version = u32::from_le_bytes(*version);
        let ours = version & !Self::COPIED == Self::VERSION && rest.is_empty();
        ours.then(|| Self {
            copied: version & Self::COPIED != 0,
            replica: ReplicaNumber(u32::from_le_bytes(*replica)),
            sequence: u64::from_le_bytes(*sequence),
            index: u64::from_le_bytes(*index),
            term: u64::from_le_bytes(*term),
            checksum: u64::from_le_bytes(*checksum),
        })
    }
}

/// An entry whose record is damaged, by the second copy of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LostEntry {
    pub(crate) sequence: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// XXH3-64 of the payload.
    pub(crate) checksum: u64,
}

impl LostEntry {
    /// Of the entry whose header this was.
    pub(crate) fn of(header: &Header) -> Self {
        Self {
            sequence: header.sequence,
            index: header.index,
            term: header.term,
            checksum: header.checksum,
        }
    }

    /// Its log id.
    pub(crate) fn log_id(&self) -> LogId {
        LogId::new(self.term.into(), self.index)
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
    /// See [`Kind::Lost`].
    Lost(LostEntry),
}

impl Body {
    /// Which kind it is.
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Entry(_) => Kind::Entry,
            Self::Vote(_) => Kind::Vote,
            Self::Purge(_) => Kind::Purge,
            Self::Truncation(_) => Kind::Truncation,
            Self::Lost(_) => Kind::Lost,
        }
    }

    /// The body of a record of `kind` with this header.
    pub(crate) fn decode(kind: Kind, header: &Header, payload: &[u8]) -> Result<Self, CodecError> {
        Ok(match kind {
            Kind::Entry => Self::Entry(Self::decode_entry(payload)?),
            Kind::Vote => Self::Vote(decode::<StoredVote>(payload)?.0),
            Kind::Purge => Self::Purge(decode::<StoredPurge>(payload)?.0),
            Kind::Truncation => Self::Truncation(decode::<StoredTruncation>(payload)?.0),
            Kind::Lost => Self::Lost(LostEntry::of(header)),
        })
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Entry(entry) => encode(&StoredEntry(entry.clone())),
            Self::Vote(vote) => encode(&StoredVote(*vote)),
            Self::Purge(log_id) => encode(&StoredPurge(*log_id)),
            Self::Truncation(log_id) => encode(&StoredTruncation(*log_id)),
            Self::Lost(_) => Bytes::new(),
        }
    }

    /// The body of a mark whose record is damaged: its header says all that it said. `None` where
    /// that does not fit the checksum, and for records that say more than their header.
    pub(crate) fn of_header(kind: Kind, header: &Header) -> Option<Self> {
        let log_id = LogId::new(header.term.into(), header.index);
        let candidates = match kind {
            Kind::Purge => vec![Self::Purge(log_id)],
            Kind::Truncation => vec![Self::Truncation(Some(log_id)), Self::Truncation(None)],
            Kind::Lost => return Some(Self::Lost(LostEntry::of(header))),
            Kind::Entry | Kind::Vote => Vec::new(),
        };
        let fits = |body: &Self| {
            body.place() == (header.index, header.term)
                && xxh3_64(&body.payload()) == header.checksum
        };
        candidates.into_iter().find(fits)
    }

    /// The entry that `lost` names, if `payload` is it.
    pub(crate) fn refill(lost: &LostEntry, payload: &[u8]) -> Option<Entry> {
        if xxh3_64(payload) != lost.checksum {
            return None;
        }
        let entry = decode::<StoredEntry>(payload).ok()?.0;
        (entry.log_id == lost.log_id()).then_some(entry)
    }

    /// The entry that a record's payload carries.
    pub(crate) fn decode_entry(payload: &[u8]) -> Result<Entry, CodecError> {
        Ok(decode::<StoredEntry>(payload)?.0)
    }

    /// What a record of `entry` carries, and its checksum.
    pub(crate) fn entry_payload(entry: &Entry) -> (Bytes, u64) {
        let payload = encode(&StoredEntry(entry.clone()));
        let checksum = xxh3_64(&payload);
        (payload, checksum)
    }

    /// Index and term for the header.
    fn place(&self) -> (u64, u64) {
        let of = |log_id: &LogId| (log_id.index, term_of(log_id));
        match self {
            Self::Entry(entry) => of(&entry.log_id),
            Self::Purge(log_id) => of(log_id),
            Self::Truncation(log_id) => log_id.as_ref().map_or((0, 0), of),
            Self::Vote(vote) => (0, vote.leader_id.term),
            Self::Lost(lost) => (lost.index, lost.term),
        }
    }

    /// The journal record of this body, made for the first time.
    pub(crate) fn record(&self, group: GroupId, replica: ReplicaNumber, sequence: u64) -> Record {
        self.record_as(group, replica, sequence, false)
    }

    /// The journal record of this body; `copied` when one of this sequence was written before.
    pub(crate) fn record_as(
        &self,
        group: GroupId,
        replica: ReplicaNumber,
        sequence: u64,
        copied: bool,
    ) -> Record {
        let payload = self.payload();
        let (index, term) = self.place();
        let header = Header {
            copied,
            replica,
            sequence,
            index,
            term,
            checksum: match self {
                Self::Lost(lost) => lost.checksum,
                _ => xxh3_64(&payload),
            },
        };
        Record {
            stream: StreamTag::raft(group),
            kind: self.kind().number(),
            header: header.encode(),
            payload,
        }
    }
}
