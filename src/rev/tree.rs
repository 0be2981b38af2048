//! The revision tree of one document: the known revisions, their parents, and the winner.
//!
//! ```text
//!   1-a ── 2-b ── 3-c            leaves: 3-c, 3-d, 7-x
//!              └─ 3-d            winner: 7-x (or 3-d, if 7-x is deleted)
//!   6-w ── 7-x                   a root whose parents are unknown: stemmed, or never sent
//! ```
//!
//! Merging is hard because replication delivers paths in any order, any number of times and cut off at any
//! depth, and because all replicas must arrive at the same tree and the same winner without communicating.
//!
//! CouchDB (`couch_key_tree.erl`) keeps a forest of nested tuples and merges by walking two of them in step.
//! Here one vector holds all nodes, sorted by (generation, hash), and a node refers to its parent by
//! position. `merge` walks a path from its newest revision to its oldest: it adds unknown revisions, fills in
//! missing parents, and stops only where the path and the tree name different parents (the tree's parent
//! stays). Stopping at the first known revision looks right but is wrong: a root whose parents were stemmed
//! would never learn them, and the tree would depend on the order of delivery.
//!
//! Invariants, which `check` tests: the nodes are sorted and unique; a parent's generation is one below its
//! child's; a node is marked as a leaf exactly if no node names it as its parent; generations start at 1.

use std::cmp::Reverse;

use super::id::{MAX_GENERATION, Revision, RevisionHash};

/// Where the body of a revision is stored, and its size.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The update sequence at which the body was written.
    pub sequence: u64,
    /// Number of the body among those written at this sequence.
    pub index: u32,
    /// Its size in bytes.
    pub bytes: u64,
}

/// One known revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The revision's id.
    pub revision: Revision,
    /// The revision is a deletion. Only meaningful if the revision itself was written here; of a mere
    /// ancestor this is unknown, and `false`.
    pub deleted: bool,
    /// `None` if the revision is only known as an ancestor, or if its body was compacted away.
    pub body: Option<Body>,
    pub(super) parent: Option<u32>,
    pub(super) leaf: bool,
}

impl Node {
    /// Whether no known revision descends from this one.
    pub fn is_leaf(&self) -> bool {
        self.leaf
    }

    /// The order that determines the winner: not deleted before deleted, then the higher generation, then the
    /// higher hash (`couch_doc:to_doc_info_path/1`).
    fn rank(&self) -> (bool, &Revision) {
        (!self.deleted, &self.revision)
    }
}

/// What a merge did to the tree.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Everything was known already; nothing has to be written.
    Unchanged,
    /// The revision was known and gained a body or older ancestors. If the caller stems after each merge, it
    /// may remove those ancestors again at once; compare the tree with its state before the merge.
    Filled,
    /// A leaf gained a descendant.
    Extended,
    /// A new leaf beside others, or the first revision of the document.
    Branched,
}

/// All known revisions of one document. See the module documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
}

/// The position of a step of the incoming path: a node of the tree, or the n-th node to be added.
#[derive(Copy, Clone)]
enum Place {
    Known(usize),
    Added(usize),
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// Whether the tree has no revisions.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The number of known revisions, including ancestors without a body.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All known revisions, in ascending order of (generation, hash).
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Merges one revision with its ancestors. `hashes` are ordered from the newest, of contiguous
    /// generations from `generation` downwards. `deleted` and `body` belong to the newest. Hashes below
    /// generation 1 and an empty path are ignored.
    ///
    /// Takes time proportional to the size of the tree plus the path.
    pub fn merge(&mut self, generation: u64, hashes: &[RevisionHash], deleted: bool, body: Option<Body>) -> Merged {
        let steps = hashes.len().min(usize::try_from(generation).unwrap_or(usize::MAX));
        if steps == 0 || generation > MAX_GENERATION {
            return Merged::Unchanged;
        }
        let mut added: Vec<Node> = Vec::new();
        // (child, parent) links, set once the positions are final.
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

    /// Inserts `added` (in descending generations) in one pass over the tree and then sets the links.
    fn add(&mut self, added: Vec<Node>, links: &[(Place, Place)]) {
        let count = added.len();
        let total = self.nodes.len() + count;
        let mut places = Places { known: Vec::new(), added: vec![0; count] };
        let append = match (self.nodes.last(), added.last()) {
            (Some(last), Some(first)) => last.revision < first.revision,
            _ => true,
        };
        if append {
            // The common edit: all new revisions sort after the known ones, so no position changes.
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
            // Only old nodes have parents so far, and these are old positions.
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

    /// Keeps the newest `limit` revisions (at least 1) of the path to each leaf, the leaf included, and
    /// removes the older ones (`_revs_limit`, `couch_key_tree:stem/2`). Returns the bodies of the removed
    /// revisions.
    pub fn stem(&mut self, limit: u32) -> Vec<Body> {
        let limit = limit.max(1);
        if self.nodes.len() <= limit as usize {
            return Vec::new();
        }
        // steps[i] is the distance from node i to its nearest leaf. Children follow their parents in the
        // vector, so one pass from the end is enough.
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

    /// Removes the nodes for which `keep` is false; the children of a removed node become roots. Returns the
    /// bodies of the removed nodes.
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

    /// The revision that a plain read returns. `None` only if the tree is empty; a deletion only if every
    /// leaf is one.
    pub fn winner(&self) -> Option<&Node> {
        self.nodes.iter().filter(|node| node.leaf).max_by_key(|node| node.rank())
    }

    /// All leaves, the winner first, in descending rank.
    pub fn leaves(&self) -> Vec<&Node> {
        let mut leaves: Vec<&Node> = self.nodes.iter().filter(|node| node.leaf).collect();
        leaves.sort_unstable_by_key(|node| Reverse(node.rank()));
        leaves
    }

    /// The node of `revision`, if it is known.
    pub fn get(&self, revision: &Revision) -> Option<&Node> {
        self.index(revision).map(|index| &self.nodes[index])
    }

    /// The parent of `revision`, if both are known.
    pub fn parent(&self, revision: &Revision) -> Option<&Node> {
        self.get(revision)?.parent.map(|parent| &self.nodes[parent as usize])
    }

    /// Whether a deletion was made beside an edit: the parent of a deleted leaf has a descendant that is a leaf and not
    /// deleted. A tombstone that resolves a conflict extends the losing leaf, so that its parent has no such
    /// descendant.
    pub fn has_deletion_beside_edit(&self) -> bool {
        let mut lives = vec![false; self.nodes.len()];
        // Parents precede their children.
        for (at, node) in self.nodes.iter().enumerate().rev() {
            lives[at] |= node.leaf && !node.deleted;
            if let (true, Some(parent)) = (lives[at], node.parent) {
                lives[parent as usize] = true;
            }
        }
        let beside = |node: &Node| node.leaf && node.deleted && node.parent.is_some_and(|at| lives[at as usize]);
        self.nodes.iter().any(beside)
    }

    /// `revision`, then its parent, and so on to the oldest known ancestor. Empty if `revision` is unknown.
    pub fn ancestry(&self, revision: &Revision) -> impl Iterator<Item = &Node> {
        let first = self.index(revision);
        std::iter::successors(first, |index| self.nodes[*index].parent.map(|parent| parent as usize))
            .map(|index| &self.nodes[index])
    }

    /// The leaves that descend from `revision`, including itself if it is a leaf, in descending rank. Empty
    /// if it is unknown. (`latest=true`, `couch_key_tree:get_key_leafs/2`.)
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

    /// The `revisions` that are unknown, in ascending order (`couch_key_tree:find_missing/2`).
    pub fn missing<'a>(&self, revisions: &'a [Revision]) -> Vec<&'a Revision> {
        let mut missing: Vec<&Revision> = revisions.iter().filter(|revision| self.index(revision).is_none()).collect();
        missing.sort_unstable();
        missing
    }

    /// The leaves that may be ancestors of a `missing` revision: all whose generation is below the highest
    /// missing one (`couch_db:possible_ancestors/2`), in descending rank.
    pub fn possible_ancestors(&self, missing: &[&Revision]) -> Vec<Revision> {
        let Some(highest) = missing.iter().map(|revision| revision.generation).max() else { return Vec::new() };
        self.leaves()
            .into_iter()
            .filter(|node| node.revision.generation < highest)
            .map(|node| node.revision.clone())
            .collect()
    }

    /// Removes those of `revisions` that are leaves, and the ancestors that no other leaf needs (`_purge`,
    /// `couch_key_tree:remove_leafs/2`). Returns the removed leaves in the order given, and the bodies of all
    /// removed nodes.
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

    /// Removes the bodies of all revisions that are not leaves (compaction) and returns them.
    pub fn drop_old_bodies(&mut self) -> Vec<Body> {
        self.nodes.iter_mut().filter(|node| !node.leaf).filter_map(|node| node.body.take()).collect()
    }

    /// Replaces each body by what `change` returns; `None` removes it.
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

/// Positions of nodes after an insertion.
struct Places {
    /// New positions of the nodes that were there before; empty if none moved.
    known: Vec<u32>,
    /// Positions of the added nodes.
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
