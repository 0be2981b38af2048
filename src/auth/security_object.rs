//! The `_security` object of a database: its admins, and the members that may read and write (`couch_db.erl`,
//! `check_is_admin/1`, `check_is_member/1`, `validate_security_object/1`).
//!
//! ```text
//! {"admins": {"names": [...], "roles": [...]}, "members": {"names": [...], "roles": [...]}, ...}
//! ```
//!
//! Server admins may do everything. Admins of a database are also members. A database without members is
//! public. Other fields of the object belong to the application; validation functions receive them unchanged.

use serde_json::{Map, Value, json};

use super::{ADMIN, UserCtx};
use crate::error::{Error, Result};

/// A set of users, by name and by role: a user needs one of the names or one of the roles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Names of users.
    pub names: Vec<String>,
    /// Roles of users.
    pub roles: Vec<String>,
}

impl Group {
    fn has(&self, user: &UserCtx) -> bool {
        let named = user.name.as_ref().is_some_and(|name| self.names.contains(name));
        named || user.roles.iter().any(|role| self.roles.contains(role))
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.roles.is_empty()
    }

    fn parse(group: Option<&Value>) -> Result<Group> {
        let refused = |reason: &str| Error::BadRequest(reason.to_string());
        let members = match group {
            None => return Ok(Group::default()),
            Some(Value::Object(members)) => members,
            Some(_) => return Err(refused("admins or members must be a JSON list of strings")),
        };
        let list = |name: &str| match members.get(name) {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| item.as_str().map(str::to_string)).collect(),
            Some(_) => None,
        };
        Ok(Group {
            names: list("names").ok_or_else(|| refused("names must be a JSON list of strings"))?,
            roles: list("roles").ok_or_else(|| refused("roles must be a JSON list of strings"))?,
        })
    }
}

/// The access rules in a `_security` object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// The admins of the database.
    pub admins: Group,
    /// The members of the database; empty if it is public.
    pub members: Group,
}

impl Security {
    /// Parses an object that a client wants to store. As in CouchDB 1.0, `readers` is used if `members` is
    /// absent.
    ///
    /// # Errors
    /// `BadRequest` with CouchDB's reasons. CouchDB answers 500, although the client is at fault.
    pub fn parse(object: &Value) -> Result<Security> {
        let Value::Object(members) = object else {
            return Err(Error::BadRequest("Security object must be a JSON object".into()));
        };
        Ok(Security {
            admins: Group::parse(members.get("admins"))?,
            members: Group::parse(members.get("members").or_else(|| members.get("readers")))?,
        })
    }

    /// Parses a stored object. One that does not parse, although it was checked when it was stored, gives
    /// access only to server admins.
    pub fn stored(object: &Value) -> Security {
        Security::parse(object).unwrap_or_else(|_| {
            let nobody = || Group { names: Vec::new(), roles: vec![ADMIN.to_string()] };
            Security { admins: nobody(), members: nobody() }
        })
    }

    /// Whether the user administers the database.
    pub fn is_admin(&self, user: &UserCtx) -> bool {
        user.is_server_admin() || self.admins.has(user)
    }

    /// Whether the user may read and write the database.
    pub fn is_member(&self, user: &UserCtx) -> bool {
        self.is_admin(user) || self.members.is_empty() || self.members.has(user)
    }

    /// Checks that the user administers the database.
    ///
    /// # Errors
    /// `Unauthorized` if the user is anonymous, otherwise `Forbidden`, with CouchDB's reason.
    pub fn check_admin(&self, user: &UserCtx) -> Result<()> {
        if self.is_admin(user) { Ok(()) } else { Err(refusal(user, "You are not a db or server admin.")) }
    }

    /// Checks that the user may read and write the database.
    ///
    /// # Errors
    /// As [`Security::check_admin`].
    pub fn check_member(&self, user: &UserCtx) -> Result<()> {
        match (self.is_member(user), &user.name) {
            (true, _) => Ok(()),
            (false, None) => Err(Error::Unauthorized("You are not authorized to access this db.".into())),
            (false, Some(_)) => Err(Error::Forbidden("You are not allowed to access this db.".into())),
        }
    }
}

/// `Unauthorized` (401) for an anonymous user, who can still sign in; `Forbidden` (403) for an authenticated
/// one.
fn refusal(user: &UserCtx, reason: &str) -> Error {
    if user.name.is_none() { Error::Unauthorized(reason.into()) } else { Error::Forbidden(reason.into()) }
}

/// The `_security` object of a new database according to the setting `couchdb/default_security`: `admin_only`
/// (the default), `everyone` or `admin_local`. The last restricts only the node-local databases of a cluster,
/// so it is equal to `everyone` here.
pub fn default_security(setting: Option<&str>) -> Value {
    match setting.map(str::trim) {
        Some("everyone" | "admin_local") => json!({}),
        _ => json!({"members": {"roles": [ADMIN]}, "admins": {"roles": [ADMIN]}}),
    }
}

/// Inserts `name` before the other names of the group `group` of a `_security` object. Returns whether the
/// object changed.
pub(crate) fn add_name(security: &mut Map<String, Value>, group: &str, name: &str) -> bool {
    let group = security.entry(group).or_insert_with(|| json!({}));
    let Value::Object(group) = group else { return false };
    let Value::Array(names) = group.entry("names").or_insert_with(|| json!([])) else { return false };
    let absent = !names.iter().any(|held| held == name);
    if absent {
        names.insert(0, name.into());
    }
    absent
}

/// Removes `name` from the names of the group `group`. Returns whether the object changed.
pub(crate) fn remove_name(security: &mut Map<String, Value>, group: &str, name: &str) -> bool {
    let names = security.get_mut(group).and_then(|group| group.get_mut("names")).and_then(Value::as_array_mut);
    let Some(names) = names else { return false };
    let before = names.len();
    names.retain(|held| held != name);
    names.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: Option<&str>, roles: &[&str]) -> UserCtx {
        let roles = roles.iter().map(|role| role.to_string()).collect();
        UserCtx { name: name.map(str::to_string), roles, handler: None }
    }

    fn security(json: &str) -> Security {
        Security::parse(&serde_json::from_str(json).expect("JSON")).expect("valid")
    }

    /// Each row: a security object, and for each user (is admin, is member).
    #[test]
    fn admins_and_members_by_security_object_and_user() {
        let nobody = user(None, &[]);
        let ann = user(Some("ann"), &["staff"]);
        let bob = user(Some("bob"), &["boss"]);
        let root = user(Some("root"), &[ADMIN]);
        const NO: (bool, bool) = (false, false);
        const MEMBER: (bool, bool) = (false, true);
        const BOTH: (bool, bool) = (true, true);
        let rows = [
            ("{}", [MEMBER, MEMBER, MEMBER, BOTH]),
            (r#"{"members":{"names":[],"roles":[]},"admins":{}}"#, [MEMBER, MEMBER, MEMBER, BOTH]),
            (r#"{"members":{"names":["ann"]}}"#, [NO, MEMBER, NO, BOTH]),
            (r#"{"members":{"roles":["staff"]}}"#, [NO, MEMBER, NO, BOTH]),
            (r#"{"readers":{"roles":["staff"]}}"#, [NO, MEMBER, NO, BOTH]),
            (r#"{"members":{"names":["bob"]},"readers":{"roles":["staff"]}}"#, [NO, NO, MEMBER, BOTH]),
            (r#"{"admins":{"names":["ann"]},"members":{"names":["x"]}}"#, [NO, BOTH, NO, BOTH]),
            (r#"{"admins":{"roles":["boss"]}}"#, [MEMBER, MEMBER, BOTH, BOTH]),
            (r#"{"admins":{"roles":["_admin"]},"members":{"roles":["_admin"]}}"#, [NO, NO, NO, BOTH]),
            (r#"{"admins":{"names":["staff"]},"members":{"names":["boss"]}}"#, [NO, NO, NO, BOTH]),
        ];
        for (object, expected) in rows {
            let security = security(object);
            let found = [&nobody, &ann, &bob, &root].map(|user| (security.is_admin(user), security.is_member(user)));
            assert_eq!(found, expected, "{object}");
        }
        assert!(security(r#"{"members":{"names":["x"]}}"#).is_member(&UserCtx::server()));
    }

    #[test]
    fn refusals_are_401_for_anonymous_and_403_for_authenticated_users() {
        let closed = Security::stored(&default_security(None));
        let ann = user(Some("ann"), &[]);
        let nobody = user(None, &[]);
        let unauthorized = |reason: &str| Err(Error::Unauthorized(reason.into()));
        let forbidden = |reason: &str| Err(Error::Forbidden(reason.into()));
        assert_eq!(closed.check_member(&nobody), unauthorized("You are not authorized to access this db."));
        assert_eq!(closed.check_member(&ann), forbidden("You are not allowed to access this db."));
        assert_eq!(closed.check_admin(&nobody), unauthorized("You are not a db or server admin."));
        assert_eq!(closed.check_admin(&ann), forbidden("You are not a db or server admin."));
        assert_eq!(closed.check_admin(&UserCtx::server()), Ok(()));
        assert_eq!(Security::stored(&default_security(Some("everyone"))).check_member(&nobody), Ok(()));
    }

    #[test]
    fn malformed_objects_are_refused_with_couchdbs_reasons() {
        let rows = [
            (r#"["foo"]"#, "Security object must be a JSON object"),
            (r#"{"admins":[]}"#, "admins or members must be a JSON list of strings"),
            (r#"{"members":null}"#, "admins or members must be a JSON list of strings"),
            (r#"{"members":{"names":"joe"}}"#, "names must be a JSON list of strings"),
            (r#"{"members":{"names":["joe",22]}}"#, "names must be a JSON list of strings"),
            (r#"{"admins":{"roles":[{"a":"b"}]}}"#, "roles must be a JSON list of strings"),
            (r#"{"readers":{"roles":null}}"#, "roles must be a JSON list of strings"),
        ];
        for (object, reason) in rows {
            let object = serde_json::from_str(object).expect("JSON");
            assert_eq!(Security::parse(&object), Err(Error::BadRequest(reason.into())), "{object}");
            assert!(!Security::stored(&object).is_member(&user(Some("joe"), &["x"])), "stored: closed");
        }
    }

    #[test]
    fn names_are_added_once_and_removed() {
        let mut object = default_security(None);
        let Value::Object(object) = &mut object else { panic!("an object") };
        assert!(add_name(object, "admins", "ann"));
        assert!(!add_name(object, "admins", "ann"));
        assert!(add_name(object, "admins", "bob"));
        assert_eq!(object["admins"].to_string(), r#"{"roles":["_admin"],"names":["bob","ann"]}"#);
        assert!(remove_name(object, "admins", "ann"));
        assert!(!remove_name(object, "admins", "ann"));
        assert!(!remove_name(object, "others", "ann"));
        assert_eq!(object["admins"].to_string(), r#"{"roles":["_admin"],"names":["bob"]}"#);
    }
}
