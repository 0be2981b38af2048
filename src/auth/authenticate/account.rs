//! Accounts: what the settings and the users' database know of a user.

use serde_json::{Map, Value};

use crate::auth::ADMIN;
use crate::auth::password::Stored;
use crate::auth::settings::Settings;
use crate::auth::totp::Totp;
use crate::error::{Error, Result};

/// The members of a user's document that authentication reads.
pub const MEMBERS: [&str; 8] =
    ["derived_key", "iterations", "password_scheme", "password_sha", "pbkdf2_prf", "roles", "salt", "totp"];

/// CouchDB's reason for rejecting a user whose document has conflicts.
pub const CONFLICTED: &str =
    "User document conflicts must be resolved before the document is used for authentication purposes.";

/// The source of accounts. Its functions may block; they are not called on async threads.
pub trait Users: Send + Sync + 'static {
    /// Returns the value of the `[admins]` setting with this name.
    fn admin(&self, name: &str) -> Option<String>;

    /// Returns the document `org.couchdb.user:NAME` of the users' database, or `None` if it does not exist or
    /// is deleted.
    fn document(&self, name: &str) -> Result<Option<UserDocument>>;

    /// As [`Users::document`] if that is in memory; otherwise `None`. Does not block.
    fn document_in_memory(&self, name: &str) -> Option<Option<UserDocument>>;
}

/// A user's document.
#[derive(Clone)]
pub struct UserDocument {
    /// Its members. Those that are not in [`MEMBERS`] may be missing.
    pub members: Map<String, Value>,
    /// Whether it has conflicts.
    pub conflicted: bool,
}

/// The authentication data of a user.
pub(super) struct Account {
    pub(super) roles: Vec<String>,
    pub(super) stored: Option<Stored>,
    pub(super) totp: Option<Totp>,
    /// Whether the hash comes from a document, which an upgrade can write, and not from the settings.
    pub(super) from_document: bool,
    /// Whether the document has conflicts and the settings forbid its use.
    pub(super) conflicted: bool,
}

impl Account {
    pub(super) fn salt(&self) -> &str {
        self.stored.as_ref().map_or("", |stored| &stored.salt)
    }

    /// Rejects an account whose document has conflicts. Callers check this only after the password, cookie or
    /// token was verified, so that the error does not reveal which accounts exist.
    pub(super) fn check_usable(&self) -> Result<()> {
        if self.conflicted { Err(Error::Unauthorized(CONFLICTED.into())) } else { Ok(()) }
    }
}

/// Returns the account of a user: an admin of the settings, a document, or both (then the hash comes from the
/// settings, and the roles are `_admin` and those of the document). The settings take precedence, so that an
/// admin can sign in even if the document has conflicts or is damaged.
pub(super) fn find_account(users: &dyn Users, name: &str, settings: &Settings) -> Result<Option<Account>> {
    account_with(users, name, settings, || users.document(name))
}

/// As [`find_account`], with the document that `document` returns.
pub(super) fn account_with(
    users: &dyn Users,
    name: &str,
    settings: &Settings,
    document: impl FnOnce() -> Result<Option<UserDocument>>,
) -> Result<Option<Account>> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Some(stored) = users.admin(name).as_deref().and_then(Stored::from_admin_setting) {
        let document = document().unwrap_or_else(|error| {
            tracing::warn!(user = name, %error, "cannot read the user document of an admin of the settings");
            None
        });
        let document = document.filter(|document| !document.conflicted || settings.allow_conflicted_user_docs);
        let roles = [ADMIN.to_string()].into_iter();
        let roles = roles.chain(document.iter().flat_map(|document| roles_of(&document.members))).collect();
        let stored = Some(stored);
        return Ok(Some(Account { roles, stored, totp: None, from_document: false, conflicted: false }));
    }
    let Some(document) = document()? else { return Ok(None) };
    let stored = Stored::from_document(&document.members).unwrap_or_else(|error| {
        tracing::warn!(user = name, %error, "the stored hash of an account cannot be used");
        None
    });
    Ok(Some(Account {
        roles: roles_of(&document.members).collect(),
        stored,
        totp: Totp::from_document(&document.members),
        from_document: true,
        conflicted: document.conflicted && !settings.allow_conflicted_user_docs,
    }))
}

fn roles_of(members: &Map<String, Value>) -> impl Iterator<Item = String> {
    let roles = members.get("roles").and_then(Value::as_array);
    roles.into_iter().flatten().filter_map(|role| role.as_str().map(str::to_string))
}
