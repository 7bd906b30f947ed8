//! Rules on `Cargo.toml` files: the shape of the workspace.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::sources::HOMES;
use super::{Finding, Tree};

/// Which crates of the workspace a crate may depend on. Lower layers never know higher ones.
const EDGES: &[(&str, &[&str])] = &[
    ("hedgerow-env", &[]),
    ("hedgerow-protocol", &["hedgerow-env"]),
    ("hedgerow-net", &["hedgerow-env", "hedgerow-protocol"]),
    ("hedgerow-disk", &["hedgerow-env", "hedgerow-protocol"]),
    (
        "hedgerow-pages",
        &[
            "hedgerow-env",
            "hedgerow-protocol",
            "hedgerow-net",
            "hedgerow-disk",
        ],
    ),
    (
        "hedgerow-hblock",
        &[
            "hedgerow-env",
            "hedgerow-protocol",
            "hedgerow-net",
            "hedgerow-disk",
        ],
    ),
    (
        "hedgerow-proxy",
        &["hedgerow-env", "hedgerow-protocol", "hedgerow-net"],
    ),
    ("hedgerow-iscsi", &["hedgerow-env", "hedgerow-proxy"]),
    ("hedgerow-node", &[CORES, "hedgerow-iscsi"]),
    ("hedgerow-jepsen", &["hedgerow-env"]),
    (
        "hedgerow-jepsen-clients",
        &[
            "hedgerow-env",
            "hedgerow-protocol",
            "hedgerow-net",
            "hedgerow-iscsi",
            "hedgerow-jepsen",
        ],
    ),
    (
        "hedgerow-sim",
        &[
            CORES,
            "hedgerow-node",
            "hedgerow-iscsi",
            "hedgerow-jepsen",
            "hedgerow-jepsen-clients",
        ],
    ),
    (
        "hedgerow",
        &[
            "hedgerow-env",
            "hedgerow-protocol",
            "hedgerow-net",
            "hedgerow-disk",
            "hedgerow-node",
            "hedgerow-iscsi",
            "hedgerow-jepsen",
            "hedgerow-jepsen-clients",
        ],
    ),
    (
        "hedgerow-proptests",
        &[CORES, "hedgerow-node", "hedgerow-iscsi", "hedgerow-jepsen"],
    ),
    ("xtask", &[]),
];

/// Stands in [`EDGES`] for everything that `hedgerow-node` wires together.
const CORES: &str = "the cores";
const CORE_CRATES: &[&str] = &[
    "hedgerow-env",
    "hedgerow-protocol",
    "hedgerow-net",
    "hedgerow-disk",
    "hedgerow-pages",
    "hedgerow-hblock",
    "hedgerow-proxy",
];

/// The crates that are built for tests alone: they may plant bugs and need not hide them.
const TEST_CRATES: &[&str] = &["hedgerow-sim", "hedgerow-proptests"];

const REASONS: &str = "docs/decisions/0001-dependencies.md";
const DEPENDENCY_TABLES: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// A manifest, parsed, with its text for line numbers.
struct Manifest<'a> {
    path: &'a str,
    text: &'a str,
    table: Table,
}

impl Manifest<'_> {
    fn name(&self) -> &str {
        let package = self.table.get("package");
        package
            .and_then(|package| package.get("name")?.as_str())
            .unwrap_or_default()
    }

    /// Every dependency: (table, name, what stands there).
    fn dependencies(&self) -> impl Iterator<Item = (&'static str, &str, &Value)> {
        DEPENDENCY_TABLES.iter().flat_map(|kind| {
            let table = self.table.get(*kind).and_then(Value::as_table);
            table
                .into_iter()
                .flatten()
                .map(|(name, value)| (*kind, name.as_str(), value))
        })
    }

    /// The first line that begins with `start`; 1 when there is none.
    fn line(&self, start: &str) -> usize {
        let mut lines = self.text.lines();
        lines
            .position(|line| line.starts_with(start))
            .map_or(1, |index| index + 1)
    }

    fn finding(&self, start: &str, text: String) -> Finding {
        Finding::new(self.path, self.line(start), text)
    }
}

/// The manifests of the crates; the one of the workspace is apart.
fn manifests(tree: &Tree) -> (Vec<Manifest<'_>>, Vec<Finding>) {
    let (mut good, mut findings) = (Vec::new(), Vec::new());
    for (path, text) in tree.texts("/Cargo.toml") {
        match text.parse::<Table>() {
            Ok(table) => good.push(Manifest { path, text, table }),
            Err(error) => findings.push(Finding::new(path, 1, error.message().to_owned())),
        }
    }
    (good, findings)
}

fn workspace(tree: &Tree) -> Option<Manifest<'_>> {
    let path = "Cargo.toml";
    let text = tree.text(path)?;
    let table = text.parse::<Table>().ok()?;
    Some(Manifest { path, text, table })
}

fn allowed(package: &str) -> Option<BTreeSet<&'static str>> {
    let (_, edges) = EDGES.iter().find(|(name, _)| *name == package)?;
    let spread = |edge: &&'static str| -> Vec<&'static str> {
        if *edge == CORES {
            CORE_CRATES.to_vec()
        } else {
            vec![*edge]
        }
    };
    Some(edges.iter().flat_map(spread).collect())
}

pub(super) fn edges(tree: &Tree) -> Vec<Finding> {
    let (manifests, mut findings) = manifests(tree);
    let own: BTreeSet<&str> = manifests.iter().map(Manifest::name).collect();
    for manifest in &manifests {
        let name = manifest.name();
        let Some(allowed) = allowed(name) else {
            let text = format!("{name} has no row in the table of allowed edges (xtask tidy)");
            findings.push(manifest.finding("name", text));
            continue;
        };
        for (kind, dependency, _) in manifest.dependencies() {
            if own.contains(dependency) && !allowed.contains(dependency) {
                let text = format!("{name} may not depend on {dependency} ({kind})");
                findings.push(manifest.finding(dependency, text));
            }
        }
    }
    findings
}

pub(super) fn inheritance(tree: &Tree) -> Vec<Finding> {
    let (manifests, mut findings) = manifests(tree);
    for manifest in &manifests {
        let lints = manifest
            .table
            .get("lints")
            .and_then(|lints| lints.get("workspace"));
        if lints.and_then(Value::as_bool) != Some(true) {
            let text = "does not inherit the lints: [lints] workspace = true".to_owned();
            findings.push(manifest.finding("[lints]", text));
        }
        for (kind, name, value) in manifest.dependencies() {
            if value.get("workspace").and_then(Value::as_bool) != Some(true) {
                let text = format!("{name} ({kind}) is not taken from the workspace");
                findings.push(manifest.finding(name, text));
            }
        }
    }
    findings
}

pub(super) fn homes(tree: &Tree) -> Vec<Finding> {
    let (manifests, mut findings) = manifests(tree);
    for manifest in &manifests {
        for (_, name, _) in manifest.dependencies() {
            let crate_name = name.replace('-', "_");
            let home = HOMES.iter().find(|home| home.library == crate_name);
            if let Some(home) = home.filter(|home| home.package != manifest.name()) {
                let text = format!("only {} may depend on {name}", home.package);
                findings.push(manifest.finding(name, text));
            }
        }
    }
    findings
}

/// The feature `mutants` is chosen by hand or by a crate that is built for tests alone; and those
/// are never built together with the product by a plain `cargo build`.
pub(super) fn mutants(tree: &Tree) -> Vec<Finding> {
    let (manifests, mut findings) = manifests(tree);
    for manifest in &manifests {
        if TEST_CRATES.contains(&manifest.name()) {
            continue;
        }
        for feature in default_features(&manifest.table) {
            if feature == "mutants" || feature.ends_with("/mutants") {
                let text = format!("the default features turn on {feature}");
                findings.push(manifest.finding("default", text));
            }
        }
        for (kind, name, value) in manifest.dependencies() {
            let features = value.get("features").and_then(Value::as_array);
            let mut names = features.into_iter().flatten().filter_map(Value::as_str);
            if kind != "dev-dependencies" && names.any(|feature| feature == "mutants") {
                let text = format!("{name} is taken with its planted bugs");
                findings.push(manifest.finding(name, text));
            }
        }
    }
    if let Some(workspace) = workspace(tree) {
        let members = workspace
            .table
            .get("workspace")
            .and_then(|w| w.get("default-members"));
        let members = members.and_then(Value::as_array);
        let only_cli = members.is_some_and(|m| m.len() == 1 && m[0].as_str() == Some("cli"));
        if !only_cli {
            let text = "default-members is not [\"cli\"]: a plain build would unify the features \
                        of tests into the product";
            findings.push(workspace.finding("default-members", text.to_owned()));
        }
    }
    findings
}

/// What `default` turns on, through the crate's own features.
fn default_features(table: &Table) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec!["default".to_owned()]);
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let next = table
            .get("features")
            .and_then(|features| features.get(&name)?.as_array());
        let next = next.into_iter().flatten().filter_map(Value::as_str);
        open.extend(next.map(str::to_owned));
    }
    seen
}

pub(super) fn reasons(tree: &Tree) -> Vec<Finding> {
    let Some(workspace) = workspace(tree) else {
        return vec![Finding::new("Cargo.toml", 1, "cannot be read")];
    };
    let page = tree.text(REASONS).unwrap_or_default();
    let mut findings = Vec::new();
    let dependencies = workspace
        .table
        .get("workspace")
        .and_then(|w| w.get("dependencies"));
    let dependencies = dependencies.and_then(Value::as_table).into_iter().flatten();
    let outside = dependencies.filter(|(_, value)| value.get("path").is_none());
    let names: BTreeSet<&str> = outside.map(|(name, _)| name.as_str()).collect();
    for name in &names {
        if !page.lines().any(|line| named_in_row(line) == Some(*name)) {
            let text = format!("{name} has no row in {REASONS}");
            findings.push(workspace.finding(name, text));
        }
    }
    for (number, line) in page.lines().enumerate() {
        let stale = named_in_row(line).filter(|name| !names.contains(name));
        if let Some(name) = stale {
            let text = format!("{name} is no dependency any more");
            findings.push(Finding::new(REASONS, number + 1, text));
        }
    }
    findings
}

/// The name in a row such as "| `redb` | ... |".
fn named_in_row(line: &str) -> Option<&str> {
    line.strip_prefix("| `")?.split('`').next()
}

#[cfg(test)]
mod tests;
