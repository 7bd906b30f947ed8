//! Where nodes stand, and how far apart: data centres hold racks, racks hold nodes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A node of the world, numbered from zero in the order in which nodes were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeIndex(pub u16);

impl NodeIndex {
    /// As an index into a slice.
    #[must_use]
    pub fn position(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for NodeIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("#{}", self.0))
    }
}

/// A node to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its host name, unique in the world; the host part of its addresses.
    pub name: String,
    /// Its rack, named within the whole world.
    pub rack: String,
    /// Its data centre.
    pub dc: String,
}

impl NodeSpec {
    /// A node called `name` in `rack` of `dc`.
    #[must_use]
    pub fn new(name: &str, rack: &str, dc: &str) -> Self {
        Self {
            name: name.to_owned(),
            rack: rack.to_owned(),
            dc: dc.to_owned(),
        }
    }
}

/// A one-way delay, drawn uniformly for each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The least.
    pub minimum_ns: u64,
    /// What is added at most.
    pub jitter_ns: u64,
}

impl Latency {
    /// From `minimum_us` to `minimum_us + jitter_us` microseconds.
    #[must_use]
    pub const fn microseconds(minimum_us: u64, jitter_us: u64) -> Self {
        Self {
            minimum_ns: minimum_us * 1_000,
            jitter_ns: jitter_us * 1_000,
        }
    }
}

/// The latency matrix: by how much of the topology two nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyMatrix {
    /// Within a node.
    pub same_node: Latency,
    /// Within a rack.
    pub same_rack: Latency,
    /// Between racks of a data centre.
    pub same_dc: Latency,
    /// Between data centres.
    pub cross_dc: Latency,
}

impl Default for LatencyMatrix {
    fn default() -> Self {
        Self {
            same_node: Latency::microseconds(8, 4),
            same_rack: Latency::microseconds(40, 30),
            same_dc: Latency::microseconds(120, 100),
            cross_dc: Latency::microseconds(2_000, 500),
        }
    }
}

impl LatencyMatrix {
    /// The latency from one place to another.
    #[must_use]
    pub fn between(&self, from: &NodeSpec, to: &NodeSpec) -> Latency {
        if from.name == to.name {
            self.same_node
        } else if from.dc != to.dc {
            self.cross_dc
        } else if from.rack == to.rack {
            self.same_rack
        } else {
            self.same_dc
        }
    }
}
