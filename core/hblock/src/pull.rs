//! The reader of one shard's feed for one store: pulls, applies, fetches, confirms, advances.
//!
//! This realises the asynchronous third copy and the catch-up of a member that was away.
//!
//! Invariants: changes other than `Incomplete` are applied in the feed's order, and durably before
//! the batch is handed to the [`Feed`]; a blob is confirmed only while it is held durably, under an
//! epoch that is durable here; a fetched blob is stored only after every unit passed its digest;
//! the position is durable here before it is reported.
//! Does not: decide what is due (the feed core does).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{Either, select};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    AbortOnDrop, BlobName, ContainerId, GroupId, Phase, PlacementEpoch, StoreId, event,
};
use hedgerow_protocol::{
    Change, Envelope, HBlockRefusal, MAXIMUM_NAMES, NameState, ShardCommand, ShardOutcome,
    ShardRefusal, ShardReply, ShardRequest, encode,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use crate::context::Context;
use crate::feed::{Attempt, Expected, Feed};
use crate::holdings;
use crate::local::Local;
use crate::member::RecordVersion;
use crate::ports::ControlKey;
use crate::sweep;

/// Blobs of one feed that are looked for at a time; the node's own limit on fetches is lower.
const LOOKED_FOR: usize = 32;

/// Names deleted at a time when a container is retired.
const DELETE_BATCH: usize = 1024;

/// How far a store has handled a shard's feed, durably (docs/format/hblock-records.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedRecord {
    /// The shard.
    pub group: GroupId,
    /// Everything up to this feed index is done.
    pub handled: u64,
}

impl Envelope for FeedRecord {
    const KIND: u16 = 26;
    const VERSION: u16 = 1;
}

/// What the changes of one page ask of the store.
#[derive(Default)]
struct Page {
    expected: Vec<Expected>,
    /// The newest record of each container that changed.
    records: BTreeMap<ContainerId, RecordVersion>,
    free: Vec<BlobName>,
}

/// The reader of one feed.
pub(crate) struct Reader {
    context: Arc<Context>,
    local: Arc<Local>,
    group: GroupId,
    /// Rung when the comparison has ended: what it found is to be looked for at once.
    bell: Arc<Notify>,
    feed: Feed,
    /// The last pull was part of a full listing.
    listing: bool,
    /// Set when the store was compared with what the shard counts it for; at once when it reads on
    /// where it was.
    compared: Arc<AtomicBool>,
    comparison: Option<AbortOnDrop>,
    /// The shard waits for a proposal of this store.
    nudge: bool,
    /// Containers left in these epochs, to be reported.
    retired: Vec<(ContainerId, PlacementEpoch)>,
    attempts: mpsc::Receiver<(BlobName, Attempt)>,
    attempted: mpsc::Sender<(BlobName, Attempt)>,
}

impl Reader {
    pub(crate) fn new(
        context: Arc<Context>,
        local: Arc<Local>,
        group: GroupId,
        handled: u64,
    ) -> Self {
        let feed = Feed::new(context.config.feed, handled, context.env.now());
        // Never full: at most `LOOKED_FOR` attempts are under way.
        let (attempted, attempts) = mpsc::channel(LOOKED_FOR);
        Self {
            context,
            local,
            group,
            bell: Arc::default(),
            feed,
            listing: false,
            compared: Arc::new(AtomicBool::new(handled != 0)),
            comparison: None,
            nudge: false,
            retired: Vec::new(),
            attempts,
            attempted,
        }
    }

    /// Reads for as long as the store lives and the shard exists.
    pub(crate) async fn run(mut self) {
        if !self.compared.load(Ordering::SeqCst) {
            self.comparison = Some(self.compare());
        }
        while self.local.stopped().is_none() {
            if let Err(refusal) = self.step().await {
                let (store, group) = (self.local.id(), self.group);
                event!(
                    self.context.env,
                    Warn,
                    "hblock",
                    "{store}: feed of {group}: {refusal}"
                );
                self.feed.pull_failed(self.context.env.now());
            }
            self.wait().await;
        }
    }

    /// Compares the store with the shard, beside the reading.
    fn compare(&self) -> AbortOnDrop {
        let (compared, bell) = (Arc::clone(&self.compared), Arc::clone(&self.bell));
        let (context, local) = (Arc::clone(&self.context), Arc::clone(&self.local));
        let work = holdings::compare(context, local, self.group);
        let task = self.context.env.spawn("hblock-compare", async move {
            work.await;
            compared.store(true, Ordering::SeqCst);
            bell.notify_one();
        });
        task.abort_on_drop()
    }

    /// One round: everything that is due now. An error is of the own store, and leaves all as it
    /// is.
    async fn step(&mut self) -> Result<(), HBlockRefusal> {
        if let Some(after) = self.feed.pull_due(self.context.env.now()) {
            self.pull(after).await?;
        }
        self.look();
        self.feed.hold(!self.compared.load(Ordering::SeqCst));
        // A RETIRED that was not taken yet is repeated only if its RETIRE is pulled again after a
        // crash: until then the position stays before it.
        let due = self.feed.persist_due(self.context.env.now());
        if let Some(position) = due.filter(|_| self.retired.is_empty()) {
            self.persist(position).await?;
        }
        self.propose().await
    }

    /// Waits for an attempt's end, the comparison's, or the next time that something is due.
    async fn wait(&mut self) {
        let env = &self.context.env;
        let compared = {
            let wake_at = env.sleep_until(self.feed.wake_at(env.now(), LOOKED_FOR));
            let bell = std::pin::pin!(self.bell.notified());
            let attempt = std::pin::pin!(self.attempts.recv());
            match select(attempt, select(bell, wake_at)).await {
                Either::Left((Some((name, attempt)), _)) => {
                    self.feed.attempted(env.now(), name, attempt);
                    false
                }
                Either::Left((None, _)) | Either::Right((Either::Right(_), _)) => false,
                Either::Right((Either::Left(_), _)) => true,
            }
        };
        if compared {
            self.feed.pull_soon(env.now());
        }
        while let Ok((name, attempt)) = self.attempts.try_recv() {
            self.feed.attempted(env.now(), name, attempt);
        }
    }

    async fn pull(&mut self, after: u64) -> Result<(), HBlockRefusal> {
        let request = ShardRequest::Pull {
            store: self.local.id(),
            after,
            limit: self.context.config.feed.page,
        };
        let Some(ShardReply::Changes {
            changes,
            next,
            more,
            full,
        }) = self.ask(request).await
        else {
            self.feed.pull_failed(self.context.env.now());
            return Ok(());
        };
        if full && !self.listing {
            // Collected names may be missing from the feed: the sweep asks after every name.
            let (store, group) = (self.local.id(), self.group);
            event!(
                self.context.env,
                Info,
                "hblock",
                "{store}: full listing of {group}"
            );
            self.local.sweep_soon();
        }
        self.listing = full;
        let count = changes.len();
        let mut page = Page::default();
        for change in changes {
            self.apply(change, &mut page).await?;
        }
        self.settle(&mut page).await?;
        let expected = page.expected;
        // More is coming and nothing came: the shard lists what this store lacks step by step, and
        // each proposal of the store is a step.
        self.nudge = more && count == 0;
        let applied = count - expected.len();
        let now = self.context.env.now();
        self.feed.batch(now, applied, expected, next, more);
        Ok(())
    }

    /// Applies one change; what it needs of the store is done by [`Reader::settle`], for many
    /// changes at once.
    async fn apply(&mut self, change: Change, page: &mut Page) -> Result<(), HBlockRefusal> {
        match change {
            Change::Incomplete {
                blob,
                epoch,
                sources,
            } => page.expected.push(Expected {
                name: blob,
                epoch,
                sources,
            }),
            Change::Placed {
                container,
                placement,
            } => {
                let members = placement.members.iter();
                let members = members.map(|member| member.store).collect();
                let (epoch, generation) = (placement.epoch, placement.generation);
                let version = self
                    .local
                    .with_member(|member| member.placed(container, epoch, generation, members));
                page.records.insert(container, version);
            }
            Change::Collected {
                container,
                writer,
                sequences,
            } => {
                let version = self
                    .local
                    .with_member(|member| member.collected(container, writer, &sequences));
                page.records.insert(container, version);
                page.free
                    .extend(sequences.into_iter().map(|sequence| BlobName {
                        container,
                        writer,
                        sequence,
                    }));
            }
            Change::Retire { container, epoch } => {
                self.settle(page).await?;
                self.retire(container, epoch).await?;
            }
        }
        Ok(())
    }

    /// Makes the page's records durable, then deletes what they call free.
    async fn settle(&self, page: &mut Page) -> Result<(), HBlockRefusal> {
        let _phase = self.context.env.phase(Phase::CatchUp);
        while let Some((container, version)) = page.records.pop_first() {
            self.local.make_durable(container, version).await?;
        }
        if page.free.is_empty() {
            return Ok(());
        }
        self.local.delete(std::mem::take(&mut page.free)).await
    }

    async fn retire(
        &mut self,
        container: ContainerId,
        epoch: PlacementEpoch,
    ) -> Result<(), HBlockRefusal> {
        let _phase = self.context.env.phase(Phase::Retirement);
        let retired = self
            .local
            .with_member(|member| member.retire(container, epoch));
        let Some(version) = retired else {
            let (store, group) = (self.local.id(), self.group);
            event!(
                self.context.env,
                Info,
                "hblock",
                "{store}: {group}: late RETIRE of {container} in {epoch} passed over"
            );
            return Ok(());
        };
        self.local.make_durable(container, version).await?;
        if active(Mutant::RetireIgnored) {
            self.retired.push((container, epoch));
            return Ok(());
        }
        let mut after = BlobName {
            container,
            ..BlobName::default()
        };
        let mut dropped = 0;
        // Sequence 0 is never handed out, so nothing is held under the first name itself.
        loop {
            let mut names = self.local.store().names(Some(after), DELETE_BATCH);
            names.retain(|name| name.container == container);
            let Some(last) = names.last() else { break };
            after = *last;
            dropped += names.len();
            self.local.delete(names).await?;
        }
        let store = self.local.id();
        event!(
            self.context.env,
            Info,
            "hblock",
            "{store}: has left {container} in {epoch}: {dropped} blobs dropped"
        );
        if !self.retired.contains(&(container, epoch)) {
            self.retired.push((container, epoch));
        }
        Ok(())
    }

    /// Looks for the blobs that are due; each look is a task of its own.
    fn look(&mut self) {
        let now = self.context.env.now();
        for (expected, patient) in self.feed.begin(now, LOOKED_FOR) {
            if self.is_elsewhere(expected.name.container) {
                self.feed.attempted(now, expected.name, Attempt::Gone);
                continue;
            }
            let context = Arc::clone(&self.context);
            let local = Arc::clone(&self.local);
            let attempted = self.attempted.clone();
            self.context.env.spawn("hblock-catch-up", async move {
                let name = expected.name;
                let attempt = look_for(&context, &local, expected, patient).await;
                // A reader that ended wants no answer.
                let _gone = attempted.send((name, attempt)).await;
            });
        }
    }

    /// Whether the container is another shard's by now: the feed of that one, which is read from its
    /// beginning, tells all of it.
    fn is_elsewhere(&self, container: ContainerId) -> bool {
        let group = self.context.shards.shard_of(container);
        group.is_some_and(|group| group != self.group)
    }

    async fn persist(&mut self, position: u64) -> Result<(), HBlockRefusal> {
        let record = FeedRecord {
            group: self.group,
            handled: position,
        };
        let store = self.local.store();
        let written = store.put_record(ControlKey::Feed(self.group), encode(&record));
        written.await.map_err(|fault| self.local.refusal(fault))?;
        self.feed.persisted(self.context.env.now(), position);
        Ok(())
    }

    /// Proposes what there is to propose, as one batch.
    async fn propose(&mut self) -> Result<(), HBlockRefusal> {
        let names = self.feed.confirmable(MAXIMUM_NAMES);
        let names = match self.under_durable_epochs(names).await {
            Ok(names) => names,
            Err((names, refusal)) => {
                let now = self.context.env.now();
                for name in names {
                    self.feed.unconfirmed(now, name);
                }
                return Err(refusal);
            }
        };
        let position = self.feed.report_due();
        let store = self.local.id();
        let mut commands = Vec::new();
        let nudge = std::mem::take(&mut self.nudge);
        let confirms = nudge || !names.is_empty();
        if confirms {
            let names = names.clone();
            commands.push(ShardCommand::Confirm { store, names });
        }
        for (container, epoch) in self.retired.iter().copied() {
            commands.push(ShardCommand::Retired {
                container,
                store,
                epoch,
            });
        }
        if let Some(index) = position {
            commands.push(ShardCommand::Handled { store, index });
        }
        if commands.is_empty() {
            return Ok(());
        }
        let count = commands.len();
        let outcomes = match self.ask(ShardRequest::Propose(commands)).await {
            Some(ShardReply::Outcomes(outcomes)) if outcomes.len() == count => outcomes,
            _ => {
                let now = self.context.env.now();
                for (name, _) in names {
                    self.feed.unconfirmed(now, name);
                }
                return Ok(());
            }
        };
        let mut outcomes = outcomes.into_iter();
        if confirms {
            let outcome = outcomes.next().expect("counted above");
            self.confirmed(&names, outcome).await?;
        }
        self.retired_reported(outcomes.by_ref());
        if let (Some(position), Some(ShardOutcome::Done)) = (position, outcomes.next()) {
            self.feed.reported(position);
        }
        Ok(())
    }

    /// The epochs to confirm under, durable here.
    async fn under_durable_epochs(
        &self,
        names: Vec<(BlobName, PlacementEpoch)>,
    ) -> Result<Vec<(BlobName, PlacementEpoch)>, (Vec<BlobName>, HBlockRefusal)> {
        let mut confirmed = Vec::with_capacity(names.len());
        for (name, given) in &names {
            let container = name.container;
            let (epoch, admitted) = self.local.with_member(|member| {
                let epoch = member.confirm_epoch(container, *given);
                (epoch, member.acknowledge(container, epoch))
            });
            let durable = match admitted {
                Ok(version) => self.local.make_durable(container, version).await,
                // Retired meanwhile: the shard knows, and drops the name from its list.
                Err(_) => Ok(()),
            };
            if let Err(refusal) = durable {
                return Err((names.into_iter().map(|(name, _)| name).collect(), refusal));
            }
            confirmed.push((*name, epoch));
        }
        Ok(confirmed)
    }

    /// Acts on the outcome of a CONFIRM.
    async fn confirmed(
        &mut self,
        names: &[(BlobName, PlacementEpoch)],
        outcome: ShardOutcome,
    ) -> Result<(), HBlockRefusal> {
        let known = match outcome {
            ShardOutcome::Confirmed(known) if known.len() == names.len() => known,
            ShardOutcome::Refused(ShardRefusal::StaleEpoch { .. }) => vec![false; names.len()],
            outcome => {
                let group = self.group;
                event!(
                    self.context.env,
                    Warn,
                    "hblock",
                    "{group}: CONFIRM: {outcome:?}"
                );
                vec![false; names.len()]
            }
        };
        let now = self.context.env.now();
        let mut doubtful = Vec::new();
        for ((name, _), known) in names.iter().zip(known) {
            if known {
                self.feed.confirmed(*name);
            } else if self.is_elsewhere(name.container) {
                self.feed.gone(*name);
            } else if self.feed.unknown(now, *name) {
                doubtful.push(*name);
            }
        }
        doubtful.sort_unstable();
        self.inquire(&doubtful).await;
        Ok(())
    }

    /// Asks the shard what became of names that it does not let us confirm.
    async fn inquire(&mut self, mut names: &[BlobName]) {
        while !names.is_empty() {
            let asked = sweep::same_container(names);
            names = &names[asked.len()..];
            let store = self.local.id();
            let Some(states) = self.context.name_states(store, asked).await else {
                continue;
            };
            sweep::settle(&self.local, asked, &states).await;
            for (name, state) in asked.iter().zip(states) {
                match state {
                    NameState::Live | NameState::Pending => {}
                    NameState::Collected | NameState::Unknown => self.feed.gone(*name),
                }
            }
        }
    }

    fn retired_reported(&mut self, outcomes: &mut impl Iterator<Item = ShardOutcome>) {
        let (env, group) = (&self.context.env, self.group);
        self.retired
            .retain(|(container, epoch)| match outcomes.next() {
                Some(ShardOutcome::Done) => false,
                Some(outcome) => {
                    event!(
                        env,
                        Warn,
                        "hblock",
                        "{group}: RETIRED {container} {epoch}: {outcome:?}"
                    );
                    false
                }
                None => true,
            });
    }

    async fn ask(&self, request: ShardRequest) -> Option<ShardReply> {
        let timeout = self.context.config.shard_timeout;
        match self.context.shards.ask(self.group, request, timeout).await {
            Ok(ShardReply::Refused(refusal)) => {
                let group = self.group;
                event!(self.context.env, Warn, "hblock", "{group}: {refusal}");
                None
            }
            Ok(reply) => Some(reply),
            Err(fault) => {
                let group = self.group;
                event!(self.context.env, Debug, "hblock", "{group}: {fault}");
                None
            }
        }
    }
}

/// Makes sure that an expected blob is held, if it is still wanted.
async fn look_for(
    context: &Context,
    local: &Arc<Local>,
    expected: Expected,
    patient: bool,
) -> Attempt {
    let name = expected.name;
    if !local.with_member(|member| member.wants(name)) {
        return Attempt::Gone;
    }
    match local.holds(name).await {
        Ok(true) => return Attempt::Held,
        Ok(false) if !patient => return Attempt::Lacking,
        Ok(false) => {}
        Err(_) => return Attempt::Lacking,
    }
    let own = local.id();
    let sources: Vec<StoreId> = expected
        .sources
        .into_iter()
        .filter(|source| *source != own)
        .collect();
    let Some((header, payload)) = context.fetch(name, &sources).await else {
        if active(Mutant::CatchUpConfirmsLacking) {
            return Attempt::Held;
        }
        return Attempt::Lacking;
    };
    match local.store_copy(header, payload).await {
        Ok(true) => Attempt::Held,
        // Under way by another hand, or not wanted any more: the next look tells which.
        Ok(false) | Err(HBlockRefusal::Collected | HBlockRefusal::StaleEpoch { .. }) => {
            Attempt::Lacking
        }
        Err(refusal) => {
            event!(
                context.env,
                Debug,
                "hblock",
                "{own}: catch-up of {name}: {refusal}"
            );
            Attempt::Lacking
        }
    }
}
