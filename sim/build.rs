//! Notes the commit that a simulator was built from, for its failure reports.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=../.git/HEAD");
    println!("cargo:rerun-if-changed=../.git/logs/HEAD");
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    let commit = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into(),
        _ => String::from("unknown"),
    };
    println!("cargo:rustc-env=HEDGEROW_COMMIT={}", commit.trim());
}
