//! Re-checks the authorization of a request while a long answer is sent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::Result;
use crate::policy::authorization::Authorization;

/// How often the authorization for a long answer is checked.
const CHECKED: Duration = Duration::from_secs(1);

type Checking = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Re-checks the authorization for an answer while it is sent.
pub struct Guard {
    authorization: Arc<Authorization>,
    checked: Instant,
    checking: Option<Checking>,
    /// The chunk to send if the check succeeds.
    held: Option<Bytes>,
}

impl Guard {
    /// Creates the check of an authorization that has just been checked.
    pub fn new(authorization: &Arc<Authorization>) -> Guard {
        Guard { authorization: authorization.clone(), checked: Instant::now(), checking: None, held: None }
    }

    /// Passes a chunk on, after a check if one is due.
    pub fn pass(&mut self, chunk: Bytes, context: &mut Context<'_>) -> Poll<Result<Bytes>> {
        if self.checking.is_none() {
            if self.checked.elapsed() < CHECKED {
                return Poll::Ready(Ok(chunk));
            }
            let authorization = self.authorization.clone();
            self.checking = Some(Box::pin(async move { Ok(authorization.check().await?) }));
        }
        self.held = Some(chunk);
        self.go_on(context).map(|passed| passed.map(Option::unwrap_or_default))
    }

    /// Polls the check that is under way, and returns the chunk that waited for it.
    pub fn go_on(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let Some(checking) = &mut self.checking else { return Poll::Ready(Ok(None)) };
        let checked = std::task::ready!(checking.as_mut().poll(context));
        (self.checking, self.checked) = (None, Instant::now());
        let held = self.held.take();
        Poll::Ready(checked.map(|()| held))
    }
}
