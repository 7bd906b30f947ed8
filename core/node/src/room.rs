//! The room that Pages needs in the system pool: what its files hold, and what they may want next.
//!
//! A state file that finds no space stops its replica, and a cluster whose disks fill evenly would
//! lose all replicas together, with them the means to delete anything. So blobs leave room for the
//! next growth of every state file.
//!
//! What is taken between two looks is beyond that; for it Pages holds a reserve of its own.
//!
//! Invariant: what [`need`] answers is pure. Does not: count what Pages takes between two looks.

use std::time::Duration;

use hedgerow_disk::{Others, Store};
use hedgerow_env::{DiskError, Env, OpenMode, event};
use hedgerow_pages::raft::RESERVE_NAME;

/// Pause between two looks. A state doubles far more slowly than that.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// A state file doubles at most until it has a whole region of redb's, and then grows by regions, two
/// at once at the most (redb 4: 4 GiB each).
const GROWTH_MAX: u64 = 8 << 30;
/// What a replica needs that starts here: an empty state with its logs.
const NEW_REPLICA_BYTES: u64 = 4 << 20;

/// What files of `lengths` bytes use beside a reserve of `reserve` bytes, and what may be wanted
/// next: each of them may double, a snapshot as large as the largest may arrive, and a replica may
/// start.
fn need(lengths: &[u64], reserve: u64) -> Others {
    let doubled = lengths.iter().map(|length| (*length).min(GROWTH_MAX));
    let snapshot = lengths.iter().max().copied().unwrap_or(0);
    Others {
        used_bytes: lengths.iter().sum::<u64>() + reserve,
        growth_bytes: doubled.sum::<u64>() + snapshot + NEW_REPLICA_BYTES,
    }
}

/// Keeps `store` told of the files in `directory`, for ever.
pub(crate) async fn keep(env: Env, store: Store, directory: String) {
    loop {
        if let Err(error) = look(&env, &store, &directory).await {
            // A disk that fails stops the store by other calls.
            event!(env, Warn, "node", "{directory}: {error}");
        }
        env.sleep(LOOK_PAUSE).await;
    }
}

async fn look(env: &Env, store: &Store, directory: &str) -> Result<(), DiskError> {
    let (mut lengths, mut reserve) = (Vec::new(), 0);
    for name in env.disk().list(directory).await? {
        let path = format!("{directory}/{name}");
        match env.disk().open(&path, OpenMode::Existing).await {
            Ok(file) if name == RESERVE_NAME => reserve = file.length().await?,
            Ok(file) => lengths.push(file.length().await?),
            // Removed since it was listed.
            Err(DiskError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    store.observe_room(need(&lengths, reserve)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_for_every_file_to_double() {
        let mib = |count: u64| count << 20;
        let others = need(&[mib(256), mib(64)], mib(32));
        assert_eq!(others.used_bytes, mib(352));
        assert_eq!(others.growth_bytes, mib(320) + mib(256) + mib(4));
        assert_eq!(need(&[], 0).growth_bytes, NEW_REPLICA_BYTES);
        let large = need(&[20 << 30], 0);
        assert_eq!(large.growth_bytes, (28 << 30) + NEW_REPLICA_BYTES);
    }
}
