//! Signed-in devices, and tokens for apps that cannot store cookies. An extension of CouchDB's API.
//!
//! ```text
//! GET    /_session/devices        {"devices": [{id, name, kind, first_seen, last_seen, address, ...}]}
//! DELETE /_session/devices/{id}   revokes one device
//! DELETE /_session/devices        revokes all devices; ?except=current keeps the requesting one
//! POST   /_session/token          {"name", "password"} or {"refresh_token"} > access and refresh token
//! ```
//! With `?user=NAME`, server admins list and revoke the devices of another user.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::app::sync::Syncing;
use crate::app::{App, security_events};
use crate::audit::{Event, Kind};
use crate::auth::devices::{Client, Devices};
use crate::auth::{Handler, Session, token};
use crate::blocking::blocking;
use crate::db::Database;
use crate::error::{self, Error};
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::http::security::authenticate;

fn devices(app: &App) -> error::Result<Arc<Devices>> {
    app.auth.devices().cloned().ok_or_else(|| Error::NotFound("missing".into()))
}

/// The user whose devices the request is about: the requesting user, or for server admins the `user`
/// parameter.
fn whose(request: &Request) -> Result<String> {
    match (request.query.get("user"), &request.user.name) {
        (Some(other), Some(own)) if other != own && !request.user.is_server_admin() => {
            Err(Error::Forbidden("You are not a server admin.".into()).into())
        }
        (Some(other), _) => Ok(other.to_owned()),
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => Err(Error::Unauthorized("You are not an authenticated user".into()).into()),
    }
}

/// The device that sent the request, if `user` is the requesting user. Blocks.
fn current(
    devices: &Devices,
    user: &str,
    own: Option<&str>,
    session: Option<&Session>,
) -> error::Result<Option<String>> {
    match session {
        Some(Session::Cookie(issued)) if own == Some(user) => devices.of_session(user, *issued),
        Some(Session::Token(device)) if own == Some(user) => Ok(Some(device.clone())),
        _ => Ok(None),
    }
}

/// `GET /_session/devices`.
pub async fn list(app: &App, request: &Request) -> Result<Answer> {
    let (devices, user) = (devices(app)?, whose(request)?);
    let (own, session, timeout) = (request.user.name.clone(), request.session.clone(), app.auth.settings().timeout);
    let rows = blocking(move || {
        let current = current(&devices, &user, own.as_deref(), session.as_ref())?;
        devices.list(&user, current.as_deref(), timeout)
    })
    .await?;
    Ok(Answer::ok(&json!({ "devices": rows })))
}

/// `DELETE /_session/devices[/{id}]`.
pub async fn revoke(app: &App, request: &Request, id: Option<String>) -> Result<Answer> {
    let (devices, user) = (devices(app)?, whose(request)?);
    let keep = match request.query.get("except") {
        None => false,
        Some("current") => true,
        Some(_) => return Err(Failure::bad_request("`except` must be `current`.")),
    };
    let (own, session) = (request.user.name.clone(), request.session.clone());
    let (of, device) = (user.clone(), id.clone().unwrap_or_else(|| "all".into()));
    let revoked = blocking(move || match id {
        Some(id) => devices.revoke(&user, &id).map(|found| found.then_some(1)),
        None => {
            let kept = if keep { current(&devices, &user, own.as_deref(), session.as_ref())? } else { None };
            devices.revoke_all(&user, kept.as_deref()).map(Some)
        }
    })
    .await?;
    match revoked {
        Some(count) => {
            let event = request.by().event(Kind::DeviceRevoked);
            Event { subject: Some(&device), detail: Some(&format!("of {of}")), ..event }.record();
            Ok(Answer::ok(&json!({"ok": true, "revoked": count})))
        }
        None => Err(Error::NotFound("missing".into()).into()),
    }
}

/// `POST /_session/token`.
pub async fn token(app: &Arc<App>, request: &mut Request) -> Result<Answer> {
    let form = crate::http::request::read_form(request).await?;
    let of = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let device = of("device").or_else(|| authenticate::device(request).map(str::to_owned)).unwrap_or_default();
    let (shared, peer) = (app.clone(), request.peer);
    let pair = match of("refresh_token") {
        Some(refresh) => {
            let refreshed = blocking(move || shared.auth.refresh_tokens(&refresh, &device, peer)).await;
            refreshed.inspect_err(|error| security_events::credentials_refused(app, request.caller(), None, error))?
        }
        None => {
            let name = of("username").or_else(|| of("name"));
            let name = name.ok_or_else(|| Failure::bad_request("request body must contain a username"))?;
            let password = of("password").unwrap_or_default();
            let code = of("token");
            let signed = authenticate::check_password(app, name.clone(), password, code, request, "tokens").await?;
            blocking(move || shared.auth.issue_tokens(&name, &signed.proof, &device, peer)).await?
        }
    };
    let (access, refresh) = pair;
    let body = json!({
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": token::LIFETIME,
        "refresh_token": refresh,
    });
    let answer = Answer::json(StatusCode::OK, &body);
    Ok(answer.with_text(http::header::CACHE_CONTROL, "no-store"))
}

/// Signs out: revokes the session or device on the server, so that a copy of the cookie stops working too.
pub async fn end(app: &App, request: &Request) -> Result<()> {
    let (Some(name), Some(session)) = (request.user.name.clone(), request.session.clone()) else { return Ok(()) };
    let devices = devices(app)?;
    blocking(move || match session {
        Session::Cookie(issued) => devices.end(&name, issued),
        Session::Token(device) => devices.revoke(&name, &device).map(|_| ()),
    })
    .await?;
    request.by().event(Kind::SignOut).record();
    Ok(())
}

/// The sequence that a checkpoint, the body of a `_local` document, names; `None` if it is none.
fn sequence_of(json: &str) -> Option<String> {
    if !json.contains("last_seq") {
        return None;
    }
    let Ok(Value::Object(body)) = serde_json::from_str(json) else { return None };
    match body.get("last_seq").or_else(|| body.get("source_last_seq"))? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The sequence, if it is one of this database.
fn own_sequence(database: &Database, sequence: &str) -> Option<u64> {
    let (number, instance) = sequence.split_once('-')?;
    (instance == database.instance()).then(|| number.parse().ok())?
}

/// A checkpoint as `/_sync/status` shows it.
struct Noted {
    syncing: Syncing,
    /// The sequence, if it is one of this database: the client has pulled up to it.
    own: Option<u64>,
    /// The name of the `_local` document.
    name: String,
}

/// How far a device has synced, as it says when it writes a replication checkpoint.
pub struct Checkpoint {
    user: String,
    session: Option<Session>,
    /// The device sends the user's password with each request.
    by_password: bool,
    client: Client,
    database: String,
    sequence: String,
    /// The client as one that replicates, and the checkpoint as it notes it.
    syncing: Option<Noted>,
}

impl Checkpoint {
    /// Reads the body of a `_local` document; `None` if it is no checkpoint of a user.
    pub fn read(request: &Request, database: &Database, name: &str, json: &str) -> Option<Checkpoint> {
        let user = request.user.name.clone()?;
        let sequence = sequence_of(json)?;
        let client = Client {
            name: authenticate::device(request).unwrap_or_default().to_owned(),
            address: request.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        };
        let by_password = request.user.handler == Some(Handler::Default);
        let own = own_sequence(database, &sequence);
        let syncing = request.syncing.clone().map(|syncing| Noted { syncing, own, name: name.to_owned() });
        let (session, database) = (request.session.clone(), database.name().to_owned());
        Some(Checkpoint { user, session, by_password, client, database, sequence, syncing })
    }
}

/// Records how far a device has synced. Errors are logged only: they must not fail the write of the
/// checkpoint.
pub async fn record(app: &App, checkpoint: Checkpoint) {
    let Checkpoint { user, session, by_password, client, database, sequence, syncing } = checkpoint;
    if let Some(Noted { syncing, own, name }) = syncing {
        syncing.checkpoint(own, &sequence, &name);
    }
    let Ok(devices) = devices(app) else { return };
    let noted = blocking(move || match session {
        Some(Session::Cookie(issued)) => match devices.of_session(&user, issued)? {
            Some(device) => devices.synced(&user, &device, &database, &sequence),
            None => Ok(()),
        },
        Some(Session::Token(device)) => devices.synced(&user, &device, &database, &sequence),
        None if by_password => devices.synced_with_password(&user, &client, &database, &sequence),
        None => Ok(()),
    });
    match noted.await {
        Ok(()) => {}
        Err(error) => tracing::warn!(%error, "cannot record the sync progress of a device"),
    }
}
