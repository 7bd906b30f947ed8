//! `--html` and `--no-html`: when a run's page is written, and where.

use std::path::PathBuf;

use clap::Args;
use hedgerow_sim::scenario::{Report, Script, run_script};
use hedgerow_sim::timeline::{self, Subject};
use hedgerow_sim::world::Recording;

use crate::Again;
use crate::out::say;

/// The options.
#[derive(Args, Debug)]
pub(crate) struct Html {
    /// Write the run's timeline here, whatever came of it [default: of a failed run,
    /// hedgerow-sim-NAME.html in this directory]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write no timeline
    #[arg(long, conflicts_with = "html")]
    no_html: bool,
}

impl Html {
    /// Writes the page if it is wanted: runs the script again, this time recording everything.
    pub(crate) fn write(
        &self,
        script: &Script,
        report: &Report,
        again: &Again<'_>,
        mutant: Option<&str>,
    ) {
        if self.no_html || (self.html.is_none() && report.verdict.is_ok()) {
            return;
        }
        let name = again.name();
        let path = self.html.clone().unwrap_or_else(|| {
            let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
            let name: String = name.chars().map(word).collect();
            PathBuf::from(format!("hedgerow-sim-{name}.html"))
        });
        let recorded = run_script(script, Recording::All, false);
        let mut remarks = Vec::new();
        if recorded.trace_hash != report.trace_hash {
            remarks.push(format!(
                "this is another run than the one reported: its trace is {:016x}, that one's was \
                 {:016x}; the code is not deterministic",
                recorded.trace_hash, report.trace_hash
            ));
        }
        let subject = Subject {
            name,
            command: again.command(),
            commit: env!("HEDGEROW_COMMIT"),
            mutant,
            remarks,
        };
        let page = timeline::page(script, &recorded, &subject);
        #[expect(
            clippy::disallowed_methods,
            reason = "reports are written outside any world"
        )]
        match std::fs::write(&path, page) {
            Ok(()) => say!("timeline: {}", path.display()),
            Err(error) => eprintln!("hedgerow-sim: {}: {error}", path.display()),
        }
    }
}
