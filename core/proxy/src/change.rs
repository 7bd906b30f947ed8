//! [`Change`]: a write or zeroing, under one attachment ([`VirtualDisk::write`]) or seen through
//! beyond the loss of it ([`Proxy::change`]).
//!
//! A change that was under way when its attachment was lost has an unknown outcome: its COMMIT may
//! still lie in a shard's queue. It is done anew under the next attachment, after every container is
//! fenced there, so that the first attempt has taken effect by then or never will.
//! Invariants: between two attempts nobody else changed the range, neither through this proxy
//! (claims) nor through another (generations); where that is not certain the outcome is *unknown*
//! and never an error that says "did not happen".

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::MAXIMUM_BLOB_BYTES;

use crate::claims::Sharing;
use crate::disk::{IoError, RETRY_FIRST, Shared, VirtualDisk};
use crate::lasting::{Operation, OperationTag};
use crate::pieces::{Piece, pieces};
use crate::proxy::{AttachError, Proxy};

/// How long another attachment is tried for a change whose outcome is unknown. A root that elects
/// a leader answers within it, and initiators wait for 30 s or longer.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(12);
/// Pause between these attempts.
const SUCCESSOR_PAUSE: Duration = Duration::from_millis(250);

/// The most by which the generation rises between two attachments of this proxy between which no
/// other had the disk: the end of ours (one), the new one (one), and one attempt of it whose answer
/// was lost, or a cut. Another holder in between makes four: our end, its attachment, its end, ours.
const OWN_RISES: u64 = 3;

/// What is to be done to a range of a disk.
#[derive(Debug, Clone)]
pub struct Change {
    offset: u64,
    length: u64,
    /// None: zeros.
    data: Option<Bytes>,
}

impl Change {
    /// Writes `data` at `offset`.
    ///
    /// # Panics
    /// Never: lengths fit 64 bits.
    #[must_use]
    pub fn write(offset: u64, data: Bytes) -> Self {
        Self {
            offset,
            length: u64::try_from(data.len()).expect("usize fits 64 bits"),
            data: Some(data),
        }
    }

    /// Makes `length` bytes from `offset` on read as zeros.
    #[must_use]
    pub fn zero(offset: u64, length: u64) -> Self {
        Self {
            offset,
            length,
            data: None,
        }
    }

    pub(crate) fn offset_and_length(&self) -> (u64, u64) {
        (self.offset, self.length)
    }

    /// Its bytes of the disk.
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }

    fn pieces(&self, container_bytes: u64) -> Vec<Piece> {
        let largest = match self.data {
            Some(_) => container_bytes.min(u64::from(MAXIMUM_BLOB_BYTES)),
            None => container_bytes,
        };
        pieces(self.offset, self.length, container_bytes, largest)
    }
}

/// Why a change that is seen through did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// As it says; not [`IoError::Fenced`].
    #[error(transparent)]
    Io(#[from] IoError),
    /// It was begun, and whether it took effect cannot be known here: say neither.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
}

/// The pieces' results as one: *unknown* if one is, whatever the others say; else the first error,
/// which says whether others were done.
fn together(results: Vec<Result<(), IoError>>) -> Result<(), IoError> {
    if results.contains(&Err(IoError::Fenced)) {
        return Err(IoError::Fenced);
    }
    let in_part = results.iter().any(Result::is_ok);
    let all: Result<(), IoError> = results.into_iter().collect();
    all.map_err(|error| match error {
        IoError::NoRoom { .. } => IoError::NoRoom { in_part },
        error => error,
    })
}

impl Shared {
    /// One attempt of a change. Pieces are joined, never raced: each must settle its name before
    /// the operation ends.
    pub(crate) async fn attempt(
        &self,
        change: &Change,
        operation: &Operation,
    ) -> Result<(), IoError> {
        let _under_way = self.begin();
        let cut = change.pieces(self.record.container_bytes);
        let parts = cut.iter().map(|piece| {
            let data = change.data.as_ref().map(|data| piece.slice(data));
            self.write_piece(piece, data, operation)
        });
        together(join_all(parts).await)
    }
}

impl Proxy {
    /// Does what `change` says, beginning under `disk`: durable and visible when it returns. When
    /// the attachment is lost meanwhile it is attached again, and the change done anew under it.
    /// Overlapping changes wait for each other, in the order of their calls.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn change(
        &self,
        disk: &VirtualDisk,
        change: Change,
        tag: OperationTag,
    ) -> Result<(), ChangeError> {
        disk.check(change.offset, change.length)?;
        let claim = (change.range(), Sharing::Exclusive);
        let (proxy, first) = (self.clone(), disk.clone());
        let done = disk
            .0
            .lasting
            .run(self.env(), tag, claim, |operation| async move {
                proxy.see_through(first, &change, &operation).await
            });
        done.await.unwrap_or(Err(ChangeError::OutcomeUnknown))
    }

    async fn see_through(
        &self,
        mut disk: VirtualDisk,
        change: &Change,
        operation: &Operation,
    ) -> Result<(), ChangeError> {
        match disk.0.attempt(change, operation).await {
            Err(IoError::Fenced) if active(Mutant::FencedWriteAnsweredAsFailed) => {
                return Err(IoError::Unavailable("fenced".into()).into());
            }
            Err(IoError::Fenced) => {}
            known => return Ok(known?),
        }
        loop {
            disk = self.successor(disk).await?;
            match disk.0.attempt(change, operation).await {
                Ok(()) => return Ok(()),
                Err(IoError::Fenced) => {}
                // What the attempt before has done is settled since the fence.
                Err(IoError::Cancelled) => return Err(IoError::Cancelled.into()),
                // The range has left the disk, perhaps with what the attempt before did to it.
                Err(_) => return Err(ChangeError::OutcomeUnknown),
            }
        }
    }

    /// The attachment after `lost`, once nothing that was begun under `lost` can take effect any
    /// more, provided that nobody else can have changed the disk in between.
    async fn successor(&self, mut lost: VirtualDisk) -> Result<VirtualDisk, ChangeError> {
        let give_up = self.env().now() + SUCCESSOR_LIMIT;
        let mut pause = RETRY_FIRST;
        loop {
            let left = give_up.since(self.env().now());
            let next = self.env().timeout(left, self.attach_again(&lost)).await;
            match next.map_err(|_| ChangeError::OutcomeUnknown)? {
                Ok(next) if !next.follows(&lost) => return Err(ChangeError::OutcomeUnknown),
                Ok(next) => {
                    let left = give_up.since(self.env().now());
                    let settled = self.env().timeout(left, next.settled()).await;
                    if settled.map_err(|_| ChangeError::OutcomeUnknown)?.is_ok() {
                        return Ok(next);
                    }
                    lost = next;
                }
                Err(AttachError::TryAgain(_)) => {}
                Err(AttachError::Held { .. } | AttachError::NoSuchDisk(_)) => {
                    return Err(ChangeError::OutcomeUnknown);
                }
            }
            self.env().sleep(pause).await;
            pause = (pause * 2).min(SUCCESSOR_PAUSE);
        }
    }
}

impl VirtualDisk {
    /// Whether nobody else can have had the disk between `former` and this attachment, both of
    /// the same proxy.
    fn follows(&self, former: &Self) -> bool {
        let rises = self.0.generation.0.checked_sub(former.0.generation.0);
        self.id() == former.id() && rises.is_some_and(|rises| rises <= OWN_RISES)
    }

    /// Runs a change under this attachment alone.
    pub(crate) async fn once(&self, change: Change, tag: OperationTag) -> Result<(), IoError> {
        let (offset, length) = change.offset_and_length();
        self.check(offset, length)?;
        let claim = (change.range(), Sharing::Shared);
        self.operation(tag, claim, |operation| {
            let shared = Arc::clone(&self.0);
            async move { shared.attempt(&change, &operation).await }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_several_pieces_is_unknown_when_one_of_them_is() {
        let no_room = |in_part| Err(IoError::NoRoom { in_part });
        let fenced = || Err(IoError::Fenced);
        let cancelled = || Err(IoError::Cancelled);
        for (pieces, told) in [
            (vec![Ok(()), Ok(())], Ok(())),
            (vec![no_room(false), fenced()], fenced()),
            (vec![fenced(), no_room(false)], fenced()),
            (vec![cancelled(), fenced()], fenced()),
            (vec![no_room(false), Ok(())], no_room(true)),
            (vec![no_room(false), no_room(false)], no_room(false)),
            (vec![Ok(()), cancelled()], cancelled()),
        ] {
            assert_eq!(together(pieces.clone()), told, "{pieces:?}");
        }
    }
}
