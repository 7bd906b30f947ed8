//! Clients of the workload `disk-lifecycle`: disks are created, resized, shown and deleted as the
//! command line does it, by asking some node.

use hedgerow_env::{BoxFuture, Env};
use hedgerow_jepsen::history::Value;
use hedgerow_jepsen::run::workload::DiskRequest;
use hedgerow_jepsen::run::{Client, Completion, Operation};
use hedgerow_net::admin::{self, AskError};
use hedgerow_net::{CallError, Rpc};
use hedgerow_protocol::{AdminReply, AdminRequest, DiskState, Policy};

/// What the clients of a test have in common.
#[derive(Clone)]
pub struct DiskClients {
    pub(crate) env: Env,
    pub(crate) rpc: Rpc,
    pub(crate) addresses: Vec<String>,
    pub(crate) replication_factor: u8,
}

/// A client that stays with one node.
pub(crate) struct DiskClient {
    shared: DiskClients,
    address: String,
}

impl DiskClient {
    pub(crate) fn new(shared: DiskClients, process: u64) -> Self {
        let count = shared.addresses.len() as u64;
        let at = usize::try_from(process % count).expect("less than the nodes");
        let address = shared.addresses[at].clone();
        Self { shared, address }
    }

    fn request(&self, name: String, request: DiskRequest) -> AdminRequest {
        match request {
            DiskRequest::Create(size_bytes) => AdminRequest::CreateDisk {
                nonce: self.shared.env.random("disk-nonce").bits(),
                name,
                size_bytes,
                policy: Policy {
                    replication_factor: self.shared.replication_factor,
                    ..Policy::default()
                },
                description: String::new(),
            },
            DiskRequest::Resize(size_bytes) => AdminRequest::ResizeDisk { name, size_bytes },
            DiskRequest::Delete => AdminRequest::DeleteDisk { name },
            DiskRequest::Show => AdminRequest::ShowDisk { name },
        }
    }

    async fn ask(&self, operation: &Operation) -> Completion {
        let Some((name, request)) = DiskRequest::of(operation) else {
            return Completion::Fail("not an operation on disks".to_owned());
        };
        let show = request == DiskRequest::Show;
        let message = self.request(name, request);
        match admin::ask(&self.shared.rpc, &self.address, &message).await {
            Ok(AdminReply::Disk(disk)) if show => match disk.record.state {
                DiskState::Ready => Completion::Ok(int(disk.record.size_bytes)),
                // Its name is taken until its data is gone, but it is no disk any more.
                DiskState::Deleting => Completion::Ok(Value::Nil),
            },
            // Names are never refused for another reason than that there is no such disk.
            Ok(AdminReply::Refused(_)) if show => Completion::Ok(Value::Nil),
            Ok(AdminReply::Refused(text)) => Completion::Fail(text),
            Ok(AdminReply::Disk(_) | AdminReply::Done) => {
                Completion::Ok(operation.argument.clone())
            }
            Ok(AdminReply::TryAgain(text)) if show => Completion::Fail(text),
            Ok(
                AdminReply::TryAgain(text) | AdminReply::Unknown(text) | AdminReply::Working(text),
            ) => Completion::Unknown(text),
            Ok(other) => Completion::Unknown(format!("unexpected answer: {other:?}")),
            Err(error) => {
                let not_sent = matches!(error, AskError::Call(CallError::Unreachable { .. }));
                if show || not_sent {
                    Completion::Fail(error.to_string())
                } else {
                    Completion::Unknown(error.to_string())
                }
            }
        }
    }
}

fn int(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

impl Client for DiskClient {
    fn perform<'a>(&'a mut self, operation: &'a Operation) -> BoxFuture<'a, Completion> {
        Box::pin(async move { self.ask(operation).await })
    }
}
