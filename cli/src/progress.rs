//! A line on standard error while something takes longer than a second, for people at a terminal.
//!
//! Invariants: nothing is written unless standard error is a terminal; the line is wiped before
//! anything else is said; failing to write it changes nothing.
//! Does not: know how long something will take.

use std::io::{IsTerminal as _, Write};
use std::pin::pin;
use std::time::Duration;

use hedgerow_env::Env;

/// What is quicker needs no line; the line's seconds are renewed as often.
const PAUSE: Duration = Duration::from_secs(1);
/// Back to the line's start, and wipes it.
const WIPE: &str = "\r\u{1b}[K";

/// Awaits `work`, saying on a terminal what is being done and for how long.
pub(crate) async fn shown<T>(
    env: &Env,
    what: impl Fn() -> String,
    work: impl Future<Output = T>,
) -> T {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        said(env, what, work, &mut stderr).await
    } else {
        work.await
    }
}

async fn said<T>(
    env: &Env,
    what: impl Fn() -> String,
    work: impl Future<Output = T>,
    out: &mut impl Write,
) -> T {
    let mut work = pin!(work);
    let began = env.now();
    let mut is_shown = false;
    loop {
        if let Ok(value) = env.timeout(PAUSE, work.as_mut()).await {
            if is_shown {
                drop(write!(out, "{WIPE}").and_then(|()| out.flush()));
            }
            return value;
        }
        let seconds = env.now().since(began).as_secs();
        let line = write!(out, "{WIPE}{} ({seconds} s)", what());
        drop(line.and_then(|()| out.flush()));
        is_shown = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::Poll;

    use hedgerow_env::Level;

    use super::*;
    use crate::production::{Logging, client_env};

    /// What was written, seen by the work that is being waited for.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn env() -> Env {
        client_env(Logging {
            level: Level::Error,
        })
    }

    #[tokio::test]
    async fn what_takes_its_time_is_said_and_wiped() {
        let screen = Screen::default();
        let seen = screen.clone();
        // Done once the line is there: however slow the machine is, it is seen.
        let work = std::future::poll_fn(move |_| {
            if seen.text().contains("deleting the disk (") {
                Poll::Ready(7)
            } else {
                Poll::Pending
            }
        });
        let what = || String::from("deleting the disk");
        let answer = said(&env(), what, work, &mut screen.clone()).await;
        assert_eq!(answer, 7);
        assert!(screen.text().ends_with(WIPE), "{:?}", screen.text());
    }

    #[tokio::test]
    async fn what_is_quick_says_nothing() {
        let screen = Screen::default();
        let work = std::future::ready(7);
        let answer = said(&env(), String::new, work, &mut screen.clone()).await;
        assert_eq!((answer, screen.text()), (7, String::new()));
    }
}
