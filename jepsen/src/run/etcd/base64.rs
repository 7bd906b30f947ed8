//! Base 64 with padding (RFC 4648, section 4), in which etcd's gateway writes bytes.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text of some bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = usize::try_from(word >> (18 - 6 * place) & 63).expect("six bits");
            let symbol = if place <= group.len() {
                ALPHABET[digit]
            } else {
                b'='
            };
            text.push(char::from(symbol));
        }
    }
    text
}

/// The bytes of a text, if it is one.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.as_bytes().chunks(4) {
        let digits: Vec<u8> = group
            .iter()
            .copied()
            .take_while(|byte| *byte != b'=')
            .collect();
        if group.len() != 4 || digits.len() < 2 {
            return None;
        }
        let mut word = 0_u32;
        for digit in &digits {
            let value = ALPHABET.iter().position(|symbol| symbol == digit)?;
            word = word << 6 | u32::try_from(value).ok()?;
        }
        word <<= 6 * (4 - digits.len());
        bytes.extend_from_slice(&word.to_be_bytes()[1..digits.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_standard() {
        // RFC 4648, section 10.
        let vectors = [
            "", "", "f", "Zg==", "fo", "Zm8=", "foo", "Zm9v", "foobar", "Zm9vYmFy",
        ];
        for pair in vectors.chunks(2) {
            assert_eq!(encode(pair[0].as_bytes()), pair[1]);
            assert_eq!(decode(pair[1]).as_deref(), Some(pair[0].as_bytes()));
        }
        assert_eq!(decode("Zg"), None);
        assert_eq!(decode("Z?=="), None);
        assert_eq!(decode("===="), None);
    }
}
