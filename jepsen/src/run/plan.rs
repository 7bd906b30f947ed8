//! [`TestPlan`]: everything that a test is, as data. Two runs of one plan do the same to the
//! cluster at the same times; what the cluster does is its own affair.

use serde::{Deserialize, Serialize};

use super::bounds::{self, within};
use super::faults::TimedFault;
use super::nemesis::{self, Kind};
use super::script::ScriptedOperation;
use super::workload::WorkloadPlan;
use hedgerow_env::Random;

/// The version of the plan's form.
pub const PLAN_VERSION: u32 = 1;
/// Whether a field says nothing: then it is left out.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What clients do beside the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientPlan {
    /// Clients that act at the same time.
    pub concurrency: u32,
    /// Operations a second, of all clients together.
    pub rate: u32,
    /// Of a million operations, how many have their client crash in the middle.
    pub crash_ppm: u32,
    /// An operation that takes longer is of unknown outcome.
    pub timeout_ms: u64,
}

/// A test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestPlan {
    /// The version of this form.
    pub schema_version: u32,
    /// The test's name: the folder of its runs.
    pub test: String,
    /// What it was drawn from; clients draw from it too.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u16,
    /// Further nodes, that are blank and not started until they join.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spares: u16,
    /// Racks that they stand in, by their number modulo this.
    pub racks: u16,
    /// Stores so small and chores so frequent that a journal goes round, logs are cut and stores are
    /// swept within a minute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub small_stores: bool,
    /// So long a disk takes at most to sync, and half as long to write; 0: as long as it takes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub slow_disks_ms: u64,
    /// Clients act for so long, and rest for as long, in turns; 0: they never rest.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rest_ms: u64,
    /// How long faults strike and clients act.
    pub duration_ms: u64,
    /// How long the cluster may take to serve again after all faults have ended.
    pub recovery_ms: u64,
    /// What clients do.
    pub workload: WorkloadPlan,
    /// How they do it.
    pub clients: ClientPlan,
    /// The names of the nemeses.
    pub nemesis: Vec<String>,
    /// What strikes when.
    pub faults: Vec<TimedFault>,
    /// What clients do, if it is not drawn: the operations of another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Vec<ScriptedOperation>>,
}

/// A plan that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

impl TestPlan {
    /// Draws a test from a seed: `kinds` of faults, of which those that cut links last for
    /// `least_cut_ms` or longer.
    ///
    /// # Errors
    /// A number out of bounds, or a nemesis that needs more nodes.
    pub fn draw(
        seed: u64,
        (nodes, seconds): (u16, u64),
        workload: WorkloadPlan,
        clients: ClientPlan,
        (kinds, least_cut_ms): (&[Kind], u64),
    ) -> Result<Self, PlanError> {
        let racks = nodes.min(3);
        let names: Vec<String> = kinds.iter().map(|kind| kind.name().to_owned()).collect();
        let label = if names.is_empty() {
            "none".to_owned()
        } else if names.len() <= 3 {
            names.join("+")
        } else {
            format!("mix-of-{}", names.len())
        };
        let mut plan = Self {
            schema_version: PLAN_VERSION,
            test: format!("{}-{label}", workload.name()),
            seed,
            nodes,
            spares: 0,
            racks,
            small_stores: false,
            slow_disks_ms: 0,
            rest_ms: 0,
            duration_ms: seconds.saturating_mul(1000),
            recovery_ms: 90_000,
            workload,
            clients,
            nemesis: names,
            faults: Vec::new(),
            script: None,
        };
        plan.check()?;
        let mut random = plan.random("nemesis");
        let asked = (kinds, least_cut_ms);
        plan.faults = nemesis::draw(&mut random, asked, (nodes, racks), plan.duration_ms)?;
        let joins = plan.faults.iter().filter(|timed| timed.fault.is_join());
        plan.spares = u16::try_from(joins.count()).expect("few joins");
        Ok(plan)
    }

    /// Aims so many percent of the faults that are about one node at the one that clients use.
    #[must_use]
    pub fn aimed(mut self, percent: u32) -> Self {
        // A stream of its own: the faults stay what they are.
        let mut random = self.random("aim");
        let nodes = self.nodes;
        for timed in &mut self.faults {
            let heart = nemesis::heart(timed, nodes);
            timed.aim = heart.filter(|_| random.chance(u64::from(percent), 100));
        }
        self
    }

    /// Whether it can be run.
    ///
    /// # Errors
    /// What is out of bounds, and the bounds.
    pub fn check(&self) -> Result<(), PlanError> {
        let refuse = |text: String| Err(PlanError(text));
        if self.schema_version != PLAN_VERSION {
            let version = self.schema_version;
            return refuse(format!(
                "a plan of version {version}; this build reads {PLAN_VERSION}"
            ));
        }
        within("nodes", "--nodes", self.nodes, &bounds::NODES)?;
        within("racks", "", self.racks, &(1..=u64::from(self.nodes)))?;
        within("spares", "", self.spares, &bounds::SPARES)?;
        within(
            "duration_ms",
            "--time, in s",
            self.duration_ms,
            &bounds::DURATION_MS,
        )?;
        within("recovery_ms", "", self.recovery_ms, &bounds::RECOVERY_MS)?;
        within(
            "slow_disks_ms",
            "--slow-disks",
            self.slow_disks_ms,
            &bounds::SLOW_DISKS_MS,
        )?;
        within("rest_ms", "--bursts", self.rest_ms, &bounds::REST_MS)?;
        let clients = &self.clients;
        let field = "clients.concurrency";
        within(
            field,
            "--concurrency",
            clients.concurrency,
            &bounds::CONCURRENCY,
        )?;
        within("clients.rate", "--rate", clients.rate, &bounds::RATE)?;
        within(
            "clients.timeout_ms",
            "--timeout-ms",
            clients.timeout_ms,
            &bounds::TIMEOUT_MS,
        )?;
        within(
            "clients.crash_ppm",
            "--client-crash-ppm",
            clients.crash_ppm,
            &bounds::PPM,
        )?;
        let nemesis = self.nemesis.iter().enumerate();
        for (number, name) in nemesis {
            nemesis::known(&format!("nemesis[{number}]"), name)?;
        }
        bounds::faults(&self.faults, (self.nodes, self.spares), self.duration_ms)?;
        let named = self
            .test
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-+.".contains(c));
        if !named || self.test.is_empty() || self.test.starts_with('.') {
            return refuse("the test's name may hold letters, digits, '-', '+' and '.'".to_owned());
        }
        self.workload.check()?;
        for (number, scripted) in self.script.iter().flatten().enumerate() {
            scripted.check(&format!("script[{number}]"), self)?;
        }
        Ok(())
    }

    /// How many nodes there are in the end.
    #[must_use]
    pub fn all_nodes(&self) -> u16 {
        self.nodes + self.spares
    }

    /// A stream of random numbers of this plan; the same label gives the same stream.
    #[must_use]
    pub fn random(&self, label: &str) -> Random {
        let label = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Random::from_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ label.rotate_left(32))
    }
}
