//! `cargo xtask mutants`: the power of the simulator, measured.
//!
//! Each mutant of the catalogue is run on disjoint ranges of seeds until one fails; how many seeds
//! that took is its figure, and the median of the ranges is told. A campaign goes breadth first and
//! is kept in a file after every stretch, so it may be broken off and gone on with at any time.
//!
//! Invariants: a seed kills only if it passes without the mutant (one that fails either way is a
//! false alarm, and is counted as one); results of different sources never mix.
//! Does not: judge which mutants matter; `sim/mutants.toml` explains those that no seed can kill.

mod campaign;
mod options;
mod record;
mod report;
mod table;

use std::collections::BTreeMap;

use anyhow::bail;

use self::options::Options;
use self::record::Record;
use crate::repository;
use crate::run::shown;

/// The step of CI.
pub(crate) use self::table::kill as kill_listed;

/// What a campaign runs is built to run long.
const PROFILE: &str = "sweep";

/// `cargo xtask mutants`.
pub(crate) fn command(arguments: &[&str]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    if !options.report && !options.no_build && options.simulator.is_none() {
        let build = ["build", "--profile", PROFILE, "-p", "hedgerow-sim"];
        shown(repository::cargo().args(build))?;
    }
    let built = repository::target().join(PROFILE).join("hedgerow-sim");
    let simulator = options.simulator.clone().unwrap_or(built);
    let catalogue = table::catalogue(&simulator)?;
    if let Some(unknown) = options.mutants.iter().find(|m| !catalogue.contains(m)) {
        bail!("mutants: no mutant {unknown:?}; `hedgerow-sim mutants` lists them");
    }
    let explained: BTreeMap<String, String> = table::read()?
        .into_iter()
        .filter_map(|row| Some((row.name, row.explained?)))
        .collect();
    let wanted: Vec<String> = catalogue
        .iter()
        .filter(|name| match options.mutants.as_slice() {
            [] => !explained.contains_key(*name),
            chosen => chosen.contains(name),
        })
        .cloned()
        .collect();
    let mut record = Record::open(&options.resume, &record::source()?, &options.ranges)?;
    if !options.report {
        campaign::run(&options, &wanted, &mut record, &simulator)?;
    }
    let report = report::Report::new(&record, &catalogue, &explained);
    println!("{report}");
    println!("results: {}", options.resume.display());
    if let Some(path) = &options.markdown {
        std::fs::write(path, report.markdown())?;
        println!("table: {}", path.display());
    }
    Ok(())
}
