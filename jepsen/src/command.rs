//! `hedgerow jepsen check` as a function: text in, exit code and text out.
//!
//! Invariants: exit code 0 is valid, 1 invalid, 2 unusable input, 3 unknown; the output ends in a
//! newline; nothing is read or written elsewhere.

use crate::check::{Model, Objects, Verdict, Witness};
use crate::history::{Call, Ending, History, edn};
use crate::report;
use std::fmt::Write as _;

/// The history can be explained.
pub const EXIT_VALID: i32 = 0;
/// It cannot.
pub const EXIT_INVALID: i32 = 1;
/// The model, the initial value or the history could not be read.
pub const EXIT_UNUSABLE: i32 = 2;
/// The checker reached a limit.
pub const EXIT_UNKNOWN: i32 = 3;

/// Judges a history given as text (any form [`History::parse`] reads) against a model by name,
/// with the state before it as EDN if it is not the model's own. Returns the exit code and what to
/// print: text for people or one JSON object.
pub fn check(model: &str, initial: Option<&str>, text: &[u8], json: bool) -> (i32, String) {
    check_as(Asked::default(), model, initial, text, json)
}

/// What a check is to heed besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Whose the calls are.
    pub whose: Objects,
    /// A history of which fewer operations succeeded is not valid but *unknown*.
    pub at_least: usize,
}

/// Judges as [`check`] does, heeding what is asked.
pub fn check_as(
    asked: Asked,
    model: &str,
    initial: Option<&str>,
    text: &[u8],
    json: bool,
) -> (i32, String) {
    match judged(asked.whose, model, initial, text) {
        Ok(mut report) => {
            let (succeeded, least) = (report.succeeded(), asked.at_least);
            if report.verdict == Verdict::Valid && succeeded < least {
                let why = format!("{succeeded} operations succeeded, {least} were asked for");
                report.verdict = Verdict::Unknown(why);
            }
            report.print(json)
        }
        Err(why) if json => (EXIT_UNUSABLE, unusable_json(&why)),
        Err(why) => (EXIT_UNUSABLE, format!("unusable: {why}\n")),
    }
}

/// What is said of input that cannot be used to those who want JSON, as [`check`] does.
#[must_use]
pub fn unusable_json(why: &str) -> String {
    format!("{{\"verdict\":\"unusable\",\"error\":{}}}\n", quoted(why))
}

/// Judges as [`check`] does, and returns the exit code, what to print, and the page that shows the
/// history with its verdict; unusable input has no page. `name` is the page's title.
pub fn page(
    name: &str,
    model: &str,
    initial: Option<&str>,
    text: &[u8],
) -> (i32, String, Option<String>) {
    match judged(Objects::ByKey, model, initial, text) {
        Ok(report) => {
            let (code, output) = report.print(false);
            let Report {
                model,
                calls,
                history,
                verdict,
            } = report;
            let page = report::run::foreign_page(name, model.name(), history, &calls, &verdict);
            (code, output, Some(page))
        }
        Err(why) => (EXIT_UNUSABLE, format!("unusable: {why}\n"), None),
    }
}

struct Report {
    model: Model,
    calls: Vec<Call>,
    history: History,
    verdict: Verdict,
}

fn judged(
    whose: Objects,
    model: &str,
    initial: Option<&str>,
    text: &[u8],
) -> Result<Report, String> {
    let model = Model::from_name(model).ok_or_else(|| {
        format!(
            "no model is called {model}; there are {}",
            Model::names().join(", ")
        )
    })?;
    let initial = initial
        .map(edn::read_one)
        .transpose()
        .map_err(|error| format!("the initial value: {error}"))?;
    let history = History::parse(text).map_err(|error| error.to_string())?;
    let calls = history.calls().map_err(|error| error.to_string())?;
    let verdict = model
        .check_of(whose, initial.as_ref(), &calls)
        .map_err(|error| error.to_string())?;
    Ok(Report {
        model,
        calls,
        history,
        verdict,
    })
}

impl Report {
    fn print(&self, json: bool) -> (i32, String) {
        let code = match self.verdict {
            Verdict::Valid => EXIT_VALID,
            Verdict::Invalid(_) => EXIT_INVALID,
            Verdict::Unknown(_) => EXIT_UNKNOWN,
        };
        let mut text = String::new();
        let written = if json {
            self.json(&mut text)
        } else {
            self.prose(&mut text)
        };
        written.expect("writing to a string cannot fail");
        (code, text)
    }

    /// How many operations succeeded.
    fn succeeded(&self) -> usize {
        let ok = self.calls.iter().filter(|call| call.ending == Ending::Ok);
        ok.count()
    }

    fn witnessed<'a>(&'a self, witness: &'a Witness) -> impl Iterator<Item = (u64, &'a Call)> {
        witness
            .operations
            .iter()
            .filter_map(|&number| Some((number, self.calls.get(usize::try_from(number).ok()?)?)))
    }

    fn prose(&self, text: &mut String) -> std::fmt::Result {
        let (model, count) = (self.model.name(), self.calls.len());
        match &self.verdict {
            Verdict::Valid => writeln!(text, "valid: {count} operations, model {model}")?,
            Verdict::Unknown(why) => {
                writeln!(text, "unknown: {why} ({count} operations, model {model})")?;
            }
            Verdict::Invalid(witness) => {
                let part = witness.part.as_ref().map(|part| format!(", {part}"));
                writeln!(text, "invalid: model {model}{}", part.unwrap_or_default())?;
                writeln!(text, "  {}", witness.explanation)?;
                let few = witness.operations.len();
                writeln!(
                    text,
                    "  these {few} of {count} operations cannot be explained:"
                )?;
                for (number, call) in self.witnessed(witness) {
                    write!(text, "    operation {number}: process {}, ", call.process)?;
                    match call.complete_line {
                        Some(end) => write!(text, "lines {} to {end}, ", call.invoke_line)?,
                        None => write!(text, "line {} on, ", call.invoke_line)?,
                    }
                    write!(text, ":{} {}", call.function, call.argument)?;
                    match call.ending {
                        Ending::Ok => writeln!(text, " -> ok {}", call.answer)?,
                        Ending::Fail => writeln!(text, " -> failed")?,
                        Ending::Unknown => writeln!(text, " -> unknown")?,
                    }
                }
            }
        }
        if self.calls.is_empty() {
            let others = self.history.events.len();
            writeln!(
                text,
                "  nothing was judged: no process with a number calls anything ({others} lines of others)"
            )?;
        }
        if self.history.dropped_bytes > 0 {
            writeln!(
                text,
                "  dropped {} bytes of a torn last record",
                self.history.dropped_bytes
            )?;
        }
        Ok(())
    }

    fn json(&self, text: &mut String) -> std::fmt::Result {
        let name = match self.verdict {
            Verdict::Valid => "valid",
            Verdict::Invalid(_) => "invalid",
            Verdict::Unknown(_) => "unknown",
        };
        write!(
            text,
            "{{\"verdict\":\"{name}\",\"model\":\"{}\"",
            self.model.name()
        )?;
        write!(text, ",\"operations\":{}", self.calls.len())?;
        let succeeded = self.succeeded();
        write!(text, ",\"succeeded\":{succeeded}")?;
        write!(text, ",\"dropped_bytes\":{}", self.history.dropped_bytes)?;
        match &self.verdict {
            Verdict::Valid => {}
            Verdict::Unknown(why) => write!(text, ",\"reason\":{}", quoted(why))?,
            Verdict::Invalid(witness) => {
                let part = witness
                    .part
                    .as_deref()
                    .map_or_else(|| "null".to_owned(), quoted);
                write!(text, ",\"part\":{part}")?;
                write!(
                    text,
                    ",\"explanation\":{},\"witness\":[",
                    quoted(&witness.explanation)
                )?;
                for (at, (number, call)) in self.witnessed(witness).enumerate() {
                    text.push_str(if at > 0 { "," } else { "" });
                    write_call(text, number, call)?;
                }
                text.push(']');
            }
        }
        text.push_str("}\n");
        Ok(())
    }
}

/// One operation of a witness; its values are strings of EDN.
fn write_call(text: &mut String, number: u64, call: &Call) -> std::fmt::Result {
    let ending = match call.ending {
        Ending::Ok => "ok",
        Ending::Fail => "fail",
        Ending::Unknown => "info",
    };
    write!(
        text,
        "{{\"operation\":{number},\"process\":{}",
        call.process
    )?;
    write!(text, ",\"function\":{}", quoted(&call.function))?;
    write!(text, ",\"argument\":{}", quoted(&call.argument.to_string()))?;
    write!(text, ",\"answer\":{}", quoted(&call.answer.to_string()))?;
    write!(
        text,
        ",\"ending\":\"{ending}\",\"invoke_line\":{}",
        call.invoke_line
    )?;
    match call.complete_line {
        Some(line) => write!(text, ",\"complete_line\":{line}}}"),
        None => write!(text, ",\"complete_line\":null}}"),
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control < ' ' => {
                write!(quoted, "\\u{:04x}", u32::from(control))
                    .expect("writing to a string cannot fail");
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
