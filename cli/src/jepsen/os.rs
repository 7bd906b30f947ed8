//! What a tester asks of the operating system: signals, and who owns a connection.
//!
//! Linux alone: connections are found in `/proc`. So unmodified programs can be partitioned, each
//! behind one proxy, without telling them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use hedgerow_jepsen::run::fault_proxy::Identify;

/// The process of each node that runs.
pub(super) type Pids = Arc<Mutex<BTreeMap<u16, u32>>>;

/// A signal that a tester sends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signal {
    Terminate,
    Stop,
    Continue,
}

/// Sends `signal` to one process, which must be a child that was not waited for.
#[expect(unsafe_code, reason = "std sends SIGKILL alone")]
pub(super) fn send(pid: u32, signal: Signal) -> std::io::Result<()> {
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    };
    let pid = libc::pid_t::try_from(pid).map_err(std::io::Error::other)?;
    // SAFETY: plain integers; the child is not reaped, so its number belongs to nobody else.
    if unsafe { libc::kill(pid, number) } == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error())
}

/// The letter of a process's state: `T` when it is stopped.
pub(super) fn state(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too.
    text.rsplit_once(") ")?.1.chars().next()
}

/// Addresses of loopback that are free now; held together, so that they differ.
pub(super) fn free_addresses(count: usize) -> anyhow::Result<Vec<String>> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?);
    }
    held.iter()
        .map(|listener| Ok(listener.local_addr()?.to_string()))
        .collect()
}

/// Finds the node whose process holds the caller's end of a connection.
pub(super) fn identify(pids: &Pids) -> Identify {
    let pids = Arc::clone(pids);
    Arc::new(move |caller, own| {
        let inode = socket_inode(caller, own)?;
        let link = format!("socket:[{inode}]");
        let pids = pids.lock().expect("no panic under this lock").clone();
        pids.into_iter()
            .find(|(_, pid)| holds(*pid, &link))
            .map(|(node, _)| node)
    })
}

/// The inode of the IPv4 socket with these two ends.
fn socket_inode(local: &str, remote: &str) -> Option<u64> {
    let local = hexadecimal(local)?;
    let remote = hexadecimal(remote)?;
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let found = fields.next()? == local && fields.next()? == remote;
        // state, queues, timer, retransmits, uid, timeout, inode
        let inode = found.then(|| fields.nth(6))??.parse().ok()?;
        (inode != 0).then_some(inode)
    })
}

/// `127.0.0.1:80` as `/proc/net/tcp` writes it: the address in the machine's byte order.
fn hexadecimal(address: &str) -> Option<String> {
    let SocketAddr::V4(address) = address.parse().ok()? else {
        return None;
    };
    let bits = u32::from_ne_bytes(Ipv4Addr::octets(address.ip()));
    Some(format!("{bits:08X}:{:04X}", address.port()))
}

fn holds(pid: u32, link: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.into_iter().any(|found| found.as_os_str() == link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_this_process_is_found_and_a_strangers_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let stream = std::net::TcpStream::connect(&own).unwrap();
        let caller = stream.local_addr().unwrap().to_string();
        let pids: Pids = Arc::default();
        let identify = identify(&pids);
        assert_eq!(identify(&caller, &own), None);
        pids.lock().unwrap().insert(4, std::process::id());
        assert_eq!(identify(&caller, &own), Some(4));
        assert_eq!(identify("127.0.0.1:1", &own), None);
        assert_eq!(identify("nonsense", &own), None);
    }

    #[test]
    fn a_stopped_process_shows_it() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        send(child.id(), Signal::Stop).unwrap();
        let stopped = (0..1000).any(|_| state(child.id()) == Some('T'));
        assert!(stopped);
        send(child.id(), Signal::Continue).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
