//! Calls the handler of a route.

use std::sync::Arc;
use std::time::Instant;

use super::replicator;
use super::route::{AttachmentVerb, DbRoute, DocumentVerb, NodeRoute, Route, ServerRoute};
use crate::app::App;
use crate::db::Database;
use crate::http::api::console::{
    audit, backups, check, conflicts, files, history, livesync_link, logs, settings, sync, sync_alerts, try_function,
    views,
};
use crate::http::api::database::{all_docs, changes, database, partition, purge};
use crate::http::api::design::{list_function, rewrite, show_and_update};
use crate::http::api::document::{attachment, bulk_docs, bulk_get, get, local, put, revs_diff};
use crate::http::api::query::{find, view};
use crate::http::api::server::{all_dbs, cluster_setup, config, db_updates, node, replicate, root, scheduler};
use crate::http::api::session::{devices, session};
use crate::http::request::Request;
use crate::http::request::listing_path::DocumentList;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};

/// Calls the handler of a route. The futures of handlers are boxed, but for that of the shortest requests: the future of
/// every request would have room for the largest one, and it is copied when it begins.
pub async fn dispatch(app: &Arc<App>, request: &mut Request, route: Route) -> Result<Answer> {
    use ServerRoute as S;
    match route {
        Route::Server(route) => match route {
            S::Welcome => root::welcome(app, request),
            S::Favicon => root::favicon(),
            S::Utils(path) => files::utils(request, &path),
            S::Conflicts => Box::pin(conflicts::of_all(app, request)).await,
            S::SyncStatus => Box::pin(sync::status(app, request)).await,
            S::SyncHistory => sync::history(app, request),
            S::SyncAlerts => Box::pin(sync_alerts::alerts(app, request)).await,
            S::LivesyncLink => Box::pin(livesync_link::make(app, request)).await,
            S::ActiveTasks => root::active_tasks(app),
            S::Replicate => Box::pin(replicate::replicate(app, request)).await,
            S::SchedulerJobs => scheduler::jobs(app, request),
            S::SchedulerJob(id) => scheduler::job(app, &id),
            S::SchedulerDocs(name) => Box::pin(scheduler::docs(app, request, name)).await,
            S::SchedulerDoc(name, id) => Box::pin(scheduler::doc(app, name, id)).await,
            S::Membership => root::membership(app),
            S::ReloadQueryServers => root::reload_query_servers(request),
            S::Uuids => root::uuids(app, request),
            S::Up => Box::pin(root::up(app, request)).await,
            S::ClusterState => cluster_setup::state(),
            S::ClusterSetup => Box::pin(cluster_setup::act(app, request)).await,
            S::Session => session::info(app, request),
            S::SignIn => Box::pin(session::sign_in(app, request)).await,
            S::SignOut => Box::pin(session::sign_out(app, request)).await,
            S::Devices => Box::pin(devices::list(app, request)).await,
            S::RevokeDevices(id) => Box::pin(devices::revoke(app, request, id)).await,
            S::Token => Box::pin(devices::token(app, request)).await,
            S::Node(route) => Box::pin(in_node(app, request, route)).await,
            S::AllDbs => Box::pin(all_dbs::all_dbs(app, request)).await,
            S::DbsInfo => Box::pin(all_dbs::dbs_info(app, request)).await,
            S::DbsInfoOf => Box::pin(all_dbs::dbs_info_of(app, request)).await,
            S::DbUpdates => Box::pin(db_updates::db_updates(app, request)).await,
        },
        Route::Database { name, what } => in_database(app, request, name, what).await,
    }
}

async fn in_database(app: &Arc<App>, request: &mut Request, name: String, what: DbRoute) -> Result<Answer> {
    use DbRoute as R;
    let db = match what {
        R::Create => return Box::pin(database::create(app, request, name)).await,
        R::Delete => return Box::pin(database::delete(app, request, name)).await,
        _ => database::open(app, &name, request.received).await?,
    };
    request.authorization.enter(&db)?;
    replicator::recognize(app, request, db.name(), &what);
    let written = what.writes().then(|| db.clone());
    let _writing = match &written {
        Some(db) => Some(db.begin_writing().await),
        None => None,
    };
    match what {
        R::Create | R::Delete => Err(Failure::missing()),
        R::Info => Ok(database::get_info(&db)),
        R::Post => Box::pin(put::post(app, request, db)).await,
        R::DocumentList(list) => Box::pin(all_docs::all_docs(request, db, list, None)).await,
        R::DocumentListQueries(list) => Box::pin(all_docs::queries(request, db, list)).await,
        R::BulkDocs => Box::pin(bulk_docs::bulk_docs(app, request, db)).await,
        R::BulkGet => Box::pin(bulk_get::bulk_get(app, request, db)).await,
        R::Changes => Box::pin(changes::changes(app, request, db)).await,
        R::Conflicts => Box::pin(conflicts::of_database(app, request, db)).await,
        R::RevsDiff => Box::pin(revs_diff::revs_diff(app, request, db)).await,
        R::MissingRevs => Box::pin(revs_diff::missing_revs(app, request, db)).await,
        R::Compact => Box::pin(database::compact(app, request, db)).await,
        R::CompactViews(design) => Box::pin(view::compact(app, request, db, design)).await,
        R::ViewCleanup => Box::pin(view::cleanup(app, request, db)).await,
        R::View(design, name, partition) => Box::pin(view::view(app, request, db, design, name, partition)).await,
        R::ViewQueries(design, name, partition) => {
            Box::pin(view::queries(app, request, db, design, name, partition)).await
        }
        R::DesignInfo(design) => Box::pin(view::info(app, db, design)).await,
        R::EnsureFullCommit => database::ensure_full_commit(request, &db),
        R::Security => database::security(request, &db),
        R::SetSecurity => Box::pin(database::set_security(app, request, db)).await,
        R::RevsLimit => Ok(database::revs_limit(&db)),
        R::SetRevsLimit => Box::pin(database::set_revs_limit(request, db)).await,
        R::Purge => Box::pin(purge::purge(app, request, db)).await,
        R::PurgedInfos => Box::pin(purge::purged_infos(db)).await,
        R::PurgedInfosLimit => Ok(database::purged_infos_limit(&db)),
        R::SetPurgedInfosLimit => Box::pin(database::set_purged_infos_limit(request, db)).await,
        R::AutoPurge => Box::pin(purge::auto_purge(db)).await,
        R::SetAutoPurge => Box::pin(purge::set_auto_purge(request, db)).await,
        R::Shards => Ok(database::shards(&db)),
        R::ShardOf(id) => Ok(database::shard_of(&db, &id)),
        R::SyncShards => Ok(database::sync_shards()),
        R::Partition(name) => Box::pin(partition::partition(db, name)).await,
        R::PartitionDocs(partition) => {
            Box::pin(all_docs::all_docs(request, db, DocumentList::AllDocs, Some(partition))).await
        }
        R::Find(partition) => Box::pin(find::find(app, request, db, partition)).await,
        R::Explain(partition) => Box::pin(find::explain(request, db, partition)).await,
        R::Indexes => Box::pin(find::list_indexes(request, db)).await,
        R::Views => Box::pin(views::list(app, db)).await,
        R::Try => Box::pin(try_function::run(app, request, db)).await,
        R::CreateIndex => Box::pin(find::create_index(app, request, db)).await,
        R::DeleteIndexes => Box::pin(find::delete_indexes(app, request, db)).await,
        R::DeleteIndex { design, kind, name } => {
            Box::pin(find::delete_index(app, request, db, &design, &kind, &name)).await
        }
        R::Document(verb, id) => match verb {
            DocumentVerb::Get => match id.strip_prefix("_local/") {
                Some(name) => Box::pin(local::get(app, request, db, name)).await,
                None => get::get(app, request, db, id).await,
            },
            DocumentVerb::Put => Box::pin(put::put(app, request, db, id)).await,
            DocumentVerb::Post => Box::pin(put::form(app, request, db, id)).await,
            DocumentVerb::Delete => Box::pin(put::delete(app, request, db, id)).await,
            DocumentVerb::Copy => Box::pin(put::copy(app, request, db, id)).await,
        },
        R::Show(design, function, id) => Box::pin(show_and_update::show(app, request, db, design, function, id)).await,
        R::ListFunction(path) => Box::pin(list_function::run(app, request, db, path)).await,
        R::Update(design, function, id) => {
            Box::pin(show_and_update::update(app, request, db, design, function, id)).await
        }
        // Rewritten before it comes here.
        R::Rewrite(_) => Err(Failure::missing()),
        R::Attachment(verb, id, name) => match verb {
            AttachmentVerb::Get => Box::pin(attachment::get(app, request, db, id, name)).await,
            AttachmentVerb::Put => Box::pin(attachment::put(app, request, db, id, name)).await,
            AttachmentVerb::Delete => Box::pin(attachment::delete(app, request, db, id, name)).await,
        },
    }
}

async fn in_node(app: &Arc<App>, request: &mut Request, route: NodeRoute) -> Result<Answer> {
    match route {
        NodeRoute::Name => node::name(app),
        NodeRoute::Nodes => Box::pin(node::nodes(app)).await,
        NodeRoute::Versions => node::versions(),
        NodeRoute::System => node::system(app),
        NodeRoute::Prometheus => node::prometheus(app),
        NodeRoute::Stats(path) => node::stats(app, &path),
        NodeRoute::Restart => node::restart(app),
        NodeRoute::Config => config::all(request),
        NodeRoute::ConfigReload => Box::pin(config::reload(app, request)).await,
        NodeRoute::ConfigSection(section) => config::section(request, &section),
        NodeRoute::ConfigKey(section, key) => config::key(request, &section, &key),
        NodeRoute::ConfigSet(section, key) => Box::pin(config::set(app, request, section, key)).await,
        NodeRoute::ConfigDelete(section, key) => Box::pin(config::delete(app, request, section, key)).await,
        NodeRoute::Settings => settings::list(app, request),
        NodeRoute::Logs => logs::newest(app, request),
        NodeRoute::Audit => audit::newest(app, request),
        NodeRoute::History => history::samples(app, request),
        NodeRoute::Backups => Box::pin(backups::list(app, request)).await,
        NodeRoute::MakeBackup => Box::pin(backups::begin(app, request)).await,
        NodeRoute::CheckState => check::state(app),
        NodeRoute::Check => Box::pin(check::begin(app, request)).await,
    }
}

/// Rewrites a request; `count` is how often that happened to it before.
pub async fn rewrite(
    app: &Arc<App>,
    request: &mut Request,
    name: &str,
    design: &str,
    count: u32,
) -> Result<rewrite::Rewritten> {
    let db = database::open(app, name, request.received).await?;
    Box::pin(rewrite::rewrite(app, request, db, design, count)).await
}

/// A database and its `_security`, for access.
pub async fn security_of(app: &Arc<App>, name: &str, received: Instant) -> Result<(Arc<Database>, Arc<str>)> {
    let database = database::open(app, name, received).await?;
    let security = database.security();
    Ok((database, security))
}
