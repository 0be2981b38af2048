//! What a request was allowed, and whether it still is.
//!
//! A request is let in at its headers. Its body may come minutes later, and a feed that it began may stay open for hours.
//! Meanwhile an account may be deleted, a password changed, a role taken away, a device revoked, a token over, the
//! database's `_security` changed. So it is asked again: when the last byte of a body has been read, before a commit, and
//! before a feed tells a row. CouchDB asks once, and lets such feeds run.
//!
//! ```text
//! authenticate ─> Standing: proof of the sign-in, what the route needs, the database and its _security
//! check ─> counters of settings, devices, accounts as they were? ── yes ─> as before: a few comparisons
//!                                                      └─ no ─> sign-in still good? user of now ─> access again
//! ```
//! Counters are read before what they count, so that a change in between is found by the next check. What a check has found
//! is kept only if it let the request go on.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::access::{self, Access, Openness, Verdict};
use super::accounts::Place;
use super::app::App;
use super::failure::{Failure, Result};
use super::wakes::Waiter;
use crate::auth::authenticate::Still;
use crate::auth::{Proof, UserCtx};
use crate::db::{self, Database};
use crate::error::{self, Error};

/// What a client is told whose sign-in ended while its request was under way.
const OVER: &str = "The session, token or password of this request is no longer valid.";
/// What a client is told whose roles changed while its edits were looked at.
const OTHER_ROLES: &str = "Your roles have changed while this was written. Try again.";
/// A sign-in whose end has come, but is not over by the clock, is looked at again after this long.
const SOON: Duration = Duration::from_millis(200);

/// Counters of what a sign-in may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    settings: u64,
    revocations: u64,
    /// The users' database and its last sequence; `None`: there is none.
    accounts: Option<Place>,
}

impl Seen {
    /// Before anything else of a request is looked at: settings only.
    pub fn settings(app: &App) -> Seen {
        Seen { settings: app.auth.generation(), revocations: 0, accounts: None }
    }

    /// All counters, before credentials are looked at. `settings` stay those that the request goes by.
    pub fn with_accounts(self, app: &App) -> Seen {
        let revocations = app.auth.devices().map_or(0, |devices| devices.revocations());
        Seen { revocations, accounts: app.accounts.place(), ..self }
    }

    fn now(app: &App, proof: &Proof) -> Seen {
        let seen = Seen::settings(app);
        if proof.account().is_some() { seen.with_accounts(app) } else { seen }
    }

    fn is_as(&self, now: &Seen, proof: &Proof) -> bool {
        self.settings == now.settings
            && (proof.account().is_none() || self.accounts == now.accounts)
            && (!proof.has_device() || self.revocations == now.revocations)
    }
}

/// What one request was allowed, and what that depends on.
pub struct Standing {
    app: Arc<App>,
    state: Mutex<State>,
}

struct State {
    user: Arc<UserCtx>,
    proof: Arc<Proof>,
    /// `None`: check all of it next time.
    seen: Option<Seen>,
    /// The second at which the sign-in ends, or is to be checked.
    until: Option<u64>,
    needed: Access,
    openness: Openness,
    /// The database, and its `_security` that was looked at last.
    database: Option<(Arc<Database>, Arc<str>)>,
    /// The user is another one (other roles) than the request has.
    renewed: bool,
    /// The client only listens.
    waits: bool,
}

impl Standing {
    /// Of a request of which nothing is known yet. Give what was seen before its settings were read.
    pub fn new(app: &Arc<App>, seen: Seen) -> Standing {
        let state = State {
            user: Arc::new(UserCtx::anonymous()),
            proof: Arc::default(),
            seen: Some(seen),
            until: None,
            needed: Access::Anyone,
            openness: Openness::Closed,
            database: None,
            renewed: false,
            waits: false,
        };
        Standing { app: app.clone(), state: Mutex::new(state) }
    }

    /// What was seen last.
    pub fn seen(&self) -> Seen {
        self.state.lock().seen.unwrap_or_else(|| Seen::settings(&self.app))
    }

    /// Somebody has signed in. `seen` was read before.
    pub fn signed_in(&self, user: &UserCtx, proof: Proof, seen: Seen) {
        let mut state = self.state.lock();
        state.user = Arc::new(user.clone());
        state.until = proof.until();
        state.proof = Arc::new(proof);
        state.seen = Some(seen);
    }

    /// The request was let in to something that needs `needed`; in a database by its `_security`.
    pub fn let_in(&self, needed: Access, openness: Openness, database: Option<(Arc<Database>, Arc<str>)>) {
        let mut state = self.state.lock();
        (state.needed, state.openness, state.database) = (needed, openness, database);
    }

    /// The database that is worked on, which may have been deleted and made again since the request was let in.
    pub fn enter(&self, database: &Arc<Database>) -> Result<()> {
        let mut state = self.state.lock();
        if state.database.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, database)) {
            let security = database.security();
            judge(&self.app, &state, &state.user, Some(&security))?;
            state.database = Some((database.clone(), security));
        }
        Ok(())
    }

    /// The user with other roles, if a check has found some since this was asked last.
    pub fn renewed(&self) -> Option<UserCtx> {
        let mut state = self.state.lock();
        std::mem::take(&mut state.renewed).then(|| UserCtx::clone(&state.user))
    }

    /// Checks that the request is still allowed.
    ///
    /// # Errors
    /// 401: the sign-in is no longer good. 401 or 403: the user may no longer do this. 404: the database was deleted.
    /// The store's failures.
    pub async fn check(&self) -> Result<()> {
        let (proof, waits) = {
            let mut state = self.state.lock();
            if state.needed == Access::Anyone {
                return Ok(());
            }
            let seen = Seen::now(&self.app, &state.proof);
            let over = state.until.is_some_and(|until| until <= self.app.auth.now());
            if !over && state.seen.is_some_and(|known| known.is_as(&seen, &state.proof)) {
                return self.check_database(&mut state);
            }
            (state.proof.clone(), state.waits)
        };
        let seen = Seen::now(&self.app, &proof);
        let Still { user, until, proof } = self.ask(proof, waits).await?.ok_or_else(over)?;
        let mut state = self.state.lock();
        match &state.database {
            Some((database, _)) if database.is_gone() => return Err(self.gone(&state, &user, database)),
            Some((database, _)) => {
                let security = database.security();
                judge(&self.app, &state, &user, Some(&security))?;
                let database = database.clone();
                state.database = Some((database, security));
            }
            None => judge(&self.app, &state, &user, None)?,
        }
        state.seen = Some(seen);
        state.until = until;
        if let Some(proof) = proof {
            state.proof = Arc::new(proof);
        }
        if user != *state.user {
            state.user = Arc::new(user);
            state.renewed = true;
        }
        Ok(())
    }

    /// Checks, and gives the user as they are now.
    pub async fn confirmed(&self) -> Result<Arc<UserCtx>> {
        self.check().await?;
        Ok(self.state.lock().user.clone())
    }

    /// Checks again what was decided for `user`: their roles must be the same still.
    pub async fn confirm(&self, user: &UserCtx) -> error::Result<()> {
        match self.confirmed().await {
            Ok(now) if *now == *user => Ok(()),
            Ok(_) => Err(Error::Forbidden(OTHER_ROLES.into())),
            Err(Failure::Domain(error)) => Err(error),
            Err(other) => Err(Error::Internal(format!("{other:?}"))),
        }
    }

    /// The same as a yes or no, for feeds. Errors are the store's: it could not be asked.
    pub async fn holds(&self) -> Result<bool> {
        match self.check().await {
            Ok(()) => Ok(true),
            Err(Failure::Domain(Error::Unauthorized(_) | Error::Forbidden(_) | Error::NoDatabase)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Begins to listen for what may end it, for a feed that waits. The next check is a whole one if a session may be over.
    pub fn watch(self: &Arc<Self>) -> Waiter {
        {
            let mut state = self.state.lock();
            state.waits = true;
            if matches!(*state.proof, Proof::Cookie { .. }) {
                state.seen = None;
            }
        }
        Waiter::new(&self.app.wakes, self.clone())
    }

    /// The account that it depends on.
    pub fn account(&self) -> Option<String> {
        self.state.lock().proof.account().map(str::to_owned)
    }

    /// How long it may be left alone if nothing changes.
    pub fn time_left(&self) -> Option<Duration> {
        let until = self.state.lock().until?;
        Some(Duration::from_secs(until).saturating_sub(self.app.clock.since_epoch()).max(SOON))
    }

    fn check_database(&self, state: &mut State) -> Result<()> {
        let Some((database, known)) = &state.database else { return Ok(()) };
        if database.is_gone() {
            return Err(self.gone(state, &state.user, database));
        }
        let security = database.security();
        if Arc::ptr_eq(&security, known) {
            return Ok(());
        }
        judge(&self.app, state, &state.user, Some(&security))?;
        let database = database.clone();
        state.database = Some((database, security));
        Ok(())
    }

    /// The database was deleted. If another one has its name, that one's `_security` says what the user learns of it.
    fn gone(&self, state: &State, user: &UserCtx, database: &Database) -> Failure {
        let other = self.app.databases.opened(database.name());
        let refused = other.and_then(|other| judge(&self.app, state, user, Some(&other.security())).err());
        refused.unwrap_or_else(|| Error::NoDatabase.into())
    }

    async fn ask(&self, proof: Arc<Proof>, waits: bool) -> error::Result<Option<Still>> {
        let app = self.app.clone();
        // A token of another issuer may have to wait for the issuer's keys, if they are at a URL.
        let by_issuer = matches!(*proof, Proof::Jwt { .. }) && app.auth.settings().jwt.jwks().is_some();
        let ask = move || app.auth.still(&proof, waits);
        if !by_issuer {
            return db::reading(ask).await;
        }
        let _turn = self.app.wakes.issuers.acquire().await;
        db::blocking(ask).await
    }
}

fn over() -> Failure {
    Error::Unauthorized(OVER.into()).into()
}

/// Decides access again, by the settings of now.
fn judge(app: &App, state: &State, user: &UserCtx, security: Option<&str>) -> Result<()> {
    let settings = app.settings();
    if user.name.is_none() && !user.is_server_admin() {
        access::check_nobody(state.openness, &settings)?;
    }
    if access::check(state.needed, user, &settings)? == Verdict::Granted {
        return Ok(());
    }
    let Some(security) = security else { return Ok(()) };
    let object = serde_json::from_str(security)
        .map_err(|_| Failure::from(Error::Damaged("the _security of a database".into())))?;
    access::check_database(state.needed, user, &object)
}
