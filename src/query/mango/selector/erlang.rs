//! Prints JSON values like Erlang's `~w` and `~p`; CouchDB's Mango errors contain the offending value in this
//! form.

use std::fmt::Write;

use serde_json::Value;

/// Longest value in an error text, in bytes; the rest is cut off.
const LIMIT: usize = 4096;

/// Prints `value` like Erlang's `~w` prints CouchDB's form of it: strings as byte lists (`<<102,111,111>>`),
/// objects as `{[{name,value}]}`.
pub fn term(value: &Value) -> String {
    print(value, write_binary)
}

/// Prints `value` like Erlang's `~p`: like [`term`], but with printable strings in quotes (`<<"foo">>`).
pub fn pretty_term(value: &Value) -> String {
    print(value, |text, out| {
        if text.chars().all(|character| matches!(character, ' '..='~')) {
            let _ = write!(out, "<<\"{}\">>", text.replace('\\', "\\\\").replace('"', "\\\""));
        } else {
            write_binary(text, out);
        }
    })
}

type WriteBinary = fn(&str, &mut String);

fn print(value: &Value, binary: WriteBinary) -> String {
    let mut out = String::new();
    write_term(value, binary, &mut out);
    if out.len() > LIMIT {
        let end = (0..=LIMIT).rev().find(|end| out.is_char_boundary(*end)).unwrap_or(0);
        out.truncate(end);
        out.push_str("...");
    }
    out
}

fn write_term(value: &Value, binary: WriteBinary, out: &mut String) {
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
        Value::String(text) => binary(text, out),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_term(value, binary, out);
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
                binary(name, out);
                out.push(',');
                write_term(value, binary, out);
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
