//! Reads a replication body: that of `POST /_replicate`, and of a `_replicator` document
//! (`couch_replicator_parse.erl`).
//!
//! Unknown members are skipped, as are `socket_options` and `ibrowse_options`. Numbers are brought into their
//! bounds. Names of databases here are accepted as endpoints.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Uri, uri};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::{Basic, Endpoint, Filter, Parameters, RemoteEndpoint};
use crate::auth::UserCtx;
use crate::db::check_database_name;
use crate::net::http_client::Proxy;

/// Headers of an endpoint, at most, and their bytes.
const MOST_HEADERS: usize = 64;
const MOST_HEADER_BYTES: usize = 16 << 10;

/// Bounds of the numbers.
const TIMEOUT_MS: (u64, u64) = (100, 3_600_000);
const INTERVAL_MS: (u64, u64) = (100, 86_400_000);
const RETRIES: (u64, u64) = (0, 20);
const PROCESSES: (u64, u64) = (1, 20);
const BATCH: (u64, u64) = (1, 2000);
const CONNECTIONS: (u64, u64) = (1, 100);

/// What is wrong with a replication body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// A parameter is of the wrong type or excludes another (400 `bad_request`).
    Parameter(String),
    /// A URL is no URL of `http` or `https` (400 `invalid_replication`).
    Url(&'static str),
    /// An endpoint is missing, or the filter is no filter's name (500 `error`).
    Body(String),
}

impl Wrong {
    /// The reason that clients see.
    pub fn reason(&self) -> &str {
        match self {
            Wrong::Parameter(reason) | Wrong::Body(reason) => reason,
            Wrong::Url(reason) => reason,
        }
    }
}

type Result<T> = std::result::Result<T, Wrong>;

/// The values of parameters that a body does not set (`[replicator]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    pub connection_timeout: u64,
    pub retries_per_request: u64,
    pub http_connections: u64,
    pub worker_processes: u64,
    pub worker_batch_size: u64,
    pub checkpoint_interval: u64,
    pub use_checkpoints: bool,
    pub use_bulk_get: bool,
    /// Whether endpoints may be reached without TLS (`valid_endpoint_protocols`).
    pub allows_http: bool,
}

impl Default for Defaults {
    /// CouchDB's.
    fn default() -> Defaults {
        Defaults {
            connection_timeout: 30_000,
            retries_per_request: 5,
            http_connections: 20,
            worker_processes: 4,
            worker_batch_size: 500,
            checkpoint_interval: 30_000,
            use_checkpoints: true,
            use_bulk_get: true,
            allows_http: true,
        }
    }
}

/// What `POST /_replicate` asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Start(Box<Parameters>),
    /// Stop the job with this id.
    CancelId(String),
    /// Stop the job with these parameters.
    Cancel(Box<Parameters>),
}

/// Reads the body of `POST /_replicate`.
///
/// # Errors
/// With CouchDB's texts.
pub fn request(body: &Map<String, Value>, defaults: &Defaults) -> Result<Asked> {
    let cancel = flag(body, "cancel")?.unwrap_or(false);
    let id = ["_local_id", "replication_id", "id"].iter().find_map(|name| body.get(*name));
    match (cancel, id) {
        (true, Some(Value::String(id))) => {
            filter(body)?;
            Ok(Asked::CancelId(id.clone()))
        }
        (true, Some(_)) => Err(Wrong::Parameter("parameter `id` must be a string".into())),
        (true, None) => Ok(Asked::Cancel(Box::new(parameters(body, defaults)?))),
        (false, _) => Ok(Asked::Start(Box::new(parameters(body, defaults)?))),
    }
}

/// Reads a replication.
///
/// # Errors
/// With CouchDB's texts.
pub fn parameters(body: &Map<String, Value>, defaults: &Defaults) -> Result<Parameters> {
    // In CouchDB's order: of several faults, the first is named.
    let [source_proxy, target_proxy] = proxies(body)?;
    let flag_or = |name: &str, default: bool| Ok(flag(body, name)?.unwrap_or(default));
    let number = |name: &str, default: u64, (least, most): (u64, u64)| {
        Ok(integer(body, name)?.unwrap_or(default).clamp(least, most))
    };
    let millis = |name: &str, default, bounds| number(name, default, bounds).map(Duration::from_millis);
    let size = |name: &str, default, bounds| number(name, default, bounds).map(|size| size as usize);
    // The ends are read last.
    let nowhere = || Endpoint::Local { name: String::new() };
    let mut parameters = Parameters {
        continuous: flag_or("continuous", false)?,
        create_target: flag_or("create_target", false)?,
        create_target_params: object(body, "create_target_params")?.cloned().unwrap_or_default(),
        filter: filter(body)?,
        query_params: query_params(body.get("query_params"))?,
        since_seq: body.get("since_seq").filter(|since| !since.is_null()).cloned(),
        winning_revs_only: flag_or("winning_revs_only", false)?,
        use_checkpoints: flag_or("use_checkpoints", defaults.use_checkpoints)?,
        use_bulk_get: flag_or("use_bulk_get", defaults.use_bulk_get)?,
        checkpoint_interval: millis("checkpoint_interval", defaults.checkpoint_interval, INTERVAL_MS)?,
        worker_processes: size("worker_processes", defaults.worker_processes, PROCESSES)?,
        worker_batch_size: size("worker_batch_size", defaults.worker_batch_size, BATCH)?,
        http_connections: size("http_connections", defaults.http_connections, CONNECTIONS)?,
        connection_timeout: millis("connection_timeout", defaults.connection_timeout, TIMEOUT_MS)?,
        retries_per_request: number("retries_per_request", defaults.retries_per_request, RETRIES)? as u32,
        ..Parameters::new(nowhere(), nowhere())
    };
    parameters.source = endpoint(body.get("source"), defaults)?.through(source_proxy);
    parameters.target = endpoint(body.get("target"), defaults)?.through(target_proxy);
    check_filter(&parameters.filter, &parameters.query_params)?;
    Ok(parameters)
}

/// Reads `user_ctx`: the user that the job of an admin acts as.
///
/// # Errors
/// It is not an object, or its members are of the wrong type.
pub fn user_ctx(body: &Map<String, Value>) -> Result<Option<UserCtx>> {
    let wrong = |name: &str| Wrong::Parameter(format!("parameter `user_ctx` has a wrong `{name}`"));
    let Some(members) = object(body, "user_ctx")? else { return Ok(None) };
    let name = match members.get("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(_) => return Err(wrong("name")),
    };
    let roles = match members.get("roles") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(roles)) => {
            let roles: Option<Vec<String>> = roles.iter().map(|role| role.as_str().map(str::to_owned)).collect();
            roles.ok_or_else(|| wrong("roles"))?
        }
        Some(_) => return Err(wrong("roles")),
    };
    Ok(Some(UserCtx { name, roles, handler: None }))
}

fn must_be(name: &str, what: &str) -> Wrong {
    Wrong::Parameter(format!("parameter `{name}` must be {what}"))
}

fn flag(body: &Map<String, Value>, name: &str) -> Result<Option<bool>> {
    match body.get(name) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(must_be(name, "a boolean")),
    }
}

fn object<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Map<String, Value>>> {
    match body.get(name) {
        None => Ok(None),
        Some(Value::Object(members)) => Ok(Some(members)),
        Some(_) => Err(must_be(name, "a JSON object")),
    }
}

/// A whole number, also as text.
fn integer(body: &Map<String, Value>, name: &str) -> Result<Option<u64>> {
    let wrong = || must_be(name, "an integer");
    match body.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => number.as_u64().map(Some).ok_or_else(wrong),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|_| wrong()),
        Some(_) => Err(wrong()),
    }
}

/// Which documents are replicated. `doc_ids`, `filter` and `selector` exclude each other.
fn filter(body: &Map<String, Value>) -> Result<Filter> {
    let doc_ids = match body.get("doc_ids") {
        None | Some(Value::Null) => None,
        Some(Value::Array(ids)) => {
            let ids: Option<Vec<String>> = ids.iter().map(|id| id.as_str().map(decoded)).collect();
            let mut ids = ids.ok_or_else(|| must_be("doc_ids", "an array of strings"))?;
            ids.sort_unstable();
            ids.dedup();
            Some(ids)
        }
        Some(_) => return Err(must_be("doc_ids", "an array")),
    };
    let selector = match body.get("selector") {
        None => None,
        Some(selector @ Value::Object(_)) => Some(selector.clone()),
        Some(_) => return Err(must_be("selector", "a JSON object")),
    };
    let filter = match body.get("filter") {
        None | Some(Value::Null) => None,
        Some(Value::String(filter)) => Some(filter.clone()),
        Some(_) => return Err(must_be("filter", "a string")),
    };
    match (doc_ids, filter, selector) {
        (None, None, None) => Ok(Filter::None),
        (Some(ids), None, None) => Ok(Filter::DocIds(ids)),
        (None, Some(filter), None) => Ok(Filter::Named(filter)),
        (None, None, Some(selector)) => Ok(Filter::Selector(selector)),
        _ => Err(Wrong::Parameter("`doc_ids`,`filter`,`selector` are mutually exclusive".into())),
    }
}

fn decoded(id: &str) -> String {
    percent_decode_str(id).decode_utf8_lossy().into_owned()
}

fn check_filter(filter: &Filter, query_params: &[(String, String)]) -> Result<()> {
    match filter {
        Filter::Named(name) if name == "_view" => {
            let view = query_params.iter().find(|(name, _)| name == "view").map(|(_, view)| view.as_str());
            match view.map(|view| view.split('/').count()) {
                Some(2) => Ok(()),
                _ => Err(Wrong::Parameter("Invalid `view` parameter.".into())),
            }
        }
        Filter::Named(name) if !name.starts_with('_') && !name.contains('/') => {
            Err(Wrong::Body("Invalid filter. Must match `ddocname/filtername`.".into()))
        }
        Filter::Named(_) | Filter::None | Filter::DocIds(_) | Filter::Selector(_) => Ok(()),
    }
}

/// `query_params`: values that are no text are passed as JSON.
fn query_params(value: Option<&Value>) -> Result<Vec<(String, String)>> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::Object(members)) => {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Ok(members.iter().map(|(name, value)| (name.clone(), text(value))).collect())
        }
        Some(_) => Err(must_be("query_params", "an object")),
    }
}

/// The proxies of the source and of the target.
fn proxies(body: &Map<String, Value>) -> Result<[Option<Proxy>; 2]> {
    let of = |name: &str| match body.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(proxy(text)?)),
        Some(_) => Err(Wrong::Body("Invalid proxy url".into())),
    };
    let (both, source, target) = (of("proxy")?, of("source_proxy")?, of("target_proxy")?);
    let excludes = |name: &str| Wrong::Parameter(format!("`proxy` is mutually exclusive with `{name}`"));
    match (&both, &source, &target) {
        (Some(_), Some(_), _) => Err(excludes("source_proxy")),
        (Some(_), _, Some(_)) => Err(excludes("target_proxy")),
        (Some(_), None, None) => Ok([both.clone(), both]),
        (None, ..) => Ok([source, target]),
    }
}

/// Reads the URL of a proxy: a host and a port; what follows them has no meaning.
///
/// # Errors
/// It is no URL of `http`, `https` or `socks5`.
pub fn proxy(text: &str) -> Result<Proxy> {
    let wrong = || Wrong::Url("proxy has an invalid url");
    let (url, user) = url(text, &["http", "https", "socks5"]).ok_or_else(wrong)?;
    let mut parts = url.into_parts();
    parts.path_and_query = Some(uri::PathAndQuery::from_static("/"));
    let url = Uri::from_parts(parts).map_err(|_| wrong())?;
    Ok(Proxy { url, user: user.map(|Basic { username, password }| (username, password)) })
}

/// One end: a URL, an object with `url`, or the name of a database here.
fn endpoint(value: Option<&Value>, defaults: &Defaults) -> Result<Endpoint> {
    match value {
        None | Some(Value::Null) => Err(Wrong::Body("Missing replicator database".into())),
        Some(Value::String(text)) if !text.contains("://") => local(text),
        Some(Value::String(text)) => remote(text, &Map::new(), defaults),
        Some(Value::Object(members)) => match members.get("url") {
            Some(Value::String(text)) if !text.contains("://") => local(text),
            Some(Value::String(text)) => remote(text, members, defaults),
            _ => Err(invalid_url()),
        },
        Some(_) => Err(invalid_url()),
    }
}

fn invalid_url() -> Wrong {
    Wrong::Url("endpoint has an invalid url")
}

/// A name of a database here, also with its slashes percent-encoded.
fn local(text: &str) -> Result<Endpoint> {
    // No name has an `@`. The text may be a URL without its scheme, with a password that no error may repeat.
    if text.contains('@') {
        return Err(invalid_url());
    }
    let name = decoded(text.strip_suffix('/').unwrap_or(text));
    check_database_name(&name).map_err(|error| Wrong::Body(error.to_string()))?;
    Ok(Endpoint::Local { name })
}

fn remote(text: &str, members: &Map<String, Value>, defaults: &Defaults) -> Result<Endpoint> {
    let schemes: &[&str] = if defaults.allows_http { &["http", "https"] } else { &["https"] };
    let (url, url_auth) = url(text, schemes).ok_or_else(invalid_url)?;
    let mut headers = headers(members)?;
    let header_auth = headers.get(header::AUTHORIZATION).and_then(basic_of_header);
    if header_auth.is_some() {
        headers.remove(header::AUTHORIZATION);
    }
    let auth = basic_of_auth(members)?.or(url_auth).or(header_auth);
    Ok(Endpoint::Remote(Box::new(RemoteEndpoint { url, headers, auth, proxy: None })))
}

/// Splits a URL into the URL without user and password, and these.
fn url(text: &str, schemes: &[&str]) -> Option<(Uri, Option<Basic>)> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    if !schemes.contains(&scheme.as_str()) || text.len() > 8 << 10 {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.contains('?') { path } else { path.trim_end_matches('/') };
    let path = if path.is_empty() { "/" } else { path };
    let host: uri::Authority = host.parse().ok()?;
    if host.host().is_empty() || (host.port().is_some() && host.port_u16().is_none()) {
        return None;
    }
    let url = Uri::builder().scheme(scheme.as_str()).authority(host).path_and_query(path).build().ok()?;
    let basic = user
        .and_then(|user| user.split_once(':'))
        .map(|(username, password)| Basic { username: decoded(username), password: decoded(password) });
    Some((url, basic))
}

fn headers(members: &Map<String, Value>) -> Result<HeaderMap> {
    let wrong = |name: &str| Wrong::Parameter(format!("the header `{name}` of an endpoint is not allowed"));
    let mut headers = HeaderMap::new();
    let Some(given) = object(members, "headers")? else { return Ok(headers) };
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
    if given.len() > MOST_HEADERS || bytes > MOST_HEADER_BYTES {
        return Err(Wrong::Parameter("an endpoint has too many headers".into()));
    }
    for (name, value) in given {
        let parsed: HeaderName = name.parse().map_err(|_| wrong(name))?;
        // Those that frame the message are the client's own.
        if [
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            header::UPGRADE,
            header::TE,
        ]
        .contains(&parsed)
        {
            return Err(wrong(name));
        }
        let text = value.as_str().ok_or_else(|| must_be("headers", "an object of strings"))?;
        let mut value = HeaderValue::from_str(text).map_err(|_| wrong(name))?;
        value.set_sensitive(true);
        headers.insert(parsed, value);
    }
    Ok(headers)
}

/// `auth.basic`.
fn basic_of_auth(members: &Map<String, Value>) -> Result<Option<Basic>> {
    let Some(auth) = object(members, "auth")? else { return Ok(None) };
    let basic = auth.get("basic").and_then(Value::as_object);
    let text = |name: &str| basic?.get(name)?.as_str().map(str::to_owned);
    Ok(text("username").zip(text("password")).map(|(username, password)| Basic { username, password }))
}

/// The credentials of a header with basic authentication.
fn basic_of_header(value: &HeaderValue) -> Option<Basic> {
    use base64::Engine;
    let text = value.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| Basic { username: username.into(), password: password.into() })
}

/// An endpoint of a stored body without credentials, for listings and for users who may not see them. `None` if
/// the value is not an endpoint: a text that cannot be parsed may have a password anywhere.
pub fn shown(value: Option<&Value>) -> Option<String> {
    endpoint(value, &Defaults::default()).ok().map(|endpoint| endpoint.to_string())
}

#[cfg(test)]
mod tests;
