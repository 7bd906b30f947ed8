//! Seams that lie on purpose, for tests alone: a clock that is off, and a disk that forgets and is
//! full. Only builds with the feature `testing` hold them, and only a node whose configuration has
//! the section `[test]` uses them.
//!
//! A tester writes [`Orders`] into the control folder that the section names; the node obeys within
//! [`POLL`] and writes a [`Report`] beside it, which is the evidence that the fault struck.

mod clock;
mod disk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_node::StoreScale;
use serde::Deserialize;

use crate::jepsen::orders::{ORDERS_FILE, Orders, REPORT_FILE, Report};

pub(crate) use clock::{SharedClock, TestClock};
pub(crate) use disk::{Manner, SharedDisk, TestDisk};

/// How often orders are looked for.
const POLL: Duration = Duration::from_millis(20);

/// The section `[test]` of a node's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestSection {
    /// The control folder.
    pub(crate) control: PathBuf,
    /// Keep writes in memory until they are synced, so that they can be lost.
    #[serde(default)]
    pub(crate) forgetful_disk: bool,
    /// Up to so long a forgetful disk takes for a sync.
    #[serde(default)]
    pub(crate) sync_ms: u64,
    /// Up to so long it takes for a write.
    #[serde(default)]
    pub(crate) write_ms: u64,
    /// Small stores, with the simulator's intervals of chores.
    #[serde(default)]
    pub(crate) small_stores: bool,
}

impl TestSection {
    /// How this node's disk behaves.
    pub(crate) fn manner(&self) -> Manner {
        Manner {
            forgetful: self.forgetful_disk,
            sync_ms: self.sync_ms,
            write_ms: self.write_ms,
        }
    }

    /// How large this node's files are: it is one of several on a machine that does other things
    /// too.
    pub(crate) fn scale(&self) -> StoreScale {
        if self.small_stores {
            StoreScale::Trial
        } else {
            StoreScale::Workstation
        }
    }
}

/// Obeys the orders in `control` until the process ends.
#[expect(
    clippy::disallowed_methods,
    reason = "the tester's side door is no seam of the node"
)]
pub(crate) fn obey(control: PathBuf, clock: Arc<TestClock>, disk: Arc<TestDisk>) {
    let obeying = move || {
        let mut obeyed = Orders::default();
        let mut turns = 0_u64;
        loop {
            let orders = read(&control).unwrap_or(obeyed);
            let strobe_ms = orders.strobe_ms.max(1);
            let turn_ms = turns * u64::try_from(POLL.as_millis()).expect("a short time");
            let on = orders.strobe_ms == 0 || (turn_ms / strobe_ms).is_multiple_of(2);
            let (rate, offset) = if on {
                (orders.rate_ppm, orders.wall_offset_ms)
            } else {
                (0, 0)
            };
            clock.set(rate, offset);
            disk.set_full(orders.disk_full);
            let mut report = Report {
                serial: orders.serial,
                refused_writes: disk.refused(),
                unsynced_bytes: disk.unsynced().1,
                ..clock.report()
            };
            if orders.lose_unsynced && orders.serial > obeyed.serial {
                (report.lost_files, report.lost_bytes) = disk.unsynced();
                drop(write(&control, &report));
                die();
            }
            drop(write(&control, &report));
            obeyed = orders;
            turns += 1;
            std::thread::sleep(POLL);
        }
    };
    let thread = std::thread::Builder::new().name("test-orders".into());
    let started = thread.spawn(obeying);
    drop(started.expect("the machine has room for one more thread"));
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tester's side door is no seam of the node"
)]
fn read(control: &Path) -> Option<Orders> {
    serde_json::from_slice(&std::fs::read(control.join(ORDERS_FILE)).ok()?).ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tester's side door is no seam of the node"
)]
fn write(control: &Path, report: &Report) -> std::io::Result<()> {
    let new = control.join("report.new");
    std::fs::write(&new, serde_json::to_vec(report)?)?;
    std::fs::rename(new, control.join(REPORT_FILE))
}

#[expect(unsafe_code, reason = "std cannot send a signal to its own process")]
fn die() -> ! {
    // SAFETY: plain integers; nothing runs after it.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
    std::process::abort();
}
