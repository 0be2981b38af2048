//! The character tables of PCRE2 for ISO 8859-1.
//!
//! Erlang's `re` is built with them, so that `\w`, `[[:upper:]]` and `(?i)` know the letters of Latin-1 where a
//! pattern does not ask for UTF-8. PCRE2's own tables know only those of ASCII.

const LOWER_CASE: usize = 0;
const FLIPPED_CASE: usize = 256;
const CLASSES: usize = 512;
const TYPES: usize = CLASSES + 320;
/// The length of all tables, in bytes.
const LENGTH: usize = TYPES + 256;

/// What `pcre2_set_character_tables` takes.
pub(super) static LATIN_1: [u8; LENGTH] = tables();

const fn is_upper(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | 0xC0..=0xD6 | 0xD8..=0xDE)
}

const fn is_lower(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | 0xB5 | 0xDF..=0xF6 | 0xF8..=0xFF)
}

/// Upper and lower case, and the two ordinal indicators, which have no case.
const fn is_letter(byte: u8) -> bool {
    is_upper(byte) || is_lower(byte) || matches!(byte, 0xAA | 0xBA)
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, 0x09..=0x0D | b' ')
}

const fn is_word(byte: u8) -> bool {
    is_letter(byte) || byte.is_ascii_digit() || byte == b'_'
}

const fn is_graphic(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA0..=0xFF)
}

const fn lower(byte: u8) -> u8 {
    if is_upper(byte) { byte + 0x20 } else { byte }
}

/// The letter in the other case. Three letters have no other case in Latin-1: 0xB5, 0xDF and 0xFF.
const fn flipped(byte: u8) -> u8 {
    if is_lower(byte) && !matches!(byte, 0xB5 | 0xDF | 0xFF) { byte - 0x20 } else { lower(byte) }
}

/// The character classes in the order of PCRE2's bit maps, 32 bytes each.
const fn is_in_class(class: usize, byte: u8) -> bool {
    match class {
        0 => is_space(byte),
        1 => byte.is_ascii_hexdigit(),
        2 => byte.is_ascii_digit(),
        3 => is_upper(byte),
        4 => is_lower(byte),
        5 => is_word(byte),
        6 => is_graphic(byte),
        7 => is_graphic(byte) || byte == b' ',
        8 => is_graphic(byte) && !is_letter(byte) && !byte.is_ascii_digit(),
        _ => matches!(byte, 0..=0x1F | 0x7F..=0x9F),
    }
}

/// The bits that classify one byte.
const fn types(byte: u8) -> u8 {
    is_space(byte) as u8
        | (is_letter(byte) as u8) << 1
        | (is_lower(byte) as u8) << 2
        | (byte.is_ascii_digit() as u8) << 3
        | (is_word(byte) as u8) << 4
}

const fn tables() -> [u8; LENGTH] {
    let mut tables = [0; LENGTH];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        tables[LOWER_CASE + at] = lower(byte);
        tables[FLIPPED_CASE + at] = flipped(byte);
        tables[TYPES + at] = types(byte);
        let mut class = 0;
        while class < 10 {
            tables[CLASSES + 32 * class + at / 8] |= (is_in_class(class, byte) as u8) << (at % 8);
            class += 1;
        }
        at += 1;
    }
    tables
}
