//! The accounts as `auth` sees them: documents of the `_users` database.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde_json::{Map, Value};

use crate::auth::authenticate::MEMBERS;
use crate::auth::settings::users_database;
use crate::auth::{UserDocument, Users, users};
use crate::bounded_map::Bounded;
use crate::config::Live;
use crate::db::{Database, Databases, LONGEST_ID, Wanted};
use crate::error::{self, Error};

/// The accounts: admins of the settings, documents of the users' database.
pub struct Accounts {
    config: Arc<Live>,
    databases: Arc<Databases>,
    /// By name; valid until the users' database changes.
    held: Mutex<Bounded<String, (Place, Option<UserDocument>)>>,
    /// The users' database that was used last. Kept here so that it stays open.
    used: RwLock<Option<Arc<Database>>>,
    /// Users whose password is being hashed again and stored.
    pub(crate) upgrading: Mutex<HashSet<String>>,
}

/// The number of a database, and its last change.
pub type Place = (u64, (u64, u64));

impl Accounts {
    pub fn new(config: Arc<Live>, databases: Arc<Databases>) -> Accounts {
        Accounts {
            config,
            databases,
            held: Mutex::new(Bounded::new(HELD)),
            used: RwLock::default(),
            upgrading: Mutex::default(),
        }
    }

    /// How many accounts are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// The users' database that was used last, and its last change.
    /// `None`: it was deleted, or no account was looked up yet. Does not touch the store.
    pub fn place(&self) -> Option<Place> {
        let used = self.used.read();
        used.as_ref().filter(|database| !database.is_gone()).map(|used| place_of(used))
    }

    /// The document of this user if it is held, and as new as `place`.
    fn held_at(&self, place: Place, name: &str) -> Option<Option<UserDocument>> {
        let mut held = self.held.lock();
        let (at, document) = held.get_mut(&name.to_owned())?;
        (*at == place).then(|| document.clone())
    }

    /// The users' database, if there is one.
    pub fn database(&self) -> error::Result<Option<Arc<Database>>> {
        let name = users_database(self.config.settings().table());
        // An open database is as new as the request, or in a feed at most a second old.
        let found = self.databases.opened(&name).map_or_else(|| self.databases.get(&name), Ok);
        match found {
            Ok(database) => {
                if !self.used.read().as_ref().is_some_and(|used| Arc::ptr_eq(used, &database)) {
                    *self.used.write() = Some(database.clone());
                }
                Ok(Some(database))
            }
            Err(Error::NoDatabase | Error::IllegalDatabaseName(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Users for Accounts {
    fn admin(&self, name: &str) -> Option<String> {
        self.config.settings().admin(name).map(str::to_owned)
    }

    fn document(&self, name: &str) -> error::Result<Option<UserDocument>> {
        let Some(database) = self.database()? else { return Ok(None) };
        // Read before the document, so that a cached document is never older than its place says.
        let place = place_of(&database);
        if let Some(document) = self.held_at(place, name) {
            return Ok(document);
        }
        let id = users::id_of(name);
        if id.len() > LONGEST_ID {
            return Ok(None);
        }
        let document = match database.find(&id, Wanted::Winner) {
            Ok(found) => {
                let conflicted = found.tree.leaves().iter().filter(|leaf| !leaf.deleted).count() > 1;
                let members = some_members(&found.id, &found.body.json, &MEMBERS)?;
                Some(UserDocument { members, conflicted })
            }
            Err(Error::Missing | Error::Deleted | Error::NoDatabase) => None,
            Err(error) => return Err(error),
        };
        let is_small = match &document {
            None => name.len() <= HELD_NAME,
            Some(document) => name.len() + size(&document.members) <= HELD_BYTES,
        };
        if is_small {
            self.held.lock().insert(name.to_owned(), (place, document.clone()));
        }
        Ok(document)
    }

    fn document_in_memory(&self, name: &str) -> Option<Option<UserDocument>> {
        let database = self.databases.opened(&users_database(self.config.settings().table()))?;
        // Another database is not followed yet: `database` does that.
        let is_followed = self.used.read().as_ref().is_some_and(|used| Arc::ptr_eq(used, &database));
        if is_followed { self.held_at(place_of(&database), name) } else { None }
    }
}

fn place_of(database: &Database) -> Place {
    (database.number(), database.last_change())
}

/// About what members take as text.
fn size(members: &Map<String, Value>) -> usize {
    serde_json::to_vec(members).map_or(usize::MAX, |text| text.len())
}

/// The members of a stored body.
pub(crate) fn members(id: &str, json: &str) -> error::Result<Map<String, Value>> {
    crate::json::read(json).map_err(|_| Error::Damaged(format!("the body of document {id}")))
}

/// Those of the members of a stored body that are `wanted`. Users choose the size of their documents, so the others are
/// not parsed.
fn some_members(id: &str, json: &str, wanted: &[&str]) -> error::Result<Map<String, Value>> {
    let mut some = Map::new();
    for (name, value) in crate::json::members(json).filter(|(name, _)| wanted.contains(&&**name)) {
        let value = crate::json::read(value).map_err(|_| Error::Damaged(format!("the body of document {id}")))?;
        some.insert(name.into_owned(), value);
    }
    Ok(some)
}

/// Maximum number of cached accounts, names without an account included.
const HELD: usize = 8192;

/// Approximate maximum size in bytes of a cached account; a larger one is read each time. Anybody can send names, and
/// users choose the size of their documents.
const HELD_BYTES: usize = 4096;

/// Maximum length in bytes of a name for which the cache records that no account has it.
const HELD_NAME: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn other_members_of_an_account_are_not_parsed() {
        let body = r#"{"name":"a","large":nonsense,"s\u0061lt":"s","roles":["r"],"salts":{"salt":1}}"#;
        let some = some_members("a", body, &["roles", "salt"]).unwrap();
        assert_eq!(Value::Object(some), json!({"salt": "s", "roles": ["r"]}));
        assert!(some_members("a", r#"{"salt":nonsense}"#, &["salt"]).is_err());
        assert!(members("a", body).is_err());
    }
}
