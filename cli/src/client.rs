//! Commands on virtual disks: `disk ...`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use hedgerow_env::{ByteCount, Env, parse_byte_count};
use hedgerow_protocol::{
    AdminReply, AdminRequest, DiskRecord, DiskState, DiskView, PlacementRule, Policy, Residence,
};
use serde_json::{Value, json};

use crate::asking::ask;
use crate::out::say;

/// Where to ask, and how to answer.
#[derive(Args, Debug, Clone)]
pub(crate) struct ClientOptions {
    /// A node to ask, HOST:PORT [default: the cluster of `hedgerow dev`]
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "HEDGEROW_CONNECT",
        value_parser = node_address
    )]
    pub(crate) connect: Option<String>,
    /// The directory of the `hedgerow dev` cluster to ask
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "connect")]
    pub(crate) dir: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

fn node_address(text: &str) -> Result<String, String> {
    hedgerow_node::check_address(text, false).map(|()| text.to_owned())
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
    /// Its name: 1 to 128 of a-z, 0-9, '-' and '.'
    name: String,
    /// Its size, such as 10GiB
    size: String,
    /// Copies of each piece of data, 1 to 6
    #[arg(long, default_value_t = 3)]
    replication_factor: u8,
    /// What copies are spread over
    #[arg(long, value_enum, default_value = "agnostic")]
    placement: Placement,
    /// Block size in bytes: 512, 4096 or 65536. Every initiator takes 512; that of qemu 10 aborts
    /// at reads of 64 KiB and more from a disk of larger blocks
    #[arg(long, default_value_t = 512)]
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
        // Once by its name, then by what that told: a repeat is then never about another disk of that
        // name, and what has taken effect is not taken for a disk that never was.
        DiskCommand::Resize { name, size: text } => {
            let size_bytes = size(&text)?.0;
            let seen = look_up(&env, options, name).await?;
            AdminRequest::ResizeSeenDisk {
                disk: seen.disk,
                from_bytes: seen.size_bytes,
                generation: seen.generation,
                size_bytes,
            }
        }
        DiskCommand::Delete { name } => AdminRequest::DeleteDiskById {
            disk: look_up(&env, options, name).await?.disk,
        },
    };
    match ask(&env, options, &request).await? {
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

/// Has a node drained, or takes that back.
pub(crate) async fn drain(
    env: Env,
    options: &ClientOptions,
    node: String,
    draining: bool,
) -> anyhow::Result<()> {
    match ask(&env, options, &AdminRequest::SetDraining { node, draining }).await? {
        AdminReply::Done if options.json => print_json(&json!({ "schema_version": 1 })),
        AdminReply::Done if draining => say!("draining; `hedgerow status` tells what is left"),
        AdminReply::Done => say!("done"),
        other => bail!("unexpected answer: {other:?}"),
    }
    Ok(())
}

/// What the root knows of the disk that has this name now.
async fn look_up(env: &Env, options: &ClientOptions, name: String) -> anyhow::Result<DiskRecord> {
    match ask(env, options, &AdminRequest::ShowDisk { name }).await? {
        AdminReply::Disk(disk) => Ok(disk.record),
        other => bail!("unexpected answer: {other:?}"),
    }
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

/// One line of JSON, on standard output.
pub(crate) fn print_json(value: &Value) {
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
