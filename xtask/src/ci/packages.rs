//! The programs of the machine that the steps need: found, installed through apt, or asked for.
//!
//! Invariant: a step never finds one of these missing, nor the right to mount where it needs that. As root on a machine with apt what lacks is
//! installed; elsewhere the run ends here and says what to install.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use super::Tally;
use crate::repository;
use crate::run::{collected, expected, is_root, shown};

/// Seconds that apt waits while another process holds its lock.
const APT_LOCK_SECONDS: u32 = 400;

/// (program, Debian package that has it).
const PROGRAMS: &[(&str, &str)] = &[
    ("git", "git"),
    ("timeout", "coreutils"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("losetup", "mount"),
    ("mount", "mount"),
    ("qemu-img", QEMU),
    ("qemu-io", QEMU),
    ("qemu-storage-daemon", QEMU),
    ("iscsi-test-cu", "libiscsi-bin"),
    ("iscsi-inq", "libiscsi-bin"),
    // The step `jepsen` tests it, as a known system beside ours.
    ("etcd", "etcd-server"),
    // Its partitions are cut between network namespaces.
    ("ip", "iproute2"),
    ("nft", "nftables"),
];

const QEMU: &str = "qemu-utils";
/// qemu's iSCSI driver. It loads only into a qemu of exactly its own version.
const QEMU_DRIVERS: &str = "qemu-block-extra";

/// One story of the step `e2e` mounts a file system. Said now, not after all steps before it.
pub(super) fn check_user(is_root: bool, skipped: &[&str]) -> anyhow::Result<()> {
    if !is_root && !skipped.contains(&"e2e") {
        bail!("the step e2e mounts a file system: run this as root, or leave it out: --skip e2e");
    }
    Ok(())
}

/// Finds what is missing and installs it; returns the number of programs that are there.
pub(super) fn install() -> anyhow::Result<Tally> {
    if missing().is_empty() {
        return Ok(Tally::passed(PROGRAMS.len() + 1));
    }
    if !can_install() {
        bail!("{}", advice(&missing()));
    }
    shown(apt().arg("update"))?;
    install_plain()?;
    if missing()
        .iter()
        .any(|package| [QEMU, QEMU_DRIVERS].contains(package))
    {
        install_qemu()?;
    }
    let left = missing();
    if !left.is_empty() {
        bail!("apt installed what it had, and yet: {}", advice(&left));
    }
    Ok(Tally::passed(PROGRAMS.len() + 1))
}

/// The packages that lack, each once.
fn missing() -> Vec<&'static str> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !installed(program))
        .map(|(_, package)| *package)
        .collect();
    if !qemu_speaks_iscsi() {
        packages.push(QEMU_DRIVERS);
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn advice(packages: &[&str]) -> String {
    let mut text = format!("install these packages first: {}", packages.join(" "));
    if packages.contains(&QEMU_DRIVERS) {
        text.push_str(" (qemu-block-extra of exactly the version of qemu-utils)");
    }
    text.push_str("; on Debian and Ubuntu this command does it by itself when root");
    text
}

/// In one of the usual folders or in PATH; users that are not root often lack the sbin folders.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Path::new);
    let folders = std::env::split_paths(&path).collect::<Vec<_>>();
    let mut folders = folders.iter().map(std::path::PathBuf::as_path).chain(usual);
    folders.any(|folder| folder.join(program).is_file())
}

/// Asks qemu itself, with an address where nobody listens: the error tells whether it has a driver.
fn qemu_speaks_iscsi() -> bool {
    let url = "iscsi://127.0.0.1:1/iqn.2026-11.org.example:none/0";
    let mut command = Command::new("qemu-img");
    let asked = collected(command.args(["info", "-f", "raw", url]));
    asked.is_ok_and(|answer| speaks_iscsi(&answer.text))
}

fn speaks_iscsi(answer: &str) -> bool {
    !answer.contains("Unknown protocol") && answer.contains("iSCSI")
}

fn can_install() -> bool {
    installed("apt-get") && is_root().is_ok_and(|is_root| is_root)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args([
        "-q",
        "-o",
        &format!("DPkg::Lock::Timeout={APT_LOCK_SECONDS}"),
    ]);
    command
}

fn install_plain() -> anyhow::Result<()> {
    let plain: Vec<&str> = missing()
        .into_iter()
        .filter(|package| ![QEMU, QEMU_DRIVERS].contains(package))
        .collect();
    if plain.is_empty() {
        return Ok(());
    }
    shown(
        apt()
            .args(["install", "-y", "--no-install-recommends"])
            .args(plain),
    )
}

/// Both packages in one version, out of one suite; the version that is installed already if any.
fn install_qemu() -> anyhow::Result<()> {
    let mut query = Command::new("dpkg-query");
    let known = collected(query.args(["-W", "-f", "${Version}", QEMU]))?;
    let known = known.status.success().then(|| known.text.trim().to_owned());
    let mut sources = None;
    let mut found = offered(sources.as_deref(), known.as_deref())?;
    if found.is_none() {
        // An image may hold a qemu of the backports without naming these among its sources.
        sources = Some(sources_with_backports()?);
        shown(with_sources(&mut apt(), sources.as_deref()).arg("update"))?;
        found = offered(sources.as_deref(), known.as_deref())?;
    }
    let Some((version, suite)) = found else {
        bail!(
            "no version of {QEMU_DRIVERS} fits {QEMU} {}",
            known.unwrap_or_default()
        );
    };
    let both = [
        format!("{QEMU}={version}"),
        format!("{QEMU_DRIVERS}={version}"),
    ];
    let install = [
        "install",
        "-y",
        "--no-install-recommends",
        "--allow-downgrades",
    ];
    let both = if known.as_deref() == Some(version.as_str()) {
        &both[1..]
    } else {
        &both
    };
    let mut command = apt();
    with_sources(&mut command, sources.as_deref()).args(install);
    shown(command.args(["-t", &suite]).args(both))
}

/// Lets apt read `list` in the place of its main list; the lists in its folder count all the same.
fn with_sources<'a>(command: &'a mut Command, list: Option<&Path>) -> &'a mut Command {
    match list {
        Some(list) => command.args(["-o", &format!("Dir::Etc::sourcelist={}", list.display())]),
        None => command,
    }
}

/// What the sources offer of both packages.
fn offered(list: Option<&Path>, known: Option<&str>) -> anyhow::Result<Option<(String, String)>> {
    let madison = |package: &str| {
        let mut command = Command::new("apt-cache");
        expected(with_sources(&mut command, list).args(["madison", package]))
    };
    Ok(same_version(
        &madison(QEMU)?,
        &madison(QEMU_DRIVERS)?,
        known,
    ))
}

/// The main list of the machine and the backports of its release, from the mirror that it uses.
fn sources_with_backports() -> anyhow::Result<PathBuf> {
    let release = std::fs::read_to_string("/etc/os-release")?;
    let offers = expected(Command::new("apt-cache").args(["madison", QEMU_DRIVERS]))?;
    let Some(backports) = backports_of(&release, &offers) else {
        bail!("apt names no mirror of this release: install {QEMU_DRIVERS} by hand");
    };
    let main = std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let list = repository::target().join("apt-sources.list");
    std::fs::create_dir_all(repository::target())?;
    std::fs::write(&list, format!("{main}\n{backports}\n"))?;
    Ok(list)
}

/// The source line of a release's backports, on the mirror from which `offers` has the release.
fn backports_of(os_release: &str, offers: &str) -> Option<String> {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?
        .trim_matches('"');
    let mirror = offers.lines().find_map(|line| {
        let mut words = line.split('|').nth(2)?.split_whitespace();
        let mirror = words.next()?;
        (words.next()? == format!("{name}/main")).then_some(mirror)
    })?;
    Some(format!("deb {mirror} {name}-backports main"))
}

/// The first version that both packages are offered in, with its suite. Lines are
/// `qemu-utils | 1:7.2+dfsg-7 | http://deb.debian.org/debian bookworm/main amd64 Packages`.
fn same_version(tools: &str, drivers: &str, known: Option<&str>) -> Option<(String, String)> {
    let parse = |text: &str| -> Vec<(String, String)> {
        let lines = text.lines().filter_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            let version = columns.nth(1)?.to_owned();
            let suite = columns
                .next()?
                .split_whitespace()
                .nth(1)?
                .split('/')
                .next()?;
            Some((version, suite.to_owned()))
        });
        lines.collect()
    };
    let tools = parse(tools);
    let fits = |version: &str| {
        known.is_none_or(|known| known == version)
            && (known.is_some() || tools.iter().any(|(offered, _)| offered == version))
    };
    parse(drivers)
        .into_iter()
        .find(|(version, _)| fits(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: &str = "\
qemu-utils | 1:10.0.2~bpo12+1 | http://deb.example.org/debian bookworm-backports/main amd64 Packages
qemu-utils | 1:7.2+deb12u18 | http://deb.example.org/debian bookworm/main amd64 Packages
";

    fn drivers() -> String {
        let newer = "qemu-block-extra | 1:10.1~bpo12+1 | http://deb.example.org/debian \
                     bookworm-backports/main amd64 Packages\n";
        format!("{newer}{}", TOOLS.replace("qemu-utils", "qemu-block-extra"))
    }

    #[test]
    fn the_driver_has_the_version_of_the_installed_tools() {
        let chosen = same_version(TOOLS, &drivers(), Some("1:7.2+deb12u18"));
        assert_eq!(chosen, Some(("1:7.2+deb12u18".into(), "bookworm".into())));
    }

    #[test]
    fn a_machine_without_either_gets_the_newest_common_version() {
        let chosen = same_version(TOOLS, &drivers(), None);
        assert_eq!(
            chosen,
            Some(("1:10.0.2~bpo12+1".into(), "bookworm-backports".into()))
        );
        assert_eq!(same_version(TOOLS, "", None), None);
    }

    #[test]
    fn backports_come_from_the_mirror_of_the_release() {
        let release = "PRETTY_NAME=\"Debian\"\nVERSION_CODENAME=bookworm\n";
        let offers = "\
qemu-block-extra | 1:7.2-2 | http://security.example.org/debian-security bookworm-security/main amd64 Packages
qemu-block-extra | 1:7.2-1 | http://deb.example.org/debian bookworm/main amd64 Packages
";
        assert_eq!(
            backports_of(release, offers).as_deref(),
            Some("deb http://deb.example.org/debian bookworm-backports main")
        );
        assert_eq!(backports_of(release, ""), None);
        assert_eq!(backports_of("ID=debian\n", offers), None);
    }

    #[test]
    fn qemu_tells_whether_it_has_the_driver() {
        assert!(!speaks_iscsi(
            "qemu-img: Could not open 'iscsi://...': Unknown protocol 'iscsi'"
        ));
        assert!(speaks_iscsi(
            "iSCSI: Failed to connect to LUN : connect failed"
        ));
        assert!(!speaks_iscsi("sh: qemu-img: not found"));
    }

    #[test]
    fn every_program_that_a_step_runs_is_seen_to() {
        for step in ["qemu-img", "losetup", "iscsi-test-cu", "etcd"] {
            let found = PROGRAMS.iter().any(|(program, _)| *program == step);
            assert!(found, "{step}");
        }
    }

    #[test]
    fn advice_names_every_package() {
        let text = advice(&["libiscsi-bin", QEMU_DRIVERS]);
        assert!(text.contains("libiscsi-bin qemu-block-extra") && text.contains("exactly"));
    }
}
