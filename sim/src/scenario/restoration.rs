//! An old image of a node's disk is restored: the store that was rolled back must find out, and must
//! never serve again, while the others go on without it.
//!
//! A store that has written nothing since is its image, and nobody could tell.
//!
//! It comes last, when everything has been judged: the store is lost by it, and nothing replaces a
//! lost member by itself yet.

use std::time::Duration;

use hedgerow_env::HaltReason;

use crate::world::{Crash, World};

use super::cluster::Cluster;
use super::images::Image;
use super::run::{Failure, LOOK_PAUSE, nanoseconds};

const ORACLE: &str = "rollback";
/// Nodes tell a peer what is durable with them every few seconds; a younger image is not noticed.
const AGE: Duration = Duration::from_secs(15);
/// Within this time the node has met a peer that knows better, and stopped.
const NOTICE_LIMIT: Duration = Duration::from_secs(60);

/// Restores `image` while the node is down, starts it, and waits until it stops over it; then once
/// more: it must not serve after a restart either.
///
/// # Errors
/// The node goes on, or stops for another reason.
pub(super) async fn restore(
    world: &World,
    cluster: &Cluster,
    image: &Image,
) -> Result<(), Failure> {
    if !image.is_outdated(cluster) {
        return Ok(());
    }
    // After this the image is older than what some peer was told last.
    world.sleep(AGE).await;
    let node = image.node;
    world.crash(node, Crash::KILL);
    assert!(world.restore_disk(node, &image.disk), "the node is down");
    for start in ["the first", "the second"] {
        world.restart_if_down(node);
        let give_up = world.now_ns() + nanoseconds(NOTICE_LIMIT);
        loop {
            world.sleep(LOOK_PAUSE).await;
            match world.halted(node) {
                Some(HaltReason::RolledBack(_)) => break,
                Some(reason) => return Err(Failure::crash("halt", format!("{node}: {reason}"))),
                None if world.now_ns() >= give_up => {
                    let text = format!("node {node} runs on an old image since {start} start");
                    return Err(Failure::correctness(ORACLE, text));
                }
                None => {}
            }
        }
    }
    Ok(())
}
