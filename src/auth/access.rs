//! The `_security` object of a database: who administers it, who may read and write it (`couch_db.erl`,
//! `check_is_admin/1`, `check_is_member/1`, `validate_security_object/1`).
//!
//! ```text
//! {"admins": {"names": [...], "roles": [...]}, "members": {"names": [...], "roles": [...]}, ...}
//! ```
//!
//! Server admins may do everything; admins of the database are members; a database whose members are empty is public.
//! Other members of the object belong to the application and are handed to validation functions as they are.

use serde_json::{Map, Value, json};

use super::{ADMIN, UserCtx};
use crate::error::{Error, Result};

/// Names and roles, one of which a user must have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    pub names: Vec<String>,
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

/// What a `_security` object says about access.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    pub admins: Group,
    pub members: Group,
}

impl Security {
    /// Reads an object that somebody wants to store. `readers` stands for `members` where that is absent, as in
    /// CouchDB 1.0. The reasons are CouchDB's; it answers them as 500, which is nobody's fault but the client's: 400.
    pub fn parse(object: &Value) -> Result<Security> {
        let Value::Object(members) = object else {
            return Err(Error::BadRequest("Security object must be a JSON object".into()));
        };
        Ok(Security {
            admins: Group::parse(members.get("admins"))?,
            members: Group::parse(members.get("members").or_else(|| members.get("readers")))?,
        })
    }

    /// Reads a stored object. One that does not parse (it was checked when it was stored) admits server admins only.
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

    /// `Unauthorized` for nobody, `Forbidden` for somebody, in CouchDB's words, unless the user administers the database.
    pub fn check_admin(&self, user: &UserCtx) -> Result<()> {
        if self.is_admin(user) { Ok(()) } else { Err(refusal(user, "You are not a db or server admin.")) }
    }

    /// The same unless the user may read and write the database.
    pub fn check_member(&self, user: &UserCtx) -> Result<()> {
        match (self.is_member(user), &user.name) {
            (true, _) => Ok(()),
            (false, None) => Err(Error::Unauthorized("You are not authorized to access this db.".into())),
            (false, Some(_)) => Err(Error::Forbidden("You are not allowed to access this db.".into())),
        }
    }
}

/// 401 for who is not signed in, who may yet do so; 403 for who is.
fn refusal(user: &UserCtx, reason: &str) -> Error {
    if user.name.is_none() { Error::Unauthorized(reason.into()) } else { Error::Forbidden(reason.into()) }
}

/// The `_security` object of a new database, by the setting `couchdb/default_security`: `admin_only` (the default) or
/// `everyone`; `admin_local` closes what a cluster keeps on single nodes, and leaves databases open.
pub fn default_security(setting: Option<&str>) -> Value {
    match setting.map(str::trim) {
        Some("everyone" | "admin_local") => json!({}),
        _ => json!({"members": {"roles": [ADMIN]}, "admins": {"roles": [ADMIN]}}),
    }
}

/// Puts `name` in front of the names of the group `group` of a `_security` object. Returns whether that changed it.
pub(super) fn add_name(security: &mut Map<String, Value>, group: &str, name: &str) -> bool {
    let group = security.entry(group).or_insert_with(|| json!({}));
    let Value::Object(group) = group else { return false };
    let Value::Array(names) = group.entry("names").or_insert_with(|| json!([])) else { return false };
    let absent = !names.iter().any(|held| held == name);
    if absent {
        names.insert(0, name.into());
    }
    absent
}

/// Takes `name` out of the names of the group. Returns whether that changed the object.
pub(super) fn remove_name(security: &mut Map<String, Value>, group: &str, name: &str) -> bool {
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

    /// security object × user → (admin, member).
    #[test]
    fn who_is_admin_and_who_is_member() {
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
    fn refusals_are_couchdbs_401_for_nobody_and_403_for_somebody() {
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
    fn a_malformed_object_is_refused_in_couchdbs_words() {
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
