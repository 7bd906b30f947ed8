//! A real file-system image to copy: ext4, made from the project's own tree.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::repository;
use crate::run::expected;

/// Size of the image.
pub(crate) const IMAGE_BYTES: u64 = 320 << 20;
/// Beside the tree: files whose contents nobody could make up, so that most of the image is data.
const FILLER_FILES: u64 = 24;
const FILLER_FILE_BYTES: usize = 8 << 20;

/// Makes the image in `folder`. Another edition has the same tree and other filler.
pub(crate) fn make(folder: &Path, edition: u64) -> anyhow::Result<PathBuf> {
    let tree = folder.join("tree");
    let root = repository::root();
    for name in repository::files(&root)? {
        let copy = tree.join("source").join(&name);
        let parent = copy.parent().expect("it has the tree above it");
        std::fs::create_dir_all(parent)?;
        std::fs::copy(root.join(&name), &copy).with_context(|| name.clone())?;
    }
    let filler = tree.join("filler");
    std::fs::create_dir_all(&filler)?;
    for number in 0..FILLER_FILES {
        std::fs::write(
            filler.join(number.to_string()),
            noise(edition * FILLER_FILES + number, FILLER_FILE_BYTES),
        )?;
    }
    let image = folder.join(format!("image-{edition}"));
    let size = format!("{}M", IMAGE_BYTES >> 20);
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.env("PATH", path_with_sbin());
    expected(
        mke2fs
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(&tree)
            .arg(&image)
            .arg(&size),
    )?;
    std::fs::remove_dir_all(&tree)?;
    Ok(image)
}

/// Whether the image is a file system without errors.
pub(crate) fn check(image: &Path) -> anyhow::Result<()> {
    let mut e2fsck = Command::new("e2fsck");
    expected(
        e2fsck
            .env("PATH", path_with_sbin())
            .args(["-f", "-n"])
            .arg(image),
    )?;
    Ok(())
}

/// Users that are not root often lack the folders where these programs are.
pub(crate) fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

/// Bytes that look random and are the same for the same seed (xorshift64*).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::noise;

    #[test]
    fn filler_differs_from_file_to_file_and_not_from_run_to_run() {
        assert_eq!(noise(1, 1000), noise(1, 1000));
        assert_ne!(noise(1, 1000), noise(2, 1000));
        assert_eq!(noise(3, 13).len(), 13);
    }
}
