//! [`Quorum`]: when the members that hold a blob are enough for a write to count.
//!
//! Invariant: there is one answer to this question, for the member that coordinates a write and for
//! the proxy that unites what several members told it: W distinct targets and, where W is two or
//! more and the targets lie in two domains or more, holders in two of them (DESIGN section 4.4).
//! Does not: know where a store lies; whoever asks names each target's domain.

use hedgerow_env::StoreId;
use hedgerow_env::mutants::{self, Mutant};

/// The rule for the targets of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    targets: Vec<(StoreId, Option<u16>)>,
    needed: usize,
    span: bool,
}

impl Quorum {
    /// The rule for `targets`. `domains` is empty under an agnostic policy, else one for each.
    ///
    /// # Errors
    /// A sentence that says how the request contradicts itself.
    pub fn new(targets: &[StoreId], domains: &[u16], write_quorum: u8) -> Result<Self, String> {
        let needed = usize::from(write_quorum);
        if needed == 0 || needed > targets.len() {
            let targets = targets.len();
            return Err(format!("write quorum {needed} of {targets} targets"));
        }
        if !domains.is_empty() && domains.len() != targets.len() {
            let (domains, targets) = (domains.len(), targets.len());
            return Err(format!("{domains} domains for {targets} targets"));
        }
        if (1..targets.len()).any(|index| targets[..index].contains(&targets[index])) {
            return Err("a target stands twice".to_owned());
        }
        // One copy cannot span two domains; where more are needed and can, they must.
        let one = mutants::active(Mutant::QuorumInOneDomain);
        let span = !one && needed >= 2 && domains.iter().any(|domain| *domain != domains[0]);
        let domain = |index: usize| domains.get(index).copied();
        let targets = targets.iter().enumerate();
        Ok(Self {
            targets: targets
                .map(|(index, store)| (*store, domain(index)))
                .collect(),
            needed,
            span,
        })
    }

    /// Whether the targets that `holds` names are enough. Stores that are no targets never count.
    #[must_use]
    pub fn is_met(&self, holds: impl Fn(StoreId) -> bool) -> bool {
        let holders = self.targets.iter().filter(|(store, _)| holds(*store));
        let held: Vec<Option<u16>> = holders.map(|(_, domain)| *domain).collect();
        let spans = || held.iter().any(|domain| *domain != held[0]);
        held.len() >= self.needed && (!self.span || spans())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the stores called by these letters are enough of targets a, b, c...
    fn met(domains: &[u16], targets: u64, write_quorum: u8, holders: &str) -> bool {
        let stores: Vec<StoreId> = (1..=targets).map(StoreId).collect();
        let quorum = Quorum::new(&stores, domains, write_quorum).unwrap();
        let letter = |store: StoreId| char::from(b'`' + u8::try_from(store.0).unwrap());
        quorum.is_met(|store| holders.contains(letter(store)))
    }

    #[test]
    fn w_holders_are_enough_when_they_span_what_the_targets_span() {
        for (domains, write_quorum, holders, enough) in [
            (&[][..], 2, "a", false),
            (&[], 2, "ab", true),
            (&[1, 1, 1], 2, "ab", true),
            (&[1, 1, 2], 2, "ab", false),
            (&[1, 1, 2], 2, "ac", true),
            (&[1, 1, 2], 2, "abc", true),
            (&[1, 1, 2], 1, "a", true),
            (&[1, 1, 2], 2, "cx", false),
        ] {
            assert_eq!(met(domains, 3, write_quorum, holders), enough, "{holders}");
        }
    }
}
