//! Notes the commit that a simulator was built from, for its failure reports, and whether there were
//! changes beside it: with those the commit alone reproduces nothing.

use std::process::Command;

/// Whose sources are in a simulator; any change of them may make it another than the commit's, or
/// the commit's again.
const SOURCES: [&str; 8] = [
    "src",
    "build.rs",
    "../core",
    "../disk",
    "../gateways",
    "../jepsen",
    "../net",
    "../Cargo.lock",
];

fn main() {
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    // In a work tree of its own these lie elsewhere than in `.git`.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let described = git(&[
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
        "--abbrev=12",
    ]);
    let commit = described.unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=HEDGEROW_COMMIT={commit}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
