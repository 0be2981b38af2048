//! Receives a document with attachments as multipart.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::BytesMut;
use http::header;

use super::attachment_upload::{AttachmentRules, receive as receive_content};
use super::edit;
use super::revision::{named_revision, parse_revision};
use crate::blocking::blocking;
use crate::db::parse::Stub;
use crate::db::{Database, Incoming, Mode, Source, Uploaded, check_attachment_name};
use crate::error::Error;
use crate::http::request::Request;
use crate::http::request::body::RequestBody;
use crate::http::response::error::Result;
use crate::net::multipart::{Following, Parts, boundary_of, malformed, parameter};

/// Reads a document as `multipart/related`: first the JSON, then the attachments that it marks with
/// `follows`. A part is matched to an attachment by its file name, or else by the order in the JSON.
pub async fn receive(request: &mut Request, database: &Arc<Database>, id: String, mode: Mode) -> Result<Incoming> {
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
    let boundary = boundary_of(&content_type)?;
    let limits = edit::limits(request);
    let rules = AttachmentRules::of(request);
    let mut body = std::mem::replace(&mut request.body, RequestBody::empty());
    let mut parts = Parts::new(&mut body, &boundary);
    let headers = parts.next().await?.ok_or_else(|| malformed("no first part"))?;
    let is_json = headers.get(header::CONTENT_TYPE).is_none_or(|value| value.starts_with("application/json"));
    if !is_json {
        return Err(malformed("the first part is not application/json").into());
    }
    let text = collect(&mut parts, limits.bytes, &id).await?;
    let mut split = edit::split(request, database, &id, &text, mode)?;
    edit::admit(database, request, &id, &mut split, mode)?;
    let (following, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut split.attachments).into_iter().partition(|(_, stub)| matches!(stub, Stub::Follows { .. }));
    split.attachments = others;
    let mut missing = Following::new(following.iter().map(|(name, _)| name.clone()).collect());
    let mut waiting: Vec<Option<(String, Stub)>> = following.into_iter().map(Some).collect();
    let mut received = Vec::with_capacity(waiting.len());
    while let Some(expected) = missing.expected() {
        let (name, stub) = waiting[expected].as_ref().ok_or_else(|| malformed("an attachment twice"))?;
        let headers = parts.next_attachment(name, stub.fields().content_type.as_deref().unwrap_or("")).await?;
        let headers = headers.ok_or_else(|| malformed("fewer parts than attachments that follow"))?;
        let taken = missing.take(&headers).and_then(|at| waiting[at].take());
        let Some((name, Stub::Follows { fields })) = taken else { continue };
        let header_type = headers.get(header::CONTENT_TYPE).map(Cow::into_owned);
        let content_type = fields.content_type.or(header_type).unwrap_or_else(|| "application/octet-stream".into());
        let encoded = headers.get(header::CONTENT_ENCODING).is_some_and(|value| value == "gzip");
        let gzipped = encoded || fields.encoding.as_deref() == Some("gzip");
        let upload = {
            let (database, rules, name) = (database.clone(), rules.clone(), name.clone());
            blocking(move || rules.start(&database, &name, &content_type, gzipped)).await?
        };
        let uploaded = receive_content(&mut parts, upload, &rules, &name).await?;
        let mut attachment = uploaded.attachment;
        if let Some(length) = fields.length
            && length != attachment.length
            && length != attachment.stored
        {
            return Err(malformed(&format!("the length of attachment {name} differs from its stub")).into());
        }
        attachment.revpos = fields.revpos.unwrap_or(0);
        let keep_revpos = mode == Mode::Replicated && fields.revpos.is_some();
        received.push((name, Source::Written { attachment, keep_revpos, pin: uploaded.pin }));
    }
    parts.finish().await?;
    request.refresh();
    let mut edit = edit::prepare(database, id, split, rules, mode == Mode::Replicated).await?;
    edit.attachments.extend(received);
    Ok(edit)
}

/// Reads the form that old browsers send (`multipart/form-data`): `_doc` with the document's JSON, or `_rev`
/// with a revision whose members are kept; and files in `_attachments` fields. The new attachments are listed
/// before the ones that are kept.
pub async fn receive_form(request: &mut Request, database: &Arc<Database>, id: String) -> Result<Incoming> {
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
    let boundary = boundary_of(&content_type)?;
    let limits = edit::limits(request);
    let rules = AttachmentRules::of(request);
    let mut body = std::mem::replace(&mut request.body, RequestBody::empty());
    let mut parts = Parts::new(&mut body, &boundary);
    let (mut doc, mut rev, mut files) = (None, None, Vec::new());
    while let Some(headers) = parts.next().await? {
        let disposition = headers.get(header::CONTENT_DISPOSITION).unwrap_or_default();
        let name = parameter(&disposition, "name").unwrap_or_default();
        if name == "_attachments" {
            let file = parameter(&disposition, "filename").unwrap_or_default();
            check_attachment_name(&file)?;
            let content_type = headers.get(header::CONTENT_TYPE);
            let content_type = content_type.unwrap_or("application/octet-stream".into()).into_owned();
            let upload = {
                let (database, rules, file) = (database.clone(), rules.clone(), file.clone());
                blocking(move || rules.start(&database, &file, &content_type, false)).await?
            };
            let uploaded = receive_content(&mut parts, upload, &rules, &file).await?;
            let Uploaded { attachment, pin, .. } = uploaded;
            files.push((file, Source::Written { attachment, keep_revpos: false, pin }));
            continue;
        }
        let text = collect(&mut parts, limits.bytes, &id).await?;
        match name.as_str() {
            "_doc" => doc = Some(text),
            "_rev" => rev = Some(String::from_utf8_lossy(&text).trim().to_owned()),
            _ => {}
        }
    }
    parts.finish().await?;
    request.refresh();
    let new: HashSet<String> = files.iter().map(|(file, _)| file.clone()).collect();
    let is_new = |name: &str| new.contains(name);
    let (parent, deleted, json, others) = match (doc, rev) {
        (Some(doc), _) => {
            let mut split = crate::db::parse::split(&doc, &limits)?;
            edit::check(database, request, &id, &split)?;
            split.attachments.retain(|(name, _)| !is_new(name));
            split.rev = named_revision(request, split.rev.take())?;
            let edit = edit::prepare(database, id.clone(), split, rules, false).await?;
            (edit.parent, edit.deleted, edit.json, edit.attachments)
        }
        (None, Some(rev)) => {
            let rev = parse_revision(&rev)?;
            let found = super::open_revs::find(database, &id, Some(rev.clone())).await?;
            let others = found.body.attachments.iter().filter(|attachment| !is_new(&attachment.name));
            let others = others.map(|attachment| (attachment.name.clone(), Source::Stub { revpos: None })).collect();
            (Some(rev), found.deleted, found.body.json, others)
        }
        (None, None) => return Err(parse_revision("").expect_err("no revision is not a revision").into()),
    };
    files.extend(others);
    Ok(Incoming { id, parent, path: (0, Vec::new()), deleted, json, attachments: files })
}

/// Reads a whole part into memory: JSON, or a short field. The bytes count against the budget for request
/// bodies.
pub(crate) async fn collect(parts: &mut Parts<'_, RequestBody>, most: usize, id: &str) -> Result<BytesMut> {
    let mut text = BytesMut::new();
    while let Some(chunk) = parts.content().await? {
        // A rough bound: `text` includes stubs and whitespace, so only `db::parse::split` checks the exact limit.
        if text.len() + chunk.len() > most.saturating_mul(2).saturating_add(1 << 20) {
            return Err(Error::TooLarge { word: "document_too_large", reason: id.to_owned() }.into());
        }
        parts.body.hold((text.len() + chunk.len()) as u64).await?;
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}
