//! Writes documents for a request: what every write requires of the user who writes.
//!
//! ```text
//! write   update ─> design document: admin of the database
//!                ├> _replicator: owner, parameters (replicator_rules) ─> db ─> scripts
//!                └> users' database: admit ─> password hashed ─> db ─> account rules (auth::users) ─> scripts
//! read    Eyes::see ─> whole document | its public part | not found | forbidden
//! ```

use std::sync::Arc;

use super::account_rules::{Rules, admit, admitted};
use super::authorization::By;
use super::confirmed::Confirmed;
use super::database_security::parsed;
use super::replicator_rules;
use super::users_database::forget_gone;
use super::write_error::Result;
use crate::app::{App, security_events};
use crate::audit::{Event, Kind};
use crate::auth::users::Writer;
use crate::db::{Database, Incoming, Mode};
use crate::error::{self, Error};
use crate::replicate::documents::holds_replications;
use crate::rev::Revision;

/// Writes edits of a request's user. All writes of documents by requests go through here. One result per edit,
/// in order.
pub async fn update(
    app: &Arc<App>,
    by: By<'_>,
    database: &Arc<Database>,
    incoming: Vec<Incoming>,
    mode: Mode,
) -> Result<Vec<error::Result<Revision>>> {
    let user = by.authorization.confirmed().await?;
    let by = By { user: &user, ..by };
    let accounts = app.is_users_database(database);
    if !accounts && incoming.iter().all(|edit| !edit.deleted) {
        return write(app, by, database, incoming, mode, accounts).await;
    }
    let edits: Vec<(bool, Option<String>)> =
        incoming.iter().map(|edit| (edit.deleted, accounts.then(|| edit.id.clone()))).collect();
    let results = write(app, by, database, incoming, mode, accounts).await?;
    let mut deletions = 0;
    for ((deleted, account), _) in edits.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
        deletions += u64::from(*deleted);
        if let Some(id) = account {
            let detail = deleted.then_some("deleted");
            Event { subject: Some(id), detail, ..by.event(Kind::AccountChanged) }.record();
        }
    }
    security_events::deleted(app, by.caller(), deletions);
    if accounts && deletions > 0 {
        let deleted = edits.into_iter().zip(&results).filter(|((deleted, _), result)| *deleted && result.is_ok());
        forget_gone(app, deleted.filter_map(|((_, id), _)| id).collect()).await;
    }
    Ok(results)
}

/// Passes the edits to the database, after the checks that are made before an edit has a revision. `accounts`:
/// whether it is the users' database.
async fn write(
    app: &Arc<App>,
    by: By<'_>,
    database: &Arc<Database>,
    incoming: Vec<Incoming>,
    mode: Mode,
    accounts: bool,
) -> Result<Vec<error::Result<Revision>>> {
    let user = by.user;
    let scripts = app.validate(user);
    let touches_design = incoming.iter().any(|edit| edit.id.starts_with("_design/"));
    let replications = holds_replications(database.name());
    if !accounts && !replications && (!touches_design || user.is_server_admin()) {
        return Ok(database.update(incoming, mode, &Confirmed::new(by, &*scripts)).await?);
    }
    let stored = database.security();
    let security = parsed(database, &stored)?;
    let writer = Writer { user, security: &security };
    let mut results: Vec<Option<error::Result<Revision>>> = Vec::with_capacity(incoming.len());
    let mut edits = Vec::with_capacity(incoming.len());
    let mut written = 0;
    for mut edit in incoming {
        let allowed = match (edit.id.starts_with("_design/"), accounts) {
            (true, _) => security.check_admin(user),
            (false, true) => match admit(&edit, writer, mode) {
                Ok(body) => {
                    written += 1;
                    admitted(app, &mut edit, body, writer, by.peer, written).await?
                }
                Err(refused) => Err(refused),
            },
            (false, false) if replications => replicator_rules::admit(app, &mut edit, user, &security, mode),
            (false, false) => Ok(()),
        };
        match allowed {
            Ok(()) => {
                edits.push(edit);
                results.push(None);
            }
            Err(refused) => results.push(Some(Err(refused))),
        }
    }
    if written > 0 {
        by.authorization.confirm(user).await?;
    }
    let written = match (edits.is_empty(), accounts) {
        (true, _) => Vec::new(),
        (false, true) => {
            let rules = Rules { app, user, security: &security, mode, scripts: &*scripts };
            database.update(edits, mode, &Confirmed::new(by, &rules).with_security(stored)).await?
        }
        (false, false) if replications => {
            let rules = replicator_rules::Rules { user, security: &security, scripts: &*scripts };
            database.update(edits, mode, &Confirmed::new(by, &rules).with_security(stored)).await?
        }
        (false, false) => database.update(edits, mode, &Confirmed::new(by, &*scripts).with_security(stored)).await?,
    };
    Ok(in_order(results, written))
}

/// One result per edit: those of the edits that were refused before, and in the gaps those of the database.
fn in_order(
    results: Vec<Option<error::Result<Revision>>>,
    written: Vec<error::Result<Revision>>,
) -> Vec<error::Result<Revision>> {
    let mut written = written.into_iter();
    let next = |result: Option<_>| result.unwrap_or_else(|| written.next().unwrap_or(Err(Error::Conflict)));
    results.into_iter().map(next).collect()
}
