//! `GET /{db}/_partition/{partition}`, and the checks of partition names.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use crate::blocking::blocking;
use crate::db::Database;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};

/// `GET /{db}/_partition/{partition}`.
pub async fn partition(database: Arc<Database>, partition: String) -> Result<Answer> {
    check_partition(&database, &partition)?;
    let held = {
        let (database, partition) = (database.clone(), partition.clone());
        blocking(move || database.partition(&partition)).await?
    };
    Ok(Answer::ok(&json!({
        "db_name": database.name(),
        "doc_count": held.documents,
        "doc_del_count": held.deleted,
        "partition": partition,
        "sizes": {"active": held.bytes, "external": held.bytes},
    })))
}

/// Refuses what is no partition, and any on a database without them.
pub fn check_partition(database: &Database, partition: &str) -> Result<()> {
    if !database.is_partitioned() {
        return Err(Failure::bad_request("database is not partitioned"));
    }
    check_partition_name(partition)
}

/// Refuses a text that is not the name of a partition (`couch_partition:validate_partition`).
pub fn check_partition_name(partition: &str) -> Result<()> {
    let reason = match partition {
        "" => "Partition must not be empty",
        _ if partition.starts_with('_') => "Partition must not start with an underscore",
        _ if partition.contains(':') => "Partition must not contain a colon",
        _ => return Ok(()),
    };
    Err(Failure::Refused { status: StatusCode::BAD_REQUEST, word: "illegal_partition", reason: reason.into() })
}
