//! Histories in EDN: one vector or list of operation maps, or one map after another.
//!
//! Invariant: an operation is a map (plain, or tagged such as `#jepsen.history.Op{..}`) with
//! `:type`, `:process` and `:f`; keys may be keywords, symbols or strings. Fields not named here
//! are ignored.

use super::edn::Reader;
use super::value::Value;
use super::{Event, EventKind, HistoryError, Process};
use std::collections::BTreeMap;

/// Reads all events of a text.
pub(super) fn read(text: &str) -> Result<Vec<Event>, HistoryError> {
    let mut reader = Reader::new(text, 1);
    let mut events = Vec::new();
    let close = match reader.peek()? {
        Some('[') => Some(']'),
        Some('(') => Some(')'),
        _ => None,
    };
    if let Some(close) = close {
        let open = if close == ']' { '[' } else { '(' };
        reader.take_if(open)?;
        while !reader.take_if(close)? {
            if reader.peek()?.is_none() {
                let expected = format!("{close} at the end of the history");
                return Err(HistoryError::at(
                    reader.line(),
                    expected,
                    "the end of the text",
                ));
            }
            events.push(next_event(&mut reader)?);
        }
        if let Some(more) = reader.peek()? {
            let expected = "nothing after the history";
            return Err(HistoryError::at(reader.line(), expected, more.to_string()));
        }
        return Ok(events);
    }
    while reader.peek()?.is_some() {
        events.push(next_event(&mut reader)?);
    }
    Ok(events)
}

fn next_event(reader: &mut Reader<'_>) -> Result<Event, HistoryError> {
    reader.peek()?;
    let line = reader.line();
    match reader.next_value()? {
        Some(value) => event(line, value),
        None => Err(HistoryError::at(
            line,
            "an operation",
            "the end of the text",
        )),
    }
}

/// Makes an event of an operation map.
fn event(line: u64, value: Value) -> Result<Event, HistoryError> {
    let mut fields = match value {
        Value::Map(map) => Fields { line, map },
        Value::Tagged(_, inner) => return event(line, *inner),
        other => {
            return Err(HistoryError::at(
                line,
                "an operation map",
                other.to_string(),
            ));
        }
    };
    let kind = fields.required("type")?;
    let kind = kind.name().and_then(EventKind::from_name).ok_or_else(|| {
        HistoryError::at(
            line,
            ":type as :invoke, :ok, :fail or :info",
            kind.to_string(),
        )
    })?;
    let process = process(line, &fields.required("process")?)?;
    let function = fields.required("f")?;
    let function = function
        .name()
        .ok_or_else(|| HistoryError::at(line, ":f as a keyword", function.to_string()))?
        .to_owned();
    let time_ns = match fields.optional("time") {
        None | Some(Value::Nil) => None,
        Some(Value::Int(time_ns)) => Some(time_ns),
        Some(other) => {
            return Err(HistoryError::at(
                line,
                ":time in nanoseconds",
                other.to_string(),
            ));
        }
    };
    let value = fields.optional("value").unwrap_or(Value::Nil);
    let error = fields.optional("error");
    Ok(Event {
        line,
        kind,
        process,
        function,
        // Porcupine's key-value histories keep the key apart from the value.
        key: fields.optional("key"),
        value,
        time_ns,
        error,
    })
}

/// Reads a process: a number, or a name such as `:nemesis`.
pub(super) fn process(line: u64, value: &Value) -> Result<Process, HistoryError> {
    match value {
        Value::Int(number) => u64::try_from(*number)
            .map(Process::Client)
            .map_err(|_| HistoryError::at(line, "a process from 0", value.to_string())),
        Value::Keyword(name) | Value::Symbol(name) => Ok(Process::Named(name.clone())),
        other => Err(HistoryError::at(
            line,
            "a process number or name",
            other.to_string(),
        )),
    }
}

struct Fields {
    line: u64,
    map: BTreeMap<Value, Value>,
}

impl Fields {
    fn optional(&mut self, name: &str) -> Option<Value> {
        [Value::Keyword, Value::Symbol, Value::String]
            .into_iter()
            .find_map(|form| self.map.remove(&form(name.to_owned())))
    }

    fn required(&mut self, name: &str) -> Result<Value, HistoryError> {
        self.optional(name).ok_or_else(|| {
            let found = Value::Map(self.map.clone()).to_string();
            HistoryError::at(self.line, format!("an operation with :{name}"), found)
        })
    }
}
