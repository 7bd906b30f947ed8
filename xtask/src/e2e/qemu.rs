//! qemu's tools as clients of our disks.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use serde_json::json;

use crate::run::{Background, expected, limited, typed};

/// Copies of a few hundred MiB take seconds; beyond this they hang.
pub(crate) const COPY_LIMIT: Duration = Duration::from_secs(240);
const IO_LIMIT: Duration = Duration::from_secs(120);

/// `qemu-img convert` of `image` onto the start of the disk at `url`.
fn convert(image: &Path, url: &str, options: &[&str]) -> anyhow::Result<Background> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-n", "-f", "raw", "-O", "raw"]);
    command.args(options).arg(image).arg(url);
    Background::start("qemu-img convert", &mut command)
}

/// Copies `image` in the background, at `rate` a second (such as `64M`) at most.
pub(crate) fn start_copy(image: &Path, url: &str, rate: &str) -> anyhow::Result<Background> {
    convert(image, url, &["-r", rate])
}

/// Copies `image` onto the start of the disk at `url`.
pub(crate) fn copy(image: &Path, url: &str) -> anyhow::Result<()> {
    convert(image, url, &[])?.finish(COPY_LIMIT)
}

/// Reads the first `bytes` of the disk at `url` and compares them with `image`, byte for byte.
pub(crate) fn compare(image: &Path, url: &str, bytes: u64) -> anyhow::Result<()> {
    let back = image.with_extension("back");
    let part = beginning(url, bytes)?;
    let mut command = limited(COPY_LIMIT, "qemu-img");
    command.args(["convert", "-O", "raw", &part]).arg(&back);
    expected(&mut command)?;
    same(image, &back)?;
    std::fs::remove_file(&back)?;
    Ok(())
}

/// How qemu is told to use the first `bytes` of the disk at `url`
/// (`iscsi://HOST:PORT/TARGET/LUN`) alone.
pub(crate) fn beginning(url: &str, bytes: u64) -> anyhow::Result<String> {
    let parts = url
        .strip_prefix("iscsi://")
        .map(|rest| rest.split('/').collect::<Vec<_>>());
    let Some([portal, target, lun]) = parts.as_deref() else {
        bail!("{url}: iscsi://HOST:PORT/TARGET/LUN is expected");
    };
    let disk = json!({
        "driver": "iscsi",
        "transport": "tcp",
        "portal": portal,
        "target": target,
        "lun": lun.parse::<u32>()?,
    });
    Ok(format!(
        "json:{}",
        json!({ "driver": "raw", "size": bytes, "file": disk })
    ))
}

/// An error that names the first byte in which two files differ.
pub(crate) fn same(left: &Path, right: &Path) -> anyhow::Result<()> {
    let (left_bytes, right_bytes) = (left.metadata()?.len(), right.metadata()?.len());
    if left_bytes != right_bytes {
        bail!("{left_bytes} bytes were written and {right_bytes} read back");
    }
    let mut left = BufReader::new(File::open(left)?);
    let mut right = BufReader::new(File::open(right)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let count = left.read(&mut a)?;
        if count == 0 {
            return Ok(());
        }
        right.read_exact(&mut b[..count]).context("it ends early")?;
        if let Some(index) = a[..count].iter().zip(&b[..count]).position(|(a, b)| a != b) {
            let at = offset + index;
            bail!(
                "byte {at} differs: {:#04x} was written, {:#04x} read",
                a[index],
                b[index]
            );
        }
        offset += count;
    }
}

/// Runs `qemu-io` commands on the disk at `url`; patterns that do not match are errors.
pub(crate) fn io(url: &str, commands: &[&str]) -> anyhow::Result<()> {
    let mut command = limited(IO_LIMIT, "qemu-io");
    command.args(["-f", "raw"]);
    for text in commands {
        command.args(["-c", text]);
    }
    command.arg(url);
    let text = expected(&mut command)?;
    judge_io(&text).with_context(|| typed(&command))
}

/// Older versions of qemu-io exit with 0 whatever happened.
fn judge_io(text: &str) -> anyhow::Result<()> {
    let bad = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("failed") || line.contains("error") || line.contains("cannot")
    };
    match text.lines().find(bad) {
        Some(line) => bail!("{line}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_becomes_options() {
        let text = beginning("iscsi://127.0.0.1:3260/iqn.2026-11.org.example:a/2", 4096).unwrap();
        assert!(text.starts_with("json:{"), "{text}");
        for part in [
            r#""portal":"127.0.0.1:3260""#,
            r#""lun":2"#,
            r#""size":4096"#,
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(beginning("nbd://127.0.0.1/a", 1).is_err());
    }

    #[test]
    fn qemu_io_is_not_taken_by_its_exit_code() {
        assert!(judge_io("read 4096/4096 bytes at offset 0\n4 KiB, 1 ops").is_ok());
        assert!(judge_io("Pattern verification failed at offset 0, 4096 bytes").is_err());
        assert!(judge_io("write failed: Input/output error").is_err());
    }

    #[test]
    fn the_first_difference_is_named() {
        let folder = std::env::temp_dir().join(format!("hedgerow-same-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (left, right) = (folder.join("left"), folder.join("right"));
        let mut bytes = vec![7; 3 << 20];
        std::fs::write(&left, &bytes).unwrap();
        std::fs::write(&right, &bytes).unwrap();
        assert!(same(&left, &right).is_ok());
        bytes[(2 << 20) + 5] = 8;
        std::fs::write(&right, &bytes).unwrap();
        let text = same(&left, &right).unwrap_err().to_string();
        assert!(text.contains("byte 2097157 differs"), "{text}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
