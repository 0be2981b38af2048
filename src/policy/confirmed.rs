//! Checks at the commit that the user who writes is still authorized.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::authorization::{Authorization, By};
use crate::auth::UserCtx;
use crate::db::{Database, Guard, Proposal, Terms, Validate};
use crate::error::{self, Error};

/// The rules of `then`, and the check that the user may still write, with the roles that the rules were
/// given. The writer makes this check just before it applies the edits: rules may take seconds, and so may the wait
/// for the writer. A failed check refuses the whole request: a replication would skip documents that are refused one
/// by one, and never send them again.
pub struct Confirmed<'a> {
    by: By<'a>,
    then: &'a dyn Validate,
    /// The `_security` by which the rules have decided, if they have read it. The commit is refused if it has changed:
    /// a user who has just lost the rights of an admin must not write by the rules for admins.
    security: Option<Arc<str>>,
}

impl<'a> Confirmed<'a> {
    pub fn new(by: By<'a>, then: &'a dyn Validate) -> Confirmed<'a> {
        Confirmed { by, then, security: None }
    }

    /// Also checks that the database still has this `_security`, by which the rules have decided.
    pub fn with_security(self, security: Arc<str>) -> Confirmed<'a> {
        Confirmed { security: Some(security), ..self }
    }
}

impl Validate for Confirmed<'_> {
    fn applies(&self, database: &Database) -> bool {
        self.then.applies(database)
    }

    fn terms(&self, database: &Database) -> Terms {
        self.then.terms(database)
    }

    fn guard(&self, database: &Arc<Database>) -> Option<Box<dyn Guard>> {
        let security = self.security.clone().map(|security| (database.clone(), security));
        Some(Box::new(Writes { authorization: self.by.authorization.clone(), user: self.by.user.clone(), security }))
    }

    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<error::Result<()>>> + Send + 'a>> {
        self.then.validate(database, proposals)
    }
}

/// Whether `user` may still write.
struct Writes {
    authorization: Arc<Authorization>,
    user: UserCtx,
    security: Option<(Arc<Database>, Arc<str>)>,
}

impl Guard for Writes {
    fn check(&self) -> error::Result<()> {
        self.authorization.confirm_now(&self.user)?;
        self.check_security()
    }

    fn check_at_once(&self) -> Option<error::Result<()>> {
        let confirmed = self.authorization.confirm_at_once(&self.user)?;
        Some(confirmed.and_then(|()| self.check_security()))
    }
}

impl Writes {
    fn check_security(&self) -> error::Result<()> {
        match &self.security {
            Some((database, security)) if !Arc::ptr_eq(&database.security(), security) => {
                Err(Error::Again("The _security of this database has changed while the request was under way.".into()))
            }
            Some(_) | None => Ok(()),
        }
    }
}
