//! What a node's configuration may say. Each refusal names its key, and which of the key's values.
//!
//! Invariant: what is refused here would fail or mislead later, when nobody can say any more which
//! line it came from. Does not: look at the disk or the network.

use hedgerow_env::ByteCount;
use hedgerow_net::Identity;
use hedgerow_protocol::{Location, Roles};

use crate::config::{Exports, MAXIMUM_POOLS, NodeConfig};

/// Longest name of a disk; it becomes part of an iSCSI name (223 bytes).
const MAXIMUM_NAME_BYTES: usize = 128;

/// What is wrong with a configuration, and at which key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key, as the configuration file names it.
    pub key: &'static str,
    /// Which of the key's values, where it has several.
    pub entry: usize,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

fn wrong(key: &'static str, entry: usize, problem: impl Into<String>) -> ConfigError {
    ConfigError {
        key,
        entry,
        problem: problem.into(),
    }
}

/// Whether `text` is an address to listen at or to call: `HOST:PORT`, the host a name or an address
/// (of version 6 in brackets). Says what is wrong. Does not resolve anything.
///
/// # Errors
/// What is wrong, for people.
pub fn check_address(text: &str, may_choose_port: bool) -> Result<(), String> {
    let expected = || format!("{text:?} is not HOST:PORT, such as \"10.0.0.1:7100\"");
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let name = bracketed.unwrap_or(host);
    let is_host = !name.is_empty()
        && (bracketed.is_some() || !name.contains(':'))
        && !name.contains(|c: char| c.is_whitespace() || "[]/\"".contains(c));
    if !is_host || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    match port.parse::<u16>() {
        Ok(0) if !may_choose_port => Err(format!("{text:?}: nobody can call port 0")),
        Ok(_) if text.len() > Identity::MAXIMUM_ADDRESS_BYTES => Err(format!(
            "an address has at most {} bytes",
            Identity::MAXIMUM_ADDRESS_BYTES
        )),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("{text:?}: a port is a number up to 65535")),
    }
}

impl NodeConfig {
    /// Checks what can be checked without the disk and the cluster.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() || self.name.len() > 64 {
            return Err(wrong("name", 0, "1 to 64 characters"));
        }
        self.check_addresses()?;
        self.check_location()?;
        self.check_pools()?;
        self.check_exports()?;
        if self.roles == Roles::default() {
            return Err(wrong("roles", 0, "at least one of pages, hblock, proxy"));
        }
        if !self.shards.is_power_of_two() || self.shards > 1024 {
            let problem = format!("{} is not a power of two up to 1024", self.shards);
            return Err(wrong("shards", 0, problem));
        }
        if self.iscsi.is_some() && !self.roles.contains(Roles::PROXY) {
            return Err(wrong("iscsi.listen", 0, "a portal needs the role proxy"));
        }
        if self.timing.heartbeat.is_zero() {
            return Err(wrong("timing.heartbeat_ms", 0, "at least 1"));
        }
        if self.timing.election < self.timing.heartbeat * 3 {
            let problem = "an election waits for at least three heartbeats";
            return Err(wrong("timing.election_ms", 0, problem));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let address = |key, entry, text: &str, may_choose_port| {
            check_address(text, may_choose_port).map_err(|problem| wrong(key, entry, problem))
        };
        address("listen", 0, &self.listen, true)?;
        address("advertise", 0, &self.advertise, false)?;
        if self.seeds.is_empty() {
            let problem = "list the first nodes of the cluster, itself included";
            return Err(wrong("seeds", 0, problem));
        }
        for (position, seed) in self.seeds.iter().enumerate() {
            address("seeds", position, seed, false)?;
            if self.seeds[..position].contains(seed) {
                let problem = format!("{seed:?} is listed twice");
                return Err(wrong("seeds", position, problem));
            }
        }
        match &self.iscsi {
            Some(iscsi) => address("iscsi.listen", 0, &iscsi.listen, true),
            None => Ok(()),
        }
    }

    fn check_pools(&self) -> Result<(), ConfigError> {
        if self.pools.is_empty() || self.pools.len() > MAXIMUM_POOLS {
            let problem = format!("1 to {MAXIMUM_POOLS} pools, the first is the system pool");
            return Err(wrong("pool", self.pools.len().saturating_sub(1), problem));
        }
        let journal = self.scale.store().journal;
        let journal_bytes = journal.segments * journal.segment_bytes;
        for (position, pool) in self.pools.iter().enumerate() {
            let wrong_directory = |problem: String| wrong("pool.directory", position, problem);
            check_directory(&pool.directory).map_err(wrong_directory)?;
            let mut before = self.pools[..position].iter();
            if before.any(|other| other.directory == pool.directory) {
                let problem = format!("{:?} is listed twice", pool.directory);
                return Err(wrong_directory(problem));
            }
            if pool.capacity_bytes <= journal_bytes {
                let problem = format!(
                    "{} leaves no room for data: the pool's journal alone takes {}",
                    ByteCount(pool.capacity_bytes),
                    ByteCount(journal_bytes)
                );
                return Err(wrong("pool.capacity", position, problem));
            }
        }
        Ok(())
    }

    /// A rack or data centre without a name would be one that all such nodes share: copies would be
    /// spread over what is not there.
    fn check_location(&self) -> Result<(), ConfigError> {
        let Location { data_centre, rack } = &self.location;
        for (key, name) in [
            ("location.data_centre", data_centre),
            ("location.rack", rack),
        ] {
            if name.trim().is_empty() || name.len() > 64 || name.contains(char::is_control) {
                return Err(wrong(key, 0, format!("{name:?}: 1 to 64 characters")));
            }
        }
        Ok(())
    }

    /// What no disk can be called would be waited for in vain.
    fn check_exports(&self) -> Result<(), ConfigError> {
        let Some(Exports::Names(names)) = self.iscsi.as_ref().map(|iscsi| &iscsi.exports) else {
            return Ok(());
        };
        for (position, name) in names.iter().enumerate() {
            let wrong = |problem| wrong("iscsi.exports", position, problem);
            check_disk_name(name).map_err(wrong)?;
            if names[..position].contains(name) {
                return Err(wrong(format!("{name:?} is listed twice")));
            }
        }
        Ok(())
    }
}

/// Whether `path` is a directory below the node's root, wherever that is. Says what is wrong.
fn check_directory(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("it needs a name".into());
    }
    let is_plain = |part: &str| !["", ".", "..", ".lock"].contains(&part);
    if !path.split('/').all(is_plain) || path.contains(['\0', '\\']) {
        return Err(format!(
            "{path:?} is not a directory below data_directory, such as \"pool-0\""
        ));
    }
    Ok(())
}

/// Whether a virtual disk can be called `name`. Says what is wrong.
pub(crate) fn check_disk_name(name: &str) -> Result<(), String> {
    if name.len() > MAXIMUM_NAME_BYTES {
        return Err(format!(
            "the name has {} characters; {MAXIMUM_NAME_BYTES} are allowed",
            name.len()
        ));
    }
    let target = hedgerow_iscsi::target_name(name);
    target
        .map(drop)
        .map_err(|error| format!("name {name:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use hedgerow_protocol::Residence;

    use super::*;
    use crate::config::{GroupTiming, IscsiConfig, PoolConfig, StoreScale};

    fn sound() -> NodeConfig {
        NodeConfig {
            name: "n1".into(),
            listen: "127.0.0.1:1".into(),
            advertise: "127.0.0.1:1".into(),
            seeds: vec!["127.0.0.1:1".into()],
            roles: Roles::ALL,
            location: Location {
                data_centre: "dc-1".into(),
                rack: "rack-1".into(),
            },
            pools: vec![PoolConfig {
                directory: "pools/0".into(),
                residence: Residence::Hdd,
                capacity_bytes: 10 << 30,
            }],
            iscsi: Some(IscsiConfig {
                listen: "127.0.0.1:2".into(),
                exports: Exports::Names(vec!["a".into(), "b".into()]),
                chap: None,
            }),
            shards: 4,
            timing: GroupTiming::default(),
            scale: StoreScale::Server,
        }
    }

    /// A sound configuration with one change is refused at `key` and `entry`.
    #[track_caller]
    fn refused(key: &str, entry: usize, change: impl FnOnce(&mut NodeConfig)) {
        let mut config = sound();
        assert_eq!(config.check(), Ok(()));
        change(&mut config);
        let error = config.check().unwrap_err();
        assert_eq!((error.key, error.entry), (key, entry), "{error}");
    }

    #[test]
    fn a_pool_has_a_place_below_the_root_and_room_beside_its_journal() {
        let bad = [
            "", "/", "/pool", "..", "../x", "a/../b", "a//b", "a/", "./a",
        ];
        for directory in bad {
            refused("pool.directory", 0, |config| {
                directory.clone_into(&mut config.pools[0].directory);
            });
        }
        for capacity_bytes in [0, 1 << 20, 1 << 30] {
            refused("pool.capacity", 1, |config| {
                let mut second = config.pools[0].clone();
                second.directory = "pools/1".into();
                second.capacity_bytes = capacity_bytes;
                config.pools.push(second);
            });
        }
    }

    #[test]
    fn a_rack_and_a_data_centre_have_names() {
        refused("location.rack", 0, |config| config.location.rack.clear());
        refused("location.data_centre", 0, |config| {
            config.location.data_centre = " ".into();
        });
    }

    #[test]
    fn exports_are_names_that_a_disk_can_have() {
        let exports = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            move |config: &mut NodeConfig| {
                config.iscsi.as_mut().unwrap().exports = Exports::Names(names);
            }
        };
        let long = "x".repeat(129);
        for name in ["", "A", "a b", "a/b", "ä", &long] {
            refused("iscsi.exports", 1, exports(&["a", name]));
        }
        refused("iscsi.exports", 2, exports(&["a", "b", "a"]));
    }

    #[test]
    fn addresses_are_told_from_what_is_none() {
        for good in [
            "10.0.0.1:7100",
            "node-1.rack:1",
            "[::1]:65535",
            "localhost:3260",
        ] {
            assert_eq!(check_address(good, false), Ok(()), "{good}");
        }
        for bad in [
            "nonsense",
            "",
            ":",
            ":7100",
            "host:",
            "host:port",
            "host:65536",
            "host:+1",
            "::1:7100",
            "[]:1",
            "a b:1",
            "http://a:1",
            "host:0",
        ] {
            assert!(check_address(bad, false).is_err(), "{bad}");
        }
        assert_eq!(check_address("127.0.0.1:0", true), Ok(()));
        let long = format!("{}:1", "x".repeat(300));
        assert!(check_address(&long, true).is_err());
    }
}
