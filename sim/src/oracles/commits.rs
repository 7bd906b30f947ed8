//! What shards commit, looked at while faults strike: a blob has its write quorum of copies, and they stand
//! in two domains of the disk's placement rule where its members do (invariant 3 of pages.md).
//!
//! A blob is judged when it is seen first, and only if its container's placement has not changed since
//! the look before: whoever holds it then held it when it was committed, or has got it since. So a
//! commit with too few copies shows as long as the late ones are on their way. And while its writer may commit,
//! the shard remembers that its name was used (invariant 6 there), whichever shard that is by now.
//!
//! Where no disk is damaged, no blob is ever held by fewer members than its write quorum afterwards either:
//! a member leaves only when enough others hold what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{BlobName, ContainerId, PlacementEpoch, StoreId};
use hedgerow_pages::GroupReplica;
use hedgerow_pages::shard::inspect::{self, Held};
use hedgerow_protocol::{Location, PlacementRule, ROOT_GROUP, Topology};

use crate::scenario::{Cluster, Failure};
use crate::world::World;

const ORACLE: &str = "commits";
/// Between two looks at what shards have.
const PAUSE: Duration = Duration::from_secs(1);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Commits {
    /// Names that some shard had at some time.
    names: BTreeSet<BlobName>,
    epochs: BTreeMap<ContainerId, PlacementEpoch>,
    next_ns: u64,
}

impl Commits {
    /// The names of all blobs that were seen.
    #[must_use]
    pub fn names(&self) -> &BTreeSet<BlobName> {
        &self.names
    }

    /// Looks into one replica of each shard, now and then. `rule` is that of the first disk.
    ///
    /// # Errors
    /// A blob was committed without its quorum.
    pub async fn look(
        &mut self,
        world: &World,
        cluster: &Cluster,
        rule: PlacementRule,
    ) -> Result<(), Failure> {
        if world.now_ns() < self.next_ns {
            return Ok(());
        }
        let is_sound = |index| !cluster.is_damaged(index);
        let sound = cluster.indexes().into_iter().all(is_sound);
        self.next_ns = world.now_ns() + u64::try_from(PAUSE.as_nanos()).expect("a second");
        let mut looked = BTreeSet::from([ROOT_GROUP]);
        for (_, node) in cluster.nodes() {
            let topology = node.groups().directory().topology();
            for replica in node.replicas() {
                if !looked.insert(replica.group()) {
                    continue;
                }
                let found = held_by(world, &*replica).await;
                self.judge(found, &topology, rule, sound)?;
            }
        }
        Ok(())
    }

    fn judge(
        &mut self,
        found: Vec<Held>,
        topology: &Topology,
        rule: PlacementRule,
        sound: bool,
    ) -> Result<(), Failure> {
        // Other disks have rules of their own.
        let first_disk = found.iter().map(|held| held.name.container.disk).min();
        let mut epochs = BTreeMap::new();
        for held in found {
            let container = held.name.container;
            epochs.insert(container, held.epoch);
            let stands = self.epochs.get(&container) == Some(&held.epoch);
            if !held.is_marked {
                let text = format!("{}: its name may be used again", held.name);
                return Err(Failure::correctness(ORACLE, text));
            }
            if sound && held.holders.len() < usize::from(held.write_quorum) {
                let text = format!(
                    "{}: fewer copies than the write quorum: {held:?}",
                    held.name
                );
                return Err(Failure::correctness(ORACLE, text));
            }
            if !self.names.insert(held.name) || !stands {
                continue;
            }
            let of_first = Some(container.disk) == first_disk;
            let rule = if of_first {
                rule
            } else {
                PlacementRule::Agnostic
            };
            if let Some(why) = short(&held, topology, rule) {
                let text = format!("{}: {why}: {held:?}", held.name);
                return Err(Failure::correctness(ORACLE, text));
            }
        }
        // A replica that lags knows an earlier epoch: then nothing is judged at the next look.
        self.epochs.extend(epochs);
        Ok(())
    }
}

/// What a replica of a shard has; nothing if it does not answer.
pub(super) async fn held_by(world: &World, replica: &dyn GroupReplica) -> Vec<Held> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let filling = Arc::clone(&found);
    let read = replica.read(Box::new(move |view, _| {
        let blobs = view.ok().and_then(|view| inspect::blobs(view).ok());
        *filling.lock().expect("no panic under this lock") = blobs.unwrap_or_default();
    }));
    // A replica that is stopped meanwhile never answers.
    let limit = std::pin::pin!(world.sleep(PAUSE));
    drop(futures_util::future::select(read, limit).await);
    std::mem::take(&mut *found.lock().expect("no panic under this lock"))
}

/// Why a blob cannot have been committed.
fn short(held: &Held, topology: &Topology, rule: PlacementRule) -> Option<&'static str> {
    let needed = usize::from(held.write_quorum);
    if held.holders.len() < needed {
        return Some("fewer copies than the write quorum");
    }
    let domains = |stores: &[StoreId]| -> BTreeSet<(String, String)> {
        let of = |store: &StoreId| domain(topology, *store, rule);
        stores.iter().filter_map(of).collect()
    };
    let known = |store: &StoreId| domain(topology, *store, rule).is_some();
    let all_known = held.writable.iter().all(known);
    let spans = all_known && needed >= 2 && domains(&held.writable).len() >= 2;
    (spans && domains(&held.holders).len() < 2).then_some("every copy in one domain")
}

fn domain(topology: &Topology, store: StoreId, rule: PlacementRule) -> Option<(String, String)> {
    let mut nodes = topology.nodes.iter();
    let node = nodes.find(|node| node.stores.iter().any(|one| one.store == store))?;
    let Location {
        data_centre, rack, ..
    } = node.location.clone();
    Some(match rule {
        PlacementRule::Agnostic => (String::new(), String::new()),
        PlacementRule::RackAware => (data_centre, rack),
        PlacementRule::DataCentreAware => (data_centre, String::new()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedgerow_env::{ContainerIndex, FamilyId, NodeId, Sequence, VirtualDiskId, WriterId};
    use hedgerow_protocol::{NodeRecord, NodeState, Residence, Roles, StoreRecord};

    fn node(number: u64, rack: &str) -> NodeRecord {
        NodeRecord {
            node: NodeId(number),
            name: String::new(),
            address: String::new(),
            roles: Roles::HBLOCK,
            location: Location {
                rack: rack.into(),
                ..Location::default()
            },
            stores: vec![StoreRecord {
                store: StoreId(number),
                capacity_bytes: 0,
                residence: Residence::Hdd,
                system: true,
            }],
            state: NodeState::Up,
            reason: String::new(),
        }
    }

    #[test]
    fn copies_are_counted_and_must_span_what_the_members_span() {
        let topology = Topology {
            nodes: vec![node(1, "a"), node(2, "a"), node(3, "b")],
            ..Topology::default()
        };
        let held = |holders: &[u64]| Held {
            is_marked: true,
            name: BlobName {
                container: ContainerId {
                    family: FamilyId(1),
                    disk: VirtualDiskId(1),
                    index: ContainerIndex(0),
                },
                writer: WriterId(1),
                sequence: Sequence(1),
            },
            epoch: PlacementEpoch(1),
            write_quorum: 2,
            writable: vec![StoreId(1), StoreId(2), StoreId(3)],
            holders: holders.iter().map(|store| StoreId(*store)).collect(),
        };
        let short = |holders: &[u64], rule| short(&held(holders), &topology, rule);
        assert!(short(&[1], PlacementRule::Agnostic).is_some());
        assert!(short(&[1, 2], PlacementRule::Agnostic).is_none());
        assert!(short(&[1, 2], PlacementRule::RackAware).is_some());
        assert!(short(&[1, 3], PlacementRule::RackAware).is_none());
    }
}
