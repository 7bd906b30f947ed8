//! The compact binary form, written as a test goes along (`docs/format/history.md` has the picture).
//!
//! A header of eight bytes, then records: length (u32), CRC-32 of the payload (u32), payload; all
//! integers little-endian. Appending [`header`] once and then one record an event, in any file,
//! loses nothing but the record that was being written when the writer died.
//!
//! Invariants: a torn last record is dropped and counted, damage anywhere else is refused with the
//! number of the record; sizes are checked against limits before memory is taken.

use super::value::{Float, Value};
use super::{Event, EventKind, History, HistoryError, Process};

/// The first bytes: name, then version 1 as u16.
const HEADER: [u8; 8] = [b'H', b'G', b'H', b'I', b'S', b'T', 1, 0];
/// The part of the header that names the form whatever its version.
const NAME_BYTES: usize = 6;
/// Length and checksum before each payload.
const FRAME_BYTES: usize = 8;
/// The largest payload: a final read of millions of elements fits, a damaged length does not pass.
const LARGEST_PAYLOAD: usize = 64 << 20;
/// How deep values may nest, as in EDN.
const DEEPEST: usize = super::edn::DEEPEST;

/// Whether these bytes are meant to be in this form. A writer may die within the header.
pub fn is_binary(bytes: &[u8]) -> bool {
    bytes.starts_with(&HEADER[..NAME_BYTES]) || is_torn_header(bytes)
}

fn is_torn_header(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len() < HEADER.len() && HEADER.starts_with(bytes)
}

/// What a new history starts with.
pub fn header() -> [u8; 8] {
    HEADER
}

/// Appends one event's record.
///
/// # Panics
/// If the event is larger than 64 MiB, which no reader would accept.
pub fn append_record(bytes: &mut Vec<u8>, event: &Event) {
    let frame_at = bytes.len();
    bytes.extend_from_slice(&[0; FRAME_BYTES]);
    let payload_at = bytes.len();
    write_event(bytes, event);
    let payload = &bytes[payload_at..];
    assert!(
        payload.len() <= LARGEST_PAYLOAD,
        "an event of at most 64 MiB"
    );
    let length = u32::try_from(payload.len())
        .expect("64 MiB fit 32 bits")
        .to_le_bytes();
    let check = crc32fast::hash(payload).to_le_bytes();
    bytes[frame_at..frame_at + 4].copy_from_slice(&length);
    bytes[frame_at + 4..payload_at].copy_from_slice(&check);
}

/// Reads a history; [`Event::line`] is the number of the record, from 1.
///
/// # Errors
/// The record that is damaged, unless it is the last and torn.
pub fn read(bytes: &[u8]) -> Result<History, HistoryError> {
    if is_torn_header(bytes) {
        return Ok(History {
            events: Vec::new(),
            dropped_bytes: bytes.len() as u64,
        });
    }
    if bytes.get(..HEADER.len()) != Some(&HEADER) {
        return Err(at_record(0, "the header of version 1", "another header"));
    }
    let mut rest = &bytes[HEADER.len()..];
    let mut events = Vec::new();
    for number in 1.. {
        let (payload, after) = match frame(rest) {
            Frame::End => break,
            Frame::Torn => {
                return Ok(History {
                    events,
                    dropped_bytes: rest.len() as u64,
                });
            }
            Frame::Damaged(what) => return Err(at_record(number, "an intact record", what)),
            Frame::Record(payload, after) => (payload, after),
        };
        let mut cursor = Cursor {
            bytes: payload,
            record: number,
        };
        let event = cursor.event()?;
        if !cursor.bytes.is_empty() {
            return Err(at_record(number, "the end of the record", "more bytes"));
        }
        events.push(event);
        rest = after;
    }
    Ok(History {
        events,
        dropped_bytes: 0,
    })
}

fn at_record(number: u64, expected: &str, found: &str) -> HistoryError {
    HistoryError {
        unit: "record",
        ..HistoryError::at(number, expected, found)
    }
}

enum Frame<'a> {
    End,
    Torn,
    Damaged(&'static str),
    Record(&'a [u8], &'a [u8]),
}

/// Cuts the next record off. A record that reaches the end of the bytes, or past it, and fails
/// its check was torn by a crash; one with more bytes behind it is damaged.
fn frame(rest: &[u8]) -> Frame<'_> {
    if rest.is_empty() {
        return Frame::End;
    }
    let Some((frame, body)) = rest.split_at_checked(FRAME_BYTES) else {
        return Frame::Torn;
    };
    let word = |at: usize| {
        u32::from_le_bytes(
            frame[at..at + 4]
                .try_into()
                .expect("four of the eight bytes"),
        )
    };
    let length = word(0) as usize;
    let Some((payload, after)) = body.split_at_checked(length) else {
        return if length > LARGEST_PAYLOAD && body.iter().any(|&byte| byte != 0) {
            Frame::Damaged("a length beyond 64 MiB")
        } else {
            Frame::Torn
        };
    };
    if crc32fast::hash(payload) != word(4) {
        // A file system may extend a file before the bytes arrive: zeros to the end are torn too.
        let only_zeros = after.iter().all(|&byte| byte == 0);
        return if only_zeros {
            Frame::Torn
        } else {
            Frame::Damaged("a wrong checksum")
        };
    }
    if length == 0 {
        return if body.iter().all(|&byte| byte == 0) {
            Frame::Torn
        } else {
            Frame::Damaged("an empty record")
        };
    }
    Frame::Record(payload, after)
}

fn write_event(bytes: &mut Vec<u8>, event: &Event) {
    bytes.push(match event.kind {
        EventKind::Invoke => 0,
        EventKind::Ok => 1,
        EventKind::Fail => 2,
        EventKind::Info => 3,
    });
    match &event.process {
        Process::Client(number) => {
            bytes.push(0);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Process::Named(name) => {
            bytes.push(1);
            write_text(bytes, name);
        }
    }
    write_text(bytes, &event.function);
    match event.time_ns {
        None => bytes.push(0),
        Some(time_ns) => {
            bytes.push(1);
            bytes.extend_from_slice(&time_ns.to_le_bytes());
        }
    }
    write_option(bytes, event.key.as_ref());
    write_option(bytes, event.error.as_ref());
    write_value(bytes, &event.value);
}

fn write_option(bytes: &mut Vec<u8>, value: Option<&Value>) {
    match value {
        None => bytes.push(0),
        Some(value) => {
            bytes.push(1);
            write_value(bytes, value);
        }
    }
}

fn write_length(bytes: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("a part of an event is below 64 MiB");
    bytes.extend_from_slice(&length.to_le_bytes());
}

fn write_text(bytes: &mut Vec<u8>, text: &str) {
    write_length(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

fn write_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Nil => bytes.push(0),
        Value::Bool(false) => bytes.push(1),
        Value::Bool(true) => bytes.push(2),
        Value::Int(number) => {
            bytes.push(3);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Value::Float(number) => {
            bytes.push(4);
            bytes.extend_from_slice(&number.0.to_bits().to_le_bytes());
        }
        Value::Char(char) => {
            bytes.push(5);
            bytes.extend_from_slice(&u32::from(*char).to_le_bytes());
        }
        Value::String(text) => tagged_text(bytes, 6, text),
        Value::Keyword(text) => tagged_text(bytes, 7, text),
        Value::Symbol(text) => tagged_text(bytes, 8, text),
        Value::List(items) => write_items(bytes, 9, items.len(), items.iter()),
        Value::Vector(items) => write_items(bytes, 10, items.len(), items.iter()),
        Value::Set(items) => write_items(bytes, 11, items.len(), items.iter()),
        Value::Map(map) => {
            write_items(bytes, 12, map.len(), map.iter().flat_map(|(k, v)| [k, v]));
        }
        Value::Tagged(tag, value) => {
            tagged_text(bytes, 13, tag);
            write_value(bytes, value);
        }
    }
}

fn tagged_text(bytes: &mut Vec<u8>, tag: u8, text: &str) {
    bytes.push(tag);
    write_text(bytes, text);
}

fn write_items<'a>(
    bytes: &mut Vec<u8>,
    tag: u8,
    count: usize,
    items: impl Iterator<Item = &'a Value>,
) {
    bytes.push(tag);
    write_length(bytes, count);
    for item in items {
        write_value(bytes, item);
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    record: u64,
}

impl<'a> Cursor<'a> {
    fn error(&self, expected: &str, found: &str) -> HistoryError {
        at_record(self.record, expected, found)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], HistoryError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(count)
            .ok_or_else(|| self.error("more bytes", "the end of the record"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, HistoryError> {
        Ok(self.take(1)?[0])
    }

    fn word32(&mut self) -> Result<u32, HistoryError> {
        Ok(u32::from_le_bytes(
            self.take(4)?.try_into().expect("took four"),
        ))
    }

    fn word64(&mut self) -> Result<u64, HistoryError> {
        Ok(u64::from_le_bytes(
            self.take(8)?.try_into().expect("took eight"),
        ))
    }

    fn flag(&mut self) -> Result<bool, HistoryError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error("0 or 1", &other.to_string())),
        }
    }

    fn text(&mut self) -> Result<String, HistoryError> {
        let length = self.word32()? as usize;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.error("UTF-8", "other bytes"))
    }

    fn event(&mut self) -> Result<Event, HistoryError> {
        let kind = match self.byte()? {
            0 => EventKind::Invoke,
            1 => EventKind::Ok,
            2 => EventKind::Fail,
            3 => EventKind::Info,
            other => return Err(self.error("an event kind of 0 to 3", &other.to_string())),
        };
        let process = if self.flag()? {
            Process::Named(self.text()?)
        } else {
            Process::Client(self.word64()?)
        };
        let function = self.text()?;
        let time_ns = if self.flag()? {
            Some(self.word64()?.cast_signed())
        } else {
            None
        };
        let key = if self.flag()? {
            Some(self.value(0)?)
        } else {
            None
        };
        let error = if self.flag()? {
            Some(self.value(0)?)
        } else {
            None
        };
        let value = self.value(0)?;
        Ok(Event {
            line: self.record,
            kind,
            process,
            function,
            key,
            value,
            time_ns,
            error,
        })
    }

    fn value(&mut self, depth: usize) -> Result<Value, HistoryError> {
        if depth >= DEEPEST {
            return Err(self.error("at most 128 nested values", "more"));
        }
        Ok(match self.byte()? {
            0 => Value::Nil,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => Value::Int(self.word64()?.cast_signed()),
            4 => Value::Float(Float(f64::from_bits(self.word64()?))),
            5 => {
                let code = self.word32()?;
                let char = char::from_u32(code);
                Value::Char(char.ok_or_else(|| self.error("a character", &code.to_string()))?)
            }
            6 => Value::String(self.text()?),
            7 => Value::Keyword(self.text()?),
            8 => Value::Symbol(self.text()?),
            9 => Value::List(self.items(1, depth)?),
            10 => Value::Vector(self.items(1, depth)?),
            11 => Value::Set(self.items(1, depth)?.into_iter().collect()),
            12 => {
                let mut items = self.items(2, depth)?.into_iter();
                let pairs = std::iter::from_fn(|| Some((items.next()?, items.next()?)));
                Value::Map(pairs.collect())
            }
            13 => {
                let tag = self.text()?;
                Value::Tagged(tag, Box::new(self.value(depth + 1)?))
            }
            other => return Err(self.error("a value tag of 0 to 13", &other.to_string())),
        })
    }

    /// A counted list in which each counted thing is `each` values. Memory grows with what is
    /// really there: every value takes at least one byte of the record.
    fn items(&mut self, each: usize, depth: usize) -> Result<Vec<Value>, HistoryError> {
        let count = self.word32()? as usize * each;
        if count > self.bytes.len() {
            return Err(self.error("a count that fits the record", &count.to_string()));
        }
        (0..count).map(|_| self.value(depth + 1)).collect()
    }
}
