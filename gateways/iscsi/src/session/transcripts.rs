//! Transcripts of sessions: what an initiator sends (`>`), what the target does and answers (`<`).

use std::fmt::Write as _;

use super::*;
use crate::codec::request::{self, Attribute};
use crate::codec::{Lun, Request, TAG_NONE, text};
use crate::memory::{MemoryCatalog, MemoryDisk};
use crate::port::{ChapAccount, ChapCredentials, Geometry};

mod logins;
mod ranges;
mod settling;

const TARGET: &str = "iqn.2026-11.io.hedgerow:disk";
const SECRET: &[u8] = b"correct-horse-battery";

/// One initiator's side of a session, and the transcript.
struct Talk {
    targets: Arc<Targets>,
    disk: Arc<MemoryDisk>,
    session: Session,
    now: Instant,
    command_sn: u32,
    /// Operations and waits that the test has not let end yet.
    operations: Vec<Operate>,
    tickets: Vec<u64>,
    log: String,
}

fn portal(chap: Option<ChapCredentials>) -> (Arc<Targets>, Arc<MemoryDisk>) {
    let disk = Arc::new(MemoryDisk::new(Geometry::new(512, 2048)));
    let catalog = Arc::new(MemoryCatalog::default());
    catalog.export(TARGET, disk.clone(), [1; 16], chap);
    (Arc::new(Targets::new(catalog)), disk)
}

impl Talk {
    fn new((targets, disk): (Arc<Targets>, Arc<MemoryDisk>)) -> Self {
        let seed = Seed {
            targets: Arc::clone(&targets),
            wake: Arc::new(Notify::new()),
            local_address: "192.0.2.1:3260".to_owned(),
            challenge: [9; 16],
        };
        let now = Instant::default();
        Self {
            targets,
            disk,
            session: Session::new(seed, now),
            now,
            command_sn: 1,
            operations: Vec::new(),
            tickets: Vec::new(),
            log: String::new(),
        }
    }

    /// Logged in, the power-on unit attention already taken, the transcript empty.
    fn logged_in(offers: &[(&str, &str)]) -> Self {
        let mut talk = Self::new(portal(None));
        talk.log_in(offers);
        talk
    }

    fn log_in(&mut self, offers: &[(&str, &str)]) {
        let mut keys = vec![("InitiatorName", "iqn.x:me"), ("TargetName", TARGET)];
        keys.extend_from_slice(offers);
        self.login(1, Some(3), &keys);
        self.cdb(99, &[0; 6], 0, &[]);
        self.log.clear();
    }

    fn event(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.session.handle(self.now, event, &mut effects);
        for effect in effects {
            let line = show(&effect);
            writeln!(self.log, "< {line}").unwrap();
            match effect {
                Effect::Operate(operate) => self.operations.push(operate),
                Effect::Await { ticket, .. } => self.tickets.push(ticket),
                _ => {}
            }
        }
    }

    fn send(&mut self, said: &str, request: &Request) {
        writeln!(self.log, "> {said}").unwrap();
        self.event(Event::Received(request.encode()));
    }

    fn login(&mut self, stage: u8, next: Option<u8>, keys: &[(&str, &str)]) {
        let request = Request::Login(request::Login {
            transit: next.is_some(),
            continues: false,
            current_stage: stage,
            next_stage: next.unwrap_or(0),
            version_max: 0,
            version_min: 0,
            isid: [0x80, 0, 0, 0, 0, 7],
            tsih: 0,
            task: 0,
            connection: 0,
            command_sn: 1,
            expected_status: 0,
            data: Bytes::from(text::write(keys)),
        });
        self.send("login", &request);
    }

    fn command(&mut self, task: u32, cdb: &[u8], expected_bytes: u32) -> request::Command {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        let command_sn = self.command_sn;
        self.command_sn += 1;
        request::Command {
            immediate: false,
            last: true,
            reads: false,
            writes: false,
            attribute: Attribute::Simple,
            lun: Lun(0),
            task,
            expected_bytes,
            command_sn,
            expected_status: 0,
            cdb: whole,
            cdb_rest: Bytes::new(),
            data: Bytes::new(),
        }
    }

    /// A command with its data; without data it reads `expected_bytes`.
    fn cdb(&mut self, task: u32, cdb: &[u8], expected_bytes: u32, immediate: &[u8]) {
        let mut command = self.command(task, cdb, expected_bytes);
        command.writes = !immediate.is_empty();
        command.reads = immediate.is_empty() && expected_bytes > 0;
        command.data = Bytes::copy_from_slice(immediate);
        self.send(&format!("cdb {:02x}", cdb[0]), &Request::Command(command));
    }

    fn write(&mut self, task: u32, block: u8, blocks: u8, immediate: usize, last: bool) {
        let cdb = [0x2a, 0, 0, 0, 0, block, 0, 0, blocks, 0];
        let mut command = self.command(task, &cdb, u32::from(blocks) * 512);
        command.writes = true;
        command.last = last;
        command.data = Bytes::from(vec![block; immediate]);
        let said = format!("write {blocks} blocks, {immediate} bytes at once");
        self.send(&said, &Request::Command(command));
    }

    fn data_out(
        &mut self,
        task: u32,
        transfer: u32,
        data_sn: u32,
        offset: u32,
        length: usize,
        last: bool,
    ) {
        let pdu = request::DataOut {
            last,
            lun: Lun(0),
            task,
            transfer,
            expected_status: 0,
            data_sn,
            offset,
            data: Bytes::from(vec![5; length]),
        };
        self.send(
            &format!("data-out {offset}+{length}"),
            &Request::DataOut(pdu),
        );
    }

    fn manage(&mut self, function: u8, referenced_task: u32) {
        let request = request::TaskManagement {
            immediate: true,
            function,
            lun: Lun(0),
            task: 77,
            referenced_task,
            command_sn: self.command_sn,
            expected_status: 0,
            referenced_command_sn: 0,
        };
        self.send(
            &format!("function {function}"),
            &Request::TaskManagement(request),
        );
    }

    /// Lets the oldest operation end, performed on the disk.
    fn finish_operation(&mut self) {
        let operate = self.operations.remove(0);
        let result = match operate.medium.clone() {
            MediumOperation::Read {
                first_byte,
                length_bytes,
            } => now(operate.device.read(first_byte, length_bytes)),
            MediumOperation::Write { first_byte, data } => {
                now(operate.device.write(first_byte, data, operate.tag)).map(|()| Bytes::new())
            }
            MediumOperation::WriteZeroes {
                first_byte,
                length_bytes,
                unmap,
            } => {
                let zero =
                    operate
                        .device
                        .write_zeroes(first_byte, length_bytes, unmap, operate.tag);
                now(zero).map(|()| Bytes::new())
            }
            MediumOperation::Flush => Ok(Bytes::new()),
        };
        self.end_operation(operate.operation, result);
    }

    fn end_operation(&mut self, operation: OperationId, result: Result<Bytes, BlockError>) {
        let how = if result.is_ok() { "done" } else { "failed" };
        writeln!(self.log, "> operation {how}").unwrap();
        self.event(Event::Completed { operation, result });
    }

    fn settle(&mut self) {
        let ticket = self.tickets.remove(0);
        writeln!(self.log, "> settled").unwrap();
        let settled = true;
        self.event(Event::Settled { ticket, settled });
    }

    /// What was waited for is over, and yet not known to be settled.
    fn give_up(&mut self) {
        let ticket = self.tickets.remove(0);
        writeln!(self.log, "> not settled").unwrap();
        let settled = false;
        self.event(Event::Settled { ticket, settled });
    }

    #[track_caller]
    fn check(&mut self, expected: &str) {
        let trim = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| line.trim().to_owned())
                .filter(|l| !l.is_empty())
                .collect()
        };
        assert_eq!(trim(&self.log), trim(expected), "transcript:\n{}", self.log);
        self.log.clear();
    }
}

/// Memory disks answer at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    use futures_util::FutureExt as _;
    future
        .now_or_never()
        .expect("a disk in memory does not wait")
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::Send(response) => show_response(response),
        Effect::Operate(operate) => match &operate.medium {
            MediumOperation::Read {
                first_byte,
                length_bytes,
            } => {
                format!("operate read {first_byte}+{length_bytes}")
            }
            MediumOperation::Write { first_byte, data } => {
                format!("operate write {first_byte}+{}", data.len())
            }
            MediumOperation::WriteZeroes {
                first_byte,
                length_bytes,
                ..
            } => {
                format!("operate zero {first_byte}+{length_bytes}")
            }
            MediumOperation::Flush => "operate flush".to_owned(),
        },
        Effect::Await { settlement, .. } => format!("await {settlement:?}"),
        Effect::Framing { digests, .. } => format!("digests {} {}", digests.header, digests.data),
        Effect::Close(reason) => format!("close: {reason}"),
        Effect::Ended => "ended".to_owned(),
    }
}

fn show_response(response: &Response) -> String {
    match response {
        Response::Login(pdu) => {
            let keys = text::parse(&pdu.data).unwrap();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!(" {k}={v}")).collect();
            let stage = if pdu.transit {
                pdu.next_stage
            } else {
                pdu.current_stage
            };
            format!("login {:#06x} stage {stage}{}", pdu.status, keys.concat())
        }
        Response::Command(pdu) => {
            let sense = match &pdu.sense[..] {
                [] => String::new(),
                sense => format!(" sense {:x}/{:02x}{:02x}", sense[2], sense[12], sense[13]),
            };
            format!("status {:02x}{sense} {:?}", pdu.status, pdu.residual)
        }
        Response::DataIn(pdu) => {
            let status = pdu
                .status
                .map_or(String::new(), |(s, r)| format!(" status {s:02x} {r:?}"));
            let last = if pdu.last { " last" } else { "" };
            format!(
                "data-in #{} {}+{}{last}{status}",
                pdu.data_sn,
                pdu.offset,
                pdu.data.len()
            )
        }
        Response::ReadyToTransfer(pdu) => {
            format!(
                "r2t #{} tag {} {}+{}",
                pdu.r2t_sn, pdu.transfer, pdu.offset, pdu.length_bytes
            )
        }
        Response::TaskManagement(pdu) => format!("function response {}", pdu.response),
        Response::Text(pdu) => {
            format!(
                "text {}",
                String::from_utf8_lossy(&pdu.data).replace('\0', " ")
            )
        }
        Response::NopIn(pdu) => format!("nop-in asks {}", pdu.transfer != TAG_NONE),
        Response::Logout(pdu) => format!("logout {}", pdu.response),
        Response::Reject(pdu) => format!("reject {:#04x}", pdu.reason),
        Response::Async(pdu) => format!("async {}", pdu.event),
    }
}

#[test]
fn discovery_shows_targets_and_refuses_commands() {
    let mut talk = Talk::new(portal(None));
    talk.login(
        1,
        Some(3),
        &[("InitiatorName", "iqn.x:me"), ("SessionType", "Discovery")],
    );
    talk.log.clear();
    let ask = Request::Text(request::Text {
        immediate: false,
        last: true,
        continues: false,
        lun: Lun(0),
        task: 4,
        transfer: TAG_NONE,
        command_sn: 1,
        expected_status: 0,
        data: Bytes::from_static(b"SendTargets=All\0"),
    });
    talk.send("SendTargets", &ask);
    talk.command_sn = 2;
    talk.cdb(5, &[0; 6], 0, &[]);
    talk.check(
        "> SendTargets
         < text TargetName=iqn.2026-11.io.hedgerow:disk TargetAddress=192.0.2.1:3260,1 \n\
         > cdb 00
         < reject 0x04
         < close: protocol error: a SCSI command in a discovery session",
    );
}

#[test]
fn a_new_session_hears_once_of_the_power_on() {
    let mut talk = Talk::new(portal(None));
    talk.login(
        1,
        Some(3),
        &[("InitiatorName", "iqn.x:me"), ("TargetName", TARGET)],
    );
    talk.log.clear();
    talk.cdb(1, &[0; 6], 0, &[]);
    talk.cdb(2, &[0; 6], 0, &[]);
    talk.check(
        "> cdb 00
         < status 02 sense 6/2900 None
         > cdb 00
         < status 00 None",
    );
    talk.disk.resize(4096);
    talk.cdb(3, &[0; 6], 0, &[]);
    talk.check("> cdb 00\n < status 02 sense 6/2a09 None");
}

#[test]
fn a_write_is_asked_for_burst_by_burst_and_read_back() {
    let mut talk = Talk::logged_in(&[("MaxBurstLength", "1024"), ("FirstBurstLength", "512")]);
    talk.write(1, 8, 5, 512, true);
    talk.data_out(1, 1, 0, 512, 512, false);
    talk.data_out(1, 1, 1, 1024, 512, true);
    talk.data_out(1, 2, 0, 1536, 1024, true);
    talk.finish_operation();
    talk.check(
        "> write 5 blocks, 512 bytes at once
         < r2t #0 tag 1 512+1024
         > data-out 512+512
         > data-out 1024+512
         < r2t #1 tag 2 1536+1024
         > data-out 1536+1024
         < operate write 4096+2560
         > operation done
         < status 00 None",
    );
    talk.cdb(2, &[0x28, 0, 0, 0, 0, 8, 0, 0, 5, 0], 2560, &[]);
    talk.finish_operation();
    talk.check(
        "> cdb 28
         < operate read 4096+2560
         > operation done
         < data-in #0 0+1024 last
         < data-in #1 1024+1024 last
         < data-in #2 2048+512 last status 00 None",
    );
}

#[test]
fn unsolicited_data_comes_before_the_first_r2t() {
    let mut talk = Talk::logged_in(&[("InitialR2T", "No"), ("FirstBurstLength", "1024")]);
    talk.write(1, 0, 4, 512, false);
    talk.data_out(1, TAG_NONE, 0, 512, 512, true);
    talk.check(
        "> write 4 blocks, 512 bytes at once
         > data-out 512+512
         < r2t #0 tag 1 1024+1024",
    );
    talk.data_out(1, 1, 0, 1024, 1024, true);
    assert!(talk.log.contains("operate write 0+2048"));
}

#[test]
fn residuals_say_what_was_not_moved() {
    let mut talk = Talk::logged_in(&[]);
    let read_two = [0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    talk.cdb(1, &read_two, 600, &[]);
    talk.finish_operation();
    talk.cdb(2, &read_two, 4096, &[]);
    talk.finish_operation();
    let write_one = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    talk.cdb(3, &write_one, 200, &[1; 200]);
    talk.cdb(4, &write_one, 1024, &[1; 1024]);
    talk.finish_operation();
    talk.check(
        "> cdb 28
         < operate read 0+1024
         > operation done
         < data-in #0 0+600 last status 00 Overflow(424)
         > cdb 28
         < operate read 0+1024
         > operation done
         < data-in #0 0+1024 last status 00 Underflow(3072)
         > cdb 2a
         < status 02 sense 5/0e03 Overflow(312)
         > cdb 2a
         < operate write 0+512
         > operation done
         < status 00 Underflow(512)",
    );
}

#[test]
fn abort_task_is_answered_after_the_operation_ended_and_the_task_stays_silent() {
    let mut talk = Talk::logged_in(&[]);
    talk.write(1, 0, 1, 512, true);
    talk.manage(1, 1);
    talk.check(
        "> write 1 blocks, 512 bytes at once
         < operate write 0+512
         > function 1
         < await 1 operations",
    );
    let operation = talk.operations.remove(0).operation;
    talk.end_operation(operation, Err(BlockError::Cancelled));
    talk.settle();
    talk.manage(1, 1);
    talk.check(
        "> operation failed
         > settled
         < function response 0
         > function 1
         < function response 1",
    );
}

#[test]
fn unit_reset_from_another_session_drops_tasks_before_they_reach_the_disk() {
    let mut talk = Talk::logged_in(&[]);
    talk.write(1, 0, 2, 512, true);
    talk.log.clear();
    let mut other = Talk::new((Arc::clone(&talk.targets), Arc::clone(&talk.disk)));
    other.login(
        1,
        Some(3),
        &[("InitiatorName", "iqn.x:other"), ("TargetName", TARGET)],
    );
    other.log.clear();
    other.manage(5, 0);
    assert_eq!(other.tickets.len(), 1, "{}", other.log);
    talk.event(Event::Woken);
    talk.data_out(1, 1, 0, 512, 512, true);
    talk.cdb(3, &[0; 6], 0, &[]);
    talk.check(
        "> data-out 512+512
         > cdb 00
         < status 02 sense 6/2903 None",
    );
    other.settle();
    assert!(other.log.contains("function response 0"));
    assert_eq!(talk.disk.allocated_bytes(), 0);
}

#[test]
fn malformed_and_forbidden_pdus_end_the_session_with_a_reason() {
    let ends = |play: &dyn Fn(&mut Talk), reason: &str| {
        let mut talk = Talk::logged_in(&[("ImmediateData", "No")]);
        play(&mut talk);
        assert!(
            talk.log.contains(&format!("close: {reason}")),
            "{}",
            talk.log
        );
        let before = talk.log.len();
        talk.cdb(50, &[0; 6], 0, &[]);
        assert_eq!(
            &talk.log[before..],
            "> cdb 00\n",
            "nothing is answered afterwards"
        );
    };
    ends(
        &|talk| talk.write(1, 0, 1, 512, true),
        "protocol error: immediate data",
    );
    ends(
        &|talk| talk.write(1, 0, 1, 0, false),
        "protocol error: unsolicited data was announced",
    );
    ends(
        &|talk| talk.login(1, Some(3), &[]),
        "protocol error: a login request after login",
    );
    ends(
        &|talk| {
            talk.write(1, 0, 1, 0, true);
            talk.data_out(1, 1, 0, 512, 512, true);
        },
        "protocol error: a Data-Out does not start where the last one ended",
    );
    ends(
        &|talk| talk.event(Event::Malformed(CodecError::HeaderDigest)),
        "malformed PDU: the header digest differs",
    );
    ends(
        &|talk| {
            let mut header = [0; 48];
            header[0] = 0x1f;
            let (additional, data) = (Bytes::new(), Bytes::new());
            talk.event(Event::Received(RawPdu {
                header,
                additional,
                data,
            }));
        },
        "malformed PDU: opcode 0x1f",
    );
}

#[test]
fn a_lost_data_out_fails_the_command_alone() {
    let mut talk = Talk::logged_in(&[]);
    talk.write(1, 0, 4, 512, true);
    talk.log.clear();
    talk.data_out(1, 1, 1, 512, 512, false);
    talk.data_out(1, 1, 2, 1024, 1024, true);
    talk.cdb(2, &[0; 6], 0, &[]);
    talk.check(
        "> data-out 512+512
         < status 02 sense b/4705 None
         > data-out 1024+1024
         > cdb 00
         < status 00 None",
    );
}

#[test]
fn silence_is_asked_about_once_and_then_ends_the_session() {
    let mut talk = Talk::logged_in(&[]);
    talk.now = talk.session.deadline().unwrap();
    talk.event(Event::Tick);
    talk.now = talk.session.deadline().unwrap();
    talk.event(Event::Tick);
    talk.check(
        "< nop-in asks true
         < close: the initiator was silent and did not answer a ping",
    );
}

#[test]
fn ports_errors_become_what_the_initiator_should_do() {
    for (error, answer) in [
        (BlockError::Busy, "status 08 None"),
        (BlockError::Unavailable, "status 02 sense 2/0401 None"),
        (BlockError::Gone, "status 02 sense 2/040c None"),
        (BlockError::NoSpace, "status 02 sense 2/0414 None"),
        (
            BlockError::Medium("x".to_owned()),
            "status 02 sense 3/0c00 None",
        ),
    ] {
        let mut talk = Talk::logged_in(&[]);
        talk.write(1, 0, 1, 512, true);
        talk.log.clear();
        let operation = talk.operations.remove(0).operation;
        talk.end_operation(operation, Err(error));
        talk.check(&format!("> operation failed\n < {answer}"));
    }
}

/// Any status would say that the write was done, or that it was not.
#[test]
fn a_write_of_unknown_outcome_is_not_answered_but_ends_the_session() {
    let mut talk = Talk::logged_in(&[]);
    talk.write(1, 0, 1, 512, true);
    talk.log.clear();
    let operation = talk.operations.remove(0).operation;
    talk.end_operation(operation, Err(BlockError::OutcomeUnknown));
    talk.check(
        "> operation failed
         < close: the outcome of a command is unknown",
    );
}

#[test]
fn an_ordered_task_waits_for_older_ones_and_younger_ones_wait_for_it() {
    let mut talk = Talk::logged_in(&[]);
    talk.write(1, 0, 1, 512, true);
    let mut ordered = talk.command(2, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0);
    ordered.attribute = Attribute::Ordered;
    talk.send("ordered flush", &Request::Command(ordered));
    talk.write(3, 1, 1, 512, true);
    talk.finish_operation();
    talk.finish_operation();
    talk.finish_operation();
    talk.check(
        "> write 1 blocks, 512 bytes at once
         < operate write 0+512
         > ordered flush
         > write 1 blocks, 512 bytes at once
         > operation done
         < status 00 None
         < operate flush
         > operation done
         < status 00 None
         < operate write 512+512
         > operation done
         < status 00 None",
    );
}

#[test]
fn logout_ends_tasks_first() {
    let mut talk = Talk::logged_in(&[]);
    talk.write(1, 0, 1, 512, true);
    talk.log.clear();
    let logout = request::Logout {
        immediate: true,
        reason: 0,
        task: 9,
        connection: 0,
        command_sn: talk.command_sn,
        expected_status: 0,
    };
    talk.send("logout", &Request::Logout(logout));
    talk.finish_operation();
    talk.settle();
    talk.event(Event::Disconnected);
    talk.check(
        "> logout
         < await 1 operations
         > operation done
         > settled
         < logout 0
         < close: the initiator logged out
         < ended",
    );
}
