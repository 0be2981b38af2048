//! A metric of `_stats` and `_prometheus`.

/// A metric with its value.
pub(super) struct Counter {
    pub path: Vec<String>,
    pub kind: &'static str,
    pub value: i64,
    pub about: &'static str,
}

impl Counter {
    /// A metric with this name.
    pub fn new(path: &[&str], kind: &'static str, value: i64, about: &'static str) -> Counter {
        Counter { path: path.iter().map(|part| (*part).to_owned()).collect(), kind, value, about }
    }
}
