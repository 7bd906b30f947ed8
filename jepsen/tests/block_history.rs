//! Block histories as a simulator feeds them.

use hedgerow_jepsen::check::{
    BlockHistory, BlockHistoryError, BlockOp, Model, OpId, Outcome, Verdict,
};
use hedgerow_jepsen::fuzz::Dice;

fn write(first_block: u64, count: u64, tag: u64) -> BlockOp {
    BlockOp::Write {
        first_block,
        count,
        tag,
    }
}

fn read(first_block: u64, count: u64) -> BlockOp {
    BlockOp::Read { first_block, count }
}

fn done(history: &mut BlockHistory, from: u64, to: u64, op: BlockOp, tags: Option<Vec<u64>>) {
    let id = history.begin(0, from, op);
    history
        .finish(id, to, Outcome::Ok(tags))
        .expect("a proper ending");
}

#[test]
fn zeros_come_back_only_by_zeroing() {
    let mut history = BlockHistory::new();
    done(&mut history, 1, 2, write(0, 4, 7), None);
    let zero = history.begin(
        1,
        3,
        BlockOp::Zero {
            first_block: 2,
            count: 1,
        },
    );
    done(&mut history, 4, 5, read(0, 4), Some(vec![7, 7, 0, 7]));
    history
        .finish(zero, 6, Outcome::Info)
        .expect("a proper ending");
    assert_eq!(history.check(), Verdict::Valid);
    done(&mut history, 7, 8, read(3, 1), Some(vec![0]));
    let Verdict::Invalid(witness) = history.check() else {
        panic!("nothing zeroed block 3")
    };
    assert_eq!(witness.part.as_deref(), Some("block 3"));
    assert_eq!(witness.operations, [0, 3]);
    let line = history.describe(OpId(3)).expect("it exists");
    assert!(line.starts_with("3: process 0 from 7: Read"), "{line}");
}

#[test]
fn an_unfinished_write_may_have_happened_and_a_failed_one_not() {
    let mut history = BlockHistory::new();
    history.begin(0, 1, write(0, 1, 7));
    let failed = history.begin(1, 1, write(0, 1, 8));
    history
        .finish(failed, 2, Outcome::Fail)
        .expect("a proper ending");
    done(&mut history, 3, 4, read(0, 1), Some(vec![0]));
    done(&mut history, 5, 6, read(0, 1), Some(vec![7]));
    assert_eq!(history.check(), Verdict::Valid);
    done(&mut history, 7, 8, read(0, 1), Some(vec![8]));
    assert!(matches!(history.check(), Verdict::Invalid(_)));
}

#[test]
fn a_tag_written_twice_goes_to_the_general_search() {
    let mut history = BlockHistory::new();
    done(&mut history, 1, 2, write(0, 1, 7), None);
    done(&mut history, 3, 4, write(0, 1, 8), None);
    done(&mut history, 5, 6, write(0, 1, 7), None);
    done(
        &mut history,
        7,
        8,
        BlockOp::Zero {
            first_block: 0,
            count: 1,
        },
        None,
    );
    done(&mut history, 9, 10, read(0, 1), Some(vec![0]));
    assert_eq!(history.check(), Verdict::Valid);
    done(&mut history, 11, 12, read(0, 1), Some(vec![8]));
    assert!(matches!(history.check(), Verdict::Invalid(_)));
}

#[test]
fn improper_endings_are_refused_and_change_nothing() {
    let mut history = BlockHistory::new();
    let id = history.begin(0, 5, read(0, 2));
    let wrong = BlockHistoryError::WrongLength {
        op: 0,
        expected: 2,
        found: 1,
    };
    assert_eq!(
        history.finish(id, 6, Outcome::Ok(Some(vec![0]))),
        Err(wrong)
    );
    assert_eq!(
        history.finish(id, 4, Outcome::Info),
        Err(BlockHistoryError::EndedBeforeBegin(0))
    );
    assert_eq!(
        history.finish(OpId(9), 6, Outcome::Info),
        Err(BlockHistoryError::NeverBegun(9))
    );
    history
        .finish(id, 6, Outcome::Info)
        .expect("a proper ending");
    assert_eq!(
        history.finish(id, 7, Outcome::Info),
        Err(BlockHistoryError::EndedTwice(0))
    );
    assert_eq!(history.check(), Verdict::Valid);
}

/// A device behind clients that overlap, write, zero and read; once `lose` writes were made, the
/// next acknowledged one never reaches the device.
fn device(operations: u64, lose: Option<u64>) -> BlockHistory {
    let mut dice = Dice::new(17, operations);
    let (mut history, mut blocks) = (BlockHistory::new(), [0_u64; 16]);
    let mut open: Vec<Option<(OpId, BlockOp)>> = vec![None; 8];
    let (mut tag, mut writes) = (0, 0);
    for time in 0..operations {
        let client = usize::try_from(dice.below(8)).expect("few clients");
        let Some((id, op)) = open[client].take() else {
            let (first_block, count) = (dice.below(12), 1 + dice.below(4));
            tag += 1;
            let op = match dice.below(5) {
                0 => BlockOp::Zero { first_block, count },
                1 | 2 => BlockOp::Write {
                    first_block,
                    count,
                    tag,
                },
                _ => BlockOp::Read { first_block, count },
            };
            let id = history.begin(client as u64, time, op.clone());
            open[client] = Some((id, op));
            continue;
        };
        let (first, count, tag) = match op {
            BlockOp::Write {
                first_block,
                count,
                tag,
            } => (first_block, count, Some(tag)),
            BlockOp::Zero { first_block, count } => (first_block, count, Some(0)),
            BlockOp::Read { first_block, count } => (first_block, count, None),
        };
        let range =
            usize::try_from(first).expect("few")..usize::try_from(first + count).expect("few");
        writes += u64::from(tag.is_some());
        let found = match tag {
            None => Some(blocks[range].to_vec()),
            Some(_) if lose == Some(writes) => None,
            Some(tag) => {
                blocks[range].fill(tag);
                None
            }
        };
        let crashed = tag.is_some() && dice.once_in(20);
        let outcome = if crashed {
            Outcome::Info
        } else {
            Outcome::Ok(found)
        };
        history.finish(id, time, outcome).expect("a proper ending");
    }
    history
}

#[test]
fn a_lost_write_among_many_is_found_and_shown_in_few_operations() {
    assert_eq!(device(40_000, None).check(), Verdict::Valid);
    let found: Vec<usize> = (1..=16)
        .map(|number| number * 601)
        .filter_map(|lost| match device(40_000, Some(lost)).check() {
            Verdict::Invalid(witness) => Some(witness.operations.len()),
            _ => None,
        })
        .collect();
    // Most lost writes stay unseen: another write was open at once, or came before any read.
    assert!(found.len() >= 3, "{found:?}");
    assert!(found.iter().all(|&operations| operations <= 8), "{found:?}");
}

#[test]
fn a_history_of_blocks_reads_as_events_with_the_same_verdict() {
    let mut history = BlockHistory::new();
    let write = |tag| BlockOp::Write {
        first_block: 3,
        count: 1,
        tag,
    };
    let read = BlockOp::Read {
        first_block: 3,
        count: 1,
    };
    let first = history.begin(0, 10, write(7));
    history.finish(first, 20, Outcome::Ok(None)).unwrap();
    let second = history.begin(1, 30, write(8));
    history.finish(second, 40, Outcome::Ok(None)).unwrap();
    let stale = history.begin(0, 50, read);
    history
        .finish(stale, 60, Outcome::Ok(Some(vec![7])))
        .unwrap();
    let last = history.begin(0, 60, write(9));
    history.finish(last, 60, Outcome::Ok(None)).unwrap();
    history.begin(0, 60, write(10));
    let events = history.to_history();
    let calls = events.calls().unwrap();
    assert_eq!(calls[2].answer.to_string(), "[3 1 [7]]");
    assert_eq!(calls[3].argument.to_string(), "[3 1 9]");
    assert_eq!((calls[4].process, calls[4].complete), (0, None));
    let Verdict::Invalid(direct) = history.check() else {
        panic!("a stale read is a violation");
    };
    let Ok(Verdict::Invalid(parsed)) = Model::Block.check(None, &calls) else {
        panic!("a stale read is a violation");
    };
    assert_eq!(direct.operations, parsed.operations);
    assert!(
        !direct.explanation.contains("nothing wrote"),
        "{}",
        direct.explanation
    );
}
