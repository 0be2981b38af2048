//! The rules for writing accounts: documents of the users' database.
//!
//! Rules that depend on what is stored are asked of the leaves that `db` shows with the proposal, and hold at
//! the commit: who is no admin writes on the terms that these leaves have not moved ([`crate::db::Terms`]).
//! Nothing that was read when a request began counts.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::users_database::forget;
use super::write_error::Result;
use crate::app::App;
use crate::app::user_store::members;
use crate::auth::users::{self, AccountState, Writer};
use crate::auth::{Security, UserCtx, Users, password};
use crate::blocking::blocking;
use crate::db::{Database, Guard, Incoming, Leaf, Mode, Proposal, Terms, Validate};
use crate::error::{self, Error};

/// Checks one edit of the users' database before it has a revision. Returns its members if it has a password.
pub(super) fn admit(edit: &Incoming, writer: Writer<'_>, mode: Mode) -> error::Result<Option<Map<String, Value>>> {
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

/// Counts an edit, the `number`th account of its request, and hashes its password if it has one. Who is no
/// admin writes one account in a request (their own), sets no more passwords in a minute than sign-ins, since
/// each costs as much, and makes no more accounts in an hour than `sign_ups_per_hour`, with a password or
/// without. Fails as a whole when there were more.
pub(super) async fn admitted(
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

/// Whether a user has a document in the users' database; users of tokens and proxies may have none.
async fn has_account(app: &Arc<App>, user: &UserCtx) -> error::Result<bool> {
    let Some(name) = user.name.clone() else { return Ok(false) };
    let accounts = app.accounts.clone();
    blocking(move || Ok(accounts.document(&name)?.is_some())).await
}

/// The rules of the users' database, before those of its design documents.
pub(super) struct Rules<'a> {
    pub app: &'a Arc<App>,
    pub user: &'a UserCtx,
    pub security: &'a Security,
    pub mode: Mode,
    pub scripts: &'a dyn Validate,
}

impl Validate for Rules<'_> {
    fn applies(&self, _: &Database) -> bool {
        true
    }

    /// A user without admin rights may only extend the leaf that the rules have seen. Admins may resolve conflicts and
    /// replicate. If an admin deletes an account, its conflicts are deleted, too.
    fn terms(&self, _: &Database) -> Terms {
        let is_admin = self.security.is_admin(self.user);
        Terms { unmoved: !is_admin, deletes_all: is_admin }
    }

    /// [`Confirmed`](super::confirmed::Confirmed) has one.
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
            // Remove what an earlier account of this name left behind, in case it did not end by a deletion (but by
            // a purge, a deleted database, or a server that stopped in between).
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
            // After the password was hashed: to sign-up, the name of an admin is as taken as any other, and
            // takes as long.
            if users::name_of(&proposal.id).is_some_and(|name| self.app.accounts.admin(name).is_some()) {
                let reason = "Only admins may write the account of a name that stands in [admins].";
                let is_nobody = self.user.name.is_none();
                return Err(if is_nobody { Error::Conflict } else { Error::Forbidden(reason.into()) });
            }
            let sign_up = is_open_for_sign_up(self.app, self.security);
            users::may_extend(state_of(proposal), self.user, sign_up, self.mode == Mode::Replicated)?;
        }
        let new = members(&proposal.id, &proposal.new)?;
        let old = proposal.old.as_deref().map(|old| members(&proposal.id, old)).transpose()?;
        // A deleted document is no account any more: a later revision is a new account.
        let old = old.filter(|old| old.get("_deleted") != Some(&Value::Bool(true)));
        if new.get("_deleted") == Some(&Value::Bool(true)) {
            return users::validate_delete(old.as_ref(), writer);
        }
        // Admins may import accounts with any hash; the sign-in checks separately whether it can be used.
        if !is_admin || self.mode == Mode::Interactive {
            password::check_members(&new, &self.app.auth.settings().password)?;
        }
        users::validate(&proposal.id, &new, old.as_ref(), writer)
    }
}

/// The state of the account that a proposal changes.
fn state_of(proposal: &Proposal) -> AccountState {
    // Conflicts that were resolved are deleted leaves.
    let living: Vec<&Leaf> = proposal.leaves.iter().filter(|leaf| !leaf.deleted).collect();
    match living.as_slice() {
        [] if proposal.leaves.is_empty() => AccountState::Absent,
        [] => AccountState::Removed,
        [leaf] => AccountState::Living { extended: proposal.parent.as_ref() == Some(&leaf.revision) },
        _ => AccountState::Conflicted,
    }
}

/// Whether anybody may make their own account.
fn is_open_for_sign_up(app: &App, security: &Security) -> bool {
    app.settings().flag("chttpd_auth", "allow_sign_up") || security.is_member(&UserCtx::anonymous())
}
