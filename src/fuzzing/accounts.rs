//! Parsers of credentials, client addresses and settings.

use http::{HeaderMap, HeaderValue};

use super::line;
use crate::auth::authenticate::basic;
use crate::auth::jwks::{Jwks, NoKeys};
use crate::auth::session::{self, Algorithm, Cookie, Secrets};
use crate::cli::sources;
use crate::config::kind::Kind;
use crate::config::networks::Networks;
use crate::config::{Settings, Table, catalogue};
use crate::http::request::client_address;

/// Session cookies: a forged cookie fails verification; a cookie issued by this server verifies.
pub fn cookies(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let secrets = Secrets::new(Some("a secret"));
    let all = Algorithm::list("sha256, sha, sha512");
    if let Some(value) = session::find(text)
        && let Ok(Some(cookie)) = Cookie::parse(value)
    {
        assert!(!cookie.verify(&secrets, "salt", &all, 1_000), "a forged cookie");
        let _ = cookie.time_left(1_000, 600);
    }
    let (name, _) = line(text);
    if !name.contains(':')
        && let Some(value) = session::issue(name, "salt", 1_000, &secrets, &all)
    {
        let cookie = Cookie::parse(&value).expect("our own cookie").expect("somebody's");
        assert_eq!((cookie.name.as_str(), cookie.issued), (name, 1_000));
        assert!(cookie.verify(&secrets, "salt", &all, 1_000) && !cookie.verify(&secrets, "other", &all, 1_000));
    }
}

/// Bearer tokens and key sets: the first line is parsed as a token, the whole input as a JWKS document.
pub fn tokens(data: &[u8]) {
    thread_local! {
        static SETTINGS: crate::auth::Settings = {
            let mut table = crate::config::Table::new();
            for (section, key, value) in [
                ("jwt_keys", "hmac:_default", "YS1zZWNyZXQ="),
                ("jwt_auth", "required_claims", "exp, nbf, {iss, \"me\"}"),
                ("jwt_auth", "roles_claim_path", "a.b\\.c.d"),
            ] {
                table.entry(section.into()).or_default().insert(key.into(), value.into());
            }
            crate::auth::Settings::read(&table)
        };
    }
    let _ = Jwks::parse(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (token, _) = line(text);
    SETTINGS.with(|settings| {
        assert!(settings.jwt.authenticate(token, 1_000, &NoKeys).is_err(), "a forged token");
        // Encodes the first line as the header and the rest as the claims, to get past the base64 decoder.
        if let Some((header, claims)) = text.split_once('\n') {
            use base64::Engine;
            let coded = |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part);
            let token = format!("{}.{}.AAAA", coded(header), coded(claims));
            assert!(settings.jwt.authenticate(&token, 1_000, &NoKeys).is_err(), "a forged token");
            let _ = crate::auth::token::Access::parse(&token);
        }
    });
    if let Some(access) = crate::auth::token::Access::parse(token) {
        assert!(!access.verify(&Secrets::new(Some("a secret")), "salt", 0), "a forged access token");
    }
}

/// Client addresses and Basic credentials: the first line is a list of trusted networks, the second a header
/// value.
pub fn addresses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (networks, said) = line(text);
    if let Ok(Some((name, password))) = basic(said) {
        use base64::Engine;
        let coded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        assert_eq!(basic(&format!("Basic {coded}")), Ok(Some((name, password))), "read back");
    }
    let trusted = Networks::parse(networks);
    let mut table = Table::new();
    table.entry("settee".into()).or_default().insert("trusted_proxies".into(), networks.into());
    let settings = Settings::new(table);
    assert_eq!(settings.is_ok(), trusted.is_some());
    let (Ok(settings), Some(trusted), Ok(value)) = (settings, trusted, HeaderValue::from_str(said)) else { return };
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", value);
    for socket in ["10.0.0.1", "203.0.113.1", "::1", "2001:db8::1"] {
        let Ok(socket) = socket.parse() else { continue };
        let client = client_address::client(&settings, &headers, Some(socket), false);
        assert!(trusted.contains(socket) || client.address == Some(socket), "only proxies are believed");
        assert!(!client.secure);
    }
}

/// Settings files: settings that were accepted are accepted again, also with the defaults filled in.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut table = Table::new();
    if sources::read_text(text, "the file", &mut table).is_err() {
        return;
    }
    let Ok(settings) = Settings::new(table) else { return };
    assert_eq!(Settings::new(settings.table().clone()).as_ref(), Ok(&settings));
    assert!(Settings::new(settings.whole()).is_ok(), "with its defaults it is right too");
    for row in catalogue::KNOWN {
        if matches!(row.kind, Kind::Bytes | Kind::Number { .. }) {
            let _ = settings.number(row.section, row.key);
        }
    }
    let _ = crate::auth::Settings::read(settings.table());
    let _ = (sources::bind_of(&settings), format!("{settings:?}"));
}
