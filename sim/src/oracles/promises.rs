//! Replicas keep their word: no life of a Raft member begins without the vote, or the entries, that an earlier
//! life of it had called durable.
//!
//! Others were answered accordingly, and a majority that forgets may lose what was acknowledged; yet it takes
//! rare luck for a client to see it. Here it is seen at the next start, whoever was harmed.
//!
//! A damaged disk may have lost the very last that was written to it, of which nothing tells any more, or be an
//! old image: there a vote is asked for only where the entries are all there. What else is lost a replica finds
//! out by itself, and does not run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hedgerow_env::GroupId;
use hedgerow_pages::raft::Promises;
use hedgerow_protocol::MemberId;

use crate::scenario::{Cluster, Failure};

/// The newest life seen of each member.
#[derive(Debug, Default)]
pub struct Lives(Mutex<BTreeMap<(GroupId, MemberId), Arc<Promises>>>);

impl Lives {
    /// Looks at every replica that runs.
    ///
    /// # Errors
    /// One has begun without what an earlier life of it had promised.
    pub fn look(&self, cluster: &Cluster) -> Result<(), Failure> {
        let mut lives = self.0.lock().expect("no panic under this lock");
        for (index, node) in cluster.nodes() {
            for replica in node.replicas() {
                let Some(present) = replica.promises() else {
                    continue;
                };
                let (group, member) = (replica.group(), replica.member());
                let before = lives.insert((group, member), Arc::clone(&present));
                let before = before.filter(|before| !Arc::ptr_eq(before, &present));
                let damaged = cluster.is_damaged(index);
                let broken = before.and_then(|before| before.broken_by(&present, damaged));
                if let Some(why) = broken {
                    let text = format!("node {index}: {group} {member}: {why}");
                    return Err(Failure::correctness("promises", text));
                }
            }
        }
        Ok(())
    }
}
