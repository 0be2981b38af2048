//! One order, from the authority's directory to the certificate (RFC 8555, section 7).
//!
//! ```text
//! directory > account > order: pending > for each name: its challenge is shown, the authority told, and waited for
//!                              ready > our request (CSR) > processing > valid > download
//! ```

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_acme::acme::{self, Account, AcmeError, AuthStatus, Directory, Identifier, OrderStatus, Problem};
use tokio_rustls::rustls::ClientConfig;
use zeroize::Zeroizing;

use super::issued::{MAX_PEM, Pem};
use super::{Shown, Wanted};

/// One request, with the one before it that fetches a nonce.
const STEP: Duration = Duration::from_secs(30);
/// Pauses between two looks whether the authority has come further: the first one, doubled up to the last one.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LAST_LOOK: Duration = Duration::from_secs(15);
/// How often a request is made again whose nonce the authority had forgotten.
const NONCES: u32 = 3;
/// Characters of what an authority says, in messages.
const MAX_SAID: usize = 600;

type Outcome<T> = Result<T, String>;

/// What an order needs.
pub(super) struct Order<'a> {
    pub wanted: &'a Wanted,
    pub trusts: &'a Arc<ClientConfig>,
    pub shown: &'a Shown,
}

impl Order<'_> {
    /// Gets a certificate for the account with this key. Takes as long as the authority does; the caller limits that.
    pub async fn run(&self, account_key: &[u8]) -> Outcome<Pem> {
        let trusts = self.trusts;
        let url = self.wanted.directory.as_str();
        let directory = step("its directory", || Directory::discover(trusts, url)).await?;
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
                        return Err(format!("it wants {} checks for our names", order.authorizations.len()));
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
                    order = step("the request", sent).await?;
                    continue;
                }
                OrderStatus::Valid { certificate } => {
                    encrypted(certificate)?;
                    let key = key.ok_or("it has a certificate that was not asked for")?;
                    let chain = step("the certificate", || account.certificate(trusts, certificate)).await?;
                    if chain.len() > MAX_PEM / 2 {
                        return Err("its certificate is too large".into());
                    }
                    let pem = [key.as_bytes(), b"\n", chain.as_bytes()].concat();
                    return Ok(Zeroizing::new(pem));
                }
                OrderStatus::Invalid => return Err(format!("it refused the order{}", because(order.error.as_ref()))),
                OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => {
                    tokio::time::sleep(look).await;
                    look = (look * 2).min(LAST_LOOK);
                }
            }
            order = step("the order", || account.order(trusts, &url)).await?;
        }
    }

    /// Shows that one name is ours.
    async fn authorize(&self, account: &Account, url: &str) -> Outcome<()> {
        encrypted(url)?;
        let ask = || account.auth(self.trusts, url);
        let auth = step("the check of a name", ask).await?;
        let Identifier::Dns(domain) = &auth.identifier;
        match auth.status {
            // It remembers an earlier check.
            AuthStatus::Valid => return Ok(()),
            AuthStatus::Pending => {}
            _ => return Err(refused(domain, &auth)),
        }
        if !self.wanted.domains.contains(domain) {
            return Err(format!("it wants to check {domain:?}, which is not among our names"));
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
            let auth = step("the check of a name", ask).await?;
            match auth.status {
                AuthStatus::Valid => return Ok(()),
                AuthStatus::Pending => look = (look * 2).min(LAST_LOOK),
                _ => return Err(refused(domain, &auth)),
            }
        }
    }

    /// A new key (PEM), and the request to sign it (PKCS #10, DER).
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

/// One request to the authority, made again if it had forgotten its own nonce (RFC 8555, section 6.5).
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

/// An authority's answers come encrypted or not at all (RFC 8555, section 6.1).
fn encrypted(url: &str) -> Outcome<()> {
    if url.starts_with("https://") { Ok(()) } else { Err(format!("it names the address {url:?}, which is not https")) }
}

/// What went wrong, on one line of a bearable length.
fn said(error: &AcmeError) -> String {
    let text = error.to_string().replace("\\\"", "\"");
    text.chars().take(MAX_SAID).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn refused(domain: &str, auth: &acme::Auth) -> String {
    let problem = auth.challenges.iter().find_map(|challenge| challenge.error.as_ref());
    format!("it did not find that {domain} is ours ({:?}){}", auth.status, because(problem))
}

fn because(problem: Option<&Problem>) -> String {
    let Some(Problem { typ, detail }) = problem else { return String::new() };
    let text = [typ.as_deref(), detail.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ");
    let text: String = text.chars().take(MAX_SAID).collect();
    format!(": {}", text.escape_debug())
}
