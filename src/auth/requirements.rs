//! Requirements for new passwords: the setting `chttpd_auth/password_regexp`, a list of regular expressions.
//! A password must match all of them; each has an optional error text. The list is in Erlang syntax, as in
//! CouchDB:
//!
//! ```text
//! [{".{10,}", "Password min length is 10 characters."}, "\\d+"]
//! ```

use super::password::CANNOT_HASH;
use crate::error::{Error, Result};
use crate::regex::Regex;

/// The parsed setting.
#[derive(Debug, Clone, Default)]
pub struct Requirements {
    /// (expression, error text if the password does not match).
    rules: Vec<(Regex, String)>,
    /// Whether the setting is malformed. Then no password can be set, as in CouchDB.
    broken: bool,
}

/// Steps that one regular expression may take on one password.
const MAX_STEPS: u64 = 1_000_000;

/// CouchDB's error text, which the rule's own text follows.
const UNMET: &str = "Password does not conform to requirements.";

impl Requirements {
    /// Parses the setting. A malformed setting logs an error, and then rejects every password.
    pub fn parse(setting: &str) -> Requirements {
        if matches!(setting.trim(), "" | "[]") {
            return Requirements::default();
        }
        match rules(setting) {
            Some(rules) => Requirements { rules, broken: false },
            None => {
                tracing::error!("chttpd_auth/password_regexp is not a list of regular expressions");
                Requirements { rules: Vec::new(), broken: true }
            }
        }
    }

    /// Checks a new password.
    ///
    /// # Errors
    /// `BadRequest` with the text of the first rule that the password does not match; `Forbidden` if the
    /// setting is malformed.
    pub fn check(&self, password: &str) -> Result<()> {
        if self.broken {
            return Err(Error::Forbidden(CANNOT_HASH.into()));
        }
        match self.rules.iter().find(|(regex, _)| !regex.is_match(password, &mut { MAX_STEPS })) {
            Some((_, reason)) => Err(Error::BadRequest(reason.clone())),
            None => Ok(()),
        }
    }
}

fn rules(setting: &str) -> Option<Vec<(Regex, String)>> {
    let mut rest = Terms { text: setting.trim().trim_end_matches('.') };
    let mut rules = Vec::new();
    rest.take('[')?;
    loop {
        let (pattern, reason) = if rest.take('{').is_some() {
            let pattern = rest.string()?;
            let reason = rest.take(',').map(|()| rest.string().unwrap_or_default());
            rest.take('}')?;
            (pattern, reason.unwrap_or_default())
        } else {
            (rest.string()?, String::new())
        };
        let reason = if reason.is_empty() { UNMET.to_string() } else { format!("{UNMET} {reason}") };
        rules.push((Regex::compile(&pattern).ok()?, reason));
        if rest.take(']').is_some() {
            return rest.text.trim().is_empty().then_some(rules);
        }
        rest.take(',')?;
    }
}

/// A parser of the subset of Erlang's term syntax that the setting uses.
struct Terms<'a> {
    text: &'a str,
}

impl Terms<'_> {
    fn take(&mut self, token: char) -> Option<()> {
        self.text = self.text.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        self.take('"')?;
        let mut out = String::new();
        let mut chars = self.text.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.text = &self.text[at + 1..];
                    return Some(out);
                }
                '\\' => out.push(match chars.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    's' => ' ',
                    other => other,
                }),
                other => out.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_must_match_all_rules_and_errors_contain_the_rules_text() {
        let rules = Requirements::parse(r#"[{".{10,}", "Password min length is 10 characters."}, "\\d+", {"[A-Z]"}]"#);
        assert_eq!(rules.check("Abcdefghi1"), Ok(()));
        let reason = |password| rules.check(password).expect_err("unmet").to_string();
        assert_eq!(reason("short"), "Password does not conform to requirements. Password min length is 10 characters.");
        assert_eq!(reason("long enough"), "Password does not conform to requirements.");
        assert_eq!(reason("long enough 1"), "Password does not conform to requirements.");
    }

    #[test]
    fn an_empty_setting_accepts_and_a_malformed_one_rejects_all_passwords() {
        for none in ["", "[]", " [] "] {
            assert_eq!(Requirements::parse(none).check(""), Ok(()));
        }
        for broken in ["x", "[", "[1]", r#"["("]"#, r#"["a""b"]"#, r#"["a"] x"#, r#"{"a"}"#, r#"["a\"#] {
            let refused = Requirements::parse(broken).check("password");
            assert_eq!(refused, Err(Error::Forbidden(CANNOT_HASH.into())), "{broken}");
        }
    }
}
