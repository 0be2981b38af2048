//! From credentials to a user context: CouchDB's authentication handlers, tried in the order of the settings.
//!
//! Two steps, because a password hash takes tenths of a second of a core:
//!
//! ```text
//! begin ──> Done(who)                       cookie, token, proxy, nobody, or a password verified a moment ago
//!      └──> Hash(pending) ──> finish ──> who       the caller bounds how many run at once, off its async threads
//! ```
//!
//! `begin` may read the user's document, so it too runs off the async threads.

mod still;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use parking_lot::RwLock;
use serde_json::{Map, Value};

use super::devices::{Client, Devices, Tokens};
use super::jwks::{Fetch, JwksCache, Keys, NoKeys};
use super::lockout::{LOCKED, Lockout, Mode};
use super::password::{Stored, verify_nobody};
use super::session::{self, Cookie, Secrets};
use super::source::role_list;
use super::token::{self, Access};
use super::totp::Totp;
use super::verified_passwords::Verified;
use super::{ADMIN, Handler, Settings, UserCtx};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::json::unhex;

pub use self::still::{Proof, Still};

/// What CouchDB answers to every wrong name, password or code.
pub const INCORRECT: &str = "Name or password is incorrect.";

/// Basic's base64: padding required, as CouchDB's.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// Where accounts are kept. Called off the async threads.
pub trait Users: Send + Sync + 'static {
    /// The value of the `[admins]` setting of this name.
    fn admin(&self, name: &str) -> Option<String>;

    /// The document `org.couchdb.user:NAME` of the users' database; `None` if there is none or it is deleted.
    fn document(&self, name: &str) -> Result<Option<UserDocument>>;
}

/// The members of a user's document that are looked at here.
pub const MEMBERS: [&str; 8] =
    ["derived_key", "iterations", "password_scheme", "password_sha", "pbkdf2_prf", "roles", "salt", "totp"];

/// A user's document.
#[derive(Clone)]
pub struct UserDocument {
    /// Its members; those that are not among [`MEMBERS`] may be left out.
    pub members: Map<String, Value>,
    /// Whether it has conflicts.
    pub conflicted: bool,
}

/// What a request brings. All as plain text, taken from headers by the caller.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// `Authorization`.
    pub authorization: Option<&'a str>,
    /// The value of the session cookie: [`session::find`].
    pub cookie: Option<&'a str>,
    /// The headers that [`super::settings::Proxy`] names.
    pub proxy_user: Option<&'a str>,
    pub proxy_roles: Option<&'a str>,
    pub proxy_token: Option<&'a str>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// What the client calls itself: its device's name, else its user agent.
    pub device: Option<&'a str>,
}

impl Credentials<'_> {
    fn client(&self) -> Client {
        client(self.device.unwrap_or_default(), self.peer)
    }

    /// Whether there is nothing to look at: the asker is nobody, and no thread is needed to find out.
    pub fn is_empty(&self) -> bool {
        self.authorization.is_none() && self.cookie.is_none() && self.proxy_user.is_none()
    }
}

/// The result of a sign-in or of looking at a request's credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SignedIn {
    pub user: UserCtx,
    /// The value of a new session cookie to send: after `POST /_session`, or because the old one is due for renewal.
    pub cookie: Option<String>,
    /// The session or token that was used or made.
    pub session: Option<Session>,
    /// The stored hash is of an older scheme: write it anew, after answering.
    pub upgrade: Option<Upgrade>,
    /// What the sign-in depends on, to check it again later.
    pub proof: Proof,
}

/// Without the cookie, which is as good as the password.
impl std::fmt::Debug for SignedIn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cookie, user) = (self.cookie.is_some(), &self.user);
        out.debug_struct("SignedIn").field("user", user).field("cookie", &cookie).finish_non_exhaustive()
    }
}

/// Which of a user's sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A cookie, by its second of issue.
    Cookie(u64),
    /// An access token of this device.
    Token(String),
}

/// A password to hash anew. The salt is kept, so that the user's sessions go on.
#[derive(Clone, PartialEq, Eq)]
pub struct Upgrade {
    pub name: String,
    pub password: String,
    pub salt: String,
}

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Upgrade({})", self.name)
    }
}

/// What [`Authenticator::begin`] came to.
pub enum Step {
    Done(SignedIn),
    /// A password must be hashed: [`Authenticator::finish`].
    Hash(Pending),
}

/// A sign-in that waits for a hash.
pub struct Pending {
    name: String,
    password: String,
    /// `None`: nobody has this name.
    account: Option<Account>,
    peer: Option<IpAddr>,
    purpose: Purpose,
}

impl Pending {
    /// Whose password it is to be.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Purpose {
    Basic,
    /// `POST /_session`, with the one-time code if one was sent.
    Session {
        code: Option<String>,
        client: Client,
    },
    /// `POST /_session/token`.
    Check {
        code: Option<String>,
    },
}

/// What is known of a user.
struct Account {
    roles: Vec<String>,
    stored: Option<Stored>,
    totp: Option<Totp>,
    /// The hash comes from a document (not from the settings), which an upgrade can write.
    from_document: bool,
    /// The document has conflicts, and the settings do not let it be used.
    conflicted: bool,
}

impl Account {
    fn salt(&self) -> &str {
        self.stored.as_ref().map_or("", |stored| &stored.salt)
    }

    /// Refuses an account whose document has conflicts. Asked once the password, cookie or token was found right: nobody else is
    /// to learn that there is such an account.
    fn check_usable(&self) -> Result<()> {
        if self.conflicted { Err(Error::Unauthorized(CONFLICTED.into())) } else { Ok(()) }
    }
}

/// Finds out who is asking. One per server; shared by all requests.
pub struct Authenticator {
    users: Arc<dyn Users>,
    clock: Clock,
    current: RwLock<Current>,
    verified: Verified,
    lockout: Lockout,
    published: Box<dyn Keys + Send + Sync>,
    devices: Option<Arc<Devices>>,
    /// Passwords that were known to be right, and those that had to be hashed.
    fast: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    slow: AtomicU64,
    /// Counts changes of the settings.
    generation: AtomicU64,
}

struct Current {
    settings: Arc<Settings>,
    secrets: Arc<Secrets>,
}

impl Authenticator {
    pub fn new(users: Arc<dyn Users>, settings: Settings, clock: Clock) -> Authenticator {
        let secrets = Arc::new(settings.secrets());
        let verified = Verified::new(&clock);
        let current = RwLock::new(Current { settings: Arc::new(settings), secrets });
        let published = Box::new(NoKeys);
        Authenticator {
            users,
            clock,
            current,
            verified,
            lockout: Lockout::new(),
            published,
            devices: None,
            fast: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            cache_misses: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// The same with a record of devices: sessions can then be listed and revoked.
    pub fn with_devices(mut self, devices: Arc<Devices>) -> Authenticator {
        self.devices = Some(devices);
        self
    }

    /// The record of devices.
    pub fn devices(&self) -> Option<&Arc<Devices>> {
        self.devices.as_ref()
    }

    /// The same with keys from a JWKS URL, fetched by `fetch` when a token needs one.
    pub fn with_published_keys(mut self, fetch: Fetch) -> Authenticator {
        self.published = Box::new(JwksCache::new(fetch, self.clock.clone()));
        self
    }

    /// Fetches published keys before they are too old, if there is a URL. Blocks for as long as a fetch may take.
    pub fn refresh_published_keys(&self) {
        if let Some(jwks) = self.settings().jwt.jwks() {
            self.published.refresh_if_due(jwks);
        }
    }

    /// Takes changed settings, at once. A replaced secret stays good for one session timeout.
    pub fn configure(&self, settings: Settings) {
        let now = self.clock.since_epoch().as_secs();
        let mut current = self.current.write();
        let mut secrets = Secrets::clone(&current.secrets);
        secrets.replace(settings.secret.as_deref(), now, settings.timeout);
        *current = Current { settings: Arc::new(settings), secrets: Arc::new(secrets) };
        // Incremented after the change: a check that reads the counter first cannot miss it.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.current.read().settings.clone()
    }

    fn current(&self) -> (Arc<Settings>, Arc<Secrets>) {
        let current = self.current.read();
        (current.settings.clone(), current.secrets.clone())
    }

    /// Looks at a request's credentials. Reads the user's document: call it off the async threads.
    /// Errors: `Unauthorized` with CouchDB's reason, `BadRequest` for what does not come apart, `Forbidden` when locked out.
    pub fn begin(&self, credentials: &Credentials<'_>) -> Result<Step> {
        let (settings, secrets) = self.current();
        if let Some(access) = bearer(credentials).and_then(Access::parse) {
            return self.by_own_token(&access, credentials, &settings, &secrets).map(Step::Done);
        }
        for handler in &settings.handlers {
            let found = match handler {
                Handler::Cookie => self.by_cookie(credentials, &settings, &secrets)?.map(Step::Done),
                Handler::Default => self.by_password(credentials, &settings)?,
                Handler::Proxy => self.by_proxy(credentials, &settings, &secrets).map(Step::Done),
                Handler::Jwt => self.by_token(credentials, &settings)?.map(Step::Done),
            };
            if let Some(step) = found {
                return Ok(step);
            }
        }
        Ok(Step::Done(SignedIn::default()))
    }

    /// Passwords since the start: those known from a moment ago, and those that were hashed
    /// (`password_hashing_fast` and `password_hashing_slow` in CouchDB).
    pub fn hashings(&self) -> (u64, u64) {
        (self.fast.load(Ordering::Relaxed), self.slow.load(Ordering::Relaxed))
    }

    /// Passwords since the start that the cache of verified passwords knew, and that it did not know.
    pub fn cached(&self) -> (u64, u64) {
        (self.cache_hits.load(Ordering::Relaxed), self.cache_misses.load(Ordering::Relaxed))
    }

    /// Begins `POST /_session`: signs somebody in with a name and a password, and a one-time code if they use them.
    /// `device`: what the client calls itself.
    pub fn begin_session(
        &self,
        name: &str,
        password: &str,
        code: Option<&str>,
        peer: Option<IpAddr>,
        device: &str,
    ) -> Result<Step> {
        let (settings, _) = self.current();
        let purpose = Purpose::Session { code: code.map(str::to_string), client: client(device, peer) };
        self.step(name, password, purpose, peer, &settings)
    }

    /// Begins finding out whether a name, a password and a one-time code are right, without a session to follow.
    pub fn begin_check(&self, name: &str, password: &str, code: Option<&str>, peer: Option<IpAddr>) -> Result<Step> {
        let (settings, _) = self.current();
        self.step(name, password, Purpose::Check { code: code.map(str::to_string) }, peer, &settings)
    }

    /// Does the hash that [`Authenticator::begin`] asked for. Blocks for as long as a hash takes.
    pub fn finish(&self, pending: Pending) -> Result<SignedIn> {
        let (settings, _) = self.current();
        let now = self.clock.since_epoch();
        // Many may have waited for their turn with it: what the first of them came to holds for the others.
        if settings.lockout.mode == Mode::Enforce {
            let salt = pending.account.as_ref().map_or("", Account::salt);
            if self.lockout.refuses(pending.peer, &pending.name, salt, &settings.lockout, now) {
                return Err(Error::Forbidden(LOCKED.into()));
            }
        }
        if let Some(account) = &pending.account
            && let Some(signed) = self.remembered(&pending.name, &pending.password, account, &pending.purpose, now)
        {
            return signed;
        }
        self.slow.fetch_add(1, Ordering::Relaxed);
        let right = match pending.account.as_ref().and_then(|account| account.stored.as_ref()) {
            Some(stored) => self.verify(stored, &pending, &settings),
            None => {
                verify_nobody(&pending.password, &settings.password);
                false
            }
        };
        let salt = pending.account.as_ref().map_or("", Account::salt);
        // While the password waited for its turn and was hashed, the account may have got another one, or have gone.
        let right = right && self.account(&pending.name, &settings)?.is_some_and(|account| account.salt() == salt);
        match &pending.account {
            Some(account) if right && self.second_factor(&pending.name, account, &pending.purpose)? => {
                if let Some(stored) = &account.stored {
                    self.verified.remember(&pending.name, &pending.password, stored, now);
                    // As CouchDB counts what its cache computes to remember it.
                    self.fast.fetch_add(1, Ordering::Relaxed);
                }
                self.succeed(&pending.name, &pending.password, account, &pending.purpose)
            }
            account => {
                if let Some(stored) = account.as_ref().and_then(|account| account.stored.as_ref()) {
                    stored.spend_rest(&pending.password, &settings.password);
                }
                self.lockout.failed(pending.peer, &pending.name, salt, &settings.lockout, now);
                Err(Error::Unauthorized(INCORRECT.into()))
            }
        }
    }

    /// Whether a password is right by a stored hash. One that this server does not compute is never right, and takes as long to
    /// say so as for a name that nobody has: only the log tells them apart.
    fn verify(&self, stored: &Stored, pending: &Pending, settings: &Settings) -> bool {
        match stored.verify(&pending.password, &settings.password) {
            Ok(right) => right,
            Err(error) => {
                tracing::warn!(user = pending.name, %error, "the stored hash of an account is not one to be computed here");
                verify_nobody(&pending.password, &settings.password);
                false
            }
        }
    }

    /// [`Authenticator::begin`] and, if need be, [`Authenticator::finish`]. Blocks.
    pub fn authenticate(&self, credentials: &Credentials<'_>) -> Result<SignedIn> {
        match self.begin(credentials)? {
            Step::Done(who) => Ok(who),
            Step::Hash(pending) => self.finish(pending),
        }
    }

    /// [`Authenticator::begin_session`] and [`Authenticator::finish`]. Blocks.
    pub fn sign_in(&self, name: &str, password: &str, code: Option<&str>, peer: Option<IpAddr>) -> Result<SignedIn> {
        match self.begin_session(name, password, code, peer, "")? {
            Step::Done(who) => Ok(who),
            Step::Hash(pending) => self.finish(pending),
        }
    }

    fn by_cookie(&self, given: &Credentials<'_>, settings: &Settings, secrets: &Secrets) -> Result<Option<SignedIn>> {
        let Some(value) = given.cookie else { return Ok(None) };
        let Some(cookie) = Cookie::parse(value)? else { return Ok(None) };
        let now = self.clock.since_epoch().as_secs();
        let Some(left) = cookie.time_left(now, settings.timeout) else { return Ok(None) };
        if !secrets.is_set() {
            return Ok(None);
        }
        // Proofs for names that nobody has are looked at too, so that the time does not tell which names somebody has.
        let account = self.account(&cookie.name, settings)?;
        let salt = account.as_ref().map_or("", Account::salt);
        let good = cookie.verify(secrets, salt, &settings.hash_algorithms, now);
        let Some(account) = account.filter(|_| good) else { return Ok(None) };
        account.check_usable()?;
        let mut device = None;
        if let Some(devices) = &self.devices {
            device = devices.seen(&cookie.name, cookie.issued, &given.client(), settings.timeout)?;
            if device.is_none() {
                return Ok(None);
            }
        }
        let mut renewed = None;
        if session::due_for_renewal(left, settings.timeout) {
            let issued = match &self.devices {
                Some(devices) => devices.renew(&cookie.name, cookie.issued, settings.timeout)?,
                None => now,
            };
            renewed = session::issue(&cookie.name, account.salt(), issued, secrets, &settings.hash_algorithms);
        }
        let user = UserCtx { name: Some(cookie.name.clone()), roles: account.roles, handler: Some(Handler::Cookie) };
        let session = Some(Session::Cookie(cookie.issued));
        let proof = Proof::Cookie { cookie, device };
        Ok(Some(SignedIn { user, cookie: renewed, session, upgrade: None, proof }))
    }

    fn by_password(&self, given: &Credentials<'_>, settings: &Settings) -> Result<Option<Step>> {
        match given.authorization.map(basic).transpose()?.flatten() {
            Some((name, password)) => self.step(&name, &password, Purpose::Basic, given.peer, settings).map(Some),
            None => Ok(None),
        }
    }

    fn by_proxy(&self, given: &Credentials<'_>, settings: &Settings, secrets: &Secrets) -> Option<SignedIn> {
        let name = given.proxy_user?;
        if settings.proxy.use_secret {
            if !secrets.is_set() {
                // Deleted from the settings. CouchDB believes everybody then.
                return None;
            }
            let token = given.proxy_token.and_then(unhex)?;
            let now = self.clock.since_epoch().as_secs();
            if !secrets.verify(name.as_bytes(), b"", &token, &settings.hash_algorithms, now) {
                return None;
            }
        }
        let roles = given.proxy_roles.map(role_list).unwrap_or_default();
        let user = UserCtx { name: Some(name.to_string()), roles, handler: Some(Handler::Proxy) };
        let token = given.proxy_token.map(str::to_string);
        let proof = Proof::Proxy { user: user.clone(), token, by: settings.proxy.clone() };
        Some(SignedIn { user, proof, ..SignedIn::default() })
    }

    fn by_token(&self, given: &Credentials<'_>, settings: &Settings) -> Result<Option<SignedIn>> {
        let Some(token) = bearer(given) else { return Ok(None) };
        let now = self.clock.since_epoch().as_secs();
        let user = settings.jwt.authenticate(token, now, &*self.published)?;
        Ok(Some(SignedIn { user, proof: Self::proof_of_jwt(token), ..SignedIn::default() }))
    }

    /// The part of a password sign-in before the hash.
    fn step(
        &self,
        name: &str,
        password: &str,
        purpose: Purpose,
        peer: Option<IpAddr>,
        settings: &Settings,
    ) -> Result<Step> {
        let now = self.clock.since_epoch();
        let account = self.account(name, settings)?;
        let salt = account.as_ref().map_or("", Account::salt);
        if self.lockout.refuses(peer, name, salt, &settings.lockout, now) {
            return Err(Error::Forbidden(LOCKED.into()));
        }
        if let Some(account) = &account
            && let Some(signed) = self.remembered(name, password, account, &purpose, now)
        {
            return signed.map(Step::Done);
        }
        Ok(Step::Hash(Pending { name: name.into(), password: password.into(), account, peer, purpose }))
    }

    /// A sign-in with a password that is known to be right. `None`: it must be hashed.
    fn remembered(
        &self,
        name: &str,
        password: &str,
        account: &Account,
        purpose: &Purpose,
        now: Duration,
    ) -> Option<Result<SignedIn>> {
        let known = self.verified.knows(name, password, account.stored.as_ref()?, now);
        let counter = if known { &self.cache_hits } else { &self.cache_misses };
        counter.fetch_add(1, Ordering::Relaxed);
        if !known {
            return None;
        }
        match self.second_factor(name, account, purpose) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(error)),
        }
        self.fast.fetch_add(1, Ordering::Relaxed);
        Some(self.succeed(name, password, account, purpose))
    }

    /// Whether the one-time code is right, if the user has one. It is used by that: ask when the password is known to be right.
    fn second_factor(&self, name: &str, account: &Account, purpose: &Purpose) -> Result<bool> {
        let (totp, code) = match (&account.totp, purpose) {
            (None, _) => return Ok(true),
            (Some(_), Purpose::Basic) => return Ok(false),
            (Some(totp), Purpose::Session { code, .. } | Purpose::Check { code }) => (totp, code),
        };
        let now = self.clock.since_epoch().as_secs();
        match (totp.accepts(code.as_deref().unwrap_or(""), now), &self.devices) {
            (Some(step), Some(devices)) => devices.use_code(name, totp.key(), step),
            (Some(_), None) => Ok(true),
            (None, _) => Ok(false),
        }
    }

    fn succeed(&self, name: &str, password: &str, account: &Account, purpose: &Purpose) -> Result<SignedIn> {
        account.check_usable()?;
        let (settings, secrets) = self.current();
        let stored = account.stored.as_ref().filter(|stored| {
            account.from_document && settings.password.upgrade_on_sign_in && stored.needs_upgrade(&settings.password)
        });
        let upgrade =
            stored.map(|old| Upgrade { name: name.into(), password: password.into(), salt: old.salt.clone() });
        let user = UserCtx { name: Some(name.into()), roles: account.roles.clone(), handler: Some(Handler::Default) };
        let Purpose::Session { client, .. } = purpose else {
            let proof = self.proof_of_password(name, password, account);
            return Ok(SignedIn { user, cookie: None, session: None, upgrade, proof });
        };
        let issued = match &self.devices {
            Some(devices) => {
                let issued = devices.begin(name, client, settings.timeout)?;
                self.check_unchanged(name, account.salt(), &settings).inspect_err(|_| {
                    let _ = devices.end(name, issued);
                })?;
                issued
            }
            None => self.clock.since_epoch().as_secs(),
        };
        let cookie =
            session::issue(name, account.salt(), issued, &secrets, &settings.hash_algorithms).ok_or_else(no_secret)?;
        let session = Some(Session::Cookie(issued));
        Ok(SignedIn { user, cookie: Some(cookie), session, upgrade, proof: Proof::Nobody })
    }

    /// Refuses what was begun for an account that has another password since, or was deleted: nothing of it may be left
    /// for the next account of that name.
    fn check_unchanged(&self, name: &str, salt: &str, settings: &Settings) -> Result<()> {
        match self.account(name, settings)? {
            Some(account) if account.salt() == salt => Ok(()),
            Some(_) | None => Err(Error::Unauthorized(INCORRECT.into())),
        }
    }

    /// Makes a device that holds tokens, for somebody who has just signed in: access token and refresh token.
    /// Reads the user's document. `proof` is the proof of the password: if the password has changed since, no tokens are issued.
    pub fn issue_tokens(
        &self,
        name: &str,
        proof: &Proof,
        device: &str,
        peer: Option<IpAddr>,
    ) -> Result<(String, String)> {
        let (settings, secrets) = self.current();
        let devices = self.devices.as_ref().ok_or_else(no_secret)?;
        let account = self.account(name, &settings)?.filter(|account| self.is_of(proof, account));
        let account = account.ok_or_else(|| Error::Unauthorized(INCORRECT.into()))?;
        let tokens = devices.begin_tokens(name, account.salt(), &client(device, peer), settings.timeout)?;
        self.check_unchanged(name, account.salt(), &settings).inspect_err(|_| {
            let _ = devices.revoke(name, &tokens.device);
        })?;
        self.token_pair(name, account.salt(), &tokens, &secrets)
    }

    /// Takes a refresh token and gives a new pair. `Unauthorized` if it is not good.
    pub fn refresh_tokens(&self, refresh: &str, device: &str, peer: Option<IpAddr>) -> Result<(String, String)> {
        let (settings, secrets) = self.current();
        let refused = || Error::Unauthorized("The refresh token is not valid.".into());
        let devices = self.devices.as_ref().ok_or_else(no_secret)?;
        let (tokens, name) = split_refresh(refresh).ok_or_else(refused)?;
        let account = self.account(&name, &settings)?.ok_or_else(refused)?;
        account.check_usable().map_err(|_| refused())?;
        let rotated = devices.rotate(&name, account.salt(), &tokens, &client(device, peer))?;
        self.token_pair(&name, account.salt(), &rotated.ok_or_else(refused)?, &secrets)
    }

    fn token_pair(&self, name: &str, salt: &str, tokens: &Tokens, secrets: &Secrets) -> Result<(String, String)> {
        let now = self.clock.since_epoch().as_secs();
        let access = token::issue(name, &tokens.device, salt, now, secrets).ok_or_else(no_secret)?;
        // The name is in it, so that the record can be found; it proves nothing.
        let refresh = format!("{}.{}.{}", tokens.device, tokens.refresh, crate::json::hex(name.as_bytes()));
        Ok((access, refresh))
    }

    fn by_own_token(
        &self,
        access: &Access,
        given: &Credentials<'_>,
        settings: &Settings,
        secrets: &Secrets,
    ) -> Result<SignedIn> {
        let refused = || Error::Unauthorized("The access token is not valid.".into());
        let devices = self.devices.as_ref().ok_or_else(refused)?;
        let now = self.clock.since_epoch().as_secs();
        let account = self.account(&access.user, settings)?;
        let good = access.verify(secrets, account.as_ref().map_or("", Account::salt), now);
        let account = account.filter(|_| good).ok_or_else(refused)?;
        account.check_usable()?;
        if !devices.token_seen(&access.user, &access.device, &given.client())? {
            return Err(refused());
        }
        let user = UserCtx { name: Some(access.user.clone()), roles: account.roles, handler: Some(Handler::Jwt) };
        let session = Some(Session::Token(access.device.clone()));
        Ok(SignedIn { user, session, proof: Proof::Access(access.clone()), ..SignedIn::default() })
    }

    /// What is known of a user: an admin of the settings, a document, or both (then the settings' hash counts, and the
    /// roles are `_admin` and the document's). The settings are asked first: whatever stands in the users' database, in
    /// conflict or damaged, an admin of the settings gets in.
    fn account(&self, name: &str, settings: &Settings) -> Result<Option<Account>> {
        if name.is_empty() {
            return Ok(None);
        }
        if let Some(stored) = self.users.admin(name).as_deref().and_then(Stored::from_admin_setting) {
            let document = self.users.document(name).unwrap_or_else(|error| {
                tracing::warn!(user = name, %error, "the account of an admin of the settings could not be read");
                None
            });
            let document = document.filter(|document| !document.conflicted || settings.allow_conflicted_user_docs);
            let roles = [ADMIN.to_string()].into_iter();
            let roles = roles.chain(document.iter().flat_map(|document| roles_of(&document.members))).collect();
            let stored = Some(stored);
            return Ok(Some(Account { roles, stored, totp: None, from_document: false, conflicted: false }));
        }
        let Some(document) = self.users.document(name)? else { return Ok(None) };
        let stored = Stored::from_document(&document.members).unwrap_or_else(|error| {
            tracing::warn!(user = name, %error, "the stored hash of an account cannot be used");
            None
        });
        Ok(Some(Account {
            roles: roles_of(&document.members).collect(),
            stored,
            totp: Totp::from_document(&document.members),
            from_document: true,
            conflicted: document.conflicted && !settings.allow_conflicted_user_docs,
        }))
    }
}

fn roles_of(members: &Map<String, Value>) -> impl Iterator<Item = String> {
    let roles = members.get("roles").and_then(Value::as_array);
    roles.into_iter().flatten().filter_map(|role| role.as_str().map(str::to_string))
}

fn bearer<'a>(given: &Credentials<'a>) -> Option<&'a str> {
    given.authorization?.strip_prefix("Bearer ").map(str::trim)
}

fn client(name: &str, peer: Option<IpAddr>) -> Client {
    Client { name: name.to_string(), address: peer.map(|peer| peer.to_string()).unwrap_or_default() }
}

fn no_secret() -> Error {
    Error::Internal("cookie auth secret is not set".into())
}

/// `DEVICE.SECRET.NAME`, the name in hex.
fn split_refresh(text: &str) -> Option<(Tokens, String)> {
    let mut parts = text.split('.');
    let (device, refresh, name, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let name = String::from_utf8(unhex(name)?).ok()?;
    Some((Tokens { device: device.to_string(), refresh: refresh.to_string() }, name))
}

/// What CouchDB answers for a user whose document has conflicts.
pub const CONFLICTED: &str =
    "User document conflicts must be resolved before the document is used for authentication purposes.";

/// Name and password of a Basic `Authorization`. `None`: it is something else, or CouchDB's `_:_` for nobody.
pub fn basic(authorization: &str) -> Result<Option<(String, String)>> {
    let Some(encoded) = authorization.strip_prefix("Basic ") else { return Ok(None) };
    let bad = || Error::BadRequest("Authorization header has invalid base64 value".into());
    let bytes = BASE64.decode(encoded.trim()).map_err(|_| bad())?;
    // Names and passwords are kept as text, so bytes that are none cannot be right.
    let text = String::from_utf8(bytes).map_err(|_| Error::Unauthorized(INCORRECT.into()))?;
    Ok(match text.split_once(':') {
        None | Some(("_", "_")) => None,
        Some((name, password)) => Some((name.to_string(), password.to_string())),
    })
}

#[cfg(test)]
mod tests;
