//! RPC frames: whatever bytes arrive in whatever pieces, the decoder never panics, never yields a
//! frame that was not sent, and yields every frame that arrived whole.

use bytes::Bytes;
use hedgerow_env::TenantId;
use hedgerow_net::frame::{
    Decoded, Decoder, FrameError, HEADER_BYTES, Header, Kind, RequestId, body_checksum, parts,
};
use hedgerow_net::hello::{Hello, HelloConfirm, HelloReply};
use hedgerow_net::{Message, ServiceId};
use hedgerow_proptests::config;
use proptest::prelude::*;

/// Bodies of these tests' decoders may have so many bytes.
const LIMIT: u64 = 512;

const KINDS: [Kind; 9] = [
    Kind::Hello,
    Kind::HelloReply,
    Kind::HelloConfirm,
    Kind::Request,
    Kind::Response,
    Kind::Refusal,
    Kind::Cancel,
    Kind::Ping,
    Kind::Pong,
];

type Frame = (Header, Message);

prop_compose! {
    fn frame(body_max: usize)(
        kind in prop::sample::select(&KINDS[..]),
        session in any::<u64>(),
        request in any::<u64>(),
        remaining_us in any::<u64>(),
        service in any::<u16>(),
        class in any::<u8>(),
        tenant in any::<u32>(),
        head in prop::collection::vec(any::<u8>(), 0..body_max),
        payload in prop::collection::vec(any::<u8>(), 0..body_max),
    ) -> Frame {
        let message = Message { head: Bytes::from(head), payload: Bytes::from(payload) };
        let mut header = Header::bare(kind, session, RequestId(request));
        header.remaining_us = remaining_us;
        header.service = ServiceId(service);
        header.class = class;
        header.tenant = TenantId(tenant);
        let header = header.with_body(&message, body_checksum(&message));
        (header, message)
    }
}

fn wire(frames: &[Frame]) -> Vec<u8> {
    let parts = frames
        .iter()
        .flat_map(|(header, message)| parts(header, message.clone()));
    parts.flat_map(|part| part.to_vec()).collect()
}

/// Feeds `bytes` in pieces of these sizes, over and over, and takes what comes out until the end
/// or an error. No more is asked for than arrived.
fn decode_all(bytes: &[u8], sizes: &[usize]) -> (Vec<Decoded>, Option<FrameError>) {
    let mut decoder = Decoder::new(LIMIT);
    let mut found = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().cycle();
    loop {
        match decoder.next_frame() {
            Ok(Some(decoded)) => found.push(decoded),
            Ok(None) if rest.is_empty() => return (found, None),
            Ok(None) => {
                let size = sizes
                    .next()
                    .map_or(1, |size| 1 + size % 700)
                    .min(rest.len());
                decoder.push(Bytes::copy_from_slice(&rest[..size]));
                rest = &rest[size..];
            }
            Err(error) => {
                decoder.push(Bytes::copy_from_slice(rest));
                assert_eq!(
                    decoder.next_frame(),
                    Err(error.clone()),
                    "an error is final"
                );
                return (found, Some(error));
            }
        }
    }
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![0_usize..4, any::<usize>()], 1..8)
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn frames_come_back_whole_and_in_order_however_the_bytes_are_cut(
        frames in prop::collection::vec(frame(256), 0..6),
        sizes in sizes(),
    ) {
        let (found, error) = decode_all(&wire(&frames), &sizes);
        prop_assert_eq!(error, None);
        let sent = frames.into_iter().map(|(header, message)| Decoded::Frame(header, message));
        prop_assert_eq!(found, sent.collect::<Vec<_>>());
    }

    /// One changed byte costs its frame or the stream; no frame comes out that was not sent.
    #[test]
    fn a_changed_byte_never_becomes_another_frame(
        frames in prop::collection::vec(frame(200), 1..5),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
        sizes in sizes(),
    ) {
        let mut bytes = wire(&frames);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let (found, error) = decode_all(&bytes, &sizes);
        let mut sent = frames.iter();
        let mut good = 0;
        for decoded in &found {
            if let Decoded::Frame(header, message) = decoded {
                let is_sent = sent.any(|(own, body)| own == header && body == message);
                prop_assert!(is_sent, "{header:?} was not sent, or not in this order");
                good += 1;
            }
        }
        let in_header = frames_until(&frames, at);
        match in_header {
            // A header cannot be believed: what came before it is all there is.
            Some(before) => {
                prop_assert!(error.is_some());
                prop_assert_eq!(good, before);
            }
            None => {
                prop_assert_eq!(error, None);
                prop_assert_eq!(good, frames.len() - 1);
                let damaged = found.iter().filter(|one| matches!(one, Decoded::Damaged(_)));
                prop_assert_eq!(damaged.count(), 1);
            }
        }
    }

    #[test]
    fn bodies_beyond_the_limit_are_skipped_and_the_next_frame_is_read(
        small in frame(100),
        large in frame(1024),
        sizes in sizes(),
    ) {
        let frames = [large, small];
        let (found, error) = decode_all(&wire(&frames), &sizes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(found.len(), 2);
        for (decoded, (header, _)) in found.iter().zip(&frames) {
            match decoded {
                Decoded::Frame(found, _) => {
                    prop_assert_eq!(found, header);
                    prop_assert!(header.body_bytes() <= LIMIT);
                }
                Decoded::Oversized(found) => {
                    prop_assert_eq!(found, header);
                    prop_assert!(header.body_bytes() > LIMIT);
                }
                Decoded::Damaged(_) => prop_assert!(false, "nothing is damaged"),
            }
        }
    }

    #[test]
    fn arbitrary_bytes_yield_no_frame(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        sizes in sizes(),
    ) {
        let (found, _) = decode_all(&bytes, &sizes);
        prop_assert!(found.is_empty(), "{found:?}");
    }

    /// A header whose checksum is right and whose fields are arbitrary: the second line of defence.
    #[test]
    fn well_summed_headers_are_read_as_they_are_or_refused(
        mut header in prop::collection::vec(any::<u8>(), HEADER_BYTES),
        body in prop::collection::vec(any::<u8>(), 0..300),
        keep in any::<u64>(),
        sizes in sizes(),
    ) {
        header[..6].copy_from_slice(&[b'H', b'g', b'R', b'P', 1, 0]);
        // Most arbitrary headers die of their first field: clear some, so that others matter.
        for (bit, range) in [(0, 7..8), (1, 35..36), (2, 52..60), (3, 41..44), (4, 45..48)] {
            if keep & (1 << bit) == 0 {
                header[range].fill(0);
            }
        }
        header[6] %= 12;
        let checksum = checksum(&header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        let array: [u8; HEADER_BYTES] = header.clone().try_into().expect("that many");
        if let Ok(decoded) = Header::decode(&array) {
            prop_assert_eq!(decoded.encode().to_vec(), header.clone());
        }
        header.extend_from_slice(&body);
        let _ = decode_all(&header, &sizes);
    }

    #[test]
    fn arbitrary_handshake_bodies_are_refused_or_read(
        bytes in prop::collection::vec(prop_oneof![0_u8..3, any::<u8>()], 0..200),
    ) {
        let bytes = Bytes::from(bytes);
        if let Ok(hello) = Hello::decode(&bytes) {
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }
        if let Ok(reply) = HelloReply::decode(&bytes) {
            prop_assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
        }
        if let Ok(confirm) = HelloConfirm::decode(&bytes) {
            prop_assert_eq!(HelloConfirm::decode(&confirm.encode()), Ok(confirm));
        }
    }
}

/// When `at` lies in a header: how many frames stand before it.
fn frames_until(frames: &[Frame], at: usize) -> Option<usize> {
    let mut start = 0;
    for (number, (header, _)) in frames.iter().enumerate() {
        let body = start + HEADER_BYTES;
        let end = body + usize::try_from(header.body_bytes()).expect("small bodies");
        if at < end {
            return (at < body).then_some(number);
        }
        start = end;
    }
    None
}

/// The header's CRC-32, from the frame code itself: the checksum of a body with these bytes.
fn checksum(bytes: &[u8]) -> u32 {
    body_checksum(&Message {
        head: Bytes::copy_from_slice(bytes),
        payload: Bytes::new(),
    })
}
