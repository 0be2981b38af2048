//! Documents of the users' database: which members they must have, who may write and read them, and password
//! hashing.
//!
//! Implements the rules of CouchDB's `couch_users_db.erl` (hashing, reading) and of the validation function
//! in its `_design/_auth`. That design document exists here too, for clients that look for it, but these
//! rules do not depend on it: deleting it grants no rights.
//!
//! ```text
//! write:  may_write ──> (delete: validate_delete | else: validate ──> hash_password) ──> stored
//! read:   visible ──> whole document | its public fields | not found | forbidden
//! ```

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::password::{CANNOT_HASH, Policy, Stored};
use super::security_object::Security;
use super::{UserCtx, requirements};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// Prefix of the ids of user documents.
pub const ID_PREFIX: &str = "org.couchdb.user:";

/// The id of the document of the user `name`.
pub fn id_of(name: &str) -> String {
    format!("{ID_PREFIX}{name}")
}

/// The user name in the id of a user document. `None` if `id` is not such an id.
pub fn name_of(id: &str) -> Option<&str> {
    id.strip_prefix(ID_PREFIX)
}

/// The user who writes, and the `_security` of the users' database.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pub user: &'a UserCtx,
    pub security: &'a Security,
}

impl Writer<'_> {
    fn is_admin(&self) -> bool {
        self.security.is_admin(self.user)
    }
}

fn forbidden<T>(reason: &str) -> Result<T> {
    Err(Error::Forbidden(reason.into()))
}

/// Whether the user may write the document `id` at all. Admins may write all documents, users their own, and
/// anonymous clients may create one (sign-up). For other users the document is `Missing`. Only admins may
/// write local documents (checkpoints).
pub fn may_write(id: &str, writer: Writer<'_>) -> Result<()> {
    if writer.is_admin() {
        return Ok(());
    }
    if id.starts_with("_design/") || id.starts_with("_local/") {
        return writer.security.check_admin(writer.user);
    }
    match &writer.user.name {
        None => Ok(()),
        Some(name) if name_of(id) == Some(name) => Ok(()),
        Some(_) => Err(Error::Missing),
    }
}

/// The stored state of an account, as far as a write by a non-admin depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountState {
    /// The account never existed.
    Absent,
    /// The account has one living leaf. `extended`: that leaf is the parent of the edit.
    Living { extended: bool },
    /// The account is deleted.
    Removed,
    /// The account has several living leaves.
    Conflicted,
}

/// Whether a non-admin may write an account in the state `state`. Users may write their own living
/// account, as a child of its only living leaf. With `sign_up`, anyone may create an account whose name was
/// never used. The name of a removed account stays reserved: the `_security` of a database may still list it,
/// and would then grant the removed user's rights to a new owner of the name. Admins can recreate such an
/// account, or release its name by a purge.
///
/// # Errors
/// `Conflict` if another revision (or, for sign-up, another name) would be accepted; `Unauthorized` if an
/// anonymous client creates an account without `sign_up`; else `Forbidden`.
pub fn may_extend(state: AccountState, user: &UserCtx, sign_up: bool, replicated: bool) -> Result<()> {
    match (state, user.name.is_some()) {
        (AccountState::Absent, _) if sign_up => Ok(()),
        (AccountState::Absent, true) => forbidden("Only admins may create accounts: sign-up is disabled."),
        (AccountState::Absent, false) => Err(Error::Unauthorized("You are not authorized to access this db.".into())),
        // The name is reserved, whatever the state of its account.
        (_, false) => Err(Error::Conflict),
        (AccountState::Living { extended: true }, true) => Ok(()),
        (AccountState::Removed, true) => forbidden("Only admins may recreate a removed account."),
        (AccountState::Living { extended: false } | AccountState::Conflicted, true) if replicated => {
            forbidden("Only admins may write revisions that do not extend the account's only leaf.")
        }
        (AccountState::Living { extended: false } | AccountState::Conflicted, true) => Err(Error::Conflict),
    }
}

/// Refuses the deletion of another user's document. `old`: the stored members, if the document exists.
pub fn validate_delete(old: Option<&Map<String, Value>>, writer: Writer<'_>) -> Result<()> {
    let own = old.and_then(|old| old.get("name")).and_then(Value::as_str);
    if writer.user.is_server_admin() || (own.is_some() && own == writer.user.name.as_deref()) {
        return Ok(());
    }
    forbidden("Only admins may delete other user docs.")
}

/// Refuses a document that is not a valid user document, or that grants its writer rights that only admins
/// may grant. The order of the checks and the reasons are those of CouchDB's `_design/_auth`. `new` and `old`
/// are the members of the bodies, `id` is the document's id. Design and local documents are not validated
/// here.
pub fn validate(
    id: &str,
    new: &Map<String, Value>,
    old: Option<&Map<String, Value>>,
    writer: Writer<'_>,
) -> Result<()> {
    // Server admins may omit the type, as in a CouchDB whose users' database has no `_design/_auth` yet.
    let untyped = writer.user.is_server_admin() && !new.contains_key("type");
    if !untyped && new.get("type").and_then(Value::as_str) != Some("user") {
        return forbidden("doc.type must be user");
    }
    if !truthy(new.get("name")) {
        return forbidden("doc.name is required");
    }
    let roles = match new.get("roles") {
        Some(Value::Array(roles)) => roles,
        roles if !truthy(roles) => return forbidden("doc.roles must exist"),
        _ => return forbidden("doc.roles must be an array"),
    };
    let Some(roles) = roles.iter().map(Value::as_str).collect::<Option<BTreeSet<&str>>>() else {
        return forbidden("doc.roles can only contain strings");
    };
    // A name that is not a string cannot match the id. (In JavaScript, a number would match its digits.)
    let name = new.get("name").and_then(Value::as_str).filter(|name| name_of(id) == Some(name));
    let Some(name) = name else { return forbidden("Doc ID must be of the form org.couchdb.user:name") };
    if let Some(old) = old
        && old.get("name").and_then(Value::as_str) != Some(name)
    {
        return forbidden("Usernames can not be changed.");
    }
    validate_hash(new)?;
    if !writer.is_admin() {
        validate_by_user(name, &roles, old, writer.user)?;
    }
    if roles.iter().any(|role| role.starts_with('_') && *role != "_metrics") {
        return forbidden("No system roles (starting with underscore) in users db.");
    }
    if name.starts_with('_') {
        return forbidden("Username may not start with underscore.");
    }
    if name.contains(':') {
        return forbidden("Character `:` is not allowed in usernames.");
    }
    Ok(())
}

/// Refuses members that do not form a usable hash.
fn validate_hash(new: &Map<String, Value>) -> Result<()> {
    if truthy(new.get("password_sha")) && !truthy(new.get("salt")) {
        return forbidden("Users with password_sha must have a salt.See /_utils/script/couch.js for example code.");
    }
    match new.get("password_scheme") {
        scheme if !truthy(scheme) => Ok(()),
        Some(Value::String(scheme)) => match scheme.as_str() {
            "simple" | "simple+pbkdf2" => Ok(()),
            "pbkdf2" if !new.get("iterations").is_some_and(Value::is_number) => {
                forbidden("iterations must be a number.")
            }
            "pbkdf2" if !new.get("derived_key").is_some_and(Value::is_string) => {
                forbidden("derived_key must be a string.")
            }
            "pbkdf2" => Ok(()),
            _ => Err(Error::Forbidden(format!("Password scheme `{scheme}` not supported."))),
        },
        Some(other) => Err(Error::Forbidden(format!("Password scheme `{other}` not supported."))),
        None => Ok(()),
    }
}

/// The rules for users who write their own document. Roles are compared as sets: order and repetition do not
/// matter.
fn validate_by_user(
    name: &str,
    roles: &BTreeSet<&str>,
    old: Option<&Map<String, Value>>,
    user: &UserCtx,
) -> Result<()> {
    let Some(old) = old else {
        return if roles.is_empty() { Ok(()) } else { forbidden("Only _admin may set roles") };
    };
    if user.name.as_deref() != Some(name) {
        return forbidden("You may only update your own user document.");
    }
    let held = old.get("roles").and_then(Value::as_array);
    let held: BTreeSet<&str> = held.into_iter().flatten().filter_map(Value::as_str).collect();
    if held == *roles { Ok(()) } else { forbidden("Only _admin may edit roles") }
}

/// Whether JavaScript considers the value true.
fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Bool(true) | Value::Array(_) | Value::Object(_)) => true,
    }
}

/// Prefix of the reason that refuses a password that is not a string. Like CouchDB's, the reason continues
/// with the password: it is sent to the client and must not be logged.
pub const INVALID_PASSWORD: &str = "Password value of '";

/// The members that describe a stored password, and `password`, which holds it in plain text.
const PASSWORD_MEMBERS: [&str; 8] =
    ["derived_key", "iterations", "password", "password_scheme", "password_sha", "preserve_salt", "pbkdf2_prf", "salt"];

/// Replaces a plain-text `password` by its hash, with the members in CouchDB's order. Returns `Ok(None)` if
/// there is no password. Blocks for the time of a hash.
///
/// The salt is always new. CouchDB's member `preserve_salt` is internal to its hash upgrades; honoring it
/// would let sessions survive a change of the password.
///
/// # Errors
/// `Forbidden` if the password is not a string or the settings do not allow hashing; `BadRequest` if the
/// password does not match the setting `password_regexp`.
pub fn hash_password(
    body: &Map<String, Value>,
    policy: &Policy,
    requirements: &requirements::Requirements,
    clock: &Clock,
) -> Result<Option<Map<String, Value>>> {
    let password = match body.get("password") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(password)) => password,
        Some(other) => return Err(Error::Forbidden(format!("{INVALID_PASSWORD}{other}' is invalid."))),
    };
    if policy.scheme.is_none() {
        return forbidden(CANNOT_HASH);
    }
    requirements.check(password)?;
    let stored = Stored::hash(password, None, policy, clock)?;
    Ok(Some(with_hash(body, &stored)))
}

/// Returns the body with its password members replaced by `stored`.
pub fn with_hash(body: &Map<String, Value>, stored: &Stored) -> Map<String, Value> {
    let hashed = stored.to_document().into_iter().map(|(name, value)| (name.to_string(), value));
    let rest = body.iter().filter(|(name, _)| !PASSWORD_MEMBERS.contains(&name.as_str()));
    hashed.chain(rest.map(|(name, value)| (name.clone(), value.clone()))).collect()
}

/// Which part of a document of the users' database a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visible {
    /// The whole document.
    Whole,
    /// Only the members that [`public_part`] returns.
    Public,
}

/// Which part of the document `id` the reader may see. `Forbidden` for design documents, with CouchDB's
/// reason.
pub fn visible(id: &str, reader: &UserCtx, security: &Security) -> Result<Visible> {
    if security.is_admin(reader) {
        return Ok(Visible::Whole);
    }
    if id.starts_with("_design/") {
        return forbidden("Only administrators can view design docs in the users database.");
    }
    let own = reader.name.as_deref().is_some_and(|name| name_of(id) == Some(name));
    Ok(if own { Visible::Whole } else { Visible::Public })
}

/// The members of a document that everyone may read, by the setting `public_fields`. `Missing` if there are
/// none: then the document does not exist for the reader.
pub fn public_part(body: &Map<String, Value>, public_fields: &[String]) -> Result<Map<String, Value>> {
    let public: Map<String, Value> = body
        .iter()
        .filter(|(name, _)| public_fields.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if public.is_empty() { Err(Error::Missing) } else { Ok(public) }
}

/// The id of the design document that CouchDB creates in the users' database.
pub const DESIGN_ID: &str = "_design/_auth";

/// The validation function of [`DESIGN_ID`], for clients and peers that look for it, and for replicas of the
/// users' database on servers that run it. This server itself uses [`validate`].
pub const DESIGN_VALIDATION: &str = r#"function (doc, old, user, security) {
  function refuse(reason) { throw({forbidden: reason}); }
  var lists = (security && security.admins) || {};
  var serverAdmin = user.roles.indexOf('_admin') >= 0;
  var admin = serverAdmin || (lists.names || []).indexOf(user.name) >= 0 ||
    user.roles.some(function (role) { return (lists.roles || []).indexOf(role) >= 0; });
  if (doc._deleted === true) {
    if (serverAdmin || (old && old.name && user.name === old.name)) { return; }
    refuse('Only admins may delete other user docs.');
  }
  if (doc.type !== 'user' && !(serverAdmin && doc.type === undefined)) { refuse('doc.type must be user'); }
  if (!doc.name) { refuse('doc.name is required'); }
  if (!doc.roles) { refuse('doc.roles must exist'); }
  if (!isArray(doc.roles)) { refuse('doc.roles must be an array'); }
  doc.roles.forEach(function (role) {
    if (typeof role !== 'string') { refuse('doc.roles can only contain strings'); }
  });
  if (doc._id !== 'org.couchdb.user:' + doc.name) { refuse('Doc ID must be of the form org.couchdb.user:name'); }
  if (old && old.name !== doc.name) { refuse('Usernames can not be changed.'); }
  if (doc.password_sha && !doc.salt) { refuse('Users with password_sha must have a salt.'); }
  if (doc.password_scheme && ['simple', 'pbkdf2', 'simple+pbkdf2'].indexOf(doc.password_scheme) < 0) {
    refuse('Password scheme `' + doc.password_scheme + '` not supported.');
  }
  if (doc.password_scheme === 'pbkdf2') {
    if (typeof doc.iterations !== 'number') { refuse('iterations must be a number.'); }
    if (typeof doc.derived_key !== 'string') { refuse('derived_key must be a string.'); }
  }
  if (!admin) {
    if (old) {
      if (user.name !== doc.name) { refuse('You may only update your own user document.'); }
      if (JSON.stringify((old.roles || []).slice().sort()) !== JSON.stringify(doc.roles.slice().sort())) {
        refuse('Only _admin may edit roles');
      }
    } else if (doc.roles.length > 0) {
      refuse('Only _admin may set roles');
    }
  }
  doc.roles.forEach(function (role) {
    if (role[0] === '_' && role !== '_metrics') { refuse('No system roles (starting with underscore) in users db.'); }
  });
  if (doc.name[0] === '_') { refuse('Username may not start with underscore.'); }
  if (doc.name.indexOf(':') >= 0) { refuse('Character `:` is not allowed in usernames.'); }
}"#;

/// The body of [`DESIGN_ID`].
pub fn design_document() -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("language".into(), "javascript".into());
    body.insert("validate_doc_update".into(), DESIGN_VALIDATION.into());
    body
}

#[cfg(test)]
mod tests;
