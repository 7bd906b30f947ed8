//! Text requests of the full feature phase: SendTargets (RFC 7143 appendix C), in as many PDUs as
//! the initiator's data segment length makes necessary.

use bytes::Bytes;

use crate::codec::text::{self, TEXT_BYTES_MAX, TextError};

/// What discovery may show.
pub(super) struct Shown<'a> {
    /// The target of a normal session; none in a discovery session.
    pub(super) own: Option<&'a str>,
    /// Names of all targets.
    pub(super) names: Vec<String>,
}

/// A text negotiation under way.
#[derive(Debug, Default)]
pub(super) struct TextExchange {
    asked: Vec<u8>,
    rest: Bytes,
    /// The transfer tag under which the initiator asks for the rest.
    transfer: Option<u32>,
}

/// One part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) data: Bytes,
    /// More follows when the initiator asks.
    pub(super) continues: bool,
}

impl TextExchange {
    /// Adds the text of a request.
    pub(super) fn add(&mut self, data: &[u8]) -> Result<(), TextError> {
        if self.asked.len() + data.len() > TEXT_BYTES_MAX {
            self.asked.clear();
            return Err(TextError::TooLong);
        }
        self.asked.extend_from_slice(data);
        Ok(())
    }

    /// Whether `transfer` asks for the rest of an answer.
    pub(super) fn is_continuation(&self, transfer: u32) -> bool {
        self.transfer == Some(transfer)
    }

    /// Answers all that was asked; `addresses` gives a target's portals.
    pub(super) fn answer(
        &mut self,
        shown: &Shown<'_>,
        addresses: impl Fn(&str) -> Vec<String>,
    ) -> Result<(), TextError> {
        let pairs = text::parse(&std::mem::take(&mut self.asked))?;
        let mut answers = Vec::new();
        for (key, value) in &pairs {
            if key == "SendTargets" {
                send_targets(value, shown, &addresses, &mut answers);
            } else {
                answers.push((key.clone(), "NotUnderstood".to_owned()));
            }
        }
        self.rest = Bytes::from(text::write(&answers));
        self.transfer = None;
        Ok(())
    }

    /// The next part of the answer, of at most `limit` bytes; a part that is not the last is asked
    /// on under `transfer`.
    pub(super) fn next_part(&mut self, limit: usize, transfer: u32) -> Part {
        let data = self.rest.split_to(self.rest.len().min(limit));
        let continues = !self.rest.is_empty();
        self.transfer = continues.then_some(transfer);
        Part { data, continues }
    }
}

fn send_targets(
    value: &str,
    shown: &Shown<'_>,
    addresses: &impl Fn(&str) -> Vec<String>,
    answers: &mut Vec<(String, String)>,
) {
    let names: Vec<&str> = match (value, shown.own) {
        ("All", None) => shown.names.iter().map(String::as_str).collect(),
        ("All", Some(_)) => {
            answers.push(("SendTargets".to_owned(), "Reject".to_owned()));
            return;
        }
        ("", Some(own)) => vec![own],
        (name, Some(own)) => {
            if name == own {
                vec![own]
            } else {
                Vec::new()
            }
        }
        (name, None) => shown
            .names
            .iter()
            .map(String::as_str)
            .filter(|known| *known == name)
            .collect(),
    };
    for name in names {
        answers.push(("TargetName".to_owned(), name.to_owned()));
        for address in addresses(name) {
            let group = crate::scsi::inquiry::PORTAL_GROUP;
            answers.push(("TargetAddress".to_owned(), format!("{address},{group}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_comes_in_parts() {
        let names: Vec<String> = (0..50)
            .map(|n| format!("iqn.2026-11.io.hedgerow:d{n}"))
            .collect();
        let shown = Shown {
            own: None,
            names: names.clone(),
        };
        let mut exchange = TextExchange::default();
        exchange.add(b"SendTargets=All\0").unwrap();
        exchange
            .answer(&shown, |_| vec!["127.0.0.1:3260".to_owned()])
            .unwrap();
        let mut whole = Vec::new();
        loop {
            let part = exchange.next_part(512, 9);
            whole.extend_from_slice(&part.data);
            assert_eq!(exchange.is_continuation(9), part.continues);
            if !part.continues {
                break;
            }
        }
        let pairs = text::parse(&whole[..]).map(|pairs| pairs.len());
        assert_eq!(
            pairs,
            Err(TextError::TooLong),
            "more pairs than we would accept ourselves"
        );
        let text = String::from_utf8(whole).unwrap();
        for name in &names {
            assert!(text.contains(&format!(
                "TargetName={name}\0TargetAddress=127.0.0.1:3260,1\0"
            )));
        }
    }

    #[test]
    fn a_normal_session_sees_only_its_own_target() {
        let shown = Shown {
            own: Some("iqn.a"),
            names: vec!["iqn.a".into(), "iqn.b".into()],
        };
        let ask = |text: &str| {
            let mut exchange = TextExchange::default();
            exchange.add(text.as_bytes()).unwrap();
            exchange.answer(&shown, |_| Vec::new()).unwrap();
            exchange.next_part(8192, 1).data
        };
        assert_eq!(ask("SendTargets=\0"), "TargetName=iqn.a\0");
        assert_eq!(ask("SendTargets=iqn.b\0"), "");
        assert_eq!(ask("SendTargets=All\0"), "SendTargets=Reject\0");
        assert_eq!(ask("Other=1\0"), "Other=NotUnderstood\0");
    }
}
