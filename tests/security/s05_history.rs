//! S5: a few bytes repeatedly request megabytes of history, and some clients never read the response. Resuming clients
//! once waited behind all of them for the links that read streams, and responses that were never read stayed in memory.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    task::JoinSet,
    time::{Instant, interval, timeout_at},
};

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
};

/// What strangers request: more than one page holds.
const HEAVY: &str = "trades:HEAVY";
const HEAVY_MESSAGES: usize = 150;
const HEAVY_BYTES: usize = 60_000;
/// What the neighbour resumes.
const LIGHT: &str = "trades:LIGHT";
const HISTORY: &str = r#"{"type":"history","channel":"trades:HEAVY","since":"earliest"}"#;
const REPLAY: &str = r#"{"type":"subscribe","channels":[{"channel":"trades:HEAVY","since":"earliest"}]}"#;
/// The same as an event stream, from a position before the first entry.
const EVENTS: &str =
    "GET /sse?channels=trades:HEAVY HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 1-0\r\nConnection: close\r\n\r\n";
/// Clients that send requests at a tenth of `limits.messages_per_connection`.
const ASKERS: usize = 20;
const ASKS_PER_SECOND: u32 = 10;
const MODERATE_TIME: Duration = Duration::from_secs(12);
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

/// Each client repeats the request on one connection and reads what it receives.
async fn ask_at_a_tenth(attacker: Arc<Attacker>, text: &'static str, time: Duration) {
    let ask = |_| {
        let attacker = Arc::clone(&attacker);
        async move {
            let Some(socket) = attacker.stay("/ws/market", text).await else { return };
            let (mut reads, mut writes) = socket.into_split();
            let mut pace = interval(Duration::from_secs(1) / ASKS_PER_SECOND);
            let asks = async {
                loop {
                    pace.tick().await;
                    if attacker.write(&mut writes, text).await.is_none() {
                        return;
                    }
                }
            };
            let hears = async {
                let mut heard = vec![0; 1 << 16];
                while reads.read(&mut heard).await.is_ok_and(|len| len > 0) {}
            };
            let _ = timeout_at(Instant::now() + time, async { tokio::join!(asks, hears) }).await;
        }
    };
    (0..ASKERS).map(ask).collect::<JoinSet<_>>().join_all().await;
}

/// The same with event streams: each is read to its end or for a second, and requested again.
async fn ask_for_events(attacker: Arc<Attacker>, time: Duration) {
    let until = Instant::now() + time;
    let ask = |_| {
        let attacker = Arc::clone(&attacker);
        async move {
            let mut pace = interval(Duration::from_secs(1) / ASKS_PER_SECOND);
            while Instant::now() < until {
                pace.tick().await;
                let Ok(mut stream) = attacker.dial().await else { continue };
                if attacker.send(&mut stream, EVENTS.as_bytes()).await.is_err() {
                    continue;
                }
                let mut heard = vec![0; 1 << 16];
                let all = async { while stream.read(&mut heard).await.is_ok_and(|len| len > 0) {} };
                let _ = timeout_at(until.min(Instant::now() + Duration::from_secs(1)), all).await;
            }
        }
    };
    (0..ASKERS).map(ask).collect::<JoinSet<_>>().join_all().await;
}

/// A gateway with a large and a small topic.
async fn scene() -> AttackScene {
    let scene = AttackScene::set("").await;
    let filler = "x".repeat(HEAVY_BYTES);
    for number in 0..HEAVY_MESSAGES {
        let heavy = json!({"type": "trade", "n": number, "filler": filler});
        assert_eq!(scene.gateway.publish(HEAVY, &heavy).await, 200);
        assert_eq!(scene.gateway.publish(LIGHT, &json!({"type": "trade", "n": number})).await, 200);
    }
    scene
}

async fn judge(siege: Siege, scene: &AttackScene, attacker: Arc<Attacker>) {
    let bounds = GrowthBounds { gateway: MEMORY_BYTES_MAX, ..GrowthBounds::SMALL };
    let (_, during) = siege.lift(scene, &[attacker], bounds).await;
    if AttackLength::asked() == AttackLength::Long {
        assert!(during.median() < MEDIAN_MAX, "coming back took {:?} in the median", during.median());
    }
}

pub async fn s05_history_at_a_tenth_of_the_limit_delays_nobody() {
    let scene = scene().await;
    let siege = Siege::lay(&scene, "S5  20 ask for history, 10 times a second", Question::Missed(LIGHT)).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(ask_at_a_tenth(Arc::clone(&attacker), HISTORY, MODERATE_TIME)).await;
    judge(siege, &scene, attacker).await;
}

pub async fn s05_replays_at_a_tenth_of_the_limit_delay_nobody() {
    let scene = scene().await;
    let siege = Siege::lay(&scene, "S5  20 subscribe again with a position", Question::Missed(LIGHT)).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(ask_at_a_tenth(Arc::clone(&attacker), REPLAY, MODERATE_TIME)).await;
    judge(siege, &scene, attacker).await;
}

pub async fn s05_event_streams_that_resume_delay_nobody() {
    let scene = scene().await;
    let siege = Siege::lay(&scene, "S5  20 resume event streams", Question::Missed(LIGHT)).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(ask_for_events(Arc::clone(&attacker), MODERATE_TIME)).await;
    judge(siege, &scene, attacker).await;
}

pub async fn s05_whoever_asks_for_much_waits_for_himself() {
    let (silent, askers, time) =
        AttackLength::asked().or((50, 10, Duration::from_secs(3)), (150, 100, Duration::from_secs(20)));
    let scene = scene().await;
    let siege = Siege::lay(&scene, "S5  history and replays, read and unread", Question::Missed(LIGHT)).await;
    let attacker = Attacker::of(scene.gateway.public);
    launch(ask_for_much(Arc::clone(&attacker), silent, askers, time)).await;
    judge(siege, &scene, attacker).await;
}
