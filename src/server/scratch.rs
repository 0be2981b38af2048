//! The scratch folder of a node on a shared store: an embedded store for its indexes. It may be deleted whenever the
//! node is stopped.

use std::path::Path;
use std::sync::Arc;

use crate::store::{self, Engine, Key, OpenError, Options, Store};

/// Opens the store of a node's indexes in the folder `dir`, and creates it if necessary. With `key`, it is encrypted. A
/// store that cannot be opened, for example because it is damaged or has another key, is deleted and made again:
/// everything in it can be built from the databases.
///
/// # Errors
/// A sentence for the user, for example if another node uses the folder.
pub fn open(dir: &Path, key: Option<&Key>) -> Result<Arc<dyn Store>, String> {
    let folder = dir.join("indexes");
    // redb gives freed pages to new data, so that the folder stays near the size of what is in it.
    let options = || Options { engine: Some(Engine::Redb), key: key.cloned(), ..Options::default() };
    match store::open_with(&folder, options()) {
        Ok(opened) => return Ok(opened.store),
        Err(OpenError::Locked(_)) => {
            return Err(format!("another node uses the scratch folder {}: give each its own", dir.display()));
        }
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "the indexes of this node are made again"),
    }
    let removed = match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed.map_err(|error| format!("the scratch folder {} cannot be emptied: {error}", folder.display()))?;
    store::open_with(&folder, options()).map(|opened| opened.store).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Batch;

    #[test]
    fn a_scratch_folder_is_kept_if_it_can_be_opened_and_made_again_if_not() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Key::generate(), Key::generate());
        let store = open(dir.path(), Some(&one)).unwrap();
        let mut batch = Batch::new();
        batch.put(vec![0x20, 1], vec![1]);
        store.commit(batch).unwrap();
        assert!(open(dir.path(), Some(&one)).err().unwrap().contains("another node"));
        drop(store);
        assert!(open(dir.path(), Some(&one)).unwrap().get(&[0x20, 1]).unwrap().is_some());
        assert!(open(dir.path(), Some(&two)).unwrap().get(&[0x20, 1]).unwrap().is_none(), "another key");
        assert!(open(dir.path(), None).is_ok(), "no key");
        std::fs::write(dir.path().join("indexes/format.toml"), "nonsense").unwrap();
        assert!(open(dir.path(), None).is_ok(), "damaged");
    }
}
