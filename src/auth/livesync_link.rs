//! LiveSync's setup link: `obsidian://setuplivesync?settings=...`, the settings of the plugin as JSON, encrypted under
//! a passphrase that the user types on the device.
//!
//! ```text
//! settings  = percent-encoded( "%$" base64( salt 32 | iv 12 | key salt 32 | ciphertext and tag ) )
//! master    = PBKDF2-HMAC-SHA-256(passphrase, salt, 310,000 steps)       key = HKDF-SHA-256(master, key salt)
//! cipher    = AES-256-GCM(key, iv, settings as JSON)
//! ```
//! Read in `octagonal-wheels` (`encryption/hkdf.ts`) and `livesync-commonlib` (`API/processSetting.ts`) of vrtmrz. As in
//! their generator, settings that have the plugin's default are left out. The list of remotes
//! (`remoteConfigurations`) is left out, too: the plugin makes it from the other settings, older versions do not know
//! it, and a shorter link is a smaller QR code.

use std::num::NonZeroU32;

use base64::Engine as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::{aead, hkdf, pbkdf2};
use serde_json::{Map, Value, json};

/// What a setup link begins with.
pub const START: &str = "obsidian://setuplivesync?settings=";
/// Marks text that is encrypted as above.
const MARK: &str = "%$";
const ITERATIONS: NonZeroU32 = NonZeroU32::new(310_000).expect("it is not zero");
/// What JavaScript's `encodeURIComponent` leaves as it is.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// What a device has to know.
pub struct Device<'a> {
    /// The URL of the server, without a slash at the end.
    pub url: &'a str,
    pub user: &'a str,
    pub password: &'a str,
    pub database: &'a str,
    /// The passphrase of end-to-end encryption; `None`: the vault is not encrypted.
    pub vault_passphrase: Option<&'a str>,
}

/// The random values of one encryption.
struct Salts {
    salt: [u8; 32],
    iv: [u8; 12],
    key_salt: [u8; 32],
}

/// Creates the link. Takes a moment, because the key is derived from the passphrase.
pub fn setup_link(device: &Device<'_>, passphrase: &str) -> String {
    let mut salts = Salts { salt: [0; 32], iv: [0; 12], key_salt: [0; 32] };
    for bytes in [&mut salts.salt[..], &mut salts.iv[..], &mut salts.key_salt[..]] {
        getrandom::fill(bytes).expect("the operating system provides randomness");
    }
    let sealed = seal(&settings(device).to_string(), passphrase, &salts);
    format!("{START}{}", utf8_percent_encode(&sealed, COMPONENT))
}

/// Whether a text is a setup link, and nothing that a terminal would interpret.
pub fn is_link(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "%-_.!~*'()".contains(c);
    text.strip_prefix(START).is_some_and(|rest| rest.chars().all(is_plain))
}

/// The plugin's settings that differ from its defaults: those of LiveSync's generator of setup links for a CouchDB of
/// one's own.
fn settings(device: &Device<'_>) -> Value {
    let mut settings = Map::new();
    let mut add = |name: &str, value: Value| drop(settings.insert(name.into(), value));
    add("couchDB_URI", device.url.into());
    add("couchDB_USER", device.user.into());
    add("couchDB_PASSWORD", device.password.into());
    add("couchDB_DBNAME", device.database.into());
    if let Some(passphrase) = device.vault_passphrase {
        add("encrypt", true.into());
        add("passphrase", passphrase.into());
        add("usePathObfuscation", true.into());
    }
    for name in ["isConfigured", "batchSave", "periodicReplication", "syncOnStart", "syncOnFileOpen", "syncAfterMerge"]
    {
        add(name, true.into());
    }
    add("usePluginSyncV2", true.into());
    add("handleFilenameCaseSensitive", false.into());
    add("customChunkSize", json!(60));
    add("concurrencyOfReadChunksOnline", json!(30));
    add("minimumIntervalOfReadChunksOnline", json!(25));
    settings.into()
}

fn seal(text: &str, passphrase: &str, salts: &Salts) -> String {
    let mut master = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salts.salt, passphrase.as_bytes(), &mut master);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &salts.key_salt).extract(&master);
    let key = prk.expand(&[], &aead::AES_256_GCM).expect("the key is not longer than HKDF allows");
    let key = aead::LessSafeKey::new(aead::UnboundKey::from(key));
    let mut sealed = text.as_bytes().to_vec();
    // The key is used once: its salt is random.
    key.seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(salts.iv), aead::Aad::empty(), &mut sealed)
        .expect("the text is not longer than AES-GCM allows");
    let whole = [&salts.salt[..], &salts.iv[..], &salts.key_salt[..], &sealed].concat();
    format!("{MARK}{}", base64::engine::general_purpose::STANDARD.encode(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Device<'_> = Device {
        url: "https://sync.example.com",
        user: "ann",
        password: "p",
        database: "notes-ann",
        vault_passphrase: Some("v"),
    };

    #[test]
    fn the_settings_are_those_of_livesyncs_generator() {
        let text = settings(&ANN).to_string();
        for part in [
            r#""couchDB_URI":"https://sync.example.com","couchDB_USER":"ann","couchDB_PASSWORD":"p","couchDB_DBNAME":"notes-ann""#,
            r#""encrypt":true,"passphrase":"v","usePathObfuscation":true"#,
            r#""isConfigured":true"#,
            r#""customChunkSize":60"#,
        ] {
            assert!(text.contains(part), "{text}");
        }
        let plain = settings(&Device { vault_passphrase: None, ..ANN }).to_string();
        assert!(!plain.contains("encrypt") && !plain.contains("passphrase"), "{plain}");
    }

    #[test]
    fn a_link_has_the_form_that_livesync_reads() {
        let link = setup_link(&ANN, "k3fm");
        assert!(is_link(&link) && link.starts_with("obsidian://setuplivesync?settings=%25%24"), "{link}");
        assert_ne!(setup_link(&ANN, "k3fm"), link, "the salts are random");
        assert!(link.len() < 900, "it must fit into a QR code that a terminal can show: {}", link.len());
        for other in ["https://example.com", "obsidian://setuplivesync?settings=a\u{1b}[2J", "obsidian://setuplivesync"]
        {
            assert!(!is_link(other), "{other}");
        }
    }

    #[test]
    fn the_cipher_is_the_one_of_octagonal_wheels() {
        // Made with WebCrypto by the recipe above: passphrase `secret`, all salts zero.
        let salts = Salts { salt: [0; 32], iv: [0; 12], key_salt: [0; 32] };
        let sealed = seal("{\"a\":1}", "secret", &salts);
        let zeros = base64::engine::general_purpose::STANDARD.encode([0; 75]);
        assert_eq!(sealed.strip_prefix(MARK).and_then(|rest| rest.strip_prefix(&zeros)), Some(EXPECTED), "{sealed}");
    }

    const EXPECTED: &str = "AOuSKwCIywTcVD6RXR49+gkkSziq1vdO";
}
