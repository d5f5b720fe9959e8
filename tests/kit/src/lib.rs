//! The common base of the suites: real servers, started and stopped by the test that needs them, and clients that read
//! like prose. If something is missing, the test fails; it is never skipped.
//!
//! The gateway is linked with its feature `simulation`, so every test binary has the simulated back end and the
//! deliberate defects, and so has the program that `cargo test` builds.
#![warn(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a missing value fails the test, as it should")]

pub mod bystander;
pub mod certificates;
pub mod client;
pub mod dice;
pub mod follower;
pub mod http;
pub mod log;
pub mod proxy;
pub mod redis;
pub mod replica;
pub mod sentinels;
pub mod sse;
pub mod wire;

use std::{path::PathBuf, time::Duration};

/// How long a test waits for something that must happen. Long, because the time is spent only when the test fails, and
/// because a busy machine may take ten times as long as usual.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program to test instead of the one that `cargo test` built, such as an optimized one.
const PROGRAM: &str = "TICKGATE_TEST_PROGRAM";

/// The gateway's program. Other programs that the suites start are in the same directory.
pub fn program() -> PathBuf {
    let path = std::env::var_os(PROGRAM).or_else(|| std::env::var_os("CARGO_BIN_EXE_tickgate"));
    path.expect("tests are run by cargo, which names the program").into()
}

/// Polls until the result is available, for conditions without an event to wait for: the state of another process.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}
