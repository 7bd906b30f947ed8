//! What one store remembers of the containers that it is a member of, and what it refuses by that.
//!
//! Invariants:
//! - the highest epoch and generation that a request showed are remembered; a lower one is refused.
//!   They are in memory at once, and an answer under them waits until the record of that
//!   [`RecordVersion`] is durable;
//! - epochs and generations of a container never go down; a retired container takes blobs again
//!   only under a higher epoch than the one in which it left;
//! - a name is stored once: while its append runs, a second request of it joins the first;
//! - a collected name is refused for as long as it is remembered.
//!
//! Does not: store anything, or decide what is collected (the shard does).

use std::collections::BTreeMap;

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    BlobName, ContainerId, Generation, PlacementEpoch, Sequence, StoreId, WriterId,
};
use hedgerow_protocol::{Digest, Envelope, HBlockRefusal};
use serde::{Deserialize, Serialize};

use crate::SequenceRanges;
use crate::promises::Fence;

/// Most containers of one store: at 1 GiB each this is a PiB. A request for one more is refused.
pub const MAXIMUM_CONTAINERS: usize = 1 << 20;

/// Most writers whose collected names one container remembers; the lowest id is the oldest.
pub const MAXIMUM_COLLECTED_WRITERS: usize = 16;

/// Most appends of one store at a time.
pub const MAXIMUM_PENDING: usize = 4096;

/// Whether the store belongs to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Role {
    /// It holds, or is to hold, the container's blobs.
    #[default]
    Member,
    /// It left in the record's epoch and dropped what it had.
    Retired,
}

/// What a store keeps durably of one container (docs/format/hblock-records.md).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Which container.
    pub container: ContainerId,
    /// The highest placement epoch seen.
    pub epoch: PlacementEpoch,
    /// The highest generation seen.
    pub generation: Generation,
    /// Whether the store belongs to it.
    pub role: Role,
    /// The members of the newest placement that the shard told of: whom to ask for blobs.
    pub members: Vec<StoreId>,
    /// Names that must not be stored again.
    pub collected: BTreeMap<WriterId, SequenceRanges>,
}

impl Envelope for ContainerRecord {
    const KIND: u16 = 25;
    const VERSION: u16 = 1;
}

/// The number of a change to a container's record; an answer waits for the one that it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RecordVersion(pub u64);

#[derive(Debug, Default)]
struct Container {
    record: ContainerRecord,
    version: RecordVersion,
    durable: RecordVersion,
    /// From this version on the record has its present epoch and generation.
    fenced: RecordVersion,
}

impl Container {
    fn fence(&self) -> Fence {
        (self.record.epoch, self.record.generation)
    }

    /// The record has changed; `before` was its fence.
    fn changed(&mut self, before: Fence) {
        self.version.0 += 1;
        if self.fence() != before {
            self.fenced = self.version;
        }
    }
}

/// What to do with a blob that somebody wants stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreDecision {
    /// Answer this; nothing changed.
    Refuse(HBlockRefusal),
    /// The same bytes are being stored: wait for that, and for the record.
    Join(RecordVersion),
    /// The name is now pending. Look whether it is held, append it if not, wait for the record,
    /// then call [`Member::finish`].
    Proceed(RecordVersion),
}

/// How a pending name ended, judged after its append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// It stays.
    Kept,
    /// It was collected meanwhile: delete it and answer *collected*.
    Collected,
    /// The store left the container meanwhile: delete it and answer *stale epoch*. The writer may
    /// hold the disk all the same, and goes on with the members of this epoch.
    Retired(PlacementEpoch),
}

/// The core of one store.
#[derive(Debug, Default)]
pub struct Member {
    containers: BTreeMap<ContainerId, Container>,
    pending: BTreeMap<BlobName, Digest>,
}

impl Member {
    /// The core as the store's durable records left it.
    #[must_use]
    pub fn recovered(records: impl IntoIterator<Item = ContainerRecord>) -> Self {
        let containers = records
            .into_iter()
            .map(|record| {
                let container = Container {
                    record,
                    ..Container::default()
                };
                (container.record.container, container)
            })
            .collect();
        Self {
            containers,
            pending: BTreeMap::new(),
        }
    }

    /// Judges a request to store `name` with this identity digest.
    pub fn store(
        &mut self,
        name: BlobName,
        identity: Digest,
        generation: Generation,
        epoch: PlacementEpoch,
    ) -> StoreDecision {
        if self.was_collected(name) {
            return StoreDecision::Refuse(HBlockRefusal::Collected);
        }
        if self.pending.len() >= MAXIMUM_PENDING && !self.pending.contains_key(&name) {
            return StoreDecision::Refuse(busy("too many appends in flight"));
        }
        let version = match self.admit(name.container, Some(generation), epoch) {
            Ok(version) => version,
            Err(refusal) => return StoreDecision::Refuse(refusal),
        };
        match self.pending.get(&name) {
            Some(pending) if *pending == identity => StoreDecision::Join(version),
            Some(_) => StoreDecision::Refuse(HBlockRefusal::OtherDigest),
            None => {
                self.pending.insert(name, identity);
                StoreDecision::Proceed(version)
            }
        }
    }

    /// Makes `name` pending for a copy that the shard asked for (catch-up, repair). `None` when it
    /// is pending already or no longer wanted.
    pub fn store_copy(&mut self, name: BlobName, identity: Digest) -> Option<()> {
        if !self.wants(name)
            || self.pending.contains_key(&name)
            || self.pending.len() >= MAXIMUM_PENDING
        {
            return None;
        }
        self.pending.insert(name, identity);
        Some(())
    }

    /// The append of a pending name ended. Unless it stays, the name is pending until
    /// [`Member::abandon`], so that nobody stores it while what was appended is deleted.
    ///
    /// # Panics
    /// When the name is not pending.
    pub fn finish(&mut self, name: BlobName) -> Finished {
        assert!(
            self.pending.contains_key(&name),
            "only a pending name is finished"
        );
        if self.was_collected(name) {
            return Finished::Collected;
        }
        if let Some(epoch) = self.retired(name.container) {
            return Finished::Retired(epoch);
        }
        self.pending.remove(&name);
        Finished::Kept
    }

    /// A pending name that is not to stay has been deleted.
    pub fn abandon(&mut self, name: BlobName) {
        self.pending.remove(&name);
    }

    /// Judges a request to acknowledge names of `container` under `epoch`.
    ///
    /// # Errors
    /// The refusal to answer.
    pub fn acknowledge(
        &mut self,
        container: ContainerId,
        epoch: PlacementEpoch,
    ) -> Result<RecordVersion, HBlockRefusal> {
        self.admit(container, None, epoch)
    }

    /// The shard says that the store is a member of this placement.
    pub fn placed(
        &mut self,
        container: ContainerId,
        epoch: PlacementEpoch,
        generation: Generation,
        members: Vec<StoreId>,
    ) -> RecordVersion {
        let entry = self.entry(container);
        if epoch >= entry.record.epoch {
            let role = if epoch > entry.record.epoch {
                Role::Member
            } else {
                entry.record.role
            };
            let generation = generation.max(entry.record.generation);
            let changed = entry.record.epoch != epoch
                || entry.record.role != role
                || entry.record.generation != generation
                || entry.record.members != members;
            if changed {
                let before = entry.fence();
                entry.record.epoch = epoch;
                entry.record.role = role;
                entry.record.generation = generation;
                entry.record.members = members;
                entry.changed(before);
            }
        }
        entry.version
    }

    /// The shard says that these names are free.
    pub fn collected(
        &mut self,
        container: ContainerId,
        writer: WriterId,
        sequences: &[Sequence],
    ) -> RecordVersion {
        let entry = self.entry(container);
        let ranges = entry.record.collected.entry(writer).or_default();
        let mut changed = false;
        for sequence in sequences {
            changed |= ranges.insert(*sequence);
        }
        if entry.record.collected.len() > MAXIMUM_COLLECTED_WRITERS {
            entry.record.collected.pop_first();
        }
        if changed {
            entry.version.0 += 1;
        }
        entry.version
    }

    /// The shard says that the store left `container` in `epoch`. `None` when the store has seen a
    /// higher epoch: it was placed there again, and the message is an old one.
    pub fn retire(
        &mut self,
        container: ContainerId,
        epoch: PlacementEpoch,
    ) -> Option<RecordVersion> {
        let entry = self.entry(container);
        if entry.record.epoch > epoch && !active(Mutant::LateRetireObeyed) {
            return None;
        }
        if entry.record.epoch != epoch || entry.record.role != Role::Retired {
            let before = entry.fence();
            entry.record.epoch = epoch;
            entry.record.role = Role::Retired;
            entry.record.members = Vec::new();
            entry.record.collected = BTreeMap::new();
            entry.changed(before);
        }
        Some(entry.version)
    }

    /// Whether a copy of `name` may stay or come here: not collected, its container not retired.
    #[must_use]
    pub fn wants(&self, name: BlobName) -> bool {
        self.retired(name.container).is_none() && !self.was_collected(name)
    }

    /// The epoch as of which the store has left `container`, unless it is a member.
    fn retired(&self, container: ContainerId) -> Option<PlacementEpoch> {
        let record = &self.containers.get(&container)?.record;
        (record.role == Role::Retired).then_some(record.epoch)
    }

    /// Whether `name` is being appended: not held yet, as far as answers go.
    #[must_use]
    pub fn is_pending(&self, name: BlobName) -> bool {
        self.pending.contains_key(&name)
    }

    /// The epoch to confirm blobs of `container` under: the highest seen, at least `given`.
    #[must_use]
    pub fn confirm_epoch(&self, container: ContainerId, given: PlacementEpoch) -> PlacementEpoch {
        let seen = self
            .containers
            .get(&container)
            .map_or(given, |entry| entry.record.epoch);
        seen.max(given)
    }

    /// The record of `container`, if there is one.
    #[must_use]
    pub fn record(&self, container: ContainerId) -> Option<&ContainerRecord> {
        Some(&self.containers.get(&container)?.record)
    }

    /// Whether the record of `container` is durable up to `version`.
    #[must_use]
    pub fn is_durable(&self, container: ContainerId, version: RecordVersion) -> bool {
        self.containers
            .get(&container)
            .is_none_or(|entry| entry.durable >= version)
    }

    /// The epoch and generation that an answer after `version` stands for, unless they have risen since.
    pub(crate) fn fence(&self, container: ContainerId, version: RecordVersion) -> Option<Fence> {
        let entry = self.containers.get(&container)?;
        (entry.fenced <= version).then(|| entry.fence())
    }

    /// What each container's record says now.
    pub(crate) fn fences(&self) -> BTreeMap<ContainerId, Fence> {
        let entries = self.containers.iter();
        entries.map(|(id, entry)| (*id, entry.fence())).collect()
    }

    /// The record to make durable, with its version; `None` when it is durable as it stands.
    #[must_use]
    pub fn unwritten(&self, container: ContainerId) -> Option<(RecordVersion, ContainerRecord)> {
        let entry = self.containers.get(&container)?;
        (entry.durable < entry.version).then(|| (entry.version, entry.record.clone()))
    }

    /// The record of `container` became durable as of `version`.
    pub fn written(&mut self, container: ContainerId, version: RecordVersion) {
        if let Some(entry) = self.containers.get_mut(&container) {
            assert!(version <= entry.version, "only what was made is written");
            entry.durable = entry.durable.max(version);
        }
    }

    fn was_collected(&self, name: BlobName) -> bool {
        if active(Mutant::CollectedNameForgotten) {
            return false;
        }
        self.containers
            .get(&name.container)
            .and_then(|entry| entry.record.collected.get(&name.writer))
            .is_some_and(|ranges| ranges.contains(name.sequence))
    }

    /// Checks epoch and generation of a request and remembers what is higher.
    fn admit(
        &mut self,
        container: ContainerId,
        generation: Option<Generation>,
        epoch: PlacementEpoch,
    ) -> Result<RecordVersion, HBlockRefusal> {
        if self.containers.len() >= MAXIMUM_CONTAINERS && !self.containers.contains_key(&container)
        {
            return Err(busy("too many containers"));
        }
        if let Some(entry) = self.containers.get(&container) {
            let record = &entry.record;
            if epoch < record.epoch && !active(Mutant::MemberEpochUnchecked) {
                let current = record.epoch;
                return Err(HBlockRefusal::StaleEpoch { current });
            }
            if epoch == record.epoch && record.role == Role::Retired {
                return Err(HBlockRefusal::Collected);
            }
            if generation.is_some_and(|generation| generation < record.generation) {
                let current = record.generation;
                return Err(HBlockRefusal::StaleGeneration { current });
            }
        }
        let entry = self.entry(container);
        let generation = generation.map_or(entry.record.generation, |given| {
            given.max(entry.record.generation)
        });
        if epoch > entry.record.epoch || generation > entry.record.generation {
            let before = entry.fence();
            entry.record.epoch = epoch;
            entry.record.generation = generation;
            entry.record.role = Role::Member;
            entry.changed(before);
        }
        Ok(entry.version)
    }

    fn entry(&mut self, container: ContainerId) -> &mut Container {
        self.containers
            .entry(container)
            .or_insert_with(|| Container {
                record: ContainerRecord {
                    container,
                    ..ContainerRecord::default()
                },
                ..Container::default()
            })
    }
}

fn busy(reason: &str) -> HBlockRefusal {
    HBlockRefusal::Busy {
        reason: reason.to_owned(),
    }
}
