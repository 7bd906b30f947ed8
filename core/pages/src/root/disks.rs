//! Commands on virtual disks: create, resize, delete, and the shards' word that one is gone.
//!
//! Invariants: a name belongs to one disk that is not being deleted; ids are never reused; a
//! creation repeated with its nonce answers the disk made first; a disk's record stays until
//! every shard has dropped it.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{FamilyId, Generation, GroupId, LayerId, TenantId, VirtualDiskId};
use hedgerow_protocol::{DiskRecord, DiskState, Policy, RootOutcome, RootRefusal, check_disk_name};

use super::cluster::invalid;
use super::keys::{self, Counter};
use super::leases::floor_pending;
use super::tables::{self, Stop};
use crate::Update;

/// Longest description, in bytes.
pub const MAXIMUM_DESCRIPTION_BYTES: usize = 1024;
/// Containers lie between these sizes; blocks within one are numbered by 32 bits of 512 bytes.
pub const CONTAINER_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 36);

/// A disk that someone asks for.
pub(super) struct Wish<'a> {
    pub(super) nonce: u64,
    pub(super) name: &'a str,
    pub(super) size_bytes: u64,
    pub(super) container_bytes: u64,
    pub(super) policy: &'a Policy,
    pub(super) description: &'a str,
}

fn check_size(size_bytes: u64, container_bytes: u64, policy: &Policy) -> Result<(), RootRefusal> {
    let block = u64::from(policy.block_size);
    if size_bytes == 0 || !size_bytes.is_multiple_of(block) {
        return Err(invalid(format!(
            "size {size_bytes}: use a multiple of the block size, {block} bytes"
        )));
    }
    if u32::try_from(size_bytes.div_ceil(container_bytes)).is_err() {
        return Err(invalid(format!(
            "size {size_bytes}: at most 2^32 containers of {container_bytes} bytes are possible"
        )));
    }
    Ok(())
}

fn check_wish(wish: &Wish<'_>) -> Result<(), RootRefusal> {
    check_disk_name(wish.name).map_err(invalid)?;
    wish.policy.check().map_err(invalid)?;
    if !CONTAINER_BYTES.contains(&wish.container_bytes) || !wish.container_bytes.is_power_of_two() {
        return Err(invalid(format!(
            "container size {}: use a power of two from {} to {} bytes",
            wish.container_bytes,
            CONTAINER_BYTES.start(),
            CONTAINER_BYTES.end()
        )));
    }
    check_size(wish.size_bytes, wish.container_bytes, wish.policy)?;
    if wish.description.len() > MAXIMUM_DESCRIPTION_BYTES {
        return Err(invalid(format!(
            "the description is longer than {MAXIMUM_DESCRIPTION_BYTES} bytes"
        )));
    }
    Ok(())
}

/// `CreateDisk`.
pub(super) fn create(state: &mut dyn Update, wish: &Wish<'_>) -> Result<RootOutcome, Stop> {
    let creation = keys::creation(wish.nonce);
    if let Some(made) = tables::read_number(state, &creation)?
        && let Some(record) = tables::disk(state, VirtualDiskId(made))?
    {
        return Ok(RootOutcome::Disk(record));
    }
    check_wish(wish)?;
    let name_key = keys::name(wish.name);
    if state.get(&name_key)?.is_some() {
        return Err(RootRefusal::NameTaken {
            name: wish.name.to_owned(),
        }
        .into());
    }
    let disk = tables::next_number(state, Counter::Disk)?;
    let record = DiskRecord {
        disk: VirtualDiskId(disk),
        family: FamilyId(tables::next_number(state, Counter::Family)?),
        name: wish.name.to_owned(),
        size_bytes: wish.size_bytes,
        container_bytes: wish.container_bytes,
        policy: wish.policy.clone(),
        layers: vec![LayerId(tables::next_number(state, Counter::Layer)?)],
        generation: Generation(1),
        attachments: Vec::new(),
        state: DiskState::Ready,
        tenant: TenantId(0),
        qos_class: 0,
        description: wish.description.to_owned(),
    };
    tables::write_disk(state, &record)?;
    tables::write_number(state, &name_key, disk)?;
    if !active(Mutant::CreationNotRemembered) {
        tables::write_number(state, &creation, disk)?;
    }
    tables::write_number(state, &keys::nonce_of(record.disk), wish.nonce)?;
    Ok(RootOutcome::Disk(record))
}

/// The record of a disk that can be used.
pub(super) fn ready(state: &dyn Update, disk: VirtualDiskId) -> Result<DiskRecord, Stop> {
    match tables::disk(state, disk)? {
        Some(record) if record.state == DiskState::Ready => Ok(record),
        _ => Err(RootRefusal::NoSuchDisk {
            disk: disk.to_string(),
        }
        .into()),
    }
}

/// `ResizeDisk`: whoever proposes it has written holes beyond a smaller end before.
pub(super) fn resize_unseen(
    state: &mut dyn Update,
    disk: VirtualDiskId,
    size_bytes: u64,
) -> Result<RootOutcome, Stop> {
    let mut record = ready(state, disk)?;
    check_size(size_bytes, record.container_bytes, &record.policy)?;
    if size_bytes > record.size_bytes {
        grow(&record, tables::read_number(state, &keys::cut(disk))?)?;
    }
    if size_bytes < record.size_bytes {
        record.generation.0 += 1;
    }
    if size_bytes != record.size_bytes {
        record.size_bytes = size_bytes;
        tables::write_disk(state, &record)?;
    }
    Ok(RootOutcome::Disk(record))
}

/// `Resize`. `seen` is the size and generation that the requester saw.
pub(super) fn resize(
    state: &mut dyn Update,
    disk: VirtualDiskId,
    seen: (u64, Generation),
    size_bytes: u64,
) -> Result<RootOutcome, Stop> {
    let mut record = ready(state, disk)?;
    check_size(size_bytes, record.container_bytes, &record.policy)?;
    let mut cut = tables::read_number(state, &keys::cut(disk))?;
    if size_bytes != record.size_bytes {
        if seen != (record.size_bytes, record.generation) {
            return Err(changed(&record).into());
        }
        if size_bytes > record.size_bytes {
            grow(&record, cut)?;
            record.size_bytes = size_bytes;
        } else {
            // Of two cuts the farther end counts: nothing between them was zeroed.
            cut = cut.max(Some(record.size_bytes));
            cut_to(state, &mut record, size_bytes, cut)?;
        }
        tables::write_disk(state, &record)?;
    }
    Ok(RootOutcome::Resized {
        disk: record,
        cut_from_bytes: cut,
    })
}

fn changed(record: &DiskRecord) -> RootRefusal {
    RootRefusal::Changed {
        size_bytes: record.size_bytes,
        generation: record.generation,
    }
}

/// What was beyond the end must be gone before it is within the disk again.
fn grow(record: &DiskRecord, cut: Option<u64>) -> Result<(), RootRefusal> {
    match cut {
        None => Ok(()),
        Some(_) => Err(RootRefusal::Cutting {
            size_bytes: record.size_bytes,
        }),
    }
}

/// From here on nobody can attach the former size, and what is still under way under it is fenced
/// everywhere.
fn cut_to(
    state: &mut dyn Update,
    record: &mut DiskRecord,
    size_bytes: u64,
    cut: Option<u64>,
) -> Result<(), Stop> {
    if let Some(held) = record.attachments.first() {
        return Err(RootRefusal::Held {
            holder: held.session,
        }
        .into());
    }
    record.size_bytes = size_bytes;
    if !active(Mutant::ShrinkKeepsGeneration) {
        record.generation.0 += 1;
    }
    let end = cut.expect("a cut has an end");
    tables::write_number(state, &keys::cut(record.disk), end)?;
    floor_pending(state, record)?;
    Ok(())
}

/// `CutDone`.
pub(super) fn cut_done(
    state: &mut dyn Update,
    disk: VirtualDiskId,
    generation: Generation,
    end_bytes: u64,
) -> Result<RootOutcome, Stop> {
    let record = ready(state, disk)?;
    let cut = tables::read_number(state, &keys::cut(disk))?;
    if record.generation != generation || cut.is_some_and(|end| end > end_bytes) {
        return Err(changed(&record).into());
    }
    state.delete(&keys::cut(disk))?;
    Ok(RootOutcome::Disk(record))
}

/// `DeleteDisk`.
pub(super) fn delete(state: &mut dyn Update, disk: VirtualDiskId) -> Result<RootOutcome, Stop> {
    let Some(mut record) = tables::disk(state, disk)? else {
        return Err(RootRefusal::NoSuchDisk {
            disk: disk.to_string(),
        }
        .into());
    };
    if record.state == DiskState::Deleting {
        return Ok(RootOutcome::Disk(record));
    }
    state.delete(&keys::name(&record.name))?;
    for attachment in std::mem::take(&mut record.attachments) {
        state.delete(&keys::attached(attachment.session, disk))?;
    }
    record.state = DiskState::Deleting;
    record.generation.0 += 1;
    tables::write_disk(state, &record)?;
    // The drop raises the floor to the highest: what was pending is overtaken.
    for (key, _) in tables::rows(state, &keys::pending_of(keys::PENDING_FLOOR, disk))? {
        state.delete(&key)?;
    }
    let shards = tables::every_shard(state)?;
    for group in &shards {
        state.put(&keys::pending(keys::PENDING_DROP, disk, *group), &[])?;
    }
    if shards.is_empty() {
        forget(state, disk)?;
    }
    Ok(RootOutcome::Disk(record))
}

/// `DiskDropped`.
pub(super) fn dropped(
    state: &mut dyn Update,
    disk: VirtualDiskId,
    group: GroupId,
) -> Result<RootOutcome, Stop> {
    let key = keys::pending(keys::PENDING_DROP, disk, group);
    if state.get(&key)?.is_some() {
        state.delete(&key)?;
        if tables::rows(state, &keys::pending_of(keys::PENDING_DROP, disk))?.is_empty() {
            forget(state, disk)?;
        }
    }
    Ok(RootOutcome::Done)
}

/// Nothing of the disk is left anywhere.
fn forget(state: &mut dyn Update, disk: VirtualDiskId) -> Result<(), Stop> {
    let nonce_key = keys::nonce_of(disk);
    if let Some(nonce) = tables::read_number(state, &nonce_key)? {
        state.delete(&keys::creation(nonce))?;
        state.delete(&nonce_key)?;
    }
    for (key, _) in tables::rows(state, &keys::newest_attaches(disk))? {
        state.delete(&key)?;
    }
    state.delete(&keys::cut(disk))?;
    state.delete(&keys::disk(disk))?;
    Ok(())
}
