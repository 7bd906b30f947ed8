//! Groups of replicas on disks that crash and a network in memory, in virtual time.

mod groups;
mod logs;
mod registrations;
mod runtime;
mod states;
mod world;
