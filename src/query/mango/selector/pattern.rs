//! `$regex`: compiles CouchDB's patterns (PCRE, on bytes) with the `regex` crate, which matches in linear
//! time.
//!
//! Patterns that need backtracking (lookaround, backreferences, atomic groups) use `fancy-regex` with a step
//! limit. CouchDB's clients send such patterns, and PCRE also gives up after a number of steps and reports no
//! match.
//!
//! The two grammars differ slightly, so a pattern is rewritten first: `\w`, `\d`, `\s` and `\b` are ASCII as
//! in CouchDB, a `{` that opens no repetition, a `[` inside a class and needless escapes are literal, and `$`
//! also matches before a final newline. One difference remains: `.` matches a character here and a byte in
//! CouchDB.

use std::sync::Arc;

/// Longest pattern, in bytes; PCRE rejects programs over 64 KiB.
const MAX_PATTERN: usize = 64 << 10;
/// Longest pattern that may backtrack, in bytes.
const MAX_BACKTRACKING_PATTERN: usize = 4 << 10;
/// Step limit of one backtracking match, and the longest text it is tried on. Both are needed to limit its
/// time, because one step may read the whole text.
const MAX_STEPS: usize = 50_000;
const MAX_BACKTRACKING_TEXT: usize = 16 << 10;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    engine: Engine,
}

#[derive(Debug, Clone)]
enum Engine {
    Linear(regex::Regex),
    Backtracking(Arc<fancy_regex::Regex>),
}

impl Pattern {
    /// Compiles a pattern into at most `most` bytes. Returns `None` if it is malformed or too large.
    pub(crate) fn compile(source: &str, most: usize) -> Option<Pattern> {
        if source.len() > MAX_PATTERN {
            return None;
        }
        let rewritten = rewrite(source);
        let linear = regex::RegexBuilder::new(&rewritten).size_limit(most).dfa_size_limit(most).build();
        let engine = match linear {
            Ok(regex) => Engine::Linear(regex),
            Err(regex::Error::CompiledTooBig(_)) => return None,
            Err(_) if source.len() > MAX_BACKTRACKING_PATTERN => return None,
            Err(_) => Engine::Backtracking(Arc::new(
                fancy_regex::RegexBuilder::new(&rewritten)
                    .backtrack_limit(MAX_STEPS)
                    .delegate_size_limit(most)
                    .delegate_dfa_size_limit(most)
                    .build()
                    .ok()?,
            )),
        };
        Some(Pattern { source: source.to_owned(), engine })
    }

    /// The pattern as the client sent it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The cost of trying the pattern on a text of this length, in steps of [`super::matching`].
    pub(crate) fn cost(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        match self.engine {
            Engine::Linear(_) => bytes / 16,
            Engine::Backtracking(_) => bytes.min(MAX_BACKTRACKING_TEXT as u64).pow(2) / 64,
        }
    }

    /// Whether the pattern matches anywhere in `text`. A match that would take too many steps counts as no
    /// match.
    pub(crate) fn matches(&self, text: &str) -> bool {
        match &self.engine {
            Engine::Linear(regex) => regex.is_match(text),
            Engine::Backtracking(regex) => text.len() <= MAX_BACKTRACKING_TEXT && regex.is_match(text).unwrap_or(false),
        }
    }
}

/// Translates a PCRE pattern into the grammar of the `regex` crate.
fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        match first {
            '\\' => rest = rewrite_escape(&rest[1..], false, &mut out),
            '[' => rest = rewrite_class(&rest[1..], &mut out),
            '{' if !opens_repetition(rest) => {
                out.push_str("\\{");
                rest = &rest[1..];
            }
            '$' => {
                out.push_str("(?:$|\\n\\z)");
                rest = &rest[1..];
            }
            _ => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

/// Whether `rest` starts with `{n}`, `{n,}` or `{n,m}`.
fn opens_repetition(rest: &str) -> bool {
    // Reads no further than this repetition: otherwise many unclosed `{` would take quadratic time.
    let after = rest[1..].trim_start_matches(|digit: char| digit.is_ascii_digit());
    let has_low = after.len() < rest.len() - 1;
    let after = match after.strip_prefix(',') {
        Some(high) => high.trim_start_matches(|digit: char| digit.is_ascii_digit()),
        None => after,
    };
    has_low && after.starts_with('}')
}

/// Rewrites the escape whose text after the backslash is `rest`. Returns the text after the escape.
fn rewrite_escape<'s>(rest: &'s str, in_class: bool, out: &mut String) -> &'s str {
    let Some(escaped) = rest.chars().next() else {
        out.push('\\');
        return rest;
    };
    let after = &rest[escaped.len_utf8()..];
    let plain = match escaped {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => "[\\t-\\r ]",
        'S' => "[^\\t-\\r ]",
        'h' => "[\\t ]",
        'H' => "[^\\t ]",
        'e' => "\\x1B",
        '0' => "\\x00",
        'b' if in_class => "\\x08",
        'b' => "(?-u:\\b)",
        'N' if !in_class => "[^\\n]",
        'R' if !in_class => "(?:\\r\\n|[\\n-\\r])",
        'Q' => {
            let (literal, after) = after.split_once("\\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(literal));
            return after;
        }
        'E' => "",
        // Escapes that both grammars share: anchors, code points, and references and groups of the
        // backtracking engine.
        'A'
        | 'z'
        | 'Z'
        | 'B'
        | 'G'
        | 'K'
        | 'k'
        | 'g'
        | 'n'
        | 'r'
        | 't'
        | 'f'
        | 'a'
        | 'v'
        | 'x'
        | 'p'
        | 'P'
        | '1'..='9' => {
            out.push('\\');
            out.push(escaped);
            return after;
        }
        _ => {
            // Any other escaped character stands for itself.
            out.push_str(&regex::escape(&rest[..escaped.len_utf8()]));
            return after;
        }
    };
    out.push_str(plain);
    after
}

/// The position of the `:]` that ends a class name (`[:alpha:]`).
fn name_end(rest: &str) -> Option<usize> {
    let name = rest[2..].trim_start_matches(|letter: char| letter.is_ascii_lowercase() || letter == '^');
    name.starts_with(":]").then(|| rest.len() - name.len())
}

/// Rewrites the character class whose text after `[` is `rest`. Returns the text after its `]`.
fn rewrite_class<'s>(mut rest: &'s str, out: &mut String) -> &'s str {
    out.push('[');
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    // A `]` at the start is literal.
    if let Some(after) = rest.strip_prefix(']') {
        out.push_str("\\]");
        rest = after;
    }
    while let Some(first) = rest.chars().next() {
        match first {
            ']' => {
                out.push(']');
                return &rest[1..];
            }
            '\\' => rest = rewrite_escape(&rest[1..], true, out),
            '[' => match rest.starts_with("[:").then(|| name_end(rest)).flatten() {
                Some(end) => {
                    out.push_str(&rest[..end + 2]);
                    rest = &rest[end + 2..];
                }
                None => {
                    out.push_str("\\[");
                    rest = &rest[1..];
                }
            },
            // `&&`, `~~` and `--` are operators on classes in the `regex` crate.
            '&' | '~' => {
                out.push('\\');
                out.push(first);
                rest = &rest[1..];
            }
            '-' if rest.starts_with("--") => {
                out.push_str("-\\-");
                rest = &rest[2..];
            }
            _ => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    rest
}
