//! A document's replication: its parameters, its owner, and what of it counts as a change.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use crate::auth::UserCtx;
use crate::replicate::Parameters;
use crate::replicate::parameters::parse::{Defaults, Wrong, parameters, user_ctx};
use crate::replicate::scheduler::JobUser;

/// The member that names who wrote the document.
pub const OWNER: &str = "owner";

/// What a document asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    pub parameters: Parameters,
    pub user: JobUser,
}

/// Reads a document.
///
/// # Errors
/// With CouchDB's texts.
pub fn parse(members: &Map<String, Value>, defaults: &Defaults) -> Result<Wish, Wrong> {
    let parameters = parameters(members, defaults)?;
    let name = members.get(OWNER).and_then(Value::as_str).map(str::to_owned);
    let user = UserCtx { name, roles: Vec::new(), handler: None };
    Ok(Wish { parameters, user: JobUser { user, acts_as: user_ctx(members)? } })
}

/// A digest of everything but the state, which the server writes itself.
pub fn digest(members: &Map<String, Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, value) in members.iter().filter(|(name, _)| !name.starts_with('_')) {
        name.hash(&mut hasher);
        value.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

/// The members that the server writes.
pub const STATE: [&str; 5] = [
    "_replication_state",
    "_replication_state_time",
    "_replication_state_reason",
    "_replication_id",
    "_replication_stats",
];

/// The text of an endpoint without its credentials, for a reader who may not see them
/// (`couch_replicator_docs:strip_credentials`). CouchDB keeps unknown texts; here a text that is no endpoint is
/// hidden, because a password may stand anywhere in it.
pub fn without_credentials(endpoint: &Value) -> Value {
    match endpoint {
        Value::String(_) => stripped(endpoint),
        Value::Object(members) => {
            let mut members = members.clone();
            members.retain(|name, _| name != "headers" && name != "auth");
            if let Some(url) = members.get_mut("url") {
                *url = stripped(url);
            }
            Value::Object(members)
        }
        _ => Value::Null,
    }
}

/// A URL without user and password.
fn stripped(url: &Value) -> Value {
    let Some(text) = url.as_str() else { return Value::Null };
    let Some((scheme, rest)) = text.split_once("://") else {
        return if text.contains('@') { Value::Null } else { url.clone() };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // What follows may be the end of a password with a slash in it.
    if path.contains('@') && !authority.contains('@') && authority.contains(':') {
        return Value::Null;
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}").into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_taken_out_of_endpoints() {
        for (endpoint, seen) in [
            (json!("https://foo:bar@remote/db"), json!("https://remote/db")),
            (json!("https://foo:b@r@remote/db?x=1"), json!("https://remote/db?x=1")),
            (json!("http://remote:5984/db"), json!("http://remote:5984/db")),
            (json!("http://remote/a@b"), json!("http://remote/a@b")),
            (json!("http://foo:b/ar@remote/db"), json!(null)),
            (json!("notes"), json!("notes")),
            (json!("foo:bar@remote/db"), json!(null)),
            (
                json!({"url": "http://a:b@c/d", "headers": {"x": "y"}, "auth": {"basic": {}}, "o": 1}),
                json!({"url": "http://c/d", "o": 1}),
            ),
            (json!({"headers": "bar"}), json!({})),
            (json!(["http://a:b@c"]), json!(null)),
        ] {
            assert_eq!(without_credentials(&endpoint), seen, "{endpoint}");
        }
    }

    #[test]
    fn the_state_is_not_part_of_the_digest() {
        let of = |value: Value| digest(value.as_object().unwrap());
        let plain = of(json!({"source": "a", "target": "b"}));
        assert_eq!(plain, of(json!({"source": "a", "target": "b", "_replication_state": "completed"})));
        assert_ne!(plain, of(json!({"source": "a", "target": "c"})));
    }
}
