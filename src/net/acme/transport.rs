//! The requests of `instant-acme`, sent by the server's HTTP client, within limits of time and size.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use instant_acme::{BodyWrapper, BytesResponse, Error};
use serde::Deserialize;

use super::issued::MAX_PEM;
use crate::net::http_client::{HttpClient, Limits};

/// The limits of each answer. The largest one is a certificate chain, which must fit beside its key.
const LIMITS: Limits = Limits { time: Duration::from_secs(30), bytes: MAX_PEM / 2 };

/// The way to one authority.
#[derive(Clone)]
pub(crate) struct Transport {
    client: HttpClient,
    /// The authority's directory, which is fetched once for an order.
    url: Uri,
    directory: Bytes,
}

/// The members of a directory that an order uses (RFC 8555, section 7.1.1).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
    new_order: String,
}

impl Transport {
    /// Fetches the authority's directory, and checks it: `instant-acme` reads no status, and panics if the
    /// URL for nonces does not parse.
    pub async fn open(client: &HttpClient, url: &str) -> Result<Transport, String> {
        let directory = client.get(url, LIMITS).await.map_err(|error| error.to_string())?;
        let parsed: Directory = serde_json::from_slice(&directory).map_err(|error| error.to_string())?;
        for url in [parsed.new_nonce, parsed.new_account, parsed.new_order] {
            encrypted(&url.parse().map_err(|_| format!("the authority returned {url:?}, which is not a URL"))?)?;
        }
        let url = url.parse().map_err(|_| "the URL does not parse".to_owned())?;
        Ok(Transport { client: client.clone(), url, directory })
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Error> {
        if *request.uri() == self.url {
            return Ok(Response::new(Full::new(self.directory)));
        }
        encrypted(request.uri()).map_err(other)?;
        let request = request.map(|body| body.map_err(|never| match never {}).boxed_unsync());
        let answer = self.client.fetch(request, LIMITS).await.map_err(|error| Error::Other(Box::new(error)))?;
        // Redirects are not followed, but `instant-acme` would read their bodies as results.
        if answer.status().is_redirection() {
            return Err(other(format!("the authority answered {}", answer.status())));
        }
        Ok(answer.map(Full::new))
    }
}

impl instant_acme::HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let sent = self.clone().send(request);
        Box::pin(async move { sent.await.map(BytesResponse::from) })
    }
}

/// ACME requires https for all URLs (RFC 8555, section 6.1).
fn encrypted(url: &Uri) -> Result<(), String> {
    match url.scheme_str() {
        Some("https") => Ok(()),
        _ => Err(format!("the authority returned the URL {:?}, which is not https", url.to_string())),
    }
}

fn other(wrong: String) -> Error {
    Error::Other(wrong.into())
}
