//! The ports bound to the world: [`DiskStore`] to the disk, and the network side to RPC and groups.
//!
//! Does not: decide anything.

mod disk;
pub(crate) mod network;

use std::sync::Arc;

use hedgerow_env::Env;
use hedgerow_net::{GroupClient, Rpc, ServiceId};
use hedgerow_protocol::SERVICE_HBLOCK;

pub use disk::DiskStore;

use crate::ports::BlobStore;
use crate::{HBlock, HBlockConfig, HBlockError};

impl HBlock {
    /// Starts on real stores, RPC and groups, and serves [`SERVICE_HBLOCK`].
    ///
    /// # Errors
    /// [`HBlockError`]: nothing runs and nothing is served then.
    pub async fn start(
        env: Env,
        rpc: Rpc,
        stores: Vec<DiskStore>,
        groups: GroupClient,
        config: HBlockConfig,
    ) -> Result<Self, HBlockError> {
        let stores = stores
            .into_iter()
            .map(|store| Arc::new(store) as Arc<dyn BlobStore>)
            .collect();
        let directory = Arc::clone(groups.directory());
        let members = network::RpcMembers::new(rpc.clone(), directory);
        let shards = network::GroupShards::new(groups);
        let hblock =
            Self::with_ports(env, stores, Arc::new(members), Arc::new(shards), config).await?;
        let service = network::HBlockService::new(&hblock);
        rpc.serve(ServiceId(SERVICE_HBLOCK), Arc::new(service));
        Ok(hblock)
    }
}
