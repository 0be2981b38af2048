//! The result of a sign-in, and a sign-in that waits for its password hash.

use std::net::IpAddr;

use super::account::Account;
use super::proof::Proof;
use crate::auth::UserCtx;
use crate::auth::devices::Client;

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
    pub(super) name: String,
    pub(super) password: String,
    /// `None`: nobody has this name.
    pub(super) account: Option<Account>,
    pub(super) peer: Option<IpAddr>,
    pub(super) purpose: Purpose,
}

impl Pending {
    /// Whose password it is to be.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Purpose {
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
