//! Signs in with a name, a password and possibly a one-time code, in two steps around the password hash.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::account::Account;
use super::authenticator::{Authenticator, no_secret};
use super::credentials::{INCORRECT, client};
use super::proof::Proof;
use super::signed_in::{Pending, Purpose, Session, SignedIn, Step, Upgrade};
use crate::auth::lockout::{LOCKED, Mode};
use crate::auth::password::{Stored, verify_nobody};
use crate::auth::session;
use crate::auth::settings::Settings;
use crate::auth::{Handler, UserCtx};
use crate::error::{Error, Result};

impl Authenticator {
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
    pub(super) fn verify(&self, stored: &Stored, pending: &Pending, settings: &Settings) -> bool {
        match stored.verify(&pending.password, &settings.password) {
            Ok(right) => right,
            Err(error) => {
                tracing::warn!(user = pending.name, %error, "the stored hash of an account is not one to be computed here");
                verify_nobody(&pending.password, &settings.password);
                false
            }
        }
    }

    /// [`Authenticator::begin_session`] and [`Authenticator::finish`]. Blocks.
    pub fn sign_in(&self, name: &str, password: &str, code: Option<&str>, peer: Option<IpAddr>) -> Result<SignedIn> {
        match self.begin_session(name, password, code, peer, "")? {
            Step::Done(who) => Ok(who),
            Step::Hash(pending) => self.finish(pending),
        }
    }

    /// The part of a password sign-in before the hash.
    pub(super) fn step(
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
    pub(super) fn remembered(
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
    pub(super) fn second_factor(&self, name: &str, account: &Account, purpose: &Purpose) -> Result<bool> {
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

    pub(super) fn succeed(&self, name: &str, password: &str, account: &Account, purpose: &Purpose) -> Result<SignedIn> {
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
    pub(super) fn check_unchanged(&self, name: &str, salt: &str, settings: &Settings) -> Result<()> {
        match self.account(name, settings)? {
            Some(account) if account.salt() == salt => Ok(()),
            Some(_) | None => Err(Error::Unauthorized(INCORRECT.into())),
        }
    }
}
