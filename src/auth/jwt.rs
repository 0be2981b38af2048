//! JSON Web Tokens (RFC 7519) in `Authorization: Bearer`, as in CouchDB's `jwtf.erl`, `jwtf_keystore.erl` and
//! `couch_httpd_auth.erl`. Settings: the sections `[jwt_auth]` and `[jwt_keys]`. In addition to CouchDB,
//! settee supports keys from a JWKS URL ([`super::jwks`]) and EdDSA.
//!
//! A key is found by the **kind** that the token's `alg` requires and by the token's `kid`, so that an RSA
//! public key can never be used as an HMAC secret. `jsonwebtoken` verifies signatures, except ECDSA
//! (see `curves`). Claims are checked in CouchDB's order and with CouchDB's error texts. Two rules are
//! stricter than in CouchDB: `exp` and `nbf` are checked whenever they are present, even if not required, and
//! a time claim that is not a number is invalid.

pub mod key;
pub mod samples;

use std::collections::HashMap;

use base64::Engine;
use serde_json::{Map, Value};

use self::key::{Alg, BASE64, Key, Kind, key};
use super::jwks::{JwksSettings, Keys};
use super::source::{Source, role_list};
use super::{Handler, UserCtx};
use crate::error::{Error, Result};

/// Maximum length of a token in bytes; longer ones are rejected unparsed.
const MAX_TOKEN: usize = 16 << 10;

/// A required claim or header, with its required value, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Required {
    claim: String,
    value: Option<String>,
}

/// The place of the roles in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RolesClaim {
    /// `roles_claim_name`: a top-level claim, `_couchdb.roles` by default.
    Name(String),
    /// `roles_claim_path`: a path of members.
    Path(Vec<String>),
}

/// Settings of `[jwt_auth]` and `[jwt_keys]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Keys by kind and `kid`; for an invalid key, CouchDB's error text.
    keys: HashMap<(Kind, String), std::result::Result<Key, &'static str>>,
    /// `required_claims`; `None` if the setting is malformed.
    required: Option<Vec<Required>>,
    roles: RolesClaim,
    /// `allowed_algorithms`; `None` allows all.
    allowed: Option<Vec<String>>,
    /// The settings of the JWKS URL.
    pub jwks: Option<JwksSettings>,
}

impl Settings {
    /// Reads the settings. Malformed settings are logged, and lead to errors when a token is verified.
    pub(super) fn read(source: &dyn Source) -> Settings {
        let get = |key: &str| source.get("jwt_auth", key).filter(|text| !text.trim().is_empty());
        let keys = source.section("jwt_keys").into_iter().filter_map(|(name, value)| {
            let (kind, kid) = name.split_once(':')?;
            let kind = Kind::named(kind)?;
            Some(((kind, kid.to_string()), key(kind, &value)))
        });
        let roles = match get("roles_claim_path") {
            Some(path) => RolesClaim::Path(claim_path(&path)),
            None => RolesClaim::Name(get("roles_claim_name").unwrap_or_else(|| "_couchdb.roles".into())),
        };
        let required = match source.get("jwt_auth", "required_claims") {
            Some(claims) => required_claims(&claims),
            None => required_claims("exp"),
        };
        if required.is_none() {
            tracing::error!("jwt_auth/required_claims is malformed: rejecting all tokens");
        }
        Settings {
            keys: keys.collect(),
            required,
            roles,
            allowed: get("allowed_algorithms").map(|list| role_list(&list)),
            jwks: JwksSettings::read(source),
        }
    }

    /// The settings of the JWKS URL, if one is set.
    pub fn jwks(&self) -> Option<&JwksSettings> {
        self.jwks.as_ref()
    }

    /// Verifies a token and returns its user. `now` is in seconds since the epoch. `published` are the keys
    /// of the JWKS URL, which are used only if the settings have no key with the token's `kid`.
    pub fn authenticate(&self, token: &str, now: u64, published: &dyn Keys) -> Result<UserCtx> {
        let bad = |reason: &str| Error::BadRequest(reason.to_string());
        let malformed = || bad("Malformed authentication token");
        if token.len() > MAX_TOKEN {
            return Err(malformed());
        }
        let mut parts = token.split('.');
        let (Some(head), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let required =
            self.required.as_ref().ok_or_else(|| Error::Internal("JWT is not configured correctly".into()))?;
        let header = object(head)?;
        self.check_header(&header, required)?;
        let alg = header.get("alg").and_then(Value::as_str).ok_or_else(|| bad("Missing alg header parameter"))?;
        let alg =
            Alg::named(alg).filter(|alg| self.allowed.as_ref().is_none_or(|list| list.iter().any(|a| a == alg.name)));
        let alg = alg.ok_or_else(|| bad("Invalid alg header parameter"))?;
        let claims = object(payload)?;
        check_claims(&claims, required, now)?;

        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.as_str()),
            Some(_) => return Err(bad("Unknown kid")),
        };
        let own = self.keys.get(&(alg.kind, kid.unwrap_or("_default").to_string()));
        let (key, is_own) = match own {
            Some(Ok(key)) => (key.clone(), true),
            Some(Err(reason)) => return Err(bad(reason)),
            None => match &self.jwks {
                Some(jwks) => (published.find(jwks, alg, kid)?.ok_or_else(|| bad("Unknown kid"))?, false),
                None => return Err(bad("Unknown kid")),
            },
        };
        let message = &token.as_bytes()[..head.len() + 1 + payload.len()];
        if !key.verifies(alg, message, signature) {
            let what = if alg.kind == Kind::Hmac { "HMAC" } else { "signature" };
            return Err(Error::BadRequest(format!("Bad {what} in authentication token")));
        }

        let mut roles = self.roles(&claims, is_own)?;
        if !is_own && !self.jwks.as_ref().is_some_and(|jwks| jwks.system_roles) {
            roles.retain(|role| !role.starts_with('_'));
        }
        match claims.get("sub") {
            None => Err(Error::Unauthorized("Token missing sub claim.".into())),
            Some(Value::String(name)) if !name.is_empty() => {
                Ok(UserCtx { name: Some(name.clone()), roles, handler: Some(Handler::Jwt) })
            }
            Some(_) => Err(bad("Malformed token")),
        }
    }

    fn check_header(&self, header: &Map<String, Value>, required: &[Required]) -> Result<()> {
        let must_have = |name: &str| required.iter().any(|required| required.claim == name);
        if must_have("typ") {
            match header.get("typ") {
                None => return Err(Error::BadRequest("Missing typ header parameter".into())),
                Some(typ) if typ == "JWT" => {}
                Some(_) => return Err(Error::BadRequest("Invalid typ header parameter".into())),
            }
        }
        if must_have("kid") && !header.contains_key("kid") {
            return Err(Error::BadRequest("Missing kid claim".into()));
        }
        Ok(())
    }

    /// Returns the roles of a token: an array of strings, or one comma-separated string.
    fn roles(&self, claims: &Map<String, Value>, is_own: bool) -> Result<Vec<String>> {
        let found = match &self.roles {
            RolesClaim::Name(name) => claims.get(name),
            RolesClaim::Path(path) => {
                let mut found = None;
                for (depth, name) in path.iter().enumerate() {
                    let members = if depth == 0 { Some(claims) } else { found.and_then(Value::as_object) };
                    found = members.and_then(|members| members.get(name));
                    if found.is_none_or(Value::is_null) {
                        // An external issuer may omit the claim for a user without roles.
                        if !is_own {
                            return Ok(Vec::new());
                        }
                        return Err(Error::NotFound(format!("missing json key: {name}")));
                    }
                }
                found
            }
        };
        let malformed = || Error::BadRequest("Malformed token".into());
        match found {
            None => Ok(Vec::new()),
            Some(Value::String(list)) => Ok(role_list(list)),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_string).ok_or_else(malformed)).collect()
            }
            Some(_) => Err(malformed()),
        }
    }
}

/// Decodes a part of a token: the base64url encoding of a JSON object.
fn object(part: &str) -> Result<Map<String, Value>> {
    let malformed = || Error::BadRequest("Malformed authentication token".into());
    let bytes = BASE64.decode(part).map_err(|_| malformed())?;
    match serde_json::from_slice(&bytes).map_err(|_| malformed())? {
        Value::Object(members) => Ok(members),
        _ => Err(Error::BadRequest("Not an object".into())),
    }
}

/// Tolerance in seconds for an issuer's clock that is ahead, for an `nbf` that is not required. CouchDB
/// ignores such an `nbf`.
const SKEW: f64 = 60.0;

/// The first second at which a token's `exp` is no longer in the future; `None` if it has none.
pub(super) fn ends_at(token: &str) -> Option<u64> {
    let claims = object(token.split('.').nth(1)?).ok()?;
    claims.get("exp")?.as_f64().map(|end| end.ceil() as u64)
}

fn check_claims(claims: &Map<String, Value>, required: &[Required], now: u64) -> Result<()> {
    let bad = |text: String| Error::BadRequest(text);
    let now = now as f64;
    for Required { claim, value } in required {
        if matches!(claim.as_str(), "alg" | "kid" | "typ" | "sig") {
            continue;
        }
        let given = claims.get(claim).ok_or_else(|| bad(format!("Missing {claim} claim")))?;
        let fits = match (claim.as_str(), value, given) {
            (_, Some(value), Value::Array(items)) => claim == "aud" && items.iter().any(|item| item == value.as_str()),
            (_, Some(value), given) => given == value.as_str(),
            ("iat", None, given) => given.is_i64() || given.is_u64(),
            ("nbf", None, given) if !given.as_f64().is_some_and(|time| time < now) => {
                return Err(Error::Unauthorized("nbf not in past".into()));
            }
            _ => true,
        };
        if !fits {
            return Err(bad(format!("Invalid {claim} claim")));
        }
    }
    if claims.get("exp").is_some_and(|time| !time.as_f64().is_some_and(|time| time > now)) {
        return Err(Error::Unauthorized("exp not in future".into()));
    }
    if claims.get("nbf").is_some_and(|time| !time.as_f64().is_some_and(|time| time < now + SKEW)) {
        return Err(Error::Unauthorized("nbf not in past".into()));
    }
    Ok(())
}

/// Parses `exp, nbf, {iss, "IssuerNameHere"}`. Returns `None` if it is malformed. An empty setting requires
/// no claims.
fn required_claims(setting: &str) -> Option<Vec<Required>> {
    let mut rest = setting.trim();
    let mut found = Vec::new();
    let word = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    while !rest.is_empty() {
        if let Some(tuple) = rest.strip_prefix('{') {
            let tuple = tuple.trim_start();
            let (claim, after) = tuple.split_at(word(tuple));
            let after = after.trim_start().strip_prefix(',')?.trim_start().strip_prefix('"')?;
            let (value, after) = after.split_once('"')?;
            if claim.is_empty() || value.is_empty() {
                return None;
            }
            found.push(Required { claim: claim.into(), value: Some(value.into()) });
            rest = after.trim_start().strip_prefix('}')?.trim_start();
        } else {
            let (claim, after) = rest.split_at(word(rest));
            if claim.is_empty() {
                return None;
            }
            found.push(Required { claim: claim.into(), value: None });
            rest = after.trim_start();
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(found)
}

/// Splits a path at `.`; `\.` is a dot in a name.
fn claim_path(setting: &str) -> Vec<String> {
    let mut path = vec![String::new()];
    let mut chars = setting.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'.') => {
                chars.next();
                path.last_mut().expect("never empty").push('.');
            }
            '.' => path.push(String::new()),
            other => path.last_mut().expect("never empty").push(other),
        }
    }
    path
}

#[cfg(test)]
pub(super) mod tests;
