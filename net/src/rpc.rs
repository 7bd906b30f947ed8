//! [`Rpc`]: one node's server and client.
//!
//! Invariants: a call to the own node never touches the network and obeys the same limits; after
//! [`Rpc::shutdown`] began nothing new is served or called.
//! Does not: stop by itself when dropped: its tasks hold it until `shutdown` or the node's end.

use std::sync::Arc;
use std::time::Duration;

use hedgerow_env::{BoxFuture, Env, NodeId, StreamKind};

use crate::node::Inner;
use crate::pool::PeerKey;
use crate::{
    CallError, CallOptions, Identity, Lane, Message, NetError, Peer, PeerObserver, RpcConfig,
    Service, ServiceId,
};

/// One node's server and client. Clones share everything.
#[derive(Clone)]
pub struct Rpc(Arc<Inner>);

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
        identity.validate()?;
        let listener = env.network().listen(listen, StreamKind::Rpc).await?;
        let local_address = listener.local_address();
        if identity.address.is_empty() {
            identity.address.clone_from(&local_address);
        }
        let inner = Inner::new(env, identity, config, local_address);
        inner
            .env
            .spawn("rpc-accept", Arc::clone(&inner).accept(listener));
        Ok(Self(inner))
    }

    /// A client that listens nowhere: for tools.
    ///
    /// # Errors
    /// [`NetError`]: a limit contradicts another.
    pub fn start_client(env: Env, identity: Identity, config: RpcConfig) -> Result<Self, NetError> {
        config.validate()?;
        identity.validate()?;
        Ok(Self(Inner::new(env, identity, config, String::new())))
    }

    /// The address that is really listened at; empty for a pure client.
    #[must_use]
    pub fn local_address(&self) -> &str {
        self.0.local_address()
    }

    /// The identity that handshakes show now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.0.identity()
    }

    /// Changes the identity, for instance when the cluster or the stores become known. When more
    /// than stamps changed, later calls use new connections, which show the new identity; calls
    /// that run end on the old ones. Connections of members of another cluster end at once. An
    /// empty address stays what it was.
    ///
    /// # Panics
    /// When the identity does not fit a handshake ([`Identity::validate`]).
    pub fn set_identity(&self, identity: Identity) {
        self.0.set_identity(identity);
    }

    /// Has a handshake with `peer`, over a new connection in place of the one there is, whose calls
    /// end on it. Handshakes alone tell what is durable in a store: a connection that lasts for
    /// weeks would leave its peer with what it knew weeks ago.
    ///
    /// # Errors
    /// The peer is not reached, or refuses; a connection that there is stays.
    pub async fn renew(&self, peer: &Peer) -> Result<(), CallError> {
        let key = PeerKey {
            peer: peer.clone(),
            lane: Lane::Control,
        };
        self.0.renew(&key).await
    }

    /// Serves `service` from now on, in place of any earlier one of that number.
    pub fn serve(&self, id: ServiceId, service: Arc<dyn Service>) {
        self.0.serve(id, service);
    }

    /// Tells `observer` of stores in every handshake from now on.
    pub fn on_peer(&self, observer: Arc<dyn PeerObserver>) {
        self.0.observe(observer);
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
    ///
    /// The outcome is [`CallError`] otherwise; a timeout is [`CallError::Unknown`] unless the
    /// request certainly never left.
    pub fn call_with(
        &self,
        to: &Peer,
        service: ServiceId,
        request: Message,
        options: CallOptions,
    ) -> BoxFuture<'static, Result<Message, CallError>> {
        let inner = Arc::clone(&self.0);
        let peer = to.clone();
        Box::pin(async move { inner.call(peer, service, request, options).await })
    }

    /// The smoothed round-trip time to `node`, if it was measured.
    #[must_use]
    pub fn latency(&self, node: &NodeId) -> Option<Duration> {
        self.0.latency(*node)
    }

    /// The smoothed round-trip time to whoever advertises `address`, if it was measured.
    #[must_use]
    pub fn latency_of_address(&self, address: &str) -> Option<Duration> {
        self.0.latency_of_address(address)
    }

    /// Stops: from this call on nothing new is served or called. The returned future lets running
    /// requests finish for the configured time and then closes every connection.
    #[must_use = "connections close when the future is awaited"]
    pub fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.0.stop();
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.wind_down().await })
    }
}
