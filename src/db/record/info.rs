//! The record of a database's counters and limits.

use crate::db::codec::{Reader, Writer};
use crate::db::conflicted::ConflictIndex;
use crate::db::histories::Histories;
use crate::error::{Error, Result};

const VERSION: u8 = 1;
/// The version of an [`Info`] with the counters of a shared store.
const SHARED_VERSION: u8 = 2;

/// A database's counters and limits. Every commit that changes the database rewrites this record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The sequence of the last change.
    pub sequence: u64,
    /// Number of documents whose winner is not deleted.
    pub documents: u64,
    /// Number of documents whose winner is deleted.
    pub deleted: u64,
    /// Total size of the leaves' bodies, as `BodyRecord::bytes` counts them.
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

    /// The record of a database whose index of conflicts is missing.
    pub fn without_conflict_index(self) -> Info {
        Info { conflicts: ConflictIndex::missing(self.sequence), ..self }
    }

    /// Encodes the record for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(if self.commits == 0 { VERSION } else { SHARED_VERSION });
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

    /// Decodes a stored value; malformed bytes are [`Error::Damaged`]. A value of version 1 has no `conflicts`: no
    /// document counts as indexed.
    pub fn decode(value: &[u8]) -> Result<Info> {
        let read = || {
            let shared = Reader::version(value, SHARED_VERSION);
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
