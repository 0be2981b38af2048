//! `settee health`: asks a running server whether it is up.

use std::io::{Read, Write};
use std::time::Duration;

/// Asks `/_up` and wants 200: the health check of containers, which have no curl.
pub fn ask_health(at: &str) -> Result<(), String> {
    let mut socket = std::net::TcpStream::connect(at).map_err(|error| error.to_string())?;
    let timeout = Some(Duration::from_secs(5));
    socket
        .set_read_timeout(timeout)
        .and_then(|()| socket.set_write_timeout(timeout))
        .map_err(|error| error.to_string())?;
    let request = format!("GET /_up HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    socket.take(4096).read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let line = answer.lines().next().unwrap_or("");
    if line.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("it answers `{line}`")) }
}
