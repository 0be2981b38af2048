//! The users' database: its design document, its `_security`, its local documents, and the removal of what belonged
//! to a deleted account.

use std::sync::Arc;

use serde_json::Value;

use super::database_security::security_of;
use crate::app::App;
use crate::auth::users;
use crate::auth::{UserCtx, Users};
use crate::blocking::blocking;
use crate::db::{Database, Incoming, Mode, Purged, Source};
use crate::error::{self, Error};

/// [`forget`] once the accounts are gone. If it fails, the removal is repeated before a new account gets such a
/// name.
pub async fn forget_gone(app: &Arc<App>, ids: Vec<String>) {
    if let Err(error) = forget(app, ids).await {
        tracing::warn!(%error, "the devices of a deleted account cannot be removed and will be removed later");
    }
}

/// Forgets the devices, sessions and used codes of names that have no account (any longer): the next account
/// of such a name has nothing to do with the one before.
pub(super) async fn forget(app: &Arc<App>, ids: Vec<String>) -> error::Result<()> {
    let app = app.clone();
    blocking(move || {
        let Some(devices) = app.auth.devices() else { return Ok(()) };
        for name in ids.iter().filter_map(|id| users::name_of(id)) {
            let accounts = &app.accounts;
            if devices.knows(name)? && accounts.admin(name).is_none() && accounts.document(name)?.is_none() {
                devices.forget(name)?;
            }
        }
        Ok(())
    })
    .await
}

/// Refuses the `_local` documents of the users' database to everybody but its admins. A client that writes its own
/// account there by replication has no checkpoint and compares each time, which is one document.
pub fn check_local(app: &App, user: &UserCtx, database: &Database) -> error::Result<()> {
    if user.is_server_admin() || !app.is_users_database(database) {
        return Ok(());
    }
    security_of(database)?.check_admin(user)
}

/// Documents of `database` were purged: removes what belonged to accounts among them.
pub async fn purged(app: &Arc<App>, database: &Database, purged: &[Purged]) {
    if !app.is_users_database(database) {
        return;
    }
    forget_gone(app, purged.iter().map(|(id, _)| id.clone()).collect()).await;
    // A purged document has no row in the changes, which wake feeds otherwise.
    for name in purged.iter().filter_map(|(id, _)| users::name_of(id)) {
        app.wakes.wake(name);
    }
}

/// Refuses changing the users' database's `_security` unless the settings allow it.
pub fn check_security_editable(app: &App, database: &Database) -> error::Result<()> {
    if app.is_users_database(database) && !app.auth.settings().users_db_security_editable {
        return Err(Error::Forbidden("You can't edit the security object of the user database.".into()));
    }
    Ok(())
}

/// If this is the users' database, writes its design document unless it has one.
pub async fn settle(app: &Arc<App>, database: &Arc<Database>) -> error::Result<()> {
    if !app.is_users_database(database) {
        return Ok(());
    }
    let of = database.clone();
    if blocking(move || of.winner(users::DESIGN_ID)).await?.is_some() {
        return Ok(());
    }
    let edit = Incoming {
        id: users::DESIGN_ID.to_owned(),
        parent: None,
        path: (0, Vec::new()),
        deleted: false,
        json: Value::Object(users::design_document()).to_string(),
        attachments: Vec::<(String, Source)>::new(),
    };
    let written = database.update(vec![edit], Mode::Interactive, &crate::db::AllowAll).await?;
    match written.into_iter().next() {
        Some(Err(Error::Conflict)) | Some(Ok(_)) | None => Ok(()),
        Some(Err(error)) => Err(error),
    }
}
