//! Basic authentication and cookie sessions of server admins.

use serde_json::json;

use super::*;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

#[tokio::test]
async fn session_reports_the_authenticated_user() {
    let running = server(&[]).await;
    for (header, status, name, handler) in [
        (None, 200, json!(null), json!(null)),
        (Some(ADMIN), 200, json!("ann"), json!("default")),
        (Some("Authorization: Basic: YW5uOnNlY3JldA=="), 200, json!(null), json!(null)),
        (Some("Authorization: Basic YW5uOndyb25n"), 401, json!(null), json!(null)),
        (Some("Authorization: Basic !!!"), 400, json!(null), json!(null)),
        (Some("Cookie: AuthSession="), 200, json!(null), json!(null)),
    ] {
        let headers: Vec<&str> = header.into_iter().collect();
        let reply = ask(running.address, "GET /_session", &headers, b"").await;
        assert_eq!(reply.status, status, "{header:?}: {}", reply.text());
        if status == 200 {
            assert_eq!(reply.json()["userCtx"]["name"], name, "{header:?}");
            assert_eq!(reply.json()["info"]["authenticated"], handler, "{header:?}");
        }
    }
    let login = ask(running.address, "GET /_session?basic=true", &[], b"").await;
    assert_eq!((login.status, login.reason().as_str()), (401, "Please login."));
}

#[tokio::test]
async fn sign_in_use_cookie_and_sign_out() {
    let running = server(&[]).await;
    for (kind, body) in [(FORM, "name=ann&password=secret"), (JSON, "{\"username\":\"ann\",\"password\":\"secret\"}")] {
        let reply = ask(running.address, "POST /_session", &[kind], body.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({"ok": true, "name": "ann", "roles": ["_admin"]})),
            "{kind}"
        );
        let cookie = reply.header("set-cookie").unwrap().to_owned();
        assert!(
            cookie.starts_with("AuthSession=") && cookie.contains("HttpOnly") && cookie.contains("Path=/"),
            "{cookie}"
        );
        let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
        let session = ask(running.address, "GET /_session", &[&cookie], b"").await;
        assert_eq!(session.json()["info"]["authenticated"], "cookie");
        assert_eq!(ask(running.address, "GET /_node/_local/_config", &[&cookie], b"").await.status, 200);
        let forged = format!("{}x", cookie);
        let forged = ask(running.address, "GET /_session", &[&forged], b"").await;
        assert!(forged.status == 400 || forged.json()["userCtx"]["name"].is_null(), "{}", forged.text());
    }
    let out = ask(running.address, "DELETE /_session", &[], b"").await;
    assert_eq!((out.status, out.json()), (200, json!({"ok": true})));
    assert!(out.header("set-cookie").unwrap().starts_with("AuthSession=;"));
}

#[tokio::test]
async fn invalid_sign_ins_are_refused() {
    let running = server(&[]).await;
    for (kind, body, status, error, reason) in [
        (FORM, "name=ann&password=wrong", 401, "unauthorized", "Name or password is incorrect."),
        (FORM, "name=nobody&password=x", 401, "unauthorized", "Name or password is incorrect."),
        (FORM, "password=secret", 400, "bad_request", "request body must contain a username"),
        (FORM, "name=a&username=b&password=x", 400, "bad_request", "request body contains different usernames"),
        (JSON, "[1]", 400, "bad_request", "Request body must be a JSON object"),
        (
            "Content-Type: text/plain",
            "x",
            415,
            "bad_content_type",
            "Content-Type must be 'application/x-www-form-urlencoded' or 'application/json'",
        ),
    ] {
        let reply = ask(running.address, "POST /_session", &[kind], body.as_bytes()).await;
        assert_eq!((reply.status, reply.error().as_str()), (status, error), "{body}: {}", reply.text());
        assert_eq!(reply.reason(), reason, "{body}");
    }
}

#[tokio::test]
async fn redirects_to_other_servers_are_refused() {
    let running = server(&[]).await;
    for (line, body, to) in [
        ("POST /_session?next=/after", "name=ann&password=secret", Some("http://test/after")),
        ("POST /_session?next=https://evil.example", "name=ann&password=secret", None),
        ("POST /_session?next=@evil.example", "name=ann&password=secret", None),
        ("POST /_session?fail=/again", "name=ann&password=wrong", Some("http://test/again")),
    ] {
        let reply = ask(running.address, line, &[FORM], body.as_bytes()).await;
        assert_eq!((reply.status == 302, reply.header("location")), (to.is_some(), to), "{line}");
    }
}

#[tokio::test]
async fn lockout_uses_the_client_address_reported_by_a_trusted_proxy() {
    let running = server(&[("chttpd", "peer_header", "X-Real-IP")]).await;
    let from = |address: &str| format!("X-Real-IP: 9.9.9.9, {address}");
    for _ in 0..6 {
        let wrong = "Authorization: Basic YW5uOndyb25n";
        ask(running.address, "GET /_session", &[wrong, &from("192.0.2.1")], b"").await;
    }
    for (address, status) in [("192.0.2.1", 403), ("192.0.2.2", 200)] {
        let reply = ask(running.address, "GET /_session", &[ADMIN, &from(address)], b"").await;
        assert_eq!(reply.status, status, "{address}: {}", reply.text());
    }
}
