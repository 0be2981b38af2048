//! Whether who began a feed may still have it.
//!
//! A `_changes` feed may stay open for hours. Who began it was let in once; when the device is revoked, everybody signs
//! out, or the database's `_security` no longer names them, it has to end, or a lost phone would go on reading. CouchDB
//! lets such feeds run.

use std::sync::Arc;

use super::access::{self, Access};
use super::app::{App, blocking};
use super::request::Request;
use crate::auth::{Session, UserCtx};
use crate::db::Database;

/// What a feed was granted, and what that grant hung on. Asking costs two comparisons while nothing was revoked.
pub struct Standing {
    app: Arc<App>,
    user: UserCtx,
    session: Option<Session>,
    /// Revocations that were known when the session was found good.
    revocations: u64,
    /// The database and its `_security` by which the user was let in.
    database: Option<(Arc<Database>, Arc<str>)>,
}

impl Standing {
    /// Of who asks; in a database, or of the server.
    pub fn of(app: &Arc<App>, request: &Request, database: Option<&Arc<Database>>) -> Standing {
        Standing {
            app: app.clone(),
            user: request.user.clone(),
            session: request.session.clone(),
            revocations: request.revocations,
            database: database.map(|database| (database.clone(), database.security())),
        }
    }

    /// Whether it still holds. A store that cannot be asked ends no feed.
    pub async fn holds(&mut self) -> bool {
        self.is_member() && self.is_signed_in().await
    }

    fn is_member(&mut self) -> bool {
        let Some((database, known)) = &mut self.database else { return true };
        let security = database.security();
        if self.user.is_server_admin() || Arc::ptr_eq(&security, known) {
            return true;
        }
        let object = serde_json::from_str(&security).unwrap_or_default();
        *known = security;
        access::check_database(Access::Member, &self.user, &object).is_ok()
    }

    async fn is_signed_in(&mut self) -> bool {
        let (Some(session), Some(name)) = (&self.session, &self.user.name) else { return true };
        let Some(devices) = self.app.auth.devices() else { return true };
        let revocations = devices.revocations();
        if revocations == self.revocations {
            return true;
        }
        self.revocations = revocations;
        let (devices, name, session) = (devices.clone(), name.clone(), session.clone());
        let good = blocking(move || match session {
            Session::Cookie(issued) => devices.is_good(&name, issued),
            Session::Token(device) => devices.is_known(&name, &device),
        });
        !matches!(good.await, Ok(Ok(false)))
    }
}
