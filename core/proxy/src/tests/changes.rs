//! Changes that outlive their attachment, and those for which there is no room.

use super::*;
use crate::{Change, ChangeError, ROOM_LIMIT};

/// A change that goes on by itself, and what became of it.
type Changing = Arc<Mutex<Option<Result<(), ChangeError>>>>;

impl Stage {
    /// Zeroes blocks of 512 bytes of the first container, seen through.
    fn change(&self, disk: &VirtualDisk, blocks: std::ops::Range<u64>, tag: u64) -> Changing {
        let (proxy, disk) = (self.proxy.clone(), disk.clone());
        let change = Change::zero(blocks.start * 512, (blocks.end - blocks.start) * 512);
        let ended = Changing::default();
        let told = Arc::clone(&ended);
        self.env.spawn("change", async move {
            let result = proxy.change(&disk, change, OperationTag(tag)).await;
            *told.lock().unwrap() = Some(result);
        });
        ended
    }

    fn applied(&self) -> Vec<String> {
        self.other.with(|state| state.applied.clone())
    }
}

fn outcome(changing: &Changing) -> Option<Result<(), ChangeError>> {
    changing.lock().unwrap().clone()
}

/// The shard has a newer generation when the COMMIT comes: nobody else had the disk.
#[tokio::test(start_paused = true)]
async fn a_change_whose_attachment_is_lost_is_done_anew_behind_every_fence() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.seconds(1).await;
    stage.other.with(|state| {
        state.floor = Generation(3);
        state.foreign_rises = 1;
        state.unfenceable.insert(7);
    });
    let changing = stage.change(&disk, 0..8, 1);
    stage.seconds(3).await;
    assert!(disk.is_lost());
    assert_eq!(outcome(&changing), None, "container 7 is not fenced");
    stage.other.with(|state| state.unfenceable.clear());
    stage.seconds(2).await;
    assert_eq!(outcome(&changing), Some(Ok(())));
    let told = ["g2 fence 0", "g2 fence 7", "g4 fence 0", "g4 fence 7"];
    assert_eq!(stage.applied()[..4], told);
    assert_eq!(stage.applied()[4..], ["g4 commit 0+8"]);
}

/// Whoever had it may have read the first attempt and written over it.
#[tokio::test(start_paused = true)]
async fn a_change_is_not_done_anew_when_another_had_the_disk_or_has_it() {
    for (held, foreign_rises) in [(true, 1), (false, 3)] {
        let stage = Stage::set().await;
        let disk = stage.attach().await;
        stage.other.with(|state| {
            state.floor = Generation(3);
            state.foreign_rises = foreign_rises;
            state.held = held;
        });
        let changing = stage.change(&disk, 0..8, 1);
        stage.seconds(2).await;
        let unknown = Some(Err(ChangeError::OutcomeUnknown));
        assert_eq!(outcome(&changing), unknown, "{held} {foreign_rises}");
        let applied = stage.applied();
        assert!(!applied.iter().any(|what| what.contains("commit")));
    }
}

#[tokio::test(start_paused = true)]
async fn what_overlaps_a_change_of_unknown_outcome_waits_behind_it() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.seconds(1).await;
    stage.other.with(|state| {
        state.floor = Generation(3);
        state.unfenceable.insert(7);
    });
    let first = stage.change(&disk, 0..16, 1);
    stage.seconds(2).await;
    let next = stage.attach().await;
    let over = stage.change(&next, 8..24, 2);
    let beside = stage.change(&next, 32..40, 3);
    // Those tasks begin; the next change is the youngest.
    stage.seconds(1).await;
    let own = next.zero(4096, 4096, OperationTag(4));
    let own = stage.env.timeout(Duration::from_secs(1), own).await;
    assert!(own.is_err(), "waits too");
    assert_eq!(outcome(&beside), Some(Ok(())));
    assert_eq!((outcome(&first), outcome(&over)), (None, None));
    stage.other.with(|state| state.unfenceable.clear());
    stage.seconds(2).await;
    assert_eq!(outcome(&first), Some(Ok(())));
    assert_eq!(outcome(&over), Some(Ok(())));
    let applied = stage.applied();
    let commits: Vec<_> = applied
        .iter()
        .filter(|what| what.contains("commit"))
        .collect();
    assert_eq!(
        commits,
        [
            "g3 commit 32+8",
            "g3 commit 0+16",
            "g3 commit 8+16",
            "g3 commit 8+8"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_change_of_unknown_outcome_is_settled_and_not_done_anew() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.seconds(1).await;
    stage.other.with(|state| {
        state.floor = Generation(3);
        state.unfenceable.insert(7);
    });
    let changing = stage.change(&disk, 0..8, 1);
    stage.seconds(2).await;
    let cancelling = disk.cancel(OperationTag(1));
    let early = stage.env.timeout(Duration::from_secs(1), cancelling).await;
    assert!(early.is_err(), "its COMMIT may still come");
    stage.other.with(|state| state.unfenceable.clear());
    disk.cancel(OperationTag(1)).await;
    stage.seconds(1).await;
    let cancelled = ChangeError::Io(IoError::Cancelled);
    assert_eq!(outcome(&changing), Some(Err(cancelled)));
    assert_eq!(stage.other.with(|state| state.holes.clone()), []);
}

impl Stage {
    /// Writes one block and tells what came of it, and after how long.
    async fn write(&self, disk: &VirtualDisk, tag: u64) -> (Result<(), IoError>, Duration) {
        let begun = self.env.now();
        let data = Bytes::from(vec![3; 4096]);
        let result = disk.write(0, data, OperationTag(tag)).await;
        (result, self.env.now().since(begun))
    }
}

/// One store of two has room: as good as none, with W = 2.
#[tokio::test(start_paused = true)]
async fn a_write_that_finds_no_room_is_withdrawn_before_it_is_refused() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.seconds(1).await;
    stage.other.with(|state| state.full = [StoreId(20)].into());
    let (result, took) = stage.write(&disk, 1).await;
    assert_eq!(result, Err(IoError::NoRoom { in_part: false }));
    assert!(took >= ROOM_LIMIT && took < ROOM_LIMIT + Duration::from_secs(2));
    let applied = stage.applied();
    assert!(applied.iter().any(|what| what.contains("void")));
    assert!(!applied.iter().any(|what| what.contains("commit")));
    // Holes need no room.
    disk.zero(0, 4096, OperationTag(2)).await.unwrap();
    assert_eq!(stage.other.with(|state| state.holes.len()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_goes_on_when_a_full_cluster_gets_room() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.seconds(1).await;
    stage
        .other
        .with(|state| state.full = [StoreId(10), StoreId(20)].into());
    let freed = Arc::clone(&stage.other);
    let env = stage.env.clone();
    stage.env.spawn("free", async move {
        env.sleep(ROOM_LIMIT / 2).await;
        freed.with(|state| state.full.clear());
    });
    let (result, took) = stage.write(&disk, 1).await;
    assert_eq!(result, Ok(()));
    assert!(took >= ROOM_LIMIT / 2 && took < ROOM_LIMIT);
    let applied = stage.applied();
    assert!(!applied.iter().any(|what| what.contains("void")));
}
