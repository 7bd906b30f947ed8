//! The network side of the ports over real RPC: requests, replies and payloads arrive whole.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{ClusterId, Env, Generation, NodeId, PlacementEpoch, StoreId};
use hedgerow_net::testing::MemoryNetwork;
use hedgerow_net::{Directory, GroupClient, Identity, RoleSet, Rpc, RpcConfig, ServiceId};
use hedgerow_protocol::{
    HBlockReply, HBlockRequest, MemberState, PlacementMember, SERVICE_HBLOCK, WriteTarget,
};

use crate::adapters::network::{GroupShards, HBlockService, RpcMembers};
use crate::ports::{Destination, MemberFault, Members};
use crate::testing::{FakeStore, StoreHandle, blob, name};
use crate::{HBlock, HBlockConfig};

async fn rpc(env: &Env, node: u64) -> Rpc {
    let identity = Identity {
        cluster: Some(ClusterId(1)),
        node: NodeId(node),
        stores: vec![],
        roles: RoleSet::HBLOCK,
        address: String::new(),
    };
    let started = Rpc::start(env.clone(), identity, RpcConfig::default(), "memory:0").await;
    started.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_blob_travels_to_another_member_and_back() {
    let env = MemoryNetwork::default().env();
    let (here, there) = (rpc(&env, 1).await, rpc(&env, 2).await);
    let directory = Arc::new(Directory::new(vec![]));
    let members = |rpc: &Rpc| Arc::new(RpcMembers::new(rpc.clone(), Arc::clone(&directory)));
    let groups = GroupClient::new(env.clone(), there.clone(), Arc::clone(&directory));
    let hblock = HBlock::with_ports(
        env.clone(),
        vec![Arc::new(StoreHandle(FakeStore::new(
            env.clone(),
            StoreId(2),
        )))],
        members(&there),
        Arc::new(GroupShards::new(groups)),
        HBlockConfig::default(),
    );
    let hblock = hblock.await.unwrap();
    there.serve(
        ServiceId(SERVICE_HBLOCK),
        Arc::new(HBlockService::new(&hblock)),
    );

    let target = |address: &str, node: u64| {
        Destination::Target(WriteTarget {
            member: PlacementMember {
                store: StoreId(2),
                node: NodeId(node),
                state: MemberState::Active,
            },
            address: address.to_owned(),
        })
    };
    let second = Duration::from_secs(1);
    let call = |to, request, payload| members(&here).call(to, request, payload, second);
    let (header, payload) = blob(1, 4);
    let store = HBlockRequest::Store {
        store: StoreId(2),
        header: header.clone(),
        generation: Generation(1),
        epoch: PlacementEpoch(1),
    };
    let address = there.local_address().to_owned();
    let stored = call(target(&address, 2), store, payload.clone()).await;
    assert_eq!(stored, Ok((HBlockReply::Stored, Bytes::new())));

    let fetch = || HBlockRequest::Fetch {
        store: StoreId(2),
        name: name(1),
    };
    let fetched = call(target(&address, 2), fetch(), Bytes::new()).await;
    assert_eq!(fetched, Ok((HBlockReply::Blob(header), payload)));

    for (to, why) in [
        (target("memory:9", 2), "nobody listens there"),
        (target(&address, 7), "another node answers there"),
        (
            Destination::Store(StoreId(9)),
            "the topology does not know it",
        ),
    ] {
        let failed = call(to, fetch(), Bytes::new()).await;
        assert!(
            matches!(
                failed,
                Err(MemberFault::Unreachable(_) | MemberFault::Unknown(_))
            ),
            "{why}: {failed:?}"
        );
    }
    drop(hblock);
    let ended = call(target(&address, 2), fetch(), Bytes::new()).await;
    assert!(matches!(ended, Err(MemberFault::Unknown(_))), "{ended:?}");
}
