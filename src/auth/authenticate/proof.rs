//! The proof of a sign-in, by which it is checked again later.

use crate::auth::UserCtx;
use crate::auth::session::Cookie;
use crate::auth::settings::Proxy;
use crate::auth::token::Access;

/// What a sign-in depends on. Contains no password, only an HMAC of it under a key of this process.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Proof {
    /// The client is anonymous.
    #[default]
    Nobody,
    /// The client is the owner of the data folder.
    Owner,
    /// A password, and the fingerprint of the stored hash that it matched.
    Password { name: String, mac: [u8; 32], stored: [u8; 16] },
    /// A session cookie, and the id of its device.
    Cookie { cookie: Cookie, device: Option<String> },
    /// An access token of this server.
    Access(Access),
    /// A user that a proxy authenticated, with the headers that carried it.
    Proxy { user: UserCtx, token: Option<String>, by: Proxy },
    /// A token of another issuer, and the second at which it expires.
    Jwt { token: String, until: Option<u64> },
}

/// Shows only the name, nothing that could be used to sign in.
impl std::fmt::Debug for Proof {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Proof").field(&self.name()).finish()
    }
}

impl Proof {
    /// The id of the device that the session or token belongs to.
    pub fn device(&self) -> Option<&str> {
        match self {
            Proof::Cookie { device, .. } => device.as_deref(),
            Proof::Access(access) => Some(&access.device),
            Proof::Nobody | Proof::Owner | Proof::Password { .. } | Proof::Proxy { .. } | Proof::Jwt { .. } => None,
        }
    }

    /// The account that it depends on, if any.
    pub fn account(&self) -> Option<&str> {
        match self {
            Proof::Password { name, .. } => Some(name),
            Proof::Cookie { cookie, .. } => Some(&cookie.name),
            Proof::Access(access) => Some(&access.user),
            Proof::Nobody | Proof::Owner | Proof::Proxy { .. } | Proof::Jwt { .. } => None,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Proof::Proxy { user, .. } => user.name.as_deref(),
            other => other.account(),
        }
    }

    /// Whether revoking a device may end the sign-in.
    pub fn has_device(&self) -> bool {
        matches!(self, Proof::Cookie { .. } | Proof::Access(_))
    }

    /// The second at which it expires. The end of a session moves with each use: `Authenticator::still`
    /// returns it.
    pub fn until(&self) -> Option<u64> {
        match self {
            Proof::Access(access) => Some(access.until),
            Proof::Jwt { until, .. } => *until,
            Proof::Nobody | Proof::Owner | Proof::Password { .. } | Proof::Cookie { .. } | Proof::Proxy { .. } => None,
        }
    }
}
