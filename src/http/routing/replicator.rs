//! Recognizes the requests of replicators, so that `/_sync/status` can tell how they are doing.
//!
//! A client becomes known by a request that only replicators send: `_changes` of all leaves, or `_revs_diff`. Its
//! other requests are noted if it is known. Nothing else of a request is looked at, and other requests cost nothing.

use http::header;

use super::route::{DbRoute, DocumentVerb};
use crate::app::App;
use crate::app::sync::{Key, status::About};
use crate::http::request::Request;

/// What a request says of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Only a replicator sends it.
    Sure,
    /// A replicator sends it, and others do, too.
    Perhaps,
    None,
}

fn sign(request: &Request, what: &DbRoute) -> Sign {
    match what {
        DbRoute::Changes if request.query.get("style") == Some("all_docs") => Sign::Sure,
        DbRoute::RevsDiff => Sign::Sure,
        DbRoute::BulkGet | DbRoute::BulkDocs => Sign::Perhaps,
        DbRoute::Document(DocumentVerb::Put, id) if id.starts_with("_local/") => Sign::Perhaps,
        DbRoute::Document(DocumentVerb::Put, _) if request.query.get("new_edits") == Some("false") => Sign::Perhaps,
        DbRoute::Document(DocumentVerb::Get, _) if request.query.get("open_revs").is_some() => Sign::Perhaps,
        _ => Sign::None,
    }
}

/// The key of the client and a database.
fn key(request: &Request, about: &About<'_>, database: &str) -> Key {
    let name = about.device_name.unwrap_or(about.agent);
    Key::new(request.user.name.as_deref(), request.device.as_deref(), name, database)
}

fn about(request: &Request) -> About<'_> {
    About {
        device_name: request.header("x-settee-device"),
        agent: request.header(header::USER_AGENT).unwrap_or_default(),
        address: request.peer,
    }
}

/// Notes whether the client replicates this database.
pub fn recognize(app: &App, request: &mut Request, database: &str, what: &DbRoute) {
    let sign = sign(request, what);
    if sign == Sign::None || request.is_owner {
        return;
    }
    let about = about(request);
    let key = key(request, &about, database);
    request.syncing = match sign {
        Sign::Sure => Some(app.sync.of(key, about)),
        _ => app.sync.known(&key),
    };
}

/// Recognizes a client that was refused before its request was looked at.
pub fn recognize_refused(app: &App, request: &mut Request) {
    let Some(database) = request.segments.first() else { return };
    let key = key(request, &about(request), database);
    request.syncing = app.sync.known(&key);
}
