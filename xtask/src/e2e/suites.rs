//! libiscsi's `iscsi-test-cu` against a disk of `hedgerow dev`, as `tests/iscsi-suites.toml` says.
//!
//! The kit counts skipped tests as passed. Here they are four things apart, and each is expected:
//! passed, skipped for a reason in the file, not run for a reason in the file, failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use toml::{Table, Value};

use super::cluster::{DevStart, free_ports, url_of, wait_until};
use super::step;
use crate::repository;
use crate::run::{collected, limited};

const TABLE: &str = "tests/iscsi-suites.toml";
/// The slowest suite takes a few seconds on an idle machine.
const SUITE_LIMIT: Duration = Duration::from_secs(180);
const EXPORT_LIMIT: Duration = Duration::from_secs(20);
const DISK: &str = "conformance";

pub(super) fn tell(folder: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(repository::root().join(TABLE)).context(TABLE)?;
    let plan = Plan::parse(&text).context(TABLE)?;
    let data = folder.join("data");
    let mut dev = DevStart::new(&data, free_ports(1)?[0]).start()?;
    dev.ask(&["disk", "create", DISK, "1GiB", "--block-size", "512"])?;
    let list = || dev.ask(&["disk", "list"]);
    let url = wait_until(EXPORT_LIMIT, list, |list| url_of(list, DISK))?;
    let count = plan.suites.len();
    let report = step(&format!("run {count} suites"), || {
        run_all(&plan, &url, folder)
    })?;
    dev.interrupt()?;
    report.judge(&plan)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped,
    Failed,
}

#[derive(Debug, Default)]
struct Suite {
    /// With its family, as `-t` wants it.
    name: String,
    pass: Vec<String>,
    skip: Vec<String>,
    /// A test of it must not run, so each other test runs by itself.
    one_by_one: bool,
}

#[derive(Debug)]
struct Plan {
    passes_min: usize,
    suites: Vec<Suite>,
    /// Tests that must not run, each with its reason.
    not_run: Vec<(String, String)>,
}

impl Plan {
    fn parse(text: &str) -> anyhow::Result<Plan> {
        let table: Table = text.parse()?;
        let least = table.get("passes_min").and_then(Value::as_integer);
        let not_run = reasoned(table.get("not_run"), "test")?;
        let rows = table
            .get("suite")
            .and_then(Value::as_array)
            .context("suite: is missing")?;
        let mut suites = Vec::new();
        for row in rows {
            let name = row
                .get("name")
                .and_then(Value::as_str)
                .context("suite: name")?;
            let prefix = format!("{name}.");
            suites.push(Suite {
                name: name.to_owned(),
                pass: texts(row.get("pass").context("pass: is missing")?)?,
                skip: reasoned(row.get("skip"), "tests")
                    .context(prefix.clone())?
                    .into_iter()
                    .map(|(test, _)| test)
                    .collect(),
                one_by_one: not_run.iter().any(|(test, _)| test.starts_with(&prefix)),
            });
        }
        check_not_run(&not_run, &suites)?;
        Ok(Plan {
            passes_min: usize::try_from(least.context("passes_min: is missing")?)?,
            suites,
            not_run,
        })
    }
}

/// A test is counted as not run only if its suite is listed and the run leaves it out.
fn check_not_run(not_run: &[(String, String)], suites: &[Suite]) -> anyhow::Result<()> {
    for (test, _) in not_run {
        let own = suites.iter().find_map(|suite| {
            let rest = test.strip_prefix(&suite.name)?.strip_prefix('.')?;
            Some((suite, rest))
        });
        let Some((suite, rest)) = own else {
            bail!("not_run: {test}: no suite that is listed has it");
        };
        if suite
            .pass
            .iter()
            .chain(&suite.skip)
            .any(|name| name == rest)
        {
            bail!("not_run: {test}: {} lists it to be run", suite.name);
        }
    }
    Ok(())
}

/// The tests that rows of (tests, reason) name, each with the reason; a row without one is an error.
fn reasoned(rows: Option<&Value>, key: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for row in rows.and_then(Value::as_array).into_iter().flatten() {
        let reason = row
            .get("reason")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if reason.trim().is_empty() {
            bail!("{row:?}: a reason is expected");
        }
        let tests = row
            .get(key)
            .with_context(|| format!("{row:?}: {key} is missing"))?;
        let names = match tests.as_str() {
            Some(one) => vec![one.to_owned()],
            None => texts(tests)?,
        };
        all.extend(names.into_iter().map(|name| (name, reason.to_owned())));
    }
    Ok(all)
}

fn texts(value: &Value) -> anyhow::Result<Vec<String>> {
    let list = value.as_array().context("a list is expected")?;
    let text = |value: &Value| Some(value.as_str()?.to_owned());
    list.iter()
        .map(|value| text(value).context("text is expected"))
        .collect()
}

#[derive(Debug, Default)]
struct Report {
    passed: usize,
    skipped: usize,
    complaints: Vec<String>,
}

impl Report {
    fn judge(&self, plan: &Plan) -> anyhow::Result<String> {
        let (passed, skipped, least) = (self.passed, self.skipped, plan.passes_min);
        if !self.complaints.is_empty() {
            let list = self.complaints.join("\n  ");
            bail!("{passed} passed, {skipped} skipped, and not as {TABLE} says:\n  {list}");
        }
        if passed < least {
            bail!("{passed} tests passed, {TABLE} asks for {least}");
        }
        let mut text = format!(
            "{passed} tests passed, {skipped} skipped with their reasons, {} not run",
            plan.not_run.len()
        );
        for (test, reason) in &plan.not_run {
            text.push_str(&format!("\n   not run: {test}: {reason}"));
        }
        Ok(text)
    }

    /// Compares what ran with what the plan says of the suite.
    fn add(&mut self, suite: &Suite, ran: &BTreeMap<String, Verdict>, log: &str) {
        let expected = |names: &[String], verdict| {
            let pairs = names.iter().map(move |name| (name.clone(), verdict));
            pairs.collect::<Vec<_>>()
        };
        let mut plan: BTreeMap<String, Verdict> = BTreeMap::new();
        plan.extend(expected(&suite.pass, Verdict::Passed));
        plan.extend(expected(&suite.skip, Verdict::Skipped));
        for (test, wanted) in &plan {
            match (ran.get(test), wanted) {
                (Some(Verdict::Passed), Verdict::Passed) => self.passed += 1,
                (Some(Verdict::Skipped), Verdict::Skipped) => self.skipped += 1,
                (Some(got), wanted) => {
                    let text = format!("{}.{test}: {got:?}, not {wanted:?}", suite.name);
                    self.complaints
                        .push(format!("{text} {}", said_of(test, log)));
                }
                (None, _) => self
                    .complaints
                    .push(format!("{}.{test}: did not run", suite.name)),
            }
        }
        for (test, got) in ran.iter().filter(|(test, _)| !plan.contains_key(*test)) {
            self.complaints
                .push(format!("{}.{test}: {got:?}, and is not listed", suite.name));
        }
    }
}

fn run_all(plan: &Plan, url: &str, folder: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for suite in &plan.suites {
        let log = if suite.one_by_one {
            let mut log = String::new();
            for test in suite.pass.iter().chain(&suite.skip) {
                log.push_str(&run_kit(&format!("{}.{test}", suite.name), url)?);
            }
            log
        } else {
            run_kit(&suite.name, url)?
        };
        std::fs::write(folder.join(format!("{}.log", suite.name)), &log)?;
        report.add(suite, &verdicts(&log), &log);
    }
    Ok(report)
}

/// The kit's exit code says nothing about single tests; its log does.
fn run_kit(name: &str, url: &str) -> anyhow::Result<String> {
    let mut command = limited(SUITE_LIMIT, "iscsi-test-cu");
    let finished = collected(command.args(["-d", "-v", "-t", name, url]))?;
    if finished.status.code() == Some(124) {
        bail!(
            "{name}: hangs: not done after {} s\n{}",
            SUITE_LIMIT.as_secs(),
            finished.text
        );
    }
    Ok(finished.text)
}

/// Reads `  Test: NAME ...passed`, with lines of `[SKIPPED]` or `[FAILED]` and more in between.
fn verdicts(log: &str) -> BTreeMap<String, Verdict> {
    let mut all = BTreeMap::new();
    for part in log.split("  Test: ").skip(1) {
        let Some((name, rest)) = part.split_once(" ...") else {
            continue;
        };
        let body = rest.split("\nRun Summary:").next().unwrap_or_default();
        let last = body.lines().find_map(|line| match line.trim() {
            "passed" => Some(true),
            "FAILED" => Some(false),
            _ => None,
        });
        let verdict = match last {
            Some(true) if body.contains("[SKIPPED]") => Verdict::Skipped,
            Some(true) => Verdict::Passed,
            Some(false) | None => Verdict::Failed,
        };
        all.insert(name.to_owned(), verdict);
    }
    all
}

/// What the kit logged first within a test.
fn said_of(test: &str, log: &str) -> String {
    let part = log
        .split("  Test: ")
        .find(|part| part.starts_with(&format!("{test} ...")));
    let mut lines = part.unwrap_or_default().lines();
    let line = lines.find(|line| line.contains("] ")).unwrap_or_default();
    let begin = line.find('[').unwrap_or_default();
    format!("({})", &line[begin..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
Suite: Unmap
  Test: Simple ...passed
  Test: VPD ...    [SKIPPED] Not thin.
    [SKIPPED] Not thin.
passed
  Test: ZeroBlocks ...    [FAILED] UNMAP command failed with status 2
FAILED
    1. test_unmap_0blocks.c:80  - CU_ASSERT_EQUAL(_r,0)

Run Summary:    Type  Total    Ran Passed Failed Inactive
";

    fn suite(pass: &[&str], skip: &[&str]) -> Suite {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Suite {
            name: "ALL.Unmap".into(),
            pass: own(pass),
            skip: own(skip),
            one_by_one: false,
        }
    }

    fn plan(passes_min: usize) -> Plan {
        Plan {
            passes_min,
            suites: Vec::new(),
            not_run: vec![(
                "ALL.Unmap.Odd".into(),
                "it asks for what SBC-3 forbids".into(),
            )],
        }
    }

    #[test]
    fn skipped_is_not_passed() {
        let all = verdicts(LOG);
        let expected = [
            ("Simple", Verdict::Passed),
            ("VPD", Verdict::Skipped),
            ("ZeroBlocks", Verdict::Failed),
        ];
        assert_eq!(
            all,
            expected
                .map(|(name, verdict)| (name.to_owned(), verdict))
                .into()
        );
        let crashed = verdicts("  Test: Simple ...    [FAILED] no connection\n");
        assert_eq!(crashed["Simple"], Verdict::Failed);
    }

    #[test]
    fn a_run_is_what_the_file_says_or_a_failure() {
        let mut report = Report::default();
        let one = verdicts("  Test: Simple ...passed\n  Test: VPD ...  [SKIPPED] x\npassed\n");
        report.add(&suite(&["Simple"], &["VPD"]), &one, "");
        assert_eq!(
            report.judge(&plan(1)).unwrap(),
            "1 tests passed, 1 skipped with their reasons, 1 not run\n   \
             not run: ALL.Unmap.Odd: it asks for what SBC-3 forbids"
        );
        assert!(report.judge(&plan(2)).is_err());

        report.add(&suite(&["Simple", "VPD", "Gone"], &[]), &verdicts(LOG), LOG);
        let text = report.judge(&plan(1)).unwrap_err().to_string();
        assert!(
            text.contains("ALL.Unmap.VPD: Skipped, not Passed ([SKIPPED] Not thin.)"),
            "{text}"
        );
        assert!(text.contains("ALL.Unmap.Gone: did not run"), "{text}");
        assert!(
            text.contains("ALL.Unmap.ZeroBlocks: Failed, and is not listed"),
            "{text}"
        );
    }

    #[test]
    fn the_file_of_the_repository_is_a_plan() {
        let plan = Plan::parse(include_str!("../../../tests/iscsi-suites.toml")).unwrap();
        let listed: usize = plan.suites.iter().map(|suite| suite.pass.len()).sum();
        assert!(plan.passes_min >= 130 && listed >= plan.passes_min);
    }

    #[test]
    fn what_is_not_run_belongs_to_a_listed_suite_and_is_not_run() {
        let suite = "passes_min = 1\n[[suite]]\nname = \"ALL.A\"\npass = [\"B\"]\n";
        let with = |test: &str| {
            let row = format!("[[not_run]]\ntest = \"{test}\"\nreason = \"because\"\n");
            Plan::parse(&format!("{suite}{row}"))
        };
        let plan = with("ALL.A.C").unwrap();
        assert_eq!(plan.not_run, [("ALL.A.C".into(), "because".into())]);
        assert!(plan.suites[0].one_by_one);
        assert!(
            with("ALL.A.B")
                .unwrap_err()
                .to_string()
                .contains("to be run")
        );
        assert!(
            with("ALL.X.C")
                .unwrap_err()
                .to_string()
                .contains("no suite")
        );
    }

    #[test]
    fn what_is_not_run_has_a_reason() {
        let text = "passes_min = 1\n[[suite]]\nname = \"ALL.A\"\npass = []\n[[suite.skip]]\n\
                    tests = [\"B\"]\n";
        assert!(format!("{:#}", Plan::parse(text).unwrap_err()).contains("a reason is expected"));
        let text = format!("{text}reason = \"because\"\n");
        assert_eq!(Plan::parse(&text).unwrap().suites[0].skip, ["B"]);
    }
}
