//! `POST /_replicate`: replicates once, continuously, or ends a replication (`chttpd_misc.erl`,
//! `couch_replicator.erl`).

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::app::replication_settings::defaults;
use crate::auth::UserCtx;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::policy::replications::{context_of, current_user};
use crate::replicate::parameters::parse::{Asked, Wrong, request as read, user_ctx};
use crate::replicate::scheduler::{Ended, Job, JobId, JobUser, Origin};
use crate::replicate::{self, Parameters, Progress, Replication, ReplicationId};

/// Maximum number of unfinished jobs that a user without admin rights may have started here.
const MOST_JOBS: usize = 50;

/// `POST /_replicate`.
pub async fn replicate(app: &Arc<App>, request: &mut Request) -> Result<Answer> {
    request.must_be_json()?;
    let body = request.json_object().await?;
    let user = JobUser { user: request.user.clone(), acts_as: acts_as(&body, &request.user)? };
    match read(&body, &defaults(&request.settings)).map_err(refused)? {
        Asked::CancelId(id) => cancel(app, &request.user, &id),
        Asked::Cancel(parameters) => {
            let id = id_of(app, &user, &parameters).await?.to_string();
            cancel(app, &request.user, &id)
        }
        Asked::Start(parameters) => start(app, request, user, *parameters).await,
    }
}

/// `user_ctx`: only admins may let a job act as somebody else. CouchDB skips it here.
fn acts_as(body: &Map<String, Value>, user: &UserCtx) -> Result<Option<UserCtx>> {
    if !user.is_server_admin() {
        return Ok(None);
    }
    user_ctx(body).map_err(refused)
}

fn refused(wrong: Wrong) -> Failure {
    match wrong {
        Wrong::Parameter(reason) => Failure::bad_request(reason),
        Wrong::Url(reason) => {
            Failure::Refused { status: StatusCode::BAD_REQUEST, word: "invalid_replication", reason: reason.into() }
        }
        Wrong::Body(reason) => {
            Failure::Refused { status: StatusCode::INTERNAL_SERVER_ERROR, word: "error", reason: reason.into() }
        }
    }
}

/// CouchDB's status and error of a replication that failed.
fn failed(failure: &replicate::Failure) -> Failure {
    use replicate::Failure as F;
    let reason = failure.reason();
    match failure {
        F::Unauthorized(_) => Error::Unauthorized(reason).into(),
        F::Forbidden(_) => Error::Forbidden(reason).into(),
        F::BadRequest(_) => Failure::bad_request(reason),
        F::FilterFetch(_) => Error::NotFound(reason).into(),
        // CouchDB has no closed addresses. The status says that this one is closed, and not that the server has failed.
        F::AddressRefused(_) => {
            Failure::Refused { status: StatusCode::FORBIDDEN, word: failure.word(), reason: reason.into() }
        }
        F::Server(error) => error.clone().into(),
        _ => {
            Failure::Refused { status: StatusCode::INTERNAL_SERVER_ERROR, word: failure.word(), reason: reason.into() }
        }
    }
}

async fn id_of(app: &Arc<App>, user: &JobUser, parameters: &Parameters) -> Result<ReplicationId> {
    let user = current_user(app, user).await?;
    ReplicationId::of(&context_of(app, user), parameters).await.map_err(|failure| failed(&failure))
}

/// Refuses the job of another user, except to admins.
fn check_user(job: &Job, user: &UserCtx) -> Result<()> {
    if job.user.user.name == user.name || user.is_server_admin() {
        return Ok(());
    }
    Err(Error::Unauthorized("You are not a server admin.".into()).into())
}

fn cancel(app: &App, user: &UserCtx, id: &str) -> Result<Answer> {
    app.replications.scheduler.remove(id, |job| check_user(job, user))?.ok_or_else(Failure::missing)?;
    tracing::info!(id, "replication is cancelled");
    Ok(Answer::ok(&json!({"ok": true, "_local_id": id})))
}

async fn start(app: &Arc<App>, request: &Request, user: JobUser, parameters: Parameters) -> Result<Answer> {
    let id = id_of(app, &user, &parameters).await?;
    request.authorization.check().await?;
    let job_id: JobId = id.to_string().into();
    let is_continuous = parameters.continuous;
    let replication = Arc::new(Replication { id, parameters });
    let job = Job {
        id: job_id.clone(),
        replication: replication.clone(),
        origin: Origin::Request,
        user,
        added: app.clock.since_epoch().as_secs(),
        progress: Progress::new(),
    };
    // The job goes on if the client goes away.
    let end = app.replications.scheduler.join(job, |known, begun| match known {
        Some(known) => check_known(known, &request.user, &replication.parameters),
        None => check_count(&request.user, begun()),
    })?;
    if is_continuous {
        return Ok(Answer::json(StatusCode::ACCEPTED, &json!({"ok": true, "_local_id": &*job_id})));
    }
    let end = async {
        match end {
            Some(end) => end.await.ok(),
            None => None,
        }
    };
    let ended = tokio::select! {
        ended = end => ended,
        () = app.shutdown.begun() => None,
    };
    match ended {
        Some(Ended::Completed(completed)) => Ok(Answer::ok(&completed.to_json())),
        Some(Ended::Crashed(failure)) => Err(failed(&failure)),
        // Cancelled by somebody else.
        Some(Ended::Stopped | Ended::CaughtUp { .. }) => Ok(Answer::ok(&json!({"ok": "stopped"}))),
        None => Err(Error::Again("The server shuts down: the replication is stopped.".into()).into()),
    }
}

/// Refuses to join or replace a job with the same id: that of another user, and that of a document which asks for
/// something else, such as with another password. The document says what its job does.
fn check_known(known: &Job, user: &UserCtx, wanted: &Parameters) -> Result<()> {
    check_user(known, user)?;
    match &known.origin {
        Origin::Document { database, id } if known.replication.parameters != *wanted => {
            Err(Failure::bad_request(format!(
                "Replication `{}` already started, triggered by document `{id}` from db `{database}`, with other parameters \
             or credentials: change the document",
                known.id
            )))
        }
        Origin::Document { .. } | Origin::Request => Ok(()),
    }
}

fn check_count(user: &UserCtx, begun: usize) -> Result<()> {
    if !user.is_server_admin() && begun >= MOST_JOBS {
        let reason = "This user has too many replications: cancel some, or wait until they have ended.";
        return Err(Failure::TooMany { seconds: 60, reason });
    }
    Ok(())
}
