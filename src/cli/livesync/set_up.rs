//! Sets up a vault: accounts, database, rights, settings; and prints what a device needs.
//!
//! Everything can be run again: what exists stays as it is. The server knows neither a password nor the passphrase of
//! a vault, so that it cannot make a link a second time. The first link is therefore kept in the account's document,
//! encrypted as it is printed, under a passphrase that was shown once, with the salt of the password that is in it.

#![allow(clippy::print_stdout, reason = "a command answers on the standard output")]

use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::database::{Found, give_rights, look_at_database, make_database};
use super::device_url::{DeviceUrl, device_url};
use super::doctor;
use super::done;
use super::vault::{Vault, check_database, check_user};
use crate::auth::generated_password::{Length, generated_password};
use crate::auth::livesync_link::{Device, is_link, setup_link};
use crate::auth::qr_code::QrCode;
use crate::cli::admin_api::{AdminApi, OpenStore, part};
use crate::cli::secret_text::read_secret;

/// The member of an account's document with its links, by vault.
const LINKS: &str = "livesync";
/// The section of the settings that records for each vault whether it is encrypted.
const VAULTS: &str = "livesync";

/// What is to be printed for one person.
struct Ready {
    user: String,
    link: String,
    /// The passphrase of the link; `None`: the link is an older one.
    passphrase: Option<String>,
    /// A password that was made now.
    password: Option<String>,
}

/// Sets up a vault.
///
/// # Errors
/// A sentence for the user. Nothing is changed if it can be seen before that it cannot be done for anybody. After another
/// error, what was done stays, and the command can be run again.
pub fn set_up(vault: Vault, open_store: OpenStore<'_>) -> Result<(), String> {
    check_database(&vault.database)?;
    let mut people = vec![vault.user.clone()];
    people.extend(vault.share.iter().filter(|name| **name != vault.user).cloned());
    people.iter().try_for_each(|name| check_user(name))?;
    let given = Given {
        password: vault.password_file.as_deref().map(read_secret).transpose()?,
        vault_passphrase: vault.vault_passphrase_file.as_deref().map(read_secret).transpose()?,
    };
    let api = AdminApi::open(vault.target.clone(), open_store, Some("--server"))?;
    let config = api.settings()?;
    if let Some(name) = people.iter().find(|name| config["admins"].get(name.as_str()).is_some()) {
        return Err(format!(
            "{name} is a server admin. The devices of a vault keep its password, so give the vault an account of its own"
        ));
    }
    let url = device_url(&api, &vault, &config)?;
    // Everything that may be refused is looked at before anything is changed.
    let found = look_at_database(&api, &vault, &people)?;
    let is_new = is_new(&vault, &config, found);
    let passphrase = vault_passphrase(&vault, &given, &config, is_new)?;
    let (mut accounts, mut entitled, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for user in &people {
        match look_at_person(&api, &vault, user, &given, is_new, passphrase != Passphrase::Unknown) {
            Ok(account) => accounts.push((user, account)),
            Err(Refusal { has_account, why }) => {
                entitled.extend(has_account.then(|| user.clone()));
                errors.push(why);
            }
        }
    }
    let has_owner = entitled.contains(&vault.user) || accounts.iter().any(|(user, _)| **user == vault.user);
    if accounts.is_empty() || !has_owner {
        return Err(in_lines(&errors));
    }
    println!("Vault {} of {}, on {}\n", vault.database, vault.user, api.server);
    apply_settings(&api)?;
    make_database(&api, &vault, found)?;
    let mut ready = Vec::new();
    for (user, account) in accounts {
        match settle_person(&api, &vault, user, account, (&url.url, &passphrase)) {
            Ok(one) => {
                entitled.push(user.clone());
                ready.push(one);
            }
            Err(error) => errors.push(error),
        }
    }
    // Only now, and only to accounts that exist: somebody else could take the name of one that does not.
    errors.extend(give_rights(&api, &vault, &entitled).err());
    let kind = if passphrase == Passphrase::None { "plain" } else { "encrypted" };
    if !ready.is_empty() && passphrase != Passphrase::Unknown && config[VAULTS][&vault.database] != kind {
        match api.set(VAULTS, &vault.database, kind) {
            Ok(_) => done(&format!("set {VAULTS}/{} = {kind}", vault.database)),
            Err(error) => errors.push(error),
        }
    }
    // Also after an error: nobody else knows the new passwords.
    if !ready.is_empty() {
        errors.extend(show(&vault, &url, &ready, &passphrase));
    }
    if errors.is_empty() { Ok(()) } else { Err(in_lines(&errors)) }
}

fn in_lines(errors: &[String]) -> String {
    errors.join("\nsettee: ")
}

/// What the user has given in files.
struct Given {
    password: Option<String>,
    vault_passphrase: Option<String>,
}

/// Changes the settings that LiveSync's own check would complain of.
fn apply_settings(api: &AdminApi) -> Result<(), String> {
    for doctor::Finding { complaint, .. } in doctor::examine(api)? {
        if let Some(cure) = complaint.and_then(|complaint| complaint.cure) {
            cure.apply(api, |setting| done(&format!("set {setting}")))?;
        }
    }
    Ok(())
}

/// The passphrase of the vault's end-to-end encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Passphrase {
    /// The vault is not encrypted.
    None,
    /// Encrypted; made now.
    New(String),
    /// Encrypted; given by the user.
    Given(String),
    /// Encrypted, or of unknown kind, and not given: only links that exist can be shown.
    Unknown,
}

impl Passphrase {
    fn text(&self) -> Option<&str> {
        match self {
            Passphrase::New(text) | Passphrase::Given(text) => Some(text),
            Passphrase::None | Passphrase::Unknown => None,
        }
    }
}

/// Whether nothing is encrypted with a passphrase yet.
fn is_new(vault: &Vault, config: &Value, found: Found) -> bool {
    match found {
        Found::New => true,
        // No link was made so far, or the address in it was wrong.
        Found::Empty { alone } => config[VAULTS][&vault.database].is_null() || vault.new_password && alone,
        Found::Old => false,
    }
}

fn vault_passphrase(vault: &Vault, given: &Given, config: &Value, is_new: bool) -> Result<Passphrase, String> {
    let known = config[VAULTS][&vault.database].as_str();
    if vault.plain && known == Some("encrypted") && !is_new {
        return Err(format!("the vault {} is end-to-end encrypted; without --plain", vault.database));
    }
    if given.vault_passphrase.is_some() && known == Some("plain") && !is_new {
        return Err(format!(
            "the vault {} is not end-to-end encrypted; without --vault-passphrase-file",
            vault.database
        ));
    }
    Ok(match (&given.vault_passphrase, known) {
        _ if vault.plain => Passphrase::None,
        (Some(text), _) => Passphrase::Given(text.clone()),
        (None, _) if is_new => Passphrase::New(generated_password(Length::Password)),
        (None, Some("plain")) => Passphrase::None,
        (None, _) => Passphrase::Unknown,
    })
}

/// What is to be done for one person.
enum Account {
    /// The link that was made before is shown.
    Kept { link: String },
    /// A link is made, and before it the account, if there is none, or its new password.
    Links { document: Option<Value>, password: String, is_given: bool, renews: bool },
}

/// Why there is nothing for one person.
struct Refusal {
    has_account: bool,
    why: String,
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal { has_account: false, why }
    }
}

/// Looks at a person's account. A link that exists is shown only if the vault is not new: it has the passphrase of an
/// earlier vault of the same name.
fn look_at_person(
    api: &AdminApi,
    vault: &Vault,
    user: &str,
    given: &Given,
    is_new: bool,
    knows_passphrase: bool,
) -> Result<Account, Refusal> {
    let reply = api.send("GET", &account_path(user), &[], None)?;
    let document = match reply.status {
        404 => None,
        _ => Some(reply.ok("the account")?),
    };
    let is_owner = user == vault.user;
    let renews = vault.new_password && is_owner;
    if let Some(account) = document.as_ref().filter(|_| !renews && (!is_owner || given.password.is_none())) {
        let kept = &account[LINKS][&vault.database];
        let link = kept["link"].as_str().filter(|link| !is_new && is_link(link) && kept["salt"] == account["salt"]);
        return match link {
            Some(link) => Ok(Account::Kept { link: link.into() }),
            None => Err(Refusal {
                has_account: true,
                why: format!(
                    "{user} has an account, and there is no link for this vault and its password. Give the password by \
                     --password-file, or make a new one by --new-password (settee livesync --user {user} --vault {})",
                    vault.database
                ),
            }),
        };
    }
    let has_account = document.is_some();
    if !knows_passphrase {
        let why = format!(
            "the vault {} is there already: give the passphrase of its end-to-end encryption by --vault-passphrase-file \
             (Obsidian shows it in the settings of LiveSync), or --plain if it has none",
            vault.database
        );
        return Err(Refusal { has_account, why });
    }
    let given = given.password.clone().filter(|_| is_owner);
    let is_given = given.is_some();
    let password = given.unwrap_or_else(|| generated_password(Length::Password));
    if document.is_some() && !renews {
        check_password(api, user, &password).map_err(|why| Refusal { has_account, why })?;
    }
    Ok(Account::Links { document, password, is_given, renews })
}

/// Makes the account if there is none, and the link.
fn settle_person(
    api: &AdminApi,
    vault: &Vault,
    user: &str,
    account: Account,
    (url, vault_passphrase): (&str, &Passphrase),
) -> Result<Ready, String> {
    let (document, password, is_given, renews) = match account {
        Account::Kept { link } => return Ok(Ready { user: user.into(), link, passphrase: None, password: None }),
        Account::Links { document, password, is_given, renews } => (document, password, is_given, renews),
    };
    let path = account_path(user);
    let is_made = document.is_none();
    let mut document = document.unwrap_or_else(|| json!({"name": user, "type": "user", "roles": []}));
    if is_made || renews {
        document["password"] = password.as_str().into();
        document = write(api, &path, &document)?;
        done(&match is_made {
            true => format!("made the account {user}"),
            false => format!("gave {user} a new password; set up its devices again"),
        });
    }
    let vault_passphrase = vault_passphrase.text();
    let device = Device { url, user, password: &password, database: &vault.database, vault_passphrase };
    let passphrase = generated_password(Length::Link);
    let link = setup_link(&device, &passphrase);
    document[LINKS][&vault.database] = json!({"link": link, "salt": document["salt"]});
    write(api, &path, &document)?;
    done(&format!("made the link of {user}, and kept it in the account in encrypted form"));
    Ok(Ready { user: user.into(), link, passphrase: Some(passphrase), password: (!is_given).then_some(password) })
}

fn account_path(user: &str) -> String {
    format!("/_users/{}", part(&format!("org.couchdb.user:{user}")))
}

/// Writes an account, and reads what the server has made of it.
fn write(api: &AdminApi, path: &str, account: &Value) -> Result<Value, String> {
    api.must("PUT", path, Some(account), "the account")?;
    api.must("GET", path, None, "the account")
}

fn check_password(api: &AdminApi, user: &str, password: &str) -> Result<(), String> {
    let reply = api.send("POST", "/_session", &[], Some(&json!({"name": user, "password": password})))?;
    match reply.status {
        200 => Ok(()),
        401 => Err(format!("that is not the password of {user}")),
        _ => reply.ok("the password").map(drop),
    }
}

/// Prints the links, their QR codes and what must be kept. Returns why QR codes could not be written to their file.
fn show(vault: &Vault, url: &DeviceUrl, ready: &[Ready], passphrase: &Passphrase) -> Vec<String> {
    let mut errors = Vec::new();
    if ready.iter().any(|ready| ready.passphrase.is_some()) {
        println!("\n{}", url.explained());
    }
    for Ready { user, link, passphrase, password } in ready {
        println!(
            "\n== {user} ==\n\nOpen this link on a device with Obsidian and its plugin Self-hosted LiveSync:\n\n{link}\n"
        );
        errors.extend(show_qr(vault, link).err());
        match passphrase {
            Some(passphrase) => println!("passphrase of the link   {passphrase}"),
            None => println!(
                "This is the link that was made before. It has the address of that time, and its passphrase was shown then."
            ),
        }
        if let Some(password) = password {
            println!("password of {user:<12} {password}");
        }
    }
    match passphrase {
        Passphrase::New(text) => println!("passphrase of the vault  {text}"),
        Passphrase::None => println!("\nThe vault is not end-to-end encrypted: the server can read the notes."),
        Passphrase::Given(_) | Passphrase::Unknown => {}
    }
    if ready.iter().any(|ready| ready.passphrase.is_some()) {
        println!(
            "\nKeep these: they are shown only now. A device asks for the passphrase of the link; the others are in the \
             link.\nMore devices use the same link."
        );
    }
    errors
}

fn show_qr(vault: &Vault, link: &str) -> Result<(), String> {
    let Some(code) = QrCode::new(link) else { return Ok(()) };
    if let Some(file) = &vault.svg {
        write_svg(file, &code.svg())?;
        println!("The QR code is in {}.\n", file.display());
    }
    let out = std::io::stdout();
    if !vault.show_qr && !out.is_terminal() {
        return Ok(());
    }
    let columns = rustix::termios::tcgetwinsize(&out).map_or(usize::MAX, |size| usize::from(size.ws_col));
    if !vault.show_qr && columns < code.columns() {
        println!(
            "The QR code needs a terminal of {} columns, and this one has {columns}: make it wider, or use --svg FILE.\n",
            code.columns()
        );
        return Ok(());
    }
    println!("{}", code.for_terminal());
    Ok(())
}

/// Only the owner may read the file: anyone with the file and the passphrase can read the vault.
fn write_svg(file: &Path, text: &str) -> Result<(), String> {
    let opened = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(file);
    opened
        .and_then(|mut to| to.write_all(text.as_bytes()))
        .map_err(|error| format!("{} cannot be written: {error}", file.display()))
}
