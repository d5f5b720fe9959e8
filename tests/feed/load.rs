//! The load: many symbols, through Redis, to many subscribers. Nothing is lost that must not be, memory is bounded, and the
//! processor time of the feed is printed.

use std::time::Instant;

use serde_json::json;

use crate::{
    audience::{Audience, channels_of},
    exchange::Exchange,
    nothing,
    stage::{either, settings, unless},
    support::{redis::RedisServer, replica::Replica},
};

#[tokio::test]
async fn many_symbols_reach_many_subscribers() {
    let (count, listeners, seconds) = either((30, 30, 5.0), (300, 1_000, 60.0));
    // Each symbol: ten books, one ticker and some trades a second, at most.
    let (symbols, rate) = ((count + 8).to_string(), either("1.5", "2.4"));
    let exchange = Exchange::start(&["--symbols", &symbols, "--rate", rate]);
    let redis = RedisServer::start();
    let names: Vec<_> = (8..8 + count).map(|number| format!("SIM{number}USDT")).collect();
    let lines = settings(&exchange, &format!("symbols = {names:?}\nsymbols_max = {count}\nstale_after = \"5s\""));
    // One replica publishes, another one serves the subscribers.
    let feeding = Replica::process(&redis, &lines).await;
    let serving = Replica::process(&redis, "[limits]\nconnections_per_address_max = 0\n").await;
    let mut audience = Audience::of(&serving, &[&names[0], &names[1]]).await;
    let mut wrong = audience
        .until("every symbol is live", 60, |seen| seen.state() == "live" && seen.named("symbols_stale").is_empty())
        .await;
    let mut others = Vec::new();
    for number in 0..listeners {
        let mut client = serving.market().await;
        let channels = channels_of(&names[number % names.len()]);
        client.send(json!({"type": "subscribe", "channels": channels})).await;
        others.push(client);
    }
    let figures = async |replica: &Replica| {
        (
            replica.metric("tickgate_feed_frames_total").await,
            replica.metric("process_cpu_seconds_total").await,
            replica.metric("process_resident_memory_bytes").await,
        )
    };
    let (began, before) = (Instant::now(), figures(&feeding).await);
    audience.watch(seconds).await;
    let (took, after) = (began.elapsed().as_secs_f64(), figures(&feeding).await);
    let rate = (after.0 - before.0) / took;
    println!(
        "{rate:.0} frames a second; the feed used {:.3} cores and grew by {:.1} MB, to {:.1} MB",
        (after.1 - before.1) / took,
        (after.2 - before.2) / 1e6,
        after.2 / 1e6
    );
    wrong.extend(unless(rate >= either(100.0, 2_000.0), format!("only {rate} frames a second")));
    wrong.extend(unless(after.2 - before.2 < 200e6, "the feed's memory grows"));
    let dropped = feeding.metric("tickgate_feed_frames_dropped_total").await;
    let missing = feeding.metric("tickgate_feed_missing_trades_total").await;
    wrong.extend(unless(
        dropped == 0.0 && missing == 0.0,
        format!("{dropped} frames dropped, {missing} trades missing"),
    ));
    wrong.extend(audience.judged(&exchange).await);
    wrong.extend(exchange.violations().await);
    nothing(wrong);
}
