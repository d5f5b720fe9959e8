//! What the suites stand on: real servers, started and stopped by the test that needs them, and clients that read as
//! prose. Fails the test when something is missing; never skips it.
//!
//! The gateway is linked with its feature `simulation`, so every test binary has the simulated back end and the deliberate
//! defects, and so has the program that `cargo test` builds.
#![allow(clippy::unwrap_used, reason = "what is not there fails the test, as it should")]

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
pub mod sse;
pub mod wire;

use std::{path::PathBuf, time::Duration};

/// How long a test waits for something that must happen. Long, because it is only spent when the test fails, and because a
/// machine with other work may take ten times as long as usual.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which program to test instead of the one that `cargo test` built, such as an optimized one.
const PROGRAM: &str = "TICKGATE_TEST_PROGRAM";

/// The gateway's program. Others that the suites start are next to it.
pub fn program() -> PathBuf {
    let path = std::env::var_os(PROGRAM).or_else(|| std::env::var_os("CARGO_BIN_EXE_tickgate"));
    path.expect("tests are run by cargo, which names the program").into()
}

/// Asks again until the answer is there, for what has no event to wait for: the state of another process.
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
