//! A map function of a view: the sort order of its rows, and their reducers.

use std::sync::Arc;

use super::reducer::Reducer;
use crate::json::{raw_sort_key, sort_key};

/// A map function and the reducers of its rows.
#[derive(Debug)]
pub(crate) struct MapFunction {
    /// Whether `options.collation` is `raw`.
    pub(crate) raw: bool,
    /// The reduce functions of all views with this map function.
    pub reducers: Vec<Reducer>,
    /// The sources of the JavaScript reducers, in order.
    pub scripts: Arc<Vec<String>>,
}

impl MapFunction {
    /// The bytes by which a key is sorted.
    pub fn sort_key(&self, key: &str) -> Vec<u8> {
        if self.raw { raw_sort_key(key) } else { sort_key(key) }
    }

    /// A map function whose rows are reduced by these reducers.
    pub fn of(reducers: Vec<Reducer>, scripts: Vec<String>) -> MapFunction {
        MapFunction { raw: false, reducers, scripts: Arc::new(scripts) }
    }
}
