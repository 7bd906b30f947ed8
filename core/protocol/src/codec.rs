//! The codec: bincode 2 with variable-length integers behind a four-byte envelope.
//!
//! Layout: `kind: u16 LE, version: u16 LE, bincode(standard) body` (docs/format/envelope.md).

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The feature level that this build speaks. None above the level committed in a group's own log is
/// ever proposed there.
pub const FEATURE_LEVEL: u16 = 1;

/// No encoded value may be larger: what exceeds it is refused before memory is set aside.
/// Bulk bytes travel beside the encoded head, so that heads stay small.
pub const MAXIMUM_ENCODED_BYTES: usize = 16 << 20;

/// A value with an envelope of its own.
pub trait Envelope: Serialize + DeserializeOwned {
    /// Distinguishes it from every other enveloped value; never reused.
    const KIND: u16;
    /// Its present version; older ones must stay readable while a feature level allows them.
    const VERSION: u16;
}

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the value does, or are damaged.
    #[error("kind {kind}: malformed: {reason}")]
    Malformed {
        /// The kind that was expected.
        kind: u16,
        /// Where decoding stopped.
        reason: String,
    },
    /// Another kind of value.
    #[error("expected kind {expected}, found {found}")]
    WrongKind {
        /// The kind that was expected.
        expected: u16,
        /// The kind that the envelope names.
        found: u16,
    },
    /// Written by a newer build.
    #[error("kind {kind}: version {found} is newer than {supported}, which this build reads")]
    TooNew {
        /// The kind.
        kind: u16,
        /// The version in the envelope.
        found: u16,
        /// The newest version that this build reads.
        supported: u16,
    },
}

/// Encodes `value` behind its envelope.
///
/// # Panics
/// When the value exceeds [`MAXIMUM_ENCODED_BYTES`]: limits on batches make that impossible.
#[must_use]
pub fn encode<T: Envelope>(value: &T) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&T::KIND.to_le_bytes());
    bytes.extend_from_slice(&T::VERSION.to_le_bytes());
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .expect("encoding into memory cannot fail for types without borrowed state");
    assert!(
        bytes.len() <= MAXIMUM_ENCODED_BYTES,
        "kind {} exceeds the encoded limit",
        T::KIND
    );
    Bytes::from(bytes)
}

/// Decodes a value from `bytes`, all of which it must use.
///
/// # Errors
/// [`CodecError`]: nothing of the value may be used.
pub fn decode<T: Envelope>(bytes: &[u8]) -> Result<T, CodecError> {
    let kind = T::KIND;
    let Some((envelope, body)) = bytes.split_first_chunk::<4>() else {
        return Err(CodecError::Malformed {
            kind,
            reason: "shorter than its envelope".into(),
        });
    };
    let found = u16::from_le_bytes([envelope[0], envelope[1]]);
    let version = u16::from_le_bytes([envelope[2], envelope[3]]);
    if found != kind {
        return Err(CodecError::WrongKind {
            expected: kind,
            found,
        });
    }
    if version > T::VERSION {
        return Err(CodecError::TooNew {
            kind,
            found: version,
            supported: T::VERSION,
        });
    }
    let config = bincode::config::standard().with_limit::<MAXIMUM_ENCODED_BYTES>();
    match bincode::serde::decode_from_slice(body, config) {
        Ok((value, used)) if used == body.len() => Ok(value),
        Ok((_, used)) => Err(CodecError::Malformed {
            kind,
            reason: format!("{} bytes after the value", body.len() - used),
        }),
        Err(error) => Err(CodecError::Malformed {
            kind,
            reason: error.to_string(),
        }),
    }
}

/// Gives types their envelope.
macro_rules! envelope {
    ($($type:ty = $kind:literal v $version:literal),+ $(,)?) => {
        $(impl $crate::Envelope for $type {
            const KIND: u16 = $kind;
            const VERSION: u16 = $version;
        })+
    };
}
pub(crate) use envelope;
