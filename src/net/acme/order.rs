//! One order, from the authority's directory to the certificate (RFC 8555, section 7).
//!
//! ```text
//! directory > account > order: pending > for each name: publish the answer, start the challenge, poll
//!                              ready > send the certificate request (CSR) > processing > valid > download
//! ```

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_acme::acme::{self, Account, AcmeError, AuthStatus, Directory, Identifier, OrderStatus, Problem};
use tokio_rustls::rustls::ClientConfig;
use zeroize::Zeroizing;

use super::Shown;
use super::issued::{MAX_PEM, Pem};
use super::wanted::Wanted;

/// Time limit of one request, including the one that fetches its nonce.
const STEP: Duration = Duration::from_secs(30);
/// Pauses between polls of the authority: the first one, doubled up to the last one.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LAST_LOOK: Duration = Duration::from_secs(15);
/// How often a request is sent, at most, while the authority rejects its nonce.
const NONCES: u32 = 3;
/// Longest text of an authority in a message, in characters.
const MAX_SAID: usize = 600;

type Outcome<T> = Result<T, String>;

/// The input of an order.
pub(crate) struct Order<'a> {
    pub wanted: &'a Wanted,
    pub trusts: &'a Arc<ClientConfig>,
    pub shown: &'a Shown,
}

impl Order<'_> {
    /// Obtains a certificate for the account with this key. Has no time limit as a whole; the caller sets
    /// one.
    pub async fn run(&self, account_key: &[u8]) -> Outcome<Pem> {
        let trusts = self.trusts;
        let url = self.wanted.directory.as_str();
        let directory = step("the directory", || Directory::discover(trusts, url)).await?;
        for url in [&directory.new_nonce, &directory.new_account, &directory.new_order] {
            encrypted(url)?;
        }
        let contact: Vec<String> = self.wanted.contact.iter().map(|address| format!("mailto:{address}")).collect();
        let open = || Account::create_with_keypair(trusts, directory.clone(), &contact, account_key);
        let account = step("the account", open).await?;
        let domains = &self.wanted.domains;
        let (url, mut order) = step("the order", || account.new_order(trusts, domains.clone())).await?;
        encrypted(&url)?;
        let (mut authorized, mut key, mut look) = (false, None, FIRST_LOOK);
        loop {
            match &order.status {
                OrderStatus::Pending if !authorized => {
                    if order.authorizations.len() > domains.len() {
                        return Err(format!(
                            "the authority requires {} authorizations, more than there are names",
                            order.authorizations.len()
                        ));
                    }
                    for url in &order.authorizations {
                        self.authorize(&account, url).await?;
                    }
                    authorized = true;
                }
                OrderStatus::Ready if key.is_none() => {
                    encrypted(&order.finalize)?;
                    let (ours, request) = self.request()?;
                    key = Some(ours);
                    let sent = || account.finalize(trusts, &order.finalize, &request);
                    order = step("the certificate request", sent).await?;
                    continue;
                }
                OrderStatus::Valid { certificate } => {
                    encrypted(certificate)?;
                    let key = key.ok_or("the authority issued a certificate without a request")?;
                    let chain = step("the certificate", || account.certificate(trusts, certificate)).await?;
                    if chain.len() > MAX_PEM / 2 {
                        return Err("the certificate is too large".into());
                    }
                    let pem = [key.as_bytes(), b"\n", chain.as_bytes()].concat();
                    return Ok(Zeroizing::new(pem));
                }
                OrderStatus::Invalid => {
                    return Err(format!("the authority refused the order{}", because(order.error.as_ref())));
                }
                OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => {
                    tokio::time::sleep(look).await;
                    look = (look * 2).min(LAST_LOOK);
                }
            }
            order = step("the order", || account.order(trusts, &url)).await?;
        }
    }

    /// Proves to the authority that one name belongs to this server.
    async fn authorize(&self, account: &Account, url: &str) -> Outcome<()> {
        encrypted(url)?;
        let ask = || account.auth(self.trusts, url);
        let auth = step("the authorization", ask).await?;
        let Identifier::Dns(domain) = &auth.identifier;
        match auth.status {
            // An earlier validation is still valid.
            AuthStatus::Valid => return Ok(()),
            AuthStatus::Pending => {}
            _ => return Err(refused(domain, &auth)),
        }
        if !self.wanted.domains.contains(domain) {
            return Err(format!("the authority wants to validate {domain:?}, which is not one of the names"));
        }
        let (challenge, answer) = account
            .tls_alpn_01(&auth.challenges, domain.clone())
            .map_err(|error| format!("{domain}: {}", said(&error)))?;
        encrypted(&challenge.url)?;
        let _shown = self.shown.challenge(domain, answer);
        step("the challenge", || account.challenge(self.trusts, &challenge.url)).await?;
        let mut look = FIRST_LOOK;
        loop {
            tokio::time::sleep(look).await;
            let auth = step("the authorization", ask).await?;
            match auth.status {
                AuthStatus::Valid => return Ok(()),
                AuthStatus::Pending => look = (look * 2).min(LAST_LOOK),
                _ => return Err(refused(domain, &auth)),
            }
        }
    }

    /// A new key (PEM), and the certificate request for it (PKCS #10, DER).
    fn request(&self) -> Outcome<(Zeroizing<String>, Vec<u8>)> {
        let make = || -> Result<_, rcgen::Error> {
            let mut params = CertificateParams::new(self.wanted.domains.clone())?;
            params.distinguished_name = DistinguishedName::new();
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let request = params.serialize_request(&key)?;
            Ok((Zeroizing::new(key.serialize_pem()), request.der().to_vec()))
        };
        make().map_err(|error| error.to_string())
    }
}

/// Sends one request to the authority, and again if it rejects its own nonce (RFC 8555, section 6.5).
async fn step<T, F: Future<Output = Result<T, AcmeError>>>(what: &str, ask: impl Fn() -> F) -> Outcome<T> {
    let mut nonces = NONCES;
    loop {
        let Ok(answered) = tokio::time::timeout(STEP, ask()).await else {
            return Err(format!("{what}: no answer within {} s", STEP.as_secs()));
        };
        let error = match answered {
            Ok(answer) => return Ok(answer),
            Err(error) => said(&error),
        };
        nonces -= 1;
        if nonces == 0 || !error.contains("urn:ietf:params:acme:error:badNonce") {
            return Err(format!("{what}: {error}"));
        }
    }
}

/// ACME requires https for all URLs (RFC 8555, section 6.1).
fn encrypted(url: &str) -> Outcome<()> {
    if url.starts_with("https://") {
        Ok(())
    } else {
        Err(format!("the authority returned the URL {url:?}, which is not https"))
    }
}

/// The error's text on one line of limited length.
fn said(error: &AcmeError) -> String {
    let text = error.to_string().replace("\\\"", "\"");
    text.chars().take(MAX_SAID).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn refused(domain: &str, auth: &acme::Auth) -> String {
    let problem = auth.challenges.iter().find_map(|challenge| challenge.error.as_ref());
    format!("the authority could not validate {domain} ({:?}){}", auth.status, because(problem))
}

fn because(problem: Option<&Problem>) -> String {
    let Some(Problem { typ, detail }) = problem else { return String::new() };
    let text = [typ.as_deref(), detail.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ");
    let text: String = text.chars().take(MAX_SAID).collect();
    format!(": {}", text.escape_debug())
}
