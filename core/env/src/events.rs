//! Events: what a node says about itself. Structured logs in production, trace lines in the simulator.

use std::any::Any;
use std::sync::Arc;

use crate::Phase;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Details for those who debug.
    Debug,
    /// The life of a healthy node.
    Info,
    /// Something was wrong and was handled.
    Warn,
    /// Something needs a person.
    Error,
}

/// The events seam.
pub trait Events: Send + Sync {
    /// Whether events of `level` are kept at all; check before formatting a costly one.
    fn enabled(&self, level: Level) -> bool;
    /// Records one event of `component` (`"pages"`, `"hblock"`, ...).
    fn emit(&self, level: Level, component: &'static str, message: std::fmt::Arguments<'_>);
    /// A step of a protocol begins or ends. Nothing is kept unless an implementation does.
    fn phase(&self, _phase: Phase, _begins: bool) {}
    /// Whether somebody judges this process by what it leaves behind.
    fn is_judged(&self) -> bool {
        false
    }
    /// Leaves something to whoever judges, to be looked at when this process is over.
    fn leave(&self, _what: Arc<dyn Any + Send + Sync>) {}
}

/// `event!(env, Info, "pages", "group {} elected {}", group, leader)`: formats only when enabled.
#[macro_export]
macro_rules! event {
    ($env:expr, $level:ident, $component:expr, $($argument:tt)+) => {
        if $env.events().enabled($crate::Level::$level) {
            $env.events().emit($crate::Level::$level, $component, format_args!($($argument)+));
        }
    };
}
