//! Commands of independent callers, gathered into one log entry.
//!
//! Invariants: the commands of one caller stay together and in order; a few entries are in flight
//! at once and the next forms while they are, without a timer; the queue is bounded, and what does
//! not fit is refused before anything of it was proposed. A caller that goes away changes nothing:
//! its commands were queued and run.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hedgerow_env::Env;
use hedgerow_protocol::{
    Envelope, RootBatch, RootCommand, RootOutcome, ShardBatch, ShardCommand, ShardOutcome, decode,
    encode,
};
use tokio::sync::oneshot;

use super::Failure;
use crate::{GroupReplica, ProposeError};

/// Entries proposed and not yet applied: enough to keep a disk and the network busy, few enough
/// that commands gather while they are.
const ENTRIES_IN_FLIGHT: usize = 4;
/// Most commands in one entry.
const ENTRY_COMMANDS: usize = 1024;
/// About how large an entry may become, in bytes; it must travel in one message.
const ENTRY_BYTES: usize = 1 << 20;
/// The largest request, in bytes: it is never cut.
const REQUEST_BYTES: usize = 4 << 20;
/// About how much may wait, in bytes; beyond it callers are told that the group is busy.
const QUEUE_BYTES: usize = 16 << 20;

/// A kind of group: its commands and outcomes.
pub(super) trait Kind: Send + Sync + 'static {
    type Command: Send + 'static;
    type Outcome: Send + 'static;
    type Outcomes: Envelope + Into<Vec<Self::Outcome>>;

    fn encode(commands: Vec<Self::Command>) -> Bytes;
    /// About how many bytes a command takes.
    fn weight(command: &Self::Command) -> usize;
}

pub(super) struct RootKind;

impl Kind for RootKind {
    type Command = RootCommand;
    type Outcome = RootOutcome;
    type Outcomes = Vec<RootOutcome>;

    fn encode(commands: Vec<RootCommand>) -> Bytes {
        encode(&RootBatch(commands))
    }

    fn weight(command: &RootCommand) -> usize {
        match command {
            RootCommand::Initialise { nodes, .. } => 2048 * (nodes.len() + 1),
            RootCommand::CreateShards { shards } => 2048 * (shards.len() + 1),
            _ => 2048,
        }
    }
}

pub(super) struct ShardKind;

impl Kind for ShardKind {
    type Command = ShardCommand;
    type Outcome = ShardOutcome;
    type Outcomes = Vec<ShardOutcome>;

    fn encode(commands: Vec<ShardCommand>) -> Bytes {
        encode(&ShardBatch(commands))
    }

    fn weight(command: &ShardCommand) -> usize {
        let more = match command {
            ShardCommand::Commit(commit) => 40 * commit.extents.len(),
            ShardCommand::Relocate(relocate) => 100 * relocate.moves.len(),
            ShardCommand::Place { members, lost, .. } => 20 * (members.len() + lost.len()),
            ShardCommand::Fence { writers, .. } | ShardCommand::Floor { writers, .. } => {
                10 * writers.len()
            }
            ShardCommand::Void { sequences, .. } | ShardCommand::Collect { sequences, .. } => {
                10 * sequences.len()
            }
            ShardCommand::Confirm { names, .. } => 50 * names.len(),
            ShardCommand::Drop { layers, .. } => 10 * layers.len(),
            ShardCommand::Adopt { rows, .. } => {
                let bytes = rows.iter().map(|(key, value)| key.len() + value.len() + 8);
                bytes.sum()
            }
            _ => 0,
        };
        128 + more
    }
}

type Answer<K> = Result<Vec<<K as Kind>::Outcome>, Failure>;

/// The commands of one caller.
struct Request<K: Kind> {
    commands: Vec<K::Command>,
    bytes: usize,
    answer: oneshot::Sender<Answer<K>>,
}

struct Queue<K: Kind> {
    waiting: VecDeque<Request<K>>,
    bytes: usize,
    in_flight: usize,
}

/// The proposals of one group. Clones share everything.
pub(super) struct Proposals<K: Kind> {
    env: Env,
    queue: Arc<Mutex<Queue<K>>>,
}

impl<K: Kind> Clone for Proposals<K> {
    fn clone(&self) -> Self {
        Self {
            env: self.env.clone(),
            queue: Arc::clone(&self.queue),
        }
    }
}

impl<K: Kind> Proposals<K> {
    pub(super) fn new(env: Env) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            bytes: 0,
            in_flight: 0,
        };
        Self {
            env,
            queue: Arc::new(Mutex::new(queue)),
        }
    }

    /// Proposes `commands` through `replica` and awaits their outcomes.
    pub(super) async fn propose(
        &self,
        replica: Arc<dyn GroupReplica>,
        commands: Vec<K::Command>,
    ) -> Answer<K> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = commands.iter().map(K::weight).sum();
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.queue.lock().expect("no panic under this lock");
            if bytes > REQUEST_BYTES || commands.len() > ENTRY_COMMANDS {
                return Err(Failure::Busy("too many commands in one request".into()));
            }
            if queue.bytes + bytes > QUEUE_BYTES {
                return Err(Failure::Busy("the group's queue is full".into()));
            }
            queue.bytes += bytes;
            queue.waiting.push_back(Request {
                commands,
                bytes,
                answer,
            });
        }
        self.pump(&replica);
        answered.await.unwrap_or_else(|_| {
            let reason = "the node is stopping".into();
            Err(Failure::Propose(ProposeError::Unknown { reason }))
        })
    }

    /// Proposes entries as long as commands wait and fewer than the most are in flight.
    fn pump(&self, replica: &Arc<dyn GroupReplica>) {
        while let Some(entry) = self.take() {
            let proposals = self.clone();
            let replica = Arc::clone(replica);
            self.env.spawn("pages-propose", async move {
                proposals.run(&replica, entry).await;
                let mut queue = proposals.queue.lock().expect("no panic under this lock");
                queue.in_flight -= 1;
                drop(queue);
                proposals.pump(&replica);
            });
        }
    }

    /// The next entry: as many whole requests as fit.
    fn take(&self) -> Option<Vec<Request<K>>> {
        let mut queue = self.queue.lock().expect("no panic under this lock");
        if queue.in_flight == ENTRIES_IN_FLIGHT || queue.waiting.is_empty() {
            return None;
        }
        let mut entry = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        while let Some(next) = queue.waiting.front() {
            count += next.commands.len();
            bytes += next.bytes;
            let fits = count <= ENTRY_COMMANDS && bytes <= ENTRY_BYTES;
            if !entry.is_empty() && !fits {
                break;
            }
            let next = queue.waiting.pop_front().expect("looked at just now");
            queue.bytes -= next.bytes;
            entry.push(next);
        }
        queue.in_flight += 1;
        Some(entry)
    }

    async fn run(&self, replica: &Arc<dyn GroupReplica>, entry: Vec<Request<K>>) {
        let mut commands = Vec::new();
        let mut callers = Vec::with_capacity(entry.len());
        for request in entry {
            callers.push((request.commands.len(), request.answer));
            commands.extend(request.commands);
        }
        let expected = commands.len();
        let mut outcomes = match replica.propose(K::encode(commands)).await {
            Ok(applied) => match decode::<K::Outcomes>(&applied.outcomes) {
                Ok(outcomes) => outcomes.into(),
                Err(error) => {
                    let reason = error.to_string();
                    return refuse::<K>(callers, &ProposeError::Unknown { reason }.into());
                }
            },
            Err(error) => return refuse::<K>(callers, &error.into()),
        };
        assert_eq!(outcomes.len(), expected, "a machine answers each command");
        for (count, answer) in callers {
            let rest = outcomes.split_off(count);
            // A caller that went away does not want to know.
            answer.send(Ok(outcomes)).ok();
            outcomes = rest;
        }
    }
}

fn refuse<K: Kind>(callers: Vec<(usize, oneshot::Sender<Answer<K>>)>, failure: &Failure) {
    for (_, answer) in callers {
        answer.send(Err(failure.clone())).ok();
    }
}
