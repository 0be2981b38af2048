//! The `_security` of a database, parsed.

use serde_json::Value;

use crate::auth::Security;
use crate::db::Database;
use crate::error::{Error, Result};

/// Parses `security`, the text of the database's `_security`.
///
/// # Errors
/// The stored text is not JSON.
pub fn parsed(database: &Database, security: &str) -> Result<Security> {
    let object = serde_json::from_str(security);
    let object: Value = object.map_err(|_| Error::Damaged(format!("_security of {}", database.name())))?;
    Ok(Security::stored(&object))
}

/// Reads the current `_security` of a database.
///
/// # Errors
/// The stored text is not JSON.
pub fn security_of(database: &Database) -> Result<Security> {
    parsed(database, &database.security())
}
