//! PERSISTENT RESERVE IN and OUT: their parameter data (SPC-4 6.15, 6.16).

use super::reservation::{Concerned, Kind, Refusal, Reservations};
use super::sense::Sense;
use crate::target::InitiatorPort;

/// Length of the PERSISTENT RESERVE OUT parameter list (SPC-4 6.16.3).
const LIST_BYTES: usize = 24;

/// PERSISTENT RESERVE IN.
pub(crate) fn answer(action: u8, state: &Reservations) -> Result<Vec<u8>, Sense> {
    Ok(match action {
        0 => {
            let keys: Vec<u8> = state
                .registrations
                .values()
                .flat_map(|key| key.to_be_bytes())
                .collect();
            with_generation(state, &keys)
        }
        1 => match &state.held {
            None => with_generation(state, &[]),
            Some(held) => {
                // An all-registrants reservation has no single holder: the key is zero.
                let key = if held.kind.is_all_registrants() {
                    0
                } else {
                    state.registrations.get(&held.holder).copied().unwrap_or(0)
                };
                let mut body = key.to_be_bytes().to_vec();
                body.extend_from_slice(&[0, 0, 0, 0, 0, held.kind.code(), 0, 0]);
                with_generation(state, &body)
            }
        },
        // No ATP_C, SIP_C, PTPL_C; CRH 0; TMV with all six types.
        2 => vec![0, 8, 0x00, 0x80, 0xea, 0x01, 0, 0],
        3 => full_status(state),
        _ => return Err(Sense::invalid_cdb_field(1, Some(4))),
    })
}

fn with_generation(state: &Reservations, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("registrations are limited");
    let mut data = state.generation.to_be_bytes().to_vec();
    data.extend_from_slice(&length.to_be_bytes());
    data.extend_from_slice(body);
    data
}

fn full_status(state: &Reservations) -> Vec<u8> {
    let mut body = Vec::new();
    for (port, key) in &state.registrations {
        let holder = state.is_holder(port);
        let kind = state
            .held
            .as_ref()
            .filter(|_| holder)
            .map_or(0, |held| held.kind.code());
        let transport = transport_id(port);
        let length = u32::try_from(transport.len()).expect("a name is limited");
        body.extend_from_slice(&key.to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, u8::from(holder), kind, 0, 0, 0, 0, 0, 1]);
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&transport);
    }
    with_generation(state, &body)
}

/// The TransportID of an iSCSI initiator port (SPC-4 7.6.4.6, format 01b).
fn transport_id(port: &InitiatorPort) -> Vec<u8> {
    let mut name = port.to_string().into_bytes();
    name.resize((name.len() + 1).next_multiple_of(4).max(20), 0);
    let length = u16::try_from(name.len()).expect("a name is limited");
    let [high, low] = length.to_be_bytes();
    let mut bytes = vec![0x45, 0, high, low];
    bytes.extend_from_slice(&name);
    bytes
}

/// How PERSISTENT RESERVE OUT ends when it is not done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Sense(Sense),
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Conflict => Self::Conflict,
            Refusal::InvalidRelease => Self::Sense(Sense::INVALID_RELEASE),
            Refusal::Full => Self::Sense(Sense::REGISTRATIONS_FULL),
            Refusal::ZeroKey => Self::Sense(Sense::invalid_parameter(8, None)),
        }
    }
}

/// PERSISTENT RESERVE OUT.
pub(crate) fn perform(
    state: &mut Reservations,
    port: &InitiatorPort,
    action: u8,
    scope_and_kind: u8,
    list: &[u8],
) -> Result<Concerned, Failure> {
    if list.len() != LIST_BYTES {
        return Err(Sense::PARAMETER_LENGTH.into());
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&list[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    let (key, action_key, flags) = (word(0), word(8), list[20]);
    // SPEC_I_PT, ALL_TG_PT and APTPL were not offered.
    for bit in [3, 2, 0] {
        if flags & (1 << bit) != 0 {
            return Err(Sense::invalid_parameter(20, Some(bit)).into());
        }
    }
    // The scope of every reservation is the logical unit.
    let needs_kind = matches!(action, 1 | 2 | 4 | 5);
    if needs_kind && scope_and_kind >> 4 != 0 {
        return Err(Sense::invalid_cdb_field(2, Some(7)).into());
    }
    let kind = Kind::from_code(scope_and_kind & 0x0f);
    let invalid_kind = || Failure::Sense(Sense::invalid_cdb_field(2, Some(3)));
    Ok(match action {
        0 | 6 => state.register(port, key, action_key, action == 6)?,
        1 => {
            state.reserve(port, key, kind.ok_or_else(invalid_kind)?)?;
            Concerned::default()
        }
        2 => state.release(port, key, kind)?,
        3 => state.clear(port, key)?,
        4 | 5 => state.preempt(port, key, action_key, kind.ok_or_else(invalid_kind)?)?,
        _ => return Err(Sense::invalid_cdb_field(1, Some(4)).into()),
    })
}
