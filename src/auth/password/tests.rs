//! Tests of password hashes.

use std::time::Duration;

use super::*;

fn members(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).expect("JSON")
}

fn policy(iterations: u32) -> Policy {
    Policy { iterations, ..Policy::default() }
}

/// Test vectors of RFC 6070 and RFC 7914.
#[test]
fn derives_as_the_rfcs_say() {
    assert_eq!(Prf::Sha.derive(b"password", b"salt", 2), "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
    assert_eq!(
        Prf::Sha256.derive(b"passwd", b"salt", 1),
        "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
    );
}

/// The example of CouchDB's documentation (`config/auth.rst`).
#[test]
fn reads_what_couchdb_writes_for_admins() {
    let rows = [
        "-hashed-6d3c30241ba0aaa4e16c6ea99224f915687ed8cd,7f4a3e05e0cbc6f48a0035e3508eef90",
        "-pbkdf2:sha-43ecbd256a70a3a2f7de40d2374b6c3002918834,921a12f74df0c1052b3e562a23cd227f,10000",
        "-pbkdf2:sha256-00,5d,600000",
    ];
    for row in rows {
        assert_eq!(Stored::from_admin_setting(row).expect(row).to_admin_setting(), row);
    }
    let old = Stored::from_admin_setting("-pbkdf2-43ec,921a,10000").expect("the form without a prf");
    assert_eq!(old.to_admin_setting(), "-pbkdf2:sha-43ec,921a,10000");
    for row in ["secret", "-hashed-nosalt", "-pbkdf2-a,b", "-pbkdf2-a,b,x", "-pbkdf2:md5-a,b,1", "-pbkdf2-a,b,1,c"] {
        assert_eq!(Stored::from_admin_setting(row), None, "{row}");
    }
}

#[test]
fn a_hash_accepts_only_its_password() {
    let clock = Clock::fixed(Duration::from_secs(1));
    for prf in [Prf::Sha, Prf::Sha224, Prf::Sha256, Prf::Sha384, Prf::Sha512] {
        let policy = Policy { prf: Some(prf), ..policy(3) };
        let stored = Stored::hash("häslich", None, &policy, &clock).expect("hashes");
        let again = Stored::from_admin_setting(&stored.to_admin_setting()).expect("reads what it wrote");
        assert_eq!(again, stored);
        assert_eq!(again.verify("häslich", &policy), Ok(true));
        assert_eq!(again.verify("haslich", &policy), Ok(false));
        assert!(!again.needs_upgrade(&policy));
        assert!(again.needs_upgrade(&Policy { iterations: 4, ..policy.clone() }));
    }
}

#[test]
fn old_schemes_verify_and_need_an_upgrade() {
    let simple = members(&format!(r#"{{"salt":"5d","password_sha":"{}"}}"#, super::simple("pw", "5d")));
    let stored = Stored::from_document(&simple).expect("valid").expect("a hash");
    assert_eq!(stored.verify("pw", &policy(1)), Ok(true));
    assert_eq!(stored.verify("PW", &policy(1)), Ok(false));
    assert!(stored.needs_upgrade(&policy(1)));

    let key = Prf::Sha256.derive(super::simple("pw", "5d").as_bytes(), b"5d", 5);
    let both = members(&format!(
        r#"{{"password_scheme":"simple+pbkdf2","salt":"5d","pbkdf2_prf":"sha256","iterations":5,"derived_key":"{key}"}}"#
    ));
    let stored = Stored::from_document(&both).expect("valid").expect("a hash");
    assert_eq!(stored.verify("pw", &policy(5)), Ok(true));
    assert!(stored.needs_upgrade(&policy(5)));
    let kept: Map<String, Value> = stored.to_document().into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    assert_eq!(Stored::from_document(&kept).expect("valid"), Some(stored));
}

#[test]
fn a_document_without_a_usable_hash_has_no_stored_password() {
    for row in [
        r#"{}"#,
        r#"{"password_sha":null,"salt":"x"}"#,
        r#"{"password_scheme":"bcrypt","derived_key":"x"}"#,
        r#"{"password_scheme":"pbkdf2","iterations":10}"#,
        r#"{"password_scheme":"pbkdf2","iterations":-1,"derived_key":"x"}"#,
        r#"{"password_scheme":7}"#,
    ] {
        assert_eq!(Stored::from_document(&members(row)), Ok(None), "{row}");
    }
    let bad = members(r#"{"password_scheme":"pbkdf2","pbkdf2_prf":"md5","derived_key":"x"}"#);
    assert_eq!(Stored::from_document(&bad), Err(Error::Forbidden("PRF is invalid".into())));
}

#[test]
fn refusing_a_cheap_hash_costs_as_much_as_refusing_an_unknown_name() {
    let rest = |setting: &str, policy: &Policy| Stored::from_admin_setting(setting).expect("reads").rest(policy);
    for (setting, left) in [
        ("-hashed-6d3c,5d", Some(600_000)),
        ("-pbkdf2-43ec,5d,10", Some(599_990)),
        ("-pbkdf2:sha256-43ec,5d,600000", None),
        ("-pbkdf2:sha256-43ec,5d,9999999999", None),
    ] {
        assert_eq!(rest(setting, &Policy::default()), left, "{setting}");
    }
    let simple = Policy { scheme: Some(Scheme::Simple), ..Policy::default() };
    assert_eq!(rest("-hashed-6d3c,5d", &simple), None, "then nobody's names cost nothing either");
}

#[test]
fn an_overlong_salt_or_hash_is_unusable() {
    for member in ["salt", "password_sha", "derived_key"] {
        let mut document = members(r#"{"password_scheme":"pbkdf2","iterations":1,"salt":"a","derived_key":"b"}"#);
        document.insert(member.into(), "x".repeat(LONGEST + 1).into());
        assert_eq!(Stored::from_document(&document), Ok(None), "{member}");
    }
}

#[test]
fn iterations_out_of_bounds_are_refused_before_any_work() {
    let stored = |iterations: u64| Stored {
        salt: "s".into(),
        kind: Kind::Pbkdf2 { prf: Prf::Sha256, iterations, derived_key: "x".into(), over_simple: false },
    };
    let policy = Policy { min_iterations: 10, ..Policy::default() };
    let reason = |iterations| stored(iterations).verify("pw", &policy).expect_err("refused").to_string();
    assert_eq!(reason(9), "Iteration count is too low for this server");
    assert_eq!(reason(0), "Iteration count is too low for this server");
    assert_eq!(reason(1_500_001), "Iteration count is too high for this server");
    assert_eq!(reason(u64::MAX), "Iteration count is too high for this server");
}

#[test]
fn check_members_refuses_hashes_that_the_policy_forbids() {
    let policy = Policy { min_iterations: 10, ..Policy::default() };
    let check = |json: &str| check_members(&members(json), &policy).map_err(|error| error.to_string());
    let pbkdf2 = |prf: &str, iterations: &str| {
        check(&format!(r#"{{"password_scheme":"pbkdf2","pbkdf2_prf":"{prf}","iterations":{iterations}}}"#))
    };
    for (prf, iterations) in [("sha", "1500000"), ("sha256", "600000"), ("sha512", "750000"), ("sha384", "10")] {
        assert_eq!(pbkdf2(prf, iterations), Ok(()), "{prf} {iterations}");
    }
    let (low, high) = ("Iteration count is too low for this server", "Iteration count is too high for this server");
    for (prf, iterations, reason) in [
        ("sha", "1500001", high),
        ("sha512", "750001", high),
        ("sha384", "18446744073709551615", high),
        ("sha256", "9", low),
        ("sha256", "1.5", "iterations must be a number."),
        ("sha256", "-1", "iterations must be a number."),
        ("md5", "100", "PRF is invalid"),
    ] {
        assert_eq!(pbkdf2(prf, iterations), Err(reason.to_string()), "{prf} {iterations}");
    }
    assert_eq!(check(r#"{"salt":"a","password_sha":"b"}"#), Ok(()), "simple");
    let long = format!(r#"{{"salt":"{}"}}"#, "a".repeat(LONGEST + 1));
    assert_eq!(check(&long), Err("salt is longer than 1024 bytes.".to_string()));
}

#[test]
fn debug_shows_no_secret() {
    let stored = Stored::from_admin_setting("-pbkdf2:sha256-feed,5a17,7").expect("reads");
    assert_eq!(format!("{stored:?}"), "Stored(pbkdf2 sha256 7)");
}
