//! `cargo xtask bench`: the speed of a development cluster through iSCSI and straight into its proxy,
//! beside a raw file on the same disk in the same run.
//!
//! A figure means something only next to the one beside it: the machine, its disk and its neighbours
//! are in both. Tests are interleaved, round by round, and medians shown. Writes are durable on both
//! sides: Hedgerow's are on two of three copies when they are acknowledged, the raw file is opened for
//! synchronous writes.

mod measure;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::e2e::cluster::{DevStart, free_ports};
use crate::e2e::empty_folder;
use crate::repository;
use crate::run::{expected, shown};
use crate::usage::Usage;
use measure::{Measured, Target, Workload};
use report::{Idle, Report, Row};

/// The part of the disk that is measured: larger than what a cache would be forgiven for.
pub(crate) const REGION_BYTES: u64 = 512 << 20;
/// Elections, first flushes and the sweep of a new cluster are over by then, and every node has met
/// the others.
const SETTLE: Duration = Duration::from_secs(15);
/// Long enough for what happens every few seconds only.
const IDLE_WINDOW: Duration = Duration::from_secs(30);

struct Options {
    profile: String,
    rounds: usize,
    /// About how long each measured run takes.
    run_time: Duration,
    quick: bool,
    build: bool,
    json: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[&str]) -> anyhow::Result<Options> {
        let mut options = Options {
            profile: "release".into(),
            rounds: 3,
            run_time: Duration::from_secs(6),
            quick: false,
            build: true,
            json: None,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next()
                    .with_context(|| format!("{argument}: needs a value"))
            };
            match *argument {
                "--quick" => {
                    options.quick = true;
                    options.rounds = 1;
                    options.run_time = Duration::from_secs(2);
                }
                "--no-build" => options.build = false,
                "--json" => options.json = Some(std::path::absolute(value()?)?),
                "--profile" => options.profile = (*value()?).to_owned(),
                _ => bail!(
                    "bench: {argument}: there are --quick, --json FILE, --profile NAME, --no-build"
                ),
            }
        }
        Ok(options)
    }
}

/// `cargo xtask bench [--quick] [--json FILE] [--profile NAME] [--no-build]`.
pub(crate) fn command(arguments: &[&str]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    let build = ["build", "-p", "hedgerow", "--profile", &options.profile];
    if options.build {
        shown(repository::cargo().args(build))?;
    }
    let folder = empty_folder("bench")?;
    let report = run(&options, &folder)?;
    std::fs::remove_dir_all(&folder)?;
    print!("{report}");
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", report.json()))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn run(options: &Options, folder: &Path) -> anyhow::Result<Report> {
    let data = folder.join("data");
    let mut start = DevStart::new(&data, free_ports(1)?[0]);
    start.program = repository::target().join(&options.profile).join("hedgerow");
    start.bench_proxy = true;
    let mut dev = start.start()?;
    let pid = dev.process.pid();
    eprintln!("ready after {:.1} s", dev.ready_after.as_secs_f64());
    let idle = idle(pid)?;

    let file = folder.join("raw");
    std::fs::File::create(&file)?.set_len(REGION_BYTES)?;
    let targets = [
        Target::url(&dev.url)?,
        Target::Proxy,
        Target::raw_file(&file),
    ];
    let mut measured: Vec<[Vec<Measured>; 3]> = vec![Default::default(); WORKLOADS];
    for round in 0..options.rounds {
        for (workload, measured) in Workload::ALL.iter().zip(&mut measured) {
            eprintln!("round {}/{}: {}", round + 1, options.rounds, workload.name);
            for (target, measured) in targets.iter().zip(measured) {
                measured.push(target.measure(&mut dev.process, workload, options.run_time)?);
            }
        }
        dev.process.must_run()?;
    }
    dev.interrupt()?;
    let rows = Workload::ALL.iter().zip(measured);
    let rows = rows.map(|(workload, measured)| {
        let [iscsi, proxy, raw] = measured.map(median);
        Row {
            workload,
            iscsi,
            proxy,
            raw,
        }
    });
    Ok(Report {
        commit: commit()?,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        profile: options.profile.clone(),
        quick: options.quick,
        ready_s: dev.ready_after.as_secs_f64(),
        idle,
        rows: rows.collect(),
    })
}

const WORKLOADS: usize = Workload::ALL.len();

/// The run in the middle by its speed, with what it cost.
fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_by(|a, b| a.operations_per_s.total_cmp(&b.operations_per_s));
    runs[runs.len() / 2]
}

fn idle(pid: u32) -> anyhow::Result<Idle> {
    std::thread::sleep(SETTLE);
    let before = Usage::of(pid)?;
    std::thread::sleep(IDLE_WINDOW);
    let after = Usage::of(pid)?;
    Ok(Idle {
        cpu_percent: after.since(&before) / IDLE_WINDOW.as_secs_f64() * 100.0,
        memory_mib: after.memory_bytes as f64 / f64::from(1 << 20),
    })
}

fn commit() -> anyhow::Result<String> {
    let mut command = Command::new("git");
    command.current_dir(repository::root());
    let text = expected(command.args(["describe", "--always", "--dirty", "--abbrev=12"]))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_is_one_short_round() {
        let options = Options::parse(&["--quick", "--json", "out.json"]).unwrap();
        assert!(options.quick && options.rounds == 1);
        assert!(options.json.unwrap().is_absolute());
        assert!(Options::parse(&["--json"]).is_err());
        assert!(Options::parse(&["--fast"]).is_err());
    }

    #[test]
    fn the_median_is_a_run_that_took_place() {
        let run = |speed| Measured {
            operations_per_s: speed,
            bytes_per_s: 0.0,
            cpu_us_per_operation: speed * 2.0,
        };
        let middle = median(vec![run(5.0), run(1.0), run(3.0)]);
        assert_eq!(middle.operations_per_s, 3.0);
        assert_eq!(middle.cpu_us_per_operation, 6.0);
    }
}
