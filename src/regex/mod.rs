//! Regular expressions as CouchDB has them: Erlang's `re`, which is PCRE on bytes.
//!
//! The engine is PCRE2, as in Erlang 28, without its just-in-time compiler. PCRE backtracks, so a match must be
//! stopped when it takes too long. PCRE2's own limit counts from zero again at every position where a match may
//! start, so that it does not bound the time of a search. Here every item of a pattern is compiled with a callout
//! before it (`PCRE2_AUTO_CALLOUT`), and the callout counts, over the whole search:
//!
//! - each item that is tried,
//! - the bytes between one callout and the next, which an item such as `.*` reads in one go,
//! - the bytes that an item may have read in vain, for counted repetitions and references to groups.
//!
//! Where the steps are used up, the text does not match, as in CouchDB after its 10 million.
//!
//! PCRE takes a hyphen after a set of characters in a class, as in `[\w-.]`, for itself; PCRE2 refuses it and says where
//! it is. It is then escaped.
//!
//! A pattern that is too large with callouts is compiled with one at its start only. PCRE2's own limit then bounds each
//! starting position, and the callout counts the positions.

mod pattern;
mod pcre2;
mod tables;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use pattern::Weights;
use pcre2::{Code, Compiled};

/// Longest pattern, in bytes. PCRE refuses what takes more than 64 KiB when compiled.
const MAX_PATTERN: usize = 64 << 10;

/// Most hyphens that are escaped in one pattern: each takes another compilation.
const MAX_HYPHENS: usize = 100;

/// A compiled regular expression.
#[derive(Debug, Clone)]
pub struct Regex {
    source: String,
    code: Arc<Code>,
    weights: Weights,
}

impl Regex {
    /// Compiles a pattern. A pattern may ask for UTF-8 with `(*UTF8)` or `(*UTF)` at its start; otherwise it
    /// matches bytes.
    ///
    /// # Errors
    /// PCRE2's description of what is wrong with the pattern, or that it is too large.
    pub fn compile(source: &str) -> Result<Regex, String> {
        if source.len() > MAX_PATTERN {
            return Err("regular expression is too large".to_owned());
        }
        let mut pattern = pattern::translated(source);
        let mut weights = pattern::weights(source);
        let mut compiled = pcre2::compile(&pattern, weights.ignores_case, true);
        for _ in 0..MAX_HYPHENS {
            let Compiled::Hyphen(at, _) = compiled else { break };
            pattern.insert(at, '\\');
            compiled = pcre2::compile(&pattern, weights.ignores_case, true);
        }
        let (code, is_counted) = match compiled {
            Compiled::Code(code) => (code, true),
            Compiled::TooLarge(_) => match pcre2::compile(&pattern::counting_starts(&pattern), false, false) {
                Compiled::Code(code) => (code, false),
                Compiled::TooLarge(error) | Compiled::Hyphen(_, error) | Compiled::Refused(error) => return Err(error),
            },
            Compiled::Hyphen(_, error) | Compiled::Refused(error) => return Err(error),
        };
        if pattern::has_recursion(source) && pcre2::recurses_forever(&pattern) {
            return Err("recursive call could loop indefinitely".to_owned());
        }
        weights.has_references = code.has_references();
        weights.is_counted = is_counted;
        Ok(Regex { source: source.to_owned(), code: Arc::new(code), weights })
    }

    /// The pattern as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the pattern matches anywhere in `text`. Takes what this costs from `steps`; a match that needs more
    /// than that counts as none.
    pub fn is_match(&self, text: &str, steps: &mut u64) -> bool {
        let costs = self.weights.costs(self.source.len(), text.len());
        *steps = steps.saturating_sub(costs.text);
        *steps > 0 && self.code.is_match(text.as_bytes(), &costs, steps)
    }
}
