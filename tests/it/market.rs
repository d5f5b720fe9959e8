//! `/ws/market`: public prices, trades and order books by symbol.

use std::net::{Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{http::send, replica::TestReplica, wire::RawConnection};

fn tick(number: u32) -> Value {
    json!({"type": "ticker", "symbol": "BTCUSDT", "price": format!("{number}.00")})
}

#[tokio::test]
async fn each_kind_of_data_has_a_subscribe_verb() {
    let replica = TestReplica::alone().await;
    let mut client = replica.market().await;
    for (verb, prefix) in [("ticker", "ticker"), ("trades", "trades"), ("orderbook", "orderbook")] {
        let request = json!({"type": format!("subscribe_{verb}"), "symbols": ["BTCUSDT"]});
        let answer = client.subscribe_with(request).await;
        assert_eq!(answer["channels"][0]["channel"], format!("{prefix}:BTCUSDT"));
        let data = json!({"type": verb, "symbol": "BTCUSDT", "bids": [["49950.00", "1.5"]]});
        replica.publish(&format!("{prefix}:BTCUSDT"), data.clone()).await;
        client.expect(data).await;
        client.ask(json!({"type": format!("unsubscribe_{verb}"), "symbols": ["BTCUSDT"]})).await;
        replica.publish(&format!("{prefix}:BTCUSDT"), json!({"type": verb})).await;
    }
    client.expect_nothing().await;
}

#[tokio::test]
async fn the_current_price_is_sent_on_subscribing() {
    let replica = TestReplica::alone().await;
    replica.publish("ticker:BTCUSDT", tick(1)).await;
    let id = replica.publish("ticker:BTCUSDT", tick(2)).await;
    let mut client = replica.market().await;
    let answer = client.subscribe(&["ticker:BTCUSDT"]).await;
    assert_eq!(answer["channels"][0]["live"], false);
    let meta = client.expect(tick(2)).await;
    assert_eq!(meta, json!({"channel": "ticker:BTCUSDT", "id": id, "snapshot": true}));
    let end = json!({"channel": "ticker:BTCUSDT", "cursor": id, "replayed": 1, "complete": true});
    assert_eq!(client.caught_up().await, end);
    replica.publish("ticker:BTCUSDT", tick(3)).await;
    assert_eq!(client.expect(tick(3)).await["snapshot"], Value::Null);
    let mut without = replica.market().await;
    let request = json!({"type": "subscribe", "channels": [{"channel": "ticker:BTCUSDT", "snapshot": false}]});
    assert_eq!(without.subscribe_with(request).await["channels"][0]["live"], true);
    without.expect_nothing().await;
}

#[tokio::test]
async fn the_last_trades_are_sent_on_request() {
    let replica = TestReplica::alone().await;
    let trade = |number: u32| json!({"type": "trade", "number": number});
    for number in 1..=10 {
        replica.publish("trades:BTCUSDT", trade(number)).await;
    }
    let mut client = replica.market().await;
    let request = json!({"type": "subscribe", "channels": [{"channel": "trades:BTCUSDT", "last": 3}]});
    assert_eq!(client.subscribe_with(request).await["channels"][0]["live"], false);
    for number in 8..=10 {
        assert_eq!(client.expect(trade(number)).await["replayed"], true);
    }
    assert_eq!(client.caught_up().await["replayed"], 3);
    replica.publish("trades:BTCUSDT", trade(11)).await;
    assert_eq!(client.expect(trade(11)).await["replayed"], Value::Null);
}

#[tokio::test]
async fn a_client_with_a_maximum_rate_receives_the_newest_price_and_the_number_of_skipped_ones() {
    let replica = TestReplica::alone().await;
    let mut paced = replica.market().await;
    let request = json!({"type": "subscribe", "channels": [{"channel": "ticker:BTCUSDT", "max_rate": 2}]});
    paced.subscribe_with(request).await;
    for number in 1..=20 {
        replica.publish("ticker:BTCUSDT", tick(number)).await;
    }
    let (mut heard, mut skipped, mut last) = (0, 0, json!(null));
    while last != json!("20.00") {
        let message = paced.expect_type("ticker").await;
        heard += 1;
        skipped += message["_meta"]["conflated"].as_u64().unwrap_or(0);
        last = message["price"].clone();
    }
    assert_eq!(heard + skipped, 20, "every price was heard or counted as skipped");
    assert!(heard <= 6, "{heard} prices at 2 a second");
}

#[tokio::test]
async fn a_token_is_ignored() {
    let replica = TestReplica::alone().await;
    let mut client = replica.connect("/ws/market").token("whatever").open().await;
    client.greeted().await;
    assert_eq!(client.welcome["user"], Value::Null);
}

#[tokio::test]
async fn private_channels_are_not_offered() {
    let replica = TestReplica::alone().await;
    let mut client = replica.market().await;
    let answer = client.ask(json!({"type": "subscribe", "channels": ["orders"]})).await;
    assert_eq!(answer["errors"][0]["code"], 4502);
}

#[tokio::test]
async fn localhost_is_both_loopback_addresses_in_development_only() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        // A machine without IPv6.
        return;
    }
    let replica = TestReplica::alone().await;
    let beside = |replica: &TestReplica| SocketAddr::from((Ipv6Addr::LOCALHOST, replica.address().port()));
    RawConnection::upgraded(beside(&replica), "/ws/market").await;
    let metrics =
        send(SocketAddr::from((Ipv6Addr::LOCALHOST, replica.operations().port())), "GET", "/metrics", &[], None);
    assert_eq!(metrics.await.status, 200);
    let production = TestReplica::alone_with("[server]\nmode = \"production\"").await;
    assert!(TcpStream::connect(beside(&production)).await.is_err(), "only where it was asked for");
}
