//! The clients of a test: each performs one operation after the other, at the plan's rate.
//!
//! Invariant: a process whose operation has no known outcome performs no other; its client is
//! dropped, and a new process with a new client takes its place.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use hedgerow_env::{Env, Random};

use super::plan::{ClientPlan, TestPlan};
use super::recorder::Recorder;
use super::script::{NO_ANSWER, ScriptedOperation};
use super::target::{Client, Completion, Operation, Target};
use super::workload::Generator;

/// A client that failed at once waits this long: a refused connection costs no time by itself.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
/// A part of the final reads is tried again after this.
const FINALE_PAUSE: Duration = Duration::from_millis(250);

/// Clients that try each of the final reads once more.
const FINALE_SLOTS: usize = 32;

/// What the clients of a test share.
pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) plan: ClientPlan,
    /// All act for so long, then rest for as long; zero: they never rest.
    pub(super) rest: Duration,
    pub(super) target: Arc<dyn Target>,
    pub(super) recorder: Recorder,
    pub(super) generator: Mutex<Box<dyn Generator>>,
    pub(super) stopped: AtomicBool,
    /// What each slot does when, if it is written down.
    pub(super) script: Option<Vec<Vec<ScriptedOperation>>>,
}

impl Shared {
    /// The plan's script by slots.
    pub(super) fn script_of(plan: &TestPlan) -> Option<Vec<Vec<ScriptedOperation>>> {
        let script = plan.script.as_ref()?;
        let of = |slot| script.iter().filter(move |scripted| scripted.slot == slot);
        let slots = 0..plan.clients.concurrency;
        Some(slots.map(|slot| of(slot).cloned().collect()).collect())
    }
}

/// One slot: processes follow one another in it.
pub(super) struct Slot<'a> {
    shared: &'a Shared,
    slot: u32,
    process: u64,
    client: Box<dyn Client>,
    random: Random,
}

impl<'a> Slot<'a> {
    /// The slot number `slot`.
    pub(super) fn new(shared: &'a Shared, plan: &TestPlan, slot: u32) -> Self {
        let process = u64::from(slot);
        Self {
            shared,
            slot,
            process,
            client: shared.target.client(process),
            random: plan.random(&format!("client-{slot}")),
        }
    }

    /// Performs operations until the test stops.
    pub(super) async fn work(self) {
        let shared = self.shared;
        match &shared.script {
            Some(script) => {
                let own = usize::try_from(self.slot)
                    .ok()
                    .and_then(|slot| script.get(slot));
                self.follow(own.map_or(&[][..], Vec::as_slice)).await;
            }
            None => self.draw().await,
        }
    }

    /// Performs what is written down, each at its time or as soon as the one before it has ended.
    async fn follow(mut self, script: &[ScriptedOperation]) {
        let shared = self.shared;
        let zero = shared.env.now();
        for scripted in script {
            shared
                .env
                .sleep_until(zero + Duration::from_micros(scripted.at_us))
                .await;
            if shared.stopped.load(Ordering::Relaxed) {
                return;
            }
            let operation = scripted
                .operation()
                .expect("a plan is checked before it is run");
            let limit_ms = scripted.limit_ms.unwrap_or(shared.plan.timeout_ms);
            self.perform(&operation, Duration::from_millis(limit_ms))
                .await;
        }
    }

    async fn draw(mut self) {
        let shared = self.shared;
        let plan = shared.plan;
        let zero = shared.env.now();
        let mean = 1_000_000 * u64::from(plan.concurrency) / u64::from(plan.rate);
        while !shared.stopped.load(Ordering::Relaxed) {
            let pause = Duration::from_micros(self.random.below(2 * mean + 1));
            shared.env.sleep(pause).await;
            let rest = rest(shared.env.now().since(zero), shared.rest);
            shared.env.sleep(rest).await;
            let operation = with(&shared.generator, |generator| {
                generator.next(&mut self.random, self.process)
            });
            let limit = Duration::from_millis(plan.timeout_ms);
            let crashes = self.random.chance(u64::from(plan.crash_ppm), 1_000_000);
            let crash_after = Duration::from_micros(self.random.below(30_000));
            let limit = if crashes { crash_after } else { limit };
            let completion = self.perform(&operation, limit).await;
            if matches!(completion, Completion::Fail(_)) {
                shared.env.sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }

    /// Performs one operation; the outcome is unknown after `limit`.
    async fn perform(&mut self, operation: &Operation, limit: Duration) -> Completion {
        let shared = self.shared;
        shared.recorder.invoke(self.process, operation);
        let performing = self.client.perform(operation);
        let completion = match shared.env.timeout(limit, performing).await {
            Ok(completion) => completion,
            Err(_) => Completion::Unknown(format!("{NO_ANSWER}{} ms", limit.as_millis())),
        };
        shared
            .recorder
            .complete(self.process, operation, &completion);
        with(&shared.generator, |generator| {
            generator.learn(operation, &completion);
        });
        if matches!(completion, Completion::Unknown(_)) {
            self.process += u64::from(shared.plan.concurrency);
            self.client = shared.target.client(self.process);
        }
        completion
    }

    /// Performs `operations` in order, each again until it succeeds; false when `limit` passed
    /// first.
    pub(super) async fn all(&mut self, operations: Vec<Operation>, limit: Duration) -> bool {
        let shared = self.shared;
        let give_up = shared.env.now() + limit;
        for operation in operations {
            loop {
                let each = Duration::from_millis(shared.plan.timeout_ms);
                let left = give_up.since(shared.env.now());
                if left.is_zero() {
                    return false;
                }
                if let Completion::Ok(_) = self.perform(&operation, each.min(left)).await {
                    break;
                }
                shared.env.sleep(FINALE_PAUSE).await;
            }
        }
        true
    }

    /// Performs `operations`, each once; those that fail.
    async fn once(mut self, operations: &[Operation]) -> Vec<Operation> {
        let limit = Duration::from_millis(self.shared.plan.timeout_ms);
        let mut failing = Vec::new();
        for operation in operations {
            if !matches!(self.perform(operation, limit).await, Completion::Ok(_)) {
                failing.push(operation.clone());
            }
        }
        failing
    }
}

/// After [`Slot::all`] gave up: the operations that fail now, each tried once, and how many there are
/// that succeed. Many at once: where much is lost, each takes as long as a client has patience.
pub(super) async fn each_once(
    shared: &Shared,
    plan: &TestPlan,
    operations: Vec<Operation>,
) -> (Vec<Operation>, usize) {
    let share = operations.len().div_ceil(FINALE_SLOTS).max(1);
    let slots = operations.chunks(share).zip(plan.clients.concurrency + 2..);
    let performing = slots.map(|(share, slot)| Slot::new(shared, plan, slot).once(share));
    let failing = join_all(performing).await.concat();
    let succeeded = operations.len() - failing.len();
    (failing, succeeded)
}

/// How long clients have yet to rest at `at`: all do so at the same times, and come back together.
fn rest(at: Duration, turn: Duration) -> Duration {
    if turn.is_zero() {
        return Duration::ZERO;
    }
    let into = Duration::from_nanos(
        u64::try_from(at.as_nanos() % (2 * turn).as_nanos()).expect("a short time"),
    );
    if into < turn {
        Duration::ZERO
    } else {
        2 * turn - into
    }
}

/// Acts on the generator.
pub(super) fn with<T>(
    generator: &Mutex<Box<dyn Generator>>,
    act: impl FnOnce(&mut Box<dyn Generator>) -> T,
) -> T {
    act(&mut generator.lock().expect("no panic under this lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_rest_together_and_come_back_together() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(7_777), Duration::ZERO), ms(0));
        for (at, yet) in [(0, 0), (299, 0), (300, 300), (599, 1), (600, 0), (950, 250)] {
            assert_eq!(rest(ms(at), ms(300)), ms(yet), "{at}");
        }
    }
}
