//! A raw HTTP connection, for requests that are sent in parts and responses that are read chunk by chunk.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Read timeout after which a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the server.
pub struct Wire {
    stream: BufReader<TcpStream>,
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns the value of a header; names are case-insensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON, or null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Wire {
    /// Connects to the server at `address`.
    pub fn connect(address: &str) -> Wire {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        Wire { stream: BufReader::new(stream) }
    }

    /// Sends bytes. Ignores errors: a server that has already responded may close the connection, and the
    /// tests check its response.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// Sends a complete request and reads the response.
    pub fn ask(&mut self, line: &str, headers: &str, body: &[u8]) -> Reply {
        let head = format!("{line} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat());
        self.reply()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }

    /// Reads the status and headers of the next response.
    pub fn head(&mut self) -> Reply {
        let line = self.line();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Reply { status, headers, body: Vec::new() }
    }

    /// Reads the next chunk of a chunked body. Returns `None` at its end, or if the server cuts it.
    pub fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).ok()?;
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8_lossy(&chunk).into_owned())
    }

    /// Reads all remaining chunks.
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        while let Some(chunk) = self.chunk() {
            text.push_str(&chunk);
        }
        text
    }

    /// Reads until the server closes the connection. Returns the number of bytes.
    pub fn until_closed(&mut self) -> usize {
        let (mut count, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return count,
                Ok(read) => count += read,
            }
        }
    }

    /// Reads the next complete response.
    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = self.rest().into_bytes();
        } else {
            let length = reply.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            reply.body = vec![0; length];
            self.stream.read_exact(&mut reply.body).expect("the body in time");
        }
        reply
    }
}
