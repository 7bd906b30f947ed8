//! The journal's decisions: where records go, what is written when, what is durable, what is free.
//!
//! Invariants: records lie in the order of the calls that appended them; a record is reported
//! durable only when its frame and every earlier frame is; the `head` of a frame never passes a
//! live record; a segment's file is given up only after a frame that says so is durable; nothing is
//! accepted for which no segment file exists.
//! Does not: touch files or wait; `driver` performs the [`Action`]s and reports back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hedgerow_env::StoreId;
use hedgerow_env::mutants::{Mutant, active};
use tokio::sync::{mpsc, oneshot};

use super::format::{
    FRAME_HEADER_BYTES, FrameHeader, PlacedRecord, content_hash, copy_bytes, encode_copies,
    encode_frame, encode_record_header, locate, record_bytes,
};
use super::record::{
    AppendError, Class, CopyForward, HeaderCopy, Position, Record, Stopped, StreamTag,
};
use super::{HEADER_COPY_BYTES, JournalConfig, RECORD_OWN_HEADER_BYTES_MAX};
use crate::codec::{align_up, narrow, wide};

/// Segments that data and control records leave to marks, so that a full journal can still say
/// that space was freed.
const MARK_SEGMENTS: u64 = 1;

/// What the driver is to do.
pub(super) enum Action {
    /// Write and sync a frame, then report `written`.
    Write {
        sequence: u64,
        segment: u64,
        offset: u64,
        parts: Vec<Bytes>,
    },
    /// Give the freed segment `from` the number `to`, then report `recycled`.
    Recycle { from: u64, to: u64 },
}

/// A live record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub(super) stream: StreamTag,
    pub(super) class: Class,
    /// Bytes in the frame, with the record's header and padding.
    pub(super) length: usize,
}

struct Building {
    start: u64,
    length: usize,
    records: Vec<PlacedRecord>,
    summaries: Vec<HeaderCopy>,
    copied_bytes: usize,
    waiters: Vec<oneshot::Sender<()>>,
}

impl Building {
    fn has_records(&self) -> bool {
        !self.summaries.is_empty()
    }
}

struct Closed {
    start: u64,
    end: u64,
    body_bytes: usize,
    mark: bool,
    records: Vec<PlacedRecord>,
    waiters: Vec<oneshot::Sender<()>>,
}

struct InFlight {
    start: u64,
    end: u64,
    head: u64,
    mark: bool,
    written: bool,
    waiters: Vec<oneshot::Sender<()>>,
}

/// How a journal begins a session: what recovery found.
pub(super) struct Start {
    pub(super) store: StoreId,
    pub(super) session: u64,
    pub(super) end: u64,
    pub(super) reported: u64,
    pub(super) next_sequence: u64,
    pub(super) head: u64,
    /// Files exist for the segments `head..available_end`.
    pub(super) available_end: u64,
    pub(super) last_headers: Vec<HeaderCopy>,
    pub(super) live: BTreeMap<Position, Live>,
}

pub(super) struct Core {
    config: JournalConfig,
    store: StoreId,
    session: u64,
    next_sequence: u64,
    building: Building,
    closed: VecDeque<Closed>,
    closed_bytes: usize,
    in_flight: BTreeMap<u64, InFlight>,
    in_flight_bytes: usize,
    /// The end of the last frame that is laid out for good.
    laid_out: u64,
    durable: u64,
    /// The same, for whoever looks when this life is over.
    durable_end: Arc<AtomicU64>,
    /// The end of the last durable frame with records. Peers are shown this: a mark behind it is the
    /// one frame whose loss nothing tells from a torn tail, and nothing is lost with it.
    reported: u64,
    /// A frame was issued after which no mark was.
    mark_wanted: bool,
    live: BTreeMap<Position, Live>,
    live_in_segment: BTreeMap<u64, u64>,
    live_data_bytes: u64,
    memory: BTreeMap<Position, Arc<Record>>,
    memory_bytes: usize,
    /// The oldest segment with a live record, or the one being filled.
    head: u64,
    /// The head in the newest frame issued, and in the newest durable one.
    issued_head: u64,
    durable_head: u64,
    /// The oldest segment whose file still bears its number.
    oldest_file: u64,
    available_end: u64,
    recycling: bool,
    owners: BTreeMap<StreamTag, mpsc::Sender<CopyForward>>,
    asked: BTreeMap<StreamTag, u64>,
    stopped: Option<Stopped>,
}

impl Core {
    pub(super) fn new(config: JournalConfig, start: Start) -> Self {
        let mut live_in_segment = BTreeMap::new();
        let mut live_data_bytes = 0;
        for (position, live) in &start.live {
            let (segment, _) = locate(position.0, config.segment_bytes);
            *live_in_segment.entry(segment).or_insert(0) += 1;
            if live.class == Class::Data {
                live_data_bytes += wide(live.length);
            }
        }
        let mut core = Self {
            store: start.store,
            session: start.session,
            next_sequence: start.next_sequence,
            building: Building {
                start: start.end,
                length: FRAME_HEADER_BYTES,
                records: Vec::new(),
                summaries: Vec::new(),
                copied_bytes: 0,
                waiters: Vec::new(),
            },
            closed: VecDeque::new(),
            closed_bytes: 0,
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            laid_out: start.end,
            durable: start.end,
            durable_end: Arc::new(AtomicU64::new(start.end)),
            reported: start.reported,
            mark_wanted: true,
            live: start.live,
            live_in_segment,
            live_data_bytes,
            memory: BTreeMap::new(),
            memory_bytes: 0,
            head: start.head,
            issued_head: start.head,
            durable_head: start.head,
            oldest_file: start.head,
            available_end: start.available_end,
            recycling: false,
            owners: BTreeMap::new(),
            asked: BTreeMap::new(),
            stopped: None,
            config,
        };
        core.building = core.next_building(start.end, &start.last_headers);
        core.advance_head();
        core
    }

    /// Lays `record` out and remembers who waits for it.
    pub(super) fn append(
        &mut self,
        record: Record,
        class: Class,
        waiter: oneshot::Sender<()>,
    ) -> Result<Position, AppendError> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone().into());
        }
        let bytes = record_bytes(record.header.len(), record.payload.len());
        self.check_size(&record, bytes)?;
        let limit = match class {
            Class::Data => self.config.queue_bytes,
            Class::Control => self.config.queue_bytes.saturating_mul(2),
        };
        if self.queued_bytes() > 0 && self.queued_bytes() + bytes > limit {
            return Err(AppendError::Busy);
        }
        self.make_room(bytes, class)?;
        Ok(self.place(record, bytes, class, waiter))
    }

    fn check_size(&self, record: &Record, bytes: usize) -> Result<(), AppendError> {
        let limit = self.config.record_bytes_max();
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        if record.header.len() > RECORD_OWN_HEADER_BYTES_MAX {
            return Err(AppendError::TooLarge {
                bytes: record.header.len(),
                limit: RECORD_OWN_HEADER_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// Ensures that the frame being built can take `bytes` more, closing it if it cannot.
    fn make_room(&mut self, bytes: usize, class: Class) -> Result<(), AppendError> {
        let building = &self.building;
        let batch_full = building.has_records()
            && (building.length + bytes > self.config.batch_bytes
                || building.copied_bytes > self.config.copied_bytes_max());
        let mut place = (building.start, building.length);
        let mut close = false;
        if batch_full || !self.fits(place, bytes) {
            close = building.has_records();
            let next = if close {
                self.next_building(self.building_end(), &building.summaries)
            } else {
                self.relocated()
            };
            place = (next.start, next.length);
            if !self.fits(place, bytes) {
                place.0 = (place.0 / self.config.segment_bytes + 1) * self.config.segment_bytes;
            }
        }
        let segment = place.0 / self.config.segment_bytes;
        let kept_free = match class {
            Class::Control => MARK_SEGMENTS,
            Class::Data => MARK_SEGMENTS + self.config.reserve_segments,
        };
        if segment + kept_free >= self.available_end {
            self.ask_for_space();
            return Err(AppendError::Full);
        }
        if close {
            self.close_building(false);
        }
        if self.building.start != place.0 {
            self.move_building(place.0);
        }
        Ok(())
    }

    fn fits(&self, (start, length): (u64, usize), bytes: usize) -> bool {
        let room = self.config.segment_bytes - start % self.config.segment_bytes;
        wide(length + bytes) <= room
    }

    fn building_end(&self) -> u64 {
        self.building.start + align_up(wide(self.building.length), u64::from(self.config.alignment))
    }

    /// A frame that begins at or after `start` with copies of the headers of the frame before it.
    fn next_building(&self, start: u64, previous: &[HeaderCopy]) -> Building {
        let mut building = Building {
            start,
            length: FRAME_HEADER_BYTES,
            records: Vec::new(),
            summaries: Vec::new(),
            copied_bytes: 0,
            waiters: Vec::new(),
        };
        let payload = encode_copies(previous);
        let bytes = if previous.is_empty() {
            0
        } else {
            record_bytes(0, payload.len())
        };
        if !self.fits((start, building.length), bytes) {
            building.start = (start / self.config.segment_bytes + 1) * self.config.segment_bytes;
        }
        if !previous.is_empty() {
            let placed = self.copies_record(building.start, payload);
            building.records.push(placed);
            building.length += bytes;
        }
        building
    }

    fn copies_record(&self, frame_start: u64, payload: Bytes) -> PlacedRecord {
        let summary = HeaderCopy {
            position: Position(frame_start + wide(FRAME_HEADER_BYTES)),
            stream: StreamTag::JOURNAL,
            kind: 0,
            class: Class::Control,
            header: Bytes::new(),
            content: content_hash(&[], &payload),
        };
        let encoded_header = encode_record_header(self.store, &summary, None, 0, payload.len());
        PlacedRecord {
            encoded_header,
            header: Bytes::new(),
            payload,
        }
    }

    /// What the frame being built (without records yet) would be at the next segment's beginning.
    fn relocated(&self) -> Building {
        let start =
            (self.building.start / self.config.segment_bytes + 1) * self.config.segment_bytes;
        Building {
            start,
            length: self.building.length,
            records: Vec::new(),
            summaries: Vec::new(),
            copied_bytes: 0,
            waiters: Vec::new(),
        }
    }

    /// Moves the frame being built, which holds at most header copies, to `start`.
    fn move_building(&mut self, start: u64) {
        assert!(
            !self.building.has_records(),
            "a frame with records keeps its place"
        );
        let records = std::mem::take(&mut self.building.records);
        self.building.start = start;
        self.building.records = records
            .into_iter()
            .map(|record| self.copies_record(start, record.payload))
            .collect();
    }

    fn place(
        &mut self,
        record: Record,
        bytes: usize,
        class: Class,
        waiter: oneshot::Sender<()>,
    ) -> Position {
        let position = Position(self.building.start + wide(self.building.length));
        let copied = record.header.len().min(HEADER_COPY_BYTES);
        let summary = HeaderCopy {
            position,
            stream: record.stream,
            kind: record.kind,
            class,
            header: record.header.slice(..copied),
            content: content_hash(&record.header, &record.payload),
        };
        self.building.records.push(PlacedRecord {
            encoded_header: encode_record_header(
                self.store,
                &summary,
                Some(class),
                record.header.len(),
                record.payload.len(),
            ),
            header: record.header.clone(),
            payload: record.payload.clone(),
        });
        self.building.copied_bytes += copy_bytes(&summary);
        self.building.summaries.push(summary);
        self.building.length += bytes;
        self.building.waiters.push(waiter);

        let live = Live {
            stream: record.stream,
            class,
            length: bytes,
        };
        self.live.insert(position, live);
        let (segment, _) = locate(position.0, self.config.segment_bytes);
        *self.live_in_segment.entry(segment).or_insert(0) += 1;
        if class == Class::Data {
            self.live_data_bytes += wide(bytes);
        }
        self.memory_bytes += bytes;
        self.memory.insert(position, Arc::new(record));
        position
    }

    fn close_building(&mut self, mark: bool) {
        let end = self.building_end();
        let next = self.next_building(end, &self.building.summaries);
        let building = std::mem::replace(&mut self.building, next);
        self.laid_out = end;
        self.closed_bytes += narrow(end - building.start);
        self.closed.push_back(Closed {
            start: building.start,
            end,
            body_bytes: building.length - FRAME_HEADER_BYTES,
            mark,
            records: building.records,
            waiters: building.waiters,
        });
    }

    /// The next thing to do, if any. A closing mark waits until `is_mark_due`, unless space is
    /// short: what was freed can be used only once a durable frame says so.
    pub(super) fn next_action(&mut self, is_mark_due: bool) -> Option<Action> {
        if self.stopped.is_some() {
            return None;
        }
        if let Some(action) = self.next_recycle() {
            return Some(action);
        }
        if self.in_flight.len() >= self.config.writes_in_flight {
            return None;
        }
        if self.closed.is_empty() {
            if self.building.has_records() {
                self.close_building(false);
            } else if self.in_flight.is_empty()
                && self.wants_mark()
                && (is_mark_due || self.waits_for_freed_space())
                && self.has_mark_room()
            {
                self.close_building(true);
            }
        }
        let frame = self.closed.pop_front()?;
        Some(self.issue(frame))
    }

    fn wants_mark(&self) -> bool {
        self.mark_wanted || self.head > self.issued_head
    }

    fn waits_for_freed_space(&self) -> bool {
        self.head > self.issued_head && self.is_short_of_space()
    }

    /// Whether a closing mark is to be written once it is due.
    pub(super) fn is_mark_awaited(&mut self) -> bool {
        self.stopped.is_none() && self.wants_mark() && self.has_mark_room()
    }

    /// Whether a file exists for the mark's segment; moves the mark there when it must.
    fn has_mark_room(&mut self) -> bool {
        if !self.fits((self.building.start, self.building.length), 0) {
            let start = self.relocated().start;
            self.move_building(start);
        }
        self.building.start / self.config.segment_bytes < self.available_end
    }

    fn issue(&mut self, frame: Closed) -> Action {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.mark_wanted = !frame.mark && !active(Mutant::ClosingMarkSkipped);
        self.issued_head = self.head;
        let header = FrameHeader {
            store: self.store,
            session: self.session,
            sequence,
            position: frame.start,
            watermark: self.durable,
            head: self.head,
            mark: frame.mark,
        };
        let alignment = narrow(u64::from(self.config.alignment));
        let parts = encode_frame(&header, &frame.records, frame.body_bytes, alignment);
        let (segment, offset) = locate(frame.start, self.config.segment_bytes);
        let bytes = narrow(frame.end - frame.start);
        self.closed_bytes -= bytes;
        self.in_flight_bytes += bytes;
        assert!(
            segment < self.available_end,
            "frames are laid out in existing segments only"
        );
        self.in_flight.insert(
            sequence,
            InFlight {
                start: frame.start,
                end: frame.end,
                head: self.head,
                mark: frame.mark,
                written: false,
                waiters: frame.waiters,
            },
        );
        Action::Write {
            sequence,
            segment,
            offset,
            parts,
        }
    }

    /// The frame is on stable storage. Returns whether anything became durable.
    pub(super) fn written(&mut self, sequence: u64) -> bool {
        if let Some(frame) = self.in_flight.get_mut(&sequence) {
            frame.written = true;
        }
        if active(Mutant::LaterFrameSpeaksForEarlier) {
            for (_, frame) in self.in_flight.range_mut(..sequence) {
                frame.written = true;
            }
        }
        let before = self.durable;
        while self
            .in_flight
            .first_key_value()
            .is_some_and(|(_, frame)| frame.written)
        {
            let (_, frame) = self.in_flight.pop_first().expect("it was there just now");
            assert!(frame.end > self.durable, "frames become durable in order");
            self.durable = frame.end;
            self.durable_end.store(frame.end, Ordering::Relaxed);
            if !frame.mark {
                self.reported = frame.end;
            }
            self.durable_head = self.durable_head.max(frame.head);
            self.in_flight_bytes -= narrow(frame.end - frame.start);
            for waiter in frame.waiters {
                // A receipt that nobody awaits is fine.
                waiter.send(()).ok();
            }
        }
        self.trim_memory();
        self.advance_head();
        self.durable > before
    }

    fn trim_memory(&mut self) {
        while self.memory_bytes > self.config.memory_bytes {
            let Some((position, _)) = self.memory.first_key_value() else {
                return;
            };
            if position.0 >= self.durable {
                return;
            }
            let position = *position;
            self.forget(position);
        }
    }

    fn forget(&mut self, position: Position) {
        if let Some(record) = self.memory.remove(&position) {
            self.memory_bytes -= record_bytes(record.header.len(), record.payload.len());
        }
    }

    /// The record is superseded. Unknown positions are ignored: releasing twice is harmless.
    pub(super) fn release(&mut self, position: Position) {
        let Some(live) = self.live.remove(&position) else {
            return;
        };
        if live.class == Class::Data {
            self.live_data_bytes -= wide(live.length);
        }
        self.forget(position);
        let (segment, _) = locate(position.0, self.config.segment_bytes);
        let count = self
            .live_in_segment
            .get_mut(&segment)
            .expect("live records are counted");
        *count -= 1;
        if *count == 0 {
            self.live_in_segment.remove(&segment);
            self.advance_head();
        }
    }

    /// Moves the head over segments without live records, and asks for help when space is short.
    fn advance_head(&mut self) {
        let (durable_segment, _) = locate(self.durable, self.config.segment_bytes);
        let oldest_live = self
            .live_in_segment
            .first_key_value()
            .map(|(segment, _)| *segment)
            .filter(|_| !active(Mutant::SegmentFreedEarly));
        let head = oldest_live.map_or(durable_segment, |live| live.min(durable_segment));
        assert!(
            head >= self.head,
            "records are never appended behind the head"
        );
        self.head = head;
        if self.is_short_of_space() {
            self.ask_for_space();
        }
    }

    pub(super) fn is_short_of_space(&self) -> bool {
        let (segment, _) = locate(self.building.start, self.config.segment_bytes);
        let free = self.available_end.saturating_sub(segment + 1);
        free < self.config.copy_forward_segments()
    }

    /// Asks the owners of the oldest segment's live records to copy them forward.
    pub(super) fn ask_for_space(&mut self) {
        let (building_segment, _) = locate(self.building.start, self.config.segment_bytes);
        let Some((&oldest, _)) = self.live_in_segment.first_key_value() else {
            return;
        };
        if oldest >= building_segment {
            return;
        }
        let end = Position((oldest + 1) * self.config.segment_bytes);
        let mut wanted: BTreeMap<StreamTag, Vec<Position>> = BTreeMap::new();
        let mut forgotten = Vec::new();
        for (position, live) in self.live.range(..end) {
            if active(Mutant::VoteNotCopiedForward) && is_like_a_vote(live) {
                forgotten.push(*position);
            } else {
                wanted.entry(live.stream).or_default().push(*position);
            }
        }
        for (stream, positions) in wanted {
            if self.asked.get(&stream) == Some(&oldest) {
                continue;
            }
            let Some(owner) = self.owners.get(&stream) else {
                continue;
            };
            // A full channel means that the owner has yet to handle the previous request.
            if owner.try_send(CopyForward { stream, positions }).is_ok() {
                self.asked.insert(stream, oldest);
            }
        }
        // Only the mutant forgets.
        for position in forgotten {
            self.release(position);
        }
    }

    pub(super) fn register(&mut self, stream: StreamTag, owner: mpsc::Sender<CopyForward>) {
        self.owners.insert(stream, owner);
        self.asked.remove(&stream);
        if self.is_short_of_space() {
            self.ask_for_space();
        }
    }

    /// Every live record of `stream`, ascending.
    pub(super) fn positions_of(&self, stream: StreamTag) -> Vec<Position> {
        let of_stream = self.live.iter().filter(|(_, live)| live.stream == stream);
        of_stream.map(|(position, _)| *position).collect()
    }

    fn next_recycle(&mut self) -> Option<Action> {
        let head = if active(Mutant::SegmentRecycledEarly) {
            self.head
        } else {
            self.durable_head
        };
        if self.recycling || self.oldest_file >= head {
            return None;
        }
        self.recycling = true;
        Some(Action::Recycle {
            from: self.oldest_file,
            to: self.available_end,
        })
    }

    pub(super) fn recycled(&mut self) {
        assert!(self.recycling, "one segment is recycled at a time");
        self.recycling = false;
        self.oldest_file += 1;
        self.available_end += 1;
    }

    /// Refuses everything from now on; waiters learn that their outcome is unknown.
    pub(super) fn stop(&mut self, reason: Stopped) {
        if self.stopped.is_none() {
            self.stopped = Some(reason);
        }
        self.closed.clear();
        self.in_flight.clear();
        self.building.waiters.clear();
        self.owners.clear();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Nothing is queued or in flight and the closing mark is written (or has no room).
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
            && self.closed.is_empty()
            && !self.building.has_records()
            && !self.mark_wanted
    }

    pub(super) fn queued_bytes(&self) -> usize {
        let building = if self.building.has_records() {
            self.building.length
        } else {
            0
        };
        building + self.closed_bytes + self.in_flight_bytes
    }

    /// Whether appends of any class are welcome now.
    pub(super) fn is_ready(&self) -> bool {
        self.stopped.is_some() || self.queued_bytes() < self.config.queue_bytes / 2
    }

    /// Whether data records have a segment of their own to go on in.
    pub(super) fn has_data_room(&self) -> bool {
        let next = self.building.start / self.config.segment_bytes + 1;
        let kept_free = MARK_SEGMENTS + self.config.reserve_segments;
        self.stopped.is_some() || next + kept_free < self.available_end
    }

    pub(super) fn live(&self, position: Position) -> Option<Live> {
        self.live.get(&position).copied()
    }

    pub(super) fn in_memory(&self, position: Position) -> Option<Arc<Record>> {
        self.memory.get(&position).cloned()
    }

    pub(super) fn durable(&self) -> Position {
        Position(self.durable)
    }

    pub(super) fn durable_end(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.durable_end)
    }

    pub(super) fn reported(&self) -> Position {
        Position(self.reported)
    }

    /// Where everything appended so far ends.
    pub(super) fn end(&self) -> Position {
        let open = self.building.has_records();
        Position(if open {
            self.building_end()
        } else {
            self.laid_out
        })
    }

    pub(super) fn live_data_bytes(&self) -> u64 {
        self.live_data_bytes
    }

    /// Bytes from the oldest live segment to the end.
    pub(super) fn used_bytes(&self) -> u64 {
        self.building
            .start
            .saturating_sub(self.head * self.config.segment_bytes)
    }
}

/// What the mutant takes for a vote: a small control record of somebody else than the journal's
/// store.
fn is_like_a_vote(live: &Live) -> bool {
    const VOTE_BYTES_MAX: usize = 256;
    live.class == Class::Control && live.stream != StreamTag::BLOBS && live.length <= VOTE_BYTES_MAX
}
