//! What an operator does to a cluster while it is tested: looks who is there, and drains nodes.
//!
//! Any node is asked, one after the other, as the command line does it: some are down or cut off.

use std::time::Duration;

use hedgerow_env::Env;
use hedgerow_jepsen::run::Struck;
use hedgerow_net::{Rpc, admin};
use hedgerow_protocol::{AdminReply, AdminRequest, NodeRecord, NodeState};

/// One node's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(6);
/// A cluster that has no leader for so long is not asked again.
const PATIENCE: Duration = Duration::from_secs(30);
const ASK_PAUSE: Duration = Duration::from_millis(500);
/// How a node's state says that it holds nothing any more.
const DRAINED: &str = "drained";

/// An operator of the cluster under test.
#[derive(Clone)]
pub struct Operator {
    env: Env,
    rpc: Rpc,
    addresses: Vec<String>,
}

impl Operator {
    /// One who asks the nodes at `addresses`.
    #[must_use]
    pub fn new(env: Env, rpc: Rpc, addresses: Vec<String>) -> Self {
        Self {
            env,
            rpc,
            addresses,
        }
    }

    /// Asks until a node answers what `wanted` takes; None after [`PATIENCE`].
    async fn ask<T>(
        &self,
        request: &AdminRequest,
        wanted: impl Fn(AdminReply) -> Option<T>,
    ) -> Option<T> {
        let give_up = self.env.now() + PATIENCE;
        while self.env.now() < give_up {
            for address in &self.addresses {
                let asked = admin::ask(&self.rpc, address, request);
                if let Ok(Ok(reply)) = self.env.timeout(ANSWER_LIMIT, asked).await
                    && let Some(answer) = wanted(reply)
                {
                    return Some(answer);
                }
            }
            self.env.sleep(ASK_PAUSE).await;
        }
        None
    }

    /// The nodes that are listed.
    async fn nodes(&self) -> Option<Vec<NodeRecord>> {
        self.ask(&AdminRequest::Status, |reply| match reply {
            AdminReply::Status(status) => Some(status.nodes),
            _ => None,
        })
        .await
    }

    /// Whether the cluster says of itself that every node is up and every group answers.
    pub async fn says_it_is_whole(&self) -> bool {
        let status = self.ask(&AdminRequest::Status, |reply| match reply {
            AdminReply::Status(status) => Some(status),
            _ => None,
        });
        status.await.is_some_and(|status| {
            let mut states = status.nodes.iter().map(|node| node.state);
            states.all(|state| state == NodeState::Up) && status.silent_groups.is_empty()
        })
    }

    /// Whether a node of that name is up: the evidence that it has joined.
    pub async fn has_joined(&self, name: &str) -> Struck {
        let Some(nodes) = self.nodes().await else {
            return Struck::No("nobody tells who is there".to_owned());
        };
        let mut of_name = nodes.iter().filter(|node| node.name == name);
        let up = nodes.iter().filter(|node| node.state == NodeState::Up);
        match of_name.find(|node| node.state == NodeState::Up) {
            Some(node) => Struck::Yes(format!(
                "{} is the node {} of {}",
                name,
                node.node,
                up.count()
            )),
            None => Struck::No(format!("{name} is not listed as up")),
        }
    }

    /// Has a node drained, or takes that back.
    ///
    /// # Errors
    /// Why not.
    pub async fn set_draining(&self, name: &str, draining: bool) -> Result<(), String> {
        let request = AdminRequest::SetDraining {
            node: name.to_owned(),
            draining,
        };
        let answer = self.ask(&request, |reply| match reply {
            AdminReply::Done => Some(Ok(())),
            AdminReply::Refused(why) => Some(Err(why)),
            _ => None,
        });
        answer
            .await
            .unwrap_or_else(|| Err("no node answers".to_owned()))
    }

    /// Ends a drain: whether nothing was left on the node.
    pub async fn end_drain(&self, name: &str) -> Struck {
        let nodes = self.nodes().await.unwrap_or_default();
        let mut draining = nodes
            .iter()
            .filter(|node| node.state == NodeState::Draining);
        let reason = draining
            .find(|node| node.name == name)
            .map(|node| node.reason.clone());
        let struck = match reason {
            Some(reason) if reason.starts_with(DRAINED) => Struck::Yes(reason),
            Some(reason) => Struck::No(reason),
            None => Struck::No("it is not listed as draining".to_owned()),
        };
        match self.set_draining(name, false).await {
            Ok(()) => struck,
            Err(why) => Struck::No(format!("not taken back: {why}")),
        }
    }

    /// Takes back every drain that is on.
    ///
    /// # Errors
    /// Why one is on still.
    pub async fn end_drains(&self) -> Result<(), String> {
        let nodes = self.nodes().await.unwrap_or_default();
        for node in nodes
            .iter()
            .filter(|node| node.state == NodeState::Draining)
        {
            self.set_draining(&node.name, false).await?;
        }
        Ok(())
    }
}
