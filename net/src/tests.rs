//! Tests of RPC over a network in memory, on a virtual clock. [`Cluster`] is their one helper.

mod calls;
mod cores;
mod faults;
mod formats;
mod greetings;
mod limits;
mod raw;
mod tcp;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, ClusterId, Env, Instant, NodeId, StoreId};

use crate::testing::MemoryNetwork;
use crate::{
    CallError, Caller, Identity, Message, Peer, PeerObserver, Refusal, RefusalCode, RoleSet, Rpc,
    RpcConfig, Service, ServiceId, StoreStamp,
};

/// Answers what it was asked.
const ECHO: ServiceId = ServiceId(1);
/// Answers who asked.
const WHO: ServiceId = ServiceId(2);
const SECOND: Duration = Duration::from_secs(1);

/// The network of a test and its nodes' numbers.
struct Cluster {
    network: MemoryNetwork,
    env: Env,
    config: RpcConfig,
}

impl Cluster {
    fn new() -> Self {
        let network = MemoryNetwork::default();
        Self {
            env: network.env(),
            network,
            config: RpcConfig::default(),
        }
    }

    /// A node of cluster 7 that listens at `node<number>:1`.
    async fn node(&self, number: u64) -> Rpc {
        self.node_as(number, member(number)).await
    }

    async fn node_as(&self, number: u64, identity: Identity) -> Rpc {
        let listen = format!("node{number}:1");
        let rpc = Rpc::start(self.network.env(), identity, self.config.clone(), &listen).await;
        rpc.unwrap()
    }

    /// A node that serves `service` as [`ECHO`].
    async fn serving(&self, number: u64, service: Arc<dyn Service>) -> (Rpc, Peer) {
        let rpc = self.node(number).await;
        rpc.serve(ECHO, service);
        (rpc, peer(number))
    }

    async fn sleep(&self, duration: Duration) {
        self.env.sleep(duration).await;
    }
}

fn member(number: u64) -> Identity {
    Identity {
        cluster: Some(ClusterId(7)),
        node: NodeId(number),
        stores: Vec::new(),
        roles: RoleSet::PAGES | RoleSet::HBLOCK,
        address: String::new(),
    }
}

fn peer(number: u64) -> Peer {
    Peer::new(format!("node{number}:1"), NodeId(number))
}

fn message(text: &str) -> Message {
    Message::new(
        text.as_bytes().to_vec(),
        format!("payload of {text}").into_bytes(),
    )
}

/// Answers what it was asked, after a while, and counts.
#[derive(Default)]
struct Echo {
    env: Option<Env>,
    delay: Duration,
    begun: AtomicU64,
    finished: Arc<AtomicU64>,
    /// Running now, and the most that ran at once.
    running: Arc<Mutex<(u64, u64)>>,
}

impl Echo {
    fn slow(env: &Env, delay: Duration) -> Arc<Self> {
        Arc::new(Self {
            env: Some(env.clone()),
            delay,
            ..Self::default()
        })
    }

    fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    fn most_at_once(&self) -> u64 {
        self.running.lock().unwrap().1
    }
}

/// Counts a running request until dropped, however it ends.
struct Running(Arc<Mutex<(u64, u64)>>);

impl Running {
    fn enter(counts: &Arc<Mutex<(u64, u64)>>) -> Self {
        let mut both = counts.lock().unwrap();
        both.0 += 1;
        both.1 = both.1.max(both.0);
        Self(Arc::clone(counts))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().unwrap().0 -= 1;
    }
}

impl Service for Echo {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let running = Running::enter(&self.running);
        let finished = Arc::clone(&self.finished);
        let pause = self.env.as_ref().map(|env| env.sleep(self.delay));
        Box::pin(async move {
            let _running = running;
            if let Some(pause) = pause {
                pause.await;
            }
            finished.fetch_add(1, Ordering::Relaxed);
            Ok(request)
        })
    }
}

/// Answers who asked, to blank nodes too when `open`.
struct Who {
    open: bool,
}

impl Service for Who {
    fn call(
        &self,
        caller: Caller,
        _request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let text = format!(
            "{} of {:?} at {}",
            caller.node, caller.cluster, caller.address
        );
        Box::pin(async move { Ok(Message::new(text.into_bytes(), Bytes::new())) })
    }

    fn open_to_blank(&self) -> bool {
        self.open
    }
}

/// Refuses everything.
struct Refuser;

impl Service for Refuser {
    fn call(
        &self,
        _caller: Caller,
        _request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let refusal = Refusal::new(RefusalCode::Overloaded, "the journal is full");
        Box::pin(async move { Err(refusal) })
    }
}
