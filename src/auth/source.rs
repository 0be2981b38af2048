//! Where the settings of authentication come from, and how single values are read.

/// A source of settings: section and key → value.
pub trait Source {
    /// The value of a setting. `None` if it is not set.
    fn get(&self, section: &str, key: &str) -> Option<String>;
    /// All keys and values of a section.
    fn section(&self, section: &str) -> Vec<(String, String)>;
}

/// Parses `true` and `false` as CouchDB does; every other value yields the default.
pub(crate) fn boolean(setting: Option<String>, default: bool) -> bool {
    match setting.as_deref().map(str::trim) {
        Some("true") => true,
        Some("false") => false,
        _ => default,
    }
}

pub(crate) fn number(setting: Option<String>, default: u64) -> u64 {
    setting.and_then(|text| text.trim().parse().ok()).unwrap_or(default)
}

/// A comma-separated list of roles; spaces around commas and empty roles at the end do not count.
pub(crate) fn role_list(text: &str) -> Vec<String> {
    let mut roles: Vec<String> = text.split(',').map(|role| role.trim().to_string()).collect();
    while roles.last().is_some_and(String::is_empty) {
        roles.pop();
    }
    roles
}
