//! Attacks with HTTP/2: floods of frames, headers that grow, windows that never open, requests that are cancelled.
//!
//! After each of them a normal client is served, and the server's memory stays bounded.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Client;
use crate::frames::*;
use crate::server::Server;

const MIB: u64 = 1 << 20;
/// What an attack on a connection may cost: much less than it sends, and more than the memory of the server
/// varies by itself.
const SLACK: u64 = 48 * MIB;

/// A server with a database `db`, and its memory.
fn start(settings: &[(&str, &str)]) -> (tempfile::TempDir, Server, Client, u64) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder.path(), "redb", settings).unwrap();
    let mut client = server.client();
    assert!(client.json("PUT", "/db", &json!(null)).unwrap().is_ok());
    assert!(client.json("PUT", "/db/doc", &json!({"text": "x".repeat(9000)})).unwrap().is_ok());
    let base = server.resident();
    (folder, server, client, base)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A value of the section `settee` of the metrics.
fn metric(client: &mut Client, name: &str) -> u64 {
    let stats = client.get("/_node/_local/_stats/settee").unwrap().json();
    stats[name]["value"].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
}

/// Checks that the server has not grown, and serves others.
fn unharmed(server: &Server, client: &mut Client, base: u64) {
    let now = server.resident();
    assert!(now < base + SLACK, "the server has grown from {} MiB to {} MiB", base / MIB, now / MIB);
    assert_eq!(client.get("/db/doc").unwrap().status, 200);
    let mut one = Connection::open(&server.address, &[]);
    let stream = one.get("/db/doc");
    assert_eq!(one.answer(stream).unwrap().0, 200);
}

#[test]
fn requests_that_are_cancelled_at_once_end_the_connection() {
    let (_folder, server, mut client, base) = start(&[]);
    let mut one = Connection::open(&server.address, &[]);
    one.ping();
    let block = head("GET", "/db/_all_docs?include_docs=true");
    let mut sent = 0;
    // The server sees the beginning and the end of a request together.
    while sent < 200_000 {
        let mut burst = Vec::new();
        for _ in 0..100 {
            let stream = one.stream();
            burst.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
            burst.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        }
        if one.send(&burst).is_err() {
            break;
        }
        sent += 100;
    }
    assert!(sent < 200_000, "the server took all of them");
    assert!(matches!(one.end(), Some(ENHANCE_YOUR_CALM) | None));
    unharmed(&server, &mut client, base);
}

#[test]
fn requests_that_are_cancelled_once_they_run_end_the_connection() {
    let (_folder, server, mut client, base) = start(&[]);
    let mut one = Connection::open(&server.address, &[]);
    one.ping();
    let block = head("GET", "/db/_changes?feed=longpoll&since=now");
    let mut sent = 0;
    'attack: while sent < 20_000 {
        wait_until("those before have ended", || metric(&mut client, "open_http2_streams") == 0);
        let streams: Vec<u32> = (0..100).map(|_| one.stream()).collect();
        for stream in &streams {
            if one.send(&frame(HEADERS, END_HEADERS | END_STREAM, *stream, &block)).is_err() {
                break 'attack;
            }
        }
        let mut ended = false;
        wait_until("the requests run, or the connection is closed", || {
            ended = metric(&mut client, "open_http2_connections") == 0;
            // All of them: the library ends a connection itself if it cancels requests that were not taken yet.
            ended || metric(&mut client, "open_http2_streams") == streams.len() as u64
        });
        if ended {
            break;
        }
        for stream in &streams {
            let _ = one.send(&frame(RST_STREAM, 0, *stream, &CANCEL.to_be_bytes()));
        }
        sent += 100;
    }
    assert!((400..2000).contains(&sent), "the connection was closed after {sent}");
    assert_eq!(metric(&mut client, "http2_floods"), 1);
    wait_until("the requests have ended", || metric(&mut client, "open_http2_streams") == 0);
    unharmed(&server, &mut client, base);
}

#[test]
fn headers_without_end_end_the_connection() {
    let (_folder, server, mut client, base) = start(&[]);
    let long = field("x-long", &"y".repeat(16_000));
    for (first, then) in [(head("GET", "/db"), long), (head("GET", "/db"), field("a", "b")), (Vec::new(), Vec::new())] {
        let mut one = Connection::open(&server.address, &[]);
        one.ping();
        let mut ended = one.send(&frame(HEADERS, END_STREAM, 1, &first)).is_err();
        for _ in 0..200_000 {
            ended = ended || one.send(&frame(CONTINUATION, 0, 1, &then)).is_err();
            if ended {
                break;
            }
        }
        assert!(ended, "the server took all of them");
        unharmed(&server, &mut client, base);
    }
}

#[test]
fn headers_that_unpack_to_more_than_the_limit_are_refused() {
    let (_folder, server, mut client, base) = start(&[]);
    let mut one = Connection::open(&server.address, &[]);
    one.ping();
    // One large field is put into the table, and each further byte repeats it.
    let bomb = [&head("GET", "/db/doc")[..], &kept_field("x-bomb", &"y".repeat(3900)), &[0x80 | 62; 4000]].concat();
    let stream = one.stream();
    one.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb)).unwrap();
    let answer = one.answer(stream);
    assert!(matches!(answer, Ok((431, _)) | Err(_)), "{answer:?}");
    for _ in 0..200 {
        let mut one = Connection::open(&server.address, &[]);
        for _ in 0..20 {
            let stream = one.stream();
            let _ = one.send(&frame(HEADERS, END_HEADERS, stream, &bomb));
        }
    }
    // As much as is allowed is taken.
    let fields: Vec<u8> = (0..30).flat_map(|number| field(&format!("x-{number}"), &"y".repeat(3000))).collect();
    let block = [head("GET", "/db/doc"), fields].concat();
    let mut one = Connection::open(&server.address, &[]);
    let stream = one.stream();
    let mut pieces = block.chunks(16_000).peekable();
    one.send(&frame(HEADERS, END_STREAM, stream, pieces.next().unwrap())).unwrap();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        one.send(&frame(CONTINUATION, flags, stream, piece)).unwrap();
    }
    assert_eq!(one.answer(stream).unwrap().0, 200);
    unharmed(&server, &mut client, base);
}

#[test]
fn floods_of_pings_and_settings_are_not_stored() {
    let (_folder, server, mut client, base) = start(&[("SETTEE_SETTEE__WRITE_TIMEOUT", "2")]);
    for flood in [frame(PING, 0, 0, b"12345678"), settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)])] {
        let mut one = Connection::open(&server.address, &[]);
        one.socket.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        let many = flood.repeat(1000);
        // The client reads none of the answers: after a while the server reads nothing either, and then closes.
        let mut sent = 0;
        while sent < 400 * MIB && one.send(&many).is_ok() {
            sent += many.len() as u64;
        }
        assert!(sent < 400 * MIB, "the server went on reading");
        wait_until("it is closed", || metric(&mut client, "open_http2_connections") == 0);
        unharmed(&server, &mut client, base);
    }
}

#[test]
fn floods_of_tiny_frames_are_not_stored() {
    let (_folder, server, mut client, base) = start(&[]);
    for flood in [frame(DATA, 0, 1, b""), frame(DATA, 0, 1, b"x"), frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())] {
        let mut one = Connection::open(&server.address, &[]);
        one.ping();
        // Nobody reads the body of a feed that waits.
        let stream = one.stream();
        let block = head("POST", "/db/_changes?feed=longpoll&since=now&filter=_doc_ids");
        one.send(&frame(HEADERS, END_HEADERS, stream, &block)).unwrap();
        let many = flood.repeat(1000);
        let mut sent = 0;
        while sent < 2_000_000 && one.send(&many).is_ok() {
            sent += 1000;
            assert!(server.resident() < base + SLACK, "the server grows");
        }
        drop(one);
        unharmed(&server, &mut client, base);
    }
}

#[test]
fn windows_that_overflow_or_are_zero_are_errors() {
    let (_folder, server, mut client, base) = start(&[]);
    for increment in [0, (1_u32 << 31) - 1] {
        let mut one = Connection::open(&server.address, &[]);
        one.ping();
        one.send(&frame(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes())).unwrap();
        assert!(one.end().is_some_and(|code| code == 1 || code == 3), "{increment}");
    }
    let mut one = Connection::open(&server.address, &[(INITIAL_WINDOW_SIZE, 1)]);
    let stream = one.get("/db/doc");
    let opens = |one: &mut Connection, by: u32| one.send(&frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())).unwrap();
    let mut got = 0;
    // One byte at a time is slow, and arrives.
    for _ in 0..50 {
        let data = one.until(DATA).unwrap();
        assert_eq!(data.payload.len(), 1);
        got += 1;
        opens(&mut one, 1);
    }
    opens(&mut one, 1 << 20);
    loop {
        let data = one.until(DATA).unwrap();
        got += data.payload.len();
        if data.flags & END_STREAM != 0 {
            break;
        }
    }
    assert!(got > 9000, "{got}");
    unharmed(&server, &mut client, base);
}

#[test]
fn streams_without_a_window_are_given_up() {
    let (_folder, server, mut client, base) = start(&[("SETTEE_SETTEE__WRITE_TIMEOUT", "2")]);
    let text = "0123456789abcdef".repeat(1 << 14);
    assert!(client.json("PUT", "/db/big", &json!({ "text": text })).unwrap().is_ok());
    let mut one = Connection::open(&server.address, &[(INITIAL_WINDOW_SIZE, 0)]);
    let kinds = ["/db/big", "/db/_all_docs?include_docs=true", "/db/_changes?include_docs=true&feed=continuous"];
    let streams: Vec<u32> = (0..30).map(|number| one.get(kinds[number % 3])).collect();
    let aborted = |client: &mut Client| {
        let stats = client.get("/_node/_local/_stats/couchdb/httpd/aborted_requests").unwrap().json();
        stats["value"].as_u64().unwrap()
    };
    // They hold memory for two seconds: on a busy machine they may have been given up already.
    wait_until("the responses are made", || metric(&mut client, "answer_memory") > 0 || aborted(&mut client) > 0);
    let mut reset = Vec::new();
    while reset.len() < streams.len() {
        let got = one.until(RST_STREAM).expect("the connection stays open");
        assert_eq!(got.code(), Some(CANCEL));
        reset.push(got.stream);
    }
    reset.sort_unstable();
    assert_eq!(reset, streams);
    wait_until("the memory is given back", || metric(&mut client, "answer_memory") == 0);
    // The connection still serves who reads.
    one.send(&settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)])).unwrap();
    let stream = one.get("/db/doc");
    assert_eq!(one.answer(stream).unwrap().0, 200);
    unharmed(&server, &mut client, base);
}

#[test]
fn small_responses_without_a_window_are_bounded() {
    let (_folder, server, mut client, base) = start(&[("SETTEE_SETTEE__WRITE_TIMEOUT", "2")]);
    let mut many: Vec<Connection> =
        (0..4).map(|_| Connection::open(&server.address, &[(INITIAL_WINDOW_SIZE, 0)])).collect();
    for one in &mut many {
        for _ in 0..200 {
            one.get("/db/doc");
        }
    }
    // 9 KB each: a few responses have ended and are left; the other streams are given up.
    for one in &mut many {
        let mut reset = 0;
        while reset < 190 {
            assert_eq!(one.until(RST_STREAM).expect("the connection stays open").code(), Some(CANCEL));
            reset += 1;
        }
    }
    wait_until("the streams have ended", || metric(&mut client, "open_http2_streams") == 0);
    unharmed(&server, &mut client, base);
}

/// Whether clients that read nothing are given up when memory is short, and others are served meanwhile.
/// `window`: of each stream and of the connection.
fn slow_readers(window: u32) {
    let settings = [("SETTEE_SETTEE__MAX_ANSWER_MEMORY", "40000000"), ("SETTEE_SETTEE__WRITE_TIMEOUT", "60")];
    let (_folder, server, mut client, base) = start(&settings);
    let text = "0123456789abcdef".repeat(3 << 16);
    for number in 0..6 {
        assert!(client.json("PUT", &format!("/db/big{number}"), &json!({ "text": text })).unwrap().is_ok());
    }
    assert!(client.json("PUT", "/_node/_local/_config/admins/mallory", &json!("secret")).unwrap().is_ok());
    let mallory = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/db/_all_docs?include_docs=true"),
        ("authorization", "Basic bWFsbG9yeTpzZWNyZXQ="),
    ];
    let block: Vec<u8> = mallory.iter().flat_map(|(name, value)| field(name, value)).collect();
    let mut many: Vec<Connection> =
        (0..4).map(|_| Connection::open(&server.address, &[(INITIAL_WINDOW_SIZE, window)])).collect();
    for one in &mut many {
        if window > 0xffff {
            one.send(&frame(WINDOW_UPDATE, 0, 0, &(window - 0xffff).to_be_bytes())).unwrap();
        }
        for _ in 0..20 {
            let stream = one.stream();
            one.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).unwrap();
        }
    }
    wait_until("slow streams are given up", || {
        let large = client.get("/db/_all_docs?include_docs=true").unwrap();
        assert_eq!((large.status, large.json()["total_rows"].as_u64()), (200, Some(7)));
        metric(&mut client, "answers_given_up") > 0
    });
    assert!(server.resident() < base + 2 * 40 * MIB + 4 * SLACK);
    drop(many);
    wait_until("the memory is given back", || metric(&mut client, "answer_memory") == 0);
}

#[test]
fn streams_of_slow_readers_are_given_up_when_memory_is_short() {
    slow_readers(1000);
}

#[test]
fn connections_of_slow_readers_are_given_up_when_memory_is_short() {
    slow_readers((1 << 31) - 1);
}

#[test]
fn streams_count_as_connections() {
    let settings = [
        ("SETTEE_RATE_LIMITS__EXEMPT", "192.0.2.1"),
        ("SETTEE_SETTEE__MAX_CONNECTIONS_PER_ADDRESS", "12"),
        ("SETTEE_SETTEE__MAX_STREAMS", "20"),
    ];
    let (_folder, server, mut client, _) = start(&settings);
    let mut one = Connection::open(&server.address, &[]);
    for _ in 0..11 {
        one.get("/db/_changes?feed=longpoll&since=now");
    }
    wait_until("they are open", || metric(&mut client, "open_http2_streams") == 11);
    // Ten streams, the connection, and that of `client`: twelve.
    let stream = one.get("/db/doc");
    assert_eq!(one.answer(stream).unwrap().0, 429);
    assert_eq!(metric(&mut client, "refused_connections"), 1);
    // Beyond `max_streams` the protocol itself refuses.
    let streams: Vec<u32> = (0..30).map(|_| one.get("/db/_changes?feed=longpoll&since=now")).collect();
    let refused = loop {
        let got = one.until(RST_STREAM).expect("the connection stays open");
        if got.code() == Some(7) {
            break got.stream;
        }
    };
    assert!(streams.contains(&refused));
    drop(one);
    wait_until("the streams have ended", || metric(&mut client, "open_http2_streams") == 0);
    let mut one = Connection::open(&server.address, &[]);
    let stream = one.get("/db/doc");
    assert_eq!(one.answer(stream).unwrap().0, 200);
}

#[test]
fn connections_that_say_nothing_are_closed() {
    let (_folder, server, _, base) = start(&[("SETTEE_SETTEE__HEADER_TIMEOUT", "2")]);
    // After a request, without a request, and without the end of the preface.
    let mut one = Connection::open(&server.address, &[]);
    let stream = one.get("/db/doc");
    assert_eq!(one.answer(stream).unwrap().0, 200);
    let mut silent = Connection::open(&server.address, &[]);
    let mut half = std::net::TcpStream::connect(&server.address).unwrap();
    std::io::Write::write_all(&mut half, b"PRI * HTTP/2.0\r\n").unwrap();
    // Headers that do not end, beside a feed that waits: the client cannot answer a ping.
    let mut stuck = Connection::open(&server.address, &[]);
    stuck.get("/db/_changes?feed=continuous&since=now&heartbeat=500");
    stuck.ping();
    stuck.send(&frame(HEADERS, END_STREAM, 3, &head("GET", "/db"))).unwrap();
    assert_eq!(one.end(), Some(0));
    assert_eq!(silent.end(), Some(0));
    let _ = stuck.end();
    wait_until("all are closed", || metric(&mut server.client(), "open_http2_connections") == 0);
    unharmed(&server, &mut server.client(), base);
}

#[test]
fn a_stop_tells_clients_and_ends_their_feeds() {
    let (_folder, server, ..) = start(&[]);
    let mut one = Connection::open(&server.address, &[]);
    let feed = one.get("/db/_changes?feed=continuous&since=now&heartbeat=500");
    one.ping();
    let mut idle = Connection::open(&server.address, &[]);
    idle.ping();
    let began = Instant::now();
    let stopping = std::thread::spawn(move || server.stop());
    let (mut said, mut ended, mut text) = (None, false, Vec::new());
    while let Some(got) = one.frame() {
        match got.kind {
            GOAWAY => said = got.code(),
            DATA if got.stream == feed => {
                text.extend_from_slice(&got.payload);
                ended = got.flags & END_STREAM != 0;
            }
            _ => {}
        }
    }
    let text = String::from_utf8_lossy(&text);
    assert!(said == Some(0) && ended && text.contains("last_seq"), "{said:?} {ended} {text}");
    assert_eq!(idle.end(), Some(0));
    assert!(stopping.join().unwrap(), "the server ends well");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
