//! One order, from the authority's directory to the certificate (RFC 8555, section 7).
//!
//! ```text
//! directory > account > order: pending > for each name: publish the answer, start the challenge, poll
//!                              ready > send the certificate request (CSR) > processing > valid > download
//! ```

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use instant_acme::{
    Account, AuthorizationState, AuthorizationStatus, ChallengeType, Error, Identifier, Key, NewOrder, OrderStatus,
    Problem,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::answer::Answer;
use super::issued::Pem;
use super::shared::Shared;
use super::shown::{Challenged, Shown};
use super::transport::Transport;
use super::wanted::Wanted;
use crate::net::http_client::HttpClient;

/// Time limit of one step, the requests for its nonces included.
const STEP: Duration = Duration::from_secs(30);
/// Pauses between polls of the authority: the first one, doubled up to the last one.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LAST_LOOK: Duration = Duration::from_secs(15);
/// Longest text of an authority in a message, in characters.
const MAX_SAID: usize = 600;

type Outcome<T> = Result<T, String>;

/// The input of an order.
pub(crate) struct Order<'a> {
    pub wanted: &'a Wanted,
    pub client: &'a HttpClient,
    pub shown: &'a Shown,
    /// Where the answers to challenges stand for the other nodes of a shared store.
    pub shared: Option<&'a Shared>,
}

impl Order<'_> {
    /// Obtains a certificate for the account with this key (PKCS #8, DER). Has no time limit as a whole; the
    /// caller sets one.
    pub async fn run(&self, account_key: Zeroizing<Vec<u8>>) -> Outcome<Pem> {
        let account = self.account(&account_key).await?;
        let domains = &self.wanted.domains;
        let identifiers: Vec<_> = domains.iter().cloned().map(Identifier::Dns).collect();
        let mut order = step("the order", account.new_order(&NewOrder::new(&identifiers))).await?;
        let (mut authorized, mut key, mut look) = (false, None, FIRST_LOOK);
        loop {
            match order.state().status {
                OrderStatus::Pending if !authorized => {
                    let authorizations = order.state().authorizations.len();
                    if authorizations > domains.len() {
                        return Err(format!(
                            "the authority requires {authorizations} authorizations, more than there are names"
                        ));
                    }
                    for n in 0..authorizations {
                        self.authorize(&mut order, n).await?;
                    }
                    authorized = true;
                }
                OrderStatus::Ready if key.is_none() => {
                    let (ours, request) = self.request()?;
                    key = Some(ours);
                    step("the certificate request", order.finalize_csr(&request)).await?;
                    continue;
                }
                OrderStatus::Valid => {
                    let key = key.ok_or("the authority issued a certificate without a request")?;
                    let chain = step("the certificate", order.certificate()).await?;
                    let chain = chain.ok_or("the authority did not return the certificate")?;
                    let pem = [key.as_bytes(), b"\n", chain.as_bytes()].concat();
                    return Ok(Zeroizing::new(pem));
                }
                OrderStatus::Invalid => {
                    return Err(format!("the authority refused the order{}", because(order.state().error.as_ref())));
                }
                OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => {
                    tokio::time::sleep(look).await;
                    look = (look * 2).min(LAST_LOOK);
                }
            }
            step("the order", order.refresh()).await?;
        }
    }

    /// Opens the account of a key, and creates it if the authority does not know the key.
    async fn account(&self, key: &[u8]) -> Outcome<Account> {
        let directory = &self.wanted.directory;
        let transport = Transport::open(self.client, directory).await;
        let transport = transport.map_err(|wrong| format!("the directory: {}", one_line(&wrong)))?;
        let der = PrivatePkcs8KeyDer::from(key.to_vec());
        let key = Key::from_pkcs8_der(der.clone_key()).map_err(|error| format!("the account's key: {error}"))?;
        let opened = Account::builder_with_http(Box::new(transport))
            .create_from_key((key, PrivateKeyDer::Pkcs8(der)), directory.clone());
        let (account, _) = step("the account", opened).await?;
        // `create_from_key` sends no contact.
        if let Some(address) = &self.wanted.contact {
            step("the contact", account.update_contacts(&[&format!("mailto:{address}")])).await?;
        }
        Ok(account)
    }

    /// Proves to the authority that one name belongs to this server: that of the order's authorization `n`.
    async fn authorize(&self, order: &mut instant_acme::Order, n: usize) -> Outcome<()> {
        let Some((domain, _shown)) = self.start_challenge(order, n).await? else {
            return Ok(());
        };
        let proved = self.validated(order, n, &domain).await;
        if let Some(shared) = self.shared {
            shared.withdraw(&domain).await;
        }
        proved
    }

    /// Waits until the authority has validated the order's authorization `n`.
    async fn validated(&self, order: &mut instant_acme::Order, n: usize, domain: &str) -> Outcome<()> {
        let mut look = FIRST_LOOK;
        loop {
            tokio::time::sleep(look).await;
            let mut all = order.authorizations();
            for _ in 0..n {
                // Fetched before, so this sends no request.
                all.next().await;
            }
            let mut auth = step("the authorization", all.next().map(present)).await?;
            let state = step("the authorization", auth.refresh()).await?;
            match state.status {
                AuthorizationStatus::Valid => return Ok(()),
                AuthorizationStatus::Pending => look = (look * 2).min(LAST_LOOK),
                _ => return Err(refused(domain, state)),
            }
        }
    }

    /// Publishes the answer to the challenge, and tells the authority to validate it. Returns `None` if an
    /// earlier validation is still valid.
    async fn start_challenge(
        &self,
        order: &mut instant_acme::Order,
        n: usize,
    ) -> Outcome<Option<(String, Challenged<'_>)>> {
        let mut all = order.authorizations();
        for _ in 0..n {
            all.next().await;
        }
        let mut auth = step("the authorization", all.next().map(present)).await?;
        let domain = one_line(&auth.identifier().to_string());
        match auth.status {
            AuthorizationStatus::Valid => return Ok(None),
            AuthorizationStatus::Pending => {}
            _ => return Err(refused(&domain, &auth)),
        }
        if !self.wanted.domains.contains(&domain) {
            return Err(format!("the authority wants to validate {domain:?}, which is not one of the names"));
        }
        let mut challenge = auth
            .challenge(ChallengeType::TlsAlpn01)
            .ok_or_else(|| format!("{domain}: the authority does not offer the challenge tls-alpn-01"))?;
        let answer = Answer::make(&domain, challenge.key_authorization().digest().as_ref())
            .map_err(|wrong| format!("{domain}: {wrong}"))?;
        let shown = self.shown.challenge(&domain, answer.certified()?);
        if let Some(shared) = self.shared {
            shared.publish(&domain, answer).await?;
        }
        step("the challenge", challenge.set_ready()).await?;
        Ok(Some((domain, shown)))
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

/// Sends the requests of one step, within a time limit. `instant-acme` repeats a request, up to twice, whose
/// nonce the authority rejects (RFC 8555, section 6.5).
async fn step<T>(what: &str, asked: impl Future<Output = Result<T, Error>>) -> Outcome<T> {
    match tokio::time::timeout(STEP, asked).await {
        Ok(answered) => answered.map_err(|error| format!("{what}: {}", said(&error))),
        Err(_) => Err(format!("{what}: no answer within {} s", STEP.as_secs())),
    }
}

/// The authorization, which is there: the caller has counted them.
fn present<T>(next: Option<Result<T, Error>>) -> Result<T, Error> {
    next.unwrap_or(Err(Error::Str("the authorization")))
}

/// The error's text on one line of limited length.
fn said(error: &Error) -> String {
    match error {
        Error::Api(problem) => one_line(&told(problem)),
        other => one_line(&other.to_string()),
    }
}

fn one_line(text: &str) -> String {
    text.chars().take(MAX_SAID).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn refused(domain: &str, auth: &AuthorizationState) -> String {
    let problem = auth.challenges.iter().find_map(|challenge| challenge.error.as_ref());
    format!("the authority could not validate {domain} ({:?}){}", auth.status, because(problem))
}

fn because(problem: Option<&Problem>) -> String {
    let Some(problem) = problem else { return String::new() };
    let text: String = told(problem).chars().take(MAX_SAID).collect();
    format!(": {}", text.escape_debug())
}

/// What the authority says of a problem (RFC 7807), and of its parts for single names.
fn told(problem: &Problem) -> String {
    let mut parts: Vec<String> = [&problem.r#type, &problem.detail].into_iter().flatten().cloned().collect();
    parts.extend(problem.subproblems.iter().map(ToString::to_string));
    parts.join(": ")
}
