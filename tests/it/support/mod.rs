//! What the tests stand on: real servers, started and stopped by the test that needs them.
#![allow(dead_code, reason = "a kit: its parts serve whichever test needs them")]

pub mod bystander;
pub mod client;
pub mod follower;
pub mod http;
pub mod log;
pub mod proxy;
pub mod redis;
pub mod replica;
pub mod sse;
pub mod wire;

use std::time::Duration;

/// How long a test waits for something that must happen. Long, because it is only spent when the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

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
