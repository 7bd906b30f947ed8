//! Random small histories as the text that other tools write, judged as `hedgerow jepsen check` does
//! and by [`meaning`]: of every model, with keys in each of their forms.
//!
//! Invariant: a seed and a number name one text for ever. Answers come from running the requests in
//! some order within their times; half of the histories have one answer spoilt.

use super::Disagreement;
use super::dice::Dice;
use super::meaning::{self, End, Request};
use crate::command;
use crate::history::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The models that a campaign goes through in turn.
const MODELS: [&str; 11] = [
    "register",
    "cas-register",
    "multi-register",
    "kv",
    "mutex",
    "set",
    "counter",
    "queue",
    "append",
    "block",
    "snapshot",
];

/// How a text tells which object a request concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// There is one object.
    None,
    /// `[key value]`.
    Pairs,
    /// A field of the map.
    Fields,
}

/// What a campaign over texts saw without any disagreement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextReport {
    /// Texts whose answers some order explains.
    pub valid: u64,
    /// Texts whose answers none does.
    pub invalid: u64,
}

/// Judges `count` random histories of the campaign named by `seed`, as text and by trying every
/// order. Some ten thousand a second and core.
///
/// # Errors
/// The first history on which they disagree.
pub fn fuzz_texts(seed: u64, count: u64) -> Result<TextReport, Box<Disagreement>> {
    let mut report = TextReport::default();
    for (number, model) in (0..count).zip(MODELS.into_iter().cycle()) {
        let mut dice = Dice::new(seed, number);
        let drawn = Drawn::new(&mut dice, model);
        let text = drawn.text(&mut dice);
        let initial = drawn.initial.as_ref().map(Value::to_string);
        let (code, output) = command::check(model, initial.as_deref(), text.as_bytes(), false);
        let start = drawn.initial.clone().unwrap_or_else(|| usual(model));
        let expected = meaning::is_explained(model, &start, &drawn.requests);
        match (code, expected) {
            (command::EXIT_VALID, true) => report.valid += 1,
            (command::EXIT_INVALID, false) => report.invalid += 1,
            _ => {
                return Err(Box::new(Disagreement {
                    number,
                    object: model,
                    problem: format!("initial {initial:?}, explained: {expected}, but: {output}"),
                    history: text,
                }));
            }
        }
    }
    Ok(report)
}

/// The usual state before a history.
fn usual(model: &str) -> Value {
    match model {
        "mutex" => Value::Bool(false),
        "set" => Value::Set(BTreeSet::new()),
        "counter" => Value::Int(0),
        "queue" => Value::Vector(vec![]),
        "append" | "multi-register" | "block" | "snapshot" => Value::Map(BTreeMap::new()),
        _ => Value::Nil,
    }
}

fn unusual(model: &str) -> Option<Value> {
    match model {
        "register" | "cas-register" => Some(Value::Int(1)),
        "multi-register" => Some(Value::Map(BTreeMap::from([
            (Value::Int(0), Value::Int(1)),
            (Value::Int(1), Value::Nil),
        ]))),
        "kv" => Some(Value::String("a".into())),
        "mutex" => Some(Value::Bool(true)),
        "set" => Some(Value::Set(BTreeSet::from([Value::Int(0), Value::Int(1)]))),
        "counter" => Some(Value::Int(2)),
        _ => None,
    }
}

struct Drawn {
    keys: Keys,
    initial: Option<Value>,
    requests: Vec<Request>,
    /// By request.
    processes: Vec<u64>,
}

impl Drawn {
    fn new(dice: &mut Dice, model: &'static str) -> Self {
        let mut keys = *dice.pick(&[Keys::None, Keys::Pairs, Keys::Fields]);
        if model == "kv" && keys == Keys::None {
            keys = Keys::Pairs;
        }
        let initial = unusual(model).filter(|_| dice.once_in(3));
        let mut play = Play {
            model,
            several: keys != Keys::None && !dice.once_in(3),
            texts: model == "kv" && dice.once_in(2),
            fresh: 1,
            place: 0,
            start: initial.clone().unwrap_or_else(|| usual(model)),
            states: BTreeMap::new(),
            requests: Vec::new(),
            processes: Vec::new(),
        };
        play.out(dice);
        let mut drawn = Self {
            keys,
            initial,
            requests: play.requests,
            processes: play.processes,
        };
        if dice.once_in(2) {
            drawn.spoil(dice, model);
        }
        drawn
    }

    fn spoil(&mut self, dice: &mut Dice, model: &str) {
        let is_read = |function: &str| !matches!(function, "write" | "add" | "enqueue" | "put");
        let answered = self.requests.iter_mut().filter_map(|request| {
            let end = request.ended.as_mut().map(|(_, end)| end);
            match end {
                Some(End::Answered(answer)) if is_read(request.function) => Some(answer),
                _ => None,
            }
        });
        let mut answers: Vec<&mut Value> = answered.collect();
        if !answers.is_empty() {
            let at = place(dice, answers.len());
            spoil(dice, model, answers[at]);
        }
    }

    /// The history as lines of EDN, or as the columns of `history.txt`.
    fn text(&self, dice: &mut Dice) -> String {
        let columns = self.keys != Keys::Fields && dice.once_in(3);
        let mut lines: BTreeMap<usize, String> = BTreeMap::new();
        for (request, process) in self.requests.iter().zip(&self.processes) {
            let mut line = |at: usize, kind: &str, value: &Value| {
                let value = match self.keys {
                    Keys::Pairs => format!("[{} {value}]", request.key),
                    Keys::None | Keys::Fields => value.to_string(),
                };
                let function = request.function;
                let mut text = if columns {
                    format!("{process}\t:{kind}\t:{function}\t{value}")
                } else {
                    format!("{{:type :{kind}, :f :{function}, :value {value}, :process {process}")
                };
                if self.keys == Keys::Fields {
                    write!(text, ", :key {}", request.key).expect("a string takes it");
                }
                text.push_str(if columns { "\n" } else { "}\n" });
                lines.insert(at, text);
            };
            line(request.sent, "invoke", &request.argument);
            match &request.ended {
                Some((at, End::Answered(answer))) => line(*at, "ok", answer),
                Some((at, End::Failed)) => line(*at, "fail", &request.argument),
                Some((at, End::Unknown)) => line(*at, "info", &request.argument),
                None => {}
            }
        }
        let text: String = lines.into_values().collect();
        match columns {
            false if dice.once_in(3) => format!("[{text}]"),
            _ => text,
        }
    }
}

fn place(dice: &mut Dice, length: usize) -> usize {
    usize::try_from(dice.below(length as u64)).expect("a place in memory")
}

/// Makes an answer say something else, if it happens to.
fn spoil(dice: &mut Dice, model: &str, answer: &mut Value) {
    match answer {
        Value::Vector(items) if matches!(model, "block" | "snapshot") => {
            if let Some(Value::Vector(tags)) = items.last_mut()
                && !tags.is_empty()
            {
                let at = place(dice, tags.len());
                tags[at] = number(dice, 4);
            }
        }
        Value::Vector(items) if matches!(model, "append" | "multi-register") => {
            let at = place(dice, items.len());
            if let Value::Vector(step) = &mut items[at]
                && step[0].name() == Some("r")
            {
                let nothing = model == "append" && step[2] == Value::Nil;
                let found = if nothing {
                    &Value::Vector(vec![])
                } else {
                    &step[2]
                };
                step[2] = other(dice, found);
            }
        }
        Value::Nil if model == "kv" => *answer = Value::String("b".into()),
        whole => *whole = other(dice, whole),
    }
}

fn other(dice: &mut Dice, value: &Value) -> Value {
    match value {
        Value::Vector(items) => {
            let mut items = items.clone();
            match dice.below(3) {
                0 => {
                    items.pop();
                }
                1 => items.reverse(),
                _ => items.push(number(dice, 4)),
            }
            Value::Vector(items)
        }
        // As a vector, to have an element twice.
        Value::Set(items) => other(dice, &Value::Vector(items.iter().cloned().collect())),
        Value::String(text) if dice.once_in(2) => Value::String(text.chars().skip(1).collect()),
        Value::String(_) => Value::String("b".into()),
        Value::Int(number) if dice.once_in(3) => Value::Int(number + 1),
        Value::Int(_) | Value::Nil => number(dice, 4),
        other => other.clone(),
    }
}

fn number(dice: &mut Dice, bound: u64) -> Value {
    Value::Int(i64::try_from(dice.below(bound)).expect("a small number"))
}

/// A history in the making.
struct Play {
    model: &'static str,
    several: bool,
    texts: bool,
    fresh: i64,
    place: usize,
    start: Value,
    states: BTreeMap<u64, Value>,
    requests: Vec<Request>,
    processes: Vec<u64>,
}

/// What a process is doing.
enum Doing {
    Nothing,
    /// This request, which has not taken effect.
    Asking(usize),
    /// And which has, with this answer.
    Knowing(usize, Value),
}

impl Play {
    fn out(&mut self, dice: &mut Dice) {
        let count = 2 + place(dice, 5);
        let mut doing = [const { Doing::Nothing }; 3];
        for _ in 0..8 * count {
            let process = place(dice, doing.len());
            doing[process] = match std::mem::replace(&mut doing[process], Doing::Nothing) {
                Doing::Nothing if self.requests.len() == count => Doing::Nothing,
                Doing::Nothing => {
                    self.send(dice);
                    self.processes.push(process as u64);
                    Doing::Asking(self.requests.len() - 1)
                }
                Doing::Asking(at) if dice.once_in(8) => {
                    self.end(at, End::Failed);
                    Doing::Nothing
                }
                Doing::Asking(at) => self.strike(at),
                Doing::Knowing(at, _) if dice.once_in(6) => {
                    self.end(at, End::Unknown);
                    Doing::Nothing
                }
                Doing::Knowing(at, answer) => {
                    self.end(at, End::Answered(answer));
                    Doing::Nothing
                }
            };
        }
    }

    fn end(&mut self, at: usize, end: End) {
        self.requests[at].ended = Some((self.place, end));
        self.place += 1;
    }

    /// Lets a request take effect, if it can.
    fn strike(&mut self, at: usize) -> Doing {
        let request = &self.requests[at];
        let state = self.states.get(&request.key).unwrap_or(&self.start);
        match meaning::run(self.model, state, request.function, &request.argument) {
            Some((answer, state)) => {
                self.states.insert(request.key, state);
                Doing::Knowing(at, answer)
            }
            None => Doing::Asking(at),
        }
    }

    fn send(&mut self, dice: &mut Dice) {
        let (function, argument) = self.draw(dice);
        let key = if self.several { dice.below(2) } else { 0 };
        self.requests.push(Request {
            key,
            function,
            argument,
            sent: self.place,
            ended: None,
        });
        self.place += 1;
    }

    /// A value that was not there yet, most often.
    fn value(&mut self, dice: &mut Dice) -> Value {
        if dice.once_in(4) {
            return number(dice, 3);
        }
        self.fresh += 1;
        Value::Int(self.fresh)
    }

    fn draw(&mut self, dice: &mut Dice) -> (&'static str, Value) {
        let reads = dice.once_in(2);
        match self.model {
            "register" | "cas-register" if reads => ("read", Value::Nil),
            "cas-register" if dice.once_in(2) => {
                let from = number(dice, 4);
                ("cas", Value::Vector(vec![from, self.value(dice)]))
            }
            "register" | "cas-register" => ("write", self.value(dice)),
            "kv" if reads => ("get", Value::Nil),
            "kv" if self.texts => {
                let text = Value::String((*dice.pick(&["", "a", "b", "ab"])).into());
                (*dice.pick(&["put", "append"]), text)
            }
            "kv" => ("put", self.value(dice)),
            "mutex" => (*dice.pick(&["acquire", "release"]), Value::Nil),
            "set" | "counter" if reads => ("read", Value::Nil),
            "set" => (*dice.pick(&["add", "add", "remove"]), number(dice, 3)),
            "counter" => match dice.below(3) {
                0 => ("add", Value::Int(1 - i64::from(dice.once_in(2)) * 3)),
                1 => ("increment", Value::Nil),
                _ => ("decrement", Value::Nil),
            },
            "queue" if reads => ("dequeue", Value::Nil),
            "queue" => ("enqueue", self.value(dice)),
            "append" | "multi-register" => ("txn", self.transaction(dice)),
            _ => self.blocks(dice, reads),
        }
    }

    fn transaction(&mut self, dice: &mut Dice) -> Value {
        let writes = if self.model == "append" {
            "append"
        } else {
            "w"
        };
        let count = 1 + self.place % 2;
        let step = |_| {
            let key = number(dice, 2);
            let (function, value) = if dice.once_in(2) {
                ("r", Value::Nil)
            } else {
                (writes, self.value(dice))
            };
            Value::Vector(vec![Value::keyword(function), key, value])
        };
        Value::Vector((0..count).map(step).collect())
    }

    fn blocks(&mut self, dice: &mut Dice, reads: bool) -> (&'static str, Value) {
        let mut range = vec![number(dice, 2), Value::Int(1 + i64::from(dice.once_in(2)))];
        let snapshots = self.requests.iter().filter(|r| r.function == "snapshot");
        let names: Vec<Value> = snapshots.map(|request| request.argument.clone()).collect();
        if self.model == "snapshot" && dice.once_in(2) {
            if names.is_empty() || dice.once_in(4) {
                self.fresh += 1;
                return ("snapshot", Value::Int(self.fresh));
            }
            range.insert(0, dice.pick(&names).clone());
            return ("read-snapshot", Value::Vector(range));
        }
        if reads {
            return ("read", Value::Vector(range));
        }
        if dice.once_in(4) {
            return ("zero", Value::Vector(range));
        }
        range.push(self.value(dice));
        ("write", Value::Vector(range))
    }
}
