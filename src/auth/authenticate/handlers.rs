//! Authenticates a request: tries CouchDB's authentication handlers in the order of the settings.

use super::account::Account;
use super::authenticator::Authenticator;
use super::credentials::{Credentials, basic, bearer};
use super::proof::Proof;
use super::signed_in::{Purpose, Session, SignedIn, Step};
use crate::auth::session::{self, Cookie, Secrets};
use crate::auth::settings::Settings;
use crate::auth::source::role_list;
use crate::auth::token::Access;
use crate::auth::{Handler, UserCtx};
use crate::error::{Error, Result};
use crate::hex::unhex;

impl Authenticator {
    /// Checks the credentials of a request. May read the user's document, so it must not run on an async
    /// thread.
    ///
    /// # Errors
    /// `Unauthorized` with CouchDB's reason, `BadRequest` for malformed credentials, `Forbidden` for a locked
    /// account.
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

    /// Calls [`Authenticator::begin`] and, if needed, [`Authenticator::finish`]. Blocks.
    pub fn authenticate(&self, credentials: &Credentials<'_>) -> Result<SignedIn> {
        match self.begin(credentials)? {
            Step::Done(who) => Ok(who),
            Step::Hash(pending) => self.finish(pending),
        }
    }

    pub(super) fn by_cookie(
        &self,
        given: &Credentials<'_>,
        settings: &Settings,
        secrets: &Secrets,
    ) -> Result<Option<SignedIn>> {
        let Some((cookie, left)) = self.current_cookie(given, settings, secrets)? else { return Ok(None) };
        let account = self.account(&cookie.name, settings)?;
        let Some(account) = self.owner(&cookie, account, settings, secrets)? else { return Ok(None) };
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
                None => self.clock.since_epoch().as_secs(),
            };
            renewed = session::issue(&cookie.name, account.salt(), issued, secrets, &settings.hash_algorithms);
        }
        Ok(Some(SignedIn { cookie: renewed, ..signed_in_by(cookie, account, device) }))
    }

    /// The cookie of a request, and the seconds until it expires. `None`: there is none, or it has expired.
    pub(super) fn current_cookie(
        &self,
        given: &Credentials<'_>,
        settings: &Settings,
        secrets: &Secrets,
    ) -> Result<Option<(Cookie, u64)>> {
        let Some(value) = given.cookie else { return Ok(None) };
        let Some(cookie) = Cookie::parse(value)? else { return Ok(None) };
        let left = cookie.time_left(self.clock.since_epoch().as_secs(), settings.timeout);
        Ok(left.filter(|_| secrets.is_set()).map(|left| (cookie, left)))
    }

    /// The account of a cookie's name if the cookie's signature is right.
    pub(super) fn owner(
        &self,
        cookie: &Cookie,
        account: Option<Account>,
        settings: &Settings,
        secrets: &Secrets,
    ) -> Result<Option<Account>> {
        // Verifies cookies for unknown names as well, so that the response time does not reveal which names
        // exist.
        let salt = account.as_ref().map_or("", Account::salt);
        let good = cookie.verify(secrets, salt, &settings.hash_algorithms, self.clock.since_epoch().as_secs());
        let Some(account) = account.filter(|_| good) else { return Ok(None) };
        account.check_usable()?;
        Ok(Some(account))
    }

    pub(super) fn by_password(&self, given: &Credentials<'_>, settings: &Settings) -> Result<Option<Step>> {
        match given.authorization.map(basic).transpose()?.flatten() {
            Some((name, password)) => {
                let account = self.account(&name, settings)?;
                self.step(account, &name, &password, Purpose::Basic, given.peer, settings).map(Some)
            }
            None => Ok(None),
        }
    }

    pub(super) fn by_proxy(&self, given: &Credentials<'_>, settings: &Settings, secrets: &Secrets) -> Option<SignedIn> {
        let name = given.proxy_user?;
        if settings.proxy.use_secret {
            if !secrets.is_set() {
                // The secret was deleted from the settings. CouchDB would then accept every client.
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

    pub(super) fn by_token(&self, given: &Credentials<'_>, settings: &Settings) -> Result<Option<SignedIn>> {
        let Some(token) = bearer(given) else { return Ok(None) };
        let now = self.clock.since_epoch().as_secs();
        let user = settings.jwt.authenticate(token, now, &*self.published)?;
        Ok(Some(SignedIn { user, proof: Self::proof_of_jwt(token), ..SignedIn::default() }))
    }

    pub(super) fn by_own_token(
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
}

/// A sign-in by a cookie that is not renewed.
pub(super) fn signed_in_by(cookie: Cookie, account: Account, device: Option<String>) -> SignedIn {
    let user = UserCtx { name: Some(cookie.name.clone()), roles: account.roles, handler: Some(Handler::Cookie) };
    let session = Some(Session::Cookie(cookie.issued));
    let proof = Proof::Cookie { cookie, device };
    SignedIn { user, session, proof, ..SignedIn::default() }
}
