//! The engines against the exhaustive search, and every witness against the verifier.

use crate::fuzz::{fuzz, fuzz_texts};

#[test]
fn engines_agree_with_exhaustive_search_and_every_witness_is_confirmed() {
    let report = fuzz(1, 60_000).expect("no disagreement");
    assert!(
        report.valid > 15_000 && report.invalid > 15_000,
        "{report:?}"
    );
    println!("{report:?}");
}

#[test]
fn texts_are_judged_by_what_they_mean() {
    let report = fuzz_texts(1, 40_000).unwrap_or_else(|found| panic!("{found:#?}"));
    assert!(
        report.valid > 10_000 && report.invalid > 5_000,
        "{report:?}"
    );
    println!("{report:?}");
}
