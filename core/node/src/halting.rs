//! Which errors of a node mean which reason to halt.
//!
//! Invariants: pure; *disk failed* is said of failed disk calls alone, and of what follows from
//! them. Does not: halt.

use hedgerow_disk::StoreError;
use hedgerow_disk::superblock::SuperblockError;
use hedgerow_env::{DiskError, HaltReason};
use hedgerow_hblock::{HBlockError, StoreFault};
use hedgerow_pages::StateError;
use hedgerow_pages::raft::HostError;

use crate::node::NodeError;
use crate::roles::RolesError;

/// Whether the device failed the call; a full disk, a lock and a missing file are no failures of it.
fn is_failure(error: &DiskError) -> bool {
    matches!(error, DiskError::Device { .. })
}

fn superblock_failed(error: &SuperblockError) -> bool {
    match error {
        // Updates stop after a failed call only.
        SuperblockError::Stopped => true,
        SuperblockError::Disk(error) => is_failure(error),
        SuperblockError::BothDamaged { .. }
        | SuperblockError::TooNew { .. }
        | SuperblockError::TooLarge { .. } => false,
    }
}

fn named(disk_failed: bool, text: String) -> HaltReason {
    if disk_failed {
        HaltReason::DiskFailed(text)
    } else {
        HaltReason::CannotServe(text)
    }
}

/// The reason when a superblock's update failed.
pub(crate) fn of_superblock(error: &SuperblockError) -> HaltReason {
    named(superblock_failed(error), error.to_string())
}

/// The reason when a role could not start.
pub(crate) fn of_roles(error: &RolesError) -> HaltReason {
    let disk_failed = match error {
        RolesError::Superblock(error) => superblock_failed(error),
        RolesError::Pages(HostError::Disk(error)) => is_failure(error),
        RolesError::Pages(HostError::State(state)) => matches!(state, StateError::Stopped(_)),
        RolesError::HBlock(HBlockError::Store { fault, .. }) => {
            matches!(fault, StoreFault::Stopped { .. })
        }
        RolesError::Pages(_) | RolesError::HBlock(_) | RolesError::Iscsi(_) => false,
    };
    named(disk_failed, error.to_string())
}

/// The reason when a node did not start.
pub(crate) fn of_start(error: &NodeError) -> HaltReason {
    let text = error.to_string();
    match error {
        NodeError::RolledBack(_) => HaltReason::RolledBack(text),
        NodeError::Roles(error) => of_roles(error),
        NodeError::Store(error) => named(store_failed(error), text),
        NodeError::Configuration(_) | NodeError::Rpc(_) => HaltReason::CannotServe(text),
    }
}

fn store_failed(error: &StoreError) -> bool {
    match error {
        StoreError::Superblock(error) => superblock_failed(error),
        StoreError::Disk(error) => is_failure(error),
        // A journal that stops while it is opened was failed by its disk.
        StoreError::Stopped(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_env::StoreId;

    use super::*;

    fn device() -> DiskError {
        DiskError::Device {
            path: "pool/superblock".into(),
            operation: "sync",
            reason: "input/output error".into(),
        }
    }

    fn is_disk(reason: &HaltReason) -> bool {
        matches!(reason, HaltReason::DiskFailed(_))
    }

    #[test]
    fn a_failed_call_of_a_disk_is_named_so_wherever_it_surfaces() {
        for error in [
            RolesError::Superblock(SuperblockError::Disk(device())),
            RolesError::Superblock(SuperblockError::Stopped),
            RolesError::Pages(HostError::Disk(device())),
            RolesError::Pages(HostError::State(StateError::Stopped("sync".into()))),
            RolesError::HBlock(HBlockError::Store {
                store: StoreId(1),
                fault: StoreFault::Stopped {
                    reason: "sync".into(),
                },
            }),
        ] {
            assert!(is_disk(&of_roles(&error)), "{error}");
            let error = NodeError::Roles(error);
            assert!(is_disk(&of_start(&error)), "{error}");
        }
        let error = NodeError::Store(StoreError::Disk(device()));
        assert!(is_disk(&of_start(&error)));
    }

    #[test]
    fn nothing_else_hides_behind_the_disk() {
        let full = || DiskError::NoSpace {
            path: "pool".into(),
        };
        for error in [
            RolesError::Iscsi("address in use".into()),
            RolesError::Superblock(SuperblockError::TooLarge { bytes: 1 << 20 }),
            RolesError::Superblock(SuperblockError::Disk(full())),
            RolesError::Pages(HostError::Disk(full())),
            RolesError::Pages(HostError::Raft("no runtime".into())),
            RolesError::Pages(HostError::State(StateError::Damaged("page 7".into()))),
        ] {
            let reason = of_roles(&error);
            assert!(matches!(reason, HaltReason::CannotServe(_)), "{reason}");
        }
        let error = NodeError::RolledBack("pool-0".into());
        assert!(matches!(of_start(&error), HaltReason::RolledBack(_)));
        let error = NodeError::Configuration(crate::config_check::ConfigError {
            key: "name",
            entry: 0,
            problem: "too long".into(),
        });
        assert!(matches!(of_start(&error), HaltReason::CannotServe(_)));
    }
}
