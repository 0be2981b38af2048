//! The revision tree of one document: which revisions are known, which descends from which, and which of them wins.
//!
//! ```text
//!   1-a ── 2-b ── 3-c            leaves: 3-c, 3-d, 7-x
//!              └─ 3-d            winner: 7-x (or 3-d, if 7-x is deleted)
//!   6-w ── 7-x                   a root without its parents: they were stemmed, or never sent
//! ```
//!
//! It is hard because replication delivers paths in any order, any number of times, and each cut off at another depth, and because every
//! replica must come to the same tree and the same winner without talking to another.
//!
//! CouchDB (`couch_key_tree.erl`) keeps a forest of nested tuples and merges by walking two of them in step. Here one vector holds all
//! nodes, sorted by (generation, hash), and a node names its parent by position. A path is merged from its newest revision to its oldest: what is
//! unknown is added, a missing parent is filled in, and the walk ends only where the path and the tree name different parents (then the first
//! one stays). Stopping at the first known revision, which looks right, is wrong: a root whose parents were stemmed would never learn them, and the
//! tree would depend on the order of delivery.
//!
//! Invariants, which `check` tests: sorted and without repetition; a parent is of the generation below its child; a node is marked as a leaf exactly if nobody
//! names it as a parent; generations start at 1.

use std::cmp::Reverse;

use super::id::{MAX_GENERATION, Revision, RevisionHash};

/// Where the body of a revision is kept and what it takes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The update sequence under which the body was written.
    pub sequence: u64,
    /// Its number among the bodies that were written under this sequence.
    pub index: u32,
    /// Its size in bytes.
    pub bytes: u64,
}

/// One known revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub revision: Revision,
    /// The revision is a deletion. Meaningful where the revision itself was written here; of a mere ancestor nobody told.
    pub deleted: bool,
    /// `None`: only known as an ancestor, or compacted away.
    pub body: Option<Body>,
    pub(super) parent: Option<u32>,
    pub(super) leaf: bool,
}

impl Node {
    /// No known revision descends from this one.
    pub fn is_leaf(&self) -> bool {
        self.leaf
    }

    /// The one rule of who wins: not deleted before deleted, then the higher generation, then the higher hash (`couch_doc:to_doc_info_path/1`).
    fn rank(&self) -> (bool, &Revision) {
        (!self.deleted, &self.revision)
    }
}

/// What a merge did to the tree.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// All of it was known. Nothing has to be written.
    Unchanged,
    /// The revision was known, and now has a body or older ancestors. If the tree is stemmed after each merge, the ancestors may go
    /// again at once: compare the tree with what it was before.
    Filled,
    /// A leaf grew.
    Extended,
    /// A new leaf beside others, or the first revision of all.
    Branched,
}

/// All known revisions of one document. See the head of this file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
}

/// Where a step of the incoming path is: in the tree, or the n-th of the nodes to be added.
#[derive(Copy, Clone)]
enum Place {
    Known(usize),
    Added(usize),
}

impl Tree {
    pub fn new() -> Tree {
        Tree::default()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The number of known revisions, ancestors without a body included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All known revisions, ascending by (generation, hash).
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Merges one revision with its ancestors: `hashes` are the newest first, of contiguous generations from `generation` downwards.
    /// `deleted` and `body` belong to the newest. What lies below generation 1 is ignored, and so is an empty path.
    ///
    /// Takes time in proportion to the tree and the path together.
    pub fn merge(&mut self, generation: u64, hashes: &[RevisionHash], deleted: bool, body: Option<Body>) -> Merged {
        let steps = hashes.len().min(usize::try_from(generation).unwrap_or(usize::MAX));
        if steps == 0 || generation > MAX_GENERATION {
            return Merged::Unchanged;
        }
        let mut added: Vec<Node> = Vec::new();
        // (child, parent): links to set once the positions are final
        let mut links: Vec<(Place, Place)> = Vec::new();
        let mut below: Option<Place> = None;
        let mut tip = None;
        let mut met = None;
        for (step, hash) in hashes[..steps].iter().enumerate() {
            let step_generation = generation - step as u64;
            let parent = match below {
                Some(Place::Known(child)) => self.nodes[child].parent,
                _ => None,
            };
            let here = match parent {
                Some(parent) if self.nodes[parent as usize].revision.hash != *hash => break,
                Some(parent) => Place::Known(parent as usize),
                None => match self.position(step_generation, hash) {
                    Ok(known) => Place::Known(known),
                    Err(_) => {
                        let revision = Revision { generation: step_generation, hash: hash.clone() };
                        added.push(Node { revision, deleted: false, body: None, parent: None, leaf: false });
                        Place::Added(added.len() - 1)
                    }
                },
            };
            if let Some(child) = below
                && parent.is_none()
            {
                links.push((child, here));
            }
            if let Place::Known(known) = here
                && met.is_none()
            {
                met = Some(known);
            }
            tip.get_or_insert(here);
            below = Some(here);
        }
        match tip {
            Some(Place::Known(known)) => {
                let node = &mut self.nodes[known];
                let fill = node.body.is_none() && body.is_some();
                if fill {
                    node.body = body;
                    node.deleted = deleted;
                }
                if !fill && links.is_empty() {
                    return Merged::Unchanged;
                }
                self.add(added, &links);
                Merged::Filled
            }
            _ => {
                added[0].deleted = deleted;
                added[0].body = body;
                added[0].leaf = true;
                let grew = met.is_some_and(|known| self.nodes[known].leaf);
                self.add(added, &links);
                if grew { Merged::Extended } else { Merged::Branched }
            }
        }
    }

    /// Inserts `added` (generations descending) in one pass over the tree and then sets the links.
    fn add(&mut self, added: Vec<Node>, links: &[(Place, Place)]) {
        let count = added.len();
        let total = self.nodes.len() + count;
        let mut places = Places { known: Vec::new(), added: vec![0; count] };
        let append = match (self.nodes.last(), added.last()) {
            (Some(last), Some(first)) => last.revision < first.revision,
            _ => true,
        };
        if append {
            // The usual edit: new revisions above all that is known, so no position moves.
            for (index, node) in added.into_iter().enumerate().rev() {
                places.added[index] = self.nodes.len() as u32;
                self.nodes.push(node);
            }
        } else {
            let old = std::mem::replace(&mut self.nodes, Vec::with_capacity(total));
            places.known.reserve(old.len());
            let mut rest = added.into_iter().enumerate().rev().peekable();
            for node in old {
                while let Some((index, node)) = rest.next_if(|(_, new)| new.revision < node.revision) {
                    places.added[index] = self.nodes.len() as u32;
                    self.nodes.push(node);
                }
                places.known.push(self.nodes.len() as u32);
                self.nodes.push(node);
            }
            for (index, node) in rest {
                places.added[index] = self.nodes.len() as u32;
                self.nodes.push(node);
            }
            // Only old nodes have parents so far, and those name old positions.
            for node in &mut self.nodes {
                node.parent = node.parent.map(|parent| places.known[parent as usize]);
            }
        }
        for (child, parent) in links {
            let (child, parent) = (places.find(*child), places.find(*parent));
            self.nodes[child as usize].parent = Some(parent);
            self.nodes[parent as usize].leaf = false;
        }
    }

    /// Keeps `limit` revisions (at least 1) on the way down from each leaf, the leaf included, and forgets what is below
    /// (`_revs_limit`, `couch_key_tree:stem/2`). Returns the bodies of the forgotten.
    pub fn stem(&mut self, limit: u32) -> Vec<Body> {
        let limit = limit.max(1);
        if self.nodes.len() <= limit as usize {
            return Vec::new();
        }
        // steps[i]: from node i up to its nearest leaf. Children stand behind their parents, so one pass from the end sees them first.
        let mut steps = vec![u32::MAX; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            if node.leaf {
                steps[index] = 0;
            }
            if let Some(parent) = node.parent {
                let steps_here = steps[index].saturating_add(1);
                let parent = &mut steps[parent as usize];
                *parent = (*parent).min(steps_here);
            }
        }
        self.retain(|index| steps[index] < limit)
    }

    /// Drops the nodes that `keep` refuses; the children of a dropped node become roots. Returns the bodies of the dropped.
    fn retain(&mut self, keep: impl Fn(usize) -> bool) -> Vec<Body> {
        const GONE: u32 = u32::MAX;
        let mut bodies = Vec::new();
        let mut places = Vec::with_capacity(self.nodes.len());
        let old = std::mem::take(&mut self.nodes);
        for (index, mut node) in old.into_iter().enumerate() {
            if keep(index) {
                places.push(self.nodes.len() as u32);
                node.parent = node.parent.map(|parent| places[parent as usize]).filter(|place| *place != GONE);
                self.nodes.push(node);
            } else {
                places.push(GONE);
                bodies.extend(node.body);
            }
        }
        bodies
    }

    /// The revision that a plain read answers with. `None` only for an empty tree; deleted only if every leaf is.
    pub fn winner(&self) -> Option<&Node> {
        self.nodes.iter().filter(|node| node.leaf).max_by_key(|node| node.rank())
    }

    /// All leaves, the winner first, then descending in the order of winning.
    pub fn leaves(&self) -> Vec<&Node> {
        let mut leaves: Vec<&Node> = self.nodes.iter().filter(|node| node.leaf).collect();
        leaves.sort_unstable_by_key(|node| Reverse(node.rank()));
        leaves
    }

    pub fn get(&self, revision: &Revision) -> Option<&Node> {
        self.index(revision).map(|index| &self.nodes[index])
    }

    /// The revision that `revision` was made from, if both are known.
    pub fn parent(&self, revision: &Revision) -> Option<&Node> {
        self.get(revision)?.parent.map(|parent| &self.nodes[parent as usize])
    }

    /// `revision` itself, then its parent and so on down to the oldest that is known. Nothing if it is unknown.
    pub fn ancestry(&self, revision: &Revision) -> impl Iterator<Item = &Node> {
        let first = self.index(revision);
        std::iter::successors(first, |index| self.nodes[*index].parent.map(|parent| parent as usize))
            .map(|index| &self.nodes[index])
    }

    /// The leaves that descend from `revision`, itself if it is one; in the order of winning. Nothing if it is unknown.
    /// (`latest=true`, `couch_key_tree:get_key_leafs/2`.)
    pub fn leaves_below(&self, revision: &Revision) -> Vec<&Node> {
        let Some(first) = self.index(revision) else { return Vec::new() };
        let mut below = vec![false; self.nodes.len() - first];
        below[0] = true;
        let mut leaves = Vec::new();
        for (offset, node) in self.nodes[first..].iter().enumerate() {
            if let Some(parent) = node.parent.and_then(|parent| (parent as usize).checked_sub(first)) {
                below[offset] |= below[parent];
            }
            if below[offset] && node.leaf {
                leaves.push(node);
            }
        }
        leaves.sort_unstable_by_key(|node| Reverse(node.rank()));
        leaves
    }

    /// Those of `revisions` that are unknown, ascending (`couch_key_tree:find_missing/2`).
    pub fn missing<'a>(&self, revisions: &'a [Revision]) -> Vec<&'a Revision> {
        let mut missing: Vec<&Revision> = revisions.iter().filter(|revision| self.index(revision).is_none()).collect();
        missing.sort_unstable();
        missing
    }

    /// The leaves that one of the `missing` revisions may descend from: all of a lower generation than the highest of them
    /// (`couch_db:possible_ancestors/2`), in the order of winning.
    pub fn possible_ancestors(&self, missing: &[&Revision]) -> Vec<Revision> {
        let Some(highest) = missing.iter().map(|revision| revision.generation).max() else { return Vec::new() };
        self.leaves()
            .into_iter()
            .filter(|node| node.revision.generation < highest)
            .map(|node| node.revision.clone())
            .collect()
    }

    /// Removes those of `revisions` that are leaves, with the ancestors that no other leaf needs (`_purge`, `couch_key_tree:remove_leafs/2`).
    /// Returns the revisions that were leaves, in the order in which they were given, and the bodies of all that went.
    pub fn remove_leaves(&mut self, revisions: &[Revision]) -> (Vec<Revision>, Vec<Body>) {
        let mut doomed = vec![false; self.nodes.len()];
        let mut removed = Vec::new();
        for revision in revisions {
            if let Some(index) = self.index(revision)
                && self.nodes[index].leaf
                && !std::mem::replace(&mut doomed[index], true)
            {
                removed.push(revision.clone());
            }
        }
        if removed.is_empty() {
            return (removed, Vec::new());
        }
        let mut needed: Vec<bool> = self.nodes.iter().zip(&doomed).map(|(node, doomed)| node.leaf && !doomed).collect();
        for (index, node) in self.nodes.iter().enumerate().rev() {
            if let Some(parent) = node.parent
                && needed[index]
            {
                needed[parent as usize] = true;
            }
        }
        let bodies = self.retain(|index| needed[index]);
        (removed, bodies)
    }

    /// Takes the bodies of all revisions that are not leaves (compaction) and returns them.
    pub fn drop_old_bodies(&mut self) -> Vec<Body> {
        self.nodes.iter_mut().filter(|node| !node.leaf).filter_map(|node| node.body.take()).collect()
    }

    /// Gives each body that there is another place or length, or takes it away.
    pub fn change_bodies(&mut self, change: &mut dyn FnMut(Body) -> Option<Body>) {
        for node in &mut self.nodes {
            node.body = node.body.take().and_then(&mut *change);
        }
    }

    /// Panics if an invariant is broken. For tests.
    pub fn check(&self) {
        let mut parents = vec![false; self.nodes.len()];
        for pair in self.nodes.windows(2) {
            assert!(
                pair[0].revision < pair[1].revision,
                "sorted, no repetition: {} {}",
                pair[0].revision,
                pair[1].revision
            );
        }
        for node in &self.nodes {
            assert!(node.revision.generation >= 1, "generations start at 1");
            if let Some(parent) = node.parent {
                let generation = self.nodes[parent as usize].revision.generation;
                assert_eq!(generation + 1, node.revision.generation, "a parent is of the generation below");
                parents[parent as usize] = true;
            }
        }
        for (node, parent) in self.nodes.iter().zip(parents) {
            assert_eq!(node.leaf, !parent, "a leaf is nobody's parent: {}", node.revision);
        }
    }

    fn index(&self, revision: &Revision) -> Option<usize> {
        self.position(revision.generation, &revision.hash).ok()
    }

    fn position(&self, generation: u64, hash: &RevisionHash) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| (node.revision.generation, &node.revision.hash).cmp(&(generation, hash)))
    }
}

/// Where nodes are after an insertion.
struct Places {
    /// Of the nodes that were there before; empty if none of them moved.
    known: Vec<u32>,
    added: Vec<u32>,
}

impl Places {
    fn find(&self, place: Place) -> u32 {
        match place {
            Place::Added(index) => self.added[index],
            Place::Known(index) => self.known.get(index).copied().unwrap_or(index as u32),
        }
    }
}

#[cfg(test)]
mod tests;
