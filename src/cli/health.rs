//! `settee health`: asks a running server whether it is alive.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::maintain::control;

/// How long the server may take to answer.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));

/// Asks `/_up`: the health check of containers, which have no curl.
///
/// Under `require_valid_user`, the server answers this request with 401, as CouchDB does, and so does not tell whether
/// its store works. It is then asked through the control socket of `data`. If that cannot be reached, the server
/// counts as alive, because it has answered.
///
/// # Errors
/// A sentence for the user: nothing answers, or the server says that it should not get requests.
pub fn ask_health(at: &str, data: &Path) -> Result<(), String> {
    let socket = std::net::TcpStream::connect(at).map_err(|error| error.to_string())?;
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

/// Returns the status of `/_up`, and the first line of the answer.
fn ask(mut socket: impl Read + Write, host: &str) -> Result<(u16, String), String> {
    let request = format!("GET /_up HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    socket.take(4096).read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let line = answer.lines().next().unwrap_or("").to_owned();
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, line))
}
