//! A proxy before a server that makes faults: failures, answers that break off, answers that are late.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::samples::Random;
use crate::net::http_client::HttpClient;
use crate::net::tls::client_config;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The request does not reach the server.
    Status(u16),
    /// It does, and its answer does not come back.
    Lost,
    /// The answer breaks off after this many bytes.
    Cut(usize),
    /// The answer is late.
    Late,
}

/// A running proxy.
pub struct Faulty {
    pub address: SocketAddr,
    is_off: Arc<AtomicBool>,
}

impl Faulty {
    /// Starts a proxy before a server, with the faults of a seed.
    pub async fn before(server: SocketAddr, seed: u64) -> Faulty {
        // The second number: requests since the last 401. Twice in a row, it means that the user may not.
        let random = Mutex::new((Random::new(seed ^ 0xFA17), 0));
        let is_off = Arc::new(AtomicBool::new(false));
        let off = is_off.clone();
        let choose = move || {
            let mut state = random.lock();
            let (random, calm) = &mut *state;
            *calm += 1;
            if off.load(Ordering::Relaxed) {
                return Fault::None;
            }
            match random.below(24) {
                0 => Fault::Status(500),
                1 => Fault::Status(502),
                2 if *calm > 60 => {
                    *calm = 0;
                    Fault::Status(401)
                }
                3 => Fault::Lost,
                4 | 5 => Fault::Cut(random.below(4000) as usize),
                6 => Fault::Late,
                _ => Fault::None,
            }
        };
        Faulty { address: serve(server, Arc::new(choose)).await, is_off }
    }

    /// From now on, everything passes.
    pub fn stop_faults(&self) {
        self.is_off.store(true, Ordering::Relaxed);
    }
}

async fn serve(server: SocketAddr, choose: Arc<dyn Fn() -> Fault + Send + Sync>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = HttpClient::new(client_config(None).unwrap());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (client, choose) = (client.clone(), choose.clone());
            tokio::spawn(async move {
                let respond = move |request| pass(client.clone(), server, request, choose());
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(socket), service_fn(respond)).await;
            });
        }
    });
    address
}

async fn pass(
    client: HttpClient,
    server: SocketAddr,
    request: Request<Incoming>,
    fault: Fault,
) -> Result<Response<Body>, std::io::Error> {
    let broken = || std::io::Error::other("made to fail");
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    if let Fault::Status(status) = fault {
        let text = Full::new(Bytes::from_static(br#"{"error":"made","reason":"up"}"#));
        let mut answer = Response::new(text.map_err(|never| match never {}).boxed_unsync());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        return Ok(answer);
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = format!("http://{server}{path}").parse().unwrap();
    head.headers.remove(http::header::HOST);
    let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    let sent = client.send(Request::from_parts(head, body), Duration::from_secs(10)).await;
    let (head, body) = sent.map_err(std::io::Error::other)?.into_parts();
    match fault {
        Fault::Lost => Err(broken()),
        Fault::Cut(bytes) => {
            let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
            if bytes >= body.len() {
                let whole = Full::new(body).map_err(|never| match never {}).boxed_unsync();
                return Ok(Response::from_parts(head, whole));
            }
            let pieces = [Ok(Frame::data(body.slice(..bytes))), Err(broken())];
            Ok(Response::from_parts(head, StreamBody::new(stream::iter(pieces)).boxed_unsync()))
        }
        Fault::Late | Fault::None | Fault::Status(_) => {
            if fault == Fault::Late {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            Ok(Response::from_parts(head, body.map_err(std::io::Error::other).boxed_unsync()))
        }
    }
}
