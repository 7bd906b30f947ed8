//! Rules on Rust files.

use super::code::{code_only, identifiers};
use super::{Finding, Tree};

/// Above this a file holds more than one matter.
const LONGEST_FILE_LINES: usize = 800;

/// A library that only one folder may know, so that it can be replaced there.
pub(super) struct Home {
    pub(super) library: &'static str,
    pub(super) folder: &'static str,
    /// The crate that the folder belongs to.
    pub(super) package: &'static str,
}

pub(super) const HOMES: &[Home] = &[
    Home {
        library: "openraft",
        folder: "core/pages/src/raft/",
        package: "hedgerow-pages",
    },
    Home {
        library: "openraft_rt",
        folder: "core/pages/src/raft/",
        package: "hedgerow-pages",
    },
    Home {
        library: "redb",
        folder: "core/pages/src/raft/",
        package: "hedgerow-pages",
    },
    Home {
        library: "madsim",
        folder: "sim/",
        package: "hedgerow-sim",
    },
    Home {
        library: "bincode",
        folder: "core/protocol/",
        package: "hedgerow-protocol",
    },
];

pub(super) fn homes(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".rs") {
        let strangers: Vec<&Home> = HOMES
            .iter()
            .filter(|home| !path.starts_with(home.folder))
            .collect();
        for (number, line) in code_only(text).lines().enumerate() {
            for home in &strangers {
                if identifiers(line).any(|word| word == home.library) {
                    let (library, folder) = (home.library, home.folder);
                    let text = format!("names {library}, which only {folder} may");
                    findings.push(Finding::new(path, number + 1, text));
                }
            }
        }
    }
    findings
}

/// Folders whose code also runs in the simulator.
const SIMULATED: &[&str] = &["core/", "net/src/", "disk/src/", "gateways/"];
/// The production side of the seams.
const SEAMS: &[&str] = &["disk/src/os.rs", "net/src/tcp.rs"];
/// What runs on a machine alone.
const TESTS: &[&str] = &[
    "/tests",
    "tests.rs",
    "/testing",
    "/examples/",
    "/transcripts",
];
/// Ways past the seams: the machine's clock, network, files and chance.
const WAYS_PAST: &[&str] = &[
    "tokio::time",
    "tokio::net",
    "tokio::fs",
    "tokio::process",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "RandomState",
    "ahash",
    "rand::rng(",
    "rand::random",
];

pub(super) fn seams(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".rs") {
        let simulated = SIMULATED.iter().any(|folder| path.starts_with(folder));
        let spared = TESTS.iter().any(|part| path.contains(part));
        if !simulated || spared || SEAMS.contains(&path) {
            continue;
        }
        let code = code_only(text);
        let tests_begin = "#[cfg(test)]\nmod tests";
        let code = code.split(tests_begin).next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            for way in WAYS_PAST.iter().filter(|way| line.contains(*way)) {
                let text = format!("uses {way}: go through Env, so that the simulator sees it");
                findings.push(Finding::new(path, number + 1, text));
            }
        }
    }
    findings
}

pub(super) fn opening(tree: &Tree) -> Vec<Finding> {
    let bare = tree
        .texts(".rs")
        .filter(|(_, text)| !text.starts_with("//!"));
    bare.map(|(path, _)| {
        let text = "the first line is no //! that says what the file is and keeps";
        Finding::new(path, 1, text)
    })
    .collect()
}

pub(super) fn length(tree: &Tree) -> Vec<Finding> {
    let lengths = tree
        .texts(".rs")
        .map(|(path, text)| (path, text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > LONGEST_FILE_LINES);
    long.map(|(path, lines)| {
        let text = format!("{lines} lines, {LONGEST_FILE_LINES} at most: split it by matter");
        Finding::new(path, lines, text)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::found;

    #[test]
    fn a_library_is_named_in_its_home_alone() {
        let files = [
            (
                "core/pages/src/raft/log.rs",
                "//! Log.\nuse openraft::Raft;\n",
            ),
            (
                "core/pages/src/shard.rs",
                "//! Not openraft.\nuse x;\nuse openraft::Raft;\n",
            ),
            (
                "cli/src/main.rs",
                "//! Main.\n#[cfg(madsim)]\nlet text = \"bincode\";\n",
            ),
        ];
        assert_eq!(
            found(homes, &files),
            [
                "cli/src/main.rs:2: names madsim, which only sim/ may",
                "core/pages/src/shard.rs:3: names openraft, which only core/pages/src/raft/ may",
            ]
        );
    }

    #[test]
    fn simulated_code_goes_through_the_seams() {
        let past = "//! X.\nuse tokio::time::sleep;\n";
        let files = [
            ("core/proxy/src/read.rs", past),
            ("core/proxy/src/tests.rs", past),
            ("disk/src/os.rs", "//! Disk.\nuse std::fs::File;\n"),
            ("cli/src/main.rs", past),
            (
                "net/src/pool.rs",
                "//! Not tokio::time.\n\n#[cfg(test)]\nmod tests {\n    use tokio::time::sleep;\n}\n",
            ),
        ];
        assert_eq!(
            found(seams, &files),
            [
                "core/proxy/src/read.rs:2: uses tokio::time: go through Env, so that the simulator \
                 sees it"
            ]
        );
    }

    #[test]
    fn files_say_what_they_are() {
        let files = [
            ("a/good.rs", "//! Good.\n"),
            ("a/bare.rs", "use x;\n//! late\n"),
        ];
        let lines = found(opening, &files);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("a/bare.rs:1: "), "{lines:?}");
    }

    #[test]
    fn files_end_in_time() {
        let just = "x\n".repeat(800);
        let long = "x\n".repeat(801);
        let files = [("a/just.rs", just.as_str()), ("a/long.rs", long.as_str())];
        let text = "a/long.rs:801: 801 lines, 800 at most: split it by matter";
        assert_eq!(found(length, &files), [text]);
    }
}
