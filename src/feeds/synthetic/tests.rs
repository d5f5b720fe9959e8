//! The market's messages: their format, their order, their reproducibility.

use std::collections::HashMap;

use serde_json::Value;

use super::*;

const START_MS: u64 = 1_701_432_000_000;

fn market(seed: u64, symbols: &[&str]) -> SyntheticMarket {
    SyntheticMarket::new(seed, &symbols.iter().map(|symbol| (*symbol).to_owned()).collect::<Vec<_>>())
}

/// Topic and message of `steps` steps.
fn steps(market: &mut SyntheticMarket, steps: u64) -> Vec<(String, Value)> {
    let all = (0..steps).flat_map(|i| market.step(START_MS + i * 500)).collect::<Vec<_>>();
    all.into_iter().map(|(topic, json)| (topic.to_string(), serde_json::from_slice(&json).unwrap())).collect()
}

/// A decimal string as an integer of its last place.
fn units(value: &Value) -> i64 {
    let text = value.as_str().expect("a string, never a float");
    text.replace('.', "").parse().unwrap_or_else(|_| panic!("{text} is not a decimal"))
}

fn keys(message: &Value) -> Vec<&str> {
    message.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn messages_have_the_documented_format() {
    let messages: HashMap<_, _> = steps(&mut market(1, &["BTCUSDT"]), 20).into_iter().collect();
    let ticker = &messages["ticker:BTCUSDT"];
    let mut expected = [
        "high_price",
        "low_price",
        "price",
        "price_change",
        "price_change_percent",
        "symbol",
        "timestamp",
        "type",
        "volume",
    ];
    expected.sort_unstable();
    assert_eq!(keys(ticker), expected);
    assert_eq!((&ticker["type"], &ticker["symbol"]), (&"ticker".into(), &"BTCUSDT".into()));
    assert_eq!(ticker["timestamp"], "2023-12-01T12:00:09.500Z");
    let trade = &messages["trades:BTCUSDT"];
    assert_eq!(keys(trade), ["price", "quantity", "side", "symbol", "timestamp", "type"]);
    assert_eq!(trade["type"], "trade");
    assert!(["buy", "sell"].contains(&trade["side"].as_str().unwrap()));
    let book = &messages["orderbook:BTCUSDT"];
    assert_eq!(keys(book), ["asks", "bids", "symbol", "timestamp", "type"]);
    assert_eq!(book["type"], "orderbook");
    assert_eq!(messages.len(), 3);
}

#[test]
fn prices_move_in_small_steps_and_stay_near_their_usual_value() {
    for (symbol, usual) in [("BTCUSDT", 5_000_000), ("DOGEUSDT", 10_000), ("XYZ", 10_000)] {
        let mut market = market(7, &[symbol]);
        let all = steps(&mut market, 5_000);
        let prices: Vec<_> = all.iter().filter(|(topic, _)| topic.starts_with("ticker")).collect();
        let prices: Vec<i64> = prices.iter().map(|(_, ticker)| units(&ticker["price"])).collect();
        let distinct = prices.iter().collect::<std::collections::HashSet<_>>().len();
        assert!(distinct > 20, "{symbol} moves: {distinct}");
        assert!(prices.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= usual / 1_000), "{symbol} never jumps");
        assert!(
            prices.iter().all(|price| (usual / 2..usual * 2).contains(price)),
            "{symbol} stays near its usual price"
        );
    }
}

#[test]
fn a_ticker_agrees_with_the_prices_before_it() {
    let all = steps(&mut market(3, &["ETHUSDT"]), 300);
    let (mut low, mut high, mut volume) = (i64::MAX, i64::MIN, 0);
    for (topic, message) in &all {
        match topic.split_once(':').unwrap().0 {
            "trades" => volume += units(&message["quantity"]),
            "ticker" => {
                let price = units(&message["price"]);
                (low, high) = (low.min(price), high.max(price));
                assert_eq!(units(&message["price_change"]), price - 250_000);
                assert_eq!(units(&message["price_change_percent"]), (price - 250_000) * 10_000 / 250_000);
                assert_eq!(units(&message["high_price"]), high.max(250_000));
                assert_eq!(units(&message["low_price"]), low.min(250_000));
                assert_eq!(units(&message["volume"]), volume);
            }
            _ => {}
        }
    }
    assert!(volume > 0);
}

#[test]
fn order_books_are_sorted_and_never_crossed() {
    for symbol in ["BTCUSDT", "DOGEUSDT"] {
        let books = steps(&mut market(5, &[symbol]), 500);
        for (_, book) in books.iter().filter(|(topic, _)| topic.starts_with("orderbook")) {
            let prices = |side: &str| -> Vec<i64> {
                book[side].as_array().unwrap().iter().map(|level| units(&level[0])).collect()
            };
            let (bids, asks) = (prices("bids"), prices("asks"));
            assert_eq!((bids.len(), asks.len()), (10, 10));
            assert!(bids.windows(2).all(|pair| pair[0] > pair[1]) && asks.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(bids[0] < asks[0] && bids[9] > 0);
            let quantities = book["bids"].as_array().unwrap().iter().chain(book["asks"].as_array().unwrap());
            assert!(quantities.map(|level| units(&level[1])).all(|quantity| quantity > 0));
        }
    }
}

#[test]
fn the_seed_determines_the_walk_and_symbols_are_independent() {
    let alone = steps(&mut market(9, &["BTCUSDT"]), 50);
    assert_eq!(alone, steps(&mut market(9, &["BTCUSDT"]), 50));
    assert_ne!(alone, steps(&mut market(10, &["BTCUSDT"]), 50));
    let mut together = steps(&mut market(9, &["ETHUSDT", "BTCUSDT"]), 50);
    together.retain(|(topic, _)| topic.ends_with("BTCUSDT"));
    assert_eq!(alone, together);
}

#[test]
fn the_day_restarts_after_a_day() {
    let mut market = market(2, &["BTCUSDT"]);
    steps(&mut market, 1_000);
    let next = market.step(START_MS + 24 * 60 * 60 * 1000);
    let ticker = next.iter().find(|(topic, _)| topic.as_str() == "ticker:BTCUSDT").unwrap();
    let ticker: Value = serde_json::from_slice(&ticker.1).unwrap();
    let span = units(&ticker["high_price"]) - units(&ticker["low_price"]);
    assert_eq!(span, units(&ticker["price_change"]).abs(), "one move since the day began");
    assert!(units(&ticker["volume"]) <= 2 * 2_000);
}
