//! Clients of the workload `block`: one iSCSI session each, to the node that exports the disk.
//!
//! Several nodes export the same disk; whoever is used attaches it. All clients share one choice of
//! the portal, so that they do not take the disk from one another; failures move it on.

use std::sync::{Arc, Mutex};

use hedgerow_env::{BoxFuture, Env};
use hedgerow_iscsi::initiator::{Command, CommandError, InitiatorConfig, InitiatorSession};
use hedgerow_jepsen::history::Value;
use hedgerow_jepsen::run::workload::block::{BlockPlan, Request, Span, answer, content};
use hedgerow_jepsen::run::{Client, Completion, Operation};

/// Failures at one portal, without a success between them, before all clients move on.
const PATIENCE: u32 = 2;
/// One client in so many does not follow the choice while its session works.
const STAYS_ONE_IN: u64 = 5;
/// Sense keys that say that nothing was done: ILLEGAL REQUEST and UNIT ATTENTION.
const NOTHING_DONE: [u8; 2] = [0x5, 0x6];

/// The choice of a portal that all clients share.
#[derive(Debug)]
pub(crate) struct Portals {
    addresses: Vec<String>,
    state: Mutex<Choice>,
}

#[derive(Debug, Default)]
struct Choice {
    at: usize,
    failures: u32,
    /// Where another client was served since the last change of the choice.
    served: Option<usize>,
}

impl Portals {
    pub(crate) fn new(addresses: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            addresses,
            state: Mutex::default(),
        })
    }

    /// The number of the portal that most clients use.
    pub(crate) fn chosen(&self) -> usize {
        self.state.lock().expect("no panic under this lock").at
    }

    fn succeeded(&self, at: usize) {
        let mut state = self.state.lock().expect("no panic under this lock");
        if state.at == at {
            state.failures = 0;
        } else {
            state.served = Some(at);
        }
    }

    /// Moves on from a portal that fails: to where another client was served, else to the next.
    fn failed(&self, at: usize, weight: u32) {
        let mut state = self.state.lock().expect("no panic under this lock");
        if state.at != at {
            if state.served == Some(at) {
                state.served = None;
            }
            return;
        }
        state.failures += weight;
        if state.failures >= PATIENCE {
            let next = state.served.unwrap_or((at + 1) % self.addresses.len());
            *state = Choice {
                at: next,
                ..Choice::default()
            };
        }
    }
}

/// What the clients of a test have in common.
#[derive(Clone)]
pub struct BlockClients {
    pub(crate) env: Env,
    pub(crate) portals: Arc<Portals>,
    pub(crate) target_name: Arc<str>,
    pub(crate) block_size: u32,
    /// Who keeps to a portal of its own.
    pub(crate) plan: Arc<BlockPlan>,
    pub(crate) wrong_answers: WrongAnswers,
}

/// Answers that no request of the workload may get, whatever strikes: every request is well-formed,
/// and what is stored is on other nodes when one is hurt.
#[derive(Debug, Clone, Default)]
pub(crate) struct WrongAnswers(Arc<Mutex<Vec<String>>>);

/// The first say all that there is to say.
const WRONG_ANSWERS: usize = 4;

impl WrongAnswers {
    fn note(&self, request: Request, error: &CommandError) {
        let mut known = self.0.lock().expect("no panic under this lock");
        if is_wrong(error) && known.len() < WRONG_ANSWERS {
            known.push(format!(
                "a well-formed request got a wrong answer: {request:?}: {error}"
            ));
        }
    }

    pub(crate) fn known(&self) -> Vec<String> {
        self.0.lock().expect("no panic under this lock").clone()
    }
}

/// MEDIUM ERROR and HARDWARE ERROR; CHECK CONDITION without a reason; another status, another length.
fn is_wrong(error: &CommandError) -> bool {
    match error {
        CommandError::Sense { key, .. } => matches!(key, 0x0 | 0x3 | 0x4),
        CommandError::Status { .. } | CommandError::Length => true,
        _ => false,
    }
}

/// One client.
pub(crate) struct BlockClient {
    shared: BlockClients,
    process: u64,
    session: Option<(usize, InitiatorSession)>,
    /// The portal of the call under way: a client that is dropped then has failed there.
    waiting_at: Option<usize>,
}

impl Drop for BlockClient {
    fn drop(&mut self) {
        if let Some(at) = self.waiting_at {
            self.shared.portals.failed(at, 1);
        }
    }
}

impl BlockClient {
    pub(crate) fn new(shared: BlockClients, process: u64) -> Self {
        Self {
            shared,
            process,
            session: None,
            waiting_at: None,
        }
    }

    /// The portal of a client that does not share the others' choice: it waits there for the disk,
    /// and is there when another node gets it.
    fn own_portal(&self) -> Option<usize> {
        let stray = self.shared.plan.stray(self.process)?;
        let count = self.shared.portals.addresses.len() as u64;
        Some(usize::try_from(stray % count).expect("less than the nodes"))
    }

    async fn session(&mut self) -> Result<(usize, InitiatorSession), String> {
        let own = self.own_portal();
        let chosen = own.unwrap_or_else(|| self.shared.portals.chosen());
        // Most follow the choice; the others stay where they are for as long as it works, so that
        // two nodes that both believe to hold the disk are asked at the same time.
        let stays = self.process.is_multiple_of(STAYS_ONE_IN);
        if let Some((at, session)) = &self.session
            && (stays || *at == chosen)
        {
            return Ok((*at, session.clone()));
        }
        self.session = None;
        self.waiting_at = Some(chosen);
        let name = format!("iqn.2026-11.io.hedgerow.jepsen:client-{}", self.process);
        let config = InitiatorConfig {
            digests: self.process % 2 == 1,
            ..InitiatorConfig::new(&name, &self.shared.target_name)
        };
        let address = &self.shared.portals.addresses[chosen];
        let session = InitiatorSession::connect(&self.shared.env, address, config)
            .await
            .map_err(|error| error.to_string())?;
        // Takes the unit attentions of a new session away.
        session
            .geometry()
            .await
            .map_err(|error| error.to_string())?;
        self.session = Some((chosen, session.clone()));
        Ok((chosen, session))
    }

    async fn request(&mut self, request: Request) -> Completion {
        let (at, session) = match self.session().await {
            Ok(session) => session,
            Err(error) => {
                if let Some(at) = self.waiting_at.take() {
                    self.shared.portals.failed(at, PATIENCE);
                }
                return Completion::Fail(format!("no session: {error}"));
            }
        };
        self.waiting_at = Some(at);
        let block_size = self.shared.block_size;
        let result = session.perform(command(request, block_size)).await;
        self.waiting_at = None;
        match result {
            Ok(bytes) => {
                self.shared.portals.succeeded(at);
                Completion::Ok(match request {
                    Request::Read(span) => answer(span, &bytes, block_size),
                    Request::Write(..) | Request::Zero(_) => Value::Nil,
                })
            }
            Err(error) => {
                self.shared.wrong_answers.note(request, &error);
                if error == CommandError::Unknown {
                    self.session = None;
                }
                let weight = if is_elsewhere(&error) { PATIENCE } else { 1 };
                self.shared.portals.failed(at, weight);
                ending(request, &error)
            }
        }
    }
}

/// Whether the node said, after the initiator's own patience, that the disk is not there yet: NOT
/// READY. Another node has it then, and to ask this one again costs as long again.
fn is_elsewhere(error: &CommandError) -> bool {
    matches!(error, CommandError::Sense { key: 0x2, .. })
}

/// What an error says about the request's effect.
fn ending(request: Request, error: &CommandError) -> Completion {
    let text = error.to_string();
    let nothing_done = match error {
        CommandError::Busy | CommandError::ReservationConflict => true,
        CommandError::Sense { key, .. } => NOTHING_DONE.contains(key),
        _ => false,
    };
    // A read that failed says nothing, whatever the reason.
    if nothing_done || matches!(request, Request::Read(_)) {
        Completion::Fail(text)
    } else {
        Completion::Unknown(text)
    }
}

fn command(request: Request, block_size: u32) -> Command {
    let count = |span: Span| u32::try_from(span.count).expect("a request has few blocks");
    match request {
        Request::Read(span) => Command::Read {
            first_block: span.first,
            block_count: count(span),
            block_size_bytes: block_size,
        },
        Request::Write(span, tag) => Command::Write {
            first_block: span.first,
            block_count: count(span),
            data: content(span, tag, block_size),
        },
        // Both ways of zeroing, in turn.
        Request::Zero(span) if span.first % 2 == 0 => Command::WriteZeroes {
            first_block: span.first,
            block_count: count(span),
        },
        Request::Zero(span) => Command::Unmap {
            first_block: span.first,
            block_count: count(span),
        },
    }
}

impl Client for BlockClient {
    fn perform<'a>(&'a mut self, operation: &'a Operation) -> BoxFuture<'a, Completion> {
        Box::pin(async move {
            match Request::of(operation) {
                Some(request) => self.request(request).await,
                None => Completion::Fail("not an operation of a block device".to_owned()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_move_on_to_where_another_is_served() {
        let portals = Portals::new(["a", "b", "c", "d"].map(String::from).to_vec());
        portals.failed(0, 1);
        portals.succeeded(0);
        portals.failed(0, 1);
        assert_eq!(
            portals.chosen(),
            0,
            "patience begins anew with every success"
        );
        portals.failed(0, 1);
        assert_eq!(portals.chosen(), 1, "nobody is served elsewhere: the next");
        portals.succeeded(3);
        portals.failed(1, PATIENCE);
        assert_eq!(portals.chosen(), 3);
        portals.succeeded(0);
        portals.failed(0, PATIENCE);
        portals.failed(3, PATIENCE);
        assert_eq!(
            portals.chosen(),
            0,
            "the next after the last: 0 failed since"
        );
    }
}
