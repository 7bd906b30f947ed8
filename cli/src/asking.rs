//! Asks the cluster: one node after the other until one has an answer.
//!
//! Invariants: a time-out is never read as "did not happen": after one, a request that changes
//! something ends as done, or with its outcome unknown, whatever other nodes say; a node that is at
//! work on the request is asked on, and no other one beside it.
//! Does not: draw up requests. A request that changes something has to be harmless when repeated.

use hedgerow_env::Env;
use hedgerow_net::admin::{self, AskError};
use hedgerow_net::{CallError, RefusalCode};
use hedgerow_protocol::{AdminReply, AdminRequest};

use crate::client::ClientOptions;
use crate::failure::Failure;
use crate::{dev, progress};

/// What one node told.
#[derive(Debug)]
enum Told {
    Answer(AdminReply),
    /// It did not get the request.
    NotSent(String),
    /// It may have got it.
    Unknown(String),
}

impl Told {
    fn of(result: Result<AdminReply, AskError>) -> Self {
        let error = match result {
            Ok(reply) => return Self::Answer(reply),
            Err(error) => error,
        };
        let text = error.to_string();
        match error {
            AskError::Call(CallError::Refused(refusal))
                if refusal.code == RefusalCode::Internal =>
            {
                Self::Unknown(text)
            }
            AskError::Call(
                CallError::Unreachable { .. }
                | CallError::Refused(_)
                | CallError::Foreign { .. }
                | CallError::TooLarge { .. },
            ) => Self::NotSent(text),
            AskError::Call(CallError::Unknown { .. }) | AskError::Answer(_) => Self::Unknown(text),
        }
    }
}

/// What to do after a node's answer.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Ask the same node again.
    Again,
    /// Ask the next one.
    Next,
    /// This is the end.
    End(Result<AdminReply, Failure>),
}

/// What the nodes that were asked have told.
#[derive(Debug, Default)]
struct Inquiry {
    /// Whether the request changes something.
    changes: bool,
    /// Why a node's outcome is unknown.
    unknown: Option<String>,
    /// Why a node could not at present.
    try_again: Option<String>,
    /// Why a node did not answer.
    silent: Option<String>,
}

impl Inquiry {
    fn new(request: &AdminRequest) -> Self {
        let changes = !matches!(
            request,
            AdminRequest::ListDisks
                | AdminRequest::ListShards
                | AdminRequest::ShowSplit
                | AdminRequest::ShowDisk { .. }
                | AdminRequest::Status
                | AdminRequest::StatusInFull
        );
        Self {
            changes,
            ..Self::default()
        }
    }

    fn step(&mut self, told: Told) -> Step {
        match told {
            Told::Answer(AdminReply::Working(_)) => return Step::Again,
            Told::Answer(AdminReply::Refused(text)) => {
                let failure = match &self.unknown {
                    None => Failure::Refused(text),
                    // What was sent first may be applied after this was refused.
                    Some(first) => {
                        Failure::Unknown(format!("{first}; then it was refused: {text}"))
                    }
                };
                return Step::End(Err(failure));
            }
            Told::Answer(AdminReply::TryAgain(text)) => self.try_again = Some(text),
            Told::Answer(AdminReply::Unknown(text)) | Told::Unknown(text) if self.changes => {
                self.unknown = Some(text);
            }
            Told::Answer(AdminReply::Unknown(text)) | Told::Unknown(text) | Told::NotSent(text) => {
                self.silent = Some(text);
            }
            Told::Answer(reply) => return Step::End(Ok(reply)),
        }
        Step::Next
    }

    /// Nobody is left to be asked.
    fn failure(self) -> Failure {
        let Self {
            unknown,
            try_again,
            silent,
            ..
        } = self;
        let unknown = unknown.map(Failure::Unknown);
        unknown
            .or(try_again.map(Failure::TryAgain))
            .unwrap_or_else(|| Failure::Unreachable(silent.unwrap_or_default()))
    }
}

/// Asks the chosen node, or those of the development cluster.
pub(crate) async fn ask(
    env: &Env,
    options: &ClientOptions,
    request: &AdminRequest,
) -> anyhow::Result<AdminReply> {
    let addresses = match &options.connect {
        Some(address) => vec![address.clone()],
        None => dev::addresses(options.dir.as_deref())?,
    };
    let rpc = admin::client(env.clone())?;
    let mut inquiry = Inquiry::new(request);
    for address in &addresses {
        let what = || format!("{} through {address}", doing(request));
        let asking = async {
            loop {
                let told = Told::of(admin::ask(&rpc, address, request).await);
                match inquiry.step(told) {
                    Step::Again => {}
                    Step::Next => return None,
                    Step::End(result) => return Some(result),
                }
            }
        };
        if let Some(result) = progress::shown(env, what, asking).await {
            return Ok(result?);
        }
    }
    Err(inquiry.failure().into())
}

/// What is said while it takes longer than a second.
fn doing(request: &AdminRequest) -> &'static str {
    match request {
        AdminRequest::CreateDisk { .. } => "creating the disk",
        AdminRequest::ResizeSeenDisk {
            from_bytes,
            size_bytes,
            ..
        } if size_bytes < from_bytes => "resizing the disk and clearing what is cut off",
        AdminRequest::ResizeDisk { .. } | AdminRequest::ResizeSeenDisk { .. } => {
            "resizing the disk"
        }
        AdminRequest::DeleteDisk { .. } | AdminRequest::DeleteDiskById { .. } => {
            "deleting the disk"
        }
        _ => "asking",
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_env::VirtualDiskId;

    use super::*;

    fn text(text: &str) -> String {
        text.to_owned()
    }

    /// What becomes of `request` when the nodes tell this, one after the other.
    fn end(request: &AdminRequest, told: Vec<Told>) -> Result<AdminReply, Failure> {
        let mut inquiry = Inquiry::new(request);
        for told in told {
            match inquiry.step(told) {
                Step::End(result) => return result,
                Step::Again | Step::Next => {}
            }
        }
        Err(inquiry.failure())
    }

    const DELETE: AdminRequest = AdminRequest::DeleteDiskById {
        disk: VirtualDiskId(7),
    };

    #[test]
    fn after_a_time_out_a_change_is_done_or_unknown_and_never_failed() {
        let lost = || Told::Unknown(text("n1: no answer"));
        let done = end(&DELETE, vec![lost(), Told::Answer(AdminReply::Done)]);
        assert_eq!(done, Ok(AdminReply::Done));
        for second in [
            Told::NotSent(text("n2: unreachable")),
            Told::Answer(AdminReply::TryAgain(text("no majority"))),
            Told::Answer(AdminReply::Refused(text("held"))),
            Told::Answer(AdminReply::Unknown(text("leader lost"))),
        ] {
            let told = format!("{second:?}");
            let failed = end(&DELETE, vec![lost(), second]).unwrap_err();
            assert!(matches!(failed, Failure::Unknown(_)), "{told}: {failed:?}");
        }
    }

    #[test]
    fn what_is_not_possible_at_present_is_not_a_cluster_that_is_down() {
        let busy = || Told::Answer(AdminReply::TryAgain(text("attached at the same time")));
        let gone = || Told::NotSent(text("n2: unreachable"));
        let failed = end(&DELETE, vec![busy(), gone()]);
        assert_eq!(
            failed,
            Err(Failure::TryAgain(text("attached at the same time")))
        );
        let failed = end(&DELETE, vec![gone(), gone()]);
        assert_eq!(failed, Err(Failure::Unreachable(text("n2: unreachable"))));
        let refused = Told::Answer(AdminReply::Refused(text("no such disk")));
        let failed = end(&DELETE, vec![gone(), refused]);
        assert_eq!(failed, Err(Failure::Refused(text("no such disk"))));
    }

    #[test]
    fn a_question_has_no_unknown_outcome() {
        let lost = || Told::Unknown(text("n1: no answer"));
        let failed = end(&AdminRequest::ListDisks, vec![lost(), lost()]);
        assert_eq!(failed, Err(Failure::Unreachable(text("n1: no answer"))));
    }

    #[test]
    fn a_node_at_work_is_asked_on() {
        let mut inquiry = Inquiry::new(&DELETE);
        let working = || Told::Answer(AdminReply::Working(text("clearing")));
        assert_eq!(inquiry.step(working()), Step::Again);
        assert_eq!(inquiry.step(working()), Step::Again);
        let done = inquiry.step(Told::Answer(AdminReply::Done));
        assert_eq!(done, Step::End(Ok(AdminReply::Done)));
    }
}
