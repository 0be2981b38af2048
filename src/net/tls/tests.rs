//! The certificates in `samples/` were created once with openssl, for `localhost` and 127.0.0.1 and valid for
//! a hundred years: an authority (`ca`) and two servers signed by it (`one`, `two`).

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::*;

/// The folder of the samples.
pub fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net/tls/samples")
}

/// A client that trusts the samples' authority.
pub fn connector() -> TlsConnector {
    TlsConnector::from(client_config(Some(&samples().join("ca.pem"))).unwrap())
}

/// A folder with a sample's `cert.pem` and `key.pem`.
fn folder_with(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), name, true, true);
    folder
}

/// Replaces the files by renaming, as ACME clients do.
fn put(folder: &Path, name: &str, cert: bool, key: bool) {
    for (wanted, from, to) in [(cert, "pem", "cert.pem"), (key, "key", "key.pem")] {
        if wanted {
            std::fs::copy(samples().join(format!("{name}.{from}")), folder.join("new")).unwrap();
            std::fs::rename(folder.join("new"), folder.join(to)).unwrap();
        }
    }
}

fn open(folder: &Path) -> Result<Identity, String> {
    Identity::open(&folder.join("cert.pem"), &folder.join("key.pem"), true)
}

/// The certificate that a client receives.
async fn shown(identity: &Identity) -> Vec<u8> {
    let (client, server) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("localhost").unwrap();
    let (client, server) = tokio::join!(connector().connect(name, client), identity.accept(server));
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut said = [0; 5];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    client.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn sample_certificate(name: &str) -> Vec<u8> {
    certificates(&samples().join(format!("{name}.pem"))).unwrap()[0].to_vec()
}

#[tokio::test]
async fn new_connections_use_changed_files() {
    let folder = folder_with("one");
    let identity = open(folder.path()).unwrap();
    assert_eq!(shown(&identity).await, sample_certificate("one"));
    assert_eq!(identity.reload_if_changed(), Ok(false));
    put(folder.path(), "two", true, true);
    assert_eq!(identity.reload_if_changed(), Ok(true));
    assert_eq!(identity.reload_if_changed(), Ok(false));
    assert_eq!(shown(&identity).await, sample_certificate("two"));
}

#[tokio::test]
async fn mismatched_files_leave_the_old_certificate_in_use() {
    let folder = folder_with("one");
    let identity = open(folder.path()).unwrap();
    put(folder.path(), "two", true, false);
    assert!(identity.reload_if_changed().unwrap_err().contains("cannot be used together"));
    assert_eq!(identity.reload_if_changed(), Ok(false), "one warning for one change");
    assert_eq!(shown(&identity).await, sample_certificate("one"));
    put(folder.path(), "two", false, true);
    assert_eq!(identity.reload_if_changed(), Ok(true));
    assert_eq!(shown(&identity).await, sample_certificate("two"));
    std::fs::remove_file(folder.path().join("key.pem")).unwrap();
    assert!(identity.reload_if_changed().is_err());
    assert_eq!(shown(&identity).await, sample_certificate("two"));
}

#[test]
fn errors_name_the_file_and_the_problem() {
    let folder = folder_with("one");
    for (file, text, says) in [
        ("cert.pem", "", "cert.pem holds no certificate"),
        ("key.pem", "not a key", "key.pem holds no private key"),
        ("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used"),
    ] {
        put(folder.path(), "one", true, true);
        std::fs::write(folder.path().join(file), text).unwrap();
        let wrong = open(folder.path()).err().unwrap();
        assert!(wrong.contains(says), "{wrong}");
    }
    std::fs::write(folder.path().join("cert.pem"), vec![b'a'; 2 << 20]).unwrap();
    assert!(open(folder.path()).err().unwrap().contains("too large"));
    assert!(Identity::open(folder.path(), folder.path(), true).err().unwrap().contains("is not a file"));
    assert!(client_config(Some(Path::new("/nowhere/ca.pem"))).unwrap_err().contains("/nowhere/ca.pem"));
}

#[tokio::test]
async fn clients_reject_unknown_authorities_and_names() {
    let folder = folder_with("one");
    let identity = open(folder.path()).unwrap();
    for (config, name) in [
        (client_config(None).unwrap(), "localhost"),
        (client_config(Some(&samples().join("ca.pem"))).unwrap(), "elsewhere.example"),
    ] {
        let (client, server) = tokio::io::duplex(64 << 10);
        let name = ServerName::try_from(name).unwrap();
        let (client, server) = tokio::join!(TlsConnector::from(config).connect(name, client), async {
            identity.accept(server).await.err()
        });
        assert!(client.is_err() && server.is_some());
    }
}
