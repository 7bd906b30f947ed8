//! What all clones of an [`crate::Rpc`], its links and its tasks share.
//!
//! Invariants: what an observer or a service is told happens outside every lock; each table here is
//! bounded.
//! Does not: open connections (`pool.rs`, `connect.rs`) or speak for the node in public (`rpc.rs`).

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::future::{Either, select};
use hedgerow_env::{Env, Instant, Listener, NodeId, Random, StoreId, Stream, event};
use tokio::sync::{Notify, Semaphore};

use crate::hello::Verdict;
use crate::inbound::Inbound;
use crate::keep_alive::Smoothed;
use crate::link::Link;
use crate::multiplexer::Progress;
use crate::outbound::Ticket;
use crate::pool::{PeerKey, Pool};
use crate::signal::{CloseReason, Signal};
use crate::{
    CallError, CallOptions, Caller, Identity, Message, Peer, PeerObserver, Refusal, RefusalCode,
    RpcConfig, Service, ServiceId, StoreStamp, connect,
};

/// Nodes whose latency is remembered; the oldest numbers give way. Beyond any cluster's size.
const MAXIMUM_LATENCIES: usize = 8192;
/// No call waits longer, and no request is served longer: clocks need not reach further.
pub(crate) const MAXIMUM_TIMEOUT: Duration = Duration::from_secs(3600);
/// Connections beyond the limit that are told so at the same time; others are just dropped.
const REFUSED_AT_ONCE: usize = 64;
/// After an error of the listener (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all clones, links and tasks share.
pub(crate) struct Inner {
    pub(crate) env: Env,
    pub(crate) config: RpcConfig,
    pub(crate) pool: Pool,
    pub(crate) stopped: Signal,
    identity: Mutex<Arc<Identity>>,
    identity_changes: AtomicU64,
    services: Mutex<BTreeMap<ServiceId, Arc<dyn Service>>>,
    observer: Mutex<Option<Arc<dyn PeerObserver>>>,
    latencies: Mutex<BTreeMap<NodeId, (String, Smoothed)>>,
    links: Mutex<Links>,
    random: Mutex<Random>,
    local_address: String,
    local_slots: Semaphore,
    /// Requests of others that are being served, and who waits for their end.
    serving: Arc<(AtomicU64, Notify)>,
}

/// Every open link, in the order of opening.
#[derive(Default)]
struct Links {
    next: u64,
    open: BTreeMap<u64, Weak<Link>>,
}

/// The accepted connections: those that are served, and those that are told why they are not.
struct Accepted {
    served: Arc<Semaphore>,
    refused: Semaphore,
}

/// Counts one request that is being served.
pub(crate) struct Serving(Arc<(AtomicU64, Notify)>);

impl Drop for Serving {
    fn drop(&mut self) {
        if self.0.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.1.notify_waiters();
        }
    }
}

/// Empties the node's tables when the task that accepts connections is dropped before it has ended, as
/// a simulated crash drops it: services hold what calls others, and so the node itself, in a circle.
struct Accepting {
    inner: Arc<Inner>,
    ended: bool,
}

impl Drop for Accepting {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let services = std::mem::take(&mut *locked(&self.inner.services));
        let observer = locked(&self.inner.observer).take();
        drop((services, observer));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under this lock")
}

impl Inner {
    pub(crate) fn new(
        env: Env,
        identity: Identity,
        config: RpcConfig,
        local_address: String,
    ) -> Arc<Self> {
        let slots = usize::try_from(config.served_requests).expect("32 bits fit a usize");
        Arc::new(Self {
            random: Mutex::new(env.random("net/rpc")),
            env,
            config,
            pool: Pool::default(),
            stopped: Signal::default(),
            identity: Mutex::new(Arc::new(identity)),
            identity_changes: AtomicU64::new(0),
            services: Mutex::default(),
            observer: Mutex::default(),
            latencies: Mutex::default(),
            links: Mutex::default(),
            local_address,
            local_slots: Semaphore::new(slots),
            serving: Arc::default(),
        })
    }

    pub(crate) fn local_address(&self) -> &str {
        &self.local_address
    }

    pub(crate) fn set_identity(&self, mut identity: Identity) {
        let own = {
            let mut own = locked(&self.identity);
            if identity.address.is_empty() {
                identity.address.clone_from(&own.address);
            }
            identity
                .validate()
                .expect("the node's own identity fits a handshake");
            if own.is_same_but_for_stamps(&identity) {
                *own = Arc::new(identity);
                return;
            }
            *own = Arc::new(identity);
            self.identity_changes.fetch_add(1, Ordering::AcqRel);
            Arc::clone(&own)
        };
        self.pool.retire_all();
        for link in self.open_links() {
            let theirs = link.agreement.peer.identity.cluster;
            if theirs.is_some() && own.cluster.is_some() && theirs != own.cluster {
                // Agreed on while this node was blank; now the handshake would refuse it.
                link.close(CloseReason::Retired);
            }
        }
    }

    pub(crate) fn serve(&self, id: ServiceId, service: Arc<dyn Service>) {
        locked(&self.services).insert(id, service);
    }

    pub(crate) fn observe(&self, observer: Arc<dyn PeerObserver>) {
        *locked(&self.observer) = Some(observer);
    }

    pub(crate) fn latency(&self, node: NodeId) -> Option<Duration> {
        locked(&self.latencies)
            .get(&node)
            .and_then(|(_, smoothed)| smoothed.value())
    }

    pub(crate) fn latency_of_address(&self, address: &str) -> Option<Duration> {
        let latencies = locked(&self.latencies);
        let found = latencies
            .values()
            .find(|(advertised, _)| advertised == address);
        found.and_then(|(_, smoothed)| smoothed.value())
    }

    /// Nothing new is served or called from here on.
    pub(crate) fn stop(&self) {
        self.stopped.fire(CloseReason::Stopped);
    }

    /// Lets running requests finish and closes every connection.
    pub(crate) async fn wind_down(&self) {
        if self
            .env
            .timeout(self.config.drain_limit, self.drained())
            .await
            .is_err()
        {
            event!(
                self.env,
                Info,
                "net",
                "stopping while requests are being served"
            );
        }
        for link in self.open_links() {
            link.close(CloseReason::Stopped);
        }
    }

    fn open_links(&self) -> Vec<Arc<Link>> {
        locked(&self.links)
            .open
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&locked(&self.identity))
    }

    /// Grows with each change that peers must see.
    pub(crate) fn identity_changes(&self) -> u64 {
        self.identity_changes.load(Ordering::Acquire)
    }

    pub(crate) fn random_bits(&self) -> u64 {
        locked(&self.random).bits()
    }

    fn observer(&self) -> Option<Arc<dyn PeerObserver>> {
        locked(&self.observer).clone()
    }

    pub(crate) fn knowledge(&self, store: StoreId) -> Option<StoreStamp> {
        self.observer()?.knowledge(store)
    }

    /// Passes on where a peer of this cluster listens, unless the `verdict` on it is that it is not to
    /// be talked to: an old image of a store may run beside the store itself.
    pub(crate) fn tell_met(&self, peer: &Identity, verdict: Verdict) {
        let ours = self.identity().cluster;
        let is_sound = matches!(verdict, Verdict::Accepted | Verdict::WrongNode);
        if let Some(observer) = self.observer()
            && is_sound
            && ours.is_some()
            && ours == peer.cluster
        {
            observer.met(peer.node, &peer.address);
        }
    }

    pub(crate) fn tell_learned(&self, peer: &Identity) {
        if let Some(observer) = self.observer()
            && !peer.stores.is_empty()
        {
            observer.learned(peer.node, &peer.stores);
        }
    }

    /// Passes on what a peer knows of our stores; of others it must not speak.
    pub(crate) fn tell_judged(&self, by: NodeId, known: &[StoreStamp]) {
        let own = self.identity();
        let is_own = |stamp: &&StoreStamp| own.stores.iter().any(|own| own.store == stamp.store);
        let known: Vec<StoreStamp> = known.iter().filter(is_own).copied().collect();
        if let Some(observer) = self.observer()
            && !own.stores.is_empty()
        {
            observer.judged(by, &known);
        }
    }

    pub(crate) fn note_latency(&self, peer: &Identity, sample: Duration) {
        let mut latencies = locked(&self.latencies);
        if latencies.len() >= MAXIMUM_LATENCIES && !latencies.contains_key(&peer.node) {
            latencies.pop_first();
        }
        let (address, smoothed) = latencies.entry(peer.node).or_default();
        if *address != peer.address {
            address.clone_from(&peer.address);
        }
        smoothed.sample(sample);
    }

    pub(crate) fn service(&self, id: ServiceId) -> Result<Arc<dyn Service>, Refusal> {
        if self.stopped.fired().is_some() {
            return Err(Refusal::new(RefusalCode::Stopping, "this node is stopping"));
        }
        let found = locked(&self.services).get(&id).cloned();
        found.ok_or_else(|| Refusal::new(RefusalCode::NotHere, format!("no {id} here")))
    }

    pub(crate) fn serving(&self) -> Serving {
        self.serving.0.fetch_add(1, Ordering::AcqRel);
        Serving(Arc::clone(&self.serving))
    }

    async fn drained(&self) {
        loop {
            // Registered before the look, so that the last end in between is not missed.
            let ended = self.serving.1.notified();
            if self.serving.0.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// A link was opened: `shutdown` must find it.
    pub(crate) fn opened(&self, link: &Arc<Link>) {
        let mut links = locked(&self.links);
        links.open.retain(|_, link| link.strong_count() > 0);
        let number = links.next;
        links.next += 1;
        links.open.insert(number, Arc::downgrade(link));
        drop(links);
        if self.stopped.fired().is_some() {
            link.close(CloseReason::Stopped);
        }
    }

    /// Accepts streams until the node stops.
    pub(crate) async fn accept(self: Arc<Self>, mut listener: Box<dyn Listener>) {
        let limit = usize::try_from(self.config.accepted_connections).unwrap_or(usize::MAX);
        let connections = Arc::new(Accepted {
            served: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            refused: Semaphore::new(REFUSED_AT_ONCE),
        });
        let mut accepting = Accepting {
            inner: Arc::clone(&self),
            ended: false,
        };
        let mut stopped = pin!(self.stopped.wait());
        loop {
            let accepted = match select(stopped.as_mut(), listener.accept()).await {
                Either::Left(_) => {
                    accepting.ended = true;
                    return;
                }
                Either::Right((accepted, _)) => accepted,
            };
            match accepted {
                Ok(stream) => {
                    let inner = Arc::clone(&self);
                    let connections = Arc::clone(&connections);
                    self.env
                        .spawn("rpc-welcome", inner.admit(stream, connections));
                }
                Err(error) => {
                    event!(self.env, Warn, "net", "cannot accept: {error}");
                    self.env.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(self: Arc<Self>, stream: Stream, connections: Arc<Accepted>) {
        let room = Arc::clone(&connections.served).try_acquire_owned().ok();
        let _refused = if room.is_none() {
            let Ok(refused) = connections.refused.try_acquire() else {
                event!(self.env, Warn, "net", "no time for {}", stream.peer_address);
                return;
            };
            Some(refused)
        } else {
            None
        };
        let welcome = connect::welcome(&self, stream, room.is_some()).await;
        let (Some((agreement, stream, decoder)), Some(connection)) = (welcome, room) else {
            return;
        };
        let handler = Arc::new(Inbound::new(&self, connection));
        let queue = self.config.served_requests;
        let stream = (stream, decoder);
        let link = Link::start(&self.env, &self.config, agreement, stream, queue, handler);
        self.opened(&link);
    }

    /// One call: to this node in place, to others over their connection.
    pub(crate) async fn call(
        self: Arc<Self>,
        peer: Peer,
        service: ServiceId,
        request: Message,
        options: CallOptions,
    ) -> Result<Message, CallError> {
        let address = peer.address.clone();
        let limit = self.config.maximum_message_bytes;
        if request.length() > limit {
            return Err(CallError::TooLarge { limit });
        }
        if self.stopped.fired().is_some() {
            let reason = "this node is stopping".to_owned();
            return Err(CallError::Unreachable { address, reason });
        }
        let deadline = self.env.now() + options.timeout.min(MAXIMUM_TIMEOUT);
        let own = self.identity();
        if self.is_own(&own, &peer) {
            return self
                .call_own(&own, &peer, (service, request), (options, deadline))
                .await;
        }
        let mut ticket = Ticket::default();
        let call = async {
            let key = PeerKey {
                peer,
                lane: options.lane,
            };
            let (link, outbound) = self.connection(&key).await?;
            outbound
                .call(&link, &mut ticket, (service, request), (options, deadline))
                .await
        };
        match self.env.deadline(deadline, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(timed_out(address, ticket.abandon())),
        }
    }

    fn is_own(&self, own: &Identity, peer: &Peer) -> bool {
        let listens = !self.local_address.is_empty();
        let here = peer.address == own.address || peer.address == self.local_address;
        listens && (here || peer.node == Some(own.node))
    }

    /// Calls a service of this node, in place.
    async fn call_own(
        &self,
        own: &Identity,
        peer: &Peer,
        (service, request): (ServiceId, Message),
        (options, deadline): (CallOptions, Instant),
    ) -> Result<Message, CallError> {
        let address = peer.address.clone();
        if let Some(expected) = peer.node
            && expected != own.node
        {
            let reason = format!("this is node {}, not {expected}", own.node);
            let (node, cluster) = (own.node, own.cluster);
            return Err(CallError::Foreign {
                address,
                node,
                cluster,
                reason,
            });
        }
        let found = self.service(service)?;
        let mut caller = Caller::of(own);
        caller.tenant = options.tenant;
        caller.class = options.class;
        let mut progress = Progress::NotSent;
        let call = async {
            let Ok(_slot) = self.local_slots.acquire().await else {
                return Err(Refusal::new(RefusalCode::Stopping, "this node is stopping"));
            };
            progress = Progress::Sent;
            found.call(caller, request, deadline).await
        };
        let response = match self.env.deadline(deadline, call).await {
            Ok(response) => response?,
            Err(_) => return Err(timed_out(address, progress)),
        };
        let limit = self.config.maximum_message_bytes;
        if response.length() > limit {
            return Err(CallError::TooLarge { limit });
        }
        Ok(response)
    }
}

fn timed_out(address: String, progress: Progress) -> CallError {
    match progress {
        Progress::NotSent => CallError::Unreachable {
            address,
            reason: "the deadline passed before the request was sent".to_owned(),
        },
        Progress::Sent => CallError::Unknown {
            address,
            reason: "the deadline passed".to_owned(),
        },
    }
}
