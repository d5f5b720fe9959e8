//! Attacks within the limits: a real gateway as a process, at its default settings, on a real Redis, attacked as a
//! stranger would, while others use it. Each file is one attack; it prints what the attacker sent, what that cost the
//! gateway and Redis, and what the others saw, and fails when they saw anything of it.
//!
//! `cargo test --test security` runs the short forms, with the clocks of the gateway set faster where an attack needs
//! time. TICKGATE_SECURITY=long runs them as they were found, at the default settings (`just security`).
//! TICKGATE_SECURITY_GATEWAY names another program to attack, such as an earlier release.
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]
#![allow(clippy::unwrap_used, reason = "what is not there fails the test, as it should")]
#![allow(clippy::disallowed_methods, reason = "these settings and tasks are the test's own")]

mod attacker;
mod cost;
mod gateway;
mod neighbour;
mod scene;

mod s00_work_queue;
mod s01_toggling;
mod s02_left_behind;
mod s03_plain;
mod s04_handshakes;
mod s05_history;
mod s06_unpublished;
mod s07_other_types;
mod s08_log;
mod s09_presence;
mod s10_revocation;
mod s11_msg_id;
mod s12_engine;
mod s13_user_limit;
mod s14_development;
mod s15_redis_reader;
mod s16_keys;
mod s17_forwarded;
mod s18_key_set;
mod s19_redis_settings;
mod s20_mistyped;

use tickgate_kit as support;
