//! Reading many revisions: all leaves of a document, the entries of `_bulk_get`, and what `_revs_diff` misses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::find::{Found, Selected, Wanted, Within};
use crate::db::Database;
use crate::db::record::{BodyRecord, DocumentRecord};
use crate::error::{Error, Result};
use crate::rev::{Body, Node, Revision, Tree};
use crate::store::{Direction, PageLimit, keyspace};

/// Limit, in bytes, of bodies with their attachments that a reader of many documents loads at once. A reader
/// may exceed it by one body.
pub const AT_ONCE: u64 = 1 << 20;

/// Documents whose trees `_revs_diff` holds in memory at once.
const DIFFED_AT_ONCE: usize = 256;

/// A document's id, the revisions that are missing here, and the leaves here that may be their ancestors.
pub type MissingRevisions = (String, Vec<Revision>, Vec<Revision>);

/// Whether the bodies are in write order with few others between them, as in a changes feed: then one scan
/// replaces single gets.
fn are_neighbours(wanted: &[(&str, Body)]) -> bool {
    /// Fewer bodies than this are not worth a scan.
    const LEAST: usize = 8;
    let (Some((_, first)), Some((_, last))) = (wanted.first(), wanted.last()) else { return false };
    wanted.len() >= LEAST
        && last.sequence.saturating_sub(first.sequence) < 2 * wanted.len() as u64
        && wanted.is_sorted_by_key(|(_, body)| (body.sequence, body.index))
}

impl Database {
    /// The record of a document, deleted or not.
    pub fn record(&self, id: &str) -> Result<Option<DocumentRecord>> {
        let value = self.store.get(&keyspace::document(self.number, id))?;
        value.map(|value| DocumentRecord::decode(id, &value)).transpose()
    }

    /// The records of many documents, read in one call.
    pub fn records<I: AsRef<str>>(&self, ids: &[I]) -> Result<Vec<Option<DocumentRecord>>> {
        let wanted: Vec<Vec<u8>> = ids.iter().map(|id| keyspace::document(self.number, id.as_ref())).collect();
        let values = self.store.get_many(&wanted)?;
        ids.iter()
            .zip(values)
            .map(|(id, value)| value.map(|value| DocumentRecord::decode(id.as_ref(), &value)).transpose())
            .collect()
    }

    pub(crate) fn body(&self, id: &str, body: Body) -> Result<Option<BodyRecord>> {
        self.shared.counts.read(1);
        let value = self.store.get(&keyspace::body(self.number, body.sequence, body.index))?;
        value.map(|value| BodyRecord::decode(id, value)).transpose()
    }

    /// Reads many bodies in one call. `None` for a body that is not stored, or not any more.
    pub fn bodies(&self, wanted: &[(&str, Body)]) -> Result<Vec<Option<BodyRecord>>> {
        self.shared.counts.read(wanted.len());
        let keys: Vec<Vec<u8>> =
            wanted.iter().map(|(_, body)| keyspace::body(self.number, body.sequence, body.index)).collect();
        let values = match are_neighbours(wanted) {
            true => self.read_along(&keys)?,
            false => self.store.get_many(&keys)?,
        };
        wanted
            .iter()
            .zip(values)
            .map(|((id, _), value)| value.map(|value| BodyRecord::decode(id, value)).transpose())
            .collect()
    }

    /// Reads the values of keys in ascending order with a range scan. Where few other keys lie between,
    /// scanning is faster than single gets.
    fn read_along(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = vec![None; keys.len()];
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(values) };
        let mut range = (Bound::Included(first.clone()), Bound::Included(last.clone()));
        let limit = PageLimit { entries: 2 * keys.len(), bytes: AT_ONCE as usize };
        let mut at = 0;
        while at < keys.len() {
            let page = self.store.scan(&range, Direction::Forward, limit)?;
            let Some((last, _)) = page.last() else { break };
            range.0 = Bound::Excluded(last.clone());
            for (key, value) in page {
                at += keys[at..].iter().take_while(|wanted| **wanted < key).count();
                if keys.get(at) == Some(&key) {
                    values[at] = Some(value);
                    at += 1;
                }
            }
        }
        Ok(values)
    }

    /// Selects revisions for `open_revs`; `None` means `all` (every leaf). The result has each revision once: the
    /// stored ones in ascending order, then an `Err` for each missing one. With `latest`, a revision selects the
    /// leaves that descend from it. No bodies are loaded yet.
    ///
    /// # Errors
    /// [`Error::Missing`] if `revisions` is `None` and the document does not exist.
    pub fn open_revisions(&self, id: &str, revisions: Option<&[Revision]>, latest: bool) -> Result<Opened> {
        let tree = match (self.record(id)?, revisions) {
            (Some(record), _) => Arc::new(record.tree),
            (None, None) => return Err(Error::Missing),
            (None, Some(_)) => Arc::default(),
        };
        let chosen = choose(&tree, revisions, latest);
        let waiting = chosen.into_iter().map(|node| node.map(|node| node.revision.clone())).collect();
        Ok(Opened { id: id.to_owned(), tree, waiting })
    }

    /// Implements `_bulk_get`: for each (id, revision), the same entries as [`Database::open_revisions`];
    /// without a revision, every leaf. Reads the records in one call and the bodies in another. Returns
    /// answers for the first entries of `wanted`, as many as fit into `room` bytes. If only some revisions of
    /// an entry fit, the others are returned as its [`Opened`].
    #[allow(clippy::type_complexity, reason = "the parts are named where they are used")]
    pub fn bulk_get(
        &self,
        wanted: &[(String, Option<Revision>)],
        latest: bool,
        room: u64,
    ) -> Result<Within<Vec<(Vec<std::result::Result<Found, Option<Revision>>>, Option<Opened>)>>> {
        let ids: Vec<&str> = wanted.iter().map(|(id, _)| id.as_str()).collect();
        let trees: Vec<Option<Arc<Tree>>> =
            self.records(&ids)?.into_iter().map(|record| record.map(|record| Arc::new(record.tree))).collect();
        let chosen = match choose_within(wanted, &trees, latest, room) {
            Within::Fits(chosen) => chosen,
            Within::Large(bytes) => return Ok(Within::Large(bytes)),
        };
        let mut places = Vec::new();
        for (id, (nodes, _)) in ids.iter().zip(&chosen) {
            places.extend(nodes.iter().filter_map(|node| Some((*id, node.as_ref().ok()?.body?))));
        }
        let mut bodies = self.bodies(&places)?.into_iter();
        let mut answers = Vec::with_capacity(wanted.len());
        for (((id, _), (nodes, rest)), tree) in wanted.iter().zip(chosen).zip(&trees) {
            let mut answer = Vec::with_capacity(nodes.len());
            for node in nodes {
                answer.push(match (node, tree) {
                    (Ok(node), Some(tree)) => match node.body {
                        None => Err(Some(node.revision.clone())),
                        Some(place) => match bodies.next().flatten() {
                            Some(body) => Ok(self.found(id, Selected::new(node, place, tree.clone()), body)),
                            None => match self.find(id, Wanted::Revision(&node.revision)) {
                                Ok(found) => Ok(found),
                                Err(Error::Missing) => Err(Some(node.revision.clone())),
                                Err(error) => return Err(error),
                            },
                        },
                    },
                    (Ok(node), None) => Err(Some(node.revision.clone())),
                    (Err(revision), _) => Err(revision),
                });
            }
            answers.push((answer, rest));
        }
        Ok(Within::Fits(answers))
    }

    /// Implements `_revs_diff`: for each id, the revisions that are missing here, and the leaves here that
    /// may be their ancestors. Documents without missing revisions are omitted.
    pub fn revisions_missing(&self, wanted: &[(String, Vec<Revision>)]) -> Result<Vec<MissingRevisions>> {
        let mut answers = Vec::new();
        // Trees are much larger than the request, so only a limited number is loaded at once.
        for some in wanted.chunks(DIFFED_AT_ONCE) {
            let ids: Vec<&str> = some.iter().map(|(id, _)| id.as_str()).collect();
            for ((id, revisions), record) in some.iter().zip(self.records(&ids)?) {
                let (missing, ancestors) = match record {
                    None => (revisions.clone(), Vec::new()),
                    Some(record) => {
                        let missing = record.tree.missing(revisions);
                        let ancestors = record.tree.possible_ancestors(&missing);
                        (missing.into_iter().cloned().collect(), ancestors)
                    }
                };
                if !missing.is_empty() {
                    answers.push((id.clone(), missing, ancestors));
                }
            }
        }
        Ok(answers)
    }
}

/// Revisions of one document that are loaded in groups, because all of them together may not fit into memory.
#[derive(Debug, Default)]
pub struct Opened {
    id: String,
    tree: Arc<Tree>,
    waiting: VecDeque<std::result::Result<Revision, Revision>>,
}

impl Opened {
    /// Loads the next revisions, as many as fit into `room` bytes. Returns an empty list at the end. An entry
    /// is an `Err` with the revision if it is missing, or not stored any more. Blocks on the disk.
    pub fn next(
        &mut self,
        database: &Database,
        room: u64,
    ) -> Result<Within<Vec<std::result::Result<Found, Revision>>>> {
        let (mut bytes, mut group) = (0, Vec::new());
        while let Some(revision) = self.waiting.pop_front() {
            let node = revision.and_then(|revision| self.tree.get(&revision).ok_or(revision));
            let size = node.as_ref().ok().and_then(|node| node.body).map_or(0, |body| body.bytes);
            if bytes + size > room {
                self.waiting.push_front(node.map(|node| node.revision.clone()));
                if group.is_empty() {
                    return Ok(Within::Large(size));
                }
                break;
            }
            bytes += size;
            group.push(node);
        }
        let wanted: Vec<(&str, Body)> =
            group.iter().filter_map(|node| Some((self.id.as_str(), node.as_ref().ok()?.body?))).collect();
        let mut bodies = database.bodies(&wanted)?.into_iter();
        let mut found = Vec::with_capacity(group.len());
        for node in group {
            found.push(match node {
                Err(revision) => Err(revision),
                Ok(node) => match node.body.map(|place| (place, bodies.next().flatten())) {
                    None => Err(node.revision.clone()),
                    Some((place, Some(body))) => {
                        Ok(database.found(&self.id, Selected::new(node, place, self.tree.clone()), body))
                    }
                    Some((_, None)) => match database.find(&self.id, Wanted::Revision(&node.revision)) {
                        Ok(found) => Ok(found),
                        Err(Error::Missing) => Err(node.revision.clone()),
                        Err(error) => return Err(error),
                    },
                },
            });
        }
        Ok(Within::Fits(found))
    }
}

/// The nodes that `revisions` select (`None`: all leaves), each once: the stored ones in ascending order, then the
/// missing revisions (CouchDB: `fabric_doc_open_revs`).
fn choose<'t>(
    tree: &'t Tree,
    revisions: Option<&[Revision]>,
    latest: bool,
) -> Vec<std::result::Result<&'t Node, Revision>> {
    let mut found: BTreeMap<&Revision, &Node> = BTreeMap::new();
    let mut missing: BTreeSet<&Revision> = BTreeSet::new();
    let mut take = |node: &'t Node| found.insert(&node.revision, node);
    match revisions {
        None => tree.leaves().into_iter().for_each(|leaf| _ = take(leaf)),
        Some(revisions) => {
            for revision in revisions.iter().collect::<BTreeSet<_>>() {
                let nodes = match latest {
                    true => tree.leaves_below(revision),
                    false => tree.get(revision).filter(|node| node.body.is_some()).into_iter().collect(),
                };
                if nodes.is_empty() {
                    missing.insert(revision);
                }
                nodes.into_iter().for_each(|node| _ = take(node));
            }
        }
    }
    let missing = missing.into_iter().map(|revision| Err(revision.clone()));
    found.into_values().map(Ok).chain(missing).collect()
}

/// The revisions that one entry of `_bulk_get` returns; the missing ones are errors.
type Chosen<'t> = Vec<std::result::Result<&'t Node, Option<Revision>>>;

/// Chooses the revisions of the first entries of `wanted`, as many as have bodies of at most `room` bytes together.
/// If only some revisions of an entry fit, the others are returned as its [`Opened`].
fn choose_within<'t>(
    wanted: &[(String, Option<Revision>)],
    trees: &'t [Option<Arc<Tree>>],
    latest: bool,
    room: u64,
) -> Within<Vec<(Chosen<'t>, Option<Opened>)>> {
    let (mut bytes, mut all) = (0, Vec::with_capacity(wanted.len()));
    for ((id, revision), tree) in wanted.iter().zip(trees) {
        let mut nodes: Chosen = match (tree, revision) {
            (None, revision) => vec![Err(revision.clone())],
            (Some(tree), revision) => choose(tree, revision.as_ref().map(std::slice::from_ref), latest)
                .into_iter()
                .map(|node| node.map_err(Some))
                .collect(),
        };
        let size = |node: &std::result::Result<&Node, _>| {
            node.as_ref().ok().and_then(|node| node.body).map_or(0, |body| body.bytes)
        };
        let fit = nodes.iter().take_while(|node| {
            let fits = bytes + size(node) <= room;
            bytes += if fits { size(node) } else { 0 };
            fits
        });
        let fit = fit.count();
        match nodes.get(fit) {
            Some(large) if fit == 0 && all.is_empty() => return Within::Large(size(large)),
            // Nothing of this entry fits: it belongs to the next page.
            Some(_) if fit == 0 => break,
            _ => {}
        }
        let ends = fit < nodes.len();
        let rest = nodes.split_off(fit).into_iter().filter_map(|node| match node {
            Ok(node) => Some(Ok(node.revision.clone())),
            Err(revision) => revision.map(Err),
        });
        let rest: VecDeque<_> = rest.collect();
        let opened = |tree: &Arc<Tree>| Opened { id: id.clone(), tree: tree.clone(), waiting: rest };
        let opened = tree.as_ref().map(opened).filter(|opened| !opened.waiting.is_empty());
        all.push((nodes, opened));
        if ends {
            break;
        }
    }
    Within::Fits(all)
}
