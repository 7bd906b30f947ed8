//! Damage to stored blobs: rot, and devices that read wrong what they hold well.

use crate::ReadError;
use crate::testing::World;

use super::tests::{check, header, name, open, payload, put};

#[test]
fn scrub_finds_rot_and_a_new_put_heals_it() {
    let world = World::new(5);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (store, _) = open(&env).await;
        for sequence in 10..20 {
            put(&env, &store, sequence, 0).await;
        }
        store.flush().await.unwrap();
        let mut scanned = 0;
        loop {
            let report = store.scrub(10_000).await.unwrap();
            assert!(report.bad.is_empty());
            scanned += report.bytes;
            if report.wrapped {
                break;
            }
        }
        assert!(scanned > store.usage().live, "everything was read");

        let path = disk.paths("pool/extents/")[0].clone();
        let victim = payload(13, 0);
        let content = disk.content(&path);
        let at = content
            .windows(64)
            .position(|window| window == &victim[..64])
            .unwrap();
        disk.rot(&path, u64::try_from(at + 100).unwrap(), 1);
        let read = store.read_blob(name(13), 0, victim.len()).await;
        assert_eq!(read, Err(ReadError::Damaged(name(13))));
        let report = store.scrub(u64::MAX).await.unwrap();
        assert_eq!(report.bad, [name(13)]);
        assert_eq!(store.damaged_blobs(), [name(13)]);
        check(&store, 14, 0).await;

        put(&env, &store, 13, 0).await;
        check(&store, 13, 0).await;
        store.flush().await.unwrap();
        check(&store, 13, 0).await;
        assert!(store.damaged_blobs().is_empty());
        store.scrub(u64::MAX).await.unwrap();
        assert!(store.scrub(u64::MAX).await.unwrap().bad.is_empty());
    });
}

/// A device that reads wrongly once has not lost anything: the same bits flip back.
#[test]
fn what_reads_sound_again_is_damaged_no_more() {
    let world = World::new(5);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (store, _) = open(&env).await;
        for sequence in 10..20 {
            put(&env, &store, sequence, 0).await;
        }
        store.flush().await.unwrap();
        let path = disk.paths("pool/extents/")[0].clone();
        let victim = payload(13, 0);
        let content = disk.content(&path);
        let mut windows = content.windows(64);
        let at = windows.position(|window| window == &victim[..64]).unwrap();
        let at = u64::try_from(at).unwrap();
        disk.rot(&path, at, 1);
        assert_eq!(store.scrub(u64::MAX).await.unwrap().bad, [name(13)]);
        let read = store.read_blob(name(13), 0, 1).await;
        assert_eq!(read, Err(ReadError::Damaged(name(13))));
        disk.rot(&path, at, 1);
        check(&store, 13, 0).await;
        assert!(store.damaged_blobs().is_empty());
        store.scrub(u64::MAX).await.unwrap();
        assert!(store.scrub(u64::MAX).await.unwrap().bad.is_empty());
    });
}

/// A segment that is scanned at the start is written again: never with what was read wrong.
#[test]
fn what_is_read_wrong_at_the_start_is_not_written_back() {
    for times in 1..8 {
        let world = World::new(u64::from(times));
        let (env, disk) = (world.env(), world.disk().clone());
        world.run(async move {
            let (store, _) = open(&env).await;
            for sequence in 10..20 {
                put(&env, &store, sequence, 0).await;
            }
            store.flush().await.unwrap();
            drop(store);
            disk.restart();
            let path = disk.paths("pool/extents/")[0].clone();
            let victim = payload(13, 0);
            let content = disk.content(&path);
            let mut windows = content.windows(64);
            let at = windows.position(|window| window == &victim[..64]).unwrap();
            disk.misread(&path, u64::try_from(at).unwrap(), times);
            let (store, _) = open(&env).await;
            drop(store);
            assert_eq!(disk.content(&path)[at], victim[0], "{times}");
            disk.misread(&path, 0, 0);
            disk.restart();
            let (store, _) = open(&env).await;
            for sequence in 10..20 {
                check(&store, sequence, 0).await;
            }
        });
    }
}

/// An entry's own header and the footer with its copy are both rotten: the blob is not even named.
#[test]
fn entries_that_were_lost_with_their_names_are_told() {
    let world = World::new(7);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (store, _) = open(&env).await;
        for sequence in 10..20 {
            put(&env, &store, sequence, 0).await;
        }
        store.flush().await.unwrap();
        store.close().await;
        drop(store);
        let (store, recovery) = open(&env).await;
        assert!(!recovery.names_lost, "nothing is wrong yet");
        store.close().await;
        drop(store);

        let path = disk.paths("pool/extents/")[0].clone();
        let content = disk.content(&path);
        let own = header(13, 0);
        let found = content.windows(own.len()).enumerate();
        let at: Vec<usize> = found
            .filter(|(_, window)| *window == own)
            .map(|(at, _)| at)
            .collect();
        assert!(!at.is_empty());
        for at in at {
            disk.rot(&path, u64::try_from(at).unwrap(), 1);
        }
        disk.rot(&path, u64::try_from(content.len() - 8).unwrap(), 1);
        let (_, recovery) = open(&env).await;
        assert!(recovery.names_lost);
    });
}
