//! Re-checks a sign-in without its credentials, for requests with slow bodies and for long-lived feeds. The
//! result is the user with the current roles, or nothing if a new request with the same credentials would be
//! rejected.
//!
//! ```text
//! password   the account exists; the hash is the same, or a rehash of the same password; no one-time codes
//! cookie     the account exists, its salt verifies the cookie, device not revoked; feeds: session in use
//! own token  the account exists, its salt verifies the token, device not revoked, token not expired
//! JWT        not expired, valid by the current keys and settings
//! proxy      valid by the current settings
//! ```
//! As for a new request, an account whose document has conflicts is rejected
//! (`chttpd_auth/allow_conflicted_user_docs`).
//! The owner of the data folder stays valid. In all other cases the handler must still be among `chttpd/authentication_handlers`.

use std::sync::atomic::Ordering;

use super::account::Account;
use super::authenticator::Authenticator;
use super::credentials::Credentials;
use super::proof::Proof;
use crate::auth::password::Stored;
use crate::auth::session::{Cookie, Secrets};
use crate::auth::settings::Proxy;
use crate::auth::{Handler, Settings, UserCtx, jwt};
use crate::error::{Error, Result};

/// A sign-in that is still valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Still {
    /// The user with the current roles.
    pub user: UserCtx,
    /// The second at which it must be checked again.
    pub until: Option<u64>,
    /// The new proof, if the stored hash was renewed.
    pub proof: Option<Proof>,
}

impl Authenticator {
    /// The number of changes so far of settings and of keys that an issuer publishes.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire).wrapping_add(self.published.changes())
    }

    /// Seconds since the epoch.
    pub fn now(&self) -> u64 {
        self.clock.since_epoch().as_secs()
    }

    /// Checks a sign-in again. Returns `None` if it is no longer valid.
    ///
    /// `waits`: the client only listens, as the client of a feed does. Its session then ends when no other
    /// request has used it for `chttpd_auth/timeout` seconds. An upload uses the session as long as it takes.
    /// Blocks on the store, and for a JWT possibly on the issuer's keys.
    pub fn still(&self, proof: &Proof, waits: bool) -> Result<Option<Still>> {
        match self.check_again(proof, waits) {
            Err(
                Error::Unauthorized(_)
                | Error::Forbidden(_)
                | Error::Locked(_)
                | Error::BadRequest(_)
                | Error::NotFound(_),
            ) => Ok(None),
            other => other,
        }
    }

    fn check_again(&self, proof: &Proof, waits: bool) -> Result<Option<Still>> {
        let (settings, secrets) = self.current();
        let now = self.now();
        match proof {
            Proof::Nobody => Ok(Some(Still { user: UserCtx::anonymous(), until: None, proof: None })),
            Proof::Owner => Ok(Some(Still { user: UserCtx::server(), until: None, proof: None })),
            Proof::Password { name, mac, stored } => self.check_password(name, mac, *stored, &settings),
            Proof::Cookie { cookie, device } => {
                self.check_cookie(cookie, device.as_deref(), waits, &settings, &secrets)
            }
            Proof::Access(access) => {
                let Some(devices) = &self.devices else { return Ok(None) };
                let Some(account) = self.account(&access.user, &settings)? else { return Ok(None) };
                let good = access.verify(&secrets, account.salt(), now);
                if !good || !devices.is_known(&access.user, &access.device)? {
                    return Ok(None);
                }
                account.check_usable()?;
                let user = user(&access.user, account.roles, Handler::Jwt);
                Ok(Some(Still { user, until: Some(access.until), proof: None }))
            }
            Proof::Proxy { user, token, by } => {
                let by_now = Proxy { use_secret: by.use_secret, ..settings.proxy.clone() };
                let given = Credentials {
                    proxy_user: user.name.as_deref(),
                    proxy_token: token.as_deref(),
                    ..Credentials::default()
                };
                let good = settings.uses(Handler::Proxy)
                    && by_now == *by
                    && self.by_proxy(&given, &settings, &secrets).is_some();
                Ok(good.then(|| Still { user: user.clone(), until: None, proof: None }))
            }
            Proof::Jwt { token, until } => {
                if !settings.uses(Handler::Jwt) || until.is_some_and(|until| until <= now) {
                    return Ok(None);
                }
                let user = settings.jwt.authenticate(token, now, &*self.published)?;
                Ok(Some(Still { user, until: *until, proof: None }))
            }
        }
    }

    fn check_password(
        &self,
        name: &str,
        mac: &[u8; 32],
        stored: [u8; 16],
        settings: &Settings,
    ) -> Result<Option<Still>> {
        let Some(account) = self.account(name, settings)? else { return Ok(None) };
        account.check_usable()?;
        let Some(found) = &account.stored else { return Ok(None) };
        if !settings.uses(Handler::Default) || account.totp.is_some() {
            return Ok(None);
        }
        if !self.is_same(name, mac, stored, found) {
            return Ok(None);
        }
        let stored_now = found.fingerprint();
        let renewed =
            (stored_now != stored).then(|| Proof::Password { name: name.to_string(), mac: *mac, stored: stored_now });
        let user = user(name, account.roles, Handler::Default);
        Ok(Some(Still { user, until: None, proof: renewed }))
    }

    fn check_cookie(
        &self,
        cookie: &Cookie,
        device: Option<&str>,
        waits: bool,
        settings: &Settings,
        secrets: &Secrets,
    ) -> Result<Option<Still>> {
        let now = self.now();
        let Some(account) = self.account(&cookie.name, settings)? else { return Ok(None) };
        let good = settings.uses(Handler::Cookie)
            && secrets.is_set()
            && cookie.verify(secrets, account.salt(), &settings.hash_algorithms, now);
        if !good {
            return Ok(None);
        }
        account.check_usable()?;
        let end = match (&self.devices, device) {
            (Some(devices), Some(device)) => devices.session_end(&cookie.name, device, settings.timeout)?,
            _ => Some(cookie.issued.saturating_add(settings.timeout)),
        };
        let Some(end) = end.filter(|end| !waits || now < *end) else { return Ok(None) };
        let user = user(&cookie.name, account.roles, Handler::Cookie);
        Ok(Some(Still { user, until: waits.then_some(end), proof: None }))
    }

    /// Whether `found` is the hash that was verified, or one that this server has computed for the same
    /// password since.
    fn is_same(&self, name: &str, mac: &[u8; 32], stored: [u8; 16], found: &Stored) -> bool {
        found.fingerprint() == stored || self.verified.knows(name, mac, found, self.clock.since_epoch())
    }

    /// Whether the password of `proof` is this account's password.
    pub(super) fn is_of(&self, proof: &Proof, account: &Account) -> bool {
        match (proof, &account.stored) {
            (Proof::Password { name, mac, stored }, Some(found)) => self.is_same(name, mac, *stored, found),
            _ => false,
        }
    }

    /// The proof of a password that this account's hash has verified, given its HMAC.
    pub(super) fn proof_of_password(&self, name: &str, mac: [u8; 32], account: &Account) -> Proof {
        match &account.stored {
            Some(stored) => Proof::Password { name: name.to_string(), mac, stored: stored.fingerprint() },
            None => Proof::Nobody,
        }
    }

    /// The proof of a token of another issuer.
    pub(super) fn proof_of_jwt(token: &str) -> Proof {
        Proof::Jwt { token: token.to_string(), until: jwt::ends_at(token) }
    }

    /// Records that `stored` is a new hash of a verified password. Must be called before the hash is stored,
    /// so that requests and feeds that signed in with the password stay valid.
    pub fn rehashed(&self, name: &str, password: &str, stored: &Stored) {
        self.verified.remember(name, self.verified.mac(password), stored, self.clock.since_epoch());
    }
}

fn user(name: &str, roles: Vec<String>, handler: Handler) -> UserCtx {
    UserCtx { name: Some(name.to_string()), roles, handler: Some(handler) }
}
