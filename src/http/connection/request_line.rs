//! Accepts request lines as people type them: `curl 'http://.../_view/v?key="a"'`.
//!
//! A URI must not contain a double quote (RFC 3986), but CouchDB accepts it and its users often write it.
//! hyper answers 400 before any code of ours sees the request. This wrapper therefore filters the bytes of a
//! connection: in a request line it replaces `"`, `<`, `>` and `` ` `` by `%22`, `%3C`, `%3E` and `%60`.
//!
//! The wrapper must know where a request begins. If it changed bytes of a body that look like a request line,
//! the body would grow, and its last bytes would be parsed as the next request: request smuggling, behind a
//! proxy into another client's requests. The first bytes of a connection begin a request. After that the
//! wrapper can follow the requests as long as each head arrives in one read and states the length of its
//! body, and the next head arrives after the end of that body. While this holds, a complete request line with
//! one of these characters is rewritten. After anything else (a chunked body, a pipelined request) the
//! wrapper passes all bytes unchanged, and hyper answers 400.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection whose request lines are corrected as they are read.
pub struct RequestLineRepair<S> {
    socket: S,
    next: Next,
    /// Corrected bytes that the reader has not taken yet.
    mended: Vec<u8>,
}

/// What the next bytes of the connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The start of a request.
    Request,
    /// This number of bytes of a body.
    Body(u64),
    Unknown,
}

impl<S> RequestLineRepair<S> {
    pub fn new(socket: S) -> RequestLineRepair<S> {
        RequestLineRepair { socket, next: Next::Request, mended: Vec::new() }
    }
}

/// Returns the bytes with a corrected request line, or `None` if nothing has to be corrected.
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

/// Returns what follows `bytes`, which are of the kind `next`.
fn after(next: Next, bytes: &[u8]) -> Next {
    let body = match next {
        Next::Request if bytes.is_empty() => return Next::Request,
        Next::Request => head(bytes),
        Next::Body(length) => Some((0, length)),
        Next::Unknown => None,
    };
    let left = body.and_then(|(head, body)| body.checked_sub((bytes.len() - head) as u64));
    match left {
        Some(0) => Next::Request,
        Some(left) => Next::Body(left),
        None => Next::Unknown,
    }
}

/// Returns the length of the head at the start of `bytes`, and the length of the body after it. `None` if the
/// head is incomplete or the length of the body is not certain. Like hyper, this accepts lines that end in a
/// bare line feed.
fn head(bytes: &[u8]) -> Option<(usize, u64)> {
    const LENGTH: &[u8] = b"content-length";
    const CODING: &[u8] = b"transfer-encoding";
    let (mut at, mut length) = (0, None);
    loop {
        let end = memchr::memchr(b'\n', &bytes[at..])?;
        let line = &bytes[at..at + end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        at += end + 1;
        if line.is_empty() {
            return Some((at, length.unwrap_or(0)));
        }
        let begins = |name: &[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        if begins(CODING) {
            return None;
        }
        if begins(LENGTH) {
            let digits = line[LENGTH.len()..].strip_prefix(b":")?.trim_ascii();
            let said =
                std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
            // Which of two lengths counts is hyper's decision.
            if length.replace(said.parse().ok()?).is_some() {
                return None;
            }
        }
    }
}

fn is_loose(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`')
}

impl<S: AsyncRead + Unpin> AsyncRead for RequestLineRepair<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.mended.is_empty() {
            let before = out.filled().len();
            std::task::ready!(Pin::new(&mut self.socket).poll_read(context, out))?;
            let (next, bytes) = (self.next, &out.filled()[before..]);
            self.next = after(next, bytes);
            if next != Next::Request {
                return Poll::Ready(Ok(()));
            }
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

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestLineRepair<S> {
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
    fn only_request_lines_are_corrected() {
        for (bytes, wanted) in [
            ("GET /a?key=\"x\" HTTP/1.1\r\nX: \"y\"\r\n", Some("GET /a?key=%22x%22 HTTP/1.1\r\nX: \"y\"\r\n")),
            ("GET /a?b=<c> HTTP/1.0\r\n", Some("GET /a?b=%3Cc%3E HTTP/1.0\r\n")),
            ("GET /db/a`b HTTP/1.1\r\n", Some("GET /db/a%60b HTTP/1.1\r\n")),
            ("GET /a HTTP/1.1\r\nX: \"y\"\r\n", None),
            ("{\"GET /a HTTP/1.1\r\n", None),
            ("say \"GET\" / HTTP/1.1\r\n", None),
            ("GET /a?key=\"x\"", None),
        ] {
            assert_eq!(mend(bytes.as_bytes()).as_deref(), wanted.map(str::as_bytes), "{bytes}");
        }
    }

    #[test]
    fn the_end_of_a_request_is_tracked_only_while_certain() {
        for (bytes, next) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Next::Request),
            ("GET / HTTP/1.1\nHost: a\n\n", Next::Request),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Next::Unknown),
            ("GET / HTTP/1.1\r\nHost: a", Next::Unknown),
            ("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", Next::Unknown),
            ("GET / HTTP/1.1\n\nPUT / HTTP/1.1\r\n\r\n", Next::Unknown),
            ("PUT / HTTP/1.1\r\ncontent-LENGTH:  5 \r\n\r\n", Next::Body(5)),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\n123", Next::Body(2)),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\n12345", Next::Request),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\n123456", Next::Unknown),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Next::Unknown),
            ("PUT / HTTP/1.1\r\nContent-Length : 5\r\n\r\n", Next::Unknown),
            ("PUT / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", Next::Unknown),
            ("PUT / HTTP/1.1\r\nContent-Length:\r\n\r\n", Next::Unknown),
            ("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", Next::Unknown),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Next::Unknown),
            ("", Next::Request),
        ] {
            assert_eq!(after(Next::Request, bytes.as_bytes()), next, "{bytes:?}");
        }
        assert_eq!(after(Next::Body(5), b"1234"), Next::Body(1));
        assert_eq!(after(Next::Body(5), b"12345"), Next::Request);
        assert_eq!(after(Next::Body(5), b"123456"), Next::Unknown);
        assert_eq!(after(Next::Unknown, b"GET / HTTP/1.1\r\n\r\n"), Next::Unknown);
    }

    /// Reads a connection that delivers these pieces to its end.
    async fn read(pieces: &[&str]) -> String {
        let mut socket = in_pieces(pieces);
        let (mut all, mut some) = (String::new(), [0; 1000]);
        while let taken @ 1.. = socket.read(&mut some).await.unwrap() {
            all += std::str::from_utf8(&some[..taken]).unwrap();
        }
        all
    }

    /// A connection whose reads return one piece each.
    fn in_pieces(pieces: &[&str]) -> impl AsyncRead + Unpin {
        let pieces: Vec<io::Result<bytes::Bytes>> = pieces.iter().map(|piece| Ok(piece.to_string().into())).collect();
        RequestLineRepair::new(tokio_util::io::StreamReader::new(futures_util::stream::iter(pieces)))
    }

    #[tokio::test]
    async fn a_body_that_looks_like_a_request_line_is_unchanged() {
        const LOOSE: &str = "GET /\"\" HTTP/1.1\r\nHost: a\r\n\r\n";
        const MENDED: &str = "GET /%22%22 HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = format!("PUT /a HTTP/1.1\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n", LOOSE.len());
        let head = head.as_str();
        let both = [LOOSE, head].concat();
        for (pieces, wanted) in [
            (&[LOOSE, LOOSE][..], [MENDED, MENDED].concat()),
            (&[head, LOOSE], [head, LOOSE].concat()),
            (&[head, LOOSE, LOOSE], [head, LOOSE, MENDED].concat()),
            (&[LOOSE, head, LOOSE, LOOSE], [MENDED, head, LOOSE, MENDED].concat()),
            (&[&both, LOOSE, LOOSE], [MENDED, head, LOOSE, LOOSE].concat()),
            (&[&head[..30], &head[30..], LOOSE], [head, LOOSE].concat()),
        ] {
            assert_eq!(read(pieces).await, wanted, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_reader_with_a_small_buffer_receives_every_byte() {
        let line = b"GET /a?key=\"x\" HTTP/1.1\r\n\r\n\"body\"";
        let mut socket = RequestLineRepair::new(&line[..]);
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
