//! The calling side of one connection.
//!
//! Invariants: an outcome is told once; a request that is dropped before its bytes went out is
//! never sent; a call that ends early says so to the peer, as a hint.
//! Does not: open connections (`pool.rs`) or retry.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BoxFuture, Instant, event};
use tokio::sync::{Semaphore, oneshot};

use crate::frame::{Decoded, Header, Kind, RequestId, body_checksum};
use crate::link::{Handler, Hold, Link, Outgoing};
use crate::multiplexer::{Progress, RequestTable};
use crate::node::Inner;
use crate::pool::Entry;
use crate::signal::CloseReason;
use crate::{CallError, CallOptions, Message, RefusalCode, RpcConfig, ServiceId, refusal};

type Outcome = Result<Message, CallError>;

/// The calling side of one connection.
pub(crate) struct Outbound {
    inner: Weak<Inner>,
    entry: Arc<Entry>,
    requests: Mutex<RequestTable<oneshot::Sender<Outcome>>>,
    slots: Arc<Semaphore>,
    queued_bytes: Arc<Semaphore>,
    /// The largest message that both sides take.
    limit: u64,
    own_limit: u64,
    retired: AtomicBool,
    /// Whether any answer came.
    answered: AtomicBool,
    idle_limit: Duration,
    /// Requests begun when `used_ns` was noted: tells use from idleness without a clock per call.
    seen_begun: AtomicU64,
    used_ns: AtomicU64,
}

impl Outbound {
    pub(crate) fn new(
        inner: &Arc<Inner>,
        entry: Arc<Entry>,
        config: &RpcConfig,
        (peer_limit, peer_serves): (u64, u32),
    ) -> Arc<Self> {
        let permits = |count: u32| {
            Arc::new(Semaphore::new(
                usize::try_from(count).expect("32 bits fit a usize"),
            ))
        };
        Arc::new(Self {
            inner: Arc::downgrade(inner),
            entry,
            requests: Mutex::default(),
            slots: permits(config.outstanding_requests.min(peer_serves)),
            queued_bytes: permits(config.outstanding_bytes),
            limit: config.maximum_message_bytes.min(peer_limit),
            own_limit: config.maximum_message_bytes,
            retired: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            idle_limit: config.idle_limit,
            seen_begun: AtomicU64::new(0),
            used_ns: AtomicU64::new(inner.env.now().as_nanoseconds()),
        })
    }

    /// No new calls; the connection closes once the running ones are done.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Sends one request and waits for its outcome. `ticket` outlives a dropped wait.
    pub(crate) async fn call(
        self: &Arc<Self>,
        link: &Arc<Link>,
        ticket: &mut Ticket,
        (service, request): (ServiceId, Message),
        (options, deadline): (CallOptions, Instant),
    ) -> Outcome {
        let size = request.length();
        if size > self.limit {
            return Err(CallError::TooLarge { limit: self.limit });
        }
        let ended = || self.unreachable("the connection ended before the request was sent");
        let _slot = self.slots.acquire().await.map_err(|_| ended())?;
        let permits = u32::try_from(size).expect("the limit is below 4 GiB");
        let hold = Arc::clone(&self.queued_bytes)
            .acquire_many_owned(permits)
            .await
            .map_err(|_| ended())?;
        let (sender, receiver) = oneshot::channel();
        let id = self.table().begin(sender).map_err(|_| ended())?;
        ticket.begun = Some((Arc::clone(link), Arc::clone(self), id));
        let mut header = Header::bare(Kind::Request, link.agreement.session, id);
        header.service = service;
        header.class = options.class;
        header.tenant = options.tenant;
        let header = header.with_body(&request, body_checksum(&request));
        let hold: Option<Hold> = Some(Box::new(hold));
        let outgoing = Outgoing {
            header,
            message: request,
            deadline: Some(deadline),
            hold,
        };
        // When this fails the link is closed, and its end tells the outcome through the table.
        let _closed = link.send(outgoing).await;
        let outcome = match receiver.await {
            Ok(outcome) => outcome,
            // Only a table that was dropped with its link leaves a waiter without a word.
            Err(_) => Err(self.unknown("the connection ended")),
        };
        ticket.begun = None;
        outcome
    }

    pub(crate) fn unreachable(&self, reason: impl ToString) -> CallError {
        CallError::Unreachable {
            address: self.address(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn unknown(&self, reason: impl ToString) -> CallError {
        CallError::Unknown {
            address: self.address(),
            reason: reason.to_string(),
        }
    }

    fn address(&self) -> String {
        self.entry.key.peer.address.clone()
    }

    fn table(&self) -> MutexGuard<'_, RequestTable<oneshot::Sender<Outcome>>> {
        self.requests.lock().expect("no panic under this lock")
    }

    fn complete(&self, link: &Link, id: RequestId, outcome: Outcome) {
        self.answered.store(true, Ordering::Relaxed);
        let waiter = self.table().complete(id);
        match waiter {
            // A caller that has just gone away misses it; that is its choice.
            Some(waiter) => drop(waiter.send(outcome)),
            None => event!(
                link.env,
                Debug,
                "net",
                "answer to {id:?} is late or came twice"
            ),
        }
    }

    fn refused(&self, message: &Message) -> CallError {
        match refusal::decode(message) {
            Ok((refusal, limit)) => match refusal.code {
                RefusalCode::TooLarge => CallError::TooLarge { limit },
                RefusalCode::Damaged => self.unknown("the request arrived damaged"),
                _ => CallError::Refused(refusal),
            },
            Err(error) => self.unknown(format_args!("refusal does not decode: {error}")),
        }
    }
}

impl Handler for Outbound {
    fn arrived(&self, link: &Arc<Link>, decoded: Decoded) -> Option<BoxFuture<'static, ()>> {
        match decoded {
            Decoded::Frame(header, message) => match header.kind {
                Kind::Response => self.complete(link, header.request, Ok(message)),
                Kind::Refusal => {
                    let refused = Err(self.refused(&message));
                    self.complete(link, header.request, refused);
                }
                _ => link.close(CloseReason::Protocol(
                    "the called side sent a caller's frame",
                )),
            },
            Decoded::Damaged(header) => {
                event!(link.env, Warn, "net", "damaged {:?} dropped", header.kind);
                if matches!(header.kind, Kind::Response | Kind::Refusal) {
                    let outcome = Err(self.unknown("the response arrived damaged"));
                    self.complete(link, header.request, outcome);
                }
            }
            Decoded::Oversized(header) => {
                let limit = self.own_limit;
                event!(
                    link.env,
                    Warn,
                    "net",
                    "{:?} over {limit} bytes dropped",
                    header.kind
                );
                self.complete(link, header.request, Err(CallError::TooLarge { limit }));
            }
        }
        None
    }

    fn sending(&self, request: RequestId) -> bool {
        self.table().sending(request)
    }

    fn ping_every(&self) -> u32 {
        1
    }

    fn round_trip(&self, link: &Link, sample: Duration) {
        if let Some(inner) = self.inner.upgrade() {
            inner.note_latency(&link.agreement.peer.identity, sample);
        }
    }

    fn unneeded(&self, now: Instant) -> Option<CloseReason> {
        let (outstanding, begun) = {
            let table = self.table();
            (table.length(), table.begun())
        };
        if outstanding > 0 || self.seen_begun.swap(begun, Ordering::Relaxed) != begun {
            self.used_ns.store(now.as_nanoseconds(), Ordering::Relaxed);
        }
        if outstanding > 0 {
            return None;
        }
        if self.is_retired() {
            return Some(CloseReason::Retired);
        }
        let used = Instant::from_nanoseconds(self.used_ns.load(Ordering::Relaxed));
        (now.since(used) >= self.idle_limit).then_some(CloseReason::Idle)
    }

    fn closed(&self, link: &Link, reason: &CloseReason) {
        self.slots.close();
        self.queued_bytes.close();
        if let Some(inner) = self.inner.upgrade() {
            let useful = self.answered.load(Ordering::Relaxed);
            inner.link_ended(&self.entry, link, reason, useful);
        }
        let outstanding = self.table().close();
        for (progress, waiter) in outstanding {
            let error = match progress {
                Progress::NotSent => self.unreachable(reason),
                Progress::Sent if active(Mutant::SentCalledUnreachable) => self.unreachable(reason),
                Progress::Sent => self.unknown(reason),
            };
            // A caller that has just gone away misses it; that is its choice.
            drop(waiter.send(Err(error)));
        }
    }
}

/// One call's place in the table of its connection. Dropped early, it gives the place up and tells
/// the peer.
#[derive(Default)]
pub(crate) struct Ticket {
    begun: Option<(Arc<Link>, Arc<Outbound>, RequestId)>,
}

impl Ticket {
    /// Gives the call up. Whether it may have been sent.
    pub(crate) fn abandon(&mut self) -> Progress {
        let Some((link, outbound, id)) = self.begun.take() else {
            return Progress::NotSent;
        };
        let progress = outbound.table().abandon(id);
        match progress {
            Some(Progress::NotSent) => Progress::NotSent,
            Some(Progress::Sent) => {
                link.hint(Kind::Cancel, id);
                Progress::Sent
            }
            // Completed this instant, and the outcome dropped unseen.
            None => Progress::Sent,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.abandon();
    }
}
