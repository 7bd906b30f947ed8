//! How long something took in the real world, and how much of a processor it had.
//!
//! Does not: reach into a world, whose clocks have no say here, nor any world into it: what it shows is
//! printed, and nothing is decided by it but when a sweep is over.

use std::time::Duration;

/// Runs from [`Stopwatch::start`] on.
pub(crate) struct Stopwatch {
    #[expect(clippy::disallowed_types, reason = "it runs outside any world")]
    began: std::time::Instant,
    cpu_before: Duration,
}

/// What a [`Stopwatch`] showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// Real time.
    pub(crate) wall: Duration,
    /// Processor time of this process.
    pub(crate) cpu: Duration,
}

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "it runs outside any world"
    )]
    pub(crate) fn start() -> Self {
        Self {
            began: std::time::Instant::now(),
            cpu_before: cpu_time(),
        }
    }

    pub(crate) fn taken(&self) -> Taken {
        Taken {
            wall: self.began.elapsed(),
            cpu: cpu_time().saturating_sub(self.cpu_before),
        }
    }
}

/// Processor time of this process; the simulated clock has no say here.
#[expect(unsafe_code, reason = "std offers no CPU clock")]
pub(crate) fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "Linux has this clock");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_uses_real_time_and_no_processor() {
        let watch = Stopwatch::start();
        let wait = Duration::from_millis(300);
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        // Nobody sends: this is a sleep.
        receiver.recv_timeout(wait).unwrap_err();
        drop(sender);
        let taken = watch.taken();
        assert!(taken.wall >= wait, "{taken:?}");
        // Other tests may run in this process: only that the two clocks differ is sure.
        assert_ne!(taken.wall, taken.cpu);
    }
}
