//! `key=value` text of login and text PDUs (RFC 7143 6.1), with limits.
//!
//! Pairs keep their order. A key that appears twice is an error of the sender; the reader only
//! reports pairs and leaves that judgement to the negotiation.

use thiserror::Error;

/// The longest key (RFC 7143 6.1: 63 bytes).
const KEY_BYTES_MAX: usize = 63;

/// The longest value: RFC 7143 6.1 asks for 255 except where a key says more; CHAP's binary values
/// need up to 1024 bytes in hexadecimal.
const VALUE_BYTES_MAX: usize = 2100;

/// Most pairs in one request: the standard defines about thirty keys.
const PAIRS_MAX: usize = 64;

/// The longest text gathered over continued PDUs (RFC 7143 6.2: at least 8192 per sequence).
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TextError {
    /// A pair without `=`.
    #[error("a text pair has no '='")]
    NoEquals,
    /// A key that is empty, too long or has forbidden characters.
    #[error("a text key is malformed")]
    Key,
    /// A value that is too long or is not UTF-8.
    #[error("the value of a text key is malformed")]
    Value,
    /// More than [`PAIRS_MAX`] pairs or [`TEXT_BYTES_MAX`] bytes.
    #[error("the text is too long")]
    TooLong,
}

/// The pairs of a text, in order.
///
/// # Errors
/// The text breaks the format of RFC 7143 6.1 or a limit.
pub fn parse(text: &[u8]) -> Result<Vec<(String, String)>, TextError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TextError::TooLong);
    }
    let mut pairs = Vec::new();
    for pair in text
        .split(|byte| *byte == 0)
        .filter(|pair| !pair.is_empty())
    {
        if pairs.len() == PAIRS_MAX {
            return Err(TextError::TooLong);
        }
        let equals = pair
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or(TextError::NoEquals)?;
        let (key, value) = (&pair[..equals], &pair[equals + 1..]);
        if !is_key(key) {
            return Err(TextError::Key);
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(TextError::Value);
        }
        let key = std::str::from_utf8(key).map_err(|_| TextError::Key)?;
        let value = std::str::from_utf8(value).map_err(|_| TextError::Value)?;
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

fn is_key(key: &[u8]) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len())
        && key
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b".-+@_#".contains(b))
}

/// The wire form of pairs: each ends with a zero byte.
#[must_use]
pub fn write<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in pairs {
        text.extend_from_slice(key.as_ref().as_bytes());
        text.push(b'=');
        text.extend_from_slice(value.as_ref().as_bytes());
        text.push(0);
    }
    text
}

/// Reads a binary value: `0x` hexadecimal or `0b` base64 (RFC 7143 6.1).
#[must_use]
pub fn binary_value(value: &str) -> Option<Vec<u8>> {
    let digits = value.get(2..)?;
    match value.get(..2)? {
        "0x" | "0X" => hexadecimal(digits),
        "0b" | "0B" => base64(digits),
        _ => None,
    }
}

/// The hexadecimal form of a binary value.
#[must_use]
pub fn hexadecimal_value(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("0x");
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Vec<u8> = digits
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|nibble| u8::try_from(nibble).ok())
        })
        .collect::<Option<_>>()?;
    if nibbles.is_empty() {
        return None;
    }
    // An odd number of digits leaves out the first zero.
    let (first, rest) = nibbles.split_at(nibbles.len() % 2);
    let mut bytes = first.to_vec();
    bytes.extend(rest.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    Some(bytes)
}

fn base64(digits: &str) -> Option<Vec<u8>> {
    let trimmed = digits.trim_end_matches('=');
    if trimmed.is_empty() || trimmed.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(trimmed.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for digit in trimmed.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            let [_, _, _, byte] = (bits >> count).to_be_bytes();
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_in_order_and_limits_hold() {
        let text = write(&[
            ("InitiatorName", "iqn.a:b"),
            ("HeaderDigest", "CRC32C,None"),
        ]);
        let pairs = parse(&text).unwrap();
        assert_eq!(
            pairs[1],
            ("HeaderDigest".to_owned(), "CRC32C,None".to_owned())
        );

        assert_eq!(parse(b"NoEquals\0"), Err(TextError::NoEquals));
        assert_eq!(parse(b"bad key=1\0"), Err(TextError::Key));
        assert_eq!(parse(b"=1\0"), Err(TextError::Key));
        assert_eq!(parse(b"k=\xff\0"), Err(TextError::Value));
        assert_eq!(parse(&[b'k'; TEXT_BYTES_MAX + 1]), Err(TextError::TooLong));
        assert_eq!(
            parse(&b"k=v\0".repeat(PAIRS_MAX + 1)),
            Err(TextError::TooLong)
        );
        let long = [b"k=".as_slice(), &[b'v'; VALUE_BYTES_MAX + 1]].concat();
        assert_eq!(parse(&long), Err(TextError::Value));
    }

    #[test]
    fn binary_values_are_read_in_both_forms() {
        assert_eq!(binary_value("0x0aFf"), Some(vec![0x0a, 0xff]));
        assert_eq!(binary_value("0xAff"), Some(vec![0x0a, 0xff]));
        assert_eq!(binary_value("0bSGVkZ2U="), Some(b"Hedge".to_vec()));
        assert_eq!(binary_value("0BSGVkZw=="), Some(b"Hedg".to_vec()));
        for bad in ["", "0x", "0xzz", "12", "0b", "0bA", "0b!!!!", "é"] {
            assert_eq!(binary_value(bad), None, "{bad:?}");
        }
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(binary_value(&hexadecimal_value(&bytes)), Some(bytes));
    }
}
