//! Sizes and their human forms.

use serde::{Deserialize, Serialize};

/// The granule of block maps and addresses, in bytes (DESIGN section 3, *block map*).
pub const BLOCK_UNIT_BYTES: u64 = 512;

/// A size in bytes that prints with a binary unit.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct ByteCount(pub u64);

impl std::fmt::Display for ByteCount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [(&str, u32); 5] = [
            ("PiB", 50),
            ("TiB", 40),
            ("GiB", 30),
            ("MiB", 20),
            ("KiB", 10),
        ];
        for (name, shift) in UNITS {
            let unit = 1_u64 << shift;
            if self.0 >= unit {
                return if self.0.is_multiple_of(unit) {
                    write!(formatter, "{} {name}", self.0 / unit)
                } else {
                    let tenths = u128::from(self.0) * 10 / u128::from(unit);
                    write!(formatter, "{}.{} {name}", tenths / 10, tenths % 10)
                };
            }
        }
        write!(formatter, "{} B", self.0)
    }
}

/// Reads `10GiB`, `10G`, `512`, `64k`, `1.5TiB`... (units are binary, case does not matter).
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_byte_count(text: &str) -> Result<ByteCount, String> {
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        "e" | "eb" | "eib" => 60,
        other => {
            return Err(format!(
                "unknown unit {other:?} in {text:?}: use KiB, MiB, GiB, TiB, PiB or EiB"
            ));
        }
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let overflow = || format!("{text:?} is too large: nothing here is larger than 1 EiB");
    let whole: u64 = whole
        .parse()
        .map_err(|_| format!("{text:?} is not a size such as 10GiB"))?;
    let mut bytes = whole.checked_mul(1_u64 << shift).ok_or_else(overflow)?;
    if !fraction.is_empty() {
        if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("{text:?} is not a size such as 1.5GiB"));
        }
        let numerator: u64 = fraction
            .parse()
            .map_err(|_| format!("{text:?} is not a size"))?;
        let denominator = 10_u64.pow(u32::try_from(fraction.len()).unwrap_or(9));
        let part = u128::from(numerator) * (1_u128 << shift) / u128::from(denominator);
        let part = u64::try_from(part).map_err(|_| overflow())?;
        bytes = bytes.checked_add(part).ok_or_else(overflow)?;
    }
    Ok(ByteCount(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print_in_binary_units() {
        for (text, bytes) in [
            ("512", 512),
            ("64k", 65_536),
            ("10GiB", 10 << 30),
            ("1.5m", 3 << 19),
            ("1EiB", 1 << 60),
        ] {
            assert_eq!(parse_byte_count(text), Ok(ByteCount(bytes)), "{text}");
        }
        assert_eq!(ByteCount(10 << 30).to_string(), "10 GiB");
        assert_eq!(ByteCount(1_610_612_736).to_string(), "1.5 GiB");
        assert_eq!(ByteCount(700).to_string(), "700 B");
    }

    #[test]
    fn wrong_sizes_are_refused_with_a_reason() {
        for text in [
            "",
            "ten",
            "5 parsecs",
            "99999999999G",
            "1.2.3M",
            "-1",
            "16E",
        ] {
            assert!(parse_byte_count(text).is_err(), "{text}");
        }
    }
}
