//! Re-hashes a password with today's settings after a successful sign-in.

use std::sync::Arc;

use serde_json::Value;

use crate::app::App;
use crate::app::user_store::members;
use crate::auth::authenticate::Upgrade;
use crate::auth::password::Stored;
use crate::auth::users;
use crate::db::{Incoming, Mode, Source, Wanted};
use crate::error::{self, Error};

/// Replaces a user's hash in the background by one of the current scheme. The salt stays, and with it the user's
/// sessions.
pub fn upgrade(app: &Arc<App>, wanted: Upgrade) {
    if !app.accounts.upgrading.lock().insert(wanted.name.clone()) {
        return;
    }
    let app = app.clone();
    tokio::spawn(async move {
        let name = wanted.name.clone();
        tokio::time::sleep(UPGRADE_AFTER).await;
        match upgrade_now(&app, wanted).await {
            Ok(()) => tracing::info!(user = name, "the stored password hash was upgraded"),
            // Somebody else has written the document: the next sign-in tries again.
            Err(Error::Conflict) => {}
            Err(error) => tracing::warn!(user = name, %error, "the stored password hash could not be upgraded"),
        }
        app.accounts.upgrading.lock().remove(&name);
    });
}

async fn upgrade_now(app: &Arc<App>, wanted: Upgrade) -> error::Result<()> {
    let Some(database) = app.accounts.database()? else { return Ok(()) };
    let (policy, clock, of) = (app.auth.settings().password.clone(), app.clock.clone(), database.clone());
    let shared = app.clone();
    let name = wanted.name.clone();
    let rehash = move || {
        let found = of.find(&users::id_of(&wanted.name), Wanted::Winner)?;
        let body = members(&found.id, &found.body.json)?;
        if body.get("salt").and_then(Value::as_str).unwrap_or("") != wanted.salt {
            return Err(Error::Conflict);
        }
        let salt = Some(wanted.salt).filter(|salt| !salt.is_empty());
        let stored = Stored::hash(&wanted.password, salt, &policy, &clock)?;
        shared.auth.rehashed(&wanted.name, &wanted.password, &stored);
        let json = Value::Object(users::with_hash(&body, &stored)).to_string();
        let attachments = found.body.attachments.iter();
        let attachments = attachments.map(|found| (found.name.clone(), Source::Stub { revpos: None })).collect();
        let parent = Some(found.revision);
        Ok(Incoming { id: found.id, parent, path: (0, Vec::new()), deleted: false, json, attachments })
    };
    let edit = app.hash(None, &name, rehash).await?;
    let written = database.update(vec![edit], Mode::Interactive, &crate::db::AllowAll).await?;
    written.into_iter().next().unwrap_or(Err(Error::Conflict)).map(|_| ())
}

/// How long a sign-in's upgrade waits, so that what the user came to write is not met by a conflict.
const UPGRADE_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
