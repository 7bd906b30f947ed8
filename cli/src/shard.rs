//! Commands on shards: `shard ...`.
//!
//! Does not: take a split back. One that has begun goes on by itself, whoever watches it.

use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use hedgerow_env::{Env, GroupId};
use hedgerow_protocol::{AdminReply, AdminRequest, ShardList, ShardRange, SplitView};
use serde_json::{Value, json};

use crate::asking::ask;
use crate::client::{ClientOptions, print_json};
use crate::out::say;

/// Between two looks at a split that is under way.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// `hedgerow shard ...`
#[derive(Subcommand, Debug)]
pub(crate) enum ShardCommand {
    /// List the shards, which part of all containers each has, and the split that is under way
    List,
    /// Split a shard in two, and wait until that is done
    Split {
        /// The shard's number
        shard: u32,
    },
}

/// Runs a shard command.
pub(crate) async fn shard(
    env: Env,
    options: &ClientOptions,
    command: ShardCommand,
) -> anyhow::Result<()> {
    match command {
        ShardCommand::List => {
            let list = list(&env, options).await?;
            if options.json {
                print_json(&list_json(&list));
            } else {
                say!("{}", list_text(&list));
            }
            Ok(())
        }
        ShardCommand::Split { shard } => split(&env, options, GroupId(shard)).await,
    }
}

async fn list(env: &Env, options: &ClientOptions) -> anyhow::Result<ShardList> {
    match ask(env, options, &AdminRequest::ListShards).await? {
        AdminReply::Shards(list) => Ok(list),
        other => bail!("unexpected answer: {other:?}"),
    }
}

/// Has a shard split, or goes on waiting where that is under way.
async fn split(env: &Env, options: &ClientOptions, group: GroupId) -> anyhow::Result<()> {
    let listed = list(env, options).await?;
    let begun = match listed.split {
        Some(split) if split.from == group => split,
        _ => {
            let epoch = listed.epoch;
            match ask(env, options, &AdminRequest::SplitShard { group, epoch }).await? {
                AdminReply::Splitting(split) => split,
                other => bail!("unexpected answer: {other:?}"),
            }
        }
    };
    let mut known = None;
    loop {
        let now = match ask(env, options, &AdminRequest::ShowSplit).await? {
            AdminReply::Split(now) => now.filter(|split| split.to == begun.to),
            other => bail!("unexpected answer: {other:?}"),
        };
        let Some(now) = now else { break };
        if known.as_ref() != Some(&now) && !options.json {
            say!("{}", split_text(&now));
        }
        known = Some(now);
        env.sleep(LOOK_PAUSE).await;
    }
    if options.json {
        let split = json!({ "from": begun.from.0, "to": begun.to.0 });
        print_json(&json!({ "schema_version": 1, "split": split }));
    } else {
        say!(
            "done: shard {} has half of shard {}",
            begun.to.0,
            begun.from.0
        );
    }
    Ok(())
}

/// A split that is under way, for people.
pub(crate) fn split_text(split: &SplitView) -> String {
    let (from, to) = (split.from.0, split.to.0);
    if split.opened {
        format!("shard {to} serves; what moved is being removed from shard {from}")
    } else {
        format!("half of shard {from} is being copied into shard {to}")
    }
}

/// A split that is under way, for scripts.
pub(crate) fn split_json(split: Option<&SplitView>) -> Value {
    split.map_or(Value::Null, |split| {
        json!({
            "from": split.from.0,
            "to": split.to.0,
            "stage": if split.opened { "clearing" } else { "copying" },
        })
    })
}

/// How large a part of all containers a shard has.
fn part(range: ShardRange) -> String {
    format!("1/{}", 1_u64 << range.bits)
}

fn list_json(list: &ShardList) -> Value {
    let shards: Vec<Value> = list
        .shards
        .iter()
        .map(|shard| {
            json!({
                "shard": shard.view.shard.0,
                "leader": shard.view.leader.map(|node| format!("{:016x}", node.0)),
                "members": shard
                    .view
                    .members
                    .iter()
                    .map(|node| format!("{:016x}", node.0))
                    .collect::<Vec<_>>(),
                "containers": shard.view.containers,
                "bits": shard.range.bits,
                "pattern": shard.range.pattern,
            })
        })
        .collect();
    json!({
        "schema_version": 1,
        "map_epoch": list.epoch.0,
        "shards": shards,
        "split": split_json(list.split.as_ref()),
    })
}

fn list_text(list: &ShardList) -> String {
    let mut text = format!("{:<6} {:<8} {:<11} REPLICAS", "SHARD", "PART", "CONTAINERS");
    for shard in &list.shards {
        let containers = match shard.view.containers {
            Some(containers) => containers.to_string(),
            None => "no answer".into(),
        };
        text.push_str(&format!(
            "\n{:<6} {:<8} {:<11} {}",
            shard.view.shard.0,
            part(shard.range),
            containers,
            shard.view.members.len()
        ));
    }
    if let Some(split) = &list.split {
        text.push_str(&format!("\n{}", split_text(split)));
    }
    text
}

#[cfg(test)]
mod tests {
    use hedgerow_env::{MapEpoch, NodeId};
    use hedgerow_protocol::{ShardSlots, ShardView};

    use super::*;

    #[test]
    fn shards_tell_their_part_and_how_far_a_split_is() {
        let mut list = ShardList {
            epoch: MapEpoch(9),
            shards: vec![ShardSlots {
                view: ShardView {
                    shard: GroupId(3),
                    leader: Some(NodeId(2)),
                    members: vec![NodeId(1), NodeId(2), NodeId(3)],
                    containers: Some(4),
                },
                range: ShardRange {
                    bits: 3,
                    pattern: 5,
                },
            }],
            split: Some(SplitView {
                from: GroupId(3),
                to: GroupId(5),
                opened: false,
            }),
        };
        let text = list_text(&list);
        assert!(text.contains("3      1/8      4           3"), "{text}");
        assert!(text.ends_with("half of shard 3 is being copied into shard 5"));
        let told = list_json(&list);
        assert_eq!(told["split"]["stage"], "copying");
        assert_eq!(told["shards"][0]["pattern"], 5);
        list.split = None;
        assert_eq!(list_json(&list)["split"], Value::Null);
    }
}
