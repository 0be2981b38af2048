//! Issues and refreshes the tokens of this server.

use std::net::IpAddr;

use super::authenticator::{Authenticator, no_secret};
use super::credentials::{INCORRECT, client};
use super::proof::Proof;
use crate::auth::devices::Tokens;
use crate::auth::session::Secrets;
use crate::auth::token;
use crate::error::{Error, Result};
use crate::hex::unhex;

impl Authenticator {
    /// After a sign-in: registers a device, and returns its access token and refresh token. Reads the user's
    /// document. `proof` proves the password: if the password has changed since, no
    /// tokens are issued.
    pub fn issue_tokens(
        &self,
        name: &str,
        proof: &Proof,
        device: &str,
        peer: Option<IpAddr>,
    ) -> Result<(String, String)> {
        let (settings, secrets) = self.current();
        let devices = self.devices.as_ref().ok_or_else(no_secret)?;
        let account = self.account(name, &settings)?.filter(|account| self.is_of(proof, account));
        let account = account.ok_or_else(|| Error::Unauthorized(INCORRECT.into()))?;
        let tokens = devices.begin_tokens(name, account.salt(), &client(device, peer), settings.timeout)?;
        self.check_unchanged(name, account.salt(), &settings).inspect_err(|_| {
            let _ = devices.revoke(name, &tokens.device);
        })?;
        self.token_pair(name, account.salt(), &tokens, &secrets)
    }

    /// Exchanges a refresh token for a new pair of tokens.
    ///
    /// # Errors
    /// `Unauthorized` if the token is not valid.
    pub fn refresh_tokens(&self, refresh: &str, device: &str, peer: Option<IpAddr>) -> Result<(String, String)> {
        let (settings, secrets) = self.current();
        let refused = || Error::Unauthorized("The refresh token is not valid.".into());
        let devices = self.devices.as_ref().ok_or_else(no_secret)?;
        let (tokens, name) = split_refresh(refresh).ok_or_else(refused)?;
        let account = self.account(&name, &settings)?.ok_or_else(refused)?;
        account.check_usable().map_err(|_| refused())?;
        let rotated = devices.rotate(&name, account.salt(), &tokens, &client(device, peer))?;
        self.token_pair(&name, account.salt(), &rotated.ok_or_else(refused)?, &secrets)
    }

    pub(super) fn token_pair(
        &self,
        name: &str,
        salt: &str,
        tokens: &Tokens,
        secrets: &Secrets,
    ) -> Result<(String, String)> {
        let now = self.clock.since_epoch().as_secs();
        let access = token::issue(name, &tokens.device, salt, now, secrets).ok_or_else(no_secret)?;
        // The token contains the name to locate the record; the name proves nothing.
        let refresh = format!("{}.{}.{}", tokens.device, tokens.refresh, crate::hex::hex(name.as_bytes()));
        Ok((access, refresh))
    }
}

/// Parses `DEVICE.SECRET.NAME`, with the name in hex.
fn split_refresh(text: &str) -> Option<(Tokens, String)> {
    let mut parts = text.split('.');
    let (device, refresh, name, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let name = String::from_utf8(unhex(name)?).ok()?;
    Some((Tokens { device: device.to_string(), refresh: refresh.to_string() }, name))
}
