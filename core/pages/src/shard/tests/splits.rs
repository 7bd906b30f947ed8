//! SPLIT, BEGIN, ADOPT, OPEN and CLEAR.

use hedgerow_env::{GroupId, MapEpoch};
use hedgerow_protocol::{ShardRange, ShardRequest};

use super::super::{moving, split};
use super::*;

const NEW: GroupId = GroupId(2);
const EPOCH: MapEpoch = MapEpoch(7);

/// The half that moves of a shard that had everything.
fn moves() -> ShardRange {
    ShardRange {
        bits: 1,
        pattern: 1,
    }
}

fn goes(container: ContainerId) -> bool {
    moves().contains(container.family, container.index)
}

/// A container that moves, and one that stays.
fn both() -> (ContainerId, ContainerId) {
    let find = |wanted| (0..).map(at).find(|id| goes(*id) == wanted).unwrap();
    (find(true), find(false))
}

fn split_command() -> ShardCommand {
    ShardCommand::Split {
        to: NEW,
        range: moves(),
        epoch: EPOCH,
    }
}

fn of(container: ContainerId, mut command: ShardCommand) -> ShardCommand {
    match &mut command {
        ShardCommand::Fence { container: at, .. }
        | ShardCommand::Place { container: at, .. }
        | ShardCommand::Void { container: at, .. }
        | ShardCommand::Collect { container: at, .. } => *at = container,
        ShardCommand::Commit(commit) => commit.container = container,
        other => panic!("{other:?}"),
    }
    command
}

fn commit_of(container: ContainerId, commit: Commit) -> ShardCommand {
    of(container, ShardCommand::Commit(commit))
}

/// A shard with something in every table, of a container that moves and of one that stays.
fn busy() -> Shard {
    let mut shard = Shard::empty();
    let (goes, stays) = both();
    shard.run(floor(1, &[1]));
    for container in [goes, stays] {
        shard.run(of(container, fence(1, &[1])));
        shard.run(of(container, place(1, writable(&[1, 2, 3]))));
        shard.run(commit_of(container, write(1, 0, 8)));
        shard.run(commit_of(container, write(2, 0, 4)));
        shard.run(commit_of(container, unmap(3, 4, 2)));
        shard.run(commit_of(container, write(5, 16, 8)));
        // All of blob 2 is overwritten, then collected; blob 4 never came to be.
        shard.run(commit_of(container, write(6, 0, 4)));
        shard.run(of(container, void(&[4], 6)));
        shard.run(of(container, collect(1, &[2])));
        shard.run(commit_of(container, unmap(8, 40, 2)));
        // More blobs than one step of a sweep looks at.
        let more = (10..610_u32).map(|at| commit_of(container, write(u64::from(at), at * 8, 8)));
        shard.entry(more.collect());
        let substitute = [
            (1, MemberState::Active),
            (2, MemberState::Active),
            (3, MemberState::Resting),
            (4, MemberState::Active),
        ];
        let mut change = of(container, place(2, members(&substitute)));
        let placed = shard.run(change.clone());
        assert!(matches!(placed, ShardOutcome::Placed(_)), "{placed:?}");
        let ShardCommand::Place {
            epoch,
            members,
            lost,
            ..
        } = &mut change
        else {
            unreachable!("made as a PLACE above")
        };
        *epoch = PlacementEpoch(3);
        members.retain(|member| member.store != StoreId(3));
        *lost = stores(&[3]);
        let placed = shard.run(change);
        assert!(matches!(placed, ShardOutcome::Placed(_)), "{placed:?}");
    }
    shard
}

/// Copies what moves, page by page, each page twice; answers the new shard, which is not open yet.
fn copied(old: &mut Shard) -> Shard {
    let ShardOutcome::Split { position } = old.run(split_command()) else {
        panic!("the shard is split");
    };
    let mut new = Shard::empty();
    let begin = ShardCommand::Begin {
        range: moves(),
        base: position,
        epoch: EPOCH,
    };
    let mut next = adopted(new.bare(begin.clone()));
    assert_eq!(next, Some(Vec::new()));
    while let Some(from) = next {
        let page = moving::page(&old.state, NEW, &from).unwrap();
        let ShardReply::Moving { rows, next: after } = page else {
            panic!("{page:?}");
        };
        let page = ShardCommand::Adopt {
            from,
            rows,
            next: after.clone(),
        };
        assert_eq!(adopted(new.bare(page.clone())), after);
        let state = new.state.clone();
        assert_eq!(adopted(new.bare(page)), after, "a page comes twice");
        assert_eq!(adopted(new.bare(begin.clone())), after, "begun twice");
        assert_eq!(new.state, state, "and changes nothing the second time");
        next = after;
    }
    new
}

fn adopted(outcome: ShardOutcome) -> Option<Vec<u8>> {
    match outcome {
        ShardOutcome::Adopted { next } => next,
        other => panic!("{other:?}"),
    }
}

fn cleared(shard: &mut Shard) {
    let clear = ShardCommand::Clear {
        to: NEW,
        epoch: EPOCH,
    };
    while shard.bare(clear.clone()) != (ShardOutcome::Cleared { finished: true }) {}
}

impl Shard {
    /// As [`Shard::run`], while the rows of the state do not add up yet.
    fn bare(&mut self, command: ShardCommand) -> ShardOutcome {
        self.index += 1;
        let outcomes = ShardMachine::apply_commands(&mut self.state, self.index, &[command]);
        outcomes.unwrap().remove(0)
    }

    fn position(&self) -> u64 {
        split::position(&self.state, self.index).unwrap()
    }

    /// The rows of containers that move, or that stay.
    fn rows_of(&self, wanted: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.state.0.iter().filter(|(key, value)| {
            let home = moving::home_of(key, value).unwrap();
            home.is_some_and(|(family, index)| moves().contains(family, index) == wanted)
        });
        rows.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

#[test]
fn the_new_shard_has_what_moves_and_the_old_one_keeps_the_rest() {
    let mut old = busy();
    let (before_goes, before_stays) = (old.rows_of(true), old.rows_of(false));
    let kinds = |rows: &[(Vec<u8>, Vec<u8>)]| -> Vec<u8> {
        let mut kinds: Vec<u8> = rows.iter().map(|(key, _)| key[0]).collect();
        kinds.dedup();
        kinds
    };
    assert_eq!(kinds(&before_goes), [1, 3, 4, 5, 6, 7, 8, 9, 11, 12]);
    let mut new = copied(&mut old);
    assert_eq!(new.rows_of(true), before_goes);
    assert_eq!(new.rows_of(false), []);
    assert_eq!(new.bare(ShardCommand::Open), ShardOutcome::Done);
    audit::check(&new.state);
    assert_eq!(old.rows_of(true), before_goes, "it stands still");
    cleared(&mut old);
    audit::check(&old.state);
    assert_eq!(old.rows_of(true), []);
    assert_eq!(old.rows_of(false), before_stays);
    // Floors and what the stores have handled are both shards'.
    for kind in [2, 10] {
        let keys = |shard: &Shard| -> Vec<Vec<u8>> {
            let keys = shard.state.0.keys();
            keys.filter(|key| key[0] == kind).cloned().collect()
        };
        assert_eq!(keys(&old), keys(&new));
    }
    // Nothing is open or cleared twice.
    assert_eq!(new.bare(ShardCommand::Open), ShardOutcome::Done);
    cleared(&mut old);
}

#[test]
fn positions_go_on_from_the_old_log() {
    let mut old = busy();
    let (goes, _) = both();
    let split_at = old.index + 1;
    let mut new = copied(&mut old);
    new.bare(ShardCommand::Open);
    assert!(new.index < split_at, "its own log is shorter");
    let mut late = write(7, 32, 8);
    late.epoch = PlacementEpoch(3);
    late.low_water = Sequence(6);
    let outcome = new.run(commit_of(goes, late.clone()));
    let expected = ShardOutcome::Committed {
        index: new.position(),
    };
    assert_eq!(outcome, expected);
    assert!(new.position() > split_at);
    // What was applied before the split is applied still, and tells its place in the old log.
    let mut again = write(5, 16, 8);
    again.epoch = PlacementEpoch(3);
    match new.run(commit_of(goes, again)) {
        ShardOutcome::Committed { index } => assert!(index > 0 && index < split_at),
        other => panic!("{other:?}"),
    }
    // A store reads the new feed from its beginning, and misses nothing of it.
    let told = query::pull(&new.state, new.position(), StoreId(3), 0, 4096).unwrap();
    let ShardReply::Changes { changes, next, .. } = told else {
        panic!("{told:?}");
    };
    let epoch = PlacementEpoch(3);
    let retire = Change::Retire {
        container: goes,
        epoch,
    };
    assert!(changes.contains(&retire), "{changes:?}");
    assert_eq!(next, new.position());
}

#[test]
fn what_moved_is_refused_by_the_old_shard_from_the_split_on() {
    let mut old = busy();
    let (goes, stays) = both();
    old.run(split_command());
    let moved = ShardRefusal::Moved { epoch: EPOCH };
    let mut late = write(7, 32, 8);
    late.epoch = PlacementEpoch(3);
    let commands = [
        of(goes, fence(2, &[2])),
        of(goes, place(4, writable(&[1, 2, 4]))),
        of(goes, void(&[8], 1)),
        of(goes, collect(1, &[4])),
        commit_of(goes, late.clone()),
        ShardCommand::Retired {
            container: goes,
            store: StoreId(3),
            epoch: PlacementEpoch(3),
        },
    ];
    for command in commands {
        assert_eq!(old.refused(command), moved);
    }
    assert!(matches!(
        old.run(commit_of(stays, late)),
        ShardOutcome::Committed { .. }
    ));
    let look_up = |container| ShardRequest::Lookup {
        container,
        layers: vec![LayerId(1)],
        first_block: 0,
        blocks: 8,
    };
    let refusal = |request| moving::refusal_of(&old.state, &request).unwrap();
    assert_eq!(refusal(look_up(goes)), Some(moved));
    assert_eq!(refusal(look_up(stays)), None);
    // Names of both come in one CONFIRM: those that moved do not count.
    let before = old.rows_of(true);
    let name = |container| BlobName {
        container,
        ..blob(1, 5)
    };
    let confirm = ShardCommand::Confirm {
        store: StoreId(4),
        names: vec![
            (name(goes), PlacementEpoch(3)),
            (name(stays), PlacementEpoch(3)),
        ],
    };
    let confirmed = ShardOutcome::Confirmed(vec![false, true]);
    assert_eq!(old.run(confirm), confirmed);
    // What is forgotten, dropped and listed anew is of its own containers.
    for store in 1..=4 {
        let store = StoreId(store);
        let index = old.index;
        old.run(ShardCommand::Handled { store, index });
    }
    let drop = ShardCommand::Drop {
        disk: VirtualDiskId(1),
        family: FamilyId(1),
        layers: vec![LayerId(1)],
    };
    let finished = ShardOutcome::Dropped { finished: true };
    let ended = (0..8).any(|_| old.run(drop.clone()) == finished);
    assert!(ended, "of what it has");
    assert_eq!(old.rows_of(true), before);
}

#[test]
fn a_shard_that_receives_serves_nobody_and_opens_when_it_has_all() {
    let mut old = busy();
    let ShardOutcome::Split { position } = old.run(split_command()) else {
        panic!("the shard is split");
    };
    assert_eq!(
        old.run(split_command()),
        ShardOutcome::Split { position },
        "asked again"
    );
    let mut new = Shard::empty();
    let malformed = |refusal| matches!(refusal, ShardRefusal::Malformed { .. });
    assert!(malformed(new.refused(ShardCommand::Open)));
    new.run(ShardCommand::Begin {
        range: moves(),
        base: position,
        epoch: EPOCH,
    });
    assert!(malformed(new.refused(ShardCommand::Open)));
    let commands = [
        floor(9, &[9]),
        fence(9, &[9]),
        ShardCommand::Confirm {
            store: StoreId(1),
            names: Vec::new(),
        },
        split_command(),
    ];
    for command in commands {
        assert_eq!(new.refused(command), ShardRefusal::NotServing);
    }
    let pull = ShardRequest::Pull {
        store: StoreId(1),
        after: 0,
        limit: 1,
    };
    let refusal = moving::refusal_of(&new.state, &pull).unwrap();
    assert_eq!(refusal, Some(ShardRefusal::NotServing));
    // A page from elsewhere, one out of order, and one with what no shard may bring.
    let adopt = |from: &[u8], keys: &[u8], next: Option<Vec<u8>>| ShardCommand::Adopt {
        from: from.to_vec(),
        rows: keys.iter().map(|key| (vec![*key], Vec::new())).collect(),
        next,
    };
    let before = new.state.clone();
    assert_eq!(
        adopted(new.run(adopt(&[4], &[5], None))),
        Some(Vec::new()),
        "it says where to go on"
    );
    assert_eq!(new.state, before);
    assert!(malformed(new.refused(adopt(&[], &[5, 4], None))));
    assert!(malformed(new.refused(adopt(&[], &[5], Some(vec![4])))));
    assert!(malformed(new.refused(adopt(&[], &[14], None))));
}

#[test]
fn only_half_of_what_a_shard_has_can_be_split_off() {
    let mut shard = busy();
    let malformed = |refusal| matches!(refusal, ShardRefusal::Malformed { .. });
    let split = |bits, pattern| ShardCommand::Split {
        to: NEW,
        range: ShardRange { bits, pattern },
        epoch: EPOCH,
    };
    assert!(malformed(shard.refused(split(0, 0))));
    assert!(
        malformed(shard.refused(split(1, 0))),
        "that half keeps its place"
    );
    shard.run(split(1, 1));
    let other = ShardCommand::Split {
        to: GroupId(3),
        range: ShardRange {
            bits: 2,
            pattern: 2,
        },
        epoch: EPOCH,
    };
    assert!(
        malformed(shard.refused(other.clone())),
        "one after the other"
    );
    cleared(&mut shard);
    assert!(malformed(shard.refused(split(1, 1))), "a late repetition");
    assert!(matches!(shard.run(other), ShardOutcome::Split { .. }));
    // A shard that served before does not begin.
    let begin = ShardCommand::Begin {
        range: moves(),
        base: 1,
        epoch: EPOCH,
    };
    assert!(malformed(busy().refused(begin)));
}
