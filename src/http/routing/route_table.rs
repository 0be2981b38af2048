//! The routing table: one match from method and path to a [`Route`].
//!
//! The paths are CouchDB's (`chttpd_httpd_handlers.erl`, `chttpd_db.erl`). `_design/x` and `_local/x` are one
//! document id, written as two segments or as one segment with `%2F`. All segments after a document's id form
//! the name of an attachment, which may contain slashes.

use super::route::{AttachmentVerb, DbRoute, DocumentVerb, NodeRoute, Route, ServerRoute};
use crate::error::Error;
use crate::http::request::listing_path::{DocumentList, ListFunctionPath};
use crate::http::request::{Target, Verb};
use crate::http::response::error::{Failure, Result};
use crate::replicate::documents::holds_replications;

/// Returns the route of a request.
///
/// # Errors
/// Those of CouchDB for an unknown path, a wrong method or an illegal document id.
pub fn route(target: &Target) -> Result<Route> {
    let segments: Vec<&str> = target.segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        []
        | ["favicon.ico" | "_utils" | "_all_dbs" | "_dbs_info" | "_db_updates" | "_active_tasks", ..]
        | ["_membership" | "_cluster_setup" | "_reload_query_servers" | "_uuids" | "_up" | "_session" | "_node", ..]
        | ["_replicate" | "_scheduler" | "_conflicts" | "_sync" | "_livesync", ..] => {
            Ok(Route::Server(server(target.verb, &segments)?))
        }
        [name, rest @ ..] => Ok(Route::Database { name: (*name).to_owned(), what: database(target.verb, rest)? }),
    }
}

fn only<T>(allow: &'static str) -> Result<T> {
    Err(Failure::MethodNotAllowed(allow))
}

#[rustfmt::skip]
fn server(verb: Verb, segments: &[&str]) -> Result<ServerRoute> {
    use ServerRoute as R;
    use Verb::{Delete, Get, Post, Put};
    Ok(match (verb, segments) {
        (Get, []) => R::Welcome,
        (_, []) => return only("GET,HEAD"),
        (Get, ["favicon.ico", ..]) => R::Favicon,
        (Get, ["_utils", path @ ..]) => R::Utils(path.join("/")),
        (_, ["favicon.ico" | "_utils", ..]) => return only("GET,HEAD"),

        (Get, ["_all_dbs"]) => R::AllDbs,
        (Get, ["_dbs_info"]) => R::DbsInfo,
        (Post, ["_dbs_info"]) => R::DbsInfoOf,
        (Get, ["_db_updates"]) => R::DbUpdates,
        (Get, ["_conflicts"]) => R::Conflicts,
        (Get, ["_sync", "status"]) => R::SyncStatus,
        (Get, ["_sync", "history"]) => R::SyncHistory,
        (Get, ["_sync", "alerts"]) => R::SyncAlerts,
        (Post, ["_livesync", "link"]) => R::LivesyncLink,
        (Get, ["_active_tasks"]) => R::ActiveTasks,
        (Get, ["_membership"]) => R::Membership,
        (Get, ["_cluster_setup"]) => R::ClusterState,
        (Post, ["_cluster_setup"]) => R::ClusterSetup,
        (Post, ["_reload_query_servers"]) => R::ReloadQueryServers,
        (Get, ["_uuids"]) => R::Uuids,
        (Get, ["_up"]) => R::Up,
        (Get, ["_session"]) => R::Session,
        (Post, ["_session"]) => R::SignIn,
        (Delete, ["_session"]) => R::SignOut,
        (Get, ["_session", "devices"]) => R::Devices,
        (Delete, ["_session", "devices"]) => R::RevokeDevices(None),
        (Delete, ["_session", "devices", id]) => R::RevokeDevices(Some((*id).into())),
        (Post, ["_session", "token"]) => R::Token,
        (_, ["_session", "devices"]) => return only("DELETE,GET,HEAD"),
        (_, ["_session", "devices", _]) => return only("DELETE"),
        (_, ["_session", "token"]) => return only("POST"),
        (_, ["_all_dbs" | "_active_tasks" | "_up" | "_conflicts"]) => return only("GET,HEAD"),
        (_, ["_sync", "status" | "history" | "alerts"]) => return only("GET,HEAD"),
        (_, ["_livesync", "link"]) => return only("POST"),
        (_, ["_dbs_info"]) => return only("GET,HEAD,POST"),
        (_, ["_db_updates" | "_membership" | "_uuids"]) => return only("GET"),
        (_, ["_cluster_setup"]) => return only("GET,POST"),
        (_, ["_reload_query_servers"]) => return only("POST"),
        (_, ["_session"]) => return only("GET,HEAD,POST,DELETE"),

        (Post, ["_replicate"]) => R::Replicate,
        (_, ["_replicate"]) => return only("POST"),
        (Get, ["_scheduler", "jobs"]) => R::SchedulerJobs,
        (Get, ["_scheduler", "jobs", id]) => R::SchedulerJob((*id).into()),
        (Get, ["_scheduler", "docs", path @ ..]) => scheduler_docs(path)?,
        (_, ["_scheduler", ..]) if verb != Get => return only("GET,HEAD"),

        (_, ["_node"]) => return Err(Failure::bad_request("Incomplete path to _node request")),
        (_, ["_node", _]) => R::Node(NodeRoute::Name),
        (Get, ["_node", _, "_versions"]) => R::Node(NodeRoute::Versions),
        (Get, ["_node", _, "_nodes"]) => R::Node(NodeRoute::Nodes),
        (Get, ["_node", _, "_system"]) => R::Node(NodeRoute::System),
        (Get, ["_node", _, "_prometheus"]) => R::Node(NodeRoute::Prometheus),
        (Get, ["_node", _, "_stats", path @ ..]) => R::Node(NodeRoute::Stats(owned(path))),
        (Post, ["_node", _, "_restart"]) => R::Node(NodeRoute::Restart),
        (Get, ["_node", _, "_config"]) => R::Node(NodeRoute::Config),
        (Post, ["_node", _, "_config", "_reload"]) => R::Node(NodeRoute::ConfigReload),
        (_, ["_node", _, "_config", "_reload"]) => return only("POST"),
        (Get, ["_node", _, "_config", section]) => R::Node(NodeRoute::ConfigSection((*section).into())),
        (Get, ["_node", _, "_config", section, key]) => R::Node(NodeRoute::ConfigKey((*section).into(), (*key).into())),
        (Put, ["_node", _, "_config", section, key]) => R::Node(NodeRoute::ConfigSet((*section).into(), (*key).into())),
        (Delete, ["_node", _, "_config", section, key]) => R::Node(NodeRoute::ConfigDelete((*section).into(), (*key).into())),
        (_, ["_node", _, "_versions" | "_nodes" | "_system" | "_prometheus" | "_stats" | "_config"]) => return only("GET"),
        (_, ["_node", _, "_config", _]) => return only("GET"),
        (_, ["_node", _, "_config", _, _]) => return only("GET,PUT,DELETE"),
        (_, ["_node", _, "_restart"]) => return only("POST"),
        (_, ["_node", _, path @ ("_settings" | "_logs" | "_audit" | "_history" | "_backups" | "_check")]) => R::Node(console_of_node(verb, path)?),

        _ => return Err(Failure::missing()),
    })
}

/// What the console asks a node for.
fn console_of_node(verb: Verb, path: &str) -> Result<NodeRoute> {
    match (verb, path) {
        (Verb::Get, "_settings") => Ok(NodeRoute::Settings),
        (Verb::Get, "_logs") => Ok(NodeRoute::Logs),
        (Verb::Get, "_audit") => Ok(NodeRoute::Audit),
        (Verb::Get, "_history") => Ok(NodeRoute::History),
        (Verb::Get, "_backups") => Ok(NodeRoute::Backups),
        (Verb::Post, "_backups") => Ok(NodeRoute::MakeBackup),
        (Verb::Get, "_check") => Ok(NodeRoute::CheckState),
        (Verb::Post, "_check") => Ok(NodeRoute::Check),
        (_, "_backups" | "_check") => only("GET,HEAD,POST"),
        _ => only("GET,HEAD"),
    }
}

/// `_scheduler/docs[/{db}[/{id}]]`. The slashes of the database's name may be percent-encoded or not.
fn scheduler_docs(path: &[&str]) -> Result<ServerRoute> {
    use ServerRoute as R;
    let owned = |name: &str, id: &str| R::SchedulerDoc(name.to_owned(), id.to_owned());
    match path {
        [] => return Ok(R::SchedulerDocs("_replicator".to_owned())),
        [name] if holds_replications(name) => return Ok(R::SchedulerDocs((*name).to_owned())),
        [name, id] if holds_replications(name) => return Ok(owned(name, id)),
        _ => {}
    }
    let end = path.iter().position(|part| *part == "_replicator");
    match end.map(|end| (path[..=end].join("/"), &path[end + 1..])) {
        Some((name, [])) => Ok(R::SchedulerDocs(name)),
        Some((name, [id])) => Ok(owned(&name, id)),
        Some(_) | None => Err(Failure::bad_request("Invalid path")),
    }
}

#[rustfmt::skip]
fn database(verb: Verb, rest: &[&str]) -> Result<DbRoute> {
    use DbRoute as R;
    use Verb::{Delete, Get, Post, Put};
    if let [id, tail @ ..] = rest
        && let Some(name) = id.strip_prefix("_design/")
        && let Some(
            "_view" | "_info" | "_show" | "_list" | "_update" | "_rewrite" | "_search" | "_search_info" | "_search_disk_size",
        ) = tail.first().copied()
    {
        return database(verb, &[&["_design", name], tail].concat());
    }
    Ok(match (verb, rest) {
        (Get, []) => R::Info,
        (Put, []) => R::Create,
        (Delete, []) => R::Delete,
        (Post, []) => R::Post,
        (_, []) => return only("DELETE,GET,HEAD,POST"),

        (Post, [list @ ("_all_docs" | "_design_docs" | "_local_docs"), "queries"]) => R::DocumentListQueries(document_list(list)),
        (_, ["_all_docs" | "_design_docs" | "_local_docs", "queries"]) => return only("POST"),
        (Get | Post, [list @ ("_all_docs" | "_design_docs" | "_local_docs")]) => R::DocumentList(document_list(list)),
        (_, ["_all_docs" | "_design_docs" | "_local_docs"]) => return only("GET,HEAD,POST"),
        (Get | Post, ["_changes"]) => R::Changes,
        (_, ["_changes"]) => return only("GET,POST,HEAD"),

        (Get, ["_conflicts"]) => R::Conflicts,
        (_, ["_conflicts"]) => return only("GET,HEAD"),

        (Post, ["_bulk_docs"]) => R::BulkDocs,
        (Post, ["_bulk_get"]) => R::BulkGet,
        (Post, ["_revs_diff"]) => R::RevsDiff,
        (Post, ["_missing_revs"]) => R::MissingRevs,
        (Post, ["_ensure_full_commit"]) => R::EnsureFullCommit,
        (Post, ["_view_cleanup"]) => R::ViewCleanup,
        (Post, ["_sync_shards"]) => R::SyncShards,
        (Post, ["_purge"]) => R::Purge,
        (Post, ["_compact"]) => R::Compact,
        (Post, ["_compact", ddoc, ..]) => R::CompactViews((*ddoc).into()),
        (_, ["_bulk_docs" | "_bulk_get" | "_revs_diff" | "_missing_revs" | "_ensure_full_commit" | "_purge"]) => return only("POST"),
        (_, ["_view_cleanup" | "_sync_shards"] | ["_compact", ..]) => return only("POST"),

        (Get, ["_security"]) => R::Security,
        (Put, ["_security"]) => R::SetSecurity,
        (Get, ["_revs_limit"]) => R::RevsLimit,
        (Put, ["_revs_limit"]) => R::SetRevsLimit,
        (Get, ["_purged_infos"]) => R::PurgedInfos,
        (Get, ["_purged_infos_limit"]) => R::PurgedInfosLimit,
        (Put, ["_purged_infos_limit"]) => R::SetPurgedInfosLimit,
        (Get, ["_auto_purge"]) => R::AutoPurge,
        (Put, ["_auto_purge"]) => R::SetAutoPurge,
        (Get, ["_shards"]) => R::Shards,
        (Get, ["_shards", id]) => R::ShardOf((*id).into()),
        (Get, ["_shards", head @ ("_design" | "_local"), id]) => R::ShardOf(format!("{head}/{id}")),
        (_, ["_security" | "_revs_limit"]) => return only("PUT,GET"),
        (_, ["_purged_infos"] | ["_shards"] | ["_shards", _]) => return only("GET"),
        (_, ["_purged_infos_limit"]) => return only("GET,PUT"),
        (_, ["_auto_purge"]) => return only("GET,PUT,HEAD"),

        _ => query(verb, rest)?,
    })
}

/// Routes of indexes, searches and partitions; all other paths name documents.
#[rustfmt::skip]
fn query(verb: Verb, rest: &[&str]) -> Result<DbRoute> {
    use DbRoute as R;
    use Verb::{Delete, Get, Post};
    Ok(match (verb, rest) {
        (Post, ["_find", ..]) => R::Find(None),
        (Post, ["_explain", ..]) => R::Explain(None),
        (_, ["_find" | "_explain", ..]) => return only("POST"),
        (Get, ["_views"]) => R::Views,
        (_, ["_views"]) => return only("GET,HEAD"),
        (Post, ["_try"]) => R::Try,
        (_, ["_try"]) => return only("POST"),
        (Get, ["_index"]) => R::Indexes,
        (Post, ["_index"]) => R::CreateIndex,
        (_, ["_index"]) => return only("GET,POST"),
        (Post, ["_index", "_bulk_delete"]) => R::DeleteIndexes,
        (_, ["_index", "_bulk_delete"]) => return only("POST"),
        (Delete, ["_index", "_design", design, kind, name] | ["_index", design, kind, name]) => {
            R::DeleteIndex { design: (*design).into(), kind: (*kind).into(), name: (*name).into() }
        }
        (_, ["_index", "_design", _, _, _] | ["_index", _, _, _]) => return only("DELETE"),
        (_, ["_index", ..]) => return Err(Failure::missing()),

        (_, ["_partition"]) => return Err(Failure::bad_request("invalid_partition_req")),
        (Get, ["_partition", partition]) => R::Partition((*partition).into()),
        (_, ["_partition", _]) => return only("GET"),
        (Get | Post, ["_partition", partition, "_all_docs"]) => R::PartitionDocs((*partition).into()),
        (_, ["_partition", _, "_all_docs"]) => return only("GET,HEAD,POST"),
        (Post, ["_partition", partition, "_find"]) => R::Find(Some((*partition).into())),
        (Post, ["_partition", partition, "_explain"]) => R::Explain(Some((*partition).into())),
        (_, ["_partition", _, "_find" | "_explain"]) => return only("POST"),
        (_, ["_partition", partition, _, ..]) if partition.starts_with('_') => {
            return Err(Failure::Refused {
                status: http::StatusCode::BAD_REQUEST,
                word: "illegal_partition",
                reason: "Partition must not start with an underscore".into(),
            });
        }
        (_, ["_partition", partition, "_design", name, "_view", view, rest @ ..]) => {
            view_of(verb, name, view, rest, Some(partition))?
        }
        (_, ["_partition", ..]) => return Err(Failure::missing()),
        _ => document_path(verb, rest)?,
    })
}

/// Routes of documents, of what is below design documents, and of attachments.
#[rustfmt::skip]
fn document_path(verb: Verb, rest: &[&str]) -> Result<DbRoute> {
    use DbRoute as R;
    use Verb::{Get, Post};
    Ok(match (verb, rest) {
        (_, ["_local"] | ["_local/"]) => return Err(Failure::bad_request("Invalid _local document id.")),
        (_, ["_local", name]) => document(verb, format!("_local/{name}"))?,
        (_, ["_local", ..]) => return Err(Failure::bad_request("_local documents do not accept attachments.")),
        (_, [id, _, ..]) if id.starts_with("_local/") => {
            return Err(Failure::bad_request("_local documents do not accept attachments."));
        }
        (_, ["_temp_view"]) => return Err(no_temporary_views()),
        (_, ["_design", name]) => document(verb, format!("_design/{name}"))?,
        (Get, ["_design", name, "_info"]) => R::DesignInfo((*name).into()),
        (_, ["_design", _, "_info"]) => return only("GET"),
        (_, ["_design", name, "_view", view, rest @ ..]) => view_of(verb, name, view, rest, None)?,
        (_, ["_design", _, "_show"]) => return Err(crate::http::response::error::invalid_path("show_error")),
        (_, ["_design", _, "_update"]) => return Err(crate::http::response::error::invalid_path("update_error")),
        (_, ["_design", name, "_show", function, id @ ..]) => R::Show((*name).into(), (*function).into(), joined(id)),
        (_, ["_design", name, "_update", function, id @ ..]) => R::Update((*name).into(), (*function).into(), joined(id)),
        (Get | Post | Verb::Options, ["_design", design, "_list", function, of @ .., view]) if of.len() < 2 => {
            R::ListFunction(ListFunctionPath {
                design: (*design).into(),
                function: (*function).into(),
                of: of.first().map(|of| (*of).to_owned()),
                view: (*view).into(),
            })
        }
        (Get | Post | Verb::Options, ["_design", _, "_list", ..]) => return Err(crate::http::response::error::invalid_path("list_error")),
        (_, ["_design", _, "_list", ..]) => return only("GET,POST,HEAD"),
        (_, ["_design", _, "_search" | "_search_info" | "_search_disk_size", ..]) => return Err(no_search()),
        (_, ["_design", name, "_rewrite", ..]) => R::Rewrite((*name).into()),
        (_, ["_design", name, attachment @ ..]) => self::attachment(verb, format!("_design/{name}"), attachment)?,
        // `database` has the routes of this path.
        (_, []) => return Err(Failure::missing()),
        (_, [id]) => document(verb, (*id).to_owned())?,
        (_, [id, attachment @ ..]) => self::attachment(verb, (*id).to_owned(), attachment)?,
    })
}

/// The route of a view or of its `queries`. `rest` is the path after the view's name.
fn view_of(verb: Verb, design: &str, view: &str, rest: &[&str], partition: Option<&str>) -> Result<DbRoute> {
    let (design, view, partition) = (design.to_owned(), view.to_owned(), partition.map(str::to_owned));
    match (verb, rest) {
        (Verb::Get | Verb::Post, []) => Ok(DbRoute::View(design, view, partition)),
        (_, []) => only("GET,POST,HEAD"),
        (Verb::Post, ["queries"]) => Ok(DbRoute::ViewQueries(design, view, partition)),
        (_, ["queries"]) => only("POST"),
        _ => Err(Failure::missing()),
    }
}

/// The response of a CouchDB without its search service (`dreyfus_httpd.erl`).
fn no_search() -> Failure {
    Failure::Refused {
        status: http::StatusCode::SERVICE_UNAVAILABLE,
        word: "service unavailable",
        reason: "Search is not available".into(),
    }
}

fn no_temporary_views() -> Failure {
    Failure::Refused {
        status: http::StatusCode::GONE,
        word: "gone",
        reason: "Temporary views are not supported in CouchDB".into(),
    }
}

fn document(verb: Verb, id: String) -> Result<DbRoute> {
    check_id(verb, &id)?;
    let verb = match verb {
        Verb::Get => DocumentVerb::Get,
        Verb::Put => DocumentVerb::Put,
        Verb::Post => DocumentVerb::Post,
        Verb::Delete => DocumentVerb::Delete,
        Verb::Copy => DocumentVerb::Copy,
        Verb::Options | Verb::Other => return only("DELETE,GET,HEAD,POST,PUT,COPY"),
    };
    Ok(DbRoute::Document(verb, id))
}

fn attachment(verb: Verb, id: String, name: &[&str]) -> Result<DbRoute> {
    check_id(verb, &id)?;
    let verb = match verb {
        Verb::Get => AttachmentVerb::Get,
        Verb::Put => AttachmentVerb::Put,
        Verb::Delete => AttachmentVerb::Delete,
        Verb::Post | Verb::Copy | Verb::Options | Verb::Other => return only("DELETE,GET,HEAD,PUT"),
    };
    Ok(DbRoute::Attachment(verb, id, name.join("/")))
}

/// Rejects an id that no document can have. As in CouchDB, only a write names it illegal; to all other requests such a
/// document is missing, which is what a client gets that asks for an endpoint of another server.
fn check_id(verb: Verb, id: &str) -> Result<()> {
    if !id.starts_with('_') || id.starts_with("_design/") || id.starts_with("_local/") {
        return Ok(());
    }
    Err(match verb {
        Verb::Get | Verb::Delete | Verb::Copy => Failure::missing(),
        Verb::Put | Verb::Post | Verb::Options | Verb::Other => {
            Error::IllegalDocId("Only reserved document ids may start with underscore.".into()).into()
        }
    })
}

fn document_list(name: &str) -> DocumentList {
    match name {
        "_design_docs" => DocumentList::DesignDocs,
        "_local_docs" => DocumentList::LocalDocs,
        _ => DocumentList::AllDocs,
    }
}

/// Joins the rest of a path to a document id; `None` if the rest is empty.
fn joined(parts: &[&str]) -> Option<String> {
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn owned(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Query;

    fn ask(verb: Verb, path: &str) -> Result<Route> {
        let segments = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| percent_encoding::percent_decode_str(part).decode_utf8().unwrap().into_owned())
            .collect();
        route(&Target { verb, head: false, segments, query: Query::default() })
    }

    fn of_db(what: DbRoute) -> Result<Route> {
        Ok(Route::Database { name: "db".into(), what })
    }

    #[test]
    fn documents_and_attachments() {
        use DocumentVerb as D;
        for (path, what) in [
            ("/db/doc", DbRoute::Document(D::Get, "doc".into())),
            ("/db/a%2Fb", DbRoute::Document(D::Get, "a/b".into())),
            ("/db/_design/x", DbRoute::Document(D::Get, "_design/x".into())),
            ("/db/_design%2Fx", DbRoute::Document(D::Get, "_design/x".into())),
            ("/db/_local/x", DbRoute::Document(D::Get, "_local/x".into())),
            ("/db/_local%2Fx", DbRoute::Document(D::Get, "_local/x".into())),
            ("/db/doc/a/b%20c", DbRoute::Attachment(AttachmentVerb::Get, "doc".into(), "a/b c".into())),
            ("/db/_design/x/a/b", DbRoute::Attachment(AttachmentVerb::Get, "_design/x".into(), "a/b".into())),
            ("/db/_design%2Fx/a", DbRoute::Attachment(AttachmentVerb::Get, "_design/x".into(), "a".into())),
            ("/db/_partition/p/_all_docs", DbRoute::PartitionDocs("p".into())),
            ("/db/_shards/_design/x", DbRoute::ShardOf("_design/x".into())),
            ("/db/_index", DbRoute::Indexes),
        ] {
            assert_eq!(ask(Verb::Get, path), of_db(what), "{path}");
        }
    }

    #[test]
    fn refusals_match_couchdb() {
        let illegal =
            || Failure::Domain(Error::IllegalDocId("Only reserved document ids may start with underscore.".into()));
        for (verb, path, failure) in [
            (Verb::Get, "/db/_unknown", Failure::missing()),
            (Verb::Get, "/db/_unknown/att", Failure::missing()),
            (Verb::Delete, "/db/_unknown", Failure::missing()),
            (Verb::Copy, "/db/_unknown", Failure::missing()),
            (Verb::Put, "/db/_unknown", illegal()),
            (Verb::Put, "/db/_unknown/att", illegal()),
            (Verb::Get, "/db/_local", Failure::bad_request("Invalid _local document id.")),
            (Verb::Put, "/db/_local/x/att", Failure::bad_request("_local documents do not accept attachments.")),
            (Verb::Put, "/db/_local%2Fx/att", Failure::bad_request("_local documents do not accept attachments.")),
            (Verb::Get, "/_node", Failure::bad_request("Incomplete path to _node request")),
            (Verb::Get, "/_node/_local/_nothing", Failure::missing()),
            (Verb::Get, "/_up/x", Failure::missing()),
            (Verb::Get, "/db/_bulk_docs", Failure::MethodNotAllowed("POST")),
            (Verb::Put, "/db/_changes", Failure::MethodNotAllowed("GET,POST,HEAD")),
            (Verb::Post, "/db/_security", Failure::MethodNotAllowed("PUT,GET")),
            (Verb::Other, "/db", Failure::MethodNotAllowed("DELETE,GET,HEAD,POST")),
            (Verb::Other, "/db/doc", Failure::MethodNotAllowed("DELETE,GET,HEAD,POST,PUT,COPY")),
            (Verb::Post, "/db/doc/att", Failure::MethodNotAllowed("DELETE,GET,HEAD,PUT")),
            (Verb::Put, "/_session", Failure::MethodNotAllowed("GET,HEAD,POST,DELETE")),
            (Verb::Post, "/", Failure::MethodNotAllowed("GET,HEAD")),
        ] {
            assert_eq!(ask(verb, path), Err(failure), "{verb:?} {path}");
        }
    }
}
