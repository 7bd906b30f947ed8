//! Who talks to whom: the decisions of a handshake.
//!
//! Invariants: both sides check cluster, node and stores by themselves, whatever the other says; a
//! refusal carries its reason and what the judge knows of the other's stores, so that a rolled-back
//! store learns of it even though the connection ends. A process that belongs to no cluster may
//! talk to any.
//! Does not: judge the own stores (the store does) or wait for anything.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{NodeId, StoreId};

use crate::hello::{
    Hello, HelloConfirm, HelloReply, Introduction, Judgement, SPOKEN, Verdict, VersionRange,
};
use crate::{Identity, StoreStamp};

/// What is known of a store.
pub type Knowledge<'a> = &'a dyn Fn(StoreId) -> Option<StoreStamp>;

/// A connection that both sides agreed on, as one side sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The version that both speak.
    pub version: u16,
    /// Stands in every frame of this connection.
    pub session: u64,
    /// The other side.
    pub peer: Introduction,
}

/// The version that both speak: the newest common one.
#[must_use]
pub fn common_version(ours: VersionRange, theirs: VersionRange) -> Option<u16> {
    let newest = ours.newest.min(theirs.newest);
    (newest >= ours.oldest.max(theirs.oldest)).then_some(newest)
}

/// The session of a connection, of both nonces. Never zero.
#[must_use]
pub const fn session(caller_nonce: u64, called_nonce: u64) -> u64 {
    (caller_nonce.rotate_left(32) ^ called_nonce) | 1
}

/// The called side's answer to `hello`, and the agreement when it accepts.
#[must_use]
pub fn answer(
    own: Introduction,
    hello: &Hello,
    known: Knowledge<'_>,
) -> (HelloReply, Option<Agreement>) {
    let version = common_version(own.versions, hello.from.versions);
    let mut judgement = judge(&own.identity, &hello.from, version, known);
    if judgement.verdict == Verdict::Accepted
        && hello
            .expected
            .is_some_and(|expected| expected != own.identity.node)
        && !active(Mutant::HandshakeNodeUnchecked)
    {
        let expected = hello.expected.unwrap_or_default();
        judgement.verdict = Verdict::WrongNode;
        judgement.text = format!("this is node {}, not {expected}", own.identity.node);
    }
    let accepted = judgement.verdict == Verdict::Accepted;
    let agreement = version.filter(|_| accepted).map(|version| Agreement {
        version,
        session: session(hello.from.nonce, own.nonce),
        peer: hello.from.clone(),
    });
    let reply = HelloReply {
        answers: hello.from.nonce,
        version: agreement.as_ref().map_or(0, |agreement| agreement.version),
        judgement,
        from: own,
    };
    (reply, agreement)
}

/// The caller's end of the handshake: what it tells the called side, and the agreement when both
/// accept. `None` where the called side refused: its judgement says why.
#[must_use]
pub fn conclude(
    own: &Hello,
    reply: &HelloReply,
    known: Knowledge<'_>,
) -> (HelloConfirm, Option<Agreement>) {
    let version = common_version(own.from.versions, reply.from.versions).filter(|version| {
        reply.judgement.verdict != Verdict::Accepted || *version == reply.version
    });
    let mut judgement = judge(&own.from.identity, &reply.from, version, known);
    if judgement.verdict == Verdict::Accepted
        && own
            .expected
            .is_some_and(|expected| expected != reply.from.identity.node)
        && !active(Mutant::HandshakeNodeUnchecked)
    {
        judgement.verdict = Verdict::WrongNode;
        judgement.text = wrong_node(own.expected.unwrap_or_default(), &reply.from.identity);
    }
    let both =
        judgement.verdict == Verdict::Accepted && reply.judgement.verdict == Verdict::Accepted;
    let agreement = version.filter(|_| both).map(|version| Agreement {
        version,
        session: session(own.from.nonce, reply.from.nonce),
        peer: reply.from.clone(),
    });
    (HelloConfirm { judgement }, agreement)
}

/// What can be said against `other`, without regard to whom it expected.
fn judge(
    own: &Identity,
    other: &Introduction,
    version: Option<u16>,
    known: Knowledge<'_>,
) -> Judgement {
    let identity = &other.identity;
    let known_stamps = known_of(&identity.stores, known);
    let refuse = |verdict, text| Judgement {
        verdict,
        text,
        known: Vec::new(),
    };
    if version.is_none() {
        let (ours, theirs) = (SPOKEN, other.versions);
        return refuse(
            Verdict::Version,
            format!(
                "protocol versions {}..={} and {}..={} have none in common",
                ours.oldest, ours.newest, theirs.oldest, theirs.newest
            ),
        );
    }
    if let (Some(ours), Some(theirs)) = (own.cluster, identity.cluster)
        && ours != theirs
    {
        return refuse(
            Verdict::ForeignCluster,
            format!(
                "node {} of cluster {theirs} called node {} of {ours}",
                identity.node, own.node
            ),
        );
    }
    let behind = identity
        .stores
        .iter()
        .find(|stamp| known(stamp.store).is_some_and(|known| stamp.is_behind(&known)));
    if let Some(stamp) = behind
        && !active(Mutant::NodeBehindAccepted)
    {
        let text = format!(
            "store {} shows start {} ({:016x}) and position {}, more or another is known of it: \
             it was rolled back",
            stamp.store, stamp.start_count, stamp.start_nonce, stamp.reported_durable
        );
        return Judgement {
            verdict: Verdict::StoreBehind,
            text,
            known: known_stamps,
        };
    }
    Judgement {
        verdict: Verdict::Accepted,
        text: String::new(),
        known: known_stamps,
    }
}

fn known_of(stores: &[StoreStamp], known: Knowledge<'_>) -> Vec<StoreStamp> {
    let stamps = stores.iter();
    stamps.filter_map(|stamp| known(stamp.store)).collect()
}

fn wrong_node(expected: NodeId, found: &Identity) -> String {
    format!("node {} answers where {expected} was expected", found.node)
}
