//! What callers see on a healthy network.

use futures_util::future::join_all;

use super::*;
use crate::CallOptions;

#[tokio::test(start_paused = true)]
async fn a_call_comes_back_with_both_parts_and_measures_the_way() {
    let cluster = Cluster::new();
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let client = cluster.node(2).await;
    assert_eq!(client.latency(&NodeId(1)), None);
    let asked = message("hello");
    assert_eq!(
        client.call(&to, ECHO, asked.clone(), SECOND).await,
        Ok(asked)
    );
    assert!(
        client.latency(&NodeId(1)).is_some(),
        "the handshake is the first sample"
    );
    assert_eq!(
        client.latency_of_address("node1:1"),
        client.latency(&NodeId(1))
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_knows_who_calls() {
    let cluster = Cluster::new();
    let server = cluster.node(1).await;
    server.serve(WHO, Arc::new(Who { open: false }));
    let client = cluster.node(2).await;
    let answer = client
        .call(&peer(1), WHO, message("?"), SECOND)
        .await
        .unwrap();
    let expected = format!("{} of {:?} at node2:1", NodeId(2), Some(ClusterId(7)));
    assert_eq!(answer.head, expected.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_calls_share_one_connection_and_each_gets_its_own_answer() {
    let cluster = Cluster::new();
    let echo = Echo::slow(&cluster.env, Duration::from_millis(100));
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let before = cluster.env.now();
    let calls = (0..200).map(|number| {
        let asked = message(&format!("request {number}"));
        let call = client.call(&to, ECHO, asked.clone(), SECOND);
        async move { (call.await, asked) }
    });
    for (answer, asked) in join_all(calls).await {
        assert_eq!(answer, Ok(asked));
    }
    assert_eq!(echo.most_at_once(), 200);
    let took = cluster.env.now().since(before);
    assert!(
        took < Duration::from_millis(200),
        "they ran side by side, in {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_large_payload_crosses_in_many_pieces_unchanged() {
    let cluster = Cluster::new();
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let client = cluster.node(2).await;
    let mut payload = vec![0; 5 << 20];
    cluster.env.random("payload").fill(&mut payload);
    let asked = Message::new("bulk", payload);
    assert_eq!(
        client.call(&to, ECHO, asked.clone(), SECOND).await,
        Ok(asked)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_and_an_unknown_service_say_so() {
    let cluster = Cluster::new();
    let (_server, to) = cluster.serving(1, Arc::new(Refuser)).await;
    let client = cluster.node(2).await;
    let refused = client.call(&to, ECHO, message("x"), SECOND).await;
    let expected = Refusal::new(RefusalCode::Overloaded, "the journal is full");
    assert_eq!(refused, Err(CallError::Refused(expected)));
    let elsewhere = client.call(&to, WHO, message("x"), SECOND).await;
    assert!(
        matches!(&elsewhere, Err(CallError::Refused(refusal))
            if refusal.code == RefusalCode::NotHere),
        "{elsewhere:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_unreachable_and_fails_fast_while_backing_off() {
    let cluster = Cluster::new();
    let client = cluster.node(2).await;
    let before = cluster.env.now();
    let mut attempts = 0;
    while cluster.env.now().since(before) < SECOND {
        let outcome = client.call(&peer(1), ECHO, message("x"), SECOND).await;
        assert!(
            matches!(outcome, Err(CallError::Unreachable { .. })),
            "{outcome:?}"
        );
        attempts += 1;
    }
    assert!(
        attempts > 100,
        "a call does not wait for the pause: {attempts}"
    );
    // The peer comes up: it is found within the longest pause.
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    cluster.sleep(cluster.config.back_off_limit).await;
    assert_eq!(
        client.call(&to, ECHO, message("x"), SECOND).await,
        Ok(message("x"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_own_node_is_called_without_a_connection_under_the_same_rules() {
    let cluster = Cluster::new();
    let echo = Echo::slow(&cluster.env, Duration::from_millis(100));
    let (node, to) = cluster.serving(1, echo).await;
    assert_eq!(
        node.call(&to, ECHO, message("x"), SECOND).await,
        Ok(message("x"))
    );
    let late = node
        .call(&to, ECHO, message("x"), Duration::from_millis(50))
        .await;
    assert!(matches!(late, Err(CallError::Unknown { .. })), "{late:?}");
    let wrong = node
        .call(&Peer::new("node1:1", NodeId(9)), ECHO, message("x"), SECOND)
        .await;
    assert!(matches!(wrong, Err(CallError::Foreign { .. })), "{wrong:?}");
    let large = Message::new("x", vec![0; 9 << 20]);
    let large = node.call(&to, ECHO, large, SECOND).await;
    assert_eq!(large, Err(CallError::TooLarge { limit: 8 << 20 }));
    assert_eq!(
        cluster.network.fates().writes,
        0,
        "nothing crossed the network"
    );
}

#[tokio::test(start_paused = true)]
async fn lanes_do_not_share_a_connection() {
    let cluster = Cluster::new();
    let (_server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let client = cluster.node(2).await;
    client.call(&to, ECHO, message("x"), SECOND).await.unwrap();
    let after_first = cluster.network.fates().writes;
    client.call(&to, ECHO, message("x"), SECOND).await.unwrap();
    assert_eq!(
        cluster.network.fates().writes - after_first,
        2,
        "request and response"
    );
    let before = cluster.network.fates().writes;
    let urgent = client.call_with(&to, ECHO, message("x"), CallOptions::urgent(SECOND));
    urgent.await.unwrap();
    assert_eq!(
        cluster.network.fates().writes - before,
        5,
        "and a handshake of three"
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_running_requests_finish_and_refuses_new_ones() {
    let cluster = Cluster::new();
    let echo = Echo::slow(&cluster.env, Duration::from_millis(200));
    let (server, to) = cluster.serving(1, echo.clone()).await;
    let client = cluster.node(2).await;
    let running = client.call(&to, ECHO, message("x"), SECOND);
    let stopping = async {
        cluster.sleep(Duration::from_millis(50)).await;
        server.shutdown().await;
    };
    let (answer, ()) = futures_util::future::join(running, stopping).await;
    assert_eq!(answer, Ok(message("x")));
    let late = client.call(&to, ECHO, message("x"), SECOND).await;
    assert!(late.is_err(), "{late:?}");
    assert_eq!(echo.begun(), 1);
    let own = server.call(&peer(2), ECHO, message("x"), SECOND).await;
    assert!(matches!(own, Err(CallError::Unreachable { .. })), "{own:?}");
}
