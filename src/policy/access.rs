//! The levels of access that an operation may require, and the checks of a user against them.

use serde_json::Value;

use crate::auth::{Security, UserCtx};
use crate::config::Settings;
use crate::error::{Error, Result};

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Anyone,
    /// Anyone who is signed in.
    SignedIn,
    /// An admin, or everybody if `admin_only_all_dbs` is off.
    ListDatabases,
    /// An admin, or a `_metrics` user.
    Metrics,
    /// A member of the database.
    Member,
    /// A document of the users' database: signed-in users, who see and write only their own; anonymous clients
    /// only if sign-up is open or the database is public.
    Account,
    /// Design documents and views of the users' database: its admins; 403 for all others, as CouchDB answers.
    AccountsAdmin,
    /// An admin of the database, for maintenance such as compaction; 401 for all others.
    DatabaseAdmin,
    /// An admin of the database who changes it; 401 if anonymous, 403 otherwise.
    ManageDatabase,
    /// A server admin.
    Admin,
}

/// The result of a check without the database's own `_security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// Ask [`check_database`] with the database's `_security`.
    AskDatabase,
}

/// Decides what needs only the user, and not the database's `_security`.
pub fn check(needed: Access, user: &UserCtx, settings: &Settings) -> Result<Verdict> {
    if user.is_server_admin() {
        return Ok(Verdict::Granted);
    }
    match needed {
        Access::Anyone => Ok(Verdict::Granted),
        Access::SignedIn | Access::Account if user.name.is_some() => Ok(Verdict::Granted),
        Access::Account if settings.flag("chttpd_auth", "allow_sign_up") => Ok(Verdict::Granted),
        Access::SignedIn => Err(Error::Unauthorized("You are not an authenticated user".into())),
        Access::ListDatabases if !settings.admin_only_all_dbs => Ok(Verdict::Granted),
        Access::Metrics if user.roles.iter().any(|role| role == "_metrics") => Ok(Verdict::Granted),
        Access::Metrics => Err(Error::Unauthorized("You are not a server admin or read-only metrics user".into())),
        Access::ListDatabases | Access::Admin => Err(Error::Unauthorized("You are not a server admin.".into())),
        Access::Member | Access::Account | Access::AccountsAdmin | Access::DatabaseAdmin | Access::ManageDatabase => {
            Ok(Verdict::AskDatabase)
        }
    }
}

/// Decides by a database's `_security` object; for users who are not server admins.
pub fn check_database(needed: Access, user: &UserCtx, security: &Value) -> Result<()> {
    let security = Security::stored(security);
    match needed {
        Access::Member | Access::Account => security.check_member(user)?,
        Access::ManageDatabase => security.check_admin(user)?,
        Access::AccountsAdmin if !security.is_admin(user) => {
            let reason = "Only administrators can view design docs in the users database.";
            return Err(Error::Forbidden(reason.into()));
        }
        Access::DatabaseAdmin if !security.is_admin(user) => {
            return Err(Error::Unauthorized("You are not a server or db admin.".into()));
        }
        Access::AccountsAdmin | Access::DatabaseAdmin => {}
        Access::Anyone | Access::SignedIn | Access::ListDatabases | Access::Metrics | Access::Admin => {}
    }
    Ok(())
}

/// What a request without an account may still do under `require_valid_user`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openness {
    /// Signing in.
    SignIn,
    /// `/_up`.
    Up,
    Closed,
}

/// Whether a request without an account may go on at all (`chttpd_auth:party_mode_handler`).
pub fn check_nobody(openness: Openness, settings: &Settings) -> Result<()> {
    let (all, but_up) = (settings.require_valid_user, settings.require_valid_user_except_for_up);
    let refused = match openness {
        Openness::SignIn => false,
        Openness::Up => all && !but_up,
        Openness::Closed => all || but_up,
    };
    if refused { Err(Error::Unauthorized("Authentication required.".into())) } else { Ok(()) }
}
