//! The configuration file of a node: TOML, documented in docs/operations/configuration.md.
//!
//! An unknown key or a wrong value is refused with the file, the line and the remedy.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use hedgerow_env::parse_byte_count;
use hedgerow_node::{Exports, GroupTiming, IscsiConfig, NodeConfig, PoolConfig, StoreScale};
use hedgerow_protocol::{Location, Residence, Roles};
use serde::Deserialize;

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
    name: String,
    data_directory: PathBuf,
    listen: String,
    advertise: Option<String>,
    seeds: Vec<String>,
    #[serde(default = "all_roles")]
    roles: Vec<Role>,
    #[serde(default)]
    location: LocationTable,
    #[serde(default)]
    pool: Vec<Pool>,
    iscsi: Option<Iscsi>,
    #[serde(default = "four")]
    shards: u32,
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
    fqdn: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    directory: String,
    #[serde(default = "hdd")]
    residence: Residence,
    capacity: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Iscsi {
    listen: String,
    #[serde(default = "all_exports")]
    exports: ExportList,
    chap_user: Option<String>,
    chap_secret: Option<String>,
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
    heartbeat_ms: u64,
    election_ms: u64,
}

fn all_roles() -> Vec<Role> {
    vec![Role::Pages, Role::Hblock, Role::Proxy]
}

fn all_exports() -> ExportList {
    ExportList::Word("all".into())
}

fn hdd() -> Residence {
    Residence::Hdd
}

fn four() -> u32 {
    4
}

/// Reads and checks the file at `path`.
pub(crate) fn read(path: &Path) -> anyhow::Result<NodeFile> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    parse(&text).with_context(|| format!("{}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<NodeFile> {
    let file: File = toml::from_str(text)?;
    let roles = file.roles.iter().fold(Roles::default(), |roles, role| {
        roles.with(match role {
            Role::Pages => Roles::PAGES,
            Role::Hblock => Roles::HBLOCK,
            Role::Proxy => Roles::PROXY,
        })
    });
    let mut pools = Vec::new();
    for pool in file.pool {
        let capacity = parse_byte_count(&pool.capacity)
            .map_err(|error| anyhow::anyhow!("pool {:?}: capacity: {error}", pool.directory))?;
        pools.push(PoolConfig {
            directory: pool.directory,
            residence: pool.residence,
            capacity_bytes: capacity.0,
        });
    }
    let node = NodeConfig {
        name: file.name,
        advertise: file.advertise.unwrap_or_else(|| file.listen.clone()),
        listen: file.listen,
        seeds: file.seeds,
        roles,
        location: location(&file.location)?,
        pools,
        iscsi: file.iscsi.map(iscsi).transpose()?,
        shards: file.shards,
        timing: file
            .timing
            .map_or_else(GroupTiming::default, |timing| GroupTiming {
                heartbeat: std::time::Duration::from_millis(timing.heartbeat_ms),
                election: std::time::Duration::from_millis(timing.election_ms),
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
    node.check().map_err(|error| anyhow::anyhow!(error))?;
    Ok(NodeFile {
        data_directory: file.data_directory,
        node,
        #[cfg(feature = "testing")]
        test: file.test,
    })
}

fn location(table: &LocationTable) -> anyhow::Result<Location> {
    match table {
        LocationTable {
            fqdn: Some(_),
            data_centre: Some(_),
            ..
        }
        | LocationTable {
            fqdn: Some(_),
            rack: Some(_),
            ..
        } => {
            bail!("location: give either fqdn, or data_centre and rack")
        }
        LocationTable {
            fqdn: Some(fqdn), ..
        } => Ok(hedgerow_node::location_of_name(fqdn)),
        LocationTable {
            data_centre, rack, ..
        } => Ok(Location {
            data_centre: data_centre.clone().unwrap_or_else(|| "dc-1".into()),
            rack: rack.clone().unwrap_or_else(|| "rack-1".into()),
        }),
    }
}

fn iscsi(table: Iscsi) -> anyhow::Result<IscsiConfig> {
    let exports = match table.exports {
        ExportList::Word(word) if word == "all" => Exports::All,
        ExportList::Word(word) => {
            bail!("iscsi: exports: {word:?}: write \"all\" or a list of disk names")
        }
        ExportList::Names(names) => Exports::Names(names),
    };
    let chap = match (table.chap_user, table.chap_secret) {
        (None, None) => None,
        (Some(user), Some(secret)) if secret.len() >= 12 => Some((user, secret)),
        (Some(_), Some(_)) => bail!("iscsi: chap_secret: at least 12 characters (RFC 7143 12.1.3)"),
        _ => bail!("iscsi: chap_user and chap_secret belong together"),
    };
    Ok(IscsiConfig {
        listen: table.listen,
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
        let wrong = EXAMPLE.replace("capacity = \"100GiB\"", "capacity = \"much\"");
        let error = format!("{:#}", parse(&wrong).unwrap_err());
        assert!(
            error.contains("capacity") && error.contains("much"),
            "{error}"
        );
        let wrong = EXAMPLE.replace("exports = \"all\"", "exports = \"some\"");
        let error = format!("{:#}", parse(&wrong).unwrap_err());
        assert!(error.contains("exports"), "{error}");
    }
}
