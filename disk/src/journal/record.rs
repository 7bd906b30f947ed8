//! What the journal stores and what its calls answer: records, positions, receipts, errors.

use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::oneshot;

/// A place in the journal's endless address space, in bytes. Positions of one store only grow, over
/// all its starts; a record's position is its first byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "@{}", self.0)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Whose records these are: a Raft group's log, HBlock's control records, ...
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamTag {
    /// The owner's kind; see the constants.
    pub kind: u32,
    /// Which of that kind, for example the Raft group.
    pub id: u64,
}

impl StreamTag {
    /// The journal's own records (copies of record headers).
    pub(crate) const JOURNAL: Self = Self::new(0, 0);
    /// Blobs and their deletions: the extent store's.
    pub const BLOBS: Self = Self::new(1, 0);
    /// HBlock's control records.
    pub const HBLOCK: Self = Self::new(2, 0);
    /// The kind of Raft logs; the id is the group.
    pub const RAFT_KIND: u32 = 3;

    /// Joins the parts.
    #[must_use]
    pub const fn new(kind: u32, id: u64) -> Self {
        Self { kind, id }
    }

    /// The log of one Raft group.
    #[must_use]
    pub fn raft(group: hedgerow_env::GroupId) -> Self {
        Self::new(Self::RAFT_KIND, u64::from(group.0))
    }
}

impl fmt::Debug for StreamTag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.kind, self.id)
    }
}

/// Which room a record may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Raft and control records: they may use the reserve.
    Control,
    /// Blob data: refused first when the journal fills.
    Data,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub stream: StreamTag,
    /// The owner's number for what it is.
    pub kind: u8,
    /// The owner's header. Its first [`HEADER_COPY_BYTES`](crate::journal::HEADER_COPY_BYTES) bytes
    /// are kept a second time, apart from the record: put there what identifies it (Raft: group,
    /// term, index, checksum).
    pub header: Bytes,
    /// The rest.
    pub payload: Bytes,
}

impl Record {
    /// A record without a header.
    #[must_use]
    pub fn new(stream: StreamTag, kind: u8, payload: Bytes) -> Self {
        Self {
            stream,
            kind,
            header: Bytes::new(),
            payload,
        }
    }
}

/// A record found when the journal was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredRecord {
    /// Where it lies; release it once it is superseded.
    pub position: Position,
    /// The record; the payload of data records stays on disk (`Journal::read`).
    pub record: Record,
    /// Which room it uses.
    pub class: Class,
}

/// The second copy of a record's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCopy {
    /// Where the record lies.
    pub position: Position,
    /// Whose it is.
    pub stream: StreamTag,
    /// The owner's number for what it is.
    pub kind: u8,
    /// Which room it uses.
    pub class: Class,
    /// The first bytes of the owner's header.
    pub header: Bytes,
    /// XXH3-64 of the whole header and payload.
    pub content: u64,
}

/// Bytes below the durable watermark that no longer hold what was acknowledged there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRange {
    /// The first byte.
    pub start: Position,
    /// The byte after the last.
    pub end: Position,
    /// The records lost there, as far as the second copies of their headers know.
    pub records: Vec<HeaderCopy>,
    /// Whether `records` names every record that was lost.
    pub complete: bool,
}

/// The journal no longer accepts anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("journal stopped: {reason}")]
pub struct Stopped {
    /// What stopped it.
    pub reason: String,
}

/// Why a record was not appended. Nothing of it is in the journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much is queued: wait for `Journal::ready`, then append again.
    #[error("journal queue is full")]
    Busy,
    /// Space must be freed first (flush, snapshot and purge); then try again.
    #[error("journal is full")]
    Full,
    /// The record can never fit.
    #[error("record of {bytes} bytes exceeds {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// The disk failed, or the journal was closed.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why a record could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalReadError {
    /// It was released, or never was.
    #[error("no record at {0}")]
    Missing(Position),
    /// Its bytes fail their checksum.
    #[error("record at {0} is damaged")]
    Damaged(Position),
    /// The device failed the read.
    #[error(transparent)]
    Disk(#[from] hedgerow_env::DiskError),
}

/// Live records that keep a segment from being freed. The owner appends what it still needs again
/// (votes, purge and committed marks too) and releases these positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyForward {
    /// Whose records.
    pub stream: StreamTag,
    /// Where they lie, ascending.
    pub positions: Vec<Position>,
}

/// The promise of one append.
#[derive(Debug)]
pub struct Receipt {
    pub(crate) position: Position,
    pub(crate) done: oneshot::Receiver<()>,
    pub(crate) stopped: Arc<Mutex<Option<Stopped>>>,
}

impl Receipt {
    /// Where the record lies.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Completes once the record and everything before it is durable.
    ///
    /// # Errors
    /// [`Stopped`]: whether the record is durable is unknown until the next start.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub async fn durable(self) -> Result<(), Stopped> {
        if self.done.await == Ok(()) {
            return Ok(());
        }
        let stopped = self
            .stopped
            .lock()
            .expect("nobody panics while holding the reason");
        Err(stopped.clone().unwrap_or_else(|| Stopped {
            reason: "journal was dropped".to_owned(),
        }))
    }
}
