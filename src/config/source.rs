//! Where the value of a setting comes from.

use std::collections::BTreeMap;

use super::settings::Table;

/// Where a value comes from. Later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    File,
    Environment,
    Argument,
    /// Set over HTTP; kept in the store, or until the next start.
    Http,
}

impl Source {
    /// The source's name in answers.
    pub fn word(self) -> &'static str {
        match self {
            Source::File => "file",
            Source::Environment => "environment",
            Source::Argument => "argument",
            Source::Http => "http",
        }
    }
}

/// The source of each key that is set: (section, key) to source.
pub type Sources = BTreeMap<(String, String), Source>;

/// Notes `source` for every key of `after` that `before` has not, or has with another value.
pub fn note(sources: &mut Sources, before: &Table, after: &Table, source: Source) {
    for (section, keys) in after {
        for (key, value) in keys {
            if before.get(section).and_then(|keys| keys.get(key)) != Some(value) {
                sources.insert((section.clone(), key.clone()), source);
            }
        }
    }
}
