//! Sends a request for every route as every role, and checks that the server enforces what `required_access` and `policy::access` decide.

use std::collections::BTreeSet;

use base64::Engine;
use http::{HeaderMap, Method};
use serde_json::json;

use super::*;
use crate::auth::UserCtx;
use crate::config::Settings;
use crate::http::request::Target;
use crate::http::routing::required_access::needed;
use crate::http::routing::required_access::tests::{variant, variants};
use crate::http::routing::route::{Route, ServerRoute};
use crate::http::routing::route_table::route;
use crate::policy::access::{Verdict, check, check_database};

/// Requests that cover every variant of the route enums. They are ordered so that a server admin can execute
/// all of them: requests that delete something come after those that need it.
const REQUESTS: &[&str] = &[
    "GET /",
    "GET /favicon.ico",
    "GET /_utils/",
    "GET /_all_dbs",
    "GET /_dbs_info",
    "POST /_dbs_info",
    "GET /_db_updates",
    "GET /_conflicts",
    "GET /_sync/status",
    "GET /_sync/history",
    "GET /_sync/alerts",
    "POST /_livesync/link",
    "GET /_active_tasks",
    "GET /_membership",
    "GET /_cluster_setup",
    "POST /_cluster_setup",
    "POST /_reload_query_servers",
    "POST /_replicate",
    "GET /_scheduler/jobs",
    "GET /_scheduler/jobs/none",
    "GET /_scheduler/docs",
    "GET /_scheduler/docs/_replicator/none",
    "GET /_uuids",
    "GET /_up",
    "GET /_session",
    "POST /_session",
    "DELETE /_session",
    "GET /_session/devices",
    "DELETE /_session/devices",
    "DELETE /_session/devices/none",
    "POST /_session/token",
    "GET /_node/_local",
    "GET /_node/_local/_versions",
    "GET /_node/_local/_system",
    "GET /_node/_local/_prometheus",
    "GET /_node/_local/_stats",
    "GET /_node/_local/_config",
    "POST /_node/_local/_config/_reload",
    "GET /_node/_local/_config/admins",
    "GET /_node/_local/_config/admins/ann",
    "PUT /_node/_local/_config/test/x",
    "DELETE /_node/_local/_config/test/x",
    "GET /_node/_local/_settings",
    "GET /_node/_local/_logs",
    "GET /_node/_local/_audit",
    "GET /_node/_local/_nodes",
    "GET /_node/_local/_history",
    "GET /_node/_local/_backups",
    "POST /_node/_local/_backups",
    "GET /_node/_local/_check",
    "POST /_node/_local/_check",
    "GET /db",
    "PUT /other",
    "DELETE /other",
    "POST /db",
    "GET /db/_all_docs",
    "POST /db/_design_docs",
    "GET /db/_local_docs",
    "POST /db/_all_docs/queries",
    "POST /db/_bulk_docs",
    "POST /db/_bulk_get",
    "GET /db/_changes",
    "POST /db/_changes",
    "GET /db/_conflicts",
    "POST /db/_revs_diff",
    "POST /db/_missing_revs",
    "POST /db/_compact",
    "POST /db/_compact/d",
    "POST /db/_view_cleanup",
    "POST /db/_ensure_full_commit",
    "GET /db/_security",
    "GET /db/_revs_limit",
    "PUT /db/_revs_limit",
    "POST /db/_purge",
    "GET /db/_purged_infos",
    "GET /db/_purged_infos_limit",
    "PUT /db/_purged_infos_limit",
    "GET /db/_auto_purge",
    "PUT /db/_auto_purge",
    "GET /db/_shards",
    "GET /db/_shards/doc",
    "POST /db/_sync_shards",
    "GET /db/_partition/p",
    "GET /db/_partition/p/_all_docs",
    "POST /db/_find",
    "POST /db/_partition/p/_find",
    "POST /db/_explain",
    "GET /db/_index",
    "GET /db/_views",
    "POST /db/_try",
    "POST /db/_index",
    "POST /db/_index/_bulk_delete",
    "DELETE /db/_index/_design/x/json/y",
    "GET /db/_design/d/_view/v",
    "POST /db/_design/d/_view/v/queries",
    "GET /db/_partition/p/_design/d/_view/v",
    "GET /db/_design/d/_info",
    "GET /db/_design/d/_show/s",
    "GET /db/_design/d/_show/s/doc",
    "POST /db/_design/d/_update/u",
    "GET /db/_design/d/_list/l/v",
    "GET /db/_design/d/_rewrite/x",
    "GET /db/doc",
    "GET /db/_local/x",
    "PUT /db/doc",
    "PUT /db/_local/x",
    "POST /db/doc",
    "COPY /db/doc",
    "GET /db/_design/d",
    "PUT /db/_design/e",
    "DELETE /db/_design/e",
    "GET /db/doc/a",
    "PUT /db/doc/a",
    "DELETE /db/doc/a",
    "GET /db/_design/d/a",
    "PUT /db/_design/d/a",
    "DELETE /db/_design/d/a",
    "DELETE /db/doc",
    "GET /_users",
    "GET /_users/_all_docs",
    "GET /_users/_changes",
    "GET /_users/_conflicts",
    "GET /_users/_security",
    "GET /_users/_design/_auth/_view/x",
    "POST /_users/_find",
    "POST /_users/_compact",
    "POST /_users/_purge",
    "GET /_replicator/_all_docs",
    "GET /_replicator/_changes",
    "POST /_replicator/_find",
    "GET /_nothing",
    "GET /_nothing/doc",
    // Not sent as a role that is allowed to do this, because it would disturb the rest of the test.
    "PUT /db/_security",
    "POST /_node/_local/_restart",
];

fn routed(line: &str) -> Route {
    let (method, path) = line.split_once(' ').unwrap();
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let target = Target::read(&method, &path.parse().unwrap(), &HeaderMap::new(), &Settings::default());
    route(&target.ok().unwrap()).unwrap_or_else(|failure| panic!("{line}: {failure:?}"))
}

/// Returns whether `access` allows the route for this user; if not, the status of the error.
fn decided(route: &Route, user: &UserCtx, security: &serde_json::Value) -> Result<(), u16> {
    let needed = needed(route, "_users");
    match check(needed, user, &Settings::default()) {
        Ok(Verdict::Granted) => Ok(()),
        Ok(Verdict::AskDatabase) => check_database(needed, user, security),
        Err(refused) => Err(refused),
    }
    .map_err(|failure| crate::http::response::error::wire(&failure.into()).0.as_u16())
}

#[test]
fn requests_cover_every_route() {
    let (mut server, mut node, mut database) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for line in REQUESTS {
        match routed(line) {
            Route::Server(ServerRoute::Node(of)) => {
                server.insert("Node".to_owned());
                node.insert(variant(&of));
            }
            Route::Server(of) => drop(server.insert(variant(&of))),
            Route::Database { what, .. } => drop(database.insert(variant(&what))),
        }
    }
    for (name, asked) in [("ServerRoute", server), ("NodeRoute", node), ("DbRoute", database)] {
        assert_eq!(asked, variants(name), "a request for every {name}");
    }
}

#[tokio::test]
async fn the_server_enforces_the_access_table() {
    let backups = tempfile::tempdir().unwrap();
    let running = server(&[("settee", "backup_folder", backups.path().to_str().unwrap())]).await;
    let json_type = "Content-Type: application/json";
    let send = async |line: &str, who: Option<&str>, body: &str| {
        let headers: Vec<&str> = [json_type].into_iter().chain(who).collect();
        ask(running.address, line, &headers, body.as_bytes()).await
    };
    let basic = |name: &str| {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:pw"));
        format!("Authorization: Basic {pair}")
    };
    for name in ["eve", "ben", "dan"] {
        let id = format!("org.couchdb.user:{name}");
        let account = json!({"_id": id, "type": "user", "name": name, "password": "pw", "roles": []});
        assert_eq!(send("POST /_users", Some(ADMIN), &account.to_string()).await.status, 201);
    }
    let security = json!({"admins": {"names": ["dan"]}, "members": {"names": ["ben"]}});
    assert_eq!(send("PUT /db", Some(ADMIN), "").await.status, 201);
    assert_eq!(send("PUT /db/_security", Some(ADMIN), &security.to_string()).await.status, 200);
    let design = json!({
        "views": {"v": {"map": "function (doc) { emit(doc._id); }"}},
        "shows": {"s": "function () { return 'x'; }"},
        "lists": {"l": "function () { send('x'); }"},
        "updates": {"u": "function () { return [null, 'x']; }"},
        "rewrites": [{"from": "x", "to": "_show/s"}],
    });
    assert_eq!(send("PUT /db/_design/d", Some(ADMIN), &design.to_string()).await.status, 201);
    assert_eq!(send("PUT /db/doc", Some(ADMIN), "{}").await.status, 201);
    let closed = json!({"admins": {"roles": ["_admin"]}, "members": {"roles": ["_admin"]}});
    // From the role with the fewest rights to the one with the most, so that the earlier requests change
    // little.
    for (name, roles) in
        [(None, &[][..]), (Some("eve"), &[]), (Some("ben"), &[]), (Some("dan"), &[]), (Some("ann"), &["_admin"])]
    {
        let user = UserCtx {
            name: name.map(str::to_owned),
            roles: roles.iter().map(|role: &&str| (*role).to_owned()).collect(),
            handler: None,
        };
        let who = name.map(|name| if name == "ann" { ADMIN.to_owned() } else { basic(name) });
        for line in REQUESTS {
            let route = routed(line);
            let ends = line.ends_with("_restart") || *line == "PUT /db/_security";
            let security = match &route {
                Route::Database { name, .. } if name == "db" => &security,
                _ => &closed,
            };
            let expected = decided(&route, &user, security);
            if ends && expected.is_ok() {
                continue;
            }
            let body = if line.starts_with("GET") || line.starts_with("DELETE") { "" } else { "{}" };
            let reply = send(line, who.as_deref(), body).await;
            let shown = format!("{line} as {name:?}: {} {}", reply.status, reply.text());
            match expected {
                Err(status) => assert_eq!(reply.status, status, "{shown}"),
                Ok(()) => {
                    // Signing in with an empty form fails, and documents in `_users` have additional rules.
                    let own = line.contains("_session") || line.contains(" /_users");
                    assert!(own || !matches!(reply.status, 401 | 403), "{shown}");
                    // CouchDB's answer to a replication without a source.
                    assert!(reply.status != 500 || line.contains("_replicate"), "{shown}");
                }
            }
        }
    }
    running.shutdown().await.unwrap();
}
