//! Values: what EDN can express, with a total order.
//!
//! Invariants: equality and order are structural (a list is not a vector, 1 is not 1.0); floats
//! compare by bits, so a NaN equals itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A floating-point number ordered by its bits, so that values have a total order.
#[derive(Clone, Copy, Debug)]
pub struct Float(pub f64);

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Float {}

impl PartialOrd for Float {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Float {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A value in a history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing.
    Nil,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Float(Float),
    /// A character.
    Char(char),
    /// A string.
    String(String),
    /// A keyword, without its colon.
    Keyword(String),
    /// A symbol.
    Symbol(String),
    /// A list, `( )`.
    List(Vec<Value>),
    /// A vector, `[ ]`.
    Vector(Vec<Value>),
    /// A map.
    Map(BTreeMap<Value, Value>),
    /// A set.
    Set(BTreeSet<Value>),
    /// A tagged literal: the tag without `#`, and its value.
    Tagged(String, Box<Value>),
}

impl Value {
    /// A keyword.
    pub fn keyword(name: &str) -> Self {
        Self::Keyword(name.to_owned())
    }

    /// The elements of a list or vector, looking through tags.
    pub fn sequence(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) | Self::Vector(items) => Some(items),
            Self::Tagged(_, value) => value.sequence(),
            _ => None,
        }
    }

    /// The two elements of a pair.
    pub fn pair(&self) -> Option<(&Value, &Value)> {
        match self.sequence()? {
            [first, second] => Some((first, second)),
            _ => None,
        }
    }

    /// The name of a keyword, symbol or string.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Keyword(name) | Self::Symbol(name) | Self::String(name) => Some(name),
            _ => None,
        }
    }

    /// The same value in the one form that stands for all that are equal in Clojure: there `(1 2)` is
    /// `[1 2]`, and `-0.0` is `0.0`.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let all = |items: &[Self]| items.iter().map(Self::canonical).collect();
        match self {
            Self::List(items) | Self::Vector(items) => Self::Vector(all(items)),
            Self::Float(Float(number)) if *number == 0.0 => Self::Float(Float(0.0)),
            Self::Map(map) => {
                let pairs = map.iter();
                Self::Map(pairs.map(|(k, v)| (k.canonical(), v.canonical())).collect())
            }
            Self::Set(items) => Self::Set(items.iter().map(Self::canonical).collect()),
            Self::Tagged(tag, value) => Self::Tagged(tag.clone(), Box::new(value.canonical())),
            other => other.clone(),
        }
    }

    /// Whether it is in that form.
    #[must_use]
    pub fn is_canonical(&self) -> bool {
        match self {
            Self::List(_) => false,
            Self::Float(Float(number)) => *number != 0.0 || number.is_sign_positive(),
            Self::Vector(items) => items.iter().all(Self::is_canonical),
            Self::Map(map) => map
                .iter()
                .all(|(k, v)| k.is_canonical() && v.is_canonical()),
            Self::Set(items) => items.iter().all(Self::is_canonical),
            Self::Tagged(_, value) => value.is_canonical(),
            _ => true,
        }
    }

    /// The integer.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        super::edn_write::write_value(&mut text, self);
        f.write_str(&text)
    }
}
