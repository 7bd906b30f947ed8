//! Linearizable reads: one round of the read index serves all that wait for it.
//!
//! Invariants: a read joins a round that begins after it was asked, never one under way; the number
//! that waits is bounded.

use std::sync::{Arc, Mutex};

use hedgerow_env::Env;
use hedgerow_env::mutants::{Mutant, active};
use tokio::sync::oneshot;

use super::Failure;
use crate::{GroupReplica, ProposeError, StateError, View};

/// Reads that may wait for the next round; beyond it callers are told that the group is busy.
const WAITING_READS: usize = 4096;

type Round = Result<(), ProposeError>;

#[derive(Default)]
struct Waiting {
    running: bool,
    next: Vec<oneshot::Sender<Round>>,
}

/// The reads of one group. Clones share everything.
#[derive(Clone)]
pub(super) struct Reads {
    env: Env,
    waiting: Arc<Mutex<Waiting>>,
}

impl Reads {
    pub(super) fn new(env: Env) -> Self {
        Self {
            env,
            waiting: Arc::default(),
        }
    }

    /// Runs `ask` on a state that holds everything acknowledged before this call.
    pub(super) async fn linearizable<T, F>(
        &self,
        replica: Arc<dyn GroupReplica>,
        ask: F,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&dyn View, u64) -> Result<T, StateError> + Send + 'static,
    {
        self.linearize(&replica).await?;
        local(&replica, ask).await
    }

    async fn linearize(&self, replica: &Arc<dyn GroupReplica>) -> Result<(), Failure> {
        let (done, round) = oneshot::channel();
        let start = {
            let mut waiting = self.waiting.lock().expect("no panic under this lock");
            if waiting.next.len() >= WAITING_READS {
                return Err(Failure::Busy("too many reads wait".into()));
            }
            waiting.next.push(done);
            !std::mem::replace(&mut waiting.running, true)
        };
        if start {
            let reads = self.clone();
            let replica = Arc::clone(replica);
            self.env.spawn("pages-read-index", async move {
                reads.run(&replica).await;
            });
        }
        let outcome = round.await.unwrap_or_else(|_| {
            let reason = "the node is stopping".into();
            Err(ProposeError::Stopped { reason })
        });
        Ok(outcome?)
    }

    /// Rounds, one after the other, until nobody waits.
    async fn run(&self, replica: &Arc<dyn GroupReplica>) {
        loop {
            let round = {
                let mut waiting = self.waiting.lock().expect("no panic under this lock");
                let round = std::mem::take(&mut waiting.next);
                waiting.running = !round.is_empty();
                round
            };
            if round.is_empty() {
                return;
            }
            let outcome = replica.linearize().await;
            let mut round = round;
            if active(Mutant::ReadJoinsRoundUnderWay) {
                let mut waiting = self.waiting.lock().expect("no panic under this lock");
                round.append(&mut waiting.next);
            }
            for done in round {
                // A caller that went away does not want to know.
                done.send(outcome.clone()).ok();
            }
        }
    }
}

/// Runs `ask` on the local state as it is.
pub(super) async fn local<T, F>(replica: &Arc<dyn GroupReplica>, ask: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&dyn View, u64) -> Result<T, StateError> + Send + 'static,
{
    let (send, received) = oneshot::channel();
    let job = Box::new(move |view: Result<&dyn View, StateError>, index: u64| {
        let answer = view.and_then(|view| ask(view, index));
        // A caller that went away does not want to know.
        send.send(answer).ok();
    });
    replica.read(job).await;
    match received.await {
        Ok(answer) => answer.map_err(Failure::State),
        Err(_) => Err(Failure::Busy("the replica stopped".into())),
    }
}
