//! Checks of a blob against its own header, before it is stored and after it was read.
//!
//! Invariant: bytes pass only when every unit has the length and the digest that its record names,
//! and the records are within the protocol's limits.
//! Does not: open seals or decompress; an HBlock never sees plain bytes.

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::{
    BlobHeader, MAXIMUM_BLOB_BYTES, MAXIMUM_MOVED, MAXIMUM_UNIT_BYTES, UnitRecord, digest,
};

/// Most units of a blob. Their records, about 24 bytes each, must fit the header that a store keeps
/// with the blob (48 KiB); a proxy cuts units of 64 KiB and needs 16.
pub const MAXIMUM_UNITS: usize = 1024;

/// A seal adds its nonce and tag to a unit; no other growth is possible.
const SEAL_BYTES: u32 = 64;

/// What is wrong with a blob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobFault {
    /// The header contradicts the protocol's limits: refuse it.
    #[error("{0}")]
    Header(String),
    /// The bytes are not those that the header names.
    #[error("unit {unit} does not have its digest")]
    Digest {
        /// The first such unit of those that were checked.
        unit: usize,
    },
}

/// Checks a whole blob.
///
/// # Errors
/// [`BlobFault`].
pub fn verify_blob(header: &BlobHeader, payload: &Bytes) -> Result<(), BlobFault> {
    verify_header(header)?;
    verify_units(&header.units, payload)
}

/// Checks that `payload` is exactly the stored bytes of `units`, in order.
///
/// # Errors
/// [`BlobFault::Header`] when the lengths differ, [`BlobFault::Digest`] when the bytes do.
pub fn verify_units(units: &[UnitRecord], payload: &Bytes) -> Result<(), BlobFault> {
    let mut rest: &[u8] = payload;
    for (index, unit) in units.iter().enumerate() {
        let length = usize::try_from(unit.stored_bytes).expect("32 bits fit usize here");
        let Some((bytes, after)) = rest.split_at_checked(length) else {
            return Err(BlobFault::Header("the payload is too short".to_owned()));
        };
        if digest(bytes) != unit.digest && !active(Mutant::DigestUnchecked) {
            return Err(BlobFault::Digest { unit: index });
        }
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(BlobFault::Header(format!(
            "{} bytes after the last unit",
            rest.len()
        )))
    }
}

fn verify_header(header: &BlobHeader) -> Result<(), BlobFault> {
    let wrong = |text: String| Err(BlobFault::Header(text));
    if header.units.is_empty() || header.units.len() > MAXIMUM_UNITS {
        return wrong(format!("{} units", header.units.len()));
    }
    if header.moved.len() > MAXIMUM_MOVED {
        return wrong(format!("{} moved ranges", header.moved.len()));
    }
    let payload = header.payload_bytes();
    if payload > u64::from(MAXIMUM_BLOB_BYTES) {
        return wrong(format!("payload of {payload} bytes"));
    }
    for (index, unit) in header.units.iter().enumerate() {
        let logical = unit.logical_bytes;
        if logical == 0 || logical > MAXIMUM_UNIT_BYTES || !logical.is_multiple_of(512) {
            return wrong(format!("unit {index} of {logical} plain bytes"));
        }
        let stored = unit.stored_bytes;
        if stored == 0 || stored > logical.saturating_add(SEAL_BYTES) {
            return wrong(format!("unit {index} of {stored} stored bytes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::blob;

    #[test]
    fn a_sound_blob_passes_and_every_flipped_byte_is_found() {
        let (header, payload) = blob(1, 3);
        assert_eq!(verify_blob(&header, &payload), Ok(()));
        for position in [0, 511, 512, payload.len() - 1] {
            let mut bytes = payload.to_vec();
            bytes[position] ^= 1;
            let unit = position / 512;
            assert_eq!(
                verify_blob(&header, &Bytes::from(bytes)),
                Err(BlobFault::Digest { unit }),
                "byte {position}"
            );
        }
    }

    #[test]
    fn headers_that_contradict_the_limits_are_refused() {
        let (sound, payload) = blob(1, 2);
        let change = |change: &dyn Fn(&mut BlobHeader)| {
            let mut header = sound.clone();
            change(&mut header);
            matches!(verify_blob(&header, &payload), Err(BlobFault::Header(_)))
        };
        assert!(change(&|header| header.units.clear()), "no units");
        assert!(
            change(&|header| header.units.truncate(1)),
            "bytes left over"
        );
        assert!(change(&|header| header.units[0].logical_bytes = 0));
        assert!(change(&|header| header.units[0].logical_bytes = 1000));
        assert!(change(&|header| header.units[0].logical_bytes = 128 << 10));
        assert!(change(&|header| header.units[1].stored_bytes = u32::MAX));
        assert!(change(&|header| header.units[1].stored_bytes = 0));
        let many = vec![sound.units[0]; MAXIMUM_UNITS + 1];
        assert!(change(&move |header| header.units.clone_from(&many)));
    }
}
