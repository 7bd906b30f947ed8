//! The connections to peers: one for each (peer, lane), opened when needed.
//!
//! Invariants: one attempt at a time for each peer, whoever waits for it; after a failure calls
//! fail fast until the pause is over; the number of remembered peers is bounded.
//! Does not: retry a call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hedgerow_env::Instant;
use tokio::sync::Notify;

use crate::back_off::BackOff;
use crate::connect;
use crate::link::Link;
use crate::node::Inner;
use crate::outbound::Outbound;
use crate::signal::CloseReason;
use crate::{CallError, Lane, Peer};

/// Peers remembered at once: far beyond the nodes of a cluster, bounded against mistakes.
const MAXIMUM_PEERS: usize = 8192;
/// A call that fails fast takes at least so long: a caller's careless retry loop neither spins nor
/// stops the clock of a simulation.
const FAIL_FAST_PAUSE: Duration = Duration::from_millis(1);

/// Which connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerKey {
    pub(crate) peer: Peer,
    pub(crate) lane: Lane,
}

/// One peer's connection, if any, and when to try again.
pub(crate) struct Entry {
    pub(crate) key: PeerKey,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    back_off: BackOff,
    connecting: bool,
    failure: Option<CallError>,
    open: Option<(Arc<Link>, Arc<Outbound>)>,
}

impl State {
    /// Why no connection is tried at present.
    fn failing(&self, key: &PeerKey) -> CallError {
        self.failure
            .clone()
            .unwrap_or_else(|| CallError::Unreachable {
                address: key.peer.address.clone(),
                reason: "the last connection ended at once".to_owned(),
            })
    }
}

/// The connections to peers.
#[derive(Default)]
pub(crate) struct Pool {
    entries: Mutex<BTreeMap<PeerKey, Arc<Entry>>>,
}

impl Pool {
    fn entry(&self, inner: &Inner, key: &PeerKey) -> Result<Arc<Entry>, CallError> {
        let mut entries = self.entries.lock().expect("no panic under this lock");
        if let Some(entry) = entries.get(key) {
            return Ok(Arc::clone(entry));
        }
        if entries.len() >= MAXIMUM_PEERS {
            entries.retain(|_, entry| entry.is_used());
        }
        if entries.len() >= MAXIMUM_PEERS {
            return Err(CallError::Unreachable {
                address: key.peer.address.clone(),
                reason: format!("{MAXIMUM_PEERS} other peers are connected"),
            });
        }
        let config = &inner.config;
        let entry = Arc::new(Entry {
            key: key.clone(),
            state: Mutex::new(State {
                back_off: BackOff::new(config.back_off_first, config.back_off_limit),
                connecting: false,
                failure: None,
                open: None,
            }),
            changed: Notify::new(),
        });
        entries.insert(key.clone(), Arc::clone(&entry));
        Ok(entry)
    }

    /// Lets every connection end once its calls are done; later calls open new ones.
    pub(crate) fn retire_all(&self) {
        let entries: Vec<_> = {
            let entries = self.entries.lock().expect("no panic under this lock");
            entries.values().cloned().collect()
        };
        for entry in entries {
            let open = entry.state().open.take();
            if let Some((_, outbound)) = open {
                outbound.retire();
            }
        }
    }
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    fn is_used(&self) -> bool {
        let state = self.state();
        state.connecting || state.open.is_some()
    }

    /// Whether the caller shall connect anew now; otherwise another does.
    fn begin_renewal(&self, now: Instant) -> Result<bool, CallError> {
        let mut state = self.state();
        if state.connecting {
            return Ok(false);
        }
        if state.back_off.paused_until(now).is_some() {
            return Err(state.failing(&self.key));
        }
        state.connecting = true;
        Ok(true)
    }
}

/// What a call finds when it looks for its connection.
enum Found {
    Open(Arc<Link>, Arc<Outbound>),
    Failing(CallError),
    Connecting,
    Connect,
}

impl Inner {
    /// The connection of `key`, opened when there is none.
    pub(crate) async fn connection(
        self: &Arc<Self>,
        key: &PeerKey,
    ) -> Result<(Arc<Link>, Arc<Outbound>), CallError> {
        let entry = self.pool.entry(self, key)?;
        loop {
            // Registered before the look, so that a change in between is not missed.
            let changed = entry.changed.notified();
            match self.look(&entry) {
                Found::Open(link, outbound) => return Ok((link, outbound)),
                Found::Failing(error) => {
                    self.env.sleep(FAIL_FAST_PAUSE).await;
                    return Err(error);
                }
                Found::Connect => {
                    // A task of its own: a dropped call does not end the others' attempt.
                    let task = Arc::clone(self).connect(Arc::clone(&entry));
                    self.env.spawn("rpc-connect", task);
                }
                Found::Connecting => {}
            }
            changed.await;
        }
    }

    /// Opens a new connection of `key`, in place of the one there is: that one ends once its calls
    /// are done, or goes on when the new one fails.
    pub(crate) async fn renew(self: &Arc<Self>, key: &PeerKey) -> Result<(), CallError> {
        let entry = self.pool.entry(self, key)?;
        let changed = entry.changed.notified();
        if entry.begin_renewal(self.env.now())? {
            // A task of its own: a dropped renewal does not end the attempt that calls wait for.
            let task = Arc::clone(self).connect(Arc::clone(&entry));
            self.env.spawn("rpc-connect", task);
        }
        changed.await;
        let failure = entry.state().failure.clone();
        failure.map_or(Ok(()), Err)
    }

    fn look(&self, entry: &Entry) -> Found {
        let now = self.env.now();
        let mut state = entry.state();
        if let Some((link, outbound)) = &state.open
            && link.closed.fired().is_none()
            && !outbound.is_retired()
        {
            return Found::Open(Arc::clone(link), Arc::clone(outbound));
        }
        if state.connecting {
            return Found::Connecting;
        }
        if state.back_off.paused_until(now).is_some() {
            return Found::Failing(state.failing(&entry.key));
        }
        state.connecting = true;
        state.open = None;
        Found::Connect
    }

    async fn connect(self: Arc<Self>, entry: Arc<Entry>) {
        let shown = self.identity_changes();
        let result = connect::open(&self, &entry).await;
        if let Ok((_, outbound)) = &result
            && shown != self.identity_changes()
        {
            // It may have shown the identity of before: good for nothing but its end.
            outbound.retire();
        }
        let jitter = self.random_bits();
        {
            let mut state = entry.state();
            state.connecting = false;
            match result {
                Ok(open) => {
                    state.failure = None;
                    if let Some((_, renewed)) = state.open.replace(open) {
                        renewed.retire();
                    }
                }
                Err(error) => {
                    state.failure = Some(error);
                    state.back_off.failed(self.env.now(), jitter);
                }
            }
        }
        entry.changed.notify_waiters();
    }

    /// A connection of `entry` ended; `useful` when it brought an answer.
    pub(crate) fn link_ended(
        &self,
        entry: &Entry,
        link: &Link,
        reason: &CloseReason,
        useful: bool,
    ) {
        let now = self.env.now();
        let jitter = self.random_bits();
        let mut state = entry.state();
        if state
            .open
            .as_ref()
            .is_some_and(|(open, _)| std::ptr::eq(Arc::as_ptr(open), link))
        {
            state.open = None;
        }
        let planned = matches!(
            reason,
            CloseReason::Idle | CloseReason::Retired | CloseReason::Stopped
        );
        if !planned {
            state.failure = Some(CallError::Unreachable {
                address: entry.key.peer.address.clone(),
                reason: format!("the last connection ended: {reason}"),
            });
            state.back_off.ended(link.began, now, useful, jitter);
        }
    }
}
