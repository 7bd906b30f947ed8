//! What a node's configuration may say. Each refusal names its key, and which of the key's values.
//!
//! Invariant: what is refused here would fail or mislead later, when nobody can say any more which
//! line it came from. Does not: look at the disk or the network.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use hedgerow_env::ByteCount;
use hedgerow_net::Identity;
use hedgerow_protocol::{Location, Roles, check_disk_name};

use crate::config::{Exports, MAXIMUM_POOLS, NodeConfig};

/// Longest interval between heartbeats; more than the slowest link asks for.
const MAXIMUM_HEARTBEAT: Duration = Duration::from_mins(1);
/// Longest wait for an election. Somewhere above, sums of periods and clocks overflow.
const MAXIMUM_ELECTION: Duration = Duration::from_mins(10);
/// Largest pool, as the largest disk: what the pools of a node add up to stays within 64 bits.
const MAXIMUM_POOL_BYTES: u64 = 1 << 60;

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
        check_label("name", &self.name)?;
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
        self.check_timing()
    }

    fn check_timing(&self) -> Result<(), ConfigError> {
        let (heartbeat, election) = (self.timing.heartbeat, self.timing.election);
        if heartbeat.is_zero() || heartbeat > MAXIMUM_HEARTBEAT {
            let problem = format!("1 to {}", MAXIMUM_HEARTBEAT.as_millis());
            return Err(wrong("timing.heartbeat_ms", 0, problem));
        }
        if election > MAXIMUM_ELECTION {
            let problem = format!("at most {}", MAXIMUM_ELECTION.as_millis());
            return Err(wrong("timing.election_ms", 0, problem));
        }
        if election < heartbeat * 3 {
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
        if is_unspecified(&self.advertise) {
            let problem = format!(
                "others cannot call {}: set `advertise` to an address of this node, as the seeds \
                 name it",
                self.advertise
            );
            return Err(wrong("advertise", 0, problem));
        }
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
            if let Some(problem) = before.find_map(|other| clash(&pool.directory, &other.directory))
            {
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
            if pool.capacity_bytes > MAXIMUM_POOL_BYTES {
                let problem = format!("at most {}", ByteCount(MAXIMUM_POOL_BYTES));
                return Err(wrong("pool.capacity", position, problem));
            }
        }
        Ok(())
    }

    /// A rack or data centre without a name would be one that all such nodes share: copies would be
    /// spread over what is not there.
    fn check_location(&self) -> Result<(), ConfigError> {
        let Location { data_centre, rack } = &self.location;
        check_label("location.data_centre", data_centre)?;
        check_label("location.rack", rack)
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

/// What people read, on a terminal too.
fn check_label(key: &'static str, label: &str) -> Result<(), ConfigError> {
    if label.trim().is_empty() || label.len() > 64 || label.contains(char::is_control) {
        let problem = format!("{label:?}: 1 to 64 characters, none of them a control character");
        return Err(wrong(key, 0, problem));
    }
    Ok(())
}

/// Whether an address that was checked stands for every one of a machine.
fn is_unspecified(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse()
        .is_ok_and(|address: IpAddr| address.is_unspecified())
}

/// What is wrong with a pool's directory beside that of another: each has its files to itself.
fn clash(own: &str, other: &str) -> Option<String> {
    if own == other {
        return Some(format!("{own:?} is listed twice"));
    }
    let (inner, outer) = if Path::new(own).starts_with(other) {
        (own, other)
    } else if Path::new(other).starts_with(own) {
        (other, own)
    } else {
        return None;
    };
    Some(format!(
        "{inner:?} is inside {outer:?}, which is another pool's"
    ))
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
        for capacity_bytes in [0, 1 << 20, 1 << 30, (1 << 60) + 1, u64::MAX] {
            refused("pool.capacity", 1, |config| {
                let mut second = config.pools[0].clone();
                second.directory = "pools/1".into();
                second.capacity_bytes = capacity_bytes;
                config.pools.push(second);
            });
        }
    }

    #[test]
    fn a_pool_has_its_directory_to_itself() {
        let beside = |directory: &str| {
            let mut config = sound();
            let mut second = config.pools[0].clone();
            directory.clone_into(&mut second.directory);
            config.pools.push(second);
            config.check()
        };
        for directory in ["pools/0", "pools", "pools/0/inner"] {
            let error = beside(directory).unwrap_err();
            assert_eq!((error.key, error.entry), ("pool.directory", 1), "{error}");
        }
        let text = beside("pools").unwrap_err().problem;
        assert!(text.contains("\"pools/0\" is inside \"pools\""), "{text}");
        for directory in ["pools/01", "pool", "0"] {
            assert_eq!(beside(directory), Ok(()), "{directory}");
        }
    }

    #[test]
    fn periods_have_an_upper_bound() {
        // The largest number that a configuration file can hold.
        for too_long_ms in [60_001, i64::MAX.unsigned_abs()] {
            refused("timing.heartbeat_ms", 0, |config| {
                config.timing.heartbeat = Duration::from_millis(too_long_ms);
            });
        }
        for too_long_ms in [600_001, i64::MAX.unsigned_abs()] {
            refused("timing.election_ms", 0, |config| {
                config.timing.election = Duration::from_millis(too_long_ms);
            });
        }
        let mut config = sound();
        config.timing.heartbeat = Duration::from_secs(60);
        config.timing.election = Duration::from_secs(600);
        assert_eq!(config.check(), Ok(()), "the longest");
    }

    #[test]
    fn others_can_call_what_is_advertised() {
        for every in ["0.0.0.0:7100", "[::]:7100"] {
            let listens = |config: &mut NodeConfig| every.clone_into(&mut config.listen);
            refused("advertise", 0, |config| {
                listens(config);
                every.clone_into(&mut config.advertise);
            });
            let mut config = sound();
            listens(&mut config);
            assert_eq!(config.check(), Ok(()), "{every} is a place to listen at");
        }
    }

    #[test]
    fn a_node_a_rack_and_a_data_centre_have_names_that_can_be_shown() {
        for name in ["", " ", "a\nb", "a\u{1b}[2Jb"] {
            refused("name", 0, |config| name.clone_into(&mut config.name));
        }
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
        for name in ["", "A", "a b", "a/b", "a_b", "a:b", "ä", &long] {
            refused("iscsi.exports", 1, exports(&["a", name]));
        }
        refused("iscsi.exports", 2, exports(&["a", "b", "a"]));
        let longest = "-.09az".repeat(21);
        let mut config = sound();
        exports(&[&longest])(&mut config);
        assert_eq!(config.check(), Ok(()));
        assert!(hedgerow_iscsi::target_name(&longest).is_ok());
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
