//! Data folders with flipped bits, truncated files, zeroed and exchanged pages, and missing parts: a start
//! must serve correct data or be refused.
//!
//! Most rounds damage a copy of a folder in one way, open it in this process, and compare what can be read
//! with a ledger: every document has its acknowledged content, or reading it returns an error, or the folder
//! is refused with a helpful message. A few tests run the binary. Each test prints its seed; `SETTEE_SEED`
//! repeats it, and `SETTEE_ROUNDS=N` runs N times as many rounds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use settee::clock::Clock;
use settee::db::{AllowAll, Content, CreateOptions, Databases, Incoming, Mode, Source, Upload, Wanted};
use settee::error::Error;
use settee::rev::Revision;
use settee::store;
use settee::store::{Direction, Engine, Key, Opened, Options, PageLimit};

use super::server::{Server, run};

/// Rounds per kind of folder in the short version.
const ROUNDS: u64 = 8;
/// A round that takes longer is considered to hang.
const HANGS: Duration = Duration::from_secs(60);

/// Creates a temporary folder, in memory if possible: these rounds sync often, and do not simulate power
/// cuts.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

/// The factor `SETTEE_ROUNDS` by which the number of rounds grows.
fn times() -> u64 {
    std::env::var("SETTEE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// A random number generator (SplitMix64).
struct Dice(u64);

impl Dice {
    fn new(salt: &str) -> Dice {
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let seed = std::env::var("SETTEE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
        println!("{salt}: SETTEE_SEED={seed}");
        Dice(salt.bytes().fold(seed, |seed, byte| seed.rotate_left(5) ^ u64::from(byte)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most.max(1)
    }
}

/// The acknowledged content of a document.
struct Known {
    revision: Revision,
    json: String,
    attachment: Option<String>,
}

/// The acknowledged documents by database name and document id.
type Ledger = BTreeMap<(String, String), Known>;

/// An undamaged data folder, its ledger, and an older copy of the folder.
struct Master {
    dir: tempfile::TempDir,
    key: Option<Key>,
    ledger: Ledger,
}

impl Master {
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn before(&self) -> PathBuf {
        self.dir.path().join("before")
    }

    fn options(&self) -> Options {
        Options { key: self.key.clone(), ..Options::default() }
    }

    /// Creates a folder with two databases, opening and closing the store `lives` times. Each document has
    /// about `filler` bytes.
    fn make(engine: Engine, encrypted: bool, lives: u64, documents: u64, filler: usize) -> Master {
        let dir = folder();
        let key = encrypted.then(Key::generate);
        let mut master = Master { dir, key, ledger: Ledger::new() };
        for life in 0..lives {
            if life > 0 && life + 1 == lives {
                copy(&master.data(), &master.before());
            }
            let options = Options { engine: Some(engine), ..master.options() };
            let opened = store::open_with(&master.data(), options).expect("it opens");
            master.write(&opened, life, documents / lives, filler);
        }
        // The reserve file would add 16 MB without content to each copy.
        let _ = std::fs::remove_file(master.data().join("reserve"));
        master
    }

    fn write(&mut self, opened: &Opened, life: u64, documents: u64, filler: usize) {
        let databases = Databases::open(opened.store.clone(), opened.blobs.clone(), Clock::system()).expect("it opens");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for name in ["one", "other"] {
                let database = match life {
                    0 => databases.create(name, CreateOptions::default(), Some("{}")).expect("it is made"),
                    _ => databases.get(name).expect("it is there"),
                };
                for number in 0..documents {
                    // Every third write updates a document of the first life.
                    let of = if number % 3 == 0 { 0 } else { life };
                    let id = format!("doc-{of}-{number:05}");
                    let known = self.ledger.get(&(name.to_owned(), id.clone()));
                    let text = format!("{life} {number} ").repeat(1 + filler / 8);
                    let json = json!({"life": life, "number": number, "filler": text}).to_string();
                    let attachment = (number % 9 == 0).then(|| format!("attached {life} {number} ").repeat(5000));
                    let mut edit = Incoming {
                        id: id.clone(),
                        parent: known.map(|known| known.revision.clone()),
                        path: (0, Vec::new()),
                        deleted: false,
                        json: json.clone(),
                        attachments: Vec::new(),
                    };
                    if let Some(content) = &attachment {
                        let mut upload = Upload::start(&*opened.blobs, "a", "image/png", false, 8).expect("it begins");
                        upload.write(content.as_bytes()).expect("it is written");
                        let done = upload.finish().expect("it ends");
                        let source = Source::Written { attachment: done.attachment, keep_revpos: false, pin: done.pin };
                        edit.attachments.push(("a".into(), source));
                    }
                    let written =
                        database.update(vec![edit], Mode::Interactive, &AllowAll).await.expect("it is written");
                    let revision = written.into_iter().next().expect("an answer").expect("it is written");
                    self.ledger.insert((name.to_owned(), id), Known { revision, json, attachment });
                }
            }
        });
    }

    /// Compares an open folder with the ledger. Returns how many documents could be read. With `lossy`,
    /// documents may be missing or have older revisions.
    fn verify(&self, opened: &Opened, lossy: bool) -> Result<u64, String> {
        let databases = Databases::open(opened.store.clone(), opened.blobs.clone(), Clock::system());
        let databases = match databases {
            Ok(databases) => databases,
            Err(Error::Damaged(_) | Error::Internal(_)) => return Ok(0),
            Err(error) => return Err(format!("the databases: {error}")),
        };
        let mut read = 0;
        for ((name, id), known) in &self.ledger {
            let database = match databases.get(name) {
                Ok(database) => database,
                Err(Error::Damaged(_) | Error::Internal(_)) => continue,
                Err(Error::NoDatabase) if lossy => continue,
                Err(error) => return Err(format!("{name}: {error}")),
            };
            let found = match database.find(id, Wanted::Winner) {
                Ok(found) => found,
                Err(Error::Damaged(_) | Error::Internal(_)) => continue,
                Err(Error::Missing) if lossy => continue,
                Err(error) => return Err(format!("{name}/{id}: {error}")),
            };
            if lossy && found.revision < known.revision {
                continue;
            }
            if found.revision != known.revision || found.body.json != known.json {
                return Err(format!("{name}/{id}: another revision, or another body"));
            }
            if let Some(expected) = &known.attachment {
                let Some(attachment) = found.body.attachments.first() else {
                    if lossy {
                        continue;
                    }
                    return Err(format!("{name}/{id}: its attachment is not named"));
                };
                match content(opened, attachment) {
                    Ok(content) if content == expected.as_bytes() => {}
                    Ok(_) => return Err(format!("{name}/{id}: another attachment")),
                    Err(Error::Damaged(_) | Error::Internal(_)) => continue,
                    Err(error) => return Err(format!("{name}/{id}/a: {error}")),
                }
            }
            read += 1;
        }
        for name in ["one", "other"] {
            self.verify_changes(&databases, name, lossy)?;
        }
        Ok(read)
    }

    /// Checks that the changes feed contains every document or ends with an error.
    fn verify_changes(&self, databases: &Arc<Databases>, name: &str, lossy: bool) -> Result<(), String> {
        let Ok(database) = databases.get(name) else { return Ok(()) };
        let (mut after, mut rows) = (0, 0);
        loop {
            let Ok(page) = database.changes(after, Direction::Forward, PageLimit::entries(1000)) else { return Ok(()) };
            rows += page.rows.len();
            match page.rows.last() {
                Some((sequence, _)) => after = *sequence,
                None => break,
            }
        }
        let known = self.ledger.keys().filter(|(of, _)| of == name).count();
        match rows == known || lossy {
            true => Ok(()),
            false => Err(format!("{name}: {rows} rows of {known} in the changes feed")),
        }
    }
}

fn content(opened: &Opened, attachment: &settee::db::record::Attachment) -> Result<Vec<u8>, Error> {
    let mut content = Content::open(&*opened.blobs, attachment, true, 0)?;
    let mut all = Vec::new();
    loop {
        let piece = content.next(64 << 10)?;
        if piece.is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(&piece);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else if entry.file_name() != "reserve" && entry.file_name() != "control" {
            std::fs::copy(&path, &target).expect("it can be copied");
        }
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if !path.ends_with("lock") && !path.ends_with("reserve") {
            found.push(path);
        }
    }
    found.sort();
}

/// Damages one file of the folder in one random way. Returns a description of the damage.
fn damage(dice: &mut Dice, data: &Path, before: &Path) -> String {
    let mut all = Vec::new();
    files(data, &mut all);
    // Most files are attachments, but most of the interesting damage is in the other files.
    let (blobs, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|path| path.to_string_lossy().contains("/blobs/"));
    let chosen = if dice.below(8) == 0 && !blobs.is_empty() { &blobs } else { &others };
    let store: Vec<_> = others.iter().filter(|path| path.ends_with("db") || path.ends_with("settee.redb")).collect();
    let path = match dice.below(3) {
        0 if std::ptr::eq(chosen, &others) && !store.is_empty() => store[0].clone(),
        _ => chosen[dice.below(chosen.len() as u64) as usize].clone(),
    };
    let mut bytes = std::fs::read(&path).expect("it can be read");
    let length = bytes.len() as u64;
    let shown = path.strip_prefix(data).unwrap_or(&path).display().to_string();
    let page = |dice: &mut Dice| (dice.below(length.div_ceil(4096)) * 4096) as usize;
    let how = match dice.below(10) {
        0..3 if length > 0 => {
            let bit = dice.below(length * 8);
            bytes[bit as usize / 8] ^= 1 << (bit % 8);
            format!("bit {bit}")
        }
        3 if length > 0 => {
            bytes.truncate(dice.below(length) as usize);
            format!("cut to {}", bytes.len())
        }
        4 if length > 0 => {
            let at = page(dice);
            let end = (at + 4096).min(bytes.len());
            bytes[at..end].fill(0);
            format!("page at {at} zeroed")
        }
        5 if length > 0 => {
            let (one, other) = (page(dice), page(dice));
            for index in 0..4096 {
                if one.max(other) + index < bytes.len() {
                    bytes.swap(one + index, other + index);
                }
            }
            format!("pages at {one} and {other} exchanged")
        }
        6 if length > 0 => {
            let at = dice.below(length) as usize;
            let end = (at + dice.below(20_000) as usize).min(bytes.len());
            bytes[at..end].iter_mut().for_each(|byte| *byte = dice.next() as u8);
            format!("{} bytes at {at} garbled", end - at)
        }
        7 => {
            bytes.clear();
            "emptied".into()
        }
        8 => {
            std::fs::remove_file(&path).expect("it is there");
            return format!("{shown}: removed");
        }
        _ => match std::fs::read(before.join(path.strip_prefix(data).unwrap_or(&path))) {
            Ok(old) => {
                bytes = old;
                "an older copy of it".into()
            }
            Err(_) => "left as it is".into(),
        },
    };
    std::fs::write(&path, bytes).expect("it can be written");
    format!("{shown}: {how}")
}

/// Runs `round` on its own thread, and fails if it panics or hangs.
fn bounded<T: Send + 'static>(what: &str, round: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(done.send(round())));
    match outcome.recv_timeout(HANGS) {
        Ok(outcome) => outcome,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{what}: it hangs"),
        Err(_) => panic!("{what}: it panicked"),
    }
}

/// Whether an error message says what to do.
fn is_in_words(said: &str) -> bool {
    [
        "restore",
        "salvage",
        "name an empty folder",
        "--encryption-key-file",
        "give the right key",
        "newer settee",
        "start without a key",
        "compact-store",
    ]
    .iter()
    .any(|word| said.contains(word))
}

#[derive(Debug, Default)]
struct Outcomes {
    whole: u64,
    partly: u64,
    refused: u64,
    salvaged: u64,
}

/// Runs `count` rounds (times `SETTEE_ROUNDS`), each on a damaged copy of `master`.
fn rounds(name: &str, master: Master, count: u64) {
    let mut dice = Dice::new(name);
    let master = Arc::new(master);
    let mut outcomes = Outcomes::default();
    let begun = Instant::now();
    for round in 0..count * times() {
        let dir = folder();
        let data = dir.path().join("data");
        copy(&master.data(), &data);
        let mut how = damage(&mut dice, &data, &master.before());
        // Some rounds damage two files. The mark is kept then: an older or emptied store is not detectable
        // without it.
        if dice.below(6) == 0 && !how.starts_with("mark") {
            let mark = std::fs::read(data.join("mark-1")).expect("it is there");
            let also = damage(&mut dice, &data, &master.before());
            match also.starts_with("mark") {
                true => std::fs::write(data.join("mark-1"), mark).expect("it can be put back"),
                false => how = format!("{how}; {also}"),
            }
        }
        let what = format!("{name}, round {round}, {how}");
        let salvages = dice.below(4) == 0;
        let of = master.clone();
        let (lead, at) = (what.clone(), dir.path().to_path_buf());
        let outcome = bounded(&what, move || one(&of, &lead, &at, salvages));
        match outcome {
            Ok(Some(read)) if read == master.ledger.len() as u64 => outcomes.whole += 1,
            Ok(Some(_)) => outcomes.partly += 1,
            Ok(None) => outcomes.refused += 1,
            Err(wrong) => panic!("{wrong}"),
        }
        outcomes.salvaged += u64::from(salvages);
    }
    println!("{name}: {outcomes:?} in {:.1} s", begun.elapsed().as_secs_f64());
}

/// Salvages a damaged folder if `salvages`, and opens it twice. Returns how many documents could be read, or
/// `None` if the folder was refused.
fn one(master: &Master, what: &str, dir: &Path, salvages: bool) -> Result<Option<u64>, String> {
    let data = dir.join("data");
    if salvages {
        let before = digest(&data);
        let to = dir.join("salvaged");
        let taken = settee::cli::offline::salvage(&data, master.key.clone(), &to);
        if digest(&data) != before {
            return Err(format!("{what}: the salvage has changed the damaged folder"));
        }
        match taken {
            Ok(all) => {
                let opened = store::open_with(&to, master.options());
                let opened = opened.map_err(|error| format!("{what}: the salvaged folder: {error}"))?;
                let read = master.verify(&opened, true).map_err(|wrong| format!("{what}: salvaged: {wrong}"))?;
                if all && read < master.ledger.len() as u64 {
                    return Err(format!("{what}: the salvage says that nothing is lost, and has {read}"));
                }
                let found = settee::maintain::check(&*opened.store, &*opened.blobs, &mut |_| {});
                let found = found.map_err(|error| format!("{what}: checking what was salvaged: {error}"))?;
                if found.problem_count > 0 {
                    return Err(format!("{what}: what was salvaged is not well: {:?}", found.problems));
                }
            }
            Err(said) if is_in_words(&said) => {}
            Err(said) => return Err(format!("{what}: the salvage says: {said}")),
        }
    }
    let mut last = None;
    // An engine changes its files when it opens them. This must not hide the damage from the next start.
    for again in ["", "again, "] {
        match store::open_existing(&data, master.options()) {
            Ok(opened) => {
                last = Some(master.verify(&opened, false).map_err(|wrong| format!("{what}: {again}{wrong}"))?);
            }
            Err(error) if is_in_words(&error.to_string()) => last = None,
            Err(error) => return Err(format!("{what}: {again}refused without help: {error}")),
        }
    }
    Ok(last)
}

/// Returns the checksum of each file in the folder.
fn digest(dir: &Path) -> BTreeMap<PathBuf, u32> {
    let mut all = Vec::new();
    files(dir, &mut all);
    all.into_iter().map(|path| (path.clone(), crc(&std::fs::read(&path).expect("it can be read")))).collect()
}

fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[test]
fn damaged_sled() {
    rounds("sled", Master::make(Engine::Sled, false, 1, 80, 900), ROUNDS);
}

#[test]
fn damaged_sled_of_several_lives() {
    rounds("sled of several lives", Master::make(Engine::Sled, false, 3, 90, 900), ROUNDS);
}

#[test]
fn damaged_sled_of_several_segments() {
    rounds("sled of several segments", Master::make(Engine::Sled, false, 1, 140, 60_000), ROUNDS / 2);
}

#[test]
fn damaged_sled_encrypted() {
    rounds("sled, encrypted", Master::make(Engine::Sled, true, 2, 80, 900), ROUNDS);
}

#[test]
fn damaged_redb() {
    rounds("redb", Master::make(Engine::Redb, false, 2, 80, 900), ROUNDS);
}

#[test]
fn damaged_redb_encrypted() {
    rounds("redb, encrypted", Master::make(Engine::Redb, true, 2, 80, 900), ROUNDS);
}

/// Creates a data folder with the binary, with `documents` documents and one with an attachment, and stops
/// the server.
fn served(engine: &str, documents: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = folder();
    let data = dir.path().join("data");
    let server = Server::start(&data, engine).expect("it starts");
    let mut client = server.client();
    assert!(client.ask("PUT", "/db", "application/json", b"").expect("it answers").is_ok());
    for first in (0..documents).step_by(50) {
        let docs: Vec<_> = (first..documents.min(first + 50))
            .map(|number| json!({"_id": format!("doc{number:05}"), "number": number, "filler": "x".repeat(500)}))
            .collect();
        assert!(client.json("POST", "/db/_bulk_docs", &json!({"docs": docs})).expect("it answers").is_ok());
    }
    let attached = json!({"_attachments": {"a": {"content_type": "text/plain", "data": "aGVsbG8gaGVsbG8="}}});
    assert!(client.json("PUT", "/db/attached", &attached).expect("it answers").is_ok());
    server.kill();
    (dir, data)
}

fn store_file(data: &Path, engine: &str) -> PathBuf {
    data.join("store-1").join(if engine == "sled" { "db" } else { "settee.redb" })
}

/// Checks that the server and `settee check` refuse the folder with a message that contains `word`.
fn refused(data: &Path, word: &str) {
    let said = Server::start_any(data).err().unwrap_or_else(|| panic!("it starts ({word})"));
    assert!(said.contains(word), "{said}");
    let (ok, said) = run(&["check", "--data", &data.to_string_lossy()]);
    assert!(!ok && said.contains(word), "{said}");
}

/// Checks that opening the folder in this process is refused with a message that contains `word`.
fn refused_here(data: &Path, word: &str) {
    let said = store::open(data, None).err().unwrap_or_else(|| panic!("it opens ({word})")).to_string();
    assert!(said.contains(word), "{said}");
}

#[test]
fn a_flipped_bit_is_reported_and_the_rest_is_salvaged() {
    let (dir, data) = served("sled", 200);
    let file = store_file(&data, "sled");
    let whole = std::fs::read(&file).expect("it can be read");
    for percent in [15, 50, 85] {
        let mut bytes = whole.clone();
        let written = bytes.iter().rposition(|byte| *byte != 0).expect("something is written");
        bytes[written * percent / 100] ^= 4;
        std::fs::write(&file, &bytes).expect("it can be written");
        refused(&data, "db: sequences ");
        assert!(std::fs::read(&file).expect("it can be read") == bytes, "what lies behind the bit is still there");
        let to = dir.path().join(format!("salvaged-{percent}"));
        let (ok, said) = run(&["check", "--data", &data.to_string_lossy(), "--salvage", &to.to_string_lossy()]);
        assert!(!ok && said.contains("LOST: db: sequences ") && said.contains("to 201"), "{said}");
        let (ok, said) = run(&["check", "--data", &to.to_string_lossy()]);
        assert!(ok, "{said}");
        let server = Server::start_any(&to).expect("what was salvaged starts");
        let found = server.client().get("/db").expect("it answers").json();
        let count = found["doc_count"].as_u64().expect("a number");
        assert!(count < 201 && (count > 0 || percent == 15), "{count} documents at {percent} %");
    }
}

#[test]
fn a_folder_with_a_missing_part_is_not_treated_as_new() {
    for engine in ["sled", "redb"] {
        let (dir, data) = served(engine, 20);
        let lost = dir.path().join("lost");
        for (part, word) in [("store-1", "store-1"), ("blobs", "blobs"), ("format.toml", "format.toml")] {
            std::fs::rename(data.join(part), &lost).expect("it is there");
            refused(&data, word);
            refused_here(&data, word);
            if part == "store-1" {
                let said = Server::start_any(&data).map(drop).expect_err("it has no store");
                assert!(said.contains("settee restore") && !said.contains("--salvage"), "nothing is left: {said}");
            }
            if part != "format.toml" {
                std::fs::create_dir(data.join(part)).expect("it can be made");
                refused_here(&data, word);
                std::fs::remove_dir_all(data.join(part)).expect("it is there");
            } else {
                for text in ["", "\0\0\0\0", "format = 1\nengi"] {
                    std::fs::write(data.join(part), text).expect("it can be written");
                    refused_here(&data, word);
                }
                let to = dir.path().join("salvaged");
                let (ok, said) = run(&["check", "--data", &data.to_string_lossy(), "--salvage", &to.to_string_lossy()]);
                assert!(ok && said.contains("nothing is lost") && said.contains("22 documents"), "{said}");
                std::fs::remove_file(data.join(part)).expect("it is there");
            }
            std::fs::rename(&lost, data.join(part)).expect("it can be put back");
        }
        let server = Server::start_any(&data).expect("whole again, it starts");
        assert_eq!(server.client().get("/db").expect("it answers").json()["doc_count"], 21);
        assert_eq!(server.client().get("/db/attached/a").expect("it answers").body, b"hello hello");
    }
}

#[test]
fn an_older_copy_of_the_store_is_refused() {
    for engine in ["sled", "redb"] {
        let (dir, data) = served(engine, 20);
        copy(&data, &dir.path().join("before"));
        let server = Server::start_any(&data).expect("it starts");
        let more = server.client().json("PUT", "/db/more", &json!({})).expect("it answers");
        assert!(more.is_ok());
        server.kill();
        std::fs::remove_dir_all(data.join("store-1")).expect("it is there");
        copy(&dir.path().join("before/store-1"), &data.join("store-1"));
        refused(&data, "sequences 22 to 22");
    }
}

#[test]
fn an_interrupted_restore_is_refused() {
    for engine in ["sled", "redb"] {
        let (dir, data) = served(engine, 60);
        let (backup, to) = (dir.path().join("backup"), dir.path().join("restored"));
        let (ok, said) = run(&["backup", "--data", &data.to_string_lossy(), &backup.to_string_lossy()]);
        assert!(ok, "{said}");
        let whole = std::fs::read(&backup).expect("it can be read");
        std::fs::write(&backup, &whole[..whole.len() / 2]).expect("it can be written");
        let restore = ["restore", &backup.to_string_lossy(), "--data", &to.to_string_lossy(), "--store", engine];
        assert!(!run(&restore).0, "half a backup");
        refused(&to, "cut off");
        let salvaged = dir.path().join("salvaged");
        let (ok, said) = run(&["check", "--data", &to.to_string_lossy(), "--salvage", &salvaged.to_string_lossy()]);
        assert!(!ok && !said.contains("nothing is lost"), "it was never whole: {said}");
        std::fs::write(&backup, &whole).expect("it can be written");
        assert!(!run(&restore).0, "into a folder that is not empty");
        std::fs::remove_dir_all(&to).expect("it is there");
        let (ok, said) = run(&restore);
        assert!(ok, "{said}");
        let server = Server::start_any(&to).expect("it starts");
        assert_eq!(server.client().get("/db").expect("it answers").json()["doc_count"], 61);
    }
}

#[test]
fn a_stop_by_signal_closes_the_store_cleanly() {
    let (_dir, data) = served("redb", 20);
    let mut server = Server::start_any(&data).expect("it starts");
    server.client().get("/db").expect("it answers");
    assert!(server.stop(), "it ends well");
    // The header of redb's file has a flag for whether the file needs a repair.
    let header = std::fs::read(store_file(&data, "redb")).expect("it can be read");
    assert_eq!(header[9] & 2, 0, "redb has to repair its file");
    let (_dir, data) = served("sled", 20);
    server = Server::start_any(&data).expect("it starts");
    server.client().get("/db").expect("it answers");
    assert!(server.stop(), "it ends well");
    let mark = std::fs::read(data.join("mark-1")).expect("it can be read");
    let number = |at: usize| u64::from_be_bytes(mark[at..at + 8].try_into().expect("eight bytes"));
    let newest = if number(0) > number(512) { 0 } else { 512 };
    assert!(number(newest + 41) > 0, "the mark knows of the clean stop");
}
