//! The configuration file of a node: TOML, documented in docs/operations/configuration.md.
//!
//! An unknown key or a wrong value is refused with the file, the line, the key and the remedy, before
//! anything is created. Does not: decide what is allowed beyond the syntax (`NodeConfig::check`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hedgerow_env::parse_byte_count;
use hedgerow_node::{Exports, GroupTiming, IscsiConfig, NodeConfig, PoolConfig, StoreScale};
use hedgerow_protocol::{Location, Residence, Roles};
use serde::Deserialize;
use toml::Spanned;

/// A node's file, read and checked.
#[derive(Debug)]
pub(crate) struct NodeFile {
    pub(crate) data_directory: PathBuf,
    pub(crate) node: NodeConfig,
    #[cfg(feature = "testing")]
    pub(crate) test: Option<crate::testing::TestSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    data_directory: PathBuf,
    listen: Spanned<String>,
    advertise: Option<Spanned<String>>,
    seeds: Spanned<Vec<Spanned<String>>>,
    roles: Option<Spanned<Vec<Role>>>,
    #[serde(default)]
    location: LocationTable,
    #[serde(default)]
    pool: Vec<Pool>,
    iscsi: Option<Iscsi>,
    shards: Option<Spanned<u32>>,
    timing: Option<Timing>,
    #[cfg(feature = "testing")]
    test: Option<crate::testing::TestSection>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Role {
    Pages,
    Hblock,
    Proxy,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LocationTable {
    data_centre: Option<String>,
    rack: Option<String>,
    fqdn: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    directory: Spanned<String>,
    #[serde(default = "hdd")]
    residence: Residence,
    capacity: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Iscsi {
    listen: Spanned<String>,
    exports: Option<Spanned<ExportList>>,
    chap_user: Option<Spanned<String>>,
    chap_secret: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExportList {
    Word(String),
    Names(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Timing {
    heartbeat_ms: Spanned<u64>,
    election_ms: Spanned<u64>,
}

fn hdd() -> Residence {
    Residence::Hdd
}

/// Shard groups of a new cluster.
const SHARDS: u32 = 4;

/// Where each value stands in the file, by its key and its number among several.
struct Places<'a> {
    text: &'a str,
    spans: BTreeMap<(&'static str, usize), Range<usize>>,
}

impl Places<'_> {
    /// Remembers where a value stands and gives it away.
    fn take<T>(&mut self, key: &'static str, entry: usize, value: Spanned<T>) -> T {
        self.spans.insert((key, entry), value.span());
        value.into_inner()
    }

    /// An error about a value; one that is not in the file has no line.
    fn wrong(&self, key: &'static str, entry: usize, problem: &str) -> anyhow::Error {
        let Some(span) = self.spans.get(&(key, entry)) else {
            return anyhow::anyhow!("{key}: {problem}");
        };
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        anyhow::anyhow!("line {line}: {key}: {problem}")
    }
}

/// Reads and checks the file at `path`.
pub(crate) fn read(path: &Path) -> anyhow::Result<NodeFile> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    parse(&text).with_context(|| format!("{}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<NodeFile> {
    let file: File = toml::from_str(text)?;
    let mut places = Places {
        text,
        spans: BTreeMap::new(),
    };
    let listen = places.take("listen", 0, file.listen);
    let advertise = match file.advertise {
        Some(advertise) => places.take("advertise", 0, advertise),
        None => {
            let span = places.spans[&("listen", 0)].clone();
            places.spans.insert(("advertise", 0), span);
            listen.clone()
        }
    };
    let node = NodeConfig {
        name: places.take("name", 0, file.name),
        advertise,
        listen,
        seeds: seeds(&mut places, file.seeds),
        roles: roles(&mut places, file.roles),
        location: location(&mut places, file.location)?,
        pools: pools(&mut places, file.pool)?,
        iscsi: match file.iscsi {
            Some(table) => Some(iscsi(&mut places, table)?),
            None => None,
        },
        shards: file
            .shards
            .map_or(SHARDS, |shards| places.take("shards", 0, shards)),
        timing: file.timing.map_or_else(GroupTiming::default, |timing| {
            let mut period = |key, value| Duration::from_millis(places.take(key, 0, value));
            GroupTiming {
                heartbeat: period("timing.heartbeat_ms", timing.heartbeat_ms),
                election: period("timing.election_ms", timing.election_ms),
            }
        }),
        #[cfg(not(feature = "testing"))]
        scale: StoreScale::Server,
        // A node under test is one of several on a machine that does other things too.
        #[cfg(feature = "testing")]
        scale: file
            .test
            .as_ref()
            .map_or(StoreScale::Server, |_| StoreScale::Workstation),
    };
    node.check()
        .map_err(|error| places.wrong(error.key, error.entry, &error.problem))?;
    Ok(NodeFile {
        data_directory: file.data_directory,
        node,
        #[cfg(feature = "testing")]
        test: file.test,
    })
}

fn seeds(places: &mut Places<'_>, list: Spanned<Vec<Spanned<String>>>) -> Vec<String> {
    // The list's own place stands for the first seed, in case there is none.
    let list = places.take("seeds", 0, list).into_iter().enumerate();
    list.map(|(position, seed)| places.take("seeds", position, seed))
        .collect()
}

fn roles(places: &mut Places<'_>, list: Option<Spanned<Vec<Role>>>) -> Roles {
    let Some(list) = list else { return Roles::ALL };
    let list = places.take("roles", 0, list);
    list.iter().fold(Roles::default(), |roles, role| {
        roles.with(match role {
            Role::Pages => Roles::PAGES,
            Role::Hblock => Roles::HBLOCK,
            Role::Proxy => Roles::PROXY,
        })
    })
}

fn pools(places: &mut Places<'_>, tables: Vec<Pool>) -> anyhow::Result<Vec<PoolConfig>> {
    let mut pools = Vec::new();
    for (position, pool) in tables.into_iter().enumerate() {
        let directory = places.take("pool", position, pool.directory);
        let capacity = places.take("pool.capacity", position, pool.capacity);
        let capacity = parse_byte_count(&capacity)
            .map_err(|problem| places.wrong("pool.capacity", position, &problem))?;
        pools.push(PoolConfig {
            directory,
            residence: pool.residence,
            capacity_bytes: capacity.0,
        });
    }
    Ok(pools)
}

fn location(places: &mut Places<'_>, table: LocationTable) -> anyhow::Result<Location> {
    let LocationTable {
        data_centre,
        rack,
        fqdn,
    } = table;
    if let Some(fqdn) = fqdn {
        let fqdn = places.take("location.fqdn", 0, fqdn);
        if data_centre.is_some() || rack.is_some() {
            let problem = "give either fqdn, or data_centre and rack";
            return Err(places.wrong("location.fqdn", 0, problem));
        }
        return Ok(hedgerow_node::location_of_name(&fqdn));
    }
    Ok(Location {
        data_centre: data_centre.unwrap_or_else(|| "dc-1".into()),
        rack: rack.unwrap_or_else(|| "rack-1".into()),
    })
}

fn iscsi(places: &mut Places<'_>, table: Iscsi) -> anyhow::Result<IscsiConfig> {
    const USER: &str = "iscsi.chap_user";
    const SECRET: &str = "iscsi.chap_secret";
    let listen = places.take("iscsi.listen", 0, table.listen);
    let exports = match table.exports {
        None => Exports::All,
        Some(list) => match places.take("iscsi.exports", 0, list) {
            ExportList::Word(word) if word == "all" => Exports::All,
            ExportList::Word(word) => {
                let problem = format!("{word:?}: write \"all\" or a list of disk names");
                return Err(places.wrong("iscsi.exports", 0, &problem));
            }
            ExportList::Names(names) => Exports::Names(names),
        },
    };
    let user = table.chap_user.map(|user| places.take(USER, 0, user));
    let secret = table
        .chap_secret
        .map(|secret| places.take(SECRET, 0, secret));
    let chap = match (user, secret) {
        (None, None) => None,
        (Some(user), Some(secret)) if secret.len() >= 12 => Some((user, secret)),
        (Some(_), Some(_)) => {
            let problem = "at least 12 characters (RFC 7143 12.1.3)";
            return Err(places.wrong(SECRET, 0, problem));
        }
        (Some(_), None) => return Err(places.wrong(USER, 0, "chap_secret belongs to it")),
        (None, Some(_)) => return Err(places.wrong(SECRET, 0, "chap_user belongs to it")),
    };
    Ok(IscsiConfig {
        listen,
        exports,
        chap,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../docs/operations/node.example.toml");

    #[test]
    fn the_documented_example_is_accepted() {
        let file = parse(EXAMPLE).unwrap();
        assert_eq!(file.node.pools.len(), 1);
        assert_eq!(file.node.seeds.len(), 3);
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_named_with_their_line() {
        let unknown = format!("{}\nspeed = 3\n", "listn = \"a:1\"");
        let error = format!("{:#}", parse(&unknown).unwrap_err());
        assert!(
            error.contains("listn") && error.contains("line 1"),
            "{error}"
        );
    }

    /// The example with one line replaced is refused, naming that line, `key` and the problem.
    #[track_caller]
    fn refused(line: &str, by: &str, key: &str, problem: &str) {
        assert!(EXAMPLE.contains(line), "{line}");
        let number = EXAMPLE[..EXAMPLE.find(line).unwrap()].lines().count() + 1;
        let error = format!("{:#}", parse(&EXAMPLE.replacen(line, by, 1)).unwrap_err());
        let place = format!("line {number}: {key}: ");
        assert!(error.contains(&place), "{place} in {error}");
        assert!(error.contains(problem), "{problem} in {error}");
    }

    #[test]
    fn every_wrong_value_is_named_with_its_key_and_line() {
        refused("name = \"node-1\"", "name = \"\"", "name", "64 characters");
        let listen = "listen = \"10.0.0.1:7100\"";
        refused(listen, "listen = \"nonsense\"", "listen", "HOST:PORT");
        let advertise = "# advertise = \"10.0.0.1:7100\"";
        refused(advertise, "advertise = \"a:0\"", "advertise", "port 0");
        let seeds = "seeds = [\"10.0.0.1:7100\", \"10.0.0.2:7100\", \"10.0.0.3:7100\"]";
        refused(seeds, "seeds = []", "seeds", "first nodes");
        refused(seeds, "seeds = [\"a:1\", \"a:1\"]", "seeds", "twice");
        refused(seeds, "seeds = [\"a:1\", \"b\"]", "seeds", "HOST:PORT");
        let roles = "roles = [\"pages\", \"hblock\", \"proxy\"]";
        refused(roles, "roles = []", "roles", "at least one");
        refused("shards = 4", "shards = 3", "shards", "power of two");
        let capacity = "capacity = \"100GiB\"";
        refused(
            capacity,
            "capacity = \"5 bananas\"",
            "pool.capacity",
            "bananas",
        );
        let exports = "exports = \"all\"";
        refused(
            exports,
            "exports = \"some\"",
            "iscsi.exports",
            "list of disk names",
        );
        let user = "# chap_user = \"initiator\"";
        refused(user, "chap_user = \"i\"", "iscsi.chap_user", "chap_secret");
        let secret = "# chap_secret = \"at least 12 characters\"";
        refused(
            secret,
            "chap_secret = \"long enough secret\"",
            "iscsi.chap_secret",
            "chap_user",
        );
        let rack = "rack = \"rack-1\"";
        let fqdn = "fqdn = \"a.b.c.d\"";
        refused(rack, fqdn, "location.fqdn", "either fqdn");
        let location = "[location]";
        let timing = "[timing]\nheartbeat_ms = 300\nelection_ms = 500\n[location]";
        let error = format!(
            "{:#}",
            parse(&EXAMPLE.replace(location, timing)).unwrap_err()
        );
        assert!(error.contains("timing.election_ms: an election"), "{error}");
        let second = "[iscsi]\n";
        let pool = "[[pool]]\ndirectory = \"pool-0\"\ncapacity = \"1GiB\"\n[iscsi]\n";
        let error = format!("{:#}", parse(&EXAMPLE.replace(second, pool)).unwrap_err());
        assert!(
            error.contains("pool: directory: \"pool-0\" is listed twice"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line() {
        let wrong = EXAMPLE.replace("shards = 4", "shards = \"four\"");
        let number = EXAMPLE[..EXAMPLE.find("shards = 4").unwrap()]
            .lines()
            .count()
            + 1;
        let error = format!("{:#}", parse(&wrong).unwrap_err());
        assert!(error.contains(&format!("line {number}")), "{error}");
    }
}
