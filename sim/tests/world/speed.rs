//! How fast the world is. Not a check: `cargo nextest run --cargo-profile ci -p hedgerow-sim
//! --run-ignored only --no-capture speed` prints the figures.

use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, OpenMode, StreamKind};
use hedgerow_sim::world::NodeIndex;

use crate::{check, nodes};

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    #[expect(
        unsafe_code,
        reason = "only the system knows how much CPU time a process used"
    )]
    // SAFETY: `time` outlives the call, which writes nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "the clock exists");
    Duration::new(
        u64::try_from(time.tv_sec).expect("positive"),
        u32::try_from(time.tv_nsec).expect("below a second"),
    )
    .as_secs_f64()
}

fn report(what: &str, count: u64, began: f64) {
    let seconds = cpu_seconds() - began;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = count as f64 / seconds;
    println!("{what}: {count} in {seconds:.2} CPU s = {rate:.0} per CPU s");
}

async fn echo(env: Env) {
    let mut listener = env
        .network()
        .listen("0.0.0.0:1", StreamKind::Rpc)
        .await
        .expect("free");
    while let Ok(mut stream) = listener.accept().await {
        env.spawn("echo", async move {
            while let Ok(bytes) = stream.reader.read(1 << 16).await {
                if bytes.is_empty() || stream.writer.write(vec![bytes]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn ask(env: Env, rounds: u64) {
    let opened = env.network().connect("a:1", StreamKind::Rpc).await;
    let mut stream = opened.expect("a listens");
    let frame = Bytes::from(vec![7; 256]);
    for _ in 0..rounds {
        stream
            .writer
            .write(vec![frame.clone()])
            .await
            .expect("open");
        let mut left = frame.len();
        while left > 0 {
            let answer = env
                .timeout(Duration::from_secs(5), stream.reader.read(left))
                .await;
            left -= answer.expect("in time").expect("open").len();
        }
    }
}

#[test]
#[ignore = "prints figures; checks nothing"]
fn messages() {
    let began = cpu_seconds();
    check(1, |world| async move {
        let [a, b, c, d, e] = nodes(&world);
        world.start(a, |env| Box::pin(echo(env)));
        let clients: [NodeIndex; 4] = [b, c, d, e];
        for client in clients {
            world.start(client, |env| Box::pin(ask(env, 50_000)));
        }
        for client in clients {
            world.wait_down(client).await;
        }
    });
    report("messages", 400_000, began);
}

#[test]
#[ignore = "prints figures; checks nothing"]
fn timers() {
    let began = cpu_seconds();
    check(1, |world| async move {
        let all: [NodeIndex; 5] = nodes(&world);
        for node in all {
            world.start(node, |env| {
                Box::pin(async move {
                    for _ in 0..100_000 {
                        env.sleep(Duration::from_millis(10)).await;
                    }
                })
            });
        }
        for node in all {
            world.wait_down(node).await;
        }
    });
    report("sleeps", 500_000, began);
}

#[test]
#[ignore = "prints figures; checks nothing"]
fn disk_calls() {
    let began = cpu_seconds();
    check(1, |world| async move {
        let [a] = nodes(&world);
        world.start(a, |env| {
            Box::pin(async move {
                let file = env.disk().open("f", OpenMode::Create).await.expect("works");
                file.resize(64 << 20).await.expect("fits");
                let block = Bytes::from(vec![7; 4_096]);
                for number in 0..100_000 {
                    let offset = number % 16_384 * 4_096;
                    file.write_at(offset, vec![block.clone()])
                        .await
                        .expect("works");
                    file.sync().await.expect("honest");
                }
            })
        });
        world.wait_down(a).await;
    });
    report("4 KiB writes with a sync each", 100_000, began);
}
