//! Backup and compaction on one node while another one writes.

use super::*;
use crate::store::shared_memory::Cluster;

fn nodes() -> (Arc<Server>, Arc<Server>) {
    let cluster = Cluster::new(Clock::system());
    let blobs: Arc<dyn Blobs> = Arc::new(MemoryBlobs::new());
    let node = || {
        let (store, blobs) = (cluster.node(), blobs.clone());
        let databases = Databases::open(store.clone(), blobs.clone(), Clock::system()).unwrap();
        Arc::new(Server { store, blobs, databases })
    };
    (node(), node())
}

/// The counters of the database as stored.
fn there_now(server: &Server) -> crate::db::record::Info {
    server.databases.get("full").unwrap().info()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_consistent_while_another_node_writes() {
    let (one, two) = nodes();
    full(&one).await;
    let there = two.databases.get("full").unwrap();
    for seed in 0..4u64 {
        let writing = {
            let (two, there) = (two.clone(), there.clone());
            tokio::spawn(async move {
                work(&two, &there, 7_000 * (seed + 1), 120).await;
                if let Ok(found) = there.find("doc5", Wanted::Winner) {
                    there.purge(vec![("doc5".into(), vec![found.revision])]).await.unwrap();
                }
                there.put_security(format!(r#"{{"seed":{seed}}}"#)).await.unwrap();
            })
        };
        let bytes = backed_up(&one).await;
        let (copy, restored) = copy_of(&bytes);
        restored.unwrap();
        assert_eq!(checked(&copy).problems, Vec::<String>::new(), "seed {seed}");
        writing.await.unwrap();
        let (copy, restored) = copy_of(&backed_up(&one).await);
        restored.unwrap();
        let [copied, original] = [&copy, &*one].map(|server| {
            let mut lines = content(server, "full");
            // The last line shows the counters and `_security`.
            lines.pop();
            lines
        });
        assert!(copied == original, "seed {seed}");
        assert_eq!(copy.databases.get("full").unwrap().info(), there_now(&one).of_one_node());
        assert_eq!(*copy.databases.get("full").unwrap().security(), *there.security());
    }
    assert_eq!(one.databases.get("full").unwrap().info().held_until, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_on_every_node_wait_while_a_backup_holds_a_database() {
    let (one, two) = nodes();
    let here = one.databases.create("db", CreateOptions::default(), None).unwrap();
    let there = two.databases.get("db").unwrap();
    let hold = here.hold().await.unwrap();
    let writes: Vec<_> = [(&here, "a"), (&there, "b")]
        .map(|(database, id)| {
            let database = database.clone();
            tokio::spawn(async move {
                database.update(vec![edit(id.into(), None, 1)], Mode::Interactive, &AllowAll).await.unwrap()
            })
        })
        .into();
    // The writer on the other node has met the hold.
    while there.info().held_until == 0 {
        assert!(writes.iter().all(|write| !write.is_finished()));
        tokio::task::yield_now().await;
    }
    assert!(writes.iter().all(|write| !write.is_finished()));
    let hold = tokio::task::spawn_blocking(move || {
        assert!(hold.has_lasted().unwrap());
        hold
    });
    let hold = hold.await.unwrap();
    tokio::task::spawn_blocking(move || drop(hold)).await.unwrap();
    for write in writes {
        assert!(write.await.unwrap()[0].is_ok());
    }
    one.databases.catch_up(&["db"]).unwrap();
    assert_eq!((here.info().documents, here.info().held_until), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_on_both_nodes_while_one_writes_keeps_the_database_consistent() {
    let (one, two) = nodes();
    let here = full(&one).await;
    let there = two.databases.get("full").unwrap();
    for seed in 0..3u64 {
        let writing = {
            let (two, there) = (two.clone(), there.clone());
            tokio::spawn(async move { work(&two, &there, 9_000 * (seed + 1), 120).await })
        };
        let compacting = [here.clone(), there.clone()]
            .map(|database| tokio::spawn(async move { database.compact(&|_, _| {}).await }));
        for task in compacting {
            task.await.unwrap().unwrap();
        }
        writing.await.unwrap();
        assert_eq!(checked(&one).problems, Vec::<String>::new(), "seed {seed}");
    }
}
