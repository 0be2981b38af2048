//! `/_node/{node}/_check`: checks everything that is stored while the server runs, as `settee check` does for the
//! folder of a stopped server.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::app::long_work::Turn;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::maintain::survey::Survey;
use crate::maintain::{Checked, check_live};

/// GET: the progress of a running check, and the result of the last one since the server started.
pub fn state(app: &App) -> Result<Answer> {
    let last = app.checks.last().map_or(Value::Null, |(at, found)| shown(at, &found));
    Ok(Answer::ok(&json!({"running": app.checks.running(), "last": last})))
}

fn shown(at: u64, found: &std::result::Result<Arc<Checked>, String>) -> Value {
    match found {
        Ok(found) => json!({
            "at": at,
            "ok": found.problem_count == 0,
            "problems": found.problems,
            "problem_count": found.problem_count,
            "notes": found.notes,
            "databases": found.databases,
            "documents": found.documents,
            "attachments": found.attachments,
        }),
        Err(reason) => {
            json!({"at": at, "ok": false, "problems": [format!("the check ended early: {reason}")], "problem_count": 1, "notes": []})
        }
    }
}

/// POST: begins a check.
pub async fn begin(app: &Arc<App>, request: &Request) -> Result<Answer> {
    request.must_be_json()?;
    let turn = app.checks.begin(app.clock.since_epoch().as_millis() as u64).ok_or_else(|| Failure::Refused {
        status: StatusCode::CONFLICT,
        word: "conflict",
        reason: "a check is running".into(),
    })?;
    let of = app.clone();
    crate::blocking::spawn_blocking(move || run(&of, turn));
    Ok(Answer::json_text(StatusCode::ACCEPTED, r#"{"ok":true}"#))
}

/// Checks everything, and shows it in `_active_tasks`. Blocks.
fn run(app: &Arc<App>, turn: Turn<std::result::Result<Arc<Checked>, String>>) {
    let task = app.begin_task("check");
    let total = Survey::of(&*app.store).map_or(0, |survey| survey.documents);
    tracing::info!("a check has started");
    let found = check_live(&*app.store, &**app.databases.blobs(), &mut |at| {
        turn.progress(at.what, at.done.min(total), total);
        task.progress(at.done.min(total), total, app.clock.since_epoch().as_secs());
    });
    match &found {
        Ok(found) => {
            tracing::info!(documents = found.documents, problems = found.problem_count, "a check has finished")
        }
        Err(error) => tracing::warn!(%error, "a check ended early"),
    }
    drop(task);
    turn.end(app.clock.since_epoch().as_millis() as u64, found.map(Arc::new).map_err(|error| error.to_string()));
}
