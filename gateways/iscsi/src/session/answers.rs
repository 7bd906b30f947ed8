//! What a session answers: data and status of commands, pings, text.
//!
//! Invariant: the last Data-In PDU of a command that went well carries its status; everything else
//! has a response of its own (RFC 7143 11.7.3).

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};

use super::Effect;
use super::full::FullFeature;
use super::task::Addressed;
use super::text::Shown;
use crate::codec::response::Residual;
use crate::codec::{Counters, HEADER_BYTES, Response, TAG_NONE, request, response};
use crate::scsi::execute::Reply;
use crate::scsi::status;

impl FullFeature {
    pub(super) fn nop(&mut self, nop: request::NopOut, effects: &mut Vec<Effect>) {
        let mut data = nop.data;
        data.truncate(usize::try_from(self.start.agreed.peer_data_segment).unwrap_or(usize::MAX));
        let counters = self.numbered();
        effects.push(Effect::Send(Response::NopIn(response::NopIn {
            lun: nop.lun,
            task: nop.task,
            transfer: TAG_NONE,
            counters,
            data,
        })));
    }

    pub(super) fn text(
        &mut self,
        request: &request::Text,
        header: &[u8; HEADER_BYTES],
        effects: &mut Vec<Effect>,
    ) {
        let continuation = self.exchange.is_continuation(request.transfer);
        if request.transfer != TAG_NONE && !continuation {
            return self.violation("a text request with a foreign tag", header, effects);
        }
        if !continuation {
            if self.exchange.add(&request.data).is_err() {
                return self.violation("a text that is too long", header, effects);
            }
            if request.continues {
                return self.send_text(request, Bytes::new(), false, TAG_NONE, effects);
            }
            let own = self
                .start
                .session
                .as_ref()
                .map(|(target, _)| target.name.as_str());
            let shown = Shown {
                own,
                names: self.start.targets.names(),
            };
            let (targets, local) = (&self.start.targets, &self.start.local_address);
            let answered = self.exchange.answer(&shown, |name| {
                let portals = targets.describe(name).map(|target| target.portals);
                portals
                    .filter(|list| !list.is_empty())
                    .unwrap_or_else(|| vec![local.clone()])
            });
            if answered.is_err() {
                return self.violation("a malformed text", header, effects);
            }
        }
        let tag = self.transfer_tag();
        let limit = usize::try_from(self.start.agreed.peer_data_segment).unwrap_or(usize::MAX);
        let part = self.exchange.next_part(limit, tag);
        let tag = if part.continues { tag } else { TAG_NONE };
        self.send_text(request, part.data, part.continues, tag, effects);
    }

    pub(super) fn send_text(
        &mut self,
        request: &request::Text,
        data: Bytes,
        continues: bool,
        transfer: u32,
        effects: &mut Vec<Effect>,
    ) {
        let counters = self.numbered();
        effects.push(Effect::Send(Response::Text(response::Text {
            last: !continues && !request.continues,
            continues,
            lun: request.lun,
            task: request.task,
            transfer,
            counters,
            data,
        })));
    }

    /// Sends the data and the status of a command.
    pub(super) fn respond(
        &mut self,
        addressed: Addressed,
        reply: Reply,
        effects: &mut Vec<Effect>,
    ) {
        let length = u32::try_from(reply.data.len()).expect("transfers are limited");
        let residual = residual(addressed, &reply, length);
        let room = if addressed.reads {
            addressed.expected_bytes
        } else {
            0
        };
        let mut data = reply.data;
        data.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if !data.is_empty() && reply.status == status::GOOD {
            return self.send_data(addressed.task, data, residual, effects);
        }
        let sense = reply
            .sense
            .filter(|_| !active(Mutant::SenseLost))
            .map(|sense| sense.encode(addressed.descriptor_sense));
        let counters = self.numbered();
        effects.push(Effect::Send(Response::Command(response::Command {
            response: 0,
            status: reply.status,
            task: addressed.task,
            counters,
            expected_data: addressed.transfers,
            residual,
            sense: sense.unwrap_or_default(),
        })));
    }

    /// Data-In PDUs; the last one carries the status (RFC 7143 11.7.3).
    pub(super) fn send_data(
        &mut self,
        task: u32,
        mut data: Bytes,
        residual: Residual,
        effects: &mut Vec<Effect>,
    ) {
        let segment = self.start.agreed.peer_data_segment;
        let burst = self.start.agreed.max_burst;
        let (mut offset, mut data_sn, mut in_burst) = (0_u32, 0_u32, 0_u32);
        while !data.is_empty() {
            let rest = u32::try_from(data.len()).expect("transfers are limited");
            let length = rest.min(segment).min(burst - in_burst);
            let ends = length == rest;
            let counters = if ends {
                self.numbered()
            } else {
                Counters {
                    status: 0,
                    ..self.counters()
                }
            };
            in_burst += length;
            let last = ends || in_burst == burst;
            if last {
                in_burst = 0;
            }
            let length_here = usize::try_from(length).expect("within the data");
            effects.push(Effect::Send(Response::DataIn(response::DataIn {
                last,
                status: ends.then_some((status::GOOD, residual)),
                task,
                counters,
                data_sn,
                offset,
                data: data.split_to(length_here),
            })));
            offset += length;
            data_sn += 1;
        }
    }
}

/// What was not moved of what the initiator expected, or would have been beyond it.
fn residual(addressed: Addressed, reply: &Reply, length: u32) -> Residual {
    let (wanted, expected) = if length > 0 {
        (
            length,
            if addressed.reads {
                addressed.expected_bytes
            } else {
                0
            },
        )
    } else if addressed.reads || reply.status == status::GOOD || addressed.wanted_out > 0 {
        (addressed.wanted_out, addressed.expected_bytes)
    } else {
        (0, addressed.expected_bytes)
    };
    match wanted.cmp(&expected) {
        std::cmp::Ordering::Equal => Residual::None,
        std::cmp::Ordering::Less if active(Mutant::ResidualMissing) => Residual::None,
        std::cmp::Ordering::Less => Residual::Underflow(expected - wanted),
        std::cmp::Ordering::Greater => Residual::Overflow(wanted - expected),
    }
}
