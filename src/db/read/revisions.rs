//! Reading documents and revisions.
//!
//! The engines have no snapshots across calls, so a compaction may remove a body after a reader has read its
//! record. A reader that does not find a body reads the record again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::db::Database;
use crate::db::prefetched::At;
use crate::db::record::{BodyRecord, DocumentRecord};
use crate::error::{Error, Result};
use crate::rev::{Body, Node, Revision, Tree};
use crate::store::{Direction, PageLimit, keyspace};

/// Limit, in bytes, of bodies with their attachments that a reader of many documents loads at once. A reader
/// may exceed it by one body.
pub const AT_ONCE: u64 = 1 << 20;

/// Which revision of a document to read.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// The winner, unless the document is deleted.
    Winner,
    /// This revision, leaf or not, deleted or not, if its body is still stored.
    Revision(&'a Revision),
    /// The leaf that descends from this revision (the first in winner order); the winner if the revision is unknown.
    Latest(&'a Revision),
}

/// A revision with its body and the tree that contains it.
#[derive(Debug, Clone)]
pub struct Found {
    pub id: String,
    pub revision: Revision,
    pub deleted: bool,
    pub body: BodyRecord,
    /// The sequence under which this body is stored.
    pub local_sequence: u64,
    pub tree: Arc<Tree>,
    /// The most ancestors to show. The tree may hold more: it is stemmed when it is written, and
    /// `_revs_limit` may have been lowered since.
    pub history: usize,
}

/// The result of a read that is limited to a number of bytes of bodies with their attachments.
#[derive(Debug, Clone)]
pub enum Within<T> {
    Fits(T),
    /// Nothing was loaded: the first body alone takes this many bytes.
    Large(u64),
}

/// Attempts to read a body before a missing one is reported as damage.
const ATTEMPTS: usize = 5;

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

/// What [`Database::find_in_memory`] returns.
pub enum InMemory {
    All(Within<Found>),
    /// The body has to be read, and if there is nothing here, the record, too.
    Not(Option<Selected>),
}

/// A revision of which the body is to be read.
pub struct Selected {
    revision: Revision,
    deleted: bool,
    /// Where its body is.
    place: Body,
    tree: Arc<Tree>,
}

impl Selected {
    fn new(node: &Node, place: Body, tree: Arc<Tree>) -> Selected {
        Selected { revision: node.revision.clone(), deleted: node.deleted, place, tree }
    }

    fn body_key(&self, number: u64) -> Vec<u8> {
        keyspace::body(number, self.place.sequence, self.place.index)
    }
}

/// Selects the revision to read from the stored record of a document. `Large`: its body takes more than `most` bytes.
///
/// # Errors
/// [`Error::Missing`] if there is none, or its body is not stored any more; [`Error::Deleted`] if the winner is wanted and
/// the document is deleted.
fn select(id: &str, record: Option<Vec<u8>>, wanted: Wanted, most: u64) -> Result<Within<Selected>> {
    let record = DocumentRecord::decode(id, &record.ok_or(Error::Missing)?)?;
    let tree = Arc::new(record.tree);
    let node = match wanted {
        Wanted::Winner => match tree.winner() {
            Some(winner) if winner.deleted => return Err(Error::Deleted),
            winner => winner,
        },
        Wanted::Revision(revision) => tree.get(revision),
        Wanted::Latest(revision) => tree.leaves_below(revision).into_iter().next().or_else(|| tree.winner()),
    };
    let node = node.ok_or(Error::Missing)?;
    let place = node.body.ok_or(Error::Missing)?;
    if place.bytes > most {
        return Ok(Within::Large(place.bytes));
    }
    let selected = Selected::new(node, place, tree.clone());
    Ok(Within::Fits(selected))
}

fn no_body(id: &str) -> Error {
    Error::Damaged(format!("the body of document {id} is not there"))
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

    /// One revision of a document.
    ///
    /// # Errors
    /// [`Error::Missing`] if the document or revision does not exist, or compaction has removed its body;
    /// [`Error::Deleted`] if the winner is wanted and the document is deleted.
    pub fn find(&self, id: &str, wanted: Wanted) -> Result<Found> {
        match self.find_within(id, wanted, u64::MAX)? {
            Within::Fits(found) => Ok(found),
            Within::Large(_) => Err(Error::Internal("no document is that large".into())),
        }
    }

    /// Like [`Database::find`], but does not load a body that takes more than `most` bytes with its
    /// attachments.
    ///
    /// # Errors
    /// See [`Database::find`].
    pub fn find_within(&self, id: &str, wanted: Wanted, most: u64) -> Result<Within<Found>> {
        self.find_from(id, None, wanted, most)
    }

    /// As [`Database::find_within`], beginning with what [`Database::find_in_memory`] has found of it.
    ///
    /// # Errors
    /// See [`Database::find`].
    pub fn find_from(&self, id: &str, mut known: Option<Selected>, wanted: Wanted, most: u64) -> Result<Within<Found>> {
        let key = keyspace::document(self.number, id);
        for _ in 0..ATTEMPTS {
            let selected = match known.take() {
                Some(selected) => Within::Fits(selected),
                None => select(id, self.store.get(&key)?, wanted, most)?,
            };
            let selected = match selected {
                Within::Fits(selected) => selected,
                Within::Large(bytes) => return Ok(Within::Large(bytes)),
            };
            if let Some(body) = self.body(id, selected.place)? {
                return Ok(Within::Fits(self.found(id, selected, body)));
            }
        }
        Err(no_body(id))
    }

    /// Like [`Database::find_within`], if the store has all that it reads in memory. Otherwise returns what it has. Never
    /// waits for the disk.
    ///
    /// # Errors
    /// See [`Database::find`].
    pub fn find_in_memory(&self, id: &str, wanted: Wanted, most: u64) -> Result<InMemory> {
        let Some(record) = self.store.recent(&keyspace::document(self.number, id)) else {
            return Ok(InMemory::Not(None));
        };
        let selected = match select(id, Some(record), wanted, most)? {
            Within::Fits(selected) => selected,
            Within::Large(bytes) => return Ok(InMemory::All(Within::Large(bytes))),
        };
        let Some(body) = self.store.recent(&selected.body_key(self.number)) else {
            return Ok(InMemory::Not(Some(selected)));
        };
        self.shared.counts.read(1);
        Ok(InMemory::All(Within::Fits(self.found(id, selected, BodyRecord::decode(id, body)?))))
    }

    /// Like [`Database::find_within`], but waits for a shared store without a thread, and uses the record that was read at
    /// the start of the request.
    ///
    /// # Errors
    /// See [`Database::find`].
    pub async fn find_within_as_task(&self, id: &str, wanted: Wanted<'_>, most: u64) -> Result<Within<Found>> {
        let key = keyspace::document(self.number, id);
        let mut known = self.prefetched.take(&At::of(&self.info()), std::iter::once(key.clone())).remove(&key);
        for _ in 0..ATTEMPTS {
            let record = match known.take() {
                Some(record) => record,
                None => self.begin_get(key.clone()).await?,
            };
            let selected = match select(id, record, wanted, most)? {
                Within::Fits(selected) => selected,
                Within::Large(bytes) => return Ok(Within::Large(bytes)),
            };
            self.shared.counts.read(1);
            let body = self.begin_get(selected.body_key(self.number)).await?;
            if let Some(body) = body {
                let body = BodyRecord::decode(id, body)?;
                return Ok(Within::Fits(self.found(id, selected, body)));
            }
        }
        Err(no_body(id))
    }

    async fn begin_get(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let value = self.store.begin_get_each(vec![key]).await?.pop();
        Ok(value.transpose()?.flatten())
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

    fn found(&self, id: &str, selected: Selected, body: BodyRecord) -> Found {
        Found {
            id: id.to_owned(),
            revision: selected.revision,
            deleted: selected.deleted,
            body,
            local_sequence: selected.place.sequence,
            tree: selected.tree,
            history: self.info().revs_limit as usize,
        }
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
