//! `settee compact-store`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers on the standard output")]

use std::path::Path;

use super::check::check;
use super::output::{Outcome, size};
use crate::cli::progress_bar::{Bar, Unit};
use crate::cli::stores::Place;
use crate::maintain::control;
use crate::maintain::survey::Survey;
use crate::store::blob::blobs::BlobId;
use crate::store::{self, Entry, Rewrite, Sealing, Step, StoreError};

/// `settee compact-store`: rewrites the store, optionally with another engine, and starts, ends or renews
/// encryption. If a server has the folder open, asks it to rewrite its store as it is.
pub fn compact_store(folder: &Path, how: &Rewrite) -> Outcome<()> {
    if how.keeps_all() {
        let asked = control::rewrite(folder).map_err(|error| format!("the server in {}: {error}", folder.display()))?;
        if let Some(told) = asked {
            let (before, after) = told?;
            println!("{}: {} before, {} now", folder.display(), size(before), size(after));
            return Ok(());
        }
    }
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
            if !check(&Place::Folder { data: to.clone(), engine: None }, key)? {
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
