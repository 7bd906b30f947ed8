//! Sizes, queues, deadlines and cancellation.

use futures_util::future::Either;
use futures_util::future::{join_all, select};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_request_over_the_own_limit_is_never_sent() {
    let cluster = Cluster::new();
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let client = cluster.node(2).await;
    let large = Message::new("x", vec![0; 9 << 20]);
    let outcome = client.call(&to, ECHO, large, SECOND).await;
    assert_eq!(outcome, Err(CallError::TooLarge { limit: 8 << 20 }));
    assert_eq!(cluster.network.fates().writes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_over_the_peers_limit_is_refused_with_that_limit() {
    let mut cluster = Cluster::new();
    cluster.config.maximum_message_bytes = 1 << 20;
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    cluster.config.maximum_message_bytes = 8 << 20;
    let client = cluster.node(2).await;
    let large = Message::new("x", vec![0; 2 << 20]);
    let outcome = client.call(&to, ECHO, large, SECOND).await;
    assert_eq!(outcome, Err(CallError::TooLarge { limit: 1 << 20 }));
    assert_eq!(
        client.call(&to, ECHO, message("x"), SECOND).await,
        Ok(message("x"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_over_the_callers_limit_is_refused_with_that_limit() {
    struct Bulk;
    impl Service for Bulk {
        fn call(
            &self,
            _caller: Caller,
            _request: Message,
            _deadline: Instant,
        ) -> BoxFuture<'static, Result<Message, Refusal>> {
            Box::pin(async { Ok(Message::new("x", vec![0; 2 << 20])) })
        }
    }
    let mut cluster = Cluster::new();
    let (_server, to) = cluster.serving(1, Arc::new(Bulk)).await;
    cluster.config.maximum_message_bytes = 1 << 20;
    let client = cluster.node(2).await;
    let outcome = client.call(&to, ECHO, message("x"), SECOND).await;
    assert_eq!(outcome, Err(CallError::TooLarge { limit: 1 << 20 }));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_unknown_and_the_server_stops_the_work() {
    let cluster = Cluster::new();
    let echo = Echo::slow(&cluster.env, SECOND);
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let outcome = client
        .call(&to, ECHO, message("x"), Duration::from_millis(300))
        .await;
    assert!(
        matches!(outcome, Err(CallError::Unknown { .. })),
        "{outcome:?}"
    );
    cluster.sleep(2 * SECOND).await;
    assert_eq!((echo.begun(), echo.finished()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_cancels_the_work_before_its_deadline() {
    let cluster = Cluster::new();
    let echo = Echo::slow(&cluster.env, SECOND);
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let call = client.call(&to, ECHO, message("x"), 10 * SECOND);
    let pause = cluster.env.sleep(Duration::from_millis(100));
    let Either::Right(((), call)) = select(call, pause).await else {
        panic!("it takes a second")
    };
    assert_eq!(echo.running.lock().unwrap().0, 1);
    drop(call);
    cluster.sleep(Duration::from_millis(10)).await;
    assert_eq!(echo.running.lock().unwrap().0, 0, "cancelled at once");
    cluster.sleep(2 * SECOND).await;
    assert_eq!(echo.finished(), 0);
}

#[tokio::test(start_paused = true)]
async fn callers_wait_for_a_slot_and_all_are_served_in_the_end() {
    let mut cluster = Cluster::new();
    cluster.config.outstanding_requests = 4;
    let echo = Echo::slow(&cluster.env, Duration::from_millis(10));
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let calls = (0..40).map(|_| client.call(&to, ECHO, message("x"), SECOND));
    for answer in join_all(calls).await {
        assert_eq!(answer, Ok(message("x")));
    }
    assert_eq!((echo.begun(), echo.most_at_once()), (40, 4));
}

#[tokio::test(start_paused = true)]
async fn a_caller_keeps_to_what_the_peer_serves_at_once() {
    let mut cluster = Cluster::new();
    cluster.config.served_requests = 3;
    let echo = Echo::slow(&cluster.env, Duration::from_millis(10));
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let calls = (0..30).map(|_| client.call(&to, ECHO, message("x"), SECOND));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(echo.most_at_once(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_full_server_stops_reading_and_the_connection_lives_on() {
    // 1 MiB served at once; each call brings 600 KiB and takes far longer than the keep-alive.
    let mut cluster = Cluster::new();
    cluster.config.maximum_message_bytes = 1 << 20;
    cluster.config.served_bytes = 1 << 20;
    let echo = Echo::slow(&cluster.env, 6 * SECOND);
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let bulk = Message::new("x", vec![7; 600 << 10]);
    let calls = (0..3).map(|_| client.call(&to, ECHO, bulk.clone(), 60 * SECOND));
    let before = cluster.env.now();
    for answer in join_all(calls).await {
        assert_eq!(answer.as_ref(), Ok(&bulk));
    }
    assert_eq!(echo.most_at_once(), 1);
    assert!(
        cluster.env.now().since(before) >= 18 * SECOND,
        "one after the other"
    );
    assert_eq!(
        echo.begun(),
        3,
        "none was lost with a connection and repeated"
    );
}

#[tokio::test(start_paused = true)]
async fn what_never_left_is_unreachable_not_unknown() {
    let mut cluster = Cluster::new();
    cluster.config.outstanding_requests = 1;
    let echo = Echo::slow(&cluster.env, SECOND);
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let first = client.call(&to, ECHO, message("x"), 10 * SECOND);
    let second = client.call(&to, ECHO, message("y"), Duration::from_millis(500));
    let (first, second) = futures_util::future::join(first, second).await;
    assert_eq!(first, Ok(message("x")));
    assert!(
        matches!(second, Err(CallError::Unreachable { .. })),
        "{second:?}"
    );
    assert_eq!(echo.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn connections_beyond_the_limit_are_turned_away_with_a_reason() {
    let mut cluster = Cluster::new();
    cluster.config.accepted_connections = 1;
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let first = cluster.node(2).await;
    assert!(first.call(&to, ECHO, message("x"), SECOND).await.is_ok());
    let second = cluster.node(3).await;
    let outcome = second.call(&to, ECHO, message("x"), SECOND).await;
    assert!(
        matches!(&outcome, Err(CallError::Unreachable { reason, .. })
            if reason.contains("too many connections")),
        "{outcome:?}"
    );
    // The first one leaves; its place is free again.
    first.shutdown().await;
    cluster.sleep(SECOND).await;
    assert!(second.call(&to, ECHO, message("x"), SECOND).await.is_ok());
}

#[test]
fn contradicting_limits_are_refused_by_name() {
    let good = RpcConfig::default();
    assert_eq!(good.validate(), Ok(()));
    let wrong = [
        RpcConfig {
            served_bytes: 1,
            ..good.clone()
        },
        RpcConfig {
            outstanding_bytes: 1,
            ..good.clone()
        },
        RpcConfig {
            served_requests: 0,
            ..good.clone()
        },
        RpcConfig {
            maximum_message_bytes: 0,
            ..good.clone()
        },
        RpcConfig {
            keep_alive_timeout: good.keep_alive_interval,
            ..good.clone()
        },
        RpcConfig {
            back_off_first: Duration::ZERO,
            ..good.clone()
        },
    ];
    for config in wrong {
        assert!(config.validate().is_err(), "{config:?}");
    }
}
