//! The folder `acme` in the data folder: the account key and the certificate, so that a restart needs no
//! request.
//!
//! ```text
//! acme/                        mode 0700
//! acme/account-<id>.pem        the account's private key (PKCS #8)
//! acme/certificate-<id>.pem    the certificate's private key and chain
//! acme/*.new                   a file being written: synced, then renamed
//! ```
//! `<id>` is [`Wanted::account_id`] or [`Wanted::certificate_id`].
//!
//! The files have mode 0600. Other settings use other files, so a certificate from a staging authority is
//! never served under the settings of the production authority. Encryption at rest does not cover these
//! files, just as it does not cover the files of `ssl`. The nodes of a shared store have no folder: [`super::shared`].

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::issued::{MAX_PEM, Pem};
use super::wanted::Wanted;

/// The folder and the paths for the current settings.
#[derive(Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
    account: PathBuf,
    certificate: PathBuf,
}

impl Cache {
    /// Creates the folder if it does not exist, and removes other users' access. The error names the folder.
    /// Blocks, like all functions here.
    pub fn open(folder: &Path, wanted: &Wanted) -> Result<Cache, String> {
        let cannot = |error: io::Error| format!("the folder {} cannot be used: {error}", folder.display());
        let mut maker = DirBuilder::new();
        maker.recursive(true).mode(0o700).create(folder).map_err(cannot)?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(cannot)?;
        if let Some(parent) = folder.parent() {
            sync(parent).map_err(cannot)?;
        }
        let cache = Cache {
            folder: folder.to_owned(),
            account: folder.join(format!("account-{}.pem", wanted.account_id())),
            certificate: folder.join(format!("certificate-{}.pem", wanted.certificate_id())),
        };
        // Detects a folder that cannot be written before the first order, not after it.
        let trial = folder.join("trial");
        cache.write(&trial, b"").and_then(|()| std::fs::remove_file(&trial)).map_err(cannot)?;
        Ok(cache)
    }

    /// The account's key (PKCS #8, DER). Creates one if there is none; it is on disk when this returns.
    pub fn account_key(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        if let Some(pem) = read(&self.account)? {
            return match PrivateKeyDer::from_pem_slice(&pem) {
                Ok(PrivateKeyDer::Pkcs8(key)) => Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec())),
                _ => Err(format!(
                    "{} holds no private key (PEM, PKCS #8): remove it, and a new account is created",
                    self.account.display()
                )),
            };
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
        let pem = Zeroizing::new(key.serialize_pem());
        self.write(&self.account, pem.as_bytes()).map_err(|error| unwritable(&self.account, &error))?;
        Ok(Zeroizing::new(key.serialize_der()))
    }

    /// The stored certificate.
    pub fn certificate(&self) -> Result<Option<Pem>, String> {
        read(&self.certificate)
    }

    /// Stores a certificate and replaces the previous one.
    pub fn keep(&self, pem: &[u8]) -> Result<(), String> {
        self.write(&self.certificate, pem).map_err(|error| unwritable(&self.certificate, &error))
    }

    /// Writes a file atomically and durably.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let fresh = path.with_extension("new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        sync(&self.folder)
    }
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}

fn sync(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

fn read(path: &Path) -> Result<Option<Pem>, String> {
    let cannot = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(cannot)?,
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_PEM as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(Some(bytes))
}
