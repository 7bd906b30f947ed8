//! A disk's new size, and the clearing of what was cut off.
//!
//! Invariants: a repeated request is answered as the first one was, and begins no second clearing here
//! beside one that is under way; clearing takes as long as it takes, and no answer waits for it
//! longer than [`ANSWER_LIMIT`]; nothing is cleared of another disk that has come to the same name.
//! Does not: remember what it was clearing when the node stops. The root does (its *cut*): whoever
//! asks for the same size again goes on.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{Generation, VirtualDiskId};
use hedgerow_protocol::{AdminReply, DiskRecord, RootCommand, RootOutcome, RootRefusal};
use hedgerow_proxy::{AttachError, OperationTag, Proxy, VirtualDisk};
use tokio::sync::oneshot;

use crate::admin::{AdminError, AdminService, unexpected, view};

/// An answer comes within this time, be it that the work goes on: an operator hears soon when the
/// node is gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// Pause between looks at what another request began.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long a disk that was made smaller is waited for.
const ATTACH_LIMIT: Duration = Duration::from_secs(8);
/// Pause between attempts to attach it.
const ATTACH_PAUSE: Duration = Duration::from_millis(250);

/// The disks that are being cleared by this node.
#[derive(Debug, Default, Clone)]
pub(crate) struct Clearing(Arc<Mutex<BTreeSet<VirtualDiskId>>>);

/// One of them, until this is dropped.
struct Claim {
    of: Clearing,
    disk: VirtualDiskId,
}

impl Clearing {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeSet<VirtualDiskId>) -> T) -> T {
        act(&mut self.0.lock().expect("no panic under this lock"))
    }

    /// Nothing while somebody else has it.
    fn claim(&self, disk: VirtualDiskId) -> Option<Claim> {
        let is_first = self.with(|disks| disks.insert(disk));
        // Made only then: a claim that is dropped ends what it claims.
        is_first.then(|| Claim {
            of: self.clone(),
            disk,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let was_there = self.of.with(|disks| disks.remove(&self.disk));
        assert!(was_there, "a claim stands until it is dropped");
    }
}

impl AdminService {
    /// Gives a disk that is as the requester saw it (size and generation) its new size.
    pub(crate) async fn resize(
        self: &Arc<Self>,
        disk: VirtualDiskId,
        (from_bytes, generation): (u64, Generation),
        size_bytes: u64,
    ) -> Result<AdminReply, AdminError> {
        if size_bytes < from_bytes && self.proxy.is_none() {
            return Err(AdminError::Refused(
                "to shrink a disk, ask a node with the role proxy".into(),
            ));
        }
        let answer_by = self.env.now() + ANSWER_LIMIT;
        loop {
            let command = RootCommand::Resize {
                disk,
                from_bytes,
                generation,
                size_bytes,
            };
            let (record, end) = match self.command(command).await? {
                RootOutcome::Resized {
                    disk,
                    cut_from_bytes: Some(end),
                } => (disk, end),
                RootOutcome::Resized { disk, .. } => {
                    return Ok(AdminReply::Disk(view(disk, &self.exports().await)));
                }
                RootOutcome::Refused(refusal) => return Err(refused(refusal)),
                other => return Err(unexpected(&other)),
            };
            let left = answer_by.since(self.env.now());
            if let Some(claim) = self.clearing.claim(disk) {
                let cleared = self.clear_in_background(record, end, claim);
                return match self.env.timeout(left, cleared).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err(AdminError::TryAgain("the node is stopping".into())),
                    Err(_) => Ok(still_clearing()),
                };
            }
            if left <= LOOK_PAUSE {
                return Ok(still_clearing());
            }
            self.env.sleep(LOOK_PAUSE).await;
        }
    }

    /// In a task of its own: it goes on when nobody waits for it any more.
    fn clear_in_background(
        self: &Arc<Self>,
        record: DiskRecord,
        end: u64,
        claim: Claim,
    ) -> oneshot::Receiver<Result<AdminReply, AdminError>> {
        let (answer, answered) = oneshot::channel();
        let this = Arc::clone(self);
        self.env.spawn("clear-disk", async move {
            let result = this.clear(&record, end).await;
            drop(claim);
            // Whoever went away asks the root again, which knows.
            answer.send(result).ok();
        });
        answered
    }

    /// Zeroes what lies beyond the end of a disk that was made smaller: it is not to be seen again
    /// should the disk grow. Nobody can write there any more. What is interrupted goes on when the
    /// same size is asked for again.
    async fn clear(&self, record: &DiskRecord, end: u64) -> Result<AdminReply, AdminError> {
        let Some(proxy) = &self.proxy else {
            return Err(AdminError::TryAgain(
                "the disk is smaller now, and what was cut off is still to be cleared: repeat this \
                 at a node with the role proxy"
                    .into(),
            ));
        };
        let disk = self.attach(proxy, &record.name).await?;
        let result = if disk.record().disk == record.disk {
            self.clear_attached(&disk, end).await
        } else {
            Err(AdminError::TryAgain(format!(
                "another disk is called {:?} now: look with `hedgerow disk show`",
                record.name
            )))
        };
        let exported = self.catalog.as_ref();
        if !exported.is_some_and(|catalog| catalog.uses(&disk))
            && let Err(error) = proxy.detach(&disk).await
        {
            return Err(AdminError::TryAgain(format!("{error}; repeat this")));
        }
        result
    }

    async fn clear_attached(&self, disk: &VirtualDisk, end: u64) -> Result<AdminReply, AdminError> {
        let tag = OperationTag(disk.writer().0 | 1 << 63);
        // From the end as it was when it was attached: another may have made it smaller still.
        let cleared = disk.clear(disk.record().size_bytes..end, tag).await;
        if let Err(error) = cleared {
            return Err(AdminError::TryAgain(format!("{error}; repeat this")));
        }
        let done = RootCommand::CutDone {
            disk: disk.record().disk,
            generation: disk.record().generation,
            end_bytes: end,
        };
        match self.disk_command(done).await {
            // The disk has its new size all the same.
            Err(AdminError::Refused(text)) => {
                Err(AdminError::TryAgain(format!("{text}; repeat this")))
            }
            other => other,
        }
    }

    /// Attaches a disk that was just made smaller: its shards hear of that within a second or two.
    async fn attach(&self, proxy: &Proxy, name: &str) -> Result<VirtualDisk, AdminError> {
        let give_up = self.env.now() + ATTACH_LIMIT;
        loop {
            let error = match proxy.attach(name).await {
                Ok(disk) => return Ok(disk),
                Err(error) => error,
            };
            if !matches!(error, AttachError::TryAgain(_)) || self.env.now() >= give_up {
                return Err(AdminError::TryAgain(format!(
                    "the disk is smaller now, and what was cut off is still to be cleared: {error}; \
                     repeat this"
                )));
            }
            self.env.sleep(ATTACH_PAUSE).await;
        }
    }
}

fn still_clearing() -> AdminReply {
    AdminReply::Working("the disk is smaller now; what was cut off is being cleared".into())
}

/// What a refusal of the root tells an operator.
fn refused(refusal: RootRefusal) -> AdminError {
    match refusal {
        RootRefusal::Held { .. } => AdminError::Refused(
            "the disk is in use: stop its initiators before it is made smaller".into(),
        ),
        // An answer that was lost may have been another: the command could have been applied
        // before others changed the disk. So it is not tried again here, and not called refused.
        RootRefusal::Changed { .. } | RootRefusal::NoSuchDisk { .. } => AdminError::TryAgain(
            "the disk was attached, released, resized or deleted at the same time: look with \
             `hedgerow disk show`, and repeat this if it is still to be done"
                .into(),
        ),
        refusal => AdminError::Refused(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_cleared_by_one_at_a_time() {
        let clearing = Clearing::default();
        let first = clearing.claim(VirtualDiskId(7));
        assert!(first.is_some());
        assert!(clearing.claim(VirtualDiskId(7)).is_none());
        assert!(clearing.claim(VirtualDiskId(8)).is_some());
        drop(first);
        assert!(clearing.claim(VirtualDiskId(7)).is_some());
    }

    #[test]
    fn only_what_certainly_changed_nothing_is_called_refused() {
        let changed = RootRefusal::Changed {
            size_bytes: 1,
            generation: Generation(2),
        };
        assert!(matches!(refused(changed), AdminError::TryAgain(text) if text.contains("repeat")));
        let cutting = RootRefusal::Cutting { size_bytes: 1 };
        assert!(matches!(refused(cutting), AdminError::Refused(_)));
    }
}
