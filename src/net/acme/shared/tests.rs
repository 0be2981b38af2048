//! Two nodes on one store.

use rcgen::{CertificateParams, date_time_ymd};

use super::*;
use crate::net::acme::Automatic;
use crate::net::acme::shown::CHALLENGE;
use crate::net::acme::tests::{client, sample, shown, wanted};
use crate::net::tls::Identity;
use crate::store::shared_memory::Cluster;

/// Two nodes on a new store, whose calls may not be made on an async thread.
fn two(clock: &Clock) -> (Arc<Cluster>, [Automatic; 2]) {
    let cluster = Cluster::new(clock.clone());
    let nodes = [(); 2].map(|()| node(&cluster, clock));
    cluster.refuse_async_threads(true);
    (cluster, nodes)
}

fn node(cluster: &Arc<Cluster>, clock: &Clock) -> Automatic {
    Automatic::shared(wanted(&["localhost"]), cluster.node(), client(), clock.clone())
}

fn of(node: &Automatic) -> &Shared {
    node.cache.shared().unwrap()
}

/// What a call that blocks returns.
async fn blocking<T: Send + 'static>(node: &Automatic, call: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
    let shared = of(node).clone();
    tokio::task::spawn_blocking(move || call(&shared)).await.unwrap()
}

/// A certificate for `localhost` that is valid until the end of a year, as it is stored.
fn valid_until(year: i32) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(year, 12, 31));
    let key = KeyPair::generate().unwrap();
    [key.serialize_pem(), params.self_signed(&key).unwrap().pem()].concat().into_bytes()
}

fn in_use(node: &Automatic) -> Option<u64> {
    node.current.lock().as_ref().map(|issued| issued.until().as_secs() / 31_556_952 + 1970)
}

#[tokio::test]
async fn every_node_answers_the_challenge_of_one() {
    let clock = Clock::fixed(Duration::from_secs(1_800_000_000));
    let (_cluster, [first, second]) = two(&clock);
    let publisher = of(&first).clone();
    let there = Identity::automatic(second, true).unwrap();
    assert!(shown(&there, &[CHALLENGE]).await.is_err(), "nothing is to be checked yet");

    let answer = Answer::make("localhost", &[7; 32]).unwrap();
    let wanted = answer.certified().unwrap().cert[0].to_vec();
    publisher.publish("localhost", answer).await.unwrap();
    assert_eq!(shown(&there, &[CHALLENGE]).await.unwrap().0, wanted);
    for protocols in [&[b"http/1.1".as_slice()][..], &[CHALLENGE, b"http/1.1"], &[]] {
        assert!(shown(&there, protocols).await.is_err(), "the answer is no certificate");
    }
    assert!(publisher.answer("elsewhere.example").await.is_none(), "nobody looks for other names");
    publisher.withdraw("localhost").await;
    assert!(shown(&there, &[CHALLENGE]).await.is_err());

    // A node that dies leaves its answer there, which ends.
    publisher.publish("localhost", Answer::make("localhost", &[8; 32]).unwrap()).await.unwrap();
    clock.advance(ORDER);
    assert!(shown(&there, &[CHALLENGE]).await.is_err());
}

#[tokio::test]
async fn every_node_uses_the_certificate_of_one() {
    let clock = Clock::fixed(Duration::from_secs(1_800_000_000));
    let (cluster, [first, second]) = two(&clock);
    second.learn().await;
    assert_eq!((second.due_in(), in_use(&second)), (Duration::ZERO, None));
    blocking(&first, |shared| shared.keep(&sample()).unwrap()).await;
    second.learn().await;
    let known = in_use(&second);
    assert!(known.is_some() && !second.due_in().is_zero());
    let there = Identity::automatic(second, true).unwrap();
    let expected = Issued::read(&sample(), &["localhost".into()]).unwrap().key().cert[0].to_vec();
    assert_eq!(shown(&there, &[b"http/1.1"]).await.unwrap().0, expected);

    // A node that starts later has it at once, and no order begins.
    cluster.refuse_async_threads(false);
    let third = node(&cluster, &clock);
    assert_eq!(in_use(&third), known);
    assert_eq!(third.begin().await, None);
    let other = Wanted { domains: vec!["b.example".into()], ..wanted(&[]) };
    let other = Automatic::shared(other, cluster.node(), client(), clock);
    assert_eq!(in_use(&other), None, "other names, another certificate");
}

#[tokio::test]
async fn a_certificate_never_replaces_one_that_is_valid_for_longer() {
    let (_cluster, [first, second]) = two(&Clock::system());
    for (year, stays) in [(2040, 2040), (2050, 2050), (2045, 2050)] {
        blocking(&first, move |shared| shared.keep(&valid_until(year)).unwrap()).await;
        second.learn().await;
        assert_eq!(in_use(&second), Some(stays));
    }
    // What is damaged is replaced.
    blocking(&first, |shared| {
        let change = Change::Write(Some(b"damaged".to_vec()), Durability::Synced);
        update(&*shared.store, &shared.certificate_key(), |_| Ok::<_, StoreError>((change.clone(), ()))).unwrap();
    })
    .await;
    second.learn().await;
    assert_eq!(in_use(&second), Some(2050), "it stays in use");
    blocking(&first, |shared| shared.keep(&valid_until(2041)).unwrap()).await;
    first.learn().await;
    assert_eq!(in_use(&first), Some(2041));
}

#[tokio::test]
async fn nodes_that_create_the_account_at_once_get_the_same() {
    let (_cluster, [first, second]) = two(&Clock::system());
    let keys = tokio::join!(blocking(&first, Shared::account_key), blocking(&second, Shared::account_key));
    assert_eq!(keys.0.unwrap(), keys.1.unwrap());
}

#[tokio::test]
async fn one_node_orders_at_a_time_and_all_wait_after_a_failure() {
    let clock = Clock::fixed(Duration::from_secs(1_800_000_000));
    let (_cluster, [first, second]) = two(&clock);
    assert_eq!(first.begin().await, Some(0));
    assert_eq!(second.begin().await, None, "another one orders");
    first.end(1, pause_after(1)).await;
    for node in [&first, &second] {
        assert_eq!(node.begin().await, None, "the pause is not over");
    }
    clock.advance(pause_after(1));
    assert_eq!(second.begin().await, Some(1), "the failure is counted on any node");

    // It dies while it orders: that was a failure, and its lease ends.
    clock.advance(TTL);
    assert_eq!(first.begin().await, None);
    clock.advance(pause_after(2));
    assert_eq!(first.begin().await, Some(2));
    assert!(!blocking(&second, |shared| shared.renew().unwrap()).await, "it has lost its turn");
    second.end(9, pause_after(9)).await;
    first.end(0, Duration::ZERO).await;
    assert_eq!(second.begin().await, Some(0));

    // A time that no pause can reach comes from a wrong clock.
    second.end(3, LAST_PAUSE * 2).await;
    assert_eq!(first.begin().await, Some(3));
}
