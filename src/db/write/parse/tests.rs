//! The rows of CouchDB's `couch_doc_json_tests.erl`, and CouchDB's behaviour in edge cases.

use super::*;

const LIMITS: Limits = Limits { depth: 32, bytes: 1024 };

fn of(text: &str) -> Split {
    split(text.as_bytes(), &LIMITS).unwrap()
}

#[test]
fn documents_are_split() {
    let empty = || Split { body: "{}".into(), ..Split::default() };
    let rev = |text: &str| Some(text.parse::<Revision>().unwrap());
    let ids = |ids: &[&str]| ids.iter().map(|id| RevisionHash::parse(id)).collect::<Vec<_>>();
    let id = |id: &str| Split { id: Some(id.into()), ..empty() };
    let body = |body: &str| Split { body: body.into(), ..empty() };
    let revisions = Split { rev: rev("4-foo1"), revisions: Some((4, ids(&["foo1", "phi3", "omega"]))), ..empty() };
    let rows = [
        ("empty", "{}", empty()),
        ("ids", r#"{"_id":"zing!"}"#, id("zing!")),
        ("design documents", r#"{"_id":"_design/foo"}"#, id("_design/foo")),
        ("local documents", r#"{"_id":"_local/bam"}"#, id("_local/bam")),
        ("ids are decoded", r#"{"_id":"\u00e9\"\/"}"#, id("é\"/")),
        ("_rev", r#"{"_rev":"4-230234"}"#, Split { rev: rev("4-230234"), ..empty() }),
        (
            "_rev of a local document",
            r#"{"_rev":"0-11111111111111111111111111111111"}"#,
            Split { rev: rev("0-11111111111111111111111111111111"), ..empty() },
        ),
        (
            "_rev of 32 digits",
            r#"{"_rev":"2-11111111111111111111111111111111"}"#,
            Split { rev: Some(Revision { generation: 2, hash: RevisionHash::Md5([17; 16]) }), ..empty() },
        ),
        ("body", r#"{ "soap" : 35 }"#, body(r#"{"soap":35}"#)),
        ("_deleted", r#"{"_deleted":true}"#, Split { deleted: true, ..empty() }),
        ("_deleted false", r#"{"_deleted":false}"#, empty()),
        (
            "_revisions before _rev",
            r#"{"_revisions":{"start":4,"ids":["foo1","phi3","omega"]},"_rev":"6-something"}"#,
            revisions.clone(),
        ),
        (
            "_revisions after _rev",
            r#"{"_rev":"6-something","_revisions":{"ids":["foo1","phi3","omega"],"start":4}}"#,
            revisions.clone(),
        ),
        (
            "a _rev after _revisions is ignored",
            r#"{"_revisions":{"start":4,"ids":["foo1","phi3","omega"]},"_rev":5}"#,
            revisions,
        ),
        (
            "empty _revisions",
            r#"{"_revisions":{"start":0,"ids":[]},"_rev":"1-a"}"#,
            Split { rev: rev("1-a"), ..empty() },
        ),
        ("_revs_info", r#"{"_revs_info":[]}"#, empty()),
        ("_local_seq", r#"{"_local_seq":1}"#, empty()),
        ("_conflicts", r#"{"_conflicts":[]}"#, empty()),
        ("_deleted_conflicts", r#"{"_deleted_conflicts":[]}"#, empty()),
        (
            "members of replication documents",
            r#"{"_replication_state":"error","_replication_state_time":1,"_replication_state_reason":"x","_replication_id":"y","_replication_stats":{},"_access":[]}"#,
            body(
                r#"{"_replication_state":"error","_replication_state_time":1,"_replication_state_reason":"x","_replication_id":"y","_replication_stats":{},"_access":[]}"#,
            ),
        ),
        (
            "special members first",
            r#"{"_id":"a","_rev":"1-b","x":1,"y":[2]}"#,
            Split { rev: rev("1-b"), body: r#"{"x":1,"y":[2]}"#.into(), ..id("a") },
        ),
        ("special member last", r#"{"x":1,"y":2,"_id":"a"}"#, Split { body: r#"{"x":1,"y":2}"#.into(), ..id("a") }),
        (
            "special members in between",
            r#"{"x":1,"_id":"a","y":2,"_conflicts":0,"z":3}"#,
            Split { body: r#"{"x":1,"y":2,"z":3}"#.into(), ..id("a") },
        ),
        (
            "name with an escaped underscore",
            r#"{"x":1,"\u005fid":"a","\u0079":2}"#,
            Split { body: r#"{"x":1,"\u0079":2}"#.into(), ..id("a") },
        ),
        ("repeated members", r#"{"_id":"a","x":1,"_id":"b","x":2}"#, Split { body: r#"{"x":2}"#.into(), ..id("b") }),
        ("repeated as an escape", r#"{"_id":"a","\u005fid":"b"}"#, id("b")),
        ("a nested _ member is not special", r#"{"x":{"_y":1}}"#, body(r#"{"x":{"_y":1}}"#)),
    ];
    for (name, text, expected) in rows {
        assert_eq!(of(text), expected, "{name}");
    }
}

#[test]
fn errors_equal_couchdbs() {
    let bad = |reason: &str| Error::BadRequest(reason.into());
    let id = |reason: &str| Error::IllegalDocId(reason.into());
    let invalid = |reason: &str| Error::DocValidation(reason.into());
    let x32 = "x".repeat(32);
    let hex_row = format!(r#"{{"_revisions":{{"start":1,"ids":["{x32}"]}}}}"#);
    let large = format!(r#"{{"_id":"large_doc","x":"{}"}}"#, "x".repeat(1025));
    let large_without_id = format!(r#"{{"x":"{}"}}"#, "x".repeat(1025));
    let too_large = |id: &str| Error::TooLarge { word: "document_too_large", reason: id.into() };
    let rows = [
        ("not JSON", "{", bad("invalid UTF-8 JSON")),
        ("array", "[]", bad("Document must be a JSON object")),
        ("integer", "4", bad("Document must be a JSON object")),
        ("literal", "true", bad("Document must be a JSON object")),
        ("id of another type", r#"{"_id":{"foo":5}}"#, id("Document id must be a string")),
        ("empty id", r#"{"_id":""}"#, id("Document id must not be empty")),
        ("id that is only _design/", r#"{"_id":"_design/"}"#, id("Illegal document id `_design/`")),
        ("id that is only _local/", r#"{"_id":"_local/"}"#, id("Illegal document id `_local/`")),
        ("reserved id", r#"{"_id":"_random"}"#, id("Only reserved document ids may start with underscore.")),
        ("_rev of another type", r#"{"_rev":5}"#, bad("Invalid rev format")),
        ("_rev without a dash", r#"{"_rev":"foobar"}"#, bad("Invalid rev format")),
        ("_rev without a number", r#"{"_rev":"foo-bar"}"#, bad("Invalid rev format")),
        ("_revisions without ids", r#"{"_revisions":{"start":1}}"#, invalid("_revisions.ids isn't a array.")),
        ("start of another type", r#"{"_revisions":{"start":true}}"#, invalid("_revisions.start isn't an integer.")),
        (
            "start below zero",
            r#"{"_revisions":{"start":-1,"ids":["a"]}}"#,
            invalid("_revisions.start isn't an integer."),
        ),
        ("ids of another type", r#"{"_revisions":{"start":0,"ids":5}}"#, invalid("_revisions.ids isn't a array.")),
        ("an id of another type", r#"{"_revisions":{"start":0,"ids":[5]}}"#, invalid("RevId isn't a string")),
        ("an id of 32 bytes that are not hex digits", &hex_row, invalid("RevId isn't a valid hexadecimal")),
        ("empty ids", r#"{"_revisions":{"start":1,"ids":[]}}"#, invalid("_revisions.ids is empty.")),
        ("_revisions of another type", r#"{"_revisions":5}"#, invalid("Bad special document member: _revisions")),
        ("unknown member", r#"{"_something":5}"#, invalid("Bad special document member: _something")),
        ("a member named _", r#"{"_":5}"#, invalid("Bad special document member: _")),
        ("_deleted of another type", r#"{"_deleted":"x"}"#, invalid("Bad special document member: _deleted")),
        (
            "_attachments of another type",
            r#"{"_attachments":[]}"#,
            invalid("Bad special document member: _attachments"),
        ),
        ("the first error is returned", r#"{"_foo":1,"_rev":5}"#, invalid("Bad special document member: _foo")),
        ("too large", &large, too_large("large_doc")),
        ("too large, without id", &large_without_id, too_large("")),
    ];
    for (name, text, expected) in rows {
        assert_eq!(split(text.as_bytes(), &LIMITS), Err(expected), "{name}");
    }
}

#[test]
fn special_members_do_not_count_towards_the_size() {
    let data = "QUJD".repeat(1000);
    let text = format!(r#"{{"_attachments":{{"a":{{"data":"{data}"}}}},  "x":1}}"#);
    assert_eq!(of(&text).body, r#"{"x":1}"#);
    assert!(matches!(compact(text.as_bytes(), &LIMITS), Err(Error::TooLarge { word: "too_large", .. })));
    assert_eq!(compact(b" [ 1 ] ", &LIMITS).unwrap(), "[1]");
}

#[test]
fn attachments_of_every_kind_are_parsed() {
    let text = r#"{"_attachments":{
        "my_attachment.fu":{"stub":true,"content_type":"application/awesome","length":45,"revpos":3,"digest":"md5-x","data":"?"},
        "noahs_private_key.gpg":{"data":"SSBoYXZlIGEgcGV0IGZpc2gh","content_type":"application/pgp-signature"},
        "later":{"follows":true,"length":7,"encoding":"gzip","encoded_length":5,"stub":false},
        "white":{"data":"S SBo\nYXZl\tIGEgcGV0IGZpc2gh"},
        "slash":{"data":"\/\/\/\/","revpos":null},
        "trailing bits":{"data":"QR=="},
        "":{"data":""},
        "passed over":5}}"#;
    let fields = |change: &dyn Fn(&mut StubFields)| {
        let mut fields = StubFields::default();
        change(&mut fields);
        fields
    };
    let inline = |data: &[u8]| Stub::Inline { fields: StubFields::default(), data: data.to_vec() };
    let fish = b"I have a pet fish!";
    let expected = [
        (
            "my_attachment.fu",
            Stub::Stub {
                fields: StubFields {
                    content_type: Some("application/awesome".into()),
                    revpos: Some(3),
                    digest: Some("md5-x".into()),
                    length: Some(45),
                    ..StubFields::default()
                },
            },
        ),
        (
            "noahs_private_key.gpg",
            Stub::Inline {
                fields: fields(&|fields| fields.content_type = Some("application/pgp-signature".into())),
                data: fish.to_vec(),
            },
        ),
        (
            "later",
            Stub::Follows {
                fields: StubFields {
                    length: Some(7),
                    encoded_length: Some(5),
                    encoding: Some("gzip".into()),
                    ..StubFields::default()
                },
            },
        ),
        ("white", inline(fish)),
        ("slash", inline(&[0xff, 0xff, 0xff])),
        ("trailing bits", inline(b"A")),
        ("", inline(b"")),
    ];
    assert_eq!(of(text).attachments, expected.map(|(name, stub)| (name.to_string(), stub)));
}

#[test]
fn bad_attachments_are_rejected() {
    let rows = [
        ("no data", r#"{}"#, "Invalid attachment data for a"),
        ("neither stub nor data", r#"{"stub":"yes"}"#, "Invalid attachment data for a"),
        ("data of another type", r#"{"data":5}"#, "Invalid attachment data for a"),
        ("not base64", r#"{"data":"%%%%"}"#, "Invalid attachment data for a"),
        ("no padding", r#"{"data":"QQ"}"#, "Invalid attachment data for a"),
        ("content type of another type", r#"{"stub":true,"content_type":5}"#, "Invalid attachment content_type for a"),
        ("revpos of another type", r#"{"stub":true,"revpos":"x"}"#, "Invalid attachment revpos for a"),
        ("length below zero", r#"{"stub":true,"length":-1}"#, "Invalid attachment length for a"),
    ];
    for (name, attachment, reason) in rows {
        let text = format!(r#"{{"_attachments":{{"a":{attachment}}}}}"#);
        assert_eq!(split(text.as_bytes(), &LIMITS), Err(Error::BadRequest(reason.into())), "{name}");
    }
}
