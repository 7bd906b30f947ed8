//! The placement rules: who holds a container, as pure functions of topology and policy.
//!
//! Invariants: one member a node; a decision depends on its arguments alone; the choice follows a
//! weighted rendezvous hash of (container, store), so that load spreads by capacity and a change of
//! the topology moves as little as it must.
//! Does not: know which blobs a member holds (the shard checks that when it applies PLACE).

mod choose;
mod groups;
mod location;

pub use choose::{Decision, Unplaceable, place_new, substitute};
pub use groups::{choose_group_members, replicas_wanted};
pub use location::location_of_name;
