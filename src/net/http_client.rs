//! Fetches a small document over HTTPS: the keys that a token issuer publishes. One request on one
//! connection, limited in time and size, without redirects, cookies or a connection pool.
//!
//! A general HTTP client was rejected because its other features are unwanted here.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::auth::jwks::{Fetch, MAX_DOCUMENT};
use crate::error::{Error, Result};

/// Time limit from the DNS lookup to the last byte of the response.
const TIME: Duration = Duration::from_secs(10);

/// Fetches `https` URLs, and also `http` URLs: the caller decides which URLs are acceptable.
pub struct Fetcher {
    tls: TlsConnector,
    runtime: Handle,
}

impl Fetcher {
    /// Creates a fetcher. `tls` has the trusted certificate authorities. Must be called inside the Tokio
    /// runtime that is to run the requests.
    pub fn new(tls: Arc<ClientConfig>) -> Fetcher {
        Fetcher { tls: TlsConnector::from(tls), runtime: Handle::current() }
    }
}

async fn get(tls: TlsConnector, url: &str) -> std::result::Result<Vec<u8>, String> {
    let url: http::Uri = url.parse().map_err(|_| "the URL does not parse".to_owned())?;
    let host = url.host().ok_or("the URL has no host")?.trim_matches(['[', ']']).to_owned();
    let secure = match url.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("the URL is neither https nor http".into()),
    };
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let socket = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
    if !secure {
        return request(socket, &url).await;
    }
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    request(tls.connect(name, socket).await.map_err(|error| error.to_string())?, &url).await
}

async fn request<S>(socket: S, url: &http::Uri) -> std::result::Result<Vec<u8>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let asked = http::Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("settee/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())?;
    let answer = async move {
        let answer = sender.send_request(asked).await.map_err(|error| error.to_string())?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("the server answered {} (redirects are not followed)", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes().to_vec())
    };
    // The response arrives only while the connection is polled.
    tokio::pin!(connection, answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            // The server closed the connection after its response, which is completely received by then.
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

impl Fetch for Fetcher {
    fn fetch(&self, url: &str) -> Result<Vec<u8>> {
        let (told, fetched) = std::sync::mpsc::sync_channel(1);
        let (tls, url) = (self.tls.clone(), url.to_owned());
        self.runtime.spawn(async move {
            let _ = told.send(tokio::time::timeout(TIME, get(tls, &url)).await);
        });
        // Wait longer than the task's own timeout, so that normally the task reports it. If the task reports
        // nothing, the runtime is shutting down.
        match fetched.recv_timeout(TIME + Duration::from_secs(1)) {
            Ok(Ok(fetched)) => fetched.map_err(Error::Internal),
            Ok(Err(_)) | Err(_) => Err(Error::Internal(format!("no answer within {} s", TIME.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::tls::tests::samples;
    use crate::net::tls::{Identity, client_config};

    /// Starts a server that sends these bytes on every connection and closes it. Returns its port.
    async fn answering(answer: String, identity: Option<Identity>) -> u16 {
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
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            if socket.read_buf(&mut asked).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let _ = socket.write_all(answer.as_bytes()).await;
        let _ = socket.shutdown().await;
    }

    async fn fetch(url: String) -> Result<Vec<u8>> {
        let fetcher = Fetcher::new(client_config(Some(&samples().join("ca.pem"))).unwrap());
        tokio::task::spawn_blocking(move || fetcher.fetch(&url)).await.unwrap()
    }

    fn sample() -> Identity {
        Identity::open(&samples().join("one.pem"), &samples().join("one.key")).unwrap()
    }

    const DOCUMENT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"keys\":[]}";

    #[tokio::test]
    async fn documents_are_fetched_over_https_from_trusted_servers() {
        let port = answering(DOCUMENT.into(), Some(sample())).await;
        assert_eq!(fetch(format!("https://localhost:{port}/keys?x=1")).await, Ok(b"{\"keys\":[]}".to_vec()));
        let stranger = Fetcher::new(client_config(None).unwrap());
        let url = format!("https://localhost:{port}/keys");
        assert!(tokio::task::spawn_blocking(move || stranger.fetch(&url)).await.unwrap().is_err());
        let closing = "HTTP/1.1 200 OK\r\n\r\n{\"keys\":[]}";
        let port = answering(closing.into(), None).await;
        assert_eq!(fetch(format!("http://127.0.0.1:{port}/")).await, Ok(b"{\"keys\":[]}".to_vec()));
    }

    #[tokio::test]
    async fn invalid_responses_and_urls_are_errors() {
        let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_DOCUMENT + 1));
        let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/secret\r\nContent-Length: 0\r\n\r\n";
        for (answer, says) in [
            (moved, "302"),
            ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "500"),
            (large.as_str(), "limit"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", ""),
            ("what?\r\n\r\n", ""),
            ("", ""),
        ] {
            let port = answering(answer.into(), None).await;
            let error = fetch(format!("http://127.0.0.1:{port}/")).await.unwrap_err();
            assert!(error.to_string().contains(says) || matches!(&error, Error::Internal(text) if text.contains(says)));
        }
        for url in ["", "localhost", "ftp://localhost/", "https://", "http://127.0.0.1:1/"] {
            assert!(fetch(url.into()).await.is_err(), "{url}");
        }
    }
}
