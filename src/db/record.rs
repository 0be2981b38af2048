//! Encoding and decoding of a database's stored values. `docs/storage-format.md` specifies the format.
//!
//! Every value starts with a version byte. Decoding never panics: malformed bytes are [`Error::Damaged`].

mod body;
mod info;

use super::codec::{Reader, Writer};
use crate::error::{Error, Result};
use crate::rev::{Body, Revision, RevisionHash, Tree};

pub use self::body::{Attachment, BodyRecord};
pub use self::info::Info;

const VERSION: u8 = 1;

/// The `_security` object of a database that has none of its own.
pub const NO_SECURITY: &str = r#"{"members":{"roles":["_admin"]},"admins":{"roles":["_admin"]}}"#;

/// The record of a database's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRecord {
    /// The internal number, which is part of all keys of the database and is never reused.
    pub number: u64,
    /// Random; distinguishes databases that had the same name one after the other. Part of every sequence on
    /// the wire.
    pub instance: [u8; 16],
    /// Creation time in milliseconds since the epoch.
    pub created: u64,
    /// Whether document ids must have the form `partition:id`.
    pub partitioned: bool,
    /// The `q` and `n` of the creating request. settee always has one shard, and only returns these values.
    pub q: u32,
    /// See `q`.
    pub n: u32,
}

impl NameRecord {
    /// Encodes the record for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.number(self.number);
        out.bytes(&self.instance);
        out.number(self.created);
        out.byte(u8::from(self.partitioned));
        out.number(u64::from(self.q));
        out.number(u64::from(self.n));
        out.0
    }

    /// Decodes a stored value; malformed bytes are [`Error::Damaged`].
    pub fn decode(value: &[u8]) -> Result<NameRecord> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            Some(NameRecord {
                number: fields.number()?,
                instance: fields.array()?,
                created: fields.number()?,
                partitioned: fields.byte()? != 0,
                q: fields.number()? as u32,
                n: fields.number()? as u32,
            })
        };
        read().ok_or_else(|| Error::Damaged("the record of a database's name".into()))
    }
}

/// One leaf of a revision tree in a sequence row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRow {
    /// The revision of the leaf.
    pub revision: Revision,
    /// Whether the leaf is a tombstone.
    pub deleted: bool,
    /// Where the body is stored; `None` if it is not stored.
    pub body: Option<Body>,
}

/// One row of the by-sequence index: everything that a changes feed needs, so that it need not read the
/// document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceRow {
    /// The document id.
    pub id: String,
    /// All leaves, the winner first, then in the order in which they would win; never empty.
    pub leaves: Vec<LeafRow>,
}

impl SequenceRow {
    /// The winning leaf.
    pub fn winner(&self) -> &LeafRow {
        &self.leaves[0]
    }

    /// Encodes the row for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.text(&self.id);
        out.number(self.leaves.len() as u64);
        for leaf in &self.leaves {
            encode_leaf(&mut out, leaf);
        }
        out.0
    }

    /// Decodes a stored value; malformed bytes are [`Error::Damaged`].
    pub fn decode(value: &[u8]) -> Result<SequenceRow> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            let id = fields.text()?.to_owned();
            let count = fields.number()? as usize;
            let mut leaves = Vec::with_capacity(count.min(fields.0.len() / 4));
            for _ in 0..count {
                leaves.push(decode_leaf(&mut fields)?);
            }
            (!leaves.is_empty()).then_some(SequenceRow { id, leaves })
        };
        read().ok_or_else(|| Error::Damaged("a row of the changes order".into()))
    }
}

fn encode_leaf(out: &mut Writer, leaf: &LeafRow) {
    out.byte(u8::from(leaf.deleted) | u8::from(leaf.body.is_some()) << 1);
    out.number(leaf.revision.generation);
    match &leaf.revision.hash {
        RevisionHash::Md5(hash) => {
            out.byte(0);
            out.0.extend_from_slice(hash);
        }
        RevisionHash::Text(text) => {
            out.byte(1);
            out.text(text);
        }
    }
    if let Some(body) = leaf.body {
        out.number(body.sequence);
        out.number(u64::from(body.index));
        out.number(body.bytes);
    }
}

fn decode_leaf(fields: &mut Reader) -> Option<LeafRow> {
    let flags = fields.byte()?;
    let generation = fields.number()?;
    let hash = match fields.byte()? {
        0 => {
            let (hash, rest) = fields.0.split_at_checked(16)?;
            fields.0 = rest;
            RevisionHash::Md5(hash.try_into().ok()?)
        }
        _ => RevisionHash::Text(fields.text()?.into()),
    };
    let body = if flags & 2 != 0 {
        Some(Body { sequence: fields.number()?, index: fields.number()? as u32, bytes: fields.number()? })
    } else {
        None
    };
    Some(LeafRow { revision: Revision { generation, hash }, deleted: flags & 1 != 0, body })
}

/// A document's record. The encoding starts with the winner, so that `_all_docs` need not decode the tree.
#[derive(Debug, Clone)]
pub struct DocumentRecord {
    /// The sequence of the document's last change.
    pub sequence: u64,
    /// The revision tree; never empty.
    pub tree: Tree,
}

impl DocumentRecord {
    /// Encodes the record for the store.
    pub fn encode(&self) -> Vec<u8> {
        let winner = self.tree.winner().expect("a stored document has a revision");
        let mut out = Writer::version(VERSION);
        out.number(self.sequence);
        let leaf = LeafRow { revision: winner.revision.clone(), deleted: winner.deleted, body: winner.body };
        encode_leaf(&mut out, &leaf);
        self.tree.encode(&mut out.0);
        out.0
    }

    /// Decodes a stored value; malformed bytes are [`Error::Damaged`].
    pub fn decode(id: &str, value: &[u8]) -> Result<DocumentRecord> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            let sequence = fields.number()?;
            decode_leaf(&mut fields)?;
            let tree = Tree::decode(fields.0)?;
            (!tree.is_empty()).then_some(DocumentRecord { sequence, tree })
        };
        read().ok_or_else(|| Error::Damaged(format!("the record of document {id}")))
    }

    /// Decodes only the sequence and the winner, and not the tree.
    pub fn decode_winner(id: &str, value: &[u8]) -> Result<(u64, LeafRow)> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            Some((fields.number()?, decode_leaf(&mut fields)?))
        };
        read().ok_or_else(|| Error::Damaged(format!("the record of document {id}")))
    }

    /// The sequence row of this document.
    pub fn sequence_row(&self, id: &str) -> SequenceRow {
        let leaves = self
            .tree
            .leaves()
            .into_iter()
            .map(|node| LeafRow { revision: node.revision.clone(), deleted: node.deleted, body: node.body })
            .collect();
        SequenceRow { id: id.to_owned(), leaves }
    }
}

/// A `_local` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRecord {
    /// The `N` of its revision `0-N`.
    pub revision: u64,
    /// Compact JSON text of an object without underscore members.
    pub json: String,
}

impl LocalRecord {
    /// Encodes the record for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.number(self.revision);
        out.0.extend_from_slice(self.json.as_bytes());
        out.0
    }

    /// Decodes a stored value; malformed bytes are [`Error::Damaged`].
    pub fn decode(id: &str, value: &[u8]) -> Result<LocalRecord> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            let revision = fields.number()?;
            Some(LocalRecord { revision, json: std::str::from_utf8(fields.0).ok()?.to_owned() })
        };
        read().ok_or_else(|| Error::Damaged(format!("document _local/{id}")))
    }
}

/// One purge request: the document id, and the revisions that the request removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeRecord {
    /// Identifies the purge request.
    pub uuid: String,
    /// The document id.
    pub id: String,
    /// The removed leaves.
    pub revisions: Vec<Revision>,
}

impl PurgeRecord {
    /// Encodes the record for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.text(&self.uuid);
        out.text(&self.id);
        out.number(self.revisions.len() as u64);
        for revision in &self.revisions {
            out.text(&revision.to_string());
        }
        out.0
    }

    /// Decodes a stored value; malformed bytes are [`Error::Damaged`].
    pub fn decode(value: &[u8]) -> Result<PurgeRecord> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            let uuid = fields.text()?.to_owned();
            let id = fields.text()?.to_owned();
            let count = fields.number()?;
            let mut revisions = Vec::new();
            for _ in 0..count {
                revisions.push(fields.text()?.parse().ok()?);
            }
            Some(PurgeRecord { uuid, id, revisions })
        };
        read().ok_or_else(|| Error::Damaged("a purge request".into()))
    }
}
