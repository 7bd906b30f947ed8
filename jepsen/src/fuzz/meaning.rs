//! What a history means, read as plainly as it can be: the sequential objects once more, over EDN
//! values, and every order tried. Nothing of `check/` is used, so that a mistake in how histories
//! become operations there shows as a disagreement.
//!
//! Invariant: a request of several blocks is one request a block, all with its window; everything else
//! takes effect in one step.

use crate::history::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A request as it was made.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) key: u64,
    pub(super) function: &'static str,
    pub(super) argument: Value,
    /// The places of its sending and its answer in the history.
    pub(super) sent: usize,
    pub(super) ended: Option<(usize, End)>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    Answered(Value),
    Failed,
    Unknown,
}

/// What a request does to a state: its answer and the state after it. Nothing, if it cannot take
/// effect there.
pub(super) fn run(
    model: &str,
    state: &Value,
    function: &str,
    argument: &Value,
) -> Option<(Value, Value)> {
    let done = |state| Some((argument.clone(), state));
    match (model, function) {
        ("register" | "cas-register" | "kv" | "counter" | "set", "read" | "get") => {
            Some((state.clone(), state.clone()))
        }
        (_, "write") if model.ends_with("register") => done(argument.clone()),
        (_, "put") => done(argument.clone()),
        (_, "cas") => match argument.sequence()? {
            [from, to] if from == state => done(to.clone()),
            _ => None,
        },
        ("kv", _) => done(Value::String(text(state) + &text(argument))),
        ("mutex", _) => {
            let held = Value::Bool(function == "acquire");
            (*state != held).then(|| (argument.clone(), held))
        }
        ("counter", "decrement") => done(Value::Int(number(state) - 1)),
        ("counter", "increment") => done(Value::Int(number(state) + 1)),
        ("counter", _) => done(Value::Int(number(state) + number(argument))),
        ("set", _) => {
            let mut set = elements(state);
            if function == "add" {
                set.insert(argument.clone());
            } else {
                set.remove(argument);
            }
            done(Value::Set(set))
        }
        ("queue", "enqueue") => {
            let mut queue = state.sequence()?.to_vec();
            queue.push(argument.clone());
            done(Value::Vector(queue))
        }
        ("queue", _) => match state.sequence()? {
            [] => Some((Value::Nil, state.clone())),
            [first, rest @ ..] => Some((first.clone(), Value::Vector(rest.to_vec()))),
        },
        ("append" | "multi-register", _) => transaction(state, argument),
        _ => blocks(state, function, argument),
    }
}

fn number(value: &Value) -> i64 {
    value.int().unwrap_or(0)
}

fn text(value: &Value) -> String {
    value.name().unwrap_or_default().to_owned()
}

fn elements(value: &Value) -> BTreeSet<Value> {
    match value {
        Value::Set(set) => set.clone(),
        other => other
            .sequence()
            .unwrap_or_default()
            .iter()
            .cloned()
            .collect(),
    }
}

fn fields(value: &Value) -> BTreeMap<Value, Value> {
    match value {
        Value::Map(map) => map.clone(),
        _ => BTreeMap::new(),
    }
}

fn transaction(state: &Value, argument: &Value) -> Option<(Value, Value)> {
    let mut state = fields(state);
    let mut answer = Vec::new();
    for step in argument.sequence()? {
        let [function, key, value] = step.sequence()? else {
            return None;
        };
        let found = state.get(key).cloned().unwrap_or(Value::Nil);
        let mut value = value.clone();
        match function.name()? {
            "append" => {
                let mut list = found.sequence().unwrap_or_default().to_vec();
                list.push(value.clone());
                state.insert(key.clone(), Value::Vector(list));
            }
            "w" => {
                state.insert(key.clone(), value.clone());
            }
            _ => value = found,
        }
        answer.push(Value::Vector(vec![function.clone(), key.clone(), value]));
    }
    Some((Value::Vector(answer), Value::Map(state)))
}

/// Blocks by number, and images by name: maps of blocks as they were.
fn blocks(state: &Value, function: &str, argument: &Value) -> Option<(Value, Value)> {
    let mut state = fields(state);
    if function == "snapshot" {
        let name = Value::Vector(vec![argument.clone()]);
        let image = Value::Map(state.clone());
        return match state.insert(name, image) {
            None => Some((argument.clone(), Value::Map(state))),
            Some(_) => None,
        };
    }
    let asked = argument.sequence()?;
    let (first, count) = match (function, asked) {
        ("read-snapshot", [_, first, count]) => (first.int()?, count.int()?),
        (_, [first, count, ..]) => (first.int()?, count.int()?),
        _ => return None,
    };
    let range = (first..first + count).map(Value::Int);
    let zeros = Value::Int(0);
    let contents = match function {
        "write" | "zero" => {
            let tag = asked.get(2).unwrap_or(&zeros);
            state.extend(range.map(|block| (block, tag.clone())));
            return Some((argument.clone(), Value::Map(state)));
        }
        "read-snapshot" => fields(state.get(&Value::Vector(vec![asked[0].clone()]))?),
        _ => state.clone(),
    };
    let tags = range.map(|block| contents.get(&block).unwrap_or(&zeros).clone());
    let answer = asked.iter().cloned().chain([Value::Vector(tags.collect())]);
    Some((Value::Vector(answer.collect()), Value::Map(state)))
}

/// Whether an answer is the one that was to be given.
fn is_answer(model: &str, function: &str, expected: &Value, found: &Value) -> bool {
    let list = |value: &Value| value.sequence().unwrap_or_default().to_vec();
    match (model, function) {
        // Nobody looks at what these say.
        (_, "write" | "zero" | "put" | "cas" | "add" | "remove" | "enqueue" | "snapshot")
        | ("kv", "append")
        | ("counter", "increment" | "decrement")
        | ("mutex", _) => true,
        ("kv", _) => {
            let empty = [Value::Nil, Value::String(String::new())];
            expected == found || empty.contains(expected) && empty.contains(found)
        }
        ("set", _) => {
            let found = match found {
                Value::Set(set) => set.iter().cloned().collect(),
                other => list(other),
            };
            elements(expected).len() == found.len()
                && elements(expected) == found.into_iter().collect()
        }
        ("append", _) => {
            let value = |step: &Value| list(&list(step)[2]);
            let pairs = list(expected).into_iter().zip(list(found));
            let is_read = |step: &Value| list(step)[0].name() == Some("r");
            pairs
                .into_iter()
                .all(|(one, other)| !is_read(&one) || value(&one) == value(&other))
        }
        _ => expected == found,
    }
}

/// Whether some order of the requests explains every answer, from `initial` on.
pub(super) fn is_explained(model: &str, initial: &Value, requests: &[Request]) -> bool {
    let mut objects: BTreeMap<(u64, Option<i64>), Vec<Request>> = BTreeMap::new();
    for request in requests.iter().flat_map(|request| parts(model, request)) {
        // Blocks without snapshots have nothing to do with one another.
        let first = request.argument.sequence().and_then(|items| items[0].int());
        let block = first.filter(|_| model == "block");
        let object = objects.entry((request.key, block)).or_default();
        object.push(request);
    }
    objects.values().all(|requests| {
        let mut dead_ends = BTreeSet::new();
        explore(model, requests, 0, initial, &mut dead_ends)
    })
}

/// What may take effect apart, without what did not happen and what says nothing.
fn parts(model: &str, request: &Request) -> Vec<Request> {
    let is_read = matches!(request.function, "read" | "get" | "read-snapshot");
    let answer = match &request.ended {
        Some((_, End::Failed)) => return Vec::new(),
        Some((_, End::Answered(answer))) => Some(answer),
        _ if is_read => return Vec::new(),
        _ => None,
    };
    if !matches!(model, "block" | "snapshot") || request.function == "snapshot" {
        return vec![request.clone()];
    }
    let asked = request.argument.sequence().unwrap_or_default();
    let place = usize::from(request.function == "read-snapshot");
    let (first, count) = (number(&asked[place]), number(&asked[place + 1]));
    let one = |at: i64| {
        let mut asked = asked.to_vec();
        asked[place] = Value::Int(first + at);
        asked[place + 1] = Value::Int(1);
        let mut part = request.clone();
        if let (Some(answer), true) = (answer, is_read) {
            let tags = answer.sequence().and_then(<[_]>::last);
            let tag = tags.and_then(Value::sequence).unwrap_or_default();
            let tag = tag[usize::try_from(at).expect("counted from 0")].clone();
            let answer = asked.iter().cloned().chain([Value::Vector(vec![tag])]);
            let end = End::Answered(Value::Vector(answer.collect()));
            part.ended = part.ended.map(|(place, _)| (place, end));
        }
        part.argument = Value::Vector(asked);
        part
    };
    (0..count).map(one).collect()
}

fn explore(
    model: &str,
    requests: &[Request],
    done: u64,
    state: &Value,
    dead_ends: &mut BTreeSet<(u64, Value)>,
) -> bool {
    let answered = |request: &Request| match &request.ended {
        Some((at, End::Answered(answer))) => Some((*at, answer.clone())),
        _ => None,
    };
    let open = || (0..requests.len()).filter(|at| done >> at & 1 == 0);
    if open().all(|at| answered(&requests[at]).is_none()) {
        return true;
    }
    if !dead_ends.insert((done, state.clone())) {
        return false;
    }
    let over = open().filter_map(|at| answered(&requests[at]).map(|(end, _)| end));
    let first_end = over.min().unwrap_or(usize::MAX);
    open().any(|at| {
        let request = &requests[at];
        let (function, argument) = (request.function, &request.argument);
        let Some((expected, next)) = run(model, state, function, argument) else {
            return false;
        };
        let fits = answered(request)
            .is_none_or(|(_, found)| is_answer(model, function, &expected, &found));
        // Whatever was over before this was sent must have come before it.
        let in_time = request.sent < first_end;
        fits && in_time && explore(model, requests, done | 1 << at, &next, dead_ends)
    })
}
