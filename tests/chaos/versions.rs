//! A rolling restart from one version of the gateway to another and back, under traffic: meanwhile both work on one
//! Redis.
//!
//! `just versions` builds the previous version and passes its program; otherwise both are this version, and the test
//! covers the restart itself.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    cast,
    dice::Dice,
    faults::drain,
    sight::connected,
    stage::{ChaosStage, REPLICAS},
    support,
};

/// How long both versions work together after each replaced replica.
const TOGETHER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(15);
const PUBLISHERS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_restart_to_another_version_and_back_loses_nothing() {
    let (new, old) = (support::program(), other_program().unwrap_or_else(support::program));
    let stage = ChaosStage::set_with(cast::durable(), &old, None, &[]).await;
    let mut dice = Dice::new(1);
    stage.seat_audience(&mut dice);
    connected(&stage).await;
    let begun = Instant::now();
    stage.start_traffic(PUBLISHERS, &mut dice);
    // Forward, back from half-way, and forward again.
    let forward = (0..REPLICAS).map(|number| (number, &new));
    let course = [(0, &new), (1, &new), (1, &old), (0, &old)].into_iter().chain(forward);
    for (number, program) in course {
        stage.program.lock().clone_from(program);
        drain(&stage, number).await;
        stage.ready(number).await;
        connected(&stage).await;
        sleep(TOGETHER).await;
    }
    stage.stop_traffic().await;
    stage.converged(begun, PATIENCE).await.expect("everybody has everything");
    let wrong = [stage.judge(), stage.gaps_since(begun)].concat();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let ledger = stage.ledger.lock();
    let accepted: usize = ledger.acknowledged.values().map(|stream| stream.len()).sum();
    assert!(accepted > 0 && ledger.given_up == 0, "{accepted} accepted, {} given up", ledger.given_up);
    eprintln!("{accepted} accepted through 7 restarts, nothing lost, no gap told; old: {}", old.display());
}

/// The program of the other version.
fn other_program() -> Option<PathBuf> {
    std::env::var_os("TICKGATE_OTHER_PROGRAM").map(PathBuf::from)
}
