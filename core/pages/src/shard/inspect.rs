//! What a shard's replica holds, for whoever judges it from outside.
//!
//! Does not: answer anybody in production; those ask by the protocol.

use hedgerow_env::{BlobName, ContainerId, PlacementEpoch, StoreId};

use super::rows::PlacementRow;
use super::{keys, rows, tables};
use crate::{StateError, View};

/// Rows read at once.
const PAGE: usize = 512;

/// A live blob and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub name: BlobName,
    /// The epoch of its container's present placement.
    pub epoch: PlacementEpoch,
    /// How many members must have had it before it was committed.
    pub write_quorum: u8,
    /// Members that take new blobs.
    pub writable: Vec<StoreId>,
    /// Members that have it, by their word.
    pub holders: Vec<StoreId>,
}

/// Every blob that the replica has, in the order of names.
///
/// # Errors
/// [`StateError`].
pub fn blobs(view: &dyn View) -> Result<Vec<Held>, StateError> {
    let (mut from, end) = (keys::blobs(), keys::after_blobs());
    let mut held = Vec::new();
    let mut known: Option<(ContainerId, Option<PlacementRow>)> = None;
    loop {
        let page = view.scan(&from, &end, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(held);
        };
        from.clone_from(last);
        from.push(0);
        for (key, value) in &page {
            let name = keys::name_of_key(key)?;
            let row = rows::BlobRow::decode(value)?;
            if known.as_ref().is_none_or(|(at, _)| *at != name.container) {
                let container = tables::container(view, name.container)?;
                known = Some((name.container, container.and_then(|row| row.placement)));
            }
            let Some((_, Some(placement))) = &known else {
                continue;
            };
            let members = placement.members.iter();
            let holders = members.clone().filter(|member| row.is_held_by(member.slot));
            held.push(Held {
                name,
                epoch: placement.epoch,
                write_quorum: placement.write_quorum,
                writable: members
                    .filter(|member| member.is_writable())
                    .map(|member| member.store)
                    .collect(),
                holders: holders.map(|member| member.store).collect(),
            });
        }
    }
}
