//! Is the other side still there, and how far away? Decided from what arrives and when.
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
    interval: Duration,
    /// While we read, pings go out in one of so many intervals.
    every: u32,
    timeout: Duration,
    last_received: Instant,
    next_ping: Instant,
    pings: u64,
    awaited: Option<(RequestId, Instant)>,
    reading: bool,
}

impl KeepAlive {
    /// A connection that was agreed on at `now`, pinging in each `every`-th interval as long as we
    /// read.
    #[must_use]
    pub(crate) fn new(now: Instant, interval: Duration, every: u32, timeout: Duration) -> Self {
        Self {
            interval,
            every,
            timeout,
            last_received: now,
            next_ping: now + interval * every,
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
        if !reading {
            // Its pings stay unanswered meanwhile: nothing else shows that we live.
            self.next_ping = self.next_ping.min(now + self.interval);
        }
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
        if now >= self.next_ping {
            let intervals = if self.reading { self.every } else { 1 };
            self.next_ping = now + self.interval * intervals;
            self.pings += 1;
            let id = RequestId(self.pings);
            self.awaited = Some((id, now));
            return Step::Ping(id);
        }
        // Looked at in each interval: whether we read may change.
        let next_look = self.next_ping.min(now + self.interval);
        if self.reading {
            Step::Wait(next_look.min(dead_at))
        } else {
            Step::Wait(next_look)
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
