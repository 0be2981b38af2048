use std::time::Duration;

use serde_json::json;

use super::*;

fn user(name: &str, roles: &[&str]) -> UserCtx {
    let roles = roles.iter().map(|role| role.to_string()).collect();
    UserCtx { name: Some(name.to_string()), roles, handler: None }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("not an object: {other}"),
    }
}

fn security() -> Security {
    let object = json!({"admins": {"names": ["speedy"], "roles": ["user_admin"]}});
    Security::parse(&object).expect("valid")
}

/// Validates as `user`; on refusal returns the reason.
fn validated(id: &str, new: Value, old: Option<Value>, user: &UserCtx) -> std::result::Result<(), String> {
    let security = security();
    let writer = Writer { user, security: &security };
    validate(id, &members(new), old.map(members).as_ref(), writer).map_err(|error| match error {
        Error::Forbidden(reason) => reason,
        other => panic!("not forbidden: {other:?}"),
    })
}

#[test]
fn invalid_user_documents_are_refused() {
    let root = UserCtx::server();
    let rows = [
        (json!({"type": null, "name": "ann", "roles": []}), "doc.type must be user"),
        (json!({"type": "User", "name": "ann", "roles": []}), "doc.type must be user"),
        (json!({"type": "user", "roles": []}), "doc.name is required"),
        (json!({"type": "user", "name": "", "roles": []}), "doc.name is required"),
        (json!({"type": "user", "name": "ann"}), "doc.roles must exist"),
        (json!({"type": "user", "name": "ann", "roles": null}), "doc.roles must exist"),
        (json!({"type": "user", "name": "ann", "roles": {}}), "doc.roles must be an array"),
        (json!({"type": "user", "name": "ann", "roles": "a"}), "doc.roles must be an array"),
        (json!({"type": "user", "name": "ann", "roles": ["a", 1]}), "doc.roles can only contain strings"),
        (json!({"type": "user", "name": "bob", "roles": []}), "Doc ID must be of the form org.couchdb.user:name"),
        (json!({"type": "user", "name": ["ann"], "roles": []}), "Doc ID must be of the form org.couchdb.user:name"),
        (
            json!({"type": "user", "name": "ann", "roles": [], "password_sha": "x"}),
            "Users with password_sha must have a salt.See /_utils/script/couch.js for example code.",
        ),
        (
            json!({"type": "user", "name": "ann", "roles": [], "password_scheme": "bcrypt"}),
            "Password scheme `bcrypt` not supported.",
        ),
        (
            json!({"type": "user", "name": "ann", "roles": [], "password_scheme": "pbkdf2", "derived_key": "x"}),
            "iterations must be a number.",
        ),
        (
            json!({"type": "user", "name": "ann", "roles": [], "password_scheme": "pbkdf2", "iterations": 1}),
            "derived_key must be a string.",
        ),
        (
            json!({"type": "user", "name": "ann", "roles": ["_admin"]}),
            "No system roles (starting with underscore) in users db.",
        ),
    ];
    for (document, reason) in rows {
        assert_eq!(validated("org.couchdb.user:ann", document.clone(), None, &root), Err(reason.into()), "{document}");
    }
    let untyped = json!({"name": "ann", "roles": []});
    assert_eq!(validated("org.couchdb.user:ann", untyped.clone(), None, &root), Ok(()));
    let by_nobody = validated("org.couchdb.user:ann", untyped, None, &UserCtx::anonymous());
    assert_eq!(by_nobody, Err("doc.type must be user".into()));
    let named = |name: &str| {
        let document = json!({"type": "user", "name": name, "roles": []});
        validated(&id_of(name), document, None, &root)
    };
    assert_eq!(named("_why"), Err("Username may not start with underscore.".into()));
    assert_eq!(named("a:b"), Err("Character `:` is not allowed in usernames.".into()));
    assert_eq!(named("Jason Davies"), Ok(()));
    let metrics = json!({"type": "user", "name": "ann", "roles": ["_metrics"]});
    assert_eq!(validated("org.couchdb.user:ann", metrics, None, &root), Ok(()));
}

#[test]
fn users_may_change_only_their_own_document_and_never_their_roles() {
    let (ann, bob, nobody, speedy) = (user("ann", &[]), user("bob", &[]), UserCtx::anonymous(), user("speedy", &[]));
    let with = |roles: &[&str]| json!({"type": "user", "name": "ann", "roles": roles});
    let check = |new: &[&str], old: Option<&[&str]>, who: &UserCtx| {
        validated("org.couchdb.user:ann", with(new), old.map(with), who)
    };
    assert_eq!(check(&[], None, &nobody), Ok(()), "sign-up");
    assert_eq!(check(&["a"], None, &nobody), Err("Only _admin may set roles".into()));
    assert_eq!(check(&["a"], None, &ann), Err("Only _admin may set roles".into()));
    assert_eq!(check(&["a", "b"], Some(&["b", "a"]), &ann), Ok(()));
    assert_eq!(check(&["a", "b"], Some(&["a"]), &ann), Err("Only _admin may edit roles".into()));
    assert_eq!(check(&[], Some(&["a"]), &ann), Err("Only _admin may edit roles".into()));
    assert_eq!(check(&[], Some(&[]), &bob), Err("You may only update your own user document.".into()));
    assert_eq!(check(&[], Some(&[]), &nobody), Err("You may only update your own user document.".into()));
    for admin in [&speedy, &user("x", &["user_admin"]), &UserCtx::server()] {
        assert_eq!(check(&["a"], None, admin), Ok(()));
        assert_eq!(check(&["a"], Some(&[]), admin), Ok(()));
    }
    let renamed = validated("org.couchdb.user:ann", with(&[]), Some(json!({"name": "anne", "roles": []})), &ann);
    assert_eq!(renamed, Err("Usernames can not be changed.".into()));
}

#[test]
fn other_users_documents_are_missing_for_writers() {
    let security = security();
    let may = |id: &str, user: &UserCtx| may_write(id, Writer { user, security: &security });
    assert_eq!(may("org.couchdb.user:ann", &user("ann", &[])), Ok(()));
    assert_eq!(may("org.couchdb.user:ann", &user("bob", &[])), Err(Error::Missing));
    assert_eq!(may("anything", &user("bob", &[])), Err(Error::Missing));
    assert_eq!(may("org.couchdb.user:ann", &UserCtx::anonymous()), Ok(()), "sign-up; a known name is a conflict");
    assert_eq!(may("org.couchdb.user:ann", &user("speedy", &[])), Ok(()));
    let reason = "You are not a db or server admin.".to_string();
    assert_eq!(may("_design/x", &user("ann", &[])), Err(Error::Forbidden(reason.clone())));
    assert_eq!(may("_design/x", &UserCtx::anonymous()), Err(Error::Unauthorized(reason)));
}

#[test]
fn only_admins_and_the_user_may_delete_an_account() {
    let security = security();
    let old = members(json!({"name": "ann"}));
    let nameless = members(json!({}));
    let delete = |old: Option<&Map<String, Value>>, user: &UserCtx| {
        validate_delete(old, Writer { user, security: &security }).is_ok()
    };
    assert!(delete(Some(&old), &user("ann", &[])));
    assert!(delete(Some(&old), &UserCtx::server()));
    assert!(delete(None, &UserCtx::server()));
    assert!(!delete(Some(&old), &user("bob", &[])));
    assert!(!delete(Some(&old), &UserCtx::anonymous()));
    assert!(!delete(Some(&nameless), &UserCtx::anonymous()), "a missing name does not match an anonymous client");
    assert!(!delete(None, &user("ann", &[])));
}

#[test]
fn a_password_becomes_a_hash_with_a_new_salt() {
    let clock = Clock::fixed(Duration::from_secs(1));
    let policy = Policy { iterations: 1, ..Policy::default() };
    let none = requirements::Requirements::default();
    let body = members(json!({
        "name": "ann", "password": "pw", "salt": "old", "preserve_salt": true, "password_sha": "x", "foo": 1
    }));
    let hashed = hash_password(&body, &policy, &none, &clock).expect("hashes").expect("there was a password");
    let names: Vec<&str> = hashed.keys().map(String::as_str).collect();
    assert_eq!(names, ["password_scheme", "pbkdf2_prf", "salt", "iterations", "derived_key", "name", "foo"]);
    assert_ne!(hashed["salt"], "old");
    assert_eq!(hashed["salt"].as_str().map(str::len), Some(32));
    assert_eq!(hashed["derived_key"].as_str().map(str::len), Some(64));
    let stored = Stored::from_document(&hashed).expect("valid").expect("a hash");
    assert_eq!(stored.verify("pw", &policy), Ok(true));

    let refused = |body: Value, policy: &Policy| hash_password(&members(body), policy, &none, &clock);
    assert_eq!(refused(json!({"name": "ann"}), &policy), Ok(None));
    assert_eq!(refused(json!({"password": null}), &policy), Ok(None));
    let reason = "Password value of '123' is invalid.".to_string();
    assert_eq!(refused(json!({"password": 123}), &policy), Err(Error::Forbidden(reason)));
    let broken = Policy { scheme: None, ..policy.clone() };
    assert_eq!(refused(json!({"password": "pw"}), &broken), Err(Error::Forbidden(CANNOT_HASH.into())));
    let rules = requirements::Requirements::parse(r#"[".{3}"]"#);
    assert!(matches!(hash_password(&body, &policy, &rules, &clock), Err(Error::BadRequest(_))));
}

#[test]
fn readers_see_their_own_document_and_public_fields_of_others() {
    let security = security();
    let see = |id: &str, user: &UserCtx| visible(id, user, &security);
    let ann = user("ann", &[]);
    assert_eq!(see("org.couchdb.user:ann", &ann), Ok(Visible::Whole));
    assert_eq!(see("org.couchdb.user:bob", &ann), Ok(Visible::Public));
    assert_eq!(see("org.couchdb.user:bob", &UserCtx::anonymous()), Ok(Visible::Public));
    assert_eq!(see("org.couchdb.user:bob", &user("speedy", &[])), Ok(Visible::Whole));
    assert_eq!(see("_design/_auth", &UserCtx::server()), Ok(Visible::Whole));
    assert!(matches!(see("_design/_auth", &ann), Err(Error::Forbidden(_))));

    let body = members(json!({"name": "bob", "type": "user", "derived_key": "secret"}));
    assert_eq!(public_part(&body, &[]), Err(Error::Missing));
    assert_eq!(public_part(&body, &["city".into()]), Err(Error::Missing));
    let public = public_part(&body, &["name".into(), "city".into()]).expect("something public");
    assert_eq!(Value::Object(public), json!({"name": "bob"}));
}

#[test]
fn users_may_extend_their_account_and_sign_up_where_it_is_open() {
    let nobody = UserCtx::anonymous();
    let ann = UserCtx { name: Some("ann".into()), ..UserCtx::anonymous() };
    let outcome = |state, user: &UserCtx, sign_up, replicated| match may_extend(state, user, sign_up, replicated) {
        Ok(()) => "yes",
        Err(Error::Conflict) => "conflict",
        Err(Error::Forbidden(_)) => "forbidden",
        Err(Error::Unauthorized(_)) => "unauthorized",
        Err(_) => "other",
    };
    use AccountState as S;
    // Columns: an edit by the user, a replicated edit by the user, an edit by an anonymous client.
    for (state, sign_up, expected) in [
        (S::Absent, true, ["yes", "yes", "yes"]),
        (S::Absent, false, ["forbidden", "forbidden", "unauthorized"]),
        (S::Living { extended: true }, true, ["yes", "yes", "conflict"]),
        (S::Living { extended: false }, true, ["conflict", "forbidden", "conflict"]),
        (S::Conflicted, true, ["conflict", "forbidden", "conflict"]),
        (S::Removed, true, ["forbidden", "forbidden", "conflict"]),
        (S::Removed, false, ["forbidden", "forbidden", "conflict"]),
    ] {
        let outcomes = [
            outcome(state, &ann, sign_up, false),
            outcome(state, &ann, sign_up, true),
            outcome(state, &nobody, sign_up, false),
        ];
        assert_eq!(outcomes, expected, "{state:?}, sign-up {sign_up}");
    }
}
