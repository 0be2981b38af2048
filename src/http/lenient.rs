//! Request lines as people type them: `curl 'http://.../_view/v?key="a"'`.
//!
//! The quote is not allowed in a URI (RFC 3986), CouchDB's server takes it all the same, and its users write it every day;
//! hyper answers 400 before anybody here can look. So the bytes of a connection pass through this wrapper, which writes
//! `%22`, `%3C` and `%3E` for `"`, `<` and `>` in a request line.
//!
//! It must know where a request begins: bytes of a body that look like a request line must stay as they are, or the body grows and
//! its end is taken for the next request, somebody else's behind a proxy. That is known of the first bytes of a connection, and of
//! those after a request that came in one piece, alone and without a body. There a whole request line with one of the three
//! characters in its target is changed; what comes later on a connection that has carried a body keeps hyper's 400.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection whose request lines are mended.
pub struct Lenient<S> {
    socket: S,
    /// The next bytes begin a request, if there are any.
    at_start: bool,
    /// Mended bytes that the reader has not taken yet.
    mended: Vec<u8>,
}

impl<S> Lenient<S> {
    pub fn new(socket: S) -> Lenient<S> {
        Lenient { socket, at_start: true, mended: Vec::new() }
    }
}

/// The bytes with their request line mended; `None` if there is nothing to mend.
fn mend(bytes: &[u8]) -> Option<Vec<u8>> {
    let line = &bytes[..memchr::memmem::find(bytes, b"\r\n")?];
    if !line.iter().any(|byte| is_loose(*byte)) {
        return None;
    }
    let (method, rest) = line.split_at(memchr::memchr(b' ', line)?);
    let is_request = method.iter().all(u8::is_ascii_uppercase)
        && rest.starts_with(b" /")
        && (rest.ends_with(b" HTTP/1.1") || rest.ends_with(b" HTTP/1.0"));
    if !is_request {
        return None;
    }
    let mut mended = Vec::with_capacity(bytes.len() + 32);
    for byte in line {
        match is_loose(*byte) {
            true => mended.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            false => mended.push(*byte),
        }
    }
    mended.extend_from_slice(&bytes[line.len()..]);
    Some(mended)
}

/// Whether the bytes, which begin with a request, are all of it and nothing else: one head, of a request without a body. Lines may
/// end as hyper lets them, in a bare line feed.
fn is_whole(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(end) = memchr::memchr(b'\n', &bytes[at..]) {
        let line = &bytes[at..at + end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        at += end + 1;
        if line.is_empty() {
            return at == bytes.len();
        }
        let begins = |name: &[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        if begins(b"content-length") || begins(b"transfer-encoding") {
            return false;
        }
    }
    false
}

fn is_loose(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>')
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.mended.is_empty() {
            let before = out.filled().len();
            std::task::ready!(Pin::new(&mut self.socket).poll_read(context, out))?;
            if !self.at_start {
                return Poll::Ready(Ok(()));
            }
            let bytes = &out.filled()[before..];
            self.at_start = is_whole(bytes);
            match mend(bytes) {
                None => return Poll::Ready(Ok(())),
                Some(mended) => {
                    out.set_filled(before);
                    self.mended = mended;
                }
            }
        }
        let fits = out.remaining().min(self.mended.len());
        out.put_slice(&self.mended[..fits]);
        self.mended.drain(..fits);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn only_request_lines_are_mended() {
        for (bytes, wanted) in [
            ("GET /a?key=\"x\" HTTP/1.1\r\nX: \"y\"\r\n", Some("GET /a?key=%22x%22 HTTP/1.1\r\nX: \"y\"\r\n")),
            ("GET /a?b=<c> HTTP/1.0\r\n", Some("GET /a?b=%3Cc%3E HTTP/1.0\r\n")),
            ("GET /a HTTP/1.1\r\nX: \"y\"\r\n", None),
            ("{\"GET /a HTTP/1.1\r\n", None),
            ("say \"GET\" / HTTP/1.1\r\n", None),
            ("GET /a?key=\"x\"", None),
        ] {
            assert_eq!(mend(bytes.as_bytes()).as_deref(), wanted.map(str::as_bytes), "{bytes}");
        }
    }

    #[test]
    fn what_is_one_request_without_a_body() {
        for (bytes, whole) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\nHost: a\n\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a", false),
            ("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", false),
            ("GET / HTTP/1.1\n\nPUT / HTTP/1.1\r\n\r\n", false),
            ("PUT / HTTP/1.1\r\ncontent-LENGTH: 5\r\n\r\n", false),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("\r\n", true),
            ("", false),
        ] {
            assert_eq!(is_whole(bytes.as_bytes()), whole, "{bytes:?}");
        }
    }

    /// Reads all of what comes in these pieces.
    async fn read(pieces: &[&str]) -> String {
        let mut socket = in_pieces(pieces);
        let mut all = String::new();
        socket.read_to_string(&mut all).await.unwrap();
        all
    }

    /// A connection whose reads give one piece each.
    fn in_pieces(pieces: &[&str]) -> impl AsyncRead + Unpin {
        let pieces: Vec<io::Result<bytes::Bytes>> = pieces.iter().map(|piece| Ok(piece.to_string().into())).collect();
        Lenient::new(tokio_util::io::StreamReader::new(futures_util::stream::iter(pieces)))
    }

    #[tokio::test]
    async fn a_body_stays_as_it_is_whatever_it_looks_like() {
        const LOOSE: &str = "GET /\"\" HTTP/1.1\r\nHost: a\r\n\r\n";
        const MENDED: &str = "GET /%22%22 HTTP/1.1\r\nHost: a\r\n\r\n";
        const HEAD: &str = "PUT /a HTTP/1.1\r\nContent-Length: 30\r\nExpect: 100-continue\r\n\r\n";
        let both = [LOOSE, HEAD].concat();
        for (pieces, wanted) in [
            (&[LOOSE, LOOSE][..], [MENDED, MENDED].concat()),
            (&[HEAD, LOOSE], [HEAD, LOOSE].concat()),
            (&[LOOSE, HEAD, LOOSE], [MENDED, HEAD, LOOSE].concat()),
            (&[&both, LOOSE], [MENDED, HEAD, LOOSE].concat()),
            (&[&HEAD[..30], &HEAD[30..], LOOSE], [HEAD, LOOSE].concat()),
        ] {
            assert_eq!(read(pieces).await, wanted, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_small_reader_gets_every_byte() {
        let line = b"GET /a?key=\"x\" HTTP/1.1\r\n\r\n\"body\"";
        let mut socket = Lenient::new(&line[..]);
        let mut all = Vec::new();
        let mut some = [0; 30];
        loop {
            match socket.read(&mut some).await.unwrap() {
                0 => break,
                taken => all.extend_from_slice(&some[..taken]),
            }
        }
        assert_eq!(String::from_utf8(all).unwrap(), "GET /a?key=%22x%22 HTTP/1.1\r\n\r\n\"body\"");
    }
}
