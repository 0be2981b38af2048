//! Clients that read large responses slowly.
//!
//! Each test opens many raw sockets that request large responses and then read nothing, or a byte now and
//! then. Meanwhile a normal client must be served, and the memory of the server process must stay bounded.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Client;
use crate::server::Server;

const MIB: u64 = 1 << 20;
/// `[settee] max_answer_memory` of the first test.
const BUDGET: u64 = 48 * MIB;
/// Allowance for the memory of a debug build besides responses: caches, threads, memory that the allocator
/// retains.
const SLACK: u64 = 160 * MIB;

/// Requests for tens of megabytes, to every kind of endpoint: responses that are streamed and responses built
/// in memory.
const KINDS: [&str; 14] = [
    "GET /big/doc1",
    "GET /big/_all_docs?include_docs=true",
    "GET /big/_changes?include_docs=true",
    "GET /big/_changes?include_docs=true&feed=continuous&heartbeat=1000",
    "GET /big/_design/views/_view/ids?include_docs=true",
    "GET /big/_design/views/_view/values",
    "GET /big/_design/views/_list/all/ids?include_docs=true",
    "GET /big/doc2?open_revs=all",
    "GET /files/doc?attachments=true",
    "GET /files/doc/file",
    "POST /big/_bulk_get",
    "POST /big/_bulk_get multipart",
    "POST /big/_find",
    "POST /big/_all_docs?include_docs=true",
];

/// `admin:secret`, the user of the normal client, and `mallory:secret`, in base64.
const ADMIN: &str = "YWRtaW46c2VjcmV0";
const MALLORY: &str = "bWFsbG9yeTpzZWNyZXQ=";

fn request(kind: &str, user: &str) -> Vec<u8> {
    let ids: Vec<String> = (0..6).map(|number| format!("doc{number}")).collect();
    let (line, accept) = match kind.strip_suffix(" multipart") {
        Some(line) => (line, "multipart/mixed"),
        None => (kind, "application/json"),
    };
    let body = match line {
        "POST /big/_bulk_get" => {
            json!({"docs": ids.iter().map(|id| json!({"id": id})).collect::<Vec<_>>()}).to_string()
        }
        "POST /big/_find" => json!({"selector": {"_id": {"$gt": null}}}).to_string(),
        "POST /big/_all_docs?include_docs=true" => json!({ "keys": ids }).to_string(),
        _ => String::new(),
    };
    format!(
        "{line} HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {user}\r\nAccept: {accept}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Reads, again if the process was stopped meanwhile: that interrupts a read with a time limit.
fn read_some(socket: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// A client that sends a request and does not read the response.
struct Attacker(TcpStream);

impl Attacker {
    fn begin(address: &str, kind: &str, user: &str) -> Attacker {
        let mut socket = TcpStream::connect(address).expect("the server listens");
        socket.write_all(&request(kind, user)).expect("a request is taken");
        Attacker(socket)
    }

    fn read_a_byte(&mut self) {
        let _ = self.0.set_nonblocking(true);
        let _ = self.0.read(&mut [0]);
    }

    /// Reads the rest of the response. Returns its status, and whether the response is complete.
    fn rest(mut self) -> (u16, bool) {
        let _ = self.0.set_nonblocking(false);
        self.0.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (mut all, mut some) = (Vec::new(), vec![0; 1 << 16]);
        let mut wanted = None;
        loop {
            if wanted.is_some_and(|length| all.len() == length) || wanted.is_none() && all.ends_with(b"\r\n0\r\n\r\n") {
                return (status(&all), true);
            }
            match read_some(&mut self.0, &mut some) {
                Ok(0) | Err(_) => return (status(&all), false),
                Ok(count) => all.extend_from_slice(&some[..count]),
            }
            if wanted.is_none() {
                wanted = whole_length(&all);
            }
        }
    }
}

/// Returns the total length of a response including its headers, once they are read and contain a content
/// length.
fn whole_length(answer: &[u8]) -> Option<usize> {
    let head = answer[..answer.len().min(4096)].windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
    Some(head + 4 + length)
}

fn status(answer: &[u8]) -> u16 {
    let line = String::from_utf8_lossy(&answer[..answer.len().min(15)]).into_owned();
    line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Creates documents of 3 MB, views of them, and an attachment of 12 MB that does not compress. Returns its
/// content.
fn fill(client: &mut Client) -> Vec<u8> {
    let ok = |answer: std::io::Result<crate::client::Answer>| {
        let answer = answer.unwrap();
        assert!(answer.is_ok(), "{} {}", answer.status, String::from_utf8_lossy(&answer.body));
    };
    for name in ["/big", "/files", "/small"] {
        ok(client.json("PUT", name, &json!(null)));
    }
    let text = "0123456789abcdef".repeat(3 << 16);
    for number in 0..6 {
        ok(client.json("PUT", &format!("/big/doc{number}"), &json!({"text": text, "number": number})));
    }
    let design = json!({
        "views": {
            "ids": {"map": "function (doc) { emit(doc._id, null); }"},
            "values": {"map": "function (doc) { emit(doc._id, doc.text); }"},
        },
        "lists": {"all": "function (head, req) { var row; while (row = getRow()) { send(JSON.stringify(row)); } }"},
    });
    ok(client.json("PUT", "/big/_design/views", &design));
    ok(client.get("/big/_design/views/_view/ids?limit=1"));
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    let file: Vec<u8> = (0..12 * MIB).map(|_| next()).collect();
    ok(client.ask("PUT", "/files/doc/file", "application/octet-stream", &file));
    file
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the bytes that responses hold in memory, and the number of connections that the server has closed
/// because of slow reading.
fn held(client: &mut Client) -> (u64, u64) {
    let stats = client.get("/_node/_local/_stats/settee").unwrap().json();
    let value = |name: &str| stats[name]["value"].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"));
    (value("answer_memory"), value("answers_given_up"))
}

#[test]
fn a_normal_client_is_served_beside_many_slow_readers() {
    let folder = tempfile::tempdir().unwrap();
    let budget = BUDGET.to_string();
    let server = Server::start_with(folder.path(), "sled", &[("SETTEE_SETTEE__MAX_ANSWER_MEMORY", &budget)]).unwrap();
    let mut client = server.client();
    let file = fill(&mut client);
    let base = server.resident();
    let mut attackers: Vec<Attacker> =
        (0..84).map(|number| Attacker::begin(&server.address, KINDS[number % KINDS.len()], ADMIN)).collect();
    let (mut most, began, mut rounds) = (0, Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(8) {
        attackers.iter_mut().step_by(2).for_each(Attacker::read_a_byte);
        let put = client.json("PUT", &format!("/small/doc{rounds}"), &json!({"round": rounds})).unwrap();
        assert_eq!(put.status, 201);
        let got = client.get(&format!("/small/doc{rounds}")).unwrap();
        assert_eq!((got.status, got.json()["round"].as_u64()), (200, Some(rounds)));
        assert_eq!(client.get("/small/_all_docs?include_docs=true").unwrap().json()["total_rows"], rounds + 1);
        most = most.max(server.resident());
        rounds += 1;
        if rounds % 20 == 1 {
            let download = client.get("/files/doc/file").unwrap();
            assert!(download.status == 200 && download.body == file, "a download is whole");
            let large = client.get("/big/doc3").unwrap();
            assert_eq!((large.status, large.json()["number"].as_u64()), (200, Some(3)));
        }
    }
    assert!(rounds > 20, "the client that reads was slowed to {rounds} rounds");
    assert!(most < base + BUDGET + SLACK, "{} MiB, of which {} before", most / MIB, base / MIB);
    drop(attackers);
    wait_until("the memory is given back", || held(&mut client).0 == 0);
    assert_eq!(client.get("/big/_all_docs?include_docs=true").unwrap().json()["total_rows"], 7);
}

#[test]
fn slow_readers_are_disconnected_when_memory_is_short_and_can_detect_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("SETTEE_SETTEE__MAX_ANSWER_MEMORY", "40000000"), ("SETTEE_SETTEE__WRITE_TIMEOUT", "60")];
    let server = Server::start_with(folder.path(), "sled", &settings).unwrap();
    let mut client = server.client();
    fill(&mut client);
    assert!(client.json("PUT", "/_node/_local/_config/admins/mallory", &json!("secret")).unwrap().is_ok());
    let attackers: Vec<Attacker> =
        (0..28).map(|number| Attacker::begin(&server.address, KINDS[number % KINDS.len()], MALLORY)).collect();
    wait_until("slow ones are given up", || {
        // Meanwhile another user's request gets memory.
        let large = client.get("/big/_all_docs?include_docs=true").unwrap();
        assert_eq!((large.status, large.json()["total_rows"].as_u64()), (200, Some(7)));
        held(&mut client).1 > 0
    });
    for number in 0..2 {
        let large = client.get(&format!("/big/doc{number}")).unwrap();
        assert_eq!((large.status, large.json()["number"].as_u64()), (200, Some(number)));
    }
    let (mut cut, mut ends) = (0, Vec::new());
    for (number, attacker) in attackers.into_iter().enumerate() {
        let kind = KINDS[number % KINDS.len()];
        if !kind.contains("continuous") {
            ends.push((kind, std::thread::spawn(move || attacker.rest())));
        }
    }
    for (kind, end) in ends {
        let (status, whole) = end.join().expect("it reads to the end");
        // Complete responses are 200, or 503 if the request found no memory. A cut response has its status,
        // or none at all if the connection was closed before the first byte.
        assert!(
            if whole { matches!(status, 200 | 503) } else { matches!(status, 0 | 200) },
            "{kind}: {status} {whole}"
        );
        cut += usize::from(!whole);
    }
    assert!(cut > 0, "some answers are cut");
    wait_until("the memory is given back", || held(&mut client).0 == 0);
}

#[test]
fn waiting_feeds_hold_no_response_memory() {
    let folder = tempfile::tempdir().unwrap();
    let server =
        Server::start_with(folder.path(), "sled", &[("SETTEE_SETTEE__MAX_ANSWER_MEMORY", "16000000")]).unwrap();
    let mut client = server.client();
    assert!(client.json("PUT", "/db", &json!(null)).unwrap().is_ok());
    let docs: Vec<_> = (0..2000).map(|number| json!({"_id": format!("document{number}")})).collect();
    assert!(client.json("POST", "/db/_bulk_docs", &json!({ "docs": docs })).unwrap().is_ok());
    // More feeds than the response memory has windows for, each with an initial response that is not small.
    let feeds: Vec<_> = (0..200)
        .map(|_| {
            let mut feed =
                Attacker::begin(&server.address, "GET /db/_changes?feed=continuous&since=0&heartbeat=60000", ADMIN).0;
            let mut read = Vec::new();
            let mut some = vec![0; 1 << 16];
            feed.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            while !String::from_utf8_lossy(&read[read.len().saturating_sub(300)..]).contains("\"document1999\"") {
                let count = read_some(&mut feed, &mut some).expect("the feed goes on");
                assert!(count > 0, "the feed ends");
                read.extend_from_slice(&some[..count]);
            }
            feed
        })
        .collect();
    wait_until("feeds hold nothing", || held(&mut client).0 == 0);
    assert!(client.json("PUT", "/db/one", &json!({})).unwrap().is_ok());
    for mut feed in feeds {
        let mut some = vec![0; 1 << 12];
        let count = read_some(&mut feed, &mut some).expect("the feed goes on");
        assert!(String::from_utf8_lossy(&some[..count]).contains("\"one\""), "and tells what is new");
    }
}
