//! Each fault of a test as what the world does, and the evidence that it struck.
//!
//! What TCP makes of packets that a link loses is what the world makes of whole messages: lost,
//! late, doubled and damaged ones, and connections that break.

use hedgerow_jepsen::run::{DamageKind, Fault, Link, Struck, TargetError, apart, node_name};

use crate::from_test::link_rules;
use crate::world::{Crash, DiskArea, DiskFaults, LinkRules, LinkState, NodeIndex, NodeStatus};

use super::cluster::{OnLinks, SimCluster};
use super::evidence;
use super::repeated::breaks;

/// Bits that are damaged where a file is cut or zeroed: the world rots bits, it cuts no files.
const BITS_OF_A_SPAN: u64 = 64;

type Links = Vec<(NodeIndex, NodeIndex)>;

fn ends(link: &Link) -> (NodeIndex, NodeIndex) {
    (NodeIndex(link.from), NodeIndex(link.to))
}

impl SimCluster {
    fn down(&self, node: u16, crash: Crash) -> Result<(), TargetError> {
        if self.world.crash(NodeIndex(node), crash) {
            return Ok(());
        }
        Err(TargetError(format!("{} does not run", node_name(node))))
    }

    fn all_down(&self, nodes: &[u16], crash: Crash) -> Result<(), TargetError> {
        let mut outcome = Ok(());
        for node in nodes {
            outcome = outcome.and(self.down(*node, crash));
        }
        outcome
    }

    fn restart(&self, nodes: &[u16]) {
        self.note_ends();
        for node in nodes {
            self.world.restart_if_down(NodeIndex(*node));
        }
    }

    /// Begins a fault.
    pub(super) async fn begin_fault(&self, fault: &Fault) -> Result<(), TargetError> {
        match fault {
            Fault::Kill { nodes } => self.all_down(nodes, Crash::KILL),
            Fault::LoseUnsynced { nodes } | Fault::PowerLoss { nodes } => {
                self.all_down(nodes, Crash::RESET)
            }
            Fault::Damage { node, .. } | Fault::Wipe { node } => self.down(*node, Crash::KILL),
            Fault::Restart { node } => self.begin_stop(*node),
            Fault::Pause { nodes } => {
                let mut outcome = Ok(());
                for node in nodes {
                    if !self.world.pause(NodeIndex(*node)) {
                        let text = format!("{} does not run", node_name(*node));
                        outcome = outcome.and(Err(TargetError(text)));
                    }
                }
                outcome
            }
            Fault::Partition { groups, .. } => {
                let nodes = u16::try_from(self.cluster.indexes().len()).expect("few nodes");
                let apart: Links = apart(nodes, groups).iter().map(ends).collect();
                for (from, to) in &apart {
                    self.world.set_link_state(*from, *to, LinkState::Cut);
                }
                self.remember(fault, apart);
                Ok(())
            }
            Fault::Links { links, rules, .. } => {
                let links: Links = links.iter().map(ends).collect();
                for (from, to) in &links {
                    self.world.set_link(*from, *to, link_rules(rules));
                }
                self.remember(fault, links);
                Ok(())
            }
            Fault::Clock {
                node,
                wall_offset_ms,
                rate_ppm,
                strobe_ms,
            } => {
                self.begin_clock(*node, *wall_offset_ms, *rate_ppm, *strobe_ms);
                Ok(())
            }
            Fault::Join { node } => {
                self.cluster.start_one(NodeIndex(*node));
                Ok(())
            }
            Fault::Drain { node } => {
                let name = node_name(*node);
                let set = self.operator().set_draining(&name, true);
                set.await.map_err(TargetError)
            }
            Fault::FullDisk { node } => {
                let full = DiskFaults {
                    capacity_bytes: Some(0),
                    thin: true,
                    ..self.disks()
                };
                self.world.set_disk_faults(NodeIndex(*node), full);
                Ok(())
            }
        }
    }

    /// Ends a fault that began.
    pub(super) async fn end_fault(&self, fault: &Fault) -> Struck {
        let yes = |text: &str| Struck::Yes(text.to_owned());
        match fault {
            Fault::Kill { nodes } => {
                self.restart(nodes);
                yes("died of SIGKILL, started again")
            }
            Fault::LoseUnsynced { nodes } | Fault::PowerLoss { nodes } => {
                self.restart(nodes);
                yes("lost what was not synced and died, started again")
            }
            Fault::Restart { node } => self.end_stop(*node).await,
            Fault::Pause { nodes } => self.resume(nodes),
            Fault::Partition { .. } | Fault::Links { .. } => self.end_links(fault),
            Fault::Clock { node, .. } => self.end_clock(*node),
            Fault::Damage { node, damage, draw } => {
                let bits = match damage {
                    DamageKind::Flip => 1,
                    DamageKind::Zero | DamageKind::Truncate => BITS_OF_A_SPAN,
                };
                let places = (0..bits).map(|bit| draw.wrapping_add(bit * 8));
                let node_index = NodeIndex(*node);
                let damaged = places.filter(|place| {
                    let area = DiskArea::Everything;
                    self.world.rot_somewhere(node_index, area, *place)
                });
                let text = format!("{} bits turned over", damaged.count());
                self.restart(&[*node]);
                if text.starts_with('0') {
                    Struck::No(text)
                } else {
                    Struck::Yes(text)
                }
            }
            Fault::Wipe { node } => {
                let wiped = self.world.wipe_disk(NodeIndex(*node));
                self.restart(&[*node]);
                if wiped {
                    yes("everything it kept was removed")
                } else {
                    Struck::No("it was up".to_owned())
                }
            }
            Fault::Join { node } => self.operator().has_joined(&node_name(*node)).await,
            Fault::Drain { node } => self.operator().end_drain(&node_name(*node)).await,
            Fault::FullDisk { node } => self.end_full(*node),
        }
    }

    fn remember(&self, fault: &Fault, links: Links) {
        let breaking = match fault {
            Fault::Links { rules, .. } => breaks(&self.world, self.env(), &links, rules.reset_ppm),
            _ => None,
        };
        let begun = OnLinks {
            fault: fault.clone(),
            before: evidence::tally(&self.world, &links),
            links,
            _breaking: breaking,
        };
        let mut on = self.on_links.lock().expect("no panic under this lock");
        on.push(begun);
    }

    fn end_links(&self, fault: &Fault) -> Struck {
        let mut on = self.on_links.lock().expect("no panic under this lock");
        let place = on.iter().position(|begun| begun.fault == *fault);
        let Some(begun) = place.map(|place| on.swap_remove(place)) else {
            return Struck::No("it never began".to_owned());
        };
        drop(on);
        let after = evidence::tally(&self.world, &begun.links);
        for (from, to) in &begun.links {
            self.world.set_link(*from, *to, LinkRules::default());
        }
        evidence::struck(&begun.before, &after)
    }

    fn resume(&self, nodes: &[u16]) -> Struck {
        let mut stopped = 0;
        for node in nodes {
            let index = NodeIndex(*node);
            stopped += usize::from(self.world.status(index) == NodeStatus::Paused);
            self.world.resume(index);
        }
        let all = nodes.len();
        let text = format!("{stopped} of {all} nodes stood still until the end");
        if stopped == all {
            Struck::Yes(text)
        } else {
            Struck::No(text)
        }
    }

    fn end_full(&self, node: u16) -> Struck {
        let index = NodeIndex(node);
        // A node that stopped over it is started again, as an operator does.
        let stopped = self.world.env(index).is_none();
        let refused = self.world.writes_refused(index);
        self.world.set_disk_faults(index, self.disks());
        self.restart(&[node]);
        if stopped {
            Struck::Yes("the node stopped itself for want of space".to_owned())
        } else if refused > 0 {
            Struck::Yes(format!("{refused} writes were refused"))
        } else {
            Struck::No("0 writes were refused".to_owned())
        }
    }
}
