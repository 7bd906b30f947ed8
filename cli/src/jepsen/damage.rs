//! Damage to the files of a node that is down: bits turned over, spans zeroed, ends cut off.
//!
//! Only places that hold something are damaged, and the answer says which, so that damage that
//! could not be noticed is never counted.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use hedgerow_env::Random;
use hedgerow_jepsen::run::DamageKind;

/// Looks for a place that is not all zeros so many times.
const ATTEMPTS: u32 = 400;
const PAGE_BYTES: u64 = 4096;
/// At most so much is cut off or zeroed.
const SPAN_BYTES: u64 = 64 << 10;

/// Damages one file below `folder`; says which and how.
pub(super) fn damage(folder: &Path, kind: DamageKind, draw: u64) -> anyhow::Result<String> {
    let mut random = Random::from_seed(draw);
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort_unstable();
    if files.is_empty() {
        bail!("{} holds no files", folder.display());
    }
    for _ in 0..ATTEMPTS {
        let path = &files[random.index(files.len())];
        if let Some(done) = try_damage(path, kind, &mut random)? {
            let name = path.strip_prefix(folder).unwrap_or(path);
            return Ok(format!("{}: {done}", name.display()));
        }
    }
    bail!("{} holds nothing but zeros", folder.display())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if entry.file_name() != ".lock" {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// `None` when the drawn place holds nothing.
fn try_damage(
    path: &Path,
    kind: DamageKind,
    random: &mut Random,
) -> anyhow::Result<Option<String>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(None);
    }
    let page = random.below(length.div_ceil(PAGE_BYTES)) * PAGE_BYTES;
    let there = (length - page).min(PAGE_BYTES);
    let mut bytes = vec![0; usize::try_from(there)?];
    file.read_exact_at(&mut bytes, page)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let done = match kind {
        DamageKind::Flip => {
            let place = random.index(bytes.len());
            let bit = random.below(8);
            bytes[place] ^= 1 << bit;
            file.write_all_at(&bytes, page)?;
            format!(
                "bit {bit} of byte {} turned over",
                page + u64::try_from(place)?
            )
        }
        DamageKind::Zero => {
            let span = there.min(512 + random.below(SPAN_BYTES));
            file.write_all_at(&vec![0; usize::try_from(span)?], page)?;
            format!("{span} bytes from {page} on zeroed")
        }
        DamageKind::Truncate => {
            let cut = (1 + random.below(SPAN_BYTES)).min(length);
            file.set_len(length - cut)?;
            format!("the last {cut} of {length} bytes cut off")
        }
    };
    file.sync_all()?;
    Ok(Some(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "what is tested is what files hold"
    )]
    fn damage_changes_bytes_that_matter() {
        let folder = std::env::temp_dir().join(format!("hedgerow-damage-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("pool")).unwrap();
        let mut bytes = vec![0_u8; 1 << 20];
        bytes[500_000..504_096].fill(7);
        let path = folder.join("pool/journal");
        for kind in [DamageKind::Flip, DamageKind::Zero, DamageKind::Truncate] {
            std::fs::File::create(&path)
                .unwrap()
                .write_all_at(&bytes, 0)
                .unwrap();
            let told = damage(&folder, kind, 42).unwrap();
            assert!(told.starts_with("pool/journal: "), "{told}");
            assert_ne!(std::fs::read(&path).unwrap(), bytes, "{told}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
