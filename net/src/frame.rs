//! The frame: 64 bytes of header, a head and a payload (`docs/format/rpc-frame.md`).
//!
//! Invariants: the header has a checksum of its own, so a length is trusted before its body
//! arrives; the body's checksum is in the header. A bad header ends the stream, a bad body costs
//! that frame alone. Nothing larger than the limit is ever held in memory.
//! Does not: read, write, or know what a frame means on its connection.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use hedgerow_env::TenantId;
use hedgerow_env::mutants::{Mutant, active};

use crate::wire::{Cursor, put_u16, put_u32, put_u64};
use crate::{Message, ServiceId};

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 64;
/// `HgRP`: the first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"HgRP";
/// The frame layout that this code writes and reads.
pub const FRAME_VERSION: u16 = 1;
/// How far beyond the limit a body may go and still be skipped; beyond it the stream is given up.
const SKIPPED_MULTIPLE: u64 = 8;
/// Read at once at least so much: many small frames per read.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Opens a connection: who calls.
    Hello = 1,
    /// Answers a hello: who is called, and whether it talks to the caller.
    HelloReply = 2,
    /// Ends the handshake: what the caller knows of the called one's stores.
    HelloConfirm = 3,
    /// A request.
    Request = 4,
    /// The response to a request.
    Response = 5,
    /// The refusal of a request.
    Refusal = 6,
    /// The caller no longer waits for a request.
    Cancel = 7,
    /// Asks for a pong.
    Ping = 8,
    /// Answers a ping.
    Pong = 9,
}

impl Kind {
    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::HelloReply,
            3 => Self::HelloConfirm,
            4 => Self::Request,
            5 => Self::Response,
            6 => Self::Refusal,
            7 => Self::Cancel,
            8 => Self::Ping,
            9 => Self::Pong,
            _ => return None,
        })
    }
}

/// The number of a request on its connection, from 1 on; also numbers pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u64);

/// The header of a frame, but for its checksum, magic and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// The session that the handshake agreed on; in a hello the caller's nonce.
    pub session: u64,
    /// Which request, or which ping.
    pub request: RequestId,
    /// Microseconds that the caller still waits, from when the frame was written.
    pub remaining_us: u64,
    /// The service that is called.
    pub service: ServiceId,
    /// The quality-of-service class.
    pub class: u8,
    /// On whose behalf.
    pub tenant: TenantId,
    /// Bytes of the head.
    pub head_bytes: u32,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    /// CRC-32 (IEEE) of head and payload.
    pub body_checksum: u32,
}

/// Why a stream of frames cannot be read further. The connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream does not carry our frames, or lost its alignment.
    #[error("bad magic {found:02x?}")]
    BadMagic {
        /// What stands in its place.
        found: [u8; 4],
    },
    /// The header was damaged.
    #[error("header checksum is {found:08x}, computed {computed:08x}")]
    HeaderChecksum {
        /// As stated.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// The peer writes a layout that this code does not read.
    #[error("frame version {found}, this node reads {FRAME_VERSION}")]
    Version {
        /// The peer's version.
        found: u16,
    },
    /// A kind, flag or reserved byte that this version does not have.
    #[error("header field {field} has the value {found}")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// So far beyond the limit that it is not even skipped.
    #[error("frame of {bytes} bytes where {limit} is the limit")]
    FarTooLarge {
        /// Head and payload together.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

impl Header {
    /// A header of `kind` without a body.
    #[must_use]
    pub const fn bare(kind: Kind, session: u64, request: RequestId) -> Self {
        Self {
            kind,
            session,
            request,
            remaining_us: 0,
            service: ServiceId(0),
            class: 0,
            tenant: TenantId(0),
            head_bytes: 0,
            payload_bytes: 0,
            body_checksum: 0,
        }
    }

    /// The same header for the body `message`, whose checksum was computed before.
    ///
    /// # Panics
    /// When a part is over 4 GiB, which every limit excludes.
    #[must_use]
    pub fn with_body(mut self, message: &Message, body_checksum: u32) -> Self {
        let length = |part: &Bytes| u32::try_from(part.len()).expect("limits are below 4 GiB");
        self.head_bytes = length(&message.head);
        self.payload_bytes = length(&message.payload);
        self.body_checksum = body_checksum;
        self
    }

    /// Head and payload together, in bytes.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        u64::from(self.head_bytes) + u64::from(self.payload_bytes)
    }

    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        put_u16(&mut bytes, FRAME_VERSION);
        bytes.push(self.kind as u8);
        bytes.push(0); // Flags: none yet.
        put_u64(&mut bytes, self.session);
        put_u64(&mut bytes, self.request.0);
        put_u64(&mut bytes, self.remaining_us);
        put_u16(&mut bytes, self.service.0);
        bytes.push(self.class);
        bytes.push(0); // Reserved.
        put_u32(&mut bytes, self.tenant.0);
        put_u32(&mut bytes, self.head_bytes);
        put_u32(&mut bytes, self.payload_bytes);
        put_u32(&mut bytes, self.body_checksum);
        put_u64(&mut bytes, 0); // Reserved.
        let checksum = crc32fast::hash(&bytes);
        put_u32(&mut bytes, checksum);
        assert_eq!(
            bytes.len(),
            HEADER_BYTES,
            "the layout fills the header exactly"
        );
        Bytes::from(bytes)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError`] names the first field that is wrong.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.array::<4>();
        if magic != MAGIC {
            return Err(FrameError::BadMagic { found: magic });
        }
        let computed = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        let found = Cursor::new(&bytes[HEADER_BYTES - 4..]).u32();
        if computed != found {
            return Err(FrameError::HeaderChecksum { found, computed });
        }
        let version = cursor.u16();
        if version != FRAME_VERSION {
            return Err(FrameError::Version { found: version });
        }
        let field = |field, found| Err(FrameError::Field { field, found });
        let kind_number = cursor.u8();
        let Some(kind) = Kind::from_number(kind_number) else {
            return field("kind", u64::from(kind_number));
        };
        let flags = cursor.u8();
        if flags != 0 {
            return field("flags", u64::from(flags));
        }
        let session = cursor.u64();
        let request = RequestId(cursor.u64());
        let remaining_us = cursor.u64();
        let service = ServiceId(cursor.u16());
        let class = cursor.u8();
        let reserved = u64::from(cursor.u8());
        let tenant = TenantId(cursor.u32());
        let (head_bytes, payload_bytes) = (cursor.u32(), cursor.u32());
        let body_checksum = cursor.u32();
        let reserved = reserved | cursor.u64();
        if reserved != 0 {
            return field("reserved", reserved);
        }
        Ok(Self {
            kind,
            session,
            request,
            remaining_us,
            service,
            class,
            tenant,
            head_bytes,
            payload_bytes,
            body_checksum,
        })
    }
}

/// The checksum of a body.
#[must_use]
pub fn body_checksum(message: &Message) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&message.head);
    hasher.update(&message.payload);
    hasher.finalize()
}

/// The parts of one frame, for one write.
#[must_use]
pub fn parts(header: &Header, message: Message) -> Vec<Bytes> {
    let mut parts = vec![header.encode()];
    parts.extend(
        [message.head, message.payload]
            .into_iter()
            .filter(|part| !part.is_empty()),
    );
    parts
}

/// One step of the decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A whole frame.
    Frame(Header, Message),
    /// The body's checksum does not fit; the frame was dropped, the stream goes on.
    Damaged(Header),
    /// The body is larger than the limit; it is skipped as it arrives, the stream goes on.
    Oversized(Header),
}

#[derive(Debug)]
enum State {
    Header,
    Body(Header),
    Skip {
        remaining: u64,
        error: Option<FrameError>,
    },
    Failed(FrameError),
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    limit: u64,
    chunks: VecDeque<Bytes>,
    buffered: usize,
    state: State,
}

impl Decoder {
    /// A decoder that takes bodies of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self {
            limit,
            chunks: VecDeque::new(),
            buffered: 0,
            state: State::Header,
        }
    }

    /// Changes the limit for frames that begin from now on: a handshake takes less than a link.
    pub const fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Takes bytes as they came from the stream.
    pub fn push(&mut self, bytes: Bytes) {
        self.buffered += bytes.len();
        if !bytes.is_empty() {
            self.chunks.push_back(bytes);
        }
    }

    /// How many bytes to ask the stream for.
    #[must_use]
    pub fn wanted(&self) -> usize {
        let missing = match &self.state {
            State::Body(header) => body_length(header).saturating_sub(self.buffered),
            State::Header | State::Skip { .. } | State::Failed(_) => 0,
        };
        missing.max(READ_AHEAD_BYTES)
    }

    /// The next frame, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`FrameError`]: the stream cannot be read further; every later call says the same.
    pub fn next_frame(&mut self) -> Result<Option<Decoded>, FrameError> {
        loop {
            match &mut self.state {
                State::Failed(error) => return Err(error.clone()),
                State::Skip {
                    error: Some(error), ..
                } => {
                    self.state = State::Failed(error.clone());
                }
                State::Skip {
                    remaining,
                    error: None,
                } => {
                    let step = usize::try_from(*remaining).unwrap_or(usize::MAX);
                    let step = step.min(self.buffered);
                    *remaining -= u64::try_from(step).expect("usize fits 64 bits");
                    let done = *remaining == 0;
                    self.discard(step);
                    if !done {
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
                State::Header => {
                    if self.buffered < HEADER_BYTES {
                        return Ok(None);
                    }
                    if let Some(oversized) = self.begin_body()? {
                        return Ok(Some(oversized));
                    }
                }
                State::Body(header) => {
                    let header = *header;
                    if self.buffered < body_length(&header) {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    return Ok(Some(self.finish_body(header)));
                }
            }
        }
    }

    fn begin_body(&mut self) -> Result<Option<Decoded>, FrameError> {
        let bytes = self.take(HEADER_BYTES);
        let bytes: &[u8; HEADER_BYTES] = bytes
            .as_ref()
            .try_into()
            .expect("exactly that many were taken");
        let header = match Header::decode(bytes) {
            Ok(header) => header,
            Err(error) => {
                self.state = State::Failed(error.clone());
                self.chunks.clear();
                self.buffered = 0;
                return Err(error);
            }
        };
        let (size, limit) = (header.body_bytes(), self.limit);
        if size <= limit {
            self.state = State::Body(header);
            return Ok(None);
        }
        let hopeless = size > limit.saturating_mul(SKIPPED_MULTIPLE);
        let error = hopeless.then_some(FrameError::FarTooLarge { bytes: size, limit });
        self.state = State::Skip {
            remaining: size,
            error,
        };
        Ok(Some(Decoded::Oversized(header)))
    }

    fn finish_body(&mut self, header: Header) -> Decoded {
        let mut body = self.take(body_length(&header));
        let head_bytes = usize::try_from(header.head_bytes).expect("32 bits fit a usize");
        let head = body.split_to(head_bytes);
        let message = Message {
            head,
            payload: body,
        };
        let sound = body_checksum(&message) == header.body_checksum;
        if sound || active(Mutant::BodyChecksumUnchecked) {
            Decoded::Frame(header, message)
        } else {
            Decoded::Damaged(header)
        }
    }

    /// The next `length` bytes in one piece: a slice where they came in one read, else one copy.
    fn take(&mut self, length: usize) -> Bytes {
        assert!(length <= self.buffered, "only buffered bytes are taken");
        self.buffered -= length;
        if length == 0 {
            return Bytes::new();
        }
        let front = self
            .chunks
            .front_mut()
            .expect("buffered bytes stand in a chunk");
        if front.len() > length {
            return front.split_to(length);
        }
        if front.len() == length {
            return self.chunks.pop_front().expect("seen just now");
        }
        let mut joined = BytesMut::with_capacity(length);
        while joined.len() < length {
            let front = self
                .chunks
                .front_mut()
                .expect("buffered bytes stand in a chunk");
            let step = front.len().min(length - joined.len());
            joined.extend_from_slice(&front[..step]);
            front.advance(step);
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        joined.freeze()
    }

    fn discard(&mut self, mut length: usize) {
        self.buffered -= length;
        while length > 0 {
            let front = self
                .chunks
                .front_mut()
                .expect("buffered bytes stand in a chunk");
            let step = front.len().min(length);
            front.advance(step);
            length -= step;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

fn body_length(header: &Header) -> usize {
    usize::try_from(header.body_bytes()).expect("limits are below 4 GiB on 64-bit machines")
}
