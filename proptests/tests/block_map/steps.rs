//! What may happen next to the containers: choices that the run resolves against the model.

use proptest::prelude::*;

use super::model::{BLOCKS, CONTAINERS, STORES};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A writer's commit; the numbers choose among what the model offers.
    Commit(PlannedCommit),
    /// A commit that was sent before, as it was or with fresh acknowledgements.
    Again {
        which: usize,
        is_fresh: bool,
        stores: u8,
    },
    /// What the map names now is read, to be moved by [`Step::Move`] when others may have come
    /// between.
    Relocate(PlannedRelocate),
    /// A relocation that was planned is sent, also again, as it was or with fresh acknowledgements.
    Move {
        which: usize,
        is_fresh: bool,
        stores: u8,
    },
    /// The shard is split, unless it was before.
    Split {
        twice: u8,
    },
    Void {
        container: u32,
        writer: usize,
        back: u64,
        count: u64,
    },
    /// The root raises the generation with a new writer, keeping those of the mask.
    Root {
        keep: u8,
    },
    /// One of the root's generations reaches a container, or the whole disk.
    Fence {
        container: Option<u32>,
        generation: usize,
    },
    Place {
        container: u32,
        replaced: usize,
        by: u64,
        is_back: bool,
    },
    Confirm {
        container: u32,
        store: u64,
        skip: usize,
        is_stale: bool,
    },
    Collect {
        container: u32,
        writer: usize,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct PlannedCommit {
    pub(crate) container: u32,
    pub(crate) writer: usize,
    pub(crate) ahead: u64,
    pub(crate) extents: Vec<(u32, u32, bool)>,
    pub(crate) stores: u8,
    /// Mostly the present generation and epoch; sometimes others.
    pub(crate) generation: i64,
    pub(crate) epoch: i64,
    pub(crate) lag: u64,
    pub(crate) bytes: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct PlannedRelocate {
    pub(crate) container: u32,
    pub(crate) writer: usize,
    pub(crate) ahead: u64,
    pub(crate) first_block: u32,
    pub(crate) blocks: u32,
    /// Which of the ranges found are taken along.
    pub(crate) taken: u8,
    pub(crate) stores: u8,
    pub(crate) generation: i64,
    pub(crate) epoch: i64,
    pub(crate) bytes: u32,
}

pub(crate) fn off_by() -> impl Strategy<Value = i64> {
    prop_oneof![16 => Just(0_i64), 1 => Just(-1), 1 => Just(1)]
}

prop_compose! {
    pub(crate) fn commit()(
        container in 0..CONTAINERS,
        writer in any::<usize>(),
        ahead in 0..5_u64,
        extents in prop::collection::vec((0..6_u32, 1..9_u32, prop::bool::weighted(0.3)), 1..4),
        stores in prop_oneof![3 => Just(0xff_u8), 2 => any::<u8>()],
        generation in off_by(),
        epoch in off_by(),
        lag in 0..6_u64,
        bytes in 1..5000_u32,
    ) -> PlannedCommit {
        PlannedCommit {
            container, writer, ahead, extents, stores, generation, epoch, lag, bytes,
        }
    }
}

prop_compose! {
    fn relocate()(
        container in 0..CONTAINERS,
        writer in any::<usize>(),
        ahead in 0..5_u64,
        first_block in 0..BLOCKS,
        blocks in 1..BLOCKS,
        taken in prop_oneof![2 => Just(0xff_u8), 1 => any::<u8>()],
        stores in prop_oneof![3 => Just(0xff_u8), 1 => any::<u8>()],
        generation in off_by(),
        epoch in off_by(),
        bytes in 1..5000_u32,
    ) -> PlannedRelocate {
        PlannedRelocate {
            container, writer, ahead, first_block, blocks, taken, stores, generation, epoch, bytes,
        }
    }
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let container = || 0..CONTAINERS;
    prop_oneof![
        20 => commit().prop_map(Step::Commit),
        8 => (any::<usize>(), any::<bool>(), any::<u8>())
            .prop_map(|(which, is_fresh, stores)| Step::Again { which, is_fresh, stores }),
        8 => relocate().prop_map(Step::Relocate),
        8 => (any::<usize>(), any::<bool>(), any::<u8>())
            .prop_map(|(which, is_fresh, stores)| Step::Move { which, is_fresh, stores }),
        5 => (container(), any::<usize>(), 0..6_u64, 1..4_u64)
            .prop_map(|(container, writer, back, count)| {
                Step::Void { container, writer, back, count }
            }),
        2 => any::<u8>().prop_map(|keep| Step::Root { keep }),
        4 => (prop::option::of(container()), 0..3_usize)
            .prop_map(|(container, generation)| Step::Fence { container, generation }),
        4 => (container(), any::<usize>(), any::<u64>(), any::<bool>())
            .prop_map(|(container, replaced, by, is_back)| {
                Step::Place { container, replaced, by, is_back }
            }),
        8 => (container(), 1..=STORES, 0..4_usize, prop::bool::weighted(0.1))
            .prop_map(|(container, store, skip, is_stale)| {
                Step::Confirm { container, store, skip, is_stale }
            }),
        4 => (container(), any::<usize>())
            .prop_map(|(container, writer)| Step::Collect { container, writer }),
        1 => any::<u8>().prop_map(|twice| Step::Split { twice }),
    ]
}
