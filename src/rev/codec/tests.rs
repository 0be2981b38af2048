use super::*;

fn chain(length: u64) -> Tree {
    let mut tree = Tree::new();
    let hashes: Vec<RevisionHash> = (0..length).rev().map(|step| RevisionHash::Md5([step as u8; 16])).collect();
    tree.merge(length, &hashes, false, None);
    tree
}

fn encoded(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    tree.encode(&mut bytes);
    bytes
}

#[test]
fn a_node_of_a_chain_takes_17_bytes() {
    assert_eq!(encoded(&chain(1000)).len(), 3 + 17 * 1000);
    assert_eq!(encoded(&Tree::new()), [1, 0]);
}

#[test]
fn the_encoding_is_stable() {
    let mut tree = Tree::new();
    let body = Body { sequence: 300, index: 1, bytes: 70 };
    tree.merge(3, &[RevisionHash::parse("b"), RevisionHash::Md5([0xaa; 16])], true, Some(body));
    let md5 = [0xaa; 16];
    let mut expected = vec![1, 2, GENERATION_GIVEN, 2];
    expected.extend(md5);
    expected.extend([TEXT | DELETED | BODY | PARENT_PREVIOUS | GENERATION_NEXT, 1, b'b', 0xac, 2, 1, 70]);
    assert_eq!(encoded(&tree), expected);
}

#[test]
fn decode_rejects_bytes_that_are_not_a_tree() {
    let good = encoded(&chain(3));
    assert!(Tree::decode(&good).is_some());
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let rows: &[(&str, Vec<u8>)] = &[
        ("no bytes", vec![]),
        ("another version", changed(&|bytes| bytes[0] = 2)),
        ("truncated", changed(&|bytes| bytes.truncate(bytes.len() - 1))),
        ("trailing byte", changed(&|bytes| bytes.push(0))),
        ("more nodes than bytes", vec![1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ("a varint beyond 64 bits", vec![1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
        ("generation 0", [&[1, 1, 0][..], &[7; 16]].concat()),
        ("the same revision twice", [&[1, 2, GENERATION_NEXT][..], &[7; 16], &[0], &[7; 16]].concat()),
        ("a parent before the first", [&[1, 1, GENERATION_NEXT | PARENT_PREVIOUS][..], &[7; 16]].concat()),
        (
            "a parent of the same generation",
            [&[1, 2, GENERATION_NEXT][..], &[7; 16], &[PARENT_PREVIOUS], &[8; 16]].concat(),
        ),
        ("its own parent", [&[1, 1, GENERATION_NEXT | PARENT_GIVEN, 0][..], &[7; 16]].concat()),
        ("an unused flag", [&[1, 1, GENERATION_NEXT | UNUSED][..], &[7; 16]].concat()),
        ("32 hex digits as text", [&[1, 1, GENERATION_NEXT | TEXT, 32][..], &[b'a'; 32]].concat()),
        ("text that is not UTF-8", vec![1, 1, GENERATION_NEXT | TEXT, 1, 0xff]),
    ];
    for (name, bytes) in rows {
        assert_eq!(Tree::decode(bytes), None, "{name}");
    }
}
