//! `hedgerow-sim`: runs seeds.

mod sweep;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hedgerow_env::mutants;
use hedgerow_sim::scenario::{Plan, Report, run_plan};
use hedgerow_sim::world::Recording;

/// Runs Hedgerow's production code in a simulated world.
#[derive(Parser, Debug)]
#[command(name = "hedgerow-sim", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run one seed: exit 0 pass, 10 correctness, 11 liveness, 12 crash
    Run {
        /// The seed
        #[arg(long)]
        seed: u64,
        /// Plant this bug first (see `mutants`)
        #[arg(long)]
        mutant: Option<String>,
        /// Print every log line of every node
        #[arg(long)]
        verbose: bool,
        /// Print the plan instead of running it
        #[arg(long)]
        plan: bool,
    },
    /// Run many seeds, each in a process of its own
    Sweep(sweep::Sweep),
    /// List the planted bugs
    Mutants,
}

fn main() -> ExitCode {
    match CommandLine::parse().command {
        Command::Run {
            seed,
            mutant,
            verbose,
            plan,
        } => run(seed, mutant.as_deref(), verbose, plan),
        Command::Sweep(sweep) => sweep.run(),
        Command::Mutants => {
            for mutant in mutants::Mutant::ALL {
                println!("{}", mutant.name());
            }
            ExitCode::SUCCESS
        }
    }
}

fn run(seed: u64, mutant: Option<&str>, verbose: bool, print_plan: bool) -> ExitCode {
    if let Some(name) = mutant {
        let Some(mutant) = mutants::find(name) else {
            eprintln!("hedgerow-sim: no mutant {name:?}; `hedgerow-sim mutants` lists them");
            return ExitCode::from(2);
        };
        mutants::choose(Some(mutant));
    }
    let plan = Plan::draw(seed);
    if print_plan {
        println!("{plan:#?}");
        return ExitCode::SUCCESS;
    }
    let began = cpu_time();
    let report = run_plan(&plan, Recording::HashOnly, verbose);
    let wall = cpu_time().saturating_sub(began);
    finish(seed, mutant, &report, wall)
}

fn finish(seed: u64, mutant: Option<&str>, report: &Report, wall: Duration) -> ExitCode {
    let (all, succeeded) = report.operations;
    let figures = format!(
        "trace={:016x} virtual_s={:.3} wall_s={:.3}",
        report.trace_hash,
        report.virtual_time.as_secs_f64(),
        wall.as_secs_f64()
    );
    match &report.verdict {
        Ok(()) => {
            println!(
                "operations={all} succeeded={succeeded} events={}",
                report.events
            );
            println!("seed {seed}: pass {figures}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{}: {}", failure.oracle, failure.text);
            let mutant = mutant
                .map(|name| format!(" --mutant {name}"))
                .unwrap_or_default();
            println!("commit {}", env!("HEDGEROW_COMMIT"));
            println!("again: cargo run --release -p hedgerow-sim -- run --seed {seed}{mutant}");
            let (kind, oracle) = (failure.kind.word(), failure.oracle);
            println!("seed {seed}: FAIL {kind} oracle={oracle} {figures}");
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// Processor time of this process; the simulated clock has no say here.
#[expect(unsafe_code, reason = "std offers no CPU clock")]
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "Linux has this clock");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
