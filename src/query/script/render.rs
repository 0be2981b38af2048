//! Calls of show, update and rewrite functions.

use std::sync::Arc;

use super::design::Design;
use super::pending::Pending;
use super::response::{Rewrite, Updated};
use super::scripts::{Scripts, design_call, size};

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
        let args = format!("[{},{request}]", doc.unwrap_or("null"));
        let (design, name, user) = (design.clone(), name.to_owned(), user.to_owned());
        let size = size(design.database, [args.len()]);
        self.threads.submit(size, move |seat| design_call(seat, &design, &user, "show", args, &name))
    }

    /// Runs the update function `name`.
    pub fn update(
        &self,
        design: &Arc<Design>,
        name: &str,
        doc: Option<&str>,
        request: &str,
        user: &str,
    ) -> Pending<Updated> {
        let args = format!("[{},{request}]", doc.unwrap_or("null"));
        let (design, name, user) = (design.clone(), name.to_owned(), user.to_owned());
        let size = size(design.database, [args.len()]);
        self.threads.submit(size, move |seat| Updated::read(&design_call(seat, &design, &user, "update", args, &name)?))
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
