//! The credentials of a request, and the parsing of the `Authorization` header.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::auth::devices::Client;
use crate::error::{Error, Result};

/// CouchDB's reason for rejecting any wrong name, password or code.
pub const INCORRECT: &str = "Name or password is incorrect.";

/// The base64 variant of Basic authentication. As in CouchDB, padding is required.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// The credentials of a request, as text. The caller takes them from the headers.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// `Authorization`.
    pub authorization: Option<&'a str>,
    /// The value of the session cookie: see `session::find`.
    pub cookie: Option<&'a str>,
    /// The headers that the proxy settings name.
    pub proxy_user: Option<&'a str>,
    pub proxy_roles: Option<&'a str>,
    pub proxy_token: Option<&'a str>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// The name of the client's device, or else its user agent.
    pub device: Option<&'a str>,
}

impl Credentials<'_> {
    pub(super) fn client(&self) -> Client {
        client(self.device.unwrap_or_default(), self.peer)
    }

    /// Whether there are no credentials: the client is anonymous, and authentication needs no blocking call.
    pub fn is_empty(&self) -> bool {
        self.authorization.is_none() && self.cookie.is_none() && self.proxy_user.is_none()
    }
}

/// Parses name and password of a Basic `Authorization` header. Returns `None` for other headers, and for
/// `_:_`, which in CouchDB stands for an anonymous client.
pub fn basic(authorization: &str) -> Result<Option<(String, String)>> {
    let Some(encoded) = authorization.strip_prefix("Basic ") else { return Ok(None) };
    let bad = || Error::BadRequest("Authorization header has invalid base64 value".into());
    let bytes = BASE64.decode(encoded.trim()).map_err(|_| bad())?;
    // Names and passwords are stored as text, so bytes that are not UTF-8 cannot match.
    let text = String::from_utf8(bytes).map_err(|_| Error::Unauthorized(INCORRECT.into()))?;
    Ok(match text.split_once(':') {
        None | Some(("_", "_")) => None,
        Some((name, password)) => Some((name.to_string(), password.to_string())),
    })
}

pub(super) fn bearer<'a>(given: &Credentials<'a>) -> Option<&'a str> {
    given.authorization?.strip_prefix("Bearer ").map(str::trim)
}

pub(super) fn client(name: &str, peer: Option<IpAddr>) -> Client {
    Client { name: name.to_string(), address: peer.map(|peer| peer.to_string()).unwrap_or_default() }
}
