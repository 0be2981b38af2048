//! An HTTP client for tests: it sends exactly the given bytes and neither corrects requests nor interprets
//! responses.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection.
pub struct Client {
    socket: TcpStream,
    read: Vec<u8>,
}

/// A response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, with chunked encoding removed.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON. Panics if it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The member `error` of the body.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or("").to_owned()
    }

    /// The member `reason` of the body.
    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or("").to_owned()
    }
}

/// Sends a request on a new connection. `line` is `METHOD /path`; `headers` are complete header lines.
pub async fn ask(address: SocketAddr, line: &str, headers: &[&str], body: &[u8]) -> Reply {
    super::within(async {
        let mut client = Client::connect(address).await;
        client.send(line, headers, body).await;
        client.reply(line.starts_with("HEAD")).await.expect("an answer")
    })
    .await
}

impl Client {
    /// Opens a connection.
    pub async fn connect(address: SocketAddr) -> Client {
        Client { socket: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    /// Sends a request. `Content-Length` is added if the headers do not state the length of a non-empty body.
    pub async fn send(&mut self, line: &str, headers: &[&str], body: &[u8]) {
        let mut text = format!("{line} HTTP/1.1\r\nHost: test\r\n");
        for header in headers {
            text += &format!("{header}\r\n");
        }
        let chunked = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("transfer-encoding"));
        let said = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("content-length"));
        if !chunked && !said && !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        self.raw(text.as_bytes()).await;
        self.raw(body).await;
    }

    /// Sends bytes.
    pub async fn raw(&mut self, bytes: &[u8]) {
        // The server may have refused the request and closed the connection; its response can still be read.
        let _ = self.socket.write_all(bytes).await;
    }

    async fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match self.socket.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }

    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.read[..end]).into_owned();
                self.read.drain(..end + 2);
                return Some(line);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.read.drain(..count).collect())
    }

    /// Reads `100 Continue`.
    pub async fn wait_for_continue(&mut self) {
        assert_eq!(self.line().await.as_deref(), Some("HTTP/1.1 100 Continue"));
        self.line().await;
    }

    /// Reads the next response; `None` if the connection ends first. `head` says that the request was a HEAD,
    /// whose response has no body.
    pub async fn reply(&mut self, head: bool) -> Option<Reply> {
        let status = loop {
            let line = self.line().await?;
            let status: u16 = line.split(' ').nth(1)?.parse().ok()?;
            if status != 100 {
                break status;
            }
            self.line().await?;
        };
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ")?;
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        if head || status == 204 || status == 304 {
            return Some(reply);
        }
        if let Some(length) = reply.header("content-length").map(|length| length.parse().unwrap()) {
            reply.body = self.exactly(length).await?;
        } else if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line().await?, 16).ok()?;
                let chunk = self.exactly(size).await?;
                self.exactly(2).await?;
                if size == 0 {
                    break;
                }
                reply.body.extend(chunk);
            }
        }
        Some(reply)
    }

    /// Reads until the response contains `text`. Returns false if it ends before.
    pub async fn until(&mut self, text: &str) -> bool {
        while !self.read.windows(text.len()).any(|part| part == text.as_bytes()) {
            if !self.fill().await {
                return false;
            }
        }
        true
    }

    /// Reads a chunked response to its end.
    pub async fn ends(&mut self) -> bool {
        self.until("\r\n0\r\n\r\n").await
    }

    /// Waits for more bytes, and returns whether the server closed the connection instead.
    pub async fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.fill().await
    }
}
