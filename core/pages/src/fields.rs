//! Fixed-width, big-endian fields: the keys and the hot values of the machines' tables.
//!
//! Invariants: keys of one table sort as their fields do; a value that does not read to its last
//! byte is [`StateError::Damaged`], never a panic.
//! Does not: know any table (they stand in `root/` and `shard/`).

use hedgerow_env::{ContainerId, ContainerIndex, FamilyId, VirtualDiskId};

use crate::StateError;

/// Writes fields one after another.
#[derive(Debug, Clone)]
pub(crate) struct Put(Vec<u8>);

impl Put {
    /// A key of the table `kind`, or a value that begins with the tag `kind`.
    pub(crate) fn new(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(kind);
        Self(bytes)
    }

    /// A value without a tag.
    pub(crate) fn value() -> Self {
        Self(Vec::with_capacity(64))
    }

    pub(crate) fn u8(mut self, field: u8) -> Self {
        self.0.push(field);
        self
    }

    pub(crate) fn u16(mut self, field: u16) -> Self {
        self.0.extend_from_slice(&field.to_be_bytes());
        self
    }

    pub(crate) fn u32(mut self, field: u32) -> Self {
        self.0.extend_from_slice(&field.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, field: u64) -> Self {
        self.0.extend_from_slice(&field.to_be_bytes());
        self
    }

    pub(crate) fn u128(mut self, field: u128) -> Self {
        self.0.extend_from_slice(&field.to_be_bytes());
        self
    }

    pub(crate) fn bytes(mut self, field: &[u8]) -> Self {
        self.0.extend_from_slice(field);
        self
    }

    /// Family, index, disk: the containers of a family at one index stand together.
    pub(crate) fn container(self, container: ContainerId) -> Self {
        self.u64(container.family.0)
            .u32(container.index.0)
            .u64(container.disk.0)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// The least key above every key that begins with `prefix`.
pub(crate) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut bound = prefix.to_vec();
    while let Some(last) = bound.pop() {
        if last < u8::MAX {
            bound.push(last + 1);
            return bound;
        }
    }
    unreachable!("every prefix begins with a table kind, and no kind is 255")
}

/// Reads fields one after another.
#[derive(Debug, Clone)]
pub(crate) struct Take<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Take<'a> {
    /// Reads `bytes`, a row of the table called `what`.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let Some((field, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(self.damaged("ends too early"));
        };
        self.bytes = rest;
        Ok(*field)
    }

    /// The row's table kind or tag, and every other single byte.
    pub(crate) fn u8(&mut self) -> Result<u8, StateError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, StateError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StateError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StateError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, StateError> {
        Ok(u128::from_be_bytes(self.array()?))
    }

    pub(crate) fn container(&mut self) -> Result<ContainerId, StateError> {
        Ok(ContainerId {
            family: FamilyId(self.u64()?),
            index: ContainerIndex(self.u32()?),
            disk: VirtualDiskId(self.u64()?),
        })
    }

    /// What is left, as it stands.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// The row must end here.
    pub(crate) fn end(self) -> Result<(), StateError> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(self.damaged("goes on after its last field"))
        }
    }

    pub(crate) fn damaged(&self, how: &str) -> StateError {
        StateError::Damaged(format!("{} row {how}", self.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_fields_and_prefixes_end_where_the_next_begins() {
        let key = |index, disk| {
            Put::new(7)
                .container(ContainerId {
                    family: FamilyId(3),
                    disk: VirtualDiskId(disk),
                    index: ContainerIndex(index),
                })
                .done()
        };
        assert!(key(1, 9) < key(2, 1) && key(2, 1) < key(2, 2));
        assert_eq!(after_prefix(&[1, 255, 255]), vec![2]);
        assert_eq!(after_prefix(&[1, 4]), vec![1, 5]);
        assert!(key(u32::MAX, u64::MAX) < after_prefix(&Put::new(7).u64(3).done()));
    }

    #[test]
    fn a_short_or_long_row_is_damaged() {
        let row = Put::value().u16(1).u64(2).done();
        let mut short = Take::new(&row[..5], "test");
        assert_eq!(short.u16(), Ok(1));
        assert!(matches!(short.u64(), Err(StateError::Damaged(_))));
        let mut long = Take::new(&row, "test");
        assert_eq!(long.u16(), Ok(1));
        assert!(matches!(long.end(), Err(StateError::Damaged(_))));
    }
}
