//! Groups of replicas on disks that crash and a network in memory, in virtual time.

mod damage;
mod golden;
mod groups;
mod healing;
mod logs;
mod quiet;
mod registrations;
mod rejoin;
mod rooms;
mod runtime;
mod states;
mod world;
