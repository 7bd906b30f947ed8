//! A recording as columns, cut down until the page is small.
//!
//! Invariants: what is left out is what lies furthest from the *focus*, the moment that the failure
//! is about, and is counted; a message's words are left out before the message is. Times are exact
//! unless there are very many messages.

use hedgerow_jepsen::report::pack::{Column, Pack, Texts};
use serde_json::{Value, json};

use super::PAGE_MAXIMUM_BYTES;
use crate::world::{EventKind, TraceEvent};

/// Pieces of the run for which messages are counted, whether or not they are kept.
const DENSITY_PIECES: u64 = 2_048;
/// Above so many messages their times are kept in microseconds.
const EXACT_MESSAGES_MAXIMUM: usize = 150_000;

/// The words of what lies nearest to the failure are worth more than messages far from it.
const WORDS_MINIMUM_BYTES: usize = 3 << 20;

/// What is kept of a recording.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Messages nearest to the focus.
    pub(super) messages: usize,
    /// Bytes of the words of messages.
    pub(super) words: usize,
    /// Lines of the log.
    pub(super) lines: usize,
    /// Disk calls.
    pub(super) disk_calls: usize,
}

impl Budget {
    /// Less, after a page of `bytes` was too large: words go first, then messages; lines and disk
    /// calls are few beside them.
    pub(super) fn cut(&mut self, bytes: usize) {
        let few = self.words <= WORDS_MINIMUM_BYTES;
        self.words = (self.words / 4).max(WORDS_MINIMUM_BYTES);
        if few {
            // A page twice too large keeps somewhat less than half.
            let share = (PAGE_MAXIMUM_BYTES * 90 / bytes.max(1)).min(80);
            self.messages = self.messages * share / 100;
            self.lines = self.lines * 3 / 4;
            self.disk_calls /= 2;
        }
    }
}

/// Events of a kind, by time.
type Events<'a> = Vec<&'a TraceEvent>;

/// The recording, sorted into what is drawn.
pub(super) struct Recorded<'a> {
    messages: Events<'a>,
    lines: Events<'a>,
    disk: Events<'a>,
    lives: Events<'a>,
    timers: usize,
    focus_ns: u64,
    end_ns: u64,
}

impl<'a> Recorded<'a> {
    pub(super) fn new(events: &'a [TraceEvent], focus_ns: u64, end_ns: u64) -> Self {
        let mut recorded = Self {
            messages: Vec::new(),
            lines: Vec::new(),
            disk: Vec::new(),
            lives: Vec::new(),
            timers: 0,
            focus_ns,
            end_ns,
        };
        for event in events {
            match event.kind {
                EventKind::Deliver | EventKind::Lose => recorded.messages.push(event),
                EventKind::Log | EventKind::Fault | EventKind::Connect | EventKind::Reset => {
                    recorded.lines.push(event);
                }
                EventKind::DiskFault => recorded.lines.push(event),
                EventKind::Start | EventKind::Stop => {
                    recorded.lines.push(event);
                    recorded.lives.push(event);
                }
                EventKind::DiskRead
                | EventKind::DiskWrite
                | EventKind::DiskSync
                | EventKind::DiskOther => recorded.disk.push(event),
                EventKind::Timer | EventKind::Stream | EventKind::Note => recorded.timers += 1,
            }
        }
        recorded
    }

    pub(super) fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Packs what the budget allows and says what was left out.
    pub(super) fn pack(&self, budget: Budget, pack: &mut Pack) -> Value {
        let messages = nearest(&self.messages, budget.messages, self.focus_ns);
        let lines = nearest(&self.lines, budget.lines, self.focus_ns);
        let disk = nearest(&self.disk, budget.disk_calls, self.focus_ns);
        let unit_ns = if messages.len() > EXACT_MESSAGES_MAXIMUM {
            1_000
        } else {
            1
        };
        let words = pack_messages(messages, unit_ns, budget.words, self.focus_ns, pack);
        pack_lines(lines, pack);
        pack_disk(disk, pack);
        self.pack_density(pack);
        let span = |events: &[&TraceEvent]| {
            let at = |event: Option<&&TraceEvent>| event.map(|event| event.at_ns);
            json!([at(events.first()), at(events.last())])
        };
        json!({
            "messages": messages.len(),
            "messages_left_out": self.messages.len() - messages.len(),
            "messages_span": span(messages),
            "message_unit_ns": unit_ns,
            "words": words,
            "lines": lines.len(),
            "lines_left_out": self.lines.len() - lines.len(),
            "disk": disk.len(),
            "disk_left_out": self.disk.len() - disk.len(),
            "timers": self.timers,
            "density_pieces": DENSITY_PIECES,
            "lives": self.lives(),
        })
    }

    /// When each node ran: (node, from, until or null).
    fn lives(&self) -> Vec<Value> {
        let mut lives: Vec<(u16, u64, Option<u64>)> = Vec::new();
        for event in &self.lives {
            let Some(node) = event.node else { continue };
            if event.kind == EventKind::Start {
                lives.push((node.0, event.at_ns, None));
            } else {
                let open = lives.iter_mut().rev().find(|life| life.0 == node.0);
                if let Some(life) = open.filter(|life| life.2.is_none()) {
                    life.2 = Some(event.at_ns);
                }
            }
        }
        lives.into_iter().map(|life| json!(life)).collect()
    }

    fn pack_density(&self, pack: &mut Pack) {
        let mut counts = vec![0_u64; usize::try_from(DENSITY_PIECES).expect("a small constant")];
        let end = u128::from(self.end_ns.max(1));
        for event in &self.messages {
            let piece = u128::from(event.at_ns) * u128::from(DENSITY_PIECES) / end;
            let last = counts.len() - 1;
            counts[usize::try_from(piece).unwrap_or(last).min(last)] += 1;
        }
        let mut column = Column::default();
        for count in counts {
            column.push(count);
        }
        pack.column("density", &column);
    }
}

/// The `count` events nearest to the focus: most of them before it, since causes come first.
fn nearest<'a, 'b>(
    events: &'b [&'a TraceEvent],
    count: usize,
    focus_ns: u64,
) -> &'b [&'a TraceEvent] {
    if events.len() <= count {
        return events;
    }
    let focus = events.partition_point(|event| event.at_ns <= focus_ns);
    let end = (focus + count / 5).min(events.len());
    let start = end.saturating_sub(count);
    &events[start..(start + count).min(events.len())]
}

/// The words table: (service, word) pairs by number.
fn pack_messages(
    messages: &[&TraceEvent],
    unit_ns: u64,
    words_maximum: usize,
    focus_ns: u64,
    pack: &mut Pack,
) -> Vec<Value> {
    let mut kinds: Vec<(String, String)> = Vec::new();
    let with_words = detailed(messages, words_maximum, focus_ns);
    let mut columns: [Column; 8] = Default::default();
    let [arrived, took, from, to, size, kind, text, lost] = &mut columns;
    let mut texts = Texts::default();
    for (at, event) in messages.iter().enumerate() {
        let mut parts = event.text.splitn(3, '\t');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let named = (part(), part());
        let detail = part();
        let known = kinds.iter().position(|known| *known == named);
        let number = known.unwrap_or_else(|| {
            kinds.push(named);
            kinds.len() - 1
        });
        let (sent, end) = (event.since_ns / unit_ns, event.at_ns / unit_ns);
        arrived.push_delta(end);
        took.push(end.saturating_sub(sent));
        from.push(event.subject);
        to.push(event.node.map_or(0, |node| u64::from(node.0)));
        size.push(event.size);
        kind.push(number as u64);
        let detail = if with_words.contains(&at) {
            detail
        } else {
            String::new()
        };
        text.push(texts.number(&detail));
        lost.push(u64::from(event.kind == EventKind::Lose));
    }
    let names = [
        "m_at", "m_took", "m_from", "m_to", "m_size", "m_kind", "m_text", "m_lost",
    ];
    for (name, column) in names.iter().zip(&columns) {
        pack.column(name, column);
    }
    pack.texts("m_texts", &texts);
    kinds.into_iter().map(|kind| json!(kind)).collect()
}

/// The range of messages, around the focus, whose words fit.
fn detailed(messages: &[&TraceEvent], maximum: usize, focus_ns: u64) -> std::ops::Range<usize> {
    let focus = messages.partition_point(|event| event.at_ns <= focus_ns);
    let (mut start, mut end, mut bytes) = (focus, focus, 0);
    while bytes < maximum && (start > 0 || end < messages.len()) {
        if start > 0 {
            start -= 1;
            bytes += messages[start].text.len();
        }
        // One of two: causes come first.
        let due = start == 0 || (end - focus) * 2 <= focus - start;
        if due && end < messages.len() {
            bytes += messages[end].text.len();
            end += 1;
        }
    }
    start..end
}

/// Levels of lines, as the page's script knows them.
fn level(event: &TraceEvent) -> u64 {
    match event.kind {
        EventKind::Fault | EventKind::DiskFault => 4,
        EventKind::Start | EventKind::Stop => 5,
        EventKind::Connect | EventKind::Reset => 6,
        _ => match event.text.split(' ').next() {
            Some("Debug") => 0,
            Some("Warn") => 2,
            Some("Error") => 3,
            _ => 1,
        },
    }
}

fn line_text(event: &TraceEvent) -> String {
    let peer = event.subject;
    match event.kind {
        EventKind::Connect => format!("connection from #{peer} to port {}", event.size),
        EventKind::Reset => format!("connection with #{peer} broke"),
        EventKind::Start => format!("starts, life {peer}"),
        EventKind::Stop => format!("stops, life {peer}"),
        EventKind::DiskFault => "the disk is struck".to_owned(),
        EventKind::Log => event
            .text
            .split_once(' ')
            .map_or("", |(_, text)| text)
            .to_owned(),
        _ => event.text.clone(),
    }
}

fn pack_lines(lines: &[&TraceEvent], pack: &mut Pack) {
    let mut columns: [Column; 4] = Default::default();
    let [at, node, levels, text] = &mut columns;
    let mut texts = Texts::default();
    for event in lines {
        at.push_delta(event.at_ns);
        node.push(event.node.map_or(0, |node| u64::from(node.0) + 1));
        levels.push(level(event));
        text.push(texts.number(&line_text(event)));
    }
    for (name, column) in ["l_at", "l_node", "l_level", "l_text"].iter().zip(&columns) {
        pack.column(name, column);
    }
    pack.texts("l_texts", &texts);
}

fn pack_disk(events: &[&TraceEvent], pack: &mut Pack) {
    let mut columns: [Column; 4] = Default::default();
    let [at, node, kind, size] = &mut columns;
    for event in events {
        at.push_delta(event.at_ns);
        node.push(event.node.map_or(0, |node| u64::from(node.0)));
        kind.push(match event.kind {
            EventKind::DiskRead => 0,
            EventKind::DiskWrite => 1,
            EventKind::DiskSync => 2,
            _ => 3,
        });
        size.push(event.size);
    }
    for (name, column) in ["d_at", "d_node", "d_kind", "d_size"].iter().zip(&columns) {
        pack.column(name, column);
    }
}
