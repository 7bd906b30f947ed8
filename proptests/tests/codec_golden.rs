//! The codec of messages and stored values: round trips, refusals, and golden vectors.
//!
//! `golden/envelopes.txt` holds, for every enveloped kind and every variant below it, a value as
//! Rust prints it and the bytes that it must have for ever under its kind and version. A change of
//! an encoding fails here before it can meet bytes that were written by an older build.
//!
//! After adding a variant at the end of an enum, or a new kind, run the test once with
//! `HEDGEROW_GOLDEN=write` and read the difference: only lines may have been added. Any other
//! change needs a new version of its envelope that still reads the old one.

use std::fmt::{Debug, Write as _};

use hedgerow_proptests::{config, values};
use hedgerow_protocol::{
    AdminReply, AdminRequest, BlobHeader, CodecError, DiskRecord, Envelope, GroupRecord,
    GroupReply, GroupRequest, HBlockReply, HBlockRequest, LogFetch, LogFetched,
    MAXIMUM_ENCODED_BYTES, NodeRecord, NodeReply, NodeRequest, Placement, QuietAnswers,
    QuietOffers, RootBatch, RootOutcome, ShardBatch, ShardOutcome, ShardTable, SplitRecord,
    Topology, decode, encode,
};
use proptest::prelude::*;

/// Does the same to every enveloped type. A new one must be named here: [`kinds_are_complete`]
/// compares with the list in `docs/format/envelope.md`.
macro_rules! for_each_kind {
    ($action:ident $(, $argument:expr)*) => {
        // Small ones first: a variant is shown by the first kind that has it.
        for_each_kind!(@ $action ($($argument),*)
            BlobHeader, Placement, GroupRecord, NodeRecord, DiskRecord, ShardTable, SplitRecord, Topology,
            ShardBatch, Vec<ShardOutcome>, RootBatch, Vec<RootOutcome>, HBlockRequest, HBlockReply,
            NodeRequest, NodeReply, AdminRequest, AdminReply, GroupRequest, GroupReply, LogFetch,
            LogFetched, QuietOffers, QuietAnswers)
    };
    (@ $action:ident $arguments:tt $($type:ty),+) => {
        $(for_each_kind!(# $action $arguments $type);)+
    };
    (# $action:ident ($($argument:expr),*) $type:ty) => {
        $action::<$type>($($argument),*)
    };
}

fn short_name<T>() -> String {
    let whole = std::any::type_name::<T>();
    let mut name = String::new();
    for part in whole.split_inclusive(['<', '>']) {
        name.push_str(part.rsplit("::").next().unwrap_or(part));
    }
    name
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory");
        text
    })
}

fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    let digit = |digit: char| digit.to_digit(16).expect("vectors are hexadecimal");
    let digits: Vec<u32> = hexadecimal.chars().map(digit).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits");
    digits.chunks_exact(2).map(byte).collect()
}

fn round_trip<T: Envelope + PartialEq + Debug>(words: &[u64]) {
    let value: T = values::draw(words);
    let bytes = encode(&value);
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(&value));
    assert_eq!(bytes[..2], T::KIND.to_le_bytes());
    assert_eq!(bytes[2..4], T::VERSION.to_le_bytes());
}

/// Nothing may follow, nothing may be missing, and it may be taken for no other kind and for no
/// version that this build does not know.
fn refusals<T: Envelope + PartialEq + Debug>(words: &[u64], extra: &[u8], cut: usize) {
    let bytes = encode(&values::draw::<T>(words)).to_vec();
    let malformed = |bytes: &[u8]| {
        let answer = decode::<T>(bytes);
        assert!(
            matches!(answer, Err(CodecError::Malformed { kind, .. }) if kind == T::KIND),
            "{} of {bytes:02x?}: {answer:?}",
            short_name::<T>()
        );
    };
    malformed(&[&bytes[..], extra].concat());
    malformed(&bytes[..cut % bytes.len()]);

    let mut newer = bytes.clone();
    let version = T::VERSION + 1 + u16::from(extra[0]);
    newer[2..4].copy_from_slice(&version.to_le_bytes());
    let too_new = CodecError::TooNew {
        kind: T::KIND,
        found: version,
        supported: T::VERSION,
    };
    assert_eq!(decode::<T>(&newer), Err(too_new));

    let mut other = bytes;
    other[0] ^= 0x80;
    let found = u16::from_le_bytes([other[0], other[1]]);
    let wrong = CodecError::WrongKind {
        expected: T::KIND,
        found,
    };
    assert_eq!(decode::<T>(&other), Err(wrong));
}

/// Arbitrary bytes are refused, or they are one way to write a value.
fn arbitrary<T: Envelope + PartialEq + Debug>(body: &[u8]) {
    let mut bytes = T::KIND.to_le_bytes().to_vec();
    bytes.extend_from_slice(&T::VERSION.to_le_bytes());
    bytes.extend_from_slice(body);
    let Ok(value) = decode::<T>(&bytes) else {
        return;
    };
    assert_eq!(decode::<T>(&encode(&value)).as_ref(), Ok(&value));
}

/// As [`arbitrary`], from a value of which some bytes were changed: that gets deeper.
fn changed<T: Envelope + PartialEq + Debug>(words: &[u64], changes: &[(usize, u8)]) {
    let mut bytes = encode(&values::draw::<T>(words)).to_vec();
    for (at, change) in changes {
        let length = bytes.len();
        bytes[at % length] ^= change;
    }
    if let Some(body) = bytes.get(4..) {
        arbitrary::<T>(body);
    }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn every_kind_survives_its_encoding(words in prop::collection::vec(any::<u64>(), 0..160)) {
        for_each_kind!(round_trip, &words);
    }

    #[test]
    fn bytes_too_many_or_too_few_and_foreign_envelopes_are_refused(
        words in prop::collection::vec(any::<u64>(), 0..80),
        extra in prop::collection::vec(any::<u8>(), 1..8),
        cut in any::<usize>(),
    ) {
        for_each_kind!(refusals, &words, &extra, cut);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_are_a_value(
        body in prop::collection::vec(prop_oneof![0_u8..12, any::<u8>()], 0..96),
    ) {
        for_each_kind!(arbitrary, &body);
    }

    #[test]
    fn changed_bytes_are_refused_or_are_a_value(
        words in prop::collection::vec(any::<u64>(), 0..80),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        for_each_kind!(changed, &words, &changes);
    }
}

/// A length that claims more than the limit is refused before memory is set aside for it.
#[test]
fn claimed_lengths_beyond_the_limit_are_refused() {
    for claim in [MAXIMUM_ENCODED_BYTES as u64, u64::MAX >> 1, u64::MAX] {
        let mut bytes = ShardBatch::KIND.to_le_bytes().to_vec();
        bytes.extend_from_slice(&ShardBatch::VERSION.to_le_bytes());
        bytes.push(253); // A length of 64 bits follows.
        bytes.extend_from_slice(&claim.to_le_bytes());
        assert!(
            matches!(
                decode::<ShardBatch>(&bytes),
                Err(CodecError::Malformed { .. })
            ),
            "{claim}"
        );
    }
}

const GOLDEN: &str = include_str!("../golden/envelopes.txt");

const HEAD: &str = "\
# Golden vectors of the codec (docs/format/envelope.md). A value as Rust prints it, then its bytes.
# Made by tests/codec_golden.rs with HEDGEROW_GOLDEN=write. Lines are added, never changed: a line
# that changes is an encoding that no longer reads what older builds wrote.
";

fn write_vectors<T: Envelope + Debug>(exemplars: &mut values::Exemplars, text: &mut String) {
    let name = short_name::<T>();
    writeln!(text, "\n## kind {} version {} {name}", T::KIND, T::VERSION)
        .expect("writing to memory");
    for value in exemplars.of::<T>() {
        writeln!(text, "{value:?}\n{}", hexadecimal(&encode(&value))).expect("writing to memory");
    }
}

/// The vectors of one kind as the file has them, in order.
fn vectors_of<T: Envelope>() -> Vec<(&'static str, &'static str)> {
    let head = format!("## kind {} version {} ", T::KIND, T::VERSION);
    let lines = GOLDEN.lines().skip_while(|line| !line.starts_with(&head));
    let own: Vec<&str> = lines.skip(1).take_while(|line| !line.is_empty()).collect();
    own.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

fn check_vectors<T: Envelope + Debug>() {
    let vectors = vectors_of::<T>();
    let name = short_name::<T>();
    assert!(!vectors.is_empty(), "{name} has no golden vector");
    for (printed, written) in vectors {
        let bytes = bytes_of(written);
        let value = decode::<T>(&bytes)
            .unwrap_or_else(|error| panic!("{name} no longer reads {printed}: {error}"));
        assert_eq!(
            format!("{value:?}"),
            printed,
            "{name} reads old bytes as another value"
        );
        assert_eq!(
            hexadecimal(&encode(&value)),
            written,
            "{name} writes {printed} otherwise"
        );
    }
}

#[test]
fn golden_vectors_are_read_and_written_as_ever() {
    for_each_kind!(check_vectors);
}

#[test]
fn every_kind_and_variant_has_a_golden_vector() {
    let mut exemplars = values::Exemplars::default();
    let mut text = String::from(HEAD);
    for_each_kind!(write_vectors, &mut exemplars, &mut text);
    if std::env::var("HEDGEROW_GOLDEN").as_deref() == Ok("write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/envelopes.txt");
        write_file(path, &text);
        return;
    }
    for (expected, found) in text.lines().zip(GOLDEN.lines()) {
        assert_eq!(found, expected, "see the head of this file");
    }
    assert_eq!(
        GOLDEN.lines().count(),
        text.lines().count(),
        "see the head of this file"
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "a developer asked for new vectors"
)]
fn write_file(path: &str, text: &str) {
    std::fs::write(path, text).expect("the golden vectors can be written");
}

/// The page that describes the envelope lists every kind with its version, and no other.
#[test]
fn the_format_page_names_every_kind() {
    const PAGE: &str = include_str!("../../docs/format/envelope.md");
    fn row<T: Envelope>(rows: &mut Vec<String>) {
        rows.push(format!(
            "| {} | {} | `{}` |",
            T::KIND,
            T::VERSION,
            short_name::<T>()
        ));
    }
    let mut rows = Vec::new();
    for_each_kind!(row, &mut rows);
    for row in &rows {
        assert!(
            PAGE.contains(row.as_str()),
            "docs/format/envelope.md lacks {row}"
        );
    }
    let is_row = |line: &&str| line.starts_with("| ") && line[2..].starts_with(char::is_numeric);
    assert_eq!(PAGE.lines().filter(is_row).count(), rows.len());
}
