//! The values of a database's entries: what `docs/storage-format.md` tells, as code.
//!
//! Every value starts with a version byte. Decoding never panics: bytes that cannot be right are [`Error::Damaged`].

use super::bytes::{Reader, Writer};
use crate::error::{Error, Result};
use crate::rev::{Body, Revision, RevisionHash, Tree};
use crate::store::blobs::BlobId;

const VERSION: u8 = 1;

/// What a database's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRecord {
    pub number: u64,
    /// Tells one life of a name from the next; part of every sequence on the wire.
    pub instance: [u8; 16],
    /// Milliseconds since the epoch.
    pub created: u64,
    pub partitioned: bool,
    /// The `q` and `n` asked for at creation; settee keeps one shard, and gives them back.
    pub q: u32,
    pub n: u32,
}

impl NameRecord {
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

/// A database's counters and limits, rewritten by every commit that changes the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The last sequence given to a change.
    pub sequence: u64,
    /// Documents whose winner is not deleted.
    pub documents: u64,
    /// Documents whose winner is deleted.
    pub deleted: u64,
    /// Bytes of the leaves' bodies and attachments, as a client counts them.
    pub external: u64,
    /// Bytes of document and sequence records.
    pub records: u64,
    /// Bytes of bodies that are no leaf's any more; compaction frees them.
    pub old: u64,
    pub purge_sequence: u64,
    /// Purge requests up to this sequence have been forgotten.
    pub forgotten_purges: u64,
    pub revs_limit: u32,
    pub purged_infos_limit: u32,
    /// Changes up to this sequence have no old bodies left.
    pub compacted: u64,
}

impl Default for Info {
    fn default() -> Info {
        Info {
            sequence: 0,
            documents: 0,
            deleted: 0,
            external: 0,
            records: 0,
            old: 0,
            purge_sequence: 0,
            forgotten_purges: 0,
            revs_limit: 1000,
            purged_infos_limit: 1000,
            compacted: 0,
        }
    }
}

impl Info {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        for number in [
            self.sequence,
            self.documents,
            self.deleted,
            self.external,
            self.records,
            self.old,
            self.purge_sequence,
            self.forgotten_purges,
            u64::from(self.revs_limit),
            u64::from(self.purged_infos_limit),
            self.compacted,
        ] {
            out.number(number);
        }
        out.0
    }

    pub fn decode(value: &[u8]) -> Result<Info> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            Some(Info {
                sequence: fields.number()?,
                documents: fields.number()?,
                deleted: fields.number()?,
                external: fields.number()?,
                records: fields.number()?,
                old: fields.number()?,
                purge_sequence: fields.number()?,
                forgotten_purges: fields.number()?,
                revs_limit: fields.number()? as u32,
                purged_infos_limit: fields.number()? as u32,
                compacted: fields.number()?,
            })
        };
        read().ok_or_else(|| Error::Damaged("a database's counters".into()))
    }
}

/// A leaf as a changes row shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRow {
    pub revision: Revision,
    pub deleted: bool,
    pub body: Option<Body>,
}

/// One row of the by-sequence order: all that a changes feed needs without reading the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceRow {
    pub id: String,
    /// The winner first, then the others in winner order; never empty.
    pub leaves: Vec<LeafRow>,
}

impl SequenceRow {
    pub fn winner(&self) -> &LeafRow {
        &self.leaves[0]
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.text(&self.id);
        out.number(self.leaves.len() as u64);
        for leaf in &self.leaves {
            encode_leaf(&mut out, leaf);
        }
        out.0
    }

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

/// A document: its winner up front, so that `_all_docs` need not decode the tree, then the tree.
#[derive(Debug, Clone)]
pub struct DocumentRecord {
    /// The sequence of its last change.
    pub sequence: u64,
    pub tree: Tree,
}

impl DocumentRecord {
    pub fn encode(&self) -> Vec<u8> {
        let winner = self.tree.winner().expect("a stored document has a revision");
        let mut out = Writer::version(VERSION);
        out.number(self.sequence);
        let leaf = LeafRow { revision: winner.revision.clone(), deleted: winner.deleted, body: winner.body };
        encode_leaf(&mut out, &leaf);
        self.tree.encode(&mut out.0);
        out.0
    }

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

    /// Sequence and winner only.
    pub fn decode_winner(id: &str, value: &[u8]) -> Result<(u64, LeafRow)> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            Some((fields.number()?, decode_leaf(&mut fields)?))
        };
        read().ok_or_else(|| Error::Damaged(format!("the record of document {id}")))
    }

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

/// An attachment of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub name: String,
    pub content_type: String,
    /// The generation in which it came.
    pub revpos: u64,
    /// MD5 of the stored bytes (the compressed ones if `gzip`): the digest on the wire.
    pub md5: [u8; 16],
    /// Bytes as the client sent them.
    pub length: u64,
    /// Bytes stored.
    pub stored: u64,
    /// Whether the stored bytes are gzip of the content.
    pub gzip: bool,
    pub blob: BlobId,
}

impl Attachment {
    /// `md5-<base64>`.
    pub fn digest(&self) -> String {
        use base64::Engine;
        format!("md5-{}", base64::engine::general_purpose::STANDARD.encode(self.md5))
    }
}

/// The body of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BodyRecord {
    pub attachments: Vec<Attachment>,
    /// Compact JSON text of an object without `_` members.
    pub json: String,
}

impl BodyRecord {
    /// Calls the attachments otherwise. Returns whether that changes anything.
    pub fn rename(&mut self, name: &dyn Fn(&BlobId) -> BlobId) -> bool {
        let mut changed = false;
        for attachment in &mut self.attachments {
            let named = name(&attachment.blob);
            changed |= named != attachment.blob;
            attachment.blob = named;
        }
        changed
    }

    /// What a client counts: the text and the attachments' content.
    pub fn bytes(&self) -> u64 {
        self.json.len() as u64 + self.attachments.iter().map(|attachment| attachment.stored).sum::<u64>()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.number(self.attachments.len() as u64);
        for attachment in &self.attachments {
            out.text(&attachment.name);
            out.text(&attachment.content_type);
            out.number(attachment.revpos);
            out.bytes(&attachment.md5);
            out.number(attachment.length);
            out.number(attachment.stored);
            out.byte(u8::from(attachment.gzip));
            out.bytes(&attachment.blob);
        }
        out.0.extend_from_slice(self.json.as_bytes());
        out.0
    }

    /// The text stays where it is.
    pub fn decode(id: &str, mut value: Vec<u8>) -> Result<BodyRecord> {
        let read = || {
            let mut fields = Reader::version(&value, VERSION)?;
            let count = fields.number()? as usize;
            let mut attachments = Vec::with_capacity(count.min(fields.0.len() / 50));
            for _ in 0..count {
                attachments.push(Attachment {
                    name: fields.text()?.to_owned(),
                    content_type: fields.text()?.to_owned(),
                    revpos: fields.number()?,
                    md5: fields.array()?,
                    length: fields.number()?,
                    stored: fields.number()?,
                    gzip: fields.byte()? != 0,
                    blob: fields.array()?,
                });
            }
            Some((attachments, value.len() - fields.0.len()))
        };
        let damaged = || Error::Damaged(format!("a body of document {id}"));
        let (attachments, begin) = read().ok_or_else(damaged)?;
        value.drain(..begin);
        Ok(BodyRecord { attachments, json: String::from_utf8(value).map_err(|_| damaged())? })
    }
}

/// A `_local` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRecord {
    /// The number in its revision `0-N`.
    pub revision: u64,
    pub json: String,
}

impl LocalRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.number(self.revision);
        out.0.extend_from_slice(self.json.as_bytes());
        out.0
    }

    pub fn decode(id: &str, value: &[u8]) -> Result<LocalRecord> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            let revision = fields.number()?;
            Some(LocalRecord { revision, json: std::str::from_utf8(fields.0).ok()?.to_owned() })
        };
        read().ok_or_else(|| Error::Damaged(format!("document _local/{id}")))
    }
}

/// One purge request: what was removed of which document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeRecord {
    pub uuid: String,
    pub id: String,
    pub revisions: Vec<Revision>,
}

impl PurgeRecord {
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
