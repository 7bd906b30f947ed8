//! Keeping the directory fresh: nodes with a root replica read it, others ask those. And keeping to
//! it: a replica that the table wants here and that was never started is started.

use std::sync::Arc;
use std::time::Duration;

use hedgerow_env::{Env, event};
use hedgerow_net::{Directory, GroupClient, Peer};
use hedgerow_pages::GroupReplica;
use hedgerow_pages::root::query::{table, topology};
use hedgerow_protocol::{MemberId, NodeReply};

use crate::roles::Running;

/// How stale the directory may be; nothing's safety depends on it.
const PERIOD: Duration = Duration::from_secs(1);
/// While no table is known, the cluster is forming: look more often.
const EAGER_PERIOD: Duration = Duration::from_millis(100);
/// Whoever reads its own replica asks another node all the same, once in so many periods.
const OTHERS_TURN: usize = 8;
/// A node answers from memory.
const ASK_LIMIT: Duration = Duration::from_millis(500);

/// Finds this node's root replica, if it has one.
pub(crate) type RootReplica = Arc<dyn Fn() -> Option<Arc<dyn GroupReplica>> + Send + Sync>;

/// Refreshes the directory for as long as the node lives.
pub(crate) async fn keep_fresh(env: Env, groups: GroupClient, root: RootReplica) {
    let mut turn = 0_usize;
    let mut learned = None;
    loop {
        let directory = Arc::clone(groups.directory());
        let own = root();
        let names = |replica: &Arc<dyn GroupReplica>| {
            let table = directory.table();
            let mut members = table.root.members.iter();
            members.any(|member| member.member == replica.member())
        };
        // A replica that was started and that the group never took, or has left without its knowing,
        // stands still for ever.
        let is_named = own.as_ref().is_some_and(names);
        if let Some(replica) = own {
            read_own(&directory, &*replica, &mut learned).await;
        }
        if !is_named || turn.is_multiple_of(OTHERS_TURN) {
            ask_another(&groups, &directory, turn).await;
        }
        turn = turn.wrapping_add(1);
        let settled = !directory.table().shards.is_empty();
        env.sleep(if settled { PERIOD } else { EAGER_PERIOD }).await;
    }
}

/// Starts the replicas that the table names on this node and that do not run, for as long as
/// the node lives. Whoever made the group may have found this node down; a founder may have died
/// between its claim and its first root replica.
///
/// A replica that was never here has never voted, so it may begin blank; one that was here and is
/// damaged or retired is refused by the host under its number.
pub(crate) async fn keep_replicas(env: Env, directory: Arc<Directory>, running: Arc<Running>) {
    loop {
        env.sleep(PERIOD).await;
        let table = directory.table();
        for record in std::iter::once(&table.root).chain(table.distinct()) {
            let Some(store) = running.pages_store() else {
                continue;
            };
            let own = record.members.iter().find(|one| one.member.store == store);
            let Some(member) = own.map(|own| own.member) else {
                continue;
            };
            if running.runs(record.group) {
                continue;
            }
            let group = record.group;
            let members = record.members.clone();
            match running.start_replica(group, member, members, false).await {
                NodeReply::Refused(reason) => {
                    event!(
                        env,
                        Debug,
                        "node",
                        "{group}: {member} is wanted here: {reason}"
                    );
                }
                _ => event!(
                    env,
                    Info,
                    "node",
                    "{group}: {member} was wanted here, and runs"
                ),
            }
        }
    }
}

/// Learns from this node's own root replica. `learned` is what it had applied the last time: while
/// that stands there is nothing to learn.
async fn read_own(
    directory: &Arc<Directory>,
    replica: &dyn GroupReplica,
    learned: &mut Option<(MemberId, u64)>,
) {
    let standing = (replica.member(), replica.applied_index());
    if *learned == Some(standing) {
        return;
    }
    let learning = Arc::clone(directory);
    let (told, heard) = tokio::sync::oneshot::channel();
    replica
        .read(Box::new(move |view, index| {
            let Ok(view) = view else { return };
            let (Ok(table), Ok(mut topology)) = (table(view), topology(view)) else {
                return;
            };
            learning.learn_table(table);
            // Applies are numbered from 1; the index orders what is learned from any replica.
            topology.index = topology.index.max(index);
            learning.learn_topology(topology);
            // Nobody else waits for it.
            told.send(()).ok();
        }))
        .await;
    *learned = heard.await.is_ok().then_some(standing);
}

async fn ask_another(groups: &GroupClient, directory: &Arc<Directory>, turn: usize) {
    let members = directory.table().root.members;
    if members.is_empty() {
        groups.refresh_within(ASK_LIMIT).await;
        return;
    }
    let member = &members[turn % members.len()];
    let address = directory
        .address_of(member.node)
        .unwrap_or_else(|| member.address.clone());
    groups
        .refresh_from(&Peer::new(address, member.node), ASK_LIMIT)
        .await;
}
