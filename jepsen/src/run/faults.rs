//! Faults as data: what is done to which nodes or links, from when until when.

use serde::{Deserialize, Serialize};

use super::fault_proxy::LinkRules;

/// The way from one node to another; nodes count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Where bytes come from.
    pub from: u16,
    /// Where they go.
    pub to: u16,
}

/// How a file is damaged while its node is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DamageKind {
    /// A few bits are turned over.
    Flip,
    /// The end is cut off.
    Truncate,
    /// A span reads as zeros.
    Zero,
}

/// What strikes. Every fault has an end, at which the node or link is made whole again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL; started again at the end.
    Kill {
        /// The nodes, all at once.
        nodes: Vec<u16>,
    },
    /// SIGTERM; started again at the end.
    Restart {
        /// The node.
        node: u16,
    },
    /// SIGSTOP; SIGCONT at the end.
    Pause {
        /// The nodes, all at once.
        nodes: Vec<u16>,
    },
    /// Two nodes can talk when some group holds both.
    Partition {
        /// The shape's name, for people.
        shape: String,
        /// The groups; they may overlap.
        groups: Vec<Vec<u16>>,
    },
    /// Rules for some links.
    Links {
        /// The kind's name, for people.
        shape: String,
        /// The links.
        links: Vec<Link>,
        /// What they do.
        rules: LinkRules,
    },
    /// The wall clock is off, and the monotonic clock runs at another rate.
    Clock {
        /// The node.
        node: u16,
        /// Added to the wall clock.
        wall_offset_ms: i64,
        /// Parts per million that the monotonic clock is too fast; the model bears 100,000.
        rate_ppm: i32,
        /// The two are put on and taken off in turns of this length, if not zero.
        strobe_ms: u64,
    },
    /// SIGKILL, damage to a file, started again at the end.
    Damage {
        /// The node.
        node: u16,
        /// What is done to the file.
        damage: DamageKind,
        /// Chooses the file and the place in it.
        draw: u64,
    },
    /// Every write since the last sync is lost, together with the process; started again at the
    /// end.
    LoseUnsynced {
        /// The nodes, all at once.
        nodes: Vec<u16>,
    },
    /// All at the same moment, between any two instructions: the processes are lost with whatever
    /// their disks had not synced, and those disks are slow to sync; started again at the end.
    PowerLoss {
        /// The nodes.
        nodes: Vec<u16>,
    },
    /// No file can grow; a node that stopped over it is started again at the end.
    FullDisk {
        /// The node.
        node: u16,
    },
    /// SIGKILL, everything that the node kept is removed; it returns as a new one at the end.
    Wipe {
        /// The node.
        node: u16,
    },
    /// One of the plan's spare nodes is started, blank, and joins the cluster. It stays.
    Join {
        /// The spare node.
        node: u16,
    },
    /// An operator has the node drained; at the end that is taken back.
    Drain {
        /// The node.
        node: u16,
    },
}

impl Fault {
    /// The nodes it concerns.
    #[must_use]
    pub fn nodes(&self) -> Vec<u16> {
        let mut nodes: Vec<u16> = match self {
            Self::Kill { nodes }
            | Self::Pause { nodes }
            | Self::LoseUnsynced { nodes }
            | Self::PowerLoss { nodes } => nodes.clone(),
            Self::Restart { node }
            | Self::Clock { node, .. }
            | Self::Damage { node, .. }
            | Self::FullDisk { node }
            | Self::Wipe { node }
            | Self::Join { node }
            | Self::Drain { node } => vec![*node],
            Self::Partition { groups, .. } => groups.concat(),
            Self::Links { links, .. } => {
                let ends = links.iter().flat_map(|link| [link.from, link.to]);
                ends.collect()
            }
        };
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// The same with two nodes in each other's places, if it strikes processes or links.
    fn exchanged(&self, one: u16, other: u16) -> Self {
        let place = |node: &u16| match *node {
            node if node == one => other,
            node if node == other => one,
            node => node,
        };
        let places = |nodes: &[u16]| nodes.iter().map(place).collect();
        match self {
            Self::Kill { nodes } => Self::Kill {
                nodes: places(nodes),
            },
            Self::Restart { node } => Self::Restart { node: place(node) },
            Self::Pause { nodes } => Self::Pause {
                nodes: places(nodes),
            },
            Self::LoseUnsynced { nodes } => Self::LoseUnsynced {
                nodes: places(nodes),
            },
            Self::PowerLoss { nodes } => Self::PowerLoss {
                nodes: places(nodes),
            },
            Self::Partition { shape, groups } => Self::Partition {
                shape: shape.clone(),
                groups: groups.iter().map(|group| places(group)).collect(),
            },
            Self::Links {
                shape,
                links,
                rules,
            } => {
                let moved = |link: &Link| Link {
                    from: place(&link.from),
                    to: place(&link.to),
                };
                Self::Links {
                    shape: shape.clone(),
                    links: links.iter().map(moved).collect(),
                    rules: *rules,
                }
            }
            // What a node keeps, its clock and its membership are the node's own.
            other => other.clone(),
        }
    }

    /// Whether a spare node joins.
    #[must_use]
    pub fn is_join(&self) -> bool {
        matches!(self, Self::Join { .. })
    }

    /// One line for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Kill { nodes } => format!("kill -9 {}", names(nodes)),
            Self::Restart { node } => format!("stop and start {}", names(&[*node])),
            Self::Pause { nodes } => format!("SIGSTOP {}", names(nodes)),
            Self::Partition { shape, groups } => {
                let groups: Vec<String> = groups.iter().map(|group| names(group)).collect();
                format!("{shape}: {}", groups.join(" | "))
            }
            Self::Links { shape, links, .. } => {
                let ends: Vec<String> = links
                    .iter()
                    .map(|link| format!("{}>{}", link.from + 1, link.to + 1))
                    .collect();
                format!("{shape}: {}", ends.join(" "))
            }
            Self::Clock {
                node,
                wall_offset_ms,
                rate_ppm,
                strobe_ms,
            } => {
                let strobe = if *strobe_ms > 0 {
                    format!(", on and off every {strobe_ms} ms")
                } else {
                    String::new()
                };
                let who = names(&[*node]);
                format!("{who}: wall clock {wall_offset_ms:+} ms, rate {rate_ppm:+} ppm{strobe}")
            }
            Self::Damage { node, damage, .. } => {
                format!("kill -9 {}, {damage:?} in a file", names(&[*node]))
            }
            Self::LoseUnsynced { nodes } => format!("lose unsynced writes of {}", names(nodes)),
            Self::PowerLoss { nodes } => format!("no power for {}", names(nodes)),
            Self::FullDisk { node } => format!("disk of {} full", names(&[*node])),
            Self::Wipe { node } => format!("kill -9 and wipe {}", names(&[*node])),
            Self::Join { node } => format!("{} joins", names(&[*node])),
            Self::Drain { node } => format!("drain {}", names(&[*node])),
        }
    }
}

/// The directed links of `nodes` nodes whose two ends no group holds both of.
#[must_use]
pub fn apart(nodes: u16, groups: &[Vec<u16>]) -> Vec<Link> {
    let together = |link: &Link| {
        let holds = |group: &Vec<u16>| group.contains(&link.from) && group.contains(&link.to);
        groups.iter().any(holds)
    };
    let all = (0..nodes).flat_map(|from| (0..nodes).map(move |to| Link { from, to }));
    all.filter(|link| link.from != link.to && !together(link))
        .collect()
}

/// The name of a node in files and logs.
#[must_use]
pub fn node_name(node: u16) -> String {
    format!("node-{}", node + 1)
}

fn names(nodes: &[u16]) -> String {
    let names: Vec<String> = nodes.iter().map(|node| node_name(*node)).collect();
    names.join(" ")
}

/// A fault with its times, counted from the first operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedFault {
    /// The nemesis that it belongs to.
    pub kind: String,
    /// When it begins.
    pub at_ms: u64,
    /// When it ends.
    pub until_ms: u64,
    /// What it is.
    pub fault: Fault,
    /// This node stands for the one that clients use when the fault begins; the two change places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<u16>,
}

impl TimedFault {
    /// The fault as it strikes when clients use the node `used`, if there is such a one.
    #[must_use]
    pub fn aimed(&self, used: Option<u16>) -> Fault {
        match (self.aim, used) {
            (Some(aim), Some(used)) => self.fault.exchanged(aim, used),
            _ => self.fault.clone(),
        }
    }
}

/// What became of a fault, as `faults.json` keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// When it began, on the history's clock.
    pub at_ns: u64,
    /// When it ended; null if it never began.
    pub until_ns: Option<u64>,
    /// The nemesis that it belongs to.
    pub kind: String,
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// What was done, and the evidence or the reason why it did not strike.
    pub text: String,
    /// Whether it struck.
    pub struck: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aimed_fault_is_about_the_node_that_clients_use() {
        let mut timed = TimedFault {
            kind: "isolate".to_owned(),
            at_ms: 0,
            until_ms: 1,
            fault: Fault::Partition {
                shape: "isolate".to_owned(),
                groups: vec![vec![3], vec![0, 1, 2, 4]],
            },
            aim: None,
        };
        assert_eq!(timed.aimed(Some(1)), timed.fault);
        timed.aim = Some(3);
        let text = timed.aimed(Some(1)).text();
        assert_eq!(text, "isolate: node-2 | node-1 node-4 node-3 node-5");
        assert_eq!(timed.aimed(None), timed.fault, "nobody uses one node");
    }
}
