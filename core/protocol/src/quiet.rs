//! Idle Raft groups go quiet: the leaders on one node tell each other node, in one message for all
//! groups, that they still lead and that nothing happens.

use hedgerow_env::GroupId;
use serde::{Deserialize, Serialize};

use crate::MemberId;
use crate::codec::envelope;

/// Most groups in one message: they fit a small one.
pub const QUIET_OFFERS_MAX: usize = 2048;

/// A leader that says: I lead, this entry is the last, all of you have applied it, be quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietOffer {
    /// The group.
    pub group: GroupId,
    /// Its leader.
    pub leader: MemberId,
    /// The member that is asked.
    pub to: MemberId,
    /// The leader's term.
    pub term: u64,
    /// The index of the last entry.
    pub index: u64,
}

/// What the leaders on one node offer the replicas on another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietOffers(
    /// At most [`QUIET_OFFERS_MAX`].
    pub Vec<QuietOffer>,
);

/// Which of the replicas are quiet now, in the order of the offers. One that says no sees another
/// leader or term, or lacks entries: its leader goes on with heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietAnswers(pub Vec<bool>);

envelope! { QuietOffers = 80 v 1, QuietAnswers = 81 v 1 }
