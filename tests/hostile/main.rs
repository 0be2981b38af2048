//! Attacks on the real binary: damaged folders, withdrawn rights, clients that hold on, functions that never end.
//!
//! Each module has one kind of attack. The short form runs with all tests; `SETTEE_ROUNDS=N` makes the random ones longer.

#[allow(dead_code, reason = "shared with the durability tests; each uses a part")]
#[path = "../durability/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the durability tests; each uses a part")]
#[path = "../durability/device.rs"]
mod device;
#[allow(dead_code, reason = "shared with the durability tests; each uses a part")]
#[path = "../durability/server.rs"]
mod server;

mod accounts;
mod builds;
mod damage;
mod full_disk;
mod rights;
mod scripts;
mod slow_readers;
