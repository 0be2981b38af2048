//! A client that writes frames of HTTP/2 by hand (RFC 9113), so that it can write wrong ones, too many of them,
//! or none where one is due.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Types of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Settings.
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Error codes.
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// `admin:secret`.
const ADMIN: &str = "Basic YWRtaW46c2VjcmV0";

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes")))
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The bytes of a SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn length(mut value: usize) -> Vec<u8> {
    if value < 127 {
        return vec![value as u8];
    }
    let mut bytes = vec![127];
    value -= 127;
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}

/// A header field that is written out, and not kept in the table of the other side.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &length(name.len()), name.as_bytes(), &length(value.len()), value.as_bytes()].concat()
}

/// The same, kept in the table of the other side.
pub fn kept_field(name: &str, value: &str) -> Vec<u8> {
    [&[0x40][..], &field(name, value)[1..]].concat()
}

/// The header block of a request of the admin.
pub fn head(method: &str, path: &str) -> Vec<u8> {
    let fields = [
        (":method", method),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
        ("authorization", ADMIN),
        ("content-type", "application/json"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// One connection.
pub struct Connection {
    pub socket: TcpStream,
    next: u32,
}

impl Connection {
    /// Connects and sends the preface with these settings.
    pub fn open(address: &str, values: &[(u16, u32)]) -> Connection {
        let mut socket = TcpStream::connect(address).expect("the server listens");
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        // Without a table the server writes every status out.
        let values = [&[(HEADER_TABLE_SIZE, 0)], values].concat();
        socket.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings(&values)[..]].concat()).unwrap();
        Connection { socket, next: 1 }
    }

    /// Sends bytes. An error means that the server has closed the connection, or reads nothing.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// The number of the next stream.
    pub fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Sends a GET and returns its stream.
    pub fn get(&mut self, path: &str) -> u32 {
        let stream = self.stream();
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", path))).expect("a request is taken");
        stream
    }

    /// The next frame; `None` when the server has closed the connection.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut start = [0; 9];
        match self.socket.read_exact(&mut start) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("no frame came in time")
            }
            Err(_) => return None,
        }
        let mut payload = vec![0; u32::from_be_bytes([0, start[0], start[1], start[2]]) as usize];
        self.socket.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes(start[5..9].try_into().expect("four bytes")) & (u32::MAX >> 1);
        Some(Frame { kind: start[3], flags: start[4], stream, payload })
    }

    /// Reads to the next frame of a kind. Answers pings and settings meanwhile.
    pub fn until(&mut self, kind: u8) -> Option<Frame> {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(60), "no frame {kind} came");
            let got = self.frame()?;
            if got.flags & ACK == 0 && matches!(got.kind, PING | SETTINGS) {
                let payload = if got.kind == PING { &got.payload[..] } else { &[] };
                let _ = self.send(&frame(got.kind, ACK, 0, payload));
            }
            if got.kind == kind {
                return Some(got);
            }
        }
    }

    /// Waits until the server has taken all frames before this call.
    pub fn ping(&mut self) {
        self.send(&frame(PING, 0, 0, b"12345678")).expect("a ping is taken");
        while self.until(PING).expect("an answer to the ping").flags & ACK == 0 {}
    }

    /// Reads the response of a stream: its status and its body. `Err` is how the stream was reset, or `None` if
    /// the connection ended.
    pub fn answer(&mut self, stream: u32) -> Result<(u16, Vec<u8>), Option<u32>> {
        let (mut status, mut body) = (0, Vec::new());
        loop {
            let got = self.frame().ok_or(None)?;
            if got.kind == GOAWAY && got.code() != Some(0) {
                return Err(got.code());
            }
            if got.stream != stream {
                continue;
            }
            match got.kind {
                HEADERS => status = status_of(&got.payload),
                DATA => body.extend_from_slice(&got.payload),
                RST_STREAM => return Err(got.code()),
                _ => continue,
            }
            if got.flags & END_STREAM != 0 {
                return Ok((status, body));
            }
        }
    }

    /// Reads to the end of the connection, and returns the code of the last GOAWAY.
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(got) = self.frame() {
            code = got.code().filter(|_| got.kind == GOAWAY).or(code);
        }
        code
    }
}

/// The status in a header block that was written without a table.
fn status_of(block: &[u8]) -> u16 {
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [index @ 0x88..=0x8e, ..] => INDEXED[usize::from(index - 0x88)],
        // `:status`, written out in the code of Huffman: digits up to 2 have five bits, others six.
        [_, length, code @ ..] if length & 0x80 != 0 => {
            let bits: String = code[..usize::from(length & 0x7f)].iter().map(|byte| format!("{byte:08b}")).collect();
            let (mut at, mut status) = (0, 0);
            for _ in 0..3 {
                let short = u16::from_str_radix(&bits[at..at + 5], 2).expect("bits");
                let (digit, width) = match short {
                    0..=2 => (short, 5),
                    _ => (u16::from_str_radix(&bits[at..at + 6], 2).expect("bits") - 0b01_1001 + 3, 6),
                };
                (at, status) = (at + width, status * 10 + digit);
            }
            status
        }
        [_, 3, a, b, c, ..] => [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0')),
        _ => panic!("no status in {block:?}"),
    }
}
