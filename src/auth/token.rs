//! Access tokens that this server issues, for apps that cannot store cookies: short-lived JWTs (HS256) that
//! name a device of [`super::devices`]. Like session cookies, they are signed with the server's secret and
//! the user's salt. A new password or the revocation of the device therefore ends them at once; after a
//! change of the secret they stay valid for at most one session timeout.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::session::{Algorithm, Secrets};

/// The `kid` that distinguishes these tokens from those of other issuers.
const KID: &str = "settee-session";
/// Lifetime of an access token in seconds.
pub const LIFETIME: u64 = 900;
const MAX_TOKEN: usize = 4096;

/// A parsed token whose signature has not been verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// The user's name (`sub`).
    pub user: String,
    /// The id of the user's device (`dev`).
    pub device: String,
    /// When the token expires, in seconds since the epoch.
    pub until: u64,
    signed: String,
    mac: Vec<u8>,
}

/// Shows no signature, so that a log does not contain a usable token.
impl std::fmt::Debug for Access {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Access").field("user", &self.user).field("device", &self.device).finish_non_exhaustive()
    }
}

/// Issues a new token. `None` if the server has no secret.
pub(super) fn issue(user: &str, device: &str, salt: &str, now: u64, secrets: &Secrets) -> Option<String> {
    let header = json!({"typ": "JWT", "alg": "HS256", "kid": KID});
    let claims = json!({"iss": "settee", "sub": user, "dev": device, "iat": now, "exp": now + LIFETIME});
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let mac = secrets.sign(signed.as_bytes(), salt.as_bytes(), &[Algorithm::Sha256])?;
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac)))
}

impl Access {
    /// Parses a token. `None` if this server has not issued it.
    pub fn parse(token: &str) -> Option<Access> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, mac) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
        let header = decode(header)?;
        if header.get("kid").and_then(Value::as_str) != Some(KID)
            || header.get("alg").and_then(Value::as_str) != Some("HS256")
        {
            return None;
        }
        let claims = decode(claims)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_string);
        Some(Access {
            user: text("sub")?,
            device: text("dev")?,
            until: claims.get("exp")?.as_u64()?,
            signed: signed.to_string(),
            mac: URL_SAFE_NO_PAD.decode(mac).ok()?,
        })
    }

    /// Whether this server has signed the token for a user with this salt, and it has not expired.
    pub fn verify(&self, secrets: &Secrets, salt: &str, now: u64) -> bool {
        now < self.until
            && secrets.verify(self.signed.as_bytes(), salt.as_bytes(), &self.mac, &[Algorithm::Sha256], now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_verifies_only_with_its_claims_secret_salt_and_lifetime() {
        let secrets = Secrets::new(Some("s3cret"));
        let token = issue("ann", "d1", "salt", 1000, &secrets).expect("a secret");
        let access = Access::parse(&token).expect("ours");
        assert_eq!((access.user.as_str(), access.device.as_str()), ("ann", "d1"));
        assert!(access.verify(&secrets, "salt", 1000) && access.verify(&secrets, "salt", 1000 + LIFETIME - 1));
        assert!(!access.verify(&secrets, "salt", 1000 + LIFETIME));
        assert!(!access.verify(&secrets, "pepper", 1000));
        assert!(!access.verify(&Secrets::new(Some("other")), "salt", 1000));
        let (head, mac) = token.rsplit_once('.').expect("parts");
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"root","dev":"d1","exp":99999999999}"#);
        let forged = format!("{}.{claims}.{mac}", head.split('.').next().expect("a header"));
        assert!(!Access::parse(&forged).expect("comes apart").verify(&secrets, "salt", 1000));
    }

    #[test]
    fn tokens_of_other_issuers_are_not_parsed() {
        let other = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"x"}"#);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"settee-session"}"#);
        for token in ["", "a", "a.b.c", &format!("{other}.e30.AA"), &format!("{none}.e30.AA"), &"a".repeat(9999)] {
            assert_eq!(Access::parse(token), None, "{token:.40}");
        }
    }
}
