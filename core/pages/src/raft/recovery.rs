//! Makes a replica's log from the journal's records, or says that it is damaged.
//!
//! Invariants: a log that may have lost an acknowledged entry or vote is never run: a vote or entry
//! that is damaged, a hole, or damage that could hide either counts as loss.
//! Does not: repair; the replica retires and joins again.

use hedgerow_disk::journal::{DamagedRange, HeaderCopy, Position, RecoveredRecord, StreamTag};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{GroupId, ReplicaNumber};

use super::log_core::{LogCore, Placed, Recovered, Recovery};
use super::log_record::{Body, Header, Kind};

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogDamage(pub(crate) String);

/// The log of `replica`, and the positions of records that it does not need.
pub(crate) fn recover_log(
    group: GroupId,
    replica: ReplicaNumber,
    found: Vec<RecoveredRecord>,
    damaged: &[DamagedRange],
    cache_bytes: usize,
) -> Result<(LogCore, Vec<Position>), LogDamage> {
    let mut records = Vec::with_capacity(found.len());
    let mut strangers = Vec::new();
    for record in found {
        match read(replica, &record) {
            Ok(Some(recovered)) => records.push(recovered),
            Ok(None) => strangers.push(record.position),
            Err(reason) => return Err(LogDamage(reason)),
        }
    }
    let Recovery {
        core,
        mut dead,
        missing,
    } = LogCore::recover(records, cache_bytes);
    if let Some(first) = missing.first() {
        let text = format!(
            "{} entries are missing from index {first} on",
            missing.len()
        );
        return Err(LogDamage(text));
    }
    for range in damaged {
        if active(Mutant::DamagedLogRuns) {
            break;
        }
        if !range.complete {
            let text = format!(
                "unknown records are lost between {} and {}",
                range.start, range.end
            );
            return Err(LogDamage(text));
        }
        for copy in &range.records {
            check_lost(group, replica, &core, copy)?;
        }
    }
    dead.extend(strangers);
    Ok((core, dead))
}

/// A record of `replica`; `None` for one of another replica of the group.
fn read(replica: ReplicaNumber, found: &RecoveredRecord) -> Result<Option<Recovered>, String> {
    let record = &found.record;
    let Some(header) = Header::decode(&record.header) else {
        return Err(format!(
            "the record at {} has a foreign header",
            found.position
        ));
    };
    if header.replica != replica {
        return Ok(None);
    }
    let Some(kind) = Kind::from_number(record.kind) else {
        return Err(format!(
            "the record at {} is of kind {}",
            found.position, record.kind
        ));
    };
    let body = Body::decode(kind, &record.payload)
        .map_err(|error| format!("the record at {}: {error}", found.position))?;
    Ok(Some(Recovered {
        placed: Placed {
            sequence: header.sequence,
            position: found.position,
        },
        body,
        bytes: record.payload.len(),
    }))
}

/// Whether the loss of the record with this header takes anything that the log needs.
fn check_lost(
    group: GroupId,
    replica: ReplicaNumber,
    core: &LogCore,
    copy: &HeaderCopy,
) -> Result<(), LogDamage> {
    if copy.stream != StreamTag::raft(group) {
        return Ok(());
    }
    let Some(header) = Header::decode(&copy.header) else {
        return Err(LogDamage(format!(
            "a record of unknown kind is lost at {}",
            copy.position
        )));
    };
    if header.replica != replica {
        return Ok(());
    }
    let is_needed = match Kind::from_number(copy.kind) {
        Some(Kind::Entry) => core.needs_entry(header.index, header.sequence),
        Some(Kind::Vote) => core.needs_vote(header.sequence),
        Some(Kind::Purge) => core.needs_purge(header.sequence),
        // Entries that it cut away come back at worst: they were never acknowledged as committed.
        Some(Kind::Truncation) => false,
        None => true,
    };
    if !is_needed {
        return Ok(());
    }
    let Header { index, term, .. } = header;
    let text = format!(
        "a record (kind {}, index {index}, term {term}) is lost",
        copy.kind
    );
    Err(LogDamage(text))
}
