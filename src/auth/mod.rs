//! Authentication and authorization: accounts, sessions, tokens, security objects.
//!
//! ```text
//! password   hashes as CouchDB stores them            session   the AuthSession cookie
//! verified_passwords   recently verified passwords    lockout   lockout after wrong passwords
//! settings   CouchDB's setting sections, typed        source    where settings come from
//! security_object   a database's _security object     peruser   a database for every user
//! totp       one-time codes of CouchDB's `totp` member
//! users      documents of the users' database         requirements   rules for new passwords
//! devices    sign-ins by device, revocations          token     access tokens that this server issues
//! jwt, jwks  bearer tokens and published keys         authenticate   credentials in, user context out
//! livesync_link   the setup link of Obsidian LiveSync   qr_code   a link as a picture
//! generated_password   passwords that people type
//! ```
//!
//! Takes strings and maps, returns results. Only `http` knows headers and status codes.

pub mod authenticate;
mod curves;
pub mod devices;
pub mod generated_password;
pub mod jwks;
pub mod jwt;
pub mod livesync_link;
pub mod lockout;
pub mod password;
pub mod peruser;
pub mod qr_code;
pub mod requirements;
pub mod security_object;
pub mod session;
pub mod settings;
pub mod source;
pub mod token;
mod totp;
pub mod users;
pub(crate) mod verified_passwords;

use serde_json::{Value, json};

pub use self::authenticate::{
    Authenticator, Credentials, Pending, Proof, Session, SignedIn, Step, UserDocument, Users,
};
pub use self::security_object::{Security, default_security};
pub use self::settings::Settings;

/// The role of server admins.
pub const ADMIN: &str = "_admin";

/// The authentication handler that identified the user, as `GET /_session` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    Cookie,
    /// Basic authentication: CouchDB calls it `default`.
    Default,
    Proxy,
    Jwt,
}

impl Handler {
    /// The handler's name in `info.authenticated` and `info.authentication_handlers`.
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
    /// `None` for an anonymous client, and for the server itself.
    pub name: Option<String>,
    /// The user's roles, in the order in which `GET /_session` shows them.
    pub roles: Vec<String>,
    /// The handler that authenticated the user; `None` for an anonymous client and for the server itself.
    pub handler: Option<Handler>,
}

impl UserCtx {
    /// The context of a client that is not signed in.
    pub fn anonymous() -> UserCtx {
        UserCtx::default()
    }

    /// The context of the server's own work: all rights, no name.
    pub fn server() -> UserCtx {
        UserCtx { name: None, roles: vec![ADMIN.to_string()], handler: None }
    }

    /// Whether the user has the role `role`.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }

    /// Whether the user is a server admin.
    pub fn is_server_admin(&self) -> bool {
        self.has_role(ADMIN)
    }

    /// `{"name": ..., "roles": [...]}` as in `GET /_session`.
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "roles": self.roles})
    }

    /// `{"db": ..., "name": ..., "roles": [...]}`: the `userCtx` argument of design documents' functions.
    pub fn to_script_json(&self, database: &str) -> Value {
        json!({"db": database, "name": self.name, "roles": self.roles})
    }
}

/// The body of `GET /_session`: the client's user context and the handler that authenticated it.
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
    fn the_server_is_an_admin_and_an_anonymous_client_is_not() {
        assert!(UserCtx::server().is_server_admin());
        assert!(!UserCtx::anonymous().is_server_admin());
        assert_eq!(UserCtx::anonymous().to_json().to_string(), r#"{"name":null,"roles":[]}"#);
    }

    #[test]
    fn session_info_has_couchdbs_format() {
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
