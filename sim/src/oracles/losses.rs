//! Stores that are gone with their disks. Nothing takes the place of a lost member by itself yet: it
//! stays in placements and groups, and the others are judged without it.
//!
//! Invariant: no more stores are excused than disks were lost.

use std::collections::BTreeSet;

use hedgerow_env::StoreId;

use crate::scenario::{Cluster, Failure};

/// How many stores may be gone, and who is there.
#[derive(Debug, Clone)]
pub struct Losses {
    lost_disks: usize,
    present: BTreeSet<StoreId>,
}

impl Losses {
    /// Looks at the stores of every node that runs.
    #[must_use]
    pub fn of(cluster: &Cluster, lost_disks: usize) -> Self {
        let nodes = cluster.nodes();
        let stores = nodes.iter().flat_map(|(_, node)| node.stores());
        Self {
            lost_disks,
            present: stores.map(|store| store.id()).collect(),
        }
    }

    /// Whether `store` may be gone, and is.
    #[must_use]
    pub fn excuse(&self, store: StoreId) -> bool {
        self.lost_disks > 0 && !self.present.contains(&store)
    }

    /// Whether these stores, which are gone, are as many as disks were lost, at most.
    ///
    /// # Errors
    /// They are more.
    pub fn bear(&self, gone: &BTreeSet<StoreId>, oracle: &'static str) -> Result<(), Failure> {
        if gone.len() <= self.lost_disks {
            return Ok(());
        }
        let text = format!("{gone:?} are gone, and {} disks were lost", self.lost_disks);
        Err(Failure::correctness(oracle, text))
    }
}
