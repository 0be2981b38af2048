use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::net::blocking::BlockingClient;
use crate::net::connector::Connector;
use crate::net::http_client::{HttpClient, HttpError, Limits, empty};
use crate::net::tls::tests::samples;
use crate::net::tls::{Identity, client_config};

const MAX: usize = 256 << 10;
const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: MAX };

/// Starts a server that sends these bytes on every connection and closes it. Returns its port.
pub async fn answering(answer: String, identity: Option<Identity>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            match &identity {
                None => serve(socket, &answer).await,
                Some(identity) => {
                    if let Ok(socket) = identity.accept(socket).await {
                        serve(socket, &answer).await;
                    }
                }
            }
        }
    });
    port
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
    if head(&mut socket).await.is_some() {
        let _ = socket.write_all(answer.as_bytes()).await;
        let _ = socket.shutdown().await;
    }
}

/// Reads the head of a request; `None` if the connection ends before.
async fn head(socket: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(socket.read_u8().await.ok()?);
    }
    String::from_utf8(asked).ok()
}

fn client() -> HttpClient {
    HttpClient::new(client_config(Some(&samples().join("ca.pem"))).unwrap())
}

async fn fetch(url: String) -> Result<Bytes, HttpError> {
    let client = BlockingClient::new(client(), Handle::current());
    tokio::task::spawn_blocking(move || client.get(&url, LIMITS)).await.unwrap()
}

/// The sample `one`, valid for `localhost`.
pub fn sample() -> Identity {
    Identity::open(&samples().join("one.pem"), &samples().join("one.key"), false).unwrap()
}

const DOCUMENT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"keys\":[]}";

#[tokio::test]
async fn documents_are_fetched_over_https_from_trusted_servers() {
    let port = answering(DOCUMENT.into(), Some(sample())).await;
    let url = format!("https://localhost:{port}/keys?x=1");
    assert_eq!(fetch(url.clone()).await.unwrap(), "{\"keys\":[]}");
    let stranger = HttpClient::new(client_config(None).unwrap());
    let error = stranger.get(&url, LIMITS).await.unwrap_err();
    assert!(matches!(&error, HttpError::Connect(wrong) if wrong.contains("UnknownIssuer")), "{error}");
    let closing = "HTTP/1.1 200 OK\r\n\r\n{\"keys\":[]}";
    let port = answering(closing.into(), None).await;
    assert_eq!(fetch(format!("http://127.0.0.1:{port}/")).await.unwrap(), "{\"keys\":[]}");
}

#[tokio::test]
async fn invalid_responses_and_urls_are_errors() {
    let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX + 1));
    let announced = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX + 1);
    let refused = format!("HTTP/1.1 503 No\r\nContent-Length: {}\r\n\r\n", MAX + 1);
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(200 << 10));
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/secret\r\nContent-Length: 0\r\n\r\n";
    for (answer, says) in [
        (moved, "302"),
        ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "500"),
        // The body of an error is not read: neither its length nor its end matters.
        (refused.as_str(), "503"),
        ("HTTP/1.1 404 No\r\nContent-Length: 100\r\n\r\nshort", "404"),
        (large.as_str(), "limit"),
        (announced.as_str(), "limit"),
        (head.as_str(), "too large"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", ""),
        ("what?\r\n\r\n", ""),
        ("", ""),
    ] {
        let port = answering(answer.into(), None).await;
        let error = fetch(format!("http://127.0.0.1:{port}/")).await.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
    for url in ["", "localhost", "ftp://localhost/", "https://", "http://127.0.0.1:1/"] {
        assert!(fetch(url.into()).await.is_err(), "{url}");
    }
}

/// A server that answers every request on a connection that stays open. Returns its port, and counts the
/// connections.
async fn keeping_alive() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                while head(&mut socket).await.is_some() {
                    let _ = socket.write_all(DOCUMENT.as_bytes()).await;
                }
            });
        }
    });
    (port, accepted)
}

#[tokio::test]
async fn connections_are_reused() {
    let (port, accepted) = keeping_alive().await;
    let (client, url) = (client(), format!("http://127.0.0.1:{port}/"));
    for _ in 0..5 {
        client.get(&url, LIMITS).await.unwrap();
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_number_of_requests_at_a_time_is_limited() {
    let (port, _) = keeping_alive().await;
    let client =
        HttpClient::with(Connector::new(client_config(None).unwrap(), Duration::from_secs(10), None, None), 1, 4);
    let ask = || {
        let request = http::Request::get(format!("http://127.0.0.1:{port}/")).body(empty()).unwrap();
        client.send(request, LIMITS.time)
    };
    let first = ask().await.unwrap();
    let mut second = Box::pin(ask());
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(client.slots_free(), 0, "an unread answer keeps its slot");
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "{\"keys\":[]}");
    assert_eq!(second.await.unwrap().status(), 200);
    assert_eq!(client.slots_free(), 1);
}

#[tokio::test]
async fn every_wait_ends() {
    let short = Duration::from_millis(50);
    // Accepts connections, and neither shakes hands nor answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client =
        |connecting| HttpClient::with(Connector::new(client_config(None).unwrap(), connecting, None, None), 4, 4);
    let error = client(short).get(&format!("https://localhost:{port}/"), LIMITS).await.unwrap_err();
    assert!(matches!(&error, HttpError::Connect(wrong) if wrong.contains("within 0.05 s")), "{error}");
    let mut limits = Limits { time: short, ..LIMITS };
    let client = client(LIMITS.time);
    let error = client.get(&format!("http://localhost:{port}/"), limits).await.unwrap_err();
    assert!(matches!(error, HttpError::TimedOut(limit) if limit == short), "{error}");
    drop(listener);

    // Sends a head and a part of the body.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (gave_up, mut given_up) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let part = &DOCUMENT.as_bytes()[..DOCUMENT.len() - 1];
            if head(&mut socket).await.is_some() && socket.write_all(part).await.is_ok() {
                // The client closes the connection when it gives up.
                gave_up.send(socket.read(&mut [0]).await.unwrap_or(0)).unwrap();
            }
        }
    });
    let read = loop {
        let error = client.get(&url, limits).await.unwrap_err();
        assert!(matches!(error, HttpError::TimedOut(_)), "{error}");
        // On a busy machine the client gives up before it has sent its request.
        limits.time *= 2;
        if let Ok(read) = given_up.try_recv() {
            break read;
        }
    };
    assert_eq!(read, 0);
    assert_eq!(client.slots_free(), 4);
}

#[tokio::test]
async fn bodies_are_streamed_in_both_directions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/db/_bulk_docs", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let asked = head(&mut socket).await.unwrap();
        let mut body = [0; 9];
        socket.read_exact(&mut body).await.unwrap();
        socket.write_all(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
        // The second part is sent only when the client has read the first.
        let more = socket.read_u8().await;
        (asked, body, more.is_err())
    });
    let body = Full::new(Bytes::from("some body")).map_err(|never| match never {}).boxed_unsync();
    let request = http::Request::post(url).header("X-Test", "yes").body(body).unwrap();
    let answer = client().send(request, LIMITS.time).await.unwrap();
    assert_eq!(answer.status(), 201);
    let mut body = answer.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    drop(body);
    let (asked, body, closed) = serving.await.unwrap();
    assert!(asked.starts_with("POST /db/_bulk_docs HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("x-test: yes") && asked.to_lowercase().contains("user-agent: settee/"));
    assert_eq!((&body, closed), (b"some body", true));
}
