//! The codec: what it writes it reads, under every digest; and arbitrary bytes do it no harm.

use bytes::Bytes;
use hedgerow_env::Random;
use hedgerow_iscsi::codec::frame::{Digests, Framer};
use hedgerow_iscsi::codec::response::Residual;
use hedgerow_iscsi::codec::{
    CodecError, Counters, Lun, RawPdu, Request, Response, request, response,
};

const DIGESTS: [Digests; 4] = [
    Digests {
        header: false,
        data: false,
    },
    Digests {
        header: true,
        data: false,
    },
    Digests {
        header: false,
        data: true,
    },
    Digests {
        header: true,
        data: true,
    },
];

fn framer(digests: Digests) -> Framer {
    let mut framer = Framer::new(1 << 16);
    framer.set_digests(digests);
    framer
}

/// Sends a PDU through the wire form, in pieces of `piece` bytes.
fn carry(pdu: &RawPdu, digests: Digests, piece: usize) -> RawPdu {
    let mut framer = framer(digests);
    let mut found = None;
    for bytes in pdu.to_bytes(digests).chunks(piece) {
        assert_eq!(found, None, "nothing comes before the last piece");
        framer.push(Bytes::copy_from_slice(bytes));
        found = framer.next_pdu().expect("a PDU of our own");
    }
    assert_eq!(framer.next_pdu(), Ok(None));
    found.expect("the whole PDU was pushed")
}

fn requests(data: &Bytes) -> Vec<Request> {
    vec![
        Request::NopOut(request::NopOut {
            immediate: true,
            lun: Lun::from_number(300),
            task: 1,
            transfer: 2,
            command_sn: 3,
            expected_status: 4,
            data: data.clone(),
        }),
        Request::Command(request::Command {
            immediate: false,
            last: true,
            reads: false,
            writes: true,
            attribute: request::Attribute::Ordered,
            lun: Lun(0),
            task: 5,
            expected_bytes: 6,
            command_sn: 7,
            expected_status: 8,
            cdb: [9; 16],
            cdb_rest: Bytes::from_static(&[1, 2, 3, 4, 5]),
            data: data.clone(),
        }),
        Request::DataOut(request::DataOut {
            last: true,
            lun: Lun(0),
            task: 1,
            transfer: 2,
            expected_status: 3,
            data_sn: 4,
            offset: 5,
            data: data.clone(),
        }),
        Request::Login(request::Login {
            transit: true,
            continues: false,
            current_stage: 1,
            next_stage: 3,
            version_max: 0,
            version_min: 0,
            isid: [1, 2, 3, 4, 5, 6],
            tsih: 7,
            task: 8,
            connection: 9,
            command_sn: 10,
            expected_status: 11,
            data: data.clone(),
        }),
        Request::Snack(request::Snack {
            kind: 1,
            task: 2,
            expected_status: 3,
            first: 4,
            count: 5,
        }),
    ]
}

fn responses(data: &Bytes) -> Vec<Response> {
    let counters = Counters {
        status: 1,
        expected_command: 2,
        maximum_command: 3,
    };
    vec![
        Response::Command(response::Command {
            response: 0,
            status: 2,
            task: 3,
            counters,
            expected_data: 4,
            residual: Residual::Overflow(5),
            sense: data.clone(),
        }),
        Response::DataIn(response::DataIn {
            last: true,
            status: Some((0, Residual::Underflow(6))),
            task: 7,
            counters,
            data_sn: 8,
            offset: 9,
            data: data.clone(),
        }),
        Response::ReadyToTransfer(response::ReadyToTransfer {
            lun: Lun::from_number(1),
            task: 1,
            transfer: 2,
            counters,
            r2t_sn: 3,
            offset: 4,
            length_bytes: 5,
        }),
        Response::Reject(response::Reject {
            reason: 4,
            counters,
            header: data.clone(),
        }),
    ]
}

#[test]
fn every_pdu_comes_back_as_it_was_whatever_its_length_and_the_pieces() {
    for length in [0, 1, 2, 3, 4, 511, 5000] {
        let data: Bytes = (0..=u8::MAX).cycle().take(length).collect();
        for digests in DIGESTS {
            for piece in [1, 47, 4096] {
                for pdu in requests(&data) {
                    let back = carry(&pdu.encode(), digests, piece);
                    assert_eq!(Request::decode(&back), Ok(pdu));
                }
                for pdu in responses(&data) {
                    let back = carry(&pdu.encode(), digests, piece);
                    assert_eq!(Response::decode(&back), Ok(pdu));
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_noticed_by_the_digest_that_covers_it() {
    let pdu = requests(&Bytes::from(vec![7; 64])).remove(0).encode();
    let wire = pdu.to_bytes(DIGESTS[3]);
    // Header, header digest, data: a flip anywhere is an error, never a different PDU.
    for byte in (0..wire.len()).filter(|byte| !(4..8).contains(byte)) {
        let mut bad = wire.to_vec();
        bad[byte] ^= 0x10;
        let mut framer = framer(DIGESTS[3]);
        framer.push(Bytes::from(bad));
        let expected = if byte < 52 {
            CodecError::HeaderDigest
        } else {
            CodecError::DataDigest
        };
        assert_eq!(framer.next_pdu(), Err(expected), "byte {byte}");
    }
}

#[test]
fn a_segment_beyond_the_limit_is_refused_before_it_arrives() {
    let mut framer = Framer::new(8192);
    let mut header = [0; 48];
    header[5..8].copy_from_slice(&[0x00, 0x20, 0x01]);
    framer.push(Bytes::copy_from_slice(&header));
    let error = CodecError::DataTooLong {
        length_bytes: 8193,
        limit_bytes: 8192,
    };
    assert_eq!(framer.next_pdu(), Err(error));
}

#[test]
fn arbitrary_bytes_give_values_or_errors() {
    let mut random = Random::from_seed(1);
    let mut decoded = 0;
    for round in 0..20_000 {
        let mut bytes = vec![0; random.index(400)];
        random.fill(&mut bytes);
        if let Some(lengths) = bytes.get_mut(4..8) {
            // Mostly short ones, so that decoding is reached.
            lengths.copy_from_slice(&[(round % 4) as u8, 0, 0, (round % 64) as u8]);
        }
        let mut framer = framer(DIGESTS[0]);
        framer.push(Bytes::from(bytes));
        while let Ok(Some(pdu)) = framer.next_pdu() {
            decoded += usize::from(Request::decode(&pdu).is_ok());
            decoded += usize::from(Response::decode(&pdu).is_ok());
        }
    }
    assert!(decoded > 1000, "only {decoded} were decoded");
}
