//! Proposals to shards: many operations' commands share one request and one log entry.
//!
//! No timer: a batch forms because earlier ones are under way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{Env, GroupId};
use hedgerow_net::{GroupClient, GroupError};
use hedgerow_protocol::{ShardCommand, ShardOutcome};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Commands that one request carries at most: an entry stays far below the encoded limit.
const BATCH_COMMANDS: usize = 256;
/// Requests to one shard under way at once: one applies while the next travels.
const REQUESTS_UNDER_WAY: usize = 4;
/// Commands that may wait for one shard; beyond it writers wait.
const QUEUE_COMMANDS: usize = 4096;
/// One request is tried for this long before its commands hear *unknown* and decide anew.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

struct Pending {
    command: ShardCommand,
    answer: oneshot::Sender<Result<ShardOutcome, GroupError>>,
}

/// One queue per shard, shared by all disks of a proxy.
pub(crate) struct Committers {
    env: Env,
    groups: GroupClient,
    queues: Mutex<BTreeMap<GroupId, mpsc::Sender<Pending>>>,
}

impl Committers {
    pub(crate) fn new(env: Env, groups: GroupClient) -> Self {
        Self {
            env,
            groups,
            queues: Mutex::default(),
        }
    }

    /// Proposes `command` and awaits its outcome.
    pub(crate) async fn propose(
        &self,
        group: GroupId,
        command: ShardCommand,
    ) -> Result<ShardOutcome, GroupError> {
        let (answer, outcome) = oneshot::channel();
        let stopping = || GroupError::Unknown {
            group,
            reason: "the proxy is stopping".into(),
        };
        let queue = self.queue(group);
        queue
            .send(Pending { command, answer })
            .await
            .map_err(|_| stopping())?;
        outcome.await.map_err(|_| stopping())?
    }

    fn queue(&self, group: GroupId) -> mpsc::Sender<Pending> {
        let mut queues = self.queues.lock().expect("no panic under this lock");
        let make = || {
            let (sender, receiver) = mpsc::channel(QUEUE_COMMANDS);
            let work = run(self.env.clone(), self.groups.clone(), group, receiver);
            self.env.spawn("proxy-committer", work);
            sender
        };
        queues.entry(group).or_insert_with(make).clone()
    }
}

async fn run(env: Env, groups: GroupClient, group: GroupId, mut queue: mpsc::Receiver<Pending>) {
    let under_way = Arc::new(Semaphore::new(REQUESTS_UNDER_WAY));
    while let Some(first) = queue.recv().await {
        let permit = Arc::clone(&under_way).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let mut batch = vec![first];
        while batch.len() < BATCH_COMMANDS {
            match queue.try_recv() {
                Ok(next) => batch.push(next),
                Err(_) => break,
            }
        }
        let groups = groups.clone();
        env.spawn("proxy-commit", async move {
            send(&groups, group, batch).await;
            drop(permit);
        });
    }
}

async fn send(groups: &GroupClient, group: GroupId, batch: Vec<Pending>) {
    let commands = batch
        .iter()
        .map(|pending| pending.command.clone())
        .collect();
    match groups.shard_commands(group, commands, REQUEST_LIMIT).await {
        Ok(outcomes) => {
            for (pending, outcome) in batch.into_iter().zip(outcomes) {
                // A requester that no longer waits has decided otherwise; its command stands.
                drop(pending.answer.send(Ok(outcome)));
            }
        }
        Err(error) => {
            for pending in batch {
                drop(pending.answer.send(Err(error.clone())));
            }
        }
    }
}
