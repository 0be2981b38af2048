//! `settee backup` and `settee restore`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers on the standard output")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::output::{Outcome, documents_in, size};
use crate::cli::progress_bar::{Bar, Unit};
use crate::cli::stores::{Place, has_entries};
use crate::clock::Clock;
use crate::db::Databases;
use crate::maintain::archive::{Frame, Kind, Reader, Writer};
use crate::maintain::backup_folder::backup_name;
use crate::maintain::control;
use crate::store::crypto::sealed_stream;
use crate::store::{self, Key};

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
        && has_entries(data)
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
    let opened = place.make(key.clone())?;
    let clock = Clock::system();
    let restored =
        crate::maintain::restore(&*opened.store, &*opened.blobs, &clock, &mut whole, &mut |at| bar.name(at.what));
    drop(bar);
    let restored = restored.map_err(|error| format!("{error}\n{place} is incomplete: remove it."))?;
    place.finish(opened, key)?;
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
