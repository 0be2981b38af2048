//! Checks a sign-in again without its credentials: for requests whose bodies take their time, and for feeds that stay
//! open. The answer is the user as they are now, or that a new request with the same credentials would be refused.
//!
//! ```text
//! password   account there, hash the same (or one that this server made of the same password), no one-time codes
//! cookie     account there, signed with its salt of now, device not revoked; of a feed: the session is not over
//! own token  account there, signed with its salt of now, device not revoked, not over
//! JWT        not over, and good by the keys and settings of now
//! proxy      good by the settings of now
//! ```
//! The handler must still be among `chttpd/authentication_handlers`; roles are those of now.

use super::*;
use crate::auth::jwt;
use crate::auth::settings::Proxy;

/// What a sign-in depends on. It holds no password, only an HMAC of it under a key of this process.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nobody signed in.
    #[default]
    Nobody,
    /// A password, and the fingerprint of the stored hash that it was right for.
    Password { name: String, mac: [u8; 32], stored: [u8; 16] },
    /// A session cookie, and the id of its device.
    Cookie { cookie: Cookie, device: Option<String> },
    /// An access token of this server.
    Access(Access),
    /// A user that a proxy named, and the headers that it named them in.
    Proxy { user: UserCtx, token: Option<String>, by: Proxy },
    /// A token of another issuer, and the second at which it ends.
    Jwt { token: String, until: Option<u64> },
}

/// Without what could be used to sign in.
impl std::fmt::Debug for Proof {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Proof").field(&self.name()).finish()
    }
}

impl Proof {
    /// The name of the account that it depends on; `None` if it depends on none.
    pub fn account(&self) -> Option<&str> {
        match self {
            Proof::Password { name, .. } => Some(name),
            Proof::Cookie { cookie, .. } => Some(&cookie.name),
            Proof::Access(access) => Some(&access.user),
            Proof::Nobody | Proof::Proxy { .. } | Proof::Jwt { .. } => None,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Proof::Proxy { user, .. } => user.name.as_deref(),
            other => other.account(),
        }
    }

    /// Whether revoking a device may end it.
    pub fn has_device(&self) -> bool {
        matches!(self, Proof::Cookie { .. } | Proof::Access(_))
    }

    /// The second at which it ends by itself. A session's end moves with each use: [`Authenticator::still`] tells it.
    pub fn until(&self) -> Option<u64> {
        match self {
            Proof::Access(access) => Some(access.until),
            Proof::Jwt { until, .. } => *until,
            Proof::Nobody | Proof::Password { .. } | Proof::Cookie { .. } | Proof::Proxy { .. } => None,
        }
    }
}

/// A sign-in that is still good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Still {
    /// The user with the roles of now.
    pub user: UserCtx,
    /// The second at which to check again at the latest.
    pub until: Option<u64>,
    /// What it depends on from now on, if that is something else than before.
    pub proof: Option<Proof>,
}

impl Authenticator {
    /// Counts changes of the settings.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Seconds since the epoch.
    pub fn now(&self) -> u64 {
        self.clock.since_epoch().as_secs()
    }

    /// Whether a sign-in is still good: `None` if a new request with the same credentials would be refused.
    ///
    /// `waits`: the client only listens, as that of a feed does. Its session then ends when nothing else has used it for
    /// `chttpd_auth/timeout` seconds; an upload counts as use for as long as it comes. Blocks on the store, and for a
    /// token on its issuer's keys.
    pub fn still(&self, proof: &Proof, waits: bool) -> Result<Option<Still>> {
        match self.check_again(proof, waits) {
            Err(Error::Unauthorized(_) | Error::Forbidden(_) | Error::BadRequest(_) | Error::NotFound(_)) => Ok(None),
            other => other,
        }
    }

    fn check_again(&self, proof: &Proof, waits: bool) -> Result<Option<Still>> {
        let (settings, secrets) = self.current();
        let now = self.now();
        match proof {
            Proof::Nobody => Ok(Some(Still { user: UserCtx::anonymous(), until: None, proof: None })),
            Proof::Password { name, mac, stored } => {
                let Some(account) = self.account(name, &settings)? else { return Ok(None) };
                let Some(found) = &account.stored else { return Ok(None) };
                if !settings.uses(Handler::Default) || account.totp.is_some() {
                    return Ok(None);
                }
                if !self.is_same(name, mac, *stored, found) {
                    return Ok(None);
                }
                let stored_now = found.fingerprint();
                let renewed = (stored_now != *stored).then(|| Proof::Password {
                    name: name.clone(),
                    mac: *mac,
                    stored: stored_now,
                });
                let user = user(name, account.roles, Handler::Default);
                Ok(Some(Still { user, until: None, proof: renewed }))
            }
            Proof::Cookie { cookie, device } => {
                let Some(account) = self.account(&cookie.name, &settings)? else { return Ok(None) };
                let good = settings.uses(Handler::Cookie)
                    && secrets.is_set()
                    && cookie.verify(&secrets, account.salt(), &settings.hash_algorithms, now);
                if !good {
                    return Ok(None);
                }
                let end = match (&self.devices, device) {
                    (Some(devices), Some(device)) => devices.session_end(&cookie.name, device, settings.timeout)?,
                    _ => Some(cookie.issued.saturating_add(settings.timeout)),
                };
                let Some(end) = end.filter(|end| !waits || now < *end) else { return Ok(None) };
                let user = user(&cookie.name, account.roles, Handler::Cookie);
                Ok(Some(Still { user, until: waits.then_some(end), proof: None }))
            }
            Proof::Access(access) => {
                let Some(devices) = &self.devices else { return Ok(None) };
                let Some(account) = self.account(&access.user, &settings)? else { return Ok(None) };
                let good = access.verify(&secrets, account.salt(), now);
                if !good || !devices.is_known(&access.user, &access.device)? {
                    return Ok(None);
                }
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

    /// Whether `found` is the hash that the password was right for, or one that this server has made of it since.
    fn is_same(&self, name: &str, mac: &[u8; 32], stored: [u8; 16], found: &Stored) -> bool {
        found.fingerprint() == stored || self.verified.knows_mac(name, mac, found, self.clock.since_epoch())
    }

    /// Whether a password that was right a moment ago is that of this account.
    pub(super) fn is_of(&self, proof: &Proof, account: &Account) -> bool {
        match (proof, &account.stored) {
            (Proof::Password { name, mac, stored }, Some(found)) => self.is_same(name, mac, *stored, found),
            _ => false,
        }
    }

    /// The proof of a password that was right for this account.
    pub(super) fn proof_of_password(&self, name: &str, password: &str, account: &Account) -> Proof {
        match &account.stored {
            Some(stored) => Proof::Password {
                name: name.to_string(),
                mac: self.verified.mac(password),
                stored: stored.fingerprint(),
            },
            None => Proof::Nobody,
        }
    }

    /// The proof of a token of another issuer.
    pub(super) fn proof_of_jwt(token: &str) -> Proof {
        Proof::Jwt { token: token.to_string(), until: jwt::ends_at(token) }
    }

    /// Remembers a hash that this server has made of a password which it knows to be right, before it is stored: those who
    /// came with that password stay signed in.
    pub fn rehashed(&self, name: &str, password: &str, stored: &Stored) {
        self.verified.remember(name, password, stored, self.clock.since_epoch());
    }
}

fn user(name: &str, roles: Vec<String>, handler: Handler) -> UserCtx {
    UserCtx { name: Some(name.to_string()), roles, handler: Some(handler) }
}
