//! Watches a test while it runs: once its verdict is known, the rest of it would only cost time.
//!
//! Invariant: what cannot be explained so far cannot be explained by anything that follows, since
//! calls that are still open count as of unknown outcome, which allows them everything.
//!
//! Does not: give the verdict (`results` judges the history that the test leaves), or call a test
//! valid before its end.

use std::time::Duration;

use hedgerow_env::event;

use super::clients::Shared;
use super::plan::TestPlan;
use crate::check::Verdict;
use crate::history::History;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(3);
/// The history grows, and so does the time of a look: at most one part in so many of a test's.
const SHARE: u32 = 30;

/// Returns when the test cannot end *valid* any more; why.
pub(super) async fn until_decided(shared: &Shared, plan: &TestPlan) -> String {
    let env = &shared.env;
    let mut pause = PAUSE;
    loop {
        env.sleep(pause).await;
        if shared.target.has_defect().await {
            return "a node has shown a defect".to_owned();
        }
        let began = env.now();
        if let Some(why) = contradiction(shared, plan).await {
            return why;
        }
        pause = PAUSE.max(env.now().since(began) * SHARE);
    }
}

/// Why the history so far cannot be explained, if so.
async fn contradiction(shared: &Shared, plan: &TestPlan) -> Option<String> {
    let history = match shared.recorder.so_far().await {
        Ok(history) => history,
        Err(error) => {
            // The end of the test meets it again, and says so.
            event!(
                shared.env,
                Warn,
                "jepsen",
                "the history cannot be read yet: {error}"
            );
            return None;
        }
    };
    let calls = History::parse(&history).ok()?.calls().ok()?;
    let (model, initial) = plan.workload.model();
    match model.check(initial.as_ref(), &calls) {
        Ok(Verdict::Invalid(witness)) => Some(witness.explanation),
        _ => None,
    }
}
