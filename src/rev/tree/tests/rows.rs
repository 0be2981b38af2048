//! The cases of `couch_key_tree_tests.erl`, with generations counted from 1 instead of 0, and some of our
//! own.

use super::*;

/// Merges a path. `"2-b/c/d"` is 2-b, its child 3-c and its child 4-d. A `!` at the end marks the last
/// revision as a deletion.
fn grow(tree: &mut Tree, path: &str) -> Merged {
    let (start, names) = path.split_once('-').unwrap();
    let names: Vec<&str> = names.split('/').collect();
    let generation = start.parse::<u64>().unwrap() + names.len() as u64 - 1;
    let hashes: Vec<RevisionHash> =
        names.iter().rev().map(|name| RevisionHash::parse(name.trim_end_matches('!'))).collect();
    let merged = tree.merge(generation, &hashes, path.ends_with('!'), Some(body(generation as usize)));
    tree.check();
    merged
}

fn tree(paths: &[&str]) -> Tree {
    let mut tree = Tree::new();
    for path in paths {
        grow(&mut tree, path);
    }
    tree
}

/// Every leaf with its path, in ascending order.
fn shape(tree: &Tree) -> Vec<String> {
    let mut leaves = revisions(tree.leaves());
    leaves.sort();
    let path = |leaf: &Revision| {
        let mut path: Vec<&Node> = tree.ancestry(leaf).collect();
        path.reverse();
        let names: Vec<String> = path.iter().map(|node| node.revision.hash.to_string()).collect();
        format!("{}-{}", path[0].revision.generation, names.join("/"))
    };
    leaves.iter().map(path).collect()
}

fn texts(rows: &[&str]) -> Vec<String> {
    rows.iter().map(ToString::to_string).collect()
}

fn rev(text: &str) -> Revision {
    text.parse().unwrap()
}

fn revs(texts: &[&str]) -> Vec<Revision> {
    texts.iter().map(|text| rev(text)).collect()
}

#[test]
fn merge_cases() {
    use Merged::*;
    type Row = (&'static str, &'static [&'static str], &'static str, &'static [&'static str], Merged);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("with the empty tree", &[], "1-1", &["1-1"], Branched),
        ("reflexive", &["1-1"], "1-1", &["1-1"], Unchanged),
        ("a prefix of a tree", &["1-1", "1-2"], "1-1", &["1-1", "1-2"], Unchanged),
        ("an unrelated branch is a conflict", &["1-1", "1-2"], "1-3", &["1-1", "1-2", "1-3"], Branched),
        ("reflexive with children", &["1-1/1a/1aa"], "1-1/1a/1aa", &["1-1/1a/1aa"], Unchanged),
        ("a branch to itself", &["1-1/1a", "1-1/1b"], "1-1/1b", &["1-1/1a", "1-1/1b"], Unchanged),
        ("a tree of odd length", &["1-1/1a", "1-1/1b"], "1-1/1a/1aa", &["1-1/1b", "1-1/1a/1aa"], Extended),
        ("a stem", &["1-1/1a", "1-1/1b"], "2-1a", &["1-1/1a", "1-1/1b"], Unchanged),
        ("a stem at a deeper level", &["1-1/1a", "1-1/1b/1bb"], "3-1bb", &["1-1/1a", "1-1/1b/1bb"], Unchanged),
        ("a stem at a deeper level of stems", &["2-1a", "2-1b/1bb"], "3-1bb", &["2-1a", "2-1b/1bb"], Unchanged),
        ("a deeper stem", &["1-1/1a/1aa"], "3-1aa", &["1-1/1a/1aa"], Unchanged),
        ("a large stem", &["1-1/1a/1aa"], "2-1a/1aa", &["1-1/1a/1aa"], Unchanged),
        ("stems", &["2-1a/1aa"], "3-1aa", &["2-1a/1aa"], Unchanged),
        ("a stem that is not linked is a conflict", &["1-1/1a"], "3-1aa", &["1-1/1a", "3-1aa"], Branched),
        ("linked once its path arrives", &["1-1/1a", "3-1aa"], "1-1/1a/1aa", &["1-1/1a/1aa"], Filled),
        ("COUCHDB-902: the conflicting branch stays", &["1-foo/foo2", "1-foo/foo3"], "1-foo/foo3/foo4", &["1-foo/foo2", "1-foo/foo3/foo4"], Extended),
        ("a path adds older ancestors to a known root", &["3-c/d/e"], "1-a/b/c/d/e", &["1-a/b/c/d/e"], Filled),
        ("a new leaf adds older ancestors", &["3-c/d/e"], "1-a/b/c/d/e/f", &["1-a/b/c/d/e/f"], Extended),
        ("a new branch adds older ancestors", &["3-c/d/e"], "1-a/b/c/x", &["1-a/b/c/x", "1-a/b/c/d/e"], Branched),
        ("a new leaf above an inner revision", &["1-a/b/c"], "1-a/x", &["1-a/x", "1-a/b/c"], Branched),
        ("one hash in two generations is two revisions", &["1-a/a/a"], "1-a/a", &["1-a/a/a"], Unchanged),
        ("one hash under two parents is one revision", &["1-a/x"], "1-b/x", &["1-a/x"], Unchanged),
    ];
    for (name, before, path, after, expected) in rows {
        let mut tree = tree(before);
        // A revision known only as an ancestor has no body; give each one a body, so that `Filled` reports
        // only structure.
        tree.nodes.iter_mut().for_each(|node| node.body = Some(body(1)));
        assert_eq!((grow(&mut tree, path), shape(&tree)), (*expected, texts(after)), "{name}");
    }
}

#[test]
fn an_ancestor_that_is_delivered_later_gets_its_body() {
    let mut tree = tree(&["1-a/b/c"]);
    assert_eq!(tree.get(&rev("2-b")).unwrap().body, None);
    assert_eq!(grow(&mut tree, "1-a/b!"), Merged::Filled);
    let node = tree.get(&rev("2-b")).unwrap();
    assert!(node.body.is_some() && node.deleted && !node.is_leaf());
    assert_eq!(grow(&mut tree, "1-a/b"), Merged::Unchanged);
    assert!(tree.get(&rev("2-b")).unwrap().deleted);
}

#[test]
fn invalid_paths_are_ignored() {
    let mut tree = tree(&["1-a/b"]);
    let before = tree.clone();
    let hash = RevisionHash::parse("x");
    assert_eq!(tree.merge(3, &[], false, None), Merged::Unchanged);
    assert_eq!(tree.merge(0, std::slice::from_ref(&hash), false, None), Merged::Unchanged);
    assert_eq!(tree.merge(MAX_GENERATION + 1, std::slice::from_ref(&hash), false, None), Merged::Unchanged);
    assert_eq!(tree, before);
    // More ancestors than generations: those below generation 1 are ignored.
    assert_eq!(tree.merge(2, &[hash.clone(), RevisionHash::parse("a"), hash], false, None), Merged::Branched);
    tree.check();
    assert_eq!(shape(&tree), ["1-a/b", "1-a/x"]);
}

#[test]
fn winner_cases() {
    let rows: &[(&str, &[&str], &str)] = &[
        ("the higher generation", &["1-a/b", "1-z"], "2-b"),
        ("the higher hash of one generation", &["1-a/b", "1-a/c"], "2-c"),
        ("generations compare as numbers", &["9-z", "10-a"], "10-a"),
        ("not deleted before deleted", &["1-a/b/c!", "1-x"], "1-x"),
        ("deleted leaves rank like others", &["1-a/b!", "1-a/c!"], "2-c"),
        ("an inner revision never wins", &["1-z/a!"], "2-a"),
        ("hashes compare as bytes, not digits: 'b' is 0x62", &["1-b", "1-61ffffffffffffffffffffffffffffff"], "1-b"),
        (
            "hashes compare as bytes, not digits: 0xff is above 'z'",
            &["1-z", "1-ff000000000000000000000000000000"],
            "1-ff000000000000000000000000000000",
        ),
    ];
    for (name, paths, winner) in rows {
        let tree = tree(paths);
        assert_eq!(tree.winner().unwrap().revision.to_string(), *winner, "{name}");
        assert_eq!(tree.leaves()[0].revision.to_string(), *winner, "{name}");
    }
    assert!(Tree::new().winner().is_none() && Tree::new().leaves().is_empty());
}

#[test]
fn missing_revisions() {
    let two = tree(&["1-1/1a", "1-1/1b"]);
    let stemmed = tree(&["2-1a/1aa"]);
    let deeper = tree(&["3-1aa"]);
    let rows: &[(&str, &Tree, &[&str], &[&str])] = &[
        ("none", &two, &["1-1", "2-1a"], &[]),
        ("some", &two, &["1-1", "1-10", "2-1a", "101-x"], &["1-10", "101-x"]),
        ("below a stem", &stemmed, &["1-1", "2-1a", "101-x"], &["1-1", "101-x"]),
        ("below a deeper stem", &deeper, &["1-1", "2-1a", "101-x"], &["1-1", "2-1a", "101-x"]),
        ("ascending", &two, &["12-x", "2-x", "3-x"], &["2-x", "3-x", "12-x"]),
    ];
    for (name, tree, asked, expected) in rows {
        assert_eq!(tree.missing(&revs(asked)).into_iter().cloned().collect::<Vec<_>>(), revs(expected), "{name}");
    }
    let tree = tree(&["1-1/1a", "1-1/1b/1bb", "5-x"]);
    let possible = |missing: &[&str]| tree.possible_ancestors(&revs(missing).iter().collect::<Vec<_>>());
    assert_eq!(possible(&["4-z", "2-y"]), revs(&["3-1bb", "2-1a"]));
    assert_eq!(possible(&["2-z"]), []);
    assert_eq!(possible(&[]), []);
}

#[test]
fn removing_leaves() {
    type Row = (
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
        &'static [&'static str],
        &'static [&'static str],
    );
    let two = &["1-1/1a", "1-1/1b"];
    let stemmed = &["2-1a/1aa"];
    let rows: &[Row] = &[
        ("none", two, &[], two, &[]),
        ("an inner revision", two, &["1-1"], two, &[]),
        ("one", two, &["2-1b"], &["1-1/1a"], &["2-1b"]),
        ("all", two, &["2-1b", "2-1a"], &[], &["2-1b", "2-1a"]),
        ("an inner one of a stem", stemmed, &["2-1a"], stemmed, &[]),
        ("the last leaf", stemmed, &["3-1aa"], &[], &["3-1aa"]),
        ("a leaf and its parent", &["1-a/b/c", "1-a/x"], &["3-c", "2-b"], &["1-a/x"], &["3-c"]),
        ("the same leaf twice", two, &["2-1b", "2-1b"], &["1-1/1a"], &["2-1b"]),
    ];
    for (name, before, asked, after, removed) in rows {
        let mut tree = tree(before);
        assert_eq!((tree.remove_leaves(&revs(asked)).0, shape(&tree)), (revs(removed), texts(after)), "{name}");
        tree.check();
    }
}

#[test]
fn leaves_below_a_revision() {
    let tree = tree(&["1-1/1a", "1-1/1b"]);
    let rows: &[(&str, &str, &[&str])] =
        &[("unknown", "1-x", &[]), ("a leaf", "2-1a", &["2-1a"]), ("several", "1-1", &["2-1b", "2-1a"])];
    for (name, asked, expected) in rows {
        assert_eq!(revisions(tree.leaves_below(&rev(asked))), revs(expected), "{name}");
    }
}

#[test]
fn stemming() {
    type Row = (&'static str, &'static [&'static str], u32, &'static [&'static str]);
    let rows: &[Row] = &[
        ("more levels than there are", &["1-1/1a/1aa"], 3, &["1-1/1a/1aa"]),
        ("one", &["1-1/1a/1aa"], 1, &["3-1aa"]),
        ("two", &["1-1/1a/1aa"], 2, &["2-1a/1aa"]),
        ("a limit of 0 counts as 1", &["1-1/1a/1aa"], 0, &["3-1aa"]),
        ("a revision that a short branch needs is kept", &["1-a/b/c/d", "1-a/x"], 2, &["1-a/x", "3-c/d"]),
        ("two branches become separate trees", &["1-a/b/c", "1-a/x/y"], 2, &["2-b/c", "2-x/y"]),
    ];
    for (name, before, limit, after) in rows {
        let mut tree = tree(before);
        tree.stem(*limit);
        tree.check();
        assert_eq!(shape(&tree), texts(after), "{name}");
    }
}

#[test]
fn long_histories_and_many_conflicts_merge_quickly() {
    // 1,000 revisions, sent with their whole history after every tenth, then 1,000 conflicts.
    let hashes: Vec<RevisionHash> =
        (0..1000u32).rev().map(|number| RevisionHash::Md5([(number % 251) as u8; 16])).collect();
    let mut tree = Tree::new();
    for length in (10..=1000).step_by(10) {
        tree.merge(length as u64, &hashes[1000 - length..], false, Some(body(length)));
    }
    assert_eq!((tree.len(), tree.leaves().len()), (1000, 1));
    for number in 0..1000u32 {
        let hash = RevisionHash::Text(format!("{:x}", number.wrapping_mul(2_654_435_761)).into());
        assert_eq!(tree.merge(501, &[hash, hashes[500].clone()], false, None), Merged::Branched);
    }
    tree.check();
    assert_eq!((tree.len(), tree.leaves().len()), (2000, 1001));
    assert_eq!(tree.leaves_below(&Revision { generation: 500, hash: hashes[500].clone() }).len(), 1001);
}
