//! The metacache against a shard that is simulated version by version.
//!
//! Fills and commits begin, take effect at the shard and come back in any order. A look-up may
//! miss whenever it likes; when it answers, the answer is what the shard holds at that moment, and
//! no commit of the range is outstanding.

use std::ops::Range;

use hedgerow_env::{BlobName, Sequence, WriterId};
use hedgerow_proptests::config;
use hedgerow_protocol::{Digest, MapTarget, Version};
use hedgerow_proxy::{CommitToken, FillToken, KnownExtent, Metacache};
use proptest::prelude::*;

const BLOCKS: u32 = 24;
/// The writer under test.
const WRITER: WriterId = WriterId(1);

#[derive(Debug, Clone)]
enum Step {
    BeginFill(Range<u32>),
    /// The shard reads for the fill.
    ReadFill(usize),
    /// The answer arrives; without an answer, or when the bit is set, the fill is dropped.
    EndFill(usize, bool),
    BeginCommit(Range<u32>, bool),
    /// The shard applies the commit.
    Apply(usize),
    /// Its outcome is known here; one that was not applied becomes void.
    EndCommit(usize),
    Forget(Range<u32>),
}

fn range() -> impl Strategy<Value = Range<u32>> {
    (0..BLOCKS, 1_u32..9).prop_map(|(start, length)| start..(start + length).min(BLOCKS))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => range().prop_map(Step::BeginFill),
        4 => any::<usize>().prop_map(Step::ReadFill),
        4 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(at, drop)| Step::EndFill(at, drop)),
        3 => (range(), any::<bool>()).prop_map(|(range, hole)| Step::BeginCommit(range, hole)),
        3 => any::<usize>().prop_map(Step::Apply),
        3 => any::<usize>().prop_map(Step::EndCommit),
        1 => range().prop_map(Step::Forget),
    ]
}

/// What the shard holds for one block: target and version.
type Block = (MapTarget, Option<Version>);

struct Fill {
    token: FillToken,
    range: Range<u32>,
    answer: Option<Vec<KnownExtent>>,
}

struct Commit {
    token: CommitToken,
    range: Range<u32>,
    sequence: u64,
    hole: bool,
    applied: bool,
}

struct Run {
    cache: Metacache,
    /// The shard's map after each change, the newest last.
    versions: Vec<Vec<Block>>,
    fills: Vec<Fill>,
    commits: Vec<Commit>,
    sequence: u64,
    hits: u64,
}

fn extent_of(first_block: u32, blocks: u32, (target, version): Block) -> KnownExtent {
    KnownExtent {
        first_block,
        blocks,
        target,
        version,
        missing: None,
    }
}

/// Neighbours that continue one another make one extent, as a shard answers.
fn extents(map: &[Block], range: &Range<u32>) -> Vec<KnownExtent> {
    let mut found: Vec<KnownExtent> = Vec::new();
    for at in range.clone() {
        let block = extent_of(at, 1, map[at as usize]);
        let joined = found.last_mut().filter(|last| {
            let whole = KnownExtent {
                blocks: last.blocks + 1,
                ..KnownExtent::clone(last)
            };
            whole.clip(&(at..at + 1)) == block
        });
        match joined {
            Some(last) => last.blocks += 1,
            None => found.push(block),
        }
    }
    found
}

fn pick<T>(list: &[T], at: usize) -> Option<usize> {
    (!list.is_empty()).then(|| at % list.len())
}

impl Commit {
    fn block(&self, at: u32) -> Block {
        let version = Version {
            writer: WRITER,
            sequence: Sequence(self.sequence),
        };
        let blob = BlobName {
            writer: WRITER,
            sequence: Sequence(self.sequence),
            ..BlobName::default()
        };
        let offset = u16::try_from(at - self.range.start).expect("short ranges");
        let data = MapTarget::Data {
            blob,
            unit: 0,
            unit_offset_blocks: offset,
            digest: Digest(u128::from(self.sequence)),
        };
        let target = if self.hole { MapTarget::Hole } else { data };
        (target, Some(version))
    }

    fn extents(&self) -> Vec<KnownExtent> {
        let blocks = self.range.end - self.range.start;
        vec![extent_of(
            self.range.start,
            blocks,
            self.block(self.range.start),
        )]
    }
}

impl Run {
    fn new(capacity: usize) -> Self {
        Self {
            cache: Metacache::new(capacity),
            versions: vec![vec![(MapTarget::Hole, None); BLOCKS as usize]],
            fills: Vec::new(),
            commits: Vec::new(),
            sequence: 0,
            hits: 0,
        }
    }

    fn now(&self) -> &[Block] {
        self.versions.last().expect("there is a first version")
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::BeginFill(range) => {
                let token = self.cache.begin_fill(range.clone());
                self.fills.push(Fill {
                    token,
                    range,
                    answer: None,
                });
            }
            Step::ReadFill(at) => {
                if let Some(at) = pick(&self.fills, at) {
                    let answer = extents(self.now(), &self.fills[at].range);
                    self.fills[at].answer.get_or_insert(answer);
                }
            }
            Step::EndFill(at, drop) => {
                if let Some(at) = pick(&self.fills, at) {
                    let fill = self.fills.swap_remove(at);
                    match fill.answer.filter(|_| !drop) {
                        Some(answer) => self.cache.end_fill(fill.token, answer),
                        None => self.cache.drop_fill(fill.token),
                    }
                }
            }
            Step::BeginCommit(range, hole) => {
                self.sequence += 1;
                let token = self.cache.begin_commit(range.clone());
                let (sequence, applied) = (self.sequence, false);
                self.commits.push(Commit {
                    token,
                    range,
                    sequence,
                    hole,
                    applied,
                });
            }
            Step::Apply(at) => {
                if let Some(at) = pick(&self.commits, at) {
                    self.apply(at);
                }
            }
            Step::EndCommit(at) => {
                if let Some(at) = pick(&self.commits, at) {
                    let commit = self.commits.swap_remove(at);
                    let known = if commit.applied {
                        commit.extents()
                    } else {
                        Vec::new()
                    };
                    self.cache.end_commit(commit.token, known);
                }
            }
            Step::Forget(range) => self.cache.forget(&range),
        }
    }

    /// The higher sequence of one writer stays, whatever the order of application.
    fn apply(&mut self, at: usize) {
        let mut map = self.now().to_vec();
        let commit = &mut self.commits[at];
        if std::mem::replace(&mut commit.applied, true) {
            return;
        }
        for block in commit.range.clone() {
            let slot = &mut map[block as usize];
            let newer = slot
                .1
                .is_some_and(|version| version.sequence.0 > commit.sequence);
            if !newer {
                *slot = commit.block(block);
            }
        }
        self.versions.push(map);
    }

    fn check(&mut self) {
        for start in 0..BLOCKS {
            for length in [1, 5] {
                let range = start..(start + length).min(BLOCKS);
                let Some(answer) = self.cache.look_up(&range) else {
                    continue;
                };
                self.hits += 1;
                let blocks = answer.iter().flat_map(|extent| {
                    let own = extent.first_block..extent.first_block + extent.blocks;
                    own.map(|at| extent.clip(&(at..at + 1)))
                });
                let expected = range
                    .clone()
                    .map(|at| extent_of(at, 1, self.now()[at as usize]));
                assert!(blocks.eq(expected), "{range:?} is answered {answer:?}");
                let outstanding = self
                    .commits
                    .iter()
                    .any(|commit| commit.range.start < range.end && range.start < commit.range.end);
                assert!(
                    !outstanding,
                    "{range:?} is answered while a commit of it is outstanding"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(config(6000))]

    #[test]
    fn an_answer_is_what_the_shard_holds_now(
        steps in prop::collection::vec(step(), 0..60),
        capacity in prop_oneof![1_usize..6, Just(1000)],
    ) {
        let mut run = Run::new(capacity);
        for step in steps {
            run.perform(step);
            prop_assert!(run.cache.len() <= capacity);
            run.check();
        }
    }
}

/// The property above would hold for a cache that never answers: this one does.
#[test]
fn settled_ranges_are_answered() {
    let mut run = Run::new(1000);
    run.perform(Step::BeginFill(0..BLOCKS));
    run.perform(Step::ReadFill(0));
    run.perform(Step::EndFill(0, false));
    run.check();
    assert_eq!(run.hits, u64::from(2 * BLOCKS));
    run.perform(Step::BeginCommit(4..8, false));
    run.perform(Step::Apply(0));
    run.perform(Step::EndCommit(0));
    run.hits = 0;
    run.check();
    assert_eq!(run.hits, u64::from(2 * BLOCKS));
}
