//! Rendering of documents as JSON, in CouchDB's member order (`couch_doc:to_json_obj`).
//!
//! The stored JSON text is spliced into the output and not serialized again. This module does not load inline
//! attachments: it emits a [`Piece::Base64`], and the sender of the response reads and encodes the content
//! while the socket drains.

use super::find::Found;
use crate::db::record::{Attachment, BodyRecord};
use crate::json::{push_quoted, quote};
use crate::rev::{Revision, RevisionHash, Tree};

/// Which optional members a rendered document has.
#[derive(Debug, Clone, Default)]
pub struct Show {
    /// `revs`: adds `_revisions`.
    pub revs: bool,
    /// `revs_info`: adds `_revs_info`.
    pub revs_info: bool,
    /// `conflicts`: adds `_conflicts` if there are any.
    pub conflicts: bool,
    /// `deleted_conflicts`: adds `_deleted_conflicts` if there are any.
    pub deleted_conflicts: bool,
    /// `local_seq`: adds `_local_seq`.
    pub local_seq: bool,
    /// The form of the attachments.
    pub attachments: Attachments,
    /// `att_encoding_info`: adds `encoding` and `encoded_length` to compressed attachments. In a multipart
    /// response their content is sent compressed.
    pub encoding_info: bool,
}

/// How attachments are rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Attachments {
    #[default]
    Stubs,
    /// Content as base64 inside the JSON.
    Inline,
    /// `atts_since`: the client has these revisions. Attachments newer than the newest of them are inline,
    /// the others are stubs.
    InlineSince(Vec<Revision>),
    /// `"follows": true`, for multipart responses. Selects the attachments like `InlineSince`; `None` selects
    /// all.
    Follows(Option<Vec<Revision>>),
}

/// A part of a rendered document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// The attachment's content as base64, without quotes. The sender decompresses it: inline content is never
    /// compressed, even if `encoding` says that the stored content is.
    Base64(Attachment),
}

impl Piece {
    /// Bytes of its text; content is not loaded yet.
    pub fn bytes(&self) -> usize {
        match self {
            Piece::Text(text) => text.len(),
            Piece::Base64(_) => 0,
        }
    }
}

/// Renders a document with attachment stubs and no optional members.
pub fn plain(id: &str, revision: &Revision, deleted: bool, body: &BodyRecord) -> String {
    proposed(id, Some(revision), None, deleted, body)
}

/// The most revisions in the `_revisions` of a document that a function of a design document reads (CouchDB's default
/// of `query_server_config/revs_limit`). Only the new document of a validation has all.
const FUNCTION_REVISIONS: usize = 20;

/// Renders a document for a function of a design document: with attachment stubs and the newest part of its history.
pub fn for_function(found: &Found, conflicts: bool) -> String {
    let mut out = head(&found.id, Some(&found.revision), found.deleted, &found.body.json);
    let (start, hashes) = function_path(&found.tree, &found.revision);
    revisions(&mut out, start, hashes.iter());
    if conflicts {
        other_leaves(&mut out, "_conflicts", &found.tree, &found.revision, false);
    }
    stubs(&mut out, &found.body);
    out.push('}');
    out
}

/// The newest part of a revision's history: its generation, and the hashes from it to its ancestors.
pub(crate) fn function_path(tree: &Tree, revision: &Revision) -> (u64, Vec<RevisionHash>) {
    let path = tree.ancestry(revision).take(FUNCTION_REVISIONS).map(|node| node.revision.hash.clone());
    (revision.generation, path.collect())
}

/// Renders a document for validation functions: with attachment stubs, and with `_revisions` if there is a
/// `path`.
pub(crate) fn proposed(
    id: &str,
    revision: Option<&Revision>,
    path: Option<&(u64, Vec<RevisionHash>)>,
    deleted: bool,
    body: &BodyRecord,
) -> String {
    let mut out = head(id, revision, deleted, &body.json);
    if let Some((start, hashes)) = path {
        revisions(&mut out, *start, hashes.iter());
    }
    stubs(&mut out, body);
    out.push('}');
    out
}

/// The stubs of all attachments.
fn stubs(out: &mut String, body: &BodyRecord) {
    if body.attachments.is_empty() {
        return;
    }
    out.push_str(",\"_attachments\":{");
    for (at, attachment) in body.attachments.iter().enumerate() {
        stub(out, at, attachment, false, "\"stub\":true");
        out.push('}');
    }
    out.push('}');
}

/// Renders a document with the members that `show` selects.
pub fn document(found: &Found, show: &Show) -> Vec<Piece> {
    let mut out = head(&found.id, Some(&found.revision), found.deleted, &found.body.json);
    if show.revs {
        let path = found.tree.ancestry(&found.revision).take(found.history).map(|node| &node.revision.hash);
        revisions(&mut out, found.revision.generation, path);
    }
    if show.revs_info {
        out.push_str(",\"_revs_info\":[");
        for (at, node) in found.tree.ancestry(&found.revision).enumerate() {
            let status = match (node.deleted, node.body) {
                (true, _) => "deleted",
                (false, Some(_)) => "available",
                (false, None) => "missing",
            };
            let comma = if at > 0 { "," } else { "" };
            let revision = quote(&node.revision.to_string());
            out.push_str(&format!("{comma}{{\"rev\":{revision},\"status\":\"{status}\"}}"));
        }
        out.push(']');
    }
    if show.local_seq {
        out.push_str(&format!(",\"_local_seq\":{}", found.local_sequence));
    }
    if show.conflicts {
        other_leaves(&mut out, "_conflicts", &found.tree, &found.revision, false);
    }
    if show.deleted_conflicts {
        other_leaves(&mut out, "_deleted_conflicts", &found.tree, &found.revision, true);
    }
    let mut pieces = Vec::new();
    if !found.body.attachments.is_empty() {
        out.push_str(",\"_attachments\":{");
        for (at, attachment) in found.body.attachments.iter().enumerate() {
            let newer = |since: &[Revision]| is_newer(attachment, found, since);
            match &show.attachments {
                Attachments::Inline => inline(&mut pieces, &mut out, at, attachment, show),
                Attachments::InlineSince(since) if newer(since) => inline(&mut pieces, &mut out, at, attachment, show),
                Attachments::Follows(since) if since.as_ref().is_none_or(|since| newer(since)) => {
                    stub(&mut out, at, attachment, show.encoding_info, "\"follows\":true")
                }
                _ => stub(&mut out, at, attachment, show.encoding_info, "\"stub\":true"),
            }
            out.push('}');
        }
        out.push('}');
    }
    out.push('}');
    pieces.push(Piece::Text(out));
    pieces
}

/// Like [`document`], but returns one string. The caller must not request inline attachments, which would be
/// lost.
pub fn text(found: &Found, show: &Show) -> String {
    let pieces = document(found, show).into_iter();
    let texts = pieces.filter_map(|piece| match piece {
        Piece::Text(text) => Some(text),
        Piece::Base64(_) => None,
    });
    texts.collect()
}

/// The attachments whose content follows the JSON in a multipart response, in the required order.
pub fn following<'a>(found: &'a Found, show: &Show) -> Vec<&'a Attachment> {
    let Attachments::Follows(since) = &show.attachments else { return Vec::new() };
    let wanted = |attachment: &&Attachment| since.as_ref().is_none_or(|since| is_newer(attachment, found, since));
    found.body.attachments.iter().filter(wanted).collect()
}

/// Whether an attachment is newer than the newest revision in `since` that is an ancestor of the rendered
/// revision.
fn is_newer(attachment: &Attachment, found: &Found, since: &[Revision]) -> bool {
    let known = found.tree.ancestry(&found.revision).find(|node| since.contains(&node.revision));
    known.is_none_or(|node| attachment.revpos > node.revision.generation)
}

/// Renders `{"_id":...,"_rev":...,<members>`, without the closing brace.
fn head(id: &str, revision: Option<&Revision>, deleted: bool, json: &str) -> String {
    let mut out = String::with_capacity(json.len() + id.len() + 128);
    out.push_str("{\"_id\":");
    push_quoted(&mut out, id);
    if let Some(revision) = revision {
        out.push_str(",\"_rev\":");
        push_quoted(&mut out, &revision.to_string());
    }
    let members = json.get(1..json.len().saturating_sub(1)).unwrap_or("");
    if !members.is_empty() {
        out.push(',');
        out.push_str(members);
    }
    if deleted {
        out.push_str(",\"_deleted\":true");
    }
    out
}

fn revisions<'a>(out: &mut String, start: u64, hashes: impl Iterator<Item = &'a RevisionHash>) {
    out.push_str(&format!(",\"_revisions\":{{\"start\":{start},\"ids\":["));
    for (at, hash) in hashes.enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&quote(&hash.to_string()));
    }
    out.push_str("]}");
}

fn other_leaves(out: &mut String, member: &str, tree: &Tree, shown: &Revision, deleted: bool) {
    let mut any = false;
    for leaf in tree.leaves() {
        if leaf.deleted == deleted && leaf.revision != *shown {
            out.push_str(if any { "," } else { "" });
            if !any {
                out.push_str(&format!(",\"{member}\":["));
            }
            any = true;
            out.push_str(&quote(&leaf.revision.to_string()));
        }
    }
    if any {
        out.push(']');
    }
}

/// Renders an attachment without its content, and without the closing brace. `form` is the member
/// `"stub":true` or `"follows":true`.
fn stub(out: &mut String, at: usize, attachment: &Attachment, encoding_info: bool, form: &str) {
    about(out, at, attachment);
    out.push_str(&format!(",\"length\":{},{form}", attachment.length));
    encoding(out, attachment, encoding_info);
}

fn about(out: &mut String, at: usize, attachment: &Attachment) {
    out.push_str(if at > 0 { "," } else { "" });
    out.push_str(&quote(&attachment.name));
    out.push_str(":{\"content_type\":");
    out.push_str(&quote(&attachment.content_type));
    out.push_str(&format!(",\"revpos\":{},\"digest\":\"{}\"", attachment.revpos, attachment.digest()));
}

fn encoding(out: &mut String, attachment: &Attachment, wanted: bool) {
    if wanted && attachment.gzip {
        out.push_str(&format!(",\"encoding\":\"gzip\",\"encoded_length\":{}", attachment.stored));
    }
}

fn inline(pieces: &mut Vec<Piece>, out: &mut String, at: usize, attachment: &Attachment, show: &Show) {
    about(out, at, attachment);
    out.push_str(",\"data\":\"");
    pieces.push(Piece::Text(std::mem::take(out)));
    pieces.push(Piece::Base64(attachment.clone()));
    out.push('"');
    encoding(out, attachment, show.encoding_info);
}
