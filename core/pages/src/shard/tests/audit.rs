//! Recomputes every counter and cross-reference of a shard's state from its map and blobs.

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_env::{BlobName, ContainerId, StoreId};
use hedgerow_protocol::{MapTarget, MemberState};

use super::super::keys::{self, Position};
use super::super::map::{self, LayerAt};
use super::super::rows::{BlobRow, ContainerRow, FeedRow};
use super::super::tables::walk;
use crate::fields::Take;
use crate::{MemoryState, StateError};

/// Panics where the state contradicts itself.
pub(super) fn check(state: &MemoryState) {
    audit(state).expect("a state in memory does not fail");
}

fn audit(state: &MemoryState) -> Result<(), StateError> {
    let blobs = check_map(state)?;
    let mut containers = BTreeMap::new();
    walk(state, &keys::kind(keys::CONTAINER), None, |(key, value)| {
        containers.insert(keys::container_of_key(key)?, ContainerRow::decode(value)?);
        Ok(true)
    })?;
    for (container, row) in &containers {
        check_container(*container, row, &blobs);
    }
    check_feeds(state, &containers, &blobs)
}

/// The map's entries do not overlap, and each blob has as many live blocks as the map names.
fn check_map(state: &MemoryState) -> Result<BTreeMap<BlobName, BlobRow>, StateError> {
    let mut named = BTreeMap::<BlobName, u32>::new();
    let mut layers = BTreeSet::new();
    for key in state.0.keys().filter(|key| key[0] == 3) {
        let mut take = Take::new(key, "map key");
        take.u8()?;
        layers.insert((take.u64()?, take.u32()?, take.u64()?));
    }
    for (family, index, layer) in layers {
        let at = LayerAt {
            family: hedgerow_env::FamilyId(family),
            index: hedgerow_env::ContainerIndex(index),
            layer: hedgerow_env::LayerId(layer),
        };
        let mut next = 0;
        for entry in map::page_of(state, at, usize::MAX)? {
            assert!(entry.first_block >= next, "entries of a layer overlap");
            next = entry.end();
            if let MapTarget::Data { blob, .. } = entry.target {
                *named.entry(blob).or_default() += entry.blocks;
            }
        }
    }
    let mut blobs = BTreeMap::new();
    for (key, value) in state.0.iter().filter(|(key, _)| key[0] == 4) {
        let name = keys::name_of_key(key)?;
        let row = BlobRow::decode(value)?;
        assert_eq!(
            named.remove(&name),
            Some(row.live_blocks),
            "live blocks of {name}"
        );
        assert!(
            !state.0.contains_key(&keys::free(name)),
            "{name} is live and free"
        );
        blobs.insert(name, row);
    }
    assert!(named.is_empty(), "mapped without a row: {named:?}");
    Ok(blobs)
}

fn check_container(
    container: ContainerId,
    row: &ContainerRow,
    blobs: &BTreeMap<BlobName, BlobRow>,
) {
    let own = || blobs.iter().filter(|(name, _)| name.container == container);
    assert_eq!(
        row.live_blobs,
        u64::try_from(own().count()).unwrap(),
        "{container}"
    );
    let bytes: u64 = own().map(|(_, blob)| u64::from(blob.stored_bytes)).sum();
    assert_eq!(row.stored_bytes, bytes, "{container}");
    for member in row
        .placement
        .iter()
        .flat_map(|placement| &placement.members)
    {
        let lacked: Vec<&BlobRow> = own()
            .map(|(_, blob)| blob)
            .filter(|blob| !blob.is_held_by(member.slot))
            .collect();
        let count = |number: usize| u64::try_from(number).unwrap();
        assert_eq!(
            member.missing,
            count(lacked.len()),
            "{container} {}",
            member.store
        );
        let bytes: u64 = lacked.iter().map(|blob| u64::from(blob.stored_bytes)).sum();
        assert_eq!(member.missing_bytes, bytes, "{container} {}", member.store);
        let owed = lacked.iter().filter(|blob| blob.committed < member.joined);
        assert_eq!(
            member.owed,
            count(owed.count()),
            "{container} {}",
            member.store
        );
        if member.state == MemberState::Filling {
            assert!(member.owed > 0, "{} has filled", member.store);
        }
    }
}

/// Each listed blob stands in its store's feed and the other way round; what a member that takes
/// new blobs lacks is listed, unless a sweep of it is on its way.
fn check_feeds(
    state: &MemoryState,
    containers: &BTreeMap<ContainerId, ContainerRow>,
    blobs: &BTreeMap<BlobName, BlobRow>,
) -> Result<(), StateError> {
    let mut listed: BTreeSet<(StoreId, Position, BlobName)> = BTreeSet::new();
    for (name, blob) in blobs {
        for row in &blob.listed {
            assert!(
                listed.insert((row.store, row.position, *name)),
                "listed twice: {name}"
            );
        }
    }
    let mut placed = BTreeSet::new();
    for (container, row) in containers {
        for member in row
            .placement
            .iter()
            .flat_map(|placement| &placement.members)
        {
            placed.insert((member.store, member.placed, *container));
        }
    }
    for (key, value) in state.0.iter().filter(|(key, _)| key[0] == 8) {
        let mut take = Take::new(key, "feed key");
        take.u8()?;
        let store = StoreId(take.u64()?);
        let position = keys::feed_position(key)?;
        match FeedRow::decode(value)? {
            FeedRow::Incomplete(name) => {
                assert!(
                    listed.remove(&(store, position, name)),
                    "{store} {name}: no such blob"
                );
            }
            FeedRow::Placed(container) => {
                let known = placed.remove(&(store, position, container));
                assert!(known, "{store} {container}: no such member");
            }
            FeedRow::Retire(container, _) => {
                let key = keys::retiring(container, store);
                assert!(
                    state.0.contains_key(&key),
                    "{store} {container}: does not retire"
                );
            }
        }
    }
    assert!(
        listed.is_empty() && placed.is_empty(),
        "not told: {listed:?} {placed:?}"
    );
    for (name, blob) in blobs {
        let row = &containers[&name.container];
        for member in row
            .placement
            .iter()
            .flat_map(|placement| &placement.members)
        {
            let expected = member.is_writable() && !blob.is_held_by(member.slot);
            let listed = blob.listed.iter().any(|row| row.store == member.store);
            let swept = state
                .0
                .contains_key(&keys::sweep(member.store, name.container));
            assert!(expected == listed || swept, "{name} for {}", member.store);
        }
    }
    Ok(())
}
