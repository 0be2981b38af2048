//! TLS over a real socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::*;
use crate::net::tls::tests::{connector, samples};

async fn ask_encrypted(running: &Running, line: &str, headers: &str, body: &str) -> String {
    within(async {
        let socket = TcpStream::connect(running.secure_address.expect("a TLS port")).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut socket = connector().connect(name, socket).await.unwrap();
        let length = body.len();
        let text = format!(
            "{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("closed as TLS closes");
        answer
    })
    .await
}

async fn with_tls(more: &[(&str, &str, &str)]) -> Running {
    let (cert, key) = (samples().join("one.pem"), samples().join("one.key"));
    let mut rows = vec![
        ("ssl", "cert_file", cert.to_str().unwrap()),
        ("ssl", "key_file", key.to_str().unwrap()),
        ("ssl", "port", "0"),
    ];
    rows.extend_from_slice(more);
    server(&rows).await
}

#[tokio::test]
async fn secure_cookies_and_hsts_are_sent_only_over_tls() {
    let running = with_tls(&[]).await;
    let (json, form) = ("Content-Type: application/json", r#"{"name":"ann","password":"secret"}"#);
    let answer = ask_encrypted(&running, "POST /_session", &format!("{json}\r\n"), form).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("; Secure"), "{answer}");
    assert!(answer.contains("Strict-Transport-Security: max-age=31536000\r\n"), "{answer}");
    let plain = ask(running.address, "POST /_session", &[json], form.as_bytes()).await;
    assert_eq!((plain.status, plain.header("strict-transport-security")), (200, None));
    assert!(!plain.header("set-cookie").unwrap().contains("Secure"));
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_empty_hsts_setting_disables_the_header() {
    let running = with_tls(&[("ssl", "hsts", "")]).await;
    let answer = ask_encrypted(&running, "GET /_up", "", "").await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("Strict-Transport"), "{answer}");
}

#[tokio::test]
async fn an_unfinished_handshake_does_not_delay_shutdown() {
    let running = with_tls(&[]).await;
    let _silent = TcpStream::connect(running.secure_address.unwrap()).await.unwrap();
    within(running.shutdown()).await.unwrap();
}
