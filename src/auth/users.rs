//! Documents of the users' database: what they must hold, who may write and read them, and what happens to passwords.
//!
//! Three rules of CouchDB in one place: `couch_users_db.erl` (hashing, reading) and the validation function of its
//! `_design/_auth`. That document exists here too, for clients that look at it, but these rules do not depend on it:
//! deleting it opens nothing.
//!
//! ```text
//! write:  may_write ──> (delete: validate_delete | else: validate ──> hash_password) ──> stored
//! read:   visible ──> whole document | its public fields | not found | forbidden
//! ```

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::access::Security;
use super::password::{CANNOT_HASH, Policy, Stored};
use super::{UserCtx, requirements};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// What the id of a user's document begins with.
pub const ID_PREFIX: &str = "org.couchdb.user:";

/// The id of a user's document.
pub fn id_of(name: &str) -> String {
    format!("{ID_PREFIX}{name}")
}

/// The name in the id of a user's document.
pub fn name_of(id: &str) -> Option<&str> {
    id.strip_prefix(ID_PREFIX)
}

/// Who writes: the user and the users' database's security.
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

/// Whether somebody may touch this document at all: admins all, users their own, nobody new ones (sign-up). For
/// others it is not there. Local documents (checkpoints) are for admins.
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

/// What is stored of an account, as far as it matters to somebody who is no admin and wants to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: nobody ever had this name.
    Absent,
    /// One leaf is living. `extended`: it is the parent of the edit.
    Living { extended: bool },
    /// The account is deleted.
    Removed,
    /// There are several living leaves.
    Conflicted,
}

/// Whether somebody who is no admin may write an account that stands so: users their own living account, as a child of its one
/// living leaf; where sign-up is open, anybody a name that nobody had before. The name of a removed account stays taken: databases
/// may still name it in their `_security`, and nobody can tell a new owner from the one whom an admin removed. Admins make
/// such an account again, or free its name by a purge.
///
/// # Errors
/// `Conflict` for what another revision, or for sign-up another name, would mend; else `Forbidden`.
pub fn may_extend(standing: Standing, user: &UserCtx, sign_up: bool, replicated: bool) -> Result<()> {
    match (standing, user.name.is_some()) {
        (Standing::Absent, _) if sign_up => Ok(()),
        (Standing::Absent, true) => forbidden("Only admins may make accounts: sign-up is not open."),
        (Standing::Absent, false) => Err(Error::Unauthorized("You are not authorized to access this db.".into())),
        // A name is taken, whatever became of its account.
        (_, false) => Err(Error::Conflict),
        (Standing::Living { extended: true }, true) => Ok(()),
        (Standing::Removed, true) => forbidden("Only admins may make a removed account again."),
        (Standing::Living { extended: false } | Standing::Conflicted, true) if replicated => {
            forbidden("Only admins may bring revisions that are no child of the account's one leaf.")
        }
        (Standing::Living { extended: false } | Standing::Conflicted, true) => Err(Error::Conflict),
    }
}

/// Refuses deleting somebody else's document. `old`: the stored members, if there is such a document.
pub fn validate_delete(old: Option<&Map<String, Value>>, writer: Writer<'_>) -> Result<()> {
    let own = old.and_then(|old| old.get("name")).and_then(Value::as_str);
    if writer.user.is_server_admin() || (own.is_some() && own == writer.user.name.as_deref()) {
        return Ok(());
    }
    forbidden("Only admins may delete other user docs.")
}

/// Refuses a document that is no user's, or that gives its writer what only admins give. The order of the tests and
/// the reasons are those of CouchDB's `_design/_auth`. `new` and `old` hold the members of the body; `id` is the
/// document's. A design or local document is not validated here.
pub fn validate(
    id: &str,
    new: &Map<String, Value>,
    old: Option<&Map<String, Value>>,
    writer: Writer<'_>,
) -> Result<()> {
    // Server admins may leave the type out, as they may in a users' database that has no `_design/_auth` yet.
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
    // A name that is no text cannot fit the id, except that JavaScript would write a number as its digits.
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

/// The members that hold a hash must hold one that can be used.
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

/// What users may not do to their own document. Roles are compared as sets: order and repetition give nothing.
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

/// JavaScript's idea of a value that counts as given.
fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Bool(true) | Value::Array(_) | Value::Object(_)) => true,
    }
}

/// What the refusal of a password that is no text begins with. It goes on with the password, as CouchDB's does: for the eyes
/// of who sent it, and for no log.
pub const INVALID_PASSWORD: &str = "Password value of '";

/// The members that say how a password is stored, and the one that says it in the clear.
const PASSWORD_MEMBERS: [&str; 8] =
    ["derived_key", "iterations", "password", "password_scheme", "password_sha", "preserve_salt", "pbkdf2_prf", "salt"];

/// Replaces a `password` in the clear by its hash, in CouchDB's order of members. Without one the body stays as it is
/// (`Ok(None)`). Blocks for as long as a hash takes. Errors: `Forbidden` for a password that is no text or settings that
/// do not let the server hash, `BadRequest` for one that does not meet the `password_regexp` setting.
///
/// The salt is always a new one: CouchDB's `preserve_salt` is a message from its own upgrade of hashes, and would let
/// sessions outlive the password that they were begun with.
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

/// The body with this hash in place of what it had.
pub fn with_hash(body: &Map<String, Value>, stored: &Stored) -> Map<String, Value> {
    let hashed = stored.to_document().into_iter().map(|(name, value)| (name.to_string(), value));
    let rest = body.iter().filter(|(name, _)| !PASSWORD_MEMBERS.contains(&name.as_str()));
    hashed.chain(rest.map(|(name, value)| (name.clone(), value.clone()))).collect()
}

/// What a reader gets of a document of the users' database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visible {
    /// All of it.
    Whole,
    /// The members that [`public_part`] leaves.
    Public,
}

/// What a reader gets of the document `id`. `Forbidden` for design documents, in CouchDB's words.
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

/// The members of a document that the setting `public_fields` lets everybody see. `Missing` if that is none of them:
/// then the document is not there for the reader.
pub fn public_part(body: &Map<String, Value>, public_fields: &[String]) -> Result<Map<String, Value>> {
    let public: Map<String, Value> = body
        .iter()
        .filter(|(name, _)| public_fields.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if public.is_empty() { Err(Error::Missing) } else { Ok(public) }
}

/// The id of the design document that CouchDB keeps in the users' database.
pub const DESIGN_ID: &str = "_design/_auth";

/// The validation function of [`DESIGN_ID`], for clients and peers that look for it and for replicas of the users'
/// database on a server that runs it. Here [`validate`] decides.
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
#[path = "users/tests.rs"]
mod tests;
