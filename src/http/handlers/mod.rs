//! One function per route: decode, one domain call, encode.

pub mod config;
pub mod node;
pub mod server;
pub mod session;
pub mod setup;

use std::sync::Arc;

use serde_json::Value;

use super::answer::Answer;
use super::app::App;
use super::failure::{Failure, Result};
use super::request::Request;
use super::route::{NodeRoute, Route, ServerRoute};
use crate::error::Error;

/// From the route to its handler.
pub async fn dispatch(app: &Arc<App>, request: &mut Request, route: Route) -> Result<Answer> {
    use ServerRoute as S;
    match route {
        Route::Server(route) => match route {
            S::Welcome => server::welcome(app, request),
            S::Favicon => server::favicon(),
            S::Utils(path) => server::utils(app, request, &path),
            S::ActiveTasks => server::active_tasks(),
            S::Membership => server::membership(),
            S::ReloadQueryServers => server::reload_query_servers(request),
            S::Uuids => server::uuids(app, request),
            S::Up => server::up(request),
            S::ClusterState => setup::state(),
            S::ClusterSetup => setup::act(app, request).await,
            S::Session => session::info(app, request),
            S::SignIn => session::sign_in(app, request).await,
            S::SignOut => session::sign_out(app, request),
            S::Node(route) => self::node(app, request, route).await,
            S::AllDbs | S::DbsInfo | S::DbsInfoOf | S::DbUpdates => Err(Failure::missing()),
        },
        Route::Database { .. } => Err(Error::NoDatabase.into()),
    }
}

async fn node(app: &Arc<App>, request: &mut Request, route: NodeRoute) -> Result<Answer> {
    match route {
        NodeRoute::Name => node::name(),
        NodeRoute::Versions => node::versions(),
        NodeRoute::System => node::system(app),
        NodeRoute::Prometheus => node::prometheus(app),
        NodeRoute::Stats(path) => node::stats(app, &path),
        NodeRoute::Restart => node::restart(app),
        NodeRoute::Config => config::all(request),
        NodeRoute::ConfigReload => config::reload(app).await,
        NodeRoute::ConfigSection(section) => config::section(request, &section),
        NodeRoute::ConfigKey(section, key) => config::key(request, &section, &key),
        NodeRoute::ConfigSet(section, key) => config::set(app, request, section, key).await,
        NodeRoute::ConfigDelete(section, key) => config::delete(app, request, section, key).await,
    }
}

/// The `_security` of a database that never had one written.
pub fn default_security(app: &App) -> Value {
    crate::auth::default_security(app.settings().get("couchdb", "default_security"))
}

/// A database's `_security`, for access.
pub async fn security_of(app: &Arc<App>, _name: &str) -> Result<Value> {
    Ok(default_security(app))
}
