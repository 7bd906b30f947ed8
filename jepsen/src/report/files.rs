//! The only file of this library that touches files: it reads runs and writes their pages.
//!
//! Layout of a store: `<store>/<test>/<time>/` with `plan.json`, `history.bin`, `faults.json`,
//! `results.json`, `logs/<node>.log` and the page, `index.html`.
//!
//! Invariants: a file that is too large is refused before it is read, and so is one that is no
//! regular file (a pipe that nobody writes to would be waited for without end); of a run nothing is
//! read that lies outside its folder, of a store nothing that lies outside the store, wherever links
//! lead; a page is written beside its place and renamed, so that nobody reads half of one; what is
//! missing or damaged in a run becomes a remark on its page, except the history, without which
//! there is no page.

#![expect(
    clippy::disallowed_methods,
    reason = "reports are made outside any node: there is no Env whose disk they could use"
)]

use super::results::{FaultSpan, Results, SCHEMA_VERSION};
use super::run::{self, RunData};
use crate::history::{History, HistoryError};
use crate::run::{FAULTS_FILE, FaultRecord, HISTORY_FILE, PLAN_FILE, PlanError, TestPlan, again};
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// The page's name in its run's directory.
pub const PAGE_NAME: &str = "index.html";
/// The largest history that is read at once: some 20 million operations.
const LARGEST_HISTORY_BYTES: u64 = 4 << 30;
/// The largest JSON file; a plan or a fault list is far below it.
const LARGEST_JSON_BYTES: u64 = 64 << 20;
/// Bytes read of each log, from its end: more than a page shows.
const LOG_TAIL_BYTES: u64 = 8 << 20;
/// Runs listed of a store: the newest.
pub const RUNS_MAXIMUM: usize = 10_000;

/// Why there is no page.
#[derive(Debug, Error)]
pub enum ReportError {
    /// A file could not be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        why: io::Error,
    },
    /// The history could not be understood.
    #[error("{}: {why}", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        why: HistoryError,
    },
    /// It cannot be done again.
    #[error("{}: {why}", path.display())]
    Again {
        /// The run.
        path: PathBuf,
        /// Why.
        why: PlanError,
    },
    /// A file is larger than anything that is meant to be there.
    #[error("{}: {bytes} bytes; at most {limit} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

impl ReportError {
    /// Whether a file is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::File { why, .. } if why.kind() == io::ErrorKind::NotFound)
    }
}

/// Writes the page of the run in `dir` and returns its path.
///
/// # Errors
/// The history is missing or damaged, or the page cannot be written.
pub fn write_page(dir: &Path) -> Result<PathBuf, ReportError> {
    let data = read_run(dir)?;
    let path = dir.join(PAGE_NAME);
    write(&path, &run::page(&data))?;
    Ok(path)
}

/// Writes `text` at `path`, as a whole or not at all.
///
/// # Errors
/// What the operating system said.
pub fn write(path: &Path, text: &str) -> Result<(), ReportError> {
    // Two who write the same page do not write into one another's, nor through a link that lies
    // there.
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".part-{}-{number}", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut new = fs::File::options();
    let mut part = new.write(true).create_new(true).open(&beside);
    if let Err(why) = &part
        && why.kind() == io::ErrorKind::AlreadyExists
    {
        // Left by a process that had this number before.
        fs::remove_file(&beside).map_err(|why| failed(&beside, why))?;
        part = new.open(&beside);
    }
    let mut part = part.map_err(|why| failed(&beside, why))?;
    let written = part.write_all(text.as_bytes());
    written
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|why| {
            drop(fs::remove_file(&beside));
            failed(path, why)
        })
}

/// Opens a regular file to be read.
///
/// # Errors
/// What the operating system said, or that it is no regular file.
pub fn open(path: &Path) -> io::Result<fs::File> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::other("no regular file; only those are read"));
    }
    fs::File::open(path)
}

/// Refuses a path that leads out of `folder`, where no link may lead.
fn stays_in(folder: &Path, path: &Path) -> io::Result<()> {
    if path.canonicalize()?.starts_with(folder.canonicalize()?) {
        return Ok(());
    }
    let why = format!("leads out of {}, and is not followed", folder.display());
    Err(io::Error::other(why))
}

/// Reads a history, in any form.
///
/// # Errors
/// It cannot be read, is too large, or is no history.
pub fn read_history(path: &Path) -> Result<History, ReportError> {
    let bytes = read(path, LARGEST_HISTORY_BYTES)?;
    History::parse(&bytes).map_err(|why| ReportError::History {
        path: path.to_owned(),
        why,
    })
}

/// The plan of a test that does again what the run in `dir` did, and what of it is left out.
///
/// # Errors
/// Some of the run's files are missing or not what they should be.
pub fn read_again(dir: &Path) -> Result<(TestPlan, Vec<String>), ReportError> {
    let plan = read_whole(dir, PLAN_FILE)?;
    let records = read_whole::<Vec<FaultRecord>>(dir, FAULTS_FILE)?;
    let history = read_history_of(dir)?;
    again(&plan, &records, &history).map_err(|why| ReportError::Again {
        path: dir.to_owned(),
        why,
    })
}

fn read_whole<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T, ReportError> {
    let path = dir.join(name);
    stays_in(dir, &path).map_err(|why| failed(&path, why))?;
    let content = read(&path, LARGEST_JSON_BYTES)?;
    serde_json::from_slice(&content).map_err(|error| failed(&path, io::Error::other(error)))
}

/// The history of the run in `dir`.
fn read_history_of(dir: &Path) -> Result<History, ReportError> {
    let path = dir.join(HISTORY_FILE);
    stays_in(dir, &path).map_err(|why| failed(&path, why))?;
    read_history(&path)
}

fn read_run(dir: &Path) -> Result<RunData, ReportError> {
    let mut problems = Vec::new();
    let history = read_history_of(dir)?;
    let results = read_json::<Results>(dir, "results.json", &mut problems);
    let results = results.filter(|results| {
        let known = results.schema_version <= SCHEMA_VERSION;
        if !known {
            let version = results.schema_version;
            problems.push(format!(
                "results.json has schema {version}; 1 is understood"
            ));
        }
        known
    });
    let plan = read_json(dir, "plan.json", &mut problems);
    let faults = read_json::<Vec<FaultSpan>>(dir, "faults.json", &mut problems);
    let logs = read_logs(dir, &mut problems);
    Ok(RunData {
        results,
        plan,
        faults: faults.unwrap_or_default(),
        history,
        logs,
        problems,
    })
}

fn failed(path: &Path, why: io::Error) -> ReportError {
    ReportError::File {
        path: path.to_owned(),
        why,
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReportError> {
    let file = open(path).map_err(|why| failed(path, why))?;
    let bytes = file.metadata().map_err(|why| failed(path, why))?.len();
    if bytes > limit {
        return Err(ReportError::TooLarge {
            path: path.to_owned(),
            bytes,
            limit,
        });
    }
    let mut content = Vec::new();
    let read = file.take(limit).read_to_end(&mut content);
    read.map_err(|why| failed(path, why))?;
    Ok(content)
}

fn read_json<T: DeserializeOwned>(dir: &Path, name: &str, problems: &mut Vec<String>) -> Option<T> {
    let path = dir.join(name);
    let content = stays_in(dir, &path).map_err(|why| failed(&path, why));
    let content = match content.and_then(|()| read(&path, LARGEST_JSON_BYTES)) {
        Ok(content) => content,
        Err(ReportError::File { why, .. }) => {
            problems.push(format!("{name}: {why}"));
            return None;
        }
        Err(error) => {
            problems.push(error.to_string());
            return None;
        }
    };
    serde_json::from_slice(&content)
        .map_err(|error| problems.push(format!("{name}: {error}")))
        .ok()
}

/// The ends of all `logs/*.log` of the run in `dir`, by name.
fn read_logs(dir: &Path, problems: &mut Vec<String>) -> Vec<(String, String)> {
    let mut logs = Vec::new();
    let folder = dir.join("logs");
    if folder.exists()
        && let Err(why) = stays_in(dir, &folder)
    {
        problems.push(format!("logs: {why}"));
        return logs;
    }
    for path in entries(&folder) {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        match stays_in(dir, &path).and_then(|()| read_tail(&path)) {
            Ok(text) => logs.push((name, text)),
            Err(why) => problems.push(format!("logs/{name}.log: {why}")),
        }
    }
    logs
}

fn read_tail(path: &Path) -> io::Result<String> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        // The first line of a tail is the end of one.
        Some((_, rest)) if length > LOG_TAIL_BYTES => rest.to_owned(),
        _ => text,
    })
}

/// The paths in a directory, in order of their names; none if it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    paths
}

/// One run of a store.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEntry {
    /// The test's directory.
    pub test: String,
    /// The run's directory in it.
    pub time: String,
    /// Its results; none if it did not come that far, or they cannot be read.
    pub results: Option<Results>,
    /// Whether it has a history, of which a page can be made.
    pub has_history: bool,
}

/// The runs of a store, the newest name first.
///
/// # Errors
/// The store cannot be read.
pub fn list(store: &Path) -> Result<Vec<RunEntry>, ReportError> {
    fs::read_dir(store).map_err(|why| failed(store, why))?;
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let mut runs = Vec::new();
    // Links such as `latest` would list a run twice, or one of another store.
    let is_folder = |path: &PathBuf| path.is_dir() && !path.is_symlink();
    for test_dir in entries(store).into_iter().filter(is_folder) {
        for dir in entries(&test_dir).into_iter().filter(is_folder) {
            if let (Some(test), Some(time)) = (name(&test_dir), name(&dir)) {
                runs.push((time, test, dir));
            }
        }
    }
    runs.sort_by(|(a, ..), (b, ..)| in_time(b).cmp(&in_time(a)));
    runs.truncate(RUNS_MAXIMUM);
    let entry = |(time, test, dir): (String, String, PathBuf)| RunEntry {
        results: read_json(&dir, "results.json", &mut Vec::new()),
        has_history: dir.join(HISTORY_FILE).is_file()
            && stays_in(&dir, &dir.join(HISTORY_FILE)).is_ok(),
        test,
        time,
    };
    Ok(runs.into_iter().map(entry).collect())
}

/// By what runs are in order of their times: runs that began within one second are told apart by a
/// number behind it, from 2 on.
fn in_time(name: &str) -> (&str, u64, &str) {
    let numbered = name.rsplit_once("Z-");
    let numbered = numbered.and_then(|(second, number)| Some((second, number.parse().ok()?)));
    let (second, number) = numbered.unwrap_or((name.strip_suffix('Z').unwrap_or(name), 1));
    (second, number, name)
}

/// A file of a store that is being sent.
#[derive(Debug)]
pub struct OpenFile {
    file: fs::File,
    /// Its length.
    pub length: u64,
}

impl OpenFile {
    /// The next bytes, at most `limit`; empty at the end.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn read_chunk(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::new();
        (&mut self.file).take(limit).read_to_end(&mut chunk)?;
        Ok(chunk)
    }
}

/// What a path in a store leads to.
#[derive(Debug)]
pub enum Found {
    /// A file.
    File(OpenFile),
    /// A directory: the names in it, directories with a slash behind.
    Directory(Vec<String>),
}

/// Opens what `segments` lead to below `store`; none if there is nothing, or if it lies elsewhere
/// (a link out of the store).
pub fn find(store: &Path, segments: &[String]) -> Option<Found> {
    let root = store.canonicalize().ok()?;
    let path = segments
        .iter()
        .fold(root.clone(), |path, segment| path.join(segment));
    let path = path
        .canonicalize()
        .ok()
        .filter(|path| path.starts_with(&root))?;
    if path.is_dir() {
        let names = entries(&path).into_iter().filter_map(|entry| {
            let name = entry.file_name()?.to_str()?.to_owned();
            Some(if entry.is_dir() { name + "/" } else { name })
        });
        return Some(Found::Directory(names.collect()));
    }
    let file = open(&path).ok()?;
    let length = file.metadata().ok()?.len();
    Some(Found::File(OpenFile { file, length }))
}

/// Makes the run's page if it has none that is newer than its results.
///
/// # Errors
/// As [`write_page`], or the run lies outside the store.
pub fn refresh_page(store: &Path, test: &str, time: &str) -> Result<(), ReportError> {
    let dir = store.join(test).join(time);
    stays_in(store, &dir).map_err(|why| failed(&dir, why))?;
    let changed = |name: &str| {
        fs::metadata(dir.join(name))
            .and_then(|data| data.modified())
            .ok()
    };
    let page = changed(PAGE_NAME);
    let newest = changed("results.json").max(changed(HISTORY_FILE));
    if page.is_none() || newest > page {
        write_page(&dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULTS: &str = r#"{"schema_version":1,"test":"t","target":"processes","workload":"block",
        "nemesis":["kill","pause"],"seed":5,"verdict":"invalid","reason":"<b>because</b>",
        "operations":{"ok":1,"fail":0,"info":0},"functions":{"write":{"ok":1}},"coverage":{},
        "witness":[{"operation":0,"process":0,"function":"write","argument":"[0 1 7]"}],
        "started":1795371513679,"duration_s":1.5}"#;
    const LOG: &str = "2026-11-22T18:18:34.000Z info  node-1 raft: elected\n";

    /// A store with one run, and a link out of it; removed when dropped.
    struct Store(PathBuf);

    impl Store {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            let run = root.join("t/20261122T181833Z");
            fs::create_dir_all(run.join("logs")).unwrap();
            let history = "0\t:invoke\t:write\t[0 1 7]\n0\t:ok\t:write\t[0 1 7]\n";
            let history = History::parse(history.as_bytes()).unwrap();
            fs::write(run.join("history.bin"), history.to_binary()).unwrap();
            fs::write(run.join("results.json"), RESULTS).unwrap();
            fs::write(run.join("logs/node-1.log"), LOG).unwrap();
            std::os::unix::fs::symlink("/", root.join("t/out")).unwrap();
            Self(root)
        }
    }

    impl Drop for Store {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_run_gets_its_page_and_what_is_missing_is_said_there() {
        let store = Store::new("hedgerow-page");
        let page = write_page(&store.0.join("t/20261122T181833Z")).unwrap();
        let html = fs::read_to_string(page).unwrap();
        assert!(html.contains("\"verdict\":\"invalid\""));
        assert!(
            html.contains("faults.json: No such file"),
            "it was not written"
        );
        assert!(!html.contains("<b>because"), "text stays text");
    }

    #[test]
    fn a_store_lists_its_runs_and_nothing_outside_it_is_found() {
        let store = Store::new("hedgerow-store");
        let runs = list(&store.0).unwrap();
        let names: Vec<&str> = runs.iter().map(|run| run.time.as_str()).collect();
        assert_eq!(names, ["20261122T181833Z"]);
        assert_eq!(runs[0].results.as_ref().unwrap().nemesis[1], "pause");
        let open = |path: &str| {
            let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
            find(&store.0, &segments)
        };
        assert!(matches!(
            open("t/20261122T181833Z/results.json"),
            Some(Found::File(_))
        ));
        assert!(matches!(
            open("t/20261122T181833Z"),
            Some(Found::Directory(_))
        ));
        for outside in ["t/out/etc/passwd", "t/out", "../..", "t/nothing"] {
            assert!(open(outside).is_none(), "{outside}");
        }
    }

    #[test]
    fn nothing_outside_is_read_listed_or_written_through_a_link() {
        let store = Store::new("hedgerow-links");
        let elsewhere = Store::new("hedgerow-links-elsewhere");
        let outside = elsewhere.0.join("t/20261122T181833Z");
        let secret = outside.join("logs/node-1.log");
        fs::write(&secret, "a secret").unwrap();
        let link = |to: &Path, name: &str| {
            let name = store.0.join(name);
            drop(fs::remove_file(&name));
            std::os::unix::fs::symlink(to, name).unwrap();
        };
        link(&outside, "t/run-outside");
        link(&elsewhere.0.join("t"), "test-outside");
        refresh_page(&store.0, "t", "run-outside").unwrap_err();
        refresh_page(&store.0, "test-outside", "20261122T181833Z").unwrap_err();
        assert!(!outside.join(PAGE_NAME).exists());

        let run = "t/20261122T181833Z";
        link(&secret, &format!("{run}/logs/y.log"));
        link(
            &outside.join("results.json"),
            &format!("{run}/results.json"),
        );
        link(&outside.join("logs"), &format!("{run}/index.html.part"));
        let runs = list(&store.0).unwrap();
        let shown: Vec<_> = runs.iter().map(|run| (&run.test, &run.results)).collect();
        assert_eq!(shown, [(&"t".to_owned(), &None)]);
        refresh_page(&store.0, "t", "20261122T181833Z").unwrap();
        let html = fs::read_to_string(store.0.join(run).join(PAGE_NAME)).unwrap();
        assert!(!html.contains("a secret") && html.contains("logs/y.log: leads out of"));
        assert!(html.contains("results.json: leads out of"));

        fs::remove_dir_all(store.0.join(run).join("logs")).unwrap();
        link(&outside.join("logs"), &format!("{run}/logs"));
        let problems = read_run(&store.0.join(run)).unwrap().problems;
        assert!(problems.iter().any(|text| text.starts_with("logs: leads")));
        link(&outside.join("history.bin"), &format!("{run}/history.bin"));
        write_page(&store.0.join(run)).unwrap_err();
        assert!(!list(&store.0).unwrap()[0].has_history);
    }

    #[test]
    fn runs_that_began_within_one_second_are_in_order() {
        let store = Store::new("hedgerow-second");
        let names = [
            "20261122T181833Z-2",
            "20261122T181833Z-10",
            "20261122T181834Z",
        ];
        for name in names {
            fs::create_dir(store.0.join("t").join(name)).unwrap();
        }
        let runs = list(&store.0).unwrap();
        let listed: Vec<&str> = runs.iter().map(|run| run.time.as_str()).collect();
        assert_eq!(listed, [names[2], names[1], names[0], "20261122T181833Z"]);
    }

    #[test]
    fn a_pipe_is_named_and_not_waited_for() {
        let store = Store::new("hedgerow-pipe");
        let run = store.0.join("t/20261122T181833Z");
        for name in ["history.bin", "results.json", "logs/node-1.log"] {
            fs::remove_file(run.join(name)).unwrap();
            let made = std::process::Command::new("mkfifo")
                .arg(run.join(name))
                .status();
            assert!(made.unwrap().success());
            let said = match name {
                "history.bin" => write_page(&run).unwrap_err().to_string(),
                _ => read_run(&run).unwrap().problems.join("\n"),
            };
            assert!(said.contains(&format!("{name}: no regular file")), "{said}");
            fs::remove_file(run.join(name)).unwrap();
            if name == "history.bin" {
                fs::write(run.join(name), History::default().to_binary()).unwrap();
            }
        }
        assert!(find(&store.0, &["t".to_owned(), "20261122T181833Z".to_owned()]).is_some());
    }
}
