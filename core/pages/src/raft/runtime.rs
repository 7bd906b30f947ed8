//! openraft's runtime over [`Env`]: one type, so that openraft is compiled once for production and
//! simulation alike.
//!
//! Invariants: every task runs under the `Env` of the node that spawned it, found through
//! [`current_env`]; time, timers, tasks and randomness come from that `Env` alone; all waiters wake
//! in a fixed order.
//! Does not: run anything itself: the node's own executor does.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use hedgerow_env::{BoxFuture, Env, Random, current_env};
use openraft_rt::OptionalSend;
use tokio::sync::oneshot;

use super::{channels, watch};

/// The runtime.
#[derive(Debug)]
pub(crate) struct EnvRuntime;

/// openraft subtracts time-outs from the present; a clock that began just now must not underflow.
const CLOCK_OFFSET: Duration = Duration::from_secs(24 * 3600);

/// A node's replicas look at their clocks at these moments, all at once: otherwise each wakes the
/// process by itself, many times a second for every group, however idle. Elections are told apart by
/// more than that, and each node counts from a zero of its own.
const LOOKS: Duration = Duration::from_millis(25);

/// The next of the [`LOOKS`], for a deadline that is not nearer than they are apart.
fn at_a_look(now: hedgerow_env::Instant, deadline: hedgerow_env::Instant) -> hedgerow_env::Instant {
    if deadline.since(now) < LOOKS {
        return deadline;
    }
    let looks_ns = u64::try_from(LOOKS.as_nanos()).expect("milliseconds fit 64 bits");
    let deadline_ns = deadline.as_nanoseconds().next_multiple_of(looks_ns);
    hedgerow_env::Instant::from_nanoseconds(deadline_ns)
}

fn env() -> Env {
    current_env().expect("openraft runs only in tasks spawned through Env")
}

/// An instant of the node's clock, a day ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(hedgerow_env::Instant);

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub<Self> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.since(earlier.0)
    }
}

impl openraft_rt::Instant for Instant {
    fn now() -> Self {
        Self(env().now() + CLOCK_OFFSET)
    }
}

/// The task ended without a result: it was aborted or its node stopped.
#[derive(Debug)]
pub(crate) struct JoinError;

impl fmt::Display for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("task ended without a result")
    }
}

/// Awaits a task's result; dropping it lets the task run on.
pub(crate) struct JoinHandle<T>(oneshot::Receiver<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(context).map_err(|_| JoinError)
    }
}

/// The deadline passed first.
#[derive(Debug)]
pub(crate) struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("deadline passed; the outcome is unknown")
    }
}

/// A future with a deadline, whose timer is armed once.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: BoxFuture<'static, ()>,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The future first: a result that is there wins over the clock.
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.as_mut().poll(context).map(|()| Err(TimedOut))
    }
}

/// A labelled random stream of the node in `rand`'s shape.
pub(crate) struct Rng(Random);

impl rand::TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::try_from(self.0.bits() >> 32).expect("32 bits remain"))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.bits())
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(buffer);
        Ok(())
    }
}

impl openraft_rt::AsyncRuntime for EnvRuntime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = BoxFuture<'static, ()>;
    type Instant = Instant;
    type TimeoutError = TimedOut;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Rng;
    type Mpsc = channels::Mpsc;
    type Watch = watch::Watch;
    type Oneshot = channels::Oneshot;
    type Mutex<T: OptionalSend + 'static> = channels::Mutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        env().spawn("raft", async move {
            // Nobody waits for most results.
            let _ = sender.send(future.await);
        });
        JoinHandle(receiver)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        env().sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        let env = env();
        env.sleep_until(at_a_look(env.now(), deadline.0 - CLOCK_OFFSET))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Timeout<F> {
        Timeout {
            future: Box::pin(future),
            sleep: Self::sleep(duration),
        }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> Timeout<F> {
        Timeout {
            future: Box::pin(future),
            sleep: Self::sleep_until(deadline),
        }
    }

    fn is_panic(_error: &JoinError) -> bool {
        // A panic ends the node before anybody could ask.
        false
    }

    fn thread_rng() -> Rng {
        Rng(env().random("raft"))
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    /// For openraft's conformance suite alone: polls on this thread, within the task that calls it.
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            std::thread::park();
        }
    }

    async fn spawn_blocking<F, T>(job: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(env().blocking("raft", job).await)
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
