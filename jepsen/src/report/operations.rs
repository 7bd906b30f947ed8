//! A history as columns: when each operation was sent and ended, in which lane it is drawn, what it
//! was.
//!
//! Invariants: operations are numbered as [`History::calls`] numbers them, so that a witness names
//! the same ones; a lane never holds two operations at once; the texts together stay below a limit
//! (those of operations that matter are kept first). An operation that never ended is drawn as
//! open, never as failed.

use super::pack::{Column, LARGEST_NUMBER, Pack, Texts};
use crate::history::{Event, EventKind, History, Process};
use std::collections::{BTreeMap, BTreeSet};

/// Characters kept of one operation's value: what fits a line of the list.
const LONGEST_TEXT: usize = 160;
/// Bytes of all values of a page; half of it is left after compression, and a page is to be small.
const TEXTS_MAXIMUM_BYTES: usize = 4 << 20;
/// Above so many operations times are kept in microseconds: the last digits do not compress.
const EXACT_TIMES_MAXIMUM: usize = 200_000;
/// Functions told apart by colour and filter; later ones are called "other".
const FUNCTIONS_MAXIMUM: usize = 64;

/// How an operation ended, as the page's scripts know it.
const OK: u64 = 0;
const FAIL: u64 = 1;
const INFO: u64 = 2;
const OPEN: u64 = 3;

/// One operation as it is drawn.
struct Operation<'a> {
    process: u64,
    invoke: &'a Event,
    start: u64,
    end: Option<u64>,
    ending: u64,
    complete: Option<&'a Event>,
}

/// What the page's head must know of the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Operations.
    pub count: usize,
    /// How many succeeded, failed, and are unknown.
    pub endings: [u64; 3],
    /// The functions by number.
    pub functions: Vec<String>,
    /// Nanoseconds of one unit of time; 0 when the history has no times and events are counted.
    pub unit_ns: u64,
    /// Lanes in which operations are drawn.
    pub lanes: u64,
    /// The last moment, in units.
    pub end: u64,
    /// Operations whose value was left out.
    pub without_text: usize,
    /// What time 0 of the page is on the history's clock, nanoseconds.
    pub origin_ns: i64,
    /// Remarks of named processes, such as Jepsen's nemesis: (time in units, name, text).
    pub remarks: Vec<(u64, String, String)>,
}

/// Writes the columns of `history`; the operations in `matter` keep their texts in any case.
#[must_use]
pub fn pack(history: &History, matter: &BTreeSet<u64>, pack: &mut Pack) -> Shape {
    let clock = Clock::of(history);
    let operations = operations(history, &clock);
    let mut functions = Functions::default();
    let mut columns: BTreeMap<&str, Column> = BTreeMap::new();
    let texts_of = chosen_texts(&operations, matter);
    let mut texts = Texts::default();
    let (lanes, lane_of) = lanes(&operations);
    let mut endings = [0; 3];
    for (at, operation) in operations.iter().enumerate() {
        let mut put = |name, number| columns.entry(name).or_default().push(number);
        // Zero is "no end", so that a length of zero is one.
        put(
            "length",
            operation.end.map_or(0, |end| end - operation.start + 1),
        );
        put("process", operation.process.min(LARGEST_NUMBER));
        put("lane", lane_of[at]);
        put("function", functions.number(&operation.invoke.function));
        put("ending", operation.ending);
        let text = texts_of.contains(&at).then(|| text_of(operation));
        put("text", texts.number(text.as_deref().unwrap_or_default()));
        columns
            .entry("start")
            .or_default()
            .push_delta(operation.start);
        endings[usize::try_from(operation.ending.min(INFO)).expect("below 3")] += 1;
    }
    for (name, column) in &columns {
        pack.column(name, column);
    }
    pack.texts("texts", &texts);
    Shape {
        count: operations.len(),
        endings,
        functions: functions.names,
        unit_ns: clock.unit_ns,
        lanes,
        end: clock.end,
        without_text: operations.len() - texts_of.len(),
        origin_ns: clock.origin_ns,
        remarks: remarks(history, &clock),
    }
}

/// Positions or recorded times, in the page's units from its origin.
struct Clock {
    unit_ns: u64,
    origin_ns: i64,
    times: Vec<u64>,
    end: u64,
}

impl Clock {
    /// Times must not run backwards, since the order of events is the order of time: a recorded time
    /// before its predecessor's is drawn at its predecessor's.
    fn of(history: &History) -> Self {
        let events = &history.events;
        let timed = !events.is_empty() && events.iter().all(|event| event.time_ns.is_some());
        let origin_ns = if timed {
            // A test's clock starts at 0; one that starts elsewhere (a wall clock) is moved there.
            let first = events[0].time_ns.unwrap_or_default();
            if (0..600_000_000_000).contains(&first) {
                0
            } else {
                first
            }
        } else {
            0
        };
        let unit_ns = match (timed, events.len() / 2 > EXACT_TIMES_MAXIMUM) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 1_000,
        };
        let mut last = 0;
        let times = events.iter().zip(0_u64..).map(|(event, position)| {
            let time = match event.time_ns {
                Some(time_ns) if timed => {
                    let since = u64::try_from(time_ns.saturating_sub(origin_ns)).unwrap_or(0);
                    (since / unit_ns).min(LARGEST_NUMBER / 4)
                }
                _ => position,
            };
            last = last.max(time);
            last
        });
        let times: Vec<u64> = times.collect();
        Self {
            unit_ns,
            origin_ns,
            end: times.last().copied().unwrap_or(0),
            times,
        }
    }
}

fn operations<'a>(history: &'a History, clock: &Clock) -> Vec<Operation<'a>> {
    let mut operations: Vec<Operation<'a>> = Vec::new();
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    for (event, &time) in history.events.iter().zip(&clock.times) {
        let Process::Client(process) = event.process else {
            continue;
        };
        if event.kind == EventKind::Invoke {
            open.insert(process, operations.len());
            operations.push(Operation {
                process,
                invoke: event,
                start: time,
                end: None,
                ending: OPEN,
                complete: None,
            });
        } else if let Some(at) = open.remove(&process) {
            let operation = &mut operations[at];
            operation.complete = Some(event);
            operation.end = Some(time);
            operation.ending = match event.kind {
                EventKind::Ok => OK,
                EventKind::Fail => FAIL,
                EventKind::Info | EventKind::Invoke => INFO,
            };
        }
    }
    operations
}

fn text_of(operation: &Operation<'_>) -> String {
    let answered = operation.complete.filter(|_| operation.ending == OK);
    let value = answered.map_or(&operation.invoke.value, |event| &event.value);
    let mut text = value.to_string();
    if let Some(key) = &operation.invoke.key {
        text = format!("{key}: {text}");
    }
    if let Some(error) = operation.complete.and_then(|event| event.error.as_ref()) {
        text = format!("{text}  ({error})");
    }
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Which operations keep their texts: those that matter, those that did not succeed, then the rest
/// by their distance from those that matter, or from the end of the run.
fn chosen_texts(operations: &[Operation<'_>], matter: &BTreeSet<u64>) -> BTreeSet<usize> {
    let index = |&at: &u64| usize::try_from(at).ok().filter(|&at| at < operations.len());
    let matter: Vec<usize> = matter.iter().filter_map(index).collect();
    let centre = matter
        .get(matter.len() / 2)
        .copied()
        .unwrap_or(operations.len());
    let unsuccessful = (0..operations.len()).filter(|&at| operations[at].ending != OK);
    let (mut before, mut after) = ((0..centre).rev(), centre..operations.len());
    let rest = (0..).map_while(|_: u64| match (before.next(), after.next()) {
        (None, None) => None,
        (one, other) => Some([one, other]),
    });
    let mut chosen = BTreeSet::new();
    let mut bytes = 0;
    let first = matter.iter().copied().chain(unsuccessful);
    for at in first.chain(rest.flatten().flatten()) {
        if chosen.insert(at) {
            bytes += text_of(&operations[at]).len();
            if bytes > TEXTS_MAXIMUM_BYTES {
                break;
            }
        }
    }
    chosen
}

/// Gives each process a lane for as long as it lives: Jepsen retires a process whose call stays
/// unknown, and its successor continues in the same lane.
fn lanes(operations: &[Operation<'_>]) -> (u64, Vec<u64>) {
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        last.insert(operation.process, at);
    }
    let mut lane_of_process: BTreeMap<u64, u64> = BTreeMap::new();
    let mut free: BTreeSet<u64> = BTreeSet::new();
    let mut retiring: BTreeMap<(u64, u64), ()> = BTreeMap::new();
    let mut count = 0;
    let mut lanes = Vec::with_capacity(operations.len());
    for (at, operation) in operations.iter().enumerate() {
        while let Some((&(end, lane), ())) = retiring.first_key_value() {
            if end > operation.start {
                break;
            }
            retiring.remove(&(end, lane));
            free.insert(lane);
        }
        let lane = *lane_of_process.entry(operation.process).or_insert_with(|| {
            free.pop_first().unwrap_or_else(|| {
                count += 1;
                count - 1
            })
        });
        lanes.push(lane);
        if last.get(&operation.process) == Some(&at) {
            let end = operation.end.unwrap_or(operation.start);
            retiring.insert((end, lane), ());
        }
    }
    (count, lanes)
}

#[derive(Default)]
struct Functions {
    names: Vec<String>,
}

impl Functions {
    fn number(&mut self, name: &str) -> u64 {
        let known = self.names.iter().position(|known| known == name);
        let at = known.unwrap_or_else(|| {
            if self.names.len() < FUNCTIONS_MAXIMUM - 1 {
                self.names.push(name.to_owned());
            } else if self.names.len() < FUNCTIONS_MAXIMUM {
                self.names.push("other".to_owned());
            }
            self.names.len() - 1
        });
        at as u64
    }
}

/// What named processes said, as far as it fits.
fn remarks(history: &History, clock: &Clock) -> Vec<(u64, String, String)> {
    /// More remarks than anyone reads; a nemesis makes a few a second.
    const REMARKS_MAXIMUM: usize = 5_000;
    let mut remarks = Vec::new();
    for (event, &time) in history.events.iter().zip(&clock.times) {
        let Process::Named(_) = &event.process else {
            continue;
        };
        if remarks.len() >= REMARKS_MAXIMUM {
            break;
        }
        let mut text = event.value.to_string();
        if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
            text.truncate(end);
        }
        remarks.push((time, event.function.clone(), text));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Shape {
        let history = History::parse(text.as_bytes()).unwrap();
        pack(&history, &BTreeSet::new(), &mut Pack::default())
    }

    #[test]
    fn a_retired_process_leaves_its_lane_to_the_next() {
        let shape = shape(
            "0\t:invoke\t:write\t1\n1\t:invoke\t:read\tnil\n0\t:info\t:write\t1\n\
             1\t:ok\t:read\t1\n10\t:invoke\t:read\tnil\n10\t:ok\t:read\t1\n",
        );
        assert_eq!((shape.count, shape.lanes), (3, 2));
        assert_eq!(shape.endings, [2, 0, 1]);
        assert_eq!((shape.unit_ns, shape.end), (0, 5));
        assert_eq!(shape.functions, ["write", "read"]);
    }

    #[test]
    fn times_never_run_backwards_and_a_wall_clock_starts_at_zero() {
        let edn = |time: i64, kind: &str| {
            format!("{{:process 0 :type :{kind} :f :read :value nil :time {time}}}\n")
        };
        let text = edn(1_700_000_000_000_000_000, "invoke") + &edn(1_699_999_999_999_999_999, "ok");
        let shape = shape(&text);
        assert_eq!((shape.unit_ns, shape.end), (1, 0));
        assert_eq!(shape.origin_ns, 1_700_000_000_000_000_000);
    }

    #[test]
    fn an_operation_without_an_end_counts_as_unknown() {
        assert_eq!(shape("0\t:invoke\t:write\t1\n").endings, [0, 0, 1]);
        assert_eq!(shape("").count, 0);
    }
}
