//! `settee health`: asks a running server whether it is alive.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::admin_api::{find_header, parse};
use super::other_server::{Heard, another_answers, is_error, nothing_listens, shown};
use crate::maintain::control;

/// How long the server may take to answer.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));

/// Bytes of the answer, at most.
const MOST: u64 = 64 << 10;
const PATH: &str = "/_up";

/// Asks `/_up`: the health check of containers, which have no curl.
///
/// Under `require_valid_user`, the server answers this request with 401, as CouchDB does, and so does not tell whether
/// its store works. It is then asked through the control socket of `data`. If that cannot be reached, the server
/// counts as alive, because it has answered.
///
/// # Errors
/// A sentence for the user: nothing answers, what answers is another kind of server, or the server says that it should
/// not get requests.
pub fn ask_health(at: &str, data: &Path) -> Result<(), String> {
    let socket = std::net::TcpStream::connect(at).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => nothing_listens("there"),
        _ => error.to_string(),
    })?;
    socket.set_read_timeout(PATIENCE).and_then(|()| socket.set_write_timeout(PATIENCE)).map_err(|e| e.to_string())?;
    match ask(socket, at)? {
        (200, _) => Ok(()),
        (401, _) => match control::http(data) {
            Ok(Some(socket)) => {
                let limited = socket.set_read_timeout(PATIENCE).and_then(|()| socket.set_write_timeout(PATIENCE));
                limited.map_err(|error| error.to_string())?;
                match ask(socket, "localhost")? {
                    (200, _) => Ok(()),
                    (_, line) => Err(format!("it answers `{line}`")),
                }
            }
            Ok(None) | Err(_) => Ok(()),
        },
        (_, line) => Err(format!("it answers `{line}`")),
    }
}

/// Returns the status of `/_up`, and the first line of the answer. An answer that is not of settee or CouchDB is an error.
fn ask(mut socket: impl Read + Write, host: &str) -> Result<(u16, String), String> {
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let read = socket.take(MOST).read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let line = shown(text.lines().next().unwrap_or(""));
    let Some((status, headers, body)) = parse(&answer) else {
        return Err(match read {
            Err(error) => format!("there is no complete answer: {error}"),
            Ok(_) => format!("the answer is not HTTP, or not complete: `{line}`"),
        });
    };
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let is_known = if status == 200 { json["status"] == "ok" } else { json["status"].is_string() || is_error(&json) };
    if is_known {
        return Ok((status, line));
    }
    let header = |name| find_header(&headers, name);
    let heard = Heard {
        method: "GET",
        path: PATH,
        status,
        server: header("server"),
        location: header("location"),
        body: &body,
    };
    Err(another_answers("there", &heard))
}
