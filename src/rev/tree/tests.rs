//! Tests the tree against a simple model, and repeats the cases of CouchDB's `couch_key_tree_tests.erl` as
//! rows.
//!
//! Strategy: a history is a random forest in which each revision is a root or has a random earlier revision
//! as its parent. A delivery is one revision of it with some of its ancestors, which is what replication
//! sends. Deliveries are merged in any order, repeatedly, and cut off at any length.

mod model;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use self::model::Model;
use super::*;

/// One revision of a history, its parent and whether it is a deletion.
#[derive(Clone, Debug)]
struct Grown {
    revision: Revision,
    parent: Option<usize>,
    deleted: bool,
}

#[derive(Clone, Debug)]
struct Delivery {
    generation: u64,
    hashes: Vec<RevisionHash>,
    deleted: bool,
    body: Option<Body>,
}

impl Delivery {
    fn path(&self) -> Vec<Revision> {
        let generations = (0..=self.generation).rev();
        generations.zip(&self.hashes).map(|(generation, hash)| Revision { generation, hash: hash.clone() }).collect()
    }

    fn merge_into(&self, tree: &mut Tree) -> Merged {
        tree.merge(self.generation, &self.hashes, self.deleted, self.body)
    }
}

fn body(sequence: usize) -> Body {
    Body { sequence: sequence as u64, index: sequence as u32 % 3, bytes: 10 }
}

/// Few hashes, of both kinds, so that the same hash occurs in many generations.
fn hash() -> impl Strategy<Value = RevisionHash> {
    prop_oneof![
        (0u8..12).prop_map(|byte| RevisionHash::Md5([byte * 20; 16])),
        "[a-e]{1,2}".prop_map(|text| RevisionHash::parse(&text)),
    ]
}

fn history() -> impl Strategy<Value = Vec<Grown>> {
    let step = (any::<prop::sample::Index>(), prop::bool::weighted(0.1), 1u64..4, hash(), prop::bool::weighted(0.2));
    prop::collection::vec(step, 1..40).prop_map(|steps| {
        let mut grown: Vec<Grown> = Vec::new();
        for (parent, root, generation, hash, deleted) in steps {
            // Mostly one of the newest, so that long branches grow too.
            let parent = (!root && !grown.is_empty()).then(|| grown.len() - 1 - parent.index(grown.len().min(4)));
            let generation = parent.map_or(generation, |parent| grown[parent].revision.generation + 1);
            let revision = Revision { generation, hash };
            if grown.iter().all(|other| other.revision != revision) {
                grown.push(Grown { revision, parent, deleted });
            }
        }
        grown
    })
}

/// One revision of the history with its path of at most `steps` revisions.
fn deliver(history: &[Grown], index: usize, steps: usize) -> Delivery {
    let path = std::iter::successors(Some(index), |index| history[*index].parent);
    let hashes = path.take(steps).map(|index| history[index].revision.hash.clone()).collect();
    let Grown { revision, deleted, .. } = &history[index];
    Delivery { generation: revision.generation, hashes, deleted: *deleted, body: Some(body(index)) }
}

fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
    history().prop_flat_map(|history| {
        prop::collection::vec((0..history.len(), prop_oneof![1usize..6, Just(99)]), 1..60)
            .prop_map(move |picks| picks.into_iter().map(|(index, steps)| deliver(&history, index, steps)).collect())
    })
}

/// Paths that contradict each other: no real history produces them, but a client may send them.
fn contradictions() -> impl Strategy<Value = Vec<Delivery>> {
    let delivery = (
        1u64..6,
        prop::collection::vec("[a-c]".prop_map(|text| RevisionHash::parse(&text)), 1..6),
        any::<bool>(),
        any::<bool>(),
    );
    prop::collection::vec(delivery, 1..30).prop_map(|deliveries| {
        let numbered = deliveries.into_iter().enumerate();
        numbered
            .map(|(number, (generation, hashes, deleted, known))| {
                let generation = generation.max(hashes.len() as u64);
                Delivery { generation, hashes, deleted, body: known.then(|| body(number)) }
            })
            .collect()
    })
}

fn merged(deliveries: &[Delivery]) -> Tree {
    let mut tree = Tree::new();
    for delivery in deliveries {
        delivery.merge_into(&mut tree);
        tree.check();
    }
    tree
}

fn revisions(nodes: Vec<&Node>) -> Vec<Revision> {
    nodes.into_iter().map(|node| node.revision.clone()).collect()
}

proptest! {
    #[test]
    fn order_and_repetition_do_not_matter(
        (first, second) in deliveries().prop_flat_map(|first| {
            let again = prop::collection::vec(prop::sample::select(first.clone()), 0..20);
            let second = again.prop_map({
                let first = first.clone();
                move |again| [first.clone(), again].concat()
            });
            (Just(first), second.prop_shuffle())
        }),
    ) {
        let (first, second) = (merged(&first), merged(&second));
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(first.winner(), second.winner());
    }

    #[test]
    fn merge_equals_the_model(deliveries in prop_oneof![deliveries(), contradictions()]) {
        let (mut tree, mut model) = (Tree::new(), Model::default());
        for delivery in &deliveries {
            let (before, leaves_before) = (tree.clone(), model.leaves());
            let merged = delivery.merge_into(&mut tree);
            let path = delivery.path();
            let nearest = path.iter().find(|revision| model.nodes.contains_key(revision)).cloned();
            let known = nearest.as_ref() == Some(&path[0]);
            model.merge(&path, delivery.deleted, delivery.body);
            tree.check();
            prop_assert_eq!(Model::of(&tree), model.clone());
            prop_assert_eq!(merged == Merged::Unchanged, before == tree);
            prop_assert_eq!(merged == Merged::Filled, known && before != tree);
            let grew = nearest.is_some_and(|nearest| leaves_before.contains(&nearest));
            prop_assert_eq!(merged == Merged::Extended, !known && grew);
        }
    }

    #[test]
    fn reads_equal_the_model(deliveries in prop_oneof![deliveries(), contradictions()], unknown in prop::collection::vec((1u64..9, hash()), 0..9)) {
        let tree = merged(&deliveries);
        let model = Model::of(&tree);
        prop_assert_eq!(tree.winner().map(|node| node.revision.clone()), model.winner());
        let leaves = revisions(tree.leaves());
        prop_assert_eq!(leaves.first().cloned(), model.winner());
        prop_assert_eq!(leaves.iter().cloned().collect::<BTreeSet<_>>(), model.leaves());
        prop_assert!(leaves.windows(2).all(|pair| model.rank(&pair[0]) > model.rank(&pair[1])));
        for node in tree.nodes() {
            prop_assert_eq!(tree.get(&node.revision), Some(node));
            let ancestry: Vec<Revision> = tree.ancestry(&node.revision).map(|node| node.revision.clone()).collect();
            prop_assert_eq!(tree.parent(&node.revision).map(|node| &node.revision), ancestry.get(1));
            prop_assert_eq!(&ancestry, &model.path(&node.revision));
            let below: BTreeSet<Revision> = model.leaves().into_iter().filter(|leaf| model.path(leaf).contains(&node.revision)).collect();
            let found = revisions(tree.leaves_below(&node.revision));
            prop_assert!(found.iter().eq(leaves.iter().filter(|leaf| below.contains(leaf))));
        }
        let asked: Vec<Revision> = unknown.into_iter().map(|(generation, hash)| Revision { generation, hash }).collect();
        let missing: Vec<&Revision> = tree.missing(&asked);
        prop_assert!(asked.iter().all(|revision| missing.contains(&revision) != model.nodes.contains_key(revision)));
        for revision in &missing {
            prop_assert!(tree.get(revision).is_none() && tree.ancestry(revision).next().is_none() && tree.leaves_below(revision).is_empty());
        }
        let highest = missing.iter().map(|revision| revision.generation).max().unwrap_or(0);
        let possible: Vec<Revision> = leaves.into_iter().filter(|leaf| leaf.generation < highest).collect();
        prop_assert_eq!(tree.possible_ancestors(&missing), possible);
    }

    #[test]
    fn stem_equals_the_model(deliveries in deliveries(), limit in 0u32..8) {
        let mut tree = merged(&deliveries);
        let mut model = Model::of(&tree);
        let bodies = tree.stem(limit);
        tree.check();
        let gone = model.stem(limit.max(1) as usize);
        prop_assert_eq!(&Model::of(&tree), &model);
        prop_assert_eq!(bodies, gone);
        let (winner, leaves) = (tree.winner().cloned(), model.leaves());
        prop_assert!(tree.stem(limit).is_empty());
        prop_assert_eq!(winner, tree.winner().cloned());
        prop_assert_eq!(Model::of(&tree).leaves(), leaves);
    }

    /// Sending a stemmed path again and stemming it again leaves no trace.
    #[test]
    fn resending_stemmed_revisions_changes_nothing(history in history(), limit in 1u32..6) {
        let mut tree = Tree::new();
        let all: Vec<Delivery> = (0..history.len()).map(|index| deliver(&history, index, 99)).collect();
        for delivery in &all {
            delivery.merge_into(&mut tree);
        }
        tree.stem(limit);
        for leaf in tree.clone().leaves() {
            let index = history.iter().position(|grown| grown.revision == leaf.revision).unwrap();
            let before = tree.clone();
            all[index].merge_into(&mut tree);
            tree.stem(limit);
            prop_assert_eq!(&before, &tree);
        }
    }

    #[test]
    fn remove_leaves_equals_the_model(deliveries in deliveries(), picks in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut tree = merged(&deliveries);
        let mut model = Model::of(&tree);
        let asked: Vec<Revision> = picks.iter().map(|pick| tree.nodes()[pick.index(tree.len())].revision.clone()).collect();
        let leaves = model.leaves();
        let (removed, bodies) = tree.remove_leaves(&asked);
        tree.check();
        let mut expected: Vec<Revision> = Vec::new();
        for revision in asked {
            if leaves.contains(&revision) && !expected.contains(&revision) {
                expected.push(revision);
            }
        }
        prop_assert_eq!(&removed, &expected);
        let gone = model.keep_only_paths_of(&leaves.into_iter().filter(|leaf| !removed.contains(leaf)).collect());
        prop_assert_eq!(Model::of(&tree), model);
        prop_assert_eq!(bodies, gone);
    }

    #[test]
    fn compaction_keeps_only_the_bodies_of_leaves(deliveries in deliveries()) {
        let mut tree = merged(&deliveries);
        let before = tree.clone();
        let bodies = tree.drop_old_bodies();
        tree.check();
        let old: Vec<Body> = before.nodes().iter().filter(|node| !node.is_leaf()).filter_map(|node| node.body).collect();
        prop_assert_eq!(bodies, old);
        prop_assert_eq!(before.leaves(), tree.leaves());
        prop_assert!(tree.nodes().iter().all(|node| node.is_leaf() || node.body.is_none()));
    }

    #[test]
    fn encode_and_decode_round_trip(deliveries in prop_oneof![deliveries(), contradictions()]) {
        let tree = merged(&deliveries);
        let mut bytes = Vec::new();
        tree.encode(&mut bytes);
        prop_assert_eq!(Tree::decode(&bytes), Some(tree));
    }

    #[test]
    fn decode_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for bytes in [bytes.clone(), [&[1], &bytes[..]].concat(), [&[1, 2], &bytes[..]].concat()] {
            if let Some(tree) = Tree::decode(&bytes) {
                tree.check();
            }
        }
    }

    #[test]
    fn decode_rejects_damage_or_returns_a_valid_tree(deliveries in deliveries(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = Vec::new();
        merged(&deliveries).encode(&mut bytes);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(tree) = Tree::decode(&bytes) {
            tree.check();
            let mut again = Vec::new();
            tree.encode(&mut again);
            prop_assert_eq!(Tree::decode(&again), Some(tree));
        }
    }
}
