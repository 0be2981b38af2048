//! The `_users` database over a socket: sign-up, access to user documents, hashes, public fields, devices,
//! tokens.

use serde_json::{Value, json};

use super::*;

fn account(name: &str, password: &str, roles: &[&str]) -> Value {
    json!({"_id": format!("org.couchdb.user:{name}"), "type": "user", "name": name, "password": password, "roles": roles})
}

/// Starts a server with the users `tom` and `spike` (role `dog`) that allows sign-up.
async fn house(rows: &[(&str, &str, &str)]) -> Running {
    let rows = [&[("couchdb", "default_security", "everyone")], rows].concat();
    let running = server(&rows).await;
    assert_eq!(send(&running, "POST /_users", ADMIN, account("tom", "mp3", &[])).await.status, 201);
    assert_eq!(send(&running, "POST /_users", ADMIN, account("spike", "bone", &["dog"])).await.status, 201);
    running
}

const TOM: &str = "/_users/org.couchdb.user:tom";
const SPIKE: &str = "/_users/org.couchdb.user:spike";

#[tokio::test]
async fn sign_up_hashes_the_password_and_allows_sign_in() {
    let running = house(&[]).await;
    let tom = basic("tom", "mp3");
    assert_eq!(send(&running, "POST /_users", "", account("jerry", "pw", &[])).await.status, 201, "sign-up");
    let own = send(&running, &format!("GET {TOM}"), &tom, Value::Null).await.json();
    assert_eq!(own.get("password"), None);
    assert_eq!((own["password_scheme"].as_str(), own["pbkdf2_prf"].as_str()), (Some("pbkdf2"), Some("sha256")));
    assert_eq!((own["derived_key"].as_str().map(str::len), own["salt"].as_str().map(str::len)), (Some(64), Some(32)));
    let session = send(&running, "GET /_session", &basic("spike", "bone"), Value::Null).await.json();
    assert_eq!(session["userCtx"], json!({"name": "spike", "roles": ["dog"]}));
    assert_eq!(send(&running, "GET /_session", &basic("tom", "mp4"), Value::Null).await.status, 401);
    assert_eq!(send(&running, "POST /_users", "", account("tom", "other", &[])).await.status, 409, "taken");
}

#[tokio::test]
async fn after_another_database_became_that_of_the_users_only_its_accounts_sign_in() {
    let running = house(&[]).await;
    let (old, new) = (basic("tom", "mp3"), basic("tom", "other"));
    assert_eq!(send(&running, "GET /_session", &old, Value::Null).await.status, 200);
    assert_eq!(send(&running, "PUT /people", ADMIN, Value::Null).await.status, 201);
    let name = |name: &str| json!(name);
    let setting = "PUT /_node/_local/_config/chttpd_auth/authentication_db";
    assert_eq!(send(&running, setting, ADMIN, name("people")).await.status, 200);
    assert_eq!(send(&running, "POST /people", ADMIN, account("tom", "other", &[])).await.status, 201);
    for (who, before, after) in [(&old, 401, 200), (&new, 200, 401)] {
        assert_eq!(send(&running, "GET /_session", who, Value::Null).await.status, before, "{who}");
        // An empty name stands for the default.
        for (database, status) in [("", after), ("people", before)] {
            assert_eq!(send(&running, setting, ADMIN, name(database)).await.status, 200);
            assert_eq!(send(&running, "GET /_session", who, Value::Null).await.status, status, "{who} {database}");
        }
    }
}

#[tokio::test]
async fn users_read_and_write_only_their_own_document() {
    let running = house(&[]).await;
    let tom = basic("tom", "mp3");
    let own = send(&running, &format!("GET {TOM}"), &tom, Value::Null).await.json();
    let with = |name: &str, value: Value| {
        let mut changed = own.clone();
        changed[name] = value;
        changed
    };
    let rev = own["_rev"].as_str().expect("a revision").to_owned();
    for (line, who, body, status, error) in [
        (format!("GET {SPIKE}"), tom.as_str(), Value::Null, 404, "not_found"),
        (format!("GET {SPIKE}?open_revs=all"), &tom, Value::Null, 404, "not_found"),
        (format!("GET {TOM}"), "", Value::Null, 404, "not_found"),
        (format!("PUT {SPIKE}"), &tom, account("spike", "stolen", &[]), 404, "not_found"),
        (format!("PUT {TOM}"), &tom, with("roles", json!(["dog"])), 403, "forbidden"),
        (format!("PUT {TOM}"), &tom, with("name", json!("spike")), 403, "forbidden"),
        (format!("PUT {TOM}"), &tom, with("type", json!("cat")), 403, "forbidden"),
        (format!("PUT {TOM}"), ADMIN, with("roles", json!(["_admin"])), 403, "forbidden"),
        (format!("DELETE {TOM}?rev={rev}"), &basic("spike", "bone"), Value::Null, 404, "not_found"),
        (format!("DELETE {TOM}?rev={rev}"), "", Value::Null, 404, "not_found"),
        ("GET /_users/_all_docs".into(), &tom, Value::Null, 401, "unauthorized"),
        ("GET /_users/_changes".into(), "", Value::Null, 401, "unauthorized"),
        ("GET /_users/_design/_auth".into(), &tom, Value::Null, 403, "forbidden"),
        ("PUT /_users/_design/x".into(), &tom, json!({}), 403, "forbidden"),
        ("POST /_users".into(), "", account("eve", "x", &["dog"]), 403, "forbidden"),
        ("POST /_users".into(), "", account("_eve", "x", &[]), 403, "forbidden"),
        (
            "POST /_users".into(),
            "",
            json!({"_id": "eve", "type": "user", "name": "eve", "roles": []}),
            403,
            "forbidden",
        ),
        ("PUT /_users/_security".into(), ADMIN, json!({}), 403, "forbidden"),
        (format!("PUT {TOM}"), &tom, with("password", json!(123)), 403, "forbidden"),
    ] {
        let reply = send(&running, &line, who, body).await;
        assert_eq!((reply.status, reply.error().as_str()), (status, error), "{line} {who}: {}", reply.text());
    }
    assert_eq!(send(&running, &format!("PUT {TOM}"), &tom, with("foo", json!(2))).await.status, 201);
    let ddoc = send(&running, "GET /_users/_design/_auth", ADMIN, Value::Null).await;
    assert!(ddoc.json()["validate_doc_update"].is_string(), "{}", ddoc.text());
}

#[tokio::test]
async fn bulk_requests_follow_the_same_rules() {
    let running = house(&[]).await;
    let tom = basic("tom", "mp3");
    let docs = json!({"docs": [account("eve", "x", &[]), account("spike", "x", &[]), {"_id": "_design/x"}]});
    let rows = send(&running, "POST /_users/_bulk_docs", &tom, docs.clone()).await.json();
    let errors: Vec<&str> =
        rows.as_array().expect("rows").iter().map(|row| row["error"].as_str().unwrap_or("")).collect();
    assert_eq!(errors, ["not_found", "not_found", "forbidden"]);
    let ids = json!({"docs": [{"id": "org.couchdb.user:spike"}, {"id": "org.couchdb.user:tom"}]});
    let found = send(&running, "POST /_users/_bulk_get", &tom, ids).await.json();
    assert_eq!(found["results"][0]["docs"][0]["error"]["error"], "not_found");
    assert_eq!(found["results"][1]["docs"][0]["ok"]["name"], "tom");

    // A replicated revision must not create a conflict on another user's document.
    let brought = json!({"new_edits": false, "docs": [
        {"_id": "org.couchdb.user:spike", "_rev": "9-abc", "type": "user", "name": "spike", "roles": []},
    ]});
    for who in ["", tom.as_str()] {
        send(&running, "POST /_users/_bulk_docs", who, brought.clone()).await;
    }
    let spike = basic("spike", "bone");
    let own = send(&running, &format!("GET {SPIKE}?conflicts=true"), &spike, Value::Null).await;
    assert_eq!((own.status, own.json().get("_conflicts")), (200, None), "{}", own.text());

    let created = send(&running, "PUT /open", ADMIN, Value::Null).await;
    assert_eq!(created.status, 201);
    let ddoc = json!({"docs": [{"_id": "_design/evil"}, {"_id": "fine"}]});
    let rows = send(&running, "POST /open/_bulk_docs", &tom, ddoc).await.json();
    assert_eq!((rows[0]["error"].as_str(), rows[1]["ok"].as_bool()), (Some("forbidden"), Some(true)));
    let copy = ask(running.address, "COPY /open/fine", &[&tom, "Destination: _design/evil"], b"").await;
    assert_eq!(copy.status, 403, "{}", copy.text());
}

#[tokio::test]
async fn a_replicated_revision_cannot_restore_removed_roles() {
    let running = house(&[]).await;
    let spike = basic("spike", "bone");
    let mut document = send(&running, &format!("GET {SPIKE}"), ADMIN, Value::Null).await.json();
    let first = document["_rev"].as_str().expect("a revision").to_owned();
    document["roles"] = json!([]);
    assert_eq!(send(&running, &format!("PUT {SPIKE}"), ADMIN, document.clone()).await.status, 201);
    document["roles"] = json!(["dog"]);
    let hash = first.split_once('-').expect("N-hash").1.to_owned();
    document["_rev"] = "2-ffffffffffffffffffffffffffffffff".into();
    document["_revisions"] = json!({"start": 2, "ids": ["ffffffffffffffffffffffffffffffff", hash]});
    let brought = json!({"new_edits": false, "docs": [document]});
    let reply = send(&running, "POST /_users/_bulk_docs", &spike, brought).await;
    assert_eq!(reply.json()[0]["error"], "forbidden", "{}", reply.text());
}

#[tokio::test]
async fn only_admins_create_accounts_when_sign_up_is_off() {
    let running = server(&[]).await;
    assert_eq!(send(&running, "POST /_users", "", account("tom", "mp3", &[])).await.status, 401);
    assert_eq!(send(&running, "POST /_users", ADMIN, account("tom", "mp3", &[])).await.status, 201);
    let tom = basic("tom", "mp3");
    assert_eq!(send(&running, &format!("GET {TOM}"), &tom, Value::Null).await.status, 200, "their own document");
    assert_eq!(send(&running, &format!("GET {TOM}"), "", Value::Null).await.status, 401);
    let open = server(&[("chttpd_auth", "allow_sign_up", "true")]).await;
    assert_eq!(send(&open, "POST /_users", "", account("tom", "mp3", &[])).await.status, 201);
}

#[tokio::test]
async fn other_users_see_only_public_fields() {
    let running = house(&[("chttpd_auth", "public_fields", "name, city")]).await;
    let seen = send(&running, &format!("GET {SPIKE}"), &basic("tom", "mp3"), Value::Null).await.json();
    let mut names: Vec<&str> = seen.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["_id", "_rev", "name"]);
}

#[tokio::test]
async fn sign_in_upgrades_an_old_hash_and_keeps_the_session() {
    let running = house(&[]).await;
    let tom = basic("tom", "mp3");
    let cookie = send(&running, "POST /_session", "", json!({"name": "tom", "password": "mp3"})).await;
    let cookie = cookie.header("set-cookie").expect("a cookie").split(';').next().expect("a value").to_owned();
    let cookie = format!("Cookie: {cookie}");
    let before = send(&running, &format!("GET {TOM}"), &tom, Value::Null).await.json();
    send(&running, "PUT /_node/_local/_config/chttpd_auth/iterations", ADMIN, json!("3")).await;
    let after = within(async {
        loop {
            let now = send(&running, &format!("GET {TOM}"), &tom, Value::Null).await.json();
            if now["iterations"] == 3 {
                return now;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(after["salt"], before["salt"]);
    assert_ne!(after["derived_key"], before["derived_key"]);
    let session = send(&running, "GET /_session", &cookie, Value::Null).await.json();
    assert_eq!(session["userCtx"]["name"], "tom");
}

#[tokio::test]
async fn a_new_password_ends_sessions_and_invalidates_the_old_password() {
    let running = house(&[]).await;
    let tom = basic("tom", "mp3");
    let signed = send(&running, "POST /_session", "", json!({"name": "tom", "password": "mp3"})).await;
    let cookie = format!("Cookie: {}", signed.header("set-cookie").expect("a cookie").split(';').next().expect("one"));
    let mut own = send(&running, &format!("GET {TOM}"), &cookie, Value::Null).await.json();
    own["password"] = "mp4".into();
    assert_eq!(send(&running, &format!("PUT {TOM}"), &cookie, own).await.status, 201);
    assert_eq!(send(&running, "GET /_session", &cookie, Value::Null).await.json()["userCtx"]["name"], Value::Null);
    assert_eq!(send(&running, "GET /_session", &tom, Value::Null).await.status, 401);
    assert_eq!(send(&running, "GET /_session", &basic("tom", "mp4"), Value::Null).await.status, 200);
}

#[tokio::test]
async fn the_security_object_controls_database_access() {
    let running = house(&[]).await;
    send(&running, "PUT /club", ADMIN, Value::Null).await;
    let security = json!({"admins": {"names": ["spike"]}, "members": {"roles": ["cat"]}});
    assert_eq!(send(&running, "PUT /club/_security", ADMIN, security).await.status, 200);
    for (who, read, manage) in [("", 401, 401), (&basic("tom", "mp3"), 403, 403), (&basic("spike", "bone"), 200, 200)] {
        assert_eq!(send(&running, "GET /club", who, Value::Null).await.status, read, "{who}");
        assert_eq!(send(&running, "PUT /club/_revs_limit", who, json!(10)).await.status, manage, "{who}");
    }
    let wrong = send(&running, "PUT /club/_security", ADMIN, json!({"members": {"names": ["a", 22]}})).await;
    assert_eq!((wrong.status, wrong.reason().as_str()), (400, "names must be a JSON list of strings"));
    assert_eq!(send(&running, "PUT /club/_security", ADMIN, json!(["foo"])).await.status, 400);
}

#[tokio::test]
async fn repeated_wrong_passwords_lock_the_account() {
    let running = house(&[]).await;
    for _ in 0..5 {
        assert_eq!(send(&running, "GET /_session", &basic("tom", "guess"), Value::Null).await.status, 401);
    }
    let locked = send(&running, "GET /_session", &basic("tom", "mp3"), Value::Null).await;
    assert_eq!(locked.status, 403);
    assert_eq!(locked.reason(), "Account is temporarily locked due to multiple authentication failures");
    let wait: u64 = locked.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    assert_eq!(locked.json()["retry_after"], wait);
    assert!(locked.json()["hint"].as_str().unwrap().contains("The right password is refused as well"));
    assert_eq!(send(&running, "GET /_session", &basic("spike", "bone"), Value::Null).await.status, 200);
}

#[tokio::test]
async fn a_hash_keeps_its_core_when_its_client_disconnects() {
    let running = server(&[]).await;
    let app = running.app.clone();
    let turns = app.hashing.available_permits();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let hash = app.hash(None, "ann", move || Ok(ended.recv().is_err()));
    let mut hash = Box::pin(hash);
    assert!(futures_util::poll!(&mut hash).is_pending());
    // A closed connection drops the futures of its requests.
    drop(hash);
    assert_eq!(app.hashing.available_permits(), turns - 1, "the core is still taken");
    drop(end);
    within(async {
        while app.hashing.available_permits() < turns {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_account_cache_is_bounded() {
    let running = house(&[("chttpd_auth_lockout", "mode", "off")]).await;
    let held = || running.app.accounts.held();
    let status = async |name: &str| send(&running, "GET /_session", &basic(name, "guess"), Value::Null).await.status;
    let before = held();
    assert_eq!((status("nobody").await, held()), (401, before + 1), "a missing account is cached too");
    for bytes in [300, 10_000, 60_000] {
        assert_eq!((status(&"n".repeat(bytes)).await, held()), (401, before + 1), "a name of {bytes} bytes");
    }
    let mut fat = account("fat", "pw", &[]);
    fat["fat"] = "f".repeat(100_000).into();
    assert_eq!(send(&running, "POST /_users", ADMIN, fat.clone()).await.status, 201);
    let before = held();
    let signed_in = async |name: &str| send(&running, "GET /_session", &basic(name, "pw"), Value::Null).await.status;
    assert_eq!((signed_in("fat").await, held()), (200, before + 1), "only the needed members are cached");
    let name = "l".repeat(5000);
    assert_eq!(send(&running, "POST /_users", ADMIN, account(&name, "pw", &[])).await.status, 201);
    assert_eq!((signed_in(&name).await, held()), (200, before + 1), "a large account is not cached");
}

#[tokio::test]
async fn passwords_set_by_non_admins_are_limited_like_sign_ins() {
    let rows = [("rate_limits", "exempt", "192.0.2.1"), ("rate_limits", "sign_in_burst", "4")];
    let running = house(&[rows[0], rows[1], ("rate_limits", "sign_ins_per_minute", "1")]).await;
    let docs = |names: [&str; 2]| json!({"docs": names.map(|name| account(name, "pw", &[]))});
    let rows = send(&running, "POST /_users/_bulk_docs", "", docs(["one", "two"])).await.json();
    assert_eq!((rows[0]["ok"].as_bool(), rows[1]["error"].as_str()), (Some(true), Some("forbidden")), "{rows}");
    let rows = send(&running, "POST /_users/_bulk_docs", ADMIN, docs(["two", "three"])).await.json();
    assert_eq!((rows[0]["ok"].as_bool(), rows[1]["ok"].as_bool()), (Some(true), Some(true)), "{rows}");
    let mut statuses = Vec::new();
    for number in 0..6 {
        let name = format!("more{number}");
        statuses.push(send(&running, "POST /_users", "", account(&name, "pw", &[])).await.status);
    }
    assert!(statuses.starts_with(&[201]) && statuses.ends_with(&[429, 429]), "{statuses:?}");
    let plain = json!({"_id": "org.couchdb.user:plain", "type": "user", "name": "plain", "roles": []});
    assert_eq!(send(&running, "POST /_users", "", plain).await.status, 429, "without a password too");
}

#[tokio::test]
async fn revoking_one_device_keeps_the_other() {
    let running = house(&[]).await;
    let sign_in = async |device: &str| {
        let device = format!("X-Settee-Device: {device}");
        let body = json!({"name": "tom", "password": "mp3"}).to_string();
        let reply = ask(running.address, "POST /_session", &[JSON, &device], body.as_bytes()).await;
        format!("Cookie: {}", reply.header("set-cookie").expect("a cookie").split(';').next().expect("a value"))
    };
    let (phone, laptop) = (sign_in("phone").await, sign_in("laptop").await);
    send(&running, "PUT /list", ADMIN, Value::Null).await;
    let checkpoint = json!({"last_seq": "5-abc", "history": []});
    assert_eq!(send(&running, "PUT /list/_local/check", &phone, checkpoint).await.status, 201);
    let listed = send(&running, "GET /_session/devices", &laptop, Value::Null).await.json();
    let rows = listed["devices"].as_array().expect("rows").clone();
    assert_eq!(rows.len(), 2, "{listed}");
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).expect("listed").clone();
    assert_eq!((of("laptop")["current"].clone(), of("phone")["current"].clone()), (true.into(), false.into()));
    assert_eq!(of("phone")["databases"], json!({"list": "5-abc"}));
    assert_eq!(send(&running, "GET /_session/devices", "", Value::Null).await.status, 401);
    let others = format!("DELETE /_session/devices/{}?user=tom", of("phone")["id"].as_str().expect("an id"));
    assert_eq!(send(&running, &others, &basic("spike", "bone"), Value::Null).await.status, 403);
    let own = format!("DELETE /_session/devices/{}", of("phone")["id"].as_str().expect("an id"));
    assert_eq!(send(&running, &own, &laptop, Value::Null).await.status, 200);
    assert_eq!(send(&running, &own, &laptop, Value::Null).await.status, 404);
    let who = async |cookie: &str| {
        send(&running, "GET /_session", cookie, Value::Null).await.json()["userCtx"]["name"].clone()
    };
    assert_eq!((who(&phone).await, who(&laptop).await), (Value::Null, "tom".into()));
    assert_eq!(send(&running, "DELETE /_session", &laptop, Value::Null).await.status, 200);
    assert_eq!(who(&laptop).await, Value::Null, "signing out ends the session itself");
}

#[tokio::test]
async fn tokens_for_apps_without_cookies() {
    let running = house(&[]).await;
    assert_eq!(send(&running, "POST /_session/token", "", json!({"name": "tom", "password": "x"})).await.status, 401);
    let first = send(&running, "POST /_session/token", "", json!({"name": "tom", "password": "mp3"})).await.json();
    let bearer =
        |tokens: &Value| format!("Authorization: Bearer {}", tokens["access_token"].as_str().expect("a token"));
    let session = send(&running, "GET /_session", &bearer(&first), Value::Null).await.json();
    assert_eq!(
        (session["userCtx"]["name"].as_str(), session["info"]["authenticated"].as_str()),
        (Some("tom"), Some("jwt"))
    );
    let refresh = json!({"refresh_token": first["refresh_token"]});
    let second = send(&running, "POST /_session/token", "", refresh.clone()).await.json();
    assert_eq!(send(&running, "GET /_session", &bearer(&second), Value::Null).await.status, 200);
    assert_eq!(send(&running, "POST /_session/token", "", refresh).await.status, 401, "used twice");
    assert_eq!(send(&running, "GET /_session", &bearer(&second), Value::Null).await.status, 401, "so it is revoked");
}

#[tokio::test]
async fn couch_peruser_creates_a_database_for_each_user() {
    let running = house(&[("couch_peruser", "enable", "true"), ("couchdb", "default_security", "admin_only")]).await;
    let send_as_admin = async |line: &str, body: Value| send(&running, line, ADMIN, body).await;
    send_as_admin("POST /_users", account("ed", "pw", &[])).await;
    let security = within(async {
        loop {
            let reply = send_as_admin("GET /userdb-6564/_security", Value::Null).await;
            if reply.status == 200 && reply.json()["members"]["names"].is_array() {
                return reply.json();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(security["admins"], json!({"roles": ["_admin"], "names": ["ed"]}));
    assert_eq!(send(&running, "PUT /userdb-6564/doc", &basic("ed", "pw"), json!({})).await.status, 201);
    assert_eq!(send(&running, "GET /userdb-6564", &basic("tom", "mp3"), Value::Null).await.status, 403);
}
