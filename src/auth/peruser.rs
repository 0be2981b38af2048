//! A private database for every user (`couch_peruser.erl`, settings `[couch_peruser]`).
//!
//! The name of the database contains the user's name in hex. When the user's document is written, the user is
//! added to the admins and members of the database. When the document is deleted, the user is removed from
//! them, or the database is deleted. `http` watches the authentication database and performs the work that
//! [`wanted`] returns; the work is idempotent.

use serde_json::{Map, Value};

use super::security_object::{add_name, remove_name};
use super::source::{Source, boolean, number};
use super::users::ID_PREFIX;

/// Settings of `[couch_peruser]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerUser {
    /// `enable`; false by default.
    pub enabled: bool,
    /// `delete_dbs`: whether deleting a user deletes the database; false by default.
    pub delete: bool,
    /// `database_prefix`; `userdb-` by default.
    pub prefix: String,
    /// `q` of new databases; 1 by default.
    pub q: u64,
}

impl PerUser {
    pub(super) fn read(source: &dyn Source) -> PerUser {
        let get = |key: &str| source.get("couch_peruser", key);
        PerUser {
            enabled: boolean(get("enable"), false),
            delete: boolean(get("delete_dbs"), false),
            prefix: get("database_prefix").filter(|prefix| !prefix.is_empty()).unwrap_or_else(|| "userdb-".into()),
            q: number(get("q"), 1),
        }
    }

    /// The name of a user's database: the prefix and the bytes of the user's name in hex. As in CouchDB, each
    /// byte is written without a leading zero.
    pub fn database_of(&self, user: &str) -> String {
        user.bytes().fold(self.prefix.clone(), |name, byte| name + &format!("{byte:x}"))
    }
}

/// The work that a change in the authentication database causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Create the database if it is missing, and add the user to its admins and members ([`admit`]).
    Ensure { database: String, user: String },
    /// Remove the user from the admins and members of the database ([`dismiss`]).
    Dismiss { database: String, user: String },
    /// Delete the database.
    Delete { database: String },
}

/// Returns the work for a change of document `id`, or `None` if there is none.
pub fn wanted(settings: &PerUser, id: &str, deleted: bool) -> Option<Work> {
    let user = id.strip_prefix(ID_PREFIX).filter(|user| settings.enabled && !user.is_empty())?.to_string();
    let database = settings.database_of(&user);
    Some(match (deleted, settings.delete) {
        (false, _) => Work::Ensure { database, user },
        (true, false) => Work::Dismiss { database, user },
        (true, true) => Work::Delete { database },
    })
}

/// Adds the user to the admins and members of a `_security` object. Returns whether the object changed.
pub fn admit(security: &mut Map<String, Value>, user: &str) -> bool {
    let admins = add_name(security, "admins", user);
    add_name(security, "members", user) || admins
}

/// Removes the user from the admins and members of a `_security` object. Returns whether the object changed.
pub fn dismiss(security: &mut Map<String, Value>, user: &str) -> bool {
    let admins = remove_name(security, "admins", user);
    remove_name(security, "members", user) || admins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::settings::tests::source;

    #[test]
    fn databases_are_named_like_couchdbs() {
        let plain = PerUser::read(&source(&[]));
        assert_eq!(plain.database_of("foo"), "userdb-666f6f");
        assert_eq!(plain.database_of("jchris@apache.org"), "userdb-6a6368726973406170616368652e6f7267");
        assert_eq!(plain.database_of("ü\n"), "userdb-c3bca");
        let other = PerUser::read(&source(&[("couch_peruser", "database_prefix", "db_")]));
        assert_eq!(other.database_of("foo"), "db_666f6f");
    }

    #[test]
    fn changes_of_users_create_and_delete_databases() {
        let on = PerUser::read(&source(&[("couch_peruser", "enable", "true")]));
        let (database, user) = ("userdb-666f6f".to_string(), "foo".to_string());
        let ensure = Work::Ensure { database: database.clone(), user: user.clone() };
        assert_eq!(wanted(&on, "org.couchdb.user:foo", false), Some(ensure));
        let dismiss = Work::Dismiss { database: database.clone(), user };
        assert_eq!(wanted(&on, "org.couchdb.user:foo", true), Some(dismiss));
        let delete = PerUser { delete: true, ..on.clone() };
        assert_eq!(wanted(&delete, "org.couchdb.user:foo", true), Some(Work::Delete { database }));
        for id in ["_design/_auth", "foo", "org.couchdb.user:"] {
            assert_eq!(wanted(&on, id, false), None, "{id}");
        }
        assert_eq!(wanted(&PerUser::read(&source(&[])), "org.couchdb.user:foo", false), None, "not enabled");
    }

    #[test]
    fn users_are_added_beside_others_and_removed() {
        let mut security = crate::auth::security_object::default_security(None);
        let Value::Object(security) = &mut security else { panic!("an object") };
        assert!(admit(security, "foo"));
        assert!(!admit(security, "foo"));
        assert_eq!(
            Value::Object(security.clone()).to_string(),
            r#"{"members":{"roles":["_admin"],"names":["foo"]},"admins":{"roles":["_admin"],"names":["foo"]}}"#
        );
        assert!(dismiss(security, "foo"));
        assert!(!dismiss(security, "foo"));
    }
}
