//! Clocks: sub-millisecond sleeps, drift within its bound, timers that do not leak.

use std::time::Duration;

use hedgerow_sim::world::RATE_BOUND_PPM;

use crate::{check, nodes};

#[test]
fn sleeps_are_precise_far_below_a_millisecond() {
    check(1, |world| async move {
        let [a] = nodes(&world);
        let env = world.start_idle(a);
        for microseconds in [1, 3, 80, 999, 1_001, 250_000] {
            let before = env.now();
            let wanted = Duration::from_micros(microseconds);
            env.sleep(wanted).await;
            let slept = env.now().since(before);
            assert!(slept >= wanted, "{slept:?} is shorter than {wanted:?}");
            assert!(
                slept < wanted + Duration::from_micros(1),
                "{slept:?} for {wanted:?}"
            );
        }
    });
}

#[test]
fn a_fast_and_a_slow_clock_disagree_by_their_drift() {
    check(2, |world| async move {
        let [fast, slow, steady] = nodes(&world);
        let envs = [fast, slow, steady].map(|node| world.start_idle(node));
        world.set_drift(fast, RATE_BOUND_PPM);
        world.set_drift(slow, -RATE_BOUND_PPM);
        let before = envs.each_ref().map(hedgerow_env::Env::now);
        world.sleep(Duration::from_secs(100)).await;
        let passed: Vec<u64> = (0..3)
            .map(|index| envs[index].now().since(before[index]).as_millis())
            .map(|milliseconds| u64::try_from(milliseconds).expect("short"))
            .collect();
        assert_eq!(passed, [110_000, 90_000, 100_000]);
    });
}

#[test]
fn a_sleep_follows_its_own_clock_when_the_rate_changes_under_it() {
    check(3, |world| async move {
        let [a] = nodes(&world);
        let env = world.start_idle(a);
        let (started, local) = (world.now_ns(), env.now());
        let sleeper = env.clone();
        let sleep =
            madsim::task::spawn(async move { sleeper.sleep(Duration::from_secs(10)).await });
        world.sleep(Duration::from_secs(5)).await;
        world.set_drift(a, 100_000);
        sleep.await.expect("the sleeper lives");
        let truth = Duration::from_nanos(world.now_ns() - started);
        assert!(env.now().since(local) >= Duration::from_secs(10));
        // Five seconds at the true rate, then five local ones of which 1.1 pass each second.
        assert_eq!(truth.as_millis(), 9_545);
    });
}

#[test]
fn the_wall_clock_steps_and_the_monotonic_one_does_not() {
    check(4, |world| async move {
        let [a] = nodes(&world);
        let env = world.start_idle(a);
        let (wall, now) = (env.wall(), env.now());
        world.step_wall(a, -3_600_000);
        assert_eq!(env.wall().0, wall.0 - 3_600_000);
        assert!(env.now().since(now) < Duration::from_millis(1));
    });
}

#[test]
fn abandoned_sleeps_leave_no_timers_behind() {
    check(5, |world| async move {
        let [a] = nodes(&world);
        let env = world.start_idle(a);
        let before = world.armed_timers();
        for _ in 0..10_000 {
            let quick = env.sleep(Duration::from_micros(10));
            assert!(env.timeout(Duration::from_secs(5), quick).await.is_ok());
        }
        assert_eq!(world.armed_timers(), before);
        assert!(
            env.timeout(Duration::from_millis(1), std::future::pending::<()>())
                .await
                .is_err()
        );
        assert_eq!(world.armed_timers(), before);
    });
}
