//! Sources that do not keep to the protocol: each ends in a clear state, and never in lost or wrong data.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;

/// What a source answers: status, content type, body. `None`: 404.
pub type Script = Arc<dyn Fn(&str, &str) -> Option<(u16, &'static str, Vec<u8>)> + Send + Sync>;

/// Starts a source that answers by a script of method and path with query, and records every `Authorization` and
/// `Cookie` that it gets.
pub async fn source(script: Script) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let credentials = seen.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (script, seen) = (script.clone(), seen.clone());
            tokio::spawn(async move {
                let respond = move |request: Request<Incoming>| {
                    for name in [http::header::AUTHORIZATION, http::header::COOKIE] {
                        if let Some(value) = request.headers().get(name) {
                            seen.lock().push(value.to_str().unwrap().to_owned());
                        }
                    }
                    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
                    let (status, kind, body) = script(request.method().as_str(), &path).unwrap_or((
                        404,
                        "application/json",
                        br#"{"error":"not_found","reason":"missing"}"#.to_vec(),
                    ));
                    let never = status == NEVER;
                    let mut answer = Response::builder().status(if never { 200 } else { status });
                    answer = match status {
                        300..400 => answer.header("Location", kind),
                        _ => answer.header("Content-Type", kind),
                    };
                    if body.starts_with(&[0x1f, 0x8b]) {
                        answer = answer.header("Content-Encoding", "gzip");
                    }
                    let answer = answer.body(Full::new(Bytes::from(body)));
                    async move {
                        match never {
                            true => std::future::pending().await,
                            false => answer,
                        }
                    }
                };
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(socket), service_fn(respond)).await;
            });
        }
    });
    (address, credentials)
}

pub const JSON: &str = "application/json";
/// A status for no answer at all.
pub const NEVER: u16 = 0;
pub const ABOUT: &[u8] = br#"{"db_name":"db","update_seq":"1-x","instance_start_time":"0"}"#;
pub const CHANGES: &str =
    r#"{"results":[{"seq":"1-x","id":"a","changes":[{"rev":"1-b"}]}],"last_seq":"1-x","pending":0}"#;

/// Replicates from a source that has one document `a` with the revision `1-b`, and answers the requests for it by
/// `document`. Returns how the pass ended, and the documents that are there then.
pub async fn from(here: &Running, name: &str, document: Script) -> (Result<Outcome, Failure>, u64, Progress) {
    let script: Script = Arc::new(move |method, path| {
        let answer = document(method, path);
        let known = match path.split_once('?').map_or(path, |(path, _)| path) {
            "/db" => Some((200, JSON, ABOUT.to_vec())),
            "/db/_changes" => Some((200, JSON, CHANGES.into())),
            _ => None,
        };
        answer.or(known)
    });
    let (address, _) = source(script).await;
    let target = create(here, name);
    let mut parameters = Parameters::new(remote(address, "db"), local(name));
    parameters.retries_per_request = 0;
    let progress = Progress::new();
    let ended = pass(&context(here), &parameters, &progress).await;
    (ended, target.info().documents + target.info().deleted, progress)
}

fn bulk(body: &'static str) -> Script {
    Arc::new(move |_, path| path.starts_with("/db/_bulk_get").then(|| (200, JSON, body.into())))
}

fn open_revs(kind: &'static str, body: &'static str) -> Script {
    Arc::new(move |_, path| path.starts_with("/db/a?").then(|| (200, kind, body.into())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_asked_for_is_not_written() {
    let here = server(&[]).await;
    let rows = [
        ("another document", bulk(r#"{"results":[{"id":"x","docs":[{"ok":{"_id":"x","_rev":"1-b"}}]}]}"#)),
        ("another id inside", bulk(r#"{"results":[{"id":"a","docs":[{"ok":{"_id":"x","_rev":"1-b"}}]}]}"#)),
        ("another revision", bulk(r#"{"results":[{"id":"a","docs":[{"ok":{"_id":"a","_rev":"1-c"}}]}]}"#)),
        (
            "a history longer than its generation",
            bulk(r#"{"results":[{"id":"a","docs":[{"ok":{"_id":"a","_revisions":{"start":1,"ids":["b","c"]}}}]}]}"#),
        ),
        ("nothing at all", bulk(r#"{"results":[]}"#)),
        ("rows that are none", bulk(r#"{"results":[{"id":"a","docs":[{"ok":7}]}]}"#)),
        ("another revision alone", open_revs(JSON, r#"[{"ok":{"_id":"a","_rev":"1-c"}}]"#)),
        (
            "an attachment that does not follow",
            open_revs(
                "multipart/mixed; boundary=\"x\"",
                "--x\r\nContent-Type: application/json\r\n\r\n{\"_id\":\"a\",\"_rev\":\"1-b\",\"_attachments\":{\"f\":{\"follows\":true,\"length\":1}}}\r\n--x--",
            ),
        ),
        (
            "a wrong digest",
            open_revs(
                "multipart/mixed; boundary=\"x\"",
                "--x\r\nContent-Type: multipart/related; boundary=\"y\"\r\n\r\n--y\r\nContent-Type: application/json\r\n\r\n{\"_id\":\"a\",\"_rev\":\"1-b\",\"_attachments\":{\"f\":{\"follows\":true,\"length\":3,\"digest\":\"md5-AAAAAAAAAAAAAAAAAAAAAA==\"}}}\r\n--y\r\n\r\nabc\r\n--y--\r\n--x--",
            ),
        ),
        (
            "a wrong length",
            open_revs(
                "multipart/mixed; boundary=\"x\"",
                "--x\r\nContent-Type: multipart/related; boundary=\"y\"\r\n\r\n--y\r\nContent-Type: application/json\r\n\r\n{\"_id\":\"a\",\"_rev\":\"1-b\",\"_attachments\":{\"f\":{\"follows\":true,\"length\":4}}}\r\n--y\r\n\r\nabc\r\n--y--\r\n--x--",
            ),
        ),
        ("multipart that ends early", open_revs("multipart/mixed; boundary=\"x\"", "--x\r\nContent-Type: app")),
    ];
    for (at, (name, script)) in rows.into_iter().enumerate() {
        let (ended, documents, progress) = from(&here, &format!("db{at}"), script).await;
        let failed = ended.expect_err(name);
        assert!(matches!(failed, Failure::Protocol(_) | Failure::Network(_)), "{name}: {failed}");
        assert_eq!((documents, progress.counters().docs_written), (0, 0), "{name}");
        assert_eq!(progress.counters().checkpointed_source_seq, Value::Null, "{name}: no checkpoint");
    }
}

/// Attachments `f\r\n\r\ng`, whose type has a line break, and `\n\u0001`. The digest is that of `abc`.
const UNESCAPED: &str = concat!(
    "--x\r\nContent-Type: multipart/related; boundary=\"y\"\r\n\r\n--y\r\nContent-Type: application/json\r\n\r\n",
    r#"{"_id":"a","_rev":"1-b","_attachments":{"#,
    r#""f\r\n\r\ng":{"follows":true,"length":3,"revpos":1,"content_type":"a\r\nb","digest":"md5-kAFQmDzST7DWlj99KOF/cg=="},"#,
    r#""\n\u0001":{"follows":true,"length":3,"revpos":1,"content_type":"\u0000","digest":"md5-kAFQmDzST7DWlj99KOF/cg=="}}}"#,
    "\r\n--y\r\nContent-Disposition: attachment; filename=\"f\r\n\r\ng\"\r\nContent-Type: a\r\nb\r\nContent-Length: 3\r\n\r\nabc",
    "\r\n--y\r\nContent-Disposition: attachment; filename=\"\n\x01\"\r\nContent-Type: \0\r\nContent-Length: 3\r\n\r\nabc",
    "\r\n--y--\r\n--x--"
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_with_right_documents_is_read() {
    let here = server(&[]).await;
    let attached = "--x\r\nContent-Type: multipart/related; boundary=\"y\"\r\n\r\n--y\r\nContent-Type: application/json\r\n\r\n{\"_id\":\"a\",\"_rev\":\"1-b\",\"_attachments\":{\"f\":{\"follows\":true,\"length\":3,\"revpos\":1,\"content_type\":\"text/plain\",\"digest\":\"md5-kAFQmDzST7DWlj99KOF/cg==\"}}}\r\n--y\r\n\r\nabc\r\n--y--\r\n--x--";
    let rows = [
        ("in bulk", bulk(r#"{"results":[{"id":"a","docs":[{"ok":{"_id":"a","_rev":"1-b","x":1}}]}]}"#)),
        ("alone", open_revs(JSON, r#"[{"ok":{"_id":"a","_rev":"1-b"}}]"#)),
        ("with an attachment", open_revs("multipart/mixed; boundary=\"x\"", attached)),
        ("with unescaped names, as from CouchDB", open_revs("multipart/mixed; boundary=\"x\"", UNESCAPED)),
    ];
    for (at, (name, script)) in rows.into_iter().enumerate() {
        let (ended, documents, _) = from(&here, &format!("db{at}"), script).await;
        // The checkpoint cannot be written to this source.
        assert!(matches!(ended, Err(Failure::Status { status: 404, .. })), "{name}: {ended:?}");
        assert_eq!(documents, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_without_end_ends() {
    let here = server(&[]).await;
    let changes = |body: Vec<u8>| -> Script {
        Arc::new(move |_, path| path.starts_with("/db/_changes").then(|| (200, JSON, body.clone())))
    };
    let still = CHANGES.replace("\"last_seq\":\"1-x\"", "\"last_seq\":null");
    let repeated = r#"{"seq":"0-x","id":"a","changes":[{"rev":"1-b"}]},"#.repeat(3);
    let rows = [
        ("a row that is too large", format!("{{\"results\":[{{\"id\":\"{}\"}}]}}", "x".repeat(3 << 20)).into_bytes()),
        ("no sequence", still.replace("\"seq\":\"1-x\"", "\"seq\":null").into_bytes()),
        ("a revision that is none", CHANGES.replace("1-b", "b").into_bytes()),
        ("an early end", CHANGES.as_bytes()[..40].to_vec()),
        ("no object", b"[]".to_vec()),
        ("rows that break off", format!("{{\"results\":[{repeated}").into_bytes()),
    ];
    for (at, (name, body)) in rows.into_iter().enumerate() {
        let (ended, documents, _) = from(&here, &format!("db{at}"), changes(body)).await;
        let failed = ended.expect_err(name);
        assert!(matches!(failed, Failure::Changes(_) | Failure::Network(_)), "{name}: {failed}");
        assert_eq!(documents, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_unpacks_without_end_is_refused() {
    use std::io::Write;
    let here = server(&[]).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![b' '; 64 << 20]).unwrap();
    let packed = packed.finish().unwrap();
    let script: Script = Arc::new(move |_, path| (path == "/db").then(|| (200, JSON, packed.clone())));
    let (ended, _, _) = from(&here, "db", script).await;
    assert!(matches!(&ended, Err(Failure::Protocol(why)) if why.contains("too large")), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_to_another_host_gets_no_credentials() {
    let here = server(&[]).await;
    let (other, seen) = source(Arc::new(|_, path| (path == "/db").then(|| (200, JSON, ABOUT.to_vec())))).await;
    // Another port is another server.
    let to: &'static str = format!("http://{other}/db").leak();
    let (address, credentials) =
        source(Arc::new(move |_, path| path.starts_with("/db").then(|| (307, to, Vec::new())))).await;
    create(&here, "db");
    let mut parameters = Parameters::new(remote(address, "db"), local("db"));
    parameters.retries_per_request = 0;
    let _ = pass(&context(&here), &parameters, &Progress::new()).await;
    assert!(credentials.lock().iter().any(|value| value.starts_with("Basic ")), "the endpoint gets them");
    assert_eq!(*seen.lock(), Vec::<String>::new(), "the other host does not");
    // Round and round.
    let (around, _) = source(Arc::new(|_, _| Some((302, "/db", Vec::new())))).await;
    parameters.source = remote(around, "db");
    let ended = pass(&context(&here), &parameters, &Progress::new()).await;
    assert!(matches!(&ended, Err(Failure::Protocol(why)) if why.contains("redirects")), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_too_large_is_counted_and_passed_over() {
    let here = server(&[("couchdb", "max_document_size", "1000")]).await;
    let there = server(&[]).await;
    let (from, to) = small(&here, &there, "db").await;
    let edit = crate::db::Incoming::created("large", json!({"x": "x".repeat(2_000_000)}).to_string());
    from.update(vec![edit], crate::db::Mode::Interactive, &crate::db::AllowAll).await.unwrap();
    samples::put(&from, "d", 1).await;
    let answer = replicate(&context(&here), &Parameters::new(remote(there.address, "db"), local("db"))).await;
    let row = &answer["history"][0];
    assert_eq!((&row["docs_written"], &row["doc_write_failures"]), (&json!(4), &json!(1)), "{answer}");
    assert_eq!(to.info().documents, 4);
    // The other way: the target refuses it.
    let back = replicate(&context(&there), &Parameters::new(local("db"), remote(here.address, "db"))).await;
    assert_eq!(back["history"][0]["doc_write_failures"], 1, "{back}");
}

/// The ids are longer than there can be here, or longer than the source takes in a path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_whose_id_is_too_long_is_counted_and_passed_over() {
    let here = server(&[]).await;
    for (at, (id, answered)) in
        [("a".repeat(9000), 400), ("é".repeat(2000), 400), ("é".repeat(2000), 414)].iter().enumerate()
    {
        let (changes, answered) = (CHANGES.replace("\"a\"", &format!("\"{id}\"")), *answered);
        let script: Script = Arc::new(move |_, path| match path.split('?').next().unwrap() {
            "/db/_changes" => Some((200, JSON, changes.clone().into_bytes())),
            "/db/_bulk_get" => Some((200, JSON, br#"{"results":[]}"#.to_vec())),
            path if path.len() > 8000 => Some((answered, "text/html", b"<html>".to_vec())),
            _ => None,
        });
        let (ended, documents, progress) = from(&here, &format!("db{at}"), script).await;
        // The checkpoint cannot be written to this source.
        assert!(matches!(ended, Err(Failure::Status { status: 404, .. })), "{ended:?}");
        let counters = progress.counters();
        assert_eq!((documents, counters.docs_written, counters.doc_write_failures), (0, 0, 1));
    }
    // With a short path, it is not the document's fault.
    let (ended, ..) =
        from(&here, "short", Arc::new(|_, path| path.starts_with("/db/a?").then(|| (400, JSON, Vec::new())))).await;
    assert!(matches!(ended, Err(Failure::Status { status: 400, .. })), "{ended:?}");
}

/// Names and types with every control character, from settee to settee, both ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attachments_with_control_characters_are_replicated() {
    let (here, there) = (server(&[]).await, server(&[]).await);
    let attachments: serde_json::Map<String, Value> = (0..0xa0)
        .filter_map(char::from_u32)
        .flat_map(|odd| [format!("f{odd}g"), format!("%{:02X}", odd as u32), format!("f{odd}\r\n\r\n{odd}")])
        .map(|name| (name.clone(), json!({"content_type": format!("x/{name}"), "data": "YWJj"})))
        .collect();
    let document = json!({"_id": "a", "_attachments": attachments});
    create(&there, "db");
    assert_eq!(send(&there, "PUT /db/a", ADMIN, document).await.status, 201);
    create(&here, "pulled");
    create(&there, "pushed");
    let pulled = replicate(&context(&here), &Parameters::new(remote(there.address, "db"), local("pulled"))).await;
    let pushed = replicate(&context(&here), &Parameters::new(local("pulled"), remote(there.address, "pushed"))).await;
    for answer in [&pulled, &pushed] {
        assert_eq!(answer["history"][0]["docs_written"], 1, "{answer}");
    }
    let wanted = send(&there, "GET /db/a", ADMIN, Value::Null).await.json();
    assert_eq!(wanted["_attachments"].as_object().unwrap().len(), attachments.len());
    assert_eq!(send(&here, "GET /pulled/a", ADMIN, Value::Null).await.json(), wanted);
    assert_eq!(send(&there, "GET /pushed/a", ADMIN, Value::Null).await.json(), wanted);
}

/// A `_local` document of a source would overwrite a checkpoint, or whatever else is stored there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_document_of_a_source_is_not_written() {
    let here = server(&[]).await;
    let script: Script = Arc::new(|_, path| {
        let document = r#"{"_id":"_local/x","_rev":"1-b","stolen":true}"#;
        let body = match path.split('?').next().unwrap() {
            "/db/_changes" => CHANGES.replace("\"a\"", "\"_local/x\""),
            "/db/_bulk_get" => format!(r#"{{"results":[{{"id":"_local/x","docs":[{{"ok":{document}}}]}}]}}"#),
            "/db/_local%2Fx" | "/db/_local/x" => format!(r#"[{{"ok":{document}}}]"#),
            _ => return None,
        };
        Some((200, JSON, body.into_bytes()))
    });
    let (ended, documents, progress) = from(&here, "db", script).await;
    // The checkpoint cannot be written to this source.
    assert!(matches!(ended, Err(Failure::Status { status: 404, .. })), "{ended:?}");
    let counters = progress.counters();
    assert_eq!((documents, counters.docs_written, counters.doc_write_failures), (0, 0, 1));
    let target = here.app.databases.get("db").unwrap();
    assert!(matches!(target.local("x"), Err(crate::error::Error::Missing)), "{:?}", target.local("x").map(|_| ()));
}

/// The number of a cluster's sequence is a sum over its shards: it may reach that of `update_seq` before each shard
/// is at its end, and only `pending` says what is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_from_a_cluster_ends_at_the_end_of_all_shards() {
    let here = server(&[]).await;
    let row = |seq: &str, id: &str| json!({"seq": seq, "id": id, "changes": [{"rev": "1-b"}]});
    let first = [("2-gA", "a"), ("3-gB", "b"), ("4-gC", "c"), ("4-gD", "d")].map(|(seq, id)| row(seq, id));
    let second = [("5-gE", "e"), ("6-gF", "f")].map(|(seq, id)| row(seq, id));
    let script: Script = Arc::new(move |method, path| {
        let (name, query) = path.split_once('?').unwrap_or((path, ""));
        let body = match (method, name) {
            (_, "/db") => json!({"db_name": "db", "update_seq": "4-gX", "instance_start_time": "0"}),
            (_, "/db/_changes") if query.contains("since=0&") => {
                json!({"results": first, "last_seq": "4-gD", "pending": 2})
            }
            (_, "/db/_changes") if query.contains("since=4-gD&") => {
                json!({"results": second, "last_seq": "6-gF", "pending": 0})
            }
            (_, "/db/_bulk_get") => {
                let documents = ["a", "b", "c", "d", "e", "f"]
                    .map(|id| json!({"id": id, "docs": [{"ok": {"_id": id, "_rev": "1-b"}}]}));
                json!({ "results": documents })
            }
            ("PUT", _) => json!({"ok": true, "id": "_local/x", "rev": "0-1"}),
            _ => return None,
        };
        Some((200, JSON, body.to_string().into_bytes()))
    });
    let (address, _) = source(script).await;
    let target = create(&here, "db");
    // The first request asks for four rows.
    let parameters = Parameters { worker_batch_size: 1, ..Parameters::new(remote(address, "db"), local("db")) };
    let answer = replicate(&context(&here), &parameters).await;
    assert_eq!((target.info().documents, &answer["source_last_seq"]), (6, &json!("6-gF")), "{answer}");
}
