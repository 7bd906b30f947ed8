//! What the binary does when nobody reads what it says.

use std::io::Read as _;
use std::process::{Command, Stdio};

/// Runs the binary with a standard output that was closed before its first word.
fn unheard(arguments: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut child = Command::new(env!("CARGO_BIN_EXE_hedgerow"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut said = String::new();
    let mut errors = child.stderr.take().expect("it is piped");
    errors.read_to_string(&mut said).expect("text");
    (child.wait().expect("it ends").code(), said)
}

#[test]
fn a_reader_that_left_early_is_no_defect() {
    let history = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../jepsen/tests/histories/etcd-valid.log"
    );
    let (code, said) = unheard(&["jepsen", "check", "--model", "cas-register", history]);
    assert_eq!((code, said.as_str()), (Some(141), ""), "as SIGPIPE ends it");
}
