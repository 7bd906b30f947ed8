//! The server and the initiator against each other over real TCP, disks in memory.

use std::sync::Arc;

use bytes::Bytes;
use hedgerow_env::{Env, StreamKind};
use hedgerow_iscsi::initiator::{
    Command, CommandError, ConnectError, InitiatorConfig, InitiatorSession, SessionError,
};
use hedgerow_iscsi::memory::{MemoryCatalog, MemoryDisk};
use hedgerow_iscsi::{ChapAccount, ChapCredentials, Geometry, IscsiServer};

#[path = "../examples/host/mod.rs"]
mod host;

const TARGET: &str = "iqn.2026-11.io.hedgerow:disk";
const INITIATOR: &str = "iqn.2026-11.io.hedgerow.test:initiator";

struct Portal {
    env: Env,
    server: IscsiServer,
    disk: Arc<MemoryDisk>,
}

async fn portal(chap: Option<ChapCredentials>) -> Portal {
    let env = host::env();
    let disk = Arc::new(MemoryDisk::new(Geometry::new(4096, 4096)));
    let catalog = Arc::new(MemoryCatalog::default());
    catalog.export(TARGET, disk.clone(), [3; 16], chap);
    let server = IscsiServer::start(&env, "127.0.0.1:0", catalog)
        .await
        .expect("loopback has a free port");
    Portal { env, server, disk }
}

impl Portal {
    async fn connect(&self, config: InitiatorConfig) -> Result<InitiatorSession, ConnectError> {
        InitiatorSession::connect(&self.env, self.server.address(), config).await
    }
}

fn read(first_block: u64, block_count: u32) -> Command {
    Command::Read {
        first_block,
        block_count,
        block_size_bytes: 4096,
    }
}

fn write(first_block: u64, block_count: u32, fill: u8) -> Command {
    let length = usize::try_from(block_count).expect("32 bits fit") * 4096;
    Command::Write {
        first_block,
        block_count,
        data: Bytes::from(vec![fill; length]),
    }
}

#[tokio::test]
async fn what_is_written_is_read_back_and_what_is_unmapped_reads_zeros() {
    for digests in [false, true] {
        let portal = portal(None).await;
        let config = InitiatorConfig {
            digests,
            ..InitiatorConfig::new(INITIATOR, TARGET)
        };
        let session = portal.connect(config).await.unwrap();
        assert_eq!(session.geometry().await.unwrap().block_count, 4096);

        // 2 MiB: immediate data, unsolicited data and two solicited bursts.
        session.perform(write(8, 512, 0xa5)).await.unwrap();
        let data = session.perform(read(8, 512)).await.unwrap();
        assert_eq!(
            (data.len(), data.iter().all(|byte| *byte == 0xa5)),
            (2 << 20, true)
        );

        session
            .perform(Command::Unmap {
                first_block: 8,
                block_count: 256,
            })
            .await
            .unwrap();
        let zeroes = Command::WriteZeroes {
            first_block: 264,
            block_count: 256,
        };
        session.perform(zeroes).await.unwrap();
        session.perform(Command::Flush).await.unwrap();
        session.perform(Command::Ping).await.unwrap();
        let data = session.perform(read(8, 512)).await.unwrap();
        assert!(data.iter().all(|byte| *byte == 0));
        // The pages at both ends and where the two ranges meet were never zeroed as a whole.
        assert!(portal.disk.allocated_bytes() <= 3 * (64 << 10));

        let outside = session.perform(read(4096, 1)).await;
        assert_eq!(
            outside,
            Err(CommandError::Sense {
                key: 5,
                code: 0x2100
            })
        );
        session.log_out().await;
        portal.server.stop().await;
    }
}

#[tokio::test]
async fn more_commands_than_the_window_holds_are_all_answered() {
    let portal = portal(None).await;
    let session = portal
        .connect(InitiatorConfig::new(INITIATOR, TARGET))
        .await
        .unwrap();
    session.geometry().await.unwrap();
    let writes =
        (0..1000_u64).map(|block| session.perform(write(block, 1, block.to_le_bytes()[0])));
    for result in futures_util::future::join_all(writes).await {
        result.unwrap();
    }
    for block in 0..1000_u64 {
        let data = session.perform(read(block, 1)).await.unwrap();
        assert_eq!(data[0], block.to_le_bytes()[0]);
    }
}

fn chap(initiator: &str, target: Option<&str>) -> ChapCredentials {
    let account = |user: &str, secret: &str| ChapAccount {
        user: user.to_owned(),
        secret: secret.as_bytes().to_vec(),
    };
    ChapCredentials {
        initiator: account("alice", initiator),
        target: target.map(|secret| account("hedgerow", secret)),
    }
}

#[tokio::test]
async fn both_sides_must_prove_themselves_when_asked() {
    let portal = portal(Some(chap("first-secret", Some("second-secret")))).await;
    let with = |chap| InitiatorConfig {
        chap,
        ..InitiatorConfig::new(INITIATOR, TARGET)
    };
    let refused = ConnectError::Session(SessionError::Refused { status: 0x0201 });
    let imposter = ConnectError::Session(SessionError::TargetNotAuthenticated);

    assert_eq!(portal.connect(with(None)).await.unwrap_err(), refused);
    assert_eq!(
        portal
            .connect(with(Some(chap("wrong", None))))
            .await
            .unwrap_err(),
        refused
    );
    let other = Some(chap("first-secret", Some("not-it")));
    assert_eq!(portal.connect(with(other)).await.unwrap_err(), imposter);
    let right = Some(chap("first-secret", Some("second-secret")));
    let session = portal.connect(with(right)).await.unwrap();
    session.geometry().await.unwrap();
}

#[tokio::test]
async fn the_same_port_again_ends_the_older_session_whose_outcomes_are_unknown() {
    let portal = portal(None).await;
    let old = portal
        .connect(InitiatorConfig::new(INITIATOR, TARGET))
        .await
        .unwrap();
    old.geometry().await.unwrap();
    let new = portal
        .connect(InitiatorConfig::new(INITIATOR, TARGET))
        .await
        .unwrap();
    new.geometry().await.unwrap();
    assert_eq!(old.perform(read(0, 1)).await, Err(CommandError::Unknown));
    new.perform(write(0, 1, 1)).await.unwrap();
}

#[tokio::test]
async fn noise_ends_its_own_connection_and_nothing_else() {
    let portal = portal(None).await;
    let session = portal
        .connect(InitiatorConfig::new(INITIATOR, TARGET))
        .await
        .unwrap();
    session.geometry().await.unwrap();
    let mut random = hedgerow_env::Random::from_seed(7);
    for _ in 0..64 {
        let address = portal.server.address();
        let mut stream = portal
            .env
            .network()
            .connect(address, StreamKind::Client)
            .await
            .unwrap();
        let mut noise = vec![0; 48 + random.index(512)];
        random.fill(&mut noise);
        // Small segments, so that the target does not wait for more than it gets.
        noise[4..7].fill(0);
        let _refused = stream.writer.write(vec![Bytes::from(noise)]).await;
        let _closed = stream.writer.shutdown().await;
        while stream
            .reader
            .read(4096)
            .await
            .is_ok_and(|bytes| !bytes.is_empty())
        {}
    }
    session.perform(write(0, 1, 9)).await.unwrap();
    assert_eq!(session.perform(read(0, 1)).await.unwrap()[0], 9);
}

#[tokio::test]
async fn a_withdrawn_target_ends_its_sessions() {
    let portal = portal(None).await;
    let session = portal
        .connect(InitiatorConfig::new(INITIATOR, TARGET))
        .await
        .unwrap();
    session.geometry().await.unwrap();
    portal.server.withdraw(TARGET);
    let mut last = Ok(Bytes::new());
    for _ in 0..1000 {
        last = session.perform(Command::Ping).await;
        if last.is_err() {
            break;
        }
    }
    assert_eq!(last, Err(CommandError::Unknown));
}
