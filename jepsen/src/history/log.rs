//! Histories as `jepsen.log` lines and as `history.txt` lines.
//!
//! A log line ends in `process<TAB>type<TAB>function<TAB>value[<TAB>error]` behind the name of the
//! logger, `jepsen.util`; `history.txt` has the columns alone. A line without any tab has its columns
//! parted by blanks: so do published logs that an editor went over. Invariants: in a log, lines of other
//! loggers are skipped; a line of this logger, and every line of a text without any, must be an
//! operation.

use super::edn::{self, Reader};
use super::edn_events::process;
use super::value::Value;
use super::{Event, EventKind, HistoryError, Process};

/// The logger that writes operations.
const LOGGER: &str = "jepsen.util";

/// Whether the text's first line with content is one of the logger's.
pub(super) fn looks_like_log(text: &str) -> bool {
    text.lines()
        .find(|line| !line.trim().is_empty())
        .is_some_and(|line| columns_of(line).is_some())
}

/// The columns of a line of the logger. Its name stands before them, behind a time, a level or a thread
/// (`2019-11-15 12:14:11,123{GMT}\tINFO\t[jepsen worker 0] jepsen.util: 0\t:invoke..`): in a value, or
/// in a comment of EDN, it names nobody.
fn columns_of(line: &str) -> Option<&str> {
    let (before, behind) = line.split_once(LOGGER)?;
    let columns = behind.strip_prefix(": ").or(behind.strip_prefix(" - "))?;
    let first = before.split_whitespace().next().unwrap_or_default();
    let is_process = first.starts_with(':') || first.parse::<i64>().is_ok();
    let is_edn = before.contains('"') || first.starts_with(['{', '(', '#', ';']);
    (!is_process && !is_edn).then(|| columns.trim_start())
}

/// Reads all events of a text.
pub(super) fn read(text: &str) -> Result<Vec<Event>, HistoryError> {
    let is_log = text.lines().any(|line| columns_of(line).is_some());
    let mut events = Vec::new();
    for (line, number) in text.lines().zip(1_u64..) {
        if line.trim().is_empty() {
            continue;
        }
        if !is_log {
            events.push(event(number, line)?);
        } else if let Some(columns) = columns_of(line) {
            events.push(event(number, columns)?);
        }
    }
    Ok(events)
}

/// Appends one event as a line of the log. A key is written in Jepsen's way, as the first of a pair;
/// the form has no times.
pub(super) fn write_event(text: &mut String, event: &Event) {
    let process = match &event.process {
        Process::Client(number) => number.to_string(),
        Process::Named(name) => format!(":{name}"),
    };
    let value = match &event.key {
        None => event.value.clone(),
        Some(key) => Value::Vector(vec![key.clone(), event.value.clone()]),
    };
    let (kind, function) = (event.kind.name(), &event.function);
    text.push_str(&format!(
        "INFO  {LOGGER} - {process}\t:{kind}\t:{function}\t{value}"
    ));
    if let Some(error) = &event.error {
        text.push_str(&format!("\t{error}"));
    }
    text.push('\n');
}

/// The columns of a line. Blanks may stand within a value, so of those parted by blanks the fourth
/// goes to the end.
fn parted(columns: &str) -> std::vec::IntoIter<&str> {
    let mut parts = Vec::new();
    if columns.contains('\t') {
        parts.extend(columns.split('\t').map(str::trim));
        return parts.into_iter();
    }
    let mut rest = columns.trim();
    while parts.len() < 3
        && let Some((part, after)) = rest.split_once(' ')
    {
        parts.push(part);
        rest = after.trim_start();
    }
    parts.push(rest);
    parts.into_iter()
}

fn event(line: u64, columns: &str) -> Result<Event, HistoryError> {
    let mut parts = parted(columns);
    let mut part = |what: &str| {
        parts.next().filter(|part| !part.is_empty()).ok_or_else(|| {
            HistoryError::at(
                line,
                format!("{what} (columns are parted by tabs, or all by blanks)"),
                columns,
            )
        })
    };
    let at_line = |error: HistoryError| HistoryError { line, ..error };
    let process = process(line, &edn::read_one(part("a process")?).map_err(at_line)?)?;
    let kind = part("a type")?;
    let kind = EventKind::from_name(kind.trim_start_matches(':'))
        .ok_or_else(|| HistoryError::at(line, ":invoke, :ok, :fail or :info", kind))?;
    let function = part("a function")?.trim_start_matches(':').to_owned();
    let value = parts.next().unwrap_or("nil");
    let value = match kind {
        // What the nemesis says, and why a call is unknown, is prose as often as EDN.
        EventKind::Info => edn::read_one(value).unwrap_or_else(|_| Value::String(value.to_owned())),
        _ => {
            let mut reader = Reader::new(value, line);
            let read = reader.next_value()?.unwrap_or(Value::Nil);
            // Why a call failed may stand behind its value.
            if kind != EventKind::Fail
                && let Some(more) = reader.next_value()?
            {
                return Err(HistoryError::at(
                    line,
                    "the end of the value",
                    more.to_string(),
                ));
            }
            read
        }
    };
    let error = parts
        .next()
        .map(|text| edn::read_one(text).unwrap_or_else(|_| Value::String(text.to_owned())));
    Ok(Event {
        line,
        kind,
        process,
        function,
        key: None,
        value,
        time_ns: None,
        error,
    })
}
