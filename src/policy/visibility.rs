//! What a user may see of the `_users` database, and of the `_replicator` databases.

use std::sync::Arc;

use serde_json::Value;

use super::database_security::security_of;
use crate::app::App;
use crate::app::user_store::members;
use crate::auth::users::{self, Visible};
use crate::auth::{Security, UserCtx};
use crate::db::{Database, Found};
use crate::error::{self, Error};
use crate::replicate::documents::body::{OWNER, without_credentials};
use crate::replicate::documents::holds_replications;
use crate::rev::{Digests, new_revision};

/// What a reader may see of the documents of one database.
#[derive(Clone)]
pub struct Eyes(Option<Arc<Limited>>);

/// What limits a reader.
enum Limited {
    Accounts(Accounts),
    /// Documents of others without their credentials. Holds the reader's name.
    Replications(Option<String>),
}

struct Accounts {
    user: UserCtx,
    security: Security,
    public_fields: Vec<String>,
}

impl Eyes {
    /// The reader's eyes on this database. They are limited in the users' database and in databases of replications,
    /// for those who do not administer them.
    pub fn of(app: &App, user: &UserCtx, database: &Database) -> error::Result<Eyes> {
        let accounts = app.is_users_database(database);
        if user.is_server_admin() || !(accounts || holds_replications(database.name())) {
            return Ok(Eyes(None));
        }
        let security = security_of(database)?;
        if security.is_admin(user) {
            return Ok(Eyes(None));
        }
        let limited = if accounts {
            let public_fields = app.auth.settings().public_fields.clone();
            Limited::Accounts(Accounts { user: user.clone(), security, public_fields })
        } else {
            Limited::Replications(user.name.clone())
        };
        Ok(Eyes(Some(Arc::new(limited))))
    }

    fn accounts(&self) -> Option<&Accounts> {
        match self.0.as_deref() {
            Some(Limited::Accounts(accounts)) => Some(accounts),
            Some(Limited::Replications(_)) | None => None,
        }
    }

    /// Refuses a document that the reader does not see at all, by its id alone: the answer (and the time
    /// until it comes) is the same whether there is such a document, was one, or never was.
    pub fn check(&self, id: &str) -> error::Result<()> {
        match self.accounts() {
            Some(limited) if limited.public_fields.is_empty() || id.starts_with("_local/") => self.check_own(id),
            Some(_) | None => Ok(()),
        }
    }

    /// The same for what only the document's own user may see: its revisions and attachments.
    pub fn check_own(&self, id: &str) -> error::Result<()> {
        let Some(limited) = self.accounts() else { return Ok(()) };
        match users::visible(id, &limited.user, &limited.security)? {
            Visible::Whole => Ok(()),
            Visible::Public => Err(Error::Missing),
        }
    }

    /// Each as the reader sees it.
    pub fn see_all<M>(
        &self,
        all: Vec<std::result::Result<Found, M>>,
    ) -> error::Result<Vec<std::result::Result<Found, M>>> {
        let seen = all.into_iter().map(|one| match one {
            Ok(found) => self.see(found).map(Ok),
            Err(missing) => Ok(Err(missing)),
        });
        seen.collect()
    }

    /// The document as the reader sees it. `Missing`, `Forbidden`: not at all.
    pub fn see(&self, mut found: Found) -> error::Result<Found> {
        let limited = match self.0.as_deref() {
            None => return Ok(found),
            Some(Limited::Replications(name)) => return replication(found, name.as_deref()),
            Some(Limited::Accounts(accounts)) => accounts,
        };
        match users::visible(&found.id, &limited.user, &limited.security)? {
            Visible::Whole => Ok(found),
            Visible::Public => {
                let body = members(&found.id, &found.body.json)?;
                let public = users::public_part(&body, &limited.public_fields)?;
                found.body.json = Value::Object(public).to_string();
                found.body.attachments.clear();
                Ok(found)
            }
        }
    }
}

/// A replication as users other than its owner see it: without credentials. Since this is not the stored content,
/// it gets a revision id that does not exist.
fn replication(mut found: Found, reader: Option<&str>) -> error::Result<Found> {
    if found.id.starts_with("_design/") {
        return Ok(found);
    }
    let mut body = members(&found.id, &found.body.json)?;
    if reader.is_some() && body.get(OWNER).and_then(Value::as_str) == reader {
        return Ok(found);
    }
    for end in ["source", "target"] {
        if let Some(endpoint) = body.get_mut(end) {
            *endpoint = without_credentials(endpoint);
        }
    }
    for proxy in ["proxy", "source_proxy", "target_proxy"] {
        body.shift_remove(proxy);
    }
    found.body.json = Value::Object(body).to_string();
    found.revision.hash = new_revision(found.deleted, None, &found.body.json, Digests::Known(&[])).hash;
    Ok(found)
}
