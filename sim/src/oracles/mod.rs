//! What must hold, one file each. Each answers a [`Failure`](crate::scenario::Failure) that says
//! what was seen; none knows of faults.

pub mod blobs;
pub mod commits;
pub mod copies;
pub mod errors;
pub mod linearizability;
pub mod losses;
mod map;
pub mod members;
pub mod openings;
pub mod promises;
pub mod replicas;
pub mod shards;
