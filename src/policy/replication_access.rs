//! What a replication by the server may do with the databases here: the rights of the job's user.
//!
//! A job has no request, and therefore no sign-in that could be checked again. Its user is fixed when the job is
//! made; the right to each database is checked by its `_security` of now, for each page that is read and for
//! each batch that is written.

use std::sync::Arc;

use super::access::{self, Access as Level, Verdict};
use super::authorization::{Authorization, By};
use super::change_counters::Seen;
use super::document_write;
use super::users_database;
use super::write_error::WriteError;
use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Proof, UserCtx};
use crate::blocking::{blocking, in_place};
use crate::db::{CreateOptions, Database, Incoming, Mode};
use crate::error::{Error, Result};
use crate::query::script::Scripts;
use crate::replicate::documents::holds_replications;
use crate::replicate::{Access, Limits, Pending};
use crate::rev::Revision;
use crate::store::blob::blobs::Blobs;

/// The rights of a job's user.
pub struct UserAccess {
    app: Arc<App>,
    user: UserCtx,
    authorization: Arc<Authorization>,
}

/// Stands in for the id of a request in the audit log.
const ID: &str = "replication";

impl UserAccess {
    /// The rights of `user`.
    pub fn new(app: &Arc<App>, user: UserCtx) -> UserAccess {
        let seen = Seen::settings(app);
        let authorization = Authorization::new(app, seen);
        authorization.signed_in(&user, Proof::default(), seen);
        UserAccess { app: app.clone(), user, authorization: Arc::new(authorization) }
    }

    fn by(&self) -> By<'_> {
        By { user: &self.user, peer: None, id: ID, authorization: &self.authorization }
    }

    fn check(&self, needed: Level) -> Result<Verdict> {
        let settings = self.app.settings();
        if self.user.name.is_none() && !self.user.is_server_admin() {
            access::check_nobody(access::Openness::Closed, &settings)?;
        }
        access::check(needed, &self.user, &settings)
    }

    /// Opens a database of which the user is a member. The users' database is only for server admins, and a database
    /// of replications for those who see the passwords in it: what another user sees of them is not what a
    /// replication may take for the whole.
    fn open(&self, name: &str) -> Result<Arc<Database>> {
        let get = || self.app.databases.get(name);
        let database = if self.app.store.is_shared() { in_place(get)? } else { get()? };
        if self.app.is_users_database(&database) {
            self.check(Level::Admin)?;
        }
        let needed = if holds_replications(name) { Level::DatabaseAdmin } else { Level::Member };
        if self.check(needed)? == Verdict::AskDatabase {
            let security = serde_json::from_str(&database.security());
            let security = security.map_err(|_| Error::Damaged("the _security of a database".into()))?;
            access::check_database(needed, &self.user, &security)?;
        }
        Ok(database)
    }
}

impl Access for UserAccess {
    fn readable(&self, name: &str) -> Result<Arc<Database>> {
        self.open(name)
    }

    fn writable(&self, name: &str) -> Result<Arc<Database>> {
        self.open(name)
    }

    fn create<'a>(&'a self, name: &'a str, options: CreateOptions) -> Pending<'a, Result<()>> {
        Box::pin(async move {
            self.check(Level::Admin)?;
            let security = crate::app::default_security(&self.app).to_string();
            let (databases, of) = (self.app.databases.clone(), name.to_owned());
            let made = blocking(move || databases.create(&of, options, Some(&security))).await?;
            crate::audit::Event { database: Some(name), ..self.by().event(Kind::DatabaseCreated) }.record();
            users_database::settle(&self.app, &made).await
        })
    }

    fn write<'a>(
        &'a self,
        database: &'a Arc<Database>,
        edits: Vec<Incoming>,
    ) -> Pending<'a, Result<Vec<Result<Revision>>>> {
        Box::pin(async move {
            let written = document_write::update(&self.app, self.by(), database, edits, Mode::Replicated).await;
            written.map_err(|error| match error {
                WriteError::Failed(error) => error,
                WriteError::TooMany(_) => Error::Again("too many accounts are written at a time".into()),
            })
        })
    }

    fn limits(&self) -> Limits {
        let settings = self.app.settings();
        let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Limits {
            document: bytes(settings.max_document_size),
            depth: settings.max_json_depth,
            id: bytes(settings.max_document_id_length),
            attachment: settings.max_attachment_size,
        }
    }

    fn user_json(&self, database: &str) -> String {
        self.user.to_script_json(database).to_string()
    }

    fn blobs(&self) -> &Arc<dyn Blobs> {
        self.app.databases.blobs()
    }

    fn scripts(&self) -> &Scripts {
        &self.app.scripts
    }
}
