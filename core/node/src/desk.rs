//! The desk at which operators' requests arrive, from the node's first moment on: as long as the
//! node cannot serve it says what it waits for, to whoever asks and to the log.
//!
//! Invariants: a request that finds no service yet changes nothing, and its answer says so.
//! Does not: answer requests (`admin` does).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, Env, Instant, event};
use hedgerow_net::{Caller, Message, Refusal, RefusalCode, Service};
use hedgerow_protocol::{AdminReply, AdminRequest, decode, encode};
use tokio::sync::oneshot;

use crate::admin::AdminService;

/// A start that takes longer than this is told in the log, and again when it waits for something
/// else.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where operators ask.
pub(crate) struct Desk {
    env: Env,
    /// The node's name.
    name: String,
    state: Mutex<State>,
}

struct State {
    waits_for: Option<String>,
    admin: Option<Arc<AdminService>>,
}

impl Desk {
    pub(crate) fn new(env: Env, name: String, waits_for: &str) -> Self {
        let state = State {
            waits_for: Some(waits_for.to_owned()),
            admin: None,
        };
        Self {
            env,
            name,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Says what the node waits for.
    pub(crate) fn wait_for(&self, reason: &str) {
        self.state().waits_for = Some(reason.to_owned());
    }

    /// From here on `admin` answers.
    pub(crate) fn open(&self, admin: Arc<AdminService>) {
        let mut state = self.state();
        state.waits_for = None;
        state.admin = Some(admin);
    }

    /// What the node waits for, until it serves.
    pub(crate) fn waits_for(&self) -> Option<String> {
        self.state().waits_for.clone()
    }

    /// Warns of what the node waits for, as long as it does.
    pub(crate) async fn warn_while_closed(self: Arc<Self>) {
        let mut told = None;
        loop {
            self.env.sleep(PATIENCE).await;
            let Some(reason) = self.waits_for() else {
                return;
            };
            if told.as_ref() != Some(&reason) {
                event!(self.env, Warn, "node", "{} waits: {reason}", self.name);
                told = Some(reason);
            }
        }
    }

    /// Answers a request, or says why not yet.
    pub(crate) async fn reply(&self, request: AdminRequest) -> AdminReply {
        let admin = self.state().admin.clone();
        match admin {
            Some(admin) => admin.reply(request).await,
            None => {
                let reason = self.waits_for().unwrap_or_else(|| "starting".into());
                AdminReply::TryAgain(format!("node {} does not serve yet: {reason}", self.name))
            }
        }
    }
}

/// The RPC service of the desk.
pub(crate) struct AdminEndpoint(pub(crate) Arc<Desk>);

impl Service for AdminEndpoint {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let desk = Arc::clone(&self.0);
        Box::pin(async move {
            let request = decode::<AdminRequest>(&request.head)
                .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
            let (answer, answered) = oneshot::channel();
            let env = desk.env.clone();
            // In a task of its own: whoever does not wait any more leaves nothing half-way, such as
            // a disk that stays attached.
            env.spawn("admin-request", async move {
                // An operator who went away does not want to know.
                answer.send(desk.reply(request).await).ok();
            });
            let stopping = |_| Refusal::new(RefusalCode::Internal, "the node is stopping");
            let reply = answered.await.map_err(stopping)?;
            Ok(Message::new(encode(&reply), Bytes::new()))
        })
    }

    fn open_to_blank(&self) -> bool {
        true
    }
}
