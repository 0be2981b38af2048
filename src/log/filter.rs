//! The filter of `--log`: a level, or a list such as `info,settee::request=off`.
//!
//! `EnvFilter` of `tracing-subscriber` can also filter by spans and their fields, and brings a regular expression
//! engine of 1.5 MB for that. settee opens no spans.

use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};

/// Parses a filter. A part that names a span (`settee[span]=debug`) selects nothing, because there are no spans. A
/// filter without any other part lets errors pass.
///
/// # Errors
/// A part is not `level`, `target` or `target=level`.
pub fn parse(text: &str) -> Result<Targets, ParseError> {
    let parts = split(text).into_iter().map(str::trim).filter(|part| !part.is_empty() && !part.contains('['));
    let parts: Vec<&str> = parts.collect();
    if parts.is_empty() { Ok(Targets::new().with_default(LevelFilter::ERROR)) } else { parts.join(",").parse() }
}

/// Splits at the commas that are outside of `[...]`.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn filters_select_by_target_and_level() {
        let passes = |text: &str, target: &str, level| parse(text).expect(text).would_enable(target, &level);
        for (text, target, level, expected) in [
            ("info", "settee::db", Level::INFO, true),
            ("INFO", "settee::db", Level::DEBUG, false),
            ("off", "settee::db", Level::ERROR, false),
            ("info,settee::request=off", "settee::request", Level::ERROR, false),
            ("info,settee::request=off", "settee::db", Level::INFO, true),
            ("warn, settee=trace", "settee::db", Level::TRACE, true),
            ("warn, settee=trace", "hyper", Level::INFO, false),
            ("settee[span{a=1,b=2}]=trace,info", "settee::db", Level::TRACE, false),
            ("settee[span{a=1,b=2}]=trace,info", "settee::db", Level::INFO, true),
            ("settee[span]=info", "settee::db", Level::ERROR, true),
            ("", "settee::db", Level::ERROR, true),
            ("", "settee::db", Level::WARN, false),
        ] {
            assert_eq!(passes(text, target, level), expected, "{text} {target} {level}");
        }
        assert!(parse("settee=loud").is_err());
    }
}
