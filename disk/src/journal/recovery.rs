//! Reads a journal back: what was durable, what is damaged, where the next session starts.
//!
//! Every frame carries the watermark that was durable when it was issued. Invalid bytes below the
//! highest watermark found anywhere held acknowledged records: they are *damaged* and reported.
//! At or above it the journal ends at the first invalid byte (a torn tail), the next session starts
//! there, and frames left behind it are foreign because their session is lower.
//!
//! Invariants: pure; the same bytes give the same answer. A frame is taken only if it continues the
//! one before it (next sequence number, session not lower) or follows damage below the watermark.
//! Does not: read files (`driver` does), or repair anything.

use std::collections::BTreeMap;

use bytes::Bytes;
use hedgerow_env::StoreId;
use hedgerow_env::mutants::{Mutant, active};

use super::core::Live;
use super::format::{
    DecodedFrame, DecodedRecord, decode_copies, decode_frame, in_memory, record_bytes,
};
use super::record::{Class, DamagedRange, HeaderCopy, Position, Record, RecoveredRecord};
use crate::codec::{narrow, wide};

/// Collects the frames of one segment after the other.
pub(super) struct Scanner {
    store: StoreId,
    segment_bytes: u64,
    alignment: u32,
    frames: Vec<DecodedFrame>,
}

/// What a scan concluded.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) records: Vec<RecoveredRecord>,
    pub(super) live: BTreeMap<Position, Live>,
    pub(super) damaged: Vec<DamagedRange>,
    /// The oldest segment that was still needed.
    pub(super) head: u64,
    /// Everything below was known to be durable.
    pub(super) watermark: u64,
    /// Where the next session starts.
    pub(super) end: u64,
    /// No record that was ever durable ended behind this, and it never falls from one start to the
    /// next unless such a record is lost.
    pub(super) reported: u64,
    pub(super) next_sequence: u64,
    pub(super) highest_session: u64,
    /// Headers of the last frame's records, whose second copies may not be written yet.
    pub(super) last_headers: Vec<HeaderCopy>,
    /// Whether any frame of this store was found.
    pub(super) found: bool,
}

impl Scanner {
    pub(super) fn new(store: StoreId, segment_bytes: u64, alignment: u32) -> Self {
        Self {
            store,
            segment_bytes,
            alignment,
            frames: Vec::new(),
        }
    }

    /// Takes every frame out of the bytes of segment `number`.
    pub(super) fn segment(&mut self, number: u64, bytes: &Bytes) {
        let base = number * self.segment_bytes;
        let step = narrow(u64::from(self.alignment));
        let mut offset = 0;
        while offset + step <= bytes.len() {
            let position = base + wide(offset);
            let frame = decode_frame(self.store, bytes, offset, position, self.alignment);
            let Some(frame) = frame else {
                offset += step;
                continue;
            };
            // Inside a frame with bad content a newer frame may begin; inside a good one, none can.
            offset = if frame.intact() {
                in_memory(frame.end - base)
            } else {
                offset + step
            };
            self.frames.push(detached(frame));
        }
    }

    /// Judges what was found.
    pub(super) fn finish(self) -> Scan {
        let watermark = self.frames.iter().filter(|frame| frame.intact());
        let watermark = watermark
            .map(|frame| frame.header.watermark)
            .max()
            .filter(|_| !active(Mutant::DamageTakenForTail))
            .unwrap_or(0);
        let frames = without_overwritten(self.frames);
        let walk = |head| {
            let mut walk = Walk {
                segment_bytes: self.segment_bytes,
                watermark,
                scan: Scan {
                    head,
                    watermark,
                    highest_session: highest_session(&frames),
                    found: !frames.is_empty(),
                    ..Scan::default()
                },
                copies: BTreeMap::new(),
                pending: Vec::new(),
            };
            walk.run(&frames);
            walk.scan
        };
        // A frame beyond the end may name a head that never became durable: it must not count.
        let first = walk(highest_head(&frames, u64::MAX));
        let head = highest_head(&frames, first.end);
        if head == first.head {
            first
        } else {
            walk(head)
        }
    }
}

fn highest_head(frames: &[DecodedFrame], end: u64) -> u64 {
    let before_end = frames.iter().filter(|frame| frame.header.position < end);
    before_end.map(|frame| frame.header.head).max().unwrap_or(0)
}

fn highest_session(frames: &[DecodedFrame]) -> u64 {
    frames
        .iter()
        .map(|frame| frame.header.session)
        .max()
        .unwrap_or(0)
}

/// Copies what is kept out of the segment's buffer, so that the buffer can be dropped. The payload
/// of data records stays on disk.
fn detached(mut frame: DecodedFrame) -> DecodedFrame {
    for record in &mut frame.records {
        record.header = Bytes::copy_from_slice(&record.header);
        record.summary.header = Bytes::copy_from_slice(&record.summary.header);
        if record.summary.class == Class::Control {
            record.payload = Bytes::copy_from_slice(&record.payload);
        } else {
            record.stored_payload_bytes = record.payload.len();
            record.payload = Bytes::new();
        }
    }
    frame
}

/// Drops frames with bad content in which a valid frame begins: that one was written over them.
fn without_overwritten(frames: Vec<DecodedFrame>) -> Vec<DecodedFrame> {
    let mut kept: Vec<DecodedFrame> = Vec::with_capacity(frames.len());
    let mut next_start = u64::MAX;
    for frame in frames.into_iter().rev() {
        let start = frame.header.position;
        if frame.intact() || frame.end <= next_start {
            next_start = start;
            kept.push(frame);
        }
    }
    kept.reverse();
    kept
}

struct Walk {
    segment_bytes: u64,
    watermark: u64,
    scan: Scan,
    copies: BTreeMap<Position, HeaderCopy>,
    /// Gaps below the watermark: start, end, sequence numbers missing (none: unknown).
    pending: Vec<(u64, u64, Option<u64>)>,
}

impl Walk {
    fn run(&mut self, frames: &[DecodedFrame]) {
        self.scan.end = self.scan.head * self.segment_bytes;
        // Frames before the head may be gone; records of theirs ended there or earlier.
        self.scan.reported = self.scan.end;
        let mut previous: Option<(u64, u64)> = None;
        for frame in frames {
            let start = frame.header.position;
            let (session, sequence) = (frame.header.session, frame.header.sequence);
            let is_foreign = previous.is_some_and(|last| session < last.0 || sequence <= last.1);
            if start < self.scan.end || is_foreign {
                continue;
            }
            if !frame.intact() && start >= self.watermark {
                break;
            }
            if self.continues(previous, frame) {
                // Nothing is lost between them.
            } else if self.scan.end < self.watermark && start <= self.watermark {
                let missing = previous.and_then(|(_, last)| sequence.checked_sub(last + 1));
                self.pending.push((self.scan.end, start, missing));
            } else {
                break;
            }
            previous = Some((session, sequence));
            self.take(frame);
        }
        if self.scan.end < self.watermark {
            self.pending.push((self.scan.end, self.watermark, None));
            self.scan.end = self.watermark;
            self.scan.last_headers.clear();
        }
        // After unknown frames any number would do that was never used: leave a wide margin.
        let lost_at_end = self
            .pending
            .last()
            .is_some_and(|gap| gap.1 == self.scan.end);
        let margin = if lost_at_end { self.scan.end } else { 1 };
        self.scan.next_sequence = previous.map_or(margin, |(_, last)| last + margin);
        self.report();
    }

    /// Whether `frame` is the one that was issued after the last taken.
    fn continues(&self, previous: Option<(u64, u64)>, frame: &DecodedFrame) -> bool {
        let start = frame.header.position;
        let at_segment_start = start.is_multiple_of(self.segment_bytes);
        let adjoins = start == self.scan.end
            || at_segment_start && start - self.scan.end < self.segment_bytes;
        match previous {
            None => start == self.scan.end,
            Some((_, last)) => adjoins && frame.header.sequence == last + 1,
        }
    }

    fn take(&mut self, frame: &DecodedFrame) {
        self.scan.end = frame.end;
        self.scan.last_headers.clear();
        if frame.records.iter().any(|record| !record.is_copies) {
            self.scan.reported = frame.end;
        }
        for record in &frame.records {
            if record.is_copies {
                self.take_copies(record, frame.header.position);
                continue;
            }
            self.scan.last_headers.push(record.summary.clone());
            if record.intact {
                self.keep(record);
            } else {
                let bytes = record_bytes(record.header.len(), record.payload_bytes());
                let start = record.summary.position;
                let known = HeaderCopy {
                    // The header's own bytes may be what is damaged.
                    header: Bytes::new(),
                    ..record.summary.clone()
                };
                self.copies.entry(start).or_insert(known);
                self.pending.push((start.0, start.0 + wide(bytes), Some(1)));
            }
        }
    }

    fn take_copies(&mut self, record: &DecodedRecord, frame_start: u64) {
        if record.intact {
            let copies = decode_copies(&record.payload).into_iter();
            self.copies.extend(copies.map(|copy| (copy.position, copy)));
        } else if let Some(gap) = self.pending.last_mut().filter(|gap| gap.1 == frame_start) {
            // The only witness of the gap before it is damaged too.
            gap.2 = None;
        }
    }

    fn keep(&mut self, record: &DecodedRecord) {
        let position = record.summary.position;
        let class = record.summary.class;
        let stream = record.summary.stream;
        let length = record_bytes(record.header.len(), record.payload_bytes());
        self.scan.live.insert(
            position,
            Live {
                stream,
                class,
                length,
            },
        );
        self.scan.records.push(RecoveredRecord {
            position,
            class,
            record: Record {
                stream,
                kind: record.summary.kind,
                header: record.header.clone(),
                payload: record.payload.clone(),
            },
        });
    }

    /// Joins the gaps with what the second copies know of them.
    fn report(&mut self) {
        for (start, end, missing) in std::mem::take(&mut self.pending) {
            let range = Position(start)..Position(end);
            let records: Vec<_> = self
                .copies
                .range(range)
                .map(|(_, copy)| copy.clone())
                .collect();
            if missing == Some(0) && records.is_empty() {
                // Only the unused end of a segment.
                continue;
            }
            let complete = missing == Some(1);
            if !complete || !records.is_empty() {
                // What is lost there was or may have been a record.
                self.scan.reported = self.scan.reported.max(end);
            }
            self.scan.damaged.push(DamagedRange {
                start: Position(start),
                end: Position(end),
                records,
                complete,
            });
        }
    }
}
