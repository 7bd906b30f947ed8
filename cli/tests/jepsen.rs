//! What `hedgerow jepsen` makes of input and options that cannot be: a code, and what to do instead.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test of the program from outside"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hedgerow_env::Random;
use hedgerow_jepsen::run::workload::{BlockPlan, WorkloadPlan};
use hedgerow_jepsen::run::{ClientPlan, TestPlan};

/// A folder of this test, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }

    /// A program that does what `lines` say.
    fn program(&self, name: &str, lines: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.write(name, &format!("#!/bin/sh\n{lines}\n"));
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Runs `hedgerow jepsen`; its code, its standard output and its standard error.
fn told_in(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hedgerow"));
    command.arg("jepsen").args(arguments).current_dir(folder);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn told(arguments: &[&str]) -> (Option<i32>, String, String) {
    told_in(&std::env::temp_dir(), arguments)
}

/// Runs `hedgerow jepsen`, which has to refuse and to say `said`.
fn refused(arguments: &[&str], said: &str) {
    let (code, out, error) = told(arguments);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{error}");
    assert!(error.contains(said), "{arguments:?}: {error}");
}

const LOG: &str = "0\t:invoke\t:write\t-1\n0\t:ok\t:write\t-1\n";

#[test]
fn unusable_input_is_json_on_standard_output_for_whoever_asked_for_json() {
    let folder = Folder::new("hedgerow-jepsen-json");
    let bad = folder.write("bad.log", "0\t:ok\t:write\t1\n");
    for file in [bad.as_str(), "/nowhere/a.log"] {
        let (code, out, error) = told(&["check", "--model", "register", "--json", file]);
        assert_eq!((code, error.as_str()), (Some(2), ""));
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["verdict"], "unusable", "{out}");
        assert!(value["error"].is_string(), "{out}");
    }
    refused(&["check", "--model", "register", &bad], "unusable: line 1");
}

#[test]
fn an_initial_value_may_be_negative() {
    let folder = Folder::new("hedgerow-jepsen-initial");
    let log = folder.write("a.log", LOG);
    let (code, out, error) = told(&["check", "--model", "register", "--initial", "-1", &log]);
    assert_eq!(code, Some(0), "{out}{error}");
}

#[test]
fn a_pipe_in_a_runs_folder_is_named_and_not_waited_for() {
    let folder = Folder::new("hedgerow-jepsen-pipe");
    let pipe = folder.path("history.bin");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    refused(&["page", &folder.path("")], "history.bin: no regular file");
}

#[test]
fn a_history_may_come_through_a_pipe() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hedgerow"));
    command.args(["jepsen", "check", "--model", "register", "/dev/stdin"]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(LOG.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_history_is_written_to_a_reader_that_left_early_without_a_word() {
    let folder = Folder::new("hedgerow-jepsen-convert");
    let log = folder.write("a.log", LOG);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hedgerow"));
    command.args(["jepsen", "convert", "--to", "edn", &log]);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn();
    let output = child.unwrap().wait_with_output().unwrap();
    let said = (output.status.code(), output.stderr.as_slice());
    assert_eq!(said, (Some(141), &b""[..]), "as SIGPIPE ends it");
}

#[test]
fn options_that_contradict_or_mean_nothing_are_refused() {
    let folder = Folder::new("hedgerow-jepsen-options");
    let store = folder.path("store");
    for option in [
        ["--nodes", "3"],
        ["--nemesis", "kill"],
        ["--rate", "9"],
        ["--reads", "9"],
    ] {
        let with = |other| ["run", other, "x", option[0], option[1], "--store", &store];
        refused(&with("--plan"), "cannot be used with");
        refused(&with("--replay"), "cannot be used with");
    }
    let run = ["run", "--store", &store];
    let with = |options: &[&'static str], said| refused(&[&run[..], options].concat(), said);
    let disks = ["--workload", "disk-lifecycle"];
    with(
        &[&disks[..], &["--reads", "9"]].concat(),
        "--reads means nothing",
    );
    with(
        &[&disks[..], &["--skew", "9"]].concat(),
        "--skew means nothing",
    );
    let sim = ["--target", "sim"];
    with(
        &[&sim[..], &["--network", "proxy"]].concat(),
        "--network means nothing",
    );
    let registers = [&sim[..], &["--workload", "cas-register"]].concat();
    with(&registers, "the cluster has no registers");
    assert!(!Path::new(&store).exists(), "nothing was begun");
}

#[test]
fn folders_and_addresses_that_cannot_be_have_a_remedy() {
    let folder = Folder::new("hedgerow-jepsen-remedy");
    let empty = folder.path("");
    refused(&["run", "--replay", &empty], "the folder of a run");
    refused(&["page", &empty], "the folder of a run");
    refused(
        &["serve", "--store", &empty, "--listen", "x"],
        "such as 127.0.0.1:8917",
    );
    let program = folder.program("sim", "exit 0");
    let sim = ["run", "--target", "sim", "--program", &program];
    let with = |options: &[&str], said| refused(&[&sim[..], options].concat(), said);
    with(&["--store", "/proc/x"], "--store names another folder");
    let store = folder.path("store");
    with(&["--store", &store], "left no results");
    // A name without a slash is a file of this folder, not one of the system's programs.
    let arguments = [
        "run",
        "--target",
        "sim",
        "--program",
        "sim",
        "--store",
        &store,
    ];
    let (code, _, error) = told_in(&folder.0, &arguments);
    assert_eq!(code, Some(2));
    assert!(error.contains("left no results"), "{error}");
}

/// A plan of blocks with one operation written down.
fn plan(argument: &str) -> serde_json::Value {
    let block = BlockPlan::draw(&mut Random::from_seed(7), Some(4096), 30);
    let clients = ClientPlan {
        concurrency: 4,
        rate: 100,
        crash_ppm: 0,
        timeout_ms: 1000,
    };
    let plan = TestPlan::draw(7, (3, 15), WorkloadPlan::Block(block), clients, (&[], 3000));
    let mut plan = serde_json::to_value(plan.unwrap()).unwrap();
    plan["script"] = serde_json::json!([
        {"at_us": 0, "slot": 0, "function": "write", "argument": argument}
    ]);
    plan
}

#[test]
fn a_plan_that_cannot_be_is_refused_before_anything_starts() {
    let folder = Folder::new("hedgerow-jepsen-plan");
    let store = folder.path("store");
    let written = folder.write("plan.json", &plan("[0 1000000000 1]").to_string());
    let arguments = ["run", "--plan", &written, "--store", &store];
    refused(&arguments, "script[0]: count is 1000000000");
    assert!(!Path::new(&store).exists(), "nothing was begun");
}

#[test]
fn runs_that_begin_within_one_second_have_folders_of_their_own() {
    let folder = Folder::new("hedgerow-jepsen-second");
    // Leaves what a test of hedgerow-sim leaves, at once.
    let results = r#"{"schema_version":1,"test":"t","target":"sim","workload":"block","nemesis":"",
        "seed":7,"verdict":"unknown","reason":"no test","operations":{"ok":0,"fail":0,"info":0},
        "functions":{},"incidents":[],"coverage":COVERAGE,"witness":[],"started":"",
        "duration_s":0.0}"#;
    let coverage = hedgerow_jepsen::run::Coverage::default();
    let coverage = serde_json::to_string(&coverage).unwrap();
    let results = results.replace("COVERAGE", &coverage);
    let results = folder.write("results.json", &results);
    let program = folder.program("sim", &format!("cp {results} \"$2\"; exit 3"));
    let written = folder.write("plan.json", &plan("[0 1 1]").to_string());
    let store = folder.path("store");
    let arguments = [
        "run",
        "--target",
        "sim",
        "--program",
        &program,
        "--plan",
        &written,
    ];
    for _ in 0..8 {
        let (code, _, error) = told(&[&arguments[..], &["--store", &store]].concat());
        assert_eq!(code, Some(3), "{error}");
    }
    let runs = std::fs::read_dir(Path::new(&store).join("block-none")).unwrap();
    assert_eq!(runs.count(), 8);
    let listed = hedgerow_jepsen::report::files::list(Path::new(&store)).unwrap();
    assert!(listed.iter().all(|run| run.results.is_some()), "{listed:?}");
}
