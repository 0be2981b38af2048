//! Whose replications they are: requests and documents that ask for the same one, and old versions of documents.

use parking_lot::Mutex;

use super::hostile::{ABOUT, JSON, NEVER, Script, source};
use super::*;
use crate::replicate::scheduler::Origin;

/// Waits for a condition.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}, in time"));
}

/// A server with the users bob and eve, and the databases `a` and `b`, whose members they are.
async fn with_users() -> Running {
    let here = server(&[("replicator", "allow_private", "true")]).await;
    for name in ["bob", "eve"] {
        let user = json!({"name": name, "password": "pw", "roles": [], "type": "user"});
        let made = send(&here, &format!("PUT /_users/org.couchdb.user:{name}"), ADMIN, user).await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    for name in ["a", "b"] {
        create(&here, name);
        let security = json!({"members": {"names": ["bob", "eve"]}});
        assert_eq!(send(&here, &format!("PUT /{name}/_security"), ADMIN, security).await.status, 200);
    }
    here
}

async fn post(here: &Running, who: &str, body: Value) -> Reply {
    send(here, "POST /_replicate", who, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_belongs_to_who_began_it() {
    let here = with_users().await;
    let (bob, eve) = (basic("bob", "pw"), basic("eve", "pw"));
    let scheduler = &here.app.replications.scheduler;
    let body = json!({"source": "a", "target": "b", "continuous": true});
    let begun = post(&here, &bob, body.clone()).await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let id = begun.json()["_local_id"].as_str().unwrap().to_owned();
    let job = scheduler.job(&id).unwrap();
    let cancel = json!({"cancel": true, "replication_id": id});
    for (who, body) in [(&eve, &body), (&eve, &cancel)] {
        assert_eq!(post(&here, who, body.clone()).await.status, 401, "{body}");
    }
    for who in [bob.as_str(), ADMIN] {
        assert_eq!(post(&here, who, body.clone()).await.status, 202);
        assert!(Arc::ptr_eq(&job, &scheduler.job(&id).unwrap()), "the job goes on");
    }
    let other = json!({"source": "a", "target": "b", "continuous": true, "checkpoint_interval": 5000});
    assert_eq!(post(&here, &bob, other).await.json()["_local_id"], *id);
    assert!(!Arc::ptr_eq(&job, &scheduler.job(&id).unwrap()), "other parameters replace it");
    assert_eq!(post(&here, ADMIN, cancel.clone()).await.status, 200);
    assert_eq!(post(&here, &bob, cancel).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_too_many_jobs_may_still_ask_for_those() {
    let here = with_users().await;
    let bob = basic("bob", "pw");
    let body =
        |number: usize| json!({"source": "a", "target": "b", "continuous": true, "doc_ids": [number.to_string()]});
    for number in 0..50 {
        assert_eq!(post(&here, &bob, body(number)).await.status, 202, "{number}");
    }
    assert_eq!(post(&here, &bob, body(50)).await.status, 429);
    assert_eq!(post(&here, &bob, body(7)).await.status, 202, "it is there");
    assert_eq!(post(&here, &basic("eve", "pw"), body(50)).await.status, 202, "of another user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_and_a_request_do_not_stop_each_others_jobs() {
    let here = with_users().await;
    let scheduler = &here.app.replications.scheduler;
    let body = json!({"source": "a", "target": "b", "continuous": true});
    let made = send(&here, "PUT /_replicator/d", ADMIN, body.clone()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    until("the job of the document", || scheduler.counts().total == 1).await;
    let id = post(&here, ADMIN, body.clone()).await.json()["_local_id"].as_str().unwrap().to_owned();
    assert!(matches!(scheduler.job(&id).unwrap().origin, Origin::Document { .. }), "it is the document's still");
    let mut other = body.clone();
    other["checkpoint_interval"] = json!(5000);
    let refused = post(&here, ADMIN, other).await;
    assert_eq!((refused.status, refused.error().as_str()), (400, "bad_request"), "{}", refused.text());
    assert!(refused.reason().contains("document `d`"), "{}", refused.text());
    // Cancelled and begun by a request, it is no longer the document's.
    assert_eq!(post(&here, ADMIN, json!({"cancel": true, "replication_id": id})).await.status, 200);
    assert_eq!(post(&here, ADMIN, body.clone()).await.status, 202);
    let job = scheduler.job(&id).unwrap();
    let mut changed = body;
    (changed["_rev"], changed["note"]) = (made.json()["rev"].clone(), json!("changed"));
    let changed = send(&here, "PUT /_replicator/d", ADMIN, changed).await;
    assert_eq!(changed.status, 201, "{}", changed.text());
    let documents = &here.app.replications.documents;
    until("the document to have an error", || documents.counts().error == 1).await;
    assert!(scheduler.job(&id).is_some_and(|now| Arc::ptr_eq(&job, &now)), "the request's job goes on");
    let gone = format!("DELETE /_replicator/d?rev={}", changed.json()["rev"].as_str().unwrap());
    assert_eq!(send(&here, &gone, ADMIN, Value::Null).await.status, 200);
    until("the document to be forgotten", || documents.counts().total == 0).await;
    assert!(scheduler.job(&id).is_some(), "still");
}

/// The job of a version goes on until the replication of the next version is known. What it ends with is of its own
/// version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_old_versions_job_is_not_written_to_the_new_version() {
    let here = server(&[("replicator", "allow_private", "true"), ("replicator", "max_jobs", "0")]).await;
    let scheduler = &here.app.replications.scheduler;
    let a = create(&here, "a");
    create(&here, "b");
    samples::put(&a, "doc", 1).await;
    // The next version has a filter function, whose source does not answer.
    let asked = Arc::new(Mutex::new(false));
    let seen = asked.clone();
    let script: Script = Arc::new(move |_, path| {
        if path.starts_with("/db/_design") {
            *seen.lock() = true;
            return Some((NEVER, JSON, Vec::new()));
        }
        (path == "/db").then(|| (200, JSON, ABOUT.to_vec()))
    });
    let (address, _) = source(script).await;
    let first = send(&here, "PUT /_replicator/d", ADMIN, json!({"source": "a", "target": "b"})).await;
    assert_eq!(first.status, 201, "{}", first.text());
    until("the first version's job", || scheduler.counts().pending == 1).await;
    let next =
        json!({"source": format!("http://{address}/db"), "target": "b", "filter": "d/f", "_rev": first.json()["rev"]});
    assert_eq!(send(&here, "PUT /_replicator/d", ADMIN, next).await.status, 201);
    until("the filter to be asked for", || *asked.lock()).await;
    let set = send(&here, "PUT /_node/_local/_config/replicator/max_jobs", ADMIN, json!("5")).await;
    assert_eq!(set.status, 200, "{}", set.text());
    until("the first version's job to be complete", || scheduler.counts().completions == 1).await;
    // What is reported of another document comes later.
    let other = json!({"source": "a", "target": "c", "create_target": true});
    assert_eq!(send(&here, "PUT /_replicator/other", ADMIN, other).await.status, 201);
    let state = async |id: &str| {
        send(&here, &format!("GET /_replicator/{id}"), ADMIN, Value::Null).await.json()["_replication_state"].clone()
    };
    within(async {
        while state("other").await != "completed" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(state("d").await, Value::Null, "the second version has not run");
}
