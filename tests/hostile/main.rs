//! Attacks on the real binary: damaged data folders, revoked access, slow clients, endless functions.
//!
//! Each module tests one kind of attack. A short version runs with all tests; `SETTEE_ROUNDS=N` makes the
//! randomized tests longer.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

#[path = "../allowed_skips/mod.rs"]
mod allowed_skips;
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
mod frames;
mod full_disk;
mod http2;
mod rights;
mod scripts;
mod selectors;
mod slow_readers;
