//! The traits of what is tested: a [`Target`] is a cluster, a [`Client`] one connection to it.

use hedgerow_env::BoxFuture;

use super::faults::Fault;
use super::plan::TestPlan;
use crate::history::Value;

/// One call of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The function, such as `write`.
    pub function: &'static str,
    /// The independent object it concerns, if the workload has several.
    pub key: Option<i64>,
    /// The argument.
    pub argument: Value,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It succeeded, with this answer.
    Ok(Value),
    /// It certainly did not happen; why.
    Fail(String),
    /// Nobody knows whether it happened, or will; why. The client is not used again.
    Unknown(String),
}

/// One client: a connection that performs one call at a time.
pub trait Client: Send {
    /// Performs `operation`. When the future is dropped the client must not be used again, and
    /// dropping the client must end its connection.
    fn perform<'a>(&'a mut self, operation: &'a Operation) -> BoxFuture<'a, Completion>;
}

/// What became of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Struck {
    /// It struck; the evidence.
    Yes(String),
    /// It did not; why.
    No(String),
}

/// Something about a node that nobody asked for, such as a process that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The node's name.
    pub node: String,
    /// What happened.
    pub text: String,
    /// Whether it is a defect whatever the history says (a panic, a broken invariant).
    pub defect: bool,
}

/// The target could not be set up or healed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(pub String);

/// A cluster under test.
pub trait Target: Send + Sync {
    /// Its name for people: `processes`, `etcd`, ...
    fn name(&self) -> &'static str;

    /// Starts the cluster; returns when clients can be served.
    fn set_up<'a>(&'a self, plan: &'a TestPlan) -> BoxFuture<'a, Result<(), TargetError>>;

    /// A new client for `process`; it connects at its first call.
    fn client(&self, process: u64) -> Box<dyn Client>;

    /// The node that most clients use at present, if they do not use all alike.
    fn used_node(&self) -> Option<u16> {
        None
    }

    /// Begins a fault. A fault that cannot begin (the node is down already) answers why.
    fn begin<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Result<(), TargetError>>;

    /// Ends a fault that began, and says whether it struck.
    fn end<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Struck>;

    /// Whether a node has shown a defect already: the verdict is known then, whatever the history
    /// says.
    fn has_defect(&self) -> BoxFuture<'_, bool>;

    /// Whether the cluster itself says that nothing is amiss: every node is up, every part of it
    /// answers. One that says so and does not serve is wrong, however busy the machine is.
    fn says_it_is_whole(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Makes everything whole that can be: every node runs, every link is open.
    fn heal(&self) -> BoxFuture<'_, Result<(), TargetError>>;

    /// Stops everything; tells what happened that nobody asked for.
    fn tear_down(&self) -> BoxFuture<'_, Vec<Incident>>;
}
