//! A process that dies again shortly after each of its starts, as one does whose start meets a limit of
//! its machine or a bug, while its supervisor goes on starting it.
//!
//! Invariants: how long a life lasts hangs on the node and the number of that life alone; the loop
//! ends where its number ends, with the process up or down as it was.

use serde::{Deserialize, Serialize};

use super::World;
use super::faults::FaultNumber;
use super::lifecycle::Crash;
use super::topology::NodeIndex;

/// How a process dies again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrashLoop {
    /// What each end of it is like.
    pub crash: Crash,
    /// Each life lasts so long at most.
    pub life_ns: u64,
    /// It is started again after this time.
    pub down_ns: u64,
}

impl World {
    /// Has a node's process die now, and again after each of its starts, for as long as something
    /// stands under this number.
    pub(super) fn begin_crash_loop(&self, node: NodeIndex, number: FaultNumber, rule: CrashLoop) {
        self.crash(node, rule.crash);
        self.crash_again(node, number, rule);
    }

    fn crash_again(&self, node: NodeIndex, number: FaultNumber, rule: CrashLoop) {
        let is_up = self.node(node).life().is_some();
        let wait_ns = if is_up {
            let dice = self.dice("crash-loop").of(u64::from(node.0));
            let dice = dice.of(u64::from(self.incarnation(node)));
            dice.below(0, rule.life_ns)
        } else {
            rule.down_ns
        };
        self.call_at(self.now_ns() + wait_ns.max(1), move |world| {
            if !world.is_standing(number) {
                return;
            }
            if is_up {
                world.crash(node, rule.crash);
            } else {
                world.restart_if_down(node);
            }
            world.crash_again(node, number, rule);
        });
    }
}
