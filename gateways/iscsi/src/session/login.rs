//! The login phase (RFC 7143 6.3, 11.12, 11.13): who is there, authentication, negotiation.

use std::sync::Arc;

use bytes::Bytes;
use hedgerow_env::Instant;

use super::chap::{Chap, Denied};
use super::full::{FullFeature, Start};
use super::parameters::{Agreed, DEFAULT_DATA_SEGMENT_BYTES, OUR_DATA_SEGMENT_BYTES};
use super::{CloseReason, Effect, Event, Seed, Settlement};
use crate::codec::text::{self, TEXT_BYTES_MAX};
use crate::codec::{Counters, Request, Response, request, response};
use crate::port::{NAME_BYTES_MAX, TargetDescription};
use crate::scsi::inquiry::PORTAL_GROUP;
use crate::target::{InitiatorPort, Opened, Target};

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// Most requests of one login: a handful is usual, CHAP included.
const REQUESTS_MAX: u32 = 64;

/// A login that is refused: Status-Class and Status-Detail (RFC 7143 11.13.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused(u16, &'static str);

const INITIATOR_ERROR: u16 = 0x0200;
const AUTHENTICATION_FAILURE: u16 = 0x0201;
const NOT_FOUND: u16 = 0x0203;
const UNSUPPORTED_VERSION: u16 = 0x0205;
const TOO_MANY_CONNECTIONS: u16 = 0x0206;
const MISSING_PARAMETER: u16 = 0x0207;
const UNSUPPORTED_SESSION_TYPE: u16 = 0x0209;
const NO_SUCH_SESSION: u16 = 0x020a;
const INVALID_DURING_LOGIN: u16 = 0x020b;
const SERVICE_UNAVAILABLE: u16 = 0x0301;
const OUT_OF_RESOURCES: u16 = 0x0302;

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        Self(AUTHENTICATION_FAILURE, denied.0)
    }
}

/// Whether the phase goes on.
pub(super) enum Outcome {
    /// More is to come, or the connection closes.
    Continue,
    /// The full feature phase begins.
    Done(Box<FullFeature>),
}

/// What the first request says of the session.
struct Identity {
    port: InitiatorPort,
    /// None in a discovery session.
    target: Option<TargetDescription>,
}

/// Keys that say who speaks to whom and negotiate nothing (RFC 7143 section 13).
const INTRODUCTION: [&str; 4] = [
    "InitiatorName",
    "InitiatorAlias",
    "TargetName",
    "SessionType",
];

/// The login phase of one connection.
pub(super) struct Login {
    seed: Seed,
    deadline: Instant,
    stage: Option<u8>,
    identity: Option<Identity>,
    chap: Option<Chap>,
    agreed: Agreed,
    /// Keys that came, with their values: none may be negotiated twice.
    seen: Vec<(String, String)>,
    declared: bool,
    group_told: bool,
    text: Vec<u8>,
    requests: u32,
    status_sn: u32,
    /// The last response, while sessions that it displaces come to their end.
    waiting: Option<(response::Login, Arc<Target>, Opened, request::Login)>,
}

impl Login {
    pub(super) fn new(seed: Seed, deadline: Instant) -> Self {
        Self {
            seed,
            deadline,
            stage: None,
            identity: None,
            chap: None,
            agreed: Agreed::default(),
            seen: Vec::new(),
            declared: false,
            group_told: false,
            text: Vec::new(),
            requests: 0,
            status_sn: 0,
            waiting: None,
        }
    }

    pub(super) fn label(&self) -> String {
        let name = self
            .identity
            .as_ref()
            .map_or("unknown initiator", |i| i.port.name.as_str());
        format!("login of {name}")
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The connection ended in mid-login.
    pub(super) fn abandon(&mut self) {
        if let Some((_, target, opened, _)) = self.waiting.take() {
            target.close_session(opened.session);
        }
    }

    pub(super) fn handle(
        &mut self,
        now: Instant,
        event: Event,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        match event {
            Event::Tick => {
                if now >= self.deadline {
                    effects.push(Effect::Close(CloseReason::LoginTimeout));
                }
                Outcome::Continue
            }
            Event::Woken => {
                if let Some((_, target, opened, _)) = &self.waiting
                    && let Some(cause) = target.closing(opened.session)
                {
                    effects.push(Effect::Close(cause.into()));
                }
                Outcome::Continue
            }
            Event::Settled { settled, .. } => match self.waiting.take() {
                Some((last, target, opened, request)) if settled => {
                    self.finish(now, last, Some((target, opened)), &request, effects)
                }
                Some((_, target, opened, request)) => {
                    target.close_session(opened.session);
                    let detail = "what the former session began is not settled yet";
                    self.refuse(&request, Refused(SERVICE_UNAVAILABLE, detail), effects)
                }
                None => Outcome::Continue,
            },
            Event::Received(pdu) => match Request::decode(&pdu) {
                Ok(Request::Login(request)) if self.waiting.is_none() => {
                    self.request(now, &request, effects)
                }
                Ok(_) => {
                    effects.push(Effect::Close(CloseReason::Protocol(
                        "only login requests are allowed before login is over",
                    )));
                    Outcome::Continue
                }
                Err(error) => {
                    effects.push(Effect::Close(error.into()));
                    Outcome::Continue
                }
            },
            Event::Malformed(_) | Event::Completed { .. } | Event::Disconnected => {
                Outcome::Continue
            }
        }
    }

    fn request(
        &mut self,
        now: Instant,
        request: &request::Login,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        if self.requests == 0 {
            self.status_sn = request.expected_status;
        }
        self.requests += 1;
        match self.answer(request) {
            Ok(Some(reply)) if reply.transit && reply.next_stage == FULL_FEATURE => {
                match self.enter(request) {
                    Ok(None) => self.finish(now, reply, None, request, effects),
                    Ok(Some((target, mut opened))) => {
                        let displaced = std::mem::take(&mut opened.displaced);
                        if displaced.is_empty() {
                            return self.finish(
                                now,
                                reply,
                                Some((target, opened)),
                                request,
                                effects,
                            );
                        }
                        let settlement = Settlement {
                            units: target.units(),
                            sessions: Some((Arc::clone(&target), displaced)),
                            ..Settlement::default()
                        };
                        effects.push(Effect::Await {
                            ticket: 0,
                            settlement,
                        });
                        self.waiting = Some((reply, target, opened, request.clone()));
                        Outcome::Continue
                    }
                    Err(refused) => self.refuse(request, refused, effects),
                }
            }
            Ok(Some(reply)) => {
                self.send(reply, effects);
                Outcome::Continue
            }
            Ok(None) => {
                let reply = self.reply(request, Vec::new());
                self.send(
                    response::Login {
                        transit: false,
                        next_stage: 0,
                        ..reply
                    },
                    effects,
                );
                Outcome::Continue
            }
            Err(refused) => self.refuse(request, refused, effects),
        }
    }

    fn refuse(
        &mut self,
        request: &request::Login,
        Refused(status, detail): Refused,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let reply = response::Login {
            transit: false,
            next_stage: 0,
            status,
            ..self.reply(request, Vec::new())
        };
        self.send(reply, effects);
        effects.push(Effect::Close(CloseReason::LoginRefused { status, detail }));
        Outcome::Continue
    }

    fn reply(&self, request: &request::Login, keys: Vec<(String, String)>) -> response::Login {
        response::Login {
            transit: request.transit,
            continues: false,
            current_stage: request.current_stage,
            next_stage: if request.transit {
                request.next_stage
            } else {
                0
            },
            isid: request.isid,
            tsih: request.tsih,
            task: request.task,
            counters: Counters {
                status: 0,
                expected_command: request.command_sn,
                maximum_command: request.command_sn,
            },
            status: 0,
            data: Bytes::from(text::write(&keys)),
        }
    }

    fn send(&mut self, mut reply: response::Login, effects: &mut Vec<Effect>) {
        reply.counters.status = self.status_sn;
        self.status_sn = self.status_sn.wrapping_add(1);
        effects.push(Effect::Send(Response::Login(reply)));
    }

    /// Judges a request; none while its text goes on in the next one.
    fn answer(&mut self, request: &request::Login) -> Result<Option<response::Login>, Refused> {
        if self.requests > REQUESTS_MAX {
            return Err(Refused(INITIATOR_ERROR, "the login has too many requests"));
        }
        if request.version_min > 0 {
            return Err(Refused(UNSUPPORTED_VERSION, "only version 0 exists"));
        }
        let valid_next = match (request.transit, request.current_stage) {
            (false, SECURITY | OPERATIONAL) => true,
            (true, SECURITY) => matches!(request.next_stage, OPERATIONAL | FULL_FEATURE),
            (true, OPERATIONAL) => request.next_stage == FULL_FEATURE,
            _ => false,
        };
        let same_stage = self
            .stage
            .is_none_or(|stage| stage == request.current_stage);
        if !valid_next || !same_stage || (request.transit && request.continues) {
            return Err(Refused(
                INVALID_DURING_LOGIN,
                "the stages do not follow each other",
            ));
        }
        self.stage = Some(request.current_stage);
        if self.text.len() + request.data.len() > TEXT_BYTES_MAX {
            return Err(Refused(INITIATOR_ERROR, "the text is too long"));
        }
        self.text.extend_from_slice(&request.data);
        if request.continues {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.text);
        let keys =
            text::parse(&whole).map_err(|_| Refused(INITIATOR_ERROR, "the text is malformed"))?;
        if self.identity.is_none() {
            self.identity = Some(self.identify(request, &keys)?);
        }
        let mut answers = Vec::new();
        self.tell_group(&mut answers);
        if request.current_stage == SECURITY {
            self.authenticate(&keys, &mut answers)?;
        } else if !self.is_authenticated() {
            return Err(Refused(AUTHENTICATION_FAILURE, "the target asks for CHAP"));
        }
        self.negotiate(request.current_stage, &keys, &mut answers)?;
        let mut reply = self.reply(request, answers);
        if reply.transit && !self.is_authenticated() {
            reply.transit = false;
            reply.next_stage = 0;
        }
        if reply.transit {
            self.stage = Some(reply.next_stage);
        }
        Ok(Some(reply))
    }

    /// TargetPortalGroupTag stands in the first response of a normal session (RFC 7143 13.9).
    fn tell_group(&mut self, answers: &mut Vec<(String, String)>) {
        let normal = self
            .identity
            .as_ref()
            .is_some_and(|identity| identity.target.is_some());
        if normal && !self.group_told {
            self.group_told = true;
            answers.push(("TargetPortalGroupTag".to_owned(), PORTAL_GROUP.to_string()));
        }
    }

    fn identify(
        &self,
        request: &request::Login,
        keys: &[(String, String)],
    ) -> Result<Identity, Refused> {
        let find = |wanted: &str| {
            keys.iter()
                .find(|(key, _)| key == wanted)
                .map(|(_, value)| value.as_str())
        };
        let name =
            find("InitiatorName").ok_or(Refused(MISSING_PARAMETER, "InitiatorName is missing"))?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Refused(
                INITIATOR_ERROR,
                "InitiatorName is empty or too long",
            ));
        }
        let port = InitiatorPort {
            name: name.to_owned(),
            isid: request.isid,
        };
        let target = match find("SessionType") {
            Some("Discovery") => None,
            None | Some("Normal") => {
                let name = find("TargetName")
                    .ok_or(Refused(MISSING_PARAMETER, "TargetName is missing"))?;
                let found = self.seed.targets.describe(name);
                Some(found.ok_or(Refused(NOT_FOUND, "no such target"))?)
            }
            Some(_) => return Err(Refused(UNSUPPORTED_SESSION_TYPE, "unknown SessionType")),
        };
        Ok(Identity { port, target })
    }

    fn needs_authentication(&self) -> bool {
        let target = self
            .identity
            .as_ref()
            .and_then(|identity| identity.target.as_ref());
        target.is_some_and(|target| target.chap.is_some())
    }

    fn is_authenticated(&self) -> bool {
        !self.needs_authentication() || self.chap.as_ref().is_some_and(Chap::is_proven)
    }

    fn authenticate(
        &mut self,
        keys: &[(String, String)],
        answers: &mut Vec<(String, String)>,
    ) -> Result<(), Refused> {
        if let Some(chap) = &mut self.chap {
            answers.extend(chap.step(keys)?);
            return Ok(());
        }
        let Some((_, offers)) = keys.iter().find(|(key, _)| key == "AuthMethod") else {
            return Ok(());
        };
        let wanted = if self.needs_authentication() {
            "CHAP"
        } else {
            "None"
        };
        if !offers.split(',').any(|offer| offer == wanted) {
            return Err(Refused(AUTHENTICATION_FAILURE, "no common AuthMethod"));
        }
        answers.push(("AuthMethod".to_owned(), wanted.to_owned()));
        let target = self
            .identity
            .as_ref()
            .and_then(|identity| identity.target.as_ref());
        if let Some(credentials) = target.and_then(|target| target.chap.clone()) {
            self.chap = Some(Chap::new(credentials, self.seed.challenge));
        }
        Ok(())
    }

    fn negotiate(
        &mut self,
        stage: u8,
        keys: &[(String, String)],
        answers: &mut Vec<(String, String)>,
    ) -> Result<(), Refused> {
        for (key, value) in keys {
            if key == "AuthMethod" || key.starts_with("CHAP_") {
                continue;
            }
            if let Some((_, earlier)) = self.seen.iter().find(|(seen, _)| seen == key) {
                // libiscsi introduces itself again in the operational stage.
                if INTRODUCTION.contains(&key.as_str()) && earlier == value {
                    continue;
                }
                return Err(Refused(INITIATOR_ERROR, "a key was negotiated twice"));
            }
            self.seen.push((key.clone(), value.clone()));
            if let Some(value) = self.agreed.negotiate(key, value).into_value() {
                answers.push((key.clone(), value));
            }
        }
        if stage == OPERATIONAL && !self.declared {
            self.declared = true;
            let ours = OUR_DATA_SEGMENT_BYTES.to_string();
            answers.push(("MaxRecvDataSegmentLength".to_owned(), ours));
        }
        Ok(())
    }

    /// Enters the session in its target; none for discovery.
    fn enter(&self, request: &request::Login) -> Result<Option<(Arc<Target>, Opened)>, Refused> {
        let identity = self
            .identity
            .as_ref()
            .expect("an answered request named the initiator");
        let Some(described) = &identity.target else {
            return Ok(None);
        };
        // What the catalog said at the first request may be old by now.
        let described = self.seed.targets.describe(&described.name);
        let target = described.map(|described| self.seed.targets.open(described));
        let target = target.ok_or(Refused(NOT_FOUND, "the target has gone"))?;
        if request.tsih != 0 {
            return Err(if target.has_session(&identity.port, request.tsih) {
                Refused(TOO_MANY_CONNECTIONS, "a session has one connection")
            } else {
                Refused(NO_SUCH_SESSION, "no session has this TSIH")
            });
        }
        let opened = target.open_session(&identity.port, Arc::clone(&self.seed.wake));
        let opened = opened.ok_or(Refused(
            OUT_OF_RESOURCES,
            "the target has too many sessions",
        ))?;
        Ok(Some((target, opened)))
    }

    fn finish(
        &mut self,
        now: Instant,
        mut last: response::Login,
        entered: Option<(Arc<Target>, Opened)>,
        request: &request::Login,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        // A discovery session needs a TSIH too; nothing can refer to it.
        last.tsih = entered.as_ref().map_or(1, |(_, opened)| opened.tsih);
        let identity = self
            .identity
            .take()
            .expect("an answered request named the initiator");
        let mut agreed = self.agreed;
        agreed.first_burst = agreed.first_burst.min(agreed.max_burst);
        let status_sn = self.status_sn.wrapping_add(1);
        let full = FullFeature::new(Start {
            session: entered.map(|(target, opened)| (target, opened.session)),
            targets: Arc::clone(&self.seed.targets),
            port: identity.port,
            local_address: self.seed.local_address.clone(),
            agreed,
            connection: request.connection,
            status_sn,
            command_sn: request.command_sn,
            now,
        });
        last.counters.expected_command = request.command_sn;
        last.counters.maximum_command = full.maximum_command();
        self.send(last, effects);
        let limit = if self.declared {
            OUR_DATA_SEGMENT_BYTES
        } else {
            DEFAULT_DATA_SEGMENT_BYTES
        };
        effects.push(Effect::Framing {
            digests: agreed.digests,
            data_limit: usize::try_from(limit).expect("a length fits memory"),
        });
        Outcome::Done(Box::new(full))
    }
}
