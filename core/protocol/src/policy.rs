//! What a virtual disk asks of the cluster.

use serde::{Deserialize, Serialize};

/// Largest replication factor.
pub const MAXIMUM_REPLICATION_FACTOR: u8 = 6;

/// Which domains the replicas of a container are spread over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementRule {
    /// Distinct nodes, nothing more.
    Agnostic,
    /// As many racks as possible.
    RackAware,
    /// As many data centres as possible, then racks.
    DataCentreAware,
}

/// Where a disk's data lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residence {
    /// Rotating disks.
    Hdd,
    /// Flash.
    Flash,
}

/// Encryption of a disk's units at the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// Stored as it came.
    None,
    /// XChaCha20-Poly1305.
    XChaCha20Poly1305,
}

/// The policy of a virtual disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Replicas of each container, 1 to [`MAXIMUM_REPLICATION_FACTOR`].
    pub replication_factor: u8,
    /// How they are spread.
    pub placement: PlacementRule,
    /// Logical block size in bytes: 512, 4096 or 65536.
    pub block_size: u32,
    /// Where the data lives.
    pub residence: Residence,
    /// Inline Snappy compression at the proxy, kept only where it saves.
    pub compression: bool,
    /// Encryption at the proxy.
    pub encryption: Encryption,
    /// Deduplication (reserved; refused by feature level 1).
    pub deduplication: bool,
    /// Client-side caching of blocks.
    pub client_cache: bool,
    /// Several proxies may attach at once.
    pub clustered: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            replication_factor: 3,
            placement: PlacementRule::Agnostic,
            block_size: 4096,
            residence: Residence::Hdd,
            compression: false,
            encryption: Encryption::None,
            deduplication: false,
            client_cache: false,
            clustered: false,
        }
    }
}

impl Policy {
    /// The write quorum: RF/2 + 1.
    #[must_use]
    pub fn write_quorum(&self) -> u8 {
        self.replication_factor / 2 + 1
    }

    /// Checks every field.
    ///
    /// # Errors
    /// A sentence that names the field and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAXIMUM_REPLICATION_FACTOR).contains(&self.replication_factor) {
            return Err(format!(
                "replication factor {}: use 1 to 6",
                self.replication_factor
            ));
        }
        if ![512, 4096, 65536].contains(&self.block_size) {
            return Err(format!(
                "block size {}: use 512, 4096 or 65536",
                self.block_size
            ));
        }
        if self.deduplication {
            return Err("deduplication is not available at feature level 1".into());
        }
        if self.encryption != Encryption::None {
            return Err("encryption is not available at feature level 1".into());
        }
        if self.clustered {
            return Err("clustered disks are not available at feature level 1".into());
        }
        Ok(())
    }
}
