//! Getting a blank node into a cluster: the driver of the bootstrap decision.
//!
//! A founding is durable at the first seed, with the cluster that it founds, before the first claim
//! goes out: a crash in its middle goes on with the same cluster. Claims are durable at each seed
//! before they are answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_disk::superblock::SuperblockError;
use hedgerow_env::{ClusterId, Env, ReplicaNumber, event};
use hedgerow_net::{GroupClient, Peer};
use hedgerow_protocol::{
    GroupMember, GroupRecord, MemberId, NodeRecord, NodeReply, NodeRequest, ROOT_GROUP, Roles,
    decode, encode,
};

use crate::bootstrap::{Seed, Step, decide};
use crate::stores::Stores;

/// Where the superblock keeps the root group's first members, at each claimed seed.
pub(crate) const ROOT_KEY: &[u8] = b"cluster.root";
/// Where the first seed keeps an unfinished founding: the records of the seeds.
pub(crate) const FOUNDING_KEY: &[u8] = b"cluster.founding";
/// A seed answers at once or is not there yet.
const ASK_LIMIT: Duration = Duration::from_millis(700);
/// Pause between rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// A root of five bears two losses; more only slows commits.
const ROOT_MEMBERS: usize = 5;

/// The founding that the first seed keeps until it is done.
pub(crate) fn founding_nodes(stores: &Stores) -> Option<Vec<NodeRecord>> {
    let bytes = stores.value(FOUNDING_KEY)?;
    let list = bytes.split_first_chunk::<4>()?;
    let mut rest = list.1;
    let mut nodes = Vec::new();
    for _ in 0..u32::from_le_bytes(*list.0) {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        nodes.push(decode::<NodeRecord>(tail.get(..length)?).ok()?);
        rest = &tail[length..];
    }
    Some(nodes)
}

fn encode_nodes(nodes: &[NodeRecord]) -> Vec<u8> {
    let count = |length: usize| {
        u32::try_from(length)
            .expect("a few small records")
            .to_le_bytes()
    };
    let mut bytes = count(nodes.len()).to_vec();
    for node in nodes {
        let encoded = encode(node);
        bytes.extend_from_slice(&count(encoded.len()));
        bytes.extend_from_slice(&encoded);
    }
    bytes
}

/// The root group's first members: the seeds with the role `pages`.
pub(crate) fn root_members(nodes: &[NodeRecord]) -> Vec<GroupMember> {
    let pages = nodes
        .iter()
        .filter(|node| node.roles.contains(Roles::PAGES));
    let mut members: Vec<GroupMember> = Vec::new();
    for node in pages.take(ROOT_MEMBERS) {
        let Some(system) = node.stores.iter().find(|store| store.system) else {
            continue;
        };
        let number = u32::try_from(members.len() + 1).expect("at most five");
        members.push(GroupMember {
            member: MemberId {
                store: system.store,
                replica: ReplicaNumber(number),
            },
            node: node.node,
            address: node.address.clone(),
        });
    }
    // An even number bears no more losses than one fewer.
    if members.len() > 2 && members.len().is_multiple_of(2) {
        members.pop();
    }
    members
}

/// The root's first members as kept at this node.
pub(crate) fn kept_root(stores: &Stores) -> Option<GroupRecord> {
    decode::<GroupRecord>(&stores.value(ROOT_KEY)?).ok()
}

/// Makes a claim durable: the cluster's identity, and the root's first members. Answers the cluster
/// that this node belongs to: another one if it was claimed before.
pub(crate) async fn accept_claim(
    stores: &Arc<Stores>,
    cluster: ClusterId,
    root: Vec<GroupMember>,
) -> Result<ClusterId, SuperblockError> {
    stores.enter(cluster, vec![root_value(root)]).await
}

fn root_value(root: Vec<GroupMember>) -> (Vec<u8>, Vec<u8>) {
    let record = GroupRecord {
        group: ROOT_GROUP,
        members: root,
    };
    (ROOT_KEY.to_vec(), encode(&record).to_vec())
}

/// Gets a blank node into a cluster: joins what a seed reports, or founds one.
pub(crate) async fn enter_cluster(
    env: &Env,
    stores: &Arc<Stores>,
    groups: &GroupClient,
    own: &NodeRecord,
    seeds: &[String],
    tell: &(dyn Fn(&str) + Sync),
) -> Result<ClusterId, SuperblockError> {
    let mut told = String::new();
    loop {
        if let Some(cluster) = stores.cluster() {
            return Ok(cluster);
        }
        let heard = ask_seeds(groups, own, seeds).await;
        match decide(own, seeds, &heard) {
            Step::Wait(reason) => {
                if told != reason {
                    event!(env, Info, "node", "{reason}");
                    tell(&reason);
                    told = reason;
                }
                env.sleep(ROUND_PAUSE).await;
            }
            Step::Join(cluster) => {
                event!(env, Info, "node", "joining cluster {cluster}");
                stores.enter(cluster, Vec::new()).await?;
            }
            Step::Found(nodes) => {
                let bytes = env.secret(16);
                let cluster = ClusterId(u128::from_le_bytes(
                    bytes.try_into().expect("sixteen bytes were asked for"),
                ));
                event!(
                    env,
                    Info,
                    "node",
                    "founding cluster {cluster} of {} nodes",
                    nodes.len()
                );
                let founding = (FOUNDING_KEY.to_vec(), encode_nodes(&nodes));
                let values = vec![founding, root_value(root_members(&nodes))];
                stores.enter(cluster, values).await?;
            }
        }
    }
}

async fn ask_seeds(
    groups: &GroupClient,
    own: &NodeRecord,
    seeds: &[String],
) -> BTreeMap<String, Option<Seed>> {
    let others = seeds.iter().filter(|seed| **seed != own.address);
    let asked = others.map(|seed| async move {
        let peer = Peer::anyone_at(seed.clone());
        let reply = groups
            .node_request(&peer, &NodeRequest::Describe, ASK_LIMIT)
            .await;
        let told = match reply {
            Some(NodeReply::Described {
                cluster: Some(cluster),
                ..
            }) => Some(Seed::Member(cluster)),
            Some(NodeReply::Described { record, .. }) => Some(Seed::Blank(record)),
            _ => None,
        };
        (seed.clone(), told)
    });
    futures_util::future::join_all(asked)
        .await
        .into_iter()
        .collect()
}

/// Claims every seed of an unfinished founding; returns when all have accepted.
pub(crate) async fn claim_seeds(
    env: &Env,
    groups: &GroupClient,
    own: &NodeRecord,
    cluster: ClusterId,
    nodes: &[NodeRecord],
) {
    let root = root_members(nodes);
    for node in nodes.iter().filter(|node| node.node != own.node) {
        let peer = Peer::new(node.address.clone(), node.node);
        loop {
            let claim = NodeRequest::Claim {
                cluster,
                by: own.node,
                root: root.clone(),
            };
            match groups.node_request(&peer, &claim, ASK_LIMIT).await {
                Some(NodeReply::Claimed) => break,
                Some(NodeReply::ClaimedElsewhere { cluster: other }) => {
                    event!(
                        env,
                        Error,
                        "node",
                        "{} belongs to cluster {other}: wipe it, or correct the seeds",
                        node.address
                    );
                }
                _ => {}
            }
            env.sleep(ROUND_PAUSE).await;
        }
    }
}
