//! Writes the history while the test runs.
//!
//! Events are numbered in the order of [`Recorder::note`] and reach the file in that order, so what
//! a crash of the tester leaves is the history up to some moment, and can be judged as it is.
//!
//! Invariant: [`Recorder::finish`] returns only when every noted event is in the file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hedgerow_env::{DiskError, Env, File, Instant, OpenMode};
use tokio::sync::Notify;

use super::results::HISTORY_FILE;
use super::target::{Completion, Operation};
use crate::history::{Event, EventKind, Process, Value, binary};

/// How the operations of one function ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) ok: u64,
    pub(super) fail: u64,
    pub(super) info: u64,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    events: u64,
    counts: BTreeMap<&'static str, Count>,
    /// When operations succeeded, on the history's clock.
    succeeded_ns: Vec<u64>,
    closed: bool,
    /// Bytes of the file that are whole records.
    written: u64,
    failed: Option<DiskError>,
}

struct Inner {
    env: Env,
    began: Instant,
    file: Arc<dyn File>,
    state: Mutex<State>,
    noted: Notify,
    written: Notify,
}

/// The history of a running test. Clones share it.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

impl Recorder {
    /// Begins a history in the folder of `env`; its clock starts now.
    ///
    /// # Errors
    /// The file cannot be created.
    pub async fn begin(env: &Env) -> Result<Self, DiskError> {
        let file = env.disk().open(HISTORY_FILE, OpenMode::Create).await?;
        let state = State {
            pending: binary::header().to_vec(),
            ..State::default()
        };
        let recorder = Self(Arc::new(Inner {
            env: env.clone(),
            began: env.now(),
            file,
            state: Mutex::new(state),
            noted: Notify::new(),
            written: Notify::new(),
        }));
        let writing = recorder.clone();
        env.spawn("history", async move { writing.write().await });
        Ok(recorder)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.state.lock().expect("no panic under this lock"))
    }

    /// Nanoseconds since the history began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let since = self.0.env.now().since(self.0.began);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes that `process` is about to perform `operation`.
    pub(super) fn invoke(&self, process: u64, operation: &Operation) {
        let argument = operation.argument.clone();
        self.note(EventKind::Invoke, process, operation, argument, None);
    }

    /// Notes how it ended.
    pub(super) fn complete(&self, process: u64, operation: &Operation, completion: &Completion) {
        let argument = || operation.argument.clone();
        let error = |text: &String| Some(Value::String(text.clone()));
        let (kind, value, error) = match completion {
            Completion::Ok(value) => (EventKind::Ok, value.clone(), None),
            Completion::Fail(text) => (EventKind::Fail, argument(), error(text)),
            Completion::Unknown(text) => (EventKind::Info, argument(), error(text)),
        };
        self.note(kind, process, operation, value, error);
    }

    fn note(
        &self,
        kind: EventKind,
        process: u64,
        operation: &Operation,
        value: Value,
        error: Option<Value>,
    ) {
        let mut event = Event {
            line: 0,
            kind,
            process: Process::Client(process),
            function: operation.function.to_owned(),
            key: operation.key.map(Value::Int),
            value,
            time_ns: None,
            error,
        };
        self.with(|state| {
            // Under the lock: times must not contradict the order in the file.
            let now = self.now_ns();
            event.time_ns = i64::try_from(now).ok();
            state.events += 1;
            binary::append_record(&mut state.pending, &event);
            let count = state.counts.entry(operation.function).or_default();
            match kind {
                EventKind::Invoke => {}
                EventKind::Ok => {
                    count.ok += 1;
                    state.succeeded_ns.push(now);
                }
                EventKind::Fail => count.fail += 1,
                EventKind::Info => count.info += 1,
            }
        });
        self.0.noted.notify_one();
    }

    /// How many operations of each function ended how.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, Count> {
        self.with(|state| state.counts.clone())
    }

    /// When operations succeeded, in order.
    pub(super) fn succeeded_ns(&self) -> Vec<u64> {
        self.with(|state| state.succeeded_ns.clone())
    }

    /// The history up to some moment of now: whole records, with calls that are still open.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) async fn so_far(&self) -> Result<Bytes, DiskError> {
        let written = self.with(|state| state.written);
        let length = usize::try_from(written).unwrap_or(usize::MAX);
        self.0.file.read_at(0, length).await
    }

    async fn write(&self) {
        let mut offset = 0;
        loop {
            let noted = self.0.noted.notified();
            let (bytes, closed) =
                self.with(|state| (std::mem::take(&mut state.pending), state.closed));
            if bytes.is_empty() {
                if closed {
                    break;
                }
                noted.await;
                continue;
            }
            let length = bytes.len() as u64;
            if let Err(error) = self.0.file.write_at(offset, vec![Bytes::from(bytes)]).await {
                self.with(|state| state.failed = Some(error));
                break;
            }
            offset += length;
            self.with(|state| state.written = offset);
        }
        if let Err(error) = self.0.file.sync().await {
            self.with(|state| state.failed = state.failed.take().or(Some(error)));
        }
        self.0.written.notify_one();
    }

    /// Writes what is left and returns the whole file.
    ///
    /// # Errors
    /// The file could not be written or read: there is no history to judge.
    pub(super) async fn finish(&self) -> Result<Bytes, DiskError> {
        self.with(|state| state.closed = true);
        self.0.noted.notify_one();
        self.0.written.notified().await;
        if let Some(error) = self.with(|state| state.failed.clone()) {
            return Err(error);
        }
        let length = usize::try_from(self.0.file.length().await?).unwrap_or(usize::MAX);
        self.0.file.read_at(0, length).await
    }
}
