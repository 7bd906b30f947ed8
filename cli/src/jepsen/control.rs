//! The tester's end of a node's control folder: writes orders, reads reports.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hedgerow_jepsen::run::Struck;

use super::orders::{ORDERS_FILE, Orders, REPORT_FILE, Report};

/// The control folder of one node.
pub(super) struct Control {
    folder: PathBuf,
    /// The present orders, and what the node had reported when they were given.
    state: Mutex<(Orders, Report)>,
}

impl Control {
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            state: Mutex::default(),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Changes the orders.
    #[expect(
        clippy::disallowed_methods,
        reason = "the tester's side door is no seam of the node"
    )]
    pub(super) fn order(&self, change: impl FnOnce(&mut Orders)) -> anyhow::Result<()> {
        let report = self.report();
        let mut state = self.state.lock().expect("no panic under this lock");
        let serial = state.0.serial + 1;
        change(&mut state.0);
        state.0.serial = serial;
        state.1 = report.unwrap_or_default();
        let new = self.folder.join("orders.new");
        std::fs::write(&new, serde_json::to_vec(&state.0)?)?;
        std::fs::rename(new, self.folder.join(ORDERS_FILE))?;
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the tester's side door is no seam of the node"
    )]
    fn report(&self) -> Option<Report> {
        let text = std::fs::read(self.folder.join(REPORT_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The report, if the node obeys the present orders; with the report when they were given.
    fn obeyed(&self) -> Option<(Orders, Report, Report)> {
        let (orders, before) = *self.state.lock().expect("no panic under this lock");
        let report = self.report()?;
        (report.serial == orders.serial).then_some((orders, before, report))
    }

    /// Whether the node saw another time than the machine.
    pub(super) fn clock_struck(&self) -> Struck {
        let Some((_, before, report)) = self.obeyed() else {
            return Struck::No("the node did not take the order".to_owned());
        };
        let changes = report.clock_changes.saturating_sub(before.clock_changes);
        let text = format!("its clock was changed {changes} times");
        if changes > 0 {
            Struck::Yes(text)
        } else {
            Struck::No(text)
        }
    }

    /// Whether a write was refused.
    pub(super) fn full_struck(&self) -> Struck {
        let Some((_, before, report)) = self.obeyed() else {
            return Struck::No("the node did not take the order".to_owned());
        };
        let refused = report.refused_writes.saturating_sub(before.refused_writes);
        let text = format!("{refused} writes were refused");
        if refused > 0 {
            Struck::Yes(text)
        } else {
            Struck::No(text)
        }
    }

    /// What was not synced when the node last told.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.report().map_or(0, |report| report.unsynced_bytes)
    }

    /// The unsynced bytes that the node lost when it obeyed and died.
    pub(super) fn lost_bytes(&self) -> Option<u64> {
        let (orders, _, report) = self.obeyed()?;
        orders.lose_unsynced.then_some(report.lost_bytes)
    }
}
