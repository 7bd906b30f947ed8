//! Attachments, writer ids and leases.
//!
//! Invariants: writer ids are never granted twice; every change of a disk's admitted writers raises
//! its generation; an exclusive disk is attached by one session at most, and another session waits
//! for its release or the end of its lease; an attach that comes behind a later one of its session is
//! refused, since a grant to it would fence what the session holds by now; a session whose lease was ended
//! gets nothing more; the end of a lease leaves a floor pending at every shard for each disk it held.
//! A lease is known by the log index of its newest renewal, which no later one ever has again.
//! Does not: know time. `ExpireLease` names the renewal at which the grantor's wait began, and is
//! void when there was another since.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{Generation, GroupId, VirtualDiskId, WriterId};
use hedgerow_protocol::{Attachment, DiskRecord, Grant, ProxySession, RootOutcome, RootRefusal};

use super::disks::ready;
use super::keys::{self, Counter};
use super::tables::{self, Stop};
use crate::{StateError, Update};

/// Ended sessions remembered for each node: a request of an older one, delayed past as many
/// restarts of its proxy, would be granted a lease that nobody renews, and lose it again.
const REMEMBERED_SESSIONS: usize = 32;

fn check_lease_not_ended(state: &dyn Update, session: ProxySession) -> Result<(), Stop> {
    match state.get(&keys::ended(session))? {
        Some(_) if active(Mutant::EndedSessionRenews) => Ok(()),
        Some(_) => Err(RootRefusal::LeaseEnded.into()),
        None => Ok(()),
    }
}

fn note_renewal(
    state: &mut dyn Update,
    index: u64,
    session: ProxySession,
) -> Result<(), StateError> {
    tables::write_number(state, &keys::lease(session), index)
}

/// Until every shard has the floor of a cut, a writer from before it could fill a container that
/// nobody who clears the disk has seen.
fn check_cut_is_known(state: &dyn Update, record: &DiskRecord) -> Result<(), Stop> {
    if tables::read_number(state, &keys::cut(record.disk))?.is_none() {
        return Ok(());
    }
    let floors = keys::pending_of(keys::PENDING_FLOOR, record.disk);
    if tables::rows(state, &floors)?.is_empty() {
        return Ok(());
    }
    Err(RootRefusal::Cutting {
        size_bytes: record.size_bytes,
    }
    .into())
}

/// Attach.
pub(super) fn attach(
    state: &mut dyn Update,
    index: u64,
    disk: VirtualDiskId,
    session: ProxySession,
    nonce: u64,
) -> Result<RootOutcome, Stop> {
    check_lease_not_ended(state, session)?;
    let mut record = ready(state, disk)?;
    let mut standing = record.attachments.iter();
    if let Some(granted) = standing.find(|held| {
        let same = held.nonce == nonce || active(Mutant::AttachNonceIgnored);
        held.session == session && same
    }) {
        let writer = granted.writer;
        note_renewal(state, index, session)?;
        return Ok(RootOutcome::Granted(Grant {
            disk: record,
            writer,
        }));
    }
    let mut others = record.attachments.iter();
    if let Some(other) = others.find(|held| held.session != session)
        && !record.policy.clustered
        && !active(Mutant::HeldDiskGranted)
    {
        return Err(RootRefusal::Held {
            holder: other.session,
        }
        .into());
    }
    check_not_overtaken(state, disk, session, nonce)?;
    check_cut_is_known(state, &record)?;
    let writer = WriterId(tables::next_number(state, Counter::Writer)?);
    // The same session again: its former attachment is released by this.
    record.attachments.retain(|held| held.session != session);
    record.attachments.push(Attachment {
        session,
        nonce,
        writer,
    });
    if !active(Mutant::AttachKeepsGeneration) {
        record.generation.0 += 1;
    }
    tables::write_disk(state, &record)?;
    state.put(&keys::attached(session, disk), &[])?;
    note_attach(state, disk, session, nonce)?;
    note_renewal(state, index, session)?;
    Ok(RootOutcome::Granted(Grant {
        disk: record,
        writer,
    }))
}

/// Refuses an attach when one of this nonce or a later one was granted to the session.
fn check_not_overtaken(
    state: &dyn Update,
    disk: VirtualDiskId,
    session: ProxySession,
    nonce: u64,
) -> Result<(), Stop> {
    match tables::read_number(state, &keys::newest_attach(disk, session))? {
        Some(newest) if nonce <= newest && !active(Mutant::LateAttachGranted) => {
            Err(RootRefusal::Overtaken { newest }.into())
        }
        _ => Ok(()),
    }
}

/// Remembers the nonce, in the place of those of the node's earlier sessions.
fn note_attach(
    state: &mut dyn Update,
    disk: VirtualDiskId,
    session: ProxySession,
    nonce: u64,
) -> Result<(), StateError> {
    for (key, _) in tables::rows(state, &keys::newest_attach_of(disk, session.node))? {
        state.delete(&key)?;
    }
    tables::write_number(state, &keys::newest_attach(disk, session), nonce)
}

/// Detach.
pub(super) fn detach(
    state: &mut dyn Update,
    disk: VirtualDiskId,
    writer: WriterId,
) -> Result<RootOutcome, Stop> {
    let Some(mut record) = tables::disk(state, disk)? else {
        return Ok(RootOutcome::Done);
    };
    let mut held = record.attachments.iter();
    if let Some(at) =
        held.position(|attachment| attachment.writer == writer || active(Mutant::DetachOfAnyWriter))
    {
        let attachment = record.attachments.remove(at);
        record.generation.0 += 1;
        tables::write_disk(state, &record)?;
        state.delete(&keys::attached(attachment.session, disk))?;
    }
    Ok(RootOutcome::Done)
}

/// Renew.
pub(super) fn renew(
    state: &mut dyn Update,
    index: u64,
    session: ProxySession,
) -> Result<RootOutcome, Stop> {
    check_lease_not_ended(state, session)?;
    note_renewal(state, index, session)?;
    Ok(RootOutcome::Renewed { renewed_at: index })
}

/// `ExpireLease`. Answers the newest renewal when the lease stands.
pub(super) fn expire(
    state: &mut dyn Update,
    index: u64,
    session: ProxySession,
    renewed_at: u64,
) -> Result<RootOutcome, Stop> {
    let key = keys::lease(session);
    let Some(newest) = tables::read_number(state, &key)? else {
        return Ok(RootOutcome::Done);
    };
    if newest != renewed_at && !active(Mutant::ExpiryIgnoresRenewals) {
        return Ok(RootOutcome::Renewed { renewed_at: newest });
    }
    state.delete(&key)?;
    let disks = tables::attached(state, session)?;
    if disks.is_empty() {
        // It held nothing: nobody is fenced, and it may come back as it is.
        return Ok(RootOutcome::Done);
    }
    for disk in disks {
        state.delete(&keys::attached(session, disk))?;
        let Some(mut record) = tables::disk(state, disk)? else {
            continue;
        };
        record.attachments.retain(|held| held.session != session);
        if !active(Mutant::ExpiryKeepsGeneration) {
            record.generation.0 += 1;
        }
        tables::write_disk(state, &record)?;
        if !active(Mutant::ExpiryWithoutFloor) {
            floor_pending(state, &record)?;
        }
    }
    remember_ended(state, index, session)?;
    Ok(RootOutcome::Done)
}

/// The present generation of the disk fences every container, in every shard.
pub(super) fn floor_pending(state: &mut dyn Update, record: &DiskRecord) -> Result<(), StateError> {
    for group in tables::every_shard(state)? {
        let key = keys::pending(keys::PENDING_FLOOR, record.disk, group);
        tables::write_number(state, &key, record.generation.0)?;
    }
    Ok(())
}

fn remember_ended(
    state: &mut dyn Update,
    index: u64,
    session: ProxySession,
) -> Result<(), StateError> {
    tables::write_number(state, &keys::ended(session), index)?;
    let rows = tables::rows(state, &keys::ended_of(session.node))?;
    if rows.len() > REMEMBERED_SESSIONS {
        let mut oldest: Option<(u64, &[u8])> = None;
        for (key, value) in &rows {
            let ended = tables::number(value)?;
            if oldest.is_none_or(|(known, _)| ended < known) {
                oldest = Some((ended, key));
            }
        }
        if let Some((_, key)) = oldest {
            state.delete(key)?;
        }
    }
    Ok(())
}

/// `FloorApplied`.
pub(super) fn floor_applied(
    state: &mut dyn Update,
    disk: VirtualDiskId,
    generation: Generation,
    group: GroupId,
) -> Result<RootOutcome, Stop> {
    let key = keys::pending(keys::PENDING_FLOOR, disk, group);
    if let Some(pending) = tables::read_number(state, &key)?
        && pending <= generation.0
    {
        state.delete(&key)?;
    }
    Ok(RootOutcome::Done)
}
