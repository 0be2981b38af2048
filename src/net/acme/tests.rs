use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::*;
use crate::net::acme::shown::CHALLENGE;
use crate::net::crypto_provider::provider;
use crate::net::tls::tests::samples;
use crate::net::tls::{Identity, client_config};

pub(super) fn wanted(domains: &[&str]) -> Wanted {
    Wanted {
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        contact: None,
        // Nothing listens there.
        directory: "https://127.0.0.1:1/directory".into(),
    }
}

/// The sample `one`, valid for `localhost`, in the form of a stored certificate.
pub(super) fn sample() -> Vec<u8> {
    ["one.key", "one.pem"].iter().flat_map(|file| std::fs::read(samples().join(file)).unwrap()).collect()
}

pub(super) fn client() -> HttpClient {
    HttpClient::new(client_config(Some(&samples().join("ca.pem"))).unwrap())
}

fn automatic(folder: &Path, clock: &Clock) -> Automatic {
    Automatic::open(wanted(&["localhost"]), folder, client(), clock.clone()).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Connects a client; returns the certificate it receives and the connection, or the handshake's error.
pub(super) async fn shown(
    identity: &Identity,
    protocols: &[&[u8]],
) -> std::io::Result<(Vec<u8>, TlsStream<tokio::io::DuplexStream>)> {
    let mut config = (*client_config(Some(&samples().join("ca.pem"))).unwrap()).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    if protocols == [CHALLENGE] {
        config.dangerous().set_certificate_verifier(Arc::new(Anybody));
    }
    let (client, server) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("localhost").unwrap();
    let (client, served) = tokio::join!(TlsConnector::from(Arc::new(config)).connect(name, client), async {
        let mut served = identity.accept(server).await?;
        served.write_all(b"hello").await?;
        served.flush().await?;
        Ok::<_, std::io::Error>(served)
    });
    let client = client?;
    assert_eq!(served.is_ok(), protocols != [CHALLENGE], "nothing is served to who checks a name");
    Ok((client.get_ref().1.peer_certificates().unwrap()[0].to_vec(), client))
}

/// A client like the validating authority: it checks the challenge and not the certificate's signature.
#[derive(Debug)]
struct Anybody;

mod anybody {
    use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use tokio_rustls::rustls::{DigitallySignedStruct, Error, SignatureScheme};

    impl ServerCertVerifier for super::Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
}

fn self_signed(domain: &str) -> CertifiedKey {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![domain.to_owned()]).unwrap().self_signed(&key).unwrap();
    let der = key.serialize_der();
    CertifiedKey::from_der(vec![certificate.der().clone()], der.try_into().unwrap(), &provider()).unwrap()
}

#[tokio::test]
async fn handshakes_use_the_certificate_or_the_challenge_and_fail_without() {
    let folder = tempfile::tempdir().unwrap();
    let automatic = automatic(&folder.path().join("acme"), &Clock::system());
    let at = automatic.shown();
    let identity = Identity::automatic(automatic, true).unwrap();
    for protocols in [&[b"http/1.1".as_slice()][..], &[CHALLENGE], &[]] {
        let error = shown(&identity, protocols).await.unwrap_err();
        assert!(error.to_string().contains("AccessDenied"), "{error}");
    }

    let challenge = self_signed("localhost");
    let answer = challenge.cert[0].to_vec();
    let challenged = at.challenge("localhost", challenge);
    let (certificate, mut client) = shown(&identity, &[CHALLENGE]).await.unwrap();
    assert_eq!(certificate, answer);
    let mut said = Vec::new();
    assert_eq!(client.read_to_end(&mut said).await.unwrap(), 0, "closed as TLS closes");
    assert!(shown(&identity, &[b"http/1.1"]).await.is_err(), "a challenge is no certificate");

    let issued = Issued::read(&sample(), &["localhost".into()]).unwrap();
    at.use_from_now_on(issued.key());
    for (protocols, wanted) in [
        (&[b"http/1.1".as_slice()][..], Some(&b"http/1.1"[..])),
        (&[CHALLENGE, b"http/1.1"], Some(b"http/1.1")),
        (&[b"http/1.1", b"h2", CHALLENGE], Some(b"h2")),
        (&[], None),
    ] {
        let (certificate, client) = shown(&identity, protocols).await.unwrap();
        assert_eq!(certificate, issued.key().cert[0].to_vec());
        assert_eq!(client.get_ref().1.alpn_protocol(), wanted);
    }
    assert_eq!(shown(&identity, &[CHALLENGE]).await.unwrap().0, answer);
    drop(challenged);
    assert!(shown(&identity, &[CHALLENGE]).await.is_err(), "nothing is to be checked any more");
    assert!(shown(&identity, &[b"h3"]).await.is_err());
}

#[test]
fn certificates_are_validated_before_use() {
    let here = ["localhost".to_owned()];
    let issued = Issued::read(&sample(), &here).unwrap();
    let third = (issued.until() - issued.due()).as_secs_f64() / (100.0 * 365.0 * 86400.0);
    assert!((0.33..0.34).contains(&third), "{third}");
    assert!(issued.ends().ends_with(" GMT"));
    let file = |name: &str| std::fs::read(samples().join(name)).unwrap();
    let garbled = sample().iter().map(|byte| if *byte == b'M' { b'N' } else { *byte }).collect::<Vec<u8>>();
    let chain = [file("one.key"), file("one.pem").repeat(21)].concat();
    for (pem, says) in [
        (Vec::new(), "no private key"),
        (file("one.pem"), "no private key"),
        (file("one.key"), "no certificate"),
        ([file("one.key"), file("two.pem")].concat(), ""),
        (garbled, ""),
        (chain, "more than 20"),
        (vec![b'x'; MAX_PEM_AND_ONE], "too large"),
    ] {
        let wrong = Issued::read(&pem, &here).err().unwrap();
        assert!(wrong.contains(says) && !wrong.contains("BEGIN"), "{wrong}");
    }
    let wrong = Issued::read(&sample(), &["localhost".into(), "b.example".into()]).err().unwrap();
    assert_eq!(wrong, "the certificate is not valid for b.example");
}

const MAX_PEM_AND_ONE: usize = issued::MAX_PEM + 1;

#[test]
fn stored_keys_and_certificates_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let acme = folder.path().join("acme");
    std::fs::create_dir(&acme).unwrap();
    std::fs::set_permissions(&acme, std::fs::Permissions::from_mode(0o755)).unwrap();
    let cache = Cache::open(&acme, &wanted(&["a.example", "b.example"])).unwrap();
    assert_eq!((mode(&acme), names(&acme).len()), (0o700, 0));
    assert_eq!(cache.certificate(), Ok(None));
    let key = cache.account_key().unwrap();
    assert_eq!(cache.account_key().unwrap(), key);
    std::fs::write(acme.join(names(&acme)[0].replace("account", "certificate").replace("pem", "new")), "cut off")
        .unwrap();
    cache.keep(b"first").unwrap();
    cache.keep(b"second").unwrap();
    assert_eq!(cache.certificate().unwrap().unwrap().as_slice(), b"second");
    for name in names(&acme).iter().filter(|name| name.ends_with(".pem")) {
        assert_eq!(mode(&acme.join(name)), 0o600, "{name}");
    }

    // The same settings find the files again; other settings do not.
    let again = Cache::open(&acme, &wanted(&["a.example", "b.example"])).unwrap();
    assert_eq!(again.account_key().unwrap(), key);
    assert_eq!(again.certificate().unwrap().unwrap().as_slice(), b"second");
    let fewer = Cache::open(&acme, &wanted(&["a.example"])).unwrap();
    assert_eq!((fewer.account_key().unwrap(), fewer.certificate()), (key.clone(), Ok(None)));
    let trial = Wanted { directory: "https://trial.example/".into(), ..wanted(&["a.example", "b.example"]) };
    let trial = Cache::open(&acme, &trial).unwrap();
    assert!(trial.account_key().unwrap() != key && trial.certificate() == Ok(None));
}

#[test]
fn errors_name_an_unusable_folder_or_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acme");
    std::fs::write(&file, "").unwrap();
    let wrong = Cache::open(&file, &wanted(&["a.example"])).err().unwrap();
    assert!(wrong.contains("acme cannot be used"), "{wrong}");
    std::fs::remove_file(&file).unwrap();
    let cache = Cache::open(&file, &wanted(&["a.example"])).unwrap();
    cache.account_key().unwrap();
    let account = file.join(&names(&file)[0]);
    std::fs::write(&account, "not a key").unwrap();
    let wrong = cache.account_key().unwrap_err();
    assert!(wrong.contains("remove it") && std::fs::read(&account).unwrap() == b"not a key", "{wrong}");
    std::fs::remove_file(&account).unwrap();
    std::fs::create_dir(&account).unwrap();
    assert!(cache.account_key().unwrap_err().contains("cannot be read"), "no second account because of that");
}

#[tokio::test]
async fn a_stored_certificate_is_used_until_it_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let acme = folder.path().join("acme");
    let issued = Issued::read(&sample(), &["localhost".into()]).unwrap();
    let clock = Clock::fixed(issued.due() - Duration::from_secs(60));
    let first = automatic(&acme, &clock);
    assert_eq!(first.due_in(), Duration::ZERO);
    first.cache.keep(&sample()).unwrap();
    let again = automatic(&acme, &clock);
    assert_eq!(again.due_in(), Duration::from_secs(60));
    clock.advance(Duration::from_secs(61));
    assert_eq!(again.due_in(), Duration::ZERO);

    // The authority does not answer: an error that changes nothing.
    let wrong = again.order().await.err().unwrap();
    assert!(wrong.starts_with("the directory: "), "{wrong}");
    let identity = Identity::automatic(again, true).unwrap();
    assert_eq!(shown(&identity, &[b"http/1.1"]).await.unwrap().0, issued.key().cert[0].to_vec());

    // An unreadable certificate counts as missing.
    let kept = names(&acme).into_iter().find(|name| name.starts_with("certificate")).unwrap();
    std::fs::write(acme.join(kept), "-----BEGIN").unwrap();
    let third = automatic(&acme, &Clock::system());
    assert_eq!(third.due_in(), Duration::ZERO);
    assert!(shown(&Identity::automatic(third, true).unwrap(), &[]).await.is_err());
}

/// An HTTP answer with this body.
fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn an_invalid_or_oversized_directory_is_an_error() {
    let directory = |nonce: &str| {
        let https = "https://localhost:1/";
        answer(&format!(r#"{{"newNonce":"{nonce}","newAccount":"{https}","newOrder":"{https}"}}"#))
    };
    for (answered, says) in [
        (answer(&" ".repeat(1 << 20)), "exceeds the limit"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".into(), "503"),
        (answer("{}"), "missing field"),
        (directory("http://localhost:1/"), "not https"),
        (directory("no URL"), "not a URL"),
        (directory(&"no URL ".repeat(1000)), "no URL"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let port = crate::net::tests::answering(answered, Some(crate::net::tests::sample())).await;
        let wanted = Wanted { directory: format!("https://localhost:{port}/directory"), ..wanted(&["localhost"]) };
        let automatic = Automatic::open(wanted, &folder.path().join("acme"), client(), Clock::system()).unwrap();
        let wrong = automatic.order().await.err().unwrap();
        assert!(wrong.starts_with("the directory: ") && wrong.contains(says) && wrong.len() < 700, "{wrong}");
    }
}
