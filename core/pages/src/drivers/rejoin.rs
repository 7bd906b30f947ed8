//! A retired replica's way back: its node tells the group's leader, until the group counts the member
//! no more. The leader then takes the store in again, under a new number, as it does any other.
//!
//! Invariants: what a retired member left is removed only after the leader has answered that it is
//! gone. The leader is asked again later even so: a change that was under way may have made a
//! member of it after all.
//! Does not: decide who joins (`growth` does).

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use hedgerow_env::{GroupId, Instant, event};
use hedgerow_protocol::MemberId;

use super::Drivers;

/// One question to a leader; a group without one is asked again.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Pause before the next question to a group that still counts the member.
const PENDING_PAUSE: Duration = Duration::from_secs(2);
/// Pause once it does not.
const GONE_PAUSE: Duration = Duration::from_secs(30);
/// Groups asked at once.
const QUESTIONS: usize = 64;

impl Drivers {
    pub(super) async fn rejoin(self) {
        let mut due = BTreeMap::<(GroupId, MemberId), Instant>::new();
        loop {
            self.env.sleep(self.config.round).await;
            let retired = self.replicas.retired();
            due.retain(|known, _| retired.contains(known));
            let now = self.env.now();
            let is_due = |known: &&(GroupId, MemberId)| due.get(known).is_none_or(|at| *at <= now);
            let asked: Vec<_> = retired.iter().filter(is_due).take(QUESTIONS).collect();
            let answers = asked
                .iter()
                .map(|(group, member)| self.tell(*group, *member));
            let answers = join_all(answers).await;
            let now = self.env.now();
            for (known, is_gone) in asked.into_iter().zip(answers) {
                let pause = if is_gone { GONE_PAUSE } else { PENDING_PAUSE };
                due.insert(*known, now + pause);
            }
        }
    }

    /// Whether the group counts the member no more, by its leader's word.
    async fn tell(&self, group: GroupId, member: MemberId) -> bool {
        match self.client.retired(group, member, ASK_LIMIT).await {
            Ok(true) => {
                self.replicas.forget(group, member).await;
                true
            }
            Ok(false) => false,
            Err(error) => {
                event!(
                    self.env,
                    Info,
                    "pages",
                    "{group}: {member} is retired: {error}"
                );
                false
            }
        }
    }
}
