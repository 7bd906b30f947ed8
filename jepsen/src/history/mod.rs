//! Histories: what was called, by whom, when, and what came back.
//!
//! An [`Event`] is one line of a history (a call being sent, or its ending); a [`Call`] is the
//! pair of both. Histories come as Jepsen's EDN, as `jepsen.log` lines, or in our own
//! [`binary`] form; [`History::parse`] tells them apart.
//!
//! Invariants: events keep the order of the text, which is the order of real time; every refusal
//! names its line (for the binary form its record) and what was expected there; an ending of
//! unknown outcome is kept as such.
//!
//! It does not interpret functions and values: that is a model's affair.

pub mod binary;
pub mod edn;
mod edn_events;
mod edn_write;
mod log;
mod pair;
mod value;

pub use pair::{Call, Ending};
pub use value::{Float, Value};

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// What a line says about its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// The operation was sent.
    Invoke,
    /// It succeeded.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// Its outcome is unknown; or a remark of the nemesis.
    Info,
}

impl EventKind {
    /// Jepsen's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Info => "info",
        }
    }

    /// The kind Jepsen calls by this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Invoke, Self::Ok, Self::Fail, Self::Info]
            .into_iter()
            .find(|k| k.name() == name)
    }
}

/// Who acts: a client, which has one call open at most, or a named process such as the nemesis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A client.
    Client(u64),
    /// Anything else; its events are not checked.
    Named(String),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(number) => write!(f, "{number}"),
            Self::Named(name) => write!(f, ":{name}"),
        }
    }
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The line (or binary record) it stands in, from 1.
    pub line: u64,
    /// Sent, or how it ended.
    pub kind: EventKind,
    /// Who acts.
    pub process: Process,
    /// The name of the function, without a colon.
    pub function: String,
    /// The independent object it concerns, where the form keeps keys apart. Jepsen's texts do
    /// not: there a value `[k v]` holds the key, and the checker recognises it.
    pub key: Option<Value>,
    /// The argument or the answer.
    pub value: Value,
    /// Nanoseconds since the test began, if recorded.
    pub time_ns: Option<i64>,
    /// Why it ended that way, if recorded.
    pub error: Option<Value>,
}

/// A refused history.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{unit} {line}: expected {expected}, found {found}")]
pub struct HistoryError {
    /// "line" or "record".
    pub unit: &'static str,
    /// Where, from 1.
    pub line: u64,
    /// What should have been there.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl HistoryError {
    pub(crate) fn at(line: u64, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let (expected, mut found) = (expected.into(), found.into());
        if found.chars().count() > MOST_QUOTED {
            found = found
                .chars()
                .take(MOST_QUOTED)
                .chain("...".chars())
                .collect();
        }
        Self {
            unit: "line",
            line,
            expected,
            found,
        }
    }
}

/// Characters of the input quoted in an error: enough to recognise it, little enough for a line.
const MOST_QUOTED: usize = 80;

/// A parsed history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Its lines, in real-time order.
    pub events: Vec<Event>,
    /// Bytes of a torn last record that were dropped (binary form only).
    pub dropped_bytes: u64,
}

impl History {
    /// Reads a history in any of the forms.
    ///
    /// # Errors
    /// The first line that is not what its form demands.
    pub fn parse(text: &[u8]) -> Result<Self, HistoryError> {
        if binary::is_binary(text) {
            return binary::read(text);
        }
        let text = std::str::from_utf8(text).map_err(|error| {
            let valid = &text[..error.valid_up_to()];
            let line = 1 + valid.split(|&b| b == b'\n').count() as u64 - 1;
            HistoryError::at(line, "UTF-8 text or our binary form", "other bytes")
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let first = text.trim_start().chars().next();
        let events = match first {
            None => Vec::new(),
            Some('{' | '[' | '(' | '#' | ';') if !log::looks_like_log(text) => {
                edn_events::read(text)?
            }
            Some(_) => log::read(text)?,
        };
        Ok(Self {
            events,
            dropped_bytes: 0,
        })
    }

    /// Writes the history as EDN, one map a line, as Jepsen reads it.
    pub fn to_edn(&self) -> String {
        let mut text = String::new();
        for (index, event) in self.with_keys().iter().enumerate() {
            edn_write::write_event(&mut text, index, event);
            text.push('\n');
        }
        text
    }

    /// Writes the history as lines of `jepsen.log`, which have no times.
    pub fn to_log(&self) -> String {
        let mut text = String::new();
        for event in self.with_keys().iter() {
            log::write_event(&mut text, event);
        }
        text
    }

    /// Writes the history in the binary form.
    pub fn to_binary(&self) -> Vec<u8> {
        let mut bytes = binary::header().to_vec();
        for event in &self.events {
            binary::append_record(&mut bytes, event);
        }
        bytes
    }

    /// The events, each with its call's key: where a key becomes part of the value, an ending without one
    /// would be of no object.
    fn with_keys(&self) -> Cow<'_, [Event]> {
        if self.events.iter().all(|event| event.key.is_none()) {
            return Cow::Borrowed(&self.events);
        }
        let mut open: BTreeMap<&Process, &Option<Value>> = BTreeMap::new();
        let mut whole = Vec::with_capacity(self.events.len());
        for event in &self.events {
            let mut key = &event.key;
            if event.kind == EventKind::Invoke {
                open.insert(&event.process, key);
            } else if let Some(asked) = open.remove(&event.process)
                && key.is_none()
            {
                key = asked;
            }
            whole.push(Event {
                key: key.clone(),
                ..event.clone()
            });
        }
        Cow::Owned(whole)
    }

    /// Pairs the clients' calls with their endings, in order of being sent.
    ///
    /// # Errors
    /// A client that sends before its last call ended, an ending without a call, or one of
    /// another function.
    pub fn calls(&self) -> Result<Vec<Call>, HistoryError> {
        pair::pair(&self.events)
    }
}
