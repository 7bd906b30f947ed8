//! A reader of EDN (extensible data notation), the part Jepsen's histories use and a bit more.
//!
//! It knows nil, booleans, integers, floats, strings, characters, keywords, symbols, lists,
//! vectors, maps, sets, tagged literals, comments (`;`) and discards (`#_`). Integers must fit 64
//! bits; ratios are refused.
//!
//! Invariants: no recursion deeper than [`DEEPEST`]; every error names its line; the reader never
//! panics on any text.

use super::HistoryError;
use super::value::{Float, Value};
use std::collections::{BTreeMap, BTreeSet};

/// How deep collections may nest: far beyond any history, well within the stack.
pub const DEEPEST: usize = 128;

/// Reads one value after another from a text.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: u64,
    depth: usize,
}

/// Reads a text that holds exactly one value.
///
/// # Errors
/// The line that is not EDN, or holds more.
pub fn read_one(text: &str) -> Result<Value, HistoryError> {
    let mut reader = Reader::new(text, 1);
    let value = reader
        .next_value()?
        .ok_or_else(|| HistoryError::at(1, "a value", "the end of the text"))?;
    match reader.next_value()? {
        None => Ok(value),
        Some(more) => Err(HistoryError::at(
            reader.line(),
            "the end of the text",
            more.to_string(),
        )),
    }
}

impl<'a> Reader<'a> {
    /// Starts before `text`, whose first line has this number.
    pub fn new(text: &'a str, line: u64) -> Self {
        Self {
            text,
            at: 0,
            line,
            depth: 0,
        }
    }

    /// The line being read, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Skips blanks, then says which character comes next.
    ///
    /// # Errors
    /// A discard (`#_`) without a value.
    pub fn peek(&mut self) -> Result<Option<char>, HistoryError> {
        self.skip_blank()?;
        Ok(self.rest().chars().next())
    }

    /// Skips blanks and takes the next character if it is this one.
    ///
    /// # Errors
    /// As [`Reader::peek`].
    pub fn take_if(&mut self, wanted: char) -> Result<bool, HistoryError> {
        let found = self.peek()? == Some(wanted);
        if found {
            self.bump();
        }
        Ok(found)
    }

    /// The next value, or nothing at the end of the text.
    ///
    /// # Errors
    /// The line that is not EDN.
    pub fn next_value(&mut self) -> Result<Option<Value>, HistoryError> {
        let Some(next) = self.peek()? else {
            return Ok(None);
        };
        if self.depth >= DEEPEST {
            return Err(self.error(format!("at most {DEEPEST} nested values"), "more"));
        }
        self.depth += 1;
        let value = match next {
            '(' => Value::List(self.items(')')?),
            '[' => Value::Vector(self.items(']')?),
            '{' => self.map()?,
            '"' => self.string()?,
            '\\' => self.character()?,
            '#' => self.dispatch()?,
            ':' => self.keyword()?,
            ')' | ']' | '}' => return Err(self.error("a value", next.to_string())),
            _ => self.atom()?,
        };
        self.depth -= 1;
        Ok(Some(value))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.rest().chars().next()?;
        self.at += next.len_utf8();
        if next == '\n' {
            self.line += 1;
        }
        Some(next)
    }

    fn error(&self, expected: impl Into<String>, found: impl Into<String>) -> HistoryError {
        HistoryError::at(self.line, expected, found)
    }

    fn ended(&self, expected: &str) -> HistoryError {
        self.error(expected, "the end of the text")
    }

    fn skip_blank(&mut self) -> Result<(), HistoryError> {
        loop {
            match self.rest().chars().next() {
                Some(c) if c.is_whitespace() || c == ',' => {
                    self.bump();
                }
                Some(';') => {
                    while self.rest().chars().next().is_some_and(|c| c != '\n') {
                        self.bump();
                    }
                }
                Some('#') if self.rest().starts_with("#_") => {
                    if self.depth >= DEEPEST {
                        return Err(self.error(format!("at most {DEEPEST} nested values"), "more"));
                    }
                    self.at += 2;
                    self.depth += 1;
                    if self.next_value()?.is_none() {
                        return Err(self.ended("a value to discard"));
                    }
                    self.depth -= 1;
                }
                _ => return Ok(()),
            }
        }
    }

    /// The values up to the closing character; the opening one comes next.
    fn items(&mut self, close: char) -> Result<Vec<Value>, HistoryError> {
        let opened_at = self.line;
        self.bump();
        let mut items = Vec::new();
        while !self.take_if(close)? {
            match self.next_value()? {
                Some(value) => items.push(value),
                None => {
                    let expected = format!("{close} for the bracket opened in line {opened_at}");
                    return Err(self.ended(&expected));
                }
            }
        }
        Ok(items)
    }

    fn map(&mut self) -> Result<Value, HistoryError> {
        let items = self.items('}')?;
        if items.len() % 2 != 0 {
            return Err(self.error("a value for every key of the map", "an odd number of forms"));
        }
        let mut map = BTreeMap::new();
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            if map.contains_key(&key) {
                return Err(self.error("each key once", key.to_string()));
            }
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }

    fn string(&mut self) -> Result<Value, HistoryError> {
        let opened_at = self.line;
        self.bump();
        let mut string = String::new();
        loop {
            match self.bump() {
                Some('"') => return Ok(Value::String(string)),
                Some('\\') => string.push(self.escape()?),
                Some(other) => string.push(other),
                None => {
                    let expected = format!("\" for the string opened in line {opened_at}");
                    return Err(self.ended(&expected));
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, HistoryError> {
        match self.bump() {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some(c @ ('"' | '\\' | '\'' | '/')) => Ok(c),
            Some('u') => self.coded(),
            Some(other) => Err(self.error("an escape such as \\n", format!("\\{other}"))),
            None => Err(self.ended("an escape")),
        }
    }

    /// The character of four hexadecimal digits, or of two such escapes: half of a pair each.
    fn coded(&mut self) -> Result<char, HistoryError> {
        let digits = self.rest().get(..4).unwrap_or("").to_owned();
        let refused = || self.error("the four hexadecimal digits of a character", &*digits);
        let mut code = u32::from_str_radix(&digits, 16).map_err(|_| refused())?;
        let mut length = 4;
        if (0xd800..0xdc00).contains(&code) {
            let low = self
                .rest()
                .get(4..10)
                .and_then(|next| next.strip_prefix("\\u"));
            let low = low.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            let low = low.filter(|low| (0xdc00..0xe000).contains(low));
            let low = low.ok_or_else(refused)?;
            code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            length = 10;
        }
        let char = char::from_u32(code).ok_or_else(refused)?;
        self.at += length;
        Ok(char)
    }

    fn character(&mut self) -> Result<Value, HistoryError> {
        self.bump();
        let Some(first) = self.bump() else {
            return Err(self.ended("a character"));
        };
        let mut name = first.to_string();
        if first.is_alphanumeric() {
            name.push_str(self.token());
        }
        let char = match name.as_str() {
            "newline" => '\n',
            "return" => '\r',
            "space" => ' ',
            "tab" => '\t',
            "backspace" => '\u{8}',
            "formfeed" => '\u{c}',
            single if single.chars().count() == 1 => first,
            coded => coded
                .strip_prefix('u')
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .and_then(char::from_u32)
                .ok_or_else(|| self.error("a character", format!("\\{coded}")))?,
        };
        Ok(Value::Char(char))
    }

    /// Takes everything up to the next blank or bracket.
    fn token(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| c.is_whitespace() || ",;()[]{}\"".contains(c))
            .unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn keyword(&mut self) -> Result<Value, HistoryError> {
        self.bump();
        match self.token() {
            "" => Err(self.error("the name of a keyword", ":")),
            name => Ok(Value::Keyword(name.to_owned())),
        }
    }

    fn dispatch(&mut self) -> Result<Value, HistoryError> {
        self.bump();
        match self.rest().chars().next() {
            Some('{') => {
                let items = self.items('}')?;
                let count = items.len();
                let set: BTreeSet<Value> = items.into_iter().collect();
                if set.len() < count {
                    return Err(self.error("each element of a set once", "a repetition"));
                }
                Ok(Value::Set(set))
            }
            Some('#') => {
                self.bump();
                match self.token() {
                    "Inf" => Ok(Value::Float(Float(f64::INFINITY))),
                    "-Inf" => Ok(Value::Float(Float(f64::NEG_INFINITY))),
                    "NaN" => Ok(Value::Float(Float(f64::NAN))),
                    other => Err(self.error("##Inf, ##-Inf or ##NaN", format!("##{other}"))),
                }
            }
            // All keys of the map are of one namespace.
            Some(':') => {
                self.bump();
                let space = self.token().trim_start_matches(':').to_owned();
                match self.next_value()? {
                    Some(Value::Map(map)) => Ok(Value::Map(
                        map.into_iter()
                            .map(|(key, value)| (spaced(&space, key), value))
                            .collect(),
                    )),
                    _ => Err(self.error(
                        "a map behind the namespace of its keys",
                        format!("#:{space}"),
                    )),
                }
            }
            Some(first) if first.is_alphabetic() => {
                let tag = self.token().to_owned();
                let value = self
                    .next_value()?
                    .ok_or_else(|| self.ended("a tagged value"))?;
                Ok(Value::Tagged(tag, Box::new(value)))
            }
            Some(other) => Err(self.error("a set, a tag or a discard", format!("#{other}"))),
            None => Err(self.ended("a set, a tag or a discard")),
        }
    }

    fn atom(&mut self) -> Result<Value, HistoryError> {
        let token = self.token();
        match token {
            "nil" => return Ok(Value::Nil),
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            "" => {
                let found = self
                    .rest()
                    .chars()
                    .next()
                    .map_or_else(String::new, String::from);
                return Err(self.error("a value", found));
            }
            _ => {}
        }
        let unsigned = token.strip_prefix(['+', '-']).unwrap_or(token);
        if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(Value::Symbol(token.to_owned()));
        }
        let digits = token.strip_suffix('N').unwrap_or(token);
        if let Ok(number) = digits.parse::<i64>() {
            return Ok(Value::Int(number));
        }
        // As Clojure prints the addresses of objects.
        if let Some(hex) = unsigned.strip_prefix("0x")
            && hex.bytes().all(|digit| digit.is_ascii_hexdigit())
            && let Ok(number) = i64::from_str_radix(hex, 16)
        {
            let negative = token.starts_with('-');
            return Ok(Value::Int(if negative { -number } else { number }));
        }
        // A number of unbounded precision is no float of the same digits.
        if let Some(digits) = token.strip_suffix('M')
            && digits.parse::<f64>().is_ok()
        {
            let digits = Value::String(digits.trim_start_matches('+').to_owned());
            return Ok(Value::Tagged("bigdec".to_owned(), Box::new(digits)));
        }
        let is_float = token.contains(['.', 'e', 'E']);
        match token.parse::<f64>() {
            Ok(number) if is_float => Ok(Value::Float(Float(number))),
            _ => Err(self.error("a 64-bit integer or a decimal number", token)),
        }
    }
}

/// A key of a map whose keys are of the namespace `space`.
fn spaced(space: &str, key: Value) -> Value {
    let within = |name: String| match name.strip_prefix("_/") {
        Some(plain) => plain.to_owned(),
        None if name.contains('/') => name,
        None => format!("{space}/{name}"),
    };
    match key {
        Value::Keyword(name) => Value::Keyword(within(name)),
        Value::Symbol(name) => Value::Symbol(within(name)),
        other => other,
    }
}
