//! Two servers on one store: what is changed through one of them holds on the other.

use serde_json::{Value, json};

use super::*;
use crate::store::shared_memory::Cluster;

/// Two nodes of a store, started at once, with the admin `ann`.
struct Nodes {
    cluster: Arc<Cluster>,
    one: Running,
    two: Running,
}

async fn nodes(rows: &[(&str, &str, &str)]) -> Nodes {
    let cluster = Cluster::new(Clock::system());
    let blobs = Arc::new(MemoryBlobs::new());
    let mut base = Table::new();
    for (section, key, value) in [("chttpd_auth", "iterations", "1")].iter().chain(rows) {
        base.entry((*section).into()).or_default().insert((*key).into(), (*value).into());
    }
    let node = || {
        start(Options {
            base: base.clone(),
            sources: Sources::new(),
            admins: vec![("ann".into(), "secret".into())],
            store: cluster.node(),
            indexes: None,
            blobs: blobs.clone(),
            clock: Clock::system(),
            recent: Recent::default(),
            backup_key: None,
        })
    };
    let (one, two) = tokio::join!(node(), node());
    cluster.refuse_async_threads(true);
    Nodes { cluster, one: one.unwrap(), two: two.unwrap() }
}

/// Sends a request that succeeds.
async fn done(running: &Running, line: &str, who: &str, body: Value) -> Reply {
    let reply = send(running, line, who, body).await;
    assert!(reply.status < 300, "{line}: {} {}", reply.status, reply.text());
    reply
}

async fn status(running: &Running, line: &str, who: &str) -> u16 {
    send(running, line, who, Value::Null).await.status
}

fn account(name: &str, password: &str, roles: &[&str]) -> Value {
    json!({"_id": format!("org.couchdb.user:{name}"), "type": "user", "name": name, "password": password, "roles": roles})
}

async fn cookie(running: &Running, name: &str, password: &str) -> String {
    let reply = done(running, "POST /_session", "", json!({"name": name, "password": password})).await;
    let cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    format!("Cookie: {cookie}")
}

/// Opens a continuous feed and waits for its first row.
async fn feed(running: &Running, who: &str) -> Client {
    let mut client = Client::connect(running.address).await;
    client.send("GET /db/_changes?feed=continuous&since=0&heartbeat=60000", &[who], b"").await;
    assert!(within(client.until("\"id\":\"first\"")).await, "the feed has begun");
    client
}

#[tokio::test]
async fn nodes_that_start_at_once_agree_on_identity_secret_and_admin() {
    let Nodes { one, two, .. } = nodes(&[]).await;
    let uuid = |reply: Reply| reply.json()["uuid"].as_str().unwrap().to_owned();
    assert_eq!(uuid(done(&one, "GET /", "", Value::Null).await), uuid(done(&two, "GET /", "", Value::Null).await));
    let cookie = cookie(&one, "ann", "secret").await;
    let session = done(&two, "GET /_session", &cookie, Value::Null).await.json();
    assert_eq!(session["userCtx"], json!({"name": "ann", "roles": ["_admin"]}));
}

#[tokio::test]
async fn each_node_tells_of_all() {
    let Nodes { cluster, one, two } = nodes(&[]).await;
    let task = two.app.begin_task("testing");
    for app in [&one.app, &two.app, &one.app] {
        let app = app.clone();
        tokio::task::spawn_blocking(move || app.nodes.beat(&*app.store, app.node_state()?)).await.unwrap().unwrap();
    }
    let names = [&one, &two].map(|node| node.app.nodes.name().to_owned());
    assert_eq!(done(&two, "GET /_node/_local", ADMIN, Value::Null).await.json()["name"], names[1].as_str());
    let membership = done(&one, "GET /_membership", ADMIN, Value::Null).await.json();
    assert_eq!(membership, json!({"all_nodes": names, "cluster_nodes": names}));
    let list = done(&one, "GET /_node/_local/_nodes", ADMIN, Value::Null).await.json();
    let told = |at: usize, member: &str| list["nodes"][at][member].clone();
    for (at, node) in [&one, &two].into_iter().enumerate() {
        assert_eq!((told(at, "name"), told(at, "alive")), (names[at].as_str().into(), true.into()));
        assert_eq!(told(at, "address"), node.address.to_string());
        assert_eq!((told(at, "this"), told(at, "tasks")), ((at == 0).into(), at.into()));
        assert!(told(at, "last_seen").as_u64() >= told(at, "started").as_u64(), "{list}");
    }
    let tasks = done(&one, "GET /_active_tasks", ADMIN, Value::Null).await.json();
    assert_eq!((&tasks[0]["type"], &tasks[0]["node"]), (&"testing".into(), &names[1].as_str().into()));
    drop(task);
    // A node that starts again replaces its old record, and one that stops takes its record away.
    let mut batch = crate::store::Batch::new();
    let old = json!({"name": names[0], "address": "", "version": "", "started": 1, "seen": 1, "beat": 7, "updates": 0, "epoch": 0, "tasks": []});
    batch.put(crate::store::keyspace::node("old"), [b"\x01", old.to_string().as_bytes()].concat());
    tokio::task::spawn_blocking(move || cluster.node().commit(batch)).await.unwrap().unwrap();
    let alone = json!({"all_nodes": [names[0]], "cluster_nodes": [names[0]]});
    within(Box::pin(async {
        // Again if the second one, which goes on running, has told of itself meanwhile.
        while done(&one, "GET /_membership", ADMIN, Value::Null).await.json() != alone {
            for (app, leaves) in [(&one.app, false), (&two.app, true), (&one.app, false)] {
                let app = app.clone();
                let call = move || match leaves {
                    true => app.nodes.leave(&*app.store),
                    false => app.nodes.beat(&*app.store, app.node_state()?),
                };
                tokio::task::spawn_blocking(call).await.unwrap().unwrap();
            }
        }
    }))
    .await;
    assert_eq!(status(&one, "GET /_node/_local/_nodes", "").await, 401);
}

#[tokio::test]
async fn what_one_node_writes_the_next_request_on_the_other_reads() {
    let Nodes { one, two, .. } = nodes(&[]).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    for round in 0..5 {
        for (here, there, name) in [(&one, &two, "a"), (&two, &one, "b")] {
            done(here, &format!("PUT /db/{name}{round}"), ADMIN, json!({"n": round})).await;
            let read = done(there, &format!("GET /db/{name}{round}"), ADMIN, Value::Null).await.json();
            assert_eq!(read["n"], round);
            let info = done(there, "GET /db", ADMIN, Value::Null).await.json();
            let changes = done(there, "GET /db/_changes", ADMIN, Value::Null).await.json();
            assert_eq!(changes["results"].as_array().unwrap().len() as u64, info["doc_count"].as_u64().unwrap());
            assert_eq!(changes["last_seq"], info["update_seq"]);
            done(here, "PUT /db/_local/l", ADMIN, json!({"by": name, "n": round})).await;
            let local = done(there, "GET /db/_local/l", ADMIN, Value::Null).await.json();
            assert_eq!((&local["by"], &local["n"]), (&json!(name), &json!(round)));
        }
    }
    done(&one, "PUT /db/_revs_limit", ADMIN, json!(5)).await;
    assert_eq!(done(&two, "GET /db/_revs_limit", ADMIN, Value::Null).await.json(), 5);
}

#[tokio::test]
async fn a_longpoll_on_the_other_node_is_woken_with_and_without_notices() {
    let Nodes { cluster, one, two } = nodes(&[]).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    for lost in [false, true] {
        cluster.lose_notices(lost);
        let since = done(&two, "GET /db", ADMIN, Value::Null).await.json()["update_seq"].as_str().unwrap().to_owned();
        let line = format!("GET /db/_changes?feed=longpoll&since={since}");
        let waits = send(&two, &line, ADMIN, Value::Null);
        let writes = async {
            // Until the feed waits, there is nothing to wake.
            while !two.app.databases.opened("db").is_some_and(|database| database.is_watched()) {
                tokio::task::yield_now().await;
            }
            done(&one, &format!("PUT /db/{lost}"), ADMIN, json!({})).await;
        };
        let (reply, ()) = within(Box::pin(async { tokio::join!(waits, writes) })).await;
        assert_eq!(reply.json()["results"][0]["id"], lost.to_string());
    }
}

#[tokio::test]
async fn a_deleted_database_is_not_served_from_memory() {
    let Nodes { one, two, .. } = nodes(&[]).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&two, "PUT /db/a", ADMIN, json!({})).await;
    done(&one, "DELETE /db", ADMIN, Value::Null).await;
    assert_eq!(status(&two, "GET /db/a", ADMIN).await, 404);
    assert_eq!(status(&two, "PUT /db/b", ADMIN).await, 404);
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    assert_eq!(send(&two, "GET /db/a", ADMIN, Value::Null).await.reason(), "missing");
    done(&two, "PUT /db/b", ADMIN, json!({})).await;
    let all = done(&one, "GET /db/_all_docs", ADMIN, Value::Null).await.json();
    assert_eq!(all["rows"].as_array().unwrap().len(), 1);
    assert_eq!(status(&two, "PUT /db", ADMIN).await, 412);
}

#[tokio::test]
async fn accounts_passwords_and_roles_hold_on_the_other_node_at_once() {
    let Nodes { one, two, .. } = nodes(&[]).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&one, "PUT /db/_security", ADMIN, json!({"members": {"roles": ["dog"]}})).await;
    let spike = basic("spike", "bone");
    assert_eq!(status(&two, "GET /db", &spike).await, 401);
    done(&one, "POST /_users", ADMIN, account("spike", "bone", &["dog"])).await;
    assert_eq!(status(&two, "GET /db", &spike).await, 200);
    let path = "/_users/org.couchdb.user:spike";
    let mut document = done(&two, &format!("GET {path}"), ADMIN, Value::Null).await.json();
    document["roles"] = json!([]);
    let revision = done(&one, &format!("PUT {path}"), ADMIN, document.clone()).await.json()["rev"].clone();
    assert_eq!(status(&two, "GET /db", &spike).await, 403);
    (document["roles"], document["_rev"], document["password"]) = (json!(["dog"]), revision, json!("other"));
    let revision = done(&two, &format!("PUT {path}"), ADMIN, document).await.json()["rev"].clone();
    assert_eq!(status(&one, "GET /db", &spike).await, 401, "the old password");
    let spike = basic("spike", "other");
    assert_eq!(status(&one, "GET /db", &spike).await, 200);
    done(&one, &format!("DELETE {path}?rev={}", revision.as_str().unwrap()), ADMIN, Value::Null).await;
    assert_eq!(status(&two, "GET /db", &spike).await, 401);
}

#[tokio::test]
async fn sessions_and_devices_hold_on_the_other_node_at_once() {
    let Nodes { one, two, .. } = nodes(&[]).await;
    done(&one, "POST /_users", ADMIN, account("tom", "mp3", &[])).await;
    let (first, second) = (cookie(&one, "tom", "mp3").await, cookie(&two, "tom", "mp3").await);
    for (running, cookie) in [(&two, &first), (&one, &second)] {
        let session = done(running, "GET /_session", cookie, Value::Null).await.json();
        assert_eq!(session["userCtx"]["name"], "tom");
    }
    let devices = |reply: Reply| reply.json()["devices"].as_array().unwrap().len();
    assert_eq!(devices(done(&one, "GET /_session/devices", &first, Value::Null).await), 2);
    done(&one, "DELETE /_session", &first, Value::Null).await;
    assert_ne!(done_or_refused(&two, &first).await, "tom", "signed out on the other node");
    assert_eq!(devices(done(&two, "GET /_session/devices", &second, Value::Null).await), 1);
    done(&two, "DELETE /_session/devices", &basic("tom", "mp3"), Value::Null).await;
    assert_ne!(done_or_refused(&one, &second).await, "tom", "revoked on the other node");
}

/// The name of the user of a session, `""` if there is none.
async fn done_or_refused(running: &Running, cookie: &str) -> String {
    let reply = send(running, "GET /_session", cookie, Value::Null).await;
    reply.json()["userCtx"]["name"].as_str().unwrap_or("").to_owned()
}

#[tokio::test]
async fn a_setting_holds_on_the_other_node_at_once_and_none_gets_lost() {
    let Nodes { one, two, .. } = nodes(&[]).await;
    done(&one, "PUT /_node/_local/_config/chttpd/require_valid_user", ADMIN, json!("true")).await;
    assert_eq!(status(&two, "GET /", "").await, 401);
    done(&two, "DELETE /_node/_local/_config/chttpd/require_valid_user", ADMIN, Value::Null).await;
    assert_eq!(status(&one, "GET /", "").await, 200);
    done(&one, "PUT /_node/_local/_config/admins/bob", ADMIN, json!("pw")).await;
    let session = done(&two, "GET /_session", &basic("bob", "pw"), Value::Null).await.json();
    assert_eq!(session["userCtx"]["roles"], json!(["_admin"]));
    let set = |running: &Running, key: String| {
        let (address, line) = (running.address, format!("PUT /_node/_local/_config/mine/{key}"));
        tokio::spawn(async move { ask(address, &line, &[ADMIN, JSON], br#""x""#).await.status })
    };
    let tasks: Vec<_> =
        (0..10).flat_map(|number| [set(&one, format!("one{number}")), set(&two, format!("two{number}"))]).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    for running in [&one, &two] {
        let mine = done(running, "GET /_node/_local/_config/mine", ADMIN, Value::Null).await.json();
        assert_eq!(mine.as_object().unwrap().len(), 20);
    }
}

#[tokio::test]
async fn a_validation_function_holds_on_the_other_node_at_once() {
    let Nodes { one, two, .. } = nodes(&[]).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&two, "PUT /db/a", ADMIN, json!({"bad": true})).await;
    let function = "function (doc) { if (doc.bad) throw({ forbidden: 'bad' }); }";
    done(&one, "PUT /db/_design/v", ADMIN, json!({"validate_doc_update": function})).await;
    assert_eq!(send(&two, "PUT /db/b", ADMIN, json!({"bad": true})).await.status, 403);
    let revision = done(&two, "GET /db/_design/v", ADMIN, Value::Null).await.json()["_rev"].clone();
    done(&two, &format!("DELETE /db/_design/v?rev={}", revision.as_str().unwrap()), ADMIN, Value::Null).await;
    done(&one, "PUT /db/b", ADMIN, json!({"bad": true})).await;
}

#[tokio::test]
async fn open_feeds_end_when_the_right_to_them_ends_on_the_other_node() {
    let Nodes { cluster, one, two } = nodes(&[]).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&one, "PUT /db/first", ADMIN, json!({})).await;
    done(&one, "PUT /db/_security", ADMIN, json!({"members": {"names": ["tom", "spike", "jerry"]}})).await;
    for name in ["tom", "spike", "jerry"] {
        done(&one, "POST /_users", ADMIN, account(name, "pw", &[])).await;
    }
    // The poll alone must do.
    cluster.lose_notices(true);
    let mut by_password = feed(&two, &basic("tom", "pw")).await;
    let mut by_session = feed(&two, &cookie(&two, "spike", "pw").await).await;
    let mut by_security = feed(&two, &basic("jerry", "pw")).await;
    let path = "/_users/org.couchdb.user:tom";
    let mut tom = done(&one, &format!("GET {path}"), ADMIN, Value::Null).await.json();
    tom["password"] = json!("other");
    done(&one, &format!("PUT {path}"), ADMIN, tom).await;
    assert!(within(by_password.ends()).await);
    done(&one, "DELETE /_session/devices", &basic("spike", "pw"), Value::Null).await;
    assert!(within(by_session.ends()).await);
    done(&one, "PUT /db/_security", ADMIN, json!({"members": {"names": ["tom"]}})).await;
    assert!(within(by_security.ends()).await);
    let mut by_database = feed(&two, &basic("tom", "other")).await;
    done(&one, "DELETE /db", ADMIN, Value::Null).await;
    assert!(within(by_database.ends()).await);
}

#[tokio::test]
async fn a_password_that_a_failover_lost_is_not_valid_when_its_sequence_comes_again() {
    let Nodes { cluster, one, two } = nodes(&[]).await;
    let path = "/_users/org.couchdb.user:tom";
    let set = async |password: &str| {
        let mut tom = done(&one, &format!("GET {path}"), ADMIN, Value::Null).await.json();
        tom["password"] = json!(password);
        done(&one, &format!("PUT {path}"), ADMIN, tom).await;
    };
    let signs_in = async |running: &Running, password: &str| {
        status(running, "GET /_session", &basic("tom", password)).await == 200
    };
    done(&one, "POST /_users", ADMIN, account("tom", "first", &[])).await;
    let kept = cluster.entries();
    set("lost").await;
    assert!(signs_in(&one, "lost").await && signs_in(&two, "lost").await);
    cluster.fail_over_to(kept);
    set("new").await;
    for running in [&one, &two] {
        assert!(signs_in(running, "new").await);
        assert!(!signs_in(running, "lost").await && !signs_in(running, "first").await);
    }
}

#[tokio::test]
async fn revocations_end_feeds_after_a_failover_that_lost_some() {
    let Nodes { cluster, one, two } = nodes(&[]).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&one, "PUT /db/first", ADMIN, json!({})).await;
    done(&one, "PUT /db/_security", ADMIN, json!({"members": {"names": ["tom"]}})).await;
    done(&one, "POST /_users", ADMIN, account("tom", "pw", &[])).await;
    let kept = cluster.entries();
    for _ in 0..3 {
        let lost = cookie(&one, "tom", "pw").await;
        done(&one, "DELETE /_session", &lost, Value::Null).await;
        assert_eq!(done_or_refused(&two, &lost).await, "");
    }
    cluster.fail_over_to(kept);
    for _ in 0..2 {
        let session = cookie(&two, "tom", "pw").await;
        let mut open = feed(&two, &session).await;
        done(&one, "DELETE /_session", &session, Value::Null).await;
        assert!(within(open.ends()).await);
    }
}

#[tokio::test]
async fn accounts_are_current_after_another_node_changed_which_database_has_them() {
    let Nodes { one, two, .. } = nodes(&[]).await;
    let accounts = async |name: &str| {
        done(&one, "PUT /_node/_local/_config/chttpd_auth/authentication_db", ADMIN, json!(name)).await;
    };
    let tom = basic("tom", "pw");
    done(&one, "PUT /people", ADMIN, Value::Null).await;
    accounts("people").await;
    let made = done(&one, "POST /people", ADMIN, account("tom", "pw", &[])).await.json();
    assert_eq!(status(&two, "GET /_session", &tom).await, 200);
    accounts("_users").await;
    assert_eq!(status(&two, "GET /_session", &tom).await, 401);
    let path = format!("/people/org.couchdb.user:tom?rev={}", made["rev"].as_str().unwrap());
    done(&one, &format!("DELETE {path}"), ADMIN, Value::Null).await;
    accounts("people").await;
    assert_eq!(status(&two, "GET /_session", &tom).await, 401);
}

/// The keys of a view's rows.
async fn view_keys(running: &Running) -> Value {
    let reply = done(running, "GET /db/_design/d/_view/v", ADMIN, Value::Null).await.json();
    reply["rows"].as_array().unwrap().iter().map(|row| row["key"].clone()).collect()
}

#[tokio::test]
async fn each_node_keeps_its_own_indexes_and_they_follow_what_the_other_writes() {
    let Nodes { cluster, one, two } = nodes(&[]).await;
    let design = json!({"views": {"v": {"map": "function (doc) { emit(doc.n, null); }"}}});
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&one, "PUT /db/_design/d", ADMIN, design.clone()).await;
    let revision = done(&one, "PUT /db/a", ADMIN, json!({"n": 1})).await.json()["rev"].clone();
    assert_eq!(view_keys(&two).await, json!([1]));
    done(&two, "PUT /db/b", ADMIN, json!({"n": 2})).await;
    assert_eq!(view_keys(&one).await, json!([1, 2]));
    done(&one, "POST /db/_purge", ADMIN, json!({"a": [revision]})).await;
    assert_eq!((view_keys(&two).await, view_keys(&one).await), (json!([2]), json!([2])));
    let find = json!({"selector": {"n": {"$gt": 0}}, "use_index": "by-n"});
    done(&one, "POST /db/_index", ADMIN, json!({"index": {"fields": ["n"]}, "ddoc": "by-n"})).await;
    let found = done(&two, "POST /db/_find", ADMIN, find).await.json();
    assert_eq!((found["docs"][0]["_id"].as_str(), found["warning"].as_str()), (Some("b"), None));
    cluster.refuse_async_threads(false);
    let rows = crate::store::keyspace::all_indexes();
    assert!(cluster.node().keys(&rows, 1).unwrap().is_empty(), "no index is in the shared store");
    cluster.refuse_async_threads(true);
    done(&two, "POST /db/_view_cleanup", ADMIN, Value::Null).await;
    assert_eq!(view_keys(&two).await, json!([2]));
    // Made again: neither node takes the old index for that of the new database.
    done(&two, "DELETE /db", ADMIN, Value::Null).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&one, "PUT /db/_design/d", ADMIN, design).await;
    assert_eq!((view_keys(&two).await, view_keys(&one).await), (json!([]), json!([])));
}

#[tokio::test]
async fn indexes_of_a_node_are_removed_and_built_again() {
    let Nodes { cluster, one, two } = nodes(&[]).await;
    // This test reads it itself.
    cluster.refuse_async_threads(false);
    let design = json!({"views": {"v": {"map": "function (doc) { emit(doc.n, 'x'.repeat(2000)); }"}}});
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&one, "PUT /db/_design/d", ADMIN, design).await;
    // Enough for a run in the store.
    let documents: Vec<Value> = (0..1000).map(|n| json!({"_id": format!("{n:04}"), "n": n})).collect();
    done(&one, "POST /db/_bulk_docs", ADMIN, json!({ "docs": documents })).await;
    let all: Value = (0..1000).collect();
    let stored = |running: &Running| {
        let range = crate::store::keyspace::all_indexes();
        running.app.databases.index_store().keys(&range, 1).unwrap().len()
    };
    let tidy = |running: &Running, most| {
        let app = &running.app;
        crate::query::index::upkeep::remove_surplus(app.views.histories(), &app.databases, most).unwrap()
    };
    assert_eq!(view_keys(&two).await, all);
    assert_eq!((stored(&two), stored(&one)), (1, 0));
    assert_eq!(tidy(&two, u64::MAX), 0);
    assert_eq!((tidy(&two, 1000), stored(&two)), (1, 0), "more than the limit");
    assert_eq!(view_keys(&two).await, all);
    // A failover may have lost what the index was made of.
    cluster.fail_over();
    let wait = async {
        while stored(&two) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(wait).await;
    assert_eq!(view_keys(&two).await, all);
    done(&one, "DELETE /db", ADMIN, Value::Null).await;
    assert_eq!((tidy(&two, u64::MAX), stored(&two)), (1, 0), "of a deleted database");
}

#[tokio::test]
async fn a_failover_that_loses_commits_hides_no_later_change_from_clients() {
    let Nodes { cluster, one, two } = nodes(&[]).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    let put = async |node: &Running, id: &str| drop(done(node, &format!("PUT /db/{id}"), ADMIN, json!({})).await);
    put(&one, "kept").await;
    let kept = cluster.entries();
    put(&one, "lost1").await;
    put(&one, "lost2").await;
    let ids = |reply: &Reply| {
        let rows = reply.json()["results"].as_array().unwrap().clone();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = done(&two, "GET /db/_changes", ADMIN, Value::Null).await;
    let last = before.json()["last_seq"].as_str().unwrap().to_owned();
    assert!(last.starts_with("3-") && !last.contains('.'), "{last}");
    let (address, line) = (two.address, format!("GET /db/_changes?feed=longpoll&timeout=30000&since={last}"));
    let waiting = tokio::spawn(async move { ask(address, &line, &[JSON, ADMIN], &[]).await });
    let metrics = &two.app.metrics.clients_requesting_changes;
    within(async {
        while metrics.value() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    cluster.fail_over_to(kept);
    // The nodes look at the epoch every second.
    until(&one, "GET /db", |reply| reply.json()["update_seq"].as_str().unwrap().starts_with("1-")).await;
    for id in ["a", "b", "c"] {
        put(&one, id).await;
    }
    let woken = within(waiting).await.unwrap();
    assert_eq!(ids(&woken).first().unwrap(), "a", "the waiting feed goes on from what was kept");
    for node in [&one, &two] {
        let after = done(node, &format!("GET /db/_changes?since={last}"), ADMIN, Value::Null).await;
        assert_eq!(ids(&after), ["a", "b", "c"]);
        let new = after.json()["last_seq"].as_str().unwrap().to_owned();
        assert!(new.starts_with("4-") && new.ends_with(".2"), "{new}");
        let none = done(node, &format!("GET /db/_changes?since={new}"), ADMIN, Value::Null).await;
        assert_eq!(ids(&none), Vec::<String>::new());
        let early = last.replacen('3', "1", 1);
        let early = done(node, &format!("GET /db/_changes?since={early}"), ADMIN, Value::Null).await;
        assert_eq!(ids(&early), ["a", "b", "c"], "what was read before the point of loss is not sent again");
    }
}

/// Asks until the condition holds for the answer.
async fn until(running: &Running, line: &str, holds: impl Fn(&Reply) -> bool) -> Reply {
    within(async {
        loop {
            let reply = send(running, line, ADMIN, Value::Null).await;
            if holds(&reply) {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn one_of_the_nodes_makes_the_databases_of_users() {
    let Nodes { one, two, .. } = nodes(&[("couch_peruser", "enable", "true")]).await;
    for (running, name) in [(&one, "ann1"), (&two, "bob")] {
        done(running, "POST /_users", ADMIN, account(name, "pw", &[])).await;
    }
    for name in ["ann1", "bob"] {
        let path = format!("/userdb-{}", crate::hex::hex(name.as_bytes()));
        for running in [&one, &two] {
            until(running, &format!("GET {path}"), |reply| reply.status == 200).await;
            let has_name = |reply: &Reply| reply.json()["members"]["names"] == json!([name]);
            until(running, &format!("GET {path}/_security"), has_name).await;
        }
        done(&two, &format!("PUT {path}/doc"), &basic(name, "pw"), json!({})).await;
    }
    let created = done(&one, "GET /_db_updates", ADMIN, Value::Null).await.json();
    let rows = created["results"].as_array().unwrap().clone();
    let made = rows.iter().filter(|row| row["type"] == "created" && row["db_name"] == "userdb-626f62");
    assert_eq!(made.count(), 1);
}

#[tokio::test]
async fn one_of_the_nodes_runs_the_replications_of_documents() {
    let Nodes { cluster, one, two } = nodes(&[("replicator", "allow_private", "true")]).await;
    // A pass hands its thread's tasks to another one, and this runtime has one only.
    cluster.refuse_async_threads(false);
    done(&one, "PUT /a", ADMIN, Value::Null).await;
    done(&one, "PUT /b", ADMIN, Value::Null).await;
    let replication = json!({"source": "a", "target": "b", "continuous": true});
    done(&two, "PUT /_replicator/r", ADMIN, replication).await;
    for (running, id) in [(&one, "x"), (&two, "y"), (&one, "z")] {
        done(running, &format!("PUT /a/{id}"), ADMIN, json!({})).await;
        until(&two, &format!("GET /b/{id}"), |reply| reply.status == 200).await;
    }
    let jobs = |reply: Reply| reply.json()["total_rows"].as_u64().unwrap();
    let here = jobs(done(&one, "GET /_scheduler/jobs", ADMIN, Value::Null).await);
    let there = jobs(done(&two, "GET /_scheduler/jobs", ADMIN, Value::Null).await);
    assert_eq!(here + there, 1);
    let revision = done(&one, "GET /_replicator/r", ADMIN, Value::Null).await.json()["_rev"].clone();
    done(&one, &format!("DELETE /_replicator/r?rev={}", revision.as_str().unwrap()), ADMIN, Value::Null).await;
    for running in [&one, &two] {
        until(running, "GET /_scheduler/jobs", |reply| reply.json()["total_rows"] == 0).await;
    }
}

#[tokio::test]
async fn no_request_calls_the_store_on_an_async_thread() {
    let Nodes { one, .. } = nodes(&[]).await;
    done(&one, "POST /_users", ADMIN, account("tom", "mp3", &[])).await;
    done(&one, "PUT /db", ADMIN, Value::Null).await;
    done(&one, "PUT /db/_security", ADMIN, json!({"members": {"names": ["tom"]}})).await;
    let function = "function (doc) { emit(doc._id, null); }";
    done(&one, "PUT /db/_design/d", ADMIN, json!({"views": {"v": {"map": function}}})).await;
    let revision = done(&one, "PUT /db/a", ADMIN, json!({"n": 1})).await.json()["rev"].as_str().unwrap().to_owned();
    let session = cookie(&one, "tom", "mp3").await;
    for (line, body) in [
        ("GET /", Value::Null),
        ("GET /_up", Value::Null),
        ("GET /_session", Value::Null),
        ("GET /_session/devices", Value::Null),
        ("GET /_users/org.couchdb.user:tom", Value::Null),
        ("GET /db", Value::Null),
        ("GET /db/a", Value::Null),
        ("GET /db/a?revs=true&conflicts=true", Value::Null),
        ("GET /db/a?open_revs=all", Value::Null),
        ("GET /db/none", Value::Null),
        ("PUT /db/b", json!({"n": 2})),
        ("POST /db", json!({"n": 3})),
        ("PUT /db/_local/l", json!({})),
        ("GET /db/_local/l", Value::Null),
        ("GET /db/_local_docs", Value::Null),
        ("GET /db/_security", Value::Null),
        ("GET /db/_all_docs?include_docs=true", Value::Null),
        ("POST /db/_all_docs", json!({"keys": ["a", "b"]})),
        ("GET /db/_changes?include_docs=true", Value::Null),
        ("GET /db/_changes?filter=_doc_ids&doc_ids=[%22a%22]", Value::Null),
        ("POST /db/_bulk_docs", json!({"docs": [{"_id": "c"}, {"_id": "_local/m"}]})),
        ("POST /db/_bulk_get", json!({"docs": [{"id": "a"}]})),
        ("POST /db/_revs_diff", json!({"a": [revision, "9-x"]})),
        ("POST /db/_missing_revs", json!({"a": [revision]})),
        ("GET /db/_design/d/_view/v?include_docs=true", Value::Null),
        ("GET /db/_design/d/_info", Value::Null),
        ("POST /db/_find", json!({"selector": {"n": 1}})),
        ("POST /db/_explain", json!({"selector": {"n": 1}})),
        ("GET /db/_index", Value::Null),
        ("PUT /db/a/text?rev=1-x", json!({})),
        ("GET /_all_dbs", Value::Null),
        ("GET /_dbs_info", Value::Null),
        ("GET /_db_updates", Value::Null),
        ("GET /_active_tasks", Value::Null),
        ("GET /_scheduler/docs", Value::Null),
        ("GET /_node/_local/_config", Value::Null),
        ("POST /db/_compact", json!({})),
        ("POST /db/_ensure_full_commit", json!({})),
        ("PUT /db/_revs_limit", json!(9)),
        ("GET /db/_auto_purge", Value::Null),
        ("POST /db/_purge", json!({"c": []})),
        ("GET /db/_purged_infos", Value::Null),
        ("POST /db/_view_cleanup", json!({})),
        ("DELETE /_session", Value::Null),
        ("DELETE /db", Value::Null),
    ] {
        for who in [&session, ADMIN, &basic("tom", "mp3")] {
            let reply = send(&one, line, who, body.clone()).await;
            assert!(reply.status < 500, "{line}: {} {}", reply.status, reply.text());
        }
    }
}
