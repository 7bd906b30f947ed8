//! Commands that ask a running node: `disk ...` and `status`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use hedgerow_env::{ByteCount, Env, parse_byte_count};
use hedgerow_net::admin;
use hedgerow_protocol::{
    AdminReply, AdminRequest, DiskState, DiskView, NodeState, PlacementRule, Policy, Residence,
    StatusView,
};
use serde_json::{Value, json};

use crate::out::say;
use crate::{dev, progress};

/// Where to ask, and how to answer.
#[derive(Args, Debug, Clone)]
pub(crate) struct ClientOptions {
    /// A node to ask, HOST:PORT [default: the cluster of `hedgerow dev`]
    #[arg(long, global = true, value_name = "ADDR", env = "HEDGEROW_CONNECT")]
    connect: Option<String>,
    /// The directory of the `hedgerow dev` cluster to ask
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "connect")]
    dir: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

/// `hedgerow disk ...`
#[derive(Subcommand, Debug)]
pub(crate) enum DiskCommand {
    /// Create a thin virtual disk
    Create(CreateDisk),
    /// List the virtual disks
    List,
    /// Show one virtual disk
    Show {
        /// Its name
        name: String,
    },
    /// Change the size of a virtual disk
    Resize {
        /// Its name
        name: String,
        /// The new size, such as 20GiB
        size: String,
    },
    /// Delete a virtual disk and all of its data
    Delete {
        /// Its name
        name: String,
    },
}

/// `hedgerow disk create`
#[derive(Args, Debug)]
pub(crate) struct CreateDisk {
    /// Its name: a-z, 0-9, '-', '.', ':'
    name: String,
    /// Its size, such as 10GiB
    size: String,
    /// Copies of each piece of data, 1 to 6
    #[arg(long, default_value_t = 3)]
    replication_factor: u8,
    /// What copies are spread over
    #[arg(long, value_enum, default_value = "agnostic")]
    placement: Placement,
    /// Block size in bytes: 512, 4096 or 65536
    #[arg(long, default_value_t = 4096)]
    block_size: u32,
    /// Kind of device
    #[arg(long, value_enum, default_value = "hdd")]
    residence: ResidenceName,
    /// Compress inline (Snappy)
    #[arg(long)]
    compression: bool,
    /// For people
    #[arg(long, default_value = "")]
    description: String,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Placement {
    Agnostic,
    RackAware,
    DataCentreAware,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum ResidenceName {
    Hdd,
    Flash,
}

/// Runs a disk command.
pub(crate) async fn disk(
    env: Env,
    options: &ClientOptions,
    command: DiskCommand,
) -> anyhow::Result<()> {
    let size = |text: &str| parse_byte_count(text).map_err(|error| anyhow::anyhow!(error));
    let request = match command {
        DiskCommand::Create(create) => AdminRequest::CreateDisk {
            nonce: env.random("disk-nonce").bits(),
            size_bytes: size(&create.size)?.0,
            policy: create.policy(),
            name: create.name,
            description: create.description,
        },
        DiskCommand::List => AdminRequest::ListDisks,
        DiskCommand::Show { name } => AdminRequest::ShowDisk { name },
        DiskCommand::Resize { name, size: text } => AdminRequest::ResizeDisk {
            name,
            size_bytes: size(&text)?.0,
        },
        DiskCommand::Delete { name } => AdminRequest::DeleteDisk { name },
    };
    match ask(env, options, &request).await? {
        AdminReply::Disks(disks) if options.json => {
            let disks: Vec<Value> = disks.iter().map(disk_json).collect();
            print_json(&json!({ "schema_version": 1, "disks": disks }));
        }
        AdminReply::Disks(disks) => print_disks(&disks),
        AdminReply::Disk(disk) if options.json => {
            print_json(&json!({ "schema_version": 1, "disk": disk_json(&disk) }));
        }
        AdminReply::Disk(disk) => print_disks(std::slice::from_ref(&disk)),
        AdminReply::Done if options.json => print_json(&json!({ "schema_version": 1 })),
        AdminReply::Done => say!("done"),
        other => bail!("unexpected answer: {other:?}"),
    }
    Ok(())
}

impl CreateDisk {
    fn policy(&self) -> Policy {
        Policy {
            replication_factor: self.replication_factor,
            placement: match self.placement {
                Placement::Agnostic => PlacementRule::Agnostic,
                Placement::RackAware => PlacementRule::RackAware,
                Placement::DataCentreAware => PlacementRule::DataCentreAware,
            },
            block_size: self.block_size,
            residence: match self.residence {
                ResidenceName::Hdd => Residence::Hdd,
                ResidenceName::Flash => Residence::Flash,
            },
            compression: self.compression,
            ..Policy::default()
        }
    }
}

/// Runs `hedgerow status`.
pub(crate) async fn status(env: Env, options: &ClientOptions) -> anyhow::Result<()> {
    let AdminReply::Status(status) = ask(env, options, &AdminRequest::Status).await? else {
        bail!("unexpected answer");
    };
    if options.json {
        print_json(&status_json(&status));
    } else {
        print_status(&status);
    }
    Ok(())
}

/// Asks the chosen node, or one of the development cluster's.
pub(crate) async fn ask(
    env: Env,
    options: &ClientOptions,
    request: &AdminRequest,
) -> anyhow::Result<AdminReply> {
    let addresses = match &options.connect {
        Some(address) => vec![address.clone()],
        None => dev::addresses(options.dir.as_deref())?,
    };
    let rpc = admin::client(env.clone())?;
    let mut last = String::new();
    for address in &addresses {
        let what = || format!("{} through {address}", doing(request));
        match progress::shown(&env, what, admin::ask(&rpc, address, request)).await {
            Ok(AdminReply::Refused(text)) => bail!(text),
            Ok(AdminReply::TryAgain(text)) => last = text,
            Ok(reply) => return Ok(reply),
            Err(error) => last = error.to_string(),
        }
    }
    bail!("no node could answer ({last}); is the cluster running? Name a node with --connect")
}

/// What is said while it takes longer than a second.
fn doing(request: &AdminRequest) -> &'static str {
    match request {
        AdminRequest::CreateDisk { .. } => "creating the disk",
        AdminRequest::ResizeDisk { .. } => "resizing the disk",
        AdminRequest::DeleteDisk { .. } => "deleting the disk",
        _ => "asking",
    }
}

fn print_json(value: &Value) {
    say!("{value}");
}

fn state_name(state: DiskState) -> &'static str {
    match state {
        DiskState::Ready => "ready",
        DiskState::Deleting => "deleting",
    }
}

fn placement_name(rule: PlacementRule) -> &'static str {
    match rule {
        PlacementRule::Agnostic => "agnostic",
        PlacementRule::RackAware => "rack-aware",
        PlacementRule::DataCentreAware => "data-centre-aware",
    }
}

fn disk_json(disk: &DiskView) -> Value {
    let record = &disk.record;
    json!({
        "name": record.name,
        "id": record.disk.0,
        "size_bytes": record.size_bytes,
        "replication_factor": record.policy.replication_factor,
        "policy": serde_json::to_value(&record.policy).unwrap_or(Value::Null),
        "block_size": record.policy.block_size,
        "state": state_name(record.state),
        "urls": disk.urls,
        "description": record.description,
    })
}

fn print_disks(disks: &[DiskView]) {
    say!(
        "{:<20} {:>10} {:>3} {:<18} {:>6} {:<9} URL",
        "NAME",
        "SIZE",
        "RF",
        "PLACEMENT",
        "BLOCK",
        "STATE"
    );
    for disk in disks {
        let record = &disk.record;
        say!(
            "{:<20} {:>10} {:>3} {:<18} {:>6} {:<9} {}",
            record.name,
            ByteCount(record.size_bytes).to_string(),
            record.policy.replication_factor,
            placement_name(record.policy.placement),
            record.policy.block_size,
            state_name(record.state),
            disk.urls.join(" "),
        );
    }
}

fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Down => "down",
        NodeState::Draining => "draining",
    }
}

fn status_json(status: &StatusView) -> Value {
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": format!("{:016x}", node.node.0),
                "name": node.name,
                "state": node_state(node.state),
                "reason": node.reason,
                "roles": node.roles.names(),
                "address": node.address,
                "data_centre": node.location.data_centre,
                "rack": node.location.rack,
            })
        })
        .collect();
    json!({
        "schema_version": 1,
        "cluster": status.cluster,
        "nodes": nodes,
        "disks": status.disks,
        "under_replicated_bytes": status.under_replicated_bytes,
        "damaged": status.damaged,
        "silent_groups": status.silent_groups,
    })
}

fn print_status(status: &StatusView) {
    say!("cluster           {}", status.cluster);
    say!("disks             {}", status.disks);
    say!(
        "under-replicated  {}",
        ByteCount(status.under_replicated_bytes)
    );
    say!("damaged copies    {}", status.damaged);
    if !status.silent_groups.is_empty() {
        say!(
            "no leader answered for shards {:?}: the sums above lack them",
            status.silent_groups
        );
    }
    say!();
    say!(
        "{:<16} {:<9} {:<22} {:<22} LOCATION",
        "NODE",
        "STATE",
        "ADDRESS",
        "ROLES"
    );
    for node in &status.nodes {
        say!(
            "{:<16} {:<9} {:<22} {:<22} {}/{}{}",
            node.name,
            node_state(node.state),
            node.address,
            node.roles.names().join("+"),
            node.location.data_centre,
            node.location.rack,
            if node.reason.is_empty() {
                String::new()
            } else {
                format!("  ({})", node.reason)
            },
        );
    }
}
