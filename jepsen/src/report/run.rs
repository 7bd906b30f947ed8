//! The page of one run, from its data: who did what when, how fast, what struck, and the verdict.
//!
//! Invariants: the page is a function of its inputs; whatever is missing (no faults recorded, no
//! results yet, no logs) is left out and said so. It does not judge: the verdict is given to it.

use super::operations::{self, Shape};
use super::pack::{Column, Pack, Texts};
use super::page::Page;
use super::results::{FaultSpan, Results};
use crate::check::{Verdict, Witness};
use crate::history::{Call, Ending, History};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Log lines of a page: the last ones of each node, together.
pub const LOG_LINES_MAXIMUM: usize = 30_000;
/// Characters kept of a log line.
const LONGEST_LINE: usize = 400;
/// Fault spans of a page; more could not be told apart on a screen.
const FAULTS_MAXIMUM: usize = 20_000;

/// Everything that a run's page shows.
#[derive(Debug, Default)]
pub struct RunData {
    /// `results.json`; none when the run did not come that far.
    pub results: Option<Results>,
    /// `plan.json`, as it is.
    pub plan: Option<Value>,
    /// `faults.json`.
    pub faults: Vec<FaultSpan>,
    /// The history.
    pub history: History,
    /// The nodes' logs: name and text.
    pub logs: Vec<(String, String)>,
    /// What went wrong while the run's files were read: shown, since a page must not hide it.
    pub problems: Vec<String>,
}

/// Makes the page of a run.
#[must_use]
pub fn page(data: &RunData) -> String {
    let results = data.results.clone().unwrap_or_default();
    let witness = results
        .witness
        .iter()
        .filter_map(operation_number)
        .collect();
    let title = if results.test.is_empty() {
        "run"
    } else {
        &results.test
    };
    let head = json!({
        "title": title,
        "results": data.results,
        "plan": data.plan,
        "verdict": results.verdict,
        "explanation": results.reason,
        "witness": results.witness,
        "problems": data.problems,
    });
    let plain = format!(
        "{title}: {}\n{}\n",
        if results.verdict.is_empty() {
            "no verdict"
        } else {
            &results.verdict
        },
        results.reason.as_deref().unwrap_or_default()
    );
    assemble(title, &plain, head, data, &witness)
}

/// Makes the page of a foreign history that was judged here.
#[must_use]
pub fn foreign_page(
    name: &str,
    model: &str,
    history: History,
    calls: &[Call],
    verdict: &Verdict,
) -> String {
    let (word, explanation, part, witness) = match verdict {
        Verdict::Valid => ("valid", None, None, None),
        Verdict::Unknown(why) => ("unknown", Some(why.clone()), None, None),
        Verdict::Invalid(witness) => (
            "invalid",
            Some(witness.explanation.clone()),
            witness.part.clone(),
            Some(witness),
        ),
    };
    let operations: BTreeSet<u64> =
        witness.map_or_else(BTreeSet::new, |w| w.operations.iter().copied().collect());
    let head = json!({
        "title": name,
        "verdict": word,
        "model": model,
        "part": part,
        "explanation": explanation,
        "witness": witness.map_or_else(Vec::new, |witness| describe(witness, calls)),
        "problems": [],
    });
    let plain = format!(
        "{name}: {word}, model {model}\n{}\n",
        explanation.unwrap_or_default()
    );
    let data = RunData {
        history,
        ..RunData::default()
    };
    assemble(name, &plain, head, &data, &operations)
}

/// A witness's operations as `results.json` holds them.
#[must_use]
pub fn describe(witness: &Witness, calls: &[Call]) -> Vec<Value> {
    let call_of = |number: &u64| Some((*number, calls.get(usize::try_from(*number).ok()?)?));
    let described = witness
        .operations
        .iter()
        .filter_map(call_of)
        .map(|(number, call)| {
            let ending = match call.ending {
                Ending::Ok => "ok",
                Ending::Fail => "fail",
                Ending::Unknown => "info",
            };
            json!({
                "operation": number,
                "process": call.process,
                "function": call.function,
                "argument": call.argument.to_string(),
                "answer": call.answer.to_string(),
                "ending": ending,
                "invoke_line": call.invoke_line,
                "complete_line": call.complete_line,
            })
        });
    described.collect()
}

fn operation_number(entry: &Value) -> Option<u64> {
    entry.as_u64().or_else(|| entry.get("operation")?.as_u64())
}

fn assemble(
    title: &str,
    plain: &str,
    mut head: Value,
    data: &RunData,
    witness: &BTreeSet<u64>,
) -> String {
    let mut pack = Pack::default();
    let shape = operations::pack(&data.history, witness, &mut pack);
    let logs = pack_logs(data, &shape, &mut pack);
    head["shape"] = json!({
        "count": shape.count,
        "endings": shape.endings,
        "functions": shape.functions,
        "unit_ns": shape.unit_ns,
        "lanes": shape.lanes,
        "end": shape.end,
        "without_text": shape.without_text,
        "remarks": shape.remarks,
        "dropped_bytes": data.history.dropped_bytes,
    });
    head["logs"] = logs;
    head["faults"] = json!(faults(&data.faults, &shape));
    Page {
        title,
        plain,
        meta: &head,
        data: &pack,
        style: include_str!("assets/run.css"),
        script: concat!(
            include_str!("assets/run.js"),
            "\n",
            include_str!("assets/run_panel.js")
        ),
    }
    .render()
}

/// The faults in the page's units.
fn faults(faults: &[FaultSpan], shape: &Shape) -> Vec<Value> {
    let unit = i64::try_from(shape.unit_ns.max(1)).expect("at most a microsecond");
    let place = |time_ns: i64| (time_ns.saturating_sub(shape.origin_ns) / unit).max(0);
    let spans = faults.iter().take(FAULTS_MAXIMUM).map(|span| {
        json!([
            place(span.at_ns),
            span.until_ns.map(place),
            span.kind,
            span.nodes,
            span.text,
            span.struck,
        ])
    });
    spans.collect()
}

/// Packs the ends of the logs, merged by their times; a line without a time keeps to the line
/// before it. Times are milliseconds since the history began, or the run, when that is known, else since the first
/// line.
fn pack_logs(data: &RunData, shape: &Shape, pack: &mut Pack) -> Value {
    let each = LOG_LINES_MAXIMUM / data.logs.len().max(1);
    let mut lines: Vec<(u64, usize, &str)> = Vec::new();
    let mut left_out = 0;
    for (node, (_, text)) in data.logs.iter().enumerate() {
        let all: Vec<&str> = text.lines().collect();
        let skipped = all.len().saturating_sub(each);
        left_out += skipped;
        let mut last = 0;
        for line in &all[skipped..] {
            last = line
                .split(' ')
                .next()
                .and_then(milliseconds)
                .unwrap_or(last);
            lines.push((last, node, line));
        }
    }
    lines.sort_by_key(|&(time, node, _)| (time, node));
    let began = data.results.as_ref().and_then(|results| {
        let started = &results.started;
        let history_began = results.history_began.as_deref().and_then(milliseconds);
        let started = || started.as_u64().or_else(|| milliseconds(started.as_str()?));
        history_began.or_else(started)
    });
    let origin = began
        .or(lines.iter().map(|line| line.0).find(|&time| time > 0))
        .unwrap_or(0);
    let (mut times, mut nodes, mut numbers) =
        (Column::default(), Column::default(), Column::default());
    let mut texts = Texts::default();
    for (time, node, line) in &lines {
        times.push_delta(time.saturating_sub(origin));
        nodes.push(*node as u64);
        let end = line
            .char_indices()
            .nth(LONGEST_LINE)
            .map_or(line.len(), |(end, _)| end);
        numbers.push(texts.number(&line[..end]));
    }
    pack.column("log_time", &times);
    pack.column("log_node", &nodes);
    pack.column("log_text", &numbers);
    pack.texts("log_texts", &texts);
    json!({
        "nodes": data.logs.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "count": lines.len(),
        "left_out": left_out,
        "timed": began.is_some() && shape.unit_ns > 0,
    })
}

/// Milliseconds since 1970 of `2026-11-22T14:03:05.123Z`, as nodes write it; the fraction may be of
/// any length, or missing. Whatever a clock cannot show is no time: the sums below stay small.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text
        .strip_suffix('Z')
        .or_else(|| text.strip_suffix("+00:00"))?;
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(digits);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Second 60 is a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970-01-01 in the civil calendar (Howard Hinnant's `days_from_civil`).
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    let fraction = digits(&thousandths)?;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1_000 + fraction)
}

/// A number of digits alone: no sign, as `parse` would take.
fn digits(text: &str) -> Option<u64> {
    let only = text.bytes().all(|byte| byte.is_ascii_digit());
    only.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_nodes_write_them() {
        assert_eq!(milliseconds("1970-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(milliseconds("2000-02-29T00:00:00Z"), Some(951_782_400_000));
        assert_eq!(
            milliseconds("2026-11-22T14:03:05.1234567Z"),
            Some(1_795_356_185_123)
        );
        assert_eq!(milliseconds("yesterday"), None);
        assert_eq!(milliseconds("2026-13-22T14:03:05Z"), None);
    }

    #[test]
    fn a_stamp_that_no_clock_shows_is_no_time_and_stops_nobody() {
        let odd = ["0", "00", "7", "24", "60", "61", "99999999999999999", "+1"];
        let odd = odd
            .iter()
            .chain(&["18446744073709551615", "", "-1", "\u{663}"]);
        let parts: Vec<&str> = odd.copied().collect();
        let mut dice = crate::fuzz::Dice::new(14, 1);
        let drawn = |dice: &mut crate::fuzz::Dice, usual: &'static str| {
            let place = usize::try_from(dice.below(parts.len() as u64)).unwrap();
            if dice.once_in(2) { usual } else { parts[place] }
        };
        let year_10000_ms = 253_402_300_800_000;
        for _ in 0..20_000 {
            let date = ["9999", "12", "31"].map(|usual| drawn(&mut dice, usual));
            let clock = ["23", "59", "60"].map(|usual| drawn(&mut dice, usual));
            let stamp = format!("{}T{}", date.join("-"), clock.join(":"));
            let stamp = format!("{stamp}.{}Z", drawn(&mut dice, "999999"));
            let time = milliseconds(&stamp);
            assert!(
                time.is_none_or(|time| time < year_10000_ms + 1_000),
                "{stamp}"
            );
        }
    }

    #[test]
    fn one_odd_line_of_a_log_or_an_odd_beginning_does_not_cost_the_page() {
        let line = "2026-11-22T99999999999999999:1:1Z boom\n".to_owned();
        let results = Results {
            history_began: Some("9999-12-31T18446744073709551615:1:1Z".to_owned()),
            ..Results::default()
        };
        let html = page(&RunData {
            results: Some(results),
            logs: vec![("a".to_owned(), line)],
            ..RunData::default()
        });
        assert!(html.contains("\"count\":1"), "the line is kept");
    }

    #[test]
    fn a_run_that_was_cut_off_has_a_page_that_says_so() {
        let html = page(&RunData {
            problems: vec!["results.json: no such file".to_owned()],
            ..RunData::default()
        });
        assert!(html.contains("results.json: no such file"));
        assert!(html.contains("no verdict"));
    }
}
