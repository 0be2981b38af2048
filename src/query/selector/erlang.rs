//! JSON values as Erlang prints them with `~w`: CouchDB's Mango errors carry the offending value in this form.

use std::fmt::Write;

use serde_json::Value;

/// The longest text that an error carries; the rest is cut off.
const LIMIT: usize = 4096;

/// `value` as Erlang's `~w` prints CouchDB's form of it: strings as byte lists (`<<102,111,111>>`), objects as
/// `{[{name,value}]}`.
pub fn term(value: &Value) -> String {
    let mut out = String::new();
    write_term(value, &mut out);
    if out.len() > LIMIT {
        out.truncate(LIMIT);
        out.push_str("...");
    }
    out
}

fn write_term(value: &Value, out: &mut String) {
    if out.len() > LIMIT {
        return;
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => {
            // Erlang writes 1e300 as 1.0e300.
            let text = number.to_string();
            match text.split_once('e') {
                Some((digits, exponent)) if !digits.contains('.') => {
                    let _ = write!(out, "{digits}.0e{}", exponent.trim_start_matches('+'));
                }
                Some((digits, exponent)) => {
                    let _ = write!(out, "{digits}e{}", exponent.trim_start_matches('+'));
                }
                None => out.push_str(&text),
            }
        }
        Value::String(text) => write_binary(text, out),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_term(value, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push_str("{[");
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push('{');
                write_binary(name, out);
                out.push(',');
                write_term(value, out);
                out.push('}');
            }
            out.push_str("]}");
        }
    }
}

fn write_binary(text: &str, out: &mut String) {
    out.push_str("<<");
    for (index, byte) in text.bytes().enumerate() {
        if out.len() > LIMIT {
            return;
        }
        let _ = write!(out, "{}{byte}", if index > 0 { "," } else { "" });
    }
    out.push_str(">>");
}
