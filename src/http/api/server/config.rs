//! `/_node/{node}/_config`: CouchDB's settings over HTTP (`chttpd_node.erl`). Changes apply at once and are
//! persisted. Responses mask secrets.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};

use crate::app::App;
use crate::audit::{Event, Kind};
use crate::blocking::blocking;
use crate::config::catalogue;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::policy::authorization::By;

/// Shown in place of a secret.
pub(crate) const MASK: &str = "****";

/// The value as the client may see it, with secrets masked.
fn shown(section: &str, key: &str, value: &str) -> Value {
    if !catalogue::is_secret(section, key) {
        return value.into();
    }
    // The scheme of a password hash is not a secret.
    match value.strip_prefix("-pbkdf2").and_then(|rest| rest.split_once('-')) {
        Some((scheme, _)) => format!("-pbkdf2{scheme}-{MASK}").into(),
        None => MASK.into(),
    }
}

fn object(section: &str, keys: &std::collections::BTreeMap<String, String>) -> Value {
    let members: Map<String, Value> =
        keys.iter().map(|(key, value)| (key.clone(), shown(section, key, value))).collect();
    Value::Object(members)
}

/// GET `_config`.
pub fn all(request: &Request) -> Result<Answer> {
    let whole = request.settings.whole();
    let sections: Map<String, Value> =
        whole.iter().map(|(section, keys)| (section.clone(), object(section, keys))).collect();
    Ok(Answer::ok(&sections))
}

/// GET `_config/{section}`; an unknown section is empty, as in CouchDB.
pub fn section(request: &Request, section: &str) -> Result<Answer> {
    let keys = request.settings.whole().remove(section).unwrap_or_default();
    Ok(Answer::ok(&object(section, &keys)))
}

/// GET `_config/{section}/{key}`.
pub fn key(request: &Request, section: &str, key: &str) -> Result<Answer> {
    match request.settings.shown(section, key) {
        Some(value) => Ok(Answer::ok(&shown(section, key, &value))),
        None => Err(Error::NotFound("unknown_config_value".into()).into()),
    }
}

/// False if the client sent `X-Couch-Persist: false`.
fn persists(request: &Request) -> bool {
    request.header("x-couch-persist") != Some("false")
}

fn check_section(section: &str) -> Result<()> {
    if catalogue::BLOCKED.contains(&section) {
        return Err(Error::Forbidden("Config section blacklisted for modification over HTTP API.".into()).into());
    }
    Ok(())
}

/// PUT `_config/{section}/{key}`: the body is a JSON string, the response is the previous value.
pub async fn set(app: &Arc<App>, request: &mut Request, section: String, key: String) -> Result<Answer> {
    check_section(&section)?;
    let Value::String(value) = request.json().await? else {
        return Err(Failure::bad_request("a JSON string expected"));
    };
    let value = value.trim().to_owned();
    let persist = persists(request);
    let before = change(app, request.by(), section.clone(), key.clone(), Some(value), persist).await?;
    Ok(Answer::ok(&before.map_or("".into(), |before| shown(&section, &key, &before))))
}

/// DELETE `_config/{section}/{key}`: the response is the previous value.
pub async fn delete(app: &Arc<App>, request: &Request, section: String, key: String) -> Result<Answer> {
    check_section(&section)?;
    let before = change(app, request.by(), section.clone(), key.clone(), None, persists(request)).await?;
    Ok(Answer::ok(&before.map_or("".into(), |before| shown(&section, &key, &before))))
}

/// Sets or deletes a key, applies the settings, and returns the previous value. Hashes the passwords of
/// admins.
pub async fn change(
    app: &Arc<App>,
    by: By<'_>,
    section: String,
    key: String,
    value: Option<String>,
    persist: bool,
) -> Result<Option<String>> {
    let (shared, deletes) = (app.clone(), value.is_none());
    let is_admin = section == "admins";
    let moves_listener =
        matches!(section.as_str(), "chttpd" | "httpd") && matches!(key.as_str(), "bind_address" | "port");
    let account = is_admin.then(|| crate::auth::users::id_of(&key));
    let subject = if is_admin { key.clone() } else { format!("{section}/{key}") };
    let value = match value {
        Some(value) if is_admin => {
            if value.is_empty() || value.ends_with(MASK) {
                return Err(Error::BadRequest("An admin's password must not be empty.".into()).into());
            }
            let of = app.clone();
            Some(blocking(move || crate::app::admins::admin_hash(&of.config, &value, &of.clock)).await?)
        }
        other => other,
    };
    by.authorization.confirm(by.user).await?;
    let before = blocking(move || match value {
        None => shared.config.delete(&section, &key, persist).map(Some),
        Some(value) => shared.config.set(&section, &key, &value, persist),
    })
    .await?;
    app.reconfigure();
    if persist && moves_listener {
        tracing::warn!(
            "{subject} was set over HTTP: from the next start on, the server listens on {} port {}, unless --bind, \
             SETTEE_BIND or the settings file say otherwise",
            app.settings().get("chttpd", "bind_address").unwrap_or_default(),
            app.settings().get("chttpd", "port").unwrap_or_default()
        );
    }
    if deletes && let Some(account) = account {
        crate::policy::users_database::forget_gone(app, vec![account]).await;
    }
    let kind = if is_admin { Kind::AdminChanged } else { Kind::ConfigChanged };
    Event { subject: Some(&subject), detail: deletes.then_some("deleted"), ..by.event(kind) }.record();
    Ok(before)
}

/// POST `_config/_reload`: discards changes made with `X-Couch-Persist: false`.
pub async fn reload(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let shared = app.clone();
    blocking(move || shared.config.reload()).await?;
    app.reconfigure();
    Event { detail: Some("reloaded"), ..request.by().event(Kind::ConfigChanged) }.record();
    Ok(Answer::json(StatusCode::OK, &serde_json::json!({"ok": true})))
}
