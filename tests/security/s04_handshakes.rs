//! S4: a stranger requests event streams with as many channels as a request head can hold, and sends invalid handshakes
//! and handshakes from a foreign page. All of them count against the address before they are processed.

use std::{fmt::Write, sync::Arc, time::Instant};

use futures_util::{StreamExt, stream};

use crate::{
    attacker::{Attacker, launch},
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
    support::wire::upgrade_request,
};

/// Number of names in one request: the maximum for `server.header_bytes_max`.
const NAMES: usize = 5_300;

fn event_stream() -> String {
    let names = (0..NAMES).fold(String::new(), |mut names, number| {
        let _ = write!(names, "{number:x}");
        names.push(',');
        names
    });
    let head = format!("GET /sse?channels={names}");
    // Cut before the limit, with room for the rest of the head.
    format!("{} HTTP/1.1\r\nHost: localhost\r\n\r\n", &head[..head.len().min(16_000)])
}

/// Sends batches of requests one after another; returns the statuses of the responses.
async fn ask_all(attacker: Arc<Attacker>, requests: usize) -> Vec<Option<u16>> {
    let kinds = [
        event_stream(),
        upgrade_request("/ws/market", "").replace("Version: 13", "Version: 12"),
        upgrade_request("/ws/market", "Origin: https://evil.example\r\n"),
    ];
    let ask = |number: usize| {
        let (attacker, request) = (&attacker, kinds[number % kinds.len()].as_str());
        async move { attacker.ask(request).await }
    };
    stream::iter(0..requests).map(ask).buffer_unordered(50).collect().await
}

pub async fn s04_whatever_a_stranger_asks_for_counts_against_its_address() {
    // The limits of an address, which are below the default in the short form.
    let (requests, burst, per_second) = AttackLength::asked().or((1_500, 300, 20), (20_000, 1_000, 100));
    let settings = format!(
        "[server]\nallowed_origins = [\"https://app.example\"]\n\
         [limits]\nhandshakes_per_address = {{ per_second = {per_second}, burst = {burst} }}\n"
    );
    let scene = AttackScene::set(&settings).await;
    let siege = Siege::lay(&scene, "S4  wrong handshakes and event streams", Question::New).await;
    let (attacker, began) = (Attacker::of(scene.gateway.public), Instant::now());
    let statuses = launch(ask_all(Arc::clone(&attacker), requests)).await;
    let took = began.elapsed();
    // A page receives the limit as a Close frame, so the HTTP status does not show it.
    let limited = scene.gateway.metric("tickgate_rate_limited_total").await as usize;
    let looked_at = requests - limited;
    println!("  attacker   {requests} requests in {took:.1?}, {looked_at} looked at");
    let allowed = burst + per_second * (took.as_secs() as usize + 1);
    assert!(looked_at <= allowed, "{looked_at} of {requests} were looked at; the address may ask for {allowed}");
    assert!(statuses.contains(&Some(429)) && limited > 0, "the limit was not reached");
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}
