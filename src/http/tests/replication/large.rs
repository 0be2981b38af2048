//! Documents with many large leaves, which are read in parts.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::hostile::{ABOUT, JSON, Script, from, source};
use super::*;
use crate::replicate::READ_AT_ONCE;

const MB: usize = 1 << 20;

/// How many revisions each request for a document has asked for.
type Asked = Arc<Mutex<BTreeMap<String, Vec<usize>>>>;

/// A source of documents with so many leaves of a megabyte each.
fn source_of(ids: &'static [&'static str], leaves: usize, as_json: bool) -> (Script, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let script: Script = Arc::new(move |_, path| {
        let revisions: Vec<String> = (0..leaves).map(|number| format!("1-{number:032x}")).collect();
        let (name, query) = path.split_once('?').unwrap_or((path, ""));
        if name == "/db" {
            return Some((200, JSON, ABOUT.to_vec()));
        }
        if name == "/db/_changes" {
            let changes: Vec<Value> = revisions.iter().map(|rev| json!({ "rev": rev })).collect();
            let row = |id| json!({"seq": format!("1-{id}"), "id": id, "changes": changes});
            let rows: Vec<Value> = ids.iter().map(row).collect();
            return Some((200, JSON, json!({"results": rows, "last_seq": "9-x", "pending": 0}).to_string().into()));
        }
        let id = name.strip_prefix("/db/").filter(|id| ids.contains(id))?;
        let wanted: Vec<&String> = revisions.iter().filter(|revision| query.contains(revision.as_str())).collect();
        seen.lock().entry(id.to_owned()).or_default().push(wanted.len());
        let document = |revision: &&String| json!({"_id": id, "_rev": revision, "x": "x".repeat(MB)});
        if as_json {
            let rows: Vec<Value> = wanted.iter().map(|revision| json!({"ok": document(revision)})).collect();
            return Some((200, JSON, Value::from(rows).to_string().into_bytes()));
        }
        let mut body = String::new();
        for revision in &wanted {
            body += &format!("--x\r\nContent-Type: application/json\r\n\r\n{}\r\n", document(revision));
        }
        Some((200, "multipart/mixed; boundary=\"x\"", (body + "--x--").into_bytes()))
    });
    (script, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_leaves_of_a_document_are_read_in_parts() {
    const LEAVES: usize = 20;
    let here = server(&[]).await;
    let (script, asked) = source_of(&["a"], LEAVES, false);
    let (_, documents, progress) = from(&here, "db", script).await;
    assert_eq!((documents, progress.counters().docs_written), (1, LEAVES as u64));
    let asked = asked.lock()["a"].clone();
    let parts: Vec<usize> = asked.windows(2).map(|pair| pair[0] - pair[1]).collect();
    assert!(asked[0] == LEAVES && parts.len() > 1, "{asked:?}");
    assert!(parts.iter().all(|part| *part <= READ_AT_ONCE / MB + 1), "{asked:?}");
}

/// Slow peers hold all the memory that is common: others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_goes_on_while_others_hold_all_the_memory() {
    let here = server(&[]).await;
    let context = context(&here);
    let slow: Vec<_> = (0..10).map(|_| context.network.memory.share()).collect();
    let held: Vec<_> = slow.iter().flat_map(|share| std::iter::from_fn(|| share.hold_now(MB))).collect();
    assert!(held.len() > 100, "all of it");
    let (script, _) = source_of(&["a", "b"], 3, false);
    let (address, _) = source(script).await;
    let target = create(&here, "db");
    let mut parameters = Parameters::new(remote(address, "db"), local("db"));
    parameters.use_checkpoints = false;
    let answer = replicate(&context, &parameters).await;
    assert_eq!((target.info().documents, contents(&target).len()), (2, 6), "{answer}");
}

/// More such documents than may be read at a time: those that wait are read later, and none waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_documents_with_large_leaves_are_read() {
    const LEAVES: usize = 12;
    let ids = &["a", "b", "c", "d", "e", "f"];
    let here = server(&[]).await;
    for (name, as_json) in [("multipart", false), ("json", true)] {
        let (script, _) = source_of(ids, LEAVES, as_json);
        let (_, documents, progress) = from(&here, name, script).await;
        let counters = progress.counters();
        assert_eq!((documents, counters.docs_written, counters.doc_write_failures), (6, 6 * LEAVES as u64, 0));
    }
}
