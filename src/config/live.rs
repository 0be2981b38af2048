//! The settings of a running server: layers of tables, merged into one immutable snapshot.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::catalogue;
use super::settings::{Settings, Table, lookup};
use super::source::{Source, Sources};
use crate::error::{Error, Result};
use crate::store::{self, Batch, Change, Direction, Durability, PageLimit, Store, keyspace};

/// Version byte of a persisted setting. It is followed by `1` and the value, or by `0` for "deleted".
const VERSION: u8 = 1;
/// Maximum length of a value in bytes.
const MAX_VALUE: usize = 64 << 10;
/// Maximum length of a section or key name in bytes.
const MAX_NAME: usize = 256;
/// Maximum number of persisted settings, so that they always fit in memory and in one response.
const MAX_PERSISTED: usize = 10_000;

/// The key of a record that every persisted change replaces on a shared store: other nodes then read the
/// settings again.
pub fn change_key() -> Vec<u8> {
    keyspace::server("settings_changed")
}

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
    /// Where each of them comes from.
    sources: Sources,
    /// Changes made over HTTP and persisted in the store. A `None` value deletes the key even if `base` sets
    /// it.
    persisted: Vec<Changed>,
    /// Changes made over HTTP with `X-Couch-Persist: false`; `_reload` discards them.
    passing: Vec<Changed>,
}

#[derive(Clone)]
struct Changed {
    section: String,
    key: String,
    value: Option<String>,
}

impl Changed {
    fn is_of(&self, section: &str, key: &str) -> bool {
        (self.section.as_str(), self.key.as_str()) == (section, key)
    }
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

    /// The value of a key, with defaults.
    fn get(&self, section: &str, key: &str) -> Option<String> {
        lookup(&self.table(), section, key).map(str::to_owned)
    }

    /// Takes over what the store has for a key.
    fn adopt(&mut self, section: &str, key: &str, stored: Option<&[u8]>) -> Result<()> {
        self.persisted.retain(|change| !change.is_of(section, key));
        if let Some(value) = stored {
            self.persisted.extend(decode(section, key, value)?);
        }
        Ok(())
    }

    /// Sets or deletes a key among the persisted settings, in place of one that is not persisted.
    fn persist(&mut self, section: &str, key: &str, value: Option<&str>) -> Result<()> {
        put(&mut self.persisted, section, key, value);
        self.passing.retain(|change| !change.is_of(section, key));
        if self.persisted.len() > MAX_PERSISTED {
            return Err(Error::BadRequest(format!("There may be at most {MAX_PERSISTED} persisted settings.")));
        }
        Ok(())
    }
}

fn put(changes: &mut Vec<Changed>, section: &str, key: &str, value: Option<&str>) {
    changes.retain(|change| !change.is_of(section, key));
    changes.push(Changed { section: section.to_owned(), key: key.to_owned(), value: value.map(str::to_owned) });
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

    /// Tells where the settings come from that were handed over at the start.
    pub fn set_sources(&self, sources: Sources) {
        self.layers.lock().sources = sources;
    }

    /// The source of every key that is set.
    pub fn sources(&self) -> Sources {
        let layers = self.layers.lock();
        let mut sources = layers.sources.clone();
        for change in layers.persisted.iter().chain(&layers.passing) {
            let name = (change.section.clone(), change.key.clone());
            match change.value {
                Some(_) => sources.insert(name, Source::Http),
                None => sources.remove(&name),
            };
        }
        sources
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
        self.change(section, key, |_| Ok(Some(Some(value))), persist)
    }

    /// Sets a key persistently unless it has a value; returns whether it had none. Blocks on the store.
    pub fn set_missing(&self, section: &str, key: &str, value: &str) -> Result<bool> {
        self.change(
            section,
            key,
            |before| match before {
                Some(_) => Ok(None),
                None => Ok(Some(Some(value))),
            },
            true,
        )
        .map(|before| before.is_none())
    }

    /// Deletes a key. Returns its previous value, or `NotFound` if it was not set. Blocks on the store.
    pub fn delete(&self, section: &str, key: &str, persist: bool) -> Result<String> {
        let missing = || Error::NotFound("unknown_config_value".into());
        let before = self.change(section, key, |before| before.map(|_| Some(None)).ok_or_else(missing), persist)?;
        before.ok_or_else(missing)
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

    /// Reads the persisted settings that another node may have changed; keeps the changes that are not persisted.
    /// If this build rejects them, nothing changes. Blocks on the store.
    pub fn learn(&self) -> Result<()> {
        let mut layers = self.layers.lock();
        let mut next = layers.clone();
        next.persisted = read_persisted(&*self.store)?;
        match Settings::new(next.table()) {
            Ok(settings) => {
                *self.current.write() = Arc::new(settings);
                *layers = next;
            }
            Err(wrong) => tracing::warn!("ignoring the settings that another node has written: {wrong}"),
        }
        Ok(())
    }

    /// On a shared store, adds to the commit the record that announces the change to other nodes.
    fn note_change(&self, batch: &mut Batch) -> Result<()> {
        if self.store.is_shared() {
            let mut unique = [0; 16];
            getrandom::fill(&mut unique).map_err(|error| Error::Internal(error.to_string()))?;
            batch.put(change_key(), unique.to_vec());
        }
        Ok(())
    }

    /// Changes a key. `decide` gets its value and returns the new one, `Some(None)` to delete it, or `None`
    /// to leave it. Returns the value before. A persisted value is read from the store, not from memory:
    /// another server may have changed it.
    fn change<'a>(
        &self,
        section: &str,
        key: &str,
        decide: impl Fn(Option<&str>) -> Result<Option<Option<&'a str>>>,
        persist: bool,
    ) -> Result<Option<String>> {
        for name in [section, key] {
            if name.is_empty() || name.len() > MAX_NAME || name.contains(['\0', '\n', '\r', '[', ']', '=']) {
                return Err(Error::BadRequest("Invalid configuration section or key".into()));
            }
        }
        let mut layers = self.layers.lock();
        let (before, next) = if persist {
            let beside = |batch: &mut Batch| self.note_change(batch);
            store::update_with(&*self.store, &keyspace::config(section, key), beside, |stored| {
                let mut next = layers.clone();
                next.adopt(section, key, stored)?;
                let before = next.get(section, key);
                let write = match decide(before.as_deref())? {
                    None => Change::Keep,
                    Some(value) => {
                        next.persist(section, key, value)?;
                        Change::Write(Some(encode(value)), Durability::Synced)
                    }
                };
                let settings = Settings::new(next.table()).map_err(Error::BadRequest)?;
                Ok::<_, Error>((write, (before, (next, settings))))
            })?
        } else {
            let mut next = layers.clone();
            let before = next.get(section, key);
            if let Some(value) = decide(before.as_deref())? {
                put(&mut next.passing, section, key, value);
            }
            let settings = Settings::new(next.table()).map_err(Error::BadRequest)?;
            (before, (next, settings))
        };
        let (next, settings) = next;
        *self.current.write() = Arc::new(settings);
        *layers = next;
        drop(layers);
        if persist && self.store.is_shared() {
            // Number 0 stands for records of no database.
            self.store.tell(&[0]);
        }
        Ok(before)
    }
}

fn encode(value: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![VERSION, u8::from(value.is_some())];
    bytes.extend_from_slice(value.unwrap_or("").as_bytes());
    bytes
}

fn read_persisted(store: &dyn Store) -> Result<Vec<Changed>> {
    let mut changes = Vec::new();
    for page in store::pages(store, keyspace::configs(), Direction::Forward, PageLimit::entries(1000)) {
        for (key, value) in page? {
            let Some((section, name)) = keyspace::config_of(&key) else { continue };
            changes.extend(decode(section, name, &value)?);
        }
    }
    Ok(changes)
}

/// Decodes a persisted setting. `None` if this build rejects its value, or never reads its section from the
/// store.
fn decode(section: &str, key: &str, value: &[u8]) -> Result<Option<Changed>> {
    let value = match value {
        [VERSION, 1, text @ ..] => Some(String::from_utf8_lossy(text).into_owned()),
        [VERSION, 0] => None,
        _ => return Err(Error::Damaged(format!("the persisted setting {section}/{key}"))),
    };
    if let Some(wrong) = value.as_deref().and_then(|value| super::settings::check(section, key, value).err()) {
        tracing::warn!("ignoring a persisted setting: {wrong}");
        return Ok(None);
    }
    if catalogue::BLOCKED.contains(&section) {
        return Ok(None);
    }
    Ok(Some(Changed { section: section.to_owned(), key: key.to_owned(), value }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;
    use crate::store::rival::Rival;

    #[test]
    fn a_setting_that_another_server_has_changed_is_read_before_it_is_written() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let [one, two] = [(); 2].map(|()| Live::open(Table::new(), store.clone()).unwrap());
        one.set("mine", "a", "1", true).unwrap();
        assert_eq!(two.set("mine", "a", "2", true), Ok(Some("1".into())), "the value that was replaced");
        one.set("mine", "b", "1", true).unwrap();
        assert_eq!(two.delete("mine", "b", true), Ok("1".into()), "it is set, though not in this server's memory");
        assert_eq!(one.delete("mine", "b", true), Err(Error::NotFound("unknown_config_value".into())));
        assert_eq!(one.delete("mine", "a", true), Ok("2".into()));
    }

    #[test]
    fn the_source_of_a_value_is_the_last_one_that_set_it() {
        let mut base = Table::new();
        base.entry("mine".into()).or_default().insert("a".into(), "1".into());
        let live = Live::open(base, Arc::new(Memory::new())).unwrap();
        let name = || ("mine".to_owned(), "a".to_owned());
        live.set_sources([(name(), Source::File)].into());
        assert_eq!(live.sources(), [(name(), Source::File)].into());
        for persist in [false, true] {
            live.set("mine", "a", "2", persist).unwrap();
            assert_eq!(live.sources(), [(name(), Source::Http)].into());
        }
        live.delete("mine", "a", true).unwrap();
        assert_eq!(live.sources(), Sources::new(), "the default counts again");
    }

    #[test]
    fn a_value_that_is_made_once_is_not_replaced_by_that_of_another_server() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let [one, two] = [(); 2].map(|()| Live::open(Table::new(), store.clone()).unwrap());
        assert_eq!(one.set_missing("chttpd_auth", "secret", "first"), Ok(true));
        assert_eq!(two.set_missing("chttpd_auth", "secret", "second"), Ok(false));
        for live in [&one, &two, &Live::open(Table::new(), store.clone()).unwrap()] {
            assert_eq!(live.settings().get("chttpd_auth", "secret"), Some("first"));
        }
    }

    #[test]
    fn a_commit_of_another_server_between_read_and_write_is_seen() {
        let store = Arc::new(Rival::new(Arc::new(Memory::new()), &keyspace::config("mine", "a")));
        let live = Live::open(Table::new(), store.clone()).unwrap();
        store.writes_next([encode(Some("1"))]);
        assert_eq!(live.set("mine", "a", "2", true), Ok(Some("1".into())));
        assert_eq!(live.settings().get("mine", "a"), Some("2"));
        store.writes_next([encode(Some("3"))]);
        assert_eq!(live.set_missing("mine", "a", "4"), Ok(false), "nothing is committed");
        assert_eq!(live.delete("mine", "a", false), Ok("2".into()));
        assert_eq!(live.settings().get("mine", "a"), None);
        live.reload().unwrap();
        assert_eq!(live.settings().get("mine", "a"), Some("2"));
    }
}
