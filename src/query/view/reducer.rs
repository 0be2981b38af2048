//! The reduce functions that a view may name, parsed from their source.

use crate::error::{Error, Result};

/// Maximum number of values in `_top_N` and `_bottom_N`.
const MOST_RANKED: usize = 100;

/// A reduce function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reducer {
    Sum,
    Count,
    Stats,
    Distinct,
    Top(usize),
    Bottom(usize),
    First,
    Last,
    /// A JavaScript function, by its index in `MapFunction::scripts`.
    Script(usize),
}

impl Reducer {
    /// Parses the source of a reduce function. Appends JavaScript to `scripts`.
    pub fn read(source: &str, scripts: &mut Vec<String>) -> Result<Reducer> {
        if !source.starts_with('_') {
            scripts.push(source.to_owned());
            return Ok(Reducer::Script(scripts.len() - 1));
        }
        let ranked = |rest: &str| rest.parse().ok().filter(|count| (1..=MOST_RANKED).contains(count));
        let unknown = || Error::Script {
            word: "invalid_design_doc".into(),
            reason: format!("`{source}` is not a supported reduce function."),
        };
        if let Some(rest) = source.strip_prefix("_top_") {
            return ranked(rest).map(Reducer::Top).ok_or_else(unknown);
        }
        if let Some(rest) = source.strip_prefix("_bottom_") {
            return ranked(rest).map(Reducer::Bottom).ok_or_else(unknown);
        }
        [
            ("_sum", Reducer::Sum),
            ("_count", Reducer::Count),
            ("_stats", Reducer::Stats),
            ("_approx_count_distinct", Reducer::Distinct),
            ("_first", Reducer::First),
            ("_last", Reducer::Last),
        ]
        .into_iter()
        .find_map(|(name, reducer)| source.starts_with(name).then_some(reducer))
        .ok_or_else(unknown)
    }
}
