//! Decoding of JSON string literals.

use std::borrow::Cow;

/// Decodes the content of a JSON string literal (without its quotes). Invalid escapes are kept as they are:
/// the text was validated when it was accepted.
pub fn unescape(raw: &str) -> Cow<'_, str> {
    let Some(first) = raw.find('\\') else { return Cow::Borrowed(raw) };
    let mut text = String::with_capacity(raw.len());
    text.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        let (decoded, taken) = match escape.as_bytes().first() {
            Some(b'b') => (Some('\u{8}'), 1),
            Some(b'f') => (Some('\u{c}'), 1),
            Some(b'n') => (Some('\n'), 1),
            Some(b'r') => (Some('\r'), 1),
            Some(b't') => (Some('\t'), 1),
            Some(byte @ (b'"' | b'\\' | b'/')) => (Some(*byte as char), 1),
            Some(b'u') => unescape_unicode(escape),
            _ => (None, 0),
        };
        text.push(decoded.unwrap_or('\\'));
        rest = &escape[taken..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// `escape` starts at the `u`. Returns the character and the bytes consumed, or `(None, 0)` if the escape is
/// invalid.
fn unescape_unicode(escape: &str) -> (Option<char>, usize) {
    let unit = |at: usize| {
        let digits = escape.get(at..at + 4)?;
        if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) { u32::from_str_radix(digits, 16).ok() } else { None }
    };
    let Some(high) = unit(1) else { return (None, 0) };
    if let Some(character) = char::from_u32(high) {
        return (Some(character), 5);
    }
    let pair = (escape.get(5..7) == Some("\\u") && high < 0xdc00).then(|| unit(7)).flatten();
    match pair {
        Some(low @ 0xdc00..0xe000) => {
            let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            (char::from_u32(code), 11)
        }
        _ => (None, 0),
    }
}
