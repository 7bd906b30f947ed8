//! The engines against the exhaustive search, and every witness against the verifier.

use crate::fuzz::fuzz;

#[test]
fn engines_agree_with_exhaustive_search_and_every_witness_is_confirmed() {
    let report = fuzz(1, 60_000).expect("no disagreement");
    assert!(
        report.valid > 15_000 && report.invalid > 15_000,
        "{report:?}"
    );
    println!("{report:?}");
}
