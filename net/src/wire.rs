//! Fixed-width little-endian fields, written and read.
//!
//! Invariant: reading never panics on foreign bytes when done through [`Fields`]; the bare
//! [`Cursor`] is for headers whose length is fixed.

use bytes::Bytes;

pub(crate) fn put_u16(bytes: &mut Vec<u8>, value: u16) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut Vec<u8>, value: u64) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

/// A length of 16 bits and that many bytes. Longer text is cut at a character's border.
pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str, maximum: usize) {
    let mut end = text.len().min(maximum);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_u16(bytes, u16::try_from(end).expect("text limits fit 16 bits"));
    bytes.extend_from_slice(&text.as_bytes()[..end]);
}

/// Reads a header of known length.
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (front, rest) = self.0.split_at(N);
        self.0 = rest;
        front.try_into().expect("split at that length")
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

/// Why a body of the handshake or a refusal does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends within a field.
    #[error("ends within {field}")]
    Short {
        /// The field.
        field: &'static str,
    },
    /// A field has a value that it must not have.
    #[error("{field} is wrong")]
    Wrong {
        /// The field.
        field: &'static str,
    },
}

/// Reads a body of unknown length; every field may turn out missing.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a Bytes) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let (front, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(WireError::Short { field })?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        Ok(self
            .take(N, field)?
            .try_into()
            .expect("taken at that length"))
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u128(&mut self, field: &'static str) -> Result<u128, WireError> {
        Ok(u128::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn text(
        &mut self,
        field: &'static str,
        maximum: usize,
    ) -> Result<String, WireError> {
        let length = usize::from(self.u16(field)?);
        if length > maximum {
            return Err(WireError::Wrong { field });
        }
        let bytes = self.take(length, field)?;
        let text = std::str::from_utf8(bytes).map_err(|_| WireError::Wrong { field })?;
        Ok(text.to_owned())
    }

    /// Whatever follows is of a newer version and of no concern.
    pub(crate) fn end(self) {}
}
