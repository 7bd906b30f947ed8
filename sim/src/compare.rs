//! Comparing two runs that ought to be the same: the first event in which they differ.
//!
//! Each run gives the rolling hash of its trace and a checkpoint of it each
//! [`CHECKPOINT_EVENTS`] events. The checkpoints are bisected for the first that differ; then both
//! run again and keep just the events before that checkpoint. Two runs that differ may also differ
//! from themselves when they are repeated; then the range that was kept decides, and if it does not
//! hold the difference it is tried again.

use std::ops::Range;

use crate::world::{CHECKPOINT_EVENTS, EventKind, Recording, TraceEvent, TraceSummary};

/// Runs are repeated so often at most.
const ATTEMPTS_MAXIMUM: u32 = 8;
/// Events and log lines before the difference that are shown.
const SHOWN_BEFORE: usize = 12;

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The same trace, with this hash and so many events.
    Same(u64, u64),
    /// They differ.
    Differ(Box<Difference>),
    /// They differ, but each time elsewhere: no event could be caught.
    Elusive,
}

/// The first event in which two runs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its number.
    pub number: u64,
    /// What came just before it, the same in both.
    pub before: Vec<TraceEvent>,
    /// The event of one run; none when that had ended.
    pub left: Option<TraceEvent>,
    /// The event of the other.
    pub right: Option<TraceEvent>,
}

/// Runs both sides until their first difference is known. A side runs with the recording that it
/// is given.
///
/// # Errors
/// Whatever a side fails with.
pub fn compare<E>(
    mut left: impl FnMut(Recording) -> Result<TraceSummary, E>,
    mut right: impl FnMut(Recording) -> Result<TraceSummary, E>,
) -> Result<Comparison, E> {
    let (mut one, mut other) = (left(Recording::HashOnly)?, right(Recording::HashOnly)?);
    let Some(mut range) = one.first_difference(&other) else {
        return Ok(Comparison::Same(one.hash, one.events));
    };
    for _ in 0..ATTEMPTS_MAXIMUM {
        let kept = shown(&range);
        one = left(Recording::Range(kept.clone()))?;
        other = right(Recording::Range(kept))?;
        // These two runs may differ elsewhere than those before, or not at all.
        let Some(now) = one.first_difference(&other) else {
            continue;
        };
        if now == range
            && let Some(difference) = first_difference(&one.recorded, &other.recorded)
        {
            return Ok(Comparison::Differ(Box::new(difference)));
        }
        range = now;
    }
    Ok(Comparison::Elusive)
}

/// A range and what is shown before it.
fn shown(range: &Range<u64>) -> Range<u64> {
    range.start.saturating_sub(CHECKPOINT_EVENTS / 16)..range.end
}

fn first_difference(left: &[TraceEvent], right: &[TraceEvent]) -> Option<Difference> {
    let hashed = |event: &&TraceEvent| event.kind != EventKind::Log;
    let mut ones = left.iter().filter(hashed);
    let mut others = right.iter().filter(hashed);
    loop {
        let (one, other) = (ones.next(), others.next());
        let number = one.or(other)?.number;
        if one.map(identity) != other.map(identity) {
            let before = left.iter().take_while(|event| {
                event.number < number && Some(event.number) != one.map(|event| event.number)
            });
            let before: Vec<TraceEvent> = before.cloned().collect();
            let skipped = before.len().saturating_sub(SHOWN_BEFORE);
            return Some(Difference {
                number,
                before: before[skipped..].to_vec(),
                left: one.cloned(),
                right: other.cloned(),
            });
        }
    }
}

/// What of an event enters the hash.
fn identity(event: &TraceEvent) -> (u64, u64, Option<u16>, EventKind, [u64; 3]) {
    let node = event.node.map(|node| node.0);
    let rest = [event.subject, event.size, event.checksum];
    (event.number, event.at_ns, node, event.kind, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::NodeIndex;

    /// A run of `events` events, of which number `odd` is another.
    fn run(events: u64, odd: Option<u64>, recording: &Recording) -> TraceSummary {
        let mut summary = TraceSummary {
            hash: 1,
            events,
            virtual_ns: events,
            checkpoints: Vec::new(),
            recorded: Vec::new(),
        };
        for number in 0..events {
            let subject = u64::from(odd == Some(number));
            summary.hash = summary.hash.wrapping_mul(3).wrapping_add(subject);
            if (number + 1).is_multiple_of(CHECKPOINT_EVENTS) {
                summary.checkpoints.push(summary.hash);
            }
            let kept = matches!(recording, Recording::Range(range) if range.contains(&number));
            if kept {
                summary.recorded.push(TraceEvent {
                    number,
                    at_ns: number,
                    node: Some(NodeIndex(0)),
                    kind: EventKind::Timer,
                    subject,
                    size: 0,
                    checksum: 0,
                    since_ns: number,
                    text: String::new(),
                    task: None,
                });
            }
        }
        summary
    }

    fn check(
        left: impl FnMut(Recording) -> Result<TraceSummary, ()>,
        right: impl FnMut(Recording) -> Result<TraceSummary, ()>,
    ) -> Comparison {
        compare(left, right).expect("no side fails")
    }

    #[test]
    fn equal_runs_are_run_once() {
        let mut runs = 0;
        let plain = |recording| Ok(run(10_000, None, &recording));
        let comparison = check(
            |recording| {
                runs += 1;
                plain(recording)
            },
            plain,
        );
        assert!(matches!(comparison, Comparison::Same(_, 10_000)));
        assert_eq!(runs, 1);
    }

    #[test]
    fn the_very_event_is_found_wherever_it_is() {
        let edge = CHECKPOINT_EVENTS;
        for odd in [0, 17, edge - 1, edge, 3 * edge + 5, 40_000 - 1] {
            let comparison = check(
                |recording| Ok(run(40_000, None, &recording)),
                |recording| Ok(run(40_000, Some(odd), &recording)),
            );
            let Comparison::Differ(difference) = comparison else {
                panic!("event {odd}: {comparison:?}");
            };
            assert_eq!(difference.number, odd);
            let subjects = [&difference.left, &difference.right].map(|event| {
                let event = event.as_ref().expect("both have it");
                (event.number, event.subject)
            });
            assert_eq!(subjects, [(odd, 0), (odd, 1)]);
            let before: Vec<u64> = difference.before.iter().map(|event| event.number).collect();
            let shown = u64::try_from(SHOWN_BEFORE).expect("few");
            assert_eq!(before, (odd.saturating_sub(shown)..odd).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_run_that_ends_early_differs_where_it_ends() {
        let comparison = check(
            |recording| Ok(run(9_000, None, &recording)),
            |recording| Ok(run(9_001, None, &recording)),
        );
        let Comparison::Differ(difference) = comparison else {
            panic!("{comparison:?}");
        };
        assert_eq!((difference.number, difference.left), (9_000, None));
    }

    #[test]
    fn runs_that_do_not_repeat_themselves_are_caught_or_given_up() {
        let mut moving = 0;
        let comparison = check(
            |recording| Ok(run(60_000, None, &recording)),
            |recording| {
                moving = (moving + 1).min(3);
                Ok(run(60_000, Some(moving * 10_000), &recording))
            },
        );
        assert!(
            matches!(comparison, Comparison::Differ(difference) if difference.number == 30_000)
        );
        let mut moving = 0;
        let comparison = check(
            |recording| Ok(run(60_000, None, &recording)),
            |recording| {
                moving += 5_000;
                Ok(run(60_000, Some(moving), &recording))
            },
        );
        assert_eq!(comparison, Comparison::Elusive);
    }
}
