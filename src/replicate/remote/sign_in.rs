//! How the requests of a job sign in: by a session, which all jobs of a user on a server share, or by the password.

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use tokio::time::Instant;

use super::answer::Answer;
use super::redirect::{Place, server_url};
use super::requester::{Ask, ERROR_BYTES, REFUSALS, Requester, failed, failure_of};
use crate::net::http_client::RequestBody;
use crate::replicate::failure::Failure;
use crate::replicate::session::Ready;

/// The longest time for a sign-in, which other jobs wait for.
const LONGEST_SIGN_IN: Duration = Duration::from_secs(60);

impl Requester<'_> {
    /// The header by which the user signs in, after a sign-in if there is no session yet.
    pub(super) async fn sign_in(&self) -> Result<Option<(HeaderName, HeaderValue)>, Failure> {
        let Some(basic) = &self.endpoint.auth else { return Ok(None) };
        if self.endpoint.headers.contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        if let Ready::Header(name, value) = self.session.ready(basic, Instant::now()) {
            return Ok(Some((name, value)));
        }
        let _turn = self.session.turn().await?;
        if let Ready::Header(name, value) = self.session.ready(basic, Instant::now()) {
            return Ok(Some((name, value)));
        }
        if !self.begin_session().await.inspect_err(|failure| self.session.fail(failure))? {
            self.session.give_up(Instant::now());
        }
        match self.session.ready(basic, Instant::now()) {
            Ready::Header(name, value) => Ok(Some((name, value))),
            Ready::SignIn => Err(Failure::Protocol("the session ends as soon as it begins".into())),
        }
    }

    /// Begins a session. Returns false if the server has none: a proxy before it may have.
    async fn begin_session(&self) -> Result<bool, Failure> {
        let mut refusals = 0;
        loop {
            match self.ask_for_session().await {
                Err(failure) if failure.is_refusal() && refusals < REFUSALS => {
                    refusals += 1;
                    self.host.refused();
                    self.pause(refusals.min(6)).await;
                }
                begun => return begun,
            }
        }
    }

    async fn ask_for_session(&self) -> Result<bool, Failure> {
        let Some(basic) = &self.endpoint.auth else { return Ok(false) };
        let body = serde_json::json!({"name": basic.username, "password": basic.password}).to_string();
        let ask = Ask::with(Method::POST, "", body);
        let url = server_url(&self.endpoint.url, "/_session")?;
        let place = Place { url: url.clone(), method: Method::POST, has_body: true, is_own: true };
        let request = self.request(&ask, &place, None)?;
        let answer = self.of_session(request).await?;
        match answer.status {
            StatusCode::OK => {
                let taken = self.session.take(&answer.headers, Instant::now());
                let _ = answer.whole(ERROR_BYTES).await;
                Ok(taken)
            }
            status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                let body = answer.whole(ERROR_BYTES).await.unwrap_or_default();
                Err(failure_of(&url, status, &body))
            }
            // The password itself tells.
            _ => Ok(false),
        }
    }

    /// Sends a request to `_session`. Jobs of other databases may wait for its answer, so its failure does not name this
    /// one's.
    async fn of_session(&self, request: Request<RequestBody>) -> Result<Answer, Failure> {
        let (url, patience) = (request.uri().clone(), self.parameters.connection_timeout.min(LONGEST_SIGN_IN));
        let answer = self.clients.requests.send(request, patience).await;
        Ok(Answer::new(answer.map_err(|error| failed(&url, error))?, "/_session", patience, None))
    }

    /// Whether a request was refused because its session has ended, and not because the user may not do that. A
    /// server answers 401 for both; the session of all jobs must not end with each document that is refused.
    pub(super) async fn is_over(&self, used: Option<&HeaderValue>) -> bool {
        if let Some(cookie) = used
            && self.is_accepted(cookie).await.unwrap_or(false)
        {
            return false;
        }
        self.session.is_over(used)
    }

    /// Whether the server takes the cookie for that of a user.
    async fn is_accepted(&self, cookie: &HeaderValue) -> Result<bool, Failure> {
        let url = server_url(&self.endpoint.url, "/_session")?;
        let place = Place { url, method: Method::GET, has_body: false, is_own: true };
        let request = self.request(&Ask::get(""), &place, Some(&(header::COOKIE, cookie.clone())))?;
        let answer = self.of_session(request).await?;
        let is_ok = answer.status == StatusCode::OK;
        let told: serde_json::Value = serde_json::from_slice(&answer.whole(ERROR_BYTES).await?).unwrap_or_default();
        Ok(is_ok && told["userCtx"]["name"].is_string())
    }
}
