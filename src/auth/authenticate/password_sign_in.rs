//! Signs in with a name, a password and possibly a one-time code, in two steps around the password hash.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::account::Account;
use super::authenticator::{Authenticator, no_secret};
use super::credentials::{INCORRECT, client};
use super::proof::Proof;
use super::signed_in::{Pending, Purpose, Session, SignedIn, Step, Upgrade};
use crate::auth::lockout::Mode;
use crate::auth::password::{Stored, verify_nobody};
use crate::auth::session;
use crate::auth::settings::Settings;
use crate::auth::{Handler, UserCtx};
use crate::error::{Error, Result};

impl Authenticator {
    /// Begins `POST /_session`: signs a user in with a name, a password and, if the user has them enabled, a
    /// one-time code. `device`: the name of the client's device.
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
        self.step(self.account(name, &settings)?, name, password, purpose, peer, &settings)
    }

    /// Begins a check of a name, a password and a one-time code that creates no session.
    pub fn begin_check(&self, name: &str, password: &str, code: Option<&str>, peer: Option<IpAddr>) -> Result<Step> {
        let (settings, _) = self.current();
        let purpose = Purpose::Check { code: code.map(str::to_string) };
        self.step(self.account(name, &settings)?, name, password, purpose, peer, &settings)
    }

    /// Computes the hash that [`Authenticator::begin`] asked for, and completes the sign-in. Blocks during
    /// the hash.
    pub fn finish(&self, pending: Pending) -> Result<SignedIn> {
        let (settings, _) = self.current();
        let now = self.clock.since_epoch();
        // Other sign-ins of this user may have finished while this one waited: their lockout or cached
        // password applies here as well.
        if settings.lockout.mode == Mode::Enforce {
            let salt = pending.account.as_ref().map_or("", Account::salt);
            if let Some(wait) = self.lockout.refuses(pending.peer, &pending.name, salt, &settings.lockout, now) {
                return Err(Error::Locked(wait));
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
        // The account may have been deleted or got another password while this sign-in waited.
        let right = right && self.account(&pending.name, &settings)?.is_some_and(|account| account.salt() == salt);
        match &pending.account {
            Some(account) if right && self.second_factor(&pending.name, account, &pending.purpose)? => {
                let mac = self.verified.mac(&pending.password);
                if let Some(stored) = &account.stored {
                    self.verified.remember(&pending.name, mac, stored, now);
                    // CouchDB counts the hash that its cache computes for the new entry.
                    self.fast.fetch_add(1, Ordering::Relaxed);
                }
                self.succeed(&pending.name, (&pending.password, mac), account, &pending.purpose)
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

    /// Whether a password matches a stored hash. If this server refuses to compute the hash, no password
    /// matches, and the check takes as long as for an unknown name: only the log shows the difference.
    pub(super) fn verify(&self, stored: &Stored, pending: &Pending, settings: &Settings) -> bool {
        match stored.verify(&pending.password, &settings.password) {
            Ok(right) => right,
            Err(error) => {
                tracing::warn!(user = pending.name, %error, "this server refuses to compute the stored hash of an account");
                verify_nobody(&pending.password, &settings.password);
                false
            }
        }
    }

    /// Calls [`Authenticator::begin_session`] and, if needed, [`Authenticator::finish`]. Blocks.
    pub fn sign_in(&self, name: &str, password: &str, code: Option<&str>, peer: Option<IpAddr>) -> Result<SignedIn> {
        match self.begin_session(name, password, code, peer, "")? {
            Step::Done(who) => Ok(who),
            Step::Hash(pending) => self.finish(pending),
        }
    }

    /// The first step of a password sign-in, before the hash. `account`: that of `name`; `None`: nobody has this name.
    pub(super) fn step(
        &self,
        account: Option<Account>,
        name: &str,
        password: &str,
        purpose: Purpose,
        peer: Option<IpAddr>,
        settings: &Settings,
    ) -> Result<Step> {
        let now = self.clock.since_epoch();
        let salt = account.as_ref().map_or("", Account::salt);
        if let Some(wait) = self.lockout.refuses(peer, name, salt, &settings.lockout, now) {
            return Err(Error::Locked(wait));
        }
        if let Some(account) = &account
            && let Some(signed) = self.remembered(name, password, account, &purpose, now)
        {
            return signed.map(Step::Done);
        }
        Ok(Step::Hash(Pending { name: name.into(), password: password.into(), account, peer, purpose }))
    }

    /// Completes a sign-in if the cache knows the password. Returns `None` if it must be hashed.
    pub(super) fn remembered(
        &self,
        name: &str,
        password: &str,
        account: &Account,
        purpose: &Purpose,
        now: Duration,
    ) -> Option<Result<SignedIn>> {
        let stored = account.stored.as_ref()?;
        let mac = self.verified.mac(password);
        let known = self.verified.knows(name, &mac, stored, now);
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
        Some(self.succeed(name, (password, mac), account, purpose))
    }

    /// Whether the one-time code is right, or the user has none enabled. The check uses up the code, so it
    /// must come after the password was verified.
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

    /// The result of a sign-in with a password that was verified. `mac`: its HMAC under the key of the cache.
    pub(super) fn succeed(
        &self,
        name: &str,
        (password, mac): (&str, [u8; 32]),
        account: &Account,
        purpose: &Purpose,
    ) -> Result<SignedIn> {
        account.check_usable()?;
        let (settings, secrets) = self.current();
        let stored = account.stored.as_ref().filter(|stored| {
            account.from_document && settings.password.upgrade_on_sign_in && stored.needs_upgrade(&settings.password)
        });
        let upgrade =
            stored.map(|old| Upgrade { name: name.into(), password: password.into(), salt: old.salt.clone() });
        let user = UserCtx { name: Some(name.into()), roles: account.roles.clone(), handler: Some(Handler::Default) };
        let Purpose::Session { client, .. } = purpose else {
            let proof = self.proof_of_password(name, mac, account);
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

    /// Rejects a sign-in if the account has been deleted or got another password since it began. Nothing of
    /// the sign-in may remain for the next account of this name.
    pub(super) fn check_unchanged(&self, name: &str, salt: &str, settings: &Settings) -> Result<()> {
        match self.account(name, settings)? {
            Some(account) if account.salt() == salt => Ok(()),
            Some(_) | None => Err(Error::Unauthorized(INCORRECT.into())),
        }
    }
}
