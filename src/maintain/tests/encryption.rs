//! A data folder whose encryption is started, renewed and ended, and which is backed up and restored.
//! Documents and attachments stay the same throughout, and no file shows their content while the folder is
//! encrypted.

use std::io::Read;
use std::path::Path;

use super::*;
use crate::cli::offline;
use crate::cli::stores::Place;
use crate::store::{Engine, Key, Options, Rewrite, Sealing, open_with};

const KNOWN: &str = "known to everybody ";

fn at(data: &std::path::Path) -> Place {
    Place::Folder { data: data.to_path_buf(), engine: None }
}

fn open_folder(folder: &Path, key: Option<&Key>) -> Server {
    let opened = open_with(folder, Options { key: key.cloned(), ..Options::default() }).unwrap();
    let clock = Clock::fixed(Duration::from_secs(1));
    let databases = Databases::open(opened.store.clone(), opened.blobs.clone(), clock).unwrap();
    Server { store: opened.store, blobs: opened.blobs, databases }
}

/// Every body with its attachments' names and contents. Blob ids are left out, because encryption changes
/// them.
fn seen(folder: &Path, key: Option<&Key>) -> Vec<String> {
    let server = open_folder(folder, key);
    let number = server.databases.get("full").unwrap().number();
    let limit = PageLimit { entries: 10_000, bytes: usize::MAX };
    let page = server.store.scan(&keyspace::kind(number, Kind::Body), Direction::Forward, limit).unwrap();
    let mut lines = Vec::new();
    for (key, value) in page {
        let record = BodyRecord::decode("", value).unwrap();
        let mut line = format!("{:?} {}", keyspace::rest_of(&key), record.json);
        for attachment in record.attachments {
            let mut content = Vec::new();
            server.blobs.open(&attachment.blob, 0).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content.len() as u64, attachment.stored);
            line += &format!(" {} {:x}", attachment.name, crc32fast::hash(&content));
        }
        lines.push(line);
    }
    lines
}

fn shows(folder: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| match entry.path() {
        path if path.is_dir() => shows(&path, text),
        path => std::fs::read(path).is_ok_and(|bytes| memchr::memmem::find(&bytes, text).is_some()),
    })
}

/// Creates a database with all kinds of content.
fn fill(data: &Path) {
    // Ending the runtime ends the databases' background work, which would keep the folder locked.
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = open_folder(data, None);
        let database = full(&server).await;
        let mut long = edit("long".into(), None, 0);
        long.json = format!(r#"{{"said":"{}"}}"#, KNOWN.repeat(9000));
        let mut upload = Upload::start(&*server.blobs, "b", "image/png", false, 0).unwrap();
        upload.write(KNOWN.repeat(9000).as_bytes()).unwrap();
        let uploaded = upload.finish().unwrap();
        let source = Source::Written { attachment: uploaded.attachment, keep_revpos: false, pin: uploaded.pin };
        long.attachments.push(("b".into(), source));
        assert!(database.update(vec![long], Mode::Interactive, &AllowAll).await.unwrap()[0].is_ok());
    });
}

#[test]
fn encryption_can_be_started_renewed_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let data = path("data");
    fill(&data);
    let (first, second) = (Key::generate(), Key::generate());
    let all = seen(&data, None);
    assert!(all.len() > 20 && all.iter().any(|line| line.contains(KNOWN)));
    let rewrite = |key: Option<&Key>, engine, sealing| {
        offline::compact_store(&data, &Rewrite { engine, key: key.cloned(), sealing, to: None })
    };
    let under = |key: &Key| Sealing::Under(key.clone());
    assert!(shows(&data, KNOWN.as_bytes()));
    for (before, engine, sealing, after) in [
        (None, None, under(&first), Some(&first)),
        (Some(&first), None, Sealing::Keep, Some(&first)),
        (Some(&first), Some(Engine::Redb), under(&second), Some(&second)),
        (Some(&second), Some(Engine::Sled), Sealing::Plain, None),
        (None, None, under(&second), Some(&second)),
    ] {
        rewrite(before, engine, sealing).unwrap();
        assert_eq!(offline::check(&at(&data), after.cloned()), Ok(true));
        assert_eq!(seen(&data, after), all);
        assert_eq!(shows(&data, KNOWN.as_bytes()), after.is_none());
    }
    assert!(offline::check(&at(&data), None).unwrap_err().contains("is encrypted"));
    assert!(rewrite(None, None, Sealing::Keep).unwrap_err().contains("is encrypted"));

    let refused = offline::backup(&at(&data), None, false, &path("a")).unwrap_err();
    assert!(refused.contains("--plaintext") && refused.contains(&second.id()), "{refused}");
    let refused = offline::backup(&at(&data), Some(first.clone()), false, &path("a")).unwrap_err();
    assert!(refused.contains(&second.id()), "{refused}");
    offline::backup(&at(&data), Some(second.clone()), false, &path("sealed")).unwrap();
    offline::backup(&at(&data), Some(second.clone()), true, &path("plain")).unwrap();
    let sealed = std::fs::read(path("sealed")).unwrap();
    assert!(memchr::memmem::find(&sealed, KNOWN.as_bytes()).is_none());
    let plain = std::fs::read(path("plain")).unwrap();
    assert!(memchr::memmem::find(&plain, KNOWN.as_bytes()).is_some());

    let restore = |from: &str, backup_key: Option<&Key>, to: &str, key: Option<&Key>| {
        offline::restore(&path(from), backup_key.cloned(), &at(&path(to)), key.cloned())
    };
    let refused = restore("sealed", None, "x", Some(&first)).unwrap_err();
    assert!(refused.contains(&second.id()) && refused.contains("--backup-key-file"), "{refused}");
    assert!(!path("x").exists(), "a refused restore creates no folder");
    for (from, backup_key, to, key) in [
        ("sealed", None, "same key", Some(&second)),
        ("sealed", Some(&second), "other key", Some(&first)),
        ("sealed", Some(&second), "no key", None),
        ("plain", None, "from plain", Some(&first)),
        ("plain", None, "all plain", None),
    ] {
        restore(from, backup_key, to, key).unwrap();
        assert_eq!(offline::check(&at(&path(to)), key.cloned()), Ok(true), "{to}");
        assert_eq!(seen(&path(to), key), all, "{to}");
        assert_eq!(shows(&path(to), KNOWN.as_bytes()), key.is_none(), "{to}");
    }
    for cut in [3, 40, 70_000, sealed.len() - 1] {
        std::fs::write(path("cut"), &sealed[..cut]).unwrap();
        assert!(restore("cut", None, "cut folder", Some(&second)).is_err(), "{cut}");
        let _ = std::fs::remove_dir_all(path("cut folder"));
    }
}
