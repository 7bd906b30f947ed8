//! The same RPC over real sockets on the loopback.

use futures_util::future::join_all;
use hedgerow_env::{EnvParts, Network, StreamKind};

use super::*;
use crate::tcp::TcpNetwork;
use crate::testing::TestParts;

/// An [`Env`] on real sockets and real time.
fn real_env() -> Env {
    let network: Arc<dyn Network> = Arc::new(TcpNetwork::new(tokio::runtime::Handle::current()));
    let parts: EnvParts = TestParts::with_network(network);
    Env::new(parts)
}

#[tokio::test]
async fn calls_cross_the_loopback_small_and_large() {
    let server = Rpc::start(real_env(), member(1), RpcConfig::default(), "127.0.0.1:0").await;
    let server = server.unwrap();
    server.serve(ECHO, Arc::new(Echo::default()));
    let client = Rpc::start_client(real_env(), member(2), RpcConfig::default()).unwrap();
    let to = Peer::new(server.local_address(), NodeId(1));
    let mut bulk = vec![0; 3 << 20];
    assert_eq!(
        server.identity().address,
        server.local_address(),
        "advertised as listened at"
    );
    real_env().random("bulk").fill(&mut bulk);
    let calls = (0..50).map(|number| {
        let asked = if number % 10 == 0 {
            Message::new(format!("bulk {number}"), bulk.clone())
        } else {
            message(&format!("small {number}"))
        };
        let call = client.call(&to, ECHO, asked.clone(), 20 * SECOND);
        async move { assert_eq!(call.await, Ok(asked)) }
    });
    join_all(calls).await;
    client.shutdown().await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_taken_a_dead_and_a_wrong_address_are_told_apart() {
    let env = real_env();
    let network = env.network();
    let listener = network
        .listen("127.0.0.1:0", StreamKind::Rpc)
        .await
        .unwrap();
    let address = listener.local_address();
    let taken = network.listen(&address, StreamKind::Rpc).await.err();
    let in_use = hedgerow_env::NetworkError::AddressInUse {
        address: address.clone(),
    };
    assert_eq!(taken, Some(in_use));
    drop(listener);
    let dead = network.connect(&address, StreamKind::Rpc).await.err();
    assert_eq!(dead, Some(hedgerow_env::NetworkError::Refused { address }));
    let wrong = network.connect("no port here", StreamKind::Rpc).await.err();
    let is_wrong = matches!(wrong, Some(hedgerow_env::NetworkError::BadAddress { .. }));
    assert!(is_wrong, "{wrong:?}");
}

#[tokio::test]
async fn a_stream_ends_in_order_and_every_byte_arrives() {
    let env = real_env();
    let network = env.network();
    let mut listener = network
        .listen("127.0.0.1:0", StreamKind::Client)
        .await
        .unwrap();
    let address = listener.local_address();
    let mut calling = network.connect(&address, StreamKind::Client).await.unwrap();
    let mut called = listener.accept().await.unwrap();
    assert_eq!(calling.local_address, called.peer_address);
    // More parts than one system call takes, some of them empty, more bytes than a socket buffers.
    let parts: Vec<Bytes> = (0..200_u8)
        .map(|part| Bytes::from(vec![part; usize::from(part) * 100]))
        .collect();
    let expected = parts.concat();
    let sending = async {
        calling.writer.write(parts).await.unwrap();
        calling.writer.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut received = Vec::new();
        loop {
            let bytes = called.reader.read(10_000).await.unwrap();
            if bytes.is_empty() {
                return received;
            }
            assert!(bytes.len() <= 10_000);
            received.extend_from_slice(&bytes);
        }
    };
    let ((), received) = futures_util::future::join(sending, receiving).await;
    assert!(received == expected);
}
