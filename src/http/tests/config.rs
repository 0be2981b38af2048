//! Tests of the configuration over HTTP.

use serde_json::json;

use super::*;

async fn put(running: &Running, path: &str, value: &str) -> Reply {
    let body = json!(value).to_string();
    ask(running.address, &format!("PUT /_node/_local/_config/{path}"), &[ADMIN], body.as_bytes()).await
}

async fn get(running: &Running, path: &str) -> Reply {
    ask(running.address, &format!("GET /_node/_local/_config/{path}"), &[ADMIN], b"").await
}

#[tokio::test]
async fn obsidian_livesync_can_configure_the_server() {
    let running = server(&[]).await;
    let origins = "app://obsidian.md,capacitor://localhost,http://localhost";
    for (path, value) in [
        ("chttpd/require_valid_user", "true"),
        ("chttpd_auth/require_valid_user", "true"),
        ("httpd/WWW-Authenticate", "Basic realm=\"couchdb\""),
        ("httpd/enable_cors", "true"),
        ("chttpd/enable_cors", "true"),
        ("chttpd/max_http_request_size", "4294967296"),
        ("couchdb/max_document_size", "50000000"),
        ("cors/credentials", "true"),
        ("cors/origins", origins),
    ] {
        assert_eq!(put(&running, path, value).await.status, 200, "{path}");
        assert_eq!(get(&running, path).await.json(), value, "{path}");
    }
    let settings = running.app.settings();
    assert_eq!(settings.max_document_size, 50_000_000);
    assert!(settings.require_valid_user);
    let nobody = ask(running.address, "GET /", &["Origin: app://obsidian.md"], b"").await;
    assert_eq!((nobody.status, nobody.reason().as_str()), (401, "Authentication required."));
    assert_eq!(nobody.header("www-authenticate"), Some("Basic realm=\"couchdb\""));
    assert_eq!(nobody.header("access-control-allow-origin"), Some("app://obsidian.md"));
    let setup = json!({"action": "enable_single_node", "username": "ann", "password": "secret",
        "bind_address": "0.0.0.0", "port": 5984, "singlenode": true});
    let json_type = "Content-Type: application/json";
    let reply = ask(running.address, "POST /_cluster_setup", &[ADMIN, json_type], setup.to_string().as_bytes()).await;
    assert_eq!((reply.status, reply.json()), (201, json!({"ok": true})));
    assert_eq!(ask(running.address, "GET /_up", &[ADMIN], b"").await.status, 200);
}

#[tokio::test]
async fn put_and_delete_return_the_previous_value() {
    let running = server(&[]).await;
    assert_eq!(put(&running, "mine/own", " a ").await.json(), "");
    assert_eq!(put(&running, "mine/own", "b").await.json(), "a");
    assert_eq!(get(&running, "mine").await.json(), json!({"own": "b"}));
    let delete = "DELETE /_node/_local/_config/mine/own";
    assert_eq!(ask(running.address, delete, &[ADMIN], b"").await.json(), "b");
    let again = ask(running.address, delete, &[ADMIN], b"").await;
    assert_eq!((again.status, again.reason().as_str()), (404, "unknown_config_value"));
    assert_eq!(get(&running, "mine").await.json(), json!({}));
    assert_eq!(put(&running, "uuids/max_count", "5").await.json(), "1000");
    assert_eq!(ask(running.address, "GET /_uuids?count=6", &[], b"").await.status, 400);
}

#[tokio::test]
async fn refused_settings_change_nothing() {
    let running = server(&[]).await;
    for (path, body, status, error) in [
        ("uuids/max_count", "\"many\"", 400, "bad_request"),
        ("httpd/enable_cors", "\"yes\"", 400, "bad_request"),
        ("uuids/max_count", "5", 400, "bad_request"),
        ("uuids/max_count", "{\"a\":1}", 400, "bad_request"),
        ("query_servers/javascript", "\"/bin/sh\"", 403, "forbidden"),
        ("native_query_servers/x", "\"y\"", 403, "forbidden"),
        ("os_daemons/x", "\"/bin/sh\"", 403, "forbidden"),
        ("settee/data", "\"/etc\"", 403, "forbidden"),
        ("admins/ann", "\"\"", 400, "bad_request"),
        ("a%00b/c", "\"x\"", 400, "bad_request"),
        ("a%0Ab/c", "\"x\"", 400, "bad_request"),
    ] {
        let line = format!("PUT /_node/_local/_config/{path}");
        let reply = ask(running.address, &line, &[ADMIN], body.as_bytes()).await;
        assert_eq!((reply.status, reply.error().as_str()), (status, error), "{path}: {}", reply.text());
    }
    assert_eq!(running.app.settings().uuids.max_count, 1000);
    assert_eq!(ask(running.address, "GET /_uuids", &[ADMIN], b"").await.status, 200);
}

#[tokio::test]
async fn secrets_are_masked_in_every_response() {
    let running = server(&[("chttpd_auth", "secret", "hush-hush")]).await;
    let hash = running.app.settings().admin("ann").unwrap().to_owned();
    for path in ["", "chttpd_auth", "chttpd_auth/secret", "admins", "admins/ann"] {
        let text = get(&running, path).await.text();
        assert!(text.contains("****") && !text.contains("hush") && !text.contains(&hash), "{path}: {text}");
    }
    assert_eq!(put(&running, "chttpd_auth/secret", "other").await.json(), "****");
    assert_eq!(put(&running, "admins/ann", "secret").await.json(), "-pbkdf2:sha256-****");
}

#[tokio::test]
async fn settings_survive_a_restart_unless_not_persisted() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let running = server_on(&[("uuids", "max_count", "7")], store.clone()).await;
    put(&running, "mine/kept", "x").await;
    ask(running.address, "DELETE /_node/_local/_config/uuids/max_count", &[ADMIN], b"").await;
    let passing = [ADMIN, "X-Couch-Persist: false"];
    ask(running.address, "PUT /_node/_local/_config/mine/passing", &passing, b"\"y\"").await;
    assert_eq!(get(&running, "mine").await.json(), json!({"kept": "x", "passing": "y"}));
    let reload = ask(running.address, "POST /_node/_local/_config/_reload", &[ADMIN], b"").await;
    assert_eq!((reload.status, reload.json()), (200, json!({"ok": true})));
    assert_eq!(get(&running, "mine").await.json(), json!({"kept": "x"}));
    let uuid = ask(running.address, "GET /", &[], b"").await.json()["uuid"].clone();
    put(&running, "admins/ann", "changed").await;
    running.shutdown().await.unwrap();

    let again = server_on(&[("uuids", "max_count", "7")], store).await;
    let changed = "Authorization: Basic YW5uOmNoYW5nZWQ=";
    let kept = ask(again.address, "GET /_node/_local/_config/mine", &[changed], b"").await;
    assert_eq!((kept.status, kept.json()), (200, json!({"kept": "x"})), "the changed password stays in force");
    assert_eq!(ask(again.address, "GET /", &[ADMIN], b"").await.status, 401);
    assert_eq!(ask(again.address, "GET /", &[], b"").await.json()["uuid"], uuid);
    assert_eq!(again.app.settings().uuids.max_count, 1000, "a deleted setting stays deleted");
}

#[tokio::test]
async fn only_the_first_start_creates_an_admin() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let options = |store: &Arc<dyn Store>| Options {
        base: [("chttpd_auth".to_owned(), [("iterations".to_owned(), "1".to_owned())].into())].into(),
        sources: Sources::new(),
        admins: Vec::new(),
        store: store.clone(),
        indexes: None,
        blobs: Arc::new(MemoryBlobs::new()),
        clock: Clock::system(),
        recent: Recent::default(),
        backup_key: None,
    };
    let first = crate::server::start::prepare(options(&store)).await.unwrap();
    let (name, password) = first.made_admin.unwrap();
    let stored = first.app.settings().admin(&name).unwrap().to_owned();
    assert!(stored.starts_with("-pbkdf2") && !stored.contains(&password), "{stored}");
    let second = crate::server::start::prepare(options(&store)).await.unwrap();
    assert!(second.made_admin.is_none());
}

#[tokio::test]
async fn jsonp_is_disabled_by_default() {
    let running = server(&[]).await;
    let script = |path: &str| {
        let line = format!("GET {path}");
        async move { ask(running.address, &line, &[ADMIN], b"").await }
    };
    assert_eq!(ask(running.address, "PUT /db", &[ADMIN], b"").await.status, 201);
    assert_eq!(script("/db?callback=a").await.header("content-type"), Some("application/json"));
    assert_eq!(put(&running, "chttpd/allow_jsonp", "true").await.status, 200);
    for path in ["/db/_all_docs", "/db/_changes", "/_all_dbs"] {
        let plain = script(path).await;
        assert_eq!(plain.header("content-type"), Some("application/json"), "{path}");
        let wrapped = script(&format!("{path}?callback=a.b[0]")).await;
        assert_eq!((wrapped.status, wrapped.header("content-type")), (200, Some("application/javascript")), "{path}");
        let expected = format!("/* CouchDB */a.b[0]({});", plain.text().trim_end());
        assert_eq!(wrapped.text().replace('\n', ""), expected.replace('\n', ""), "{path}");
    }
    let missing = script("/db/none?callback=a").await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/javascript")));
    let refused = script("/db?callback=a(1)").await;
    assert_eq!((refused.status, refused.reason().as_str()), (400, "invalid_callback"));
    let text = json!({"_attachments": {"a": {"content_type": "text/plain", "data": "YWJj"}}}).to_string();
    assert_eq!(ask(running.address, "PUT /db/doc", &[ADMIN], text.as_bytes()).await.status, 201);
    assert_eq!(script("/db/doc/a?callback=a").await.text(), "abc");
}
