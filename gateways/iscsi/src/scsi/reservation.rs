//! Reservations of one logical unit: persistent (SPC-4 5.13) and the old RESERVE/RELEASE (SPC-2).
//!
//! Registrations belong to an I_T nexus named by the initiator port, so they outlive a session, as
//! SPC-4 wants; they do not outlive the process (PTPL is not offered). RESERVE belongs to a session
//! and ends with it. At most one of the two kinds is in use at a time.
//!
//! Invariant: a holder is always registered.

use std::collections::BTreeMap;

use super::table::Access;
use crate::target::{InitiatorPort, SessionId};

/// Most registrations of one unit: a cluster's nodes times a few paths.
pub(crate) const REGISTRATIONS_MAX: usize = 256;

/// Reservation types (SPC-4 table 65).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    WriteExclusive,
    ExclusiveAccess,
    WriteExclusiveRegistrants,
    ExclusiveAccessRegistrants,
    WriteExclusiveAll,
    ExclusiveAccessAll,
}

impl Kind {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrants => 5,
            Self::ExclusiveAccessRegistrants => 6,
            Self::WriteExclusiveAll => 7,
            Self::ExclusiveAccessAll => 8,
        }
    }

    /// Every registrant is a holder.
    pub(crate) fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Registrants may do what the holder may.
    fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Others may not even read.
    fn excludes_reads(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess | Self::ExclusiveAccessRegistrants | Self::ExclusiveAccessAll
        )
    }
}

/// The persistent reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) kind: Kind,
    /// Who made it; with an all-registrants kind everybody registered holds it.
    pub(crate) holder: InitiatorPort,
}

/// Why a service action was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// RESERVATION CONFLICT status.
    Conflict,
    /// Scope and type of a release do not match.
    InvalidRelease,
    /// No room for another registration.
    Full,
    /// A service action key that must not be zero is.
    ZeroKey,
}

/// Whom a service action concerned, for unit attentions and aborts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Concerned {
    /// Lost their registration.
    pub(crate) preempted: Vec<InitiatorPort>,
    /// Still registered, and the reservation they shared is gone or changed.
    pub(crate) released: Vec<InitiatorPort>,
}

/// All reservation state of a logical unit.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    pub(crate) generation: u32,
    pub(crate) registrations: BTreeMap<InitiatorPort, u64>,
    pub(crate) held: Option<Held>,
    /// RESERVE (6) and (10).
    classic: Option<SessionId>,
}

impl Reservations {
    /// Whether a command of this kind must be refused with RESERVATION CONFLICT.
    pub(crate) fn conflicts(
        &self,
        access: Access,
        session: SessionId,
        port: &InitiatorPort,
    ) -> bool {
        if matches!(access, Access::Always | Access::Reservation) {
            return false;
        }
        if self.classic.is_some_and(|owner| owner != session) {
            return true;
        }
        let Some(held) = &self.held else { return false };
        let admitted = self.is_holder(port)
            || (held.kind.admits_registrants() && self.registrations.contains_key(port));
        !admitted && (access == Access::Write || held.kind.excludes_reads())
    }

    pub(crate) fn is_holder(&self, port: &InitiatorPort) -> bool {
        self.held.as_ref().is_some_and(|held| {
            held.holder == *port
                || (held.kind.is_all_registrants() && self.registrations.contains_key(port))
        })
    }

    /// RESERVE (6) or (10). Refused while anybody is registered (SPC-3 5.6.3).
    pub(crate) fn reserve_classic(&mut self, session: SessionId) -> Result<(), Refusal> {
        if !self.registrations.is_empty() || self.classic.is_some_and(|owner| owner != session) {
            return Err(Refusal::Conflict);
        }
        self.classic = Some(session);
        Ok(())
    }

    /// RELEASE (6) or (10): of somebody else's reservation it does nothing, successfully.
    pub(crate) fn release_classic(&mut self, session: SessionId) -> Result<(), Refusal> {
        if !self.registrations.is_empty() {
            return Err(Refusal::Conflict);
        }
        if self.classic == Some(session) {
            self.classic = None;
        }
        Ok(())
    }

    /// The session ended.
    pub(crate) fn session_ended(&mut self, session: SessionId) {
        if self.classic == Some(session) {
            self.classic = None;
        }
    }

    /// LOGICAL UNIT RESET or a target reset: persistent reservations stay (SPC-4 5.13.1).
    pub(crate) fn reset(&mut self) {
        self.classic = None;
    }

    /// Whether RESERVE by somebody else blocks PERSISTENT RESERVE commands.
    pub(crate) fn classic_blocks(&self, session: SessionId) -> bool {
        self.classic.is_some_and(|owner| owner != session)
    }

    /// REGISTER, and with `ignore` REGISTER AND IGNORE EXISTING KEY. A key of zero unregisters.
    pub(crate) fn register(
        &mut self,
        port: &InitiatorPort,
        key: u64,
        new_key: u64,
        ignore: bool,
    ) -> Result<Concerned, Refusal> {
        let registered = self.registrations.get(port).copied();
        if !ignore && registered.unwrap_or(0) != key {
            return Err(Refusal::Conflict);
        }
        let mut concerned = Concerned::default();
        if new_key == 0 {
            if registered.is_some() {
                concerned = self.unregister(port);
            }
        } else {
            if registered.is_none() && self.registrations.len() >= REGISTRATIONS_MAX {
                return Err(Refusal::Full);
            }
            self.registrations.insert(port.clone(), new_key);
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(concerned)
    }

    fn unregister(&mut self, port: &InitiatorPort) -> Concerned {
        let was_holder = self.held.as_ref().is_some_and(|held| held.holder == *port);
        self.registrations.remove(port);
        let mut concerned = Concerned::default();
        let Some(held) = &mut self.held else {
            return concerned;
        };
        if held.kind.is_all_registrants() {
            match self.registrations.keys().next() {
                Some(next) => held.holder = next.clone(),
                None => self.held = None,
            }
        } else if was_holder {
            // Registrants-only reservations end for everybody who shared them (SPC-4 5.13.11.2).
            if held.kind.admits_registrants() {
                concerned.released = self.registrations.keys().cloned().collect();
            }
            self.held = None;
        }
        concerned
    }

    fn check_key(&self, port: &InitiatorPort, key: u64) -> Result<(), Refusal> {
        if self.registrations.get(port) == Some(&key) {
            Ok(())
        } else {
            Err(Refusal::Conflict)
        }
    }

    /// RESERVE.
    pub(crate) fn reserve(
        &mut self,
        port: &InitiatorPort,
        key: u64,
        kind: Kind,
    ) -> Result<(), Refusal> {
        self.check_key(port, key)?;
        match &self.held {
            None => {
                self.held = Some(Held {
                    kind,
                    holder: port.clone(),
                })
            }
            Some(held) if self.is_holder(port) && held.kind == kind => {}
            Some(_) => return Err(Refusal::Conflict),
        }
        Ok(())
    }

    /// RELEASE.
    pub(crate) fn release(
        &mut self,
        port: &InitiatorPort,
        key: u64,
        kind: Option<Kind>,
    ) -> Result<Concerned, Refusal> {
        self.check_key(port, key)?;
        let Some(held) = &self.held else {
            return Ok(Concerned::default());
        };
        if !self.is_holder(port) {
            return Ok(Concerned::default());
        }
        if kind != Some(held.kind) {
            return Err(Refusal::InvalidRelease);
        }
        let shared = held.kind.admits_registrants();
        self.held = None;
        let others = |other: &&InitiatorPort| shared && *other != port;
        let released = self.registrations.keys().filter(others).cloned().collect();
        Ok(Concerned {
            released,
            ..Concerned::default()
        })
    }

    /// CLEAR.
    pub(crate) fn clear(&mut self, port: &InitiatorPort, key: u64) -> Result<Concerned, Refusal> {
        self.check_key(port, key)?;
        self.held = None;
        self.generation = self.generation.wrapping_add(1);
        let all = std::mem::take(&mut self.registrations);
        let preempted = all.into_keys().filter(|other| other != port).collect();
        Ok(Concerned {
            preempted,
            ..Concerned::default()
        })
    }

    /// PREEMPT (SPC-4 5.13.11.4).
    pub(crate) fn preempt(
        &mut self,
        port: &InitiatorPort,
        key: u64,
        victim_key: u64,
        kind: Kind,
    ) -> Result<Concerned, Refusal> {
        self.check_key(port, key)?;
        let holder_key = self
            .held
            .as_ref()
            .and_then(|held| self.registrations.get(&held.holder))
            .copied();
        let all_registrants = self
            .held
            .as_ref()
            .is_some_and(|held| held.kind.is_all_registrants());
        let takes_over = match (all_registrants, victim_key) {
            (true, 0) => true,
            (false, 0) => return Err(Refusal::ZeroKey),
            (true, _) => false,
            (false, _) => holder_key == Some(victim_key),
        };
        let is_victim = |other: &InitiatorPort, other_key: u64| {
            other != port && (other_key == victim_key || (takes_over && victim_key == 0))
        };
        let preempted: Vec<InitiatorPort> = self
            .registrations
            .iter()
            .filter(|(other, other_key)| is_victim(other, **other_key))
            .map(|(other, _)| other.clone())
            .collect();
        let own_key_named = victim_key == key;
        if preempted.is_empty() && !takes_over && !own_key_named {
            return Err(Refusal::Conflict);
        }
        let mut concerned = Concerned::default();
        if takes_over {
            let before = self.held.replace(Held {
                kind,
                holder: port.clone(),
            });
            let changed = before.is_some_and(|held| held.kind != kind);
            for victim in &preempted {
                self.registrations.remove(victim);
            }
            if changed {
                let others = self.registrations.keys().filter(|other| *other != port);
                concerned.released = others.cloned().collect();
            }
        } else {
            for victim in &preempted {
                let _ = self.unregister(victim);
            }
        }
        concerned.preempted = preempted;
        self.generation = self.generation.wrapping_add(1);
        Ok(concerned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str) -> InitiatorPort {
        InitiatorPort {
            name: name.to_owned(),
            isid: [0; 6],
        }
    }

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    #[test]
    fn an_exclusive_reservation_shuts_others_out_until_released() {
        let (a, b) = (port("a"), port("b"));
        let mut state = Reservations::default();
        assert_eq!(
            state.reserve(&a, 1, Kind::ExclusiveAccess),
            Err(Refusal::Conflict)
        );
        state.register(&a, 0, 1, false).unwrap();
        state.reserve(&a, 1, Kind::ExclusiveAccess).unwrap();
        assert!(!state.conflicts(Access::Write, A, &a));
        assert!(state.conflicts(Access::Read, B, &b));
        state.register(&b, 0, 2, false).unwrap();
        assert!(
            state.conflicts(Access::Read, B, &b),
            "registered is not enough"
        );
        assert_eq!(
            state.release(&a, 1, Some(Kind::WriteExclusive)),
            Err(Refusal::InvalidRelease)
        );
        state.release(&a, 1, Some(Kind::ExclusiveAccess)).unwrap();
        assert!(!state.conflicts(Access::Write, B, &b));
    }

    #[test]
    fn preempting_the_holder_takes_the_reservation_over() {
        let (a, b) = (port("a"), port("b"));
        let mut state = Reservations::default();
        state.register(&a, 0, 1, false).unwrap();
        state.register(&b, 0, 2, false).unwrap();
        state.reserve(&a, 1, Kind::WriteExclusive).unwrap();
        let concerned = state.preempt(&b, 2, 1, Kind::WriteExclusive).unwrap();
        assert_eq!(concerned.preempted, vec![a.clone()]);
        assert!(state.is_holder(&b) && !state.registrations.contains_key(&a));
        assert!(state.conflicts(Access::Write, A, &a));
        assert!(!state.conflicts(Access::Read, A, &a));
        assert_eq!(
            state.preempt(&b, 2, 9, Kind::WriteExclusive),
            Err(Refusal::Conflict)
        );
    }

    #[test]
    fn the_last_registrant_takes_an_all_registrants_reservation_with_it() {
        let (a, b) = (port("a"), port("b"));
        let mut state = Reservations::default();
        state.register(&a, 0, 1, false).unwrap();
        state.register(&b, 0, 2, false).unwrap();
        state.reserve(&a, 1, Kind::ExclusiveAccessAll).unwrap();
        assert!(state.is_holder(&b));
        state.register(&a, 1, 0, false).unwrap();
        assert!(state.is_holder(&b));
        state.register(&b, 2, 0, false).unwrap();
        assert_eq!(state.held, None);
    }

    #[test]
    fn the_old_reservation_belongs_to_a_session_and_ends_with_it() {
        let (a, b) = (port("a"), port("b"));
        let mut state = Reservations::default();
        state.reserve_classic(A).unwrap();
        assert_eq!(state.reserve_classic(B), Err(Refusal::Conflict));
        assert!(state.conflicts(Access::Read, B, &b) && !state.conflicts(Access::Read, A, &a));
        state.release_classic(B).unwrap();
        assert!(state.conflicts(Access::Read, B, &b), "not B's to release");
        state.session_ended(A);
        assert!(!state.conflicts(Access::Write, B, &b));
    }

    #[test]
    fn no_key_is_accepted_but_the_registered_one_and_the_table_is_bounded() {
        let mut state = Reservations::default();
        let a = port("a");
        assert_eq!(state.register(&a, 7, 1, false), Err(Refusal::Conflict));
        state.register(&a, 7, 1, true).unwrap();
        assert_eq!(state.clear(&a, 2), Err(Refusal::Conflict));
        for index in 1..REGISTRATIONS_MAX {
            state
                .register(&port(&index.to_string()), 0, 5, false)
                .unwrap();
        }
        assert_eq!(
            state.register(&port("more"), 0, 5, false),
            Err(Refusal::Full)
        );
        assert_eq!(
            state.clear(&a, 1).unwrap().preempted.len(),
            REGISTRATIONS_MAX - 1
        );
    }
}
