//! The network: what Rpc streams may suffer, what Client streams never do, and how connections end.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, NetworkError, Stream, StreamKind, StreamReader};
use hedgerow_sim::world::{
    Crash, FaultAction, FaultNumber, LinkRules, LinkState, MessageFault, MessageId, NodeIndex,
    NodeSpec, NodeStatus, Strike, World,
};

use crate::{check, nodes};

const FRAME: usize = 64;

/// A connection from `a` to `b`.
async fn connected(a: &Env, b: &Env, kind: StreamKind) -> (Stream, Stream) {
    let mut listener = b
        .network()
        .listen("0.0.0.0:7000", kind)
        .await
        .expect("the port is free");
    let opening = a.network().connect("b:7000", kind);
    let (client, server) = futures_util::future::join(opening, listener.accept()).await;
    (client.expect("connects"), server.expect("accepts"))
}

async fn pair(world: &World, kind: StreamKind) -> ([NodeIndex; 2], [Env; 2], Stream, Stream) {
    let indexes: [NodeIndex; 2] = nodes(world);
    let envs = indexes.map(|node| world.start_idle(node));
    let (client, server) = connected(&envs[0], &envs[1], kind).await;
    (indexes, envs, client, server)
}

/// A frame that says which it is, in every byte.
fn frame(number: u8) -> Vec<Bytes> {
    vec![
        Bytes::from(vec![number; 16]),
        Bytes::from(vec![number; FRAME - 16]),
    ]
}

/// Reads whole frames until nothing comes for a second (or the stream ends).
async fn frames(env: &Env, reader: &mut Box<dyn StreamReader>) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Ok(Ok(part)) = env
        .timeout(Duration::from_secs(1), reader.read(4_096))
        .await
    {
        if part.is_empty() {
            break;
        }
        bytes.extend_from_slice(&part);
    }
    assert_eq!(bytes.len() % FRAME, 0, "whole writes only");
    bytes.chunks(FRAME).map(<[u8]>::to_vec).collect()
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.iter().map(|frame| frame[0]).collect()
}

/// Sends frames 0..200 over a link with `rules` and returns what arrives.
fn sent_over(kind: StreamKind, rules: LinkRules) -> Vec<Vec<u8>> {
    check(11, move |world| async move {
        let ([a, b], [_, env], mut client, mut server) = pair(&world, kind).await;
        world.set_link(a, b, rules);
        for number in 0..200 {
            client
                .writer
                .write(frame(number))
                .await
                .expect("the window is wide");
        }
        frames(&env, &mut server.reader).await
    })
}

const WILD: LinkRules = LinkRules {
    state: LinkState::Open,
    loss_ppm: 100_000,
    duplicate_ppm: 100_000,
    duplicate_ns: 0,
    reorder_ppm: 100_000,
    reorder_ns: 5_000_000,
    corrupt_ppm: 100_000,
    delay_ns: 0,
    jitter_ns: 3_000_000,
    bytes_per_second: 10_000_000,
};

#[test]
fn a_plain_link_delivers_everything_in_order() {
    for kind in [StreamKind::Rpc, StreamKind::Client] {
        let arrived = sent_over(kind, LinkRules::default());
        assert_eq!(numbers(&arrived), (0..200).collect::<Vec<u8>>());
    }
}

#[test]
fn a_client_stream_keeps_its_promise_on_the_wildest_link() {
    let arrived = sent_over(StreamKind::Client, WILD);
    assert_eq!(numbers(&arrived), (0..200).collect::<Vec<u8>>());
    assert!(
        arrived
            .iter()
            .all(|frame| frame.iter().all(|byte| *byte == frame[0]))
    );
}

#[test]
fn rpc_writes_are_lost_whole() {
    let arrived = numbers(&sent_over(
        StreamKind::Rpc,
        LinkRules {
            loss_ppm: 100_000,
            ..LinkRules::default()
        },
    ));
    assert!(
        (150..200).contains(&arrived.len()),
        "{} of 200",
        arrived.len()
    );
    assert!(arrived.is_sorted());
}

#[test]
fn rpc_writes_are_doubled() {
    let rules = LinkRules {
        duplicate_ppm: 100_000,
        ..LinkRules::default()
    };
    let arrived = numbers(&sent_over(StreamKind::Rpc, rules));
    assert!(arrived.len() > 205, "{} of 200", arrived.len());
    assert_eq!(arrived.into_iter().collect::<BTreeSet<u8>>().len(), 200);
}

#[test]
fn rpc_writes_overtake_each_other() {
    let rules = LinkRules {
        reorder_ppm: 100_000,
        reorder_ns: 5_000_000,
        ..LinkRules::default()
    };
    let arrived = numbers(&sent_over(StreamKind::Rpc, rules));
    assert_eq!(arrived.len(), 200);
    assert!(!arrived.is_sorted());
}

#[test]
fn one_bit_of_an_rpc_write_flips() {
    let rules = LinkRules {
        corrupt_ppm: 1_000_000,
        ..LinkRules::default()
    };
    for (number, frame) in (0_u8..).zip(sent_over(StreamKind::Rpc, rules)) {
        let wrong: u32 = frame.iter().map(|byte| (byte ^ number).count_ones()).sum();
        assert_eq!(wrong, 1);
    }
}

#[test]
fn strikes_noted_in_one_run_replay_in_another() {
    let run = |rules: LinkRules, script: Vec<Strike>| {
        check(12, move |world| async move {
            let ([a, b], [_, env], mut client, mut server) = pair(&world, StreamKind::Rpc).await;
            world.set_link(a, b, rules);
            script.into_iter().for_each(|strike| world.script(strike));
            for number in 0..200 {
                client
                    .writer
                    .write(frame(number))
                    .await
                    .expect("the window is wide");
            }
            let arrived = frames(&env, &mut server.reader).await;
            (arrived, world.take_strikes(), world.trace_hash())
        })
    };
    let plain = LinkRules {
        jitter_ns: WILD.jitter_ns,
        ..LinkRules::default()
    };
    let wild = LinkRules {
        bytes_per_second: 0,
        ..WILD
    };
    let (by_chance, strikes, hash) = run(wild, Vec::new());
    assert!(strikes.len() > 30);
    let (by_script, replayed, replayed_hash) = run(plain, strikes.clone());
    assert_eq!(by_chance, by_script);
    assert_eq!(strikes, replayed);
    assert_eq!(hash, replayed_hash);
}

#[test]
fn a_single_scripted_message_is_lost() {
    check(13, |world| async move {
        let ([from, to], [_, env], mut client, mut server) = pair(&world, StreamKind::Rpc).await;
        // Number 0 of the link was the opening of the connection.
        world.script(Strike::Message(
            MessageId {
                from,
                to,
                number: 3,
            },
            MessageFault::Lose,
        ));
        for number in 1..=5 {
            client
                .writer
                .write(frame(number))
                .await
                .expect("the window is wide");
        }
        assert_eq!(
            numbers(&frames(&env, &mut server.reader).await),
            [1, 2, 4, 5]
        );
    });
}

#[test]
fn a_one_way_cut_loses_rpc_writes_one_way() {
    check(14, |world| async move {
        let ([a, b], envs, mut client, mut server) = pair(&world, StreamKind::Rpc).await;
        world.set_link_state(a, b, LinkState::Cut);
        client
            .writer
            .write(frame(1))
            .await
            .expect("the sender cannot know");
        server.writer.write(frame(2)).await.expect("open");
        assert_eq!(numbers(&frames(&envs[0], &mut client.reader).await), [2]);
        world.heal_links();
        client.writer.write(frame(3)).await.expect("open again");
        assert_eq!(numbers(&frames(&envs[1], &mut server.reader).await), [3]);
    });
}

#[test]
fn client_bytes_wait_out_a_cut_and_arrive_in_order() {
    check(15, |world| async move {
        let ([a, b], envs, mut client, mut server) = pair(&world, StreamKind::Client).await;
        client.writer.write(frame(0)).await.expect("open");
        world.cut(a, b);
        for number in 1..50 {
            client
                .writer
                .write(frame(number))
                .await
                .expect("the window is wide");
        }
        assert_eq!(
            numbers(&frames(&envs[1], &mut server.reader).await),
            Vec::<u8>::new()
        );
        world.heal_links();
        for number in 50..60 {
            client
                .writer
                .write(frame(number))
                .await
                .expect("open again");
        }
        let arrived = numbers(&frames(&envs[1], &mut server.reader).await);
        assert_eq!(arrived, (0..60).collect::<Vec<u8>>());
    });
}

#[test]
fn a_long_cut_breaks_the_senders_end_and_leaves_the_other_half_open() {
    check(16, |world| async move {
        let ([a, b], envs, mut client, mut server) = pair(&world, StreamKind::Client).await;
        world.cut(a, b);
        client
            .writer
            .write(frame(1))
            .await
            .expect("the window is wide");
        world.sleep(Duration::from_secs(20)).await;
        let error = client.writer.write(frame(2)).await.expect_err("timed out");
        assert!(matches!(error, NetworkError::Closed { .. }));
        assert!(client.reader.read(1).await.is_err());
        world.heal_links();
        let nothing = envs[1]
            .timeout(Duration::from_secs(60), server.reader.read(1))
            .await;
        assert!(nothing.is_err(), "the other end was told nothing");
    });
}

#[test]
fn a_clogged_link_holds_rpc_writes_back() {
    check(17, |world| async move {
        let ([a, b], envs, mut client, mut server) = pair(&world, StreamKind::Rpc).await;
        world.set_link_state(a, b, LinkState::Clogged);
        client
            .writer
            .write(frame(1))
            .await
            .expect("the window is wide");
        assert!(frames(&envs[1], &mut server.reader).await.is_empty());
        world.heal_links();
        assert_eq!(numbers(&frames(&envs[1], &mut server.reader).await), [1]);
    });
}

#[test]
fn a_killed_peer_resets_and_a_dark_one_says_nothing() {
    check(18, |world| async move {
        let ([_, b], [a_env, _], mut client, _server) = pair(&world, StreamKind::Rpc).await;
        world.crash(b, Crash::KILL);
        let end = a_env
            .timeout(Duration::from_secs(1), client.reader.read(1))
            .await;
        assert!(end.expect("a reset comes soon").is_err());
        let refused = a_env.network().connect("b:7000", StreamKind::Rpc).await;
        assert!(matches!(refused, Err(NetworkError::Refused { .. })));

        let b_env = world.restart(b);
        let (mut client, server) = connected(&a_env, &b_env, StreamKind::Rpc).await;
        world.crash(b, Crash::POWER);
        drop(server);
        let end = a_env
            .timeout(Duration::from_secs(5), client.reader.read(1))
            .await;
        assert!(end.is_err(), "a dark machine says nothing");
        let opening = a_env.network().connect("b:7000", StreamKind::Rpc);
        assert!(
            a_env
                .timeout(Duration::from_secs(9), opening)
                .await
                .is_err()
        );

        let _env = world.restart(b);
        client
            .writer
            .write(frame(1))
            .await
            .expect("the sender cannot know");
        let end = a_env
            .timeout(Duration::from_secs(1), client.reader.read(1))
            .await;
        assert!(end.expect("the new life knows no such connection").is_err());
    });
}

#[test]
fn messages_bound_for_a_dead_life_never_reach_the_next_one() {
    check(19, |world| async move {
        let ([a, b], envs, mut client, _server) = pair(&world, StreamKind::Rpc).await;
        world.set_link(
            a,
            b,
            LinkRules {
                delay_ns: 1_000_000_000,
                ..LinkRules::default()
            },
        );
        client.writer.write(frame(1)).await.expect("open");
        world.crash(b, Crash::RESET);
        let env = world.restart(b);
        let mut listener = env
            .network()
            .listen("b:7000", StreamKind::Rpc)
            .await
            .expect("the port is free");
        let stray = envs[0]
            .timeout(Duration::from_secs(5), listener.accept())
            .await;
        assert!(stray.is_err());
        assert!(client.reader.read(1).await.is_err());
    });
}

#[test]
fn the_window_holds_a_sender_back_until_the_reader_reads() {
    check(20, |world| async move {
        let (_, envs, mut client, mut server) = pair(&world, StreamKind::Client).await;
        let megabyte = Bytes::from(vec![7; 1 << 20]);
        client
            .writer
            .write(vec![megabyte.clone()])
            .await
            .expect("the first always passes");
        let second = client.writer.write(vec![megabyte.clone()]);
        assert!(
            envs[0]
                .timeout(Duration::from_secs(5), second)
                .await
                .is_err()
        );
        let mut received = 0;
        while received < 1 << 20 {
            received += server.reader.read(1 << 20).await.expect("open").len();
        }
        let third = client.writer.write(vec![megabyte]);
        assert!(envs[0].timeout(Duration::from_secs(5), third).await.is_ok());
    });
}

#[test]
fn streams_end_in_order_and_ports_are_taken_once() {
    check(21, |world| async move {
        let (_, envs, mut client, mut server) = pair(&world, StreamKind::Client).await;
        client.writer.write(frame(1)).await.expect("open");
        client.writer.shutdown().await.expect("open");
        assert!(client.writer.write(frame(2)).await.is_err());
        assert_eq!(numbers(&frames(&envs[1], &mut server.reader).await), [1]);
        assert!(
            server
                .reader
                .read(10)
                .await
                .expect("an orderly end")
                .is_empty()
        );
        server
            .writer
            .write(frame(3))
            .await
            .expect("the other direction is open");
        assert_eq!(numbers(&frames(&envs[0], &mut client.reader).await), [3]);
        drop(client);
        drop(server);

        let listener = envs[1]
            .network()
            .listen("b:0", StreamKind::Rpc)
            .await
            .expect("free");
        let address = listener.local_address();
        let taken = envs[1].network().listen(&address, StreamKind::Rpc).await;
        assert!(matches!(taken, Err(NetworkError::AddressInUse { .. })));
        drop(listener);
        assert!(
            envs[1]
                .network()
                .listen(&address, StreamKind::Rpc)
                .await
                .is_ok()
        );
        for wrong in ["nobody:1", "b", "b:x", ":7", "b:70000"] {
            let result = envs[0].network().connect(wrong, StreamKind::Rpc).await;
            assert!(
                matches!(result, Err(NetworkError::BadAddress { .. })),
                "{wrong}"
            );
        }
    });
}

#[test]
fn distance_decides_latency() {
    check(22, |world| async move {
        let spec = |name, rack, dc| world.add_node(NodeSpec::new(name, rack, dc));
        spec("near", "r1", "d1");
        let here = spec("here", "r1", "d1");
        spec("other-rack", "r2", "d1");
        spec("other-dc", "r3", "d2");
        let env = world.start_idle(here);
        let mut took = Vec::new();
        for name in ["here", "near", "other-rack", "other-dc"] {
            let target = world.find(name).expect("added above");
            let peer = world
                .env(target)
                .unwrap_or_else(|| world.start_idle(target));
            let _listener = peer.network().listen("0.0.0.0:9", StreamKind::Rpc).await;
            let began = world.now_ns();
            let opened = env
                .network()
                .connect(&format!("{name}:9"), StreamKind::Rpc)
                .await;
            assert!(opened.is_ok());
            took.push(world.now_ns() - began);
        }
        assert!(took.is_sorted(), "{took:?}");
        assert!((16_000..40_000).contains(&took[0]), "{took:?}");
        assert!((4_000_000..5_100_000).contains(&took[3]), "{took:?}");
    });
}

#[test]
fn overlapping_groups_make_a_bridge() {
    check(23, |world| async move {
        let [a, b, c] = nodes(&world);
        world.partition(&[vec![a, b], vec![b, c]]);
        let state = |from, to| world.link(from, to).state;
        assert_eq!(
            [state(a, b), state(b, c), state(c, b)],
            [LinkState::Open; 3]
        );
        assert_eq!([state(a, c), state(c, a)], [LinkState::Cut; 2]);
        world.isolate(b);
        assert_eq!(state(a, b), LinkState::Cut);
        world.heal_links();
        assert_eq!(state(a, c), LinkState::Open);
    });
}

#[test]
fn a_link_opens_when_the_last_that_cut_it_has_ended() {
    check(24, |world| async move {
        let [a, b, c] = nodes(&world);
        let begin = |number, deed| {
            world.apply(&FaultAction::Begin(FaultNumber(number), Box::new(deed)));
        };
        let end = |number| world.apply(&FaultAction::End(FaultNumber(number)));
        let state = |from, to| world.link(from, to).state;
        begin(1, FaultAction::Partition(vec![vec![a], vec![b, c]]));
        begin(2, FaultAction::Partition(vec![vec![a, b], vec![c]]));
        let gray = LinkRules {
            delay_ns: 5,
            ..LinkRules::default()
        };
        begin(3, FaultAction::Link(a, b, gray));
        begin(4, FaultAction::Link(a, b, gray));
        assert_eq!([state(a, b), state(a, c), state(b, c)], [LinkState::Cut; 3]);
        assert!(end(1));
        assert_eq!([state(a, c), state(b, c)], [LinkState::Cut; 2]);
        assert_eq!(world.link(a, b), gray.and(gray));
        assert_eq!(world.link(a, b).delay_ns, 10);
        assert!(end(3) && end(2));
        assert_eq!([state(a, c), state(b, c)], [LinkState::Open; 2]);
        assert_eq!(world.link(a, b), gray);
        world.reset_links();
        assert_eq!(world.link(a, b), LinkRules::default());
    });
}

#[test]
fn a_node_goes_on_when_the_last_pause_has_ended() {
    check(25, |world| async move {
        let [a] = nodes(&world);
        world.start_idle(a);
        for number in [1, 2] {
            let pause = Box::new(FaultAction::Pause(a));
            world.apply(&FaultAction::Begin(FaultNumber(number), pause));
        }
        world.apply(&FaultAction::End(FaultNumber(1)));
        assert_eq!(world.status(a), NodeStatus::Paused);
        world.apply(&FaultAction::End(FaultNumber(2)));
        assert_ne!(world.status(a), NodeStatus::Paused);
    });
}
