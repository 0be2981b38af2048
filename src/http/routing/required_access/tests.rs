use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::auth::UserCtx;
use crate::config::Settings;
use crate::http::request::listing_path::{DocumentList, ListFunctionPath};
use crate::policy::access::{Verdict, check, check_database, check_nobody};

fn user(name: &str, roles: &[&str]) -> UserCtx {
    UserCtx { name: Some(name.into()), roles: roles.iter().map(|role| (*role).into()).collect(), handler: None }
}

/// Nobody, another user, a member, an admin of the database, a server admin.
fn roles() -> [UserCtx; 5] {
    [UserCtx::anonymous(), user("eve", &[]), user("ben", &[]), user("ann", &[]), user("root", &["_admin"])]
}

/// What the five get, as a status: 200, 401 or 403.
fn outcomes(route: &Route, security: &Value, settings: &Settings) -> [u16; 5] {
    let needed = needed(route, "_users");
    roles().map(|user| {
        let decided = match check(needed, &user, settings) {
            Ok(Verdict::Granted) => Ok(()),
            Ok(Verdict::AskDatabase) => check_database(needed, &user, security),
            Err(refused) => Err(refused),
        };
        decided.map_or_else(|error| crate::http::response::error::wire(&error.into()).0.as_u16(), |()| 200)
    })
}

const OPEN: [u16; 5] = [200, 200, 200, 200, 200];
const MEMBERS: [u16; 5] = [401, 403, 200, 200, 200];
const MANAGERS: [u16; 5] = [401, 403, 403, 200, 200];
const KEEPERS: [u16; 5] = [401, 401, 401, 200, 200];
const ADMINS: [u16; 5] = [401, 401, 401, 401, 200];
/// The users' database: everybody signed in; refused to all but its admins; refused to all but server admins.
const SIGNED_IN: [u16; 5] = [401, 200, 200, 200, 200];
const ITS_ADMINS: [u16; 5] = [403, 403, 403, 200, 200];

/// Every server route and what it gives. The match has no wildcard: a new route does not compile without its
/// row.
fn server_rows() -> Vec<(ServerRoute, [u16; 5])> {
    use ServerRoute as S;
    let rows = vec![
        (S::Welcome, OPEN),
        (S::Favicon, OPEN),
        (S::Utils("index.html".into()), OPEN),
        (S::Up, OPEN),
        (S::Uuids, OPEN),
        (S::Session, OPEN),
        (S::SignIn, OPEN),
        (S::SignOut, OPEN),
        (S::Token, OPEN),
        (S::Devices, SIGNED_IN),
        (S::RevokeDevices(None), SIGNED_IN),
        (S::RevokeDevices(Some("d".into())), SIGNED_IN),
        (S::AllDbs, ADMINS),
        (S::DbsInfo, ADMINS),
        (S::DbsInfoOf, ADMINS),
        (S::DbUpdates, ADMINS),
        (S::Conflicts, ADMINS),
        (S::SyncStatus, SIGNED_IN),
        (S::SyncHistory, SIGNED_IN),
        (S::SyncAlerts, SIGNED_IN),
        (S::LivesyncLink, SIGNED_IN),
        (S::ActiveTasks, ADMINS),
        (S::Membership, ADMINS),
        (S::ClusterState, ADMINS),
        (S::ClusterSetup, ADMINS),
        (S::ReloadQueryServers, ADMINS),
        (S::Replicate, SIGNED_IN),
        (S::SchedulerJobs, ADMINS),
        (S::SchedulerJob("j".into()), ADMINS),
        (S::SchedulerDocs("_replicator".into()), ADMINS),
        (S::SchedulerDoc("_replicator".into(), "d".into()), ADMINS),
        (S::Node(NodeRoute::Stats(vec![])), ADMINS),
        (S::Node(NodeRoute::System), ADMINS),
        (S::Node(NodeRoute::Prometheus), ADMINS),
        (S::Node(NodeRoute::Name), ADMINS),
        (S::Node(NodeRoute::Nodes), ADMINS),
        (S::Node(NodeRoute::Versions), ADMINS),
        (S::Node(NodeRoute::Restart), ADMINS),
        (S::Node(NodeRoute::Config), ADMINS),
        (S::Node(NodeRoute::ConfigReload), ADMINS),
        (S::Node(NodeRoute::ConfigSection("admins".into())), ADMINS),
        (S::Node(NodeRoute::ConfigKey("admins".into(), "root".into())), ADMINS),
        (S::Node(NodeRoute::ConfigSet("admins".into(), "root".into())), ADMINS),
        (S::Node(NodeRoute::ConfigDelete("admins".into(), "root".into())), ADMINS),
        (S::Node(NodeRoute::Settings), ADMINS),
        (S::Node(NodeRoute::Logs), ADMINS),
        (S::Node(NodeRoute::Audit), ADMINS),
        (S::Node(NodeRoute::History), ADMINS),
        (S::Node(NodeRoute::Backups), ADMINS),
        (S::Node(NodeRoute::MakeBackup), ADMINS),
        (S::Node(NodeRoute::CheckState), ADMINS),
        (S::Node(NodeRoute::Check), ADMINS),
    ];
    for (route, _) in &rows {
        match route {
            S::Welcome | S::Favicon | S::Utils(_) | S::Up | S::Uuids | S::Session | S::SignIn | S::SignOut => {}
            S::AllDbs | S::DbsInfo | S::DbsInfoOf | S::DbUpdates | S::Conflicts | S::ActiveTasks | S::Membership => {}
            S::SyncStatus | S::SyncHistory | S::SyncAlerts | S::LivesyncLink => {}
            S::ClusterState | S::ClusterSetup | S::ReloadQueryServers => {}
            S::Replicate | S::SchedulerJobs | S::SchedulerJob(_) | S::SchedulerDocs(_) | S::SchedulerDoc(..) => {}
            S::Token | S::Devices | S::RevokeDevices(_) => {}
            S::Node(node) => match node {
                NodeRoute::Name
                | NodeRoute::Nodes
                | NodeRoute::Versions
                | NodeRoute::System
                | NodeRoute::Prometheus => {}
                NodeRoute::Restart | NodeRoute::Stats(_) | NodeRoute::Config | NodeRoute::ConfigReload => {}
                NodeRoute::ConfigSection(_) | NodeRoute::ConfigKey(..) => {}
                NodeRoute::ConfigSet(..) | NodeRoute::ConfigDelete(..) => {}
                NodeRoute::Settings | NodeRoute::Logs | NodeRoute::Audit | NodeRoute::History => {}
                NodeRoute::Backups | NodeRoute::MakeBackup | NodeRoute::CheckState | NodeRoute::Check => {}
            },
        }
    }
    rows
}

fn list_path() -> ListFunctionPath {
    ListFunctionPath { design: "x".into(), function: "y".into(), of: None, view: "_all_docs".into() }
}

/// Every database route: what it gives in an ordinary database with members, and in the users' database.
fn database_rows() -> Vec<(DbRoute, [u16; 5], [u16; 5])> {
    use AttachmentVerb as A;
    use DbRoute as R;
    use DocumentVerb as D;
    let doc = || "doc".to_string();
    let design = || "_design/x".to_string();
    let rows = vec![
        (R::Info, MEMBERS, SIGNED_IN),
        (R::Create, ADMINS, ADMINS),
        (R::Delete, ADMINS, ADMINS),
        (R::Post, MEMBERS, SIGNED_IN),
        (R::DocumentList(DocumentList::AllDocs), MEMBERS, ADMINS),
        (R::DocumentList(DocumentList::DesignDocs), MEMBERS, ADMINS),
        (R::DocumentList(DocumentList::LocalDocs), MEMBERS, ADMINS),
        (R::DocumentListQueries(DocumentList::AllDocs), MEMBERS, ADMINS),
        (R::BulkDocs, MEMBERS, SIGNED_IN),
        (R::BulkGet, MEMBERS, SIGNED_IN),
        (R::Changes, MEMBERS, ADMINS),
        (R::Conflicts, MEMBERS, ADMINS),
        (R::RevsDiff, MEMBERS, SIGNED_IN),
        (R::MissingRevs, MEMBERS, SIGNED_IN),
        (R::Compact, KEEPERS, KEEPERS),
        (R::CompactViews("x".into()), KEEPERS, KEEPERS),
        (R::ViewCleanup, KEEPERS, KEEPERS),
        (R::EnsureFullCommit, MEMBERS, SIGNED_IN),
        (R::Security, MEMBERS, ITS_ADMINS),
        (R::SetSecurity, MANAGERS, MANAGERS),
        (R::RevsLimit, MEMBERS, ITS_ADMINS),
        (R::SetRevsLimit, MANAGERS, MANAGERS),
        (R::Purge, ADMINS, ADMINS),
        (R::PurgedInfos, MEMBERS, ITS_ADMINS),
        (R::PurgedInfosLimit, ADMINS, ADMINS),
        (R::SetPurgedInfosLimit, ADMINS, ADMINS),
        (R::AutoPurge, MEMBERS, ITS_ADMINS),
        (R::SetAutoPurge, MANAGERS, MANAGERS),
        (R::Shards, MEMBERS, ITS_ADMINS),
        (R::ShardOf(doc()), MEMBERS, ITS_ADMINS),
        (R::SyncShards, ADMINS, ADMINS),
        (R::Partition("p".into()), MEMBERS, ITS_ADMINS),
        (R::PartitionDocs("p".into()), MEMBERS, ADMINS),
        (R::Find(None), MEMBERS, ADMINS),
        (R::Find(Some("p".into())), MEMBERS, ADMINS),
        (R::Explain(None), MEMBERS, ADMINS),
        (R::View("x".into(), "y".into(), None), MEMBERS, ITS_ADMINS),
        (R::ViewQueries("x".into(), "y".into(), None), MEMBERS, ITS_ADMINS),
        (R::DesignInfo("x".into()), MEMBERS, ITS_ADMINS),
        (R::Indexes, MEMBERS, ITS_ADMINS),
        (R::Views, MANAGERS, MANAGERS),
        (R::Try, MANAGERS, MANAGERS),
        (R::CreateIndex, MANAGERS, MANAGERS),
        (R::DeleteIndexes, MANAGERS, MANAGERS),
        (R::DeleteIndex { design: "x".into(), kind: "json".into(), name: "y".into() }, MANAGERS, MANAGERS),
        (R::Show("x".into(), "y".into(), None), MEMBERS, ITS_ADMINS),
        (R::Show("x".into(), "y".into(), Some("doc".into())), MEMBERS, SIGNED_IN),
        (R::Update("x".into(), "y".into(), None), MEMBERS, ITS_ADMINS),
        (R::Rewrite("x".into()), MEMBERS, ITS_ADMINS),
        (R::ListFunction(list_path()), MEMBERS, ITS_ADMINS),
        (R::Document(D::Get, doc()), MEMBERS, SIGNED_IN),
        (R::Document(D::Put, doc()), MEMBERS, SIGNED_IN),
        (R::Document(D::Post, doc()), MEMBERS, SIGNED_IN),
        (R::Document(D::Delete, doc()), MEMBERS, SIGNED_IN),
        (R::Document(D::Copy, doc()), MEMBERS, SIGNED_IN),
        (R::Document(D::Get, design()), MEMBERS, SIGNED_IN),
        (R::Document(D::Put, design()), MANAGERS, MANAGERS),
        (R::Document(D::Post, design()), MANAGERS, MANAGERS),
        (R::Document(D::Delete, design()), MANAGERS, MANAGERS),
        (R::Document(D::Copy, design()), MEMBERS, SIGNED_IN),
        (R::Attachment(A::Get, doc(), "a".into()), MEMBERS, SIGNED_IN),
        (R::Attachment(A::Put, doc(), "a".into()), MEMBERS, SIGNED_IN),
        (R::Attachment(A::Delete, doc(), "a".into()), MEMBERS, SIGNED_IN),
        (R::Attachment(A::Get, design(), "a".into()), MEMBERS, SIGNED_IN),
        (R::Attachment(A::Put, design(), "a".into()), MANAGERS, MANAGERS),
        (R::Attachment(A::Delete, design(), "a".into()), MANAGERS, MANAGERS),
    ];
    for (route, ..) in &rows {
        match route {
            R::Info
            | R::Create
            | R::Delete
            | R::Post
            | R::DocumentList(_)
            | R::DocumentListQueries(_)
            | R::BulkDocs => {}
            R::BulkGet | R::Changes | R::Conflicts | R::RevsDiff | R::MissingRevs | R::Compact | R::CompactViews(_) => {
            }
            R::ViewCleanup | R::EnsureFullCommit | R::Security | R::SetSecurity | R::RevsLimit => {}
            R::SetRevsLimit | R::Purge | R::PurgedInfos | R::PurgedInfosLimit | R::SetPurgedInfosLimit => {}
            R::AutoPurge | R::SetAutoPurge | R::Shards | R::ShardOf(_) | R::SyncShards | R::Partition(_) => {}
            R::PartitionDocs(_) | R::Document(..) | R::Attachment(..) => {}
            R::Find(_) | R::Explain(_) | R::Indexes | R::Views | R::Try => {}
            R::View(..) | R::ViewQueries(..) | R::DesignInfo(_) => {}
            R::ListFunction(_) | R::Show(..) | R::Update(..) | R::Rewrite(_) => {}
            R::CreateIndex | R::DeleteIndexes | R::DeleteIndex { .. } => {}
        }
    }
    rows
}

/// The names of an enum's variants, as its source has them.
pub fn variants(name: &str) -> BTreeSet<String> {
    let source = include_str!("../route.rs");
    let body =
        source.split_once(&format!("pub enum {name} {{\n")).and_then(|(_, rest)| rest.split_once("\n}")).unwrap().0;
    let of_line = |line: &str| {
        let line = line.strip_prefix("    ")?;
        line.starts_with(|first: char| first.is_ascii_uppercase())
            .then(|| line.chars().take_while(char::is_ascii_alphanumeric).collect())
    };
    body.lines().filter_map(of_line).collect()
}

/// The variant of a route, by its name.
pub fn variant(route: &impl std::fmt::Debug) -> String {
    format!("{route:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// A new route must have its row in the tables above.
fn assert_complete<'a, T: std::fmt::Debug + 'a>(name: &str, routes: impl Iterator<Item = &'a T>) {
    let rows: BTreeSet<String> = routes.map(variant).collect();
    assert_eq!(rows, variants(name), "a row for every {name}");
}

#[test]
fn every_route_for_every_role() {
    let settings = Settings::default();
    let security = json!({"admins": {"names": ["ann"]}, "members": {"names": ["ben"]}});
    let servers = server_rows();
    assert_complete("ServerRoute", servers.iter().map(|(route, _)| route));
    let of_node =
        servers.iter().filter_map(|(route, _)| if let ServerRoute::Node(node) = route { Some(node) } else { None });
    assert_complete("NodeRoute", of_node);
    for (route, expected) in servers {
        let route = Route::Server(route);
        assert_eq!(outcomes(&route, &security, &settings), expected, "{route:?}");
    }
    let databases = database_rows();
    assert_complete("DbRoute", databases.iter().map(|(route, ..)| route));
    for (what, ordinary, accounts) in databases {
        let mut route = Route::Database { name: "db".into(), what };
        assert_eq!(outcomes(&route, &security, &settings), ordinary, "{route:?}");
        let Route::Database { name, .. } = &mut route else { unreachable!() };
        *name = "_users".into();
        assert_eq!(outcomes(&route, &security, &settings), accounts, "{route:?}");
        let Route::Database { name, .. } = &mut route else { unreachable!() };
        *name = "_nothing".into();
        assert_eq!(outcomes(&route, &security, &settings), ADMINS, "{route:?}");
    }
}

#[test]
fn replications_are_not_read_in_bulk() {
    let settings = Settings::default();
    let security = json!({});
    let view = DbRoute::View("x".into(), "y".into(), None);
    for what in [
        DbRoute::Changes,
        DbRoute::DocumentList(DocumentList::AllDocs),
        DbRoute::DocumentListQueries(DocumentList::AllDocs),
        view,
    ] {
        let route = Route::Database { name: "_replicator".into(), what };
        assert_eq!(outcomes(&route, &security, &settings), ADMINS, "{route:?}");
    }
    let bulk = Route::Database { name: "team/_replicator".into(), what: DbRoute::Changes };
    assert_eq!(outcomes(&bulk, &security, &settings), ADMINS);
    let admins = json!({"admins": {"names": ["ann"]}, "members": {"names": ["ben"]}});
    assert_eq!(outcomes(&bulk, &admins, &settings), KEEPERS);
    let document = DbRoute::Document(DocumentVerb::Get, "x".into());
    let route = Route::Database { name: "_replicator".into(), what: document };
    assert_eq!(outcomes(&route, &security, &settings), OPEN);
}

#[test]
fn the_users_database_may_have_another_name() {
    let route = |name: &str| Route::Database { name: name.into(), what: DbRoute::Changes };
    assert_eq!(needed(&route("people"), "people"), Access::Admin);
    assert_eq!(needed(&route("people"), "_users"), Access::Member);
}

#[test]
fn a_public_users_database_is_open_for_sign_up() {
    let route = Route::Database { name: "_users".into(), what: DbRoute::Post };
    assert_eq!(outcomes(&route, &json!({}), &Settings::default()), OPEN);
}

#[test]
fn settings_and_roles_open_lists_and_metrics() {
    let with = |section: &str, key: &str, value: &str| {
        let mut table = crate::config::Table::new();
        table.entry(section.into()).or_default().insert(key.into(), value.into());
        Settings::new(table).expect("valid settings")
    };
    let open = with("chttpd", "admin_only_all_dbs", "false");
    for route in [ServerRoute::AllDbs, ServerRoute::DbsInfo, ServerRoute::DbsInfoOf] {
        assert_eq!(outcomes(&Route::Server(route), &json!({}), &open), OPEN);
    }
    let metrics = needed(&Route::Server(ServerRoute::Node(NodeRoute::Prometheus)), "_users");
    assert_eq!(check(metrics, &user("x", &["_metrics"]), &Settings::default()), Ok(Verdict::Granted));
    let config = needed(&Route::Server(ServerRoute::Node(NodeRoute::Config)), "_users");
    assert!(check(config, &user("x", &["_metrics"]), &Settings::default()).is_err());
}

#[test]
fn refusals_are_couchdbs_words() {
    let reason = |error: crate::error::Error| crate::http::response::error::wire(&error.into()).2.into_owned();
    let closed = json!({"admins": {"roles": ["_admin"]}, "members": {"roles": ["_admin"]}});
    let nobody = UserCtx::anonymous();
    let eve = user("eve", &[]);
    for (needed, user, expected) in [
        (Access::Member, &nobody, "You are not authorized to access this db."),
        (Access::Member, &eve, "You are not allowed to access this db."),
        (Access::Account, &nobody, "You are not authorized to access this db."),
        (Access::ManageDatabase, &eve, "You are not a db or server admin."),
        (Access::DatabaseAdmin, &eve, "You are not a server or db admin."),
        (Access::AccountsAdmin, &eve, "Only administrators can view design docs in the users database."),
    ] {
        let refused = check_database(needed, user, &closed).expect_err("refused");
        assert_eq!(reason(refused), expected, "{needed:?}");
    }
    let settings = Settings::default();
    for (needed, expected) in [
        (Access::Admin, "You are not a server admin."),
        (Access::ListDatabases, "You are not a server admin."),
        (Access::Metrics, "You are not a server admin or read-only metrics user"),
        (Access::SignedIn, "You are not an authenticated user"),
    ] {
        assert_eq!(reason(check(needed, &nobody, &settings).expect_err("refused")), expected, "{needed:?}");
    }
}

#[test]
fn require_valid_user_leaves_signing_in_open() {
    let with = |key: &str| {
        let mut table = crate::config::Table::new();
        table.entry("chttpd".into()).or_default().insert(key.into(), "true".into());
        Settings::new(table).expect("valid settings")
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
        assert_eq!(check_nobody(openness(route), &with(key)).is_ok(), open, "{key} {route:?}");
    }
    assert!(check_nobody(openness(&welcome), &Settings::default()).is_ok());
}
