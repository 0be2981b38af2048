//! What all endpoints have in common: connections, limits, headers; and the server-wide endpoints.

use super::*;

#[tokio::test]
async fn pipelined_requests_on_a_kept_alive_connection_are_answered_in_order() {
    let running = server(&[]).await;
    within(async {
        let mut client = Client::connect(running.address).await;
        for _ in 0..3 {
            client.send("GET /_up", &[], b"").await;
            assert_eq!(client.reply(false).await.unwrap().status, 200);
        }
        client.raw(b"GET /_up HTTP/1.1\r\nHost: a\r\n\r\nGET /nothing HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let statuses = [client.reply(false).await, client.reply(false).await, client.reply(false).await]
            .map(|reply| reply.unwrap().status);
        assert_eq!(statuses, [200, 404, 200]);
        client.raw(b"GET /_up HTTP/1.0\r\n\r\n").await;
        assert_eq!(client.reply(false).await.unwrap().status, 200);
        assert!(client.is_closed().await);
    })
    .await;
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn every_response_has_couchdbs_headers() {
    let running = server(&[]).await;
    let reply = ask(running.address, "GET /", &[], b"").await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("must-revalidate"));
    assert!(reply.header("server").unwrap().contains("CouchDB"));
    assert!(reply.header("date").is_some());
    assert_eq!(reply.header("x-couchdb-body-time"), Some("0"));
    let id = reply.header("x-couch-request-id").unwrap();
    assert!(id.len() == 10 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert!(reply.text().ends_with("}\n"));
    for (given, kept) in [("my-id_1", true), ("bad id", false), ("0123456789012345678901234567890123456", false)] {
        let reply = ask(running.address, "GET /", &[&format!("X-Couch-Request-ID: {given}")], b"").await;
        assert_eq!(reply.header("x-couch-request-id") == Some(given), kept, "{given}");
    }
    let minimal = ask(running.address, "GET /", &["Prefer: return=minimal"], b"").await;
    assert_eq!(minimal.header("x-couch-request-id"), None);
    assert!(minimal.header("content-type").is_some() && minimal.header("server").is_some());
}

#[tokio::test]
async fn head_returns_the_headers_of_get_without_a_body() {
    let running = server(&[]).await;
    for path in ["/", "/_up", "/favicon.ico", "/_node/_local/_config", "/nothing"] {
        let got = ask(running.address, &format!("GET {path}"), &[ADMIN], b"").await;
        let head = ask(running.address, &format!("HEAD {path}"), &[ADMIN], b"").await;
        assert_eq!((head.status, head.header("content-length")), (got.status, got.header("content-length")), "{path}");
        assert_eq!(head.header("content-type"), got.header("content-type"), "{path}");
        assert!(head.body.is_empty());
    }
}

#[tokio::test]
async fn invalid_requests_are_refused_like_couchdb_does() {
    let running = server(&[("chttpd", "max_uri_length", "200"), ("chttpd", "max_http_request_size", "100")]).await;
    let long = format!("GET /{}", "x".repeat(300));
    let big = vec![b' '; 101];
    let config = "PUT /_node/_local/_config/a/b";
    for (line, headers, body, status, error, reason) in [
        ("GET /%zz", &[][..], &b""[..], 400, "bad_request", "invalid_url_encoding"),
        (long.as_str(), &[][..], b"", 414, "too_long", "the request uri is too long"),
        ("POST /", &[][..], b"", 405, "method_not_allowed", "Only GET,HEAD allowed"),
        ("PATCH /_up", &[][..], b"", 405, "method_not_allowed", "Only GET,HEAD allowed"),
        ("GET /_node", &[ADMIN][..], b"", 400, "bad_request", "Incomplete path to _node request"),
        ("GET /_node/_local/_nothing", &[ADMIN][..], b"", 404, "not_found", "missing"),
        ("GET /nothing", &[ADMIN][..], b"", 404, "not_found", "Database does not exist."),
        (config, &[ADMIN][..], &big, 413, "too_large", "the request entity is too large"),
        (config, &[ADMIN][..], b"{", 400, "bad_request", "invalid UTF-8 JSON"),
        (config, &[ADMIN][..], b"\"\xff\"", 400, "bad_request", "invalid UTF-8 JSON"),
        (config, &[ADMIN][..], b"", 400, "bad_request", "invalid UTF-8 JSON"),
        (
            config,
            &[ADMIN, "Content-Encoding: br"][..],
            b"\"x\"",
            415,
            "bad_content_type",
            "br is not a supported content encoding.",
        ),
        (
            config,
            &[ADMIN, "Content-Encoding: gzip"][..],
            b"\"x\"",
            400,
            "bad_request",
            "Request body is not properly gzipped.",
        ),
        (config, &[][..], b"\"x\"", 401, "unauthorized", "You are not a server admin."),
        (
            "POST /_reload_query_servers",
            &[ADMIN][..],
            b"{}",
            415,
            "bad_content_type",
            "Content-Type must be application/json",
        ),
        ("GET /_uuids?count=1001", &[][..], b"", 400, "bad_request", "count parameter too large"),
        ("GET /_uuids?count=-1", &[][..], b"", 400, "bad_request", "count must be a positive integer"),
        ("GET /_uuids?count=x", &[][..], b"", 400, "bad_request", "count must be a positive integer"),
    ] {
        let reply = ask(running.address, line, headers, body).await;
        assert_eq!((reply.status, reply.error().as_str()), (status, error), "{line}: {}", reply.text());
        assert_eq!(reply.reason(), reason, "{line}");
        if status == 405 {
            assert_eq!(reply.header("allow"), Some("GET,HEAD"));
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let running = server(&[("chttpd", "max_http_request_size", "100")]).await;
    within(async {
        let mut client = Client::connect(running.address).await;
        let headers = [ADMIN, "Content-Length: 1000000000", "Expect: 100-continue"];
        client.send("PUT /_node/_local/_config/a/b", &headers, b"").await;
        let reply = client.reply(false).await.unwrap();
        assert_eq!((reply.status, reply.error().as_str()), (413, "too_large"));
        assert!(client.is_closed().await);

        let mut client = Client::connect(running.address).await;
        let headers = [ADMIN, "Content-Length: 3", "Expect: 100-continue"];
        client.send("PUT /_node/_local/_config/a/b", &headers, b"\"x\"").await;
        assert_eq!(client.reply(false).await.unwrap().status, 200);

        let mut client = Client::connect(running.address).await;
        let chunks =
            b"40\r\n".iter().chain(&[b' '; 64]).chain(b"\r\n40\r\n").chain(&[b' '; 64]).chain(b"\r\n0\r\n\r\n");
        let chunks: Vec<u8> = chunks.copied().collect();
        client.send("PUT /_node/_local/_config/a/b", &[ADMIN, "Transfer-Encoding: chunked"], &chunks).await;
        assert_eq!(client.reply(false).await.unwrap().status, 413);
    })
    .await;
}

#[tokio::test]
async fn invalid_requests_and_disconnects_do_not_affect_other_clients() {
    let running = server(&[]).await;
    within(async {
        for bytes in [
            &b"nonsense\r\n\r\n"[..],
            b"GET /_up HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            b"GET /_up HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"POST /_session HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let mut client = Client::connect(running.address).await;
            client.raw(bytes).await;
            if let Some(reply) = client.reply(false).await {
                assert!((400..=505).contains(&reply.status) && reply.status != 500, "{bytes:?}: {}", reply.status);
            }
        }
        let mut half = Client::connect(running.address).await;
        half.send("PUT /_node/_local/_config/a/half", &[ADMIN, "Content-Length: 100"], b"\"x").await;
        drop(half);
        let mut many = Client::connect(running.address).await;
        let headers: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
        many.raw(format!("GET /_up HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).await;
        assert_eq!(many.reply(false).await.map(|reply| reply.status), Some(431));
        assert_eq!(ask(running.address, "GET /_up", &[], b"").await.status, 200);
        assert_eq!(ask(running.address, "GET /_node/_local/_config/a/half", &[ADMIN], b"").await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn responses_are_compressed_as_accept_encoding_allows() {
    let running = server(&[]).await;
    let whole = "GET /_node/_local/_config";
    let plain = ask(running.address, whole, &[ADMIN], b"").await;
    assert_eq!(plain.header("content-encoding"), None);
    for (asked, given) in
        [("gzip", Some("gzip")), ("zstd", Some("zstd")), ("gzip, deflate, br", Some("gzip")), ("br", None)]
    {
        let reply = ask(running.address, whole, &[ADMIN, &format!("Accept-Encoding: {asked}")], b"").await;
        assert_eq!(reply.header("content-encoding"), given, "{asked}");
        let json = match given {
            Some("gzip") => {
                use std::io::Read;
                let mut text = Vec::new();
                flate2::read::GzDecoder::new(reply.body.as_slice()).read_to_end(&mut text).unwrap();
                text
            }
            Some(_) => continue,
            None => reply.body.clone(),
        };
        assert_eq!(json, plain.body, "{asked}");
    }
    let small = ask(running.address, "GET /_up", &["Accept-Encoding: gzip"], b"").await;
    assert_eq!(small.header("content-encoding"), None);
}

#[tokio::test]
async fn gzipped_request_bodies_are_decompressed() {
    use std::io::Write;
    let running = server(&[]).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(b"\"inflated\"").unwrap();
    let packed = packed.finish().unwrap();
    let put = ask(running.address, "PUT /_node/_local/_config/a/b", &[ADMIN, "Content-Encoding: gzip"], &packed).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(ask(running.address, "GET /_node/_local/_config/a/b", &[ADMIN], b"").await.json(), "inflated");
}

#[tokio::test]
async fn method_override_applies_only_to_post() {
    let running = server(&[]).await;
    let path = "/_node/_local/_config/a/b";
    let put = [ADMIN, "X-HTTP-Method-Override: PUT"];
    assert_eq!(ask(running.address, &format!("POST {path}"), &put, b"\"x\"").await.status, 200);
    let delete = [ADMIN, "X-HTTP-Method-Override: DELETE"];
    assert_eq!(ask(running.address, &format!("GET {path}"), &delete, b"").await.json(), "x");
    assert_eq!(ask(running.address, &format!("POST {path}"), &delete, b"").await.json(), "x");
    assert_eq!(ask(running.address, &format!("GET {path}"), &[ADMIN], b"").await.status, 404);
}

#[tokio::test]
async fn cors_headers_are_on_responses_errors_and_preflights() {
    let running = server(&[]).await;
    let origin = "Origin: http://localhost:8100";
    for line in ["GET /", "GET /nothing", "DELETE /_up"] {
        let reply = ask(running.address, line, &[origin], b"").await;
        assert_eq!(reply.header("access-control-allow-origin"), Some("http://localhost:8100"), "{line}");
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"), "{line}");
        assert!(reply.header("access-control-expose-headers").unwrap().contains("etag"), "{line}");
    }
    let asks = [origin, "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: content-type"];
    let preflight = ask(running.address, "OPTIONS /db/doc", &asks, b"").await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-headers")), (204, Some("content-type")));
    let foreign = ask(running.address, "GET /", &["Origin: https://example.com"], b"").await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);

    let set = ask(running.address, "PUT /_node/x/_config/cors/origins", &[ADMIN], b"\"https://example.com\"").await;
    assert_eq!(set.status, 200, "{}", set.text());
    let allowed = ask(running.address, "GET /", &["Origin: https://example.com"], b"").await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://example.com"));
    ask(running.address, "PUT /_node/x/_config/chttpd/enable_cors", &[ADMIN], b"\"false\"").await;
    let off = ask(running.address, "GET /", &["Origin: https://example.com"], b"").await;
    assert_eq!(off.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn the_root_is_json_for_clients_and_html_for_browsers() {
    let running = server(&[]).await;
    let browser = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (path, accept, kind) in [
        ("/", "Accept: */*", "application/json"),
        ("/", "Accept: application/json", "application/json"),
        ("/", "Accept: application/json, text/html", "application/json"),
        ("/", browser, "text/html; charset=utf-8"),
        ("/_utils/", browser, "text/html; charset=utf-8"),
    ] {
        let reply = ask(running.address, &format!("GET {path}"), &[accept], b"").await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{path} {accept}");
    }
    let welcome = ask(running.address, "GET /", &["Authorization: Basic: YW5uOnNlY3JldA=="], b"").await;
    assert_eq!((welcome.status, &welcome.json()["couchdb"]), (200, &"Welcome".into()));
    let uuid = welcome.json()["uuid"].as_str().unwrap().to_owned();
    assert_eq!(uuid.len(), 32);
    let moved = ask(running.address, "GET /_utils", &[], b"").await;
    assert_eq!((moved.status, moved.header("location")), (301, Some("_utils/")));
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_refuses_new_ones() {
    let running = server(&[]).await;
    let address = running.address;
    let mut idle = Client::connect(address).await;
    idle.send("GET /_up", &[], b"").await;
    assert_eq!(within(idle.reply(false)).await.unwrap().status, 200);
    within(running.shutdown()).await.unwrap();
    assert!(within(idle.is_closed()).await);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_server_that_stops_leaves_no_event_out_of_db_updates() {
    let running = server(&[]).await;
    let (address, databases) = (running.address, running.app.databases.clone());
    let put = async |path: &str| assert_eq!(ask(address, &format!("PUT {path}"), &[ADMIN], b"{}").await.status, 201);
    for name in ["/first", "/second"] {
        put(name).await;
    }
    let before = databases.last_event();
    put("/first/a").await;
    let mut events = databases.watch_events();
    within(events.wait_for(|last| *last > before)).await.unwrap();
    // The next write of events is a quarter of a second away.
    put("/second/a").await;
    within(running.shutdown()).await.unwrap();
    let last = databases.events_after(before, 10).unwrap();
    assert_eq!(last.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["first", "second"]);
}

#[tokio::test]
async fn up_reports_a_failed_store_until_it_recovers() {
    use crate::store::embedded::faults::{Faults, WriteFault};
    let (store, faults) = Faults::store();
    let running = super::server_on(&[], store).await;
    // High enough for the server's own writes, each of which tries to reopen the store, and before one of them can be the
    // write that fails.
    faults.stay_closed(1_000_000);
    faults.fail_write(0, WriteFault::Io);
    let failed = ask(running.address, "PUT /_node/_local/_config/a/b", &[ADMIN], b"\"x\"").await;
    assert_eq!((failed.status, failed.error().as_str()), (500, "internal_server_error"));
    let down = ask(running.address, "GET /_up", &[], b"").await;
    assert_eq!((down.status, &down.json()["status"]), (404, &"store_unavailable".into()));
    assert!(!down.text().contains("made to"), "the cause is for the log: {}", down.text());
    faults.stay_closed(0);
    let up = ask(running.address, "GET /_up", &[], b"").await;
    assert_eq!((up.status, &up.json()["status"]), (200, &"ok".into()));
    assert_eq!(ask(running.address, "PUT /_node/_local/_config/a/b", &[ADMIN], b"\"x\"").await.status, 200);
}

#[tokio::test]
async fn node_endpoints() {
    let running = server(&[]).await;
    let system = ask(running.address, "GET /_node/_local/_system", &[ADMIN], b"").await.json();
    assert!(system["uptime"].is_u64() && system["memory"]["resident"].is_u64());
    let stats = ask(running.address, "GET /_node/any@name/_stats", &[ADMIN], b"").await.json();
    assert_eq!(stats["couchdb"]["httpd"]["requests"]["type"], "counter");
    let path = ask(running.address, "GET /_node/_local/_stats/couchdb/request_time", &[ADMIN], b"").await.json();
    assert_eq!(path["type"], "histogram");
    assert!(ask(running.address, "GET /_node/_local/_stats/no/such", &[ADMIN], b"").await.json().is_null());
    let prometheus = ask(running.address, "GET /_node/_local/_prometheus", &[ADMIN], b"").await;
    assert!(prometheus.header("content-type").unwrap().starts_with("text/plain"));
    assert!(prometheus.text().contains("couchdb_httpd_status_codes{code=\"200\"}"), "{}", prometheus.text());
    assert!(ask(running.address, "GET /_node/_local/_versions", &[ADMIN], b"").await.json().is_object());
    assert_eq!(ask(running.address, "GET /_node/_local", &[ADMIN], b"").await.json()["name"], "nonode@nohost");
    assert_eq!(ask(running.address, "GET /_membership", &[ADMIN], b"").await.json()["all_nodes"][0], "nonode@nohost");
    assert_eq!(ask(running.address, "GET /_active_tasks", &[ADMIN], b"").await.json(), serde_json::json!([]));
    assert_eq!(
        ask(running.address, "GET /_up", &[], b"").await.json(),
        serde_json::json!({"status": "ok", "seeds": {}})
    );
    let uuids = ask(running.address, "GET /_uuids?count=3", &[], b"").await;
    assert_eq!(uuids.json()["uuids"].as_array().unwrap().len(), 3);
    assert_eq!(uuids.header("cache-control"), Some("no-cache"));
    for path in ["_system", "_stats", "_prometheus", "_config", "_versions"] {
        let reply = ask(running.address, &format!("GET /_node/_local/{path}"), &[], b"").await;
        assert_eq!((reply.status, reply.error().as_str()), (401, "unauthorized"), "{path}");
    }
}

/// A store whose commits fail as configured, and of a networked one also the scans.
struct Failing {
    inner: Memory,
    with: parking_lot::Mutex<Option<Failure>>,
    /// Scans that failed.
    failed: std::sync::atomic::AtomicUsize,
}

#[derive(Clone, Copy)]
enum Failure {
    Panic,
    Full,
    Gone,
    /// All calls of a networked store.
    Down,
    /// The scans of a networked store.
    DownScans,
}

impl Failing {
    fn new() -> Arc<Failing> {
        Arc::new(Failing { inner: Memory::new(), with: parking_lot::Mutex::new(None), failed: Default::default() })
    }
}

fn down() -> crate::store::StoreError {
    crate::store::StoreError::Down("no connection to /secret/path".into())
}

impl Store for Failing {
    fn get_many(&self, keys: &[Vec<u8>]) -> crate::store::Result<Vec<Option<Vec<u8>>>> {
        match *self.with.lock() {
            Some(Failure::Down) => Err(down()),
            _ => self.inner.get_many(keys),
        }
    }

    fn scan(
        &self,
        range: &crate::store::range::KeyRange,
        direction: crate::store::Direction,
        limit: crate::store::PageLimit,
    ) -> crate::store::Result<Vec<crate::store::Entry>> {
        if matches!(*self.with.lock(), Some(Failure::Down | Failure::DownScans)) {
            self.failed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            return Err(down());
        }
        self.inner.scan(range, direction, limit)
    }

    fn commit(&self, batch: crate::store::Batch) -> crate::store::Result<()> {
        let with = *self.with.lock();
        match with {
            None | Some(Failure::DownScans) => self.inner.commit(batch),
            Some(Failure::Down) => Err(down()),
            Some(Failure::Panic) => panic!("at /secret/path"),
            Some(Failure::Full) => Err(crate::store::StoreError::Full),
            Some(Failure::Gone) => Err(crate::store::StoreError::Unavailable("EIO at /secret/path".into())),
        }
    }

    fn ready(&self) -> crate::store::Result<()> {
        match *self.with.lock() {
            Some(Failure::Down) => Err(down()),
            _ => Ok(()),
        }
    }

    fn engine(&self) -> &'static str {
        "failing"
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn store_failures_are_answered_without_internals_and_keep_the_connection() {
    let store = Failing::new();
    let running = server_on(&[], store.clone()).await;
    within(async {
        let mut client = Client::connect(running.address).await;
        for (with, status, error) in [
            (Some(Failure::Panic), 500, "internal_server_error"),
            (Some(Failure::Gone), 500, "internal_server_error"),
            (Some(Failure::Full), 507, "insufficient_storage"),
            (Some(Failure::Down), 503, "service_unavailable"),
            (None, 200, ""),
        ] {
            *store.with.lock() = with;
            client.send("PUT /_node/_local/_config/mine/key", &[ADMIN], b"\"value\"").await;
            let reply = client.reply(false).await.unwrap();
            assert_eq!((reply.status, reply.json()["error"].as_str().unwrap_or("")), (status, error));
            assert!(!reply.text().contains("secret"), "{}", reply.text());
            assert_eq!(reply.header("retry-after").is_some(), status == 503);
            client.send("GET /_node/_local/_config/mine/key", &[ADMIN], b"").await;
            assert_eq!(client.reply(false).await.unwrap().status, if with.is_some() { 404 } else { 200 });
            client.send("GET /_up", &[], b"").await;
            let reply = client.reply(false).await.unwrap();
            let is_down = matches!(with, Some(Failure::Down));
            assert_eq!(
                (reply.status, reply.header("retry-after").is_some()),
                (if is_down { 503 } else { 200 }, is_down)
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_feed_outlasts_a_database_server_that_is_away() {
    let store = Failing::new();
    let running = server_on(&[], store.clone()).await;
    within(async {
        ask(running.address, "PUT /db", &[ADMIN], b"").await;
        // Its validators are known from now on.
        ask(running.address, "PUT /db/zero", &[ADMIN], b"{}").await;
        let mut feed = Client::connect(running.address).await;
        feed.send("GET /db/_changes?feed=continuous&heartbeat=100&since=now", &[ADMIN], b"").await;
        // The head of the answer, and the first chunk: a newline.
        while !feed.line().await.unwrap().is_empty() {}
        assert_eq!((feed.line().await.as_deref(), feed.line().await.as_deref()), (Some("1"), Some("\n")));
        *store.with.lock() = Some(Failure::DownScans);
        let written = ask(running.address, "PUT /db/one", &[ADMIN], b"{}").await;
        assert_eq!(written.status, 201);
        while store.failed.load(std::sync::atomic::Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let refused = ask(running.address, "GET /db/_changes", &[ADMIN], b"").await;
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
        *store.with.lock() = None;
        while !feed.line().await.expect("the feed goes on").contains("\"id\":\"one\"") {}
    })
    .await;
}

#[tokio::test]
async fn shutdown_waits_for_running_requests() {
    let running = server(&[]).await;
    let (address, app) = (running.address, running.app.clone());
    within(async {
        let mut client = Client::connect(address).await;
        client
            .send("PUT /_node/_local/_config/mine/late", &[ADMIN, "Content-Length: 6", "Expect: 100-continue"], b"")
            .await;
        // The server asks for the body, so from here on it is processing the request.
        client.raw(b"\"la").await;
        client.wait_for_continue().await;
        let stopping = tokio::spawn(running.shutdown());
        app.shutdown.begun().await;
        client.raw(b"te\"").await;
        let reply = client.reply(false).await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
        stopping.await.unwrap().unwrap();
        assert_eq!(app.settings().get("mine", "late"), Some("late"));
    })
    .await;
}

/// The server replaces `"` by `%22` in request lines. Doing so in a body would lengthen it, and its end would
/// be parsed as the next request.
#[tokio::test]
async fn a_body_that_looks_like_a_request_line_is_unchanged() {
    let running = server(&[]).await;
    assert_eq!(ask(running.address, "PUT /db", &[ADMIN], b"").await.status, 201);
    let body = format!("GET /{} HTTP/1.1\r\nX: GET /_up HTTP/1.1\r\n\r\n", "\"".repeat(12));
    let length = format!("Content-Length: {}", body.len());
    within(async {
        let mut client = Client::connect(running.address).await;
        for number in 0..2 {
            let headers = [ADMIN, "Expect: 100-continue", "Content-Type: text/plain", &length];
            client.send(&format!("PUT /db/doc{number}/file"), &headers, b"").await;
            client.wait_for_continue().await;
            client.raw(body.as_bytes()).await;
            assert_eq!(client.reply(false).await.unwrap().status, 201, "{number}");
        }
        client.send("GET /db/doc0/file", &[ADMIN], b"").await;
        assert_eq!(client.reply(false).await.unwrap().text(), body);
        client.send("GET /db/_all_docs?key=\"doc1\"", &[ADMIN], b"").await;
        assert_eq!(client.reply(false).await.unwrap().status, 200, "on a connection that has carried bodies");
    })
    .await;
    let loose = ["GET /db/_all_docs?key=\"doc1\"", "GET /db/_all_docs?key=\"doc0\""];
    within(async {
        let mut client = Client::connect(running.address).await;
        for line in loose {
            client.send(line, &[ADMIN], b"").await;
            let reply = client.reply(false).await.unwrap();
            assert_eq!(reply.json()["rows"].as_array().map(Vec::len), Some(1), "{line}: {}", reply.text());
        }
    })
    .await;
}

#[tokio::test]
async fn errors_do_not_reveal_paths_to_unauthorized_clients() {
    let running = server(&[]).await;
    for (line, nobody, admin) in [
        ("PATCH /_node/_local/_config", 401, 405),
        ("GET /_node/_local/_nothing", 401, 404),
        ("GET /_nothing", 401, 404),
        ("PATCH /_up", 405, 405),
        ("PATCH /nothing", 404, 404),
        ("GET /nothing/_bulk_docs", 404, 404),
        ("GET /Nothing", 404, 404),
        ("DELETE /Nothing", 401, 404),
        ("PUT /Nothing", 401, 400),
    ] {
        assert_eq!(ask(running.address, line, &[], b"").await.status, nobody, "{line}");
        assert_eq!(ask(running.address, line, &[ADMIN], b"").await.status, admin, "{line}");
    }
    assert_eq!(ask(running.address, "PUT /there", &[ADMIN], b"").await.status, 201);
    for (line, nobody, admin) in
        [("PATCH /there", 401, 405), ("GET /there/_bulk_docs", 401, 405), ("GET /there/_unknown", 401, 404)]
    {
        assert_eq!(ask(running.address, line, &[], b"").await.status, nobody, "{line}");
        assert_eq!(ask(running.address, line, &[ADMIN], b"").await.status, admin, "{line}");
    }
}
