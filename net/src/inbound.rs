//! The serving side of one connection.
//!
//! Invariants: at most the configured requests and bytes are served at once, beyond that the
//! connection is not read; nothing runs past its deadline; a request that runs already is not
//! started a second time.
//! Does not: remember what has run: a late copy of a request runs again.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hedgerow_env::{BoxFuture, Instant, TaskHandle, event};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::frame::{Decoded, Header, Kind, body_checksum};
use crate::hello::HelloConfirm;
use crate::link::{Handler, Link, Outgoing};
use crate::multiplexer::ServeTable;
use crate::node::{Inner, MAXIMUM_TIMEOUT, Serving};
use crate::signal::CloseReason;
use crate::{Caller, Message, Refusal, RefusalCode, refusal};

/// The side that was called pings once in so many intervals (or twice within the other side's
/// time-out, if that is more often), to know how far away a peer is that it does not call itself. The caller's pings already show it that the caller lives, and a node has
/// many connections that are idle.
const PING_INTERVALS: u32 = 4;

/// What a request holds while it is served, until its answer is written.
struct Permits {
    _slot: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
    _serving: Serving,
}

/// The serving side of one connection.
pub(crate) struct Inbound {
    inner: Arc<Inner>,
    running: Arc<Mutex<ServeTable<TaskHandle>>>,
    slots: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// One of the accepted connections.
    _connection: OwnedSemaphorePermit,
}

impl Inbound {
    pub(crate) fn new(inner: &Arc<Inner>, connection: OwnedSemaphorePermit) -> Self {
        let permits = |count: u32| {
            Arc::new(Semaphore::new(
                usize::try_from(count).expect("32 bits fit a usize"),
            ))
        };
        Self {
            inner: Arc::clone(inner),
            running: Arc::default(),
            slots: permits(inner.config.served_requests),
            bytes: permits(inner.config.served_bytes),
            _connection: connection,
        }
    }

    fn request(
        &self,
        link: &Arc<Link>,
        header: Header,
        message: Message,
    ) -> Option<BoxFuture<'static, ()>> {
        let deadline =
            link.env.now() + Duration::from_micros(header.remaining_us).min(MAXIMUM_TIMEOUT);
        let size = u32::try_from(message.length()).expect("the limit is below 4 GiB");
        let job = Job {
            inner: Arc::clone(&self.inner),
            link: Arc::clone(link),
            running: Arc::clone(&self.running),
            header,
            deadline,
        };
        let serving = self.inner.serving();
        let permits = move |slot, bytes| Permits {
            _slot: slot,
            _bytes: bytes,
            _serving: serving,
        };
        let (slots, bytes) = (Arc::clone(&self.slots), Arc::clone(&self.bytes));
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned()
            && let Ok(bytes) = Arc::clone(&bytes).try_acquire_many_owned(size)
        {
            job.start(message, permits(slot, bytes));
            return None;
        }
        Some(Box::pin(async move {
            // Neither is ever closed; an error could only mean the end of the connection.
            if let Ok(slot) = slots.acquire_owned().await
                && let Ok(bytes) = bytes.acquire_many_owned(size).await
            {
                job.start(message, permits(slot, bytes));
            }
        }))
    }

    fn refuse(&self, link: &Link, header: Header, refusal: &Refusal) {
        let limit = self.inner.config.maximum_message_bytes;
        link.hint_with(refusal_frame(link, header, refusal, limit));
    }

    fn confirmed(&self, link: &Link, message: &Message) {
        match HelloConfirm::decode(&message.head) {
            Ok(confirm) => {
                let peer = &link.agreement.peer.identity;
                self.inner.tell_judged(peer.node, &confirm.judgement.known);
                if !confirm.judgement.text.is_empty() {
                    event!(
                        link.env,
                        Warn,
                        "net",
                        "{} refused the connection: {}",
                        peer.node,
                        confirm.judgement.text
                    );
                }
            }
            Err(error) => event!(
                link.env,
                Warn,
                "net",
                "confirmation does not decode: {error}"
            ),
        }
    }

    fn table(&self) -> MutexGuard<'_, ServeTable<TaskHandle>> {
        self.running.lock().expect("no panic under this lock")
    }
}

impl Handler for Inbound {
    fn arrived(&self, link: &Arc<Link>, decoded: Decoded) -> Option<BoxFuture<'static, ()>> {
        match decoded {
            Decoded::Frame(header, message) => match header.kind {
                Kind::Request => return self.request(link, header, message),
                Kind::Cancel => {
                    let stop = self.table().cancel(header.request);
                    if let Some(stop) = stop {
                        stop.abort();
                    }
                }
                Kind::HelloConfirm => self.confirmed(link, &message),
                _ => link.close(CloseReason::Protocol(
                    "the caller sent a called side's frame",
                )),
            },
            Decoded::Damaged(header) => {
                event!(link.env, Warn, "net", "damaged {:?} dropped", header.kind);
                if header.kind == Kind::Request {
                    let refusal = Refusal::new(RefusalCode::Damaged, "body checksum");
                    self.refuse(link, header, &refusal);
                }
            }
            Decoded::Oversized(header) => {
                let limit = self.inner.config.maximum_message_bytes;
                event!(
                    link.env,
                    Warn,
                    "net",
                    "{:?} over {limit} bytes dropped",
                    header.kind
                );
                if header.kind == Kind::Request {
                    let text = format!("{} bytes where {limit} is the limit", header.body_bytes());
                    self.refuse(link, header, &Refusal::new(RefusalCode::TooLarge, text));
                }
            }
        }
        None
    }

    fn sending(&self, _: crate::frame::RequestId) -> bool {
        false
    }

    fn ping_every(&self) -> u32 {
        PING_INTERVALS
    }

    fn round_trip(&self, link: &Link, sample: Duration) {
        self.inner
            .note_latency(&link.agreement.peer.identity, sample);
    }

    fn unneeded(&self, _: Instant) -> Option<CloseReason> {
        None
    }

    fn closed(&self, _: &Link, _: &CloseReason) {
        let running = self.table().close();
        for stop in running {
            stop.abort();
        }
    }
}

/// One request on its way through a service.
struct Job {
    inner: Arc<Inner>,
    link: Arc<Link>,
    running: Arc<Mutex<ServeTable<TaskHandle>>>,
    header: Header,
    deadline: Instant,
}

impl Job {
    fn start(self, message: Message, permits: Permits) {
        let env = self.link.env.clone();
        if env.now() >= self.deadline {
            event!(env, Debug, "net", "{:?} came too late", self.header.request);
            return;
        }
        let (id, running) = (self.header.request, Arc::clone(&self.running));
        let table = || running.lock().expect("no panic under this lock");
        if !table().admit(id) {
            event!(env, Debug, "net", "{id:?} runs already");
            return;
        }
        let task = env.spawn("rpc-request", self.run(message, permits));
        let attached = table().attach(id, task);
        if let Err(stop) = attached {
            // Ended by itself, or cancelled meanwhile; harmless in the first case.
            stop.abort();
        }
    }

    async fn run(self, message: Message, permits: Permits) {
        let env = &self.link.env;
        let result = match self.service() {
            Ok((service, caller)) => {
                let call = service.call(caller, message, self.deadline);
                match env.deadline(self.deadline, call).await {
                    Ok(result) => result,
                    // The caller has stopped waiting by its own clock, or soon will.
                    Err(_) => return self.finish(),
                }
            }
            Err(refusal) => Err(refusal),
        };
        let mut outgoing = self.answer(result);
        outgoing.hold = Some(Box::new(permits));
        // From here on a cancel has nothing left to stop, and a closed link nobody to tell.
        self.finish();
        let _closed = self.link.send(outgoing).await;
    }

    fn finish(&self) {
        self.running
            .lock()
            .expect("no panic under this lock")
            .finish(self.header.request);
    }

    fn service(&self) -> Result<(Arc<dyn crate::Service>, Caller), Refusal> {
        let mut caller = Caller::of(&self.link.agreement.peer.identity);
        caller.tenant = self.header.tenant;
        caller.class = self.header.class;
        let service = self.inner.service(self.header.service)?;
        if caller.cluster.is_none() && !service.open_to_blank() {
            return Err(Refusal::new(
                RefusalCode::NotMember,
                format!("{} is for members of the cluster", self.header.service),
            ));
        }
        Ok((service, caller))
    }

    fn answer(&self, result: Result<Message, Refusal>) -> Outgoing {
        let link = &self.link;
        let limit = self
            .inner
            .config
            .maximum_message_bytes
            .min(link.agreement.peer.maximum_message_bytes);
        match result {
            Ok(message) if message.length() <= limit => {
                let session = link.agreement.session;
                let header = Header::bare(Kind::Response, session, self.header.request);
                let header = header.with_body(&message, body_checksum(&message));
                Outgoing {
                    header,
                    message,
                    deadline: None,
                    hold: None,
                }
            }
            Ok(message) => {
                let text = format!("response of {} bytes", message.length());
                let refusal = Refusal::new(RefusalCode::TooLarge, text);
                refusal_frame(link, self.header, &refusal, limit)
            }
            Err(refusal) => refusal_frame(link, self.header, &refusal, limit),
        }
    }
}

fn refusal_frame(link: &Link, request: Header, refusal: &Refusal, limit: u64) -> Outgoing {
    let message = refusal::encode(refusal, limit);
    let header = Header::bare(Kind::Refusal, link.agreement.session, request.request);
    let header = header.with_body(&message, body_checksum(&message));
    Outgoing {
        header,
        message,
        deadline: None,
        hold: None,
    }
}
