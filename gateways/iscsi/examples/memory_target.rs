//! Serves disks in memory over real TCP, for conformance kits and real clients.
//!
//! `cargo run -p hedgerow-iscsi --example memory_target -- 127.0.0.1:3261 1024 512` exports a disk of
//! 1024 MiB with blocks of 512 bytes as `iqn.2026-11.io.hedgerow:memory`, and another one, guarded
//! by CHAP (user `alice`, secret `correct-horse-battery`), as `iqn.2026-11.io.hedgerow:guarded`.

use std::error::Error;
use std::sync::Arc;

use hedgerow_iscsi::memory::{MemoryCatalog, MemoryDisk};
use hedgerow_iscsi::{ChapAccount, ChapCredentials, Geometry, IscsiServer, target_name};

mod host;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, mebibytes, block_size] = arguments.as_slice() else {
        return Err("usage: memory_target ADDRESS:PORT MEBIBYTES BLOCK_SIZE".into());
    };
    let block_size: u32 = block_size.parse()?;
    let bytes = mebibytes.parse::<u64>()? << 20;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(
        address,
        Geometry::new(block_size, bytes / u64::from(block_size)),
    ))
}

async fn serve(address: &str, geometry: Geometry) -> Result<(), Box<dyn Error>> {
    let env = host::env();
    let catalog = Arc::new(MemoryCatalog::default());
    let open = target_name("memory")?;
    catalog.export(&open, Arc::new(MemoryDisk::new(geometry)), [0x11; 16], None);
    let account = |user: &str, secret: &str| ChapAccount {
        user: user.to_owned(),
        secret: secret.as_bytes().to_vec(),
    };
    let chap = ChapCredentials {
        initiator: account("alice", "correct-horse-battery"),
        target: Some(account("hedgerow", "staple-battery-horse")),
    };
    let guarded = target_name("guarded")?;
    catalog.export(
        &guarded,
        Arc::new(MemoryDisk::new(geometry)),
        [0x22; 16],
        Some(chap),
    );

    let server = IscsiServer::start(&env, address, catalog).await?;
    println!("ready iscsi://{}/{open}/0", server.address());
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
