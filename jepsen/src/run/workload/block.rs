//! Requests to a block device: single blocks and ranges that overlap and cross every border, with
//! contents of their own, and now and then the whole image.
//!
//! Each block's bytes follow from its tag and its number, so a block that is torn, misplaced
//! or of another disk is told from every block that was written.

use bytes::Bytes;
use hedgerow_env::Random;
use serde::{Deserialize, Serialize};

use super::{Generator, skewed, strange};
use crate::history::Value;
use crate::run::bounds::{self, within};
use crate::run::plan::{PlanError, is_default};
use crate::run::target::{Completion, Operation};

/// What a block reads as when its bytes are no content that was ever written there.
pub const GARBAGE: u64 = i64::MAX.unsigned_abs();

/// A span of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first block.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// The workload `block`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockPlan {
    /// Bytes of a block of the device.
    pub block_size: u32,
    /// Bytes of the device.
    pub disk_bytes: u64,
    /// Blocks that are read and written all the time.
    pub hot: Vec<Span>,
    /// Blocks that are written once at first and read as a whole under load.
    pub image: Span,
    /// The most blocks of one request.
    pub largest: u64,
    /// Of 100 operations, how many are reads; a tenth of the others zero.
    pub reads_percent: u32,
    /// How unevenly blocks are chosen, 0 to 95.
    pub skew: u32,
    /// One client in so many keeps to a portal of its own and waits there for the disk; none if 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stray_one_in: u64,
    /// Those clients read and nothing else, as a backup does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strays_read: bool,
    /// The disk compresses what it stores.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: bool,
}

impl BlockPlan {
    /// Draws the workload: the size of blocks if not given, and the spans.
    #[must_use]
    pub fn draw(random: &mut Random, block_size: Option<u32>, skew: u32) -> Self {
        let drawn = [512, 4096, 4096, 65_536][random.index(4)];
        let block_size = block_size.unwrap_or(drawn);
        let size = u64::from(block_size);
        // Containers, the slices that a disk is placed by, are 1 GiB: the second span straddles
        // two.
        let border = (1 << 30) / size;
        let width = 8 + random.below(24);
        let third = border / 3 + random.below(1000);
        Self {
            block_size,
            disk_bytes: 2 << 30,
            hot: vec![
                Span {
                    first: random.below(5),
                    count: width,
                },
                Span {
                    first: border - 6,
                    count: 12,
                },
                Span {
                    first: third,
                    count: 7,
                },
            ],
            image: Span {
                first: border / 2,
                count: (4 << 20) / size.max(4096),
            },
            largest: 16,
            reads_percent: 50,
            skew,
            stray_one_in: 0,
            strays_read: false,
            compression: random.chance(1, 2),
        }
    }

    pub(super) fn check(&self) -> Result<(), PlanError> {
        let refuse = |text: &str| Err(PlanError(text.to_owned()));
        if ![512, 4096, 65_536].contains(&self.block_size) {
            return refuse("block_size must be 512, 4096 or 65536");
        }
        within("disk_bytes", "", self.disk_bytes, &bounds::DISK_BYTES)?;
        if self.hot.is_empty() {
            return refuse("hot must name spans of blocks");
        }
        let blocks = self.disk_bytes / u64::from(self.block_size);
        let named = |number| format!("hot[{number}]");
        let hot = self.hot.iter().enumerate();
        let hot = hot.map(|(number, span)| (named(number), "--blocks, of the last", span));
        for (name, option, span) in hot.chain([("image".to_owned(), "", &self.image)]) {
            let most = &(1..=blocks.min(*bounds::BLOCKS.end()));
            within(&format!("{name}.count"), option, span.count, most)?;
            let starts = &(0..=blocks - span.count);
            within(&format!("{name}.first"), "", span.first, starts)?;
        }
        let spans = self.hot.len() as u64;
        within("the number of spans in hot", "", spans, &(1..=1_000))?;
        within("largest", "", self.largest, &bounds::REQUEST_BLOCKS)?;
        within(
            "reads_percent",
            "--reads",
            self.reads_percent,
            &bounds::PERCENT,
        )?;
        within("skew", "--skew", self.skew, &bounds::SKEW)?;
        Ok(())
    }

    /// Whether the operation is a request that the device takes.
    pub(super) fn takes(&self, operation: &Operation) -> Result<(), PlanError> {
        if operation.key.is_some() {
            return Err(PlanError("the workload block has no key".to_owned()));
        }
        let request = Request::of(operation).ok_or_else(|| strange("block", operation))?;
        let (span, tag) = match request {
            Request::Write(span, tag) => (span, tag),
            Request::Zero(span) | Request::Read(span) => (span, 1),
        };
        let blocks = self.disk_bytes / u64::from(self.block_size);
        let most = blocks.min(*bounds::REQUEST_BLOCKS.end());
        within("count", "", span.count, &(1..=most))?;
        within("first", "", span.first, &(0..=blocks - span.count))?;
        // Tag 0 stands for zeros.
        within("tag", "", tag, &(1..=GARBAGE - 1))
    }

    /// Which of the clients that keep to a portal of their own the process is, if it is one.
    #[must_use]
    pub fn stray(&self, process: u64) -> Option<u64> {
        let one_in = self.stray_one_in;
        let is_stray = one_in > 0 && process % one_in == one_in - 1;
        is_stray.then(|| process / one_in)
    }

    fn hot_blocks(&self) -> u64 {
        self.hot.iter().map(|span| span.count).sum()
    }

    /// A range of some blocks of one hot span.
    fn range(&self, random: &mut Random) -> Span {
        let mut place = skewed(random, self.hot_blocks(), self.skew);
        for span in &self.hot {
            if place < span.count {
                let room = (span.count - place).min(self.largest);
                let count = if random.chance(1, 2) {
                    1
                } else {
                    1 + random.below(room)
                };
                return Span {
                    first: span.first + place,
                    count,
                };
            }
            place -= span.count;
        }
        unreachable!("the place was drawn from the sum of the spans")
    }

    /// A span in requests that the device takes.
    fn pieces(&self, span: Span) -> Vec<Span> {
        let most = ((1 << 20) / u64::from(self.block_size)).clamp(1, *bounds::REQUEST_BLOCKS.end());
        let starts = (0..span.count).step_by(usize::try_from(most).expect("at most 256"));
        starts
            .map(|offset| Span {
                first: span.first + offset,
                count: most.min(span.count - offset),
            })
            .collect()
    }
}

/// Hands out the operations of a [`BlockPlan`].
pub(super) struct BlockGenerator {
    plan: BlockPlan,
    next_tag: u64,
}

impl BlockGenerator {
    pub(super) fn new(plan: BlockPlan) -> Self {
        Self { plan, next_tag: 0 }
    }

    fn write(&mut self, span: Span) -> Operation {
        self.next_tag += 1;
        operation("write", span, Some(self.next_tag))
    }
}

fn operation(function: &'static str, span: Span, tag: Option<u64>) -> Operation {
    let numbers = [Some(span.first), Some(span.count), tag];
    let int = |number: u64| Value::Int(i64::try_from(number).expect("blocks and tags are counted"));
    Operation {
        function,
        key: None,
        argument: Value::Vector(numbers.into_iter().flatten().map(int).collect()),
    }
}

impl Generator for BlockGenerator {
    fn prepare(&mut self) -> Vec<Operation> {
        let pieces = self.plan.pieces(self.plan.image);
        pieces.into_iter().map(|span| self.write(span)).collect()
    }

    fn next(&mut self, random: &mut Random, process: u64) -> Operation {
        if random.chance(1, 50) {
            let pieces = self.plan.pieces(self.plan.image);
            return operation("read", pieces[random.index(pieces.len())], None);
        }
        let span = self.plan.range(random);
        let only_reads = self.plan.strays_read && self.plan.stray(process).is_some();
        if random.chance(u64::from(self.plan.reads_percent), 100) || only_reads {
            operation("read", span, None)
        } else if random.chance(1, 10) {
            operation("zero", span, None)
        } else {
            self.write(span)
        }
    }

    fn learn(&mut self, _operation: &Operation, _completion: &Completion) {}

    fn finale(&mut self) -> Vec<Operation> {
        let spans = self.plan.hot.iter().chain([&self.plan.image]);
        let pieces = spans.flat_map(|span| self.plan.pieces(*span));
        pieces.map(|span| operation("read", span, None)).collect()
    }
}

/// A request, read from an operation's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Write each block's content under this tag.
    Write(Span, u64),
    /// Zero the blocks.
    Zero(Span),
    /// Read the blocks.
    Read(Span),
}

impl Request {
    /// The request that `operation` stands for, if it is one of this workload.
    #[must_use]
    pub fn of(operation: &Operation) -> Option<Self> {
        let numbers: Option<Vec<u64>> = operation
            .argument
            .sequence()?
            .iter()
            .map(|value| u64::try_from(value.int()?).ok())
            .collect();
        match (operation.function, numbers?.as_slice()) {
            ("write", &[first, count, tag]) => Some(Self::Write(Span { first, count }, tag)),
            ("zero", &[first, count]) => Some(Self::Zero(Span { first, count })),
            ("read", &[first, count]) => Some(Self::Read(Span { first, count })),
            _ => None,
        }
    }
}

/// The bytes of a span written under `tag`.
#[must_use]
pub fn content(span: Span, tag: u64, block_size: u32) -> Bytes {
    let size = usize::try_from(block_size).expect("a small size");
    let mut bytes = Vec::with_capacity(size * usize::try_from(span.count).unwrap_or(0));
    for block in span.first..span.first + span.count {
        for word in words(tag, block).take(size / 8) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes.into()
}

/// A block's bytes: its tag and its number, and then the same over and over, which takes next to no
/// room when it is compressed; under an odd tag noise instead, which takes all the room there is.
fn words(tag: u64, block: u64) -> impl Iterator<Item = u64> {
    let mut noise = Random::from_seed(tag ^ block.rotate_left(32));
    let is_noise = tag % 2 == 1;
    (0_usize..).map(move |place| match place {
        2.. if is_noise => noise.bits(),
        even if even % 2 == 0 => tag,
        _ => block,
    })
}

/// The answer of a read: `[first count [tag ..]]`.
#[must_use]
pub fn answer(span: Span, bytes: &[u8], block_size: u32) -> Value {
    let size = usize::try_from(block_size).expect("a small size");
    let blocks = bytes.chunks(size).zip(span.first..);
    let int = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let tags = blocks.map(|(bytes, block)| int(tag_of(bytes, block)));
    Value::Vector(vec![
        int(span.first),
        int(span.count),
        Value::Vector(tags.collect()),
    ])
}

/// The tag of one block's bytes: 0 for zeros, [`GARBAGE`] for what was never written there.
#[must_use]
pub fn tag_of(bytes: &[u8], block: u64) -> u64 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let Some((first, _)) = bytes.split_first_chunk::<8>() else {
        return GARBAGE;
    };
    let tag = u64::from_le_bytes(*first);
    let mut parts = bytes.chunks(8).zip(words(tag, block));
    let whole =
        bytes.len().is_multiple_of(16) && parts.all(|(part, word)| part == word.to_le_bytes());
    if whole && tag != 0 && tag < GARBAGE {
        tag
    } else {
        GARBAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_name_their_block_and_anything_else_is_garbage() {
        let span = Span { first: 9, count: 2 };
        let bytes = content(span, 77, 512);
        assert_eq!(bytes.len(), 1024);
        let tags = answer(span, &bytes, 512);
        assert_eq!(tags.to_string(), "[9 2 [77 77]]");
        // The same bytes one block further are not that block's.
        assert_eq!(tag_of(&bytes[..512], 10), GARBAGE);
        // Whole blocks of another write, and of none.
        let even = content(span, 78, 512);
        assert_eq!(tag_of(&even[512..], 10), 78);
        let halves = [&bytes[..256], &even[256..512]].concat();
        assert_eq!(tag_of(&halves, 9), GARBAGE);
        let mut torn = bytes.to_vec();
        torn[200] ^= 1;
        assert_eq!(tag_of(&torn[..512], 9), GARBAGE);
        assert_eq!(tag_of(&[0; 512], 9), 0);
    }

    #[test]
    fn drawn_requests_stay_within_the_disk_and_are_read_back_as_they_were_meant() {
        for seed in 0..20 {
            let mut random = Random::from_seed(seed);
            let plan = BlockPlan::draw(&mut random, None, 50);
            plan.check().unwrap();
            let blocks = plan.disk_bytes / u64::from(plan.block_size);
            let mut generator = BlockGenerator::new(plan.clone());
            let mut operations = generator.prepare();
            operations.extend((0..500).map(|_| generator.next(&mut random, 0)));
            operations.extend(generator.finale());
            let mut tags = std::collections::BTreeSet::new();
            for operation in operations {
                let span = match Request::of(&operation).expect("its own operations") {
                    Request::Write(span, tag) => {
                        assert!(tags.insert(tag), "tags are unique");
                        span
                    }
                    Request::Zero(span) | Request::Read(span) => span,
                };
                assert!(span.count > 0 && span.first + span.count <= blocks);
            }
        }
    }
}
