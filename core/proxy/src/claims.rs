//! [`Claims`]: the ranges of one disk that are being changed, and who waits for whom.
//!
//! Invariants: of two claims that overlap, and of which one at least is exclusive, only the older one
//! goes; a claim waits only for older ones, so the oldest of all always goes.
//! Does not: wait, or know what becomes of a change.

use std::collections::BTreeMap;
use std::ops::Range;

/// Whether a claim tolerates others on its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Changes of this kind overlap as they like: none of them is ever done twice.
    Shared,
    /// A change that may be done anew: nothing else may have changed the range in between.
    Exclusive,
}

/// Names a claim within its [`Claims`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Held {
    range: Range<u64>,
    sharing: Sharing,
}

impl Held {
    fn excludes(&self, other: &Self) -> bool {
        let exclusive = [self.sharing, other.sharing].contains(&Sharing::Exclusive);
        let overlap = self.range.start < other.range.end && other.range.start < self.range.end;
        exclusive && overlap
    }
}

/// The claims of one disk, in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    next: u64,
    held: BTreeMap<Ticket, Held>,
}

impl Claims {
    /// Claims `range` (bytes), behind everybody who claimed some of it before.
    pub(crate) fn enter(&mut self, range: Range<u64>, sharing: Sharing) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.held.insert(ticket, Held { range, sharing });
        ticket
    }

    /// Whether nothing that is older excludes this claim.
    pub(crate) fn may_go(&self, ticket: Ticket) -> bool {
        let own = &self.held[&ticket];
        let mut older = self.held.range(..ticket);
        !older.any(|(_, held)| held.excludes(own))
    }

    /// The change has ended: its outcome is known, or nobody asks for it any more.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        let left = self.held.remove(&ticket);
        assert!(left.is_some(), "a claim is left once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims by letter: `x0-8` exclusive, `s4-8` shared; answers who may go, in that order.
    fn going(claims: &str, left: &[usize]) -> String {
        let mut all = Claims::default();
        let mut tickets = Vec::new();
        for claim in claims.split_whitespace() {
            let (from, to) = claim[1..].split_once('-').unwrap();
            let sharing = match &claim[..1] {
                "x" => Sharing::Exclusive,
                _ => Sharing::Shared,
            };
            tickets.push(all.enter(from.parse().unwrap()..to.parse().unwrap(), sharing));
        }
        for index in left {
            all.leave(tickets[*index]);
        }
        let rest = (0..tickets.len()).filter(|index| !left.contains(index));
        rest.map(|index| if all.may_go(tickets[index]) { '+' } else { '-' })
            .collect()
    }

    #[test]
    fn an_exclusive_claim_and_what_overlaps_it_go_one_after_another() {
        for (claims, left, told) in [
            ("x0-8 x8-16 x4-12", &[][..], "++-"),
            ("x0-8 x8-16 x4-12", &[0], "+-"),
            ("x0-8 x8-16 x4-12", &[0, 1], "+"),
            ("x0-8 s4-8 s0-4 s8-16", &[], "+--+"),
            ("s0-8 s4-8 x0-4", &[], "++-"),
            ("s0-8 s4-8 x0-4", &[0], "++"),
            // Who waits is waited for: nobody is overtaken for ever.
            ("x0-4 x0-8 x4-8", &[], "+--"),
        ] {
            assert_eq!(going(claims, left), told, "{claims} without {left:?}");
        }
    }
}
