//! Writes documents with attachments as MIME multipart (RFC 2046; CouchDB:
//! `couch_httpd_multipart`).
//!
//! ```text
//! multipart/related            multipart/mixed (open_revs=...)      multipart/mixed (_bulk_get)
//!   JSON with "follows"          per leaf: JSON, or a related         the same, with X-Doc-Id and X-Rev-Id
//!   attachment, attachment       one inside, or {"missing": rev}      on documents with attachments
//! ```
//! Attachments are sent as they are stored: compressed ones with `Content-Encoding: gzip`.

use std::sync::Arc;

use http::{StatusCode, header};
use serde_json::Value;

use super::body_writer::{self, Reading};
use super::bulk_entries::Pages;
use super::open_revs::{Leaves, missing};
use crate::app::answer_budget::Held;
use crate::blocking::blocking;
use crate::db::read::render::{self, Attachments, Show};
use crate::db::record::Attachment;
use crate::db::{Database, Found};
use crate::error::{self, Error};
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::Result;
use crate::net::multipart::{boundary, header_safe, value_safe};
use crate::store::blob::blobs::Blobs;

/// Bytes of an attachment read from the blob store at once.
const STEP: usize = 256 << 10;

/// The same rendering with attachments as parts that follow the JSON.
fn follows(show: &Show) -> Show {
    let attachments = match &show.attachments {
        Attachments::InlineSince(since) => Attachments::Follows(Some(since.clone())),
        _ => Attachments::Follows(None),
    };
    Show { attachments, encoding_info: true, ..show.clone() }
}

/// Responds with a document and its attachments as `multipart/related`, or with plain JSON if no attachment
/// follows.
pub async fn document(
    request: &Request,
    database: Arc<Database>,
    found: Found,
    held: Option<Arc<Held>>,
    show: Show,
) -> Result<Answer> {
    let show = follows(&show);
    let attachments: Vec<Attachment> = render::following(&found, &show).into_iter().cloned().collect();
    let text = json_of(&found, &show)?;
    if attachments.is_empty() {
        return Ok(Answer::json_text(StatusCode::OK, text).holding(held));
    }
    let boundary = boundary(database.clock());
    let content_type = format!("multipart/related; boundary=\"{boundary}\"");
    let length = related_length(&boundary, &text, &attachments);
    Answer::stream_of_length(&request.line, &content_type, length, move |mut out| async move {
        out.holds(held);
        related(&mut out, &database, &boundary, &text, attachments).await
    })
    .await
}

/// The number of bytes that [`related`] writes.
fn related_length(boundary: &str, text: &str, attachments: &[Attachment]) -> u64 {
    let between = "\r\n--".len() + boundary.len();
    let first = first_part(boundary, text).len() + between;
    let others =
        attachments.iter().map(|attachment| (part_head(attachment).len() + between) as u64 + attachment.stored);
    first as u64 + others.sum::<u64>() + "--".len() as u64
}

fn first_part(boundary: &str, text: &str) -> String {
    format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{text}")
}

fn part_head(attachment: &Attachment) -> String {
    let encoding = if attachment.gzip { "\r\nContent-Encoding: gzip" } else { "" };
    format!(
        "\r\nContent-Disposition: attachment; filename=\"{}\"\r\nContent-Type: {}\r\nContent-Length: {}{encoding}\r\n\r\n",
        header_safe(&attachment.name),
        value_safe(&attachment.content_type),
        attachment.stored,
    )
}

fn json_of(found: &Found, show: &Show) -> Result<String> {
    body_writer::text(render::document(found, show))
        .ok_or_else(|| Error::Internal("a document whose attachments follow is one text".into()).into())
}

/// Writes a `multipart/related` document from its first delimiter to its last.
async fn related(
    out: &mut Sender,
    database: &Arc<Database>,
    boundary: &str,
    text: &str,
    attachments: Vec<Attachment>,
) -> Result<()> {
    out.widen();
    out.text(first_part(boundary, text)).await;
    out.write(format!("\r\n--{boundary}")).await;
    let mut attachments = attachments.into_iter().peekable();
    while let Some(attachment) = attachments.next() {
        // Small ones at once: each reading is a hand-over to another thread.
        if small(&attachment).is_some() {
            let some = body_writer::step(attachment, &mut attachments, small);
            let (blobs, between) = (database.blobs().clone(), format!("\r\n--{boundary}"));
            out.send(blocking(move || parts(&*blobs, &some, &between)).await?.into()).await;
            continue;
        }
        out.write(part_head(&attachment)).await;
        let mut content = Reading::open(database.blobs(), attachment, false, 0).await?;
        while let Some(bytes) = content.next(STEP).await? {
            out.send(bytes.into()).await;
        }
        out.write(format!("\r\n--{boundary}")).await;
    }
    out.write("--").await;
    Ok(())
}

/// The bytes of a part with its head, if it is read at once.
fn small(attachment: &Attachment) -> Option<usize> {
    let content = usize::try_from(attachment.stored).ok().filter(|bytes| *bytes <= STEP / 2)?;
    Some(content + attachment.name.len() + attachment.content_type.len() + 256)
}

/// The parts of small attachments, each with `between` after it.
fn parts(blobs: &dyn Blobs, attachments: &[Attachment], between: &str) -> error::Result<Vec<u8>> {
    let mut all = Vec::new();
    for attachment in attachments {
        all.extend(part_head(attachment).into_bytes());
        all.extend(body_writer::whole(blobs, attachment)?);
        all.extend(between.as_bytes());
    }
    Ok(all)
}

/// `open_revs` as `multipart/mixed`.
pub(crate) async fn open_revisions(request: &Request, mut leaves: Leaves, show: Show) -> Result<Answer> {
    let show = follows(&show);
    let outer = boundary(leaves.database.clock());
    let content_type = format!("multipart/mixed; boundary=\"{outer}\"");
    let answer = Answer::stream(&request.line, "multipart/mixed", move |mut out| async move {
        // Loaded before the first byte is written, so that a failure becomes a proper error response.
        let mut next = leaves.next(&mut out).await?;
        out.write(format!("--{outer}")).await;
        while let Some(group) = next {
            for answer in group {
                match answer {
                    Ok(found) => {
                        let inner = boundary(leaves.database.clock());
                        out.write("\r\n").await;
                        one(&mut out, &leaves.database, &found, &show, &inner).await?;
                    }
                    Err(revision) => {
                        let head = "\r\nContent-Type: application/json; error=\"true\"\r\n\r\n";
                        out.write(format!("{head}{}", missing(&revision))).await;
                    }
                }
                out.write(format!("\r\n--{outer}")).await;
            }
            next = leaves.next(&mut out).await?;
        }
        out.write("--").await;
        Ok(())
    })
    .await?;
    Ok(answer.with_text(header::CONTENT_TYPE, &content_type).uncompressed())
}

/// One document inside an outer multipart: its `Content-Type` and its body.
pub(crate) async fn one(
    out: &mut Sender,
    database: &Arc<Database>,
    found: &Found,
    show: &Show,
    inner: &str,
) -> Result<()> {
    let attachments: Vec<Attachment> = render::following(found, show).into_iter().cloned().collect();
    let text = json_of(found, show)?;
    if attachments.is_empty() {
        out.text(format!("Content-Type: application/json\r\n\r\n{text}")).await;
        return Ok(());
    }
    out.write(format!("Content-Type: multipart/related; boundary=\"{inner}\"\r\n\r\n")).await;
    related(out, database, inner, &text, attachments).await
}

/// `_bulk_get` as `multipart/mixed` or `multipart/related`.
pub(crate) async fn bulk_get(
    request: &Request,
    database: Arc<Database>,
    kind: &'static str,
    show: Show,
    mut pages: Pages,
) -> Result<Answer> {
    let outer = boundary(database.clock());
    let content_type = format!("{kind}; boundary=\"{outer}\"");
    let answer = Answer::stream(&request.line, kind, move |mut out| async move {
        let mut any = false;
        while let Some(page) = pages.next(&mut out).await? {
            for (mut entry, mut answers) in page {
                any = true;
                let mut show = show.clone();
                if let Some(since) = entry.since.take() {
                    show.attachments = Attachments::InlineSince(since);
                }
                let show = follows(&show);
                if let Some(wrong) = &entry.wrong {
                    refused(&mut out, &outer, wrong).await;
                }
                while !answers.is_empty() {
                    for answer in answers {
                        match answer {
                            Ok(found) => {
                                out.write(format!("\r\n--{outer}\r\n")).await;
                                if !render::following(&found, &show).is_empty() {
                                    let id = value_safe(&found.id);
                                    out.write(format!("X-Doc-Id: {id}\r\nX-Rev-Id: {}\r\n", found.revision)).await;
                                }
                                let inner = boundary(database.clock());
                                one(&mut out, &database, &found, &show, &inner).await?;
                            }
                            Err(error) => refused(&mut out, &outer, &error).await,
                        }
                    }
                    answers = pages.rest(&mut entry, &mut out).await?;
                }
            }
        }
        if any {
            out.write(format!("\r\n--{outer}--\r\n")).await;
        }
        Ok(())
    })
    .await?;
    Ok(answer.with_text(header::CONTENT_TYPE, &content_type).uncompressed())
}

/// Writes an error in the place of a document.
async fn refused(out: &mut Sender, outer: &str, error: &Value) {
    out.write(format!("\r\n--{outer}\r\nContent-Type: application/json; error=\"true\"\r\n\r\n{error}")).await;
}
