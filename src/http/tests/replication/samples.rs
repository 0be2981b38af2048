//! Random documents with conflicts, deletions and attachments, and the comparison of two databases.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::db::{AllowAll, Content, Database, Incoming, Mode, Source, Upload, Wanted};
use crate::replicate::Filter;
use crate::rev::{Revision, RevisionHash};
use crate::store::{Direction, PageLimit};

/// A generator of random numbers (SplitMix64): the same seed, the same numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One revision of a document, with its path.
#[derive(Clone)]
pub struct Sample {
    id: String,
    path: Vec<RevisionHash>,
    deleted: bool,
    json: String,
    /// Name, content, whether it is stored compressed.
    attachments: Vec<(String, Vec<u8>, bool)>,
}

const IDS: [&str; 14] = [
    "a",
    "b",
    "c",
    "d",
    "ä/ö b",
    "%2F",
    "..",
    "a?b#c",
    "_design/x",
    "_design/y/z",
    "quote\"d",
    "\u{1F600}",
    "e+f&g",
    "1:2",
];

/// Some documents with all their revisions.
pub fn universe(random: &mut Random) -> Vec<Sample> {
    let mut samples = Vec::new();
    for id in IDS.iter().take(4 + random.below(11) as usize) {
        let mut known: Vec<Vec<RevisionHash>> = Vec::new();
        for _ in 0..1 + random.below(6) {
            let mut path = match known.is_empty() || random.below(4) == 0 {
                true => Vec::new(),
                false => known[random.below(known.len() as u64) as usize].clone(),
            };
            path.insert(
                0,
                RevisionHash::Md5((u128::from(random.next()) << 64 | u128::from(random.next())).to_le_bytes()),
            );
            known.push(path.clone());
            let kind = ["red", "green", "blue"][random.below(3) as usize];
            let value = random.below(1000);
            let attachments = if id.starts_with("_design/") { 0 } else { random.below(5).saturating_sub(2) };
            let attachments = (0..attachments).map(|at| {
                let length = [0, 10, 5000, 300_000][random.below(4) as usize];
                let letter = b'a' + random.below(3) as u8;
                (format!("att {at}"), vec![letter; length], random.below(2) == 0)
            });
            samples.push(Sample {
                id: (*id).to_owned(),
                attachments: attachments.collect(),
                path,
                deleted: random.below(5) == 0,
                json: json!({"kind": kind, "value": value, "text": "x".repeat(random.below(2000) as usize)})
                    .to_string(),
            });
        }
    }
    samples
}

fn incoming(database: &Database, sample: &Sample) -> Incoming {
    let generation = sample.path.len() as u64;
    let attachments = sample.attachments.iter().map(|(name, content, compressed)| {
        // A server compresses what it can, whatever the source did, as CouchDB does. Then it has another digest.
        let (kind, level) = if *compressed { ("text/plain", 8) } else { ("application/x", 0) };
        let mut upload = Upload::start(&**database.blobs(), name, kind, false, level).unwrap();
        upload.write(content).unwrap();
        let uploaded = upload.finish().unwrap();
        let source = Source::Written { attachment: uploaded.attachment, keep_revpos: false, pin: uploaded.pin };
        (name.clone(), source)
    });
    Incoming {
        id: sample.id.clone(),
        parent: None,
        path: (generation, sample.path.clone()),
        deleted: sample.deleted,
        json: sample.json.clone(),
        attachments: attachments.collect(),
    }
}

/// Writes a random part of the revisions, in a random order.
pub async fn fill(database: &Arc<Database>, universe: &[Sample], random: &mut Random) {
    let mut chosen: Vec<&Sample> = universe.iter().filter(|_| random.below(3) > 0).collect();
    for at in (1..chosen.len()).rev() {
        chosen.swap(at, random.below(at as u64 + 1) as usize);
    }
    for some in chosen.chunks(3) {
        let edits = some.iter().map(|sample| incoming(database, sample)).collect();
        for result in database.update(edits, Mode::Replicated, &AllowAll).await.unwrap() {
            result.unwrap();
        }
    }
}

/// Writes one document over its winner.
pub async fn put(database: &Arc<Database>, id: &str, value: u64) {
    let parent = database.winner(id).unwrap().map(|(_, winner)| winner.revision);
    let edit = Incoming {
        id: id.into(),
        parent,
        path: (0, Vec::new()),
        deleted: false,
        json: json!({ "value": value }).to_string(),
        attachments: Vec::new(),
    };
    database.update(vec![edit], Mode::Interactive, &AllowAll).await.unwrap().remove(0).unwrap();
}

/// What a leaf is made of.
#[derive(Debug, PartialEq)]
pub struct Leaf {
    id: String,
    json: String,
    deleted: bool,
    is_winner: bool,
    path: Vec<String>,
    /// Name, type, digest, length, stored length, content.
    attachments: Vec<(String, String, String, u64, u64, Vec<u8>)>,
}

type Key = (String, String);

/// All leaves of a database with their contents.
pub fn contents(database: &Arc<Database>) -> BTreeMap<Key, Leaf> {
    let mut leaves = BTreeMap::new();
    let rows = database.changes(0, Direction::Forward, PageLimit::entries(10_000)).unwrap().rows;
    for (_, row) in rows {
        for (at, leaf) in row.leaves.iter().enumerate() {
            let found = database.find(&row.id, Wanted::Revision(&leaf.revision)).unwrap();
            let attachments = found.body.attachments.iter().map(|attachment| {
                let mut content = Content::open(&**database.blobs(), attachment, true, 0).unwrap();
                let mut bytes = Vec::new();
                loop {
                    let some = content.next(1 << 20).unwrap();
                    if some.is_empty() {
                        break;
                    }
                    bytes.extend(some);
                }
                let (name, kind) = (attachment.name.clone(), attachment.content_type.clone());
                (name, kind, attachment.digest(), attachment.length, attachment.stored, bytes)
            });
            let path = found.tree.ancestry(&leaf.revision).map(|node| node.revision.to_string()).collect();
            let made = Leaf {
                id: row.id.clone(),
                attachments: attachments.collect(),
                json: found.body.json,
                deleted: leaf.deleted,
                is_winner: at == 0,
                path,
            };
            leaves.insert((row.id.clone(), leaf.revision.to_string()), made);
        }
    }
    leaves
}

/// Whether a database has the revision, as a leaf or as an ancestor of one.
pub fn is_known(database: &Database, (id, revision): &Key) -> bool {
    let revision: Revision = revision.parse().unwrap();
    database.record(id).unwrap().is_some_and(|record| record.tree.get(&revision).is_some())
}

/// A random filter.
pub fn filter(universe: &[Sample], random: &mut Random) -> Filter {
    match random.below(4) {
        0 => Filter::None,
        1 => {
            let mut ids: Vec<String> =
                universe.iter().filter(|_| random.below(2) == 0).map(|sample| sample.id.clone()).collect();
            ids.sort();
            ids.dedup();
            Filter::DocIds(ids)
        }
        2 => {
            let kind = ["red", "green"][random.below(2) as usize];
            Filter::Selector(json!({ "kind": kind }))
        }
        _ => Filter::Named("_design".into()),
    }
}

/// Whether a leaf passes.
pub fn passes(filter: &Filter, leaf: &Leaf) -> bool {
    match filter {
        Filter::None => true,
        Filter::DocIds(ids) => ids.contains(&leaf.id),
        Filter::Selector(selector) => {
            let body: Value = serde_json::from_str(&leaf.json).unwrap();
            body["kind"] == selector["kind"]
        }
        Filter::Named(_) => leaf.id.starts_with("_design/"),
    }
}
