//! A call of a function for a list of items, and the outcome of each item.

use super::environments::Key;
use super::wire::Cause;
use crate::error::{Error, Result};

/// Maximum size in bytes of the answers to one chunk of items, unless the call sets a lower one.
const ANSWERS: usize = 256 << 20;
/// A small document: distinguishes a function that fails on every document from a single document that is too
/// large for it.
pub(super) const SMALL: &str = r#"{"_id":"small","_rev":"1-00000000000000000000000000000000"}"#;

/// Callback of a running list function: takes a part of the response and returns the next row. Returns `None`
/// after the last row, and an error if the client is gone.
pub(super) type Exchange = Box<dyn FnMut(String) -> std::result::Result<Option<String>, ()> + Send>;

/// A call.
pub(super) struct Call<'a> {
    pub key: &'a Key,
    /// Entry and JSON that initialize a new environment.
    pub fill: Option<(&'static str, &'a str)>,
    /// The entry in the sandbox's table that is called for each item.
    pub entry: &'static str,
    /// Text that is passed to each call.
    pub text: &'a str,
    /// JSON that is passed to each call, or empty.
    pub shared: &'a str,
    /// JSON of each item.
    pub items: &'a [String],
    /// Whether items are passed as frozen values.
    pub frozen: bool,
    /// An item that every sane function can process: tells whether the function or an item caused a failure.
    pub probe: Option<&'static str>,
    /// After this many items that exceeded their time, the rest are not tried.
    pub most_overruns: usize,
    /// Maximum size in bytes of the answers to one chunk of items.
    pub most_bytes: usize,
    pub exchange: Option<Exchange>,
}

impl<'a> Call<'a> {
    /// A call with all other fields at their defaults.
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

/// The outcome of an item.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(String),
    /// The function threw.
    Threw(Error),
    /// The function ended its environment, which CouchDB permits.
    Fatal(Error),
    /// The item exceeded its time or memory limit.
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

/// Why a chunk ended early.
pub(super) enum Stop {
    Failed(Cause, Error),
    Died,
}
