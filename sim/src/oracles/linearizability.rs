//! Every block is a linearizable register, and what was acknowledged is durable: the final reads are
//! part of the history, so a lost write is a read that no order explains.

use hedgerow_jepsen::check::{BlockHistory, OpId, Verdict};

use crate::scenario::Failure;

/// Judges the history of all clients.
///
/// # Errors
/// No order of the operations explains every answer, or the checker gave up.
pub fn check(history: &BlockHistory) -> Result<(), Failure> {
    match history.check() {
        Verdict::Valid => Ok(()),
        Verdict::Invalid(witness) => {
            let mut text = format!(
                "{} {}",
                witness.part.clone().unwrap_or_default(),
                witness.explanation
            );
            for operation in &witness.operations {
                if let Some(line) = history.describe(OpId(*operation)) {
                    text.push_str("\n  ");
                    text.push_str(&line);
                }
            }
            Err(Failure::correctness("linearizability", text))
        }
        Verdict::Unknown(reason) => Err(Failure::correctness("linearizability-unknown", reason)),
    }
}
