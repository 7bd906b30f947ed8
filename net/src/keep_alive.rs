//! Is the other side still there, and how far away? Decided from what arrives and when.
//!
//! The calling side pings; the called side listens: those pings prove the caller's life to it, as its
//! pongs prove its own. Pings from both sides would prove each life twice.
//!
//! Invariants: silence alone condemns, and not while we ourselves do not read; a pong counts once.
//! Does not: send or wait.

use std::time::Duration;

use hedgerow_env::Instant;

use crate::frame::RequestId;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send this ping, then step again at once.
    Ping(RequestId),
    /// Step again at this instant.
    Wait(Instant),
    /// Nothing arrived for too long: close.
    Dead,
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    /// Between pings; none on the side that only listens.
    interval: Option<Duration>,
    timeout: Duration,
    last_received: Instant,
    next_ping: Instant,
    pings: u64,
    awaited: Option<(RequestId, Instant)>,
    reading: bool,
}

impl KeepAlive {
    /// A connection that was agreed on at `now`. Without an `interval` it never pings.
    #[must_use]
    pub(crate) fn new(now: Instant, interval: Option<Duration>, timeout: Duration) -> Self {
        Self {
            interval,
            timeout,
            last_received: now,
            next_ping: now + interval.unwrap_or(timeout),
            pings: 0,
            awaited: None,
            reading: true,
        }
    }

    /// Something arrived.
    pub(crate) fn received(&mut self, now: Instant) {
        self.last_received = self.last_received.max(now);
    }

    /// We stop or resume reading, because too much is being served. Silence counts from `now` on.
    pub(crate) fn reading(&mut self, reading: bool, now: Instant) {
        self.reading = reading;
        self.received(now);
    }

    /// A pong came: the round trip, when it answers the newest ping.
    pub(crate) fn pong(&mut self, id: RequestId, now: Instant) -> Option<Duration> {
        let (awaited, sent) = self.awaited?;
        if awaited != id {
            return None;
        }
        self.awaited = None;
        Some(now.since(sent))
    }

    /// What to do at `now`.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        let dead_at = self.last_received + self.timeout;
        if self.reading && now >= dead_at {
            return Step::Dead;
        }
        let Some(interval) = self.interval else {
            // While we do not read there is nothing to judge before we do again.
            let look = if self.reading {
                dead_at
            } else {
                now + self.timeout
            };
            return Step::Wait(look);
        };
        if now >= self.next_ping {
            self.next_ping = now + interval;
            self.pings += 1;
            let id = RequestId(self.pings);
            self.awaited = Some((id, now));
            return Step::Ping(id);
        }
        if self.reading {
            Step::Wait(self.next_ping.min(dead_at))
        } else {
            Step::Wait(self.next_ping)
        }
    }
}

/// A smoothed round-trip time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Smoothed(Option<Duration>);

impl Smoothed {
    /// Takes one sample; each counts an eighth, as in RFC 6298 section 2.
    pub(crate) fn sample(&mut self, sample: Duration) {
        self.0 = Some(match self.0 {
            None => sample,
            Some(old) => (old * 7 + sample) / 8,
        });
    }

    /// The smoothed value, once there was a sample.
    #[must_use]
    pub(crate) const fn value(&self) -> Option<Duration> {
        self.0
    }
}
