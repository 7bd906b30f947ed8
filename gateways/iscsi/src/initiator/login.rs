//! The initiator's side of login: optional CHAP, then all operational keys at once.

use bytes::Bytes;

use super::{InitiatorConfig, SessionError};
use crate::codec::text::{self, binary_value, hexadecimal_value};
use crate::codec::{Digests, Request, request, response};
use crate::session::chap;

/// Our MaxRecvDataSegmentLength, MaxBurstLength and FirstBurstLength in bytes.
pub(super) const DATA_SEGMENT_BYTES: u32 = 256 << 10;
const MAX_BURST_BYTES: u32 = 1 << 20;
const FIRST_BURST_BYTES: u32 = 64 << 10;

/// What the session may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) digests: Digests,
    pub(super) peer_data_segment: u32,
    pub(super) first_burst: u32,
    pub(super) initial_r2t: bool,
    pub(super) immediate_data: bool,
}

/// What follows a login response.
pub(super) enum Next {
    Send(Request),
    Done(Limits),
}

type Keys = Vec<(String, String)>;

/// One login.
#[derive(Debug)]
pub(super) struct Login {
    config: InitiatorConfig,
    /// Our challenge, when the target must prove itself.
    challenge: [u8; 16],
    limits: Limits,
    stage: u8,
}

impl Login {
    pub(super) fn new(config: InitiatorConfig, challenge: [u8; 16]) -> Self {
        let limits = Limits {
            digests: Digests::default(),
            peer_data_segment: 8192,
            first_burst: FIRST_BURST_BYTES,
            initial_r2t: true,
            immediate_data: true,
        };
        let stage = u8::from(config.chap.is_none());
        Self {
            config,
            challenge,
            limits,
            stage,
        }
    }

    /// The first request.
    pub(super) fn first(&self) -> Request {
        let mut keys = vec![
            pair("InitiatorName", &self.config.initiator_name),
            pair("SessionType", "Normal"),
            pair("TargetName", &self.config.target_name),
        ];
        if self.stage == 0 {
            keys.push(pair("AuthMethod", "CHAP"));
            self.request(&keys, None)
        } else {
            keys.extend(self.offers());
            self.request(&keys, Some(3))
        }
    }

    fn offers(&self) -> Keys {
        let digest = if self.config.digests {
            "CRC32C"
        } else {
            "None"
        };
        vec![
            pair("HeaderDigest", digest),
            pair("DataDigest", digest),
            pair("MaxRecvDataSegmentLength", &DATA_SEGMENT_BYTES.to_string()),
            pair("MaxBurstLength", &MAX_BURST_BYTES.to_string()),
            pair("FirstBurstLength", &FIRST_BURST_BYTES.to_string()),
            pair("InitialR2T", "No"),
            pair("ImmediateData", "Yes"),
            pair("MaxOutstandingR2T", "1"),
            pair("MaxConnections", "1"),
            pair("ErrorRecoveryLevel", "0"),
            pair("DefaultTime2Wait", "0"),
            pair("DefaultTime2Retain", "0"),
            pair("DataPDUInOrder", "Yes"),
            pair("DataSequenceInOrder", "Yes"),
        ]
    }

    fn request(&self, keys: &[(String, String)], next: Option<u8>) -> Request {
        Request::Login(request::Login {
            transit: next.is_some(),
            continues: false,
            current_stage: self.stage,
            next_stage: next.unwrap_or(0),
            version_max: 0,
            version_min: 0,
            isid: self.config.isid,
            tsih: 0,
            task: 0,
            connection: 0,
            command_sn: 1,
            expected_status: 0,
            data: Bytes::from(text::write(keys)),
        })
    }

    /// Takes a login response.
    pub(super) fn response(&mut self, reply: &response::Login) -> Result<Next, SessionError> {
        if reply.status != 0 {
            return Err(SessionError::Refused {
                status: reply.status,
            });
        }
        let keys =
            text::parse(&reply.data).map_err(|_| SessionError::Protocol("malformed login text"))?;
        if self.stage == 0 {
            return self.authenticate(reply, &keys);
        }
        self.agree(&keys)?;
        if reply.transit && reply.next_stage == 3 {
            Ok(Next::Done(self.limits))
        } else {
            Ok(Next::Send(self.request(&[], Some(3))))
        }
    }

    fn authenticate(&mut self, reply: &response::Login, keys: &Keys) -> Result<Next, SessionError> {
        let account = self
            .config
            .account()
            .ok_or(SessionError::Protocol("CHAP without account"))?;
        if reply.transit && reply.next_stage == 1 {
            self.verify_target(keys)?;
            self.stage = 1;
            return Ok(Next::Send(self.request(&self.offers(), Some(3))));
        }
        let (Some(identifier), Some(challenge)) = (find(keys, "CHAP_I"), find(keys, "CHAP_C"))
        else {
            return Ok(Next::Send(self.request(&[pair("CHAP_A", "5")], None)));
        };
        let broken = || SessionError::Protocol("malformed CHAP challenge");
        let identifier: u8 = identifier.parse().map_err(|_| broken())?;
        let challenge = binary_value(challenge).ok_or_else(broken)?;
        let proof = chap::response(identifier, &account.secret, &challenge);
        let mut answer = vec![
            pair("CHAP_N", &account.user),
            pair("CHAP_R", &hexadecimal_value(&proof)),
        ];
        if self.expected_target().is_some() {
            answer.push(pair("CHAP_I", &self.challenge[0].to_string()));
            answer.push(pair("CHAP_C", &hexadecimal_value(&self.challenge)));
        }
        Ok(Next::Send(self.request(&answer, Some(1))))
    }

    fn expected_target(&self) -> Option<&crate::port::ChapAccount> {
        self.config
            .chap
            .as_ref()
            .and_then(|chap| chap.target.as_ref())
    }

    fn verify_target(&self, keys: &Keys) -> Result<(), SessionError> {
        let Some(expected) = self.expected_target() else {
            return Ok(());
        };
        let proof = chap::response(self.challenge[0], &expected.secret, &self.challenge);
        let given = find(keys, "CHAP_R").and_then(binary_value);
        if find(keys, "CHAP_N") == Some(&expected.user) && given.as_deref() == Some(&proof) {
            Ok(())
        } else {
            Err(SessionError::TargetNotAuthenticated)
        }
    }

    fn agree(&mut self, keys: &Keys) -> Result<(), SessionError> {
        let number = |value: &str| {
            value
                .parse::<u32>()
                .map_err(|_| SessionError::Protocol("malformed number in login"))
        };
        for (key, value) in keys {
            match key.as_str() {
                "HeaderDigest" => self.limits.digests.header = value == "CRC32C",
                "DataDigest" => self.limits.digests.data = value == "CRC32C",
                "MaxRecvDataSegmentLength" => {
                    self.limits.peer_data_segment = number(value)?.clamp(512, (1 << 24) - 1);
                }
                "FirstBurstLength" => self.limits.first_burst = number(value)?,
                "InitialR2T" => self.limits.initial_r2t = value != "No",
                "ImmediateData" => self.limits.immediate_data = value == "Yes",
                _ => {}
            }
        }
        Ok(())
    }
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn find<'a>(keys: &'a Keys, wanted: &str) -> Option<&'a str> {
    keys.iter()
        .find(|(key, _)| key == wanted)
        .map(|(_, value)| value.as_str())
}
