//! Three processes; one that does not export the disk is killed in the middle of a copy.
//!
//! Node 1 exports. It is restarted before the first copy, so that no shard has its leader there: of
//! nodes 2 and 3, each killed in a copy of its own, one leads the shard in use.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::cluster::{Node, ask_node, free_ports, url_of, wait_until, whole};
use super::{image, qemu, step};

/// The cluster forms within the time that a person waits for `dev`.
const FORM_LIMIT: Duration = Duration::from_secs(30);
/// A returned node fetches at most one image; it takes seconds.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(90);
/// The copy takes a few seconds, however fast the machine is; the node is killed well within them.
const COPY_RATE: &str = "64M";
const KILL_AFTER: Duration = Duration::from_millis(900);
const DISK: &str = "volume";

struct Cluster {
    nodes: Vec<Node>,
    url: String,
}

pub(super) fn tell(folder: &Path) -> anyhow::Result<String> {
    let mut cluster = step("start three nodes, create a disk", || start(folder))?;
    step("restart the node that exports", || {
        cluster.restart_exporter()
    })?;
    let mut figures = Vec::new();
    for (edition, victim) in [(0, 1), (1, 2)] {
        figures.push(cluster.lose_one(folder, edition, victim)?);
    }
    for node in &mut cluster.nodes {
        step(&format!("SIGTERM to {}", node.name.clone()), || {
            node.terminate()
        })?;
    }
    Ok(figures.join(", "))
}

fn start(folder: &Path) -> anyhow::Result<Cluster> {
    let ports = free_ports(4)?;
    let addresses: Vec<String> = ports[..3]
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let portal = format!("127.0.0.1:{}", ports[3]);
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let portal = (number == 1).then_some(portal.as_str());
        nodes.push(Node::configure(folder, number, &addresses, portal)?);
    }
    for node in &mut nodes {
        node.start()?;
    }
    let first = nodes[0].address.clone();
    wait_until(
        FORM_LIMIT,
        || ask_node(&first, &["status"]),
        |status| whole(status, 3),
    )?;
    ask_node(&first, &["disk", "create", DISK, "1GiB"])?;
    let list = || ask_node(&first, &["disk", "list"]);
    let url = wait_until(FORM_LIMIT, list, |list| url_of(list, DISK))?;
    Ok(Cluster { nodes, url })
}

impl Cluster {
    /// Leaderships move to the others and stay there; the disk keeps its URL.
    fn restart_exporter(&mut self) -> anyhow::Result<()> {
        self.nodes[0].kill()?;
        let other = self.nodes[1].address.clone();
        let down = |status: &serde_json::Value| {
            let nodes = status["nodes"].as_array()?;
            nodes
                .iter()
                .any(|node| node["state"] == "down")
                .then_some(())
        };
        wait_until(FORM_LIMIT, || ask_node(&other, &["status"]), down)?;
        self.nodes[0].start()?;
        wait_until(
            FORM_LIMIT,
            || ask_node(&other, &["status"]),
            |status| whole(status, 3),
        )?;
        // A node tells the URLs of its own portal.
        let exporter = self.nodes[0].address.clone();
        let list = || ask_node(&exporter, &["disk", "list"]);
        let url = wait_until(FORM_LIMIT, list, |list| url_of(list, DISK))?;
        if url != self.url {
            bail!("the URL changed from {} to {url}", self.url);
        }
        Ok(())
    }

    /// One copy, one kill, one return. Each copy has an image of its own, so that what an earlier one
    /// left behind is not taken for it.
    fn lose_one(&mut self, folder: &Path, edition: u64, victim: usize) -> anyhow::Result<String> {
        let name = self.nodes[victim].name.clone();
        let image = step("make a file system of the tree", || {
            image::make(folder, edition)
        })?;
        step(
            &format!("copy the image, kill -9 {name} in the middle"),
            || self.copy_while_killing(&image, victim),
        )?;
        step("read it back and compare", || {
            qemu::compare(&image, &self.url, image::IMAGE_BYTES)
        })?;
        let lacking = self.lacking()?;
        let seconds = step(&format!("start {name}: it catches up"), || {
            self.bring_back(victim)
        })?;
        step("compare, all nodes up", || {
            qemu::compare(&image, &self.url, image::IMAGE_BYTES)
        })?;
        std::fs::remove_file(&image)?;
        Ok(format!(
            "{name} caught up with {} MiB in {seconds:.1} s",
            lacking >> 20
        ))
    }

    /// The bytes that lack a copy, which are not none while a node is away.
    fn lacking(&self) -> anyhow::Result<u64> {
        let address = &self.nodes[0].address;
        let lacking = |status: &serde_json::Value| {
            let bytes = status["under_replicated_bytes"].as_u64()?;
            (bytes > 0).then_some(bytes)
        };
        wait_until(FORM_LIMIT, || ask_node(address, &["status"]), lacking)
            .context("a node is away, and nothing lacks a copy")
    }

    fn copy_while_killing(&mut self, image: &Path, victim: usize) -> anyhow::Result<()> {
        let mut copy = qemu::start_copy(image, &self.url, COPY_RATE)?;
        std::thread::sleep(KILL_AFTER);
        if !copy.running()? {
            bail!("the copy was over before the kill{}", copy.tail());
        }
        self.nodes[victim].kill()?;
        copy.finish(qemu::COPY_LIMIT)?;
        let others = self
            .nodes
            .iter_mut()
            .enumerate()
            .filter(|(number, _)| *number != victim);
        for (_, node) in others {
            node.must_run().context("a node that nobody killed")?;
        }
        Ok(())
    }

    /// Returns the seconds until nothing lacks a copy.
    fn bring_back(&mut self, victim: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.nodes[victim].start()?;
        let address = self.nodes[0].address.clone();
        let status = || ask_node(&address, &["status"]);
        wait_until(CATCH_UP_LIMIT, status, |status| whole(status, 3))?;
        Ok(began.elapsed().as_secs_f64())
    }
}
