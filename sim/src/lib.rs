//! The simulator: Hedgerow's production code in a world of seeded faults, on virtual time.
//!
//! [`world`] implements the seams of `hedgerow_env` on madsim. Nothing here is part of a production
//! build, and production code knows nothing of it.

#[cfg(not(madsim))]
compile_error!(
    "hedgerow-sim needs `--cfg madsim`, which .cargo/config.toml sets: run cargo inside the \
     checkout and unset RUSTFLAGS (it replaces that setting; pass lints by `cargo clippy -- ...`)"
);

pub mod world;
