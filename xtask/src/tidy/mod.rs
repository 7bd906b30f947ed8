//! `cargo xtask tidy`: the rules of the house that no compiler checks.
//!
//! Each rule is a pure function from the [`Tree`] to its [`Finding`]s, so that its test is a small
//! tree that breaks it. Rules read text and manifests; they never change a file.

mod code;
mod documents;
mod manifests;
mod sources;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::repository;

/// The files of the repository: path relative to the top -> content.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    fn read(root: &Path) -> anyhow::Result<Tree> {
        let mut tree = Tree::default();
        for name in repository::files(root)? {
            let bytes = std::fs::read(root.join(&name)).with_context(|| name.clone())?;
            tree.files.insert(name, bytes);
        }
        Ok(tree)
    }

    /// The text of a file, if it is there and is text.
    fn text(&self, path: &str) -> Option<&str> {
        std::str::from_utf8(self.files.get(path)?).ok()
    }

    /// Every text file whose name ends in `ending`, in order.
    fn texts(&self, ending: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(move |(path, bytes)| {
            let text = path
                .ends_with(ending)
                .then(|| std::str::from_utf8(bytes).ok());
            Some((path.as_str(), text??))
        })
    }

    /// Whether `path` is a file, or a folder with files in it.
    fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let mut below = self.files.range(folder.clone()..);
        self.files.contains_key(path)
            || path.is_empty()
            || below
                .next()
                .is_some_and(|(name, _)| name.starts_with(&folder))
    }
}

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    text: String,
}

impl Finding {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Finding {
        Finding {
            path: path.to_owned(),
            line,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// A rule: what holds, and how it is checked.
struct Rule {
    holds: &'static str,
    check: fn(&Tree) -> Vec<Finding>,
}

const RULES: &[Rule] = &[
    Rule {
        holds: "crates depend on each other along the allowed edges only",
        check: manifests::edges,
    },
    Rule {
        holds: "every crate inherits the lints, and takes dependencies from the workspace",
        check: manifests::inheritance,
    },
    Rule {
        holds: "a library with one home is a dependency of that home alone",
        check: manifests::homes,
    },
    Rule {
        holds: "planted bugs are in no production build",
        check: manifests::mutants,
    },
    Rule {
        holds: "each dependency has its reason in docs/decisions",
        check: manifests::reasons,
    },
    Rule {
        holds: "a library with one home is named in that folder alone",
        check: sources::homes,
    },
    Rule {
        holds: "simulated code reaches clock, network, files and chance through the seams alone",
        check: sources::seams,
    },
    Rule {
        holds: "every Rust file opens with its //! documentation",
        check: sources::opening,
    },
    Rule {
        holds: "no Rust file is longer than 800 lines",
        check: sources::length,
    },
    Rule {
        holds: "relative links in documents lead somewhere",
        check: documents::links,
    },
    Rule {
        holds: "no file is larger than 256 KiB",
        check: documents::sizes,
    },
    Rule {
        holds: "no file names a path of the machine that it was written on",
        check: documents::machine_paths,
    },
];

/// Checks every rule; prints what breaks them. Returns the number of rules.
pub(crate) fn check() -> anyhow::Result<usize> {
    let tree = Tree::read(&repository::root())?;
    let mut broken = 0;
    for rule in RULES {
        let mut findings = (rule.check)(&tree);
        if findings.is_empty() {
            continue;
        }
        broken += 1;
        findings.sort();
        eprintln!("tidy: rule: {}", rule.holds);
        for finding in findings {
            eprintln!("  {finding}");
        }
    }
    if broken > 0 {
        bail!("tidy: {broken} of {} rules are broken", RULES.len());
    }
    Ok(RULES.len())
}

/// `cargo xtask tidy`.
pub(crate) fn command() -> anyhow::Result<()> {
    let rules = check()?;
    println!("tidy: {rules} rules hold");
    Ok(())
}

#[cfg(test)]
fn tree(files: &[(&str, &str)]) -> Tree {
    let files = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
    Tree {
        files: files.collect(),
    }
}

/// The findings of a rule on a small tree, one line each.
#[cfg(test)]
fn found(check: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)]) -> Vec<String> {
    let mut findings = check(&tree(files));
    findings.sort();
    findings.iter().map(ToString::to_string).collect()
}
