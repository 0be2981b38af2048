//! Who is asking, and what they may do: accounts, sessions, tokens, security objects.
//!
//! ```text
//! password   hashes as CouchDB stores them            session   the AuthSession cookie
//! cache      passwords verified a moment ago          lockout   guessing
//! settings   CouchDB's setting sections, typed        totp      one-time codes of CouchDB's `totp` member
//! access     a database's _security object         peruser   a database for every user
//! users      documents of the users' database     requirements   what passwords must be like
//! devices    who is signed in where, revoked        token    access tokens that this server issues
//! jwt, jwks  bearer tokens and published keys     authenticate   credentials in, user context out
//! ```
//!
//! Pure domain code: strings and maps in, results out. Only `http` knows headers and statuses.

pub mod access;
pub mod authenticate;
pub(crate) mod bounded;
mod cache;
mod curves;
pub mod devices;
pub mod jwks;
pub mod jwt;
pub mod lockout;
pub mod password;
pub mod peruser;
pub mod requirements;
pub mod session;
pub mod settings;
pub mod token;
mod totp;
pub mod users;

use serde_json::{Value, json};

pub use access::{Security, default_security};
pub use authenticate::{Authenticator, Credentials, Pending, Proof, Session, SignedIn, Step, UserDocument, Users};
pub use settings::Settings;

/// The role of server admins.
pub const ADMIN: &str = "_admin";

/// What found out who the user is: the names that `GET /_session` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    Cookie,
    /// Basic authentication: CouchDB calls it `default`.
    Default,
    Proxy,
    Jwt,
}

impl Handler {
    /// The name in `info.authenticated` and `info.authentication_handlers`.
    pub fn name(self) -> &'static str {
        match self {
            Handler::Cookie => "cookie",
            Handler::Default => "default",
            Handler::Proxy => "proxy",
            Handler::Jwt => "jwt",
        }
    }
}

/// The user context: CouchDB's `#user_ctx{}`, `userCtx` in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserCtx {
    /// `None`: nobody is signed in.
    pub name: Option<String>,
    pub roles: Vec<String>,
    /// What authenticated the user; `None` for nobody and for the server itself.
    pub handler: Option<Handler>,
}

impl UserCtx {
    /// Nobody.
    pub fn anonymous() -> UserCtx {
        UserCtx::default()
    }

    /// The server itself, for its own work: every right, no name.
    pub fn server() -> UserCtx {
        UserCtx { name: None, roles: vec![ADMIN.to_string()], handler: None }
    }

    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }

    pub fn is_server_admin(&self) -> bool {
        self.has_role(ADMIN)
    }

    /// `{"name": ..., "roles": [...]}` as in `GET /_session`.
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "roles": self.roles})
    }

    /// `{"db": ..., "name": ..., "roles": [...]}`: what design documents' functions get as `userCtx`.
    pub fn to_script_json(&self, database: &str) -> Value {
        json!({"db": database, "name": self.name, "roles": self.roles})
    }
}

/// The body of `GET /_session`: who the asker is and how that was found out.
pub fn session_info(user: &UserCtx, settings: &Settings) -> Value {
    let handlers: Vec<&str> = settings.handlers.iter().map(|handler| handler.name()).collect();
    let mut info = json!({"authentication_handlers": handlers});
    if let Some(handler) = user.handler {
        info["authenticated"] = handler.name().into();
    }
    if let Some(db) = &settings.authentication_db_shown {
        info["authentication_db"] = db.as_str().into();
    }
    json!({"ok": true, "userCtx": user.to_json(), "info": info})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_an_admin_and_nobody_is_not() {
        assert!(UserCtx::server().is_server_admin());
        assert!(!UserCtx::anonymous().is_server_admin());
        assert_eq!(UserCtx::anonymous().to_json().to_string(), r#"{"name":null,"roles":[]}"#);
    }

    #[test]
    fn session_info_is_couchdbs() {
        let settings = Settings { authentication_db_shown: Some("_users".into()), ..Settings::default() };
        let user = UserCtx { name: Some("ann".into()), roles: vec!["a".into()], handler: Some(Handler::Default) };
        assert_eq!(
            session_info(&user, &settings).to_string(),
            r#"{"ok":true,"userCtx":{"name":"ann","roles":["a"]},"info":{"authentication_handlers":["cookie","default"],"authenticated":"default","authentication_db":"_users"}}"#
        );
        assert_eq!(
            session_info(&UserCtx::anonymous(), &Settings::default()).to_string(),
            r#"{"ok":true,"userCtx":{"name":null,"roles":[]},"info":{"authentication_handlers":["cookie","default"]}}"#
        );
    }
}
