//! The trace: a rolling hash over everything that happened, and optionally the events themselves.
//!
//! Two runs behaved alike exactly when their [`TraceSummary`] hashes are equal. Checkpoints of the
//! hash locate the first differing event: [`TraceSummary::first_difference`] names a range of event
//! numbers, and a second run with [`Recording::Range`] keeps just these.
//!
//! Invariants: what is recorded (or printed) never changes the hash; log lines are not hashed, so
//! that a log level cannot change it either.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use hedgerow_env::{Events, Level, Phase};
use serde::{Deserialize, Serialize};

use super::node::NodeEnv;
use super::tasks::{self, TaskLabel};
use super::topology::NodeIndex;

/// Events between two checkpoints of the hash.
pub const CHECKPOINT_EVENTS: u64 = 4_096;

/// Log lines and events kept at most by any recording; about 1 GiB.
const RECORDED_EVENTS_MAXIMUM: usize = 8_000_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum EventKind {
    /// A timer fired. `subject`: 0.
    Timer = 1,
    /// A random stream or secret was drawn. `subject`: the call count, `checksum`: its seed.
    Stream = 2,
    /// A message arrived. `subject`: the sender, `size`: bytes, `checksum`: of the content.
    Deliver = 3,
    /// A message was lost. As `Deliver`.
    Lose = 4,
    /// A connection was made. `subject`: the peer.
    Connect = 5,
    /// A connection broke at this node. `subject`: the peer.
    Reset = 6,
    /// A disk read. `subject`: the offset, `checksum`: of the content.
    DiskRead = 7,
    /// A disk write. As `DiskRead`.
    DiskWrite = 8,
    /// A file was synced.
    DiskSync = 9,
    /// Another disk call: `subject` is a code of the call, `checksum` of its path.
    DiskOther = 10,
    /// A disk fault struck. `subject`: a code of the fault.
    DiskFault = 11,
    /// A node started. `subject`: its incarnation.
    Start = 12,
    /// A node stopped. `subject`: its incarnation.
    Stop = 13,
    /// A fault action was applied. `checksum`: of its description.
    Fault = 14,
    /// Something that a scenario noted. `subject`, `size` and `checksum` are the caller's.
    Note = 15,
    /// A log line; recorded, not hashed.
    Log = 16,
}

/// One recorded event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// The event's number; a log line bears that of the hashed event before it.
    pub number: u64,
    /// True virtual time.
    pub at_ns: u64,
    /// Where; none for the world itself.
    pub node: Option<NodeIndex>,
    /// What.
    pub kind: EventKind,
    /// See [`EventKind`].
    pub subject: u64,
    /// See [`EventKind`].
    pub size: u64,
    /// See [`EventKind`].
    pub checksum: u64,
    /// When that began which ends here: a message's sending; else the same as `at_ns`. Not hashed.
    pub since_ns: u64,
    /// Text of a log line or a fault; of a message, what it says, if the run was asked to record
    /// that ([`crate::world::WorldConfig::describe`]). Not hashed.
    pub text: String,
    /// The task that caused it, or, for a timer or a message, that armed or sent it; none for the
    /// world itself. Recorded, not hashed.
    #[serde(default)]
    pub task: Option<TaskLabel>,
}

impl std::fmt::Display for TraceEvent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, nanoseconds) = (self.at_ns / 1_000_000_000, self.at_ns % 1_000_000_000);
        write!(formatter, "{seconds:>5}.{nanoseconds:09} ")?;
        match self.node {
            Some(node) => write!(formatter, "{node:>4} ")?,
            None => write!(formatter, "     ")?,
        }
        if let Some(task) = &self.task {
            write!(formatter, "[{task}] ")?;
        }
        if self.kind == EventKind::Log {
            return write!(formatter, "{}", self.text);
        }
        write!(
            formatter,
            "{:?} subject={} size={} checksum={:016x} {}",
            self.kind, self.subject, self.size, self.checksum, self.text
        )
    }
}

/// Which events are kept besides the hash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Recording {
    /// None.
    #[default]
    HashOnly,
    /// Log lines.
    Logs,
    /// The last so many: what a failure report shows.
    Last(usize),
    /// Those with numbers in the range.
    Range(Range<u64>),
    /// All (up to a fixed limit, after which the oldest go).
    All,
}

/// What is left of a run's trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSummary {
    /// The rolling hash over all events.
    pub hash: u64,
    /// The number of hashed events.
    pub events: u64,
    /// The true virtual time when the run ended.
    pub virtual_ns: u64,
    /// The hash after each [`CHECKPOINT_EVENTS`] events.
    pub checkpoints: Vec<u64>,
    /// What was recorded.
    pub recorded: Vec<TraceEvent>,
}

impl TraceSummary {
    /// The range of event numbers that holds the first difference of two runs, if they differ.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<Range<u64>> {
        if self.hash == other.hash && self.events == other.events {
            return None;
        }
        // Once two rolling hashes differ they go on differing: the first such pair is bisected.
        let both = self.checkpoints.len().min(other.checkpoints.len());
        let pairs: Vec<usize> = (0..both).collect();
        let equal = pairs.partition_point(|at| self.checkpoints[*at] == other.checkpoints[*at]);
        let start = u64::try_from(equal).expect("a length fits 64 bits") * CHECKPOINT_EVENTS;
        Some(start..start + CHECKPOINT_EVENTS)
    }
}

/// Errors that are kept until somebody asks.
const ERRORS_MAXIMUM: usize = 10_000;

/// What a node left to the oracles.
pub type Left = (NodeIndex, Arc<dyn Any + Send + Sync>);

/// The trace of one running world.
#[derive(Debug)]
pub(super) struct Trace {
    state: Mutex<TraceState>,
    recording: Recording,
    /// The lowest level of log lines that are recorded or printed.
    level: Level,
    print: bool,
}

#[derive(Debug)]
struct TraceState {
    hash: u64,
    events: u64,
    last_ns: u64,
    checkpoints: Vec<u64>,
    recorded: VecDeque<TraceEvent>,
    /// What nodes logged as errors since somebody asked; the first ones.
    errors: Vec<(NodeIndex, String)>,
    /// What nodes left to the oracles since somebody asked.
    left: Vec<Left>,
    frozen: bool,
}

impl Trace {
    pub(super) fn new(recording: Recording, level: Level, print: bool) -> Self {
        let state = TraceState {
            hash: 0x6865_6467_6572_6f77,
            events: 0,
            last_ns: 0,
            checkpoints: Vec::new(),
            recorded: VecDeque::new(),
            errors: Vec::new(),
            left: Vec::new(),
            frozen: false,
        };
        Self {
            state: Mutex::new(state),
            recording,
            level,
            print,
        }
    }

    /// Folds one event into the hash.
    pub(super) fn record(&self, event: TraceEvent) {
        let mut state = self.state.lock().expect("no panic while tracing");
        if state.frozen {
            return;
        }
        let node = event.node.map_or(u64::MAX, |node| u64::from(node.0));
        let head = (u64::from(event.kind as u8) << 48) ^ node;
        for word in [head, event.at_ns, event.subject, event.size, event.checksum] {
            state.hash = fold(state.hash, word);
        }
        state.last_ns = event.at_ns;
        state.events += 1;
        if state.events.is_multiple_of(CHECKPOINT_EVENTS) {
            let hash = state.hash;
            state.checkpoints.push(hash);
        }
        let number = state.events - 1;
        self.keep(&mut state, TraceEvent { number, ..event });
    }

    fn keep(&self, state: &mut TraceState, event: TraceEvent) {
        let (wanted, maximum) = match &self.recording {
            Recording::HashOnly => return,
            Recording::Logs => (event.kind == EventKind::Log, RECORDED_EVENTS_MAXIMUM),
            Recording::Last(count) => (true, (*count).min(RECORDED_EVENTS_MAXIMUM)),
            Recording::Range(range) => (range.contains(&event.number), RECORDED_EVENTS_MAXIMUM),
            Recording::All => (true, RECORDED_EVENTS_MAXIMUM),
        };
        if wanted && maximum > 0 {
            if state.recorded.len() >= maximum {
                state.recorded.pop_front();
            }
            let task = tasks::present().map(TaskLabel::from);
            state.recorded.push_back(TraceEvent { task, ..event });
        }
    }

    /// Whether any event is kept but log lines.
    pub(super) fn records(&self) -> bool {
        !matches!(self.recording, Recording::HashOnly | Recording::Logs)
    }

    fn wants_log(&self, level: Level) -> bool {
        level >= self.level && (self.print || self.recording != Recording::HashOnly)
    }

    /// What nodes logged as errors since this was asked last.
    pub(super) fn take_errors(&self) -> Vec<(NodeIndex, String)> {
        let mut state = self.state.lock().expect("no panic while tracing");
        std::mem::take(&mut state.errors)
    }

    /// What nodes left to the oracles since this was asked last, in that order.
    pub(super) fn take_left(&self) -> Vec<Left> {
        let mut state = self.state.lock().expect("no panic while tracing");
        std::mem::take(&mut state.left)
    }

    fn note_left(&self, left: Left) {
        let mut state = self.state.lock().expect("no panic while tracing");
        if !state.frozen {
            state.left.push(left);
        }
    }

    fn note_error(&self, node: NodeIndex, text: &str) {
        let mut state = self.state.lock().expect("no panic while tracing");
        if !state.frozen && state.errors.len() < ERRORS_MAXIMUM {
            state.errors.push((node, text.to_owned()));
        }
    }

    /// Keeps (and prints, if asked) one log line.
    fn log(&self, at_ns: u64, node: Option<NodeIndex>, text: String) {
        let mut state = self.state.lock().expect("no panic while tracing");
        let event = TraceEvent {
            number: state.events,
            at_ns,
            node,
            kind: EventKind::Log,
            subject: 0,
            size: 0,
            checksum: 0,
            since_ns: at_ns,
            text,
            task: None,
        };
        if self.print {
            eprintln!("{event}");
        }
        self.keep(&mut state, event);
    }

    /// What is known so far; the recorded events are handed over.
    pub(super) fn summary(&self) -> TraceSummary {
        let mut state = self.state.lock().expect("no panic while tracing");
        TraceSummary {
            hash: state.hash,
            events: state.events,
            virtual_ns: state.last_ns,
            checkpoints: state.checkpoints.clone(),
            recorded: std::mem::take(&mut state.recorded).into(),
        }
    }

    /// Ends the trace: what the world's own end causes is no part of the run.
    pub(super) fn freeze(&self) {
        self.state.lock().expect("no panic while tracing").frozen = true;
    }

    /// The hash so far.
    pub(super) fn hash(&self) -> u64 {
        self.state.lock().expect("no panic while tracing").hash
    }
}

/// Folds a word into a hash: a full 64 x 64 bit product, both halves of which are kept.
fn fold(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word ^ 0xa076_1d64_78bd_642f)
        * u128::from(word.rotate_left(32) ^ 0xe703_7ed1_a0b4_28db);
    let low = u64::try_from(product & u128::from(u64::MAX)).expect("masked to 64 bits");
    let high = u64::try_from(product >> 64).expect("the high half fits 64 bits");
    hash.rotate_left(29) ^ low ^ high
}

impl Events for NodeEnv {
    fn enabled(&self, level: Level) -> bool {
        level >= Level::Error || self.world.trace().wants_log(level)
    }

    fn emit(&self, level: Level, component: &'static str, message: std::fmt::Arguments<'_>) {
        let text = format!("{level:?} {component}: {message}");
        let trace = self.world.trace();
        if level >= Level::Error {
            trace.note_error(self.node.index, &text);
        }
        if trace.wants_log(level) {
            trace.log(self.world.now_ns(), Some(self.node.index), text);
        }
    }

    fn phase(&self, phase: Phase, begins: bool) {
        self.world.phase(&self.node, &self.life, phase, begins);
    }

    fn is_judged(&self) -> bool {
        true
    }

    fn leave(&self, what: Arc<dyn Any + Send + Sync>) {
        self.world.trace().note_left((self.node.index, what));
    }
}
