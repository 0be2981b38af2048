//! Operations that free space work on a full disk.
//!
//! Requires root, loop devices and ext4; elsewhere the tests are skipped, which fails if `CI` is set.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::device::Device;
use crate::server::{Server, check, run};

/// Size of a document in bytes.
const SIZE: usize = 40_000;

fn document(number: usize) -> Value {
    let filler = format!("{:016x}", (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)).repeat(SIZE / 16);
    json!({"number": number, "filler": filler})
}

/// Writes documents to `database` until the disk is full. Returns how many were written.
fn fill(client: &mut Client, database: &str, prefix: &str) -> usize {
    for number in 0..20_000 {
        let answer =
            client.json("PUT", &format!("/{database}/{prefix}{number}"), &document(number)).expect("it answers");
        if !answer.is_ok() {
            assert_eq!(answer.status, 507, "{}", String::from_utf8_lossy(&answer.body));
            let said = answer.json()["reason"].as_str().unwrap_or_default().to_owned();
            assert!(said.contains("disk is full") && said.contains("delete"), "{said}");
            return number;
        }
    }
    panic!("the disk does not fill");
}

/// Repeats the request until it succeeds, for at most a minute: engines free space with a delay.
fn eventually(client: &mut Client, method: &str, path: &str, body: &Value) -> Value {
    let begun = Instant::now();
    loop {
        let answer = client.json(method, path, body).expect("it answers");
        if answer.is_ok() {
            return answer.json();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{method} {path}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Creates a database.
fn make(client: &mut Client, database: &str) {
    eventually(client, "PUT", &format!("/{database}"), &json!({}));
}

/// Sends a request that must succeed, and returns the response.
fn ask(client: &mut Client, method: &str, path: &str, body: &Value) -> Value {
    let answer = client.json(method, path, body).expect("it answers");
    assert!(answer.is_ok(), "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

/// Checks that the documents of the database `kept` still exist.
fn kept(client: &mut Client) {
    for number in 0..20 {
        let found = client.get(&format!("/kept/k{number}")).expect("it answers").json();
        assert!(found["filler"] == document(number)["filler"], "kept/k{number}: {}", found["error"]);
    }
}

struct Full {
    device: Device,
    data: PathBuf,
    server: Server,
    client: Client,
    /// Number of documents in the database `large`.
    documents: usize,
}

/// Starts a server and fills its disk. Returns `None` without loop devices.
fn full(engine: &str) -> Option<Full> {
    let device = Device::mount(160)?;
    let data = device.live().join("data");
    let server = Server::start(&data, engine).expect("it starts");
    let mut client = server.client();
    ["kept", "large", "other"].iter().for_each(|name| make(&mut client, name));
    for number in 0..20 {
        ask(&mut client, "PUT", &format!("/kept/k{number}"), &document(number));
    }
    let documents = fill(&mut client, "large", "l");
    Some(Full { device, data, server, client, documents })
}

/// Deleting a database frees space, repeatedly, and also after a restart of the server.
fn databases(engine: &str) {
    let Some(Full { device: _device, data, mut server, mut client, .. }) = full(engine) else { return };
    let mut name = "large".to_owned();
    for round in 0..2 {
        eventually(&mut client, "DELETE", &format!("/{name}"), &json!({}));
        if round == 1 {
            server.kill();
            server = Server::start(&data, engine).expect("it starts on a full disk");
            client = server.client();
        }
        name = format!("again{round}");
        make(&mut client, &name);
        for number in 0..200 {
            eventually(&mut client, "PUT", &format!("/{name}/a{number}"), &document(number));
        }
        fill(&mut client, &name, "more");
        kept(&mut client);
    }
    server.kill();
    check(&data).unwrap();
}

#[test]
fn deleting_a_database_frees_space_sled() {
    databases("sled");
}

#[test]
fn deleting_a_database_frees_space_redb() {
    databases("redb");
}

/// Deleted and purged documents free space once they are compacted. Writes that look like deletions but grow
/// the data are refused.
fn documents(engine: &str) {
    let Some(Full { device: _device, data, server, mut client, documents }) = full(engine) else { return };
    let rows =
        client.get("/large/_all_docs").expect("it answers").json()["rows"].as_array().cloned().unwrap_or_default();
    assert_eq!(rows.len(), documents);
    let mut refused = |method: &str, path: &str, body: &Value| {
        let answer = client.json(method, path, body).expect("it answers");
        assert_eq!(answer.status, 507, "{method} {path}");
    };
    let grown = json!({"_id": rows[0]["id"], "_rev": rows[0]["value"]["rev"], "filler": "x".repeat(2 * SIZE)});
    refused("PUT", &format!("/large/{}", rows[0]["id"].as_str().unwrap_or_default()), &grown);
    let tombstones: Vec<Value> = (0..200)
        .map(|number| json!({"_id": format!("never{number}"), "_rev": "1-a", "_deleted": true, "x": "x".repeat(9000)}))
        .collect();
    refused("POST", "/large/_bulk_docs", &json!({"new_edits": false, "docs": tombstones}));
    let half = documents / 2;
    for some in rows[..half].chunks(100) {
        let deleted = |row: &Value| json!({"_id": row["id"], "_rev": row["value"]["rev"], "_deleted": true});
        let docs: Vec<Value> = some.iter().map(deleted).collect();
        ask(&mut client, "POST", "/large/_bulk_docs", &json!({"docs": docs}));
    }
    for some in rows[half..half + half / 2].chunks(50) {
        let wanted: serde_json::Map<String, Value> = some
            .iter()
            .map(|row| (row["id"].as_str().unwrap_or_default().to_owned(), json!([row["value"]["rev"]])))
            .collect();
        ask(&mut client, "POST", "/large/_purge", &Value::Object(wanted));
    }
    ask(&mut client, "POST", "/large/_compact", &json!({}));
    for number in 0..documents / 4 {
        eventually(&mut client, "PUT", &format!("/other/o{number}"), &document(number));
    }
    kept(&mut client);
    server.kill();
    check(&data).unwrap();
}

#[test]
fn deleting_documents_frees_space_sled() {
    documents("sled");
}

#[test]
fn deleting_documents_frees_space_redb() {
    documents("redb");
}

/// Attachments are files: they are deleted, and their space is freed, when no document references them.
#[test]
fn deleting_attachments_frees_space() {
    let Some(device) = Device::mount(160) else { return };
    let data = device.live().join("data");
    let server = Server::start(&data, "sled").expect("it starts");
    let mut client = server.client();
    make(&mut client, "db");
    let put = |number: usize| {
        let content: Vec<u8> = (0..4_000_000_usize).map(|at| (at * 31 + number * 7) as u8 ^ (at >> 8) as u8).collect();
        // The server does not read a refused body to its end and closes the connection: an I/O error counts
        // as 507.
        let path = format!("/db/d{number}/a");
        server.client().ask("PUT", &path, "application/octet-stream", &content).map_or(507, |answer| answer.status)
    };
    let written = (0..200).find(|number| put(*number) >= 300).expect("the disk fills");
    assert_eq!(put(written), 507);
    ask(&mut client, "DELETE", "/db", &json!({}));
    make(&mut client, "db");
    let begun = Instant::now();
    while put(1000) >= 300 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the attachments of the deleted database are still there");
        std::thread::sleep(Duration::from_millis(100));
    }
    server.kill();
    check(&data).unwrap();
}

/// Writes a file until the device has no free byte, including the margin that the server keeps free.
fn stuff(device: &Device) {
    let mut rest = std::fs::File::create(device.live().join("rest")).expect("a file");
    while std::io::Write::write_all(&mut rest, &[0; 64 << 10]).is_ok() {}
}

/// `compact-store --to` rewrites a folder on a disk without a free byte to another disk, and does not change
/// the old one.
fn elsewhere(engine: &str) {
    let Some(Full { device, data, server, mut client, documents }) = full(engine) else { return };
    let attached = client.ask("PUT", "/kept/k0/a", "text/plain", b"").expect("it answers").status;
    assert!(attached == 507 || attached == 409, "{attached}");
    server.kill();
    stuff(&device);
    let text = |path: &Path| path.display().to_string();
    let (well, said) = run(&["compact-store", "--data", &text(&data)]);
    assert!(!well && said.contains("--to") && said.contains("MB"), "{said}");
    let other = tempfile::tempdir().expect("a folder");
    let to = other.path().join("data");
    let (well, said) = run(&["compact-store", "--data", &text(&data), "--to", &text(&to)]);
    assert!(well && said.contains("all is well") && said.contains(&text(&to)), "{said}");
    let (well, said) = run(&["compact-store", "--data", &text(&data), "--to", &text(&to)]);
    assert!(!well && said.contains("is not empty"), "{said}");
    for folder in [&to, &data] {
        check(folder).unwrap();
        let server = Server::start(folder, engine).expect("it starts");
        let mut client = server.client();
        kept(&mut client);
        let info = client.get("/large").expect("it answers").json();
        assert_eq!(info["doc_count"], documents, "{}", folder.display());
        let answer = client.json("PUT", "/other/new", &document(1)).expect("it answers");
        assert_eq!(answer.is_ok(), folder == &to, "{}", folder.display());
        server.kill();
    }
}

#[test]
fn a_full_folder_can_be_rewritten_to_another_disk_sled() {
    elsewhere("sled");
}

#[test]
fn a_full_folder_can_be_rewritten_to_another_disk_redb() {
    elsewhere("redb");
}
