//! The initiators of a run: iSCSI sessions from a machine that no fault stops, to the portal of the
//! node that holds the disk; when the disk moves they follow.
//!
//! Invariants: an operation whose session ended, or whose answer took too long, has an unknown
//! outcome and ends its process; a cancelled write is one whose session was cut. What the target
//! answers is taken at its word: a command that it calls not begun has failed, and must never show.

use std::sync::Arc;
use std::time::Duration;

use hedgerow_env::{Env, event};
use hedgerow_iscsi::initiator::{Command, CommandError, InitiatorConfig, InitiatorSession};
use hedgerow_iscsi::target_name;
use hedgerow_jepsen::check::Outcome;

use crate::world::NodeIndex;

use super::clients::{Agents, DISK, fresh_process, turn};
use super::operations::{ClientId, ClientOperation, Deed};

/// The portal of every node.
pub(super) const PORTAL_PORT: u16 = 3260;
/// A session that is not there by then is tried anew, perhaps elsewhere.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What an initiator waits for an answer before it drops the session.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A logout that is not confirmed by then is none.
const LOG_OUT_LIMIT: Duration = Duration::from_secs(2);
/// Pause before a new session.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs every initiator of the run on their machine.
pub(super) async fn run_initiators(agents: Arc<Agents>, env: Env) {
    let all = (0..agents.initiators()).map(|number| one(&agents, &env, number));
    futures_util::future::join_all(all).await;
    std::future::pending::<()>().await;
}

async fn one(agents: &Arc<Agents>, env: &Env, number: u32) {
    loop {
        let Some(node) = agents.holder() else {
            env.sleep(PAUSE / 4).await;
            continue;
        };
        match log_in(env, node, number).await {
            Some(session) => {
                if work(agents, env, node, number, &session).await {
                    let _told = env.timeout(LOG_OUT_LIMIT, session.log_out()).await;
                }
            }
            None => env.sleep(PAUSE).await,
        }
    }
}

async fn log_in(env: &Env, node: NodeIndex, number: u32) -> Option<InitiatorSession> {
    let target = target_name(DISK).expect("a plain name");
    let name = format!("iqn.2026-11.io.hedgerow.sim:initiator-{number}");
    let config = InitiatorConfig {
        digests: number % 2 == 1,
        ..InitiatorConfig::new(&name, &target)
    };
    let portal = format!("node-{}:{PORTAL_PORT}", node.0);
    let session = match env
        .timeout(
            CONNECT_LIMIT,
            InitiatorSession::connect(env, &portal, config),
        )
        .await
    {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => {
            event!(env, Debug, "initiator", "{portal}: {error}");
            return None;
        }
        Err(_) => return None,
    };
    match env.timeout(ANSWER_LIMIT, session.geometry()).await {
        Ok(Ok(_)) => Some(session),
        _ => None,
    }
}

/// Works until the disk moves, or the session has to be given up: then false.
async fn work(
    agents: &Arc<Agents>,
    env: &Env,
    node: NodeIndex,
    number: u32,
    session: &InitiatorSession,
) -> bool {
    let id = ClientId {
        node,
        client: ClientId::FIRST_INITIATOR + number,
    };
    let may = || agents.holds(node) || agents.haunts(node);
    let process = fresh_process(agents);
    while let Some(operation) = turn(agents, id, may).await {
        agents.operations().performs(&operation);
        if !operate(agents, env, session, &operation, process).await {
            return false;
        }
    }
    true
}

fn command(agents: &Agents, operation: &ClientOperation) -> Command {
    let block_size_bytes = agents.block_bytes();
    let (offset, _) = agents.range(operation);
    let first_block = offset / u64::from(block_size_bytes);
    let block_count = u32::try_from(operation.count).expect("an operation has few blocks");
    match operation.deed {
        Deed::Read => Command::Read {
            first_block,
            block_count,
            block_size_bytes,
        },
        Deed::Zero if operation.number.is_multiple_of(2) => Command::Unmap {
            first_block,
            block_count,
        },
        Deed::Zero => Command::WriteZeroes {
            first_block,
            block_count,
        },
        Deed::Write | Deed::WriteThenCancel { .. } => Command::Write {
            first_block,
            block_count,
            data: agents.contents(operation),
        },
    }
}

/// Whether a target says so that it has not begun the command: NOT READY (but for a lack of room,
/// which may come in the middle), ILLEGAL REQUEST, UNIT ATTENTION.
fn is_not_begun(key: u8, code: u16) -> bool {
    const SPACE_ALLOCATION_IN_PROGRESS: u16 = 0x0414;
    matches!(key, 5 | 6) || key == 2 && code != SPACE_ALLOCATION_IN_PROGRESS
}

/// One operation; false when the session must not go on.
async fn operate(
    agents: &Arc<Agents>,
    env: &Env,
    session: &InitiatorSession,
    operation: &ClientOperation,
    process: u64,
) -> bool {
    let id = agents.begin(process, operation.recorded());
    let limit = match operation.deed {
        Deed::WriteThenCancel { after_us } => Duration::from_micros(after_us),
        _ => ANSWER_LIMIT,
    };
    let answer = env
        .timeout(limit, session.perform(command(agents, operation)))
        .await;
    let (outcome, goes_on) = match answer {
        Ok(Ok(bytes)) if operation.deed == Deed::Read => {
            (Outcome::Ok(Some(agents.tags(env, operation, &bytes))), true)
        }
        Ok(Ok(_)) => (Outcome::Ok(None), true),
        // A read that failed says nothing.
        Ok(Err(_)) if operation.deed == Deed::Read => (Outcome::Fail, false),
        Ok(Err(CommandError::Busy | CommandError::ReservationConflict)) => (Outcome::Fail, true),
        Ok(Err(CommandError::Sense { key, code })) if is_not_begun(key, code) => {
            (Outcome::Fail, false)
        }
        Ok(Err(_)) | Err(_) => (Outcome::Info, false),
    };
    agents.finish(id, outcome);
    goes_on
}
