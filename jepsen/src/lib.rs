//! Histories of concurrent operations and the checkers that judge them.
//!
//! A *history* says who called what, when, and what came back; a *checker* says whether some order
//! of the calls explains every answer. Both are of use by themselves: any cluster that records its
//! history in Jepsen's EDN form, as `jepsen.log` lines or in the compact binary form of
//! [`history`] can be judged by [`command::check`].
//!
//! [`report`] shows runs to people: one HTML page each, and a server to browse them.
//!
//! Invariants kept here: nothing in this crate reads a clock or a random source, and only
//! [`report::files`] touches files; the same input gives the same answer; malformed input is a typed
//! error with its line, never a panic; an answer that never arrived is *unknown*, never "did not
//! happen".
//!
//! What it does not do: run operations or inject faults.

pub mod check;
pub mod command;
pub mod fuzz;
mod hash;
pub mod history;
pub mod report;
