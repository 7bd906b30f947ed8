//! The drivers of a handshake: the caller's and the called side's.
//!
//! Invariants: no request moves before both sides agreed; what each side learned of stores reaches
//! the observer even when the connection is refused; a lost or doubled message of the handshake
//! costs a new connection at most.
//! Does not: decide; `handshake.rs` does.

use std::sync::Arc;

use bytes::Bytes;
use hedgerow_env::{NetworkError, NodeId, Stream, StreamKind, event};

use crate::frame::{self, Decoded, Decoder, FrameError, Header, Kind, RequestId, body_checksum};
use crate::handshake::{self, Agreement};
use crate::hello::{Hello, HelloConfirm, HelloReply, Introduction, Judgement, SPOKEN, Verdict};
use crate::link::Link;
use crate::node::Inner;
use crate::outbound::Outbound;
use crate::pool::Entry;
use crate::wire::WireError;
use crate::{CallError, Message, Peer};

/// Attempts when a message of the handshake was lost or damaged, before the peer is left alone.
const ATTEMPTS: usize = 3;
/// A hello with the most stores and the longest address fits well.
const MAXIMUM_HELLO_BYTES: u64 = 8 << 10;

/// Why a handshake failed.
enum Failure {
    /// The network lost or damaged something: try again at once.
    Lost(String),
    /// The answer will not change by itself.
    Refused(CallError),
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Lost(format!("message of the handshake does not decode: {error}"))
    }
}

/// Opens a connection for `entry`.
pub(crate) async fn open(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
) -> Result<(Arc<Link>, Arc<Outbound>), CallError> {
    let address = &entry.key.peer.address;
    let unreachable = |reason: String| CallError::Unreachable {
        address: address.clone(),
        reason,
    };
    let mut lost = String::new();
    for _ in 0..ATTEMPTS {
        if inner.stopped.fired().is_some() {
            return Err(unreachable("this node is stopping".to_owned()));
        }
        let connecting = inner.env.network().connect(address, StreamKind::Rpc);
        let stream = match inner
            .env
            .timeout(inner.config.connect_timeout, connecting)
            .await
        {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => {
                return Err(unreachable(
                    "no answer to the connection attempt".to_owned(),
                ));
            }
        };
        let greeting = greet(inner, &entry.key.peer, stream);
        match inner
            .env
            .timeout(inner.config.handshake_timeout, greeting)
            .await
        {
            Ok(Ok((agreement, stream, decoder))) => {
                return Ok(start(inner, entry, agreement, (stream, decoder)));
            }
            Ok(Err(Failure::Refused(error))) => {
                event!(inner.env, Warn, "net", "handshake refused: {error}");
                return Err(error);
            }
            Ok(Err(Failure::Lost(reason))) => lost = reason,
            Err(_) => "no answer to the hello".clone_into(&mut lost),
        }
    }
    Err(unreachable(format!("handshake failed: {lost}")))
}

fn start(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
    agreement: Agreement,
    stream: (Stream, Decoder),
) -> (Arc<Link>, Arc<Outbound>) {
    let config = &inner.config;
    let limits = (
        agreement.peer.maximum_message_bytes,
        agreement.peer.served_requests,
    );
    let outbound = Outbound::new(inner, Arc::clone(entry), config, limits);
    let handler = Arc::clone(&outbound);
    let link = Link::start(
        &inner.env,
        config,
        agreement,
        stream,
        config.outstanding_requests,
        handler,
    );
    inner.opened(&link);
    (link, outbound)
}

async fn greet(
    inner: &Arc<Inner>,
    peer: &Peer,
    mut stream: Stream,
) -> Result<(Agreement, Stream, Decoder), Failure> {
    let hello = Hello {
        from: introduction(inner),
        expected: peer.node,
    };
    let nonce = hello.from.nonce;
    let began = inner.env.now();
    send(&mut stream, Kind::Hello, nonce, hello.encode()).await?;
    let mut decoder = Decoder::new(MAXIMUM_HELLO_BYTES);
    let reply = loop {
        let (header, message) = receive(&mut stream, &mut decoder).await?;
        // Whatever else the peer sends has overtaken its reply; it may be lost.
        if header.kind != Kind::HelloReply {
            continue;
        }
        let reply = HelloReply::decode(&message.head)?;
        let refused = reply.judgement.verdict != Verdict::Accepted;
        if reply.judgement.verdict == Verdict::Malformed {
            return Err(Failure::Lost(reply.judgement.text));
        }
        // A peer that could not read the hello does not know its nonce.
        if reply.answers == nonce || (refused && reply.answers == 0) {
            break reply;
        }
    };
    let (confirm, agreement) = handshake::conclude(&hello, &reply, &|store| inner.knowledge(store));
    let identity = &reply.from.identity;
    inner.tell_met(identity, confirm.judgement.verdict);
    inner.tell_judged(identity.node, &reply.judgement.known);
    let session = handshake::session(nonce, reply.from.nonce);
    send(&mut stream, Kind::HelloConfirm, session, confirm.encode()).await?;
    let Some(agreement) = agreement else {
        return Err(Failure::Refused(refusal(peer, &reply, &confirm)));
    };
    inner.tell_learned(identity);
    inner.note_latency(identity, inner.env.now().since(began));
    decoder.set_limit(inner.config.maximum_message_bytes);
    Ok((agreement, stream, decoder))
}

/// What a refused handshake means for the calls that wait for it.
fn refusal(peer: &Peer, reply: &HelloReply, confirm: &HelloConfirm) -> CallError {
    let identity = &reply.from.identity;
    let (who, judgement) = if reply.judgement.verdict == Verdict::Accepted {
        ("this node", &confirm.judgement)
    } else {
        ("the peer", &reply.judgement)
    };
    let reason = format!("{who} refused the connection: {}", judgement.text);
    let address = peer.address.clone();
    match judgement.verdict {
        Verdict::ForeignCluster | Verdict::WrongNode => CallError::Foreign {
            address,
            node: identity.node,
            cluster: identity.cluster,
            reason,
        },
        _ => CallError::Unreachable { address, reason },
    }
}

/// The called side: answers the hello on `stream`; `None` when the connection came to nothing, as
/// it does without `room` for it.
pub(crate) async fn welcome(
    inner: &Arc<Inner>,
    mut stream: Stream,
    room: bool,
) -> Option<(Agreement, Stream, Decoder)> {
    let env = &inner.env;
    let from = stream.peer_address.clone();
    let result = env
        .timeout(
            inner.config.handshake_timeout,
            answer(inner, &mut stream, room),
        )
        .await;
    match result {
        Ok(Ok((_, Some(agreement), decoder))) => return Some((agreement, stream, decoder)),
        Ok(Ok((caller, None, decoder))) => {
            let confirm = last_word(&mut stream, decoder);
            let confirm = env.timeout(inner.config.handshake_timeout, confirm).await;
            // The caller's knowledge of our stores still counts.
            if let Ok(Some(confirm)) = confirm {
                inner.tell_judged(caller, &confirm.judgement.known);
            }
        }
        Ok(Err(Failure::Lost(reason))) => {
            event!(env, Warn, "net", "handshake with {from} failed: {reason}");
        }
        Ok(Err(Failure::Refused(error))) => {
            event!(env, Warn, "net", "handshake with {from} failed: {error}");
        }
        Err(_) => event!(env, Warn, "net", "{from} sent no hello in time"),
    }
    None
}

/// What a caller that was refused has to say.
async fn last_word(stream: &mut Stream, mut decoder: Decoder) -> Option<HelloConfirm> {
    while let Ok((header, message)) = receive(stream, &mut decoder).await {
        if header.kind == Kind::HelloConfirm {
            return HelloConfirm::decode(&message.head).ok();
        }
    }
    None
}

async fn answer(
    inner: &Arc<Inner>,
    stream: &mut Stream,
    room: bool,
) -> Result<(NodeId, Option<Agreement>, Decoder), Failure> {
    let mut decoder = Decoder::new(MAXIMUM_HELLO_BYTES);
    let (header, message) = match receive(stream, &mut decoder).await {
        Ok(received) => received,
        Err(Failure::Lost(reason)) => {
            reject(inner, stream, Verdict::Malformed, &reason).await;
            return Err(Failure::Lost(reason));
        }
        Err(refused) => return Err(refused),
    };
    if header.kind != Kind::Hello {
        let reason = format!("{:?} before a hello", header.kind);
        reject(inner, stream, Verdict::Malformed, &reason).await;
        return Err(Failure::Lost(reason));
    }
    let hello = match Hello::decode(&message.head) {
        Ok(hello) => hello,
        Err(error) => {
            reject(inner, stream, Verdict::Malformed, &error.to_string()).await;
            return Err(error.into());
        }
    };
    let (reply, agreement) =
        handshake::answer(introduction(inner), &hello, &|store| inner.knowledge(store));
    let (reply, agreement) = if room {
        (reply, agreement)
    } else {
        (busy(reply), None)
    };
    let session = handshake::session(hello.from.nonce, reply.from.nonce);
    send(stream, Kind::HelloReply, session, reply.encode()).await?;
    inner.tell_met(&hello.from.identity, reply.judgement.verdict);
    if agreement.is_some() {
        inner.tell_learned(&hello.from.identity);
        decoder.set_limit(inner.config.maximum_message_bytes);
    } else {
        event!(
            inner.env,
            Warn,
            "net",
            "refused {} at {}: {}",
            hello.from.identity.node,
            stream.peer_address,
            reply.judgement.text
        );
    }
    Ok((hello.from.identity.node, agreement, decoder))
}

/// The reply for want of room; a graver reason and what is known of stores stay.
fn busy(mut reply: HelloReply) -> HelloReply {
    reply.version = 0;
    if reply.judgement.verdict == Verdict::Accepted {
        reply.judgement.verdict = Verdict::Busy;
        "too many connections".clone_into(&mut reply.judgement.text);
    }
    reply
}

/// Tells a caller whose hello is of no use why the connection ends, as far as that goes.
async fn reject(inner: &Inner, stream: &mut Stream, verdict: Verdict, text: &str) {
    let judgement = Judgement {
        verdict,
        text: text.to_owned(),
        known: Vec::new(),
    };
    let reply = HelloReply {
        answers: 0,
        version: 0,
        judgement,
        from: introduction(inner),
    };
    // The connection ends in any case.
    drop(send(stream, Kind::HelloReply, 0, reply.encode()).await);
}

fn introduction(inner: &Inner) -> Introduction {
    Introduction {
        versions: SPOKEN,
        identity: (*inner.identity()).clone(),
        // Zero stands for "unknown nonce" in a reply.
        nonce: inner.random_bits() | 1,
        maximum_message_bytes: inner.config.maximum_message_bytes,
        served_requests: inner.config.served_requests,
    }
}

async fn send(
    stream: &mut Stream,
    kind: Kind,
    session: u64,
    body: Bytes,
) -> Result<(), NetworkError> {
    let message = Message {
        head: body,
        payload: Bytes::new(),
    };
    let header = Header::bare(kind, session, RequestId(0));
    let header = header.with_body(&message, body_checksum(&message));
    stream.writer.write(frame::parts(&header, message)).await
}

async fn receive(stream: &mut Stream, decoder: &mut Decoder) -> Result<(Header, Message), Failure> {
    loop {
        match decoder.next_frame()? {
            Some(Decoded::Frame(header, message)) => return Ok((header, message)),
            Some(Decoded::Damaged(header)) => {
                return Err(Failure::Lost(format!("{:?} arrived damaged", header.kind)));
            }
            Some(Decoded::Oversized(header)) => {
                return Err(Failure::Lost(format!(
                    "{:?} is too large here",
                    header.kind
                )));
            }
            None => {}
        }
        let bytes = stream.reader.read(decoder.wanted()).await?;
        if bytes.is_empty() {
            return Err(Failure::Lost("the peer closed the connection".to_owned()));
        }
        decoder.push(bytes);
    }
}
