//! The access that a route requires: a second `match`, next to the routing table (`chttpd_auth_request.erl`).
//!
//! A single document may require more (design documents: an admin of the database; users' documents: their
//! users). That is checked where documents are written and read, because a bulk request or a `COPY` names the
//! document in its body or headers.

use super::route::{AttachmentVerb, DbRoute, DocumentVerb, NodeRoute, Route, ServerRoute};
use crate::config::Settings;
use crate::http::response::error::Result;
use crate::policy::access::{Access, Openness};
use crate::replicate::documents::holds_replications;

/// The access that a route needs. `users`: the name of the users' database.
pub fn needed(route: &Route, users: &str) -> Access {
    use ServerRoute as S;
    match route {
        Route::Server(server) => match server {
            S::Welcome | S::Favicon | S::Utils(_) | S::Up | S::Uuids => Access::Anyone,
            S::Session | S::SignIn | S::SignOut | S::Token => Access::Anyone,
            S::Devices | S::RevokeDevices(_) | S::Replicate => Access::SignedIn,
            S::SyncStatus | S::SyncHistory | S::SyncAlerts | S::LivesyncLink => Access::SignedIn,
            S::AllDbs | S::DbsInfo | S::DbsInfoOf => Access::ListDatabases,
            S::DbUpdates
            | S::Conflicts
            | S::ActiveTasks
            | S::SchedulerJobs
            | S::SchedulerJob(_)
            | S::SchedulerDocs(_)
            | S::SchedulerDoc(..)
            | S::Membership
            | S::ClusterState
            | S::ClusterSetup
            | S::ReloadQueryServers => Access::Admin,
            S::Node(node) => match node {
                NodeRoute::Stats(_) | NodeRoute::System | NodeRoute::Prometheus => Access::Metrics,
                NodeRoute::Name
                | NodeRoute::Nodes
                | NodeRoute::Versions
                | NodeRoute::Restart
                | NodeRoute::Config
                | NodeRoute::ConfigReload
                | NodeRoute::ConfigSection(_)
                | NodeRoute::ConfigKey(..)
                | NodeRoute::ConfigSet(..)
                | NodeRoute::ConfigDelete(..)
                | NodeRoute::Settings
                | NodeRoute::Logs
                | NodeRoute::Audit
                | NodeRoute::History
                | NodeRoute::Backups
                | NodeRoute::MakeBackup
                | NodeRoute::CheckState
                | NodeRoute::Check => Access::Admin,
            },
        },
        Route::Database { name, what } => {
            let needed = of_database(what);
            match needed {
                Access::Member if name == users => of_accounts(what),
                // Replications: nobody but admins reads them in bulk.
                Access::Member if name == "_replicator" && in_bulk(what) => Access::Admin,
                // One by one, they come without the passwords of others.
                Access::Member if holds_replications(name) && in_bulk(what) => Access::DatabaseAdmin,
                // `/_anything`: CouchDB lets nobody but admins ask for it, and then finds no such database.
                _ if name.starts_with('_') && name != users && !matches!(name.as_str(), "_users" | "_replicator") => {
                    Access::Admin
                }
                needed => needed,
            }
        }
    }
}

/// Whether the route empties a vault of Obsidian LiveSync, which its owner may do: the plugin's "rebuild" deletes the
/// database and makes it again. `settee livesync` names the vaults in the section `livesync` of the settings.
pub fn resets_vault(route: &Route, settings: &Settings) -> bool {
    let Route::Database { name, what: DbRoute::Delete } = route else { return false };
    settings.table().get("livesync").is_some_and(|vaults| vaults.contains_key(name))
}

/// The access that a path without a route needs (a wrong method, say), and its database if it has one:
/// CouchDB decides by the path alone, before it looks at anything else.
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
        DbRoute::Views | DbRoute::Try => Access::ManageDatabase,
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
        | DbRoute::DocumentList(_)
        | DbRoute::DocumentListQueries(_)
        | DbRoute::BulkDocs
        | DbRoute::BulkGet
        | DbRoute::Changes
        | DbRoute::Conflicts
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
        DbRoute::DocumentList(_)
            | DbRoute::DocumentListQueries(_)
            | DbRoute::Changes
            | DbRoute::Conflicts
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

/// Classifies a route.
pub fn openness(route: &Result<Route>) -> Openness {
    match route {
        Ok(Route::Server(ServerRoute::SignIn | ServerRoute::Token)) => Openness::SignIn,
        Ok(Route::Server(ServerRoute::Up)) => Openness::Up,
        _ => Openness::Closed,
    }
}

#[cfg(test)]
pub mod tests;
