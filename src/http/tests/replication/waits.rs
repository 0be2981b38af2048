//! Batches that hold what others wait for: they do not wait for each other.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::hostile::{ABOUT, JSON};
use super::*;

const KB: usize = 1 << 10;
const MB: usize = 1 << 20;

/// Documents, two of each batch, and the bytes of their bodies.
const DOCUMENTS: [(&str, usize); 6] =
    [("a1", 17 * MB), ("a2", 17 * MB), ("b1", 300 * KB), ("b2", MB), ("c1", 300 * KB), ("c2", MB)];

/// A source without `_bulk_get`, whose answers come in this order: `b1` and `c1`; `a1` and `a2`, each but for its end;
/// their ends; `b2` and `c2` when one of `a1` and `a2` is delivered.
struct Source {
    progress: Progress,
    /// How many of `a1` and `a2` are sent but for their ends.
    sent: watch::Sender<usize>,
}

impl Source {
    /// Waits until so many documents were delivered.
    async fn delivered(&self, count: u64) {
        while self.progress.counters().docs_read < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this part of a document's answer may be sent.
    async fn turn(&self, id: &str, is_end: bool) {
        match (&id[..1], is_end) {
            ("a", false) => self.delivered(2).await,
            ("a", true) => {
                self.sent.send_modify(|count| *count += 1);
                self.sent.subscribe().wait_for(|count| *count == 2).await.unwrap();
            }
            _ if id.ends_with('2') => self.delivered(3).await,
            _ => {}
        }
    }

    fn answer(self: &Arc<Source>, path: &str) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let name = path.split_once('?').map_or(path, |(name, _)| name);
        let row = |(id, _): &(&str, usize)| json!({"seq": format!("1-{id}"), "id": id, "changes": [{"rev": "1-b"}]});
        let (status, parts) = match name {
            "/db" => (200, vec![Bytes::from_static(ABOUT)]),
            "/db/_changes" => {
                let after = DOCUMENTS.iter().position(|(id, _)| path.contains(&format!("1-{id}")));
                let rows: Vec<Value> = DOCUMENTS.iter().skip(after.map_or(0, |at| at + 1)).map(row).collect();
                let changes = json!({"results": rows, "last_seq": "1-c2", "pending": 0});
                (200, vec![changes.to_string().into()])
            }
            _ => match DOCUMENTS.iter().find(|(id, _)| name.strip_prefix("/db/") == Some(id)) {
                Some((id, bytes)) => {
                    let document = json!({"_id": id, "_rev": "1-b", "x": "x".repeat(*bytes)});
                    let mut text = Bytes::from(json!([{ "ok": document }]).to_string());
                    let end = text.split_off(text.len() - 10);
                    (200, vec![text, end])
                }
                None => (404, vec![Bytes::from_static(br#"{"error":"not_found","reason":"missing"}"#)]),
            },
        };
        let id = name.trim_start_matches("/db").trim_start_matches('/').to_owned();
        let last = parts.len() - 1;
        let parts = parts.into_iter().enumerate();
        let frames = stream::unfold((self.clone(), id, parts), move |(source, id, mut parts)| async move {
            let (at, part) = parts.next()?;
            if DOCUMENTS.iter().any(|(known, _)| *known == id) {
                source.turn(&id, at == last).await;
            }
            Some((Ok(Frame::data(part)), (source, id, parts)))
        });
        let body = StreamBody::new(frames).boxed_unsync();
        Response::builder().status(status).header("Content-Type", JSON).body(body).unwrap()
    }
}

/// Batch A has both permits for large documents, and waits for memory. Batches B and C have memory, and wait for a
/// permit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_do_not_wait_for_each_others_memory_and_permits() {
    let here = server(&[]).await;
    let target = create(&here, "db");
    let source = Arc::new(Source { progress: Progress::new(), sent: watch::Sender::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serves = source.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let source = serves.clone();
            tokio::spawn(async move {
                let respond = |request: Request<Incoming>| {
                    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
                    std::future::ready(Ok::<_, Infallible>(source.answer(&path)))
                };
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(socket), service_fn(respond)).await;
            });
        }
    });
    let mut parameters = Parameters::new(remote(address, "db"), local("db"));
    (parameters.worker_batch_size, parameters.use_checkpoints, parameters.retries_per_request) = (2, false, 0);
    let ended = pass(&context(&here), &parameters, &source.progress).await;
    assert!(matches!(ended, Ok(Outcome::Completed(_))), "{ended:?}");
    assert_eq!((target.info().documents, source.progress.counters().docs_written), (6, 6));
}
