//! Runs replications: gives the jobs of `replicate` the rights of their users, and the settings.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::replication_access::UserAccess;
use crate::app::App;
use crate::app::replication_settings::defaults;
use crate::auth::{ADMIN, Handler, UserCtx, Users};
use crate::blocking::reading;
use crate::error::Result;
use crate::replicate::documents::{Environment, Turn};
use crate::replicate::parameters::parse::Defaults;
use crate::replicate::scheduler::{Ended, Job, JobUser, Run};
use crate::replicate::{Context, Failure, Outcome, Pending, run};

/// Runs the replications of a server.
pub struct Replications {
    app: Arc<App>,
}

impl Replications {
    pub fn new(app: &Arc<App>) -> Arc<Replications> {
        Arc::new(Replications { app: app.clone() })
    }
}

/// The context of a pass, with the rights of `user`.
pub fn context_of(app: &Arc<App>, user: UserCtx) -> Context {
    Context {
        access: Arc::new(UserAccess::new(app, user)),
        network: app.replications.network.clone(),
        clock: app.clock.clone(),
        server_uuid: app.uuid().into(),
    }
}

/// The user whose rights a job has now, with the roles that the account has now.
///
/// # Errors
/// Those of the store.
fn user_now(app: &App, job: &JobUser) -> Result<UserCtx> {
    let user = &job.user;
    let Some(name) = &user.name else { return Ok(user.clone()) };
    // Roles that a token or a proxy has given are those of the request that made the job.
    if matches!(user.handler, Some(Handler::Jwt | Handler::Proxy)) {
        return Ok(acting(user.clone(), job));
    }
    let mut roles = Vec::new();
    if app.accounts.admin(name).is_some() {
        roles.push(ADMIN.to_owned());
    } else if let Some(account) = app.accounts.document(name)? {
        let held = account.members.get("roles").and_then(|roles| roles.as_array()).into_iter().flatten();
        roles.extend(held.filter_map(|role| role.as_str()).filter(|role| !role.starts_with('_')).map(str::to_owned));
    } else {
        return Ok(UserCtx::anonymous());
    }
    Ok(acting(UserCtx { name: Some(name.clone()), roles, handler: user.handler }, job))
}

/// An admin's job may act as somebody else.
fn acting(user: UserCtx, job: &JobUser) -> UserCtx {
    match &job.acts_as {
        Some(acts_as) if user.is_server_admin() => acts_as.clone(),
        Some(_) | None => user,
    }
}

/// The user whose rights a job has now, read off the async threads.
pub async fn current_user(app: &Arc<App>, job: &JobUser) -> Result<UserCtx> {
    let (of, job) = (app.clone(), job.clone());
    reading(move || user_now(&of, &job)).await
}

impl Run for Replications {
    fn run<'a>(
        &'a self,
        job: &'a Job,
        stop: &'a CancellationToken,
    ) -> Pin<Box<dyn Future<Output = Ended> + Send + 'a>> {
        Box::pin(async move {
            let user = match current_user(&self.app, &job.user).await {
                Ok(user) => user,
                Err(error) => return Ended::Crashed(Failure::Server(error)),
            };
            let context = context_of(&self.app, user);
            match run(&context, &job.replication, &job.progress, stop).await {
                Ok(Outcome::Completed(completed)) => Ended::Completed(completed),
                Ok(Outcome::CaughtUp { sequence }) => Ended::CaughtUp { sequence },
                Ok(Outcome::Stopped) => Ended::Stopped,
                Err(failure) => Ended::Crashed(failure),
            }
        })
    }
}

impl Environment for Replications {
    fn context<'a>(&'a self, user: &'a JobUser) -> Pending<'a, Result<Context>> {
        Box::pin(async move { Ok(context_of(&self.app, current_user(&self.app, user).await?)) })
    }

    fn defaults(&self) -> Defaults {
        defaults(&self.app.settings())
    }

    fn turn(&self) -> Pending<'_, Turn> {
        Box::pin(async move {
            let mut lease = self.app.leases.wait("replications").await;
            Turn(Box::pin(async move { lease.lost().await }))
        })
    }

    fn updates_docs(&self) -> bool {
        self.app.settings().flag("replicator", "update_docs")
    }
}
