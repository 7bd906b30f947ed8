//! What a damaged log needs beside openraft's storage: marks and notes written again, lost entries
//! filled in, and entries handed out by name.
//!
//! Invariants: what is written here keeps the sequence that it had, and says that it is a copy; a
//! note of a loss is given up only when the entry is durable again.
//! Does not: ask peers (`heal` does), or judge (`recovery` does).

use std::io;

use bytes::Bytes;
use hedgerow_protocol::LogEntryName;

use super::log::{Log, READ_ATTEMPTS};
use super::log_core::Placed;
use super::log_record::{Body, LostEntry};
use super::recovery::Rewrite;
use super::types::{Entry, LogId};

impl Log {
    /// Writes what recovery found to be needed, and notes of the entries that are lost: the second
    /// copies of their headers may be gone at the next start.
    pub(crate) async fn settle(&self, rewrites: Vec<Rewrite>) -> io::Result<()> {
        let mut last = None;
        for rewrite in rewrites {
            let Rewrite {
                sequence,
                body,
                copied,
            } = rewrite;
            let record = body.record_as(self.group, self.replica, sequence, copied);
            let append = || {
                let mut core = self.core();
                let receipt = self.journal.append(record.clone())?;
                core.rewritten(sequence, receipt.position());
                Ok(receipt)
            };
            last = Some(self.when_room(append).await?);
        }
        match last {
            Some(receipt) => receipt.durable().await.map_err(io::Error::other),
            None => Ok(()),
        }
    }

    /// The entries that are lost.
    pub(crate) fn lost(&self) -> Vec<LostEntry> {
        self.core().lost()
    }

    /// Gives lost entries back; durable on return.
    pub(crate) async fn fill(&self, entries: Vec<(LostEntry, Entry)>) -> io::Result<()> {
        let mut notes = Vec::new();
        let mut last = None;
        for (lost, entry) in entries {
            let body = Body::Entry(entry.clone());
            let record = body.record_as(self.group, self.replica, lost.sequence, true);
            let append = || {
                let mut core = self.core();
                let receipt = self.journal.append(record.clone())?;
                let placed = Placed {
                    sequence: lost.sequence,
                    position: receipt.position(),
                };
                let note = core.fill(entry.clone(), placed, record.payload.len());
                Ok((note.unwrap_or(placed.position), receipt))
            };
            let (superseded, receipt) = self.when_room(append).await?;
            notes.push(superseded);
            last = Some(receipt);
        }
        if let Some(receipt) = last {
            receipt.durable().await.map_err(io::Error::other)?;
        }
        self.journal.release_all(notes);
        Ok(())
    }

    /// The payload of the entry that `wanted` names, if this log holds it.
    pub(crate) async fn payload(&self, wanted: &LogEntryName) -> Option<Bytes> {
        let log_id = LogId::new(wanted.term.into(), wanted.index);
        for _ in 0..READ_ATTEMPTS {
            let found = self.core().find(log_id)?;
            // An entry that cannot be read is not held: another peer may have it.
            let read = self.fetch(vec![found]).await.ok()?;
            let Some(entry) = read.and_then(|mut entries| entries.pop()) else {
                continue;
            };
            let (payload, checksum) = Body::entry_payload(&entry);
            return (checksum == wanted.checksum).then_some(payload);
        }
        None
    }
}
