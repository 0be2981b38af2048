//! The settings of a running server: layers of tables, merged into one immutable snapshot.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::catalogue;
use super::settings::{Settings, Table};
use crate::error::{Error, Result};
use crate::store::{Batch, Direction, PageLimit, Store, keyspace};

/// Version byte of a persisted setting. It is followed by `1` and the value, or by `0` for "deleted".
const VERSION: u8 = 1;
/// Maximum length of a value in bytes.
const MAX_VALUE: usize = 64 << 10;
/// Maximum length of a section or key name in bytes.
const MAX_NAME: usize = 256;
/// Maximum number of persisted settings, so that they always fit in memory and in one response.
const MAX_PERSISTED: usize = 10_000;

/// The current settings. Reading them copies a pointer; changes are serialized.
pub struct Live {
    current: RwLock<Arc<Settings>>,
    layers: Mutex<Layers>,
    store: Arc<dyn Store>,
}

#[derive(Clone, Default)]
struct Layers {
    /// Settings from the file, the environment and flags.
    base: Table,
    /// Changes made over HTTP and persisted in the store. A `None` value deletes the key even if `base` sets
    /// it.
    persisted: Vec<Change>,
    /// Changes made over HTTP with `X-Couch-Persist: false`; `_reload` discards them.
    passing: Vec<Change>,
}

#[derive(Clone)]
struct Change {
    section: String,
    key: String,
    value: Option<String>,
}

impl Layers {
    fn table(&self) -> Table {
        let mut table = self.base.clone();
        for change in self.persisted.iter().chain(&self.passing) {
            let section = table.entry(change.section.clone()).or_default();
            match &change.value {
                Some(value) => section.insert(change.key.clone(), value.clone()),
                None => section.remove(&change.key),
            };
        }
        table.retain(|_, keys| !keys.is_empty());
        table
    }
}

fn put(changes: &mut Vec<Change>, section: &str, key: &str, value: Option<&str>) {
    changes.retain(|change| (change.section.as_str(), change.key.as_str()) != (section, key));
    changes.push(Change { section: section.to_owned(), key: key.to_owned(), value: value.map(str::to_owned) });
}

impl Live {
    /// Reads the persisted settings and applies them over `base`. Blocks on the store.
    ///
    /// If this build rejects a persisted value, it logs a warning and skips the value: the server must start
    /// so that an admin can repair the setting.
    pub fn open(base: Table, store: Arc<dyn Store>) -> Result<Live> {
        let mut layers = Layers { base, ..Layers::default() };
        layers.persisted = read_persisted(&*store)?;
        let settings = Settings::new(layers.table()).map_err(Error::BadRequest)?;
        Ok(Live { current: RwLock::new(Arc::new(settings)), layers: Mutex::new(layers), store })
    }

    /// Returns the current snapshot.
    pub fn settings(&self) -> Arc<Settings> {
        self.current.read().clone()
    }

    /// Sets a key, effective immediately; with `persist`, it survives restarts. Returns the previous value.
    /// Blocks on the store.
    pub fn set(&self, section: &str, key: &str, value: &str, persist: bool) -> Result<Option<String>> {
        if value.len() > MAX_VALUE {
            return Err(Error::BadRequest(format!("A setting's value may have at most {MAX_VALUE} bytes.")));
        }
        self.change(section, key, Some(value), persist)
    }

    /// Deletes a key. Returns its previous value, or `NotFound` if it was not set. Blocks on the store.
    pub fn delete(&self, section: &str, key: &str, persist: bool) -> Result<String> {
        let before = self.settings().get(section, key).map(str::to_owned);
        let Some(before) = before else { return Err(Error::NotFound("unknown_config_value".into())) };
        self.change(section, key, None, persist)?;
        Ok(before)
    }

    /// Discards the changes that were not persisted, and re-reads the persisted settings. Blocks on the
    /// store.
    pub fn reload(&self) -> Result<()> {
        let mut layers = self.layers.lock();
        let mut next = layers.clone();
        next.persisted = read_persisted(&*self.store)?;
        next.passing.clear();
        *self.current.write() = Arc::new(Settings::new(next.table()).map_err(Error::BadRequest)?);
        *layers = next;
        Ok(())
    }

    fn change(&self, section: &str, key: &str, value: Option<&str>, persist: bool) -> Result<Option<String>> {
        for name in [section, key] {
            if name.is_empty() || name.len() > MAX_NAME || name.contains(['\0', '\n', '\r', '[', ']', '=']) {
                return Err(Error::BadRequest("Invalid configuration section or key".into()));
            }
        }
        let mut layers = self.layers.lock();
        let before = self.current.read().get(section, key).map(str::to_owned);
        let mut next = layers.clone();
        put(if persist { &mut next.persisted } else { &mut next.passing }, section, key, value);
        if persist {
            next.passing.retain(|change| (change.section.as_str(), change.key.as_str()) != (section, key));
            if next.persisted.len() > MAX_PERSISTED {
                return Err(Error::BadRequest(format!("There may be at most {MAX_PERSISTED} persisted settings.")));
            }
        }
        let settings = Settings::new(next.table()).map_err(Error::BadRequest)?;
        if persist {
            let mut batch = Batch::new();
            batch.put(keyspace::config(section, key), encode(value));
            self.store.commit(batch)?;
        }
        *self.current.write() = Arc::new(settings);
        *layers = next;
        Ok(before)
    }
}

fn encode(value: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![VERSION, u8::from(value.is_some())];
    bytes.extend_from_slice(value.unwrap_or("").as_bytes());
    bytes
}

fn read_persisted(store: &dyn Store) -> Result<Vec<Change>> {
    let mut range = keyspace::configs();
    let mut changes = Vec::new();
    loop {
        let page = store.scan(&range, Direction::Forward, PageLimit::entries(1000))?;
        let Some((last, _)) = page.last() else { return Ok(changes) };
        range.0 = std::ops::Bound::Excluded(last.clone());
        for (key, value) in &page {
            let Some((section, name)) = keyspace::config_of(key) else { continue };
            let value = match value.as_slice() {
                [VERSION, 1, text @ ..] => Some(String::from_utf8_lossy(text).into_owned()),
                [VERSION, 0] => None,
                _ => return Err(Error::Damaged(format!("the persisted setting {section}/{name}"))),
            };
            if let Some(wrong) = value.as_deref().and_then(|value| super::settings::check(section, name, value).err()) {
                tracing::warn!("ignoring a persisted setting: {wrong}");
                continue;
            }
            if catalogue::BLOCKED.contains(&section) {
                continue;
            }
            changes.push(Change { section: section.to_owned(), key: name.to_owned(), value });
        }
    }
}
