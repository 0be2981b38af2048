//! The rules for documents of `_replicator` databases: which users may write them, and what they must hold
//! (`couch_replicator_docs:before_doc_update`).
//!
//! A document's `owner` is the user who wrote it, and its job has that user's rights on the databases here. Only a
//! server admin may therefore keep or set another owner, also by replication, which CouchDB does not check: there,
//! a job has no rights but those of the credentials in the document.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::app::App;
use crate::app::replication_settings::defaults;
use crate::app::user_store::members;
use crate::auth::{Security, UserCtx, Users};
use crate::db::{Database, Guard, Incoming, Mode, Proposal, Terms, Validate};
use crate::error::{Error, Result};
use crate::replicate::documents::body::{OWNER, parse};

const OTHERS: &str = "Can't update replication documents from other users.";

/// Checks an edit before it has a revision, and sets its owner.
pub(super) fn admit(app: &App, edit: &mut Incoming, user: &UserCtx, security: &Security, mode: Mode) -> Result<()> {
    if edit.id.starts_with("_design/") || edit.id.starts_with("_local/") || edit.deleted {
        return Ok(());
    }
    let mut body = members(&edit.id, &edit.json)?;
    let is_replicated = mode == Mode::Replicated;
    let owner = body.get(OWNER).cloned();
    // The job of a document has the rights that its owner's name has. A token or a proxy may give the name of a server
    // admin to a user who is none.
    if !user.is_server_admin() && user.name.as_deref().is_some_and(|name| app.accounts.admin(name).is_some()) {
        return Err(Error::Forbidden(OTHERS.into()));
    }
    match &owner {
        // The body of a replicated revision is what its revision says. Without an owner, its job has no rights.
        None if is_replicated => {}
        None => drop(body.insert(OWNER.into(), name_of(user))),
        Some(owner) if *owner == name_of(user) => {}
        Some(Value::Null) if is_replicated => {}
        Some(Value::Null) if security.is_admin(user) => drop(body.insert(OWNER.into(), name_of(user))),
        Some(_) if user.is_server_admin() => {}
        Some(_) => return Err(Error::Forbidden(OTHERS.into())),
    }
    check_user_ctx(&body, user)?;
    let is_failed = body.get("_replication_state").and_then(Value::as_str) == Some("failed");
    if !is_replicated && !is_failed {
        parse(&body, &defaults(&app.settings())).map_err(|wrong| Error::Forbidden(wrong.reason().to_owned()))?;
    }
    if owner.as_ref() != body.get(OWNER) {
        edit.json = Value::Object(body).to_string();
    }
    Ok(())
}

fn name_of(user: &UserCtx) -> Value {
    user.name.as_deref().into()
}

/// Only server admins may have a replication act as somebody else.
fn check_user_ctx(body: &Map<String, Value>, user: &UserCtx) -> Result<()> {
    let Some(acts_as) = body.get("user_ctx") else { return Ok(()) };
    let is_own = acts_as.get("name").is_some_and(|name| *name == name_of(user));
    if user.is_server_admin() || is_own {
        return Ok(());
    }
    Err(Error::Forbidden("Only admins may set another user's `user_ctx`.".into()))
}

/// The rules of a `_replicator` database, before those of its design documents.
pub(super) struct Rules<'a> {
    pub user: &'a UserCtx,
    pub security: &'a Security,
    pub scripts: &'a dyn Validate,
}

impl Rules<'_> {
    /// A document belongs to its owner until an admin of the database changes that. CouchDB only checks the new
    /// body, so that anybody may replace or delete any document there.
    fn verdict(&self, proposal: &Proposal) -> Result<()> {
        if proposal.id.starts_with("_design/") || self.security.is_admin(self.user) {
            return Ok(());
        }
        let Some(old) = &proposal.old else {
            // A replicated revision beside those that are there could become the winner.
            let is_new = proposal.leaves.iter().all(|leaf| leaf.deleted);
            return if is_new { Ok(()) } else { Err(Error::Forbidden(OTHERS.into())) };
        };
        let old = members(&proposal.id, old)?;
        let is_deleted = old.get("_deleted") == Some(&Value::Bool(true));
        let is_own = old.get(OWNER).is_none_or(|owner| *owner == name_of(self.user));
        if is_deleted || is_own { Ok(()) } else { Err(Error::Forbidden(OTHERS.into())) }
    }
}

impl Validate for Rules<'_> {
    fn applies(&self, _: &Database) -> bool {
        true
    }

    /// The check reads the owner of the leaf that the edit extends. A user without admin rights on the database may
    /// therefore not write beside that leaf.
    fn terms(&self, database: &Database) -> Terms {
        let terms = self.scripts.terms(database);
        Terms { unmoved: terms.unmoved || !self.security.is_admin(self.user), ..terms }
    }

    fn guard(&self, database: &Arc<Database>) -> Option<Box<dyn Guard>> {
        self.scripts.guard(database)
    }

    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<Result<()>>> + Send + 'a>> {
        Box::pin(async move {
            let mut verdicts: Vec<Result<()>> = proposals.iter().map(|proposal| self.verdict(proposal)).collect();
            let allowed: Vec<Proposal> = proposals
                .into_iter()
                .zip(&verdicts)
                .filter_map(|(proposal, verdict)| verdict.is_ok().then_some(proposal))
                .collect();
            if !allowed.is_empty() && self.scripts.applies(database) {
                let mut scripted = self.scripts.validate(database, allowed).await.into_iter();
                for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_ok()) {
                    *verdict = scripted.next().unwrap_or(Ok(()));
                }
            }
            verdicts
        })
    }
}
