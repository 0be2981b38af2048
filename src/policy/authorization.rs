//! What a request was authorized for, and re-checks of that authorization.
//!
//! A request is authorized when its headers have come. Its body may take minutes, and a feed that it opens
//! may stay open for hours. In between an account may be deleted, a password changed, a role removed, a
//! device revoked, a token may expire, the database's `_security` may change. The authorization is therefore
//! checked again when the last byte of a body has been read, before a commit, and before a feed sends a row.
//! CouchDB checks once and lets such requests and feeds go on.
//!
//! ```text
//! authenticate ─> Authorization: proof of the sign-in, access that the route needs, the database and its _security
//! check ─> same counters of settings, devices and accounts? ── yes ─> same _security? ─> allowed
//!                     └─ no ─> is the sign-in still valid? ─> the user's roles of now ─> access check again
//! ```
//! A counter is read before the state that it counts, so that the next check finds a change in between. A
//! check stores its counters only if it has allowed the request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::access::{self, Access, Openness, Verdict};
use super::change_counters::Seen;
use crate::app::App;
use crate::app::feed_wakes::Place;
use crate::app::security_events::Caller;
use crate::audit::{Event, Kind};
use crate::auth::authenticate::Still;
use crate::auth::{Proof, UserCtx};
use crate::db::Database;
use crate::error::{Error, Result};

/// The answer to a request whose sign-in became invalid while the request was under way.
const OVER: &str = "The session, token or password of this request is no longer valid.";
/// The answer to edits whose user got other roles while the edits were validated.
const OTHER_ROLES: &str = "The roles of this user have changed while the request was under way. Try again.";
/// The maximum age of the knowledge about other nodes' commits at a check.
const RECENT: Duration = Duration::from_secs(2);
/// The shortest time between two checks of a sign-in that is about to expire.
const SOON: Duration = Duration::from_millis(200);

/// The authorization of one request, and the state that it depends on.
pub struct Authorization {
    app: Arc<App>,
    state: Mutex<State>,
}

struct State {
    user: Arc<UserCtx>,
    proof: Arc<Proof>,
    /// `None`: the next check looks at everything.
    seen: Option<Seen>,
    /// The second at which the sign-in expires or must be checked again.
    until: Option<u64>,
    needed: Access,
    openness: Openness,
    /// The database, and its `_security` at the last check.
    database: Option<(Arc<Database>, Arc<str>)>,
    /// A check has found other roles, and the request has not taken them yet.
    renewed: bool,
    /// The client only listens, as that of a feed does.
    waits: bool,
}

impl Authorization {
    /// Creates the state of a new request: nobody, authorized for nothing that could be withdrawn.
    pub fn new(app: &Arc<App>, seen: Seen) -> Authorization {
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
        Authorization { app: app.clone(), state: Mutex::new(state) }
    }

    /// The counters of the last check, or only the settings' counter if the next check is to check everything.
    pub fn seen(&self) -> Seen {
        self.state.lock().seen.unwrap_or_else(|| Seen::settings(&self.app))
    }

    /// Records a sign-in. `seen` are the counters from before the credentials were checked.
    pub fn signed_in(&self, user: &UserCtx, proof: Proof, seen: Seen) {
        let mut state = self.state.lock();
        state.user = Arc::new(user.clone());
        state.until = proof.until();
        state.proof = Arc::new(proof);
        state.seen = Some(seen);
    }

    /// Records that access was granted: what the route needs, and the database whose `_security` granted it.
    pub fn let_in(&self, needed: Access, openness: Openness, database: Option<(Arc<Database>, Arc<str>)>) {
        let mut state = self.state.lock();
        (state.needed, state.openness, state.database) = (needed, openness, database);
    }

    /// Records the database that the handler works on. Checks access again if it is not the one that granted
    /// it: a database may be deleted and created again in between.
    pub fn enter(&self, database: &Arc<Database>) -> Result<()> {
        let mut state = self.state.lock();
        if state.database.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, database)) {
            let security = database.security();
            judge(&self.app, &state, &state.user, Some((database, &security)))?;
            state.database = Some((database.clone(), security));
        }
        Ok(())
    }

    /// The user with the current roles, if a check has found other roles since the last call.
    pub fn renewed(&self) -> Option<UserCtx> {
        let mut state = self.state.lock();
        std::mem::take(&mut state.renewed).then(|| UserCtx::clone(&state.user))
    }

    /// Checks that the request is still authorized.
    ///
    /// # Errors
    /// `Unauthorized` if the sign-in is no longer valid, `Unauthorized` or `Forbidden` if the user may no longer
    /// do this, `NoDatabase` if the database was deleted, and those of the store.
    pub async fn check(&self) -> Result<()> {
        if self.app.store.is_shared() {
            Box::pin(self.look_again()).await?;
        }
        let Some(Doubt { proof, waits, seen }) = self.doubt()? else { return Ok(()) };
        // Boxed, since every waiting feed would have room for it.
        let still = Box::pin(self.ask(proof, waits)).await?;
        self.settle(still, Some(seen))
    }

    /// On a shared store: reads again what other nodes may have changed, unless that was done a moment ago. The
    /// databases of waiting feeds are looked at every second anyway; a request may have taken minutes.
    async fn look_again(&self) -> Result<()> {
        let database = self.state.lock().database.as_ref().map(|(database, _)| database.clone());
        let Some(moment) = Instant::now().checked_sub(RECENT) else { return Ok(()) };
        match database {
            Some(database) if !database.is_gone() && !database.is_as_of(moment) => {
                self.app.catch_up(database.name(), None).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// As [`Authorization::confirm`], on a thread that may block: the writer's.
    pub fn confirm_now(&self, user: &UserCtx) -> Result<()> {
        match self.check_now() {
            Ok(()) if *self.user() == *user => Ok(()),
            Ok(()) => Err(Error::Again(OTHER_ROLES.into())),
            Err(error) => Err(error),
        }
    }

    /// As [`Authorization::confirm_now`] if nothing has changed since the last check; otherwise `None`.
    pub fn confirm_at_once(&self, user: &UserCtx) -> Option<Result<()>> {
        match self.doubt() {
            Ok(Some(_)) => None,
            Ok(None) if *self.user() == *user => Some(Ok(())),
            Ok(None) => Some(Err(Error::Again(OTHER_ROLES.into()))),
            Err(error) => Some(Err(error)),
        }
    }

    fn check_now(&self) -> Result<()> {
        let Some(Doubt { proof, waits, seen }) = self.doubt()? else { return Ok(()) };
        if !self.is_by_issuer(&proof) {
            let still = self.app.auth.still(&proof, waits)?;
            return self.settle(still, Some(seen));
        }
        // The writer waits for no issuer's keys: a token that was good a moment ago still is, until its end.
        let (user, until) = {
            let state = self.state.lock();
            (state.user.clone(), state.until)
        };
        let is_over = until.is_some_and(|until| until <= self.app.auth.now());
        let still = Still { user: UserCtx::clone(&user), until, proof: None };
        self.settle((!is_over).then_some(still), None)
    }

    fn user(&self) -> Arc<UserCtx> {
        self.state.lock().user.clone()
    }

    /// What must be checked again; `None` if nothing has changed since the last check.
    fn doubt(&self) -> Result<Option<Doubt>> {
        let mut state = self.state.lock();
        if state.needed == Access::Anyone {
            return Ok(None);
        }
        let seen = Seen::now(&self.app, &state.proof);
        let over = state.until.is_some_and(|until| until <= self.app.auth.now());
        if !over && state.seen.is_some_and(|known| known.is_as(&seen, &state.proof)) {
            return self.check_database(&mut state).map(|()| None);
        }
        Ok(Some(Doubt { proof: state.proof.clone(), waits: state.waits, seen }))
    }

    /// Applies the result of a check of the sign-in, and checks access. `seen`: the counters from before the check.
    fn settle(&self, still: Option<Still>, seen: Option<Seen>) -> Result<()> {
        let Still { user, until, proof } = still.ok_or_else(over)?;
        let mut state = self.state.lock();
        match &state.database {
            Some((database, _)) if database.is_gone() => return Err(self.gone(&state, &user, database)),
            Some((database, _)) => {
                let security = database.security();
                judge(&self.app, &state, &user, Some((database, &security)))?;
                let database = database.clone();
                state.database = Some((database, security));
            }
            None => judge(&self.app, &state, &user, None)?,
        }
        state.seen = seen.or(state.seen);
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

    /// Checks, and returns the user with the current roles.
    pub async fn confirmed(&self) -> Result<Arc<UserCtx>> {
        self.check().await?;
        Ok(self.state.lock().user.clone())
    }

    /// Checks, and refuses if the user's roles are no longer those of `user`, for which a decision was made.
    pub async fn confirm(&self, user: &UserCtx) -> Result<()> {
        match self.confirmed().await {
            Ok(now) if *now == *user => Ok(()),
            Ok(_) => Err(Error::Again(OTHER_ROLES.into())),
            Err(error) => Err(error),
        }
    }

    /// Checks, and returns whether the client is still authorized. An error is a failure of the store.
    pub async fn holds(&self) -> Result<bool> {
        match self.check().await {
            Ok(()) => Ok(true),
            Err(Error::Unauthorized(_) | Error::Forbidden(_) | Error::NoDatabase) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Subscribes a feed to changes of its authorization. A session's end is not known yet: the next check
    /// finds it.
    pub fn watch(self: &Arc<Self>) -> Waiter {
        {
            let mut state = self.state.lock();
            state.waits = true;
            if matches!(*state.proof, Proof::Cookie { .. }) {
                state.seen = None;
            }
        }
        Waiter::new(self.clone())
    }

    /// The name of the account that it depends on.
    pub fn account(&self) -> Option<String> {
        self.state.lock().proof.account().map(str::to_owned)
    }

    /// The time until the sign-in must be checked again even if nothing has changed.
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
        judge(&self.app, state, &state.user, Some((database, &security)))?;
        let database = database.clone();
        state.database = Some((database, security));
        Ok(())
    }

    /// The refusal after the database was deleted: `NoDatabase`, or what the `_security` of a new database of
    /// that name refuses.
    fn gone(&self, state: &State, user: &UserCtx, database: &Database) -> Error {
        let other = self.app.databases.opened(database.name());
        let refused = other.and_then(|other| judge(&self.app, state, user, Some((&other, &other.security()))).err());
        refused.unwrap_or(Error::NoDatabase)
    }

    /// Whether checking the sign-in may fetch an issuer's keys.
    fn is_by_issuer(&self, proof: &Proof) -> bool {
        matches!(proof, Proof::Jwt { .. }) && self.app.auth.settings().jwt.jwks().is_some()
    }

    async fn ask(&self, proof: Arc<Proof>, waits: bool) -> Result<Option<Still>> {
        let app = self.app.clone();
        let by_issuer = self.is_by_issuer(&proof);
        let ask = move || app.auth.still(&proof, waits);
        if !by_issuer {
            return crate::blocking::reading(ask).await;
        }
        let _turn = self.app.wakes.issuers.acquire().await;
        crate::blocking::blocking(ask).await
    }
}

/// Waits until the authorization of one feed must be checked again.
pub struct Waiter {
    authorization: Arc<Authorization>,
    place: Place,
}

impl Waiter {
    /// Subscribes. Check the authorization afterwards: a change in between is otherwise missed.
    fn new(authorization: Arc<Authorization>) -> Waiter {
        let place = authorization.app.wakes.wait(authorization.account());
        Waiter { authorization, place }
    }

    /// Returns when the user's account or devices or the settings have changed, or when the sign-in expires.
    /// Cancel safe.
    pub async fn woken(&mut self) {
        let over = async {
            match self.authorization.time_left() {
                // Boxed: most feeds wait without this timer.
                Some(left) => Box::pin(tokio::time::sleep(left)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.place.woken() => {}
            () = over => {}
        }
    }
}

/// The client of a request, and its authorization, which is checked again before a commit.
#[derive(Clone, Copy)]
pub struct By<'a> {
    pub user: &'a UserCtx,
    pub peer: Option<IpAddr>,
    /// The request's id.
    pub id: &'a str,
    pub authorization: &'a Arc<Authorization>,
}

impl<'a> By<'a> {
    /// The client without the authorization.
    pub fn caller(self) -> Caller<'a> {
        Caller { user: self.user, peer: self.peer, id: self.id }
    }

    /// Creates an audit event that names this client and its request.
    pub fn event(self, kind: Kind) -> Event<'a> {
        self.caller().event(kind)
    }
}

/// A sign-in that must be checked again.
struct Doubt {
    proof: Arc<Proof>,
    waits: bool,
    /// The counters of now.
    seen: Seen,
}

fn over() -> Error {
    Error::Unauthorized(OVER.into())
}

/// Checks access with the current settings.
fn judge(app: &App, state: &State, user: &UserCtx, database: Option<(&Arc<Database>, &str)>) -> Result<()> {
    let settings = app.settings();
    // The settings may have made this the database of accounts since the request was routed.
    let is_users = database.map(|(database, _)| app.auth.settings().authentication_db == database.name());
    let needed = match (state.needed, is_users) {
        (Access::Member, Some(true)) => Access::AccountsAdmin,
        (Access::Account, Some(false)) => Access::Member,
        (needed, _) => needed,
    };
    if user.name.is_none() && !user.is_server_admin() {
        access::check_nobody(state.openness, &settings)?;
    }
    if access::check(needed, user, &settings)? == Verdict::Granted {
        return Ok(());
    }
    let Some((_, security)) = database else { return Ok(()) };
    let object = serde_json::from_str(security).map_err(|_| Error::Damaged("the _security of a database".into()))?;
    access::check_database(needed, user, &object)
}
