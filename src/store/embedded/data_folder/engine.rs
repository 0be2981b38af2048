//! The engines that a data folder can have, and the version of its format.

use std::fmt;
use std::str::FromStr;

/// The format that this build writes, and the newest that it can read.
pub const FORMAT: u32 = 1;

/// The engines that a data folder can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// sled 0.34: a log-structured store.
    Sled,
    /// redb: copy-on-write B-trees in one file.
    Redb,
}

impl Engine {
    /// All engines. The first is the default.
    pub const ALL: &[Engine] = &[Engine::Sled, Engine::Redb];

    /// The engine's data file in the store's folder.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Engine::Sled => "db",
            Engine::Redb => "settee.redb",
        }
    }

    /// The name that `--store` and the data folder use.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Sled => "sled",
            Engine::Redb => "redb",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Engine, String> {
        let known = Engine::ALL.iter().find(|engine| engine.name() == name);
        known.copied().ok_or_else(|| {
            let names: Vec<_> = Engine::ALL.iter().map(|engine| engine.name()).collect();
            format!("there is no storage engine {name:?}; choose one of: {}", names.join(", "))
        })
    }
}
