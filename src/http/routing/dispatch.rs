//! One function per route: decode, one domain call, encode.

use std::sync::Arc;

use super::route::{AttachmentVerb, DbRoute, DocumentVerb, NodeRoute, Route, ServerRoute};
use crate::app::App;
use crate::db::Database;
use crate::http::request::Request;
use crate::http::request::listing_path::DocumentList;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};

pub use crate::app::node::NODE;
pub use crate::http::response::error::invalid_path;

/// From the route to its handler.
pub async fn dispatch(app: &Arc<App>, request: &mut Request, route: Route) -> Result<Answer> {
    use ServerRoute as S;
    match route {
        Route::Server(route) => match route {
            S::Welcome => crate::http::api::server::root::welcome(app, request),
            S::Favicon => crate::http::api::server::root::favicon(),
            S::Utils(path) => crate::http::api::server::root::utils(app, request, &path),
            S::ActiveTasks => crate::http::api::server::root::active_tasks(app),
            S::Membership => crate::http::api::server::root::membership(),
            S::ReloadQueryServers => crate::http::api::server::root::reload_query_servers(request),
            S::Uuids => crate::http::api::server::root::uuids(app, request),
            S::Up => crate::http::api::server::root::up(app, request).await,
            S::ClusterState => crate::http::api::server::cluster_setup::state(),
            S::ClusterSetup => crate::http::api::server::cluster_setup::act(app, request).await,
            S::Session => crate::http::api::session::session::info(app, request),
            S::SignIn => crate::http::api::session::session::sign_in(app, request).await,
            S::SignOut => crate::http::api::session::session::sign_out(app, request).await,
            S::Devices => crate::http::api::session::devices::list(app, request).await,
            S::RevokeDevices(id) => crate::http::api::session::devices::revoke(app, request, id).await,
            S::Token => crate::http::api::session::devices::token(app, request).await,
            S::Node(route) => self::node(app, request, route).await,
            S::AllDbs => crate::http::api::database::database::all_dbs(app, request).await,
            S::DbsInfo => crate::http::api::database::database::dbs_info(app, request).await,
            S::DbsInfoOf => crate::http::api::database::database::dbs_info_of(app, request).await,
            S::DbUpdates => crate::http::api::server::db_updates::db_updates(app, request).await,
        },
        Route::Database { name, what } => self::in_database(app, request, name, what).await,
    }
}

async fn in_database(app: &Arc<App>, request: &mut Request, name: String, what: DbRoute) -> Result<Answer> {
    use DbRoute as R;
    let db = match what {
        R::Create => return crate::http::api::database::database::create(app, request, name).await,
        R::Delete => return crate::http::api::database::database::delete(app, request, name).await,
        _ => crate::http::api::database::database::open(app, &name).await?,
    };
    request.standing.enter(&db)?;
    match what {
        R::Create | R::Delete => Err(Failure::missing()),
        R::Info => Ok(crate::http::api::database::database::get_info(&db)),
        R::Post => crate::http::api::document::put::post(app, request, db).await,
        R::DocumentList(list) => crate::http::api::database::all_docs::all_docs(request, db, list, None).await,
        R::DocumentListQueries(list) => crate::http::api::database::all_docs::queries(request, db, list).await,
        R::BulkDocs => crate::http::api::document::bulk_docs::bulk_docs(app, request, db).await,
        R::BulkGet => crate::http::api::document::bulk_get::bulk_get(app, request, db).await,
        R::Changes => crate::http::api::database::changes::changes(app, request, db).await,
        R::RevsDiff => crate::http::api::document::revs_diff::revs_diff(app, request, db).await,
        R::MissingRevs => crate::http::api::document::revs_diff::missing_revs(app, request, db).await,
        R::Compact => crate::http::api::database::database::compact(app, request, db).await,
        R::CompactViews(design) => crate::http::api::query::view::compact(app, request, db, design).await,
        R::ViewCleanup => crate::http::api::query::view::cleanup(app, request, db).await,
        R::View(design, name, partition) => {
            crate::http::api::query::view::view(app, request, db, design, name, partition).await
        }
        R::ViewQueries(design, name, partition) => {
            crate::http::api::query::view::queries(app, request, db, design, name, partition).await
        }
        R::DesignInfo(design) => crate::http::api::query::view::info(app, db, design).await,
        R::EnsureFullCommit => crate::http::api::database::database::ensure_full_commit(request, &db),
        R::Security => Ok(crate::http::api::database::database::security(&db)),
        R::SetSecurity => crate::http::api::database::database::set_security(app, request, db).await,
        R::RevsLimit => Ok(crate::http::api::database::database::revs_limit(&db)),
        R::SetRevsLimit => crate::http::api::database::database::set_revs_limit(request, db).await,
        R::Purge => crate::http::api::database::database::purge(app, request, db).await,
        R::PurgedInfos => crate::http::api::database::database::purged_infos(db).await,
        R::PurgedInfosLimit => Ok(crate::http::api::database::database::purged_infos_limit(&db)),
        R::SetPurgedInfosLimit => crate::http::api::database::database::set_purged_infos_limit(request, db).await,
        R::AutoPurge => crate::http::api::database::database::auto_purge(db).await,
        R::SetAutoPurge => crate::http::api::database::database::set_auto_purge(request, db).await,
        R::Shards => Ok(crate::http::api::database::database::shards(&db)),
        R::ShardOf(id) => Ok(crate::http::api::database::database::shard_of(&db, &id)),
        R::SyncShards => Ok(crate::http::api::database::database::sync_shards()),
        R::Partition(partition) => crate::http::api::database::database::partition(db, partition).await,
        R::PartitionDocs(partition) => {
            crate::http::api::database::all_docs::all_docs(request, db, DocumentList::AllDocs, Some(partition)).await
        }
        R::Find(partition) => crate::http::api::query::find::find(app, request, db, partition).await,
        R::Explain(partition) => crate::http::api::query::find::explain(request, db, partition).await,
        R::Indexes => crate::http::api::query::find::list_indexes(request, db).await,
        R::CreateIndex => crate::http::api::query::find::create_index(app, request, db).await,
        R::DeleteIndexes => crate::http::api::query::find::delete_indexes(app, request, db).await,
        R::DeleteIndex { design, kind, name } => {
            crate::http::api::query::find::delete_index(app, request, db, &design, &kind, &name).await
        }
        R::Document(verb, id) => match verb {
            DocumentVerb::Get => match id.strip_prefix("_local/") {
                Some(name) => crate::http::api::document::local::get(app, request, db, name).await,
                None => crate::http::api::document::get::get(app, request, db, id).await,
            },
            DocumentVerb::Put => crate::http::api::document::put::put(app, request, db, id).await,
            DocumentVerb::Post => crate::http::api::document::put::form(app, request, db, id).await,
            DocumentVerb::Delete => crate::http::api::document::put::delete(app, request, db, id).await,
            DocumentVerb::Copy => crate::http::api::document::put::copy(app, request, db, id).await,
        },
        R::Show(design, function, id) => {
            crate::http::api::design::show_and_update::show(app, request, db, design, function, id).await
        }
        R::ListFunction(path) => crate::http::api::design::list_function::run(app, request, db, path).await,
        R::Update(design, function, id) => {
            crate::http::api::design::show_and_update::update(app, request, db, design, function, id).await
        }
        // Rewritten before it comes here.
        R::Rewrite(_) => Err(Failure::missing()),
        R::Attachment(verb, id, name) => match verb {
            AttachmentVerb::Get => crate::http::api::document::attachment::get(app, request, db, id, name).await,
            AttachmentVerb::Put => crate::http::api::document::attachment::put(app, request, db, id, name).await,
            AttachmentVerb::Delete => crate::http::api::document::attachment::delete(app, request, db, id, name).await,
        },
    }
}

async fn node(app: &Arc<App>, request: &mut Request, route: NodeRoute) -> Result<Answer> {
    match route {
        NodeRoute::Name => crate::http::api::server::node::name(),
        NodeRoute::Versions => crate::http::api::server::node::versions(),
        NodeRoute::System => crate::http::api::server::node::system(app),
        NodeRoute::Prometheus => crate::http::api::server::node::prometheus(app),
        NodeRoute::Stats(path) => crate::http::api::server::node::stats(app, &path),
        NodeRoute::Restart => crate::http::api::server::node::restart(app),
        NodeRoute::Config => crate::http::api::server::config::all(request),
        NodeRoute::ConfigReload => crate::http::api::server::config::reload(app, request).await,
        NodeRoute::ConfigSection(section) => crate::http::api::server::config::section(request, &section),
        NodeRoute::ConfigKey(section, key) => crate::http::api::server::config::key(request, &section, &key),
        NodeRoute::ConfigSet(section, key) => crate::http::api::server::config::set(app, request, section, key).await,
        NodeRoute::ConfigDelete(section, key) => {
            crate::http::api::server::config::delete(app, request, section, key).await
        }
    }
}

/// Rewrites a request; `count` is how often that happened to it before.
pub async fn rewrite(
    app: &Arc<App>,
    request: &mut Request,
    name: &str,
    design: &str,
    count: u32,
) -> Result<crate::http::api::design::rewrite::Rewritten> {
    let db = crate::http::api::database::database::open(app, name).await?;
    crate::http::api::design::rewrite::rewrite(app, request, db, design, count).await
}

/// A database and its `_security`, for access.
pub async fn security_of(app: &Arc<App>, name: &str) -> Result<(Arc<Database>, Arc<str>)> {
    let database = crate::http::api::database::database::open(app, name).await?;
    let security = database.security();
    Ok((database, security))
}
