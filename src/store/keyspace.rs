//! Builds every key of the keyspace. `docs/storage-format.md` documents them.
//!
//! A key starts with a tag byte. In a database's keys follow the database's internal number (8 bytes,
//! big-endian, never reused), a kind byte, and the entry's identification in the sort order of its kind.

use std::ops::Bound;

use super::range::KeyRange;

/// The format record: the format version, and the wrapped keys of an encrypted folder.
pub const FORMAT: &[u8] = &[0x00];
/// The last internal number assigned to a database.
pub const LAST_NUMBER: &[u8] = &[0x01];

const NAME: u8 = 0x02;
const CONFIG: u8 = 0x03;
const DB_UPDATE: u8 = 0x04;
const BLOB_REFERENCE: u8 = 0x05;
/// Numbers of deleted databases whose entries have yet to be removed.
const DOOMED: u8 = 0x06;
/// Server-wide state of individual modules (secrets, schedulers): `[SERVER, name...]`.
const SERVER: u8 = 0x07;
/// The records that the nodes of a shared store write about themselves.
const NODE: u8 = 0x08;
/// Keys and certificates of TLS that the nodes of a shared store have in common. In no backup.
const TLS: u8 = 0x09;
const DATABASE: u8 = 0x10;
/// View indexes have their own tag, so that all of them can be dropped and rebuilt.
const INDEX: u8 = 0x20;

/// The kinds of a database's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A single record: sequence, counts, sizes, limits.
    Info = b'i',
    /// `_security`.
    Security = b's',
    /// `_auto_purge`: the setting, its progress, and notes of (time, sequence).
    AutoPurge = b'a',
    /// Document id → revision tree and winner.
    Document = b'd',
    /// Sequence → document id and leaves.
    Sequence = b'q',
    /// (sequence, index) → attachments and body of one revision.
    Body = b'b',
    /// `_local` document id → document.
    Local = b'l',
    /// Partition → its counters, in partitioned databases.
    Partition = b'n',
    /// (kind of conflict, sequence) → empty: the conflicted documents.
    Conflict = b'c',
    /// How far the index of conflicted documents reaches, and its counts.
    ConflictIndex = b'k',
    /// Purge sequence → purge request.
    Purge = b'p',
    /// Purge uuid → purge sequence.
    PurgeUuid = b'u',
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

/// Key of a database name. Its value holds the number and instance.
pub fn name(name: &str) -> Vec<u8> {
    tagged(NAME, name.as_bytes())
}

/// Range of all database names, optionally from `start` to `end`, both inclusive.
pub fn names(start: Option<&str>, end: Option<&str>) -> KeyRange {
    let low = Bound::Included(name(start.unwrap_or("")));
    let high = match end {
        Some(end) => Bound::Included(name(end)),
        None => Bound::Excluded(vec![NAME + 1]),
    };
    (low, high)
}

/// The database name in a [`name`] key.
pub fn name_of(key: &[u8]) -> &str {
    std::str::from_utf8(&key[1..]).unwrap_or("")
}

/// Key of a persisted setting. A zero byte separates section and key, so neither may contain one.
pub fn config(section: &str, key: &str) -> Vec<u8> {
    tagged(CONFIG, &[section.as_bytes(), b"\0", key.as_bytes()].concat())
}

/// Range of all persisted settings.
pub fn configs() -> KeyRange {
    (Bound::Included(vec![CONFIG]), Bound::Excluded(vec![CONFIG + 1]))
}

/// Section and key in a [`config`] key.
pub fn config_of(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(&key[1..]).ok()?.split_once('\0')
}

/// Key of an entry of `_db_updates`, which has its own sequence.
pub fn db_update(sequence: u64) -> Vec<u8> {
    tagged(DB_UPDATE, &sequence.to_be_bytes())
}

/// Whether the key is a [`db_update`] key.
pub fn is_db_update(key: &[u8]) -> bool {
    key.first() == Some(&DB_UPDATE)
}

/// Range of the entries of `_db_updates` after `sequence`.
pub fn db_updates_after(sequence: u64) -> KeyRange {
    (Bound::Excluded(db_update(sequence)), Bound::Excluded(vec![DB_UPDATE + 1]))
}

/// Key of the number of a deleted database whose entries have yet to be removed.
pub fn doomed(number: u64) -> Vec<u8> {
    tagged(DOOMED, &number.to_be_bytes())
}

/// Range of all [`doomed`] keys.
pub fn all_doomed() -> KeyRange {
    (Bound::Included(vec![DOOMED]), Bound::Excluded(vec![DOOMED + 1]))
}

/// Key of the state of one server module.
pub fn server(name: &str) -> Vec<u8> {
    tagged(SERVER, name.as_bytes())
}

/// Range of the state of all server modules.
pub fn servers() -> KeyRange {
    (Bound::Included(vec![SERVER]), Bound::Excluded(vec![SERVER + 1]))
}

/// Key of the record that a node of a shared store writes about itself.
pub fn node(id: &str) -> Vec<u8> {
    tagged(NODE, id.as_bytes())
}

/// The id in a [`node`] key.
pub fn node_of(key: &[u8]) -> &str {
    std::str::from_utf8(&key[1..]).unwrap_or("")
}

/// Range of all [`node`] keys.
pub fn nodes() -> KeyRange {
    (Bound::Included(vec![NODE]), Bound::Excluded(vec![NODE + 1]))
}

/// Key of a record of TLS that the nodes of a shared store have in common.
pub fn tls(name: &str) -> Vec<u8> {
    tagged(TLS, name.as_bytes())
}

/// Key of the reference from a body to a blob. Written and removed together with the body.
pub fn blob_reference(blob: &[u8; 32], number: u64, sequence: u64, index: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 32 + 20);
    key.push(BLOB_REFERENCE);
    key.extend_from_slice(blob);
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(&sequence.to_be_bytes());
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// Whether the key is a [`blob_reference`] key.
pub fn is_blob_reference(key: &[u8]) -> bool {
    key.first() == Some(&BLOB_REFERENCE) && key.len() == 1 + 32 + 20
}

/// The same reference to a renamed blob. `None` for other keys.
pub fn renamed_reference(key: &[u8], name: &dyn Fn(&[u8; 32]) -> [u8; 32]) -> Option<Vec<u8>> {
    let (tag, rest) = key.split_first().filter(|(tag, _)| **tag == BLOB_REFERENCE)?;
    let (blob, body) = rest.split_first_chunk()?;
    Some([&[*tag], &name(blob)[..], body].concat())
}

/// Range of all references to one blob.
pub fn blob_references(blob: &[u8; 32]) -> KeyRange {
    prefix(&tagged(BLOB_REFERENCE, blob))
}

/// Range of all references to all blobs, for the sweep.
pub fn all_blob_references() -> KeyRange {
    (Bound::Included(vec![BLOB_REFERENCE]), Bound::Excluded(vec![BLOB_REFERENCE + 1]))
}

/// The prefix of all keys of one kind in one database.
pub fn kind_prefix(number: u64, kind: Kind) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.push(DATABASE);
    key.extend_from_slice(&number.to_be_bytes());
    key.push(kind as u8);
    key
}

fn in_kind(number: u64, kind: Kind, rest: &[u8]) -> Vec<u8> {
    let mut key = kind_prefix(number, kind);
    key.extend_from_slice(rest);
    key
}

/// The part of a database's key after the kind byte.
pub fn rest_of(key: &[u8]) -> &[u8] {
    &key[10..]
}

/// Key of a database's info record.
pub fn info(number: u64) -> Vec<u8> {
    in_kind(number, Kind::Info, &[])
}

/// Key of a database's `_security`.
pub fn security(number: u64) -> Vec<u8> {
    in_kind(number, Kind::Security, &[])
}

/// Key of the counters of one partition.
pub fn partition(number: u64, partition: &str) -> Vec<u8> {
    in_kind(number, Kind::Partition, partition.as_bytes())
}

/// Key of a database's `_auto_purge` state.
pub fn auto_purge(number: u64) -> Vec<u8> {
    in_kind(number, Kind::AutoPurge, &[])
}

/// Key of a document's revision tree.
pub fn document(number: u64, id: &str) -> Vec<u8> {
    in_kind(number, Kind::Document, id.as_bytes())
}

/// Key of a `_local` document.
pub fn local(number: u64, id: &str) -> Vec<u8> {
    in_kind(number, Kind::Local, id.as_bytes())
}

/// Key of a row in the changes order.
pub fn sequence(number: u64, sequence: u64) -> Vec<u8> {
    in_kind(number, Kind::Sequence, &sequence.to_be_bytes())
}

/// The sequence in a [`sequence`] key.
pub fn sequence_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(rest_of(key)[..8].try_into().expect("a sequence key has 8 bytes after its kind"))
}

/// Key of the entry of a conflicted document: the kind of its conflict, and the sequence of its last change.
pub fn conflict(number: u64, kind: u8, sequence: u64) -> Vec<u8> {
    let mut key = in_kind(number, Kind::Conflict, &[kind]);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// Range of the entries of all documents with one kind of conflict.
pub fn conflicts(number: u64, kind: u8) -> KeyRange {
    prefix(&in_kind(number, Kind::Conflict, &[kind]))
}

/// The sequence in a [`conflict`] key. `None` for other keys.
pub fn sequence_of_conflict(key: &[u8]) -> Option<u64> {
    key.get(11..)?.try_into().ok().map(u64::from_be_bytes)
}

/// Key of the record of the index of conflicts.
pub fn conflict_index(number: u64) -> Vec<u8> {
    in_kind(number, Kind::ConflictIndex, &[])
}

/// Key of the body of the revision number `index` among those written at `sequence`.
pub fn body(number: u64, sequence: u64, index: u32) -> Vec<u8> {
    let mut key = in_kind(number, Kind::Body, &sequence.to_be_bytes());
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// Whether the key is a [`body`] key.
pub fn is_body(key: &[u8]) -> bool {
    is_of(key, Kind::Body)
}

/// Whether the key is a [`document`] or a [`body`] key.
pub fn is_document_or_body(key: &[u8]) -> bool {
    is_of(key, Kind::Document) || is_of(key, Kind::Body)
}

fn is_of(key: &[u8], kind: Kind) -> bool {
    key.first() == Some(&DATABASE) && key.get(9) == Some(&(kind as u8))
}

/// Database number and sequence in a [`body`] key. `None` for other keys.
pub fn place_of_body(key: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| key.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    is_body(key).then(|| Some((number(1)?, number(10)?)))?
}

/// Database number and sequence in a [`sequence`] key. `None` for other keys.
pub fn place_of_sequence(key: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| key.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let is = key.len() == 18 && key[0] == DATABASE && key[9] == Kind::Sequence as u8;
    is.then(|| Some((number(1)?, number(10)?)))?
}

/// The database number in an [`info`] key. `None` for other keys.
pub fn number_of_info(key: &[u8]) -> Option<u64> {
    let is = key.len() == 10 && key[0] == DATABASE && key[9] == Kind::Info as u8;
    is.then(|| key[1..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes)))?
}

/// Number and name of a database, from the entry of a [`name`] key. Decodes only the first field of the value
/// (`NameRecord` of `db`).
pub fn named<'a>(key: &'a [u8], value: &[u8]) -> Option<(u64, &'a str)> {
    let name = key.strip_prefix(&[NAME]).and_then(|name| std::str::from_utf8(name).ok())?;
    let (mut number, mut shift) = (0, 0);
    for byte in value.strip_prefix(&[1])?.iter().take(9) {
        number |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some((number, name));
        }
    }
    None
}

/// Whether the key belongs to an index, which can be rebuilt.
pub fn is_index(key: &[u8]) -> bool {
    key.first() == Some(&INDEX)
}

/// Whether the key belongs to the index of conflicted documents, which is rebuilt if it is missing.
pub fn is_of_conflicts(key: &[u8]) -> bool {
    is_of(key, Kind::Conflict) || is_of(key, Kind::ConflictIndex)
}

/// Key of a purge request.
pub fn purge(number: u64, purge_sequence: u64) -> Vec<u8> {
    in_kind(number, Kind::Purge, &purge_sequence.to_be_bytes())
}

/// Key of the purge sequence that belongs to a purge request's uuid.
pub fn purge_uuid(number: u64, uuid: &str) -> Vec<u8> {
    in_kind(number, Kind::PurgeUuid, uuid.as_bytes())
}

/// Range of all entries of one kind in one database.
pub fn kind(number: u64, kind: Kind) -> KeyRange {
    prefix(&kind_prefix(number, kind))
}

/// Range of all entries of one database except its view indexes.
pub fn database(number: u64) -> KeyRange {
    prefix(&tagged(DATABASE, &number.to_be_bytes()))
}

/// The prefix of all keys of one view index: database number, then the index's 16-byte signature.
pub fn index_prefix(number: u64, signature: &[u8; 16]) -> Vec<u8> {
    let mut key = tagged(INDEX, &number.to_be_bytes());
    key.extend_from_slice(signature);
    key
}

/// Range of all indexes of all databases.
pub fn all_indexes() -> KeyRange {
    prefix(&[INDEX])
}

/// Database number and signature of the index that a key belongs to. `None` for other keys.
pub fn index_of(key: &[u8]) -> Option<(u64, [u8; 16])> {
    let rest = key.strip_prefix(&[INDEX])?;
    let (number, rest) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), *rest.first_chunk()?))
}

/// Range of all view indexes of one database.
pub fn indexes(number: u64) -> KeyRange {
    prefix(&tagged(INDEX, &number.to_be_bytes()))
}

/// Range of all keys that begin with `prefix`.
pub fn prefix(prefix: &[u8]) -> KeyRange {
    (Bound::Included(prefix.to_vec()), after_prefix(prefix))
}

/// The bound just above every key that begins with `prefix`.
pub fn after_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xFF {
            *last += 1;
            return Bound::Excluded(end);
        }
        end.pop();
    }
    Bound::Unbounded
}

/// Describes a key in messages for people: `document "a" of database number 3`.
pub fn describe(key: &[u8]) -> String {
    let (Some(tag), rest) = (key.first().copied(), key.get(1..).unwrap_or(&[])) else { return "the empty key".into() };
    let text = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    match tag {
        0x00 => "the format record".into(),
        0x01 => "the last database number".into(),
        NAME => format!("the name of database {}", text(rest)),
        CONFIG => format!("the setting {}", text(rest)),
        DB_UPDATE => format!("_db_updates entry {}", number(rest)),
        BLOB_REFERENCE => format!("a reference to attachment {}", crate::hex::hex(&rest[..rest.len().min(32)])),
        DOOMED => format!("the deletion of database number {}", number(rest)),
        SERVER => format!("the server state {}", text(rest)),
        NODE => format!("the node {}", text(rest)),
        TLS => format!("the record {} of TLS", text(rest)),
        INDEX => format!("a view index of database number {}", number(rest)),
        DATABASE if rest.len() > 8 => {
            let (database, name) = (number(rest), &rest[9..]);
            let entry = match rest[8] {
                b'i' => "the info record".into(),
                b's' => "the security object".into(),
                b'd' => format!("document {}", text(name)),
                b'q' => format!("sequence {}", number(name)),
                b'b' => format!("the body of a revision written at sequence {}", number(name)),
                b'l' => format!("local document {}", text(name)),
                b'c' => "a conflicted document".into(),
                b'k' => "the record of the conflicts".into(),
                b'p' => format!("purge {}", number(name)),
                b'u' => format!("purge request {}", text(name)),
                _ => format!("key {}", crate::hex::hex(key)),
            };
            format!("{entry} of database number {database}")
        }
        _ => format!("key {}", crate::hex::hex(&key[..key.len().min(64)])),
    }
}
