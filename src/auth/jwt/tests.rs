use std::collections::BTreeMap;

use jsonwebtoken::Algorithm;
use serde_json::json;

use crate::auth::jwks::NoKeys;
use crate::auth::settings::tests::source;

pub(crate) use super::*;

const NOW: u64 = 1_700_000_000;
/// "hello"
const HELLO: &str = "aGVsbG8=";

fn settings(rows: &[(&str, &str, &str)]) -> Settings {
    Settings::read(&source(rows))
}

/// A token signed with "hello".
fn token(header: Value, claims: Value) -> String {
    let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let alg = match header["alg"].as_str() {
        Some("HS384") => Algorithm::HS384,
        Some("HS512") => Algorithm::HS512,
        _ => Algorithm::HS256,
    };
    let key = jsonwebtoken::EncodingKey::from_secret(b"hello");
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, alg).expect("signs");
    format!("{message}.{signature}")
}

fn hs(claims: Value) -> String {
    token(json!({"alg": "HS256", "typ": "JWT"}), claims)
}

fn good() -> Value {
    json!({"sub": "couch@apache.org", "exp": NOW + 60, "_couchdb.roles": ["testing"]})
}

fn ask(settings: &Settings, token: &str) -> Result<UserCtx> {
    settings.authenticate(token, NOW, &NoKeys)
}

fn reason(settings: &Settings, token: &str) -> String {
    match ask(settings, token) {
        Err(Error::BadRequest(reason)) => reason,
        other => panic!("not a bad request: {other:?}"),
    }
}

fn hello() -> Settings {
    settings(&[("jwt_keys", "hmac:_default", HELLO)])
}

fn user(name: &str, roles: &[&str]) -> Result<UserCtx> {
    let roles = roles.iter().map(|role| role.to_string()).collect();
    Ok(UserCtx { name: Some(name.into()), roles, handler: Some(Handler::Jwt) })
}

#[test]
fn every_algorithm_accepts_valid_and_rejects_forged_signatures() {
    let all = settings(&[
        ("jwt_keys", "hmac:_default", HELLO),
        ("jwt_keys", "rsa:r", samples::RSA_KEY),
        ("jwt_keys", "ec:e", samples::EC_KEY),
        ("jwt_keys", "ec:p521", samples::P521_KEY),
        ("jwt_keys", "ed25519:d", samples::ED_KEY),
    ]);
    for alg in ["HS256", "HS384", "HS512"] {
        let token = token(json!({"alg": alg}), good());
        assert_eq!(ask(&all, &token), user("couch@apache.org", &["testing"]), "{alg}");
    }
    for token in [samples::RS256, samples::RS512, samples::ES256, samples::ES512, samples::P521, samples::EDDSA] {
        assert_eq!(ask(&all, token), user("ann", &["a", "_b"]), "{token}");
        let (rest, signature) = token.rsplit_once('.').expect("three parts");
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{rest}.{flipped}{}", &signature[1..]);
        assert_eq!(reason(&all, &forged), "Bad signature in authentication token");
    }
}

/// CVE-2015-9235 and similar attacks: an algorithm uses only keys of its own kind.
#[test]
fn the_algorithm_is_bound_to_the_kind_of_key() {
    let rsa = settings(&[("jwt_keys", "rsa:_default", samples::RSA_KEY)]);
    assert_eq!(reason(&rsa, &hs(good())), "Unknown kid", "a public key is no HMAC secret");
    for alg in ["none", "None", "NONE", "", "HS1", "RS1", "EDDSA"] {
        let token = token(json!({"alg": alg}), good());
        assert_eq!(reason(&hello(), &token), "Invalid alg header parameter", "{alg}");
    }
    let missing = token(json!({"typ": "JWT"}), good());
    assert_eq!(reason(&hello(), &missing), "Missing alg header parameter");
    let only = settings(&[("jwt_keys", "hmac:_default", HELLO), ("jwt_auth", "allowed_algorithms", "HS384, HS512")]);
    assert_eq!(reason(&only, &hs(good())), "Invalid alg header parameter");
    let kids = settings(&[("jwt_keys", "hmac:one", HELLO)]);
    assert_eq!(reason(&kids, &hs(good())), "Unknown kid");
    let with_kid = |kid: Value| token(json!({"alg": "HS256", "kid": kid}), good());
    assert!(ask(&kids, &with_kid("one".into())).is_ok());
    assert_eq!(reason(&kids, &with_kid("two".into())), "Unknown kid");
    assert_eq!(reason(&kids, &with_kid(1.into())), "Unknown kid");
}

#[test]
fn tokens_that_cannot_be_parsed_are_malformed() {
    let good = hs(good());
    let (head, rest) = good.split_once('.').expect("three parts");
    let rows = [
        String::new(),
        "a.b".into(),
        "a.b.c.d".into(),
        format!("{head}.{head}"),
        format!("*.{rest}"),
        format!("{}.{rest}", BASE64.encode("{")),
        format!("{head}.{}.x", BASE64.encode("{\"sub\"")),
        "a".repeat(MAX_TOKEN + 1),
    ];
    for row in rows {
        assert_eq!(reason(&hello(), &row), "Malformed authentication token", "{row:.60}");
    }
    assert_eq!(reason(&hello(), &format!("{}.{rest}", BASE64.encode("[]"))), "Not an object");
    assert_eq!(reason(&hello(), &format!("{good}A")), "Bad HMAC in authentication token");
    let (body, _) = good.rsplit_once('.').expect("three parts");
    assert_eq!(reason(&hello(), &format!("{body}.")), "Bad HMAC in authentication token");
}

#[test]
fn claims_are_checked_with_couchdbs_error_texts() {
    let with =
        |claims: &str| settings(&[("jwt_keys", "hmac:_default", HELLO), ("jwt_auth", "required_claims", claims)]);
    let bad = |claims: &str, given: Value| reason(&with(claims), &hs(given));
    assert_eq!(reason(&hello(), &hs(json!({"sub": "a"}))), "Missing exp claim", "exp is required by default");
    assert_eq!(bad("nbf", json!({"sub": "a"})), "Missing nbf claim");
    assert_eq!(bad("iat", json!({"sub": "a"})), "Missing iat claim");
    assert_eq!(bad("iat", json!({"sub": "a", "iat": "x"})), "Invalid iat claim");
    assert_eq!(bad("{iss, \"hello\"}", json!({"sub": "a"})), "Missing iss claim");
    assert_eq!(bad("{iss, \"hello\"}", json!({"sub": "a", "iss": "goodbye"})), "Invalid iss claim");
    assert_eq!(bad("{aud, \"app\"}", json!({"sub": "a", "aud": ["other"]})), "Invalid aud claim");
    assert_eq!(bad("kid", json!({"sub": "a"})), "Missing kid claim");
    let untyped = token(json!({"alg": "HS256"}), json!({"sub": "a"}));
    assert_eq!(reason(&with("typ"), &untyped), "Missing typ header parameter");
    let typed = token(json!({"alg": "HS256", "typ": "NOPE"}), json!({"sub": "a"}));
    assert_eq!(reason(&with("typ"), &typed), "Invalid typ header parameter");

    let expired = |given: Value| ask(&with(""), &hs(given));
    let unauthorized = |reason: &str| Err(Error::Unauthorized(reason.into()));
    assert_eq!(expired(json!({"sub": "a", "exp": NOW})), unauthorized("exp not in future"));
    assert_eq!(expired(json!({"sub": "a", "exp": "never"})), unauthorized("exp not in future"));
    assert_eq!(expired(json!({"sub": "a", "nbf": NOW + 61})), unauthorized("nbf not in past"));
    assert_eq!(expired(json!({"sub": "a", "nbf": NOW + 59})), user("a", &[]));
    assert_eq!(ask(&with("nbf"), &hs(json!({"sub": "a", "nbf": NOW}))), unauthorized("nbf not in past"));
    assert_eq!(expired(json!({})), unauthorized("Token missing sub claim."));

    let all = with("exp, nbf , iat,{iss, \"My Company\"}, {aud,\"app\"}, typ");
    let claims = json!({
        "sub": "a", "exp": NOW as f64 + 0.5, "nbf": NOW - 1, "iat": 1, "iss": "My Company", "aud": ["x", "app"]
    });
    assert_eq!(ask(&all, &hs(claims)), user("a", &[]));
    assert_eq!(reason(&with(""), &hs(json!({"sub": 7}))), "Malformed token");
}

#[test]
fn malformed_required_claims_reject_all_tokens() {
    for broken in ["!", "exp;nbf", "{iss}", "{iss, hello}", "{iss, \"\"}", "{iss, \"a\"", "exp, {"] {
        let broken = settings(&[("jwt_keys", "hmac:_default", HELLO), ("jwt_auth", "required_claims", broken)]);
        assert!(matches!(ask(&broken, &hs(good())), Err(Error::Internal(_))));
    }
}

#[test]
fn roles_come_from_a_name_or_a_path() {
    let with = |rows: &[(&str, &str, &str)]| settings(&[rows, &[("jwt_keys", "hmac:_default", HELLO)]].concat());
    let claims = json!({
        "sub": "a", "exp": NOW + 1,
        "_couchdb.roles": ["one", "two"],
        "my.roles": "three , four,",
        "foo": {"bar.zonk": {"roles": ["five"], "none": null, "number": 5, "mixed": ["a", 1]}},
    });
    let roles = |rows: &[(&str, &str, &str)]| ask(&with(rows), &hs(claims.clone()));
    let name = |name: &'static str| ("jwt_auth", "roles_claim_name", name);
    let path = |path: &'static str| ("jwt_auth", "roles_claim_path", path);
    assert_eq!(roles(&[]), user("a", &["one", "two"]));
    assert_eq!(roles(&[name("my.roles")]), user("a", &["three", "four"]));
    assert_eq!(roles(&[name("other")]), user("a", &[]));
    assert_eq!(roles(&[path("foo.bar\\.zonk.roles"), name("my.roles")]), user("a", &["five"]));
    let missing = |name: &str| Err(Error::NotFound(format!("missing json key: {name}")));
    assert_eq!(roles(&[path("123456")]), missing("123456"));
    assert_eq!(roles(&[path("foo.bar\\.zonk.none")]), missing("none"));
    assert_eq!(roles(&[path("sub.x")]), missing("x"));
    let malformed = Err(Error::BadRequest("Malformed token".into()));
    assert_eq!(roles(&[path("foo.bar\\.zonk.number")]), malformed);
    assert_eq!(roles(&[path("foo.bar\\.zonk.mixed")]), malformed);
}

#[test]
fn invalid_keys_are_reported() {
    for (name, value, expected) in [
        ("hmac:_default", "***", "Not a valid key"),
        ("hmac:_default", "", "Not a valid key"),
        ("rsa:_default", samples::EC_KEY, "not an RSA public key"),
        ("ec:_default", samples::RSA_KEY, "not an EC public key"),
        ("ed25519:_default", "x", "not an Ed25519 public key"),
    ] {
        let settings = settings(&[("jwt_keys", name, value)]);
        let alg = match name.split(':').next() {
            Some("hmac") => "HS256",
            Some("rsa") => "RS256",
            Some("ec") => "ES256",
            _ => "EdDSA",
        };
        let token = token(json!({"alg": alg}), good());
        assert_eq!(reason(&settings, &token), expected, "{name} {value}");
    }
    let empty: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    assert_eq!(reason(&Settings::read(&empty), &hs(good())), "Unknown kid");
    assert!(!format!("{:?}", hello()).contains("104, 101"), "no secret in Debug");
}
