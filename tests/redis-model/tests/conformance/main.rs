//! The model against a real `redis-server`: both receive the same random commands and all of the product's scripts, and
//! must return the same bytes. What depends on a clock or an allocator is excluded from the comparison, and named here.
//!
//! `TICKGATE_MODEL_SEED=<seed>` repeats one round, `TICKGATE_MODEL_SECONDS=<n>` runs longer.
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]
#![allow(clippy::unwrap_used, reason = "a missing value fails the test, as it should")]

mod scripts;
mod twin;
mod words;

use std::time::{Duration, Instant};

use tickgate_kit::{dice::Dice, redis::RedisServer};
use twin::{Condition, Twin};

/// Commands per round, which starts with empty servers.
const ROUND: u64 = 400;
const SECONDS: u64 = 10;
/// Maximum number of differences that are shown.
const SHOWN: usize = 20;

#[expect(clippy::disallowed_methods, reason = "settings of the test itself")]
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn the_model_responds_like_redis() {
    let server = RedisServer::start_with(&["--stream-node-max-entries", "3"]);
    let seconds = Duration::from_secs(knob("TICKGATE_MODEL_SECONDS").unwrap_or(SECONDS));
    let (begun, mut commands, mut differences) = (Instant::now(), 0, Vec::new());
    for seed in knob("TICKGATE_MODEL_SEED").map_or(0..=u64::MAX, |seed| seed..=seed) {
        if begun.elapsed() > seconds || differences.len() == SHOWN {
            break;
        }
        let mut twin = Twin::new(&server, seed);
        let mut dice = Dice::new(seed);
        for number in 0..ROUND {
            if dice.chance(10) {
                twin.become_so(*dice.choose(Condition::ALL));
            }
            let words = if dice.chance(400) { scripts::random(&mut dice) } else { words::random(&mut dice) };
            commands += 1;
            if let Err(difference) = twin.ask(number, &words) {
                // The rest of the round would differ for the same reason.
                differences.push(difference);
                break;
            }
        }
    }
    println!("{commands} commands");
    assert!(differences.is_empty(), "TICKGATE_MODEL_SEED repeats one round\n{}", differences.join("\n"));
}
