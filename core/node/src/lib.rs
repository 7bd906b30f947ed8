//! A node: opens its stores, gets into a cluster, and runs its roles. The same wiring serves the
//! production binary and the simulator.
//!
//! Pure: [`config`](NodeConfig) and the bootstrap decision. Drivers: everything else, thin.
//! Invariants: the start count is durable before the first handshake; a cluster's identity is
//! durable before it is answered; a store that a peer knows better than itself never serves again.
//! Does not: touch the operating system, or read configuration files.

mod acquaintance;
mod admin;
mod bootstrap;
mod config;
mod config_check;
mod desk;
mod draining;
mod exports;
mod founding;
mod halting;
mod node;
mod peers;
mod refresh;
mod resize;
mod roles;
mod rollback;
mod room;
mod service;
mod splitting;
mod status;
mod stores;

pub use bootstrap::{Seed, Step, decide};
pub use config::{
    Exports, Extremes, GroupTiming, IscsiConfig, MAXIMUM_POOLS, NodeConfig, PoolConfig, StoreScale,
};
pub use config_check::{ConfigError, check_address};
pub use hedgerow_pages::placement::location_of_name;
pub use hedgerow_proxy::{OperationTag, VirtualDisk};
pub use node::{Node, NodeError};
