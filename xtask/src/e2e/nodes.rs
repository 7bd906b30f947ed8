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
/// How much of the copy is done when the node is killed.
const KILL_AFTER: Duration = Duration::from_millis(700);
const DISK: &str = "volume";

struct Cluster {
    nodes: Vec<Node>,
    url: String,
}

pub(super) fn tell(folder: &Path) -> anyhow::Result<String> {
    let image = step("make a file system of the tree", || image::make(folder))?;
    let mut cluster = step("start three nodes, create a disk", || start(folder))?;
    step("restart the node that exports", || {
        cluster.restart_exporter()
    })?;
    let mut caught_up = Vec::new();
    for victim in [1, 2] {
        let name = cluster.nodes[victim].name.clone();
        step(
            &format!("copy the image, kill -9 {name} in the middle"),
            || cluster.copy_while_killing(&image, victim),
        )?;
        step("read it back and compare", || {
            qemu::compare(&image, &cluster.url, image::IMAGE_BYTES)
        })?;
        let seconds = step(&format!("start {name}: it catches up"), || {
            cluster.bring_back(victim)
        })?;
        caught_up.push(format!("{name} caught up in {seconds:.1} s"));
    }
    step("compare, all nodes up", || {
        qemu::compare(&image, &cluster.url, image::IMAGE_BYTES)
    })?;
    for node in &mut cluster.nodes {
        step(&format!("SIGTERM to {}", node.name.clone()), || {
            node.terminate()
        })?;
    }
    Ok(caught_up.join(", "))
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

    fn copy_while_killing(&mut self, image: &Path, victim: usize) -> anyhow::Result<()> {
        let mut copy = qemu::start_copy(image, &self.url)?;
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
