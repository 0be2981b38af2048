//! The position at which a response ended, from which the client can continue. Opaque to clients; it contains
//! the last document's id and key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::query::mango::error::mango;

/// Longest accepted bookmark. A bookmark contains a key, so this must exceed the longest key that an index stores.
const MAX_LENGTH: usize = 1 << 20;

/// The last document of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Bookmark {
    /// The document's key in the index; empty for `_all_docs`.
    pub key: Vec<Value>,
    /// The document's id.
    pub id: String,
}

impl Bookmark {
    /// The text sent to the client.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!([self.key, self.id]).to_string())
    }

    /// Parses a client's bookmark. `columns` is the number of fields of the index to be read; a bookmark of
    /// an index with another number of fields is rejected.
    pub fn decode(text: &str, columns: usize) -> Result<Bookmark> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
            let (key, id) = serde_json::from_slice(&bytes).ok()?;
            Some(Bookmark { key, id })
        };
        let bookmark: Option<Bookmark> = if text.len() > MAX_LENGTH { None } else { read() };
        bookmark.filter(|bookmark| bookmark.key.len() == columns).ok_or_else(|| refused(text))
    }
}

fn refused(text: &str) -> Error {
    mango("invalid_bookmark", format!("Invalid bookmark value: {}", Value::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let bookmark = Bookmark { key: vec![json!({"a": [1, null]}), json!("é")], id: "one/two".into() };
        assert_eq!(Bookmark::decode(&bookmark.encode(), 2).unwrap(), bookmark);
        assert!(Bookmark::decode(&bookmark.encode(), 1).is_err());
        let couchdbs = "g2wAAAABaANkABFub2RlMUBjb3VjaGRiLm5ldGwAAAACYQBiP____2poAkY_8AAAAAAAAGEHag";
        for text in ["bad-bookmark", "", couchdbs] {
            assert_eq!(
                Bookmark::decode(text, 0),
                Err(Error::Mango { word: "invalid_bookmark", reason: format!("Invalid bookmark value: \"{text}\"") })
            );
        }
    }
}
