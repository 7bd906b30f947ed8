//! Reports: one HTML page for each run, and a server to browse runs.
//!
//! [`write_page`] makes the page of a run's directory; below it everything is a pure function of
//! data: [`run::page`], and the parts that other reports share, [`page::Page`] and [`pack::Pack`].
//!
//! Invariants: only [`files`] touches files; a page is whole by itself and loads nothing.

pub mod files;
pub mod operations;
pub mod pack;
pub mod page;
pub mod results;
pub mod run;
pub mod serve;

pub use files::{ReportError, read_again, write_page};
