//! Small workspaces, each of which breaks one rule.

use super::*;
use crate::tidy::found;

const LINTS: &str = "[lints]\nworkspace = true\n";

fn package(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\n{LINTS}{rest}")
}

fn on(check: fn(&Tree) -> Vec<Finding>, path: &str, manifest: &str) -> Vec<String> {
    let env = package("hedgerow-env", "");
    let net = package("hedgerow-net", "");
    let root = "[workspace]\ndefault-members = [\"cli\"]\n";
    let mut files = vec![
        ("Cargo.toml", root),
        ("core/env/Cargo.toml", env.as_str()),
        ("net/Cargo.toml", net.as_str()),
    ];
    files.retain(|(known, _)| *known != path);
    files.push((path, manifest));
    found(check, &files)
}

#[test]
fn layers_know_only_what_is_below_them() {
    let rest = "[dependencies]\nhedgerow-env.workspace = true\nhedgerow-net.workspace = true\n";
    let good = package(
        "hedgerow-disk",
        "[dependencies]\nhedgerow-env.workspace = true\n",
    );
    assert_eq!(on(edges, "disk/Cargo.toml", &good), Vec::<String>::new());
    let bad = package("hedgerow-disk", rest);
    assert_eq!(
        on(edges, "disk/Cargo.toml", &bad),
        ["disk/Cargo.toml:7: hedgerow-disk may not depend on hedgerow-net (dependencies)"]
    );
    let node = package("hedgerow-node", rest);
    assert_eq!(
        on(edges, "core/node/Cargo.toml", &node),
        Vec::<String>::new()
    );
}

#[test]
fn tests_keep_to_the_edges_too() {
    let rest = "[dev-dependencies]\nhedgerow-net = { workspace = true }\n";
    let lines = on(edges, "core/env/Cargo.toml", &package("hedgerow-env", rest));
    let text = "core/env/Cargo.toml:6: hedgerow-env may not depend on hedgerow-net \
                (dev-dependencies)";
    assert_eq!(lines, [text]);
}

#[test]
fn a_new_crate_needs_a_row() {
    let lines = on(edges, "extra/Cargo.toml", &package("hedgerow-extra", ""));
    let text = "extra/Cargo.toml:2: hedgerow-extra has no row in the table of allowed edges \
                (xtask tidy)";
    assert_eq!(lines, [text]);
}

#[test]
fn the_table_of_edges_has_no_cycle() {
    for (name, _) in EDGES {
        let mut open: Vec<&str> = allowed(name).unwrap().into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(next) = open.pop() {
            assert_ne!(next, *name, "{name} reaches itself");
            if seen.insert(next) {
                open.extend(allowed(next).unwrap_or_default());
            }
        }
    }
}

#[test]
fn lints_and_versions_are_inherited() {
    let text = "[package]\nname = \"hedgerow-net\"\n[dependencies]\nbytes = \"1\"\n";
    assert_eq!(
        on(inheritance, "net/Cargo.toml", text),
        [
            "net/Cargo.toml:1: does not inherit the lints: [lints] workspace = true",
            "net/Cargo.toml:4: bytes (dependencies) is not taken from the workspace",
        ]
    );
}

#[test]
fn libraries_stay_at_home() {
    let raft = "[dependencies]\nopenraft-rt.workspace = true\n";
    let lines = on(homes, "net/Cargo.toml", &package("hedgerow-net", raft));
    assert_eq!(
        lines,
        ["net/Cargo.toml:6: only hedgerow-pages may depend on openraft-rt"]
    );
    let lines = on(
        homes,
        "core/pages/Cargo.toml",
        &package("hedgerow-pages", raft),
    );
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn planted_bugs_stay_out_of_the_product() {
    let rest = "[features]\ndefault = [\"checks\"]\nchecks = [\"hedgerow-env/mutants\"]\n";
    let lines = on(mutants, "cli/Cargo.toml", &package("hedgerow", rest));
    let text = "cli/Cargo.toml:6: the default features turn on hedgerow-env/mutants";
    assert_eq!(lines, [text]);

    let rest = "[dependencies]\nhedgerow-env = { workspace = true, features = [\"mutants\"] }\n";
    let lines = on(mutants, "cli/Cargo.toml", &package("hedgerow", rest));
    assert_eq!(
        lines,
        ["cli/Cargo.toml:6: hedgerow-env is taken with its planted bugs"]
    );
    let lines = on(mutants, "sim/Cargo.toml", &package("hedgerow-sim", rest));
    assert_eq!(lines, Vec::<String>::new());

    let lines = on(
        mutants,
        "Cargo.toml",
        "[workspace]\nmembers = [\"cli\", \"sim\"]\n",
    );
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn every_dependency_has_its_reason() {
    let root = "[workspace.dependencies]\nhedgerow-env = { path = \"core/env\" }\nbytes = \"1\"\n\
                snap = \"1\"\n";
    let page = "# Dependencies\n| `bytes` | owned buffers |\n| `gone` | once needed |\n";
    let files = [("Cargo.toml", root), (REASONS, page)];
    assert_eq!(
        found(reasons, &files),
        [
            "Cargo.toml:4: snap has no row in docs/decisions/0001-dependencies.md",
            "docs/decisions/0001-dependencies.md:3: gone is no dependency any more",
        ]
    );
}
