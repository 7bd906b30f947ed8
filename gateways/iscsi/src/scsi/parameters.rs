//! Data-out parameter lists and data-in answers of commands that move no blocks.

use hedgerow_env::mutants::{Mutant, active};

use super::sense::Sense;
use super::{UNMAP_BYTES_MAX, UNMAP_DESCRIPTORS_MAX};
use crate::port::Geometry;
use crate::target::Target;

/// READ CAPACITY (10) (SBC-3 5.15).
pub(crate) fn capacity10(geometry: Geometry) -> Vec<u8> {
    let last = u32::try_from(geometry.block_count.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend_from_slice(&geometry.block_size_bytes.to_be_bytes());
    data
}

/// READ CAPACITY (16) (SBC-3 5.16).
pub(crate) fn capacity16(geometry: Geometry) -> Vec<u8> {
    let mut data = vec![0; 32];
    data[..8].copy_from_slice(&geometry.block_count.saturating_sub(1).to_be_bytes());
    data[8..12].copy_from_slice(&geometry.block_size_bytes.to_be_bytes());
    // Logical blocks per physical block, as a power of two of at most 15.
    let ratio = (geometry.optimal_io_bytes / geometry.block_size_bytes).max(1);
    data[13] = u8::try_from(ratio.ilog2().min(15)).expect("at most 15");
    if geometry.thin {
        data[14] = 0xc0; // LBPME, LBPRZ
    }
    data
}

/// GET LBA STATUS (SBC-3 5.6): one descriptor to the end of the disk, with provisioning status 0,
/// "mapped or unknown", for the port does not tell what is mapped.
pub(crate) fn lba_status(first: u64, geometry: Geometry) -> Result<Vec<u8>, Sense> {
    if first >= geometry.block_count {
        return Err(Sense::OUT_OF_RANGE);
    }
    let count = u32::try_from(geometry.block_count - first).unwrap_or(u32::MAX);
    let mut data = vec![0, 0, 0, 20, 0, 0, 0, 0];
    data.extend_from_slice(&first.to_be_bytes());
    data.extend_from_slice(&count.to_be_bytes());
    data.extend_from_slice(&[0; 4]);
    Ok(data)
}

/// REPORT LUNS (SPC-4 6.33).
pub(crate) fn luns(select: u8, target: &Target) -> Result<Vec<u8>, Sense> {
    let luns: Vec<u64> = match select {
        0x00 | 0x02 => {
            let units = target.units();
            units
                .iter()
                .map(|unit| crate::codec::Lun::from_number(unit.number).0)
                .collect()
        }
        0x01 => Vec::new(), // no well-known logical units
        _ => return Err(Sense::invalid_cdb_field(2, Some(7))),
    };
    let length = u32::try_from(luns.len() * 8).expect("LUNs have 16 bits");
    let mut data = length.to_be_bytes().to_vec();
    data.extend_from_slice(&[0; 4]);
    data.extend(luns.iter().flat_map(|lun| lun.to_be_bytes()));
    Ok(data)
}

/// The byte ranges of an UNMAP parameter list (SBC-3 5.28.2), first and length.
pub(crate) fn unmap_ranges(list: &[u8], geometry: Geometry) -> Result<Vec<(u64, u64)>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let header = list.get(..8).ok_or(Sense::PARAMETER_LENGTH)?;
    let descriptor_bytes = usize::from(u16::from_be_bytes([header[2], header[3]])) / 16 * 16;
    let descriptors = list
        .get(8..8 + descriptor_bytes)
        .ok_or(Sense::PARAMETER_LENGTH)?;
    let count = u32::try_from(descriptor_bytes / 16).expect("the length has 16 bits");
    if count > UNMAP_DESCRIPTORS_MAX {
        return Err(Sense::invalid_parameter(2, None));
    }
    let block = u64::from(geometry.block_size_bytes);
    let mut total = 0_u64;
    let mut ranges = Vec::new();
    for (index, descriptor) in descriptors.chunks_exact(16).enumerate() {
        let mut first = [0; 8];
        first.copy_from_slice(&descriptor[..8]);
        let mut count = [0; 4];
        count.copy_from_slice(&descriptor[8..12]);
        let (first, count) = (
            u64::from_be_bytes(first),
            u64::from(u32::from_be_bytes(count)),
        );
        if count == 0 {
            if first > geometry.block_count {
                return Err(Sense::OUT_OF_RANGE);
            }
            continue;
        }
        if first
            .checked_add(count)
            .is_none_or(|end| end > geometry.block_count)
        {
            return Err(Sense::OUT_OF_RANGE);
        }
        total += count * block;
        if total > UNMAP_BYTES_MAX {
            let at = u16::try_from(8 + 16 * index + 8).expect("256 descriptors at most");
            return Err(Sense::invalid_parameter(at, None));
        }
        let count = if active(Mutant::UnmapCountInBytes) {
            count
        } else {
            count * block
        };
        ranges.push((first * block, count));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
        let body = u16::try_from(ranges.len() * 16).unwrap();
        let mut list = (body + 6).to_be_bytes().to_vec();
        list.extend_from_slice(&body.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        for (first, count) in ranges {
            list.extend_from_slice(&first.to_be_bytes());
            list.extend_from_slice(&count.to_be_bytes());
            list.extend_from_slice(&[0; 4]);
        }
        list
    }

    #[test]
    fn unmap_lists_are_checked_against_disk_and_limits() {
        let geometry = Geometry::new(512, 1 << 32);
        let ranges = unmap_ranges(&list(&[(8, 8), (0, 0), (100, 1)]), geometry);
        assert_eq!(ranges, Ok(vec![(4096, 4096), (51200, 512)]));
        let outside = unmap_ranges(&list(&[(u64::MAX, 2)]), geometry);
        assert_eq!(outside, Err(Sense::OUT_OF_RANGE));
        let much = unmap_ranges(&list(&[(0, 1 << 20), (1 << 20, 1)]), geometry);
        assert_eq!(much, Err(Sense::invalid_parameter(32, None)));
        let many = unmap_ranges(&list(&[(0, 1); 257]), geometry);
        assert_eq!(many, Err(Sense::invalid_parameter(2, None)));
        let good = list(&[(8, 8)]);
        for cut in 1..good.len() {
            assert_eq!(
                unmap_ranges(&good[..cut], geometry),
                Err(Sense::PARAMETER_LENGTH)
            );
        }
    }
}
