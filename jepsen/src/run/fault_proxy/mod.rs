//! A TCP proxy that breaks connections on purpose: between the nodes of a cluster there is one for
//! each node, and every byte that another node sends it goes through it.
//!
//! Rules are by directed link. The proxy is told who connects ([`Identify`]); the bytes that the
//! caller sends obey the rules of the link caller-to-node, the answers those of node-to-caller.
//!
//! - *cut*: bytes wait, as they do when packets are dropped, and go on when the link is whole
//!   again;
//! - *delay*, *jitter*: each piece of the stream is late, in order;
//! - *stall*: a piece and all behind it wait, as after a lost packet;
//! - *reset*: the connection ends on both sides;
//! - *corrupt*: one bit of a piece is turned over;
//! - *duplicate*: the caller's bytes go to the node a second time, over a connection of their own
//!   whose answers nobody hears.
//!
//! It runs through `Env` alone. It does not forge packets: a whole connection is its smallest unit
//! of loss, which is what a program above TCP can ever notice.

mod pump;
mod rules;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hedgerow_env::{Env, NetworkError, Random, StreamKind, TaskHandle, event};
use tokio::sync::Notify;

use super::faults::{Link, apart};
use pump::Pipe;

pub use rules::{LinkCounters, LinkRules};

/// Tells which node opened the connection with these two ends (the caller's address, ours).
pub type Identify = Arc<dyn Fn(&str, &str) -> Option<u16> + Send + Sync>;

/// The rules of all links, and what they did. Clones share them.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    rules: BTreeMap<Link, LinkRules>,
    counters: BTreeMap<Link, LinkCounters>,
    random: Random,
}

impl Default for Links {
    fn default() -> Self {
        Self::new(Random::from_seed(0))
    }
}

impl Links {
    /// Whole links; chances are drawn from `random`.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                rules: BTreeMap::new(),
                counters: BTreeMap::new(),
                random,
            }),
            changed: Notify::new(),
        }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.state.lock().expect("no panic under this lock"))
    }

    /// Sets the rules of some links.
    pub fn set(&self, links: &[Link], rules: LinkRules) {
        self.with(|state| {
            for link in links {
                state.rules.insert(*link, rules);
            }
        });
        self.0.changed.notify_waiters();
    }

    /// Cuts every link between nodes that no group holds both of.
    pub fn partition(&self, nodes: u16, groups: &[Vec<u16>]) -> Vec<Link> {
        let apart = apart(nodes, groups);
        self.set(&apart, LinkRules::cut());
        apart
    }

    /// Makes some links whole.
    pub fn heal(&self, links: &[Link]) {
        self.set(links, LinkRules::default());
    }

    /// Makes every link whole.
    pub fn heal_all(&self) {
        self.with(|state| state.rules.clear());
        self.0.changed.notify_waiters();
    }

    /// What the rules of some links have done until now, in all.
    #[must_use]
    pub fn counters(&self, links: &[Link]) -> LinkCounters {
        self.with(|state| {
            let found = links.iter().filter_map(|link| state.counters.get(link));
            found.fold(LinkCounters::default(), |sum, one| sum.plus(one))
        })
    }

    fn rules(&self, link: Link) -> LinkRules {
        self.with(|state| state.rules.get(&link).copied().unwrap_or_default())
    }

    fn count(&self, link: Link, act: impl FnOnce(&mut LinkCounters)) {
        self.with(|state| act(state.counters.entry(link).or_default()));
    }

    /// Draws what happens to the next piece of the stream on `link`.
    fn draw(&self, link: Link) -> rules::Fate {
        self.with(|state| {
            let rules = state.rules.get(&link).copied().unwrap_or_default();
            rules.fate(&mut state.random)
        })
    }

    fn draws(&self, link: Link, ppm: impl FnOnce(&LinkRules) -> u32) -> bool {
        self.with(|state| {
            let rules = state.rules.get(&link).copied().unwrap_or_default();
            state.random.chance(u64::from(ppm(&rules)), 1_000_000)
        })
    }

    /// Returns when `link` is not cut.
    async fn open(&self, link: Link) {
        loop {
            let changed = self.0.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if !self.rules(link).cut {
                return;
            }
            changed.await;
        }
    }
}

/// The proxy before one node.
pub struct FaultProxy {
    address: String,
    task: TaskHandle,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultProxy {
    /// Listens at `listen` and passes connections on to `node` at `address`.
    ///
    /// # Errors
    /// Nobody can listen there.
    pub async fn start(
        env: &Env,
        listen: &str,
        (node, address): (u16, String),
        links: Links,
        identify: Identify,
    ) -> Result<Self, NetworkError> {
        let mut listener = env.network().listen(listen, StreamKind::Rpc).await?;
        let own = listener.local_address();
        let here = own.clone();
        let inner = env.clone();
        let task = env.spawn("fault-proxy", async move {
            loop {
                let stream = match listener.accept().await {
                    Ok(stream) => stream,
                    Err(error) => {
                        event!(inner, Warn, "proxy", "{here}: {error}");
                        inner.sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let Some(from) = identify(&stream.peer_address, &here) else {
                    // It was closed before anybody could look, or is no node's.
                    continue;
                };
                let pipe = Pipe {
                    env: inner.clone(),
                    links: links.clone(),
                    forth: Link { from, to: node },
                    back: Link {
                        from: node,
                        to: from,
                    },
                };
                let address = address.clone();
                inner.spawn(
                    "fault-pipe",
                    async move { pipe.run(stream, &address).await },
                );
            }
        });
        Ok(Self { address: own, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}
