//! What moves in a split: whose each row is, and pages of those that move.
//!
//! Invariants: a row belongs to one container, or is kept for every shard (floors, stores, the
//! feature level) and copied; a page answers rows as they stand, looks at a bounded number of them,
//! and says where the next goes on.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ContainerId, ContainerIndex, FamilyId, GroupId, StoreId};
use hedgerow_protocol::{ShardRefusal, ShardReply, ShardRequest};

use super::keys::{self, Home};
use super::rows::{CollectedRow, FeedRow};
use super::split::{PAGE_BYTES, ShardRow, Stage};
use super::tables;
use crate::fields::Take;
use crate::{StateError, View};

/// Rows that one page looks at, whosever they are.
const PAGE_LOOKS: usize = 4096;

/// Most rows of a page.
const PAGE_ROWS: usize = 1024;

/// Whether a split may bring a row under this key.
pub(super) fn is_adoptable(key: &[u8]) -> bool {
    keys::home_of_kind(key) != Home::Nowhere
}

/// The family and index of the container that a row belongs to; none when every shard has its like.
///
/// # Errors
/// [`StateError::Damaged`].
pub fn home_of(key: &[u8], value: &[u8]) -> Result<Option<(FamilyId, ContainerIndex)>, StateError> {
    let container = match keys::home_of_kind(key) {
        Home::InKey => {
            let mut take = Take::new(key, "moving key");
            take.u8()?;
            return Ok(Some((FamilyId(take.u64()?), ContainerIndex(take.u32()?))));
        }
        Home::BehindStore => keys::sweep_of_key(key)?.1,
        Home::InFeed => match FeedRow::decode(value)? {
            FeedRow::Placed(container) | FeedRow::Retire(container, _) => container,
            FeedRow::Incomplete(name) => name.container,
        },
        Home::InCollected => CollectedRow::decode(value)?.container,
        Home::Everywhere | Home::Nowhere => return Ok(None),
    };
    Ok(Some((container.family, container.index)))
}

/// Whether the row moves, or is copied.
fn goes_along(row: &ShardRow, to: GroupId, key: &[u8], value: &[u8]) -> Result<bool, StateError> {
    let Some(range) = row.hands_over(to) else {
        return Ok(false);
    };
    if keys::is_marks(key) && active(Mutant::MarksLeftBehind) {
        return Ok(false);
    }
    Ok(match home_of(key, value)? {
        Some((family, index)) => range.contains(family, index),
        None if keys::is_floor(key) && active(Mutant::FloorsLeftBehind) => false,
        None => is_adoptable(key),
    })
}

/// Answers a page of what moves to `to`.
///
/// # Errors
/// [`StateError`].
pub fn page(view: &dyn View, to: GroupId, from: &[u8]) -> Result<ShardReply, StateError> {
    let row = tables::shard(view)?;
    let Some(row) = row.filter(|row| row.hands_over(to).is_some()) else {
        let reason = format!("nothing moves to {to}");
        return Ok(ShardReply::Refused(ShardRefusal::Malformed { reason }));
    };
    let looked_at = view.scan(from, &[u8::MAX], PAGE_LOOKS)?;
    let mut is_whole = looked_at.len() < PAGE_LOOKS;
    let (mut rows, mut bytes, mut last) = (Vec::new(), 0, None);
    for (key, value) in looked_at {
        if rows.len() == PAGE_ROWS || bytes >= PAGE_BYTES {
            is_whole = false;
            break;
        }
        last = Some(key.clone());
        if goes_along(&row, to, &key, &value)? {
            bytes += key.len() + value.len();
            rows.push((key, value));
        }
    }
    let next = last.filter(|_| !is_whole).map(|mut last| {
        last.push(0);
        last
    });
    Ok(ShardReply::Moving { rows, next })
}

/// Whether the shard answers for `container`; also for one of which it knows nothing.
///
/// # Errors
/// [`StateError`].
pub fn refusal(
    view: &dyn View,
    container: ContainerId,
) -> Result<Option<ShardRefusal>, StateError> {
    Ok(tables::shard(view)?.and_then(|row| row.refusal(container)))
}

/// Why a question is not this shard's to answer, or not yet.
///
/// # Errors
/// [`StateError`].
pub fn refusal_of(
    view: &dyn View,
    request: &ShardRequest,
) -> Result<Option<ShardRefusal>, StateError> {
    let Some(row) = tables::shard(view)? else {
        return Ok(None);
    };
    let containers: Vec<ContainerId> = match request {
        ShardRequest::EnsurePlaced { container, .. }
        | ShardRequest::Substitute { container, .. }
        | ShardRequest::Lookup { container, .. }
        | ShardRequest::Sparse { container, .. } => vec![*container],
        // Without names it asks for a sign of life alone.
        ShardRequest::Names { names, .. } => names.iter().map(|name| name.container).collect(),
        _ if matches!(row.stage, Stage::Receives { .. }) => {
            return Ok(Some(ShardRefusal::NotServing));
        }
        _ => Vec::new(),
    };
    Ok(containers
        .into_iter()
        .find_map(|container| row.refusal(container)))
}

/// Answers whether the shard counts anything for a container in place of another shard.
pub(super) struct Own(Option<ShardRow>);

impl Own {
    pub(super) fn of(view: &dyn View) -> Result<Self, StateError> {
        Ok(Self(tables::shard(view)?))
    }

    pub(super) fn has(&self, container: ContainerId) -> bool {
        let row = self.0.as_ref();
        row.is_none_or(|row| row.refusal(container).is_none())
    }

    /// Whether it has the row's container. Rows without one are every shard's.
    pub(super) fn has_row(&self, key: &[u8], value: &[u8]) -> Result<bool, StateError> {
        let Some(row) = &self.0 else { return Ok(true) };
        let home = home_of(key, value)?;
        Ok(home.is_none_or(|(family, index)| row.range.contains(family, index)))
    }

    /// The first sweep of `store` that is this shard's to go on with.
    pub(super) fn sweep_of(
        &self,
        view: &dyn View,
        store: StoreId,
    ) -> Result<Option<crate::Pair>, StateError> {
        let mut found = None;
        tables::walk(view, &keys::sweeps_of(store), None, |(key, value)| {
            if self.has_row(key, value)? {
                found = Some((key.clone(), value.clone()));
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }
}
