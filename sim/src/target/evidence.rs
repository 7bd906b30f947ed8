//! What links did to messages while a fault was on: whether it struck.

use hedgerow_jepsen::run::Struck;

use crate::world::{LinkTally, NodeIndex, World};

/// The sum over some links until now.
pub(super) fn tally(world: &World, links: &[(NodeIndex, NodeIndex)]) -> LinkTally {
    let each = links.iter().map(|(from, to)| world.link_tally(*from, *to));
    each.fold(LinkTally::default(), |sum, one| LinkTally {
        sent: sum.sent + one.sent,
        blocked: sum.blocked + one.blocked,
        late: sum.late + one.late,
        lost: sum.lost + one.lost,
        doubled: sum.doubled + one.doubled,
        corrupted: sum.corrupted + one.corrupted,
        broken: sum.broken + one.broken,
    })
}

/// Whether links did anything to messages between two tallies.
pub(super) fn struck(before: &LinkTally, after: &LinkTally) -> Struck {
    let rows = [
        (after.blocked - before.blocked, "met a cut link"),
        (after.late - before.late, "late"),
        (after.lost - before.lost, "lost"),
        (after.doubled - before.doubled, "doubled"),
        (after.corrupted - before.corrupted, "damaged"),
        (after.broken - before.broken, "connections broken"),
    ];
    let done: Vec<String> = rows
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if done.is_empty() {
        let sent = after.sent - before.sent;
        return Struck::No(format!("nothing done to {sent} messages"));
    }
    Struck::Yes(done.join(", "))
}
