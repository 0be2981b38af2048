//! Validation of database names and document ids.

use crate::error::{Error, Result};
use crate::store::MAX_KEY;

/// Maximum length of a document id in bytes. CouchDB has no limit by default; in settee the id is part of a
/// key, whose length the store limits.
pub const LONGEST_ID: usize = MAX_KEY - 64;

/// Maximum length of a database name in bytes, as in CouchDB.
const LONGEST_DATABASE_NAME: usize = 238;

const NO_PARTITION: &str = "Doc id must be of form partition:id";

const DATABASE_NAME_REASON: &str = "Only lowercase characters (a-z), digits (0-9), and any of the characters _, $, (, ), +, -, and / are allowed. Must begin with a letter.";

/// Checks a database name against CouchDB's rule (`couch_db:validate_dbname`): `[a-z][a-z0-9_$()+/-]*`, or
/// one of the system databases.
pub fn check_database_name(name: &str) -> Result<()> {
    let illegal = || {
        let shown: String = name.chars().take(256).collect();
        Err(Error::IllegalDatabaseName(format!("Name: '{shown}'. {DATABASE_NAME_REASON}")))
    };
    if matches!(name, "_users" | "_replicator" | "_global_changes") {
        return Ok(());
    }
    if name.len() > LONGEST_DATABASE_NAME {
        return Err(Error::DatabaseNameTooLong(name.chars().take(256).collect()));
    }
    let mut bytes = name.bytes();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_$()+/-".contains(&byte);
    match bytes.next() {
        Some(first) if first.is_ascii_lowercase() && bytes.all(allowed) => {
            // This includes names such as `db/_users`, which CouchDB accepts too.
            Ok(())
        }
        _ => illegal(),
    }
}

/// Checks an attachment's name (CouchDB: `chttpd_db:validate_attachment_name`).
pub fn check_attachment_name(name: &str) -> Result<()> {
    if name.starts_with('_') {
        return Err(Error::BadRequest(format!("Attachment name '{name}' starts with prohibited character '_'")));
    }
    if name.is_empty() {
        return Err(Error::BadRequest("Attachment name is empty".into()));
    }
    if name.len() > 4096 {
        return Err(Error::BadRequest("Attachment name is too long".into()));
    }
    Ok(())
}

/// Checks a document id (CouchDB: `couch_doc:validate_docid`). The caller must not pass `_local/` ids.
pub fn check_document_id(id: &str, partitioned: bool) -> Result<()> {
    if id.is_empty() {
        return Err(Error::IllegalDocId("Document id must not be empty".into()));
    }
    if id.len() > LONGEST_ID {
        return Err(Error::IllegalDocId("Document id is too long".into()));
    }
    if let Some(rest) = id.strip_prefix('_') {
        return match rest.strip_prefix("design/") {
            Some("") => Err(Error::IllegalDocId("Illegal document id `_design/`".into())),
            Some(_) => Ok(()),
            None => Err(Error::IllegalDocId("Only reserved document ids may start with underscore.".into())),
        };
    }
    if partitioned {
        let reason = match id.split_once(':') {
            None => NO_PARTITION,
            Some(("", _)) => "Partition must not be empty",
            Some((_, "")) => "Document id must not be empty",
            Some(_) => return Ok(()),
        };
        return Err(Error::IllegalDocId(reason.into()));
    }
    Ok(())
}

/// Checks that the id of a document to read has a partition, if the database is partitioned: otherwise CouchDB
/// finds no shard to read (`couch_partition:hash`). Ids that start with an underscore need no partition.
pub fn check_has_partition(id: &str, partitioned: bool) -> Result<()> {
    if partitioned && !id.starts_with('_') && !id.contains(':') {
        return Err(Error::IllegalDocId(NO_PARTITION.into()));
    }
    Ok(())
}

/// Returns the partition of a document id in a partitioned database: the text before its first `:`.
pub fn partition_of(id: &str) -> Option<&str> {
    let (partition, rest) = id.split_once(':')?;
    (!partition.is_empty() && !rest.is_empty()).then_some(partition)
}
