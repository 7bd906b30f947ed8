//! What has to be true before a test begins: the nodes are one cluster, and the disk is there.

use std::time::Duration;

use hedgerow_env::Env;
use hedgerow_jepsen::run::TargetError;
use hedgerow_jepsen::run::workload::BlockPlan;
use hedgerow_net::{Rpc, admin};
use hedgerow_protocol::{AdminReply, AdminRequest, NodeState, PlacementRule, Policy};

/// A cluster forms within seconds; a busy machine takes longer.
const FORM_LIMIT: Duration = Duration::from_secs(90);
/// Pause between questions to a cluster that is not ready.
const ASK_PAUSE: Duration = Duration::from_millis(250);

/// A cluster that is asked through one of its nodes.
pub(crate) struct Formation<'a> {
    pub(crate) env: &'a Env,
    pub(crate) rpc: &'a Rpc,
    pub(crate) address: &'a str,
}

impl Formation<'_> {
    /// Waits until `nodes` nodes are up and every group answers.
    pub(crate) async fn wait(&self, nodes: u16) -> Result<(), TargetError> {
        let give_up = self.env.now() + FORM_LIMIT;
        let mut last = String::new();
        while self.env.now() < give_up {
            match admin::ask(self.rpc, self.address, &AdminRequest::Status).await {
                Ok(AdminReply::Status(status)) => {
                    let states = status.nodes.iter().map(|node| node.state);
                    let up = states.filter(|state| *state == NodeState::Up).count();
                    if up == usize::from(nodes) && status.silent_groups.is_empty() {
                        return Ok(());
                    }
                    last = format!("{} nodes are listed", status.nodes.len());
                }
                Ok(other) => last = format!("{other:?}"),
                Err(error) => last = error.to_string(),
            }
            self.env.sleep(ASK_PAUSE).await;
        }
        let seconds = FORM_LIMIT.as_secs();
        Err(TargetError(format!(
            "the cluster did not form in {seconds} s: {last}"
        )))
    }

    /// Creates the disk of a workload.
    pub(crate) async fn create_disk(
        &self,
        name: &str,
        plan: &BlockPlan,
        replication_factor: u8,
    ) -> Result<(), TargetError> {
        let request = AdminRequest::CreateDisk {
            nonce: self.env.random("disk-nonce").bits(),
            name: name.into(),
            size_bytes: plan.disk_bytes,
            policy: Policy {
                replication_factor,
                placement: PlacementRule::RackAware,
                block_size: plan.block_size,
                compression: plan.compression,
                ..Policy::default()
            },
            description: "a test's disk".into(),
        };
        let failed = |why: String| Err(TargetError(format!("creating the disk: {why}")));
        let give_up = self.env.now() + FORM_LIMIT;
        loop {
            match admin::ask(self.rpc, self.address, &request).await {
                Ok(AdminReply::Disk(_)) => return Ok(()),
                Ok(AdminReply::Refused(text)) => return failed(text),
                other if self.env.now() >= give_up => return failed(format!("{other:?}")),
                _ => self.env.sleep(ASK_PAUSE).await,
            }
        }
    }
}
