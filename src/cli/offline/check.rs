//! `settee check`, and `check --salvage`, which copies what can be read of a damaged data folder.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers on the standard output")]

use std::path::Path;

use super::output::{Outcome, documents_in, size};
use crate::cli::progress_bar::{Bar, Unit};
use crate::cli::stores::{Place, has_entries};
use crate::clock::Clock;
use crate::store::{self, Key, Options};

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
    if has_entries(to) {
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
