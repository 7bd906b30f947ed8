//! The command `status`.
//!
//! Invariant: a sum from which somebody is missing says who.

use anyhow::bail;
use hedgerow_env::{ByteCount, Env, NodeId};
use hedgerow_protocol::{AdminReply, AdminRequest, FullStatus, NodeState};
use serde_json::{Value, json};

use crate::asking::ask;
use crate::client::{ClientOptions, print_json};
use crate::out::say;
use crate::shard::{split_json, split_text};

/// Runs `hedgerow status`.
pub(crate) async fn status(env: Env, options: &ClientOptions) -> anyhow::Result<()> {
    let request = AdminRequest::StatusInFull;
    let AdminReply::StatusInFull(status) = ask(&env, options, &request).await? else {
        bail!("unexpected answer");
    };
    let AdminReply::Split(split) = ask(&env, options, &AdminRequest::ShowSplit).await? else {
        bail!("unexpected answer");
    };
    if options.json {
        let mut told = status_json(&status);
        told["split"] = split_json(split.as_ref());
        print_json(&told);
    } else {
        print_status(&status);
        if let Some(split) = split {
            say!("{}", split_text(&split));
        }
    }
    Ok(())
}

fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Down => "down",
        NodeState::Draining => "draining",
    }
}

/// A node's name; its number when it is not listed.
fn name_of(status: &FullStatus, node: NodeId) -> String {
    let mut nodes = status.view.nodes.iter();
    let listed = nodes.find(|listed| listed.node == node);
    listed.map_or_else(|| format!("{:016x}", node.0), |listed| listed.name.clone())
}

fn status_json(status: &FullStatus) -> Value {
    let view = &status.view;
    let nodes: Vec<Value> = view
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": format!("{:016x}", node.node.0),
                "name": node.name,
                "state": node_state(node.state),
                "reason": node.reason,
                "roles": node.roles.names(),
                "address": node.address,
                "data_centre": node.location.data_centre,
                "rack": node.location.rack,
            })
        })
        .collect();
    let name = |node: &NodeId| name_of(status, *node);
    let shards: Vec<Value> = status
        .shards
        .iter()
        .map(|shard| {
            json!({
                "shard": shard.shard.0,
                "leader": shard.leader.as_ref().map(name),
                "members": shard.members.iter().map(name).collect::<Vec<_>>(),
                "containers": shard.containers,
            })
        })
        .collect();
    json!({
        "schema_version": 1,
        "cluster": view.cluster,
        "nodes": nodes,
        "disks": view.disks,
        "under_replicated_bytes": view.under_replicated_bytes,
        "damaged": view.damaged,
        "silent_nodes": status.silent_nodes,
        "silent_groups": view.silent_groups,
        "shards": shards,
    })
}

fn print_status(status: &FullStatus) {
    say!("{}", sums(status));
    say!(
        "{:<16} {:<9} {:<22} {:<22} LOCATION",
        "NODE",
        "STATE",
        "ADDRESS",
        "ROLES"
    );
    for node in &status.view.nodes {
        say!(
            "{:<16} {:<9} {:<22} {:<22} {}/{}{}",
            node.name,
            node_state(node.state),
            node.address,
            node.roles.names().join("+"),
            node.location.data_centre,
            node.location.rack,
            if node.reason.is_empty() {
                String::new()
            } else {
                format!("  ({})", node.reason)
            },
        );
    }
}

/// The sums, and who is missing from them.
fn sums(status: &FullStatus) -> String {
    let view = &status.view;
    let mut text = format!(
        "cluster           {}\ndisks             {}\nunder-replicated  {}\ndamaged copies    {}\n",
        view.cluster,
        view.disks,
        ByteCount(view.under_replicated_bytes),
        view.damaged
    );
    if !view.silent_groups.is_empty() {
        text.push_str(&format!(
            "no leader answered for shards {:?}: the bytes above lack theirs\n",
            view.silent_groups
        ));
    }
    if !status.silent_nodes.is_empty() {
        text.push_str(&format!(
            "no answer from {}: the damaged copies above lack theirs\n",
            status.silent_nodes.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use hedgerow_env::GroupId;
    use hedgerow_protocol::{Location, NodeRecord, Roles, ShardView, StatusView};

    use super::*;

    fn status() -> FullStatus {
        let node = |number: u64| NodeRecord {
            node: NodeId(number),
            name: format!("node-{number}"),
            address: String::new(),
            roles: Roles::ALL,
            location: Location::default(),
            stores: Vec::new(),
            state: NodeState::Up,
            reason: String::new(),
        };
        FullStatus {
            view: StatusView {
                cluster: "c1".into(),
                nodes: vec![node(1), node(2)],
                disks: 1,
                under_replicated_bytes: 0,
                damaged: 0,
                silent_groups: Vec::new(),
            },
            silent_nodes: Vec::new(),
            shards: vec![ShardView {
                shard: GroupId(3),
                leader: Some(NodeId(2)),
                members: vec![NodeId(1), NodeId(2), NodeId(9)],
                containers: Some(4),
            }],
        }
    }

    #[test]
    fn a_sum_that_lacks_a_node_says_so() {
        let mut status = status();
        assert!(!sums(&status).contains("no answer"));
        assert_eq!(status_json(&status)["silent_nodes"], json!([]));
        status.silent_nodes = vec!["node-2".into()];
        let text = sums(&status);
        assert!(text.contains("no answer from node-2"), "{text}");
        assert_eq!(status_json(&status)["silent_nodes"], json!(["node-2"]));
    }

    #[test]
    fn shards_name_their_leader_and_members() {
        let shards = status_json(&status())["shards"].take();
        let members = ["node-1", "node-2", "0000000000000009"];
        let shard = json!({"shard": 3, "leader": "node-2", "members": members, "containers": 4});
        assert_eq!(shards, json!([shard]));
    }
}
