//! The data of a page: named sections of columns, deflated, in base64.
//!
//! A page must stay small with a million events and open at once, so numbers stand in columns of
//! variable-length integers (deltas where neighbours are near), texts stand once in a table, and
//! everything is deflated together; the browser inflates it by itself. The reader of all this is
//! `assets/base.js`.
//!
//! Invariants: every number is below 2^53, since JavaScript has no larger ones; a section's name
//! has at most 255 bytes. It does not know what the columns mean.

use std::collections::BTreeMap;

/// The largest number that a page can hold exactly.
pub const LARGEST_NUMBER: u64 = (1 << 53) - 1;
/// Effort of the compression, 0 to 10: above 6 time doubles for a percent of size.
const COMPRESSION_LEVEL: u8 = 6;
/// Base64's alphabet, RFC 4648 4.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Sections to be packed: a name's length (u8), the name, a length (u32, little-endian), the bytes.
#[derive(Debug, Default)]
pub struct Pack {
    bytes: Vec<u8>,
}

impl Pack {
    /// Adds a section.
    ///
    /// # Panics
    /// When the name is longer than 255 bytes or the section longer than 4 GiB.
    pub fn section(&mut self, name: &str, bytes: &[u8]) {
        let name_bytes = u8::try_from(name.len()).expect("a section has a short name");
        let length = u32::try_from(bytes.len()).expect("a section is far below 4 GiB");
        self.bytes.push(name_bytes);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds a column.
    pub fn column(&mut self, name: &str, column: &Column) {
        self.section(name, &column.bytes);
    }

    /// Adds a table of texts, one a line; a line break inside a text becomes U+2028, which the
    /// reader turns back.
    pub fn texts(&mut self, name: &str, texts: &Texts) {
        let mut joined = String::new();
        for text in &texts.texts {
            joined.push_str(&text.replace('\n', "\u{2028}"));
            joined.push('\n');
        }
        self.section(name, joined.as_bytes());
    }

    /// Deflates all sections (RFC 1951, no header) and writes them as base64.
    #[must_use]
    pub fn finish(&self) -> String {
        base64(&miniz_oxide::deflate::compress_to_vec(
            &self.bytes,
            COMPRESSION_LEVEL,
        ))
    }
}

/// Numbers in variable-length form: seven bits a byte, the lowest first.
#[derive(Debug, Default)]
pub struct Column {
    bytes: Vec<u8>,
    last: u64,
}

impl Column {
    /// Appends a number.
    ///
    /// # Panics
    /// When it is above [`LARGEST_NUMBER`].
    pub fn push(&mut self, number: u64) {
        assert!(number <= LARGEST_NUMBER, "a page's numbers are below 2^53");
        let mut rest = number;
        loop {
            let low = u8::try_from(rest & 0x7f).expect("seven bits");
            rest >>= 7;
            if rest == 0 {
                self.bytes.push(low);
                return;
            }
            self.bytes.push(low | 0x80);
        }
    }

    /// Appends the difference to the number that was pushed so before; the sign is the lowest bit.
    pub fn push_delta(&mut self, number: u64) {
        let (distance, sign) = if number >= self.last {
            (number - self.last, 0)
        } else {
            (self.last - number, 1)
        };
        self.last = number;
        self.push(distance * 2 + sign);
    }

    /// How many bytes it takes before compression.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// Texts that occur often, each kept once; number 0 is the empty text.
#[derive(Debug)]
pub struct Texts {
    texts: Vec<String>,
    numbers: BTreeMap<String, u64>,
    bytes: usize,
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            texts: vec![String::new()],
            numbers: BTreeMap::from([(String::new(), 0)]),
            bytes: 0,
        }
    }
}

impl Texts {
    /// The number of a text.
    pub fn number(&mut self, text: &str) -> u64 {
        if let Some(&known) = self.numbers.get(text) {
            return known;
        }
        let next = self.texts.len() as u64;
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), next);
        self.bytes += text.len();
        next
    }

    /// Bytes of all texts.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes
    }
}

/// RFC 4648 4.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| usize::from(group.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            if at <= group.len() {
                text.push(char::from(ALPHABET[word >> shift & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let encoded: Vec<String> = ["", "f", "fo", "foo", "foob", "fooba", "foobar"]
            .iter()
            .map(|text| base64(text.as_bytes()))
            .collect();
        let vectors = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        assert_eq!(encoded, vectors);
    }

    #[test]
    fn numbers_take_seven_bits_a_byte_and_deltas_a_sign() {
        let mut column = Column::default();
        column.push(0);
        column.push(127);
        column.push(128);
        column.push_delta(5);
        column.push_delta(3);
        assert_eq!(column.bytes, [0, 127, 0x80, 1, 10, 5]);
    }

    #[test]
    fn a_pack_inflates_to_its_sections() {
        let mut pack = Pack::default();
        pack.section("ab", b"xyz");
        let deflated = miniz_oxide::deflate::compress_to_vec(&pack.bytes, COMPRESSION_LEVEL);
        let inflated = miniz_oxide::inflate::decompress_to_vec(&deflated).unwrap();
        assert_eq!(inflated, b"\x02ab\x03\0\0\0xyz");
        assert_eq!(pack.finish(), base64(&deflated));
    }

    #[test]
    fn equal_texts_have_one_number_and_the_empty_text_is_zero() {
        let mut texts = Texts::default();
        let numbers = ["a", "", "b", "a"].map(|text| texts.number(text));
        assert_eq!(numbers, [1, 0, 2, 1]);
    }
}
