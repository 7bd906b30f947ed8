//! What the binary does when nobody reads what it says.

use std::process::{Command, Stdio};

#[test]
fn a_reader_that_left_early_is_no_defect() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_hedgerow-sim"))
        .arg("mutants")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(141), "as SIGPIPE ends it");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
