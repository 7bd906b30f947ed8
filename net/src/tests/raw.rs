//! A caller that does not keep to the rules, against a real server.

use hedgerow_env::{Stream, StreamKind};

use super::*;
use crate::frame::{Decoded, Decoder, Header, Kind, RequestId, body_checksum, parts};
use crate::handshake;
use crate::hello::{Hello, HelloReply, Introduction, SPOKEN};

/// Speaks frames by hand.
struct Raw {
    stream: Stream,
    decoder: Decoder,
    session: u64,
}

impl Raw {
    async fn connect(cluster: &Cluster, number: u64) -> Self {
        let address = format!("node{number}:1");
        let stream = cluster
            .env
            .network()
            .connect(&address, StreamKind::Rpc)
            .await
            .unwrap();
        let mut raw = Self {
            stream,
            decoder: Decoder::new(1 << 30),
            session: 5,
        };
        let from = Introduction {
            versions: SPOKEN,
            identity: member(9),
            nonce: 5,
            maximum_message_bytes: 1 << 30,
            served_requests: 1,
        };
        let hello = Hello {
            from,
            expected: None,
        };
        let body = Message::new(hello.encode(), Bytes::new());
        raw.send(Header::bare(Kind::Hello, 5, RequestId(0)), &body)
            .await;
        let (header, body) = raw.receive().await.unwrap();
        let reply = HelloReply::decode(&body.head).unwrap();
        raw.session = header.session;
        assert_eq!(header.session, handshake::session(5, reply.from.nonce));
        raw
    }

    fn request(&self, id: u64) -> Header {
        let mut header = Header::bare(Kind::Request, self.session, RequestId(id));
        header.service = ECHO;
        header.remaining_us = 10_000_000;
        header
    }

    async fn send(&mut self, header: Header, message: &Message) {
        let header = header.with_body(message, body_checksum(message));
        self.send_as_is(header, message).await;
    }

    async fn send_as_is(&mut self, header: Header, message: &Message) {
        self.stream
            .writer
            .write(parts(&header, message.clone()))
            .await
            .unwrap();
    }

    /// The next frame but pings; `None` when the server ended the connection.
    async fn receive(&mut self) -> Option<(Header, Message)> {
        loop {
            match self.decoder.next_frame().unwrap() {
                Some(Decoded::Frame(header, _)) if header.kind == Kind::Ping => continue,
                Some(Decoded::Frame(header, message)) => return Some((header, message)),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            match self.stream.reader.read(1 << 20).await {
                Ok(bytes) if !bytes.is_empty() => self.decoder.push(bytes),
                _ => return None,
            }
        }
    }

    async fn refusal(&mut self) -> (u64, RefusalCode, u64) {
        let (header, message) = self.receive().await.unwrap();
        assert_eq!(header.kind, Kind::Refusal);
        let (refusal, limit) = crate::refusal::decode(&message).unwrap();
        (header.request.0, refusal.code, limit)
    }
}

async fn server(config: RpcConfig) -> (Cluster, Arc<Echo>) {
    let mut cluster = Cluster::new();
    cluster.config = config;
    let echo = Echo::slow(&cluster.env, Duration::from_millis(100));
    cluster.serving(1, echo.clone()).await;
    (cluster, echo)
}

#[tokio::test(start_paused = true)]
async fn a_request_over_the_servers_limit_is_refused_and_the_connection_goes_on() {
    let config = RpcConfig {
        maximum_message_bytes: 1 << 20,
        ..RpcConfig::default()
    };
    let (cluster, echo) = server(config).await;
    let mut raw = Raw::connect(&cluster, 1).await;
    let large = Message::new("x", vec![0; 2 << 20]);
    raw.send(raw.request(1), &large).await;
    assert_eq!(raw.refusal().await, (1, RefusalCode::TooLarge, 1 << 20));
    raw.send(raw.request(2), &message("x")).await;
    assert_eq!(raw.receive().await.unwrap().1, message("x"));
    assert_eq!(echo.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_request_is_refused_and_the_connection_goes_on() {
    let (cluster, echo) = server(RpcConfig::default()).await;
    let mut raw = Raw::connect(&cluster, 1).await;
    let header = raw.request(1).with_body(&message("x"), 0xbad);
    raw.send_as_is(header, &message("x")).await;
    assert_eq!(raw.refusal().await.1, RefusalCode::Damaged);
    raw.send(raw.request(2), &message("x")).await;
    assert_eq!(raw.receive().await.unwrap().1, message("x"));
    assert_eq!(echo.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn frames_of_another_session_and_of_the_wrong_side_end_the_connection() {
    for wrong in [Kind::Request, Kind::Response] {
        let (cluster, echo) = server(RpcConfig::default()).await;
        let mut raw = Raw::connect(&cluster, 1).await;
        let mut header = raw.request(1);
        header.kind = wrong;
        if wrong == Kind::Request {
            header.session ^= 2;
        }
        raw.send(header, &message("x")).await;
        assert_eq!(raw.receive().await, None, "{wrong:?}");
        assert_eq!(echo.begun(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_copy_of_a_running_request_is_dropped_and_a_later_one_runs() {
    let (cluster, echo) = server(RpcConfig::default()).await;
    let mut raw = Raw::connect(&cluster, 1).await;
    for _ in 0..3 {
        raw.send(raw.request(1), &message("x")).await;
    }
    assert_eq!(raw.receive().await.unwrap().1, message("x"));
    cluster.sleep(SECOND).await;
    assert_eq!(echo.begun(), 1);
    raw.send(raw.request(1), &message("x")).await;
    assert_eq!(raw.receive().await.unwrap().1, message("x"));
    assert_eq!(echo.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_sends_more_than_is_served_is_not_read_until_there_is_room() {
    let config = RpcConfig {
        served_requests: 2,
        ..RpcConfig::default()
    };
    let (cluster, echo) = server(config).await;
    let mut raw = Raw::connect(&cluster, 1).await;
    let before = cluster.env.now();
    for id in 1..=10 {
        raw.send(raw.request(id), &message("x")).await;
    }
    for _ in 1..=10 {
        assert_eq!(raw.receive().await.unwrap().1, message("x"));
    }
    assert_eq!((echo.begun(), echo.most_at_once()), (10, 2));
    assert!(cluster.env.now().since(before) >= Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_time_is_up_is_not_begun() {
    let (cluster, echo) = server(RpcConfig::default()).await;
    let mut raw = Raw::connect(&cluster, 1).await;
    let mut header = raw.request(1);
    header.remaining_us = 0;
    raw.send(header, &message("x")).await;
    cluster.sleep(SECOND).await;
    assert_eq!(echo.begun(), 0);
    header.request = RequestId(2);
    header.remaining_us = u64::MAX;
    raw.send(header, &message("x")).await;
    assert_eq!(raw.receive().await.unwrap().0.request, RequestId(2));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_frees_the_place_at_once() {
    let config = RpcConfig {
        served_requests: 1,
        ..RpcConfig::default()
    };
    let (cluster, echo) = server(config).await;
    let mut raw = Raw::connect(&cluster, 1).await;
    let before = cluster.env.now();
    raw.send(raw.request(1), &message("x")).await;
    cluster.sleep(Duration::from_millis(10)).await;
    let cancel = Header::bare(Kind::Cancel, raw.session, RequestId(1));
    raw.send(cancel, &Message::default()).await;
    raw.send(raw.request(2), &message("y")).await;
    assert_eq!(raw.receive().await.unwrap().1, message("y"));
    let took = cluster.env.now().since(before);
    assert!(took < Duration::from_millis(150), "{took:?}");
    assert_eq!((echo.begun(), echo.finished()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_falls_silent_is_let_go() {
    let (cluster, _echo) = server(RpcConfig::default()).await;
    let mut raw = Raw::connect(&cluster, 1).await;
    let before = cluster.env.now();
    assert_eq!(raw.receive().await, None);
    let took = cluster.env.now().since(before);
    assert!(
        took <= cluster.config.keep_alive_timeout + SECOND,
        "{took:?}"
    );
}
