//! Groups of one replica in memory, for tests of the service and the drivers: a proposal takes some
//! virtual time, and what it meets on its way can be set.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, Env, GroupId, NodeId, ReplicaNumber, StoreId};
use hedgerow_protocol::{GroupMember, MemberId, ROOT_GROUP};

use super::Replicas;
use crate::root::RootMachine;
use crate::shard::ShardMachine;
use crate::{
    GroupReplica, Leadership, Machine, MemoryState, ProposeError, Proposed, ReadJob, View,
};

/// How long a proposal or a round of the read index takes.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(2);

/// The only member of every group.
pub(crate) fn only_member(address: &str) -> GroupMember {
    GroupMember {
        member: MemberId {
            store: StoreId(10),
            replica: ReplicaNumber(1),
        },
        node: NodeId(1),
        address: address.into(),
    }
}

pub(crate) struct FakeReplica {
    env: Env,
    group: GroupId,
    address: String,
    state: Arc<Mutex<(MemoryState, u64)>>,
    pub(crate) leads: AtomicBool,
    /// Proposals are applied, and their outcome is lost.
    pub(crate) loses_outcomes: AtomicBool,
    /// Proposals wait for a quorum that never comes.
    pub(crate) stalls: AtomicBool,
    pub(crate) entries: AtomicU64,
    pub(crate) read_rounds: AtomicU64,
}

impl FakeReplica {
    pub(crate) fn new(env: &Env, group: GroupId, address: &str) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            group,
            address: address.into(),
            state: Arc::default(),
            leads: AtomicBool::new(true),
            loses_outcomes: AtomicBool::new(false),
            stalls: AtomicBool::new(false),
            entries: AtomicU64::new(0),
            read_rounds: AtomicU64::new(0),
        })
    }

    fn apply(&self, batch: &Bytes) -> Proposed {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        let index = state.1;
        let machine: &dyn Machine = if self.group == ROOT_GROUP {
            &RootMachine
        } else {
            &ShardMachine
        };
        let outcomes = machine.apply(&mut state.0, index, batch).unwrap();
        Proposed { index, outcomes }
    }
}

impl GroupReplica for FakeReplica {
    fn group(&self) -> GroupId {
        self.group
    }

    fn member(&self) -> MemberId {
        only_member("").member
    }

    fn leadership(&self) -> Leadership {
        let only = only_member(&self.address);
        Leadership {
            term: 1,
            voters: vec![only.member],
            members: vec![only.clone()],
            is_leader: self.leads.load(Ordering::SeqCst),
            leader: Some(only),
        }
    }

    fn leadership_changed(&self, _known: Leadership) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn propose(&self, batch: Bytes) -> BoxFuture<'static, Result<Proposed, ProposeError>> {
        self.entries.fetch_add(1, Ordering::SeqCst);
        if self.stalls.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        let applied = self.apply(&batch);
        let lost = self.loses_outcomes.load(Ordering::SeqCst);
        let env = self.env.clone();
        Box::pin(async move {
            env.sleep(ROUND_TRIP).await;
            if lost {
                let reason = "the leader changed".into();
                return Err(ProposeError::Unknown { reason });
            }
            Ok(applied)
        })
    }

    fn linearize(&self) -> BoxFuture<'static, Result<(), ProposeError>> {
        self.read_rounds.fetch_add(1, Ordering::SeqCst);
        let env = self.env.clone();
        Box::pin(async move {
            env.sleep(ROUND_TRIP).await;
            Ok(())
        })
    }

    fn describe(&self) -> String {
        "a fake".into()
    }

    fn applied_index(&self) -> u64 {
        self.state.lock().unwrap().1
    }

    fn read(&self, job: ReadJob) -> BoxFuture<'static, ()> {
        let state = Arc::clone(&self.state);
        Box::pin(async move {
            let (view, index) = state.lock().unwrap().clone();
            job(Ok(&view as &dyn View), index);
        })
    }

    fn change_voters(
        &self,
        _add: Vec<GroupMember>,
        _voters: Vec<MemberId>,
    ) -> BoxFuture<'static, Result<(), ProposeError>> {
        Box::pin(async { Ok(()) })
    }
}

/// The groups of one node.
#[derive(Default)]
pub(crate) struct FakeReplicas(pub(crate) Mutex<BTreeMap<GroupId, Arc<FakeReplica>>>);

impl FakeReplicas {
    pub(crate) fn add(&self, replica: Arc<FakeReplica>) {
        let mut replicas = self.0.lock().unwrap();
        replicas.entry(replica.group).or_insert(replica);
    }
}

impl Replicas for FakeReplicas {
    fn replica(&self, group: GroupId) -> Option<Arc<dyn GroupReplica>> {
        let found = self.0.lock().unwrap().get(&group).cloned()?;
        Some(found)
    }

    fn groups(&self) -> Vec<GroupId> {
        self.0.lock().unwrap().keys().copied().collect()
    }
}
