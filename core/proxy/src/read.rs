//! The read path of one piece: look it up (cache or shard), fetch its units, check their digests.
//!
//! Invariants: a cached look-up is used only if the lease still holds after it was made and before
//! the answer is given; *missing* or damaged at one member sends the reader to another, and to a
//! fresh look-up before anything is called lost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BLOCK_UNIT_BYTES, BlobName, NodeId, Phase, StoreId, event};
use hedgerow_net::{CallOptions, Message, Peer, ServiceId};
use hedgerow_protocol::{
    Digest, HBlockRefusal, HBlockReply, HBlockRequest, MapTarget, Placement, PlacementMember,
    SERVICE_HBLOCK, ShardReply, ShardRequest, decode, encode,
};

use crate::container::{Container, known_extents};
use crate::disk::{IoError, READ_LIMIT, RETRY_FIRST, Shared};
use crate::metacache::{FillToken, KnownExtent};
use crate::pieces::Piece;
use crate::suspects::{Lacking, suspects};
use crate::unit::decode_unit;

/// One look-up at the shard.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(3);
/// One member is given this long to answer a read.
const MEMBER_LIMIT: Duration = Duration::from_millis(800);

/// The plain bytes of units, by (blob, unit).
pub(crate) type Units = BTreeMap<(BlobName, u16), Bytes>;

impl Shared {
    /// Reads one piece.
    pub(crate) async fn read_piece(self: &Arc<Self>, piece: &Piece) -> Result<Bytes, IoError> {
        let container = self.container(piece.index);
        let range = piece.first_block..piece.first_block + piece.blocks;
        let give_up = self.env.now() + READ_LIMIT;
        let mut pause = RETRY_FIRST;
        let mut distrust_cache = false;
        loop {
            if self.is_lost() && !active(Mutant::LostAttachmentReads) {
                return Err(IoError::Fenced);
            }
            if !active(Mutant::FenceSkippedOnRead) {
                self.ensure_fenced(&container).await?;
            }
            let use_cache = !distrust_cache && self.lease_holds();
            let cached = if use_cache {
                container.with(|state| state.cache.look_up(&range))
            } else {
                None
            };
            let from_cache = cached.is_some();
            let extents = match cached {
                Some(extents) => Some(extents),
                None => self.look_up(&container, range.clone()).await?,
            };
            if let Some(extents) = extents {
                let lacking = Mutex::default();
                let fetched = self.fetch(&container, &range, &extents, &lacking).await;
                self.look_again(&container, &range, lacking.into_inner().expect("no panic"));
                if let Some(bytes) = fetched {
                    let kept = active(Mutant::LeaseUncheckedAfterRead);
                    if !from_cache || kept || self.lease_holds() {
                        return Ok(bytes);
                    }
                    continue;
                }
            }
            distrust_cache = true;
            if self.env.now() >= give_up {
                return Err(IoError::Unavailable(format!(
                    "{}: no usable copy",
                    container.id
                )));
            }
            self.pause(&mut pause, None).await;
        }
    }

    /// Asks the shard, and fills the cache as far as that is allowed. None: not now.
    async fn look_up(
        &self,
        container: &Container,
        range: Range<u32>,
    ) -> Result<Option<Vec<KnownExtent>>, IoError> {
        let Some(group) = self.group_of(container) else {
            self.refresh_directory().await;
            return Ok(None);
        };
        let fill = Fill::begin(container, range.clone());
        let request = ShardRequest::Lookup {
            container: container.id,
            layers: self.record.layers.clone(),
            first_block: range.start,
            blocks: range.end - range.start,
        };
        let reply = self.groups.shard(group, request, LOOK_UP_LIMIT).await;
        let view = match reply {
            Ok(ShardReply::View(view)) => view,
            other => {
                if let Ok(ShardReply::Refused(refusal)) = other {
                    self.refused(&refusal)?;
                    self.follow(&refusal).await;
                }
                return Ok(None);
            }
        };
        if view
            .generation
            .is_some_and(|generation| generation > self.generation)
        {
            self.lose_fenced("the container is fenced under a newer generation");
            return Err(IoError::Fenced);
        }
        for (id, placement) in &view.placements {
            container.learn(*id, placement.clone());
        }
        let extents = known_extents(&view);
        fill.end(extents.clone());
        Ok(Some(extents))
    }

    /// Members did not have what they were asked for: looks the range up again in the background,
    /// and tells those that should have it. One range at a time; a later read finds the others.
    fn look_again(
        self: &Arc<Self>,
        container: &Arc<Container>,
        range: &Range<u32>,
        lacking: Vec<Lacking>,
    ) {
        if lacking.is_empty() || self.looking_again.swap(true, Ordering::SeqCst) {
            return;
        }
        let (shared, container) = (Arc::clone(self), Arc::clone(container));
        let range = range.clone();
        self.env.spawn("proxy-look-again", async move {
            if let Ok(Some(fresh)) = shared.look_up(&container, range).await {
                let placements = container.with(|state| state.placements.clone());
                for suspect in suspects(&lacking, &fresh, &placements) {
                    let Lacking { store, name } = suspect;
                    event!(
                        shared.env,
                        Warn,
                        "proxy",
                        "{store} should have {name} and has not"
                    );
                    if let Some(peer) = shared.groups.directory().peer_of_store(store) {
                        shared.report_suspect(peer, store, name);
                    }
                }
            }
            shared.looking_again.store(false, Ordering::SeqCst);
        });
    }

    /// Fetches what the extents name and puts it together. None: some unit has no usable copy now.
    async fn fetch(
        &self,
        container: &Container,
        range: &Range<u32>,
        extents: &[KnownExtent],
        lacking: &Mutex<Vec<Lacking>>,
    ) -> Option<Bytes> {
        let _phase = self.env.phase(Phase::Read);
        let units = self.fetch_units(container, extents, lacking).await?;
        Some(assemble(range, extents, &units))
    }

    /// Fetches every unit that the extents name, checked against their digests.
    pub(crate) async fn fetch_units(
        &self,
        container: &Container,
        extents: &[KnownExtent],
        lacking: &Mutex<Vec<Lacking>>,
    ) -> Option<Units> {
        let mut wanted: BTreeMap<BlobName, Wanted> = BTreeMap::new();
        for extent in extents {
            if let MapTarget::Data {
                blob, unit, digest, ..
            } = extent.target
            {
                let want = wanted.entry(blob).or_default();
                want.units.insert(unit, digest);
                want.missing
                    .extend(extent.missing.iter().flat_map(|missing| missing.iter()));
            }
        }
        let fetches = wanted.iter().map(|(blob, want)| async move {
            match self.fetch_blob(container, *blob, want, lacking).await {
                None if active(Mutant::MissingUnitReadsAsZeros) => Ok(Vec::new()),
                fetched => fetched.ok_or(()),
            }
        });
        let fetched = try_join_all(fetches).await.ok()?;
        Some(fetched.into_iter().flatten().collect())
    }

    async fn fetch_blob(
        &self,
        container: &Container,
        blob: BlobName,
        want: &Wanted,
        lacking: &Mutex<Vec<Lacking>>,
    ) -> Option<Vec<((BlobName, u16), Bytes)>> {
        let placement = container.with(|state| state.placements.get(&blob.container).cloned())?;
        for (store, node) in self.readers(&placement, &want.missing) {
            let Some(address) = self.groups.directory().address_of(node) else {
                self.refresh_directory().await;
                continue;
            };
            let peer = Peer::new(address, node);
            match self.read_units(&peer, store, blob, &want.units).await {
                Fetched::Units(units) => return Some(units),
                Fetched::Missing if !want.missing.contains(&store) => {
                    let mut lacking = lacking.lock().expect("no panic under this lock");
                    lacking.push(Lacking { store, name: blob });
                }
                Fetched::Missing | Fetched::Nothing => {
                    event!(self.env, Debug, "proxy", "{blob}: no answer from {store}");
                }
            }
        }
        None
    }

    /// Members in the order to ask: those that have the blob first, the quickest first among them.
    fn readers(
        &self,
        placement: &Placement,
        missing: &BTreeSet<StoreId>,
    ) -> Vec<(StoreId, NodeId)> {
        let own = self.rpc.identity().node;
        in_order(&placement.members, missing, |node| {
            if node == own {
                0
            } else {
                1 + self.latency_class(node)
            }
        })
    }

    async fn read_units(
        &self,
        peer: &Peer,
        store: StoreId,
        name: BlobName,
        wanted: &BTreeMap<u16, Digest>,
    ) -> Fetched {
        let units: Vec<u16> = wanted.keys().copied().collect();
        let request = HBlockRequest::Read { store, name, units };
        let Some(reply) = self.ask_member(peer, &request).await else {
            return Fetched::Nothing;
        };
        let records = match decode::<HBlockReply>(&reply.head) {
            Ok(HBlockReply::Units(records)) if records.len() == wanted.len() => records,
            Ok(HBlockReply::Refused(HBlockRefusal::Missing)) => return Fetched::Missing,
            Ok(_) | Err(_) => return Fetched::Nothing,
        };
        let mut at = 0;
        let mut decoded = Vec::with_capacity(records.len());
        for ((unit, digest), record) in wanted.iter().zip(&records) {
            let end = at + record.stored_bytes as usize;
            if end > reply.payload.len() {
                return Fetched::Nothing;
            }
            match decode_unit(record, reply.payload.slice(at..end), *digest) {
                Ok(plain) => decoded.push(((name, *unit), plain)),
                Err(error) => {
                    event!(
                        self.env,
                        Warn,
                        "proxy",
                        "{name} unit {unit} at {store}: {error}"
                    );
                    self.report_suspect(peer.clone(), store, name);
                    return Fetched::Nothing;
                }
            }
            at = end;
        }
        Fetched::Units(decoded)
    }

    async fn ask_member(&self, peer: &Peer, request: &HBlockRequest) -> Option<Message> {
        let message = Message::new(encode(request), Bytes::new());
        let options = CallOptions::within(MEMBER_LIMIT);
        self.rpc
            .call_with(peer, ServiceId(SERVICE_HBLOCK), message, options)
            .await
            .ok()
    }

    /// Tells a member that a copy of it looks damaged; it checks for itself.
    fn report_suspect(&self, peer: Peer, store: StoreId, name: BlobName) {
        let message = Message::new(
            encode(&HBlockRequest::Suspect { store, name }),
            Bytes::new(),
        );
        let options = CallOptions::within(MEMBER_LIMIT);
        let call = self
            .rpc
            .call_with(&peer, ServiceId(SERVICE_HBLOCK), message, options);
        self.env.spawn("proxy-suspect", async move {
            // Advice only: the member scrubs by itself when this is lost.
            drop(call.await);
        });
    }
}

/// A fill that travels; dropped unended (a reader that went away too), it fills nothing.
struct Fill<'a> {
    container: &'a Container,
    token: Option<FillToken>,
}

impl<'a> Fill<'a> {
    fn begin(container: &'a Container, range: Range<u32>) -> Self {
        let token = container.with(|state| state.cache.begin_fill(range));
        Self {
            container,
            token: Some(token),
        }
    }

    fn end(mut self, extents: Vec<KnownExtent>) {
        if let Some(token) = self.token.take() {
            self.container
                .with(|state| state.cache.end_fill(token, extents));
        }
    }
}

impl Drop for Fill<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            self.container.with(|state| state.cache.drop_fill(token));
        }
    }
}

/// What a member answered to a read of units.
enum Fetched {
    /// Them, with the digests that the map has.
    Units(Vec<((BlobName, u16), Bytes)>),
    /// It does not have the blob.
    Missing,
    /// Nothing of use.
    Nothing,
}

/// What is wanted of one blob.
#[derive(Default)]
struct Wanted {
    units: BTreeMap<u16, Digest>,
    missing: BTreeSet<StoreId>,
}

/// Puts the range together; blocks that nothing refers to are zeros.
fn assemble(range: &Range<u32>, extents: &[KnownExtent], units: &Units) -> Bytes {
    let bytes = |blocks: u32| {
        usize::try_from(u64::from(blocks) * BLOCK_UNIT_BYTES).expect("a read fits memory")
    };
    let from = |offset: u16| bytes(u32::from(offset));
    if let [extent] = extents
        && let MapTarget::Data {
            blob,
            unit,
            unit_offset_blocks,
            ..
        } = extent.target
        && extent.first_block == range.start
        && extent.blocks == range.end - range.start
        && let Some(plain) = units.get(&(blob, unit))
    {
        let start = from(unit_offset_blocks);
        return plain.slice(start..start + bytes(extent.blocks));
    }
    let mut joined = BytesMut::zeroed(bytes(range.end - range.start));
    for extent in extents {
        let MapTarget::Data {
            blob,
            unit,
            unit_offset_blocks,
            ..
        } = extent.target
        else {
            continue;
        };
        let plain = match units.get(&(blob, unit)) {
            None if active(Mutant::MissingUnitReadsAsZeros) => continue,
            plain => plain.expect("every unit was fetched"),
        };
        let at = bytes(extent.first_block - range.start);
        let start = from(unit_offset_blocks);
        let length = bytes(extent.blocks);
        joined[at..at + length].copy_from_slice(&plain[start..start + length]);
    }
    joined.freeze()
}

/// Members in the order to ask: those that have the blob first, the quickest (by `class`) first
/// among them. One that is known to lack it may have got it by now.
fn in_order(
    members: &[PlacementMember],
    missing: &BTreeSet<StoreId>,
    class: impl Fn(NodeId) -> u32,
) -> Vec<(StoreId, NodeId)> {
    let rank = |member: &PlacementMember| {
        let PlacementMember { store, node, .. } = *member;
        (missing.contains(&store), class(node), store, node)
    };
    let mut members: Vec<_> = members.iter().map(rank).collect();
    members.sort_unstable();
    members
        .into_iter()
        .map(|(_, _, store, node)| (store, node))
        .collect()
}

#[cfg(test)]
mod tests {
    use hedgerow_protocol::MemberState;

    use super::*;

    #[test]
    fn the_quickest_that_has_the_blob_is_asked_first() {
        let member = |number| PlacementMember {
            store: StoreId(number),
            node: NodeId(number),
            state: MemberState::Active,
        };
        let members = [member(1), member(2), member(3), member(4)];
        // The second is this node, the fourth is near, the others are far away.
        let class = |node: NodeId| [9, 0, 9, 3][usize::try_from(node.0 - 1).unwrap()];
        let order = |missing: &[u64]| -> Vec<u64> {
            let missing = missing.iter().map(|number| StoreId(*number)).collect();
            let order = in_order(&members, &missing, class);
            order.into_iter().map(|(_, node)| node.0).collect()
        };
        assert_eq!(order(&[]), [2, 4, 1, 3]);
        assert_eq!(order(&[2]), [4, 1, 3, 2]);
        assert_eq!(order(&[2, 4, 1]), [3, 2, 4, 1]);
    }
}
