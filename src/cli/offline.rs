//! The offline commands `settee check`, `backup`, `restore`, `compact-store` and `make-key`, which work on a
//! data folder.
//!
//! Results go to the standard output. A progress bar goes to the standard error if that is a terminal.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers on the standard output")]

mod backup;
mod check;
mod compact_store;
mod output;

use std::path::Path;

use self::output::Outcome;
use super::args::Upkeep;
use super::replicate::replicate;
use super::stores::{Place, convert};
use crate::store::{Key, Rewrite};

pub use self::backup::{backup, restore};
pub use self::check::{check, salvage};
pub use self::compact_store::compact_store;

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

/// Work on a data folder. False if a check found something.
pub fn upkeep(work: Upkeep) -> Result<bool, String> {
    let engine = |name: Option<String>| name.as_deref().map(str::parse).transpose();
    match work {
        Upkeep::Check { place, key, salvage: None } => return check(&place, key),
        Upkeep::Check { place: Place::Folder { data, .. }, key, salvage: Some(to) } => {
            return salvage(&data, key, &to);
        }
        Upkeep::Check { .. } => Err("only a data folder can be salvaged; PostgreSQL has tools of its own".into()),
        Upkeep::Backup { place, key, plaintext, to } => backup(&place, key, plaintext, &to),
        Upkeep::Restore { from, backup_key, place, key } => restore(&from, backup_key, &place, key),
        Upkeep::Convert(how) => {
            convert(&how)?;
            let is_well = check(&how.to, how.to_key)?;
            if is_well {
                println!("Start the server with {}. If all is well, remove {}, which is unchanged.", how.to, how.from);
            }
            return Ok(is_well);
        }
        Upkeep::CompactStore { data, key, store, sealing, to } => {
            compact_store(&data, &Rewrite { engine: engine(store)?, key, sealing, to })
        }
        Upkeep::MakeKey { file } => make_key(&file),
        Upkeep::Replicate(asked) => return replicate(asked),
    }?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::db::Databases;
    use crate::store::{self, Engine};

    #[test]
    fn the_commands_check_back_up_restore_and_compact_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let at = |name: &str| Place::Folder { data: path(name), engine: None };
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
