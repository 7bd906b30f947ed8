//! Units: cutting a piece into at most 64 KiB, compressing each where that saves, digesting.
//!
//! Invariant: what [`decode_unit`] returns has the digest that the map entry names, and the length
//! that the unit's record names.

use bytes::{Bytes, BytesMut};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::{Digest, MAXIMUM_UNIT_BYTES, UnitEncoding, UnitRecord, digest};

/// A unit is stored compressed only when that saves at least an eighth.
const WORTHWHILE_EIGHTHS: usize = 7;

/// Why a unit's bytes cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// This copy is damaged: read another member.
    #[error("digest mismatch")]
    Digest,
    /// The digest is right and the bytes do not decode: a broken invariant.
    #[error("undecodable bytes under the right digest")]
    Encoding,
}

/// Cuts `data` into units and encodes them; answers their records and their stored bytes in order.
#[must_use]
pub fn encode_units(data: &Bytes, compression: bool) -> (Vec<UnitRecord>, Bytes) {
    let unit_bytes = MAXIMUM_UNIT_BYTES as usize;
    let mut records = Vec::with_capacity(data.len().div_ceil(unit_bytes));
    let mut stored = BytesMut::new();
    for start in (0..data.len()).step_by(unit_bytes) {
        let plain = &data[start..data.len().min(start + unit_bytes)];
        let packed = if compression { compress(plain) } else { None };
        let encoding = if packed.is_some() {
            UnitEncoding::Snappy
        } else {
            UnitEncoding::Plain
        };
        let bytes = packed.as_deref().unwrap_or(plain);
        records.push(UnitRecord {
            logical_bytes: length(plain),
            stored_bytes: length(bytes),
            encoding,
            digest: digest(bytes),
        });
        if compression {
            stored.extend_from_slice(bytes);
        }
    }
    let payload = if compression {
        stored.freeze()
    } else {
        data.clone()
    };
    (records, payload)
}

fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    let packed = snap::raw::Encoder::new().compress_vec(plain).ok()?;
    (packed.len() <= plain.len() / 8 * WORTHWHILE_EIGHTHS).then_some(packed)
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a unit is at most 64 KiB")
}

/// Checks and decodes a unit's stored bytes against the digest that the map names.
///
/// # Errors
/// [`UnitError`].
pub fn decode_unit(
    record: &UnitRecord,
    stored: Bytes,
    expected: Digest,
) -> Result<Bytes, UnitError> {
    let differs = record.digest != expected || digest(&stored) != expected;
    if differs && !active(Mutant::DigestUnchecked) {
        return Err(UnitError::Digest);
    }
    let plain = match record.encoding {
        UnitEncoding::Plain => stored,
        UnitEncoding::Snappy => {
            let claimed = snap::raw::decompress_len(&stored).map_err(|_| UnitError::Encoding)?;
            if claimed > MAXIMUM_UNIT_BYTES as usize {
                return Err(UnitError::Encoding);
            }
            let plain = snap::raw::Decoder::new().decompress_vec(&stored);
            Bytes::from(plain.map_err(|_| UnitError::Encoding)?)
        }
    };
    if plain.len() == record.logical_bytes as usize {
        Ok(plain)
    } else {
        Err(UnitError::Encoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_back_as_they_went_in_and_damage_is_seen() {
        let noise: Vec<u8> = (0..200_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect();
        for (data, compression) in [
            (vec![7_u8; 200_000], true),
            (noise.clone(), true),
            (noise, false),
        ] {
            let data = Bytes::from(data);
            let (records, payload) = encode_units(&data, compression);
            assert_eq!(records.len(), 4);
            let mut at = 0;
            let mut joined = Vec::new();
            for record in &records {
                let stored = payload.slice(at..at + record.stored_bytes as usize);
                at += record.stored_bytes as usize;
                let mut broken = stored.to_vec();
                broken[0] ^= 1;
                let damaged = decode_unit(record, Bytes::from(broken), record.digest);
                assert_eq!(damaged, Err(UnitError::Digest));
                joined.extend_from_slice(&decode_unit(record, stored, record.digest).unwrap());
            }
            assert_eq!(joined, data);
            assert_eq!(at, payload.len());
        }
    }

    #[test]
    fn compression_is_kept_only_where_it_saves() {
        let (zeros, payload) = encode_units(&Bytes::from(vec![0_u8; 65_536]), true);
        assert_eq!(zeros[0].encoding, UnitEncoding::Snappy);
        assert!(payload.len() < 8_192);
    }
}
