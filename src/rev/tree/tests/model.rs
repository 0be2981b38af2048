//! A slow model of the tree: a map from which every result is computed from scratch.

use super::*;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub nodes: BTreeMap<Revision, Known>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub parent: Option<Revision>,
    pub deleted: bool,
    pub body: Option<Body>,
}

impl Model {
    pub fn of(tree: &Tree) -> Model {
        let nodes = tree.nodes().iter().map(|node| {
            let parent = tree.parent(&node.revision).map(|parent| parent.revision.clone());
            (node.revision.clone(), Known { parent, deleted: node.deleted, body: node.body })
        });
        let model = Model { nodes: nodes.collect() };
        let leaves: BTreeSet<Revision> =
            tree.nodes().iter().filter(|node| node.is_leaf()).map(|node| node.revision.clone()).collect();
        assert_eq!(leaves, model.leaves());
        model
    }

    pub fn merge(&mut self, path: &[Revision], deleted: bool, body: Option<Body>) {
        let tip_is_new = !self.nodes.contains_key(&path[0]);
        for (step, revision) in path.iter().enumerate() {
            let known =
                self.nodes.entry(revision.clone()).or_insert(Known { parent: None, deleted: false, body: None });
            if step == 0 && (tip_is_new || known.body.is_none() && body.is_some()) {
                known.deleted = deleted;
                known.body = body;
            }
            let above = path.get(step + 1);
            if known.parent.is_none() {
                known.parent = above.cloned();
            }
            if known.parent.as_ref() != above {
                break;
            }
        }
    }

    /// A revision and its ancestors.
    pub fn path(&self, revision: &Revision) -> Vec<Revision> {
        std::iter::successors(Some(revision.clone()), |revision| self.nodes[revision].parent.clone()).collect()
    }

    pub fn leaves(&self) -> BTreeSet<Revision> {
        let parents: BTreeSet<&Revision> = self.nodes.values().filter_map(|known| known.parent.as_ref()).collect();
        self.nodes.keys().filter(|revision| !parents.contains(revision)).cloned().collect()
    }

    pub fn rank(&self, revision: &Revision) -> (bool, u64, Vec<u8>, bool) {
        let text = matches!(revision.hash, RevisionHash::Text(_));
        (!self.nodes[revision].deleted, revision.generation, revision.hash.as_bytes().to_vec(), text)
    }

    pub fn winner(&self) -> Option<Revision> {
        self.leaves().into_iter().max_by_key(|leaf| self.rank(leaf))
    }

    /// Returns the bodies of the removed revisions, as `Tree::stem` does.
    pub fn stem(&mut self, limit: usize) -> Vec<Body> {
        let kept = self.leaves().iter().flat_map(|leaf| self.path(leaf).into_iter().take(limit)).collect();
        self.keep(&kept)
    }

    pub fn keep_only_paths_of(&mut self, leaves: &BTreeSet<Revision>) -> Vec<Body> {
        let kept = leaves.iter().flat_map(|leaf| self.path(leaf)).collect();
        self.keep(&kept)
    }

    fn keep(&mut self, kept: &BTreeSet<Revision>) -> Vec<Body> {
        let mut bodies = Vec::new();
        self.nodes.retain(|revision, known| {
            if !kept.contains(revision) {
                bodies.extend(known.body);
            }
            known.parent = known.parent.take().filter(|parent| kept.contains(parent));
            kept.contains(revision)
        });
        bodies
    }
}
