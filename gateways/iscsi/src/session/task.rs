//! One SCSI task of a session, and the gathering of its data-out buffer (RFC 7143 4.2.5, 11.7).
//!
//! Data comes in order (DataPDUInOrder and DataSequenceInOrder are Yes): immediate data, then
//! unsolicited Data-Out, then one burst for each R2T. Anything else is a protocol error.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hedgerow_env::mutants::{Mutant, active};

use crate::codec::{TAG_NONE, request};
use crate::scsi::execution::Execution;
use crate::target::{TaskId, Unit};

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for room in the session's data budget.
    Queued,
    /// Waits for data of the initiator.
    Gathering,
    /// Has its data; may have to wait for older tasks.
    Ready,
    /// A medium operation is under way.
    Operating,
}

/// What a response needs to know of its command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addressed {
    pub(super) task: u32,
    pub(super) expected_bytes: u32,
    pub(super) reads: bool,
    /// Bytes that the CDB asked of the initiator.
    pub(super) wanted_out: u32,
    /// R2Ts sent.
    pub(super) transfers: u32,
    pub(super) descriptor_sense: bool,
}

/// One task.
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) unit: Arc<Unit>,
    pub(super) command: request::Command,
    pub(super) wanted_out: u32,
    pub(super) execution: Execution,
    pub(super) gathering: Gathering,
    pub(super) stage: Stage,
    /// Bytes of the session's data budget that it holds while it is not queued.
    pub(super) cost: u64,
    pub(super) transfers: u32,
    /// The operation under way is in the unit's task table.
    pub(super) changing: bool,
}

impl Task {
    pub(super) fn is_ordered(&self) -> bool {
        self.command.attribute == request::Attribute::Ordered
    }

    pub(super) fn jumps_queue(&self) -> bool {
        self.command.attribute == request::Attribute::HeadOfQueue
    }

    pub(super) fn addressed(&self) -> Addressed {
        Addressed {
            task: self.command.task,
            expected_bytes: self.command.expected_bytes,
            reads: self.command.reads,
            wanted_out: self.wanted_out,
            transfers: self.transfers,
            descriptor_sense: self.unit.lock().mode.descriptor_sense,
        }
    }
}

/// What is wrong with a Data-Out PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataError {
    /// A DataSN is not the next one: data of this command was lost (RFC 7143 7.8).
    OutOfSequence,
    /// It breaks the protocol.
    Violation(&'static str),
}

/// One solicited burst.
#[derive(Debug)]
struct Burst {
    transfer: u32,
    end: u32,
    next_sn: u32,
}

/// The data-out buffer of one command, as it comes.
#[derive(Debug)]
pub(super) struct Gathering {
    /// Bytes that the command uses; the rest of what comes is dropped.
    wanted: u32,
    /// Next DataSN of unsolicited data while more of it may come, and where it must end.
    unsolicited: Option<(u32, u32)>,
    received: u32,
    requested: u32,
    bursts: VecDeque<Burst>,
    /// The only part, or nothing once there are several.
    single: Bytes,
    several: BytesMut,
}

impl Gathering {
    /// Starts with immediate data. `unsolicited_end` is given while unsolicited Data-Out follow:
    /// the offset at which they must end at the latest.
    pub(super) fn new(wanted: u32, immediate: Bytes, unsolicited_end: Option<u32>) -> Self {
        let mut gathering = Self {
            wanted,
            unsolicited: unsolicited_end.map(|end| (0, end)),
            received: 0,
            requested: 0,
            bursts: VecDeque::new(),
            single: Bytes::new(),
            several: BytesMut::new(),
        };
        gathering.append(immediate);
        gathering
    }

    fn append(&mut self, mut data: Bytes) {
        let length = u32::try_from(data.len()).expect("a data segment has 24 bits");
        let useful = length.min(self.wanted.saturating_sub(self.received));
        self.received = self.received.saturating_add(length);
        data.truncate(usize::try_from(useful).expect("within the segment"));
        if data.is_empty() {
            return;
        }
        if self.single.is_empty() && self.several.is_empty() {
            self.single = data;
            return;
        }
        if self.several.is_empty() {
            let whole = usize::try_from(self.wanted).expect("transfers are limited");
            self.several.reserve(whole);
            self.several
                .extend_from_slice(&std::mem::take(&mut self.single));
        }
        self.several.extend_from_slice(&data);
    }

    /// Takes a Data-Out PDU.
    pub(super) fn data_out(&mut self, pdu: request::DataOut) -> Result<(), DataError> {
        let length = u32::try_from(pdu.data.len()).expect("a data segment has 24 bits");
        let end = pdu
            .offset
            .checked_add(length)
            .ok_or(DataError::Violation("a Data-Out ends beyond 4 GiB"))?;
        if pdu.offset != self.received {
            return Err(DataError::Violation(
                "a Data-Out does not start where the last one ended",
            ));
        }
        if pdu.transfer == TAG_NONE {
            let Some((next_sn, limit)) = &mut self.unsolicited else {
                return Err(DataError::Violation("unsolicited data where none may come"));
            };
            if pdu.data_sn != *next_sn {
                return Err(DataError::OutOfSequence);
            }
            if end > *limit {
                return Err(DataError::Violation(
                    "more unsolicited data than FirstBurstLength",
                ));
            }
            *next_sn = next_sn.wrapping_add(1);
            if pdu.last {
                self.unsolicited = None;
            }
        } else {
            let burst = self
                .bursts
                .front_mut()
                .ok_or(DataError::Violation("solicited data where none may come"))?;
            if pdu.transfer != burst.transfer {
                return Err(DataError::Violation(
                    "a Data-Out has a foreign transfer tag",
                ));
            }
            if pdu.data_sn != burst.next_sn {
                return Err(DataError::OutOfSequence);
            }
            if end > burst.end || pdu.last != (end == burst.end) {
                return Err(DataError::Violation(
                    "a burst does not end where its R2T said",
                ));
            }
            burst.next_sn = burst.next_sn.wrapping_add(1);
            if pdu.last {
                self.bursts.pop_front();
            }
        }
        self.append(pdu.data);
        Ok(())
    }

    /// The next burst to ask for, offset and length, if one may be.
    pub(super) fn next_burst(
        &mut self,
        transfer: u32,
        max_burst: u32,
        outstanding: u32,
    ) -> Option<(u32, u32)> {
        let open = u32::try_from(self.bursts.len()).unwrap_or(u32::MAX);
        if self.unsolicited.is_some() || open >= outstanding {
            return None;
        }
        let offset = if active(Mutant::R2tOffsetRepeats) {
            self.received
        } else {
            self.requested.max(self.received)
        };
        if offset >= self.wanted {
            return None;
        }
        let length = max_burst.min(self.wanted - offset);
        self.requested = offset + length;
        self.bursts.push_back(Burst {
            transfer,
            end: offset + length,
            next_sn: 0,
        });
        Some((offset, length))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.unsolicited.is_none() && self.received >= self.wanted
    }

    /// The whole buffer.
    pub(super) fn take(&mut self) -> Bytes {
        assert!(self.is_complete(), "data is taken when all of it is there");
        if self.several.is_empty() {
            std::mem::take(&mut self.single)
        } else {
            std::mem::take(&mut self.several).freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Lun;

    fn data_out(
        transfer: u32,
        data_sn: u32,
        offset: u32,
        length: usize,
        last: bool,
    ) -> request::DataOut {
        request::DataOut {
            last,
            lun: Lun(0),
            task: 1,
            transfer,
            expected_status: 0,
            data_sn,
            offset,
            data: Bytes::from(vec![7; length]),
        }
    }

    #[test]
    fn immediate_unsolicited_and_solicited_data_join_up() {
        let mut gathering = Gathering::new(4096, Bytes::from(vec![7; 512]), Some(1024));
        assert_eq!(
            gathering.next_burst(5, 2048, 1),
            None,
            "not while unsolicited data comes"
        );
        gathering
            .data_out(data_out(TAG_NONE, 0, 512, 512, true))
            .unwrap();
        assert_eq!(gathering.next_burst(5, 2048, 1), Some((1024, 2048)));
        assert_eq!(gathering.next_burst(6, 2048, 1), None, "one R2T at a time");
        gathering
            .data_out(data_out(5, 0, 1024, 1024, false))
            .unwrap();
        gathering
            .data_out(data_out(5, 1, 2048, 1024, true))
            .unwrap();
        assert_eq!(gathering.next_burst(6, 2048, 1), Some((3072, 1024)));
        gathering
            .data_out(data_out(6, 0, 3072, 1024, true))
            .unwrap();
        assert!(gathering.is_complete());
        assert_eq!(gathering.take(), Bytes::from(vec![7; 4096]));
    }

    #[test]
    fn data_that_breaks_the_rules_is_refused() {
        let solicited = || {
            let mut gathering = Gathering::new(4096, Bytes::new(), None);
            gathering.next_burst(5, 2048, 1);
            gathering
        };
        for (pdu, why) in [
            (data_out(TAG_NONE, 0, 0, 512, true), "unsolicited"),
            (data_out(6, 0, 0, 2048, true), "foreign tag"),
            (data_out(5, 1, 0, 2048, true), "DataSN"),
            (data_out(5, 0, 512, 512, false), "gap"),
            (data_out(5, 0, 0, 4096, true), "beyond the burst"),
            (data_out(5, 0, 0, 1024, true), "short burst"),
            (data_out(5, 0, 0, 2048, false), "no end"),
            (data_out(5, 0, u32::MAX, 2048, false), "wraps"),
        ] {
            assert!(solicited().data_out(pdu).is_err(), "{why}");
        }
        let mut unsolicited = Gathering::new(4096, Bytes::new(), Some(1024));
        assert!(
            unsolicited
                .data_out(data_out(TAG_NONE, 0, 0, 2048, true))
                .is_err()
        );
    }

    #[test]
    fn data_that_the_command_does_not_use_is_dropped() {
        let mut gathering = Gathering::new(512, Bytes::from(vec![7; 600]), Some(2048));
        assert!(
            !gathering.is_complete(),
            "the unsolicited sequence has not ended"
        );
        gathering
            .data_out(data_out(TAG_NONE, 0, 600, 424, true))
            .unwrap();
        assert_eq!(gathering.take().len(), 512);
    }
}
