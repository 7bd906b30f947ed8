//! The bytes on the wire: golden vectors (`docs/format/rpc-frame.md`), pieces, damage.

use hedgerow_env::{Random, TenantId};

use super::*;
use crate::frame::{
    Decoded, Decoder, FrameError, HEADER_BYTES, Header, Kind, RequestId, body_checksum, parts,
};
use crate::hello::{
    Hello, HelloConfirm, HelloReply, Introduction, Judgement, Verdict, VersionRange,
};

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn request() -> (Header, Message) {
    let message = Message::new("head", "payload");
    let header = Header {
        kind: Kind::Request,
        session: 0x0102_0304_0506_0708,
        request: RequestId(9),
        remaining_us: 2_000_000,
        service: ServiceId(3),
        class: 1,
        tenant: TenantId(5),
        head_bytes: 0,
        payload_bytes: 0,
        body_checksum: 0,
    };
    (header.with_body(&message, body_checksum(&message)), message)
}

fn bytes_of(header: &Header, message: &Message) -> Bytes {
    Bytes::from(parts(header, message.clone()).concat())
}

fn introduction() -> Introduction {
    Introduction {
        versions: VersionRange {
            oldest: 1,
            newest: 2,
        },
        identity: Identity {
            cluster: Some(ClusterId(0xc1)),
            node: NodeId(0xa),
            stores: vec![StoreStamp {
                store: StoreId(0x5),
                start_count: 3,
                start_nonce: 0xabcd,
                reported_durable: 4096,
            }],
            roles: RoleSet::PAGES | RoleSet::PROXY,
            address: "a:1".to_owned(),
        },
        nonce: 0xfeed,
        maximum_message_bytes: 1 << 23,
        served_requests: 256,
    }
}

#[test]
fn the_frame_of_a_request_is_as_documented() {
    let (header, message) = request();
    let expected = concat!(
        "48675250",
        "0100",
        "04",
        "00",
        "0807060504030201",
        "0900000000000000",
        "80841e0000000000",
        "0300",
        "01",
        "00",
        "05000000",
        "04000000",
        "07000000",
        "6887a776",
        "0000000000000000",
        "5f01a36b",
        "68656164",
        "7061796c6f6164",
    );
    assert_eq!(hexadecimal(&bytes_of(&header, &message)), expected);
    assert_eq!(
        Header::decode(header.encode()[..].try_into().unwrap()),
        Ok(header)
    );
}

#[test]
fn the_messages_of_a_handshake_are_as_documented() {
    let introduction_bytes = concat!(
        "0100",
        "0200",
        "01",
        "c1000000000000000000000000000000",
        "0a00000000000000",
        "05",
        "edfe000000000000",
        "0000800000000000",
        "00010000",
        "0300",
        "613a31",
        "0100",
        "0500000000000000",
        "0300000000000000",
        "cdab000000000000",
        "0010000000000000",
    );
    let hello = Hello {
        from: introduction(),
        expected: Some(NodeId(0xb)),
    };
    assert_eq!(
        hexadecimal(&hello.encode()),
        format!("{introduction_bytes}{}{}", "01", "0b00000000000000")
    );
    assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    let known = StoreStamp {
        store: StoreId(5),
        start_count: 2,
        start_nonce: 0x1234,
        reported_durable: 512,
    };
    let judgement = Judgement {
        verdict: Verdict::WrongNode,
        text: "no".to_owned(),
        known: vec![known],
    };
    let judgement_bytes = concat!(
        "02",
        "0200",
        "6e6f",
        "0100",
        "0500000000000000",
        "0200000000000000",
        "3412000000000000",
        "0002000000000000"
    );
    let reply = HelloReply {
        answers: 0xbeef,
        version: 0,
        judgement: judgement.clone(),
        from: introduction(),
    };
    let reply_bytes = format!("efbe0000000000000000{judgement_bytes}{introduction_bytes}");
    assert_eq!(hexadecimal(&reply.encode()), reply_bytes);
    assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
    let confirm = HelloConfirm { judgement };
    assert_eq!(hexadecimal(&confirm.encode()), judgement_bytes);
    assert_eq!(HelloConfirm::decode(&confirm.encode()), Ok(confirm));
}

#[test]
fn a_refusal_is_as_documented_and_long_texts_are_cut_at_a_character() {
    let refusal = Refusal::new(RefusalCode::TooLarge, "big");
    let bytes = crate::refusal::encode(&refusal, 512);
    assert_eq!(hexadecimal(&bytes.head), "050000020000000000000300626967");
    assert_eq!(crate::refusal::decode(&bytes), Ok((refusal, 512)));
    let long = Refusal::new(RefusalCode::Other(99), "é".repeat(1000));
    let (cut, _) = crate::refusal::decode(&crate::refusal::encode(&long, 0)).unwrap();
    assert_eq!((cut.code, cut.text), (long.code, "é".repeat(512)));
    for number in 0..20 {
        assert_eq!(RefusalCode::from_number(number).number(), number);
    }
}

#[test]
fn a_message_cut_short_anywhere_is_refused_and_later_fields_are_ignored() {
    let hello = Hello {
        from: introduction(),
        expected: None,
    };
    let bytes = hello.encode();
    for end in 0..bytes.len() {
        assert!(Hello::decode(&bytes.slice(..end)).is_err(), "{end}");
    }
    let longer = Bytes::from([&bytes[..], b"of version 2"].concat());
    assert_eq!(Hello::decode(&longer), Ok(hello));
}

#[test]
fn frames_are_found_in_pieces_of_every_size() {
    let (header, message) = request();
    let empty = Header::bare(Kind::Ping, 1, RequestId(1));
    let mut stream = Vec::new();
    for _ in 0..3 {
        stream.extend_from_slice(&bytes_of(&header, &message));
        stream.extend_from_slice(&bytes_of(&empty, &Message::default()));
    }
    for size in 1..stream.len() {
        let mut decoder = Decoder::new(1024);
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(decoded) = decoder.next_frame().unwrap() {
                found.push(decoded);
            }
        }
        let one = [
            Decoded::Frame(header, message.clone()),
            Decoded::Frame(empty, Message::default()),
        ];
        assert_eq!(
            found,
            [one.clone(), one.clone(), one].concat(),
            "pieces of {size}"
        );
    }
}

#[test]
fn a_payload_that_came_in_one_read_is_not_copied() {
    let (header, message) = request();
    let read = bytes_of(&header, &message);
    let place = read[HEADER_BYTES + 4..].as_ptr();
    let mut decoder = Decoder::new(1024);
    decoder.push(read.clone());
    let Ok(Some(Decoded::Frame(_, found))) = decoder.next_frame() else {
        panic!("a frame")
    };
    assert_eq!(found.payload.as_ptr(), place);
}

#[test]
fn any_flipped_bit_is_noticed_in_the_header_by_the_stream_in_the_body_by_the_frame() {
    let (header, message) = request();
    let good = bytes_of(&header, &message);
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut decoder = Decoder::new(1024);
        decoder.push(Bytes::from(bad));
        decoder.push(good.clone());
        if bit / 8 < HEADER_BYTES {
            let error = decoder.next_frame().unwrap_err();
            assert_eq!(decoder.next_frame(), Err(error), "it stays so");
        } else {
            assert_eq!(
                decoder.next_frame(),
                Ok(Some(Decoded::Damaged(header))),
                "{bit}"
            );
            let next = Ok(Some(Decoded::Frame(header, message.clone())));
            assert_eq!(decoder.next_frame(), next, "the stream goes on");
        }
    }
}

#[test]
fn a_body_over_the_limit_is_skipped_without_being_kept() {
    let large = Message::new("head", vec![1; 5000]);
    let bare = Header::bare(Kind::Request, 1, RequestId(4));
    let header = bare.with_body(&large, body_checksum(&large));
    let mut decoder = Decoder::new(1000);
    let bytes = bytes_of(&header, &large);
    decoder.push(bytes.slice(..100));
    assert_eq!(
        decoder.next_frame(),
        Ok(Some(Decoded::Oversized(header))),
        "told at once"
    );
    decoder.push(bytes.slice(100..3000));
    assert_eq!(decoder.next_frame(), Ok(None));
    let (next, message) = request();
    decoder.push(bytes.slice(3000..));
    decoder.push(bytes_of(&next, &message));
    assert_eq!(
        decoder.next_frame(),
        Ok(Some(Decoded::Frame(next, message)))
    );
}

#[test]
fn a_body_far_over_the_limit_ends_the_stream() {
    let mut header = Header::bare(Kind::Request, 1, RequestId(4));
    header.payload_bytes = u32::MAX;
    let mut decoder = Decoder::new(1000);
    decoder.push(header.encode());
    assert_eq!(decoder.next_frame(), Ok(Some(Decoded::Oversized(header))));
    let error = FrameError::FarTooLarge {
        bytes: u64::from(u32::MAX),
        limit: 1000,
    };
    assert_eq!(decoder.next_frame(), Err(error));
}

#[test]
fn arbitrary_bytes_end_in_an_error_and_never_in_a_panic() {
    let mut random = Random::from_seed(1);
    let (header, message) = request();
    let good = bytes_of(&header, &message);
    for _ in 0..2000 {
        let mut bytes = vec![0; 1 + random.index(300)];
        random.fill(&mut bytes);
        // Half of them begin well.
        if random.chance(1, 2) {
            bytes.splice(..0, good.iter().copied());
        }
        let bytes = Bytes::from(bytes);
        let mut decoder = Decoder::new(1024);
        decoder.push(bytes.clone());
        while let Ok(Some(_)) = decoder.next_frame() {}
        // Decoding answers a value or an error; which one is of no concern here.
        drop((
            Hello::decode(&bytes),
            HelloReply::decode(&bytes),
            HelloConfirm::decode(&bytes),
        ));
        drop(crate::refusal::decode(&Message {
            head: bytes,
            payload: Bytes::new(),
        }));
    }
}

#[test]
fn a_later_frame_version_is_told_by_its_number() {
    let mut bytes = request().0.encode().to_vec();
    bytes[4] = 2;
    let checksum = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..].copy_from_slice(&checksum);
    let found = Header::decode(bytes[..].try_into().unwrap());
    assert_eq!(found, Err(FrameError::Version { found: 2 }));
    // So are fields that this version must leave zero.
    let mut bytes = request().0.encode().to_vec();
    bytes[7] = 1;
    let checksum = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..].copy_from_slice(&checksum);
    let found = Header::decode(bytes[..].try_into().unwrap());
    assert_eq!(
        found,
        Err(FrameError::Field {
            field: "flags",
            found: 1
        })
    );
}
