//! The simulator: Hedgerow's production code in a seeded, deterministic world that breaks networks,
//! disks, clocks and nodes, under oracles that judge what clients saw.
//!
//! `world` implements the seams; `scenario` builds clusters, workloads and faults from a seed;
//! `oracles` judge; `tape` writes runs down, `shrink` makes tapes smaller, `compare` finds where two
//! runs differ, `timeline` shows one; `from_test` takes tests of real processes over, `target`
//! runs them as they are; `coverage`
//! shows which faults struck during what.
//! Invariant: the same plan gives the same trace.

#[cfg(not(madsim))]
compile_error!(
    "hedgerow-sim needs `--cfg madsim`, which .cargo/config.toml sets: run cargo inside the \
     checkout and unset RUSTFLAGS (it replaces that setting; pass lints by `cargo clippy -- ...`)"
);

pub mod compare;
pub mod coverage;
pub mod from_test;
pub mod oracles;
pub mod scenario;
pub mod shrink;
pub mod tape;
pub mod target;
pub mod timeline;
pub mod world;
