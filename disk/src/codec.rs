//! Little-endian reading and writing of the layouts in `docs/format/`, and checked conversions.
//!
//! Invariant: a reader never panics on foreign bytes; it returns `None` when they end too early.
//! Does not: know any layout; each format file owns its own.

use hedgerow_env::{BlobName, ContainerId, ContainerIndex, FamilyId, Sequence};
use hedgerow_env::{VirtualDiskId, WriterId};

/// Bytes of an encoded [`BlobName`].
pub(crate) const NAME_BYTES: usize = 36;

/// A length in memory as a 64-bit quantity.
pub(crate) fn wide(length: usize) -> u64 {
    u64::try_from(length).expect("usize is at most 64 bits wide on every supported machine")
}

/// A bounded on-disk quantity as a length in memory.
pub(crate) fn narrow(quantity: u64) -> usize {
    usize::try_from(quantity).expect("sizes on disk are bounded far below the address space")
}

/// A length whose bound (checked at the boundary) is below 4 GiB.
pub(crate) fn word(length: usize) -> u32 {
    u32::try_from(length).expect("lengths are bounded below 4 GiB where they enter")
}

/// `value` rounded up to a multiple of `step`.
pub(crate) fn align_up(value: u64, step: u64) -> u64 {
    value.div_ceil(step) * step
}

/// Appends fields to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u128(&mut self, value: u128) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn name(&mut self, name: &BlobName) -> &mut Self {
        self.u64(name.container.family.0)
            .u64(name.container.disk.0)
            .u32(name.container.index.0)
            .u64(name.writer.0)
            .u64(name.sequence.0)
    }

    /// Zeros up to the next multiple of `step`.
    pub(crate) fn pad(&mut self, step: usize) -> &mut Self {
        let length = self.0.len().div_ceil(step) * step;
        self.0.resize(length, 0);
        self
    }
}

/// Takes fields from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    /// A 32-bit length and as many bytes.
    pub(crate) fn sized(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    pub(crate) fn name(&mut self) -> Option<BlobName> {
        Some(BlobName {
            container: ContainerId {
                family: FamilyId(self.u64()?),
                disk: VirtualDiskId(self.u64()?),
                index: ContainerIndex(self.u32()?),
            },
            writer: WriterId(self.u64()?),
            sequence: Sequence(self.u64()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_and_a_short_one_is_refused() {
        let name = BlobName {
            container: ContainerId {
                family: FamilyId(1),
                disk: VirtualDiskId(2),
                index: ContainerIndex(3),
            },
            writer: WriterId(4),
            sequence: Sequence(5),
        };
        let mut writer = Writer::default();
        writer.name(&name);
        assert_eq!(writer.0.len(), NAME_BYTES);
        assert_eq!(Reader(&writer.0).name(), Some(name));
        assert_eq!(Reader(&writer.0[..NAME_BYTES - 1]).name(), None);
    }
}
