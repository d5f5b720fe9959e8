//! S4. A stranger asks for event streams of as many channels as a request head holds, and sends handshakes that are wrong
//! or of a foreign page. All of it counts against the address, before it is looked at.

use std::{fmt::Write, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{
    attacker::Attacker,
    cost::{Cost, megabytes},
    neighbour::Neighbour,
    scene::{Form, Scene},
    support::wire::upgrade_request,
};

/// Names in one request: what `server.header_bytes_max` has room for.
const NAMES: usize = 5_300;
/// What an address may ask for at once, and a second: `limits.handshakes_per_address`.
const BURST: usize = 1_000;
const PER_SECOND: usize = 100;

fn event_stream() -> String {
    let names = (0..NAMES).fold(String::new(), |mut names, number| {
        let _ = write!(names, "{number:x}");
        names.push(',');
        names
    });
    let head = format!("GET /sse?channels={names}");
    // Whole names, and room for the rest of the head.
    format!("{} HTTP/1.1\r\nHost: localhost\r\n\r\n", &head[..head.len().min(16_000)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s04_whatever_a_stranger_asks_for_counts_against_its_address() {
    let (requests, rest) = match Form::asked() {
        Form::Short => (2_400, Duration::from_secs(1)),
        Form::Long => (20_000, Duration::from_secs(5)),
    };
    let title = "S4: event streams of many channels, wrong handshakes and foreign pages";
    let scene = Scene::set(title, "[server]\nallowed_origins = [\"https://app.example\"]\n", Duration::ZERO).await;
    let kinds = [
        event_stream(),
        upgrade_request("/ws/market", "").replace("Version: 13", "Version: 12"),
        upgrade_request("/ws/market", "Origin: https://evil.example\r\n"),
    ];
    let attacker = Arc::new(Attacker::of(scene.gateway.public));
    let (neighbour, before_it) = Neighbour::at(scene.gateway.public).await.subscribes_for(rest).await;
    let (before, began) = (scene.usage().await, std::time::Instant::now());
    let asking = neighbour.subscribes();
    let mut asked = JoinSet::new();
    let mut statuses = Vec::new();
    for number in 0..requests {
        if asked.len() >= 50 {
            statuses.extend(asked.join_next().await.and_then(Result::ok));
        }
        let (attacker, request) = (Arc::clone(&attacker), kinds[number % kinds.len()].clone());
        asked.spawn(async move { attacker.ask(&request).await });
    }
    statuses.extend(asked.join_all().await);
    let took = began.elapsed();
    let (_, during) = asking.stop().await;
    let cost = Cost::between(before, scene.usage().await);
    // A page hears of the limit by a Close frame, so its status says nothing.
    let limited = scene.gateway.metric("tickgate_rate_limited_total").await as usize;
    let looked_at = requests - limited;
    println!("  attacker   {requests} requests, {looked_at} looked at; {} sent", megabytes(attacker.sent_bytes()));
    println!(
        "{}\n  neighbour  at rest: {before_it}\n             during:  {during}",
        cost.beside(attacker.sent_bytes())
    );
    cost.check_amplification(attacker.sent_bytes());
    let allowed = BURST + PER_SECOND * (took.as_secs() as usize + 1);
    assert!(looked_at <= allowed, "{looked_at} of {requests} were looked at; the address may ask for {allowed}");
    assert!(statuses.contains(&Some(429)) && limited > 0, "the limit was not reached");
    assert_eq!(during.refused, 0, "the neighbour was refused new channels");
}
