//! Cuts a byte stream into PDUs and puts PDUs onto it: lengths, padding and CRC32C digests.
//!
//! Invariant: the framer refuses a data segment that is longer than its limit as soon as the header
//! is there, so a peer can make it hold at most one PDU. With header digests a length is believed
//! only after the digest matched. An error is final: the stream has lost its frame boundaries.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{CodecError, HEADER_BYTES};
use crate::crc32c::{Crc32c, crc32c};

/// The digests in force on a connection (RFC 7143 13.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests {
    /// CRC32C after header and AHS.
    pub header: bool,
    /// CRC32C after the padded data segment.
    pub data: bool,
}

/// One PDU, its data segment without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPdu {
    /// The basic header segment. Its length fields are set when the PDU is encoded.
    pub header: [u8; HEADER_BYTES],
    /// All additional header segments, padded to words.
    pub additional: Bytes,
    /// The data segment.
    pub data: Bytes,
}

impl RawPdu {
    /// The six opcode bits.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    /// The I bit: delivered at once, outside the CmdSN order.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        self.header[0] & 0x40 != 0
    }

    /// Appends the wire form to `out`: small parts are gathered, a large data segment stays the
    /// slice it is.
    ///
    /// # Panics
    /// When the data segment has 2^24 bytes or more, or the AHS is not whole words.
    pub fn encode(&self, digests: Digests, out: &mut Gather) {
        assert!(
            self.data.len() < 1 << 24,
            "a data segment's length has 24 bits"
        );
        assert!(
            self.additional.len().is_multiple_of(4),
            "an AHS is whole words"
        );
        let words = u8::try_from(self.additional.len() / 4).expect("an AHS has at most 255 words");
        let length = u32::try_from(self.data.len()).expect("24 bits were checked");
        let mut header = self.header;
        header[4..8].copy_from_slice(&length.to_be_bytes());
        header[4] = words;
        out.copy(&header);
        out.copy(&self.additional);
        if digests.header {
            let mut crc = Crc32c::default();
            crc.update(&header);
            crc.update(&self.additional);
            out.copy(&crc.finish().to_le_bytes());
        }
        if self.data.is_empty() {
            return;
        }
        let padding = &[0_u8; 3][..padding_of(self.data.len())];
        out.share(&self.data);
        out.copy(padding);
        if digests.data {
            let mut crc = Crc32c::default();
            crc.update(&self.data);
            crc.update(padding);
            out.copy(&crc.finish().to_le_bytes());
        }
    }

    /// The wire form in one piece, for tests and small PDUs.
    #[must_use]
    pub fn to_bytes(&self, digests: Digests) -> Bytes {
        let mut gather = Gather::default();
        self.encode(digests, &mut gather);
        let mut whole = BytesMut::new();
        for part in gather.take() {
            whole.extend_from_slice(&part);
        }
        whole.freeze()
    }
}

/// Data segments below this many bytes are copied beside their header: one large part costs the
/// network layer less than two small ones.
const SHARE_FROM_BYTES: usize = 2048;

/// Collects wire bytes for one vectored write.
#[derive(Debug, Default)]
pub struct Gather {
    parts: Vec<Bytes>,
    tail: BytesMut,
    length: usize,
}

impl Gather {
    fn copy(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
        self.length += bytes.len();
    }

    fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_FROM_BYTES {
            return self.copy(bytes);
        }
        if !self.tail.is_empty() {
            self.parts.push(self.tail.split().freeze());
        }
        self.parts.push(bytes.clone());
        self.length += bytes.len();
    }

    /// Bytes collected so far.
    #[must_use]
    pub fn length_bytes(&self) -> usize {
        self.length
    }

    /// Hands over what was collected, in order.
    pub fn take(&mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.parts.push(self.tail.split().freeze());
        }
        self.length = 0;
        std::mem::take(&mut self.parts)
    }
}

fn padding_of(length: usize) -> usize {
    length.wrapping_neg() & 3
}

/// Finds PDUs in received bytes.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    digests: Digests,
    data_limit: usize,
}

impl Framer {
    /// A framer without digests that accepts data segments of up to `data_limit` bytes.
    #[must_use]
    pub fn new(data_limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            digests: Digests::default(),
            data_limit,
        }
    }

    /// Expects these digests from the next PDU on: agreed at the end of login.
    pub fn set_digests(&mut self, digests: Digests) {
        self.digests = digests;
    }

    /// Accepts data segments of up to `data_limit` bytes from the next PDU on.
    pub fn set_data_limit(&mut self, data_limit: usize) {
        self.data_limit = data_limit;
    }

    /// Adds received bytes. When nothing is pending they are taken over without a copy.
    pub fn push(&mut self, received: Bytes) {
        if self.buffer.is_empty() {
            self.buffer = match received.try_into_mut() {
                Ok(taken) => taken,
                Err(shared) => BytesMut::from(shared.as_ref()),
            };
        } else {
            self.buffer.extend_from_slice(&received);
        }
    }

    /// Bytes that are still missing from the PDU that has begun, as far as is known.
    #[must_use]
    pub fn missing_bytes(&self) -> usize {
        let needed = match self.extent() {
            Some(extent) => extent.whole(),
            None => HEADER_BYTES,
        };
        needed.saturating_sub(self.buffer.len())
    }

    /// The next whole PDU.
    ///
    /// # Errors
    /// The bytes are no iSCSI PDU within the limits; the stream cannot be used further.
    pub fn next_pdu(&mut self) -> Result<Option<RawPdu>, CodecError> {
        let Some(extent) = self.extent() else {
            return Ok(None);
        };
        if self.buffer.len() < extent.headers() {
            return Ok(None);
        }
        if self.digests.header {
            let end = HEADER_BYTES + extent.additional;
            if !digest_matches(&self.buffer[..end], &self.buffer[end..end + 4]) {
                return Err(CodecError::HeaderDigest);
            }
        }
        if extent.data > self.data_limit {
            let (length_bytes, limit_bytes) = (extent.data, self.data_limit);
            return Err(CodecError::DataTooLong {
                length_bytes,
                limit_bytes,
            });
        }
        if self.buffer.len() < extent.whole() {
            self.buffer.reserve(extent.whole() - self.buffer.len());
            return Ok(None);
        }
        let mut pdu = self.buffer.split_to(extent.whole());
        let mut header = [0; HEADER_BYTES];
        pdu.copy_to_slice(&mut header);
        let additional = pdu.split_to(extent.additional).freeze();
        pdu.advance(extent.header_digest);
        if extent.data_digest > 0 {
            let padded = extent.data + padding_of(extent.data);
            if !digest_matches(&pdu[..padded], &pdu[padded..]) {
                return Err(CodecError::DataDigest);
            }
        }
        pdu.truncate(extent.data);
        Ok(Some(RawPdu {
            header,
            additional,
            data: pdu.freeze(),
        }))
    }

    fn extent(&self) -> Option<Extent> {
        let header = self.buffer.get(..HEADER_BYTES)?;
        let data =
            usize::from(header[5]) << 16 | usize::from(header[6]) << 8 | usize::from(header[7]);
        Some(Extent {
            additional: usize::from(header[4]) * 4,
            header_digest: if self.digests.header { 4 } else { 0 },
            data,
            data_digest: if self.digests.data && data > 0 { 4 } else { 0 },
        })
    }
}

fn digest_matches(bytes: &[u8], digest: &[u8]) -> bool {
    crc32c(bytes).to_le_bytes() == digest
}

/// Lengths of a PDU's parts in bytes, from its header.
struct Extent {
    additional: usize,
    header_digest: usize,
    data: usize,
    data_digest: usize,
}

impl Extent {
    fn headers(&self) -> usize {
        HEADER_BYTES + self.additional + self.header_digest
    }

    fn whole(&self) -> usize {
        self.headers() + self.data + padding_of(self.data) + self.data_digest
    }
}
