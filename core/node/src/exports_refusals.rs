//! What an initiator is told when the proxy refuses: from the proxy's error, through the export's
//! words for it, the session and the wire, to a SCSI status.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hedgerow_iscsi::initiator::{Command, CommandError, InitiatorConfig, InitiatorSession};
use hedgerow_iscsi::memory::MemoryCatalog;
use hedgerow_iscsi::{BlockDevice, BlockError, Geometry, IscsiServer, OperationTag};
use hedgerow_net::testing::MemoryNetwork;
use hedgerow_proxy::{ChangeError, IoError};

use super::{block_error, change_error};

const TARGET: &str = "iqn.2026-11.io.hedgerow:full";
const INITIATOR: &str = "iqn.2026-11.io.hedgerow.test:initiator";
const BLOCK_BYTES: u32 = 512;

/// A disk whose proxy answers everything with one error.
struct Refusing(IoError);

impl Refusing {
    fn change(&self) -> BoxFuture<'static, Result<(), BlockError>> {
        let error = ChangeError::Io(self.0.clone());
        async move { Err(change_error(error)) }.boxed()
    }
}

impl BlockDevice for Refusing {
    fn geometry(&self) -> Geometry {
        Geometry::new(BLOCK_BYTES, 1 << 10)
    }

    fn read(&self, _: u64, _: u32) -> BoxFuture<'static, Result<Bytes, BlockError>> {
        let error = self.0.clone();
        async move { Err(block_error(error)) }.boxed()
    }

    fn write(
        &self,
        _: u64,
        _: Bytes,
        _: OperationTag,
    ) -> BoxFuture<'static, Result<(), BlockError>> {
        self.change()
    }

    fn write_zeroes(
        &self,
        _: u64,
        _: u64,
        _: bool,
        _: OperationTag,
    ) -> BoxFuture<'static, Result<(), BlockError>> {
        self.change()
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), BlockError>> {
        async { Ok(()) }.boxed()
    }

    fn cancel(&self, _: OperationTag) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }

    fn settle(&self, _: bool) -> BoxFuture<'static, Result<(), BlockError>> {
        async { Ok(()) }.boxed()
    }
}

/// What a write and a zeroing come to when the proxy answers `error`.
async fn told(error: IoError) -> [CommandError; 2] {
    let env = MemoryNetwork::new(1).env();
    let catalog = Arc::new(MemoryCatalog::default());
    catalog.export(TARGET, Arc::new(Refusing(error)), [3; 16], None);
    let server = IscsiServer::start(&env, "node1:3260", catalog)
        .await
        .unwrap();
    let config = InitiatorConfig::new(INITIATOR, TARGET);
    let session = InitiatorSession::connect(&env, server.address(), config)
        .await
        .unwrap();
    // A new session hears once of the power-on.
    let power_on = session.perform(Command::TestUnitReady).await.unwrap_err();
    assert_eq!(
        power_on,
        CommandError::Sense {
            key: 6,
            code: 0x2900
        }
    );
    let write = Command::Write {
        first_block: 8,
        block_count: 1,
        data: Bytes::from(vec![7; 512]),
    };
    let zeroes = Command::WriteZeroes {
        first_block: 8,
        block_count: 1,
    };
    let answers = [
        session.perform(write).await.unwrap_err(),
        session.perform(zeroes).await.unwrap_err(),
    ];
    // The session outlives the refusal.
    session.perform(Command::TestUnitReady).await.unwrap();
    server.stop().await;
    answers
}

#[tokio::test(start_paused = true)]
async fn a_full_cluster_is_busy_and_a_part_that_was_done_is_said() {
    let sense = |code| CommandError::Sense { key: 2, code };
    for (error, answer) in [
        // Nothing was done: BUSY, and the initiator tries again by itself.
        (IoError::NoRoom { in_part: false }, CommandError::Busy),
        // Some of it was: NOT READY, SPACE ALLOCATION IN PROGRESS.
        (IoError::NoRoom { in_part: true }, sense(0x0414)),
        // NOT READY, IN PROCESS OF BECOMING READY.
        (IoError::Unavailable("no quorum".into()), sense(0x0401)),
        (IoError::Fenced, sense(0x0401)),
    ] {
        assert_eq!(
            told(error.clone()).await,
            [answer.clone(), answer],
            "{error}"
        );
    }
}
