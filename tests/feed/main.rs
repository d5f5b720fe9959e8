//! The feed of Binance against an exchange that is broken on purpose: real replicas on a real Redis follow `sim-exchange`,
//! and what clients receive is compared with what happened there. A01 to A20 are the scenarios of docs/feeds.md.
//!
//! `cargo test --test feed` runs the short forms. TICKGATE_FEED=long runs them for as long as their description says, with
//! the load (`just feed`). Each deliberate defect of the feed must fail one of them (`defects`).
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]
#![allow(clippy::unwrap_used, reason = "what is not there fails the test, as it should")]
#![allow(clippy::disallowed_methods, reason = "these settings and tasks are the test's own")]

mod audience;
mod connection;
mod defects;
mod exchange;
mod load;
mod network;
mod normal;
mod redis;
mod replay;
mod rest;
mod silence;
mod stage;
mod symbols;
mod takeover;

use tickgate_kit as support;

/// Fails with everything that is wrong.
fn nothing(wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<_> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
