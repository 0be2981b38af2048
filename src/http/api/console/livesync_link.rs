//! POST `/_livesync/link`: the setup link of Obsidian's plugin Self-hosted LiveSync, with its QR code.
//!
//! The link contains the password of the account, which the server does not know: the request brings it, and it is
//! checked like a sign-in. Neither the password nor the passphrases are stored or logged.

use std::sync::Arc;

use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::Security;
use crate::auth::generated_password::{Length, generated_password};
use crate::auth::livesync_link::{Device, setup_link};
use crate::auth::qr_code::QrCode;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::http::security::authenticate;

/// Maximum length of a body in bytes. A QR code holds fewer.
const LARGEST: usize = 16 * 1024;

/// The body. It has no `Debug`, because it holds secrets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The URL under which devices reach the server.
    url: String,
    db: String,
    name: String,
    password: String,
    /// End-to-end encryption.
    #[serde(default = "yes")]
    encrypt: bool,
    /// The passphrase of end-to-end encryption. If missing or empty: a new one.
    vault_passphrase: Option<String>,
}

fn yes() -> bool {
    true
}

pub async fn make(app: &Arc<App>, request: &mut Request) -> Result<Answer> {
    request.must_be_json()?;
    let text = request.json_text().await?;
    if text.len() > LARGEST {
        return Err(
            Error::TooLarge { word: "too_large", reason: format!("the body has more than {LARGEST} bytes") }.into()
        );
    }
    let asked: Asked = serde_json::from_str(&text).map_err(|error| wrong_body(&error))?;
    let url = asked.url.trim_end_matches('/').to_owned();
    if !["https://", "http://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|host| !host.is_empty())) {
        return Err(Failure::bad_request("url begins with https:// or http://"));
    }
    if !request.user.is_server_admin() && request.user.name.as_ref() != Some(&asked.name) {
        return Err(Error::Forbidden("You are not a server admin.".into()).into());
    }
    if request.settings.admin(&asked.name).is_some() {
        let reason = "This is a server admin. Devices keep the password, so give the vault an account of its own.";
        return Err(Error::Forbidden(reason.into()).into());
    }
    check_account(app, request, &asked).await?;
    let vault_passphrase = asked.encrypt.then(|| {
        let given = asked.vault_passphrase.filter(|text| !text.is_empty());
        given.unwrap_or_else(|| generated_password(Length::Password))
    });
    let passphrase = generated_password(Length::Link);
    let (sealed_under, of_vault) = (passphrase.clone(), vault_passphrase.clone());
    let (name, db, password) = (asked.name, asked.db, asked.password);
    let account = name.clone();
    // The key of the link takes as long as the hash of a password.
    let link = app.hash(request.peer, &account, move || {
        let device = Device {
            url: &url,
            user: &name,
            password: &password,
            database: &db,
            vault_passphrase: of_vault.as_deref(),
        };
        Ok(setup_link(&device, &sealed_under))
    });
    let link = link.await?;
    let body = json!({
        "qr_svg": QrCode::new(&link).map_or(Value::Null, |code| code.svg().into()),
        "link": link,
        "passphrase": passphrase,
        "vault_passphrase": vault_passphrase,
    });
    Ok(Answer::json(StatusCode::OK, &body).with_text(header::CACHE_CONTROL, "no-store"))
}

/// The error for a wrong body: names the place without the values.
fn wrong_body(error: &serde_json::Error) -> Failure {
    let members = "url, db, name, password, encrypt and vault_passphrase";
    Failure::bad_request(format!("the body is an object with {members}; wrong at column {}", error.column()))
}

/// Checks the password, and that the account may use the database: otherwise the link would be of no use.
async fn check_account(app: &Arc<App>, request: &Request, asked: &Asked) -> Result<()> {
    let (name, password) = (asked.name.clone(), asked.password.clone());
    let signed = authenticate::check_password(app, name, password, None, request, "livesync link").await?;
    let wanted = asked.db.clone();
    let databases = app.databases.clone();
    let database = crate::blocking::blocking(move || databases.get(&wanted)).await?;
    let security: Value = serde_json::from_str(&database.security()).unwrap_or_default();
    Security::stored(&security).check_member(&signed.user)?;
    Ok(())
}
