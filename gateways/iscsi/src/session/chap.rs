//! CHAP with MD5 (RFC 1994, RFC 7143 12.1.3), the target's side, one-way and mutual.
//!
//! Invariant: without a right answer to our own challenge the state never becomes proven. A wrong
//! user name and a wrong response are told apart by nobody, in answer or in time.

use crate::codec::text::{binary_value, hexadecimal_value};
use crate::md5::md5;
use crate::port::ChapCredentials;

/// CHAP_A of MD5.
const ALGORITHM_MD5: &str = "5";

/// The longest challenge (RFC 7143 12.1.3).
const CHALLENGE_BYTES_MAX: usize = 1024;

/// CHAP_R: MD5 over identifier, secret and challenge.
pub(crate) fn response(identifier: u8, secret: &[u8], challenge: &[u8]) -> [u8; 16] {
    md5(&[&[identifier], secret, challenge].concat())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// AuthMethod=CHAP was agreed; CHAP_A must follow.
    Selected,
    /// Our challenge went out.
    Challenged,
    Proven,
}

/// Authentication failed; the login ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denied(pub(crate) &'static str);

/// The target's side of one exchange.
#[derive(Debug)]
pub(crate) struct Chap {
    credentials: ChapCredentials,
    identifier: u8,
    challenge: [u8; 16],
    state: State,
}

impl Chap {
    pub(crate) fn new(credentials: ChapCredentials, challenge: [u8; 16]) -> Self {
        Self {
            credentials,
            identifier: challenge[0],
            challenge,
            state: State::Selected,
        }
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.state == State::Proven
    }

    /// Takes the CHAP keys of one login request; gives the keys of the answer.
    pub(crate) fn step(
        &mut self,
        keys: &[(String, String)],
    ) -> Result<Vec<(String, String)>, Denied> {
        let find = |wanted: &str| {
            keys.iter()
                .find(|(key, _)| key == wanted)
                .map(|(_, value)| value.as_str())
        };
        match self.state {
            State::Selected => {
                let Some(algorithms) = find("CHAP_A") else {
                    return Ok(Vec::new());
                };
                if !algorithms
                    .split(',')
                    .any(|algorithm| algorithm == ALGORITHM_MD5)
                {
                    return Err(Denied("no common CHAP algorithm"));
                }
                self.state = State::Challenged;
                Ok(vec![
                    ("CHAP_A".to_owned(), ALGORITHM_MD5.to_owned()),
                    ("CHAP_I".to_owned(), self.identifier.to_string()),
                    ("CHAP_C".to_owned(), hexadecimal_value(&self.challenge)),
                ])
            }
            State::Challenged => {
                let (Some(name), Some(answer)) = (find("CHAP_N"), find("CHAP_R")) else {
                    return Err(Denied("CHAP_N or CHAP_R is missing"));
                };
                self.verify(name, answer)?;
                let back = self.prove(find("CHAP_I"), find("CHAP_C"))?;
                self.state = State::Proven;
                Ok(back)
            }
            State::Proven => Ok(Vec::new()),
        }
    }

    fn verify(&self, name: &str, answer: &str) -> Result<(), Denied> {
        let account = &self.credentials.initiator;
        let expected = response(self.identifier, &account.secret, &self.challenge);
        let given = binary_value(answer).unwrap_or_default();
        // Every byte is looked at, whatever the first ones say.
        let same = given.len() == expected.len()
            && given
                .iter()
                .zip(expected)
                .fold(0, |all, (a, b)| all | (a ^ b))
                == 0;
        let named = name == account.user;
        if same & named {
            Ok(())
        } else {
            Err(Denied("wrong CHAP user or secret"))
        }
    }

    /// The target's own proof, when the initiator asks for one.
    fn prove(
        &self,
        identifier: Option<&str>,
        challenge: Option<&str>,
    ) -> Result<Vec<(String, String)>, Denied> {
        let (identifier, challenge) = match (identifier, challenge) {
            (None, None) => return Ok(Vec::new()),
            (Some(identifier), Some(challenge)) => (identifier, challenge),
            _ => return Err(Denied("CHAP_I and CHAP_C belong together")),
        };
        let account = self
            .credentials
            .target
            .as_ref()
            .ok_or(Denied("no secret for mutual CHAP"))?;
        let identifier: u8 = identifier
            .parse()
            .map_err(|_| Denied("CHAP_I is no byte"))?;
        let challenge = binary_value(challenge).ok_or(Denied("CHAP_C is no binary value"))?;
        if challenge.len() > CHALLENGE_BYTES_MAX {
            return Err(Denied("CHAP_C is too long"));
        }
        // Our own challenge sent back would make us answer it (RFC 7143 12.1.3).
        if challenge == self.challenge {
            return Err(Denied("CHAP_C was reflected"));
        }
        let proof = response(identifier, &account.secret, &challenge);
        Ok(vec![
            ("CHAP_N".to_owned(), account.user.clone()),
            ("CHAP_R".to_owned(), hexadecimal_value(&proof)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::ChapAccount;

    fn pairs(keys: &[(&str, &str)]) -> Vec<(String, String)> {
        keys.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn chap() -> Chap {
        let account = |user: &str, secret: &str| ChapAccount {
            user: user.to_owned(),
            secret: secret.as_bytes().to_vec(),
        };
        let credentials = ChapCredentials {
            initiator: account("alice", "a-long-secret"),
            target: Some(account("target", "another-secret")),
        };
        Chap::new(credentials, [7; 16])
    }

    #[test]
    fn mutual_authentication_ends_with_both_proven() {
        let mut chap = chap();
        let challenge = chap.step(&pairs(&[("CHAP_A", "7,5")])).unwrap();
        assert_eq!(challenge[1].1, "7");
        let proof = hexadecimal_value(&response(7, b"a-long-secret", &[7; 16]));
        let keys = [
            ("CHAP_N", "alice"),
            ("CHAP_R", &proof),
            ("CHAP_I", "9"),
            ("CHAP_C", "0x01"),
        ];
        let back = chap.step(&pairs(&keys)).unwrap();
        assert_eq!(
            back[1].1,
            hexadecimal_value(&response(9, b"another-secret", &[1]))
        );
        assert!(chap.is_proven());
    }

    #[test]
    fn wrong_answers_and_reflections_are_denied() {
        let proof = hexadecimal_value(&response(7, b"a-long-secret", &[7; 16]));
        let mine = hexadecimal_value(&[7; 16]);
        let bad: [&[(&str, &str)]; 5] = [
            &[("CHAP_N", "mallory"), ("CHAP_R", &proof)],
            &[("CHAP_N", "alice"), ("CHAP_R", "0x00")],
            &[("CHAP_N", "alice")],
            &[
                ("CHAP_N", "alice"),
                ("CHAP_R", &proof),
                ("CHAP_I", "1"),
                ("CHAP_C", &mine),
            ],
            &[("CHAP_N", "alice"), ("CHAP_R", &proof), ("CHAP_I", "1")],
        ];
        for keys in bad {
            let mut chap = chap();
            chap.step(&pairs(&[("CHAP_A", "5")])).unwrap();
            assert!(
                chap.step(&pairs(keys)).is_err() && !chap.is_proven(),
                "{keys:?}"
            );
        }
        assert!(chap().step(&pairs(&[("CHAP_A", "6")])).is_err());
    }
}
