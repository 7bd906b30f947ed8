//! [`Gathering`]: what several members said of one blob under one epoch, united.
//!
//! Invariant: a union of acknowledgements is enough by the very rule by which one member's answer
//! is ([`Quorum`]): members that are many but lie in one domain never add up to a write.
//! Does not: ask anybody, or carry anything from one placement epoch into the next.

use std::collections::BTreeSet;

use hedgerow_env::{BlobName, StoreId};
use hedgerow_protocol::{HBlockRefusal, HBlockReply, Quorum};

/// What the answer of a member means for the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Enough members hold the blob: it may be committed.
    Enough,
    /// Not enough yet: ask another.
    More,
    /// The placement has changed: look it up again.
    StaleEpoch,
    /// This attachment was fenced.
    Fenced(HBlockRefusal),
    /// A name has two contents.
    Broken(HBlockRefusal),
}

/// Why too few members hold a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The stores that refused it are full, by all that was heard.
    Room,
    /// Anything else, silence included.
    Other,
}

/// The acknowledgements of one blob under one epoch.
#[derive(Debug)]
pub(crate) struct Gathering {
    quorum: Quorum,
    acknowledged: BTreeSet<StoreId>,
    lack: Option<Lack>,
}

impl Gathering {
    pub(crate) fn new(quorum: Quorum) -> Self {
        Self {
            quorum,
            acknowledged: BTreeSet::new(),
            lack: None,
        }
    }

    /// Room is lacking when nobody who was asked saw anything else in the way.
    pub(crate) fn lack(&self) -> Lack {
        self.lack.unwrap_or(Lack::Other)
    }

    /// Takes in a member's answer; `None` when none was seen.
    pub(crate) fn hear(&mut self, reply: Option<&HBlockReply>) -> Heard {
        let refusal = match reply {
            Some(HBlockReply::Written { acknowledged }) => {
                self.acknowledged.extend(acknowledged);
                return self.judge();
            }
            Some(HBlockReply::Refused(refusal)) => refusal,
            _ => {
                self.lack = Some(Lack::Other);
                return Heard::More;
            }
        };
        self.hear_refusal(refusal)
    }

    /// Takes in what `store` said when it was asked, by its name, whether it holds the blob.
    pub(crate) fn hear_of(
        &mut self,
        store: StoreId,
        name: BlobName,
        reply: Option<&HBlockReply>,
    ) -> Heard {
        match reply {
            Some(HBlockReply::Held(names)) if names.contains(&name) => {
                self.acknowledged.insert(store);
                self.judge()
            }
            Some(HBlockReply::Refused(refusal)) => self.hear_refusal(refusal),
            _ => Heard::More,
        }
    }

    fn hear_refusal(&mut self, refusal: &HBlockRefusal) -> Heard {
        if !matches!(refusal, HBlockRefusal::NoRoom { .. }) {
            self.lack = Some(Lack::Other);
        }
        match refusal {
            HBlockRefusal::NoRoom { acknowledged } => {
                self.lack.get_or_insert(Lack::Room);
                self.acknowledged.extend(acknowledged);
                self.judge()
            }
            HBlockRefusal::TooFew { acknowledged } => {
                self.acknowledged.extend(acknowledged);
                self.judge()
            }
            HBlockRefusal::StaleEpoch { .. } => Heard::StaleEpoch,
            HBlockRefusal::StaleGeneration { .. } | HBlockRefusal::Collected => {
                Heard::Fenced(refusal.clone())
            }
            HBlockRefusal::OtherDigest => Heard::Broken(refusal.clone()),
            HBlockRefusal::NoSuchStore
            | HBlockRefusal::Missing
            | HBlockRefusal::Damaged
            | HBlockRefusal::Busy { .. }
            | HBlockRefusal::Stopped { .. }
            | HBlockRefusal::Malformed { .. } => Heard::More,
        }
    }

    fn judge(&self) -> Heard {
        if self
            .quorum
            .is_met(|store| self.acknowledged.contains(&store))
        {
            Heard::Enough
        } else {
            Heard::More
        }
    }

    /// Every member that is known to hold the blob.
    pub(crate) fn acknowledged(&self) -> &BTreeSet<StoreId> {
        &self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays answers (`few:ab` too few, `all:ac` written, `none`, `epoch`, `fence`, `other`) to
    /// the proxy of a write on targets a, b, c in these domains with W = 2, up to the last one.
    fn play(domains: &[u16], answers: &str) -> String {
        let stores = [1, 2, 3].map(StoreId);
        let mut gathering = Gathering::new(Quorum::new(&stores, domains, 2).unwrap());
        let named = |letters: &str| -> Vec<StoreId> {
            let ids = letters.bytes().map(|letter| letter - b'`');
            ids.map(|id| StoreId(id.into())).collect()
        };
        let mut heard = Heard::More;
        for answer in answers.split_whitespace() {
            assert_eq!(heard, Heard::More, "nobody is asked any more: {answers}");
            let (kind, letters) = answer.split_once(':').unwrap_or((answer, ""));
            let acknowledged = named(letters);
            let refused = HBlockReply::Refused;
            let reply = match kind {
                "few" => Some(refused(HBlockRefusal::TooFew { acknowledged })),
                "all" => Some(HBlockReply::Written { acknowledged }),
                "full" => Some(refused(HBlockRefusal::NoRoom { acknowledged })),
                "epoch" => Some(refused(HBlockRefusal::StaleEpoch {
                    current: hedgerow_env::PlacementEpoch(4),
                })),
                "fence" => Some(refused(HBlockRefusal::Collected)),
                "other" => Some(refused(HBlockRefusal::OtherDigest)),
                _ => None,
            };
            heard = gathering.hear(reply.as_ref());
        }
        let held = gathering.acknowledged().iter();
        let held: String = held
            .map(|store| char::from(b'`' + u8::try_from(store.0).unwrap()))
            .collect();
        match heard {
            Heard::Enough => format!("commit on {held}"),
            Heard::More if gathering.lack() == Lack::Room => format!("no room, have {held}"),
            Heard::More => format!("ask on, have {held}"),
            Heard::StaleEpoch => "look the placement up".to_owned(),
            Heard::Fenced(_) => "fenced".to_owned(),
            Heard::Broken(_) => "broken".to_owned(),
        }
    }

    #[test]
    fn what_several_members_say_adds_up_to_w() {
        for (answers, told) in [
            ("few:a", "ask on, have a"),
            ("few:a none few:b", "commit on ab"),
            ("all:ab", "commit on ab"),
            ("few:a few:a", "ask on, have a"),
            ("full full", "no room, have "),
            ("full:a full:a", "no room, have a"),
            ("full:a full:b", "commit on ab"),
            ("full none", "ask on, have "),
            ("none full", "ask on, have "),
            ("few:a epoch", "look the placement up"),
            ("fence", "fenced"),
            ("other", "broken"),
        ] {
            assert_eq!(play(&[], answers), told, "{answers}");
        }
    }

    #[test]
    fn members_of_one_domain_never_add_up_where_the_targets_span_two() {
        for (domains, answers, told) in [
            // a and b lie in one data centre, c in another that answers slowly.
            (&[0, 0, 1][..], "few:ab", "ask on, have ab"),
            (&[0, 0, 1], "few:a few:b", "ask on, have ab"),
            (&[0, 0, 1], "few:ab few:c", "commit on abc"),
            (&[0, 0, 1], "few:a few:c", "commit on ac"),
            (&[0, 0, 0], "few:ab", "commit on ab"),
        ] {
            assert_eq!(play(domains, answers), told, "{domains:?} {answers}");
        }
    }
}
