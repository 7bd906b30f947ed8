//! The seams: everything outside a pure function enters Hedgerow through one concrete [`Env`].
//!
//! Production and simulation implement the same six traits (clock, tasks, seeds, network, disk,
//! events); all other code is written against [`Env`] and is the same in both worlds.
//!
//! Invariants: no code outside an implementation of these traits reads a clock, draws randomness,
//! spawns a task or touches a file or socket. Buffers are owned in and out, so that an
//! implementation may hand them to the kernel without changing a signature.
//! Does not: implement any seam, or know of a protocol.

mod clock;
mod disk;
mod env;
mod events;
mod ids;
pub mod mutants;
mod network;
mod phases;
mod random;
mod tasks;
mod units;

pub use clock::{Clock, Instant, WallTime};
pub use disk::{BlockingFile, Disk, DiskError, File, OpenMode};
pub use env::{Elapsed, Env, EnvParts};
pub use events::{Events, Level};
pub use ids::*;
pub use network::{
    Listener, Network, NetworkError, Stream, StreamKind, StreamReader, StreamWriter,
};
pub use phases::{InPhase, Phase};
pub use random::{Random, Seeds};
pub use tasks::{
    AbortHandle, AbortOnDrop, HaltReason, TaskHandle, Tasks, current_env, with_current_env,
};
pub use units::{BLOCK_UNIT_BYTES, ByteCount, parse_byte_count};

/// A boxed future that may cross tasks; the form in which every seam returns its work.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
