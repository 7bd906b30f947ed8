//! What the property tests share: how a run is configured, and values made through serde.
//!
//! Invariants: a run is a function of the source, `HEDGEROW_PROPTEST_SEED` and
//! `HEDGEROW_PROPTEST_FACTOR`; nothing is written to disk, so a failure is kept by turning its
//! shrunken case into a test of its own.
//! Does not: hold properties (they stand in `tests/`, one file a subject).

pub mod values;

use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

/// The seed of every run that is not told another: continuous integration sees the same cases
/// every time, and a change is judged by itself.
pub const SEED: u64 = 0x6865_6467_6572_6f77;

/// Shrinking stops after so many steps: enough for the small cases here, seconds at most.
const SHRINK_STEPS_MAX: u32 = 4096;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A run of `cases` cases from the fixed seed. `HEDGEROW_PROPTEST_SEED` names another seed,
/// `HEDGEROW_PROPTEST_FACTOR` multiplies the cases.
#[must_use]
pub fn config(cases: u32) -> Config {
    plant();
    let factor = number_of("HEDGEROW_PROPTEST_FACTOR").unwrap_or(1);
    let cases = u64::from(cases).saturating_mul(factor.max(1));
    Config {
        cases: u32::try_from(cases).unwrap_or(u32::MAX),
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(number_of("HEDGEROW_PROPTEST_SEED").unwrap_or(SEED)),
        failure_persistence: None,
        max_shrink_iters: SHRINK_STEPS_MAX,
        ..Config::default()
    }
}

/// With the feature `mutants`: plants the bug that `HEDGEROW_MUTANT` names. A property that should
/// notice it must fail then.
///
/// # Panics
/// When there is no such mutant.
#[cfg(feature = "mutants")]
fn plant() {
    use hedgerow_env::mutants::{choose, find};
    if let Ok(name) = std::env::var("HEDGEROW_MUTANT") {
        choose(Some(find(&name).expect("HEDGEROW_MUTANT names a mutant")));
    }
}

#[cfg(not(feature = "mutants"))]
const fn plant() {}
