//! Encoding and decoding of a database's stored values. `docs/storage-format.md` specifies the format.
//!
//! Every value starts with a version byte. Decoding never panics: malformed bytes are [`Error::Damaged`].

use super::codec::{Reader, Writer};
use super::conflicted::ConflictIndex;
use super::histories::Histories;
use crate::error::{Error, Result};
use crate::rev::{Body, Revision, RevisionHash, Tree};
use crate::store::blob::blobs::BlobId;

const VERSION: u8 = 1;
/// The version of an [`Info`] with the counters of a shared store.
const SHARED_INFO: u8 = 2;

/// What a database without a security object of its own answers.
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

/// A database's counters and limits. Every commit that changes the database rewrites this record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The sequence of the last change.
    pub sequence: u64,
    /// Number of documents whose winner is not deleted.
    pub documents: u64,
    /// Number of documents whose winner is deleted.
    pub deleted: u64,
    /// Total size of the leaves' bodies, as [`BodyRecord::bytes`] counts them.
    pub external: u64,
    /// Total size of the document and sequence records in bytes.
    pub records: u64,
    /// Total size of the bodies of revisions that are no longer leaves, in bytes. Compaction frees them.
    pub old: u64,
    /// The sequence of the last purge request.
    pub purge_sequence: u64,
    /// Purge requests up to this purge sequence are no longer stored.
    pub forgotten_purges: u64,
    /// Maximum length of each branch of a revision tree (`_revs_limit`).
    pub revs_limit: u32,
    /// Maximum number of stored purge requests (`_purged_infos_limit`).
    pub purged_infos_limit: u32,
    /// Compaction has freed the old bodies of all changes up to this sequence.
    pub compacted: u64,
    /// On a shared store: the number of commits to this database. Grows with every commit, `_local` documents
    /// and `_security` included, so that it orders the records that several nodes read and write. 0 on an
    /// embedded store.
    pub commits: u64,
    /// On a shared store: the value of `commits` at the last change of `_security`.
    pub security_at: u64,
    /// On a shared store: the value of `commits` at the last change of a design document.
    pub designs_at: u64,
    /// On a shared store: the second since 1970 until which writers wait, because a backup copies the last changes.
    pub held_until: u64,
    /// The index of conflicted documents. Part of this record on a shared store; on an embedded one it has its own.
    pub conflicts: ConflictIndex,
    /// On a shared store: its histories in which this database was written, the oldest first.
    pub histories: Histories,
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
            commits: 0,
            security_at: 0,
            designs_at: 0,
            held_until: 0,
            conflicts: ConflictIndex::default(),
            histories: Histories::default(),
        }
    }
}

impl Info {
    /// The record without the counters of a shared store, and without an index of conflicts.
    pub fn of_one_node(self) -> Info {
        Info {
            commits: 0,
            security_at: 0,
            designs_at: 0,
            held_until: 0,
            histories: Histories::default(),
            ..self.without_conflict_index()
        }
    }

    /// The record of a database whose index of conflicts is not there.
    pub fn without_conflict_index(self) -> Info {
        Info { conflicts: ConflictIndex::missing(self.sequence), ..self }
    }

    /// Encodes the record for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(if self.commits == 0 { VERSION } else { SHARED_INFO });
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
        if self.commits > 0 {
            for number in [self.commits, self.security_at, self.designs_at, self.held_until] {
                out.number(number);
            }
            self.conflicts.encode_into(&mut out);
            self.histories.encode(&mut out);
        }
        out.0
    }

    /// Decodes a stored value; malformed bytes are [`Error::Damaged`]. Of a value of version 1, no document counts as
    /// indexed in `conflicts`.
    pub fn decode(value: &[u8]) -> Result<Info> {
        let read = || {
            let shared = Reader::version(value, SHARED_INFO);
            let is_shared = shared.is_some();
            let mut fields = shared.or_else(|| Reader::version(value, VERSION))?;
            let mut info = Info {
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
                ..Info::default()
            };
            info.conflicts = ConflictIndex::missing(info.sequence);
            if is_shared {
                info.commits = fields.number()?;
                info.security_at = fields.number()?;
                info.designs_at = fields.number()?;
                info.held_until = fields.number()?;
                info.conflicts = ConflictIndex::decode_from(&mut fields)?;
                info.histories = Histories::decode(&mut fields)?;
            }
            Some(info)
        };
        read().ok_or_else(|| Error::Damaged("a database's counters".into()))
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

/// An attachment of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The attachment's name, unique within the revision.
    pub name: String,
    /// The `Content-Type` that the client sent.
    pub content_type: String,
    /// Generation of the revision that added the attachment.
    pub revpos: u64,
    /// MD5 of the stored bytes (compressed if `gzip`): the digest on the wire.
    pub md5: [u8; 16],
    /// Length of the uncompressed content in bytes.
    pub length: u64,
    /// Length of the stored bytes.
    pub stored: u64,
    /// Whether the stored bytes are gzip-compressed.
    pub gzip: bool,
    /// The blob with the stored bytes.
    pub blob: BlobId,
}

impl Attachment {
    /// The digest on the wire: `md5-<base64>`.
    pub fn digest(&self) -> String {
        use base64::Engine;
        format!("md5-{}", base64::engine::general_purpose::STANDARD.encode(self.md5))
    }
}

/// The body of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BodyRecord {
    /// The attachments of the revision.
    pub attachments: Vec<Attachment>,
    /// Compact JSON text of an object without underscore members.
    pub json: String,
}

impl BodyRecord {
    /// Replaces the blob id of each attachment by `name(id)`. Returns whether any id changed.
    pub fn rename(&mut self, name: &dyn Fn(&BlobId) -> BlobId) -> bool {
        let mut changed = false;
        for attachment in &mut self.attachments {
            let named = name(&attachment.blob);
            changed |= named != attachment.blob;
            attachment.blob = named;
        }
        changed
    }

    /// Size of the body for `sizes.external`: the JSON text plus the stored bytes of the attachments.
    pub fn bytes(&self) -> u64 {
        self.json.len() as u64 + self.attachments.iter().map(|attachment| attachment.stored).sum::<u64>()
    }

    /// Encodes the record for the store.
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

    /// Decodes a body. Reuses the allocation of `value` for the JSON text.
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
