//! S5: a few bytes repeatedly request megabytes of history, and some clients never read the response. Resuming clients
//! once waited behind all of them for the links that read streams, and responses that were never read stayed in memory.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{Form, Scene},
    siege::{Bounds, Siege},
};

/// What strangers request: more than one page holds.
const HEAVY: &str = "trades:HEAVY";
const HEAVY_MESSAGES: usize = 150;
const HEAVY_BYTES: usize = 60_000;
/// What the neighbour resumes.
const LIGHT: &str = "trades:LIGHT";
const HISTORY: &str = r#"{"type":"history","channel":"trades:HEAVY","since":"earliest"}"#;
const REPLAY: &str = r#"{"type":"subscribe","channels":[{"channel":"trades:HEAVY","since":"earliest"}]}"#;
/// Maximum of the neighbours' median latency, with a release build on an idle machine.
const MEDIAN_MAX: Duration = Duration::from_millis(5);
/// Maximum growth of the gateway, in bytes.
const MEMORY_BYTES_MAX: u64 = 150_000_000;

/// Some clients never read; others read every response and repeat the request, for this time.
async fn ask_for_much(attacker: Arc<Attacker>, silent: usize, askers: usize, time: Duration) {
    let until = Instant::now() + time;
    let mut stays = Vec::new();
    for number in 0..silent {
        let text = if number.is_multiple_of(2) { HISTORY } else { REPLAY };
        stays.extend(attacker.pester("/ws/market", &[text; 20]).await);
    }
    println!("  attacker   {} who never read", stays.len());
    let ask_again = |number: usize| {
        let attacker = Arc::clone(&attacker);
        async move {
            while Instant::now() < until {
                let visit = attacker.visit("/ws/market", if number.is_multiple_of(2) { HISTORY } else { REPLAY });
                let _ = timeout_at(until, visit).await;
            }
        }
    };
    (0..askers).map(ask_again).collect::<JoinSet<_>>().join_all().await;
    println!("  attacker   {} answers that were read", attacker.visits());
}

pub async fn s05_whoever_asks_for_much_waits_for_himself() {
    let (silent, askers, time) =
        Form::asked().or((50, 10, Duration::from_secs(3)), (150, 100, Duration::from_secs(30)));
    let scene = Scene::set("").await;
    let filler = "x".repeat(HEAVY_BYTES);
    for number in 0..HEAVY_MESSAGES {
        let heavy = json!({"type": "trade", "n": number, "filler": filler});
        assert_eq!(scene.gateway.publish(HEAVY, &heavy).await, 200);
        assert_eq!(scene.gateway.publish(LIGHT, &json!({"type": "trade", "n": number})).await, 200);
    }
    let siege = Siege::lay(&scene, "S5  history and replays, read and unread", Question::Missed(LIGHT)).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(ask_for_much(Arc::clone(&attacker), silent, askers, time)).await;
    let bounds = Bounds { gateway: MEMORY_BYTES_MAX, ..Bounds::SMALL };
    let (_, during) = siege.lift(&scene, &[attacker], bounds).await;
    if Form::asked() == Form::Long {
        assert!(during.median() < MEDIAN_MAX, "coming back took {:?} in the median", during.median());
    }
}
