//! The result of a sign-in, and a sign-in that waits for its password hash.

use std::net::IpAddr;

use super::account::Account;
use super::proof::Proof;
use crate::auth::UserCtx;
use crate::auth::devices::Client;

/// The result of a sign-in or of the check of a request's credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SignedIn {
    pub user: UserCtx,
    /// The value of a new session cookie to send, after `POST /_session` or when the old one is due for
    /// renewal.
    pub cookie: Option<String>,
    /// The session or token that was used or created.
    pub session: Option<Session>,
    /// Set if the stored hash is outdated: the caller rehashes the password after the response.
    pub upgrade: Option<Upgrade>,
    /// The proof by which the sign-in can be checked again later.
    pub proof: Proof,
}

/// Omits the cookie, which is as sensitive as the password.
impl std::fmt::Debug for SignedIn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cookie, user) = (self.cookie.is_some(), &self.user);
        out.debug_struct("SignedIn").field("user", user).field("cookie", &cookie).finish_non_exhaustive()
    }
}

/// Identifies a session of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A cookie with this second of issue.
    Cookie(u64),
    /// An access token of this device.
    Token(String),
}

/// A password to rehash. The salt stays, so that the user's sessions stay valid.
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

/// The result of `Authenticator::begin`.
pub enum Step {
    Done(SignedIn),
    /// A password must be hashed: the caller calls `Authenticator::finish`.
    Hash(Pending),
}

/// A sign-in that waits for a hash.
pub struct Pending {
    pub(super) name: String,
    pub(super) password: String,
    /// `None` if the name is unknown.
    pub(super) account: Option<Account>,
    pub(super) peer: Option<IpAddr>,
    pub(super) purpose: Purpose,
}

impl Pending {
    /// The name that the client sent.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    Basic,
    /// `POST /_session`, with the one-time code if the client sent one.
    Session {
        code: Option<String>,
        client: Client,
    },
    /// `POST /_session/token`.
    Check {
        code: Option<String>,
    },
}
