//! Which faults belong together: what a fault begins, and what ends it.
//!
//! Invariants: every fault is a member of exactly one episode; an episode's first member begins it
//! (or is an end that nothing began). Episodes are what is counted and left out as *one fault*: a
//! crash with its restart, a partition with its healing, all links that change at one moment, and what
//! befalls several nodes alike at one moment (power that fails in a rack, disks that fill together).

use crate::world::{DiskFaults, FaultAction, LinkRules, LinkState, TimedFault};

/// The faults, by their places in the list, of one episode.
pub type Episode = Vec<usize>;

/// Sorts faults into episodes. They are in the order of their times, as plans have them.
#[must_use]
pub fn episodes(faults: &[TimedFault]) -> Vec<Episode> {
    let mut found: Vec<Episode> = Vec::new();
    for (at, fault) in faults.iter().enumerate() {
        let home = if is_end(&fault.action) {
            ended_by(faults, &found, &fault.action)
        } else {
            same_moment(faults, &found, fault)
        };
        match home {
            Some(home) => found[home].push(at),
            None => found.push(vec![at]),
        }
    }
    found
}

/// Lets the later of two episodes begin when the earlier one does; its ends stay where they are.
pub(super) fn gather(faults: &mut [TimedFault], early: usize, late: usize) {
    let found = episodes(faults);
    let (Some(early), Some(late)) = (found.get(early), found.get(late)) else {
        return;
    };
    let (at_ns, begun_ns) = (faults[early[0]].at_ns, faults[late[0]].at_ns);
    for at in late {
        let fault = &mut faults[*at];
        if fault.at_ns == begun_ns && !is_end(&fault.action) {
            fault.at_ns = at_ns;
        }
    }
    faults.sort_by_key(|fault| fault.at_ns);
}

/// Takes out the ends of what nothing began.
pub(super) fn delete_orphans(faults: &mut Vec<TimedFault>) {
    let mut orphans: Vec<usize> = episodes(faults)
        .into_iter()
        .filter(|episode| episode.iter().all(|at| is_end(&faults[*at].action)))
        .flatten()
        .collect();
    orphans.sort_unstable();
    for at in orphans.into_iter().rev() {
        faults.remove(at);
    }
}

fn is_end(action: &FaultAction) -> bool {
    match action {
        FaultAction::Restart(_)
        | FaultAction::Resume(_)
        | FaultAction::HealLinks
        | FaultAction::End(_) => true,
        FaultAction::Link(_, _, rules) => *rules == LinkRules::default(),
        FaultAction::Disk(_, faults) => *faults == DiskFaults::default(),
        _ => false,
    }
}

/// The latest episode that holds something which `end` ends.
fn ended_by(faults: &[TimedFault], found: &[Episode], end: &FaultAction) -> Option<usize> {
    let begun = |at: &usize| {
        let action = &faults[*at].action;
        !is_end(action) && ends(end, action)
    };
    found.iter().rposition(|episode| episode.iter().any(begun))
}

fn ends(end: &FaultAction, begun: &FaultAction) -> bool {
    if let (FaultAction::End(number), FaultAction::Begin(begun, _)) = (end, begun) {
        return number == begun;
    }
    match (end, begun.deed()) {
        (
            FaultAction::Restart(node),
            FaultAction::Crash(begun, _)
            | FaultAction::CrashAfterCalls(begun, ..)
            | FaultAction::CrashLoop(begun, _)
            | FaultAction::Disk(begun, _)
            | FaultAction::WipeDisk(begun),
        )
        | (FaultAction::Resume(node), FaultAction::Pause(begun))
        | (FaultAction::Restart(node), FaultAction::SwapDisks(begun, _))
        | (FaultAction::Restart(node), FaultAction::RestoreImage(begun))
        | (FaultAction::Disk(node, _), FaultAction::Disk(begun, _)) => node == begun,
        (FaultAction::HealLinks, FaultAction::Partition(_)) => true,
        (FaultAction::HealLinks, FaultAction::Link(_, _, rules)) => rules.state != LinkState::Open,
        (FaultAction::Link(from, to, _), FaultAction::Link(begun_from, begun_to, _)) => {
            (from, to) == (begun_from, begun_to)
        }
        _ => false,
    }
}

/// The episode of links that change at this same moment, or of other nodes that the same befalls.
fn same_moment(faults: &[TimedFault], found: &[Episode], fault: &TimedFault) -> Option<usize> {
    let alike = |episode: &Episode| {
        let first = &faults[episode[0]];
        first.at_ns == fault.at_ns
            && !is_end(&first.action)
            && is_one_event(first.action.deed(), fault.action.deed())
    };
    found.iter().rposition(alike)
}

/// Whether two deeds of one moment are parts of one event.
pub(super) fn is_one_event(one: &FaultAction, other: &FaultAction) -> bool {
    match (one, other) {
        (FaultAction::Link(..), FaultAction::Link(..))
        | (FaultAction::Pause(_), FaultAction::Pause(_))
        | (FaultAction::Drift(..), FaultAction::Drift(..)) => true,
        (FaultAction::Crash(_, one), FaultAction::Crash(_, other)) => one == other,
        (FaultAction::Disk(_, one), FaultAction::Disk(_, other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Crash, FaultNumber, NodeIndex};

    const A: NodeIndex = NodeIndex(0);
    const B: NodeIndex = NodeIndex(1);

    fn check(actions: &[(u64, FaultAction)], expected: &[&[usize]]) {
        let faults: Vec<TimedFault> = actions
            .iter()
            .map(|(at_ns, action)| TimedFault {
                at_ns: *at_ns,
                action: action.clone(),
            })
            .collect();
        assert_eq!(episodes(&faults), expected);
    }

    #[test]
    fn ends_join_the_latest_episode_that_they_end() {
        check(
            &[
                (1, FaultAction::Crash(A, Crash::KILL)),
                (2, FaultAction::Pause(B)),
                (3, FaultAction::Restart(A)),
                (4, FaultAction::Crash(A, Crash::POWER)),
                (5, FaultAction::Resume(B)),
                (6, FaultAction::Restart(A)),
                (7, FaultAction::StepWall(A, 5)),
            ],
            &[&[0, 2], &[1, 4], &[3, 5], &[6]],
        );
    }

    #[test]
    fn links_that_change_at_one_moment_are_one_fault() {
        let cut = LinkRules {
            state: LinkState::Cut,
            ..LinkRules::default()
        };
        check(
            &[
                (1, FaultAction::Link(A, B, cut)),
                (1, FaultAction::Link(B, A, cut)),
                (2, FaultAction::Partition(vec![vec![A], vec![B]])),
                (3, FaultAction::HealLinks),
                (4, FaultAction::Link(A, B, LinkRules::default())),
            ],
            &[&[0, 1, 4], &[2, 3]],
        );
    }

    #[test]
    fn what_befalls_several_nodes_alike_at_one_moment_is_one_fault() {
        let slow = |slow_factor| DiskFaults {
            slow_factor,
            ..DiskFaults::default()
        };
        check(
            &[
                (1, FaultAction::Crash(A, Crash::POWER)),
                (1, FaultAction::Crash(B, Crash::POWER)),
                (1, FaultAction::Crash(B, Crash::KILL)),
                (2, FaultAction::Restart(A)),
                (3, FaultAction::Disk(A, slow(5))),
                (3, FaultAction::Disk(B, slow(5))),
                (3, FaultAction::Disk(B, slow(7))),
                (4, FaultAction::Disk(B, slow(5))),
            ],
            &[&[0, 1, 3], &[2], &[4, 5], &[6], &[7]],
        );
    }

    #[test]
    fn like_episodes_are_gathered_into_one() {
        let fault = |at_ns, action| TimedFault { at_ns, action };
        let mut faults = vec![
            fault(1, FaultAction::Crash(A, Crash::POWER)),
            fault(2, FaultAction::StepWall(A, 5)),
            fault(3, FaultAction::Crash(B, Crash::POWER)),
            fault(4, FaultAction::Restart(A)),
            fault(5, FaultAction::Restart(B)),
        ];
        assert_eq!(episodes(&faults).len(), 3);
        gather(&mut faults, 0, 2);
        let found = episodes(&faults);
        assert_eq!(found, [vec![0, 1, 3, 4], vec![2]]);
        assert_eq!(faults[1], fault(1, FaultAction::Crash(B, Crash::POWER)));
        let before = faults.clone();
        gather(&mut faults, 0, 7);
        assert_eq!(faults, before, "no such episode");
    }

    #[test]
    fn what_stands_under_a_number_is_ended_by_it_alone() {
        let slow = DiskFaults {
            slow_factor: 5,
            ..DiskFaults::default()
        };
        let begin = |number| {
            let slow = Box::new(FaultAction::Disk(A, slow));
            FaultAction::Begin(FaultNumber(number), slow)
        };
        check(
            &[
                (1, begin(1)),
                (2, begin(2)),
                (3, FaultAction::End(FaultNumber(1))),
                (4, FaultAction::Restart(A)),
                (5, FaultAction::End(FaultNumber(2))),
            ],
            &[&[0, 2], &[1, 3, 4]],
        );
    }

    #[test]
    fn an_end_that_nothing_began_stands_alone() {
        check(&[(1, FaultAction::Restart(A))], &[&[0]]);
    }
}
