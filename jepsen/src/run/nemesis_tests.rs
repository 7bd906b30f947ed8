//! What is drawn: every kind that was asked for, at its time, against nodes that it can strike.

use super::*;
use crate::run::faults::apart;

fn drawn(seed: u64, list: &str, nodes: u16, seconds: u64) -> Vec<TimedFault> {
    let kinds = kinds_named(list, nodes).unwrap();
    let mut random = Random::from_seed(seed);
    draw(
        &mut random,
        (&kinds, LEAST_CUT_MS),
        (nodes, nodes.min(3)),
        seconds * 1000,
    )
    .unwrap()
}

#[test]
fn every_kind_that_was_asked_for_has_its_turn_and_lanes_do_not_overlap() {
    for seed in 0..50 {
        let faults = drawn(seed, "all", 5, 300);
        for (kind, name, _) in NEMESES {
            assert!(faults.iter().any(|fault| fault.kind == *name), "{name}");
            assert_eq!(kind.name(), *name);
        }
        for of_links in [false, true] {
            let lane: Vec<&TimedFault> = faults
                .iter()
                .filter(|fault| {
                    let kind = kinds_named(&fault.kind, 5).unwrap()[0];
                    kind.strikes_links() == of_links
                })
                .collect();
            for pair in lane.windows(2) {
                assert!(pair[0].until_ms < pair[1].at_ms, "{pair:?}");
            }
        }
        assert!(faults.iter().all(|fault| fault.until_ms < 300_000));
    }
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    assert_eq!(
        drawn(7, "kill,partition", 5, 90),
        drawn(7, "kill,partition", 5, 90)
    );
    assert_ne!(drawn(7, "kill", 5, 60), drawn(8, "kill", 5, 60));
}

#[test]
fn what_cannot_strike_is_refused_with_a_remedy() {
    assert!(kinds_named("kil", 5).unwrap_err().0.contains("kill"));
    let mut random = Random::from_seed(1);
    let short = draw(
        &mut random,
        (&kinds_named("all", 5).unwrap(), LEAST_CUT_MS),
        (5, 3),
        20_000,
    );
    assert!(short.unwrap_err().0.contains("too short"));
    let few = draw(&mut random, (&[Kind::Ring], LEAST_CUT_MS), (3, 3), 60_000);
    assert!(few.unwrap_err().0.contains("needs 4 nodes"));
}

#[test]
fn a_pair_loses_each_other_alone_and_the_stranded_one_is_spared() {
    for seed in 0..20 {
        for timed in drawn(seed, "pair,strand", 5, 60) {
            let heart = heart(&timed, 5).expect("both are about one node");
            match &timed.fault {
                Fault::Partition { groups, .. } => {
                    let cut = apart(5, groups);
                    assert_eq!(cut.len(), 2, "both ways between two nodes: {cut:?}");
                    assert!(cut.iter().all(|link| [link.from, link.to].contains(&heart)));
                }
                fault => {
                    assert_eq!(fault.nodes().len(), 4);
                    assert!(!fault.nodes().contains(&heart));
                }
            }
        }
    }
}

#[test]
fn a_fault_is_about_one_node_or_about_several_alike() {
    let mut hearts = std::collections::BTreeMap::<String, (usize, usize)>::new();
    for timed in (0..20).flat_map(|seed| drawn(seed, "all", 5, 300)) {
        let (some, none) = hearts.entry(timed.kind.clone()).or_default();
        match heart(&timed, 5) {
            Some(_) => *some += 1,
            None => *none += 1,
        }
    }
    for about_one in ["isolate", "one-way", "slow", "lossy", "restart", "pair"] {
        assert_eq!(hearts[about_one].1, 0, "{about_one}");
    }
    for about_all in [
        "rolling", "halves", "ring", "bridge", "reset", "damage", "clock",
    ] {
        assert_eq!(hearts[about_all].0, 0, "{about_all}");
    }
    assert!(hearts["power"].0 > 0 && hearts["power"].1 > 0);
}

#[test]
fn cuts_last_as_long_as_is_asked_for() {
    let kinds = kinds_named("partition,slow", 5).unwrap();
    for seed in 0..20 {
        let mut random = Random::from_seed(seed);
        for timed in draw(&mut random, (&kinds, 9_000), (5, 3), 300_000).unwrap() {
            let length = timed.until_ms - timed.at_ms;
            let is_long = (9_000..15_000).contains(&length);
            assert_eq!(is_long, timed.kind != "slow" || length >= 9_000);
        }
    }
}

#[test]
fn what_strikes_links_strikes_while_two_nodes_run() {
    let mut longer = 0;
    for seed in 0..200 {
        let all = drawn(seed, "strand,one-way,power", 3, 60);
        let is_of_links = |timed: &&TimedFault| timed.kind == "one-way";
        let (links, nodes): (Vec<_>, Vec<_>) = all.iter().partition(is_of_links);
        for link in links {
            let silent = |at: &u64| {
                let mut down = nodes.iter().filter(|down| down.fault.nodes().len() >= 2);
                down.any(|down| (down.at_ms..down.until_ms + VOICE_MS).contains(at))
            };
            let heard = (link.at_ms..link.until_ms).filter(|at| !silent(at)).count();
            assert!(heard >= 2_000, "seed {seed}: {heard} ms of {link:?}");
            longer += usize::from(link.until_ms - link.at_ms >= 9_000);
        }
    }
    assert!(longer > 0);
}

#[test]
fn damage_keeps_to_one_node() {
    for seed in 0..20 {
        let faults = drawn(seed, "damage,wipe", 5, 120);
        let nodes: std::collections::BTreeSet<Vec<u16>> =
            faults.iter().map(|fault| fault.fault.nodes()).collect();
        assert_eq!(nodes.len(), 1);
    }
}
