//! The offline commands `settee check`, `backup`, `restore`, `compact-store` and `make-key`, which work on a
//! data folder.
//!
//! Results go to the standard output. A progress bar goes to the standard error if that is a terminal.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers on the standard output")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::args::Upkeep;
use super::offline;
use super::progress_bar::{Bar, Unit};
use super::replicate::replicate;
use super::stores::{Place, convert};
use crate::clock::Clock;
use crate::db::Databases;
use crate::maintain::archive::{Frame, Kind, Reader, Writer};
use crate::maintain::backup_folder::backup_name;
use crate::maintain::control;
use crate::maintain::survey::Survey;
use crate::store::blob::blobs::BlobId;
use crate::store::crypto::sealed_stream;
use crate::store::{self, Entry, Key, Options, Rewrite, Sealing, Step, Store, StoreError};

/// The result of a command; an error is a message for the user.
type Outcome<T> = Result<T, String>;

/// `settee check`. Returns true if there are no problems.
pub fn check(place: &Place, key: Option<Key>) -> Outcome<bool> {
    let opened = place.open(key)?;
    let bar = Bar::new(Unit::Documents, documents_in(&*opened.store));
    let found = crate::maintain::check(&*opened.store, &*opened.blobs, &mut |at| bar.show(at.what, at.done));
    drop(bar);
    let found = found.map_err(|error| error.to_string())?;
    println!(
        "{} databases, {} documents, {} bodies, {} attachments ({}) read from {}",
        found.databases,
        found.documents,
        found.bodies,
        found.attachments,
        size(found.attachment_bytes),
        place
    );
    for note in &found.notes {
        println!("note: {note}");
    }
    for problem in &found.problems {
        println!("PROBLEM: {problem}");
    }
    match found.problem_count {
        0 => println!("all is well"),
        count => println!("{count} problems. Copy {place} before you change anything in it."),
    }
    Ok(found.problem_count == 0)
}

/// `settee check --salvage`: copies what can be read of a damaged folder into the new folder `to`. Returns
/// true if nothing is lost.
pub fn salvage(folder: &Path, key: Option<Key>, to: &Path) -> Outcome<bool> {
    if std::fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("{} is not empty: salvage needs a new folder", to.display()));
    }
    let refused = |error: store::OpenError| error.to_string();
    store::begin_filling(to).map_err(refused)?;
    let scratch = to.join("salvaged-from");
    let from = store::embedded::salvage::open_damaged(folder, key.as_ref(), &scratch).map_err(|error| {
        // The folder holds nothing yet, so remove it here rather than leave that to the user.
        let _ = std::fs::remove_dir_all(to);
        error.to_string()
    })?;
    for note in &from.notes {
        println!("note: {note}");
    }
    let key = key.filter(|_| from.encrypted);
    let options = Options { engine: Some(from.engine), key, filling: true, ..Options::default() };
    let opened = store::open_with(to, options).map_err(refused)?;
    let bar = Bar::new(Unit::Documents, documents_in(&*from.store));
    let clock = Clock::system();
    let taken = crate::maintain::salvage::salvage(&from, &*opened.store, &*opened.blobs, &clock, &mut |at| {
        bar.show(at.what, at.done)
    });
    drop((bar, from, opened));
    let taken = taken.map_err(|error| format!("{error}\n{} is incomplete: remove it.", to.display()))?;
    std::fs::remove_dir_all(&scratch).map_err(|error| format!("{} cannot be removed: {error}", scratch.display()))?;
    store::finish(to).map_err(refused)?;
    println!(
        "{} databases, {} documents and {} attachments taken from {} into {}",
        taken.databases,
        taken.documents,
        taken.attachments,
        folder.display(),
        to.display()
    );
    for lost in &taken.lost {
        println!("LOST: {lost}");
    }
    match taken.lost_count {
        0 => println!("nothing is lost"),
        count => println!("{count} losses. Keep {} until you have looked at them.", folder.display()),
    }
    Ok(taken.lost_count == 0)
}

/// The number of documents to read, for the progress bar. `None` if the counters are damaged; the command
/// itself reports that.
fn documents_in(store: &dyn Store) -> Option<u64> {
    Survey::of(store).ok().map(|survey| survey.documents)
}

/// `settee backup`: backs up through the running server if one has the folder open, else reads the folder
/// itself. `to` is a file, a folder in which a file named after the current time is created, or `-` for the
/// standard output. The backup of an encrypted folder is sealed under the folder's key unless `plaintext` is
/// set.
pub fn backup(place: &Place, key: Option<Key>, plaintext: bool, to: &Path) -> Outcome<()> {
    let needs = match place {
        Place::Folder { data, .. } => store::encrypted_under(data).map_err(|error| error.to_string())?,
        Place::Database(_) => place.open(key.clone())?.encrypted_under,
    };
    match (&needs, &key) {
        (Some(needs), None) if !plaintext => {
            return Err(format!(
                "{place} is encrypted, and so is its backup: name the file with the key {needs} by \
                 --encryption-key-file, or use --plaintext"
            ));
        }
        (Some(needs), Some(key)) if *needs != key.id() => {
            return Err(format!("{place} is encrypted under the key {needs}, not {}", key.id()));
        }
        _ => {}
    }
    let seals = needs.is_some() && !plaintext;
    if to == Path::new("-") {
        let counts = backup_into(place, key, seals, &mut io::stdout().lock())?;
        eprintln!("{} databases and {} documents are in the backup", counts.0, counts.1);
        return Ok(());
    }
    let to = if to.is_dir() { to.join(backup_name(Clock::system().since_epoch())) } else { to.to_path_buf() };
    let mut part = to.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let wrong = |error: io::Error| format!("{} cannot be written: {error}", to.display());
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(wrong)?;
    let counts = backup_into(place, key, seals, &mut file).and_then(|counts| {
        file.sync_all().map_err(wrong)?;
        std::fs::rename(&part, &to).map_err(wrong)?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(wrong)?;
        Ok(counts)
    });
    let (databases, documents) = counts.inspect_err(|_| drop(std::fs::remove_file(&part)))?;
    let bytes = std::fs::metadata(&to).map_or(0, |found| found.len());
    let how = if seals { ", sealed under the folder's key" } else { "" };
    println!("{databases} databases and {documents} documents are in {} ({}{how})", to.display(), size(bytes));
    Ok(())
}

fn backup_into(place: &Place, key: Option<Key>, seals: bool, to: &mut dyn Write) -> Outcome<(u64, u64)> {
    let wrong = |error: io::Error| format!("the backup cannot be written: {error}");
    match key.as_ref().filter(|_| seals).cloned() {
        None => plain_backup_into(place, key, to),
        Some(own) => {
            let mut to = sealed_stream::Writer::new(to, &own).map_err(wrong)?;
            let counts = plain_backup_into(place, key, &mut to)?;
            to.finish().map_err(wrong)?;
            Ok(counts)
        }
    }
}

fn plain_backup_into(place: &Place, key: Option<Key>, to: &mut dyn Write) -> Outcome<(u64, u64)> {
    if let Place::Folder { data, .. } = place {
        // The server handles one control request at a time, so ask for the total first.
        let total = control::count(data);
        let asked = control::ask(data).map_err(|error| format!("the server in {place}: {error}"))?;
        if let Some(mut stream) = asked {
            let bar = Bar::new(Unit::Documents, total);
            return copy_frames(&mut stream, to, &bar).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => "the server ended the backup early: see its log".to_owned(),
                _ => format!("the backup failed: {error}"),
            });
        }
    }
    let opened = place.open(key)?;
    let bar = Bar::new(Unit::Documents, documents_in(&*opened.store));
    let databases = Databases::open(opened.store, opened.blobs, Clock::system()).map_err(|error| error.to_string())?;
    // There are no other writers, but the last pass of a backup runs each database's writer.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let _entered = runtime.enter();
    crate::maintain::backup(&databases, to, &mut |at| bar.show(at.what, at.done)).map_err(|error| error.to_string())
}

/// Copies a backup frame by frame, so that a truncated or damaged stream is detected.
fn copy_frames(from: &mut dyn Read, to: &mut dyn Write, bar: &Bar) -> io::Result<(u64, u64)> {
    let mut from = io::BufReader::with_capacity(1 << 20, from);
    let mut to = io::BufWriter::with_capacity(1 << 20, to);
    let mut reader = Reader::new(&mut from)?;
    let mut writer = Writer::new(&mut to)?;
    let mut database = String::new();
    let mut documents = 0;
    loop {
        let frame: Frame = reader.frame()?;
        match frame.kind {
            Kind::Database => database = String::from_utf8_lossy(frame.keyed()?.0).into_owned(),
            Kind::Document => documents += 1,
            _ => {}
        }
        bar.show(&database, documents);
        writer.plain(frame.kind, &frame.payload)?;
        if frame.kind == Kind::End {
            let number = |at: usize| {
                frame
                    .payload
                    .get(at..)
                    .and_then(|bytes| bytes.first_chunk())
                    .map_or(0, |bytes| u64::from_be_bytes(*bytes))
            };
            to.flush()?;
            return Ok((number(0), number(8)));
        }
    }
}

/// `settee restore`: restores a backup (`-`: the standard input) into a new data folder, which is encrypted
/// if `key` is set. A sealed backup is opened with `backup_key`, or else with `key`.
pub fn restore(from: &Path, backup_key: Option<Key>, place: &Place, key: Option<Key>) -> Outcome<()> {
    let wrong = |error: io::Error| format!("{} cannot be read: {error}", from.display());
    let (input, bytes): (Box<dyn Read>, _) = match from {
        dash if dash == Path::new("-") => (Box::new(io::stdin()), None),
        file => {
            let file = File::open(file).map_err(wrong)?;
            let bytes = file.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
            (Box::new(file), bytes)
        }
    };
    if let Place::Folder { data, .. } = place
        && std::fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(format!("{place} is not empty: restore needs a new folder"));
    }
    let bar = Bar::new(Unit::Bytes, bytes);
    let mut input = bar.read(input);
    let mut head = [0; sealed_stream::SEALED.len()];
    let read = fill(&mut input, &mut head).map_err(wrong)?;
    let mut opens;
    let mut whole: Box<dyn Read> = if &head == sealed_stream::SEALED {
        let keys: Vec<&Key> = backup_key.iter().chain(&key).collect();
        opens = sealed_stream::Reader::new(&mut input, &keys).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("this backup cannot be opened: {error}; name the file with that key by --backup-key-file")
            }
            _ => format!("this backup cannot be restored: {error}"),
        })?;
        Box::new(&mut opens)
    } else {
        Box::new(head[..read].chain(input))
    };
    let opened = place.make(key)?;
    let clock = Clock::system();
    let restored =
        crate::maintain::restore(&*opened.store, &*opened.blobs, &clock, &mut whole, &mut |at| bar.name(at.what));
    drop(bar);
    let restored = restored.map_err(|error| format!("{error}\n{place} is incomplete: remove it."))?;
    place.finish(opened)?;
    println!(
        "{} databases, {} documents and {} attachments restored into {place}",
        restored.databases, restored.documents, restored.attachments
    );
    Ok(())
}

/// Reads until `into` is full or the input ends.
fn fill(input: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match input.read(&mut into[read..])? {
            0 => break,
            count => read += count,
        }
    }
    Ok(read)
}

fn folder_at(data: &Path) -> Place {
    Place::Folder { data: data.to_path_buf(), engine: None }
}

/// `settee compact-store`: rewrites the store, optionally with another engine, and starts, ends or renews
/// encryption.
pub fn compact_store(folder: &Path, how: &Rewrite) -> Outcome<()> {
    let (mut bar, mut survey) = (None, None);
    let sizes = store::rewrite(folder, how, renamed, &mut |step| match step {
        Step::Begins(store) => survey = Survey::of(store).ok(),
        Step::Attachments { done, total } => {
            bar.get_or_insert_with(|| Bar::new(Unit::Attachments, Some(total))).show("", done);
            if done == total {
                bar = None;
            }
        }
        Step::Entries { last, .. } => {
            let changes = survey.as_ref().map(|survey| survey.changes);
            let bar = bar.get_or_insert_with(|| Bar::new(Unit::Changes, changes));
            if let Some(done) = survey.as_ref().and_then(|survey| survey.changes_before(last)) {
                bar.show("", done);
            }
        }
    });
    drop(bar);
    let (before, after) = sizes.map_err(|error| error.to_string())?;
    match &how.to {
        None => println!("{}: {} before, {} now", folder.display(), size(before), size(after)),
        Some(to) => {
            println!("{}: {}, in {}: {}", folder.display(), size(before), to.display(), size(after));
            let key = match &how.sealing {
                Sealing::Keep => how.key.clone(),
                Sealing::Under(key) => Some(key.clone()),
                Sealing::Plain => None,
            };
            if !check(&folder_at(to), key)? {
                return Err(format!("{} has problems, see above; {} is unchanged", to.display(), folder.display()));
            }
        }
    }
    match &how.sealing {
        Sealing::Keep => {}
        Sealing::Under(key) => {
            println!("encrypted under the key {}: keep it, nothing can be read without it", key.id())
        }
        Sealing::Plain => println!("no longer encrypted"),
    }
    if let Some(to) = &how.to {
        println!(
            "Start the server with --data {}. If all is well, remove {}, which is unchanged.",
            to.display(),
            folder.display()
        );
    }
    Ok(())
}

/// Replaces the blob ids in an entry. A rewrite changes the ids of attachments, which stand in bodies and in
/// references.
fn renamed(entry: Entry, name: &dyn Fn(&BlobId) -> BlobId) -> store::Result<Entry> {
    crate::maintain::renamed(entry, name).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// `settee make-key`: writes a new key into a new file, or to the standard output for `-`.
pub fn make_key(file: &Path) -> Outcome<()> {
    let key = Key::generate();
    if file == Path::new("-") {
        println!("{}", *key.text());
        return Ok(());
    }
    key.write_new(file)?;
    println!(
        "the key {} is in {}. Keep a copy apart from the data and its backups: nothing can be read without it.",
        key.id(),
        file.display()
    );
    Ok(())
}

/// Formats a number of bytes for display.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

/// Work on a data folder. False if a check found something.
pub fn upkeep(work: Upkeep) -> Result<bool, String> {
    let engine = |name: Option<String>| name.as_deref().map(str::parse).transpose();
    match work {
        Upkeep::Check { place, key, salvage: None } => return offline::check(&place, key),
        Upkeep::Check { place: Place::Folder { data, .. }, key, salvage: Some(to) } => {
            return offline::salvage(&data, key, &to);
        }
        Upkeep::Check { .. } => Err("only a data folder can be salvaged; PostgreSQL has tools of its own".into()),
        Upkeep::Backup { place, key, plaintext, to } => offline::backup(&place, key, plaintext, &to),
        Upkeep::Restore { from, backup_key, place, key } => offline::restore(&from, backup_key, &place, key),
        Upkeep::Convert(how) => {
            convert(&how)?;
            let is_well = offline::check(&how.to, how.to_key)?;
            if is_well {
                println!("Start the server with {}. If all is well, remove {}, which is unchanged.", how.to, how.from);
            }
            return Ok(is_well);
        }
        Upkeep::CompactStore { data, key, store, sealing, to } => {
            offline::compact_store(&data, &store::Rewrite { engine: engine(store)?, key, sealing, to })
        }
        Upkeep::MakeKey { file } => offline::make_key(&file),
        Upkeep::Replicate(asked) => return replicate(asked),
    }?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Engine;

    #[test]
    fn sizes_are_formatted() {
        assert_eq!((size(9_999), size(12_345_678)), ("9999 bytes".into(), "12 MB".into()));
    }

    #[test]
    fn the_commands_check_back_up_restore_and_compact_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let at = |name: &str| folder_at(&path(name));
        assert!(check(&at("data"), None).unwrap_err().contains("not a settee data folder"), "check makes no folder");
        assert!(!path("data").exists());
        let opened = store::open(&path("data"), None).unwrap();
        let databases = Databases::open(opened.store.clone(), opened.blobs, Clock::system()).unwrap();
        databases.create("one", crate::db::CreateOptions::default(), None).unwrap();
        drop((databases, opened.store));
        assert_eq!(check(&at("data"), None), Ok(true));
        backup(&at("data"), None, false, &path("one.backup")).unwrap();
        assert!(restore(&path("one.backup"), None, &at("data"), None).unwrap_err().contains("is not empty"));
        let copy = Place::Folder { data: path("copy"), engine: Some(Engine::Redb) };
        restore(&path("one.backup"), None, &copy, None).unwrap();
        compact_store(&path("copy"), &Rewrite { engine: Some(Engine::Sled), ..Rewrite::default() }).unwrap();
        assert_eq!(check(&at("copy"), None), Ok(true));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(path("one.backup")).unwrap().permissions().mode() & 0o777, 0o600);
        backup(&at("copy"), None, false, dir.path()).unwrap();
        assert!(!path("one.backup.part").exists());
    }
}
