//! Attachments that the root may have while nobody here has them: a release or a grant of which no
//! answer was heard. One lease covers all disks of a proxy, so that such an attachment would stand,
//! and keep everybody else from the disk, for as long as the proxy holds any other disk.
//!
//! Invariants: an end is loose until the root has answered or the session has ended; nothing is released
//! that somebody here has attached meanwhile. Does not: delay a renewal, or last longer than the process.

use hedgerow_env::{VirtualDiskId, WriterId, event};
use hedgerow_protocol::{RootCommand, RootOutcome};

use crate::proxy::Proxy;

/// What the root did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LooseEnd {
    /// A grant: whose writer it would be is not known.
    Grant,
    /// The release of this writer.
    Release(WriterId),
}

impl Proxy {
    /// Asks the root again for what it did not answer.
    pub(crate) async fn tie_loose_ends(&self) {
        for (disk, end) in self.loose_ends() {
            if self.tie(disk, end).await {
                self.tied(disk, end);
            }
        }
    }

    /// Whether nothing of it is left at the root.
    async fn tie(&self, disk: VirtualDiskId, end: LooseEnd) -> bool {
        let writer = match end {
            LooseEnd::Release(writer) => writer,
            LooseEnd::Grant => {
                // A grant of this session takes the place of the one in doubt. Whoever attaches the
                // disk here meanwhile waits, and has one of his own then.
                let lasting = self.lasting(disk);
                let _one = lasting.attaching.lock().await;
                if self.attachment_of(disk).is_some() || !self.is_loose(disk, end) {
                    return true;
                }
                match self.grant(disk).await {
                    Ok(RootOutcome::Granted(grant)) => grant.writer,
                    Ok(_) => return true,
                    Err(_) => return false,
                }
            }
        };
        let released = self.root(RootCommand::Detach { disk, writer }).await;
        if let Err(error) = &released {
            event!(
                self.env(),
                Warn,
                "proxy",
                "{disk}: not released yet: {error}"
            );
        }
        released.is_ok()
    }
}
