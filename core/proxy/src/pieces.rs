//! Cutting a byte range of a disk at container borders and at a largest piece.

use std::ops::Range;

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BLOCK_UNIT_BYTES, ContainerIndex};

/// A part of a range within one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The container.
    pub index: ContainerIndex,
    /// First 512-byte block within the container.
    pub first_block: u32,
    /// How many blocks.
    pub blocks: u32,
    /// Where the piece begins within the range, in bytes.
    pub offset_bytes: u64,
}

impl Piece {
    /// The part of `range` (bytes of the disk, whole blocks) that lies in the container at `index`.
    #[must_use]
    pub fn within(index: ContainerIndex, range: &Range<u64>, container_bytes: u64) -> Option<Self> {
        let base = u64::from(index.0) * container_bytes;
        let start = range.start.max(base);
        let end = range.end.min(base + container_bytes);
        (start < end).then(|| Self {
            index,
            first_block: blocks(start - base),
            blocks: blocks(end - start),
            offset_bytes: start - range.start,
        })
    }

    /// Length in bytes.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_UNIT_BYTES
    }

    /// This piece's part of the range's bytes.
    ///
    /// # Panics
    /// When `data` is not the range that was cut.
    #[must_use]
    pub fn slice(&self, data: &Bytes) -> Bytes {
        let offset = if active(Mutant::PieceFromStart) {
            0
        } else {
            self.offset_bytes
        };
        let from = usize::try_from(offset).expect("a request fits memory");
        let length = usize::try_from(self.length_bytes()).expect("a request fits memory");
        data.slice(from..from + length)
    }
}

/// Cuts `[offset, offset + length)`; both are multiples of 512 and `container_bytes` of
/// `largest_bytes`.
///
/// # Panics
/// When the range is not aligned to 512 bytes, or the container index exceeds 32 bits.
#[must_use]
pub fn pieces(offset: u64, length: u64, container_bytes: u64, largest_bytes: u64) -> Vec<Piece> {
    assert!(
        (offset | length).is_multiple_of(BLOCK_UNIT_BYTES),
        "ranges are checked for alignment before they are cut"
    );
    let mut cut = Vec::new();
    let mut done = 0;
    while done < length {
        let at = offset + done;
        let within = at % container_bytes;
        // Pieces end at multiples of the largest piece, so that neighbours never share a unit.
        let room = largest_bytes - within % largest_bytes;
        let size = room.min(length - done).min(container_bytes - within);
        let from = if active(Mutant::PieceInFirstContainer) {
            offset
        } else {
            at
        };
        cut.push(Piece {
            index: ContainerIndex(
                u32::try_from(from / container_bytes).expect("disk sizes keep indices within u32"),
            ),
            first_block: blocks(within),
            blocks: blocks(size),
            offset_bytes: done,
        });
        done += size;
    }
    cut
}

fn blocks(bytes: u64) -> u32 {
    u32::try_from(bytes / BLOCK_UNIT_BYTES).expect("containers hold less than 2^32 blocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_one_container() {
        let within = |index, range: Range<u64>| {
            let piece = Piece::within(ContainerIndex(index), &range, 1 << 20);
            piece.map(|piece| (piece.first_block, piece.blocks, piece.offset_bytes))
        };
        let range = (1 << 20) + 4096..(3 << 20) + 512;
        assert_eq!(within(0, range.clone()), None);
        assert_eq!(within(1, range.clone()), Some((8, 2040, 0)));
        assert_eq!(within(2, range.clone()), Some((0, 2048, (1 << 20) - 4096)));
        assert_eq!(within(3, range.clone()), Some((0, 1, (2 << 20) - 4096)));
        assert_eq!(within(4, range), None);
    }

    #[test]
    fn pieces_cover_the_range_once_and_respect_borders() {
        let container = 4 << 20;
        let cut = pieces((4 << 20) - 512, (2 << 20) + 1024, container, 1 << 20);
        let shape: Vec<(u32, u32, u32)> = cut
            .iter()
            .map(|piece| (piece.index.0, piece.first_block, piece.blocks))
            .collect();
        assert_eq!(
            shape,
            [(0, 8191, 1), (1, 0, 2048), (1, 2048, 2048), (1, 4096, 1)]
        );
        let total: u64 = cut.iter().map(Piece::length_bytes).sum();
        assert_eq!(total, (2 << 20) + 1024);
        assert!(pieces(512, 0, container, 1 << 20).is_empty());
    }
}
