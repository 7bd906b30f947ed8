//! `hedgerow dev`: a three-node cluster in one process, with real TCP between the nodes and real
//! files, and one disk exported over iSCSI.
//!
//! The addresses are chosen at the first start and kept in `dev.toml`, so that the nodes find each
//! other, and the initiators the disk, at every later start.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use hedgerow_env::{DiskError, parse_byte_count};
use hedgerow_node::{Exports, GroupTiming, IscsiConfig, Node, NodeConfig, PoolConfig, StoreScale};
use hedgerow_protocol::{AdminReply, AdminRequest, Location, Policy, Residence, Roles};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::production::{Logging, production_env};
use crate::{out, progress};

/// Every initiator takes blocks of this size; some trip over larger ones.
const BLOCK_SIZE: u32 = 512;
/// How many nodes `dev` starts.
const NODES: usize = 3;
/// Capacity that each node's pool reports.
const POOL_BYTES: u64 = 100 << 30;
/// The disk must be there within this time, or something is wrong.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// The one disk.
const DISK: &str = "demo";

/// `hedgerow dev`
#[derive(Args, Debug)]
pub(crate) struct DevOptions {
    /// Where the nodes keep their data [default: hedgerow/dev in the user's data directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the iSCSI portal listens [default: as the last time; at first
    /// 127.0.0.1:3260, or a free port if that is taken]
    #[arg(long, value_name = "ADDR:PORT")]
    iscsi: Option<String>,
    /// Size of the disk `demo`, when it is created
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    disk_size: String,
    /// Tell in JSON what can be used, and errors
    #[arg(long)]
    pub(crate) json: bool,
    /// For `cargo xtask bench`: run the workloads that come on standard input
    #[arg(long, hide = true)]
    bench_proxy: bool,
}

/// What later starts and other commands need to know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DevFile {
    rpc: Vec<String>,
    iscsi: String,
}

fn default_directory() -> anyhow::Result<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share"));
    let data = data.filter(|path| path.is_absolute()).or_else(home);
    let data = data.context("neither XDG_DATA_HOME nor HOME is set: use --dir DIR")?;
    Ok(data.join("hedgerow/dev"))
}

fn dev_file(directory: &Path) -> PathBuf {
    directory.join("dev.toml")
}

/// The RPC addresses of the development cluster in `directory` (or the default one).
pub(crate) fn addresses(directory: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let directory = match directory {
        Some(directory) => directory.to_path_buf(),
        None => default_directory()?,
    };
    let path = dev_file(&directory);
    let file = read_file(&path)?.with_context(|| {
        format!(
            "{} is not there: start `hedgerow dev`, or name a node with --connect",
            path.display()
        )
    })?;
    Ok(file.rpc)
}

fn read_file(path: &Path) -> anyhow::Result<Option<DevFile>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let file: DevFile =
                toml::from_str(&text).with_context(|| path.display().to_string())?;
            if file.rpc.len() != NODES {
                bail!("{}: rpc: {NODES} addresses are expected", path.display());
            }
            Ok(Some(file))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Where the cluster below a directory listens.
struct Prepared {
    file: DevFile,
    /// Another portal than the last time: to be kept once the disk is exported there.
    moved: bool,
}

/// Reads the file, or makes it with free ports. What cannot be right is refused before anything is
/// written.
fn prepare(directory: &Path, iscsi: Option<&str>) -> anyhow::Result<Prepared> {
    let path = dev_file(directory);
    let known = read_file(&path)?;
    let new = known.is_none();
    let mut file = match known {
        Some(file) => file,
        None => DevFile {
            rpc: free_addresses()?,
            iscsi: default_portal(),
        },
    };
    let moved = iscsi.is_some_and(|iscsi| iscsi != file.iscsi);
    if let Some(iscsi) = iscsi {
        hedgerow_node::check_address(iscsi, true)
            .map_err(|problem| anyhow::anyhow!("--iscsi: {problem}"))?;
        file.iscsi = iscsi.to_owned();
    }
    for number in 0..NODES {
        node_config(&file, number).check().with_context(|| {
            let remedy = "correct it, or remove it if the directory holds no data";
            format!("{}: {remedy}", path.display())
        })?;
    }
    if new {
        // Before the nodes' data is: nobody would find it again.
        hedgerow_disk::os::create_root(directory)
            .with_context(|| format!("{}: cannot be created", directory.display()))?;
        keep(directory, &file)?;
    }
    let moved = moved && !new;
    Ok(Prepared { file, moved })
}

fn keep(directory: &Path, file: &DevFile) -> anyhow::Result<()> {
    write_durably(directory, &dev_file(directory), &toml_text(file))
}

/// Starts the nodes, in order.
async fn start_nodes(
    directory: &Path,
    file: &DevFile,
    logging: Logging,
) -> anyhow::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let config = node_config(file, number);
        let env = match production_env(&config.name, &directory.join(&config.name), logging) {
            Ok(env) => env,
            Err(error) if error.downcast_ref::<DiskError>().is_some_and(is_locked) => {
                bail!(
                    "{error:#}\nIs another `hedgerow dev` running on {}?",
                    directory.display()
                )
            }
            Err(error) => return Err(error),
        };
        nodes.push(Node::start(env, config).await?);
    }
    Ok(nodes)
}

fn is_locked(error: &DiskError) -> bool {
    matches!(error, DiskError::Locked { .. })
}

/// The nodes' data is durable at once; without these addresses nobody would find it again.
#[expect(clippy::disallowed_methods, reason = "written before there is a node")]
fn write_durably(directory: &Path, path: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(directory)?.sync_all()?;
    Ok(())
}

fn toml_text(file: &DevFile) -> String {
    let rpc: Vec<String> = file
        .rpc
        .iter()
        .map(|address| format!("{address:?}"))
        .collect();
    format!(
        "# Written by `hedgerow dev`.\nrpc = [{}]\niscsi = {:?}\n",
        rpc.join(", "),
        file.iscsi
    )
}

/// Addresses that are free now; held together, so that they differ.
fn free_addresses() -> anyhow::Result<Vec<String>> {
    let mut held = Vec::new();
    for _ in 0..NODES {
        held.push(TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?);
    }
    held.iter()
        .map(|listener| Ok(listener.local_addr()?.to_string()))
        .collect()
}

fn default_portal() -> String {
    let usual = "127.0.0.1:3260";
    if TcpListener::bind(usual).is_ok() {
        return usual.to_owned();
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map_or_else(|_| usual.to_owned(), |address| address.to_string())
}

fn node_config(file: &DevFile, number: usize) -> NodeConfig {
    NodeConfig {
        name: format!("node-{}", number + 1),
        listen: file.rpc[number].clone(),
        advertise: file.rpc[number].clone(),
        seeds: file.rpc.clone(),
        roles: Roles::ALL,
        location: Location {
            data_centre: "dc-1".into(),
            rack: format!("rack-{}", number + 1),
        },
        pools: vec![PoolConfig {
            directory: "pool-0".into(),
            residence: Residence::Hdd,
            capacity_bytes: POOL_BYTES,
        }],
        iscsi: (number == 0).then(|| IscsiConfig {
            listen: file.iscsi.clone(),
            exports: Exports::All,
            chap: None,
        }),
        shards: 2,
        timing: GroupTiming::default(),
        scale: StoreScale::Workstation,
    }
}

/// Runs `hedgerow dev` until Ctrl-C or SIGTERM.
pub(crate) async fn run(options: DevOptions, logging: Logging) -> anyhow::Result<()> {
    let size = parse_byte_count(&options.disk_size)
        .map_err(|error| anyhow::anyhow!("--disk-size: {error}"))?;
    if size.0 == 0 || !size.0.is_multiple_of(u64::from(BLOCK_SIZE)) {
        bail!("--disk-size: more than 0, and a multiple of {BLOCK_SIZE} bytes");
    }
    let directory = match options.dir {
        Some(directory) => std::path::absolute(&directory)?,
        None => default_directory()?,
    };
    let Prepared { file, moved } = prepare(&directory, options.iscsi.as_deref())?;
    eprintln!("starting {NODES} nodes below {}", directory.display());
    let nodes = start_nodes(&directory, &file, logging).await?;
    let portal = nodes[0].portal_address().unwrap_or(file.iscsi.clone());
    let making = make_disk(&nodes[0], size.0, &portal);
    let forming = || {
        nodes[0]
            .waits_for()
            .unwrap_or_else(|| "making the disk".into())
    };
    let url = tokio::select! {
        biased;
        url = progress::shown(nodes[0].env(), forming, making) => url?,
        () = crate::stop_signal() => String::new(),
    };
    if moved && !url.is_empty() {
        keep(&directory, &file)?;
    }
    if !url.is_empty() {
        out::offer(&announcement(&url, &directory, options.json));
        if options.bench_proxy {
            tokio::select! {
                biased;
                served = crate::bench_proxy::serve(&nodes[0], DISK) => served?,
                () = crate::stop_signal() => {}
            }
        } else {
            crate::stop_signal().await;
        }
    }
    eprintln!("stopping");
    for node in &nodes {
        node.shutdown().await;
    }
    Ok(())
}

/// What a person, or a script, needs next.
fn announcement(url: &str, directory: &Path, in_json: bool) -> String {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("hedgerow"));
    let here = std::env::current_dir().ok();
    let own = as_typed(&own, here.as_deref()).display().to_string();
    let stop = std::process::id();
    if in_json {
        let line = json!({
            "schema_version": 1, "ready": [url], "program": own, "directory": directory, "pid": stop,
        });
        return line.to_string();
    }
    let at = match default_directory() {
        Ok(default) if default == directory => String::new(),
        _ => format!(" --dir {}", directory.display()),
    };
    format!(
        "ready {url}\n  list disks   {own} disk list{at}\n  status       {own} status{at}\n  \
         try it       qemu-io -f raw -c 'write -P 0xab 0 1M' -c 'read -P 0xab 0 1M' {url}\n  \
         stop         Ctrl-C, or kill {stop}"
    )
}

/// The shortest that can be typed to run `program` from the folder `here`: its path from there when
/// it is below, else the whole one. A shell looks up a bare name elsewhere, so that gets a `./`.
fn as_typed(program: &Path, here: Option<&Path>) -> PathBuf {
    let below = here.and_then(|here| program.strip_prefix(here).ok());
    match below {
        Some(below) if below.components().count() > 1 => below.to_path_buf(),
        Some(below) => Path::new(".").join(below),
        None => program.to_path_buf(),
    }
}

/// Creates the disk if it is not there and waits until it is exported; answers its URL.
async fn make_disk(node: &Node, size_bytes: u64, portal: &str) -> anyhow::Result<String> {
    let give_up = node.env().now() + READY_LIMIT;
    let nonce = node.env().random("dev-disk").bits();
    let mut last = String::from("the cluster is forming");
    while node.env().now() < give_up {
        match node
            .admin(AdminRequest::ShowDisk { name: DISK.into() })
            .await
        {
            AdminReply::Disk(disk) => {
                if node.groups().directory().shards().is_empty() {
                    "the shards are being created".clone_into(&mut last);
                } else if let Some(url) = disk.urls.first() {
                    return Ok(url.clone());
                } else {
                    last = format!("{DISK} is not exported at {portal} yet");
                }
            }
            AdminReply::Refused(_) => {
                let request = AdminRequest::CreateDisk {
                    nonce,
                    name: DISK.into(),
                    size_bytes,
                    policy: Policy {
                        block_size: BLOCK_SIZE,
                        ..Policy::default()
                    },
                    description: "made by `hedgerow dev`".into(),
                };
                if let AdminReply::Refused(text) = node.admin(request).await {
                    bail!("disk {DISK}: {text}");
                }
            }
            AdminReply::TryAgain(text) => last = text,
            other => bail!("unexpected answer: {other:?}"),
        }
        node.env().sleep(Duration::from_millis(100)).await;
    }
    bail!("not ready after {} s: {last}", READY_LIMIT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_is_kept_only_once_it_serves_and_never_when_it_cannot() {
        let name = format!("hedgerow-dev-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let wrong = prepare(&directory, Some("nonsense")).err().unwrap();
        assert_eq!(
            wrong.to_string(),
            "--iscsi: \"nonsense\" is not HOST:PORT, such as \"10.0.0.1:7100\""
        );
        assert!(!directory.exists(), "nothing is written before it is right");

        let first = prepare(&directory, Some("127.0.0.1:33001")).unwrap();
        assert!(!first.moved, "a new cluster's addresses are kept at once");
        let moving = prepare(&directory, Some("127.0.0.1:33002")).unwrap();
        assert!(moving.moved);
        assert_eq!(moving.file.iscsi, "127.0.0.1:33002");
        let again = prepare(&directory, None).unwrap();
        assert_eq!(again.file.iscsi, "127.0.0.1:33001");
        assert_eq!(again.file.rpc, first.file.rpc);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_program_below_the_current_folder_is_named_from_there() {
        let typed = |program: &str, here: &str| {
            let typed = as_typed(Path::new(program), Some(Path::new(here)));
            typed.display().to_string()
        };
        let program = "/home/you/hedgerow/target/release/hedgerow";
        assert_eq!(
            typed(program, "/home/you/hedgerow"),
            "target/release/hedgerow"
        );
        assert_eq!(
            typed(program, "/home/you/hedgerow/target/release"),
            "./hedgerow"
        );
        assert_eq!(typed(program, "/home/you/hedge"), program);
        assert_eq!(as_typed(Path::new(program), None), Path::new(program));
    }

    /// README's first screen shows what is printed here.
    #[test]
    fn the_readme_shows_what_is_printed() {
        let readme = include_str!("../../README.md");
        let url = "iscsi://127.0.0.1:3260/iqn.2026-11.io.hedgerow:demo/0";
        let directory = default_directory().expect("tests have a home");
        let told = announcement(url, &directory, false);
        let own = as_typed(
            &std::env::current_exe().unwrap(),
            std::env::current_dir().ok().as_deref(),
        );
        let told = told
            .replace(&own.display().to_string(), "target/release/hedgerow")
            .replace(&std::process::id().to_string(), "21685");
        assert!(readme.contains(&told), "not in README.md:\n{told}");
        assert!(readme.contains("starting 3 nodes below /home/you/.local/share/hedgerow/dev"));
    }

    #[test]
    fn scripts_get_one_line_of_json() {
        let told = announcement("iscsi://a:1/b/0", Path::new("/data"), true);
        let line: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(line["schema_version"], 1);
        assert_eq!(line["ready"], json!(["iscsi://a:1/b/0"]));
        assert_eq!(line["directory"], "/data");
        assert!(!told.contains('\n'));
    }
}
