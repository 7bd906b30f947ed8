//! The tape's file: JSON that a person can read and edit, in an envelope with a version.
//!
//! Fields that a plan leaves out have the values of [`Plan::plain`], so that a tape outlives fields
//! that are added; a field that nothing knows is an error. Every error names its place.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::scenario::{Plan, SERVICE_SUCCESSES, Script};
use crate::world::TimedFault;

use super::layout::layout;
use super::{Tape, Verdict, check};

/// What the envelope says.
const FORMAT: &str = "hedgerow tape";
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// No tape is longer; a million operations take about 100 MB.
const LENGTH_MAXIMUM: u64 = 256 << 20;

/// Why a tape could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TapeError {
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too long.
    #[error("a tape has at most {LENGTH_MAXIMUM} bytes, this has {0}")]
    TooLong(u64),
    /// It is no JSON.
    #[error("this is no JSON: {0}; a tape is what `hedgerow-sim run --tape FILE` writes")]
    NotJson(#[from] serde_json::Error),
    /// It is JSON of another kind.
    #[error("`format` must be {FORMAT:?}: this is no tape")]
    NotATape,
    /// It comes from another version of the simulator.
    #[error(
        "this tape has version {0}, and this simulator reads version {VERSION}: replay it with the \
         simulator of its `commit`, or record it again from its seed"
    )]
    Version(Value),
    /// Some field cannot be understood.
    #[error("{place}: {reason}")]
    Field {
        /// Where, such as `plan.faults[3]`.
        place: String,
        /// Why.
        reason: String,
    },
}

impl TapeError {
    pub(super) fn field(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field {
            place: place.into(),
            reason: reason.into(),
        }
    }
}

impl Tape {
    /// Reads a tape's text.
    ///
    /// # Errors
    /// [`TapeError`] when it is none, or asks for what no run can do.
    pub fn parse(text: &str) -> Result<Self, TapeError> {
        let mut fields = match serde_json::from_str(text)? {
            Value::Object(fields) => fields,
            _ => return Err(TapeError::NotATape),
        };
        if fields.remove("format") != Some(json!(FORMAT)) {
            return Err(TapeError::NotATape);
        }
        match fields.remove("version") {
            Some(version) if version == json!(VERSION) => {}
            other => return Err(TapeError::Version(other.unwrap_or_default())),
        }
        let trace: String = take(&mut fields, "trace")?.unwrap_or_else(|| "0".into());
        let trace = u64::from_str_radix(&trace, 16)
            .map_err(|_| TapeError::field("trace", "write 16 hexadecimal digits"))?;
        let failure: Option<Verdict> = take(&mut fields, "failure")?;
        let plan = fields
            .remove("plan")
            .ok_or_else(|| TapeError::field("plan", "it is missing"))?;
        let tape = Self {
            commit: take(&mut fields, "commit")?.unwrap_or_default(),
            mutant: take(&mut fields, "mutant")?,
            failure,
            trace,
            script: Script {
                plan: read_plan(plan)?,
                operations: list(fields.remove("operations"), "operations")?,
                strikes: list(fields.remove("strikes"), "strikes")?.unwrap_or_default(),
                service: take(&mut fields, "service")?.unwrap_or(SERVICE_SUCCESSES),
            },
        };
        if let Some((unknown, _)) = fields.iter().next() {
            return Err(TapeError::field(unknown, "a tape has no such field"));
        }
        check::check(&tape.script)?;
        Ok(tape)
    }

    /// Reads a tape's file.
    ///
    /// # Errors
    /// [`TapeError`] as [`Tape::parse`] has it, or when there is no such file.
    pub fn read(path: &Path) -> Result<Self, TapeError> {
        let failed = |source| TapeError::File {
            path: path.to_owned(),
            source,
        };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > LENGTH_MAXIMUM {
            return Err(TapeError::TooLong(length));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(failed)?)
    }

    /// The tape's text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut plan = to_value(&self.script.plan);
        if let Some(faults) = plan.get_mut("faults").and_then(Value::as_array_mut) {
            faults.iter_mut().for_each(leave_out_defaults);
        }
        let fields = [
            ("format", json!(FORMAT)),
            ("version", json!(VERSION)),
            ("commit", json!(self.commit)),
            ("mutant", json!(self.mutant)),
            ("failure", to_value(&self.failure)),
            ("trace", json!(format!("{:016x}", self.trace))),
            ("plan", plan),
            ("service", json!(self.script.service)),
            ("strikes", to_value(&self.script.strikes)),
            ("operations", to_value(&self.script.operations)),
        ];
        layout(&fields)
    }

    /// Writes the tape's file, with the directories that it stands in.
    ///
    /// # Errors
    /// [`TapeError::File`].
    #[expect(
        clippy::disallowed_methods,
        reason = "tapes lie on the real disk, outside any world"
    )]
    pub fn write(&self, path: &Path) -> Result<(), TapeError> {
        let failed = |source| TapeError::File {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        std::fs::write(path, self.text()).map_err(failed)
    }
}

fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("no map of a tape has keys that are not text")
}

fn from_value<T: DeserializeOwned>(value: Value, place: &str) -> Result<T, TapeError> {
    serde_json::from_value(value).map_err(|error| TapeError::field(place, error.to_string()))
}

fn take<T: DeserializeOwned>(
    fields: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, TapeError> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => from_value(value, name).map(Some),
    }
}

/// A list, read member by member, so that an error names the one at fault.
fn list<T: DeserializeOwned>(
    value: Option<Value>,
    place: &str,
) -> Result<Option<Vec<T>>, TapeError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(members)) => {
            let members = members.into_iter().enumerate();
            members
                .map(|(at, member)| from_value(member, &format!("{place}[{at}]")))
                .collect::<Result<_, _>>()
                .map(Some)
        }
        Some(_) => Err(TapeError::field(place, "it must be a list")),
    }
}

/// A plan: what it leaves out is as in the plain plan.
fn read_plan(mut value: Value) -> Result<Plan, TapeError> {
    let faults: Vec<TimedFault> = match value.as_object_mut() {
        Some(fields) => list(fields.remove("faults"), "plan.faults")?.unwrap_or_default(),
        None => return Err(TapeError::field("plan", "it must be an object")),
    };
    let mut whole = to_value(&Plan::plain());
    overlay(&mut whole, value, "plan")?;
    let plan: Plan = from_value(whole, "plan")?;
    Ok(Plan { faults, ..plan })
}

/// Puts the fields of `over` in the place of those of `base`, of which each must be one.
fn overlay(base: &mut Value, over: Value, place: &str) -> Result<(), TapeError> {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                let inner = format!("{place}.{name}");
                let Some(field) = base.get_mut(&name) else {
                    return Err(TapeError::field(inner, "there is no such field"));
                };
                overlay(field, value, &inner)?;
            }
            Ok(())
        }
        (base, over) => {
            let same_kind = std::mem::discriminant(base) == std::mem::discriminant(&over);
            // What is null or the name of a variant may become an object, and the reverse.
            let plain = |value: &Value| value.is_number() || value.is_boolean() || value.is_array();
            if !same_kind && plain(base) {
                let reason = format!("expected something like {base}, found {over}");
                return Err(TapeError::field(place, reason));
            }
            *base = over;
            Ok(())
        }
    }
}

/// Shortens the rules of a link or a disk to what they break.
fn leave_out_defaults(fault: &mut Value) {
    let defaults = [
        (
            "/action/Link/2",
            to_value(&crate::world::LinkRules::default()),
        ),
        (
            "/action/Disk/1",
            to_value(&crate::world::DiskFaults::default()),
        ),
    ];
    for (place, default) in defaults {
        if let Some(rules) = fault.pointer_mut(place).and_then(Value::as_object_mut) {
            rules.retain(|name, value| default.get(name) != Some(value));
        }
    }
}

#[cfg(test)]
mod tests;
