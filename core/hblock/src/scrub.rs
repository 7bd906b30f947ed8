//! The scrub: reads everything that a store holds, on a budget, and lists what is damaged.
//!
//! Invariant: reading is spaced by the configured rate, so that it never competes with clients.
//! Does not: check digests (the store does) or repair.

use std::sync::Arc;
use std::time::Duration;

use hedgerow_env::event;

use crate::budget::Budget;
use crate::context::Context;
use crate::local::Local;

/// Bytes of one stretch: long enough to be sequential, short enough to yield to clients.
const STRETCH_BYTES: u64 = 1 << 20;

/// Pause after a device failed a read; the stretch is read again then.
const FAULT_PAUSE: Duration = Duration::from_secs(60);

/// Scrubs one store again and again, for as long as the task lives.
pub(crate) async fn run(context: Arc<Context>, local: Arc<Local>) {
    let env = &context.env;
    env.sleep(context.config.scrub_delay).await;
    let mut budget = Budget::new(context.config.scrub_bytes_per_second, env.now());
    loop {
        let stretch = match local.store().scrub(STRETCH_BYTES).await {
            Ok(stretch) => stretch,
            Err(fault) => {
                let store = local.id();
                event!(env, Warn, "hblock", "{store}: scrub: {fault}");
                local.refusal(fault);
                env.sleep(FAULT_PAUSE).await;
                continue;
            }
        };
        for name in stretch.damaged {
            local.wound(name);
        }
        if stretch.finished {
            env.sleep(context.config.scrub_interval).await;
        } else {
            // A stretch without bytes costs a page, so that an odd store cannot make this spin.
            let bytes = stretch.bytes.max(4096);
            env.sleep_until(budget.spend(env.now(), bytes)).await;
        }
    }
}
