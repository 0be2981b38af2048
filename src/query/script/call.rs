//! A call of a function for a list of items, and what becomes of each item.

use super::environments::Key;
use super::wire::Cause;
use crate::error::{Error, Result};

/// Bytes that the items sent at once may answer, unless the call says less.
const ANSWERS: usize = 256 << 20;
/// What a function is tried with that a document seems to be too much for.
pub(super) const SMALL: &str = r#"{"_id":"small","_rev":"1-00000000000000000000000000000000"}"#;

/// The way out of a running list function: it is handed a part of the response, and answers the next row. None after the
/// last row; an error when nobody listens any more.
pub(super) type Exchange = Box<dyn FnMut(String) -> std::result::Result<Option<String>, ()> + Send>;

/// What is to be run.
pub(super) struct Call<'a> {
    pub key: &'a Key,
    /// The entry and the JSON by which a new environment is filled.
    pub fill: Option<(&'static str, &'a str)>,
    pub entry: &'static str,
    pub text: &'a str,
    /// JSON that all items share, or nothing.
    pub shared: &'a str,
    /// JSON of each item.
    pub items: &'a [String],
    /// Items become frozen values.
    pub frozen: bool,
    /// An item that any function has time and memory for: tells whether the function or an item is to blame.
    pub probe: Option<&'static str>,
    /// After so many items that overran, the rest are not tried.
    pub most_overruns: usize,
    /// Bytes that the items sent at once may answer.
    pub most_bytes: usize,
    pub exchange: Option<Exchange>,
}

impl<'a> Call<'a> {
    /// A call without anything beside.
    pub fn new(key: &'a Key, entry: &'static str, items: &'a [String]) -> Call<'a> {
        Call {
            key,
            fill: None,
            entry,
            text: "",
            shared: "",
            items,
            frozen: false,
            probe: None,
            most_overruns: usize::MAX,
            most_bytes: ANSWERS,
            exchange: None,
        }
    }
}

/// What became of an item.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(String),
    /// The function threw.
    Threw(Error),
    /// The function ended its environment, as CouchDB lets it.
    Fatal(Error),
    /// The item used up time or memory.
    Overran(Error),
}

impl Outcome {
    pub fn result(self) -> Result<String> {
        match self {
            Outcome::Answer(text) => Ok(text),
            Outcome::Threw(error) | Outcome::Fatal(error) | Outcome::Overran(error) => Err(error),
        }
    }
}

/// How a chunk ended before its end.
pub(super) enum Stop {
    Failed(Cause, Error),
    Died,
}
