//! Lives: start, crash, restart, pause, halt, exit; labelled randomness.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hedgerow_env::{HaltReason, current_env};
use hedgerow_sim::world::{
    Crash, CrashLoop, FaultAction, FaultNumber, NodeSpec, NodeStatus, WorldConfig, run_in_world,
};

use crate::{check, nodes};

/// A program that counts its seconds in `ticks`.
fn ticking(
    ticks: &Arc<AtomicU64>,
) -> impl Fn(hedgerow_env::Env) -> hedgerow_env::BoxFuture<'static, ()> + Send + Sync + 'static {
    let ticks = Arc::clone(ticks);
    move |env| {
        let ticks = Arc::clone(&ticks);
        Box::pin(async move {
            loop {
                env.sleep(Duration::from_secs(1)).await;
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        })
    }
}

#[test]
fn a_crashed_node_stands_still_until_it_restarts_as_another_incarnation() {
    check(1, |world| async move {
        let [a] = nodes(&world);
        let ticks = Arc::new(AtomicU64::new(0));
        world.start(a, ticking(&ticks));
        world.sleep(Duration::from_millis(3_500)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 3);
        assert!(world.crash(a, Crash::POWER));
        assert!(!world.crash(a, Crash::POWER), "it is down already");
        assert_eq!(world.status(a), NodeStatus::Down);
        assert!(world.env(a).is_none());
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 3);
        world.restart(a);
        assert_eq!((world.incarnation(a), world.status(a)), (2, NodeStatus::Up));
        world.sleep(Duration::from_millis(2_500)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 5);
    });
}

#[test]
fn a_paused_node_does_nothing_and_its_clock_goes_on() {
    check(2, |world| async move {
        let [a] = nodes(&world);
        let ticks = Arc::new(AtomicU64::new(0));
        let env = world.start(a, ticking(&ticks));
        world.sleep(Duration::from_millis(1_500)).await;
        let before = env.now();
        assert!(world.pause(a));
        assert_eq!(world.status(a), NodeStatus::Paused);
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 1);
        assert_eq!(env.now().since(before).as_secs(), 10);
        assert!(world.resume(a));
        world.sleep(Duration::from_millis(1)).await;
        assert_eq!(
            ticks.load(Ordering::Relaxed),
            2,
            "the timer that was due fires now"
        );
        world.sleep(Duration::from_secs(2)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 4);
    });
}

#[test]
fn a_paused_node_can_crash() {
    check(3, |world| async move {
        let [a] = nodes(&world);
        let ticks = Arc::new(AtomicU64::new(0));
        world.start(a, ticking(&ticks));
        world.pause(a);
        world.sleep(Duration::from_secs(5)).await;
        assert!(world.crash(a, Crash::KILL));
        world.restart(a);
        world.sleep(Duration::from_millis(1_500)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn halt_stops_everything_and_tells_why() {
    check(4, |world| async move {
        let [a] = nodes(&world);
        let after = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&after);
        let env = world.start_idle(a);
        let halting = env.clone();
        env.spawn("halting", async move {
            halting.halt(HaltReason::Invariant("one is two".to_owned()));
            halting.halt(HaltReason::Invariant("the first reason stays".to_owned()));
            halting.sleep(Duration::ZERO).await;
            halting.sleep(Duration::from_secs(1)).await;
            seen.fetch_add(1, Ordering::Relaxed);
        });
        world.wait_down(a).await;
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(
            world.halted(a),
            Some(HaltReason::Invariant("one is two".to_owned()))
        );
        assert_eq!(after.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_program_that_ends_takes_its_tasks_with_it() {
    check(5, |world| async move {
        let [a] = nodes(&world);
        let ticks = Arc::new(AtomicU64::new(0));
        let background = ticking(&ticks);
        world.start(a, move |env| {
            let background = background(env.clone());
            Box::pin(async move {
                let task = env.clone();
                env.spawn("background", async move {
                    assert!(current_env().is_some(), "a task finds its node");
                    drop(task);
                    background.await;
                });
                env.sleep(Duration::from_millis(2_500)).await;
            })
        });
        assert_eq!(world.wait_down(a).await, NodeStatus::Exited);
        world.sleep(Duration::from_secs(9)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn aborted_tasks_stop_and_others_do_not() {
    check(6, |world| async move {
        let [a] = nodes(&world);
        let env = world.start_idle(a);
        let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let tasks = counts.each_ref().map(|ticks| {
            let task = ticking(ticks);
            env.spawn("ticking", task(env.clone()))
        });
        world.sleep(Duration::from_millis(1_500)).await;
        tasks[0].abort();
        world.sleep(Duration::from_secs(3)).await;
        assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [1, 4]);
    });
}

#[test]
fn a_new_draw_in_one_place_shifts_no_other() {
    let draws = |extra: bool| {
        check(7, move |world| async move {
            let [a, b] = nodes(&world);
            let (one, other) = (world.start_idle(a), world.start_idle(b));
            if extra {
                one.random("something new").bits();
                drop(one.secret(16));
            }
            let mut stream = one.random("elections");
            [
                stream.bits(),
                stream.bits(),
                one.random("elections").bits(),
                other.secret(8)[0].into(),
            ]
        })
    };
    assert_eq!(draws(false), draws(true));
    let [first, _, second_stream, _] = draws(false);
    assert_ne!(first, second_stream);
}

#[test]
fn a_panic_and_a_deadlock_fail_the_run_with_its_seed() {
    let failure = run_in_world(WorldConfig::new(8), |world| async move {
        let a = world.add_node(NodeSpec::new("a", "r", "d"));
        world.start(a, |env| {
            Box::pin(async move {
                env.sleep(Duration::from_secs(1)).await;
                panic!("the invariant {} broke", 42);
            })
        });
        std::future::pending::<()>().await;
    });
    let failure = failure.expect_err("the node panicked");
    assert!(failure.to_string().contains("seed 8"), "{failure}");
    assert!(
        failure.to_string().contains("the invariant 42 broke"),
        "{failure}"
    );
    assert!(failure.trace.events > 0);

    let failure = run_in_world(WorldConfig::new(9), |_| std::future::pending::<()>());
    assert!(
        failure
            .expect_err("nothing can happen")
            .message
            .contains("block forever")
    );

    let mut config = WorldConfig::new(10);
    config.time_limit = Duration::from_secs(1);
    let failure = run_in_world(config, |world| async move {
        let [a] = nodes(&world);
        world.start(a, |_| {
            Box::pin(async {
                loop {
                    madsim::task::yield_now().await;
                }
            })
        });
        std::future::pending::<()>().await;
    });
    assert!(
        failure
            .expect_err("a loop that never sleeps")
            .message
            .contains("limit")
    );
}

#[test]
fn a_crash_loop_ends_each_life_soon_until_it_ends() {
    check(13, |world| async move {
        let [a] = nodes(&world);
        let ticks = Arc::new(AtomicU64::new(0));
        world.start(a, ticking(&ticks));
        world.sleep(Duration::from_millis(1_500)).await;
        let rule = CrashLoop {
            crash: Crash::KILL,
            life_ns: 300_000_000,
            down_ns: 100_000_000,
        };
        let number = FaultNumber(7);
        let begun = Box::new(FaultAction::CrashLoop(a, rule));
        assert!(world.apply(&FaultAction::Begin(number, begun)));
        assert_eq!(world.status(a), NodeStatus::Down);
        world.sleep(Duration::from_secs(10)).await;
        let lives = world.incarnation(a);
        assert!((25..100).contains(&lives), "{lives} lives in ten seconds");
        assert_eq!(
            ticks.load(Ordering::Relaxed),
            1,
            "none has lived for a second"
        );
        assert!(world.apply(&FaultAction::End(number)));
        world.restart_if_down(a);
        let lives = world.incarnation(a);
        world.sleep(Duration::from_millis(2_500)).await;
        assert_eq!(world.incarnation(a), lives);
        assert!(ticks.load(Ordering::Relaxed) >= 3);
    });
}
