//! Who asks, and what a route needs: the second match, beside the routing table (`chttpd_auth_request.erl`).
//!
//! What a single document needs beside that (design documents for admins of the database, users' documents for their
//! users) is asked where documents are written and read, because a bulk request or a `COPY` names it in its body or headers.

use serde_json::Value;

use super::route::{AttachmentVerb, DbRoute, DocumentVerb, NodeRoute, Route, ServerRoute};
use crate::auth::{Security, Session, UserCtx};
use crate::config::Settings;
use crate::error::Error;
use crate::http::request::{Request, Verb};
use crate::http::response::cors;
use crate::http::response::error::Result;

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
    /// A document of the users' database: whoever is signed in, who is then shown and lets write what is theirs; nobody
    /// only if the database is public (sign-up).
    Account,
    /// What the users' database has beside users: its admins, and 403 for all others, as CouchDB answers.
    AccountsAdmin,
    /// An admin of the database, to whom it is a matter of the server: 401 for all others (compaction).
    DatabaseAdmin,
    /// An admin of the database who changes it: 401 for nobody, 403 for somebody else.
    ManageDatabase,
    /// A server admin.
    Admin,
}

/// The access that a route needs. `users`: the name of the users' database.
pub fn needed(route: &Route, users: &str) -> Access {
    use ServerRoute as S;
    match route {
        Route::Server(server) => match server {
            S::Welcome | S::Favicon | S::Utils(_) | S::Up | S::Uuids => Access::Anyone,
            S::Session | S::SignIn | S::SignOut | S::Token => Access::Anyone,
            S::Devices | S::RevokeDevices(_) => Access::SignedIn,
            S::AllDbs | S::DbsInfo | S::DbsInfoOf => Access::ListDatabases,
            S::DbUpdates
            | S::ActiveTasks
            | S::Membership
            | S::ClusterState
            | S::ClusterSetup
            | S::ReloadQueryServers => Access::Admin,
            S::Node(node) => match node {
                NodeRoute::Stats(_) | NodeRoute::System | NodeRoute::Prometheus => Access::Metrics,
                NodeRoute::Name
                | NodeRoute::Versions
                | NodeRoute::Restart
                | NodeRoute::Config
                | NodeRoute::ConfigReload
                | NodeRoute::ConfigSection(_)
                | NodeRoute::ConfigKey(..)
                | NodeRoute::ConfigSet(..)
                | NodeRoute::ConfigDelete(..) => Access::Admin,
            },
        },
        Route::Database { name, what } => {
            let needed = of_database(what);
            match needed {
                Access::Member if name == users => of_accounts(what),
                // Replications: nobody but admins reads them in bulk.
                Access::Member if name == "_replicator" && in_bulk(what) => Access::Admin,
                // `/_anything`: CouchDB lets nobody but admins ask for it, and then finds no such database.
                _ if name.starts_with('_') && name != users && !matches!(name.as_str(), "_users" | "_replicator") => {
                    Access::Admin
                }
                needed => needed,
            }
        }
    }
}

/// The access that a path without a route needs (a wrong method, say), and its database if it has one: CouchDB decides
/// by the path alone, before it looks at anything else.
pub fn needed_by_path(segments: &[String]) -> (Access, Option<String>) {
    match segments.first().map(String::as_str) {
        None | Some("favicon.ico" | "_utils" | "_up" | "_uuids" | "_session") => (Access::Anyone, None),
        Some("_all_dbs" | "_dbs_info") => (Access::ListDatabases, None),
        Some(name @ ("_users" | "_replicator")) => (Access::Member, Some(name.to_owned())),
        Some(name) if name.starts_with('_') => (Access::Admin, None),
        Some(name) => (Access::Member, Some(name.to_owned())),
    }
}

/// What a route of any database needs.
fn of_database(what: &DbRoute) -> Access {
    match what {
        DbRoute::Create | DbRoute::Delete => Access::Admin,
        DbRoute::SyncShards | DbRoute::Purge | DbRoute::PurgedInfosLimit | DbRoute::SetPurgedInfosLimit => {
            Access::Admin
        }
        DbRoute::Compact | DbRoute::CompactViews(_) | DbRoute::ViewCleanup => Access::DatabaseAdmin,
        DbRoute::SetSecurity | DbRoute::SetRevsLimit | DbRoute::SetAutoPurge => Access::ManageDatabase,
        DbRoute::CreateIndex | DbRoute::DeleteIndexes | DbRoute::DeleteIndex { .. } => Access::ManageDatabase,
        DbRoute::Document(verb, id) => match verb {
            DocumentVerb::Put | DocumentVerb::Post | DocumentVerb::Delete if is_design(id) => Access::ManageDatabase,
            DocumentVerb::Get | DocumentVerb::Put | DocumentVerb::Post | DocumentVerb::Delete | DocumentVerb::Copy => {
                Access::Member
            }
        },
        DbRoute::Attachment(verb, id, _) => match verb {
            AttachmentVerb::Put | AttachmentVerb::Delete if is_design(id) => Access::ManageDatabase,
            AttachmentVerb::Get | AttachmentVerb::Put | AttachmentVerb::Delete => Access::Member,
        },
        DbRoute::Info
        | DbRoute::Post
        | DbRoute::List(_)
        | DbRoute::ListQueries(_)
        | DbRoute::BulkDocs
        | DbRoute::BulkGet
        | DbRoute::Changes
        | DbRoute::RevsDiff
        | DbRoute::MissingRevs
        | DbRoute::EnsureFullCommit
        | DbRoute::Security
        | DbRoute::RevsLimit
        | DbRoute::PurgedInfos
        | DbRoute::AutoPurge
        | DbRoute::Shards
        | DbRoute::ShardOf(_)
        | DbRoute::Partition(_)
        | DbRoute::PartitionDocs(_)
        | DbRoute::Find(_)
        | DbRoute::Explain(_)
        | DbRoute::Indexes
        | DbRoute::View(..)
        | DbRoute::ViewQueries(..)
        | DbRoute::DesignInfo(_)
        | DbRoute::Show(..)
        | DbRoute::ListFunction(_)
        | DbRoute::Update(..)
        | DbRoute::Rewrite(_) => Access::Member,
    }
}

/// What members may ask of other databases, asked of the users' database.
fn of_accounts(what: &DbRoute) -> Access {
    match what {
        DbRoute::Info
        | DbRoute::Post
        | DbRoute::BulkDocs
        | DbRoute::BulkGet
        | DbRoute::RevsDiff
        | DbRoute::MissingRevs
        | DbRoute::EnsureFullCommit
        | DbRoute::Show(_, _, Some(_))
        | DbRoute::Document(..)
        | DbRoute::Attachment(..) => Access::Account,
        DbRoute::View(..) | DbRoute::ViewQueries(..) | DbRoute::ListFunction(_) => Access::AccountsAdmin,
        what if in_bulk(what) => Access::Admin,
        _ => Access::AccountsAdmin,
    }
}

/// What reads all documents of a database.
fn in_bulk(what: &DbRoute) -> bool {
    matches!(
        what,
        DbRoute::List(_)
            | DbRoute::ListQueries(_)
            | DbRoute::Changes
            | DbRoute::PartitionDocs(_)
            | DbRoute::Find(_)
            | DbRoute::Explain(_)
            | DbRoute::View(..)
            | DbRoute::ViewQueries(..)
            | DbRoute::ListFunction(_)
    )
}

/// Whether a route only reads documents, so that its answer can be refused after it was made.
pub fn only_reads(route: &Route) -> bool {
    let Route::Database { what, .. } = route else { return false };
    match what {
        DbRoute::BulkGet | DbRoute::RevsDiff | DbRoute::MissingRevs | DbRoute::Show(..) => true,
        DbRoute::Document(verb, _) => *verb == DocumentVerb::Get,
        DbRoute::Attachment(verb, ..) => *verb == AttachmentVerb::Get,
        what => in_bulk(what),
    }
}

fn is_design(id: &str) -> bool {
    id.starts_with("_design/")
}

/// The outcome of what can be told without the database's own `_security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// Ask [`check_database`] with the database's `_security`.
    AskDatabase,
}

/// Decides what the user alone decides.
pub fn check(needed: Access, user: &UserCtx, settings: &Settings) -> Result<Verdict> {
    if user.is_server_admin() {
        return Ok(Verdict::Granted);
    }
    match needed {
        Access::Anyone => Ok(Verdict::Granted),
        Access::SignedIn | Access::Account if user.name.is_some() => Ok(Verdict::Granted),
        Access::Account if settings.flag("chttpd_auth", "allow_sign_up") => Ok(Verdict::Granted),
        Access::SignedIn => Err(Error::Unauthorized("You are not an authenticated user".into()).into()),
        Access::ListDatabases if !settings.admin_only_all_dbs => Ok(Verdict::Granted),
        Access::Metrics if user.roles.iter().any(|role| role == "_metrics") => Ok(Verdict::Granted),
        Access::Metrics => {
            Err(Error::Unauthorized("You are not a server admin or read-only metrics user".into()).into())
        }
        Access::ListDatabases | Access::Admin => Err(Error::Unauthorized("You are not a server admin.".into()).into()),
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
            return Err(Error::Forbidden(reason.into()).into());
        }
        Access::DatabaseAdmin if !security.is_admin(user) => {
            return Err(Error::Unauthorized("You are not a server or db admin.".into()).into());
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

/// Classifies a route.
pub fn openness(route: &Result<Route>) -> Openness {
    match route {
        Ok(Route::Server(ServerRoute::SignIn | ServerRoute::Token)) => Openness::SignIn,
        Ok(Route::Server(ServerRoute::Up)) => Openness::Up,
        _ => Openness::Closed,
    }
}

/// Whether a request without an account may go on at all (`chttpd_auth:party_mode_handler`).
pub fn check_nobody(openness: Openness, settings: &Settings) -> Result<()> {
    let (all, but_up) = (settings.require_valid_user, settings.require_valid_user_except_for_up);
    let refused = match openness {
        Openness::SignIn => false,
        Openness::Up => all && !but_up,
        Openness::Closed => all || but_up,
    };
    if refused { Err(Error::Unauthorized("Authentication required.".into()).into()) } else { Ok(()) }
}

/// Refuses what a page of another site sends with the session of the user who looks at it (cross-site request forgery).
/// Reading is left to the browser, which shows such a page no answer. Beside CouchDB's own protection, that what writes
/// wants JSON, and covers what it does not: a bare `POST /_node/_local/_restart`, an update function by GET.
pub fn check_site(route: &Result<Route>, request: &Request) -> Result<()> {
    use ServerRoute as S;
    // Signing in needs no session: a form on another site could sign its visitor in as somebody else (login CSRF). What is of a
    // session is of no use to another site either.
    if let Ok(Route::Server(S::SignIn | S::SignOut | S::Token | S::Devices | S::RevokeDevices(_))) = route
        && !matches!(request.verb, Verb::Get | Verb::Options)
    {
        let says_json = request.header(http::header::CONTENT_TYPE).is_some_and(is_json);
        let preflighted = says_json || request.verb == Verb::Delete;
        // Tokens are for apps whose pages may have any origin or none; only a form could be another site's.
        let is_app = says_json && matches!(route, Ok(Route::Server(S::Token)));
        if !is_app && cors::is_from_elsewhere(&request.settings.cors, &request.headers, preflighted) {
            let reason = "A page of another site may not do this; its origin is not in [cors] origins.";
            return Err(Error::Forbidden(reason.into()).into());
        }
    }
    let by_cookie = matches!(request.session, Some(Session::Cookie(_)));
    let harmless = match route {
        Ok(Route::Server(ServerRoute::SignIn)) => true,
        Ok(Route::Database { what: DbRoute::Update(..), .. }) => false,
        _ => matches!(request.verb, Verb::Get | Verb::Options),
    };
    if by_cookie && !harmless && cors::is_foreign(&request.settings.cors, &request.headers) {
        let reason = "A page of another site may not do this with your session; its origin is not in [cors] origins.";
        return Err(Error::Forbidden(reason.into()).into());
    }
    Ok(())
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
pub mod tests;
