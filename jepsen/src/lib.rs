//! Histories of concurrent operations, the checkers that judge them, and the tests that make them.
//!
//! A *history* says who called what, when, and what came back; a *checker* says whether some order
//! of the calls explains every answer. Both are of use by themselves: any cluster that records its
//! history in Jepsen's EDN form, as `jepsen.log` lines or in the compact binary form of
//! [`history`] can be judged by [`command::check`].
//!
//! [`run`] makes histories: workloads, clients and faults against a cluster, as data drawn from a seed.
//! [`report`] shows runs to people: one HTML page each, and a server to browse them.
//!
//! Invariants kept here: no checker reads a clock, a file or a random source; [`run`] knows them
//! through `Env` alone, and of the reports only [`report::files`] touches files; the same input gives
//! the same answer; malformed input is a typed error with its line, never a panic; an answer that
//! never arrived is *unknown*, never "did not happen".
//!
//! What it does not do: start clusters. Targets do, outside.

pub mod check;
pub mod command;
pub mod fuzz;
mod hash;
pub mod history;
pub mod report;
pub mod run;
