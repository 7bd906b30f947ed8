//! What a node is told before it starts. Reading it from a file is the binary's matter, and what is
//! allowed is said by `config_check.rs`.

use std::time::Duration;

use hedgerow_disk::{StoreConfig, VerifiedConfig};
use hedgerow_hblock::{FeedConfig, HBlockConfig};
use hedgerow_pages::drivers::DriverConfig;
use hedgerow_pages::raft::RaftTiming;
use hedgerow_protocol::{Location, Residence, Roles};
use hedgerow_proxy::ProxyConfig;

/// Most pools of a node (DESIGN section 1).
pub const MAXIMUM_POOLS: usize = 4;

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Its directory, relative to the node's root in the disk seam.
    pub directory: String,
    /// Kind of device.
    pub residence: Residence,
    /// Usable bytes.
    pub capacity_bytes: u64,
}

/// Which disks a node exports over iSCSI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exports {
    /// Every disk of the cluster.
    All,
    /// These, by name.
    Names(Vec<String>),
}

/// The iSCSI portal of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiConfig {
    /// Where it listens.
    pub listen: String,
    /// What it exports.
    pub exports: Exports,
    /// CHAP user and secret that initiators must prove, if any.
    pub chap: Option<(String, String)>,
}

/// Periods of the Raft groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupTiming {
    /// A leader's heartbeat.
    pub heartbeat: Duration,
    /// A follower begins an election between this and twice this after the last heartbeat.
    pub election: Duration,
}

impl Default for GroupTiming {
    fn default() -> Self {
        Self {
            // An idle group costs little else than its heartbeats; an election waits for three
            // intervals, of which rounded ticks take up part: two may be lost.
            heartbeat: Duration::from_millis(400),
            election: Duration::from_millis(1200),
        }
    }
}

/// How large the files of a blank pool are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreScale {
    /// A server's disk: a journal of 1 GiB.
    #[default]
    Server,
    /// Several nodes beside other work: a journal of 192 MiB, little memory.
    Workstation,
    /// Tests of a minute with every size of request: a journal of 48 MiB, chores as in the simulator.
    Trial,
    /// The simulator: a few MiB, so that segments are freed and reused within a minute.
    Simulation,
    /// The simulator, with some figures at their extremes.
    Extreme(Extremes),
}

/// What the simulator drives to extremes; everything else is as of [`StoreScale::Simulation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extremes {
    /// Segments of the journal.
    pub journal_segments: u64,
    /// Bytes of records that the journal keeps in memory.
    pub journal_memory_bytes: usize,
    /// Entries after which a Raft replica makes a snapshot.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot.
    pub kept_entries: u64,
    /// Most replicas of a group: 3 or 5.
    pub group_replicas: usize,
    /// Pause between two rounds of a leader's duty.
    pub round: Duration,
    /// A node that did not answer for so long is down.
    pub down_after: Duration,
    /// How long an attach or detach is tried.
    pub attach_limit: Duration,
    /// How long one renewal is tried.
    pub renew_limit: Duration,
    /// From the end of one sweep over names to the next.
    pub sweep_interval: Duration,
    /// Most changes of a feed in one pull.
    pub feed_page: u32,
}

impl StoreScale {
    /// The store's configuration at this scale.
    #[must_use]
    pub fn store(self) -> StoreConfig {
        let mut config = StoreConfig::default();
        match self {
            Self::Server => {}
            Self::Workstation => {
                config.journal.segment_bytes = 16 << 20;
                config.journal.segments = 12;
                config.journal.reserve_segments = 3;
                config.journal.queue_bytes = 16 << 20;
                config.journal.memory_bytes = 16 << 20;
                config.flush_bytes = 32 << 20;
            }
            Self::Trial => {
                // Half a segment holds the largest blob.
                config.journal.segment_bytes = 4 << 20;
                config.journal.segments = 12;
                config.journal.reserve_segments = 3;
                config.journal.queue_bytes = 8 << 20;
                config.journal.memory_bytes = 4 << 20;
                config.flush_bytes = 4 << 20;
            }
            Self::Simulation => {
                config = StoreConfig::small();
                config.journal.segment_bytes = 512 << 10;
                config.journal.segments = 12;
                config.journal.batch_bytes = 64 << 10;
                config.journal.queue_bytes = 1 << 20;
                config.journal.memory_bytes = 512 << 10;
            }
            Self::Extreme(extremes) => {
                config = Self::Simulation.store();
                config.journal.segments = extremes.journal_segments;
                config.journal.memory_bytes = extremes.journal_memory_bytes;
            }
        }
        config
    }
}

impl StoreScale {
    /// The data service's configuration at this scale.
    #[must_use]
    pub fn hblock(self) -> HBlockConfig {
        let config = HBlockConfig::default();
        match self {
            Self::Server | Self::Workstation => config,
            // A sweep comes round while a node that stores its part stands still.
            Self::Trial => HBlockConfig {
                sweep_interval: Duration::from_secs(2),
                ..Self::Simulation.hblock()
            },
            // Within a run of a minute every sweep and scrub comes round several times.
            Self::Simulation => HBlockConfig {
                sweep_interval: Duration::from_secs(7),
                scrub_delay: Duration::from_secs(5),
                scrub_interval: Duration::from_secs(11),
                ..config
            },
            Self::Extreme(extremes) => HBlockConfig {
                sweep_interval: extremes.sweep_interval,
                feed: FeedConfig {
                    page: extremes.feed_page,
                    ..config.feed
                },
                ..Self::Simulation.hblock()
            },
        }
    }

    /// The configuration of Pages' state files at this scale.
    #[must_use]
    pub fn verified(self) -> VerifiedConfig {
        match self {
            Self::Server => VerifiedConfig::default(),
            Self::Workstation => VerifiedConfig {
                log_bytes: 4 << 20,
                dirty_bytes: 2 << 20,
            },
            Self::Trial | Self::Simulation | Self::Extreme(_) => VerifiedConfig::small(),
        }
    }

    /// The Raft groups' configuration at this scale.
    #[must_use]
    pub fn raft(self, timing: GroupTiming) -> RaftTiming {
        let config = RaftTiming {
            heartbeat: timing.heartbeat,
            election_min: timing.election,
            election_max: timing.election * 2,
            ..RaftTiming::default()
        };
        match self {
            Self::Server | Self::Workstation => config,
            Self::Trial | Self::Simulation => RaftTiming {
                snapshot_entries: 64,
                kept_entries: 16,
                ..config
            },
            Self::Extreme(extremes) => RaftTiming {
                snapshot_entries: extremes.snapshot_entries,
                kept_entries: extremes.kept_entries,
                ..config
            },
        }
    }

    /// The configuration of the duties of leaders, for a cluster of so many shards.
    #[must_use]
    pub fn drivers(self, shards: usize) -> DriverConfig {
        let config = DriverConfig {
            shards,
            ..DriverConfig::default()
        };
        match self {
            Self::Extreme(extremes) => DriverConfig {
                replicas: extremes.group_replicas,
                round: extremes.round,
                down_after: extremes.down_after,
                ..config
            },
            _ => config,
        }
    }

    /// The proxy's configuration.
    #[must_use]
    pub fn proxy(self) -> ProxyConfig {
        match self {
            Self::Extreme(extremes) => ProxyConfig {
                attach_limit: extremes.attach_limit,
                renew_limit: extremes.renew_limit,
            },
            _ => ProxyConfig::default(),
        }
    }
}

/// A node's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name, for people.
    pub name: String,
    /// Where its RPC server listens.
    pub listen: String,
    /// Where others reach it; what `seeds` of other nodes must say.
    pub advertise: String,
    /// The first nodes of the cluster, in the same order on each of them.
    pub seeds: Vec<String>,
    /// What it does.
    pub roles: Roles,
    /// Where it stands.
    pub location: Location,
    /// Its pools; the first is the system pool.
    pub pools: Vec<PoolConfig>,
    /// Its iSCSI portal, if it has one.
    pub iscsi: Option<IscsiConfig>,
    /// How many shard groups a new cluster gets: a power of two.
    pub shards: u32,
    /// Periods of the Raft groups.
    pub timing: GroupTiming,
    /// How large the stores' files are made when a pool is blank.
    pub scale: StoreScale,
}
