//! A request as handlers see it: decoded path, ordered query, headers, a bounded body, the user.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap};

use super::body::RequestBody;
use super::etag::matches_etag;
use super::json_text::{VALUE, invalid_json, too_deep, values};
use super::lone_surrogates;
use super::query::Query;
use super::target::Verb;
use crate::app::answer_budget::Line;
use crate::app::security_events::Caller;
use crate::app::sync::Syncing;
use crate::auth::UserCtx;
use crate::blocking::beside;
use crate::config::Settings;
use crate::error::Error;
use crate::http::response::error::{Failure, Result};
use crate::net::header_text::header_text;
use crate::policy::authorization::{Authorization, By};

/// One request.
pub struct Request {
    pub verb: Verb,
    /// HEAD: the answer goes out without its body.
    pub head: bool,
    /// Percent-decoded parts of the path, empty ones left out.
    pub segments: Vec<String>,
    /// Path and query as they came.
    pub target: String,
    pub query: Query,
    pub headers: Arc<HeaderMap>,
    pub body: RequestBody,
    pub user: UserCtx,
    /// The session or access token that the user came with.
    pub session: Option<crate::auth::Session>,
    /// The id of the device that the session or token belongs to.
    pub device: Option<String>,
    /// Set if the client replicates: what it does is noted here.
    pub syncing: Option<Syncing>,
    /// The authorization, which is checked again at the end of the body and before a commit.
    pub authorization: Arc<Authorization>,
    /// `X-Couch-Request-ID`.
    pub id: String,
    pub peer: Option<IpAddr>,
    /// The connection is encrypted.
    pub secure: bool,
    /// The client is the owner of the data folder, and needs no credentials.
    pub is_owner: bool,
    /// The settings that hold for the whole of this request.
    pub settings: Arc<Settings>,
    pub received: Instant,
    /// The connection that the answer goes to: what the answer holds counts for it.
    pub line: Line,
}

impl Request {
    /// The client and its authorization.
    pub fn by(&self) -> By<'_> {
        By { user: &self.user, peer: self.peer, id: &self.id, authorization: &self.authorization }
    }

    /// The client.
    pub fn caller(&self) -> Caller<'_> {
        self.by().caller()
    }

    /// A header's text. Bytes beyond ASCII were decoded when the request came in.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(header_text)
    }

    /// Refuses a body that does not say that it is JSON (415), as CouchDB's `validate_ctype`.
    pub fn must_be_json(&self) -> Result<()> {
        let said = self.header(header::CONTENT_TYPE).unwrap_or("");
        if said.split(';').next() == Some("application/json") {
            Ok(())
        } else {
            Err(Error::BadContentType("Content-Type must be application/json".into()).into())
        }
    }

    /// Takes the user's roles from the last check. The body makes one at its end.
    pub fn refresh(&mut self) {
        if let Some(user) = self.authorization.renewed() {
            self.user = user;
        }
    }

    /// The whole body, inflated if it is gzipped.
    pub async fn whole(&mut self) -> Result<Bytes> {
        let bytes = self.body.whole(&self.settings, &self.headers).await?;
        self.refresh();
        Ok(bytes)
    }

    /// The whole body, inflated if it is gzipped, as JSON text that is UTF-8 and not too deep; nothing else
    /// is checked.
    pub async fn json_text(&mut self) -> Result<String> {
        let text = self.json_text_of_any_depth().await?;
        let depth = self.settings.max_json_depth;
        match beside(text.len(), || too_deep(text.as_bytes(), depth)) {
            true => Err(Failure::bad_request(format!("JSON nests deeper than {depth}"))),
            false => Ok(text),
        }
    }

    /// As [`Request::json_text`], at any depth: for a body whose parts are checked one by one.
    pub async fn json_text_of_any_depth(&mut self) -> Result<String> {
        let bytes = self.whole().await?;
        if bytes.is_empty() {
            return Err(invalid_json());
        }
        beside(bytes.len(), || String::from_utf8(bytes.into()).map_err(|_| invalid_json()))
    }

    /// The whole body as a JSON value.
    pub async fn json(&mut self) -> Result<serde_json::Value> {
        let text = self.json_text().await?;
        self.value_of(&text).await
    }

    /// The value of JSON text that came with the body.
    async fn value_of(&mut self, text: &str) -> Result<serde_json::Value> {
        // `[[],[],...]` takes fifty times as much as values.
        let values = beside(text.len(), || values(text.as_bytes()));
        self.body.hold((text.len() + values * VALUE) as u64).await?;
        self.refresh();
        beside(text.len(), || serde_json::from_str(text)).map_err(|_| invalid_json())
    }

    /// The whole body as a JSON object.
    pub async fn json_object(&mut self) -> Result<serde_json::Map<String, serde_json::Value>> {
        let value = self.json().await?;
        object(value)
    }

    /// As [`Request::json_object`], with marks for halves of surrogate pairs; also returns whether there are any.
    pub async fn marked_json_object(&mut self) -> Result<(serde_json::Map<String, serde_json::Value>, bool)> {
        let text = self.json_text().await?;
        let marked = beside(text.len(), || lone_surrogates::mark(&text));
        let value = self.value_of(&marked).await?;
        Ok((object(value)?, matches!(marked, Cow::Owned(_))))
    }

    /// Whether `If-None-Match` names this tag (without quotes).
    pub fn has_etag(&self, tag: &str) -> bool {
        matches_etag(&self.headers, tag)
    }

    /// `scheme://host` + `path`, as the client sees this server (`chttpd.erl`, `absolute_uri`); below the path
    /// that a proxy reports, which CouchDB does not know.
    pub fn absolute_uri(&self, path: &str) -> String {
        // Each of several proxies may add its value: the first one is the client's.
        let named = |key: &str| {
            let text = self.settings.get("chttpd", key).and_then(|name| header_text(self.headers.get(name)?))?;
            text.split(',').map(str::trim).find(|value| !value.is_empty())
        };
        let host = named("x_forwarded_host").or_else(|| self.header(header::HOST)).unwrap_or("localhost:5984");
        let prefix = named("x_forwarded_prefix").filter(|prefix| prefix.starts_with('/')).unwrap_or("");
        let prefix = prefix.trim_end_matches('/');
        let secure =
            named("x_forwarded_ssl") == Some("on") || named("x_forwarded_proto") == Some("https") || self.secure;
        format!("{}://{host}{prefix}{path}", if secure { "https" } else { "http" })
    }
}

fn object(value: serde_json::Value) -> Result<serde_json::Map<String, serde_json::Value>> {
    match value {
        serde_json::Value::Object(members) => Ok(members),
        _ => Err(Failure::bad_request("Request body must be a JSON object")),
    }
}
