//! Planted bugs. Each proves that some oracle would notice its like; none is in a production build.
//!
//! Without the feature `mutants` [`active`] is a constant `false` and the compiler removes the
//! planted code. With it, one mutant at most is chosen for the whole process at its start: by
//! [`choose`], or else by the variable `HEDGEROW_MUTANT`, so that every test can be run with it.

macro_rules! catalogue {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// The catalogue.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Mutant {
            $($(#[$doc])* $variant,)+
        }

        impl Mutant {
            /// Every mutant, in the catalogue's order.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$variant,)+];

            /// The name used on command lines and in tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

catalogue! {
    /// The journal reports a record durable before its sync completed.
    AcknowledgeBeforeSync = "acknowledge-before-sync",
    /// A write is acknowledged by one member fewer than W.
    QuorumOneShort = "quorum-one-short",
    /// The shard does not check the placement epoch: the proxy's view decides.
    PlacementCheckedOutsideShard = "placement-checked-outside-shard",
    /// A commit does not enter the members that lack the blob into `incomplete`.
    IncompleteDropped = "incomplete-dropped",
    /// A collected name may be committed later.
    CollectWithoutRefusal = "collect-without-refusal",
    /// An unmap removes entries instead of leaving a versioned hole.
    UnmapWithoutVersionedHole = "unmap-without-versioned-hole",
    /// A metacache fill older than a newer change of its range is kept.
    LateMetacacheFill = "late-metacache-fill",
    /// Freeing a journal segment forgets a live vote instead of copying it forward.
    VoteNotCopiedForward = "vote-not-copied-forward",
    /// A container is read without fencing it first.
    FenceSkippedOnRead = "fence-skipped-on-read",
    /// The proxy counts its lease from the receipt of the grant, without the drift bound.
    LeaseCountedFromReceipt = "lease-counted-from-receipt",
    /// A VOID is answered and not remembered: a late COMMIT of the same sequence is applied after all.
    VoidNotRecorded = "void-not-recorded",
    /// A fenced writer is told *void* of a sequence that may have been applied.
    VoidAnsweredToFencedWriter = "void-answered-to-fenced-writer",
    /// A VOID of an applied sequence is answered *void*.
    AppliedAnsweredAsVoid = "applied-answered-as-void",
    /// A commit of an older generation, or of a writer that is not admitted, is applied.
    CommitFenceUnchecked = "commit-fence-unchecked",
    /// A container fenced once by itself no longer goes by its disk's floor.
    FloorPassedOver = "floor-passed-over",
    /// An older FENCE takes the place of a newer one.
    FenceMayFall = "fence-may-fall",
    /// The acknowledgement of a resting member counts towards W.
    RestingMemberCounts = "resting-member-counts",
    /// A commit to a layer that a snapshot has frozen is applied.
    FrozenLayerWritten = "frozen-layer-written",
    /// A writer's lower sequence overwrites its higher one.
    LateCommitOverwrites = "late-commit-overwrites",
    /// The rest of a split map entry refers to the beginning of its unit.
    PartKeepsOffset = "part-keeps-offset",
    /// An overwrite in the middle of a map entry drops what lies behind it.
    OverwriteLosesTail = "overwrite-loses-tail",
    /// A hole vanishes while an older write of its writer may still arrive.
    HoleVanishesEarly = "hole-vanishes-early",
    /// A blob is called free at its first overwritten block.
    BlobFreedTooSoon = "blob-freed-too-soon",
    /// A look-up goes through the layers from the oldest.
    OlderLayerFirst = "older-layer-first",
    /// A shard does not remember its writers' low-water marks.
    LowWaterForgotten = "low-water-forgotten",
    /// A member may leave before the others hold what it holds.
    MemberLeavesUndrained = "member-leaves-undrained",
    /// A new member is taken for one that lacks nothing.
    NewMemberCountsAsWhole = "new-member-counts-as-whole",
    /// A new member is not told which older blobs it lacks.
    SweepNotStarted = "sweep-not-started",
    /// A member that left is not told to drop its blobs.
    RetireNotTold = "retire-not-told",
    /// A store is named again before it confirmed its RETIRE.
    StoreNamedBeforeRetired = "store-named-before-retired",
    /// A PLACE under the present epoch replaces the present members.
    TwoPlacementsInOneEpoch = "two-placements-in-one-epoch",
    /// A CONFIRM counts whatever epoch it was given under.
    ConfirmUnderAnyEpoch = "confirm-under-any-epoch",
    /// A CONFIRM of one member counts for every member.
    ConfirmForAll = "confirm-for-all",
    /// A name that may still be committed is called collected.
    PendingNameCollected = "pending-name-collected",
    /// Members are not told of collected names.
    CollectionNotTold = "collection-not-told",
    /// A page of a feed that ends within one log index is taken for the whole of it.
    PullSkipsRest = "pull-skips-rest",
    /// The members of a deleted disk's containers are not retired.
    DropKeepsMembers = "drop-keeps-members",
    /// A deleted disk's floor is not raised: late commands make its containers anew.
    DropWithoutFloor = "drop-without-floor",
    /// An exclusive disk is granted although another session holds it.
    HeldDiskGranted = "held-disk-granted",
    /// An attachment does not raise the disk's generation.
    AttachKeepsGeneration = "attach-keeps-generation",
    /// A session that attaches again gets its former writer id, whose sequences are used.
    AttachNonceIgnored = "attach-nonce-ignored",
    /// An attach that comes behind a later one of its session is granted, which fences that.
    LateAttachGranted = "late-attach-granted",
    /// A session whose lease was ended goes on renewing it.
    EndedSessionRenews = "ended-session-renews",
    /// A lease ends although it was renewed since its wait began.
    ExpiryIgnoresRenewals = "expiry-ignores-renewals",
    /// The end of a lease fences its disks nowhere.
    ExpiryWithoutFloor = "expiry-without-floor",
    /// The end of a lease does not raise the generation of the disks held.
    ExpiryKeepsGeneration = "expiry-keeps-generation",
    /// The grantor waits as long as the lease, without room for clocks that differ.
    LeaseEndsTooSoon = "lease-ends-too-soon",
    /// A new root leader counts the waits of leases from before its term.
    NewLeaderEndsLeases = "new-leader-ends-leases",
    /// A detach by a former writer ends the present attachment.
    DetachOfAnyWriter = "detach-of-any-writer",
    /// A repeated creation of a disk is taken for another one.
    CreationNotRemembered = "creation-not-remembered",
    /// A shrink does not raise the disk's generation.
    ShrinkKeepsGeneration = "shrink-keeps-generation",
    /// A store that lost its replica gets the same number again.
    ReplicaNumberReused = "replica-number-reused",
    /// A node that restarts is not draining any more.
    JoinForgetsDraining = "join-forgets-draining",
    /// A replica that runs without its group stays so, and keeps the store from another one.
    RunningReplicaLeftOut = "running-replica-left-out",
    /// An operator's decision on a node counts whenever it comes, also when it was taken back.
    LateDrainObeyed = "late-drain-obeyed",
    /// A store that moved to another node also stays listed at the former one.
    MovedStoreStaysListed = "moved-store-stays-listed",
    /// A vote is given before it is durable.
    VoteBeforeSync = "vote-before-sync",
    /// Log entries are acknowledged before they are durable.
    LogBeforeSync = "log-before-sync",
    /// Entries cut off the log come back with the next start.
    TruncationNotRecorded = "truncation-not-recorded",
    /// The log is purged past what the state holds durably.
    PurgePastDurable = "purge-past-durable",
    /// A group's members are not kept with its state.
    MembershipNotStored = "membership-not-stored",
    /// The applied index is written in a transaction after that of the state.
    AppliedIndexApart = "applied-index-apart",
    /// A follower that applies several entries at once leaves out what the last of them changes.
    CatchUpDropsAnEntry = "catch-up-drops-an-entry",
    /// A replica that believes to lead answers reads without asking the others.
    ReadIndexSkipped = "read-index-skipped",
    /// A log record is released before its copy is durable.
    CopyForwardNotAwaited = "copy-forward-not-awaited",
    /// A replica runs although records of its log are damaged.
    DamagedLogRuns = "damaged-log-runs",
    /// A replica number that was retired runs again.
    RetiredReplicaRuns = "retired-replica-runs",
    /// A replica answers messages meant for a former replica of its group.
    MessageForFormerReplica = "message-for-former-replica",
    /// A linearizable read joins a round of the read index that began before it.
    ReadJoinsRoundUnderWay = "read-joins-round-under-way",
    /// A substitution may leave fewer than W members that answer.
    SubstituteBeyondQuorum = "substitute-beyond-quorum",
    /// Learners are recorded as members of a group.
    GroupRecordsLearners = "group-records-learners",
    /// A member answers that it holds a blob before the journal's sync.
    HeldBeforeSync = "held-before-sync",
    /// W acknowledgements of one rack or data centre are enough where the policy asks for two.
    QuorumInOneDomain = "quorum-in-one-domain",
    /// A member takes writes of an older placement epoch.
    MemberEpochUnchecked = "member-epoch-unchecked",
    /// A member answers under an epoch that it has not made durable.
    RecordNotAwaited = "record-not-awaited",
    /// A repeated request of a blob being appended is answered without waiting for it.
    JoinedStoreAnswersAtOnce = "joined-store-answers-at-once",
    /// Stored bytes are answered whatever their digests say.
    DigestUnchecked = "digest-unchecked",
    /// A damaged copy is called repaired before the sound one is written.
    RepairSettlesUnwritten = "repair-settles-unwritten",
    /// A copy known to be damaged is acknowledged and confirmed.
    WoundedCopyCounts = "wounded-copy-counts",
    /// A blob that no other member could give is confirmed all the same.
    CatchUpConfirmsLacking = "catch-up-confirms-lacking",
    /// A copy fetched from another member is confirmed before it is durable.
    CopyHeldBeforeSync = "copy-held-before-sync",
    /// A feed's position passes blobs that are not held yet.
    FeedAdvancesEarly = "feed-advances-early",
    /// A RETIRE is confirmed and the container's blobs stay.
    RetireIgnored = "retire-ignored",
    /// A RETIRE of an epoch before the store came back deletes its blobs.
    LateRetireObeyed = "late-retire-obeyed",
    /// The sweep deletes names that may still be committed.
    PendingNameDeleted = "pending-name-deleted",
    /// A collected name is stored again when a late request brings it.
    CollectedNameForgotten = "collected-name-forgotten",
    /// A cached look-up is answered though the lease lapsed meanwhile.
    LeaseUncheckedAfterRead = "lease-unchecked-after-read",
    /// An attachment goes on reading after it was fenced.
    LostAttachmentReads = "lost-attachment-reads",
    /// A session whose lease was ended goes on with its attachments.
    EndedLeaseKeepsDisks = "ended-lease-keeps-disks",
    /// Of two overlapping commits the one answered last fills the metacache.
    CommitsFillInAnyOrder = "commits-fill-in-any-order",
    /// The metacache answers for a range whose commit is outstanding.
    CacheAnswersDuringCommit = "cache-answers-during-commit",
    /// Zeroing a range leaves what the metacache knows of it.
    ZeroLeavesCache = "zero-leaves-cache",
    /// A write whose commit was not answered is retried under a new sequence at once.
    RetryWithoutVoid = "retry-without-void",
    /// A write whose commit was not answered is acknowledged.
    UnknownTakenForApplied = "unknown-taken-for-applied",
    /// A cancelled write is answered before the shard has voided its sequence.
    CancelAnsweredBeforeVoid = "cancel-answered-before-void",
    /// A cancelled write that was applied after all is answered as cancelled.
    AppliedTakenForCancelled = "applied-taken-for-cancelled",
    /// A unit that no member gives reads as zeros.
    MissingUnitReadsAsZeros = "missing-unit-reads-as-zeros",
    /// The low-water mark passes sequences whose outcome is unknown.
    LowWaterPassesUnsettled = "low-water-passes-unsettled",
    /// The part of a request beyond a container's end goes to the container of its beginning.
    PieceInFirstContainer = "piece-in-first-container",
    /// Every piece of a request carries the bytes of its beginning.
    PieceFromStart = "piece-from-start",
    /// Acknowledgements given under a former placement epoch are committed under the present one.
    StaleAcknowledgementsCount = "stale-acknowledgements-count",
    /// A durable journal frame makes the ones before it count as durable.
    LaterFrameSpeaksForEarlier = "later-frame-speaks-for-earlier",
    /// A failed sync of the journal is tried again, and believed.
    FailedSyncRetried = "failed-sync-retried",
    /// Damage among acknowledged journal frames is taken for a torn tail.
    DamageTakenForTail = "damage-taken-for-tail",
    /// What recovery read from the cache is not made durable again.
    TailNotSecured = "tail-not-secured",
    /// An idle journal writes no closing mark.
    ClosingMarkSkipped = "closing-mark-skipped",
    /// A journal segment is freed though records in it live.
    SegmentFreedEarly = "segment-freed-early",
    /// A freed segment is overwritten before the frame that frees it is durable.
    SegmentRecycledEarly = "segment-recycled-early",
    /// Blobs are flushed to an extent that is not synced, and leave the journal.
    ExtentUnsynced = "extent-unsynced",
    /// A recovered extent gets its footer before its entries are durable.
    FooterBeforeEntries = "footer-before-entries",
    /// Flush and compaction move an index entry that has changed meanwhile.
    RelocateUnconditional = "relocate-unconditional",
    /// An extent with a live entry left is removed.
    MostlyDeadExtentRemoved = "mostly-dead-extent-removed",
    /// A deletion leaves the journal before the extents know of it.
    DeletionForgotten = "deletion-forgotten",
    /// A replaced copy is dead on disk before its successor is durable.
    DeadMapAheadOfJournal = "dead-map-ahead-of-journal",
    /// Both copies of the superblock are written before either is synced.
    SuperblockCopiesTogether = "superblock-copies-together",
    /// An update of the superblock writes over its only good copy.
    SuperblockOneCopy = "superblock-one-copy",
    /// A commit of Pages' state does not sync its log.
    PageLogUnsynced = "page-log-unsynced",
    /// The table of page checksums is durable before the pages.
    TableBeforePages = "table-before-pages",
    /// A page of Pages' state is used whatever its checksum says.
    PageUnverified = "page-unverified",
    /// A frame's body is taken whatever its checksum says.
    BodyChecksumUnchecked = "body-checksum-unchecked",
    /// A response is given to the oldest request, whichever it answers.
    AnswersInOrder = "answers-in-order",
    /// A second copy of a request runs while the first does.
    DuplicateRequestRuns = "duplicate-request-runs",
    /// Whoever answers at an address is taken for the node expected there.
    HandshakeNodeUnchecked = "handshake-node-unchecked",
    /// A request that may have run is reported as one that never left.
    SentCalledUnreachable = "sent-called-unreachable",
    /// A peer whose store knows less of itself than this node is talked to.
    NodeBehindAccepted = "node-behind-accepted",
    /// A store that peers know better than itself goes on serving.
    RollBackUnjudged = "roll-back-unjudged",
    /// A store marked as rolled back serves after a restart.
    RolledBackStarts = "rolled-back-starts",
    /// A quiet member does not tick again when its leader's node says no more.
    QuietFollowerSleepsOn = "quiet-follower-sleeps-on",
    /// Handshakes show journal positions that are not durable yet.
    StampsShowUndurable = "stamps-show-undurable",
    /// A cluster is founded although a seed did not answer.
    FoundingWithSilentSeed = "founding-with-silent-seed",
    /// A node that belongs to a cluster accepts the claim of another.
    ClaimOverwrites = "claim-overwrites",
    /// A write under way when its attachment is lost is answered as one that was never begun.
    FencedWriteAnsweredAsFailed = "fenced-write-answered-as-failed",
    /// Every R2T of a command asks from the end of the data received.
    R2tOffsetRepeats = "r2t-offset-repeats",
    /// A transfer shorter than expected is reported without its residual.
    ResidualMissing = "residual-missing",
    /// A failed command is answered without its sense data.
    SenseLost = "sense-lost",
    /// The length of an UNMAP descriptor is taken for bytes.
    UnmapCountInBytes = "unmap-count-in-bytes",
    /// Only the first descriptor of an UNMAP is performed.
    UnmapFirstRangeOnly = "unmap-first-range-only",
    /// ABORT TASK is answered while the aborted write may still change the disk.
    AbortAnsweredEarly = "abort-answered-early",
    /// A write with less data than its CDB says is not shortened to it.
    ShortWriteKeepsLength = "short-write-keeps-length",
    /// An ordered task does not wait for the older ones.
    OrderedTaskOvertakes = "ordered-task-overtakes",
    /// A transfer that begins inside the disk may end beyond it.
    EndUnchecked = "end-unchecked",
    /// A relocation takes entries along that no longer refer to the old blob.
    MoveUnconditional = "move-unconditional",
    /// A relocation makes itself the version of what it moves.
    MoveNewVersion = "move-new-version",
    /// A split leaves the marks of writers behind: what was applied may be applied again.
    MarksLeftBehind = "marks-left-behind",
    /// A split leaves the floors of disks behind.
    FloorsLeftBehind = "floors-left-behind",
    /// The old shard of a split goes on serving what moved.
    OldShardServesOn = "old-shard-serves-on",
    /// A new shard serves before it has adopted what it is to have.
    OpenedBeforeAdopted = "opened-before-adopted",
    /// A new shard counts positions from the beginning of its own log.
    SplitBaseForgotten = "split-base-forgotten",
    /// What the root keeps for each shard it does not keep for one that a split makes.
    SplitWithoutPendingFloors = "split-without-pending-floors",
    /// What moved is never cleared from the old shard.
    SplitNotCleared = "split-not-cleared",
}

#[cfg(feature = "mutants")]
mod chosen {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Mutant;

    const NONE: u32 = u32::MAX;
    const UNDECIDED: u32 = NONE - 1;
    static CHOSEN: AtomicU32 = AtomicU32::new(UNDECIDED);

    /// Chooses the mutant of this process, before anything else runs.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.store(
            mutant.map_or(NONE, |mutant| mutant as u32),
            Ordering::Relaxed,
        );
    }

    /// Whether `mutant` was chosen.
    #[must_use]
    pub fn active(mutant: Mutant) -> bool {
        let chosen = CHOSEN.load(Ordering::Relaxed);
        if chosen == UNDECIDED {
            choose(named());
            return active(mutant);
        }
        chosen == mutant as u32
    }

    /// The mutant that the environment names.
    ///
    /// # Panics
    /// When there is no such mutant: a test that meant to plant one must not pass without it.
    fn named() -> Option<Mutant> {
        let name = std::env::var("HEDGEROW_MUTANT").ok()?;
        Some(super::find(&name).expect("HEDGEROW_MUTANT names a mutant"))
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{active, choose};

/// Always false: this build holds no mutants.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn active(_mutant: Mutant) -> bool {
    false
}

/// The mutant called `name`.
#[must_use]
pub fn find(name: &str) -> Option<Mutant> {
    Mutant::ALL
        .iter()
        .copied()
        .find(|mutant| mutant.name() == name)
}
