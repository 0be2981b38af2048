//! The credentials of a request, and the parsing of the `Authorization` header.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::auth::devices::Client;
use crate::error::{Error, Result};

/// What CouchDB answers to every wrong name, password or code.
pub const INCORRECT: &str = "Name or password is incorrect.";

/// Basic's base64: padding required, as CouchDB's.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// What a request brings. All as plain text, taken from headers by the caller.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// `Authorization`.
    pub authorization: Option<&'a str>,
    /// The value of the session cookie: [`session::find`].
    pub cookie: Option<&'a str>,
    /// The headers that [`super::settings::Proxy`] names.
    pub proxy_user: Option<&'a str>,
    pub proxy_roles: Option<&'a str>,
    pub proxy_token: Option<&'a str>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// What the client calls itself: its device's name, else its user agent.
    pub device: Option<&'a str>,
}

impl Credentials<'_> {
    pub(super) fn client(&self) -> Client {
        client(self.device.unwrap_or_default(), self.peer)
    }

    /// Whether there is nothing to look at: the asker is nobody, and no thread is needed to find out.
    pub fn is_empty(&self) -> bool {
        self.authorization.is_none() && self.cookie.is_none() && self.proxy_user.is_none()
    }
}

/// Name and password of a Basic `Authorization`. `None`: it is something else, or CouchDB's `_:_` for nobody.
pub fn basic(authorization: &str) -> Result<Option<(String, String)>> {
    let Some(encoded) = authorization.strip_prefix("Basic ") else { return Ok(None) };
    let bad = || Error::BadRequest("Authorization header has invalid base64 value".into());
    let bytes = BASE64.decode(encoded.trim()).map_err(|_| bad())?;
    // Names and passwords are kept as text, so bytes that are none cannot be right.
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

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
