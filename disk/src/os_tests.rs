//! The real file system, in a folder of its own below the target folder.

use super::*;

fn root(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/tmp/disk")
        .join(format!("{name}-{}", std::process::id()));
    std::fs::remove_dir_all(&root).ok();
    root
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn files_behave_as_the_seam_says() {
    let root = root("files");
    let disk = OsDisk::open(&root).unwrap();
    block_on(async {
        assert_eq!(disk.list("a/b").await.unwrap(), Vec::<String>::new());
        let missing = disk.open("a/b/file", OpenMode::Existing).await.err();
        assert_eq!(
            missing,
            Some(DiskError::NotFound {
                path: "a/b/file".to_owned()
            })
        );
        let file = disk.open("a/b/file", OpenMode::CreateNew).await.unwrap();
        let again = disk.open("a/b/file", OpenMode::CreateNew).await.err();
        assert!(matches!(again, Some(DiskError::AlreadyExists { .. })));
        let parts: Vec<Bytes> = (0..3000_u32)
            .map(|part| Bytes::copy_from_slice(&part.to_le_bytes()))
            .collect();
        file.write_at(8192, parts.clone()).await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(file.length().await.unwrap(), 8192 + 12_000);
        assert_eq!(file.read_at(8192, 12_000).await.unwrap(), parts.concat());
        let Ok(durable) = file.write_durably(100, parts.clone()) else {
            panic!("Linux does both in one call");
        };
        durable.await.unwrap();
        assert_eq!(file.read_at(100, 12_000).await.unwrap(), parts.concat());
        assert_eq!(file.length().await.unwrap(), 8192 + 12_000);
        file.write_at(8192, parts.clone()).await.unwrap();
        assert_eq!(
            file.read_at(8192 + 11_990, 100).await.unwrap().len(),
            10,
            "the end"
        );
        file.resize(1 << 20).await.unwrap();
        assert_eq!(file.read_at(20_192, 1000).await.unwrap(), vec![0; 1000]);
        file.resize(100).await.unwrap();
        assert_eq!(file.length().await.unwrap(), 100);
        disk.rename("a/b/file", "a/b/other").await.unwrap();
        disk.sync_directory("a/b").await.unwrap();
        assert_eq!(disk.list("a/b").await.unwrap(), ["other"]);
        assert_eq!(disk.list("a").await.unwrap(), ["b"]);
        assert_eq!(
            disk.list("").await.unwrap(),
            ["a"],
            "the lock is not listed"
        );
        assert!(disk.free_bytes("a/b").await.unwrap() > 0);
        assert!(disk.free_bytes("not/there").await.unwrap() > 0);
        disk.remove("a/b/other").await.unwrap();
        assert!(matches!(
            disk.remove("a/b/other").await,
            Err(DiskError::NotFound { .. })
        ));
    });
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn blocking_files_fill_their_buffers_or_fail() {
    let root = root("blocking");
    let disk = OsDisk::open(&root).unwrap();
    let file = disk.open_blocking("pages", OpenMode::Create).unwrap();
    file.resize(4096).unwrap();
    file.write_at(4000, &[7; 96]).unwrap();
    file.sync().unwrap();
    let mut buffer = [0; 96];
    file.read_at(4000, &mut buffer).unwrap();
    assert_eq!(buffer, [7; 96]);
    assert!(file.read_at(4001, &mut buffer).is_err(), "past the end");
    assert_eq!(file.length().unwrap(), 4096);
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn paths_cannot_leave_the_root() {
    let root = root("confined");
    let disk = OsDisk::open(&root).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", root.join("link")).unwrap();
    block_on(async {
        for path in [
            "../x",
            "/etc/passwd",
            "a/../../x",
            "a//b",
            ".",
            "a\0b",
            ".lock",
        ] {
            let refused = disk.open(path, OpenMode::Create).await.err();
            assert!(
                matches!(refused, Some(DiskError::Device { .. })),
                "{path:?}: {refused:?}"
            );
            assert!(disk.remove(path).await.is_err(), "{path:?}");
            assert!(disk.rename("a", path).await.is_err(), "{path:?}");
        }
        assert!(
            disk.open("link", OpenMode::Existing).await.is_err(),
            "links are not followed"
        );
    });
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_root_is_made_with_all_that_lacks_above_it() {
    let root = root("above");
    let below = root.join("a/b/c");
    create_root(&below).unwrap();
    create_root(&below).unwrap();
    assert!(below.is_dir());
    OsDisk::open(&root).unwrap();
    let below_a_file = root.join(LOCK_NAME).join("d");
    assert!(create_root(&below_a_file).is_err());
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_root_has_one_owner_at_a_time() {
    let root = root("locked");
    let disk = OsDisk::open(&root).unwrap();
    let file = disk.open_blocking("file", OpenMode::Create).unwrap();
    assert!(matches!(
        OsDisk::open(&root).err(),
        Some(DiskError::Locked { .. })
    ));
    drop(disk);
    assert!(OsDisk::open(&root).is_err(), "a file of it is still open");
    drop(file);
    OsDisk::open(&root).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
}
