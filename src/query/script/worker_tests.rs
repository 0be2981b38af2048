//! Tests of worker processes: effects of a failure, distribution of workers, and their end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::scripts::size;
use super::tests::{design, rows, scripts, set, word};
use super::*;

/// Loops in native code, where no interrupt is possible.
const SPINS: &str = "Array.prototype.reverse.call((function () { var n = 0; \
    return { get length() { return n++ ? 9007199254740991 : 3; } }; })());";

/// Scripts with a short time limit. It limits CPU time, so a busy machine does not matter.
fn quick() -> Scripts {
    Scripts::new(Limits { timeout: Duration::from_millis(100), ..scripts().limits() })
}

/// Returns the map function `emit(doc._id)` for a database.
fn ids_of(database: u64) -> Arc<MapSet> {
    let functions = vec!["function (doc) { emit(doc._id); }".to_owned()];
    Arc::new(MapSet { database, signature: "ids".into(), functions, lib: None })
}

fn endless_of(database: u64, body: &str) -> Arc<MapSet> {
    let functions = vec![format!("function (doc) {{ {body} }}")];
    Arc::new(MapSet { database, signature: body.into(), functions, lib: None })
}

/// Whether a process is a child of this one: running, or not waited for yet.
fn is_child(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    parent == Some(std::process::id())
}

#[test]
fn a_document_that_exceeds_limits_is_skipped_and_the_others_are_mapped() {
    let scripts = quick();
    for bad in ["while (true);", SPINS, "var all = []; while (true) all.push({});", "var s = 'x'; while (true) s += s;"]
    {
        let function = format!("function (doc) {{ if (doc.bad) {{ {bad} }} emit(doc._id); }}");
        let documents = (0..10).map(|n| format!(r#"{{"_id":"{n}","bad":{}}}"#, n == 3 || n == 7)).collect();
        let mapped = scripts.map_batch(&set(&[&function]), documents).wait().unwrap();
        assert_eq!(mapped.documents(), 10, "{bad}");
        for n in 0..10 {
            let is_bad = n == 3 || n == 7;
            assert_eq!(mapped.skipped(n).is_some(), is_bad, "{bad}: {n}");
            assert_eq!(rows(&mapped, n, 0), (!is_bad).then(|| vec![format!("\"{n}\":null")]), "{bad}: {n}");
        }
    }
    assert!(scripts.stats().skipped == 8 && scripts.stats().overran >= 2, "{:?}", scripts.stats());
}

#[test]
fn a_function_that_loops_on_any_document_fails_its_call() {
    let told = quick().map_batch(&endless_of(1, SPINS), vec![r#"{"_id":"a"}"#.into(), r#"{"_id":"b"}"#.into()]).wait();
    assert_eq!(word(told), "os_process_error");
}

#[test]
fn large_documents_of_tiny_values_do_not_fail_a_batch() {
    let scripts = Scripts::new(Limits { threads: 1, timeout: Duration::from_secs(20), ..Limits::default() });
    let large = |part: &str, bytes: usize| {
        format!(r#"{{"_id":"large","a":[{}0]}}"#, format!("{part},").repeat(bytes / (part.len() + 1)))
    };
    for (part, bytes) in [("{}", 7_000_000), ("[]", 1 << 20), ("[[]]", 1 << 20), ("\"\"", 1 << 20)] {
        let documents = vec![r#"{"_id":"first"}"#.into(), large(part, bytes), r#"{"_id":"last"}"#.into()];
        let mapped = scripts.map_batch(&ids_of(1), documents.clone()).wait().unwrap();
        assert_eq!(rows(&mapped, 0, 0).unwrap(), ["\"first\":null"], "{part}");
        assert_eq!(rows(&mapped, 2, 0).unwrap(), ["\"last\":null"], "{part}");
        assert_eq!(mapped.skipped(1).is_none(), rows(&mapped, 1, 0).is_some(), "{part}");
        let filter = serde_json::json!({ "_id": "_design/d", "filters": { "f": "function (doc) { return true; }" } });
        let passes = scripts.filter(&design(filter), "f", documents, "{}", "").wait().unwrap();
        assert!(passes[0] && passes[2], "{part}");
    }
}

#[test]
fn a_filter_skips_a_document_that_exceeds_limits() {
    let body = format!("function (doc) {{ if (doc.bad) {{ {SPINS} }} return true; }}");
    let view = serde_json::json!({ "map": format!("function (doc) {{ if (doc.bad) while (true); emit(1); }}") });
    let source = serde_json::json!({ "_id": "_design/d", "filters": { "f": body, "e": "function () { while (true); }" }, "views": { "v": view } });
    let (scripts, design) = (quick(), design(source));
    let documents =
        || vec![r#"{"_id":"a"}"#.to_owned(), r#"{"_id":"b","bad":1}"#.to_owned(), r#"{"_id":"c"}"#.to_owned()];
    assert_eq!(scripts.filter(&design, "f", documents(), "{}", "").wait(), Ok(vec![true, false, true]));
    assert_eq!(scripts.filter_view(&design, "v", documents()).wait(), Ok(vec![true, false, true]));
    assert_eq!(word(scripts.filter(&design, "e", documents(), "{}", "").wait()), "os_process_error");
}

#[test]
fn after_some_overruns_validation_rejects_the_rest() {
    let source = serde_json::json!({ "_id": "_design/d", "validate_doc_update": "function (doc) { if (doc.bad) while (true); }" });
    let designs = Arc::new(vec![design(source)]);
    let documents: Vec<_> = (0..40).map(|n| (format!(r#"{{"_id":"{n}","bad":{}}}"#, n != 0), None)).collect();
    let began = Instant::now();
    let verdicts = quick().validate_all(&designs, &Arc::new(documents), 0..40, "{}", "{}").wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!((verdicts.len(), &verdicts[0]), (40, &Ok(())));
    assert!(verdicts[1..].iter().all(|verdict| word(verdict.clone()) == "os_process_error"));
}

#[test]
fn endless_functions_of_one_database_leave_workers_for_others() {
    let scripts = Scripts::new(Limits { threads: 2, timeout: Duration::from_secs(60), ..Limits::default() });
    let endless: Vec<_> = [SPINS, "while (true);"]
        .iter()
        .flat_map(|body| {
            (0..55).map(|_| scripts.map_batch(&endless_of(1, body), vec!["{}".into()])).collect::<Vec<_>>()
        })
        .collect();
    for database in 2..5 {
        for _ in 0..20 {
            let mapped = scripts.map_batch(&ids_of(database), vec![r#"{"_id":"a"}"#.into()]).wait().unwrap();
            assert_eq!(mapped.row_count(), 1);
        }
    }
    let stats = scripts.stats();
    assert!((1..scripts.limits().workers() as u64).contains(&stats.busy), "{stats:?}");
    assert!(stats.waiting >= 100 && stats.workers <= scripts.limits().workers() as u64, "{stats:?}");
    drop(endless);
    let began = Instant::now();
    while scripts.stats().busy > 0 || scripts.stats().waiting > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", scripts.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_full_queue_rejects_at_once() {
    let scripts =
        Scripts::new(Limits { threads: 1, processes: 1, timeout: Duration::from_secs(60), ..Limits::default() });
    let endless: Vec<_> =
        (0..2100).map(|_| scripts.map_batch(&endless_of(1, "while (true);"), vec!["{}".into()])).collect();
    assert_eq!(word(scripts.map_batch(&ids_of(1), vec!["{}".into()]).wait()), "timeout");
    assert!(scripts.stats().refused >= 100);
    drop(endless);
}

#[test]
fn a_worker_killed_from_outside_is_replaced() {
    let scripts = scripts();
    let map = || scripts.map_batch(&ids_of(1), vec![r#"{"_id":"a"}"#.into()]).wait();
    assert_eq!(map().unwrap().row_count(), 1);
    for worker in scripts.threads.processes() {
        let worker = rustix::process::Pid::from_raw(worker).unwrap();
        rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    }
    let mapped = map().unwrap();
    assert_eq!((mapped.row_count(), mapped.skipped(0)), (1, None));
}

#[test]
fn a_worker_that_ends_by_itself_is_counted() {
    let scripts = scripts();
    let map = || scripts.map_batch(&ids_of(1), vec![r#"{"_id":"a"}"#.into()]).wait();
    assert_eq!(map().unwrap().row_count(), 1);
    assert_eq!(scripts.stats().died, 0);
    for worker in scripts.threads.processes() {
        let worker = rustix::process::Pid::from_raw(worker).unwrap();
        // Ends all threads at once. A signal that dumps core would let the worker answer one more request.
        rustix::process::kill_process(worker, rustix::process::Signal::TERM).unwrap();
    }
    // Whether the document was skipped does not matter here.
    let _ = map();
    assert!(scripts.stats().died >= 1, "{:?}", scripts.stats());
}

#[test]
fn databases_do_not_share_workers_and_dropping_the_handle_ends_all() {
    let scripts = Scripts::new(Limits { threads: 1, ..Limits::default() });
    for database in [1, 2, 3, 1, 2, 3] {
        assert_eq!(scripts.map_batch(&ids_of(database), vec!["{}".into()]).wait().unwrap().row_count(), 1);
    }
    assert!(scripts.stats().started >= 3, "{:?}", scripts.stats());
    let workers = scripts.threads.processes();
    assert!(workers.len() >= 3 && workers.iter().all(|worker| is_child(*worker)), "{workers:?}");
    drop(scripts);
    let began = Instant::now();
    while workers.iter().any(|worker| is_child(*worker)) {
        assert!(began.elapsed() < Duration::from_secs(20), "{workers:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_environment_that_hoards_memory_loses_no_document() {
    let scripts = scripts();
    let hoards = "function (doc) { globalThis.all = globalThis.all || []; all.push('x'.repeat(4 << 20) + doc._id); emit(doc._id); }";
    for _ in 0..3 {
        let documents = (0..20).map(|n| format!(r#"{{"_id":"{n}"}}"#)).collect();
        let mapped = scripts.map_batch(&set(&[hoards]), documents).wait().unwrap();
        assert_eq!(mapped.row_count(), 20);
    }
}

#[test]
fn a_worker_that_is_killed_after_its_job_gets_no_other_job() {
    let scripts = scripts();
    let killed = scripts.threads.submit(size(1, [0]), |seat| {
        seat.process.as_ref().inspect(|process| process.handle.kill(process::Killed::Cancelled));
        Ok(())
    });
    killed.wait().unwrap();
    let mapped = scripts.map_batch(&ids_of(1), vec![r#"{"_id":"a"}"#.into()]).wait().unwrap();
    assert_eq!(mapped.row_count(), 1);
}
