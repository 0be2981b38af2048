//! Requests as a server admin, for commands such as `settee livesync`: to the running server of a data folder through
//! its control socket, to the data folder of a stopped server, or to a server on the network.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::Engine as _;
use http_body_util::{BodyExt, Full};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

use super::other_server::{Heard, another_answers, is_error, nothing_answers, plain, proxy_answers};
use super::stores::{Place, has_entries, no_data_folder};
use crate::maintain::control;
use crate::net::http_client::{HttpClient, Limits};
use crate::net::tls;
use crate::store::Key;

/// The settings of a server.
const CONFIG: &str = "/_node/_local/_config";
/// How long one answer may take. A password takes the server a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer, at most.
const MOST: usize = 16 << 20;
/// What is escaped in a part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the requests go.
#[derive(Clone)]
pub enum Target {
    /// The data of a running or a stopped server.
    Store { place: Place, key: Option<Key> },
    /// A server on the network: its URL without a slash at the end, and the value of `Authorization`.
    Server { url: String, authorization: String },
}

/// Shows no password.
impl fmt::Debug for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Store { place, .. } => out.debug_tuple("Store").field(place).finish(),
            Target::Server { url, .. } => out.debug_tuple("Server").field(url).finish(),
        }
    }
}

impl Target {
    /// A server on the network. Name and password of an admin are in the URL, or else in `credentials`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn server(url: &str, credentials: Option<(String, String)>) -> Result<Target, String> {
        let (scheme, rest) = url
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
            .ok_or("the server is not a URL that begins with http:// or https://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (inside, host) = match authority.rsplit_once('@') {
            Some((inside, host)) => {
                let (name, password) = inside.split_once(':').unwrap_or((inside, ""));
                (Some((decode(name), decode(password))), host)
            }
            None => (None, authority),
        };
        let (name, password) = inside.or(credentials).ok_or(
            "the name and password of a server admin are missing: write them into the URL (https://admin:secret@host), \
             or set COUCHDB_USER and COUCHDB_PASSWORD",
        )?;
        let secret = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        let url = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
        Ok(Target::Server { url, authorization: format!("Basic {secret}") })
    }
}

/// Opens a new connection whose requests have the rights of a server admin.
pub type Connect = Box<dyn Fn() -> io::Result<UnixStream>>;
/// Opens the data folder of a stopped server, or a store that several servers share.
pub type OpenStore<'a> = &'a dyn Fn(&Place, Option<Key>) -> Result<Connect, String>;

/// A server that takes requests as an admin's.
pub struct AdminApi {
    way: Way,
    /// The server, for the user: `the running server of ./data`.
    pub server: String,
}

enum Way {
    /// `is_live`: to a server that others reach, too, and not to one in this process.
    Stream {
        connect: Connect,
        is_live: bool,
    },
    Network(Box<Network>),
}

/// A server on the network.
struct Network {
    runtime: tokio::runtime::Runtime,
    client: HttpClient,
    url: String,
    authorization: String,
    /// Whether it has answered as settee or CouchDB does.
    is_known: Cell<bool>,
}

/// An answer.
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub json: Value,
    body: Vec<u8>,
}

impl Reply {
    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    /// The body, if the status is that of a success.
    ///
    /// # Errors
    /// What the server has answered, for the user.
    pub fn ok(self, what: &str) -> Result<Value, String> {
        match self.status {
            200..=299 if self.json.is_null() => Err(format!("{what}: the answer is not JSON")),
            200..=299 => Ok(self.json),
            status => {
                let reason = plain(self.json["reason"].as_str().unwrap_or(""));
                Err(format!("{what}: the server answers {status} {reason}"))
            }
        }
    }

    /// Whether settee or CouchDB may have answered so: with JSON, and in a failure with their error.
    fn is_of_couchdb(&self) -> bool {
        if (200..=299).contains(&self.status) { !self.json.is_null() } else { is_error(&self.json) }
    }

    /// The request and this answer, for a message.
    fn heard<'a>(&'a self, method: &'a str, path: &'a str) -> Heard<'a> {
        let (server, location) = (self.header("server"), self.header("location"));
        Heard { method, path, status: self.status, server, location, body: &self.body }
    }
}

/// Escapes a part of a path.
pub fn part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

impl AdminApi {
    /// Opens the way to a server. `open_store` is used if no server runs on the target's folder. `option`: by which the
    /// command takes the address of a server, if it has such an option.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn open(target: Target, open_store: OpenStore<'_>, option: Option<&str>) -> Result<AdminApi, String> {
        match target {
            Target::Store { place: place @ Place::Database(_), key } => {
                // Its servers hear of the changes as of those of any other.
                let server = format!("the store {place}");
                Ok(AdminApi { way: Way::Stream { connect: open_store(&place, key)?, is_live: false }, server })
            }
            Target::Store { place: Place::Folder { data, engine }, key } => {
                let shown = data.display().to_string();
                match control::http(&data) {
                    Ok(Some(_)) => {
                        let connect = move || control::http(&data)?.ok_or_else(|| io::Error::other("it has stopped"));
                        let server = format!("the running server of {shown}");
                        Ok(AdminApi { way: Way::Stream { connect: Box::new(connect), is_live: true }, server })
                    }
                    Ok(None) if !has_entries(&data) => {
                        let elsewhere = option
                            .map(|option| format!("\nFor a server elsewhere: {option} https://ADMIN:PASSWORD@HOST"));
                        Err(no_data_folder(&data) + &elsewhere.unwrap_or_default())
                    }
                    Ok(None) => {
                        let server = format!("the data folder {shown} (its server does not run)");
                        let connect = open_store(&Place::Folder { data, engine }, key)?;
                        Ok(AdminApi { way: Way::Stream { connect, is_live: false }, server })
                    }
                    Err(error) => Err(format!(
                        "the server of {shown} cannot be reached: {error}. Run this as the user of the server"
                    )),
                }
            }
            Target::Server { url, authorization } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| error.to_string())?;
                let client = HttpClient::new(tls::client_config(None)?);
                let server = url.clone();
                let network = Network { runtime, client, url, authorization, is_known: Cell::new(false) };
                Ok(AdminApi { server, way: Way::Network(Box::new(network)) })
            }
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// A sentence for the user: there is no answer.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let sent = match &self.way {
            Way::Stream { connect, .. } => {
                by_stream(connect, method, path, headers, &body).map_err(|error| format!("{}: {error}", self.server))
            }
            Way::Network(network) => network.send(method, path, headers, body),
        };
        let (status, headers, body) = sent?;
        let reply = Reply { status, headers, json: serde_json::from_slice(&body).unwrap_or_default(), body };
        if let Way::Network(network) = &self.way {
            network.recognize(&reply, method, path)?;
        }
        Ok(reply)
    }

    /// Whether a running server answers, and not this process from its data.
    pub fn is_live(&self) -> bool {
        match &self.way {
            Way::Stream { is_live, .. } => *is_live,
            Way::Network(_) => true,
        }
    }

    /// Whether the server is reached over the network, perhaps through a proxy.
    pub fn is_remote(&self) -> bool {
        matches!(self.way, Way::Network(_))
    }

    /// Reads the settings. A server on the network may be of another kind, and is recognized by its answer.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn settings(&self) -> Result<Value, String> {
        let reply = self.send("GET", CONFIG, &[], None)?;
        match &self.way {
            Way::Network(network) if reply.status == 200 && !reply.json["chttpd"].is_object() => {
                Err(another_answers(&format!("at {}", network.url), &reply.heard("GET", CONFIG)))
            }
            Way::Network(network) if reply.status == 404 => Err(format!(
                "{} has no settings ({CONFIG}): give the address of a settee or CouchDB 3, without the name of a database",
                network.url
            )),
            Way::Network(_) | Way::Stream { .. } => reply.ok("the settings"),
        }
    }

    /// Sends a request that must succeed, and returns the body of its answer. `what`: for the error, what failed.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn must(&self, method: &str, path: &str, body: Option<&Value>, what: &str) -> Result<Value, String> {
        self.send(method, path, &[], body)?.ok(what)
    }

    /// Changes a setting, as `chttpd/require_valid_user`. Returns the value before.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn set(&self, section: &str, key: &str, value: &str) -> Result<Value, String> {
        let path = format!("/_node/_local/_config/{}/{}", part(section), part(key));
        self.must("PUT", &path, Some(&value.into()), &format!("{section}/{key}"))
    }
}

impl Network {
    /// Checks that settee or CouchDB may have answered so, and not a server of another kind or a proxy.
    fn recognize(&self, reply: &Reply, method: &str, path: &str) -> Result<(), String> {
        let heard = reply.heard(method, path);
        match (reply.is_of_couchdb(), self.is_known.get()) {
            (true, _) => self.is_known.set(true),
            (false, true) => return Err(proxy_answers(&self.url, &heard)),
            (false, false) => return Err(another_answers(&format!("at {}", self.url), &heard)),
        }
        Ok(())
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Result<Raw, String> {
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers.iter().chain(&[("Authorization", self.authorization.as_str())]) {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("Content-Type", "application/json");
        }
        let body = Full::new(bytes::Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let request = request.body(body).map_err(|error| error.to_string())?;
        let limits = Limits { time: PATIENCE, bytes: MOST };
        let answer = self.runtime.block_on(self.client.fetch(request, limits));
        let answer = answer.map_err(|error| nothing_answers(&self.url, &error))?;
        let (head, body) = answer.into_parts();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Ok((head.status.as_u16(), headers, body.to_vec()))
    }
}

/// The value of a header.
pub(super) fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Status, headers and body.
pub(super) type Raw = (u16, Vec<(String, String)>, Vec<u8>);

/// Sends one request over a connection of its own.
fn by_stream(connect: &Connect, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<Raw> {
    let mut stream = connect()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST as u64).read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other("the answer is not complete"))
}

/// Parses a whole answer of HTTP/1.
pub(super) fn parse(answer: &[u8]) -> Option<Raw> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.into(), value.into())).collect();
    let is_chunked = headers
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked"));
    let body = &answer[end + 4..];
    Some((status, headers, if is_chunked { unchunked(body)? } else { body.to_vec() }))
}

/// Removes the chunked encoding (RFC 9112, section 7.1).
fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).ok()?.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        let from = end + 2;
        whole.extend_from_slice(body.get(from..from.checked_add(size)?)?);
        body = body.get(from + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_server_come_from_its_url_or_the_environment() {
        let given = Some(("ann".to_owned(), "secret".to_owned()));
        for (url, given, wanted) in [
            ("https://a:b@sync.example.com/", None, Ok(("https://sync.example.com", "Basic YTpi"))),
            ("http://a%40b:c%3Ad@[::1]:5984/sync/", None, Ok(("http://[::1]:5984/sync", "Basic YUBiOmM6ZA=="))),
            ("http://localhost:5984", given.clone(), Ok(("http://localhost:5984", "Basic YW5uOnNlY3JldA=="))),
            ("http://localhost:5984", None, Err("COUCHDB_USER")),
            ("localhost:5984", given, Err("is not a URL")),
        ] {
            match (Target::server(url, given), wanted) {
                (Ok(Target::Server { url, authorization }), Ok(wanted)) => {
                    assert_eq!((url.as_str(), authorization.as_str()), wanted);
                }
                (Err(error), Err(says)) => assert!(error.contains(says), "{error}"),
                (other, _) => panic!("{url}: {other:?}"),
            }
        }
    }

    #[test]
    fn answers_are_parsed_with_and_without_chunks() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\n{}";
        assert_eq!(
            parse(plain).map(|(status, headers, body)| (status, headers.len(), body)),
            Some((200, 2, b"{}".into()))
        );
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).map(|(.., body)| body), Some(b"{}".to_vec()));
        for cut in [&b"HTTP/1.1 200 OK\r\n"[..], &chunked[..chunked.len() - 8]] {
            assert!(parse(cut).is_none());
        }
    }
}
