//! What a process has used, as Linux counts it.

use anyhow::Context as _;

/// Linux counts processor time in these units for programs, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A reading of `/proc/PID`.
pub(crate) struct Usage {
    cpu_ticks: u64,
    pub(crate) memory_bytes: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Usage> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).context(path)
        };
        let cpu_ticks = cpu_ticks(&read("stat")?).context("/proc/PID/stat")?;
        let memory_bytes = resident_bytes(&read("status")?).context("/proc/PID/status")?;
        Ok(Usage {
            cpu_ticks,
            memory_bytes,
        })
    }

    /// Seconds of processor time since `earlier`, of all threads.
    pub(crate) fn since(&self, earlier: &Usage) -> f64 {
        (self.cpu_ticks - earlier.cpu_ticks) as f64 / TICKS_PER_SECOND
    }
}

/// Fields 14 and 15, user and system; the second field is a name that may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `VmRSS:     1234 kB`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_last_bracket() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 90 0 0 0 31 11 0 0 20 0 1 0 5 9 8";
        assert_eq!(cpu_ticks(stat), Some(42));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.memory_bytes > 4096);
        assert_eq!(resident_bytes("VmRSS:\t  12 kB\n"), Some(12 << 10));
    }
}
