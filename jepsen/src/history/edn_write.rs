//! Writing EDN.
//!
//! Invariant: what is written here, [`super::edn`] reads back as the same value.

use super::value::Value;
use super::{Event, Process};
use std::fmt::Write as _;

/// Appends one value.
pub(super) fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Nil => text.push_str("nil"),
        Value::Bool(bool) => text.push_str(if *bool { "true" } else { "false" }),
        Value::Int(number) => push(text, format_args!("{number}")),
        Value::Float(number) if number.0.is_nan() => text.push_str("##NaN"),
        Value::Float(number) if number.0 == f64::INFINITY => text.push_str("##Inf"),
        Value::Float(number) if number.0 == f64::NEG_INFINITY => text.push_str("##-Inf"),
        Value::Float(number) => push(text, format_args!("{:?}", number.0)),
        Value::Char(char) => write_char(text, *char),
        Value::String(string) => write_string(text, string),
        Value::Keyword(name) => push(text, format_args!(":{name}")),
        Value::Symbol(name) => text.push_str(name),
        Value::List(items) => write_items(text, "(", items.iter(), ")"),
        Value::Vector(items) => write_items(text, "[", items.iter(), "]"),
        Value::Set(items) => write_items(text, "#{", items.iter(), "}"),
        Value::Map(entries) => {
            write_items(text, "{", entries.iter().flat_map(|(k, v)| [k, v]), "}");
        }
        Value::Tagged(tag, value) => {
            push(text, format_args!("#{tag} "));
            write_value(text, value);
        }
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("writing to a string cannot fail");
}

fn write_items<'a>(
    text: &mut String,
    open: &str,
    items: impl Iterator<Item = &'a Value>,
    close: &str,
) {
    text.push_str(open);
    for (number, item) in items.enumerate() {
        if number > 0 {
            text.push(' ');
        }
        write_value(text, item);
    }
    text.push_str(close);
}

fn write_char(text: &mut String, char: char) {
    match char {
        '\n' => text.push_str("\\newline"),
        '\r' => text.push_str("\\return"),
        '\t' => text.push_str("\\tab"),
        ' ' => text.push_str("\\space"),
        other if other.is_control() && u32::from(other) <= 0xffff => {
            push(text, format_args!("\\u{:04x}", u32::from(other)));
        }
        other => push(text, format_args!("\\{other}")),
    }
}

fn write_string(text: &mut String, string: &str) {
    text.push('"');
    for char in string.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            other => text.push(other),
        }
    }
    text.push('"');
}

/// Appends one event as a map in Jepsen's order of fields. A key is written in Jepsen's way, as
/// the first of a pair.
pub(super) fn write_event(text: &mut String, index: usize, event: &Event) {
    push(
        text,
        format_args!("{{:type :{}, :process ", event.kind.name()),
    );
    match &event.process {
        Process::Client(number) => push(text, format_args!("{number}")),
        Process::Named(name) => push(text, format_args!(":{name}")),
    }
    text.push_str(", :f ");
    let broken = |c: char| c.is_whitespace() || ",;()[]{}\"\\".contains(c);
    if event.function.is_empty() || event.function.contains(broken) {
        write_string(text, &event.function);
    } else {
        push(text, format_args!(":{}", event.function));
    }
    text.push_str(", :value ");
    match &event.key {
        None => write_value(text, &event.value),
        Some(key) => {
            write_items(text, "[", [key, &event.value].into_iter(), "]");
        }
    }
    if let Some(time_ns) = event.time_ns {
        push(text, format_args!(", :time {time_ns}"));
    }
    if let Some(error) = &event.error {
        text.push_str(", :error ");
        write_value(text, error);
    }
    push(text, format_args!(", :index {index}}}"));
}
