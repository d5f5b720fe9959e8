//! S3: connections without requests, and responses that are never read: both end, and both are limited.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
};

/// The scale of the attack.
#[derive(Clone, Copy)]
struct PlainScale {
    settings: &'static str,
    connections: usize,
    /// `limits.connections_per_address_max`, plus those that may receive a refusal.
    kept_max: usize,
    /// `session.write_timeout`, and the same time again.
    cut_off_after: Duration,
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

impl PlainScale {
    fn asked() -> Self {
        let settings = "[limits]\nconnections_per_address_max = 20\n[session]\nwrite_timeout = \"1s\"\n";
        AttackLength::asked().or(
            Self { settings, connections: 120, kept_max: 20 + 32, cut_off_after: Duration::from_secs(20) },
            Self { settings: "", connections: 1_499, kept_max: 1_000 + 32, cut_off_after: Duration::from_secs(60) },
        )
    }
}

/// Connects as often as possible, and sends nothing. Returns how many connections are kept.
async fn hold(attacker: Arc<Attacker>, connections: usize) -> usize {
    let mut held = Vec::new();
    for _ in 0..connections {
        held.push(attacker.dial().await.expect("a listener"));
    }
    let mut open = 0;
    for stream in &mut held {
        // Closed ones report it at once; the others wait for a request head.
        open += usize::from(timeout(Duration::from_millis(20), stream.read_u8()).await.is_err());
    }
    open
}

/// A connection that was served once.
async fn served(attacker: &Attacker) -> Option<TcpStream> {
    let mut stream = attacker.dial().await.ok()?;
    attacker.send(&mut stream, REQUEST).await.ok()?;
    timeout(Duration::from_millis(500), stream.read_u8()).await.ok()?.ok()?;
    Some(stream)
}

/// Sends requests repeatedly, and reads nothing. `None` if the gateway does not end that.
async fn never_read(attacker: Arc<Attacker>, patience: Duration) -> Option<Duration> {
    // Once the gateway has seen that the others have left.
    let mut greedy = loop {
        if let Some(stream) = served(&attacker).await {
            break stream;
        }
    };
    let flood = REQUEST.repeat(1_000);
    let ended = timeout(patience, async {
        let began = Instant::now();
        while attacker.send(&mut greedy, &flood).await.is_ok() {}
        began.elapsed()
    });
    ended.await.ok()
}

pub async fn s03_plain_connections_are_bounded_and_responses_that_nobody_reads_end() {
    let plan = PlainScale::asked();
    let scene = AttackScene::set(plan.settings).await;
    let siege = Siege::lay(&scene, "S3  plain connections, unread responses", Question::New).await;
    let attacker = Attacker::of(scene.gateway.public);
    let open = launch(hold(Arc::clone(&attacker), plan.connections)).await;
    println!("  attacker   {} connections, {open} kept", plan.connections);
    assert!((1..=plan.kept_max).contains(&open), "{open} of {} connections are held", plan.connections);
    let took = launch(never_read(Arc::clone(&attacker), plan.cut_off_after)).await;
    println!("  attacker   was cut off after {took:.1?}");
    assert!(took.is_some(), "the gateway goes on with a connection whose client reads nothing");
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}
