//! What the binary says, to whom, and with which code it ends.

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

/// Runs the binary; answers its code, its standard output and its standard error.
fn told(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hedgerow"));
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Nobody listens at port 1 of this machine.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn a_cluster_that_cannot_be_reached_has_a_code_and_a_remedy() {
    let (code, out, error) = told(&["status", "--connect", NOBODY]);
    assert_eq!((code, out.as_str()), (Some(69), ""), "{error}");
    assert!(error.starts_with("hedgerow: no node answered: "), "{error}");
    assert!(error.contains("--connect HOST:PORT"), "{error}");
}

#[test]
fn errors_are_json_for_whoever_asked_for_json() {
    let of = |arguments: &[&str], expected| {
        let (code, out, error) = told(arguments);
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{error}");
        let value: serde_json::Value = serde_json::from_str(&error).expect(&error);
        assert_eq!(value["schema_version"], 1, "{error}");
        assert_eq!(value["error"]["exit_code"], expected, "{error}");
        value["error"]["message"].as_str().expect("text").to_owned()
    };
    of(&["disk", "delete", "a", "--json", "--connect", NOBODY], 69);
    let message = of(&["disk", "list", "--json", "--nonsense"], 2);
    assert!(message.contains("--nonsense"), "{message}");
    let missing = ["node", "--json", "--config", "/nowhere/node.toml"];
    let message = of(&missing, 1);
    assert!(message.contains("/nowhere/node.toml"), "{message}");
    let message = of(&["dev", "--json", "--disk-size", "5 bananas"], 1);
    assert!(message.contains("--disk-size"), "{message}");
}
