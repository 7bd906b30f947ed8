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
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

#[cfg(feature = "testing")]
use crate::testing::TestSection;

/// A node's file, read and checked.
#[derive(Debug)]
pub(crate) struct NodeFile {
    pub(crate) data_directory: PathBuf,
    pub(crate) node: NodeConfig,
    #[cfg(feature = "testing")]
    pub(crate) test: Option<TestSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    data_directory: Spanned<String>,
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
    test: Option<TestSection>,
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
    data_centre: Option<Spanned<String>>,
    rack: Option<Spanned<String>>,
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

enum ExportList {
    Word(String),
    Names(Vec<Spanned<String>>),
}

/// Written out: an untagged enum would forget where its values stand.
impl<'de> Deserialize<'de> for ExportList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ExportList;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("\"all\" or a list of disk names")
            }

            fn visit_str<E>(self, word: &str) -> Result<ExportList, E> {
                Ok(ExportList::Word(word.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ExportList, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(ExportList::Names(names))
            }
        }
        deserializer.deserialize_any(Either)
    }
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
    let data_directory = places.take("data_directory", 0, file.data_directory);
    if data_directory.trim().is_empty() {
        let problem = "it needs a name, such as \"/var/lib/hedgerow\"";
        return Err(places.wrong("data_directory", 0, problem));
    }
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
        #[cfg(feature = "testing")]
        scale: file
            .test
            .as_ref()
            .map_or(StoreScale::Server, TestSection::scale),
    };
    node.check()
        .map_err(|error| places.wrong(error.key, error.entry, &error.problem))?;
    Ok(NodeFile {
        data_directory: data_directory.into(),
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
        // For what is wrong with their number.
        places
            .spans
            .insert(("pool", position), pool.directory.span());
        let directory = places.take("pool.directory", position, pool.directory);
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
        let location = hedgerow_node::location_of_name(&fqdn);
        if location.rack.is_empty() || location.data_centre.is_empty() {
            let problem = format!("{fqdn:?} is not node.rack.data-centre or longer");
            return Err(places.wrong("location.fqdn", 0, &problem));
        }
        return Ok(location);
    }
    let mut given = |key, value: Option<Spanned<String>>, default: &str| {
        value.map_or_else(|| default.into(), |value| places.take(key, 0, value))
    };
    Ok(Location {
        data_centre: given("location.data_centre", data_centre, "dc-1"),
        rack: given("location.rack", rack, "rack-1"),
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
            ExportList::Names(names) => {
                let names = names.into_iter().enumerate();
                let names = names.map(|(entry, name)| places.take("iscsi.exports", entry, name));
                Exports::Names(names.collect())
            }
        },
    };
    let user = table.chap_user.map(|user| places.take(USER, 0, user));
    let secret = table
        .chap_secret
        .map(|secret| places.take(SECRET, 0, secret));
    let chap = match (user, secret) {
        (None, None) => None,
        (Some(user), Some(_)) if user.is_empty() => {
            return Err(places.wrong(USER, 0, "it needs a name"));
        }
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

    /// In every table, however deep.
    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let sound = format!("{EXAMPLE}\n[timing]\nheartbeat_ms = 300\nelection_ms = 1200\n");
        assert!(parse(&sound).is_ok());
        for line in [
            "name = \"node-1\"",
            "rack = \"rack-1\"",
            "directory = \"pool-0\"",
            "listen = \"10.0.0.1:3260\"",
            "heartbeat_ms = 300",
        ] {
            let number = sound[..sound.find(line).unwrap()].lines().count() + 1;
            let text = sound.replacen(line, &format!("speed = 3\n{line}"), 1);
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains("unknown field `speed`"), "{line}: {error}");
            let place = format!("line {number},");
            assert!(error.contains(&place), "{line}: {place} in {error}");
        }
        let table = sound.replacen("[timing]", "[[pools]]\n[timing]", 1);
        let error = format!("{:#}", parse(&table).unwrap_err());
        assert!(error.contains("unknown field `pools`"), "{error}");
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
            error.contains("pool.directory: \"pool-0\" is listed twice"),
            "{error}"
        );
    }

    #[test]
    fn what_would_fail_or_mislead_later_is_named_with_its_key_and_line() {
        let data = "data_directory = \"/var/lib/hedgerow\"";
        refused(data, "data_directory = \"\"", "data_directory", "a name");
        let capacity = "capacity = \"100GiB\"";
        refused(capacity, "capacity = \"0\"", "pool.capacity", "no room");
        let directory = "directory = \"pool-0\"";
        for bad in ["../x", "/pool-0", ""] {
            let by = format!("directory = {bad:?}");
            let problem = if bad.is_empty() { "a name" } else { "below" };
            refused(directory, &by, "pool.directory", problem);
        }
        let rack = "rack = \"rack-1\"";
        refused(rack, "rack = \"\"", "location.rack", "64 characters");
        let centre = "data_centre = \"dc-1\"";
        let by = "data_centre = \"\"";
        refused(centre, by, "location.data_centre", "64 characters");
        let both = "data_centre = \"dc-1\"\nrack = \"rack-1\"";
        for name in ["localhost", "node-1.rack-1", ""] {
            let by = format!("fqdn = {name:?}");
            refused(both, &by, "location.fqdn", "node.rack.data-centre");
        }
        let exports = "exports = \"all\"";
        let by = "exports = [\"a\", \"B b\"]";
        refused(exports, by, "iscsi.exports", "\"B b\"");
        refused(
            exports,
            "exports = [\"a\", \"a\"]",
            "iscsi.exports",
            "twice",
        );
        let both = "# chap_user = \"initiator\"\n# chap_secret = \"at least 12 characters\"";
        let by = "chap_user = \"\"\nchap_secret = \"at least 12 characters\"";
        refused(both, by, "iscsi.chap_user", "a name");
    }

    /// Each name of a list that goes over several lines has a line of its own.
    #[test]
    fn a_wrong_name_in_a_list_is_named_with_its_own_line() {
        let exports = "exports = \"all\"";
        let number = EXAMPLE[..EXAMPLE.find(exports).unwrap()].lines().count() + 1;
        let list = "exports = [\n  \"a\",\n  \"b/c\",\n]";
        let error = parse(&EXAMPLE.replacen(exports, list, 1)).unwrap_err();
        let place = format!("line {}: iscsi.exports: ", number + 2);
        assert!(format!("{error:#}").contains(&place), "{error:#}");
        let list = "exports = [\n  \"a\",\n  \"b\",\n]";
        let file = parse(&EXAMPLE.replacen(exports, list, 1)).unwrap();
        let names = Exports::Names(vec!["a".into(), "b".into()]);
        assert_eq!(file.node.iscsi.unwrap().exports, names);
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
