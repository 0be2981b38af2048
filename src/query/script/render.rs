//! Calls of show, update and rewrite functions.

use std::sync::Arc;

use super::design::Design;
use super::pending::Pending;
use super::response::{Rewrite, Updated};
use super::scripts::{Scripts, design_call, size};
use crate::error::Result;

impl Scripts {
    /// Runs the show function `name`. Returns the response as JSON, for `Response::read`. `request` is the
    /// request object as JSON, `user` its `userCtx`.
    pub fn show(
        &self,
        design: &Arc<Design>,
        name: &str,
        doc: Option<&str>,
        request: &str,
        user: &str,
    ) -> Pending<String> {
        self.render(design, ("show", name), [doc.unwrap_or("null"), request], user, Ok)
    }

    /// Runs the update function `name`, with the arguments of [`Scripts::show`].
    pub fn update(
        &self,
        design: &Arc<Design>,
        name: &str,
        doc: Option<&str>,
        request: &str,
        user: &str,
    ) -> Pending<Updated> {
        self.render(design, ("update", name), [doc.unwrap_or("null"), request], user, |answer| Updated::read(&answer))
    }

    /// Calls a function with a document and a request, and passes its answer to `read`.
    fn render<R: Send + 'static>(
        &self,
        design: &Arc<Design>,
        (entry, name): (&'static str, &str),
        [doc, request]: [&str; 2],
        user: &str,
        read: fn(String) -> Result<R>,
    ) -> Pending<R> {
        let args = format!("[{doc},{request}]");
        let (design, name, user) = (design.clone(), name.to_owned(), user.to_owned());
        let size = size(design.database, [args.len()]);
        self.threads.submit(size, move |seat| read(design_call(seat, &design, &user, entry, args, &name)?))
    }

    /// Runs `rewrites` if it is a function. Returns `None` if it finds no rule. `request` comes from
    /// `rewrite_request_object`.
    pub fn rewrite(&self, design: &Arc<Design>, request: &str, user: &str) -> Pending<Option<Rewrite>> {
        let (design, request, user) = (design.clone(), request.to_owned(), user.to_owned());
        let size = size(design.database, [request.len()]);
        self.threads
            .submit(size, move |seat| Rewrite::read(&design_call(seat, &design, &user, "rewrite", request, "")?))
    }
}
