//! The settings of a running server: layers of tables, and the snapshot that they make.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::catalogue;
use super::settings::{Settings, Table};
use crate::error::{Error, Result};
use crate::store::{Batch, Direction, PageLimit, Store, keys};

/// Version byte of a persisted setting. What follows: `1` and the value, or `0` for "deleted".
const VERSION: u8 = 1;
/// Bytes of a value at most; section and key names have 256.
const MAX_VALUE: usize = 64 << 10;
const MAX_NAME: usize = 256;
/// Persisted settings at most, so that they always fit into memory and one answer.
const MAX_PERSISTED: usize = 10_000;

/// Current settings, and the way to change them. Reads are a pointer copy; changes go one at a time.
pub struct Live {
    current: RwLock<Arc<Settings>>,
    layers: Mutex<Layers>,
    store: Arc<dyn Store>,
}

#[derive(Clone, Default)]
struct Layers {
    /// File, environment, flags.
    base: Table,
    /// Over HTTP, in the store. `None`: deleted there, whatever the base says.
    persisted: Vec<Change>,
    /// Over HTTP with `X-Couch-Persist: false`: gone after `_reload`.
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
    /// Reads what was persisted and lays it over `base`. Blocks on the store.
    ///
    /// A persisted value that this build refuses is skipped with a warning: a server must come up to be repaired.
    pub fn open(base: Table, store: Arc<dyn Store>) -> Result<Live> {
        let mut layers = Layers { base, ..Layers::default() };
        layers.persisted = read_persisted(&*store)?;
        let settings = Settings::new(layers.table()).map_err(Error::BadRequest)?;
        Ok(Live { current: RwLock::new(Arc::new(settings)), layers: Mutex::new(layers), store })
    }

    /// The snapshot of this moment.
    pub fn settings(&self) -> Arc<Settings> {
        self.current.read().clone()
    }

    /// Sets a key, at once and (with `persist`) for good. Answers what the key was before. Blocks on the store.
    pub fn set(&self, section: &str, key: &str, value: &str, persist: bool) -> Result<Option<String>> {
        if value.len() > MAX_VALUE {
            return Err(Error::BadRequest(format!("A setting's value has {MAX_VALUE} bytes at most.")));
        }
        self.change(section, key, Some(value), persist)
    }

    /// Deletes a key; what it was, or `NotFound` if it was not set. Blocks on the store.
    pub fn delete(&self, section: &str, key: &str, persist: bool) -> Result<String> {
        let before = self.settings().get(section, key).map(str::to_owned);
        let Some(before) = before else { return Err(Error::NotFound("unknown_config_value".into())) };
        self.change(section, key, None, persist)?;
        Ok(before)
    }

    /// Forgets what was set for this run only, and reads the persisted settings again. Blocks on the store.
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
                return Err(Error::BadRequest(format!("There are {MAX_PERSISTED} persisted settings already.")));
            }
        }
        let settings = Settings::new(next.table()).map_err(Error::BadRequest)?;
        if persist {
            let mut batch = Batch::new();
            batch.put(keys::config(section, key), encode(value));
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
    let mut range = keys::configs();
    let mut changes = Vec::new();
    loop {
        let page = store.scan(&range, Direction::Forward, PageLimit::entries(1000))?;
        let Some((last, _)) = page.last() else { return Ok(changes) };
        range.0 = std::ops::Bound::Excluded(last.clone());
        for (key, value) in &page {
            let Some((section, name)) = keys::config_of(key) else { continue };
            let value = match value.as_slice() {
                [VERSION, 1, text @ ..] => Some(String::from_utf8_lossy(text).into_owned()),
                [VERSION, 0] => None,
                _ => return Err(Error::Damaged(format!("the persisted setting {section}/{name}"))),
            };
            if let Some(wrong) = value.as_deref().and_then(|value| super::settings::check(section, name, value).err()) {
                tracing::warn!("a persisted setting is ignored: {wrong}");
                continue;
            }
            if catalogue::BLOCKED.contains(&section) {
                continue;
            }
            changes.push(Change { section: section.to_owned(), key: name.to_owned(), value });
        }
    }
}
