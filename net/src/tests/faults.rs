//! What callers see when the network loses, doubles, delays, corrupts or says nothing.

use futures_util::future::{Either, join_all, select};

use super::*;
use crate::testing::Faults;

/// Calls `to` again and again until it answers; the number of attempts.
async fn call_until_answered(env: &Env, client: &Rpc, to: &Peer, asked: &Message) -> u64 {
    for attempt in 1..1000 {
        let outcome = client
            .call(to, ECHO, asked.clone(), Duration::from_millis(300))
            .await;
        match outcome {
            Ok(answer) => {
                assert_eq!(&answer, asked, "an answer is the right one or none");
                return attempt;
            }
            Err(CallError::Unknown { .. }) => {}
            Err(CallError::Unreachable { .. }) => env.sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("1000 attempts")
}

/// 20 callers of 20 requests each, through `faults`; whatever is unknown is asked again.
async fn survive(faults: Faults) -> (Arc<Echo>, crate::testing::Fates) {
    let cluster = Cluster::new();
    let echo = Echo::slow(&cluster.env, Duration::from_millis(1));
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    cluster.network.set_faults(faults);
    let callers = (0..20).map(|caller| {
        let (env, client, to) = (cluster.env.clone(), client.clone(), to.clone());
        async move {
            for number in 0..20 {
                let asked = message(&format!("request {number} of {caller}"));
                call_until_answered(&env, &client, &to, &asked).await;
            }
        }
    });
    join_all(callers).await;
    (echo, cluster.network.fates())
}

#[tokio::test(start_paused = true)]
async fn lost_frames_end_in_unknown_and_a_repetition_gets_through() {
    let (_, fates) = survive(Faults {
        lose_one_in: 5,
        ..Faults::default()
    })
    .await;
    assert!(fates.lost > 100, "{fates:?}");
}

#[tokio::test(start_paused = true)]
async fn doubled_requests_may_run_twice_and_doubled_answers_are_dropped() {
    let (echo, fates) = survive(Faults {
        double_one_in: 2,
        ..Faults::default()
    })
    .await;
    assert!(fates.doubled > 300, "{fates:?}");
    assert!(echo.begun() > 400, "some ran twice: {}", echo.begun());
}

#[tokio::test(start_paused = true)]
async fn overtaking_frames_do_no_harm() {
    let (echo, fates) = survive(Faults {
        delay_one_in: 2,
        ..Faults::default()
    })
    .await;
    assert!(fates.delayed > 300, "{fates:?}");
    assert_eq!(
        echo.begun(),
        400,
        "nothing was lost, so nothing was asked twice"
    );
}

#[tokio::test(start_paused = true)]
async fn corrupted_frames_never_pass_for_an_answer() {
    let (_, fates) = survive(Faults {
        corrupt_one_in: 10,
        ..Faults::default()
    })
    .await;
    assert!(fates.corrupted > 80, "{fates:?}");
}

#[tokio::test(start_paused = true)]
async fn all_of_it_at_once() {
    let faults = Faults {
        lose_one_in: 20,
        double_one_in: 10,
        delay_one_in: 5,
        corrupt_one_in: 20,
        silent: false,
    };
    let (_, fates) = survive(faults).await;
    assert!(
        fates.lost > 10 && fates.doubled > 10 && fates.corrupted > 10,
        "{fates:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_leaves_its_calls_unknown_and_the_next_one_reconnects() {
    let cluster = Cluster::new();
    let echo = Echo::slow(&cluster.env, SECOND);
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let call = client.call(&to, ECHO, message("x"), 10 * SECOND);
    let pause = cluster.env.sleep(Duration::from_millis(100));
    let Either::Right(((), call)) = select(call, pause).await else {
        panic!("it takes a second")
    };
    cluster.network.cut_all();
    let before = cluster.env.now();
    let outcome = call.await;
    assert!(
        matches!(outcome, Err(CallError::Unknown { .. })),
        "{outcome:?}"
    );
    assert!(
        cluster.env.now().since(before) < Duration::from_millis(10),
        "told at once"
    );
    cluster.sleep(cluster.config.back_off_limit).await;
    assert_eq!(
        client.call(&to, ECHO, message("y"), 10 * SECOND).await,
        Ok(message("y"))
    );
    assert_eq!(
        echo.finished(),
        1,
        "the first was stopped with its connection"
    );
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_is_noticed_and_replaced() {
    let cluster = Cluster::new();
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let client = cluster.node(2).await;
    client.call(&to, ECHO, message("x"), SECOND).await.unwrap();
    cluster.network.set_faults(Faults {
        silent: true,
        ..Faults::default()
    });
    let before = cluster.env.now();
    let outcome = client.call(&to, ECHO, message("x"), 60 * SECOND).await;
    assert!(
        matches!(outcome, Err(CallError::Unknown { .. })),
        "{outcome:?}"
    );
    let took = cluster.env.now().since(before);
    assert!(
        took <= cluster.config.keep_alive_timeout + SECOND,
        "{took:?}"
    );
    cluster.network.set_faults(Faults::default());
    cluster.sleep(cluster.config.back_off_limit).await;
    assert!(client.call(&to, ECHO, message("x"), SECOND).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_uses_is_closed_and_reopened_when_needed() {
    let mut cluster = Cluster::new();
    cluster.config.idle_limit = 10 * SECOND;
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let client = cluster.node(2).await;
    client.call(&to, ECHO, message("x"), SECOND).await.unwrap();
    cluster.sleep(20 * SECOND).await;
    let quiet = cluster.network.fates().writes;
    cluster.sleep(20 * SECOND).await;
    assert_eq!(cluster.network.fates().writes, quiet, "not even pings");
    assert!(client.call(&to, ECHO, message("x"), SECOND).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn whoever_speaks_another_protocol_is_told_and_dropped() {
    let cluster = Cluster::new();
    let echo = Arc::new(Echo::default());
    let (_server, _to) = cluster.serving(1, echo.clone()).await;
    let network = cluster.env.network();
    let mut stream = network
        .connect("node1:1", hedgerow_env::StreamKind::Rpc)
        .await
        .unwrap();
    let greeting =
        Bytes::from_static(b"GET / HTTP/1.1\r\nHost: node1\r\nUser-Agent: somebody/1.0\r\n\r\n");
    stream
        .writer
        .write(vec![greeting, Bytes::from(vec![b'x'; 64])])
        .await
        .unwrap();
    let mut decoder = crate::frame::Decoder::new(1 << 16);
    let mut seen = Vec::new();
    loop {
        let bytes = stream.reader.read(1 << 16).await;
        match bytes {
            Ok(bytes) if !bytes.is_empty() => decoder.push(bytes),
            _ => break,
        }
        while let Some(decoded) = decoder.next_frame().unwrap() {
            seen.push(decoded);
        }
    }
    let [crate::frame::Decoded::Frame(header, body)] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(header.kind, crate::frame::Kind::HelloReply);
    let reply = crate::hello::HelloReply::decode(&body.head).unwrap();
    assert!(
        reply.judgement.text.contains("bad magic"),
        "{}",
        reply.judgement.text
    );
    assert_eq!(echo.begun(), 0);
}
