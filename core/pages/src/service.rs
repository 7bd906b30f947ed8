//! Serves [`SERVICE_GROUP`](hedgerow_protocol::SERVICE_GROUP): requests to the groups whose leader
//! runs here.
//!
//! `proposals` gathers commands of independent callers into one log entry, `reads` shares one round
//! of the read index among them, `placing` turns *ensure placed* and *substitute* into PLACE.
//!
//! Invariants: only a replica that leads answers; what was proposed is answered with its outcome or
//! as unknown, never as failed; every queue is bounded, and a full one is refused as busy.
//! Does not: look for leaders elsewhere (clients do), or keep state of its own beyond the queues.

mod placing;
mod proposals;
mod reads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use hedgerow_env::{BoxFuture, Env, GroupId, Instant};
use hedgerow_net::{Caller, Directory, Message, Refusal, RefusalCode, Service};
use hedgerow_protocol::{
    GroupBody, GroupReply, GroupRequest, MemberId, ROOT_GROUP, RootAnswer, RootReply, RootRequest,
    ShardReply, ShardRequest, decode, encode,
};

use crate::shard::{moving, query, split};
use crate::{GroupReplica, Leadership, ProposeError, StateError, View, root};

use proposals::{Proposals, RootKind, ShardKind};
use reads::Reads;

/// Finds the replica of a group that runs on this node.
pub trait Replicas: Send + Sync {
    /// The replica, if there is one.
    fn replica(&self, group: GroupId) -> Option<Arc<dyn GroupReplica>>;
    /// The groups that have a replica here, in order.
    fn groups(&self) -> Vec<GroupId>;
    /// The members of this node whose numbers are retired, while no successor is known here.
    fn retired(&self) -> Vec<(GroupId, MemberId)> {
        Vec::new()
    }
    /// Its group counts this retired member no more: what it left may go.
    fn forget(&self, _group: GroupId, _member: MemberId) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl Replicas for crate::raft::PagesHost {
    fn replica(&self, group: GroupId) -> Option<Arc<dyn GroupReplica>> {
        Self::replica(self, group)
    }

    fn groups(&self) -> Vec<GroupId> {
        Self::groups(self)
    }

    fn retired(&self) -> Vec<(GroupId, MemberId)> {
        Self::retired(self)
    }

    fn forget(&self, group: GroupId, member: MemberId) -> BoxFuture<'static, ()> {
        let forgetting = Self::forget(self, group, member);
        // What a failing disk keeps is tried again later, and belongs to nobody meanwhile.
        Box::pin(async move { drop(forgetting.await) })
    }
}

/// The queues of one group on this node.
#[derive(Clone)]
struct Front {
    root: Proposals<RootKind>,
    shard: Proposals<ShardKind>,
    reads: Reads,
    /// What lies between log indices and positions, once a pull has seen it: a shard that serves
    /// never changes it.
    base: Arc<OnceLock<u64>>,
}

impl Front {
    /// Whether `after` is the position of the entry that was applied last.
    fn stands_at(&self, applied: u64, after: u64) -> bool {
        let base = self.base.get();
        base.is_some_and(|base| applied + base == after)
    }

    /// Remembers what a pull saw, if it was of a shard that serves.
    fn note(&self, index: u64, position: u64, reply: &ShardReply) {
        if matches!(reply, ShardReply::Changes { .. }) {
            self.base.get_or_init(|| position - index);
        }
    }
}

/// Serves groups. Clones share everything.
#[derive(Clone)]
pub struct GroupService(Arc<Inner>);

struct Inner {
    env: Env,
    replicas: Arc<dyn Replicas>,
    directory: Arc<Directory>,
    fronts: Mutex<BTreeMap<GroupId, Front>>,
    /// Members of groups led here whose numbers are retired, by their nodes' word.
    retired: Mutex<BTreeMap<GroupId, BTreeSet<MemberId>>>,
}

/// How a request ended without an answer of the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// By Raft.
    Propose(ProposeError),
    /// Refused before it was proposed: try later.
    Busy(String),
    /// The local state failed: this replica answers no more.
    State(StateError),
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        Self::Propose(error)
    }
}

impl From<Failure> for GroupReply {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Propose(ProposeError::NotLeader { leader }) => Self::NotLeader { leader },
            Failure::Propose(ProposeError::Unknown { reason }) => Self::Unknown { reason },
            Failure::Propose(ProposeError::Stopped { reason }) | Failure::Busy(reason) => {
                Self::Busy { reason }
            }
            Failure::State(error) => Self::Busy {
                reason: error.to_string(),
            },
        }
    }
}

impl GroupService {
    /// Serves the groups that `replicas` finds; places by the topology of `directory`.
    #[must_use]
    pub fn new(env: Env, replicas: Arc<dyn Replicas>, directory: Arc<Directory>) -> Self {
        Self(Arc::new(Inner {
            env,
            replicas,
            directory,
            fronts: Mutex::default(),
            retired: Mutex::default(),
        }))
    }

    fn front(&self, group: GroupId) -> Front {
        let mut fronts = self.0.fronts.lock().expect("no panic under this lock");
        let front = fronts.entry(group).or_insert_with(|| Front {
            root: Proposals::new(self.0.env.clone()),
            shard: Proposals::new(self.0.env.clone()),
            reads: Reads::new(self.0.env.clone()),
            base: Arc::default(),
        });
        front.clone()
    }

    /// Remembers that `member` is retired, as long as the group counts it. Answers whether it does
    /// not.
    fn note_retired(&self, group: GroupId, member: MemberId, leadership: &Leadership) -> bool {
        let is_member = |id: &MemberId| leadership.members.iter().any(|known| known.member == *id);
        let mut retired = self.0.retired.lock().expect("no panic under this lock");
        let known = retired.entry(group).or_default();
        known.insert(member);
        known.retain(is_member);
        !known.contains(&member)
    }

    /// Members of `group` that its leader is to let go.
    pub(crate) fn retired(&self, group: GroupId) -> BTreeSet<MemberId> {
        let retired = self.0.retired.lock().expect("no panic under this lock");
        retired.get(&group).cloned().unwrap_or_default()
    }

    /// Answers a request to a group; also for callers within the process.
    pub async fn answer(&self, request: GroupRequest) -> GroupReply {
        let GroupRequest { group, body } = request;
        let Some(replica) = self.0.replicas.replica(group) else {
            return GroupReply::NoSuchGroup {
                epoch: self.0.directory.epoch(),
            };
        };
        let leadership = replica.leadership();
        if !leadership.is_leader {
            return GroupReply::NotLeader {
                leader: leadership.leader,
            };
        }
        if let GroupBody::Retired(member) = body {
            let is_gone = self.note_retired(group, member, &leadership);
            return GroupReply::Retired { is_gone };
        }
        let front = self.front(group);
        let answered = match body {
            GroupBody::Root(request) if group == ROOT_GROUP => {
                answer_root(&front, replica, request)
                    .await
                    .map(GroupReply::Root)
            }
            GroupBody::Shard(request) if group != ROOT_GROUP => {
                let asked = Asked {
                    front,
                    replica,
                    service: self,
                };
                asked.answer_shard(request).await.map(GroupReply::Shard)
            }
            _ => Err(Failure::Busy(format!("{group} is of the other kind"))),
        };
        answered.unwrap_or_else(GroupReply::from)
    }
}

impl Service for GroupService {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let service = self.clone();
        Box::pin(async move {
            let request: GroupRequest = decode(&request.head)
                .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
            let reply = service.answer(request).await;
            Ok(Message::new(encode(&reply), Bytes::new()))
        })
    }
}

async fn answer_root(
    front: &Front,
    replica: Arc<dyn GroupReplica>,
    request: RootRequest,
) -> Result<RootReply, Failure> {
    match request {
        RootRequest::Propose(commands) => {
            let applied = front.root.propose(replica, commands).await?;
            Ok(RootReply::Outcomes(applied))
        }
        RootRequest::Query(query) => {
            let ask = move |view: &dyn View, _index| root::query::answer(view, &query);
            let answer: RootAnswer = front.reads.linearizable(replica, ask).await?;
            Ok(RootReply::Answer(answer))
        }
    }
}

/// One request to a shard.
struct Asked<'a> {
    front: Front,
    replica: Arc<dyn GroupReplica>,
    service: &'a GroupService,
}

impl Asked<'_> {
    /// Answers from a state that holds all that was acknowledged before.
    async fn read<T, F>(&self, ask: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&dyn View, u64) -> Result<T, StateError> + Send + 'static,
    {
        let replica = Arc::clone(&self.replica);
        self.front.reads.linearizable(replica, ask).await
    }

    async fn answer_shard(&self, request: ShardRequest) -> Result<ShardReply, Failure> {
        match request {
            ShardRequest::Propose(commands) => {
                let replica = Arc::clone(&self.replica);
                let applied = self.front.shard.propose(replica, commands).await?;
                Ok(ShardReply::Outcomes(applied))
            }
            ShardRequest::EnsurePlaced {
                container,
                generation,
                policy,
            } => self.ensure_placed(container, generation, &policy).await,
            ShardRequest::Substitute {
                container,
                generation,
                policy,
                epoch,
                unavailable,
            } => {
                let wish = placing::Substitution {
                    container,
                    generation,
                    policy: &policy,
                    known: epoch,
                    unavailable: &unavailable,
                };
                self.substitute(&wish).await
            }
            request @ ShardRequest::Pull {
                store,
                after,
                limit,
            } => {
                if self.front.stands_at(self.replica.applied_index(), after) {
                    // Most pulls of an idle shard: answered without a look at the state.
                    return Ok(query::no_changes(after));
                }
                // A feed is a prefix of the log: one that is not the newest misleads nobody.
                let ask = move |view: &dyn View, index| {
                    if let Some(refusal) = moving::refusal_of(view, &request)? {
                        return Ok((index, index, ShardReply::Refused(refusal)));
                    }
                    let position = split::position(view, index)?;
                    let reply = query::pull(view, position, store, after, limit)?;
                    Ok((index, position, reply))
                };
                let (index, position, reply) = reads::local(&self.replica, ask).await?;
                self.front.note(index, position, &reply);
                Ok(reply)
            }
            other => {
                self.read(move |view, index| ask_shard(view, index, other))
                    .await
            }
        }
    }
}

/// Answers the questions that take nothing but the state.
fn ask_shard(view: &dyn View, index: u64, request: ShardRequest) -> Result<ShardReply, StateError> {
    if let Some(refusal) = moving::refusal_of(view, &request)? {
        return Ok(ShardReply::Refused(refusal));
    }
    let index = split::position(view, index)?;
    match request {
        ShardRequest::Lookup {
            container,
            layers,
            first_block,
            blocks,
        } => query::look_up(view, index, container, &layers, first_block, blocks),
        ShardRequest::Names { store: _, names } => query::names(view, &names),
        ShardRequest::Containers { .. } => {
            let reason = "ask for the containers of a disk page by page".into();
            Ok(ShardReply::Refused(
                hedgerow_protocol::ShardRefusal::Malformed { reason },
            ))
        }
        ShardRequest::ContainersAfter {
            family,
            disk,
            after,
        } => query::containers(view, family, disk, after),
        ShardRequest::Sparse {
            container,
            layer,
            first_block,
        } => query::sparse(view, index, container, layer, first_block),
        ShardRequest::Holdings { store, after } => query::holdings(view, store, after),
        ShardRequest::Statistics => Ok(ShardReply::Statistics(query::statistics(view)?)),
        ShardRequest::Moving { to, from } => moving::page(view, to, &from),
        ShardRequest::Propose(_)
        | ShardRequest::EnsurePlaced { .. }
        | ShardRequest::Substitute { .. }
        | ShardRequest::Pull { .. } => unreachable!("answered before"),
    }
}

/// Runs `ask` on the local state as it is: for the drivers of a leader, whose proposals are
/// conditional.
pub(crate) async fn read_local<T, F>(replica: &Arc<dyn GroupReplica>, ask: F) -> Result<T, String>
where
    T: Send + 'static,
    F: FnOnce(&dyn View, u64) -> Result<T, StateError> + Send + 'static,
{
    let read = reads::local(replica, ask).await;
    read.map_err(|failure| match failure {
        Failure::State(error) => error.to_string(),
        Failure::Busy(reason) => reason,
        Failure::Propose(error) => error.to_string(),
    })
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
