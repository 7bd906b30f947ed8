//! Golden bytes of extent segments, and their refusal of foreign ones.

use bytes::Bytes;
use hedgerow_env::{
    BlobName, ContainerId, ContainerIndex, FamilyId, Sequence, StoreId, VirtualDiskId, WriterId,
};

use super::*;

const STORE: StoreId = StoreId(42);

fn meta() -> Meta {
    Meta {
        name: BlobName {
            container: ContainerId {
                family: FamilyId(1),
                disk: VirtualDiskId(2),
                index: ContainerIndex(3),
            },
            writer: WriterId(4),
            sequence: Sequence(5),
        },
        origin: Position(6),
        header: Bytes::from_static(b"owner"),
        sums: chunk_sums(b"payload"),
        payload_bytes: 7,
    }
}

const PLACE: Place = Place {
    segment: 7,
    ordinal: 8,
    offset: DATA_AT,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_entry() {
    let golden = [
        "48475845 0100 0000 eeeb30a8 08000000 2a00000000000000 0700000000000000",
        "0050000000000000 0600000000000000",
        "0100000000000000 0200000000000000 03000000 0400000000000000 0500000000000000",
        "05000000 07000000 01000000 7b8d2d5bf061fe32 6f776e6572",
    ];
    assert_eq!(
        hex(&encode_meta(STORE, PLACE, &meta())),
        golden.concat().replace(' ', "")
    );
}

#[test]
fn an_entry_is_valid_only_whole_and_in_its_own_segment_and_store() {
    let bytes = encode_flagged(STORE, PLACE, &meta(), true);
    let found = decode_meta(STORE, 7, &bytes).unwrap();
    assert_eq!((found.place, found.meta, found.bad), (PLACE, meta(), true));
    assert_eq!(decode_meta(STORE, 8, &bytes), None);
    assert_eq!(decode_meta(StoreId(43), 7, &bytes), None);
    for length in 0..bytes.len() {
        assert_eq!(
            decode_meta(STORE, 7, &bytes[..length]),
            None,
            "{length} bytes"
        );
    }
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        assert_eq!(decode_meta(STORE, 7, &wrong), None, "byte {at}");
    }
}

#[test]
fn dead_maps_and_footers_verify() {
    let dead = encode_dead(STORE, 7, 3, &[5, 1]);
    assert_eq!(decode_dead(STORE, 7, &dead), Some((3, vec![5, 1])));
    assert_eq!(decode_dead(STORE, 6, &dead), None);
    let entries = encode_meta(STORE, PLACE, &meta());
    let footer = encode_footer(STORE, 7, 24_576, &entries);
    let trailer = &footer[footer.len() - TRAILER_BYTES..];
    let place = (24_576, crate::codec::wide(entries.len()));
    assert_eq!(decode_trailer(STORE, 7, trailer), Some(place));
    assert_eq!(decode_footer(STORE, 7, &entries, trailer).unwrap().len(), 1);
    let mut wrong = entries;
    wrong[50] ^= 1;
    assert_eq!(decode_footer(STORE, 7, &wrong, trailer), None);
}
