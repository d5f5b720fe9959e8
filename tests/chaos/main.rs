//! The fault suite: real replicas, a real Redis and real sockets under every kind of fault, judged by what publishers
//! were told and what clients received. docs/guarantees.md has its figures.
//!
//! `cargo test --test chaos` runs for about 90 seconds; TICKGATE_CHAOS_SECONDS makes it longer, TICKGATE_CHAOS_SEED
//! repeats the random choices of a run, TICKGATE_CHAOS_FAULTS selects the kinds of faults. `cargo test --test chaos --
//! --ignored` proves that the suite can fail.
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]
#![allow(clippy::unwrap_used, reason = "what is not there fails the test, as it should")]

mod cast;
mod faults;
mod figures;
mod follower;
mod gateway;
mod judge;
mod ordeal;
mod publisher;
mod record;
mod redis_line;
mod scenarios;
mod settings;
mod sight;
mod specials;
mod stage;
mod standby;
mod verdict;
mod versions;

use tickgate_kit::{self as support, dice};
