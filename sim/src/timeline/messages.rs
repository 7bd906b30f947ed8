//! What a message between nodes says, in words: for recordings, never for decisions.
//!
//! Invariant: [`describe`] takes any bytes, also damaged ones, and costs little; its text is
//! `service TAB word TAB detail`. Does not: keep anything.

use std::fmt::{Debug, Write};

use bytes::Bytes;
use hedgerow_net::frame::{HEADER_BYTES, Header, Kind};
use hedgerow_protocol::{
    AdminReply, AdminRequest, Envelope, GroupReply, GroupRequest, HBlockReply, HBlockRequest,
    NodeReply, NodeRequest, decode,
};

/// Characters of detail kept: more than a line shows.
const DETAIL_MAXIMUM: usize = 240;
/// Variants that say little without the one inside them.
const WRAPPERS: [&str; 7] = [
    "GroupRequest",
    "Root",
    "Shard",
    "Command",
    "Commands",
    "Query",
    "Propose",
];

/// The words for one write on a stream.
#[must_use]
pub fn describe(parts: &[Bytes]) -> String {
    let Some((header, head)) = open(parts) else {
        return "stream\tbytes\t".to_owned();
    };
    let id = header.request.0;
    match header.kind {
        Kind::Hello | Kind::HelloReply | Kind::HelloConfirm => "rpc\thandshake\t".to_owned(),
        Kind::Ping | Kind::Pong => "rpc\tping\t".to_owned(),
        Kind::Cancel => format!("rpc\tcancel\tof #{id}"),
        Kind::Refusal => format!("rpc\trefusal\tof #{id}"),
        Kind::Request => format!("{} #{id}", body(&head)),
        Kind::Response => format!("{} to #{id}", body(&head)),
    }
}

/// The header and head of a frame, if it is one.
fn open(parts: &[Bytes]) -> Option<(Header, Vec<u8>)> {
    let mut bytes = parts.iter().flat_map(|part| part.iter().copied());
    let mut header = [0; HEADER_BYTES];
    for byte in &mut header {
        *byte = bytes.next()?;
    }
    let header = Header::decode(&header).ok()?;
    let length = usize::try_from(header.head_bytes).ok()?;
    Some((header, bytes.take(length).collect()))
}

fn body(head: &[u8]) -> String {
    let kind = head.split_first_chunk::<2>();
    match kind.map_or(0, |(kind, _)| u16::from_le_bytes(*kind)) {
        HBlockRequest::KIND => shown::<HBlockRequest>("hblock", head),
        HBlockReply::KIND => shown::<HBlockReply>("hblock", head),
        GroupRequest::KIND => shown::<GroupRequest>("group", head),
        GroupReply::KIND => shown::<GroupReply>("group", head),
        NodeRequest::KIND => shown::<NodeRequest>("node", head),
        NodeReply::KIND => shown::<NodeReply>("node", head),
        AdminRequest::KIND => shown::<AdminRequest>("admin", head),
        AdminReply::KIND => shown::<AdminReply>("admin", head),
        _ => match hedgerow_pages::raft::describe(head) {
            Some(text) => {
                let (word, detail) = text.split_once(' ').unwrap_or((&text, ""));
                format!("raft\t{word}\t{}", cut(detail))
            }
            None => "rpc\tunknown\t".to_owned(),
        },
    }
}

fn shown<T: Envelope + Debug>(service: &str, head: &[u8]) -> String {
    let Ok(value) = decode::<T>(head) else {
        return format!("{service}\tdamaged\t");
    };
    let mut text = Limited(String::new());
    // An error only says that the limit was reached.
    let _full = write!(text, "{value:?}");
    let (word, detail) = split_word(&text.0);
    format!("{service}\t{word}\t{detail}")
}

/// `Shard { group: 1, request: Commit {..} }` is a `Shard Commit`.
fn split_word(text: &str) -> (String, &str) {
    let names = |text: &str| -> Option<(usize, usize)> {
        let start = text.find(|c: char| c.is_ascii_uppercase())?;
        let end = text[start..].find(|c: char| !c.is_alphanumeric());
        Some((start, end.map_or(text.len(), |end| start + end)))
    };
    let Some((start, end)) = names(text) else {
        return ("message".to_owned(), text);
    };
    let (mut word, mut rest) = (text[start..end].to_owned(), &text[end..]);
    for _ in 0..4 {
        let last = word.rsplit(' ').next().unwrap_or_default();
        let Some((start, end)) = names(rest).filter(|_| WRAPPERS.contains(&last)) else {
            break;
        };
        word = format!("{word} {}", &rest[start..end]);
        rest = &rest[end..];
    }
    let word = word.strip_prefix("GroupRequest ").unwrap_or(&word);
    (word.to_owned(), rest.trim_start())
}

fn cut(text: &str) -> &str {
    text.char_indices()
        .nth(DETAIL_MAXIMUM)
        .map_or(text, |(end, _)| &text[..end])
}

/// Text up to a limit.
struct Limited(String);

impl Write for Limited {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > DETAIL_MAXIMUM {
            self.0.push_str(cut(text));
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_described() {
        assert_eq!(describe(&[]), "stream\tbytes\t");
        assert_eq!(
            describe(&[Bytes::from_static(&[7; 100])]),
            "stream\tbytes\t"
        );
    }

    #[test]
    fn wrapping_variants_show_what_they_wrap() {
        let (word, rest) = split_word("Shard { group: 1, request: Commit { a: 1 } }");
        assert_eq!((word.as_str(), rest), ("Shard Commit", "{ a: 1 } }"));
        assert_eq!(split_word("Done").0, "Done");
    }
}
