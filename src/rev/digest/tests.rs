//! Compares revision ids with those that Erlang's `term_to_binary` (OTP 25) and jiffy produce for the same
//! edit.

use super::*;

const FIRST: &str = "1-967a00dff5e02add41819138abb3284d";
/// MD5 of "one"; `TWO` is the MD5 of "two".
const ONE: [u8; 16] = [0xf9, 0x7c, 0x5d, 0x29, 0x94, 0x1b, 0xfb, 0x1b, 0x2f, 0xda, 0xb0, 0x87, 0x49, 0x06, 0xab, 0x82];
const TWO: [u8; 16] = [0xb8, 0xa9, 0xf7, 0x15, 0xdb, 0xb6, 0x4f, 0xd5, 0xc5, 0x6e, 0x77, 0x83, 0xc6, 0x82, 0x0a, 0x61];

fn first(body: &str) -> String {
    new_revision(false, None, body, Digests::Known(&[])).to_string()
}

#[rustfmt::skip]
const BODIES: &[(&str, &str)] = &[
    (r#"{}"#, "967a00dff5e02add41819138abb3284d"),
    (r#"{"a":1}"#, "23202479633c2b380f79507a776743d5"),
    (r#"{"a":"b"}"#, "4b8a35d3f70a5962f86c6dd06ceb599c"),
    (r#"{"b":2,"a":3}"#, "cf8195ee4268460f49235c8e98d42c6f"),
    (r#"{"_replication_state":"completed"}"#, "30ebf47cfea010f4706e10f5a2a08d89"),
    (r#"{"a":[]}"#, "d49a64a623a0fcc15fb2a4e9edf20834"),
    (r#"{"a":{}}"#, "3a998deb00874a1aa37c51ab7d1665df"),
    (r#"{"a":[{}]}"#, "47fc844ea054b1ef0eb715fbdd90107b"),
    (r#"{"a":[[]]}"#, "817d0604c83a1cf64b8a5e7e66e3bc10"),
    (r#"{"a":""}"#, "3fe7f4b6b29eed3be78583c464d8fb8b"),
    (r#"{"a":[1,2,3]}"#, "308048961a84beb0c9e99e07facf0f5f"),
    (r#"{"a":[0,255]}"#, "ebdd13a7ecf6387443aa094a0d18b4d6"),
    (r#"{"a":[256]}"#, "dae5a862c278c62f4314bcf887e53971"),
    (r#"{"a":[1,256]}"#, "d0259a7a9a59173bfe7d4da469ac3cb6"),
    (r#"{"a":[-1]}"#, "7feb753512d122da47ed1c9a5cec27fc"),
    (r#"{"a":[1.0]}"#, "1b7e417057790447670cd0a8d5427454"),
    (r#"{"a":[1,"x"]}"#, "3251610a3e0f81858333c784878b0416"),
    (r#"{"a":[[1],[2,3]]}"#, "231e54b393a3cc9f0c7b7e070f921c30"),
    (r#"{"a":0}"#, "dcf485487e051d7f9b7c62bd4265a425"),
    (r#"{"a":-0}"#, "dcf485487e051d7f9b7c62bd4265a425"),
    (r#"{"a":255}"#, "0fbe827385026714fdd09b847ebde3ac"),
    (r#"{"a":256}"#, "6528e394d3c2502a646ee64043be6186"),
    (r#"{"a":-1}"#, "36263f269caa4db3b190ba9d68b9bdf8"),
    (r#"{"a":134217727}"#, "bc9781010b6203055f70c79f7d132710"),
    (r#"{"a":134217728}"#, "9098ec25320a438c4d82b19db4c7f19d"),
    (r#"{"a":2147483647}"#, "534f6b37e49de94740083e676abba387"),
    (r#"{"a":2147483648}"#, "b4f640a52110ec1afa2f52256780e40e"),
    (r#"{"a":-2147483648}"#, "199e39432186df98ba32343ab606e80c"),
    (r#"{"a":-2147483649}"#, "6d036e2911065ed899639be9adb508c3"),
    (r#"{"a":1463595391042}"#, "1e05e7383eaaf8eab50f089ebca0b6a6"),
    (r#"{"a":9007199254740993}"#, "a452b3a5be475a73593895c798a3a609"),
    (r#"{"a":9223372036854775807}"#, "729be045ef8a718380903269c1be0189"),
    (r#"{"a":9223372036854775808}"#, "fc8391bb28fd252fac64877575057bed"),
    (r#"{"a":-9223372036854775808}"#, "bfe9588fe6abc84c376c342a4dd6c2ef"),
    (r#"{"a":-9223372036854775809}"#, "d7430b145a784f813a500d355bd26d42"),
    (r#"{"a":18446744073709551616}"#, "02621d7913faebde4c9d1efebd8500b4"),
    (r#"{"a":123456789012345678901234567890}"#, "da1bd830ce681811ea5692e0ec6bd683"),
    (r#"{"a":-123456789012345678901234567890123456}"#, "cd969a2092515e56a1b4fcdc994f4292"),
    (r#"{"a":1000000000000000000000000000000000000}"#, "7c52a4999fc16facb7fc0fd51b6193d1"),
    (r#"{"a":1.5}"#, "c2d94f8474340cfb2476ac9ac18efe99"),
    (r#"{"a":1.0}"#, "8a159b695bf2bd957f1a435bfd6e1739"),
    (r#"{"a":-0.0}"#, "79e62e17829588afea5328e32c7e34af"),
    (r#"{"a":1e5}"#, "812dfd86f41f0a2ba423d18cbefdcb61"),
    (r#"{"a":1E+5}"#, "812dfd86f41f0a2ba423d18cbefdcb61"),
    (r#"{"a":12.5e-3}"#, "93d1023bd03a94a69b2aa14580da403d"),
    (r#"{"a":0.1}"#, "5974d01f385519e930e5a28349efba27"),
    (r#"{"a":1.7976931348623157e308}"#, "659564c6549b246f4f078d46978ad9d3"),
    (r#"{"a":2.2250738585072014e-308}"#, "64d9c1d0e4c4ce9e7a3d302553de4b81"),
    (r#"{"a":0e5}"#, "f8fc1b07134fb0e1af62a5cb42046ee1"),
    (r#"{"a":3.141592653589793}"#, "37ff27513ca45812d257ba8a7ff4208a"),
    (r#"{"a":true,"b":false,"c":null}"#, "cb8c66602b212aa81979fb8fa1657af3"),
    (r#"{"a":[true,false,null]}"#, "89da3ed7abc31ef880bd70d92afa2fd1"),
    (r#"{"a":"\u00e9\n\t\\\"\/\b\f\r"}"#, "3b7ac1b1477f2e9101120509b6cdcd42"),
    (r#"{"a":"é"}"#, "a84b195a8ccf4e92812a4f2bb2272b90"),
    (r#"{"a":"\ud83d\ude00"}"#, "6209036231a849bef7b48602e7245033"),
    (r#"{"a":"\u0000"}"#, "ef3e46caa2b1304d75780c92d40a2067"),
    (r#"{"\u0061":1}"#, "23202479633c2b380f79507a776743d5"),
    (r#"{"é":1}"#, "75c29c80222229ba24a681f7cffcf7db"),
    (r#"{"":1}"#, "2ce45c66c96d19abe1f98075da2b5a51"),
    (r#"{"type":"post","title":"Hello","tags":["a","b"],"meta":{"n":1,"f":2.5,"deep":[{"x":[1,2,{"y":null}]}]}}"#, "e27db32731921034114aa16eacf4de7e"),
];

#[test]
fn ids_of_bodies_equal_couchdbs() {
    for (body, expected) in BODIES {
        assert_eq!(first(body), format!("1-{expected}"), "{body}");
    }
}

#[test]
fn ids_of_edits_equal_couchdbs() {
    let parent: Revision = FIRST.parse().unwrap();
    let text: Revision = "3-abc".parse().unwrap();
    let high = Revision { generation: 300, hash: parent.hash.clone() };
    let rows = [
        ("an edit, as CouchDB's documentation shows it", false, Some(&parent), "2-7051cbe5c8faecd085a3fa619e6e6337"),
        ("a deletion, as CouchDB's documentation shows it", true, Some(&parent), "2-eec205a9d413992850a6e32678485900"),
        ("a document created as deleted", true, None, "1-de715bf126efc93d225d9e3f8e8eb81a"),
        ("a parent whose hash is text", false, Some(&text), "4-dbe321336bf460173707b4a9d58eda1b"),
        ("a generation of more than one byte", false, Some(&high), "301-d5396aa480a7f3b1159e54482e23e40e"),
    ];
    for (name, deleted, parent, expected) in rows {
        assert_eq!(new_revision(deleted, parent, "{}", Digests::Known(&[])).to_string(), expected, "{name}");
    }
}

#[test]
fn attachments_enter_the_digest_in_reverse_order() {
    let parent: Revision = FIRST.parse().unwrap();
    let one = AttachmentDigest { name: "a.txt", content_type: "text/html", md5: ONE };
    let two = AttachmentDigest { name: "b.txt", content_type: "text/plain", md5: TWO };
    let both =
        new_revision(false, Some(&parent), r#"{"a":1}"#, Digests::Known(&[one.clone(), two.clone()])).to_string();
    assert_eq!(both, "2-43d2f9bbf20ae0317cb2119facd12f5e");
    assert_ne!(new_revision(false, Some(&parent), r#"{"a":1}"#, Digests::Known(&[two, one])).to_string(), both);
    let alone = AttachmentDigest { name: "a.txt", content_type: "text/plain", md5: ONE };
    assert_eq!(
        new_revision(false, None, "{}", Digests::Known(&[alone])).to_string(),
        "1-288b4aabcbde607834a2183c1525cf6d"
    );
}

#[test]
fn lists_too_long_for_a_string_are_encoded_as_lists() {
    let rows = [
        ("the longest list encoded as a string", 65535, "7", "bf98225f9f08c00f81b52454ba4be93b"),
        ("one element more is a list", 65536, "7", "e7d96525b57d2ca82cd923d4c969897f"),
        ("integers above 255 are a list", 70000, "300", "2c00a72a8a38698693b7734ead3960e0"),
    ];
    for (name, count, value, expected) in rows {
        let body = format!("{{\"a\":[{}]}}", vec![value; count].join(","));
        assert_eq!(first(&body), format!("1-{expected}"), "{name}");
    }
}

#[test]
fn ids_of_integers_of_any_size() {
    let rows = [
        (18, "08a2e088f99e6dafde2e995359a9ab2b"),
        (19, "217413fdbf413121cdc2c5ebbac5e8f9"),
        (20, "17db667812bc8a4e8c043c11bb45b9a0"),
        (36, "a10b16a6b6308ae336279ef5966c974c"),
        (37, "57dfdd7dd5ecb4b5054fdc36343cd3b8"),
        (613, "326d11a7b4e3c70dc7e8e8479565d832"),
        (614, "d5914063cb2b667cc311dec08a1c4227"),
        (615, "e46c0fe51bf0913cc0fb090d17a4fee5"),
        (616, "1860d5367d5fc6641481612f54d55b74"),
        (700, "0a37b8d5676dd7a547467b39da5281ec"),
        (4096, "ee2bb86126a1701117679a3277bf627c"),
    ];
    for (digits, expected) in rows {
        assert_eq!(first(&format!("{{\"a\":{}}}", "9".repeat(digits))), format!("1-{expected}"), "{digits} digits");
    }
    // Beyond the limit the text is hashed: the same edit still has the same id, without quadratic time.
    let huge = |digit: &str| first(&format!("{{\"a\":{}}}", digit.repeat(1_000_000)));
    assert_eq!(huge("9"), huge("9"));
    assert_ne!(huge("9"), huge("8"));
}

#[test]
fn invalid_json_does_not_panic() {
    for text in [
        "",
        "{",
        "[[",
        "}",
        "\"",
        "\"\\",
        "{\"a\"",
        "{\"a\":",
        "tru",
        "[1,",
        "-",
        "\"\\u12\"",
        "\"\\ud800\"",
        "é",
        "\"\\é\"",
    ] {
        first(text);
    }
}

/// Ids that CouchDB 3.5 computes for documents that are created again over a tombstone.
#[test]
fn attachments_of_a_document_created_again_are_undefined() {
    let tombstone = |generation: u64, parent: &Revision, body: &str| {
        assert_eq!(parent.generation, generation - 1);
        new_revision(true, Some(parent), body, Digests::Known(&[]))
    };
    let first = new_revision(false, None, r#"{"a":1}"#, Digests::Known(&[]));
    let second = tombstone(2, &first, "{}");
    let third = new_revision(false, Some(&second), r#"{"a":2}"#, Digests::Undefined(0));
    let fourth = tombstone(4, &third, "{}");
    let fifth = new_revision(false, Some(&fourth), r#"{"a":2}"#, Digests::Undefined(1));
    assert_eq!(fifth.to_string(), "5-f47730dba4c42e60cb322b442c0de44f");
}
