//! What a user may see of the `_users` database.

use std::sync::Arc;

use serde_json::Value;

use super::database_security::security_of;
use crate::app::App;
use crate::app::user_store::members;
use crate::auth::users::{self, Visible};
use crate::auth::{Security, UserCtx};
use crate::db::{Database, Found};
use crate::error::{self, Error};

/// What a reader may see of the documents of one database.
#[derive(Clone)]
pub struct Eyes(Option<Arc<Limited>>);

struct Limited {
    user: UserCtx,
    security: Security,
    public_fields: Vec<String>,
}

impl Eyes {
    /// The reader's eyes on this database: unlimited but for the users' database and who does not administer
    /// it.
    pub fn of(app: &App, user: &UserCtx, database: &Database) -> error::Result<Eyes> {
        if user.is_server_admin() || !app.is_users_database(database) {
            return Ok(Eyes(None));
        }
        let security = security_of(database)?;
        if security.is_admin(user) {
            return Ok(Eyes(None));
        }
        let public_fields = app.auth.settings().public_fields.clone();
        Ok(Eyes(Some(Arc::new(Limited { user: user.clone(), security, public_fields }))))
    }

    /// Refuses a document that the reader does not see at all, by its id alone: the answer (and the time
    /// until it comes) is the same whether there is such a document, was one, or never was.
    pub fn check(&self, id: &str) -> error::Result<()> {
        match &self.0 {
            Some(limited) if limited.public_fields.is_empty() || id.starts_with("_local/") => self.check_own(id),
            Some(_) | None => Ok(()),
        }
    }

    /// The same for what is of no concern to anybody but the document's own user: its revisions, its
    /// attachments.
    pub fn check_own(&self, id: &str) -> error::Result<()> {
        let Some(limited) = &self.0 else { return Ok(()) };
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
        let Some(limited) = &self.0 else { return Ok(found) };
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
