//! The syntax of settings' values: which texts each kind of setting accepts.

use super::networks::Networks;

/// The syntax of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number from `min` to `max`.
    Number { min: u64, max: u64 },
    /// A whole number or `infinity`.
    NumberOrInfinity,
    /// Bytes: a whole number, optionally with `kB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`; or `infinity`.
    Bytes,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A comma-separated list of addresses and networks.
    Networks,
    /// Any text without a zero byte.
    Text,
}

/// Checks `value` against `kind`. The error names the accepted values.
pub fn check(kind: Kind, value: &str) -> Result<(), String> {
    let right = match kind {
        Kind::Flag => matches!(value, "true" | "false"),
        Kind::Number { min, max } => value.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number)),
        Kind::NumberOrInfinity => value == "infinity" || value.parse::<u64>().is_ok(),
        Kind::Bytes => parse_bytes(value).is_some(),
        Kind::Choice(words) => words.contains(&value),
        Kind::Networks => Networks::parse(value).is_some(),
        Kind::Text => !value.contains('\0'),
    };
    if right { Ok(()) } else { Err(format!("`{value}` is not {}", wanted(kind))) }
}

fn wanted(kind: Kind) -> String {
    match kind {
        Kind::Flag => "`true` or `false`".into(),
        Kind::Number { min, max } => format!("a whole number from {min} to {max}"),
        Kind::NumberOrInfinity => "a whole number or `infinity`".into(),
        Kind::Bytes => "a number of bytes (8000000, 8 MB, 1 GiB, infinity)".into(),
        Kind::Choice(words) => format!("one of: {}", words.join(", ")),
        Kind::Networks => "a list of addresses and networks (127.0.0.1, 10.0.0.0/8, ::1)".into(),
        Kind::Text => "text without a zero byte".into(),
    }
}

/// Parses a number of bytes: `8000000`, `8 MB`, `1GiB`; `infinity` is `u64::MAX`.
pub fn parse_bytes(value: &str) -> Option<u64> {
    if value == "infinity" {
        return Some(u64::MAX);
    }
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = value.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_accept_units() {
        for (text, bytes) in [
            ("8000000", Some(8_000_000)),
            ("8 MB", Some(8_000_000)),
            ("1GiB", Some(1 << 30)),
            ("-1", None),
            ("8 XB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        assert_eq!(parse_bytes("infinity"), Some(u64::MAX));
        assert_eq!(parse_bytes("99999999999 GB"), None);
    }
}
