//! Groups in which nothing happens go quiet: no ticks, so neither heartbeats nor looks at the
//! clock. A node has many groups, and most are idle at any time.
//!
//! A leader whose log stands still, and which all members have applied, offers them to be quiet, and
//! stops its own ticks when all of them have agreed. From then on the nodes speak for the groups:
//! one message from node to node in each round says which of its groups are still led there. A
//! member that misses [`MISSED_MAX`] of them ticks again, and so finds out who leads.
//!
//! Invariants: quiet is a matter of ticks alone, so whatever goes wrong here costs time and never
//! safety; whatever is asked of a replica, by clients or by others of its group, has it tick first;
//! a leader is quiet only while every member has said so in the last round.
//! Does not: judge nodes, or know why a group is idle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BoxFuture, Env, GroupId, Instant, NodeId};
use hedgerow_net::{CallOptions, Caller, Message, Peer, Refusal, RefusalCode, Service, ServiceId};
use hedgerow_protocol::{
    GroupMember, QUIET_OFFERS_MAX, QuietAnswers, QuietOffer, QuietOffers, SERVICE_QUIET, decode,
    encode,
};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;

use super::host::Shared;
use super::replica::{Replica, TypedRaft};

/// A group is idle when nothing happened for so long.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// How long a leader lets go by after not all agreed: somebody is away, or behind.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(5);
/// Rounds without a word of the leader's node after which a member ticks again: two messages may be
/// lost.
const MISSED_MAX: u32 = 3;

/// What a replica does about ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It ticks.
    Ticks,
    /// A member that agreed to be quiet, and so many rounds since the last word.
    Follows { missed: u32 },
    /// A leader whose members have all agreed.
    Leads,
}

struct State {
    mode: Mode,
    /// How often something was asked of the replica.
    stirred: u64,
    /// What was seen to stand still, and since when: term, last index, `stirred`.
    still: Option<((u64, u64, u64), Instant)>,
    /// No offer before.
    not_before: Instant,
}

/// Whether a replica is quiet.
pub(crate) struct Quiet(Mutex<State>);

impl Default for Quiet {
    fn default() -> Self {
        Self(Mutex::new(State {
            mode: Mode::Ticks,
            stirred: 0,
            still: None,
            not_before: Instant::default(),
        }))
    }
}

/// What a leader sees of a group that stands still.
struct Standing {
    term: u64,
    index: u64,
    others: Vec<GroupMember>,
}

impl Quiet {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under this lock")
    }

    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        self.state().mode != Mode::Ticks
    }

    /// Something is asked of the replica, by clients or by others of its group: it ticks.
    pub(crate) fn stir(&self, raft: &TypedRaft) {
        let mut state = self.state();
        state.stirred += 1;
        state.tick(raft);
    }
}

impl State {
    fn tick(&mut self, raft: &TypedRaft) {
        if self.mode != Mode::Ticks {
            self.mode = Mode::Ticks;
            raft.runtime_config().tick(true);
        }
    }

    fn rest(&mut self, raft: &TypedRaft, mode: Mode) {
        if self.mode == Mode::Ticks {
            raft.runtime_config().tick(false);
        }
        self.mode = mode;
    }
}

impl Replica {
    /// What a leader could offer its members: its log stands still, and all have applied it.
    fn standing(&self) -> Option<Standing> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_leader = metrics.state == ServerState::Leader
            && metrics.current_leader == Some(self.me.member)
            && metrics.running_state.is_ok();
        let last = metrics.last_applied?;
        let stored = &metrics.membership_config;
        // A change of members that is under way is not idle.
        let settled = metrics.last_log_index == Some(last.index)
            && *stored.log_id() <= Some(last)
            && stored.membership().get_joint_config().len() == 1;
        let replication = metrics.replication.as_ref()?;
        let members = stored.membership().nodes();
        let others: Vec<GroupMember> = members
            .map(|(_, member)| member)
            .filter(|member| member.member != self.me.member)
            .cloned()
            .collect();
        let matched = others
            .iter()
            .all(|other| replication.get(&other.member) == Some(&Some(last)));
        (is_leader && settled && matched).then(|| Standing {
            term: metrics.vote.leader_id.term,
            index: last.index,
            others,
        })
    }

    /// What the replica offers its members in this round, and how often it was stirred before.
    fn offer(&self, now: Instant) -> Option<(Standing, u64)> {
        let standing = self.standing();
        let mut state = self.quiet.state();
        let Some(standing) = standing else {
            state.still = None;
            if state.mode == Mode::Leads {
                state.tick(&self.raft);
            }
            return None;
        };
        let seen = (standing.term, standing.index, state.stirred);
        let since = match state.still {
            Some((known, since)) if known == seen => since,
            _ => {
                state.still = Some((seen, now));
                now
            }
        };
        let due = now >= since + IDLE_AFTER && now >= state.not_before;
        due.then_some((standing, seen.2))
    }

    /// What came of an offer.
    fn answered(&self, stirred: u64, all_agree: bool, now: Instant) {
        let mut state = self.quiet.state();
        if state.stirred != stirred {
            return;
        }
        if all_agree {
            state.rest(&self.raft, Mode::Leads);
        } else {
            state.not_before = now + NOT_AGAIN_FOR;
            state.tick(&self.raft);
        }
    }

    /// Whether the replica agrees to be quiet under this leader.
    fn agrees(&self, offer: &QuietOffer) -> bool {
        let metrics = self.raft.metrics();
        let mut state = self.quiet.state();
        let agrees = {
            let metrics = metrics.borrow_watched();
            let index = metrics.last_applied.map(|last| last.index);
            self.me.member == offer.to
                && metrics.running_state.is_ok()
                && matches!(metrics.state, ServerState::Follower | ServerState::Learner)
                && metrics.current_leader == Some(offer.leader)
                && metrics.vote.leader_id.term == offer.term
                && metrics.last_log_index == Some(offer.index)
                && index == Some(offer.index)
        };
        if agrees {
            state.rest(&self.raft, Mode::Follows { missed: 0 });
        } else {
            state.tick(&self.raft);
        }
        agrees
    }

    /// One round more without a word of the leader's node.
    fn count_missed(&self) {
        let mut state = self.quiet.state();
        if let Mode::Follows { missed } = &mut state.mode {
            *missed += 1;
            if *missed >= MISSED_MAX && !active(Mutant::QuietFollowerSleepsOn) {
                state.tick(&self.raft);
            }
        }
    }
}

/// An offer that is under way.
struct Offered {
    replica: Arc<Replica>,
    stirred: u64,
    agreed: bool,
}

/// Rounds over the replicas of `host`, while it lives.
pub(crate) async fn rounds(env: Env, host: Weak<Shared>, round: Duration) {
    loop {
        env.sleep(round).await;
        let Some(host) = host.upgrade() else { return };
        let replicas: Vec<Arc<Replica>> = host.all_running().values().cloned().collect();
        let mut offered = BTreeMap::new();
        let mut by_node: BTreeMap<NodeId, (Peer, Vec<QuietOffer>)> = BTreeMap::new();
        for replica in replicas {
            replica.count_missed();
            let Some((standing, stirred)) = replica.offer(env.now()) else {
                continue;
            };
            for other in &standing.others {
                let offer = QuietOffer {
                    group: replica.group,
                    leader: replica.me.member,
                    to: other.member,
                    term: standing.term,
                    index: standing.index,
                };
                let peer = || (host.peer_of(other), Vec::new());
                by_node.entry(other.node).or_insert_with(peer).1.push(offer);
            }
            let agreed = true;
            let of_one = Offered {
                replica: Arc::clone(&replica),
                stirred,
                agreed,
            };
            offered.insert(replica.group, of_one);
        }
        // An answer that comes later than this is of no use: the next round asks again.
        let asked = by_node.into_values().flat_map(|(peer, offers)| {
            let parts: Vec<Vec<QuietOffer>> =
                offers.chunks(QUIET_OFFERS_MAX).map(<[_]>::to_vec).collect();
            let ask = |part| host.ask_to_be_quiet(peer.clone(), part, round / 2);
            parts.into_iter().map(ask).collect::<Vec<_>>()
        });
        for group in join_all(asked).await.into_iter().flatten() {
            if let Some(one) = offered.get_mut(&group) {
                one.agreed = false;
            }
        }
        for one in offered.into_values() {
            one.replica.answered(one.stirred, one.agreed, env.now());
        }
    }
}

impl Shared {
    fn peer_of(&self, member: &GroupMember) -> Peer {
        let address = (self.addresses)(member);
        let address = address.unwrap_or_else(|| member.address.clone());
        Peer::new(address, member.node)
    }

    /// The groups of these offers whose member did not agree.
    async fn ask_to_be_quiet(
        &self,
        peer: Peer,
        offers: Vec<QuietOffer>,
        limit: Duration,
    ) -> Vec<GroupId> {
        let groups: Vec<GroupId> = offers.iter().map(|offer| offer.group).collect();
        let request = Message::new(encode(&QuietOffers(offers)), Bytes::new());
        let options = CallOptions::urgent(limit);
        let service = ServiceId(SERVICE_QUIET);
        let call = self.rpc.call_with(&peer, service, request, options);
        // RPC keeps the deadline, too; this one holds even where it waits for a connection.
        let reply = match self.env.timeout(limit, call).await {
            Ok(Ok(reply)) => decode::<QuietAnswers>(&reply.head).ok(),
            _ => None,
        };
        let answers = reply.map(|answers| answers.0).unwrap_or_default();
        let mut answers = answers.into_iter();
        let mut refused = groups;
        refused.retain(|_| !answers.next().unwrap_or(false));
        refused
    }
}

/// The service of one node.
pub(crate) struct QuietService(pub(crate) Weak<Shared>);

impl Service for QuietService {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let answer = self.answer(&request);
        Box::pin(async move { answer })
    }
}

impl QuietService {
    fn answer(&self, request: &Message) -> Result<Message, Refusal> {
        let QuietOffers(offers) = decode(&request.head)
            .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
        if offers.len() > QUIET_OFFERS_MAX {
            let text = format!("more than {QUIET_OFFERS_MAX} offers");
            return Err(Refusal::new(RefusalCode::Malformed, text));
        }
        let host = self.0.upgrade();
        let host = host.ok_or_else(|| Refusal::new(RefusalCode::Stopping, "the node stops"))?;
        let agrees = |offer: &QuietOffer| {
            let replica = host.running(offer.group);
            replica.is_some_and(|replica| replica.agrees(offer))
        };
        let answers = QuietAnswers(offers.iter().map(agrees).collect());
        Ok(Message::new(encode(&answers), Bytes::new()))
    }
}
