//! The id of a replication, under which both ends keep its checkpoint.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header;
use md5::{Digest, Md5};
use serde_json::{Value, json};

use super::context::Context;
use super::failure::Failure;
use super::local::filter_code;
use super::parameters::{Endpoint, Filter, Parameters, RemoteEndpoint};
use super::remote::RemotePeer;
use crate::hex::hex;

/// The id of a replication: the same for the same source, target and filter, whatever the password, the scheme
/// or the time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicationId {
    /// 32 hex digits: the name of the checkpoints, `_local/<base>`.
    pub base: String,
    /// `+continuous`, `+create_target`, both, or nothing.
    pub extension: String,
}

impl fmt::Display for ReplicationId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", self.base, self.extension)
    }
}

impl ReplicationId {
    /// Computes the id of a replication. Reads the filter function of the source, if there is one: the id
    /// changes with the function's code.
    ///
    /// # Errors
    /// `FilterFetch`, and those of the network.
    pub async fn of(context: &Context, parameters: &Parameters) -> Result<ReplicationId, Failure> {
        let code = match &parameters.filter {
            Filter::Named(name) if !name.starts_with('_') => Some(function(context, parameters, name).await?),
            _ => None,
        };
        Ok(ReplicationId::with(&context.server_uuid, parameters, code.as_deref()))
    }

    /// As [`ReplicationId::of`], with the code of the filter function.
    fn with(server_uuid: &Arc<str>, parameters: &Parameters, code: Option<&str>) -> ReplicationId {
        let filter = match &parameters.filter {
            Filter::None => Value::Null,
            Filter::DocIds(ids) => json!(["doc_ids", ids]),
            Filter::Selector(selector) => json!(["selector", sorted(selector)]),
            Filter::Named(name) => {
                let mut query = parameters.query_params.clone();
                query.sort();
                json!([code.map_or(name.as_str(), str::trim), query])
            }
        };
        let parts = json!([
            &**server_uuid,
            endpoint(&parameters.source),
            endpoint(&parameters.target),
            filter,
            parameters.winning_revs_only,
            parameters.since_seq,
        ]);
        let mut extension = String::new();
        if parameters.continuous {
            extension.push_str("+continuous");
        }
        if parameters.create_target {
            extension.push_str("+create_target");
        }
        let digest: [u8; 16] = Md5::digest(parts.to_string()).into();
        ReplicationId { base: hex(&digest), extension }
    }
}

/// What identifies an endpoint: not the scheme, and not the password.
fn endpoint(endpoint: &Endpoint) -> Value {
    let remote = match endpoint {
        Endpoint::Local { name } => return json!(["local", name]),
        Endpoint::Remote(remote) => remote,
    };
    let url = &remote.url;
    let port = match (url.port_u16(), url.scheme_str()) {
        (Some(port), _) => port,
        (None, Some("https")) => 443,
        (None, _) => 80,
    };
    let mut headers: Vec<(&str, String)> = remote
        .headers
        .iter()
        .filter(|(name, _)| *name != header::AUTHORIZATION && *name != header::COOKIE)
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort();
    let host = url.host().unwrap_or_default().to_ascii_lowercase();
    json!(["remote", user(remote), host, port, url.path(), headers])
}

/// The user of an endpoint, from its `auth` or its `Authorization`.
fn user(remote: &RemoteEndpoint) -> Option<String> {
    if let Some(basic) = &remote.auth {
        return Some(basic.username.clone());
    }
    let value = remote.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let decoded = STANDARD.decode(value.strip_prefix("Basic ")?.trim()).ok()?;
    Some(String::from_utf8(decoded).ok()?.split_once(':')?.0.to_owned())
}

/// A JSON value with the members of all objects in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            members.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect()
        }
        Value::Array(elements) => elements.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Reads the code of the filter function `design/function` of the source.
async fn function(context: &Context, parameters: &Parameters, name: &str) -> Result<String, Failure> {
    let Some((design, function)) = name.split_once('/').filter(|(_, function)| !function.contains('/')) else {
        return Err(Failure::BadRequest("`filter` must be of the form `designname/filtername`".into()));
    };
    let body = match &parameters.source {
        Endpoint::Local { name } => filter_code(&*context.access, name, design).await?,
        Endpoint::Remote(remote) => {
            let peer = RemotePeer::new(context, remote, parameters, false)?;
            peer.design(design).await?.map(Value::Object)
        }
    };
    let Some(body) = body else {
        return Err(Failure::FilterFetch(format!("Couldn't open document `_design/{design}` from source database")));
    };
    match &body["filters"][function] {
        Value::String(code) => Ok(code.clone()),
        _ => Err(Failure::FilterFetch(format!("document `_design/{design}` has no filter `{function}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicate::parameters::Basic;

    fn remote(url: &str, auth: Option<(&str, &str)>) -> Endpoint {
        let auth = auth.map(|(name, password)| Basic { username: name.into(), password: password.into() });
        let url = url.parse().unwrap();
        Endpoint::Remote(Box::new(RemoteEndpoint { url, headers: http::HeaderMap::new(), auth, proxy: None }))
    }

    fn id(change: impl FnOnce(&mut Parameters)) -> String {
        let mut parameters =
            Parameters::new(remote("http://a:80/x", Some(("ann", "one"))), Endpoint::Local { name: "here".into() });
        change(&mut parameters);
        ReplicationId::with(&"uuid".into(), &parameters, None).to_string()
    }

    #[test]
    fn an_id_is_stable_where_the_replication_is_the_same() {
        let first = id(|_| ());
        assert_eq!(first, id(|_| ()));
        assert_eq!(first.len(), 32);
        let same: [fn(&mut Parameters); 4] = [
            |it| it.source = remote("http://A/x", Some(("ann", "two"))),
            |it| it.checkpoint_interval *= 2,
            |it| it.use_bulk_get = false,
            |it| {
                let mut headers = http::HeaderMap::new();
                headers.insert(header::AUTHORIZATION, "Basic YW5uOm9uZQ==".parse().unwrap());
                let url = "http://a/x".parse().unwrap();
                it.source = Endpoint::Remote(Box::new(RemoteEndpoint { url, headers, auth: None, proxy: None }));
            },
        ];
        for (at, change) in same.into_iter().enumerate() {
            assert_eq!(id(change), first, "{at}");
        }
        let other: [fn(&mut Parameters); 7] = [
            |it| it.source = remote("http://a:81/x", Some(("ann", "one"))),
            |it| it.source = remote("http://a/y", Some(("ann", "one"))),
            |it| it.source = remote("http://a/x", Some(("bob", "one"))),
            |it| it.target = Endpoint::Local { name: "there".into() },
            |it| it.filter = Filter::DocIds(vec!["a".into()]),
            |it| it.winning_revs_only = true,
            |it| it.since_seq = Some(5.into()),
        ];
        let mut ids: Vec<String> = other.into_iter().map(id).collect();
        ids.push(first.clone());
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 8);
        assert_eq!(id(|it| it.continuous = true), format!("{first}+continuous"));
    }

    #[test]
    fn the_order_of_a_selector_and_of_the_query_does_not_count() {
        let selector = |text: &str| {
            let value = serde_json::from_str(text).unwrap();
            id(|it| it.filter = Filter::Selector(value))
        };
        assert_eq!(selector(r#"{"a":1,"b":{"c":2,"d":3}}"#), selector(r#"{"b":{"d":3,"c":2},"a":1}"#));
        assert_ne!(selector(r#"{"a":1}"#), selector(r#"{"a":2}"#));
    }
}
