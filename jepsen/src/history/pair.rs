//! Pairing calls with their endings.
//!
//! Invariants: a client has at most one call open; a call that never ended is of unknown outcome;
//! positions in the list of events are the time, which is what "before" means in a history.

use super::value::Value;
use super::{Event, EventKind, HistoryError, Process};
use std::collections::BTreeMap;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It succeeded.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// Nobody knows whether it happened, or will.
    Unknown,
}

/// A call and its ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The client.
    pub process: u64,
    /// The function's name.
    pub function: String,
    /// The independent object, if the form keeps keys apart.
    pub key: Option<Value>,
    /// The argument.
    pub argument: Value,
    /// The answer: meaningful if it succeeded.
    pub answer: Value,
    /// How it ended.
    pub ending: Ending,
    /// The position of its sending among the events.
    pub invoke: u64,
    /// The position of its ending, if any (an ending of unknown outcome counts as none).
    pub complete: Option<u64>,
    /// The line it was sent in.
    pub invoke_line: u64,
    /// The line it ended in, whatever the outcome.
    pub complete_line: Option<u64>,
}

impl Call {
    /// The same with every value in its canonical form.
    #[must_use]
    pub fn canonical(&self) -> Self {
        Self {
            key: self.key.as_ref().map(Value::canonical),
            argument: self.argument.canonical(),
            answer: self.answer.canonical(),
            ..self.clone()
        }
    }
}

/// Pairs the clients' events.
pub(super) fn pair(events: &[Event]) -> Result<Vec<Call>, HistoryError> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    for (event, position) in events.iter().zip(0_u64..) {
        let Process::Client(process) = event.process else {
            continue;
        };
        if event.kind == EventKind::Invoke {
            if let Some(&earlier) = open.get(&process) {
                let sent = calls[earlier].invoke_line;
                return Err(HistoryError::at(
                    event.line,
                    format!("the ending of process {process}'s call of line {sent}"),
                    format!("another call, :{}", event.function),
                ));
            }
            open.insert(process, calls.len());
            calls.push(begun(event, process, position));
            continue;
        }
        let Some(call) = open.remove(&process).map(|place| &mut calls[place]) else {
            return Err(HistoryError::at(
                event.line,
                format!("a call of process {process} before its ending"),
                format!(":{} :{} without one", event.kind.name(), event.function),
            ));
        };
        if call.function != event.function {
            return Err(HistoryError::at(
                event.line,
                format!(
                    "the ending of :{} of line {}",
                    call.function, call.invoke_line
                ),
                format!(":{} of :{}", event.kind.name(), event.function),
            ));
        }
        // Only an answer says what it is about.
        if event.kind == EventKind::Ok && event.key.is_some() && event.key != call.key {
            let key = |key: &Option<Value>| {
                let text = key.as_ref().map(Value::to_string);
                text.unwrap_or_else(|| "none".to_owned())
            };
            let expected = format!("the key of line {}, {}", call.invoke_line, key(&call.key));
            return Err(HistoryError::at(event.line, expected, key(&event.key)));
        }
        end(call, event, position);
    }
    Ok(calls)
}

fn begun(event: &Event, process: u64, position: u64) -> Call {
    Call {
        process,
        function: event.function.clone(),
        key: event.key.clone(),
        argument: event.value.clone(),
        answer: Value::Nil,
        ending: Ending::Unknown,
        invoke: position,
        complete: None,
        invoke_line: event.line,
        complete_line: None,
    }
}

fn end(call: &mut Call, event: &Event, position: u64) {
    call.complete_line = Some(event.line);
    match event.kind {
        EventKind::Ok => {
            call.ending = Ending::Ok;
            call.answer = event.value.clone();
            call.complete = Some(position);
        }
        EventKind::Fail => {
            call.ending = Ending::Fail;
            call.complete = Some(position);
        }
        EventKind::Info | EventKind::Invoke => {}
    }
}
