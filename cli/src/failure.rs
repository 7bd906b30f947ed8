//! How a command ends that did not do what was asked: a message, what to do, and an exit code.
//!
//! Invariants: an outcome that is not known is never told as a failure; every kind has an exit code of
//! its own (docs/operations/configuration.md).

use std::process::ExitCode;

use serde_json::{Value, json};

/// What became of a request to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing was changed; the message says what to do.
    Refused(String),
    /// Nobody got the request.
    Unreachable(String),
    /// Not at present; what was begun goes on when it is repeated.
    TryAgain(String),
    /// It may have taken effect, or may yet.
    Unknown(String),
}

/// An error of any other kind.
const OTHER: u8 = 1;

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => OTHER,
            // As sysexits.h has them: unavailable, temporary failure; the next is free for its use.
            Self::Unreachable(_) => 69,
            Self::TryAgain(_) => 75,
            Self::Unknown(_) => 76,
        }
    }

    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Refused(_) => None,
            Self::Unreachable(_) => {
                Some("is the cluster running? Name one of its nodes with --connect HOST:PORT")
            }
            Self::TryAgain(_) => Some("repeat the command in a while"),
            Self::Unknown(_) => Some(
                "look with `hedgerow disk list` before you repeat it: it may have taken effect, or \
                 may yet",
            ),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(text) => write!(formatter, "{text}"),
            Self::Unreachable(text) => write!(formatter, "no node answered: {text}"),
            Self::TryAgain(text) => write!(formatter, "not possible at present: {text}"),
            Self::Unknown(text) => write!(formatter, "the outcome is unknown: {text}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Tells `error` on standard error, and with which code the process ends.
pub(crate) fn tell(error: &anyhow::Error, in_json: bool) -> ExitCode {
    let failure = error.downcast_ref::<Failure>();
    let code = failure.map_or(OTHER, Failure::exit_code);
    let remedy = failure.and_then(Failure::remedy);
    let message = format!("{error:#}");
    if in_json {
        eprintln!("{}", in_one_line(&message, remedy, code));
    } else {
        eprintln!("hedgerow: {message}");
        if let Some(remedy) = remedy {
            eprintln!("  {remedy}");
        }
    }
    ExitCode::from(code)
}

/// The error as scripts read it.
pub(crate) fn in_one_line(message: &str, remedy: Option<&str>, code: u8) -> Value {
    let mut error = json!({ "message": message, "exit_code": code });
    if let Some(remedy) = remedy {
        error["remedy"] = remedy.into();
    }
    json!({ "schema_version": 1, "error": error })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own_and_scripts_can_read_it() {
        let text = || String::from("why");
        let kinds = [
            Failure::Refused(text()),
            Failure::Unreachable(text()),
            Failure::TryAgain(text()),
            Failure::Unknown(text()),
        ];
        let codes: BTreeSet<u8> = kinds.iter().map(Failure::exit_code).collect();
        assert_eq!(codes, [1, 69, 75, 76].into());
        let unknown = &kinds[3];
        let line = in_one_line(&unknown.to_string(), unknown.remedy(), unknown.exit_code());
        assert_eq!(line["schema_version"], 1);
        assert_eq!(line["error"]["exit_code"], 76);
        assert_eq!(line["error"]["message"], "the outcome is unknown: why");
        let remedy = line["error"]["remedy"].as_str().unwrap();
        assert!(remedy.contains("disk list"), "{remedy}");
        let plain = in_one_line("x", None, 1);
        assert!(plain["error"].get("remedy").is_none());
    }
}
