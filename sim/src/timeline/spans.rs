//! A phase's faults as spans: from the action that breaks something to the one that ends it.
//!
//! Invariant: nothing lasts beyond the end of its phase, when everything is healed.
//! It tells what was asked for; what became of the nodes is in the trace.

use serde_json::{Value, json};

use crate::world::{Crash, DiskFaults, FaultAction, LinkRules, LinkState, NodeIndex, TimedFault};

/// Characters of a fault's description.
const TEXT_MAXIMUM: usize = 200;

/// A fault over time, from the beginning of its phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from_ns: u64,
    /// The same as `from_ns` for what happens in a moment.
    pub(super) to_ns: u64,
    pub(super) kind: &'static str,
    pub(super) nodes: Vec<NodeIndex>,
    pub(super) text: String,
}

impl Span {
    /// As the page's script reads it, with `origin_ns` added to the times.
    pub(super) fn json(&self, origin_ns: u64) -> Value {
        let nodes: Vec<u16> = self.nodes.iter().map(|node| node.0).collect();
        json!([
            origin_ns + self.from_ns,
            origin_ns + self.to_ns,
            self.kind,
            nodes,
            self.text
        ])
    }
}

/// The spans of `faults`, which are in the order of their times; all are healed at `heals_ns`.
pub(super) fn spans(faults: &[TimedFault], heals_ns: u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (place, fault) in faults.iter().enumerate() {
        let Some((kind, nodes, text)) = begins(&fault.action) else {
            continue;
        };
        let later = faults[place + 1..].iter();
        let end = later
            .filter(|later| later.at_ns > fault.at_ns)
            .find(|later| ends(&fault.action, &later.action));
        let to_ns = if lasts(&fault.action) {
            let end_ns = end.map_or(heals_ns, |end| end.at_ns);
            end_ns.min(heals_ns).max(fault.at_ns)
        } else {
            fault.at_ns
        };
        // One fault of many links, or of a whole rack, is one span.
        let same = spans
            .iter_mut()
            .rev()
            .take_while(|s| s.from_ns == fault.at_ns);
        let joined = lasts(&fault.action)
            && same.into_iter().any(|span| {
                let joins = span.kind == kind && span.to_ns == to_ns;
                if joins {
                    join(span, &nodes, &text);
                }
                joins
            });
        if !joined {
            spans.push(Span {
                from_ns: fault.at_ns,
                to_ns,
                kind,
                nodes,
                text,
            });
        }
    }
    spans
}

fn join(span: &mut Span, nodes: &[NodeIndex], text: &str) {
    for node in nodes {
        if !span.nodes.contains(node) {
            span.nodes.push(*node);
        }
    }
    if !text.is_empty() && span.text != *text && span.text.len() < TEXT_MAXIMUM {
        span.text.push_str("; ");
        span.text.push_str(text);
    }
}

/// What breaks by this action: its kind, the nodes, and words; none if it ends something.
fn begins(action: &FaultAction) -> Option<(&'static str, Vec<NodeIndex>, String)> {
    let debug = || cut(&format!("{action:?}"));
    Some(match action {
        FaultAction::Crash(node, crash) => (crash_kind(*crash), vec![*node], String::new()),
        FaultAction::CrashAfterCalls(node, calls, crash) => {
            let text = format!("{} at its {calls}th disk call", crash_kind(*crash));
            ("crash armed", vec![*node], text)
        }
        FaultAction::Pause(node) => ("pause", vec![*node], String::new()),
        FaultAction::Link(from, to, rules) if *rules != LinkRules::default() => (
            link_kind(rules),
            vec![*from, *to],
            format!("{from} to {to}"),
        ),
        FaultAction::Partition(groups) => {
            let group = |group: &Vec<NodeIndex>| {
                let names: Vec<String> = group.iter().map(ToString::to_string).collect();
                names.join(" ")
            };
            let sides: Vec<String> = groups.iter().map(group).collect();
            let nodes = groups.iter().flatten().copied().collect();
            ("partition", nodes, sides.join(" | "))
        }
        FaultAction::BreakConnections(one, other) => {
            ("reset", vec![*one, *other], "connections broken".to_owned())
        }
        FaultAction::HalfOpen(one, other) => (
            "half-open",
            vec![*one, *other],
            format!("{other} is not told"),
        ),
        FaultAction::Disk(node, faults) if *faults != DiskFaults::default() => {
            ("disk", vec![*node], disk_text(faults))
        }
        FaultAction::Drift(node, ppm) => ("clock", vec![*node], format!("drift {ppm} ppm")),
        FaultAction::StepWall(node, ms) => ("clock", vec![*node], format!("wall clock {ms:+} ms")),
        FaultAction::Rot(node, _) => ("rot", vec![*node], "a bit rots".to_owned()),
        FaultAction::RotIn(node, area, _) => ("rot", vec![*node], format!("a bit rots: {area:?}")),
        FaultAction::RotSettled(node, _) => {
            let text = "a bit rots in the midst of its journal".to_owned();
            ("rot", vec![*node], text)
        }
        FaultAction::WipeDisk(node) => ("wipe", vec![*node], "its disk is wiped".to_owned()),
        FaultAction::KeepImage(node) => ("image", vec![*node], "an image is kept".to_owned()),
        FaultAction::RestoreImage(node) => {
            ("image", vec![*node], "its disk is an old image".to_owned())
        }
        FaultAction::SwapDisks(one, other) => {
            let text = "they exchange disks".to_owned();
            ("swap", vec![*one, *other], text)
        }
        FaultAction::AtPhase(node, phase, _) => {
            ("waits", vec![*node], format!("for the phase {phase}"))
        }
        FaultAction::Begin(_, begun) => return begins(begun),
        FaultAction::Restart(_)
        | FaultAction::Resume(_)
        | FaultAction::End(_)
        | FaultAction::HealLinks
        | FaultAction::Link(..)
        | FaultAction::Disk(..) => return None,
        #[allow(
            unreachable_patterns,
            reason = "faults are added more often than words for them"
        )]
        _ => ("other", Vec::new(), debug()),
    })
}

fn lasts(action: &FaultAction) -> bool {
    matches!(
        action.deed(),
        FaultAction::Crash(..)
            | FaultAction::CrashAfterCalls(..)
            | FaultAction::Pause(_)
            | FaultAction::Link(..)
            | FaultAction::Partition(_)
            | FaultAction::Disk(..)
    )
}

/// Whether `later` ends what `action` began.
fn ends(action: &FaultAction, later: &FaultAction) -> bool {
    match (action, later) {
        (FaultAction::Begin(number, _), FaultAction::End(other)) => number == other,
        (
            FaultAction::Crash(node, _) | FaultAction::CrashAfterCalls(node, ..),
            FaultAction::Restart(other),
        )
        | (FaultAction::Pause(node), FaultAction::Resume(other)) => node == other,
        (FaultAction::Partition(_), FaultAction::Partition(_) | FaultAction::HealLinks)
        | (FaultAction::Link(..), FaultAction::HealLinks) => true,
        (FaultAction::Link(from, to, _), FaultAction::Link(other, another, _)) => {
            (from, to) == (other, another)
        }
        (FaultAction::Disk(node, _), FaultAction::Disk(other, _)) => node == other,
        _ => false,
    }
}

fn crash_kind(crash: Crash) -> &'static str {
    match (crash == Crash::KILL, crash == Crash::POWER) {
        (true, _) => "kill",
        (_, true) => "power loss",
        _ => "reset of machine",
    }
}

fn link_kind(rules: &LinkRules) -> &'static str {
    match rules.state {
        LinkState::Cut => "cut",
        LinkState::Clogged => "clog",
        LinkState::Open => "bad link",
    }
}

fn disk_text(faults: &DiskFaults) -> String {
    if faults.stuck {
        "stuck".to_owned()
    } else if faults.slow_factor > 1 {
        format!("{} times slower", faults.slow_factor)
    } else {
        // Only what differs from a sound disk says anything.
        let (all, sound) = (
            format!("{faults:?}"),
            format!("{:?}", DiskFaults::default()),
        );
        let differs: Vec<&str> = all
            .split(", ")
            .zip(sound.split(", "))
            .filter(|(one, other)| one != other)
            .map(|(one, _)| one)
            .collect();
        cut(&differs.join(", "))
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAXIMUM).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeIndex = NodeIndex(1);
    const TWO: NodeIndex = NodeIndex(2);

    fn spans_of(faults: Vec<(u64, FaultAction)>) -> Vec<(u64, u64, &'static str, usize)> {
        let timed = |(at_ns, action)| TimedFault { at_ns, action };
        let faults: Vec<TimedFault> = faults.into_iter().map(timed).collect();
        let spans = spans(&faults, 1_000).into_iter();
        spans
            .map(|span| (span.from_ns, span.to_ns, span.kind, span.nodes.len()))
            .collect()
    }

    #[test]
    fn a_fault_lasts_until_it_is_ended_or_everything_is_healed() {
        let faults = vec![
            (10, FaultAction::Crash(ONE, Crash::POWER)),
            (20, FaultAction::Pause(TWO)),
            (30, FaultAction::Restart(TWO)),
            (40, FaultAction::Restart(ONE)),
            (50, FaultAction::Drift(ONE, 7)),
        ];
        let expected = [
            (10, 40, "power loss", 1),
            (20, 1_000, "pause", 1),
            (50, 50, "clock", 1),
        ];
        assert_eq!(spans_of(faults), expected);
    }

    #[test]
    fn links_that_are_cut_together_are_one_fault() {
        let cut = LinkRules {
            state: LinkState::Cut,
            ..LinkRules::default()
        };
        let faults = vec![
            (10, FaultAction::Link(ONE, TWO, cut)),
            (10, FaultAction::Link(ONE, NodeIndex(0), cut)),
            (90, FaultAction::HealLinks),
        ];
        assert_eq!(spans_of(faults), [(10, 90, "cut", 3)]);
    }
}
