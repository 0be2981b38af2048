//! A job, and how a pass of it ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::auth::{Handler, UserCtx};
use crate::replicate::{Completed, Endpoint, Failure, Progress, Replication};

/// `<id>[+continuous][+create_target]`.
pub type JobId = Arc<str>;

/// A replication that is scheduled.
#[derive(Debug)]
pub struct Job {
    pub id: JobId,
    pub replication: Arc<Replication>,
    pub origin: Origin,
    pub user: JobUser,
    /// When it was added, in seconds since the epoch.
    pub added: u64,
    /// Over all passes.
    pub progress: Progress,
}

/// Where a job comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `POST /_replicate`. Such a job ends at its first failure, and with the server.
    Request,
    /// A document of a `_replicator` database.
    Document { database: Arc<str>, id: Arc<str> },
}

/// Whose rights a job has on databases here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUser {
    /// The user of the request, or the owner of the document, with the roles that are known. The roles of users
    /// with an account are looked up when a pass begins.
    pub user: UserCtx,
    /// `user_ctx` of the replication: an admin's job acts as this user.
    pub acts_as: Option<UserCtx>,
}

impl Job {
    /// Whether it goes on after it has copied everything.
    pub fn is_continuous(&self) -> bool {
        self.replication.parameters.continuous
    }

    /// The name of the source, if it is a database here.
    pub fn local_source(&self) -> Option<&str> {
        match &self.replication.parameters.source {
            Endpoint::Local { name } => Some(name),
            Endpoint::Remote(_) => None,
        }
    }

    /// Jobs of one key have a common account of shares: those of a `_replicator` database, those of a user.
    pub fn share_key(&self) -> Arc<str> {
        match &self.origin {
            Origin::Document { database, .. } => database.clone(),
            Origin::Request => self.user.user.name.as_deref().unwrap_or_default().into(),
        }
    }

    /// Whether `other` is the same work for the same document: there is no need to start it again.
    pub fn is_same(&self, other: &Job) -> bool {
        self.origin == other.origin
            && self.user == other.user
            && self.replication.parameters == other.replication.parameters
    }

    /// Whether a request for `other` may wait for this job instead: it has the same parameters, passwords included, and
    /// if it is of the same user, that user's rights of now.
    pub fn does_the_work_of(&self, other: &Job) -> bool {
        self.replication.parameters == other.replication.parameters
            && (self.user.user.name != other.user.user.name || self.user.has_rights_of(&other.user))
    }
}

impl JobUser {
    /// Whether both are one user with the same rights. The roles of accounts are looked up by each pass; those of a
    /// token or a proxy are of the request.
    fn has_rights_of(&self, other: &JobUser) -> bool {
        let given = |of: &JobUser| match of.user.handler {
            Some(Handler::Jwt | Handler::Proxy) => Some(of.user.roles.clone()),
            _ => None,
        };
        self.user.name == other.user.name && self.acts_as == other.acts_as && given(self) == given(other)
    }
}

/// How a pass ended.
#[derive(Debug, Clone)]
pub enum Ended {
    /// A one-shot replication is complete.
    Completed(Completed),
    /// A continuous replication has read everything up to this sequence of a source that is here.
    CaughtUp {
        sequence: u64,
    },
    /// The pass was asked to stop.
    Stopped,
    Crashed(Failure),
}

/// Runs passes. The server's implementation replicates; tests script what happens.
pub trait Run: Send + Sync + 'static {
    /// Runs one pass of a job.
    fn run<'a>(&'a self, job: &'a Job, stop: &'a CancellationToken)
    -> Pin<Box<dyn Future<Output = Ended> + Send + 'a>>;
}
