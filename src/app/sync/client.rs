//! Which client an entry is about.

/// Bytes that are kept of a text that a client chose.
pub const TEXT: usize = 200;

/// How the server tells a user's clients apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Client {
    /// The id of a device that has signed in: that of its session or token.
    Device(String),
    /// The name that a client without a session gives its device, or else its `User-Agent`.
    Named(String),
}

/// One client and one database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// `None`: it has not signed in.
    pub user: Option<String>,
    pub client: Client,
    pub database: String,
}

/// A text, cut to the length that is kept.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT)]
}

impl Key {
    /// The key of a client; long names are cut. `device`: its id, if it has signed in.
    pub fn new(user: Option<&str>, device: Option<&str>, name: &str, database: &str) -> Key {
        let client = match device {
            Some(id) => Client::Device(cut(id).to_owned()),
            None => Client::Named(cut(name).to_owned()),
        };
        Key { user: user.map(|user| cut(user).to_owned()), client, database: database.to_owned() }
    }

    /// The id of its device, if it has signed in.
    pub fn device(&self) -> Option<&str> {
        match &self.client {
            Client::Device(id) => Some(id),
            Client::Named(_) => None,
        }
    }
}
