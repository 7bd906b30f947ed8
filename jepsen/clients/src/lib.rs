//! The clients of Hedgerow's own tests, and what a test asks of a cluster before it begins.
//!
//! Invariants: everything outside enters through `Env`, so the same clients work on processes and
//! in the simulator; an answer that was not seen is of unknown outcome.
//!
//! Does not: start or hurt nodes (targets do), or judge (`hedgerow-jepsen` does).

mod disks;
mod formation;
mod iscsi;
mod operator;

use std::sync::Arc;

use hedgerow_env::Env;
use hedgerow_iscsi::target_name;
use hedgerow_jepsen::run::workload::WorkloadPlan;
use hedgerow_jepsen::run::{Client, Incident, TargetError};
use hedgerow_net::Rpc;

use disks::{DiskClient, DiskClients};
use formation::Formation;
pub use operator::Operator;

use iscsi::{BlockClient, BlockClients, Portals, WrongAnswers};

/// The disk of the workload `block`.
pub const DISK: &str = "jepsen";

/// Copies of each block, where there are nodes for them.
const REPLICATION_FACTOR: u16 = 3;

/// Where a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// Its RPC address.
    pub rpc: String,
    /// Its iSCSI portal.
    pub portal: String,
}

/// Makes the clients of a test.
pub enum Clients {
    /// Of the workload `block`.
    Block(BlockClients),
    /// Of the workload `disk-lifecycle`.
    Disks(DiskClients),
}

impl Clients {
    /// Waits until the nodes at `ends` are one cluster and prepares it for `workload`. The last
    /// `spares` of them are not there yet.
    ///
    /// # Errors
    /// The cluster did not form, or the workload is none of its own.
    pub async fn prepare(
        env: &Env,
        rpc: &Rpc,
        (ends, spares): (&[Ends], u16),
        workload: &WorkloadPlan,
    ) -> Result<Self, TargetError> {
        let all = u16::try_from(ends.len()).expect("a test has few nodes");
        let nodes = all.saturating_sub(spares);
        let replication_factor = u8::try_from(nodes.min(REPLICATION_FACTOR)).expect("few copies");
        let Some(first) = ends.first() else {
            return Err(TargetError("a cluster has a node".to_owned()));
        };
        let formation = Formation {
            env,
            rpc,
            address: &first.rpc,
        };
        formation.wait(nodes).await?;
        match workload {
            WorkloadPlan::Block(block) => {
                formation
                    .create_disk(DISK, block, replication_factor)
                    .await?;
                let portals = ends.iter().map(|end| end.portal.clone()).collect();
                Ok(Self::Block(BlockClients {
                    env: env.clone(),
                    portals: Portals::new(portals),
                    target_name: Arc::from(target_name(DISK).expect("a plain name")),
                    block_size: block.block_size,
                    plan: Arc::new(block.clone()),
                    wrong_answers: WrongAnswers::default(),
                }))
            }
            WorkloadPlan::DiskLifecycle(_) => Ok(Self::Disks(DiskClients {
                env: env.clone(),
                rpc: rpc.clone(),
                addresses: ends.iter().map(|end| end.rpc.clone()).collect(),
                replication_factor,
            })),
            WorkloadPlan::CasRegister(_) => Err(TargetError(
                "the cluster has no registers: use --workload block or disk-lifecycle".to_owned(),
            )),
        }
    }

    /// Answers that clients got and must not get, whatever strikes: defects.
    #[must_use]
    pub fn wrong_answers(&self) -> Vec<Incident> {
        let known = match self {
            Self::Block(shared) => shared.wrong_answers.known(),
            Self::Disks(_) => Vec::new(),
        };
        let incident = |text| Incident {
            node: "iscsi".to_owned(),
            text,
            defect: true,
        };
        known.into_iter().map(incident).collect()
    }

    /// The number of the node whose portal most clients use, if they use one.
    #[must_use]
    pub fn used_node(&self) -> Option<u16> {
        match self {
            Self::Block(shared) => u16::try_from(shared.portals.chosen()).ok(),
            Self::Disks(_) => None,
        }
    }

    /// A new client for `process`.
    #[must_use]
    pub fn client(&self, process: u64) -> Box<dyn Client> {
        match self {
            Self::Block(shared) => Box::new(BlockClient::new(shared.clone(), process)),
            Self::Disks(shared) => Box::new(DiskClient::new(shared.clone(), process)),
        }
    }
}
