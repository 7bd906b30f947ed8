//! One node with CHAP: libiscsi's initiator gets in with the secret, and with nothing else.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;

use super::cluster::{Node, ask_node, free_ports, url_of, wait_until};
use super::{qemu, step};
use crate::run::{collected, limited};

/// Forming and exporting take a second or two.
const EXPORT_LIMIT: Duration = Duration::from_secs(30);
/// A login is refused or granted at once.
const LOGIN_LIMIT: Duration = Duration::from_secs(20);
/// What libiscsi says when a target refuses a login (RFC 7143 11.13.5: status class 2, detail 1).
const REFUSED: &str = "Authentication failure";
const DISK: &str = "guarded";
const USER: &str = "initiator";
const SECRET: &str = "a-long-enough-secret";

pub(super) fn tell(folder: &Path) -> anyhow::Result<String> {
    let ports = free_ports(2)?;
    let addresses = [format!("127.0.0.1:{}", ports[0])];
    let portal = format!("127.0.0.1:{}", ports[1]);
    let chap = format!("{portal}\"\nchap_user = \"{USER}\"\nchap_secret = \"{SECRET}");
    let mut node = Node::configure(folder, 1, &addresses, Some(&chap))?;
    let url = step("start a node with CHAP, create a disk", || {
        node.start()?;
        let ask = |arguments: &[&str]| ask_node(&addresses[0], arguments);
        let alone = ["disk", "create", DISK, "64MiB", "--replication-factor", "1"];
        wait_until(EXPORT_LIMIT, || ask(&alone), |_| Some(()))?;
        let list = || ask(&["disk", "list"]);
        wait_until(EXPORT_LIMIT, list, |list| url_of(list, DISK))
    })?;
    let with = |login: &str| url.replacen("iscsi://", &format!("iscsi://{login}"), 1);
    let good = with(&format!("{USER}%{SECRET}@"));
    step("log in with the secret, write and read", || {
        must_log_in(&good)?;
        qemu::io(&good, &["write -P 0x5a 0 4k", "read -P 0x5a 0 4k"])
    })?;
    let wrong = [
        ("another secret", format!("{USER}%another-long-secret@")),
        ("another user", format!("somebody%{SECRET}@")),
        ("no secret", String::new()),
    ];
    for (what, login) in &wrong {
        step(&format!("{what} is refused"), || {
            if logs_in(&with(login))? {
                bail!("it was let in");
            }
            node.must_run()
        })?;
    }
    step("the secret still opens", || must_log_in(&good))?;
    step("SIGTERM", || node.terminate())?;
    Ok(format!("{} wrong logins refused", wrong.len()))
}

fn must_log_in(url: &str) -> anyhow::Result<()> {
    match logs_in(url)? {
        true => Ok(()),
        false => bail!("{url}: the login was refused"),
    }
}

/// Whether an initiator gets in at `url` and hears who is there. Any other end than these two, also a
/// time-out, tells nothing and is an error.
fn logs_in(url: &str) -> anyhow::Result<bool> {
    let finished = collected(limited(LOGIN_LIMIT, "iscsi-inq").arg(url))?;
    if finished.status.success() {
        return Ok(true);
    }
    if finished.text.contains(REFUSED) {
        return Ok(false);
    }
    bail!(
        "iscsi-inq {url}: {}\n{}",
        finished.status,
        finished.text.trim_end()
    );
}
