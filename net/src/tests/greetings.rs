//! Who talks to whom.

use super::*;

fn blank(number: u64) -> Identity {
    Identity {
        cluster: None,
        ..member(number)
    }
}

fn stamp(store: u64, start_count: u64, reported_durable: u64) -> StoreStamp {
    StoreStamp {
        store: StoreId(store),
        start_count,
        start_nonce: store * 1000 + start_count,
        reported_durable,
    }
}

/// Remembers in memory, as a node's driver does durably.
#[derive(Default)]
struct Memory {
    known: Mutex<Vec<StoreStamp>>,
    judged: Mutex<Vec<(NodeId, Vec<StoreStamp>)>>,
    met: Mutex<Vec<(NodeId, String)>>,
}

impl Memory {
    fn knowing(stamps: &[StoreStamp]) -> Arc<Self> {
        Arc::new(Self {
            known: Mutex::new(stamps.to_vec()),
            ..Self::default()
        })
    }
}

impl PeerObserver for Memory {
    fn met(&self, node: NodeId, address: &str) {
        self.met.lock().unwrap().push((node, address.to_owned()));
    }

    fn knowledge(&self, store: StoreId) -> Option<StoreStamp> {
        let known = self.known.lock().unwrap();
        known.iter().find(|stamp| stamp.store == store).copied()
    }

    fn learned(&self, _node: NodeId, stores: &[StoreStamp]) {
        let mut known = self.known.lock().unwrap();
        known.retain(|old| stores.iter().all(|new| new.store != old.store));
        known.extend_from_slice(stores);
    }

    fn judged(&self, by: NodeId, known: &[StoreStamp]) {
        self.judged.lock().unwrap().push((by, known.to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_refused_by_name() {
    let cluster = Cluster::new();
    let echo = Arc::new(Echo::default());
    let (_server, to) = cluster.serving(1, echo.clone()).await;
    let foreign = Identity {
        cluster: Some(ClusterId(8)),
        ..member(2)
    };
    let client = cluster.node_as(2, foreign).await;
    let outcome = client.call(&to, ECHO, message("x"), SECOND).await;
    let Err(CallError::Foreign {
        node,
        cluster: theirs,
        reason,
        ..
    }) = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!((node, theirs), (NodeId(1), Some(ClusterId(7))));
    assert!(reason.contains(&ClusterId(8).to_string()), "{reason}");
    assert_eq!(echo.begun(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reused_address_is_noticed() {
    let cluster = Cluster::new();
    let (_server, _) = cluster.serving(1, Arc::new(Echo::default())).await;
    let client = cluster.node(2).await;
    let memory = Memory::knowing(&[]);
    client.on_peer(memory.clone());
    let to = Peer::new("node1:1", NodeId(9));
    let outcome = client.call(&to, ECHO, message("x"), SECOND).await;
    assert!(
        matches!(
            &outcome,
            Err(CallError::Foreign {
                node: NodeId(1),
                ..
            })
        ),
        "{outcome:?}"
    );
    // Whom it met there instead is found there from now on.
    let met = memory.met.lock().unwrap().clone();
    assert_eq!(met, [(NodeId(1), "node1:1".to_owned())]);
    // Whoever asks for anyone, or for the right one, is not held up by that.
    let anyone = client
        .call(&Peer::anyone_at("node1:1"), ECHO, message("x"), SECOND)
        .await;
    assert!(anyone.is_ok(), "{anyone:?}");
    assert!(
        client
            .call(&peer(1), ECHO, message("x"), SECOND)
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_blank_node_reaches_bootstrap_services_alone_until_it_joins() {
    let cluster = Cluster::new();
    let server = cluster.node(1).await;
    server.serve(ECHO, Arc::new(Echo::default()));
    server.serve(WHO, Arc::new(Who { open: true }));
    let joiner = cluster.node_as(2, blank(2)).await;
    let open = joiner
        .call(&peer(1), WHO, message("?"), SECOND)
        .await
        .unwrap();
    assert!(
        open.head
            .starts_with(format!("{} of None", NodeId(2)).as_bytes())
    );
    let closed = joiner.call(&peer(1), ECHO, message("x"), SECOND).await;
    assert!(
        matches!(&closed, Err(CallError::Refused(refusal))
            if refusal.code == RefusalCode::NotMember),
        "{closed:?}"
    );
    // A member may call it, too: that is how it is claimed.
    joiner.serve(WHO, Arc::new(Who { open: false }));
    assert!(
        server
            .call(&peer(2), WHO, message("?"), SECOND)
            .await
            .is_ok()
    );
    joiner.set_identity(member(2));
    assert!(
        joiner
            .call(&peer(1), ECHO, message("x"), SECOND)
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_another_cluster_drops_whoever_called_it_while_it_was_blank() {
    let cluster = Cluster::new();
    let undecided = cluster.node_as(1, blank(1)).await;
    let echo = Arc::new(Echo::default());
    undecided.serve(ECHO, echo.clone());
    let client = cluster.node(2).await;
    assert!(
        client
            .call(&peer(1), ECHO, message("x"), SECOND)
            .await
            .is_ok()
    );
    undecided.set_identity(Identity {
        cluster: Some(ClusterId(8)),
        ..member(1)
    });
    cluster.sleep(SECOND).await;
    let outcome = client.call(&peer(1), ECHO, message("x"), SECOND).await;
    assert!(
        matches!(outcome, Err(CallError::Foreign { .. })),
        "{outcome:?}"
    );
    assert_eq!(echo.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn peers_remember_each_others_stores() {
    let cluster = Cluster::new();
    let with = |number, stamps: &[StoreStamp]| Identity {
        stores: stamps.to_vec(),
        ..member(number)
    };
    let server = cluster.node_as(1, with(1, &[stamp(11, 1, 100)])).await;
    let client = cluster
        .node_as(2, with(2, &[stamp(22, 5, 500), stamp(23, 1, 0)]))
        .await;
    server.serve(ECHO, Arc::new(Echo::default()));
    let (at_server, at_client) = (Memory::knowing(&[stamp(22, 4, 400)]), Memory::knowing(&[]));
    server.on_peer(at_server.clone());
    client.on_peer(at_client.clone());
    client
        .call(&peer(1), ECHO, message("x"), SECOND)
        .await
        .unwrap();
    assert_eq!(at_server.knowledge(StoreId(22)), Some(stamp(22, 5, 500)));
    assert_eq!(at_client.knowledge(StoreId(11)), Some(stamp(11, 1, 100)));
    // Each side heard what the other knew of it; what it never met is left out.
    assert_eq!(
        *at_client.judged.lock().unwrap(),
        [(NodeId(1), vec![stamp(22, 4, 400)])]
    );
    assert_eq!(*at_server.judged.lock().unwrap(), [(NodeId(2), vec![])]);
}

/// A connection that lasts tells nothing new; the next one does.
#[tokio::test(start_paused = true)]
async fn a_renewed_connection_shows_the_newest_stamps() {
    let cluster = Cluster::new();
    let with = |position| Identity {
        stores: vec![stamp(22, 5, position)],
        ..member(2)
    };
    let (server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let at_server = Memory::knowing(&[]);
    server.on_peer(at_server.clone());
    let client = cluster.node_as(2, with(500)).await;
    for (position, renewed, known) in [(500, false, 500), (900, false, 500), (900, true, 900)] {
        client.set_identity(with(position));
        if renewed {
            client.renew(&to).await.unwrap();
        } else {
            let options = crate::CallOptions::urgent(SECOND);
            let answer = client.call_with(&to, ECHO, message("x"), options).await;
            assert!(answer.is_ok(), "{answer:?}");
        }
        assert_eq!(
            at_server.knowledge(StoreId(22)),
            Some(stamp(22, 5, known)),
            "shown {position}, renewed: {renewed}"
        );
    }
}

/// Quiet nodes have nothing to call each other for, and tell each other all the same.
#[tokio::test(start_paused = true)]
async fn a_peer_that_is_not_called_is_told_too() {
    let cluster = Cluster::new();
    let (server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let at_server = Memory::knowing(&[]);
    server.on_peer(at_server.clone());
    let client = cluster.node_as(2, member(2)).await;
    for position in [500, 900] {
        client.set_identity(Identity {
            stores: vec![stamp(22, 5, position)],
            ..member(2)
        });
        client.renew(&to).await.unwrap();
        assert_eq!(
            at_server.knowledge(StoreId(22)),
            Some(stamp(22, 5, position))
        );
    }
    let nobody = client.renew(&peer(3)).await;
    assert!(
        matches!(nobody, Err(CallError::Unreachable { .. })),
        "{nobody:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rolled_back_store_learns_of_it_from_whoever_it_calls() {
    let cluster = Cluster::new();
    let (server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    server.on_peer(Memory::knowing(&[stamp(22, 5, 900)]));
    let old_image = Identity {
        stores: vec![stamp(22, 5, 500)],
        ..member(2)
    };
    let client = cluster.node_as(2, old_image).await;
    let observer = Memory::knowing(&[]);
    client.on_peer(observer.clone());
    let outcome = client.call(&to, ECHO, message("x"), SECOND).await;
    assert!(
        matches!(&outcome, Err(CallError::Unreachable { reason, .. })
            if reason.contains("rolled back")),
        "{outcome:?}"
    );
    assert_eq!(
        observer.judged.lock().unwrap()[0],
        (NodeId(1), vec![stamp(22, 5, 900)])
    );
}

#[tokio::test(start_paused = true)]
async fn another_start_of_the_same_count_is_refused_though_it_shows_more() {
    let cluster = Cluster::new();
    let (server, to) = cluster.serving(1, Arc::new(Echo::default())).await;
    let known = stamp(22, 5, 900);
    server.on_peer(Memory::knowing(&[known]));
    let old_image = Identity {
        stores: vec![StoreStamp {
            start_nonce: known.start_nonce + 1,
            reported_durable: 4000,
            ..known
        }],
        ..member(2)
    };
    let client = cluster.node_as(2, old_image).await;
    let observer = Memory::knowing(&[]);
    client.on_peer(observer.clone());
    let outcome = client.call(&to, ECHO, message("x"), SECOND).await;
    assert!(
        matches!(&outcome, Err(CallError::Unreachable { reason, .. })
            if reason.contains("rolled back")),
        "{outcome:?}"
    );
    assert_eq!(observer.judged.lock().unwrap()[0], (NodeId(1), vec![known]));
}

#[tokio::test(start_paused = true)]
async fn a_rolled_back_store_learns_of_it_from_whoever_calls() {
    let cluster = Cluster::new();
    let old_image = Identity {
        stores: vec![stamp(11, 1, 100)],
        ..member(1)
    };
    let server = cluster.node_as(1, old_image).await;
    let echo = Arc::new(Echo::default());
    server.serve(ECHO, echo.clone());
    let observer = Memory::knowing(&[]);
    server.on_peer(observer.clone());
    let client = cluster.node(2).await;
    client.on_peer(Memory::knowing(&[stamp(11, 2, 100)]));
    let outcome = client.call(&peer(1), ECHO, message("x"), SECOND).await;
    assert!(
        matches!(&outcome, Err(CallError::Unreachable { .. })),
        "{outcome:?}"
    );
    cluster.sleep(Duration::from_millis(10)).await;
    assert_eq!(
        observer.judged.lock().unwrap()[0],
        (NodeId(2), vec![stamp(11, 2, 100)])
    );
    assert_eq!(echo.begun(), 0);
}

#[test]
fn an_identity_that_fits_no_handshake_is_refused() {
    let many = Identity {
        stores: vec![stamp(1, 1, 1); 65],
        ..member(1)
    };
    assert!(many.validate().is_err());
    let long = Identity {
        address: "x".repeat(301),
        ..member(1)
    };
    assert!(long.validate().is_err());
    assert!(member(1).validate().is_ok());
}
