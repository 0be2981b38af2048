//! `/_node/{node}/_backups`: makes a backup in the folder that the settings name, and lists those that are there. A
//! request chooses neither the folder nor the name, so that it can write nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::app::long_work::Turn;
use crate::blocking::blocking;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::maintain::backup_folder::{folder_of, free_name, list_backups, write_backup};
use crate::maintain::survey::Survey;

fn folder(request: &Request) -> Option<PathBuf> {
    folder_of(request.settings.get("settee", "backup_folder"))
}

fn now(app: &App) -> u64 {
    app.clock.since_epoch().as_millis() as u64
}

/// GET: the folder, its backups, and what runs.
pub async fn list(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let folder = folder(request);
    let shown = folder.as_ref().map(|folder| folder.display().to_string());
    let listed = match folder {
        Some(folder) => blocking(move || Ok(list_backups(&folder))).await?,
        None => Ok(Vec::new()),
    };
    let last_error = match (&listed, app.backups.last()) {
        (Err(error), _) => json!({"at": now(app), "reason": reason(error)}),
        (Ok(_), Some((at, Err(reason)))) => json!({"at": at, "reason": reason}),
        (Ok(_), _) => Value::Null,
    };
    Ok(Answer::ok(&json!({
        "folder": shown,
        "running": app.backups.running(),
        "backups": listed.unwrap_or_default(),
        "last_error": last_error,
    })))
}

/// POST: begins a backup, and answers with its name.
pub async fn begin(app: &Arc<App>, request: &Request) -> Result<Answer> {
    request.must_be_json()?;
    let Some(folder) = folder(request) else {
        let reason = "no folder for backups is set: set backup_folder in the settings file, and start the server again";
        return Err(Error::Forbidden(reason.into()).into());
    };
    let turn = app.backups.begin(now(app)).ok_or_else(|| busy("a backup is being made"))?;
    let lease = app.leases.take("backup").await?.ok_or_else(|| busy("another node is making a backup"))?;
    let (place, time) = (folder.clone(), app.clock.since_epoch());
    let name = blocking(move || Ok(free_name(&place, time))).await?.map_err(|error| Failure::Refused {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        word: "backup_failed",
        reason: reason(&error).into(),
    })?;
    let (of, named) = (app.clone(), name.clone());
    crate::blocking::spawn_blocking(move || {
        make(&of, turn, &folder, &named);
        drop(lease);
    });
    Ok(Answer::json(StatusCode::ACCEPTED, &json!({"ok": true, "id": name})))
}

fn busy(reason: &'static str) -> Failure {
    Failure::Refused { status: StatusCode::CONFLICT, word: "conflict", reason: reason.into() }
}

/// The cause of a failure, for the admin who sees it.
fn reason(error: &Error) -> String {
    match error {
        Error::Internal(reason) => reason.clone(),
        error => error.to_string(),
    }
}

/// Makes the backup, and shows it in `_active_tasks`. Blocks.
fn make(app: &Arc<App>, turn: Turn<std::result::Result<String, String>>, folder: &std::path::Path, name: &str) {
    let task = app.begin_task("backup");
    let total = Survey::of(&*app.store).map_or(0, |survey| survey.documents);
    tracing::info!(name, "a backup has started");
    let made = write_backup(&app.databases, folder, name, app.backup_key.as_ref(), &mut |at| {
        turn.progress(at.what, at.done.min(total), total);
        task.progress(at.done.min(total), total, app.clock.since_epoch().as_secs());
    });
    let result = match made {
        Ok(bytes) => {
            tracing::info!(name, bytes, "a backup has finished");
            Ok(name.to_owned())
        }
        Err(error) => {
            tracing::warn!(name, %error, "a backup failed");
            Err(reason(&error))
        }
    };
    drop(task);
    turn.end(now(app), result);
}
