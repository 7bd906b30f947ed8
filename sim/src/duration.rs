//! Lengths of time on the command line: a number and its unit.

use std::time::Duration;

/// Reads 90s, 5m or 1h.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no length of time: write 90s, 5m or 1h");
    let (number, seconds) = match text.char_indices().next_back().ok_or_else(wrong)? {
        (at, 's') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 60),
        (at, 'h') => (&text[..at], 3_600),
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_a_number_and_a_unit() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3_600)));
        for wrong in ["", "5", "m", "-5m", "5.5m", "5 m", "99999999999999999999s"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse("18446744073709551615h").is_err());
    }
}
