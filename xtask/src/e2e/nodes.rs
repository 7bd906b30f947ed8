//! Three processes; one that does not export the disk is killed in the middle of a copy.
//!
//! Node 1 exports. The disk is one container, so one shard is in use; `status` says which, and who
//! leads it. In the first copy that leader is killed; should it be node 1, node 1 is restarted first,
//! so that the lead goes to another. In the second copy it is the node that is left; before that the shard
//! in use is split until the disk is in a new one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

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
/// The node that exports.
const EXPORTER: usize = 0;
/// A node that is restarted loses what it leads, unless an election happens to bring it back.
const RESTARTS: usize = 4;

/// A shard's half has the disk's one container or has not: so many splits in a row keep it in its place
/// by no chance.
const SPLITS: usize = 8;

/// Who is killed.
#[derive(Clone, Copy)]
enum Victim {
    /// Whoever leads the shard in use at that moment. It does not export.
    Leader,
    /// This node.
    Node(usize),
}

struct Cluster {
    nodes: Vec<Node>,
    url: String,
}

pub(super) fn tell(folder: &Path) -> anyhow::Result<String> {
    let mut cluster = step("start three nodes, create a disk", || start(folder))?;
    let url = cluster.url.clone();
    step("write a block, so that the disk is in a shard", || {
        qemu::io(&url, &["write -P 0x11 0 4k", "flush"])
    })?;
    step("have another than the exporting node lead it", || {
        cluster.lead_elsewhere()
    })?;
    let (leader, first) = cluster.lose_one(folder, 0, Victim::Leader)?;
    let mut others = (0..cluster.nodes.len()).filter(|node| ![EXPORTER, leader].contains(node));
    let other = others.next().context("there are three nodes")?;
    let splits = step("split the shard in use until the disk has moved", || {
        cluster.move_by_splits()
    })?;
    let (_, second) = cluster.lose_one(folder, 1, Victim::Node(other))?;
    let figures = [first, splits, second];
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

/// The shard which holds the disk's one container; nothing while one has no leader.
fn in_use(status: &Value) -> anyhow::Result<Option<&Value>> {
    let shards = status["shards"].as_array().context("status: shards")?;
    let used = |shard: &&Value| shard["containers"].as_u64().is_some_and(|count| count > 0);
    let in_use: Vec<&Value> = shards.iter().filter(used).collect();
    let [shard] = in_use[..] else {
        // A shard without a leader does not tell what it holds.
        if shards.iter().any(|shard| shard["leader"].is_null()) {
            return Ok(None);
        }
        bail!("one shard should be in use: {shards:?}");
    };
    Ok(Some(shard))
}

impl Cluster {
    /// The number of the shard in use.
    fn shard_in_use(&self) -> anyhow::Result<u64> {
        let status = || ask_node(&self.nodes[EXPORTER].address, &["status"]);
        let number = |status: &Value| in_use(status).ok()??["shard"].as_u64();
        wait_until(FORM_LIMIT, status, number)
    }

    /// Splits the shard in use, and again the one in use then, until the disk is in a new one.
    fn move_by_splits(&self) -> anyhow::Result<String> {
        let address = &self.nodes[EXPORTER].address;
        let first = self.shard_in_use()?;
        for count in 1..=SPLITS {
            let number = first.to_string();
            let done = ask_node(address, &["shard", "split", &number])?;
            let new = done["split"]["to"].as_u64().context("the new shard")?;
            let list = ask_node(address, &["shard", "list"])?;
            let shards = list["shards"].as_array().context("shards")?;
            if !shards.iter().any(|shard| shard["shard"] == new) || !list["split"].is_null() {
                bail!("after the split: {list}");
            }
            if self.shard_in_use()? == new {
                return Ok(format!("moved by {count} splits"));
            }
        }
        bail!("the disk is in shard {first} after {SPLITS} splits")
    }

    /// The node that leads the shard which holds the disk's one container; nothing while it has no
    /// leader.
    fn leader_in_use(&self, asked: usize) -> anyhow::Result<Option<usize>> {
        let status = ask_node(&self.nodes[asked].address, &["status"])?;
        let Some(shard) = in_use(&status)? else {
            return Ok(None);
        };
        let members = shard["members"].as_array().map_or(0, Vec::len);
        if members != self.nodes.len() {
            bail!("each node should be a member: {shard}");
        }
        let leader = shard["leader"].as_str().context("status: leader")?;
        let mut names = self.nodes.iter().map(|node| node.name.as_str());
        let number = names.position(|name| name == leader);
        Ok(Some(number.context("the leader is none of the nodes")?))
    }

    /// As [`Cluster::leader_in_use`], once there is one that `wanted` takes.
    fn await_leader(&self, asked: usize, wanted: impl Fn(usize) -> bool) -> anyhow::Result<usize> {
        let end = Instant::now() + FORM_LIMIT;
        loop {
            // A cluster that elects may refuse to answer for a moment.
            let answer = self.leader_in_use(asked);
            if let Ok(Some(leader)) = answer
                && wanted(leader)
            {
                return Ok(leader);
            }
            if Instant::now() >= end {
                bail!("not so after {} s: {answer:?}", FORM_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Restarts the exporting node until another one leads the shard in use.
    fn lead_elsewhere(&mut self) -> anyhow::Result<()> {
        for _ in 0..RESTARTS {
            if self.await_leader(EXPORTER, |_| true)? != EXPORTER {
                return Ok(());
            }
            self.restart_exporter()?;
        }
        bail!("the exporting node leads the shard in use after {RESTARTS} restarts")
    }

    /// Leaderships move to the others and stay there; the disk keeps its URL.
    fn restart_exporter(&mut self) -> anyhow::Result<()> {
        self.nodes[EXPORTER].kill()?;
        let other = self.nodes[1].address.clone();
        let down = |status: &Value| {
            let nodes = status["nodes"].as_array()?;
            nodes
                .iter()
                .any(|node| node["state"] == "down")
                .then_some(())
        };
        wait_until(FORM_LIMIT, || ask_node(&other, &["status"]), down)?;
        self.nodes[EXPORTER].start()?;
        wait_until(
            FORM_LIMIT,
            || ask_node(&other, &["status"]),
            |status| whole(status, 3),
        )?;
        // A node tells the URLs of its own portal.
        let exporter = self.nodes[EXPORTER].address.clone();
        let list = || ask_node(&exporter, &["disk", "list"]);
        let url = wait_until(FORM_LIMIT, list, |list| url_of(list, DISK))?;
        if url != self.url {
            bail!("the URL changed from {} to {url}", self.url);
        }
        Ok(())
    }

    /// One copy, one kill, one return. Each copy has an image of its own, so that what an earlier one
    /// left behind is not taken for it.
    /// Tells who was killed, and the figures.
    fn lose_one(
        &mut self,
        folder: &Path,
        edition: u64,
        victim: Victim,
    ) -> anyhow::Result<(usize, String)> {
        let whom = match victim {
            Victim::Leader => "the leader of the shard in use",
            Victim::Node(number) => &self.nodes[number].name.clone(),
        };
        let image = step("make a file system of the tree", || {
            image::make(folder, edition)
        })?;
        let killed = step(
            &format!("copy the image, kill -9 {whom} in the middle"),
            || self.copy_while_killing(&image, victim),
        )?;
        let name = self.nodes[killed].name.clone();
        step("read it back and compare", || {
            qemu::compare(&image, &self.url, image::IMAGE_BYTES)
        })?;
        let lacking = self.lacking()?;
        let seconds = step(&format!("start {name}: it catches up"), || {
            self.bring_back(killed)
        })?;
        step("compare, all nodes up", || {
            qemu::compare(&image, &self.url, image::IMAGE_BYTES)
        })?;
        std::fs::remove_file(&image)?;
        let role = match victim {
            Victim::Leader => "the leader ",
            Victim::Node(_) => "",
        };
        let mib = lacking >> 20;
        let figures = format!("{role}{name} caught up with {mib} MiB in {seconds:.1} s");
        Ok((killed, figures))
    }

    /// The bytes that lack a copy, which are not none while a node is away.
    fn lacking(&self) -> anyhow::Result<u64> {
        let address = &self.nodes[EXPORTER].address;
        let lacking = |status: &Value| {
            let bytes = status["under_replicated_bytes"].as_u64()?;
            (bytes > 0).then_some(bytes)
        };
        wait_until(FORM_LIMIT, || ask_node(address, &["status"]), lacking)
            .context("a node is away, and nothing lacks a copy")
    }

    /// Returns who was killed.
    fn copy_while_killing(&mut self, image: &Path, victim: Victim) -> anyhow::Result<usize> {
        let mut copy = qemu::start_copy(image, &self.url, COPY_RATE)?;
        std::thread::sleep(KILL_AFTER);
        let killed = match victim {
            Victim::Leader => self.await_leader(EXPORTER, |_| true)?,
            Victim::Node(number) => number,
        };
        if killed == EXPORTER {
            bail!("the lead went back to the exporting node before the kill");
        }
        if !copy.running()? {
            bail!("the copy was over before the kill{}", copy.tail());
        }
        self.nodes[killed].kill()?;
        if let Victim::Leader = victim {
            // That it led shows in that another one has to.
            self.await_leader(EXPORTER, |leader| leader != killed)?;
        }
        copy.finish(qemu::COPY_LIMIT)?;
        let others = self
            .nodes
            .iter_mut()
            .enumerate()
            .filter(|(number, _)| *number != killed);
        for (_, node) in others {
            node.must_run().context("a node that nobody killed")?;
        }
        Ok(killed)
    }

    /// Returns the seconds until nothing lacks a copy.
    fn bring_back(&mut self, victim: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.nodes[victim].start()?;
        let address = self.nodes[EXPORTER].address.clone();
        let status = || ask_node(&address, &["status"]);
        wait_until(CATCH_UP_LIMIT, status, |status| whole(status, 3))?;
        Ok(began.elapsed().as_secs_f64())
    }
}
