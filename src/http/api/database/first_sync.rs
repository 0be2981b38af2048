//! More rows than asked for, for a PouchDB that is far behind.
//!
//! PouchDB's replicator pulls in batches of 100 changes, one after the other, and each batch takes five requests
//! (`_changes`, `_bulk_get`, twice the checkpoint here, and the database's info). On a connection with 100 ms a round trip,
//! 20,000 documents take a hundred seconds of waiting. Its batch size is an option that apps rarely set. But the
//! replicator takes all rows that `_changes` returns as one batch, also more than it asked for: with 1,000 rows a first
//! sync takes a tenth of the requests. The last page has up to twice as many.
//!
//! A client asks for a limit because it cannot take more, and only this client is known to take more. Therefore the request
//! must be exactly that of PouchDB's replicator; see [`is_of_replicator`]. The documents of a page still have to fit into
//! the client's memory, and a page that is interrupted is pulled again: they may take a few megabytes.

use crate::db::Database;
use crate::http::request::{Query, Request, Verb};
use crate::query::changes_filter::Judged;

/// The rows that PouchDB asks for. They are returned however large their documents are.
const ASKED: u64 = 100;
/// A client that is at most this many changes behind gets what it asked for.
const FAR: u64 = 1000;
/// Bytes that the documents of a page may take.
const BYTES: u64 = 4 << 20;
/// Approximate size in bytes of a document without its body, and of each of its revisions in `_revisions`.
const DOCUMENT: u64 = 128;
const REVISION: u64 = 36;

/// What a page of more rows may still take.
pub struct FirstSync {
    rows: u64,
    bytes: u64,
    revs_limit: u64,
}

impl FirstSync {
    /// Raises `limit` if the request comes from a PouchDB that is far behind (`[settee] first_sync_rows`).
    pub fn of(request: &Request, database: &Database, since: u64, limit: &mut u64) -> Option<FirstSync> {
        if request.verb != Verb::Get || !is_of_replicator(&request.query) {
            return None;
        }
        let info = database.info();
        let behind = info.sequence.saturating_sub(since).min(info.documents + info.deleted);
        let rows = request.settings.number("settee", "first_sync_rows");
        if rows <= ASKED || behind <= FAR {
            return None;
        }
        *limit = raised(rows, behind);
        Some(FirstSync { rows: 0, bytes: 0, revs_limit: u64::from(info.revs_limit) })
    }

    /// Drops the rows whose documents do not fit; returns whether there were any.
    pub fn fit(&mut self, rows: &mut Vec<Judged>) -> bool {
        let fitting = rows.iter().take_while(|row| {
            self.rows += 1;
            self.bytes = self.bytes.saturating_add(self.bytes_of(row));
            self.rows <= ASKED || self.bytes <= BYTES
        });
        let fitting = fitting.count();
        let full = fitting < rows.len();
        rows.truncate(fitting);
        full
    }

    /// About what the leaves of a document take when they are read with their histories. Their bodies are not
    /// read: the row has their sizes. Attachments count as they are stored.
    fn bytes_of(&self, row: &Judged) -> u64 {
        let leaf = |leaf: &crate::db::record::LeafRow| {
            let history = leaf.revision.generation.min(self.revs_limit) * REVISION;
            leaf.body.map_or(0, |body| body.bytes).saturating_add(DOCUMENT + history)
        };
        row.row.leaves.iter().map(leaf).fold(0, u64::saturating_add)
    }
}

/// The number of rows for a client that is `behind`. The last rows come at once: a rest of at most [`FAR`] rows would come
/// in ten small pages.
fn raised(rows: u64, behind: u64) -> u64 {
    if behind <= rows + FAR { behind } else { rows }
}

/// Whether this is the query of PouchDB's replicator with its default batch size: these parameters in this order, and no
/// other. Its `changes()` asks for 25 rows at a time, a feed or filter adds parameters, and other clients
/// name them in another order.
fn is_of_replicator(query: &Query) -> bool {
    let mut parameters = query.iter();
    parameters.next() == Some(("style", "all_docs"))
        && matches!(parameters.next(), Some(("since", _)))
        && parameters.next() == Some(("limit", "100"))
        && parameters.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::record::{LeafRow, SequenceRow};
    use crate::rev::Body;

    #[test]
    fn only_the_query_of_the_replicator_counts() {
        for (query, counts) in [
            ("style=all_docs&since=0&limit=100", true),
            ("style=all_docs&since=12-abc&limit=100", true),
            ("style=all_docs&since=0&limit=25", false),
            ("style=all_docs&limit=100&since=0", false),
            ("since=0&style=all_docs&limit=100", false),
            ("style=main_only&since=0&limit=100", false),
            ("style=all_docs&since=0&limit=100&include_docs=true", false),
            ("style=all_docs&feed=longpoll&since=0&limit=100", false),
            ("style=all_docs&since=0", false),
            ("", false),
        ] {
            assert_eq!(is_of_replicator(&Query::parse(query)), counts, "{query}");
        }
    }

    #[test]
    fn the_last_rows_come_at_once() {
        for (behind, rows) in [(20_000, 1000), (2001, 1000), (2000, 2000), (1001, 1001)] {
            assert_eq!(raised(1000, behind), rows, "{behind}");
        }
        assert_eq!(raised(500, 1501), 500);
    }

    #[test]
    fn a_page_ends_where_its_documents_become_large() {
        let rows = |count: u64, bytes: u64, generation: u64| -> Vec<Judged> {
            let row = |sequence| {
                let leaf = LeafRow {
                    revision: format!("{generation}-a").parse().unwrap(),
                    deleted: false,
                    body: Some(Body { sequence, index: 0, bytes }),
                };
                Judged { sequence, row: SequenceRow { id: "a".into(), leaves: vec![leaf] }, leaves: Vec::new() }
            };
            (0..count).map(row).collect()
        };
        for (bytes, generation, left) in [
            (100, 1, 1000),
            (4096, 1, 984),
            (u64::MAX, 1, 100),
            // `_revisions` of 1,000 revisions.
            (100, 5000, 115),
        ] {
            let mut page = FirstSync { rows: 0, bytes: 0, revs_limit: 1000 };
            let mut found = rows(1000, bytes, generation);
            assert_eq!((page.fit(&mut found), found.len()), (left < 1000, left), "{bytes} {generation}");
        }
        let mut page = FirstSync { rows: 0, bytes: 0, revs_limit: 1000 };
        assert!(!page.fit(&mut rows(90, BYTES, 1)), "what was asked for");
        let mut more = rows(50, BYTES, 1);
        assert_eq!((page.fit(&mut more), more.len()), (true, 10));
    }
}
