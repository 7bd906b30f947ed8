//! iSCSI: the codec's round trip, arbitrary bytes, and sessions fed with whatever may arrive.
//!
//! Sessions are reached as initiators reach them, through a server on a network in memory, so that
//! framer, session core and driver are all on the way. However a session is treated, it ends with
//! a logged reason, says nothing but well-formed PDUs, and the next initiator is served.

mod pdus;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, EnvParts, Events, Level, Network, Stream, StreamKind};
use hedgerow_iscsi::codec::request::Request;
use hedgerow_iscsi::codec::response::Response;
use hedgerow_iscsi::codec::{Digests, Framer, HEADER_BYTES, Lun, RawPdu, TAG_NONE, text};
use hedgerow_iscsi::memory::{MemoryCatalog, MemoryDisk};
use hedgerow_iscsi::{Geometry, IscsiServer};
use hedgerow_net::testing::{MemoryNetwork, TestParts};
use hedgerow_proptests::config;
use proptest::prelude::*;

use pdus::{Fields, login_of, request, response};

const TARGET: &str = "iqn.2026-11.io.hedgerow:disk";
const PORTAL: &str = "192.0.2.1:3260";
/// Everything that a session may wait for is over by then.
const PATIENCE: Duration = Duration::from_secs(300);

/// The PDUs in these bytes, which arrive in pieces of these sizes; then the first error.
fn frames(bytes: &[u8], sizes: &[usize], digests: Digests, limit: usize) -> (Vec<RawPdu>, bool) {
    let mut framer = Framer::new(limit);
    framer.set_digests(digests);
    let (mut found, mut rest, mut sizes) = (Vec::new(), bytes, sizes.iter().cycle());
    loop {
        match framer.next_pdu() {
            Ok(Some(pdu)) => {
                assert!(pdu.data.len() <= limit);
                found.push(pdu);
            }
            Err(_) => return (found, true),
            Ok(None) if rest.is_empty() => return (found, false),
            Ok(None) => {
                assert!(framer.missing_bytes() > 0);
                let size = sizes
                    .next()
                    .map_or(1, |size| 1 + size % 2000)
                    .min(rest.len());
                framer.push(Bytes::copy_from_slice(&rest[..size]));
                rest = &rest[size..];
            }
        }
    }
}

fn digests() -> impl Strategy<Value = Digests> {
    any::<(bool, bool)>().prop_map(|(header, data)| Digests { header, data })
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![0_usize..4, any::<usize>()], 1..6)
}

fn wire(pdus: &[RawPdu], digests: Digests) -> Vec<u8> {
    pdus.iter()
        .flat_map(|pdu| pdu.to_bytes(digests).to_vec())
        .collect()
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn pdus_come_back_as_they_were_sent(
        requests in prop::collection::vec(request(), 0..4),
        responses in prop::collection::vec(response(), 0..4),
        digests in digests(),
        sizes in sizes(),
    ) {
        let sent: Vec<RawPdu> = requests.iter().map(Request::encode).collect();
        let (found, failed) = frames(&wire(&sent, digests), &sizes, digests, 4096);
        prop_assert!(!failed);
        let read: Result<Vec<Request>, _> = found.iter().map(Request::decode).collect();
        prop_assert_eq!(read, Ok(requests));
        let sent: Vec<RawPdu> = responses.iter().map(Response::encode).collect();
        let (found, failed) = frames(&wire(&sent, digests), &sizes, digests, 4096);
        prop_assert!(!failed);
        let read: Result<Vec<Response>, _> = found.iter().map(Response::decode).collect();
        prop_assert_eq!(read, Ok(responses));
    }

    /// With both digests a changed byte costs the stream and never becomes another PDU.
    #[test]
    fn digests_notice_every_changed_byte(
        requests in prop::collection::vec(request(), 1..4),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
        sizes in sizes(),
    ) {
        let both = Digests { header: true, data: true };
        let sent: Vec<RawPdu> = requests.iter().map(Request::encode).collect();
        let mut bytes = wire(&sent, both);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let (found, failed) = frames(&bytes, &sizes, both, 4096);
        prop_assert!(found.len() < sent.len());
        // The length may have grown past the end: then the rest is still awaited.
        prop_assert!(failed || found.len() < sent.len());
        let read: Vec<_> = found.iter().map(Request::decode).collect();
        let first: Vec<_> = requests.into_iter().map(Ok).take(found.len()).collect();
        prop_assert_eq!(read, first);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        opcode in any::<u8>(),
        length in prop::option::of(0..200_u8),
        digests in digests(),
        sizes in sizes(),
    ) {
        if let (Some(length), true) = (length, bytes.len() >= HEADER_BYTES) {
            bytes[..8].copy_from_slice(&[opcode, 0x80, 0, 0, opcode % 3, 0, 0, length]);
        }
        for pdu in frames(&bytes, &sizes, digests, 256).0 {
            if let Ok(request) = Request::decode(&pdu) {
                prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
            }
            if let Ok(response) = Response::decode(&pdu) {
                prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
            }
        }
    }

    #[test]
    fn arbitrary_text_is_refused_or_read(
        bytes in prop::collection::vec(text_byte(), 0..200),
        value in prop_oneof![
            "0[xX][0-9a-fA-F]{0,40}",
            "0[bB][A-Za-z0-9+/]{0,40}={0,2}",
            "(0[xXbB])?\\PC{0,40}",
        ],
    ) {
        if let Ok(pairs) = text::parse(&bytes) {
            prop_assert_eq!(text::parse(&text::write(&pairs)), Ok(pairs));
        }
        if let Some(bytes) = text::binary_value(&value) {
            prop_assert_eq!(text::binary_value(&text::hexadecimal_value(&bytes)), Some(bytes));
        }
    }
}

fn text_byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(b'='), b'A'..=b'Z', any::<u8>()]
}

/// What an initiator does next.
#[derive(Debug, Clone)]
enum Step {
    Pdu(Request),
    /// A PDU of which one byte was changed.
    Changed(Request, usize, u8),
    Bytes(Vec<u8>),
    Silence(u64),
}

/// Operation codes with a meaning, so that commands get past the first switch.
const OPCODES: [u8; 36] = [
    0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x16, 0x17, 0x1a, 0x1b, 0x1d, 0x25, 0x28, 0x2a, 0x2e, 0x2f,
    0x34, 0x35, 0x37, 0x41, 0x42, 0x4d, 0x55, 0x5a, 0x5e, 0x5f, 0x83, 0x84, 0x88, 0x89, 0x8a, 0x91,
    0x93, 0x9e, 0xa0, 0xa3,
];

/// A request whose fields are mostly plausible for a session that has just begun.
fn plausible() -> impl Strategy<Value = Request> {
    let small = || prop_oneof![6 => 0..4_u32, 2 => 4..5000_u32, 1 => any::<u32>()];
    let cdb = (
        prop::sample::select(&OPCODES[..]),
        any::<u64>(),
        prop::collection::vec(0..4_u8, 15),
    );
    (request(), small(), small(), small(), cdb, any::<bool>()).prop_map(
        |(mut request, task, number, length, (opcode, sparse, tail), is_whole)| {
            match &mut request {
                Request::NopOut(pdu) => (pdu.task, pdu.command_sn) = (task, number),
                Request::Command(pdu) => {
                    (pdu.task, pdu.command_sn, pdu.expected_bytes) = (task, number, length);
                    pdu.lun = Lun(u64::from(number & 8) << 48);
                    pdu.cdb = [0; 16];
                    pdu.cdb[0] = opcode;
                    for (at, byte) in tail.into_iter().enumerate() {
                        // Few bytes of a valid CDB are not zero.
                        if sparse >> (at * 2) & 3 == 0 {
                            pdu.cdb[at + 1] = byte;
                        }
                    }
                    if is_whole {
                        pdu.cdb_rest = Bytes::new();
                        pdu.expected_bytes = u32::try_from(pdu.data.len()).expect("short");
                        pdu.writes = !pdu.data.is_empty();
                        (pdu.last, pdu.reads) = (true, !pdu.writes);
                    }
                }
                Request::TaskManagement(pdu) => {
                    (pdu.task, pdu.command_sn, pdu.referenced_task) = (task, number, length);
                    pdu.function %= 10;
                    pdu.lun = Lun(0);
                }
                Request::Login(pdu) => pdu.command_sn = number,
                Request::Text(pdu) => {
                    (pdu.task, pdu.command_sn, pdu.transfer) = (task, number, TAG_NONE);
                    pdu.data = Bytes::from_static(b"SendTargets=All\0");
                }
                Request::DataOut(pdu) => {
                    (pdu.task, pdu.data_sn, pdu.offset) = (task, number, length);
                    pdu.transfer = if is_whole { TAG_NONE } else { number };
                }
                Request::Logout(pdu) => (pdu.task, pdu.command_sn) = (task, number),
                Request::Snack(pdu) => pdu.task = task,
            }
            request
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => plausible().prop_map(Step::Pdu),
        3 => (plausible(), any::<usize>(), any::<u8>())
            .prop_map(|(pdu, at, change)| Step::Changed(pdu, at, change)),
        1 => request().prop_map(Step::Pdu),
        1 => prop::collection::vec(any::<u8>(), 1..120).prop_map(Step::Bytes),
        1 => (0..40_u64).prop_map(Step::Silence),
    ]
}

/// How far an initiator gets before it misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    Raw,
    LoggedIn,
    Discovery,
}

fn login(begin: Begin) -> Request {
    let mut keys = vec![("InitiatorName", "iqn.2026-11.org.example:fuzz")];
    match begin {
        Begin::Discovery => keys.push(("SessionType", "Discovery")),
        Begin::LoggedIn | Begin::Raw => keys.push(("TargetName", TARGET)),
    }
    let fields = Fields {
        words: [0; 10],
        flags: [true, true, false, false, false],
    };
    let mut login = login_of(&fields, Bytes::new());
    (login.current_stage, login.next_stage, login.command_sn) = (1, 3, 1);
    login.isid = [0x80, 0, 0, 0, 0, 7];
    login.data = Bytes::from(text::write(&keys));
    Request::Login(login)
}

/// Everything that the server says of itself.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Events for Log {
    fn enabled(&self, _level: Level) -> bool {
        true
    }

    fn emit(&self, _level: Level, _component: &'static str, message: std::fmt::Arguments<'_>) {
        self.0
            .lock()
            .expect("nobody panics while logging")
            .push(message.to_string());
    }
}

/// Sends the steps, then ends the stream; returns all that came back until the target closed it.
async fn talk(env: &Env, begin: Begin, steps: Vec<Step>) -> Vec<u8> {
    let stream = env
        .network()
        .connect(PORTAL, StreamKind::Client)
        .await
        .expect("it listens");
    let Stream {
        mut reader,
        mut writer,
        ..
    } = stream;
    let plain = Digests::default();
    let sends = async {
        let mut command_sn = 1;
        if begin != Begin::Raw {
            let _ = writer
                .write(vec![login(begin).encode().to_bytes(plain)])
                .await;
        }
        for step in steps {
            let bytes = match step {
                Step::Pdu(mut request) => {
                    number(&mut request, &mut command_sn);
                    request.encode().to_bytes(plain)
                }
                Step::Changed(mut request, at, change) => {
                    number(&mut request, &mut command_sn);
                    let mut bytes = request.encode().to_bytes(plain).to_vec();
                    // In the header: the data says little.
                    bytes[at % HEADER_BYTES] ^= change;
                    Bytes::from(bytes)
                }
                Step::Bytes(bytes) => Bytes::from(bytes),
                Step::Silence(seconds) => {
                    env.sleep(Duration::from_secs(seconds)).await;
                    continue;
                }
            };
            if writer.write(vec![bytes]).await.is_err() {
                break;
            }
        }
        // Let commands come to their ends, then leave.
        env.sleep(Duration::from_millis(10)).await;
        let _ = writer.shutdown().await;
    };
    let receives = async {
        let mut received = Vec::new();
        while let Ok(bytes) = reader.read(1 << 20).await {
            if bytes.is_empty() {
                break;
            }
            received.extend_from_slice(&bytes);
        }
        received
    };
    let both = async { tokio::join!(sends, receives).1 };
    env.timeout(PATIENCE, both)
        .await
        .expect("the target ends the stream in time")
}

/// Small numbers count from the next that is due, so that most commands are in order.
fn number(request: &mut Request, next: &mut u32) {
    let (immediate, own) = match request {
        Request::NopOut(pdu) => (pdu.immediate, &mut pdu.command_sn),
        Request::Command(pdu) => (pdu.immediate, &mut pdu.command_sn),
        Request::TaskManagement(pdu) => (pdu.immediate, &mut pdu.command_sn),
        Request::Text(pdu) => (pdu.immediate, &mut pdu.command_sn),
        Request::Logout(pdu) => (pdu.immediate, &mut pdu.command_sn),
        Request::Login(_) | Request::DataOut(_) | Request::Snack(_) => return,
    };
    if *own < 3 {
        *own = *next;
    } else if *own < 4 {
        *own = *next + 1;
    }
    if !immediate {
        *next += 1;
    }
}

fn check_received(received: &[u8]) -> Vec<Response> {
    let (pdus, failed) = frames(received, &[1 << 16], Digests::default(), 1 << 24);
    assert!(!failed, "the target writes PDUs");
    let whole: usize = pdus
        .iter()
        .map(|pdu| pdu.to_bytes(Digests::default()).len())
        .sum();
    assert_eq!(whole, received.len(), "and no parts of them");
    let read = pdus
        .iter()
        .map(|pdu| Response::decode(pdu).expect("well-formed answers"));
    read.collect()
}

async fn scenario(begin: Begin, steps: Vec<Step>) {
    let network = Arc::new(MemoryNetwork::new(1));
    let log = Arc::new(Log::default());
    let events: Arc<dyn Events> = log.clone();
    let shared: Arc<dyn Network> = network;
    let env = Env::new(EnvParts {
        events,
        ..TestParts::with_network(shared)
    });
    let catalog = Arc::new(MemoryCatalog::default());
    let disk = Arc::new(MemoryDisk::new(Geometry::new(512, 64)));
    catalog.export(TARGET, disk, [7; 16], None);
    let server = IscsiServer::start(&env, PORTAL, catalog)
        .await
        .expect("a free address");

    let received = talk(&env, begin, steps).await;
    let answers = check_received(&received);
    if begin != Begin::Raw {
        let first = answers.first();
        assert!(
            matches!(first, Some(Response::Login(login)) if login.status == 0),
            "{first:?}"
        );
    }
    // A panic in the session's task would end the stream without a reason.
    let lines = log.0.lock().expect("as above").clone();
    let ends = lines.iter().filter(|line| line.contains(" ends: ")).count();
    assert_eq!(ends, 1, "{lines:#?}");

    let after = check_received(&talk(&env, Begin::LoggedIn, Vec::new()).await);
    assert!(
        matches!(&after[..], [Response::Login(login)] if login.status == 0),
        "{after:?}"
    );
    server.stop().await;
}

fn run(begin: Begin, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(scenario(begin, steps));
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn whatever_arrives_a_session_ends_with_a_reason(
        begin in prop_oneof![
            1 => Just(Begin::Raw),
            6 => Just(Begin::LoggedIn),
            1 => Just(Begin::Discovery),
        ],
        steps in prop::collection::vec(step(), 0..24),
    ) {
        run(begin, steps);
    }

    #[test]
    fn arbitrary_bytes_end_a_session_with_a_reason(
        begin in prop_oneof![Just(Begin::Raw), Just(Begin::LoggedIn)],
        bytes in prop::collection::vec(prop_oneof![0_u8..8, any::<u8>()], 0..600),
    ) {
        run(begin, vec![Step::Bytes(bytes)]);
    }
}
