//! Answers requests: finds the store, makes room, asks the drivers.
//!
//! Invariants: a request takes room before it does anything, and is answered *busy* when there is
//! none in time; whatever must finish is spawned, because an answer may be abandoned at any
//! suspension; a request that contradicts the protocol's limits is refused before it is looked at.
//! Does not: decode (the adapter does), or judge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BlobName, Generation, Instant, PlacementEpoch, StoreId};
use hedgerow_protocol::{BlobHeader, HBlockRefusal, HBlockReply, HBlockRequest, MAXIMUM_NAMES};

use crate::context::Context;
use crate::coordinate::{self, Write};
use crate::local::Local;
use crate::verify::{MAXIMUM_UNITS, verify_blob};

/// Left of a caller's deadline for the answer's way back, as a divisor: a tenth.
const ANSWER_SHARE: u32 = 10;

/// The stores of this node, by id.
pub(crate) type Locals = BTreeMap<StoreId, Arc<Local>>;

/// Answers the requests to one node's HBlock.
pub(crate) struct Front {
    pub(crate) context: Arc<Context>,
    pub(crate) locals: Locals,
}

type Answer = Result<(HBlockReply, Bytes), HBlockRefusal>;

impl Front {
    /// Answers one request.
    pub(crate) async fn answer(
        &self,
        request: HBlockRequest,
        payload: Bytes,
        deadline: Instant,
    ) -> (HBlockReply, Bytes) {
        let answered = self.dispatch(request, payload, deadline).await;
        answered.unwrap_or_else(|refusal| (HBlockReply::Refused(refusal), Bytes::new()))
    }

    async fn dispatch(&self, request: HBlockRequest, payload: Bytes, by: Instant) -> Answer {
        if self.context.is_stopping() {
            return Err(HBlockRefusal::Busy {
                reason: "stopping".to_owned(),
            });
        }
        match request {
            HBlockRequest::Write {
                store,
                header,
                generation,
                epoch,
                targets,
                write_quorum,
                domains,
            } => {
                let write = Write {
                    header,
                    payload,
                    generation,
                    epoch,
                    targets,
                    write_quorum,
                    domains,
                };
                self.write(store, write, by).await
            }
            HBlockRequest::Store {
                store,
                header,
                generation,
                epoch,
            } => self.store(store, header, payload, generation, epoch).await,
            HBlockRequest::Acknowledge {
                store,
                epoch,
                container,
                names,
            } => {
                let foreign = names.iter().any(|(name, _)| name.container != container);
                if foreign || names.len() > MAXIMUM_NAMES {
                    return Err(malformed("names of one container, within the limit"));
                }
                let local = self.local(store)?;
                let held = local.acknowledge(container, epoch, names).await?;
                Ok((HBlockReply::Held(held), Bytes::new()))
            }
            HBlockRequest::Read { store, name, units } => self.read(store, name, units).await,
            HBlockRequest::Fetch { store, name } => {
                let local = self.local(store)?;
                let _permit = self.read_permit().await?;
                let (header, payload) = local.read_blob(name).await?;
                Ok((HBlockReply::Blob(header), payload))
            }
            HBlockRequest::Suspect { store, name } => self.suspect(store, name).await,
            HBlockRequest::Hint { .. } => Err(malformed("members ask their shards by themselves")),
        }
    }

    async fn write(&self, store: StoreId, write: Write, deadline: Instant) -> Answer {
        let local = self.local(store)?;
        verify(&write.header, &write.payload)?;
        let context = &self.context;
        let bytes = write.header.payload_bytes();
        let permit = context.room(&context.writes, bytes).await?;
        let now = context.env.now();
        let left = deadline.since(now);
        let wait = context.config.quorum_wait.min(left - left / ANSWER_SHARE);
        let begun = coordinate::begin(context, local, write, now + wait, permit)?;
        match begun.await {
            Ok(reply) => Ok((reply, Bytes::new())),
            Err(_) => Err(HBlockRefusal::TooFew {
                acknowledged: Vec::new(),
            }),
        }
    }

    async fn store(
        &self,
        store: StoreId,
        header: BlobHeader,
        payload: Bytes,
        generation: Generation,
        epoch: PlacementEpoch,
    ) -> Answer {
        let local = self.local(store)?;
        verify(&header, &payload)?;
        let context = &self.context;
        let bytes = header.payload_bytes();
        let room = context.room(&context.stores, bytes).await?;
        let storing = local.begin_store(&header, &payload, generation, epoch, Some(room))?;
        local.finish_store(storing).await?;
        Ok((HBlockReply::Stored, Bytes::new()))
    }

    async fn read(&self, store: StoreId, name: BlobName, units: Vec<u16>) -> Answer {
        let local = self.local(store)?;
        let distinct: BTreeSet<u16> = units.iter().copied().collect();
        if units.is_empty() || units.len() > MAXIMUM_UNITS || distinct.len() != units.len() {
            return Err(malformed("some distinct units, within the limit"));
        }
        let _permit = self.read_permit().await?;
        let (records, payload) = local.read_units(name, units).await?;
        Ok((HBlockReply::Units(records), payload))
    }

    /// Verifies the suspected copy; reading it lists it for repair when it is damaged.
    async fn suspect(&self, store: StoreId, name: BlobName) -> Answer {
        let local = self.local(store)?;
        let _permit = self.read_permit().await?;
        match local.read_blob(name).await {
            Ok(_) | Err(HBlockRefusal::Damaged) => done(),
            // The repair asks the shard whether the blob lives before it fetches one.
            Err(HBlockRefusal::Missing) => {
                local.wound(name);
                done()
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn local(&self, store: StoreId) -> Result<&Arc<Local>, HBlockRefusal> {
        let local = self.locals.get(&store).ok_or(HBlockRefusal::NoSuchStore)?;
        match local.stopped() {
            Some(reason) => Err(HBlockRefusal::Stopped { reason }),
            None => Ok(local),
        }
    }

    async fn read_permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, HBlockRefusal> {
        let context = &self.context;
        let acquire = Arc::clone(&context.reads).acquire_owned();
        let limit: Duration = context.config.room_wait;
        match context.env.timeout(limit, acquire).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(HBlockRefusal::Busy {
                reason: "too many reads".to_owned(),
            }),
        }
    }
}

fn verify(header: &BlobHeader, payload: &Bytes) -> Result<(), HBlockRefusal> {
    verify_blob(header, payload).map_err(|fault| malformed(&fault.to_string()))
}

fn malformed(reason: &str) -> HBlockRefusal {
    HBlockRefusal::Malformed {
        reason: reason.to_owned(),
    }
}

fn done() -> Answer {
    Ok((HBlockReply::Done, Bytes::new()))
}
