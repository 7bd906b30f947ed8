//! PDUs with arbitrary fields, in both directions.

use bytes::Bytes;
use hedgerow_iscsi::codec::request::{self, Attribute, Request};
use hedgerow_iscsi::codec::response::{self, Residual, Response};
use hedgerow_iscsi::codec::{Counters, Lun};
use proptest::prelude::*;

/// Sense data has at most so many bytes.
const SENSE_BYTES_MAX: usize = 252;

/// What the fields of a header are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields {
    pub(crate) words: [u32; 10],
    pub(crate) flags: [bool; 5],
}

impl Fields {
    fn lun(&self) -> Lun {
        Lun(u64::from(self.words[0]) << 32 | u64::from(self.words[1]))
    }

    fn byte(&self, at: usize) -> u8 {
        self.words[at].to_le_bytes()[0]
    }

    fn half(&self, at: usize) -> u16 {
        let [low, high, ..] = self.words[at].to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    fn isid(&self) -> [u8; 6] {
        let [a, b, c, d] = self.words[8].to_le_bytes();
        [a, b, c, d, self.byte(9), self.byte(0)]
    }

    fn counters(&self) -> Counters {
        Counters {
            status: self.words[7],
            expected_command: self.words[8],
            maximum_command: self.words[9],
        }
    }

    fn residual(&self) -> Residual {
        match self.words[6] % 3 {
            0 => Residual::None,
            1 => Residual::Underflow(self.words[5]),
            _ => Residual::Overflow(self.words[5]),
        }
    }
}

fn fields() -> impl Strategy<Value = Fields> {
    any::<([u32; 10], [bool; 5])>().prop_map(|(words, flags)| Fields { words, flags })
}

fn data(most: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

/// A request of any kind.
pub(crate) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (fields(), data(3000), 0..4_u8).prop_map(|(fields, data, kind)| match kind {
            0 => nop_out(&fields, data),
            1 => Request::Login(login_of(&fields, data)),
            2 => text_request(&fields, data),
            _ => data_out(&fields, data),
        }),
        1 => command(),
        3 => (fields(), 0..3_u8).prop_map(|(fields, kind)| match kind {
            0 => task_management(&fields),
            1 => logout(&fields),
            _ => snack(&fields),
        }),
    ]
}

fn nop_out(fields: &Fields, data: Bytes) -> Request {
    Request::NopOut(request::NopOut {
        immediate: fields.flags[0],
        lun: fields.lun(),
        task: fields.words[2],
        transfer: fields.words[3],
        command_sn: fields.words[4],
        expected_status: fields.words[5],
        data,
    })
}

fn command() -> impl Strategy<Value = Request> {
    const ATTRIBUTES: [Attribute; 5] = [
        Attribute::Untagged,
        Attribute::Simple,
        Attribute::Ordered,
        Attribute::HeadOfQueue,
        Attribute::Aca,
    ];
    let cdb_rest = prop_oneof![3 => Just(Bytes::new()), 1 => data(40)];
    let attribute = prop::sample::select(&ATTRIBUTES[..]);
    (fields(), attribute, any::<[u8; 16]>(), cdb_rest, data(3000)).prop_map(
        |(fields, attribute, cdb, cdb_rest, data)| {
            let [immediate, last, reads, writes, _] = fields.flags;
            Request::Command(request::Command {
                immediate,
                last,
                reads,
                writes,
                attribute,
                lun: fields.lun(),
                task: fields.words[2],
                expected_bytes: fields.words[3],
                command_sn: fields.words[4],
                expected_status: fields.words[5],
                cdb,
                cdb_rest,
                data,
            })
        },
    )
}

fn task_management(fields: &Fields) -> Request {
    Request::TaskManagement(request::TaskManagement {
        immediate: fields.flags[0],
        function: fields.byte(6) & 0x7f,
        lun: fields.lun(),
        task: fields.words[2],
        referenced_task: fields.words[3],
        command_sn: fields.words[4],
        expected_status: fields.words[5],
        referenced_command_sn: fields.words[7],
    })
}

/// A login request; only its stages are kept within their bits.
pub(crate) fn login_of(fields: &Fields, data: Bytes) -> request::Login {
    request::Login {
        transit: fields.flags[1],
        continues: fields.flags[2],
        current_stage: fields.byte(6) & 3,
        next_stage: fields.byte(7) & 3,
        version_max: fields.byte(0),
        version_min: fields.byte(1),
        isid: fields.isid(),
        tsih: fields.half(3),
        task: fields.words[2],
        connection: fields.half(9),
        command_sn: fields.words[4],
        expected_status: fields.words[5],
        data,
    }
}

fn text_request(fields: &Fields, data: Bytes) -> Request {
    Request::Text(request::Text {
        immediate: fields.flags[0],
        last: fields.flags[1],
        continues: fields.flags[2],
        lun: fields.lun(),
        task: fields.words[2],
        transfer: fields.words[3],
        command_sn: fields.words[4],
        expected_status: fields.words[5],
        data,
    })
}

fn data_out(fields: &Fields, data: Bytes) -> Request {
    Request::DataOut(request::DataOut {
        last: fields.flags[0],
        lun: fields.lun(),
        task: fields.words[2],
        transfer: fields.words[3],
        expected_status: fields.words[4],
        data_sn: fields.words[5],
        offset: fields.words[6],
        data,
    })
}

fn logout(fields: &Fields) -> Request {
    Request::Logout(request::Logout {
        immediate: fields.flags[0],
        reason: fields.byte(6) & 0x7f,
        task: fields.words[2],
        connection: fields.half(3),
        command_sn: fields.words[4],
        expected_status: fields.words[5],
    })
}

fn snack(fields: &Fields) -> Request {
    Request::Snack(request::Snack {
        kind: fields.byte(6) & 0x0f,
        task: fields.words[2],
        expected_status: fields.words[3],
        first: fields.words[4],
        count: fields.words[5],
    })
}

/// A response of any kind.
pub(crate) fn response() -> impl Strategy<Value = Response> {
    (fields(), data(3000), 0..10_u8).prop_map(|(fields, data, kind)| match kind {
        0..6 => response_with_data(&fields, data, kind),
        _ => response_without_data(&fields, kind),
    })
}

fn response_with_data(fields: &Fields, data: Bytes, kind: u8) -> Response {
    let counters = fields.counters();
    let (lun, task, transfer) = (fields.lun(), fields.words[2], fields.words[3]);
    match kind {
        0 => Response::NopIn(response::NopIn {
            lun,
            task,
            transfer,
            counters,
            data,
        }),
        1 => Response::Command(response::Command {
            response: fields.byte(0),
            status: fields.byte(1),
            task,
            counters,
            expected_data: fields.words[4],
            residual: fields.residual(),
            sense: data.slice(..data.len().min(SENSE_BYTES_MAX)),
        }),
        2 => Response::Login(response::Login {
            transit: fields.flags[0],
            continues: fields.flags[1],
            current_stage: fields.byte(0) & 3,
            next_stage: fields.byte(1) & 3,
            isid: fields.isid(),
            tsih: fields.half(4),
            task,
            counters,
            status: fields.half(5),
            data,
        }),
        3 => Response::Text(response::Text {
            last: fields.flags[0],
            continues: fields.flags[1],
            lun,
            task,
            transfer,
            counters,
            data,
        }),
        4 => Response::DataIn(response::DataIn {
            last: fields.flags[0],
            status: fields.flags[1].then_some((fields.byte(0), fields.residual())),
            task,
            counters,
            data_sn: fields.words[3],
            offset: fields.words[4],
            data,
        }),
        _ => Response::Reject(response::Reject {
            reason: fields.byte(2),
            counters,
            header: data,
        }),
    }
}

fn response_without_data(fields: &Fields, kind: u8) -> Response {
    let counters = fields.counters();
    let task = fields.words[2];
    match kind {
        6 => Response::TaskManagement(response::TaskManagement {
            response: fields.byte(0),
            task,
            counters,
        }),
        7 => Response::Logout(response::Logout {
            response: fields.byte(0),
            task,
            counters,
            wait_s: fields.half(3),
            retain_s: fields.half(4),
        }),
        8 => Response::ReadyToTransfer(response::ReadyToTransfer {
            lun: fields.lun(),
            task,
            transfer: fields.words[3],
            counters,
            r2t_sn: fields.words[4],
            offset: fields.words[5],
            length_bytes: fields.words[6],
        }),
        _ => Response::Async(response::Async {
            lun: fields.lun(),
            counters,
            event: fields.byte(2),
            parameters: [fields.half(3), fields.half(4), fields.half(5)],
        }),
    }
}
