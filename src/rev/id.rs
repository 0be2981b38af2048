//! Revision ids: `N-hash`, as `couch_doc:parse_rev/1` parses and `couch_doc:rev_to_str/1` prints them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// The largest accepted generation: 2^53 - 1, the largest integer that every JSON reader represents exactly.
pub const MAX_GENERATION: u64 = (1 << 53) - 1;

/// The longest accepted text hash, in bytes. CouchDB has no limit; settee has one because it stores the hash
/// of every revision.
pub const MAX_HASH: usize = 1024;

/// One revision of a document. Generation and hash together identify it, never the hash alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Length of the path from the root to this revision, itself included. 0 only for `_local` documents,
    /// which have no tree.
    pub generation: u64,
    /// The part after the dash.
    pub hash: RevisionHash,
}

/// The part of a revision id after the dash. 32 hex digits are stored as 16 bytes, anything else as text.
/// Both are ordered by their bytes, like CouchDB's binaries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RevisionHash {
    /// 32 hex digits, decoded.
    Md5([u8; 16]),
    /// Any other text.
    Text(Box<str>),
}

/// The error for text that is not a revision id (CouchDB: 400 `bad_request`, `Invalid rev format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRevision;

impl fmt::Display for BadRevision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Invalid rev format")
    }
}

impl std::error::Error for BadRevision {}

impl RevisionHash {
    /// Parses 32 hex digits of either case as `Md5`, everything else as `Text`. The caller limits the length.
    pub fn parse(text: &str) -> RevisionHash {
        match decode_hex(text.as_bytes()) {
            Some(bytes) => RevisionHash::Md5(bytes),
            None => RevisionHash::Text(text.into()),
        }
    }

    /// The bytes that determine the order and that enter the digest of the next revision.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            RevisionHash::Md5(bytes) => bytes,
            RevisionHash::Text(text) => text.as_bytes(),
        }
    }

    /// Parses like `couch_doc:parse_revid/2`: generation 0 is always text; above it, a hash of 32 bytes must
    /// be hex digits.
    pub fn parse_in(generation: u64, text: &str) -> Result<RevisionHash, BadRevision> {
        if text.len() > MAX_HASH {
            return Err(BadRevision);
        }
        if generation == 0 {
            return Ok(RevisionHash::Text(text.into()));
        }
        match RevisionHash::parse(text) {
            RevisionHash::Text(text) if text.len() == 32 => Err(BadRevision),
            hash => Ok(hash),
        }
    }

    fn is_text(&self) -> bool {
        matches!(self, RevisionHash::Text(_))
    }
}

fn decode_hex(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    HEXLOWER_PERMISSIVE.decode_mut(text, &mut bytes).ok()?;
    Some(bytes)
}

impl Ord for RevisionHash {
    fn cmp(&self, other: &Self) -> Ordering {
        // CouchDB treats a 16-byte text and an Md5 of the same bytes as one revision; here the kind
        // distinguishes them.
        self.as_bytes().cmp(other.as_bytes()).then(self.is_text().cmp(&other.is_text()))
    }
}

impl PartialOrd for RevisionHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RevisionHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RevisionHash::Text(text) => out.write_str(text),
            RevisionHash::Md5(bytes) => {
                let mut text = [0; 32];
                out.write_str(HEXLOWER.encode_mut_str(bytes, &mut text))
            }
        }
    }
}

impl FromStr for Revision {
    type Err = BadRevision;

    fn from_str(text: &str) -> Result<Self, BadRevision> {
        let (generation, hash) = text.split_once('-').ok_or(BadRevision)?;
        // Erlang's list_to_integer accepts a sign and leading zeros. A minus sign cannot occur: the text is
        // split at the first dash.
        let digits = generation.strip_prefix('+').unwrap_or(generation);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadRevision);
        }
        let generation = digits.parse::<u64>().map_err(|_| BadRevision)?;
        if generation > MAX_GENERATION {
            return Err(BadRevision);
        }
        Ok(Revision { generation, hash: RevisionHash::parse_in(generation, hash)? })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.generation, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints_like_couchdb() {
        let md5 = "967a00dff5e02add41819138abb3284d";
        let rows = [
            ("md5", format!("1-{md5}"), Some(format!("1-{md5}"))),
            ("upper case", format!("1-{}", md5.to_uppercase()), Some(format!("1-{md5}"))),
            ("leading zeros, as in CouchDB's own tests", format!("001-{md5}"), Some(format!("1-{md5}"))),
            ("plus sign", "+3-x".into(), Some("3-x".into())),
            ("text", "4-230234".into(), Some("4-230234".into())),
            ("text with a dash", "4-a-b".into(), Some("4-a-b".into())),
            ("empty hash", "4-".into(), Some("4-".into())),
            (
                "generation 0 keeps 32 digits as text",
                format!("0-{}", md5.to_uppercase()),
                Some(format!("0-{}", md5.to_uppercase())),
            ),
            ("32 bytes that are not hex digits", format!("1-{}", "x".repeat(32)), None),
            ("no dash", "foobar".into(), None),
            ("no number", "foo-bar".into(), None),
            ("empty number", "-bar".into(), None),
            ("negative", "-1-x".into(), None),
            ("empty", "".into(), None),
            ("only a sign", "+-x".into(), None),
            ("beyond u64", "99999999999999999999999-x".into(), None),
            ("beyond 2^53", "9007199254740992-x".into(), None),
            ("largest", "9007199254740991-x".into(), Some("9007199254740991-x".into())),
            ("hash too long", format!("1-{}", "x".repeat(MAX_HASH + 1)), None),
        ];
        for (name, text, expected) in rows {
            assert_eq!(text.parse::<Revision>().ok().map(|rev| rev.to_string()), expected, "{name}");
        }
    }

    #[test]
    fn revisions_are_ordered_by_generation_then_hash_bytes() {
        let parse = |text: &str| text.parse::<Revision>().unwrap();
        let ascending = [
            "1-ff",
            "2-00000000000000000000000000000000",
            "2-61ff0000000000000000000000000000",
            "2-a",
            "2-b",
            "2-ffffffffffffffffffffffffffffffff",
            "10-a",
        ];
        // 'a' is byte 0x61, and a prefix sorts first: "a" < 61ff...
        let mut sorted: Vec<Revision> = ascending.iter().map(|text| parse(text)).collect();
        sorted.sort();
        let texts: Vec<String> = sorted.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "1-ff",
                "2-00000000000000000000000000000000",
                "2-a",
                "2-61ff0000000000000000000000000000",
                "2-b",
                "2-ffffffffffffffffffffffffffffffff",
                "10-a"
            ]
        );
        let text = RevisionHash::Text("aaaaaaaaaaaaaaaa".into());
        let md5 = RevisionHash::Md5(*b"aaaaaaaaaaaaaaaa");
        assert!(md5 < text);
        assert_ne!(md5, text);
    }
}
