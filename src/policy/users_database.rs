//! Where accounts meet documents: the users' database on its way in and out, and what every write asks of who writes.
//!
//! ```text
//! write   update ─> design document: admin of the database
//!                └> users' database: may_write ─> password hashed ─> db ─> validate (auth::users) ─> scripts
//! read    Eyes::see ─> whole document | its public part | not found | forbidden
//! ```
//!
//! Rules that depend on what is stored are asked of the leaves that `db` shows with the proposal, and hold at the commit: who is
//! no admin writes on the terms that these leaves have not moved ([`crate::db::Terms`]). Nothing that was read when a request
//! began counts.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::app::App;
use crate::app::security_events::{self, By};
use crate::app::user_store::{is_users, members, security_of};
use crate::audit::{Event, Kind};
use crate::auth::users::{self, Standing as AccountStanding, Writer};
use crate::auth::{Security, UserCtx, Users, password};
use crate::blocking::blocking;
use crate::db::{Database, Guard, Incoming, Leaf, Mode, Proposal, Purged, Source, Terms, Validate};
use crate::error::{self, Error};
use crate::http::response::error::Result;
use crate::http::security::authorization::Standing;
use crate::rev::Revision;

pub(crate) fn parsed(database: &Database, security: &str) -> error::Result<Security> {
    let object = serde_json::from_str(security);
    let object: Value = object.map_err(|_| Error::Damaged(format!("_security of {}", database.name())))?;
    Ok(Security::stored(&object))
}

/// Writes edits as who asks: all writing of documents by requests goes through here. One result per edit, in order.
pub async fn update(
    app: &Arc<App>,
    by: By<'_>,
    database: &Arc<Database>,
    incoming: Vec<Incoming>,
    mode: Mode,
) -> Result<Vec<error::Result<Revision>>> {
    let user = by.standing.confirmed().await?;
    let by = By { user: &user, ..by };
    let accounts = is_users(app, database);
    if !accounts && incoming.iter().all(|edit| !edit.deleted) {
        return write(app, by, database, incoming, mode).await;
    }
    let edits: Vec<(bool, Option<String>)> =
        incoming.iter().map(|edit| (edit.deleted, accounts.then(|| edit.id.clone()))).collect();
    let results = write(app, by, database, incoming, mode).await?;
    let mut deletions = 0;
    for ((deleted, account), _) in edits.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
        deletions += u64::from(*deleted);
        if let Some(id) = account {
            let detail = deleted.then_some("deleted");
            Event { subject: Some(id), detail, ..by.event(Kind::AccountChanged) }.record();
        }
    }
    security_events::deleted(app, by, deletions);
    if accounts && deletions > 0 {
        let deleted = edits.into_iter().zip(&results).filter(|((deleted, _), result)| *deleted && result.is_ok());
        forget_gone(app, deleted.filter_map(|((_, id), _)| id).collect()).await;
    }
    Ok(results)
}

/// [`forget`] once the accounts are gone. What fails is made up for when there is a new account of such a name.
pub async fn forget_gone(app: &Arc<App>, ids: Vec<String>) {
    if let Err(error) = forget(app, ids).await {
        tracing::warn!(%error, "the devices of an account that is gone are forgotten later");
    }
}

/// Forgets the devices, sessions and used codes of names that have no account (any longer): the next account of such a name
/// has nothing to do with the one before.
async fn forget(app: &Arc<App>, ids: Vec<String>) -> error::Result<()> {
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

/// Whether anybody may make their own account.
fn is_open_for_sign_up(app: &App, security: &Security) -> bool {
    app.settings().flag("chttpd_auth", "allow_sign_up") || security.is_member(&UserCtx::anonymous())
}

pub(crate) async fn write(
    app: &Arc<App>,
    by: By<'_>,
    database: &Arc<Database>,
    incoming: Vec<Incoming>,
    mode: Mode,
) -> Result<Vec<error::Result<Revision>>> {
    let user = by.user;
    let scripts = app.validate(user);
    let accounts = is_users(app, database);
    let touches_design = incoming.iter().any(|edit| edit.id.starts_with("_design/"));
    if !accounts && (!touches_design || user.is_server_admin()) {
        return Ok(database.update(incoming, mode, &Confirmed::new(by, &*scripts)).await?);
    }
    let stored = database.security();
    let security = parsed(database, &stored)?;
    let writer = Writer { user, security: &security };
    let mut results: Vec<Option<error::Result<Revision>>> = Vec::with_capacity(incoming.len());
    let mut edits = Vec::with_capacity(incoming.len());
    let mut written = 0;
    for mut edit in incoming {
        let allowed = if edit.id.starts_with("_design/") {
            security.check_admin(user)
        } else if accounts {
            match admit(&edit, writer, mode) {
                Ok(body) => {
                    written += 1;
                    admitted(app, &mut edit, body, writer, by.peer, written).await?
                }
                Err(refused) => Err(refused),
            }
        } else {
            Ok(())
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
        by.standing.confirm(user).await?;
    }
    let results_of_edits = match (edits.is_empty(), accounts) {
        (true, _) => Vec::new(),
        (false, true) => {
            let rules = Rules { app, user, security: &security, mode, scripts: &*scripts };
            database.update(edits, mode, &Confirmed { security: Some(stored), ..Confirmed::new(by, &rules) }).await?
        }
        (false, false) => {
            database.update(edits, mode, &Confirmed { security: Some(stored), ..Confirmed::new(by, &*scripts) }).await?
        }
    };
    let mut results_of_edits = results_of_edits.into_iter();
    let results = results.into_iter().map(|result| match result {
        Some(result) => result,
        None => results_of_edits.next().unwrap_or(Err(Error::Conflict)),
    });
    Ok(results.collect())
}

/// The rules of `then`, and the check that the user may still write, with the roles that the rules were given. The writer
/// makes it just before it applies the edits: rules may take seconds, and so may the wait for the writer. A request that is
/// refused so is refused as a whole: rows that are refused one by one are documents that a replication leaves out for good.
pub struct Confirmed<'a> {
    by: By<'a>,
    then: &'a dyn Validate,
    /// The `_security` by which it was decided what the user may write, beside the access that the route needs: the rules of an
    /// admin must not hold for who is none any more.
    security: Option<Arc<str>>,
}

impl<'a> Confirmed<'a> {
    pub fn new(by: By<'a>, then: &'a dyn Validate) -> Confirmed<'a> {
        Confirmed { by, then, security: None }
    }
}

impl Validate for Confirmed<'_> {
    fn applies(&self, database: &Database) -> bool {
        self.then.applies(database)
    }

    fn terms(&self, database: &Database) -> Terms {
        self.then.terms(database)
    }

    fn guard(&self, database: &Arc<Database>) -> Option<Box<dyn Guard>> {
        let security = self.security.clone().map(|security| (database.clone(), security));
        Some(Box::new(Writes { standing: self.by.standing.clone(), user: self.by.user.clone(), security }))
    }

    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<error::Result<()>>> + Send + 'a>> {
        self.then.validate(database, proposals)
    }
}

/// Whether `user` may still write.
struct Writes {
    standing: Arc<Standing>,
    user: UserCtx,
    security: Option<(Arc<Database>, Arc<str>)>,
}

impl Guard for Writes {
    fn check(&self) -> error::Result<()> {
        self.standing.confirm_now(&self.user)?;
        match &self.security {
            Some((database, security)) if !Arc::ptr_eq(&database.security(), security) => {
                Err(Error::Again("The _security of this database has changed while the request was under way.".into()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What is asked of one edit of the users' database before it has a revision. The members of one that has a password.
fn admit(edit: &Incoming, writer: Writer<'_>, mode: Mode) -> error::Result<Option<Map<String, Value>>> {
    users::may_write(&edit.id, writer)?;
    if !writer.security.is_admin(writer.user) {
        let is_nobody = writer.user.name.is_none();
        if is_nobody && mode == Mode::Replicated {
            return Err(Error::Unauthorized("You are not authorized to access this db.".into()));
        }
        if is_nobody && edit.deleted {
            return Err(Error::Forbidden("Only admins may delete other user docs.".into()));
        }
    }
    // A member's name may be written with escapes.
    if edit.deleted || !(edit.json.contains("\"password\"") || edit.json.contains('\\')) {
        return Ok(None);
    }
    let body = members(&edit.id, &edit.json)?;
    Ok(Some(body).filter(|body| body.get("password").is_some_and(|password| !password.is_null())))
}

/// Counts an edit, the `number`th account of its request, and hashes its password if it has one. Who is no admin writes one account
/// in a request (their own), sets no more passwords in a minute than sign-ins, since each costs as much, and makes no more
/// accounts in an hour than `sign_ups_per_hour`, with a password or without. Fails as a whole when there were more.
async fn admitted(
    app: &Arc<App>,
    edit: &mut Incoming,
    body: Option<Map<String, Value>>,
    writer: Writer<'_>,
    peer: Option<IpAddr>,
    number: usize,
) -> Result<error::Result<()>> {
    if !writer.security.is_admin(writer.user) {
        if number > 1 {
            return Ok(Err(Error::Forbidden("Only admins may write more than one account in a request.".into())));
        }
        let signs_up = !edit.deleted && !has_account(app, writer.user).await?;
        if signs_up || body.is_some() {
            app.limits.sign_in(peer)?;
        }
        if signs_up {
            app.limits.sign_up(peer)?;
        }
    }
    let Some(body) = body else { return Ok(Ok(())) };
    let settings = app.auth.settings();
    let clock = app.clock.clone();
    let hash = move || users::hash_password(&body, &settings.password, &settings.requirements, &clock);
    let name = users::name_of(&edit.id).unwrap_or_default().to_owned();
    Ok(app.hash(peer, &name, hash).await.map(|hashed| {
        if let Some(hashed) = hashed {
            edit.json = Value::Object(hashed).to_string();
        }
    }))
}

/// Whether a user has a document in the users' database; those of tokens and of proxies may have none.
async fn has_account(app: &Arc<App>, user: &UserCtx) -> error::Result<bool> {
    let Some(name) = user.name.clone() else { return Ok(false) };
    let accounts = app.accounts.clone();
    blocking(move || Ok(accounts.document(&name)?.is_some())).await
}

/// The rules of the users' database, before those of its design documents.
struct Rules<'a> {
    app: &'a Arc<App>,
    user: &'a UserCtx,
    security: &'a Security,
    mode: Mode,
    scripts: &'a dyn Validate,
}

impl Validate for Rules<'_> {
    fn applies(&self, _: &Database) -> bool {
        true
    }

    /// Who is no admin is held to the one leaf that the verdict saw. Admins resolve conflicts and replicate; an account that
    /// they delete is deleted with its conflicts.
    fn terms(&self, _: &Database) -> Terms {
        let is_admin = self.security.is_admin(self.user);
        Terms { unmoved: !is_admin, deletes_all: is_admin }
    }

    /// [`Confirmed`] has one.
    fn guard(&self, _: &Arc<Database>) -> Option<Box<dyn Guard>> {
        None
    }

    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<error::Result<()>>> + Send + 'a>> {
        Box::pin(async move {
            let mut verdicts = Vec::with_capacity(proposals.len());
            let mut rest = Vec::new();
            let mut made = Vec::new();
            for proposal in proposals {
                let verdict = self.verdict(&proposal);
                if verdict.is_ok() {
                    if proposal.leaves.iter().all(|leaf| leaf.deleted) {
                        made.push(proposal.id.clone());
                    }
                    rest.push(proposal);
                }
                verdicts.push(verdict);
            }
            if !rest.is_empty() && self.scripts.applies(database) {
                let mut scripted = self.scripts.validate(database, rest).await.into_iter();
                for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_ok()) {
                    *verdict = scripted.next().unwrap_or(Ok(()));
                }
            }
            // What an account of this name left behind, if it went by another way than a deletion (a purge, a deleted
            // database, a server that stopped in between), is gone before there is a new one.
            if !made.is_empty()
                && let Err(error) = forget(self.app, made).await
            {
                return verdicts.into_iter().map(|verdict| verdict.and(Err(error.clone()))).collect();
            }
            verdicts
        })
    }
}

impl Rules<'_> {
    fn verdict(&self, proposal: &Proposal) -> error::Result<()> {
        if proposal.id.starts_with("_design/") || proposal.id.starts_with("_local/") {
            return Ok(());
        }
        let writer = Writer { user: self.user, security: self.security };
        let is_admin = self.security.is_admin(self.user);
        if !is_admin {
            // After the password was hashed: to sign-up, the name of an admin is as taken as any other, and takes as long.
            if users::name_of(&proposal.id).is_some_and(|name| self.app.accounts.admin(name).is_some()) {
                let reason = "Only admins may write the account of a name that stands in [admins].";
                let is_nobody = self.user.name.is_none();
                return Err(if is_nobody { Error::Conflict } else { Error::Forbidden(reason.into()) });
            }
            let sign_up = is_open_for_sign_up(self.app, self.security);
            users::may_extend(standing(proposal), self.user, sign_up, self.mode == Mode::Replicated)?;
        }
        let new = members(&proposal.id, &proposal.new)?;
        let old = proposal.old.as_deref().map(|old| members(&proposal.id, old)).transpose()?;
        // A deleted document is no account any more: what follows it is a new one.
        let old = old.filter(|old| old.get("_deleted") != Some(&Value::Bool(true)));
        if new.get("_deleted") == Some(&Value::Bool(true)) {
            return users::validate_delete(old.as_ref(), writer);
        }
        // Admins bring accounts from elsewhere with whatever hash they have; signing in with it is another matter.
        if !is_admin || self.mode == Mode::Interactive {
            password::check_members(&new, &self.app.auth.settings().password)?;
        }
        users::validate(&proposal.id, &new, old.as_ref(), writer)
    }
}

/// How the account stands that a proposal changes.
fn standing(proposal: &Proposal) -> AccountStanding {
    // Conflicts that were resolved are deleted leaves.
    let living: Vec<&Leaf> = proposal.leaves.iter().filter(|leaf| !leaf.deleted).collect();
    match living.as_slice() {
        [] if proposal.leaves.is_empty() => AccountStanding::Absent,
        [] => AccountStanding::Removed,
        [leaf] => AccountStanding::Living { extended: proposal.parent.as_ref() == Some(&leaf.revision) },
        _ => AccountStanding::Conflicted,
    }
}

/// Refuses who is no admin of the users' database its `_local` documents. A client that writes its own account there by
/// replication has no checkpoint and compares each time, which is one document.
pub fn check_local(app: &App, user: &UserCtx, database: &Database) -> error::Result<()> {
    if user.is_server_admin() || !is_users(app, database) {
        return Ok(());
    }
    security_of(database)?.check_admin(user)
}

/// Documents of `database` were purged: what accounts among them left is forgotten.
pub async fn purged(app: &Arc<App>, database: &Database, purged: &[Purged]) {
    if !is_users(app, database) {
        return;
    }
    forget_gone(app, purged.iter().map(|(id, _)| id.clone()).collect()).await;
    // A document that is gone as a whole is no row of the changes, by which feeds are woken else.
    for name in purged.iter().filter_map(|(id, _)| users::name_of(id)) {
        app.wakes.wake(name);
    }
}

/// Refuses changing the users' database's `_security` unless the settings allow it.
pub fn check_security_editable(app: &App, database: &Database) -> error::Result<()> {
    if is_users(app, database) && !app.auth.settings().users_db_security_editable {
        return Err(Error::Forbidden("You can't edit the security object of the user database.".into()));
    }
    Ok(())
}

/// Gives the users' database its design document, if this is one and it has none. Others see to it that it stays.
pub async fn settle(app: &Arc<App>, database: &Arc<Database>) -> error::Result<()> {
    if !is_users(app, database) {
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
