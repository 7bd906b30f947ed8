//! JSON laid out for readers: one line for each fault, operation and small value.
//!
//! Does not: interpret anything; every JSON value comes out as it went in.

use serde_json::Value;

/// The text of an object with these fields, in this order.
pub(super) fn layout(fields: &[(&str, Value)]) -> String {
    let lines: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("  {}: {}", quoted(name), block(value, 1)))
        .collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A value that may take several lines; objects and lists of composed values do.
fn block(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth + 1);
    let close = "  ".repeat(depth);
    match value {
        Value::Object(fields) if depth == 1 && !fields.is_empty() => {
            let lines: Vec<String> = fields
                .iter()
                .map(|(name, value)| {
                    format!("{indent}{}: {}", quoted(name), block(value, depth + 1))
                })
                .collect();
            format!("{{\n{}\n{close}}}", lines.join(",\n"))
        }
        Value::Array(members) if members.iter().any(|member| !is_scalar(member)) => {
            let lines: Vec<String> = members
                .iter()
                .map(|member| format!("{indent}{}", line(member)))
                .collect();
            format!("[\n{}\n{close}]", lines.join(",\n"))
        }
        other => line(other),
    }
}

fn is_scalar(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

/// A value on one line, with spaces where a reader wants them.
fn line(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let parts: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{}: {}", quoted(name), line(value)))
                .collect();
            format!("{{{}}}", parts.join(", "))
        }
        Value::Array(members) => {
            let parts: Vec<String> = members.iter().map(line).collect();
            format!("[{}]", parts.join(", "))
        }
        scalar => scalar.to_string(),
    }
}
