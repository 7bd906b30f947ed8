//! From clusters to blocks, and the two-block test: the deciding half of the zone checker.
//!
//! Invariants: pure functions of the clusters; every refusal names at most the two operations that
//! contradict each other in each of two blocks, plus the writes between them.
//!
//! It does not know about the repeatable value: see [`super::repeatable`].

use super::Witness;
use super::repeatable::Zone;
use super::zones::{AFTER_ALL, BEFORE_ALL, Cluster, Mark, NO_OP, Writer, ZoneAnswer};
use crate::hash::FixedMap;

/// How an explanation says that a value came from nowhere.
pub(super) const NOTHING_WROTE: &str = "that nothing wrote";

/// A chain of clusters that stands together in every explaining order.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Where its clusters stand in [`Blocks::order`].
    first: usize,
    end: usize,
    /// Earliest finish and latest start, each with its place in the order.
    pub(super) first_finish: (Mark, usize),
    pub(super) last_start: (Mark, usize),
}

/// All blocks that must be explained, judged and found consistent.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The blocks, by earliest finish.
    pub(super) list: Vec<Block>,
    /// Indices of clusters, block by block in chain order.
    order: Vec<u32>,
}

/// The clusters and what links them.
struct Chains<'a> {
    clusters: &'a [Cluster],
    index: &'a FixedMap<u64, u32>,
    /// Clusters someone saw, or whose write is known to have happened.
    counted: Vec<bool>,
    /// The counted successor by compare-and-set.
    child: Vec<Option<u32>>,
    watermark: u64,
}

impl Cluster {
    fn first_finish(&self) -> Mark {
        match self.writer {
            Some(writer) if writer.finish < self.first_read_finish.time => Mark {
                time: writer.finish,
                op: writer.op,
            },
            _ => self.first_read_finish,
        }
    }

    fn last_start(&self) -> Mark {
        match self.writer {
            Some(writer) if writer.start >= self.last_read_start.time => Mark {
                time: writer.start,
                op: writer.op,
            },
            _ => self.last_read_start,
        }
    }
}

impl Blocks {
    /// Builds and judges the blocks. Reads that finished before `watermark` must have their write
    /// among the clusters; later ones may still wait for it.
    pub(super) fn judged(
        clusters: &[Cluster],
        index: &FixedMap<u64, u32>,
        watermark: u64,
    ) -> Result<Self, ZoneAnswer> {
        let chains = Chains::new(clusters, index, watermark)?;
        let mut blocks = chains.blocks()?;
        blocks
            .list
            .sort_unstable_by_key(|block| block.first_finish.0.time);
        if let Some((one, other)) = blocks.conflict() {
            return Err(ZoneAnswer::Invalid(
                blocks.explain_conflict(clusters, one, other),
            ));
        }
        Ok(blocks)
    }

    /// The clusters of a block.
    pub(super) fn clusters_of(&self, block: &Block) -> &[u32] {
        &self.order[block.first..block.end]
    }

    /// The zones, for the schedule of the repeatable value.
    pub(super) fn zones(&self, clusters: &[Cluster]) -> Vec<Zone> {
        self.list
            .iter()
            .map(|block| Zone {
                first_finish: block.first_finish.0.time,
                last_start: block.last_start.0.time,
                operations: self.operations(clusters, block),
            })
            .collect()
    }

    /// Two blocks each of which must come before the other.
    fn conflict(&self) -> Option<(usize, usize)> {
        let is_forward = |block: &Block| block.first_finish.0.time < block.last_start.0.time;
        let forward: Vec<usize> = (0..self.list.len())
            .filter(|&i| is_forward(&self.list[i]))
            .collect();
        for pair in forward.windows(2) {
            if self.list[pair[1]].first_finish.0.time < self.list[pair[0]].last_start.0.time {
                return Some((pair[0], pair[1]));
            }
        }
        // Forward zones are apart now, so only the last one that began can hold a backward zone.
        let mut backward: Vec<usize> = (0..self.list.len())
            .filter(|&i| !is_forward(&self.list[i]))
            .collect();
        backward.sort_unstable_by_key(|&i| self.list[i].last_start.0.time);
        let mut begun = 0;
        for inner in backward {
            let (finish, start) = (
                self.list[inner].first_finish.0.time,
                self.list[inner].last_start.0.time,
            );
            while begun < forward.len() && self.list[forward[begun]].first_finish.0.time < start {
                begun += 1;
            }
            if begun > 0 && finish < self.list[forward[begun - 1]].last_start.0.time {
                return Some((forward[begun - 1], inner));
            }
        }
        None
    }

    /// The operations that fix a block's zone: its two marks and every write between them.
    fn operations(&self, clusters: &[Cluster], block: &Block) -> Vec<u64> {
        let (finish, finish_at) = block.first_finish;
        let (start, start_at) = block.last_start;
        let mut operations = vec![finish.op, start.op];
        for &cluster in &self.order[finish_at.min(start_at)..=finish_at.max(start_at)] {
            operations.extend(clusters[cluster as usize].writer.map(|writer| writer.op));
        }
        operations.retain(|&op| op != NO_OP);
        operations
    }

    fn explain_conflict(&self, clusters: &[Cluster], one: usize, other: usize) -> Witness {
        let (one, other) = (&self.list[one], &self.list[other]);
        let mut operations = self.operations(clusters, one);
        operations.extend(self.operations(clusters, other));
        let explanation = format!(
            "one value was held both before and after another: {} finished before {} began, and \
             {} finished before {} began",
            named(one.first_finish.0.op),
            named(other.last_start.0.op),
            named(other.first_finish.0.op),
            named(one.last_start.0.op),
        );
        Witness::new(operations, explanation)
    }
}

fn named(op: u64) -> String {
    if op == NO_OP {
        "the initial state".to_owned()
    } else {
        format!("operation {op}")
    }
}

impl<'a> Chains<'a> {
    fn new(
        clusters: &'a [Cluster],
        index: &'a FixedMap<u64, u32>,
        watermark: u64,
    ) -> Result<Self, ZoneAnswer> {
        let counted = vec![false; clusters.len()];
        let child = vec![None; clusters.len()];
        let mut chains = Self {
            clusters,
            index,
            counted,
            child,
            watermark,
        };
        for (place, cluster) in clusters.iter().enumerate() {
            let certain = cluster
                .writer
                .is_some_and(|writer| writer.finish != AFTER_ALL);
            if certain || cluster.read {
                chains.count(place)?;
            }
        }
        Ok(chains)
    }

    /// Counts a cluster and, since it was seen, every cluster it was compared and set from.
    fn count(&mut self, mut place: usize) -> Result<(), ZoneAnswer> {
        while !self.counted[place] {
            self.counted[place] = true;
            let cluster = &self.clusters[place];
            let Some(writer) = cluster.writer else {
                return self.without_writer(cluster);
            };
            let Some(from) = writer.from else {
                return Ok(());
            };
            let Some(&parent) = self.index.get(&from) else {
                return self.without_source(cluster, writer);
            };
            let this = u32::try_from(place).expect("fewer than 2^32 live values");
            if let Some(rival) = self.child[parent as usize].replace(this) {
                return Err(self.lost_update(parent, rival, writer));
            }
            place = parent as usize;
        }
        Ok(())
    }

    /// Whether the write behind what was seen at this mark may still be fed.
    fn may_follow(&self, seen: Mark) -> bool {
        self.watermark != AFTER_ALL && seen.time >= self.watermark
    }

    fn without_writer(&self, cluster: &Cluster) -> Result<(), ZoneAnswer> {
        if self.may_follow(cluster.first_read_finish) {
            return Ok(());
        }
        let op = cluster.first_read_finish.op;
        Err(invalid(
            vec![op],
            format!("operation {op} returned a value {NOTHING_WROTE}"),
        ))
    }

    fn without_source(&self, cluster: &Cluster, writer: Writer) -> Result<(), ZoneAnswer> {
        let seen = cluster.first_finish();
        if self.may_follow(seen) {
            return Ok(());
        }
        Err(invalid(
            vec![writer.op, seen.op],
            format!("operation {} found a value {NOTHING_WROTE}", writer.op),
        ))
    }

    fn lost_update(&self, parent: u32, rival: u32, writer: Writer) -> ZoneAnswer {
        let rival = self.clusters[rival as usize]
            .writer
            .map_or(NO_OP, |writer| writer.op);
        let mut operations = vec![rival, writer.op];
        operations.extend(
            self.clusters[parent as usize]
                .writer
                .map(|writer| writer.op),
        );
        invalid(
            operations,
            format!(
                "operations {rival} and {} both replaced the same single value",
                writer.op
            ),
        )
    }

    fn blocks(&self) -> Result<Blocks, ZoneAnswer> {
        let mut blocks = Blocks {
            list: Vec::new(),
            order: Vec::new(),
        };
        let mut reached = 0;
        for place in 0..self.clusters.len() {
            let is_root = self.counted[place]
                && self.clusters[place].writer.is_some_and(|writer| {
                    writer
                        .from
                        .is_none_or(|from| !self.index.contains_key(&from))
                });
            if is_root {
                let block = self.block(place, &mut blocks.order)?;
                reached += block.end - block.first;
                blocks.list.push(block);
            }
        }
        let pending = |place: &usize| self.clusters[*place].writer.is_none();
        let counted = || (0..self.clusters.len()).filter(|&place| self.counted[place]);
        let waiting: usize = counted()
            .filter(pending)
            .map(|place| self.chain_length(place))
            .sum();
        if reached + waiting < counted().count() {
            return Err(self.circle(&blocks));
        }
        Ok(blocks)
    }

    fn chain_length(&self, place: usize) -> usize {
        let mut length = 1;
        let mut at = place;
        while let Some(next) = self.child[at] {
            at = next as usize;
            length += 1;
        }
        length
    }

    /// Compare-and-sets that feed one another without a first write.
    fn circle(&self, blocks: &Blocks) -> ZoneAnswer {
        let mut covered = vec![false; self.clusters.len()];
        for &place in &blocks.order {
            covered[place as usize] = true;
        }
        let start = (0..self.clusters.len())
            .find(|&place| {
                let inside = self.counted[place] && !covered[place];
                inside && self.clusters[place].writer.is_some()
            })
            .expect("some counted cluster was not reached");
        let mut operations = Vec::new();
        let mut at = start;
        while let Some(writer) = self.clusters[at].writer {
            operations.push(writer.op);
            let parent = writer.from.and_then(|from| self.index.get(&from));
            match parent {
                Some(&parent) if parent as usize != start => at = parent as usize,
                _ => break,
            }
        }
        invalid(
            operations,
            "each of these replaced the value the next one made".to_owned(),
        )
    }

    /// One chain from its root, checked inside: nothing later in the chain may have finished
    /// before something earlier began.
    fn block(&self, root: usize, order: &mut Vec<u32>) -> Result<Block, ZoneAnswer> {
        let first = order.len();
        let mut before = Mark {
            time: BEFORE_ALL,
            op: NO_OP,
        };
        let mut first_finish = (
            Mark {
                time: AFTER_ALL,
                op: NO_OP,
            },
            first,
        );
        let mut last_start = (before, first);
        let mut next = Some(root);
        while let Some(place) = next {
            let cluster = &self.clusters[place];
            let writer = cluster.writer.expect("roots and successors have writers");
            let (finish, start) = (cluster.first_finish(), cluster.last_start());
            if finish.time < before.time {
                let between = order[last_start.1..].iter();
                let writers = between.filter_map(|&place| self.clusters[place as usize].writer);
                return Err(inversion(finish.op, before.op, writer.op, writers));
            }
            if cluster.first_read_finish.time < writer.start {
                return Err(inversion(
                    cluster.first_read_finish.op,
                    writer.op,
                    writer.op,
                    std::iter::empty(),
                ));
            }
            if start.time >= before.time {
                before = start;
                last_start = (start, order.len());
            }
            if finish.time < first_finish.0.time {
                first_finish = (finish, order.len());
            }
            order.push(u32::try_from(place).expect("fewer than 2^32 live values"));
            next = self.child[place].map(|child| child as usize);
        }
        Ok(Block {
            first,
            end: order.len(),
            first_finish,
            last_start,
        })
    }
}

fn inversion(
    early: u64,
    late: u64,
    writer: u64,
    between: impl Iterator<Item = Writer>,
) -> ZoneAnswer {
    let mut operations = vec![early, late, writer];
    operations.extend(between.map(|writer| writer.op));
    invalid(
        operations,
        format!(
            "operation {early} saw the effect of operation {late}, or of one after it, yet \
             finished before {late} began"
        ),
    )
}

fn invalid(mut operations: Vec<u64>, explanation: String) -> ZoneAnswer {
    operations.retain(|&op| op != NO_OP);
    ZoneAnswer::Invalid(Witness::new(operations, explanation))
}
