//! The first hour of a newcomer: `hedgerow dev`, a file system copied onto its disk, a kill, a restart.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::cluster::{Dev, DevStart, free_ports, url_of};
use super::{image, qemu, step};
use crate::usage::Usage;

/// Elections and the first duties after a start are over by then.
const SETTLE: Duration = Duration::from_secs(15);
const IDLE_WINDOW: Duration = Duration::from_secs(20);
/// What idle may cost. A release build has to stay within 3 %, which `cargo xtask bench` measures; this
/// one has assertions and little optimisation. Processor time hardly depends on what else runs.
const IDLE_PERCENT: f64 = 6.0;
const IDLE_MEBIBYTES: u64 = 300;

pub(super) fn tell(folder: &Path) -> anyhow::Result<String> {
    let image = step("make a file system of the tree", || image::make(folder, 0))?;
    let data = folder.join("data");
    let start = DevStart::new(&data, free_ports(1)?[0]);

    let mut dev = step("start hedgerow dev in an empty folder", || start.start())?;
    let first_start = dev.ready_after;
    let url = dev.url.clone();
    check_list(&dev.ask(&["disk", "list"])?, &url)?;
    check_status(&dev.ask(&["status"])?)?;
    step("make a disk, cut it, let it grow, delete it", || {
        lifecycle(&dev)
    })?;
    step("copy the image", || qemu::copy(&image, &url))?;
    step("read it back and compare", || {
        qemu::compare(&image, &url, image::IMAGE_BYTES)
    })?;
    step("patterns, discard and flush", || patterns(&url))?;

    step("kill -9, start", || {
        dev.process.kill()?;
        dev = start.start()?;
        Ok(())
    })?;
    let second_start = dev.ready_after;
    if dev.url != url {
        bail!("the URL changed from {url} to {}", dev.url);
    }
    step("compare", || {
        qemu::compare(&image, &url, image::IMAGE_BYTES)
    })?;
    step("patterns are still there", || patterns_survived(&url))?;

    step("Ctrl-C, start", || {
        dev.interrupt()?;
        dev = start.start()?;
        Ok(())
    })?;
    step("compare", || {
        qemu::compare(&image, &url, image::IMAGE_BYTES)
    })?;
    let cost = step("nobody does anything", || idle(dev.process.pid()))?;
    step("Ctrl-C", || dev.interrupt())?;
    step("the image is a sound file system", || image::check(&image))?;
    Ok(format!(
        "ready after {:.1} s, after kill -9 in {:.1} s; {cost}",
        first_start.as_secs_f64(),
        second_start.as_secs_f64()
    ))
}

/// Processor time and memory of a cluster with an image on it that nobody uses.
fn idle(pid: u32) -> anyhow::Result<String> {
    std::thread::sleep(SETTLE);
    let before = Usage::of(pid)?;
    std::thread::sleep(IDLE_WINDOW);
    let after = Usage::of(pid)?;
    let percent = after.since(&before) / IDLE_WINDOW.as_secs_f64() * 100.0;
    let mebibytes = after.memory_bytes >> 20;
    let cost = format!("idle {percent:.1} % of a core and {mebibytes} MiB");
    if percent > IDLE_PERCENT || mebibytes > IDLE_MEBIBYTES {
        bail!("{cost}; {IDLE_PERCENT} % and {IDLE_MEBIBYTES} MiB are allowed");
    }
    Ok(cost)
}

/// Beyond the image. What is discarded reads as zeros, beside what is not.
fn patterns(url: &str) -> anyhow::Result<()> {
    qemu::io(
        url,
        &[
            "write -P 0xab 512M 1M",
            "read -P 0xab 512M 1M",
            "discard 512M 512k",
            "read -P 0 512M 512k",
            "read -P 0xab 524800k 512k",
            // One block, a few that begin in the middle of a page, and both sides of a container's border.
            "write -P 0xcd 700M 512",
            "write -P 0xce 734007808 4k",
            "write -P 0xcf 1073737728 8k",
            "read -P 0xcd 700M 512",
            "read -P 0xce 734007808 4k",
            "read -P 0xcf 1073737728 8k",
            "write -z 900M 1M",
            "read -P 0 900M 1M",
            "read -P 0 5G 1M",
            "flush",
        ],
    )
}

fn patterns_survived(url: &str) -> anyhow::Result<()> {
    qemu::io(
        url,
        &[
            "read -P 0 512M 512k",
            "read -P 0xab 524800k 512k",
            "read -P 0xcd 700M 512",
            "read -P 0xce 734007808 4k",
            "read -P 0xcf 1073737728 8k",
        ],
    )
}

/// A disk's life by the command line, and that its second death is refused, in JSON.
fn lifecycle(dev: &Dev) -> anyhow::Result<()> {
    let size = |arguments: &[&str]| {
        let answer = dev.ask(arguments)?;
        let size = answer["disk"]["size_bytes"].as_u64();
        size.with_context(|| format!("{arguments:?}: {answer}"))
    };
    let sizes = [
        size(&["disk", "create", "scratch", "2GiB"])?,
        size(&["disk", "resize", "scratch", "1GiB"])?,
        size(&["disk", "resize", "scratch", "3GiB"])?,
    ];
    if sizes != [2 << 30, 1 << 30, 3 << 30] {
        bail!("disk resize: {sizes:?}");
    }
    dev.ask(&["disk", "delete", "scratch"])?;
    let list = dev.ask(&["disk", "list"])?;
    let names = list["disks"].as_array().map_or(0, Vec::len);
    if names != 1 {
        bail!("disk list after the deletion: {list}");
    }
    match dev.ask(&["disk", "delete", "scratch"]) {
        Ok(answer) => bail!("a disk that is gone was deleted: {answer}"),
        Err(error) => {
            let text = format!("{error:#}");
            if !text.contains("no virtual disk is called") || !text.contains("\"exit_code\":1") {
                bail!("a disk that is gone was not refused: {text}");
            }
        }
    }
    Ok(())
}

/// The fields that scripts rely on.
fn check_list(list: &Value, url: &str) -> anyhow::Result<()> {
    if url_of(list, "demo").as_deref() != Some(url) {
        bail!("disk list does not show {url}: {list}");
    }
    let disk = &list["disks"][0];
    let good = disk["id"].is_u64()
        && disk["size_bytes"] == 10_u64 << 30
        && disk["replication_factor"] == 3
        && disk["policy"].is_object()
        && disk["block_size"] == 512
        && disk["state"] == "ready";
    if !good {
        bail!("disk list: a field is missing or wrong: {disk}");
    }
    Ok(())
}

fn check_status(status: &Value) -> anyhow::Result<()> {
    let nodes = status["nodes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let good_node = |node: &Value| {
        let roles = node["roles"].as_array().map_or(0, Vec::len);
        node["id"].is_string()
            && node["name"].is_string()
            && node["state"] == "up"
            && node["reason"].is_string()
            && roles == 3
    };
    let good = status["cluster"].is_string()
        && nodes.len() == 3
        && nodes.iter().all(good_node)
        && status["disks"] == 1
        && status["under_replicated_bytes"].is_u64()
        && status["damaged"] == 0
        && status["silent_nodes"].is_array()
        && status["shards"].is_array();
    if !good {
        bail!("status: a field is missing or wrong: {status}");
    }
    Ok(())
}
