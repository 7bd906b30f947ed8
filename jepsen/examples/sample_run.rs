//! Writes a run's directory with a made-up history of any length, to look at pages and to measure
//! them: `sample_run DIR OPERATIONS [SEED]`. A third of the seeds lose a write, so that the verdict
//! is *invalid*.

#![expect(
    clippy::disallowed_methods,
    reason = "an example writes its files itself"
)]

use hedgerow_jepsen::check::{Model, Verdict};
use hedgerow_jepsen::fuzz::Dice;
use hedgerow_jepsen::history::{Event, EventKind, History, Process, Value};
use hedgerow_jepsen::report::{run::describe, write_page};
use serde_json::{Value as Json, json};
use std::error::Error;
use std::fs;
use std::path::Path;

const CLIENTS: usize = 12;
const BLOCKS: u64 = 64;
/// Mean pause between two events.
const PAUSE_NS: u64 = 400_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, dir, count, seed @ ..] = arguments.as_slice() else {
        return Err("sample_run DIR OPERATIONS [SEED]".into());
    };
    let count: usize = count.parse()?;
    let seed: u64 = seed.first().map_or(Ok(1), |seed| seed.parse())?;
    let dir = Path::new(dir);
    fs::create_dir_all(dir.join("logs"))?;
    let mut made = Made::new(seed, count);
    made.run(count);
    fs::write(dir.join("history.bin"), made.history.to_binary())?;
    fs::write(
        dir.join("faults.json"),
        Json::Array(made.faults.clone()).to_string(),
    )?;
    let plan =
        json!({"workload": "block-register", "nodes": 5, "clients": CLIENTS, "rate": "full"});
    fs::write(dir.join("plan.json"), plan.to_string())?;
    fs::write(dir.join("results.json"), made.results(seed)?.to_string())?;
    for node in 1..=5 {
        fs::write(dir.join(format!("logs/n{node}.log")), made.log(node))?;
    }
    println!("{}", write_page(dir)?.display());
    Ok(())
}

struct Made {
    dice: Dice,
    history: History,
    time_ns: u64,
    blocks: Vec<u64>,
    lost_at: Option<usize>,
    faults: Vec<Json>,
    counts: [u64; 3],
}

/// A call that is open: whether it writes, its block, the tag, and the answer once it took effect.
type Open = (bool, u64, u64, Option<u64>);

impl Made {
    fn new(seed: u64, count: usize) -> Self {
        Self {
            dice: Dice::new(seed, 7),
            history: History::default(),
            time_ns: 0,
            blocks: vec![0; 64],
            lost_at: seed.is_multiple_of(3).then_some(count * 7 / 10),
            faults: Vec::new(),
            counts: [0; 3],
        }
    }

    fn event(&mut self, kind: EventKind, process: u64, call: Open, value: Value) {
        let line = self.history.events.len() as u64 + 1;
        let function = if call.0 { "write" } else { "read" };
        self.history.events.push(Event {
            line,
            kind,
            process: Process::Client(process),
            function: function.to_owned(),
            key: None,
            value,
            time_ns: i64::try_from(self.time_ns).ok(),
            error: (kind == EventKind::Info).then(|| Value::keyword("timeout")),
        });
    }

    fn run(&mut self, count: usize) {
        let mut open: Vec<Option<Open>> = vec![None; CLIENTS];
        let mut names: Vec<u64> = (0..CLIENTS as u64).collect();
        let (mut begun, mut tag, mut fault_until) = (0, 0, 0);
        while begun < count || open.iter().any(Option::is_some) {
            let slow = if self.time_ns < fault_until { 8 } else { 1 };
            self.time_ns += self.dice.below(2 * PAUSE_NS * slow);
            if self.time_ns > fault_until + 4_000_000_000 && self.dice.once_in(400) {
                fault_until = self.fault();
            }
            let client = usize::try_from(self.dice.below(CLIENTS as u64)).expect("few");
            let process = names[client];
            match open[client] {
                None if begun < count => {
                    begun += 1;
                    tag += 1;
                    let call = (self.dice.once_in(2), self.dice.below(BLOCKS), tag, None);
                    self.event(EventKind::Invoke, process, call, value_of(call, None));
                    open[client] = Some(call);
                }
                None => {}
                Some((writes, block, tag, None)) => {
                    let place = usize::try_from(block).expect("few blocks");
                    let lost = writes && self.lost_at.is_some_and(|at| begun >= at);
                    if lost {
                        self.lost_at = None;
                    } else if writes {
                        self.blocks[place] = tag;
                    }
                    open[client] = Some((writes, block, tag, Some(self.blocks[place])));
                }
                Some(call) => {
                    let odds = if slow > 1 { 12 } else { 4_000 };
                    let kind = match self.dice.below(odds) {
                        0 => EventKind::Info,
                        1 if !call.0 => EventKind::Fail,
                        _ => EventKind::Ok,
                    };
                    let answer = (kind == EventKind::Ok).then_some(call.3).flatten();
                    self.event(kind, process, call, value_of(call, answer));
                    self.counts[kind as usize - 1] += 1;
                    if kind == EventKind::Info {
                        names[client] += CLIENTS as u64;
                    }
                    open[client] = None;
                }
            }
        }
    }

    fn fault(&mut self) -> u64 {
        let length = 300_000_000 + self.dice.below(3_000_000_000);
        let until = self.time_ns + length;
        let kind = *self.dice.pick(&["kill", "partition", "pause", "slow-disk"]);
        let node = format!("n{}", 1 + self.dice.below(5));
        self.faults.push(json!({
            "at_ns": self.time_ns, "until_ns": until, "kind": kind, "nodes": [node],
            "text": format!("{kind} of {node}"), "struck": !self.dice.once_in(9),
        }));
        until
    }

    fn results(&self, seed: u64) -> Result<Json, Box<dyn Error>> {
        let calls = self.history.calls()?;
        let (verdict, reason, witness) = match Model::Block.check(None, &calls)? {
            Verdict::Valid => ("valid", None, Vec::new()),
            Verdict::Unknown(why) => ("unknown", Some(why), Vec::new()),
            Verdict::Invalid(witness) => {
                let part = witness.part.clone().unwrap_or_default();
                let reason = format!("{part}: {}", witness.explanation);
                ("invalid", Some(reason), describe(&witness, &calls))
            }
        };
        let [ok, fail, info] = self.counts;
        Ok(json!({
            "schema_version": 1, "test": "sample", "target": "made up",
            "workload": "block-register", "nemesis": "kill,partition,pause,slow-disk",
            "seed": seed, "verdict": verdict, "reason": reason,
            "operations": {"ok": ok, "fail": fail, "info": info},
            "coverage": {"faults": self.faults.len()}, "witness": witness,
            "started": "2026-11-22T14:03:05.000Z", "duration_s": self.time_ns as f64 / 1e9,
        }))
    }

    fn log(&self, node: u64) -> String {
        let mut text = String::new();
        for second in 0..(self.time_ns / 1_000_000_000).min(40_000) {
            let (minute, hour) = (3 + (5 + second) / 60, 14 + (3 + (5 + second) / 60) / 60);
            let level = if (second + node).is_multiple_of(17) {
                "warn "
            } else {
                "info "
            };
            text.push_str(&format!(
                "2026-11-22T{:02}:{:02}:{:02}.{:03}Z {level} n{node} raft: term {} index {}\n",
                hour % 24,
                minute % 60,
                (5 + second) % 60,
                node * 111,
                second / 30,
                second * 41
            ));
        }
        text
    }
}

fn value_of((writes, block, tag, _): Open, answer: Option<u64>) -> Value {
    let int = |number: u64| Value::Int(i64::try_from(number).expect("small"));
    let last = match (writes, answer) {
        (true, _) => int(tag),
        (false, Some(tag)) => Value::Vector(vec![int(tag)]),
        (false, None) => return Value::Vector(vec![int(block), int(1)]),
    };
    Value::Vector(vec![int(block), int(1), last])
}
