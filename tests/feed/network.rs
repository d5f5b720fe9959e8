//! What lies between the gateway and the exchange: names that do not resolve, TLS that fails, proxies that answer HTML.

use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::{
    audience::Audience,
    exchange::Exchange,
    nothing,
    stage::{Plan, Stage, settings, unless},
    support::{redis::RedisServer, replica::Replica},
};

/// The feed reports that it can't connect, tries again without hurry, and ends in time.
async fn unreachable(exchange: &Exchange, lines: &str, reason_in_log: &str) {
    let redis = RedisServer::start();
    let mut replica = Replica::process_with(&redis, &settings(exchange, lines), None, &[]).await;
    let mut audience = Audience::of(&replica, &["BTCUSDT"]).await;
    let is_told = |seen: &Audience| matches!(seen.state(), "stale" | "down");
    let mut wrong = audience.until("the trouble is reported", 15, is_told).await;
    audience.watch(4.0).await;
    let attempts = replica.metric("tickgate_feed_reconnects_total{reason=\"lost\"}").await;
    wrong.extend(unless((1.0..=10.0).contains(&attempts), format!("{attempts} attempts in five seconds")));
    wrong.extend(unless(replica.log().contains(reason_in_log), format!("the log does not say {reason_in_log:?}")));
    wrong.extend(unless(replica.get("/readyz").await.status == 200, "a feed that is away makes the replica not ready"));
    replica.drain();
    replica.ended().await;
    nothing(wrong);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_reported_and_ends_nothing() {
    let exchange = Exchange::start(&[]);
    let lines = "stream_url = \"ws://exchange.invalid:9443\"\nrest_url = \"http://exchange.invalid:9443\"";
    unreachable(&exchange, lines, "can't resolve the host").await;
}

#[tokio::test]
async fn tls_that_fails_is_reported_and_ends_nothing() {
    let exchange = Exchange::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let speaker = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let lines = format!("stream_url = \"wss://{address}\"\nrest_url = \"https://{address}\"");
    unreachable(&exchange, &lines, "the connection to the exchange ended").await;
    speaker.abort();
}

#[tokio::test]
async fn a_proxy_that_answers_html_is_reported_and_ends_nothing() {
    let exchange = Exchange::start(&["--set", "upgrade-status=200", "--set", "rest-error=html"]);
    unreachable(&exchange, "", "refused with HTTP 200").await;
}

/// The list of symbols is HTML: streams are subscribed all the same, and nothing is said to be unknown.
#[tokio::test]
async fn without_the_list_of_symbols_what_is_followed_is_live() {
    let mut stage = Stage::set(Plan { exchange: &["--set", "rest-error=html"], ..Plan::default() }).await;
    let wrong = stage.live().await;
    assert!(stage.audience.named("symbols_unknown").is_empty());
    nothing(wrong);
}
