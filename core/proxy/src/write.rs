//! The write path of one piece: name it, store it on a quorum, commit it to the map. Relocations go
//! the same way.
//!
//! Invariants: a retry resends the identical frame under the same name; a new sequence for the same
//! client write is taken only after the shard answered *void*; acknowledgements count only under
//! the epoch in which they were given: after a change of placement members that said before that
//! they have the blob are asked by its name, without the bytes; nothing is reported failed that may
//! yet appear: a write for which there is no room is answered so only after the shard called its
//! name void.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, Phase, PlacementEpoch, Sequence, StoreId, event};
use hedgerow_net::{CallOptions, Message, Peer, ServiceId};
use hedgerow_protocol::{
    AttemptEnd, BlobHeader, Commit, CommitExtent, CommitTarget, HBlockReply, HBlockRequest,
    MapTarget, Move, Placement, PlacementMember, PlacementRule, Quorum, Relocate, SERVICE_HBLOCK,
    ShardCommand, ShardOutcome, ShardRefusal, ShardReply, ShardRequest, UnitRecord, Version,
    WriteTarget, decode, encode,
};

use crate::container::Container;
use crate::disk::{IoError, RETRY_FIRST, Shared};
use crate::gather::{Gathering, Heard, Lack};
use crate::lasting::Operation;
use crate::metacache::KnownExtent;
use crate::pieces::Piece;
use crate::unit::encode_units;

/// One member is given this long to gather W before another is asked to.
const STORE_LIMIT: Duration = Duration::from_millis(1000);
/// Members are given this long to say whether they hold a name: they answer from their index.
const HELD_LIMIT: Duration = Duration::from_millis(300);
/// Missing W for this long, a substitute is asked for.
const SUBSTITUTE_AFTER: Duration = Duration::from_millis(300);
/// A placement question to the shard.
const PLACE_LIMIT: Duration = Duration::from_secs(2);

/// How long a write is offered to full stores before it is withdrawn. Space that is being freed
/// comes back within a few seconds (collection every second, compaction behind it), and initiators
/// should be told long before they lose patience (30 s).
pub const ROOM_LIMIT: Duration = Duration::from_secs(5);

/// How an attempt under one name ended.
pub(crate) enum Ended {
    Applied,
    Void,
    /// Void, since no stores had room for it.
    NoRoom,
}

/// What an attempt at storing a blob came to.
enum Stored {
    /// On a quorum, under this epoch.
    Enough(hedgerow_env::PlacementEpoch, BTreeSet<StoreId>),
    /// Try again after a pause.
    NotYet(Lack),
}

/// What an attempt does to the map.
pub(crate) enum Change {
    /// A client's write of this range: of the frame, or of zeros without one.
    Write(Range<u32>),
    /// Ranges that refer to other blobs are to refer to the frame, which has the same bytes.
    Relocate(Vec<Move>),
}

/// One change of one container under one name.
pub(crate) struct Attempt<'a> {
    pub(crate) container: &'a Container,
    pub(crate) operation: &'a Operation,
    pub(crate) change: Change,
    pub(crate) sequence: Sequence,
    /// The blob; none for zeros.
    pub(crate) frame: Option<Frame>,
}

pub(crate) struct Frame {
    pub(crate) header: BlobHeader,
    pub(crate) payload: Bytes,
}

/// How a round of asking members ended.
enum Round {
    /// Enough of them hold the blob.
    Stored,
    /// Begin anew after a pause.
    Again,
}

/// What an attempt keeps from one round to the next.
struct Rounds {
    pause: Duration,
    /// The newest epoch under which a member said that it holds the blob.
    held_under: Option<PlacementEpoch>,
}

impl Shared {
    /// Writes one piece (`None`: zeros); returns when it is applied.
    pub(crate) async fn write_piece(
        &self,
        piece: &Piece,
        data: Option<Bytes>,
        operation: &Operation,
    ) -> Result<(), IoError> {
        let container = self.container(piece.index);
        let units = data.map(|data| encode_units(&data, self.record.policy.compression));
        let range = piece.first_block..piece.first_block + piece.blocks;
        loop {
            self.ensure_fenced(&container).await?;
            let sequence = self.take_sequence(&container, operation).await?;
            let frame = units.as_ref().map(|(units, payload)| {
                self.frame(&container, piece, sequence, units.clone(), payload.clone())
            });
            let attempt = Attempt {
                container: &container,
                operation,
                change: Change::Write(range.clone()),
                sequence,
                frame,
            };
            let zeroes_beside = attempt.frame.is_none() && active(Mutant::ZeroLeavesCache);
            let concerned = if zeroes_beside { 0..0 } else { range.clone() };
            let token = container.with(|state| state.cache.begin_commit(concerned));
            let ended = self.run_attempt(&attempt).await;
            let known = match &ended {
                Ok((Ended::Applied, acknowledged)) if !zeroes_beside => {
                    self.known(&attempt, acknowledged)
                }
                _ => Vec::new(),
            };
            container.with(|state| {
                state.cache.end_commit(token, known);
                if ended.is_ok() {
                    state.sequences.settle(sequence);
                }
            });
            match ended?.0 {
                Ended::Applied
                    if operation.is_cancelled() && active(Mutant::AppliedTakenForCancelled) =>
                {
                    return Err(IoError::Cancelled);
                }
                Ended::Applied => return Ok(()),
                Ended::Void | Ended::NoRoom if operation.is_cancelled() => {
                    return Err(IoError::Cancelled);
                }
                Ended::NoRoom => return Err(IoError::NoRoom { in_part: false }),
                Ended::Void => {}
            }
        }
    }

    async fn take_sequence(
        &self,
        container: &Container,
        operation: &Operation,
    ) -> Result<Sequence, IoError> {
        let mut pause = RETRY_FIRST;
        loop {
            if self.is_lost() {
                return Err(IoError::Fenced);
            }
            if operation.is_cancelled() {
                return Err(IoError::Cancelled);
            }
            if let Some(sequence) = container.with(|state| state.sequences.begin()) {
                return Ok(sequence);
            }
            self.pause(&mut pause, Some(operation)).await;
        }
    }

    fn frame(
        &self,
        container: &Container,
        piece: &Piece,
        sequence: Sequence,
        units: Vec<UnitRecord>,
        payload: Bytes,
    ) -> Frame {
        let name = BlobName {
            container: container.id,
            writer: self.writer,
            sequence,
        };
        let header = BlobHeader {
            name,
            layer: self.layer(),
            first_block: piece.first_block,
            version: Version {
                writer: self.writer,
                sequence,
            },
            units,
            key: 0,
            moved: Vec::new(),
        };
        Frame { header, payload }
    }

    /// Drives one name to its end: applied, or void.
    pub(crate) async fn run_attempt(
        &self,
        attempt: &Attempt<'_>,
    ) -> Result<(Ended, BTreeSet<StoreId>), IoError> {
        let mut rounds = Rounds {
            pause: RETRY_FIRST,
            held_under: None,
        };
        // Stays empty but for a mutant.
        let mut former = BTreeSet::new();
        // Since when lack of room is all that is in the way.
        let mut full_since = None;
        loop {
            if self.is_lost() {
                return Err(IoError::Fenced);
            }
            if attempt.operation.is_cancelled() {
                if active(Mutant::CancelAnsweredBeforeVoid) {
                    return Ok((Ended::Void, BTreeSet::new()));
                }
                let ended = self.void(attempt).await?;
                return Ok((ended, BTreeSet::new()));
            }
            let (epoch, acknowledged) = match self.store(attempt, &mut rounds).await? {
                Stored::Enough(epoch, acknowledged) => (epoch, acknowledged),
                Stored::NotYet(lack) => {
                    let now = self.env.now();
                    full_since = (lack == Lack::Room).then(|| full_since.unwrap_or(now));
                    if full_since.is_some_and(|since| now.since(since) >= ROOM_LIMIT) {
                        let ended = match self.void(attempt).await? {
                            Ended::Applied => Ended::Applied,
                            Ended::Void | Ended::NoRoom => Ended::NoRoom,
                        };
                        return Ok((ended, BTreeSet::new()));
                    }
                    self.pause(&mut rounds.pause, Some(attempt.operation)).await;
                    continue;
                }
            };
            if active(Mutant::StaleAcknowledgementsCount) {
                former.extend(&acknowledged);
            }
            let counted = former.union(&acknowledged).copied().collect();
            let low_water = attempt.container.with(|state| state.sequences.low_water());
            let command = self.command_of(attempt, epoch, &counted, low_water);
            match self.commit(attempt, command, low_water).await? {
                Some(ended) => return Ok((ended, acknowledged)),
                None if active(Mutant::UnknownTakenForApplied) => {
                    return Ok((Ended::Applied, acknowledged));
                }
                None if active(Mutant::RetryWithoutVoid) => {
                    return Ok((Ended::Void, acknowledged));
                }
                None => self.pause(&mut rounds.pause, Some(attempt.operation)).await,
            }
        }
    }

    /// Stores the blob on a quorum.
    async fn store(&self, attempt: &Attempt<'_>, rounds: &mut Rounds) -> Result<Stored, IoError> {
        const NOT_YET: Stored = Stored::NotYet(Lack::Other);
        let _phase = self.env.phase(Phase::Store);
        let Some(frame) = &attempt.frame else {
            return Ok(Stored::Enough(PlacementEpoch(0), BTreeSet::new()));
        };
        let began = self.env.now();
        let Some(placement) = self.ensure_placed(attempt.container).await? else {
            return Ok(NOT_YET);
        };
        let targets = self.targets(&placement);
        let domains = self.domains(&targets);
        let stores: Vec<StoreId> = targets.iter().map(|target| target.member.store).collect();
        let quorum = match Quorum::new(&stores, &domains, placement.write_quorum) {
            Ok(quorum) => quorum,
            Err(reason) => {
                let id = attempt.container.id;
                event!(self.env, Warn, "proxy", "{id}: {reason}");
                attempt.container.forget_placement();
                return Ok(NOT_YET);
            }
        };
        let mut gathering = Gathering::new(quorum);
        let mut ended = ControlFlow::Continue(());
        if rounds
            .held_under
            .is_some_and(|epoch| epoch != placement.epoch)
        {
            ended = self
                .ask_by_name(attempt, frame, &placement, &mut gathering)
                .await?;
        }
        if ended.is_continue() {
            let request = |store| HBlockRequest::Write {
                store,
                header: frame.header.clone(),
                generation: self.generation,
                epoch: placement.epoch,
                targets: targets.clone(),
                write_quorum: placement.write_quorum,
                domains: domains.clone(),
            };
            ended = self
                .send_frame(attempt, frame, &placement, &request, &mut gathering)
                .await?;
        }
        let acknowledged = gathering.acknowledged();
        if !acknowledged.is_empty() {
            rounds.held_under = Some(placement.epoch);
        }
        match ended {
            ControlFlow::Break(Round::Stored) => {
                return Ok(Stored::Enough(placement.epoch, acknowledged.clone()));
            }
            ControlFlow::Break(Round::Again) => return Ok(NOT_YET),
            ControlFlow::Continue(()) => {}
        }
        if self.env.now().since(began) >= SUBSTITUTE_AFTER || rounds.pause > SUBSTITUTE_AFTER {
            self.substitute(attempt.container, &placement, acknowledged)
                .await;
        }
        Ok(Stored::NotYet(gathering.lack()))
    }

    /// Asks all members at once whether they hold the blob already, by its name.
    async fn ask_by_name(
        &self,
        attempt: &Attempt<'_>,
        frame: &Frame,
        placement: &Placement,
        gathering: &mut Gathering,
    ) -> Result<ControlFlow<Round>, IoError> {
        let name = frame.header.name;
        let asking = |(store, peer): (StoreId, Peer)| async move {
            let request = HBlockRequest::Acknowledge {
                store,
                epoch: placement.epoch,
                container: name.container,
                names: vec![(name, frame.header.identity_digest())],
            };
            let message = Message::new(encode(&request), Bytes::new());
            (store, self.ask_hblock(&peer, message, HELD_LIMIT).await)
        };
        let members = self.members_to_ask(placement, attempt.sequence);
        let mut answers: FuturesUnordered<_> = members.into_iter().map(asking).collect();
        while let Some((store, reply)) = answers.next().await {
            let heard = gathering.hear_of(store, name, reply.as_ref());
            let next = self.act_on(attempt, heard)?;
            if next.is_break() {
                return Ok(next);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Sends the identical frame to one member after the other, until enough hold it.
    async fn send_frame(
        &self,
        attempt: &Attempt<'_>,
        frame: &Frame,
        placement: &Placement,
        request: &(dyn Fn(StoreId) -> HBlockRequest + Sync),
        gathering: &mut Gathering,
    ) -> Result<ControlFlow<Round>, IoError> {
        for (store, peer) in self.members_to_ask(placement, attempt.sequence) {
            let message = Message::new(encode(&request(store)), frame.payload.clone());
            let reply = self.ask_hblock(&peer, message, STORE_LIMIT).await;
            let next = self.act_on(attempt, gathering.hear(reply.as_ref()))?;
            if next.is_break() {
                return Ok(next);
            }
            if self.is_lost() || attempt.operation.is_cancelled() {
                return Ok(ControlFlow::Break(Round::Again));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What a member's answer means for the round.
    fn act_on(&self, attempt: &Attempt<'_>, heard: Heard) -> Result<ControlFlow<Round>, IoError> {
        match heard {
            Heard::Enough => Ok(ControlFlow::Break(Round::Stored)),
            Heard::More => Ok(ControlFlow::Continue(())),
            Heard::StaleEpoch => {
                attempt.container.forget_placement();
                Ok(ControlFlow::Break(Round::Again))
            }
            Heard::Fenced(refusal) => {
                self.lose_fenced(&refusal.to_string());
                Err(IoError::Fenced)
            }
            Heard::Broken(refusal) => {
                let text = format!("{}: {refusal}", attempt.sequence);
                event!(self.env, Error, "proxy", "broken invariant: {text}");
                self.lose(&text);
                Err(IoError::Fenced)
            }
        }
    }

    /// Every writable member, with its address.
    fn targets(&self, placement: &Placement) -> Vec<WriteTarget> {
        let directory = self.groups.directory();
        let target = |member: &PlacementMember| WriteTarget {
            member: *member,
            address: directory.address_of(member.node).unwrap_or_default(),
        };
        placement.writable().map(target).collect()
    }

    async fn ask_hblock(
        &self,
        peer: &Peer,
        message: Message,
        limit: Duration,
    ) -> Option<HBlockReply> {
        let options = CallOptions::within(limit);
        let reply = self
            .rpc
            .call_with(peer, ServiceId(SERVICE_HBLOCK), message, options)
            .await;
        decode::<HBlockReply>(&reply.ok()?.head).ok()
    }

    /// The domain of each target under the disk's placement rule.
    fn domains(&self, targets: &[WriteTarget]) -> Vec<u16> {
        let topology = self.groups.directory().topology();
        let mut names: Vec<(String, String)> = Vec::new();
        let domain = |target: &WriteTarget| {
            let node = topology
                .nodes
                .iter()
                .find(|node| node.node == target.member.node);
            let location = node.map(|node| node.location.clone()).unwrap_or_default();
            let key = match self.record.policy.placement {
                PlacementRule::Agnostic => (String::new(), String::new()),
                PlacementRule::RackAware => (location.data_centre, location.rack),
                PlacementRule::DataCentreAware => (location.data_centre, String::new()),
            };
            let known = names.iter().position(|name| *name == key);
            let index = known.unwrap_or_else(|| {
                names.push(key);
                names.len() - 1
            });
            u16::try_from(index).expect("a placement has few members")
        };
        targets.iter().map(domain).collect()
    }

    /// Writable members, the quickest first; equals take turns.
    fn members_to_ask(&self, placement: &Placement, turn: Sequence) -> Vec<(StoreId, Peer)> {
        let directory = self.groups.directory();
        let mut members: Vec<_> = placement
            .writable()
            .filter_map(|member| {
                let address = directory.address_of(member.node)?;
                let latency = self.latency_class(member.node);
                Some((latency, member.store, Peer::new(address, member.node)))
            })
            .collect();
        members.sort_by_key(|(latency, store, _)| (*latency, store.0 ^ turn.0.rotate_left(40)));
        members
            .into_iter()
            .map(|(_, store, peer)| (store, peer))
            .collect()
    }

    /// Round-trip time in powers of two of 128 microseconds: members of one class share the load.
    pub(crate) fn latency_class(&self, node: hedgerow_env::NodeId) -> u32 {
        let micros = self
            .rpc
            .latency(&node)
            .map_or(0, |latency| latency.as_micros());
        u128::BITS - (micros / 128).leading_zeros()
    }

    /// The placement of the container; made when there is none. None: not now.
    async fn ensure_placed(&self, container: &Container) -> Result<Option<Placement>, IoError> {
        if let Some(placement) = container.placement() {
            return Ok(Some(placement));
        }
        let Some(group) = self.group_of(container) else {
            self.refresh_directory().await;
            return Ok(None);
        };
        let request = ShardRequest::EnsurePlaced {
            container: container.id,
            generation: self.generation,
            policy: self.record.policy.clone(),
        };
        match self.groups.shard(group, request, PLACE_LIMIT).await {
            Ok(ShardReply::Placed { placement }) => {
                container.learn(container.id, placement.clone());
                self.know_members(&placement).await;
                Ok(Some(placement))
            }
            Ok(ShardReply::Refused(refusal)) => {
                self.refused(&refusal)?;
                self.follow(&refusal).await;
                if container.tell_waiting(refusal.to_string()) {
                    event!(self.env, Warn, "proxy", "{}: {refusal}", container.id);
                }
                Ok(None)
            }
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Learns the addresses of members that the topology at hand does not have.
    async fn know_members(&self, placement: &Placement) {
        let directory = self.groups.directory();
        if placement
            .members
            .iter()
            .any(|member| directory.address_of(member.node).is_none())
        {
            self.refresh_directory().await;
        }
    }

    async fn substitute(
        &self,
        container: &Container,
        placement: &Placement,
        acknowledged: &BTreeSet<StoreId>,
    ) {
        let Some(group) = self.group_of(container) else {
            return;
        };
        let unavailable: Vec<StoreId> = placement
            .writable()
            .map(|member| member.store)
            .filter(|store| !acknowledged.contains(store))
            .collect();
        let request = ShardRequest::Substitute {
            container: container.id,
            generation: self.generation,
            policy: self.record.policy.clone(),
            epoch: placement.epoch,
            unavailable,
        };
        if let Ok(ShardReply::Placed { placement }) =
            self.groups.shard(group, request, PLACE_LIMIT).await
        {
            container.learn(container.id, placement.clone());
            self.know_members(&placement).await;
        }
    }

    fn command_of(
        &self,
        attempt: &Attempt<'_>,
        epoch: PlacementEpoch,
        acknowledged: &BTreeSet<StoreId>,
        low_water: Sequence,
    ) -> ShardCommand {
        let container = attempt.container.id;
        let (layer, generation) = (self.layer(), self.generation);
        let (writer, sequence) = (self.writer, attempt.sequence);
        let acknowledged = acknowledged.iter().copied().collect();
        let stored = attempt
            .frame
            .as_ref()
            .map_or(0, |frame| frame.payload.len());
        let stored_bytes = u32::try_from(stored).expect("a blob is at most 1 MiB");
        match &attempt.change {
            Change::Write(range) => ShardCommand::Commit(Commit {
                container,
                layer,
                generation,
                epoch,
                writer,
                sequence,
                low_water,
                extents: extents_of(range, attempt.frame.as_ref()),
                acknowledged,
                stored_bytes,
            }),
            Change::Relocate(moves) => ShardCommand::Relocate(Relocate {
                container,
                layer,
                generation,
                epoch,
                writer,
                sequence,
                low_water,
                moves: moves.clone(),
                acknowledged,
                stored_bytes,
            }),
        }
    }

    /// Proposes the map commit. None: the outcome is open, or more acknowledgements are needed.
    async fn commit(
        &self,
        attempt: &Attempt<'_>,
        command: ShardCommand,
        low_water: Sequence,
    ) -> Result<Option<Ended>, IoError> {
        let _phase = self.env.phase(Phase::Commit);
        let Some(group) = self.group_of(attempt.container) else {
            return Ok(None);
        };
        let outcome = self.committers.propose(group, command).await;
        let refusal = match outcome {
            Ok(ShardOutcome::Committed { .. }) => {
                attempt.container.with(|state| {
                    state.told_low_water = state.told_low_water.max(low_water);
                });
                return Ok(Some(Ended::Applied));
            }
            Ok(ShardOutcome::Refused(refusal)) => refusal,
            Ok(_) | Err(_) => return Ok(None),
        };
        self.refused(&refusal)?;
        self.follow(&refusal).await;
        match refusal {
            ShardRefusal::StaleEpoch { current } => {
                attempt
                    .container
                    .learn(attempt.container.id, current.clone());
                self.know_members(&current).await;
            }
            ShardRefusal::NotFenced => {
                attempt.container.with(|state| state.fenced = false);
                self.ensure_fenced(attempt.container).await?;
            }
            ShardRefusal::NotPlaced => attempt.container.forget_placement(),
            ShardRefusal::Void => return Ok(Some(Ended::Void)),
            ShardRefusal::Collected
            | ShardRefusal::BelowLowWater
            | ShardRefusal::Malformed { .. } => {
                let text = format!("{} {}: {refusal}", attempt.container.id, attempt.sequence);
                event!(self.env, Error, "proxy", "broken invariant: {text}");
                self.lose(&text);
                return Err(IoError::Fenced);
            }
            _ => {}
        }
        Ok(None)
    }

    /// Ends the attempt: the shard says whether it was applied, else it never will be.
    async fn void(&self, attempt: &Attempt<'_>) -> Result<Ended, IoError> {
        let _phase = self.env.phase(Phase::Void);
        let mut pause = RETRY_FIRST;
        loop {
            if self.is_lost() {
                return Err(IoError::Fenced);
            }
            if let Some(group) = self.group_of(attempt.container) {
                let command = ShardCommand::Void {
                    container: attempt.container.id,
                    writer: self.writer,
                    sequences: vec![attempt.sequence],
                    low_water: attempt.container.with(|state| state.sequences.low_water()),
                };
                match self.committers.propose(group, command).await {
                    Ok(ShardOutcome::Ended(ends)) => {
                        let end = ends
                            .iter()
                            .find(|(sequence, _)| *sequence == attempt.sequence);
                        match end {
                            Some((_, AttemptEnd::Applied)) => return Ok(Ended::Applied),
                            Some((_, AttemptEnd::Void)) => return Ok(Ended::Void),
                            None => {}
                        }
                    }
                    Ok(ShardOutcome::Refused(refusal)) => {
                        self.refused(&refusal)?;
                        self.follow(&refusal).await;
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            self.pause(&mut pause, None).await;
        }
    }

    /// What the metacache may know after the commit.
    fn known(&self, attempt: &Attempt<'_>, acknowledged: &BTreeSet<StoreId>) -> Vec<KnownExtent> {
        let version = Version {
            writer: self.writer,
            sequence: attempt.sequence,
        };
        let placement = attempt.container.placement();
        let missing: Vec<StoreId> = placement
            .iter()
            .flat_map(|placement| placement.writable())
            .map(|member| member.store)
            .filter(|store| !acknowledged.contains(store))
            .collect();
        // After a void that turned out applied the acknowledging members are not known.
        if attempt.frame.is_some() && acknowledged.is_empty() {
            return Vec::new();
        }
        let Change::Write(range) = &attempt.change else {
            return Vec::new();
        };
        let known = |extent: &CommitExtent| KnownExtent {
            first_block: extent.first_block,
            blocks: extent.blocks,
            target: match (extent.target, &attempt.frame) {
                (
                    CommitTarget::Data {
                        unit,
                        unit_offset_blocks,
                        digest,
                    },
                    Some(frame),
                ) => {
                    let blob = frame.header.name;
                    MapTarget::Data {
                        blob,
                        unit,
                        unit_offset_blocks,
                        digest,
                    }
                }
                _ => MapTarget::Hole,
            },
            version: Some(version),
            missing: (!missing.is_empty()).then(|| missing.clone().into()),
        };
        extents_of(range, attempt.frame.as_ref())
            .iter()
            .map(known)
            .collect()
    }
}

/// The extents of a write: one for each unit, or one hole.
fn extents_of(range: &Range<u32>, frame: Option<&Frame>) -> Vec<CommitExtent> {
    let Some(frame) = frame else {
        return vec![CommitExtent {
            first_block: range.start,
            blocks: range.end - range.start,
            target: CommitTarget::Hole,
        }];
    };
    let mut at = range.start;
    let extent = |(unit, record): (usize, &UnitRecord)| {
        let blocks = record.logical_bytes / 512;
        let first_block = at;
        at += blocks;
        CommitExtent {
            first_block,
            blocks,
            target: CommitTarget::Data {
                unit: u16::try_from(unit).expect("a blob has few units"),
                unit_offset_blocks: 0,
                digest: record.digest,
            },
        }
    };
    frame.header.units.iter().enumerate().map(extent).collect()
}
