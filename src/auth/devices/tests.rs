use std::time::Duration;

use super::record::{FORGET, MAX_DEVICES, MAX_REVOKED};
use super::tokens::hashed;
use super::*;
use crate::store::memory::Memory;

const TIMEOUT: u64 = 600;
const START: u64 = 1_700_000_000;

struct House {
    clock: Clock,
    store: Arc<dyn Store>,
    devices: Devices,
}

fn house() -> House {
    let clock = Clock::fixed(Duration::from_secs(START));
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let devices = Devices::new(store.clone(), clock.clone());
    House { clock, store, devices }
}

fn phone() -> Client {
    Client { name: "phone".into(), address: "10.0.0.1".into() }
}

impl House {
    fn begin(&self, user: &str) -> u64 {
        self.devices.begin(user, &phone(), TIMEOUT).expect("begins")
    }

    fn seen(&self, user: &str, issued: u64) -> bool {
        self.devices.seen(user, issued, &phone(), TIMEOUT).expect("looks").is_some()
    }

    fn list(&self, user: &str) -> Vec<Value> {
        let list = self.devices.list(user, None, TIMEOUT).expect("lists");
        list.as_array().expect("an array").clone()
    }

    fn ids(&self, user: &str) -> Vec<String> {
        self.list(user).iter().map(|row| row["id"].as_str().expect("text").to_string()).collect()
    }

    /// Reopens the devices on the same store.
    fn reopened(self) -> House {
        let devices = Devices::new(self.store.clone(), self.clock.clone());
        House { devices, ..self }
    }

    fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

#[test]
fn each_sign_in_creates_a_device_with_a_distinct_issue_time() {
    let house = house();
    let issued: Vec<u64> = (0..5).map(|_| house.begin("ann")).collect();
    assert_eq!(issued, [START, START - 1, START - 2, START - 3, START - 4]);
    assert_eq!(house.begin("bob"), START, "issue times are distinct only per user");
    let house = house.reopened();
    assert_eq!(house.list("ann").len(), 5);
    assert!(issued.iter().all(|issued| house.seen("ann", *issued)));
    assert_eq!(house.list("ann").len(), 5, "known sessions are not adopted again");
}

#[test]
fn revoking_a_device_ends_it_at_once_and_keeps_the_others() {
    let house = house();
    let (one, two) = (house.begin("ann"), house.begin("ann"));
    let id = house.devices.of_session("ann", one).expect("looks").expect("a device");
    assert_eq!(house.devices.revoke("bob", &id), Ok(false), "the device is not bob's");
    assert_eq!(house.devices.revoke("ann", &id), Ok(true));
    assert_eq!(house.devices.revoke("ann", &id), Ok(false));
    assert!(!house.seen("ann", one) && house.seen("ann", two));
    let house = house.reopened();
    assert!(!house.seen("ann", one) && house.seen("ann", two));
    assert_ne!(house.begin("ann"), one, "a revoked issue time is not reused");
}

#[test]
fn revoking_all_devices_also_ends_unknown_sessions() {
    let house = house();
    let (one, two) = (house.begin("ann"), house.begin("ann"));
    assert_eq!(house.devices.revoke_all("ann", None), Ok(2));
    assert!(!house.seen("ann", one) && !house.seen("ann", two) && !house.seen("ann", START - 100));
    let again = house.begin("ann");
    assert!(again > START && house.seen("ann", again), "a new sign-in in the same second is valid");

    let (stays, goes) = (house.begin("bob"), house.begin("bob"));
    let id = house.devices.of_session("bob", stays).expect("looks");
    assert_eq!(house.devices.revoke_all("bob", id.as_deref()), Ok(1));
    assert!(house.seen("bob", stays) && !house.seen("bob", goes));
}

#[test]
fn an_unknown_session_is_adopted_and_renewal_keeps_its_device() {
    let house = house();
    assert!(house.seen("ann", START - 5));
    assert_eq!(house.ids("ann").len(), 1);
    house.later(100);
    let renewed = house.devices.renew("ann", START - 5, TIMEOUT).expect("renews");
    assert!(house.seen("ann", renewed) && house.seen("ann", START - 5));
    assert_eq!(house.ids("ann").len(), 1);
    let id = house.ids("ann").remove(0);
    house.devices.revoke("ann", &id).expect("revokes");
    assert!(!house.seen("ann", renewed) && !house.seen("ann", START - 5), "all cookies of the device end");
}

#[test]
fn a_longer_timeout_does_not_revive_an_ended_session() {
    let house = house();
    let (lost, kept) = (house.begin("ann"), house.begin("ann"));
    house.devices.end("ann", lost).expect("ends");
    house.later(TIMEOUT + 1);
    house.begin("ann");
    assert_eq!(house.devices.seen("ann", lost, &phone(), 100 * TIMEOUT), Ok(None));
    let later = house.begin("ann");
    assert!(house.seen("ann", later) && kept != later);
}

#[test]
fn signing_out_removes_the_device() {
    let house = house();
    let issued = house.begin("ann");
    house.devices.end("ann", issued).expect("ends");
    assert!(!house.seen("ann", issued));
    house.devices.end("ann", START - 50).expect("ends");
    assert!(!house.seen("ann", START - 50), "an unknown session ends too");
    assert!(house.list("ann").is_empty());
}

#[test]
fn refresh_tokens_rotate_and_reuse_revokes_the_device() {
    let house = house();
    let first = house.devices.begin_tokens("ann", "salt", &phone(), TIMEOUT).expect("begins");
    let rotate = |tokens: &Tokens, salt: &str| house.devices.rotate("ann", salt, tokens, &phone()).expect("looks");
    assert_eq!(rotate(&first, "other"), None, "the password was changed");
    let second = rotate(&first, "salt").expect("rotates");
    assert_eq!(second.device, first.device);
    assert!(house.devices.token_seen("ann", &first.device, &phone()).expect("looks"));
    let third = rotate(&second, "salt").expect("rotates");
    let wrong = Tokens { refresh: "guess".into(), ..third.clone() };
    assert_eq!(rotate(&wrong, "salt"), None);
    assert!(house.devices.token_seen("ann", &first.device, &phone()).expect("looks"), "a guess revokes nothing");
    assert_eq!(rotate(&second, "salt"), None, "used twice");
    assert!(!house.devices.token_seen("ann", &first.device, &phone()).expect("looks"));
    assert_eq!(rotate(&third, "salt"), None);
    assert!(!format!("{third:?}").contains(&third.refresh));
}

#[test]
fn reuse_of_a_much_older_refresh_token_revokes_the_device() {
    let house = house();
    let first = house.devices.begin_tokens("ann", "salt", &phone(), TIMEOUT).expect("begins");
    let rotate = |tokens: &Tokens| house.devices.rotate("ann", "salt", tokens, &phone()).expect("looks");
    let mut thiefs = first.clone();
    for _ in 0..5 {
        thiefs = rotate(&thiefs).expect("rotates");
    }
    assert_eq!(rotate(&first), None, "the owner's token was used before");
    assert_eq!(rotate(&thiefs), None, "revokes the thief's newer token");
    assert!(house.ids("ann").is_empty());
}

#[test]
fn a_refresh_token_of_an_older_build_still_rotates() {
    let house = house();
    let tokens = house.devices.begin_tokens("ann", "salt", &phone(), TIMEOUT).expect("begins");
    let old = Tokens { refresh: "0123456789abcdef".repeat(4), ..tokens };
    let stored = |record: &mut Record| {
        let refresh = record.devices[0].refresh.as_mut().expect("tokens");
        (refresh.current, refresh.family) = (hashed(&old.refresh), None);
        ((), Some(Durability::Synced))
    };
    house.devices.with("ann", stored).expect("stores");
    let house = house.reopened();
    let rotate = |tokens: &Tokens| house.devices.rotate("ann", "salt", tokens, &phone()).expect("looks");
    let next = rotate(&rotate(&old).expect("rotates")).expect("rotates");
    assert_eq!(rotate(&old), None, "used twice");
    assert_eq!(rotate(&next), None);
}

#[test]
fn refresh_tokens_expire() {
    let house = house();
    let tokens = house.devices.begin_tokens("ann", "salt", &phone(), TIMEOUT).expect("begins");
    house.later(REFRESH_LIFETIME);
    assert_eq!(house.devices.rotate("ann", "salt", &tokens, &phone()), Ok(None));
}

#[test]
fn the_list_shows_name_address_and_progress() {
    let house = house();
    let issued = house.begin("ann");
    let id = house.devices.of_session("ann", issued).expect("looks").expect("a device");
    house.devices.synced("ann", &id, "list", "7-abc").expect("notes");
    house.devices.synced("ann", "nobody", "list", "7-abc").expect("ignores");
    let row = house.list("ann").remove(0);
    assert_eq!(row["name"], "phone");
    assert_eq!(row["address"], "10.0.0.1");
    assert_eq!(row["kind"], "cookie");
    assert_eq!(row["databases"], json!({"list": "7-abc"}));
    assert_eq!((row["active"].clone(), row["current"].clone()), (true.into(), false.into()));
    house.later(TIMEOUT);
    assert_eq!(house.list("ann").remove(0)["active"], false);
    house.later(FORGET);
    assert!(house.list("ann").is_empty());
}

#[test]
fn a_client_that_uses_basic_is_listed_by_its_checkpoints() {
    let house = house();
    for sequence in ["1-a", "2-a"] {
        house.devices.synced_with_password("ann", &phone(), "list", sequence).expect("notes");
    }
    let rows = house.list("ann");
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0]["kind"].as_str(), rows[0]["active"].as_bool()), (Some("basic"), Some(false)));
    assert_eq!(rows[0]["databases"], json!({"list": "2-a"}));
}

#[test]
fn devices_names_and_databases_are_bounded() {
    let house = house();
    let long = Client { name: "x".repeat(10_000) + "\r\n", address: "y".repeat(10_000) };
    let issued: Vec<u64> = (0..200).map(|_| house.devices.begin("ann", &long, TIMEOUT).expect("begins")).collect();
    let rows = house.list("ann");
    assert_eq!(rows.len(), MAX_DEVICES);
    assert_eq!(rows[0]["name"].as_str().map(str::len), Some(128));
    let alive = issued.iter().filter(|issued| house.seen("ann", **issued)).count();
    assert_eq!(alive, MAX_DEVICES, "a device that is no longer listed is signed out");
    let id = house.ids("ann").remove(0);
    for number in 0..100 {
        house.devices.synced("ann", &id, &format!("db{number}"), "1").expect("notes");
    }
    assert!(
        house.list("ann").iter().all(|row| row["databases"].as_object().expect("an object").len() <= MAX_DATABASES)
    );
}

#[test]
fn many_sign_ins_in_a_short_time_all_get_nearly_the_full_timeout() {
    let house = house();
    for number in 0..MAX_REVOKED as u64 * 3 / 2 {
        let issued = house.begin("ann");
        let now = START + number / 50;
        assert!(issued + TIMEOUT > now + TIMEOUT * 8 / 10, "sign-in {number} is nearly over as it begins");
        assert!(house.seen("ann", issued), "sign-in {number}");
        if number % 3 == 0 {
            house.devices.end("ann", issued).expect("ends");
            assert!(!house.seen("ann", issued), "sign-in {number} was ended");
        }
        if number % 50 == 49 {
            house.later(1);
        }
    }
    let record = house.devices.with("ann", |record| (record.clone(), None)).expect("reads");
    assert!(record.revoked.len() <= MAX_REVOKED, "{}", record.revoked.len());
}

#[test]
fn repeated_sign_ins_of_one_client_do_not_sign_out_another_device() {
    let house = house();
    let phone = house.begin("ann");
    let script = Client { name: "curl".into(), address: "10.0.0.2".into() };
    for _ in 0..20 * MAX_DEVICES {
        house.devices.begin("ann", &script, TIMEOUT).expect("begins");
    }
    assert!(house.seen("ann", phone));
    assert_eq!(house.list("ann").len(), MAX_DEVICES);
}

#[test]
fn forgetting_a_user_ends_sessions_tokens_and_used_codes() {
    let House { devices, clock, .. } = house();
    let mut cookies: Vec<u64> =
        (0..3).map(|_| devices.begin("ann", &Client::default(), 600).expect("begins")).collect();
    devices.revoke_all("ann", None).expect("revokes");
    // Issued for the next second, because the revocation ends the sessions of this second and of all earlier
    // ones.
    cookies.push(devices.begin("ann", &Client::default(), 600).expect("begins"));
    let tokens = devices.begin_tokens("ann", "salt", &Client::default(), 600).expect("begins");
    assert_eq!(devices.use_code("ann", b"key", 7), Ok(true));
    let before = devices.revocations();
    devices.forget("ann").expect("forgets");
    assert!(devices.revocations() > before, "open feeds are re-checked");
    assert_eq!(devices.list("ann", None, 600).expect("lists"), json!([]));
    for issued in cookies {
        assert_eq!(devices.seen("ann", issued, &Client::default(), 600), Ok(None), "{issued}");
    }
    assert_eq!(devices.token_seen("ann", &tokens.device, &Client::default()), Ok(false));
    assert_eq!(devices.rotate("ann", "salt", &tokens, &Client::default()), Ok(None));
    assert_eq!(devices.use_code("ann", b"key", 7), Ok(true));
    clock.advance(Duration::from_secs(5));
    let issued = devices.begin("ann", &Client::default(), 600).expect("begins");
    assert!(devices.seen("ann", issued, &Client::default(), 600).is_ok_and(|device| device.is_some()));
}

#[test]
fn a_one_time_code_is_accepted_once_and_no_earlier_one_after_it() {
    let House { devices, clock, store } = house();
    let uses = |devices: &Devices, key: &[u8], step| devices.use_code("ann", key, step).expect("looks");
    assert!(uses(&devices, b"key", 7));
    assert!(!uses(&devices, b"key", 7) && !uses(&devices, b"key", 6));
    assert!(uses(&devices, b"other key", 6), "a new key starts over");
    assert!(uses(&devices, b"key", 8));
    let again = Devices::new(store, clock);
    assert!(!uses(&again, b"key", 8) && uses(&again, b"key", 9), "after a restart");
    let won: usize = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| usize::from(uses(&again, b"key", 10)))).collect();
        asked.into_iter().map(|one| one.join().expect("asks")).sum()
    });
    assert_eq!(won, 1);
}

/// Two servers on one store: the second reads the record before the first changes it again.
#[test]
fn a_record_that_another_server_has_changed_is_not_written_back_from_memory() {
    let house = house();
    let other = Devices::new(house.store.clone(), house.clock.clone());
    let first = house.begin("ann");
    let second = other.begin("ann", &phone(), TIMEOUT).expect("begins");
    let third = house.begin("ann");
    assert!(first != second && second != third && first != third, "each has its own second");
    assert_eq!(house.list("ann").len(), 3);
    other.end("ann", first).expect("ends");
    let code = house.devices.use_code("ann", b"key", 7).expect("writes");
    assert!(code && !house.seen("ann", first), "the sign-out at the other server stays");
    assert_eq!(other.use_code("ann", b"key", 7), Ok(false), "a code is used once, at whichever server");
    let house = house.reopened();
    assert!(!house.seen("ann", first) && house.seen("ann", second) && house.seen("ann", third));
}

#[test]
fn a_commit_of_another_server_between_read_and_write_is_not_lost() {
    let (there, clock) = (house(), Clock::fixed(Duration::from_secs(START)));
    there.begin("ann");
    let value = there.store.get(&key("ann")).expect("reads").expect("a record");
    let store = Arc::new(crate::store::rival::Rival::new(Arc::new(Memory::new()), &key("ann")));
    let devices = Devices::new(store.clone(), clock);
    store.writes_next([value]);
    assert_eq!(devices.begin("ann", &phone(), TIMEOUT), Ok(START - 1), "the second that the other server has taken");
    let list = devices.list("ann", None, TIMEOUT).expect("lists");
    assert_eq!(list.as_array().map(Vec::len), Some(2));
}

#[test]
fn what_is_only_in_memory_is_kept_when_nobody_else_has_written() {
    let house = house();
    let issued = house.begin("ann");
    let id = house.devices.of_session("ann", issued).expect("looks").expect("a device");
    for sequence in ["1-x", "2-x"] {
        house.devices.synced("ann", &id, "db", sequence).expect("notes");
    }
    house.begin("ann");
    assert!(house.list("ann").iter().any(|row| row["databases"]["db"] == "2-x"));
}

#[test]
fn a_revocation_of_unknown_outcome_is_announced() {
    use crate::store::embedded::faults::{Faults, WriteFault};
    let (store, faults) = Faults::store();
    let devices = Devices::new(store, Clock::fixed(Duration::from_secs(START)));
    devices.begin("ann", &phone(), TIMEOUT).expect("begins");
    let before = devices.revocations();
    faults.fail_write(0, WriteFault::Unknown);
    assert!(devices.revoke_all("ann", None).is_err());
    assert!(devices.revocations() > before, "open feeds are re-checked");
}

/// A call that changes the record waits for the store with the record locked.
#[test]
fn a_look_in_memory_does_not_wait_for_another_call() {
    let House { devices, store, .. } = &house();
    let issued = devices.begin("ann", &phone(), TIMEOUT).expect("begins");
    let stored = store.get(&key("ann")).expect("reads");
    let look = || devices.seen_in_memory("ann", issued, &phone(), stored.as_deref());
    assert!(look().is_some());
    let busy = devices.shard("ann").lock();
    assert_eq!(look(), None);
    drop(busy);
    assert!(look().is_some());
}
