//! Authenticates without a call that blocks, if everything is in memory: on a shared store, a thread that waits costs more than
//! most requests. In all other cases the answer is `None`, and [`Authenticator::begin`] decides.

use super::account::{Account, account_with};
use super::authenticator::Authenticator;
use super::credentials::{Credentials, basic};
use super::handlers::signed_in_by;
use super::signed_in::{Purpose, SignedIn, Step};
use crate::auth::session::{self, Cookie};
use crate::auth::settings::Settings;
use crate::auth::{Handler, devices};
use crate::error::Result;

/// A session cookie with the right signature, and the account of its user.
pub struct Unrevoked {
    cookie: Cookie,
    account: Account,
}

impl Unrevoked {
    /// The key of the record that tells whether the session was revoked.
    pub fn devices_key(&self) -> Vec<u8> {
        devices::key(&self.cookie.name)
    }
}

impl Authenticator {
    /// Begins for a name and a password without other credentials, if the user's document is in memory.
    pub fn begin_in_memory(&self, credentials: &Credentials<'_>) -> Option<Result<Step>> {
        let (settings, _) = self.current();
        let has_others = credentials.cookie.is_some() || credentials.proxy_user.is_some();
        if has_others || !settings.handlers.contains(&Handler::Default) {
            return None;
        }
        let (name, password) = basic(credentials.authorization?).ok()??;
        let account = self.account_in_memory(&name, &settings)?;
        Some(
            account
                .and_then(|account| self.step(account, &name, &password, Purpose::Basic, credentials.peer, &settings)),
        )
    }

    /// As [`Authenticator::account`], if the user's document is in memory.
    fn account_in_memory(&self, name: &str, settings: &Settings) -> Option<Result<Option<Account>>> {
        let document = self.users.document_in_memory(name)?;
        Some(account_with(&*self.users, name, settings, || Ok(document)))
    }

    /// The session cookie of a request without other credentials, if its signature is right, nothing about it must be
    /// written, and the user's document is in memory. Whether the session was revoked is not known yet.
    pub fn cookie_in_memory(&self, given: &Credentials<'_>) -> Option<Unrevoked> {
        let (settings, secrets) = self.current();
        let has_others = given.authorization.is_some() || given.proxy_user.is_some();
        if has_others || !settings.handlers.contains(&Handler::Cookie) {
            return None;
        }
        let (cookie, left) = self.current_cookie(given, &settings, &secrets).ok()??;
        if session::due_for_renewal(left, settings.timeout) {
            return None;
        }
        let account = self.account_in_memory(&cookie.name, &settings)?.ok()?;
        let account = self.owner(&cookie, account, &settings, &secrets).ok()??;
        Some(Unrevoked { cookie, account })
    }

    /// Completes [`Authenticator::cookie_in_memory`]. `devices`: the value under [`Unrevoked::devices_key`] that was read for
    /// this request. `None`: the record must be read again or written, or the session was revoked.
    pub fn signed_in_by_cookie(
        &self,
        given: &Credentials<'_>,
        session: Unrevoked,
        devices: Option<&[u8]>,
    ) -> Option<SignedIn> {
        let Unrevoked { cookie, account } = session;
        let known = self.devices.as_ref()?;
        let device = known.seen_in_memory(&cookie.name, cookie.issued, &given.client(), devices)?;
        Some(signed_in_by(cookie, account, Some(device)))
    }
}
