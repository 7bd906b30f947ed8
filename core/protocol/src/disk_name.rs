//! What a virtual disk can be called: the one rule, for whoever is told a name.
//!
//! Invariant: a name that passes is part of a valid iSCSI name (RFC 3722 allows these characters
//! unchanged, 223 bytes in all), so every disk that exists can be exported and listed in `exports`.

/// Longest name of a disk, in bytes: what every access protocol can carry.
pub const MAXIMUM_DISK_NAME_BYTES: usize = 128;

/// Whether a virtual disk can be called `name`.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn check_disk_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
    };
    if name.is_empty() || name.len() > MAXIMUM_DISK_NAME_BYTES || !name.bytes().all(is_plain) {
        return Err(format!(
            "name {name:?}: use 1 to {MAXIMUM_DISK_NAME_BYTES} lower-case letters (a-z), digits, \
             '-' and '.'"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_every_access_protocol_takes() {
        let longest = "x".repeat(MAXIMUM_DISK_NAME_BYTES);
        for good in ["a", "0", "db-1.test", &longest] {
            assert_eq!(check_disk_name(good), Ok(()), "{good}");
        }
        let too_long = format!("{longest}x");
        for bad in ["", "A", "a_b", "a:b", "a b", "a/b", "ä", "a\n", &too_long] {
            let text = check_disk_name(bad).unwrap_err();
            assert!(text.contains("lower-case letters"), "{text}");
        }
    }
}
