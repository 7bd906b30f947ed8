//! A network of namespaces: each node alone in its own, all on one bridge, and nftables on the bridge
//! that drops the packets of a cut link.
//!
//! Nothing stands between the nodes, so a partition is what a kernel makes of one: packets are lost,
//! TCP sends them again and backs off, and a connection that was idle never hears of it. It needs
//! root, `ip` and `nft`. The tester stands on the bridge and reaches every node, always.
//!
//! Does not: delay, damage or double (the fault proxy does); that would need a kernel with netem.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, bail};
use hedgerow_jepsen::run::{Fault, Link, TestPlan};

/// What the names of everything made here begin with; the tester's process number follows.
const PREFIX: &str = "hg";
/// The two first numbers of every address; a third one tells testers apart.
const NETWORK: &str = "10.213";
/// The tester's last number; nodes have theirs from 1.
const TESTER: u16 = 254;

/// The network of one test. What it made goes when it is dropped.
pub(super) struct Namespaces {
    tag: String,
    subnet: String,
    nodes: u16,
    cut: Mutex<BTreeSet<Link>>,
}

impl Namespaces {
    /// Whether the plan's links are only ever cut: all that is done here.
    pub(super) fn fit(plan: &TestPlan) -> bool {
        plan.faults.iter().all(|timed| match &timed.fault {
            Fault::Links { rules, .. } => *rules == hedgerow_jepsen::run::LinkRules::cut(),
            _ => true,
        })
    }

    /// Makes the network, after removing what testers left that were killed.
    pub(super) fn create(nodes: u16) -> anyhow::Result<Self> {
        remove_leftovers()?;
        let pid = std::process::id();
        let network = Self {
            tag: format!("{PREFIX}{pid:x}"),
            subnet: format!("{NETWORK}.{}", pid % 254),
            nodes,
            cut: Mutex::default(),
        };
        network.build()?;
        Ok(network)
    }

    fn build(&self) -> anyhow::Result<()> {
        let (tag, subnet) = (&self.tag, &self.subnet);
        let bridge = format!("{tag}-br");
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {subnet}.{TESTER}/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for node in 0..self.nodes {
            let (space, port) = (self.space(node), format!("{tag}-{}", node + 1));
            let inside = format!("-n {space}");
            ip(&format!("netns add {space}"))?;
            ip(&format!(
                "link add {port} type veth peer name eth0 netns {space}"
            ))?;
            ip(&format!("link set {port} master {bridge} up"))?;
            ip(&format!(
                "{inside} addr add {}/24 dev eth0",
                self.host(node)
            ))?;
            ip(&format!("{inside} link set eth0 up"))?;
            ip(&format!("{inside} link set lo up"))?;
        }
        nft(&self.table())
    }

    fn space(&self, node: u16) -> String {
        format!("{}-n{}", self.tag, node + 1)
    }

    /// The address of a node.
    pub(super) fn host(&self, node: u16) -> String {
        format!("{}.{}", self.subnet, node + 1)
    }

    /// The arguments of `ip` that run `program` in a node's namespace, in the same process.
    pub(super) fn within(&self, node: u16, program: &Path) -> Vec<String> {
        let program = program.display().to_string();
        vec!["netns".into(), "exec".into(), self.space(node), program]
    }

    /// The table with a counter for each link, and nothing cut.
    fn table(&self) -> String {
        let mut text = format!("table bridge {} {{\n", self.tag);
        for link in self.all() {
            writeln!(text, "  counter {} {{ }}", counter(link)).expect("text takes text");
        }
        text + "  chain cut { type filter hook forward priority 0; }\n}\n"
    }

    fn all(&self) -> impl Iterator<Item = Link> {
        let nodes = self.nodes;
        let pairs = (0..nodes).flat_map(move |from| (0..nodes).map(move |to| Link { from, to }));
        pairs.filter(|link| link.from != link.to)
    }

    /// The rules that drop what goes over the links in `cut`.
    fn rules(&self, cut: &BTreeSet<Link>) -> String {
        let tag = &self.tag;
        let mut text = format!("flush chain bridge {tag} cut\n");
        for link in cut {
            let (from, to, counter) = (self.host(link.from), self.host(link.to), counter(*link));
            writeln!(
                text,
                "add rule bridge {tag} cut ip saddr {from} ip daddr {to} counter name {counter} drop"
            )
            .expect("text takes text");
        }
        text
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<Link>)) -> anyhow::Result<()> {
        let mut cut = self.cut.lock().expect("no panic under this lock");
        change(&mut cut);
        nft(&self.rules(&cut))
    }

    /// Cuts some links.
    pub(super) fn cut(&self, links: &[Link]) -> anyhow::Result<()> {
        self.change(|cut| cut.extend(links))
    }

    /// Makes some links whole.
    pub(super) fn heal(&self, links: &[Link]) -> anyhow::Result<()> {
        self.change(|cut| cut.retain(|link| !links.contains(link)))
    }

    /// Makes every link whole.
    pub(super) fn heal_all(&self) -> anyhow::Result<()> {
        self.change(BTreeSet::clear)
    }

    /// Packets that were dropped on some links until now.
    pub(super) fn dropped(&self, links: &[Link]) -> anyhow::Result<u64> {
        let told =
            output(Command::new("nft").args(["list", "counters", "table", "bridge", &self.tag]))?;
        let packets = packets(&told);
        let found = links.iter().map(|link| packets.get(&counter(*link)));
        Ok(found.flatten().sum())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.tag) {
            eprintln!("hedgerow: the network of the test is not removed: {error:#}");
        }
    }
}

fn counter(link: Link) -> String {
    format!("l{}_{}", link.from, link.to)
}

/// The packets of each counter, as `nft list counters` tells them.
fn packets(told: &str) -> BTreeMap<String, u64> {
    let mut packets = BTreeMap::new();
    let mut name = None;
    for line in told.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["counter", counter, ..] => name = Some((*counter).to_owned()),
            ["packets", count, ..] => {
                if let (Some(name), Ok(count)) = (name.take(), count.parse()) {
                    packets.insert(name, count);
                }
            }
            _ => {}
        }
    }
    packets
}

/// Removes the namespaces, the bridge and the table called `tag`; what is not there is no error.
fn remove(tag: &str) -> anyhow::Result<()> {
    let spaces = output(Command::new("ip").args(["netns", "list"]))?;
    let own = format!("{tag}-");
    for space in spaces.lines().filter_map(|line| line.split(' ').next()) {
        if space.starts_with(&own) {
            ip(&format!("netns del {space}"))?;
        }
    }
    let bridge = format!("{tag}-br");
    if Path::new("/sys/class/net").join(&bridge).exists() {
        ip(&format!("link del {bridge}"))?;
    }
    let tables = output(Command::new("nft").args(["list", "tables", "bridge"]))?;
    let table = format!("table bridge {tag}");
    if tables.lines().any(|line| line == table) {
        nft(&format!("delete {table}\n"))?;
    }
    Ok(())
}

/// Removes what testers made that are gone.
fn remove_leftovers() -> anyhow::Result<()> {
    let spaces = output(Command::new("ip").args(["netns", "list"]))?;
    let tags: BTreeSet<&str> = spaces.lines().filter_map(tag_of).collect();
    for tag in tags {
        let pid = u32::from_str_radix(&tag[PREFIX.len()..], 16).unwrap_or_default();
        if !Path::new("/proc").join(pid.to_string()).exists() {
            remove(tag)?;
        }
    }
    Ok(())
}

/// The tester's tag in a namespace's name, if it is one of ours.
fn tag_of(space: &str) -> Option<&str> {
    let (tag, node) = space.split(' ').next()?.split_once("-n")?;
    let pid = tag.strip_prefix(PREFIX)?;
    let ours = u32::from_str_radix(pid, 16).is_ok() && node.parse::<u16>().is_ok();
    ours.then_some(tag)
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    output(Command::new("ip").args(arguments.split(' '))).map(drop)
}

fn nft(script: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("nft")?;
    let mut input = child.stdin.take().context("nft has an input")?;
    input.write_all(script.as_bytes())?;
    drop(input);
    let ended = child.wait_with_output()?;
    if !ended.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    Ok(())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().with_context(|| name.clone())?;
    if !ended.status.success() {
        let arguments: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{name} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_as_nft_tells_them() {
        let told = "table bridge hg1 {\n\tcounter l0_1 {\n\t\tpackets 12 bytes 900\n\t}\n\
                    \tcounter l1_0 {\n\t\tpackets 0 bytes 0\n\t}\n}\n";
        let packets = packets(told);
        assert_eq!(
            (packets["l0_1"], packets["l1_0"], packets.len()),
            (12, 0, 2)
        );
    }

    #[test]
    fn only_our_namespaces_are_ours() {
        assert_eq!(tag_of("hg1f-n2 (id: 3)"), Some("hg1f"));
        for other in ["hg1f-br", "hgzz-n1", "docker-n1", "hg1f-nx", ""] {
            assert_eq!(tag_of(other), None, "{other}");
        }
    }
}
