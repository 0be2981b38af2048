//! Who asks, and what a route needs: the second match, beside the routing table (`chttpd_auth_request.erl`).

use serde_json::Value;

use super::failure::Result;
use super::route::{DbRoute, DocumentVerb, NodeRoute, Route, ServerRoute};
use crate::auth::UserCtx;
use crate::config::Settings;
use crate::error::Error;

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
    /// An admin of the database.
    DatabaseAdmin,
    /// A server admin.
    Admin,
}

/// The access that a route needs.
pub fn needed(route: &Route) -> Access {
    use ServerRoute as S;
    match route {
        Route::Server(server) => match server {
            S::Welcome | S::Favicon | S::Utils(_) | S::Up | S::Uuids | S::Session | S::SignIn | S::SignOut => {
                Access::Anyone
            }
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
        Route::Database { name, what } => match what {
            // `/_anything`: CouchDB lets nobody but admins ask for it, and then finds no such database.
            _ if name.starts_with('_') && !is_system(name) => Access::Admin,
            DbRoute::Create | DbRoute::Delete => Access::Admin,
            DbRoute::SyncShards | DbRoute::Purge | DbRoute::PurgedInfosLimit | DbRoute::SetPurgedInfosLimit => {
                Access::Admin
            }
            DbRoute::Compact | DbRoute::CompactViews(_) | DbRoute::ViewCleanup => Access::DatabaseAdmin,
            DbRoute::SetSecurity | DbRoute::SetRevsLimit | DbRoute::SetAutoPurge => Access::DatabaseAdmin,
            // Accounts and replications: nobody but admins reads them in bulk.
            DbRoute::List(_) | DbRoute::ListQueries(_) | DbRoute::Changes if is_system(name) => Access::Admin,
            DbRoute::Document(
                DocumentVerb::Put | DocumentVerb::Delete | DocumentVerb::Copy | DocumentVerb::Post,
                id,
            ) if id.starts_with("_design/") => Access::DatabaseAdmin,
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
            | DbRoute::Document(..)
            | DbRoute::Attachment(..) => Access::Member,
        },
    }
}

fn is_system(name: &str) -> bool {
    matches!(name, "_users" | "_replicator")
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
        Access::SignedIn if user.name.is_some() => Ok(Verdict::Granted),
        Access::SignedIn => Err(Error::Unauthorized("You are not an authenticated user".into()).into()),
        Access::ListDatabases if !settings.admin_only_all_dbs => Ok(Verdict::Granted),
        Access::Metrics if user.roles.iter().any(|role| role == "_metrics") => Ok(Verdict::Granted),
        Access::Metrics => {
            Err(Error::Unauthorized("You are not a server admin or read-only metrics user".into()).into())
        }
        Access::ListDatabases | Access::Admin => Err(Error::Unauthorized("You are not a server admin.".into()).into()),
        Access::Member | Access::DatabaseAdmin => Ok(Verdict::AskDatabase),
    }
}

/// Decides by a database's `_security` object; for users who are not server admins (`couch_db:check_is_member`).
pub fn check_database(needed: Access, user: &UserCtx, security: &Value) -> Result<()> {
    let named = |group: &str, kind: &str, wanted: &str| {
        security[group][kind].as_array().is_some_and(|list| list.iter().any(|one| one == wanted))
    };
    let is_in = |group: &str| {
        user.name.as_deref().is_some_and(|name| named(group, "names", name))
            || user.roles.iter().any(|role| named(group, "roles", role))
    };
    let is_empty =
        |group: &str| ["names", "roles"].iter().all(|kind| security[group][*kind].as_array().is_none_or(Vec::is_empty));
    let granted = match needed {
        Access::Member => is_in("admins") || is_in("members") || is_empty("members"),
        _ => is_in("admins"),
    };
    if granted {
        return Ok(());
    }
    let refusal = match (needed, &user.name) {
        (Access::Member, None) => Error::Unauthorized("You are not authorized to access this db.".into()),
        (Access::Member, Some(_)) => Error::Forbidden("You are not allowed to access this db.".into()),
        _ => Error::Unauthorized("You are not a server or db admin.".into()),
    };
    Err(refusal.into())
}

/// Whether a request without an account may go on at all (`chttpd_auth:party_mode_handler`).
pub fn check_nobody(route: &Result<Route>, settings: &Settings) -> Result<()> {
    let (all, but_up) = (settings.require_valid_user, settings.require_valid_user_except_for_up);
    let refused = match route {
        Ok(Route::Server(ServerRoute::SignIn)) => false,
        Ok(Route::Server(ServerRoute::Up)) => all && !but_up,
        _ => all || but_up,
    };
    if refused { Err(Error::Unauthorized("Authentication required.".into()).into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::failure::Failure;
    use super::*;
    use serde_json::json;

    fn user(name: &str, roles: &[&str]) -> UserCtx {
        UserCtx { name: Some(name.into()), roles: roles.iter().map(|role| (*role).into()).collect(), handler: None }
    }

    #[test]
    fn members_and_admins_of_a_database() {
        let security =
            json!({"admins": {"names": ["ann"], "roles": []}, "members": {"names": ["ben"], "roles": ["staff"]}});
        for (who, member, admin) in [
            (user("ann", &[]), true, true),
            (user("ben", &[]), true, false),
            (user("eve", &["staff"]), true, false),
            (user("eve", &[]), false, false),
            (UserCtx::default(), false, false),
        ] {
            assert_eq!(check_database(Access::Member, &who, &security).is_ok(), member, "{who:?}");
            assert_eq!(check_database(Access::DatabaseAdmin, &who, &security).is_ok(), admin, "{who:?}");
        }
        assert!(check_database(Access::Member, &UserCtx::default(), &json!({})).is_ok());
        assert!(check_database(Access::DatabaseAdmin, &UserCtx::default(), &json!({})).is_err());
        let nobody = check_database(Access::Member, &UserCtx::default(), &security);
        assert_eq!(
            nobody,
            Err(Failure::Domain(Error::Unauthorized("You are not authorized to access this db.".into())))
        );
    }

    #[test]
    fn require_valid_user_leaves_signing_in_open() {
        let with = |key: &str| {
            let mut table = crate::config::Table::new();
            table.entry("chttpd".into()).or_default().insert(key.into(), "true".into());
            Settings::new(table).unwrap()
        };
        let up = Ok(Route::Server(ServerRoute::Up));
        let sign_in = Ok(Route::Server(ServerRoute::SignIn));
        let welcome = Ok(Route::Server(ServerRoute::Welcome));
        for (key, route, open) in [
            ("require_valid_user", &sign_in, true),
            ("require_valid_user", &up, false),
            ("require_valid_user", &welcome, false),
            ("require_valid_user_except_for_up", &up, true),
            ("require_valid_user_except_for_up", &welcome, false),
        ] {
            assert_eq!(check_nobody(route, &with(key)).is_ok(), open, "{key} {route:?}");
        }
        assert!(check_nobody(&welcome, &Settings::default()).is_ok());
    }
}
