//! The sample frames of the exchange, each with the result of a correct client.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    control::StreamControl,
    frame::{AggregateTrade, MarketFrame, parse},
    market::{FeedPublication, FollowedSymbols, TradeOutcome},
    payload::TradePosition,
};
use crate::metrics::FeedData;

/// Kinds of frames that are not requested: they are parsed and ignored.
const NOT_ASKED_FOR: &[&str] = &[
    "ticker_raw",
    "mini_ticker_arr",
    "trade",
    "trade_old_form",
    "depth_diff",
    "depth_diff_joins_without_overlap",
    "depth_diff_gap",
    "depth_diff_old",
    "depth_diff_ghost",
    "futures_depth_pu",
    "rest_snapshot_empty",
    "book_ticker",
];
/// Silence after which a symbol may have been delisted.
const SUSPECT_AFTER: Duration = Duration::from_secs(30);
/// Only clients that request it receive times in microseconds.
const OTHER_UNIT: &str = "ticker_microseconds";
/// A symbol that is not followed.
const NOT_FOLLOWED: &str = "after_unsubscribe";

fn vectors() -> HashMap<String, Value> {
    let lines = include_str!("tests/vectors.jsonl").lines();
    let read = |line| serde_json::from_str::<Value>(line).unwrap();
    lines.map(read).map(|vector| (vector["name"].as_str().unwrap().to_owned(), vector)).collect()
}

fn shown(publish: &FeedPublication) -> Value {
    match publish {
        FeedPublication::Trade { symbol, trade } => {
            let payload: Value = serde_json::from_slice(&trade.payload).unwrap();
            serde_json::json!({"topic": format!("trades:{symbol}"), "msg_id": format!("a{}", trade.id), "payload": payload})
        }
        FeedPublication::Gap { from, to, .. } => serde_json::json!({"gap": [from, to]}),
        FeedPublication::Value { topic, payload } => {
            let mut payload: Value = serde_json::from_slice(payload).unwrap();
            if payload["type"] == "orderbook" {
                payload["timestamp"] = "<receive time>".into();
            }
            serde_json::json!({"topic": topic, "msg_id": null, "payload": payload})
        }
    }
}

/// The market's result for a frame.
fn taken(market: &mut FollowedSymbols, frame: &str) -> Vec<Value> {
    let now = Instant::now();
    let list = match parse(frame) {
        Ok(MarketFrame::Ticker(ticker)) => market.ticker(&ticker, now).0,
        Ok(MarketFrame::Trade { symbol, trade, .. }) => match market.trade(&symbol, &trade, now) {
            TradeOutcome::Taken(list) => list,
            TradeOutcome::Repeat | TradeOutcome::NotFollowed => Vec::new(),
        },
        Ok(MarketFrame::Book(book)) => market.book(&book, 0, now),
        _ => Vec::new(),
    };
    list.iter().map(shown).collect()
}

fn market() -> FollowedSymbols {
    let mut market = FollowedSymbols::new(SUSPECT_AFTER);
    let symbols = ["BTCUSDT", "NEWUSDT", "ETHUSDT"];
    market.follow(symbols.into_iter());
    symbols.iter().for_each(|symbol| drop(market.begin(symbol, None, Instant::now())));
    market
}

#[test]
fn every_sample_frame_has_its_expected_result() {
    let before = HashMap::from([
        ("ticker_older", "ticker"),
        ("agg_trade_again", "agg_trade_buy"),
        ("agg_trade_gap", "agg_trade_buy"),
        ("depth20_same_id", "depth20"),
    ]);
    let vectors = vectors();
    assert_eq!(vectors.len(), 51);
    for (name, vector) in &vectors {
        let mut market = market();
        if let Some(before) = before.get(&**name) {
            assert_eq!(taken(&mut market, vectors[*before]["frame"].as_str().unwrap()).len(), 1, "{before}");
        }
        let frame = vector["frame"].as_str().unwrap();
        let list = taken(&mut market, frame);
        let expected = &vector["expect"]["publish"];
        let is_ours = !NOT_ASKED_FOR.contains(&&**name) && name != OTHER_UNIT && name != NOT_FOLLOWED;
        if expected.is_object() && is_ours {
            assert!(list.len() == 1 && list[0] == *expected, "{name}: {list:?}");
        } else {
            assert!(list.is_empty(), "{name}: {list:?}");
        }
        let bad = vector["expect"]["count"].as_str();
        assert_eq!(
            bad.is_some_and(|count| count != "unexpected answer"),
            parse(frame).is_err() && bad.is_some(),
            "{name}"
        );
    }
}

#[test]
fn a_hole_is_requested_and_reported_if_it_stays() {
    let (vectors, mut market) = (vectors(), market());
    let frame = |name: &str| vectors[name]["frame"].as_str().unwrap().to_owned();
    taken(&mut market, &frame("agg_trade_buy"));
    assert!(taken(&mut market, &frame("agg_trade_gap")).is_empty(), "waits behind the hole");
    let now = Instant::now();
    assert_eq!(market.tick(None, now).missing, [("BTCUSDT".to_owned(), 4_000_000_003)]);
    market.requested("BTCUSDT", now);
    assert!(market.tick(None, now).missing.is_empty());
    let list = market.tick(None, now + Duration::from_secs(6)).publish;
    assert_eq!(shown(&list[0])["gap"], serde_json::json!([4_000_000_003_u64, 4_000_000_004_u64]));
    assert_eq!(shown(&list[1])["msg_id"], "a4000000005");
}

#[test]
fn responses_refusals_and_announcements_are_parsed() {
    let vectors = vectors();
    let frame = |name: &str| vectors[name]["frame"].as_str().unwrap().to_owned();
    assert!(matches!(parse(&frame("ack")), Ok(MarketFrame::Answer { id: 7, list: None })));
    assert!(
        matches!(parse(&frame("list")), Ok(MarketFrame::Answer { id: 8, list: Some(list) }) if list == ["btcusdt@aggTrade"])
    );
    for (name, id, code) in [("error_nested", Some(9), 2), ("error_flat", Some(9), 2), ("error_no_id", None, 3)] {
        assert_eq!(parse(&frame(name)), Ok(MarketFrame::Refused { id, code }), "{name}");
    }
    for name in ["server_shutdown_raw", "server_shutdown_combined"] {
        assert_eq!(parse(&frame(name)), Ok(MarketFrame::Shutdown), "{name}");
    }
    assert!(!StreamControl::default().answered(999, None));
}

#[test]
fn last_values_are_marked_when_data_stops_and_the_same_book_is_published_afterwards() {
    let (vectors, mut market) = (vectors(), market());
    let frame = vectors["depth20"]["frame"].as_str().unwrap();
    taken(&mut market, frame);
    assert!(taken(&mut market, frame).is_empty());
    let marked = market.mark_all();
    assert_eq!(shown(&marked[0])["payload"]["stale"], true);
    assert!(market.stale().contains(&"BTCUSDT".to_owned()));
    let Ok(MarketFrame::Book(book)) = parse(frame) else { panic!() };
    assert_eq!(market.book(&book, 0, Instant::now() + Duration::from_secs(1)).len(), 1);
}

#[test]
fn a_stream_that_is_silent_while_trades_flow_is_found_and_its_value_marked() {
    let (vectors, mut market) = (vectors(), market());
    let frame = |name: &str| vectors[name]["frame"].as_str().unwrap().to_owned();
    let (now, stale_after) = (Instant::now(), Duration::from_secs(5));
    for name in ["ticker", "depth20", "agg_trade_buy"] {
        assert_eq!(taken(&mut market, &frame(name)).len(), 1, "{name}");
    }
    assert!(market.tick(Some(stale_after), now + stale_after - Duration::from_secs(1)).silent.is_empty());
    taken(&mut market, &frame("depth20"));
    let later = Instant::now() + stale_after;
    assert_eq!(market.tick(None, later).silent, [], "no data at all: the connection is judged, not its streams");
    let due = market.tick(Some(stale_after), later);
    assert_eq!(due.silent, [("BTCUSDT".to_owned(), FeedData::Ticker)]);
    assert_eq!(shown(&due.publish[0])["payload"]["stale"], true);
    assert!(market.stale().contains(&"BTCUSDT".to_owned()));
}

#[test]
fn a_silent_symbol_is_suspected_once() {
    let (vectors, mut market, now) = (vectors(), market(), Instant::now());
    taken(&mut market, vectors["ticker"]["frame"].as_str().unwrap());
    let at = |seconds| now + Duration::from_secs(seconds);
    let suspected: Vec<_> =
        [1, 29, 32, 33, 90].map(|s| market.tick(Some(Duration::from_secs(5)), at(s)).is_suspect).into();
    assert_eq!(suspected, [false, false, true, false, false]);
}

#[test]
fn waiting_trades_are_bounded_over_all_symbols() {
    let mut market = FollowedSymbols::new(SUSPECT_AFTER);
    let symbols: Vec<String> = (0..12).map(|number| format!("SIM{number}USDT")).collect();
    market.follow(symbols.iter().map(String::as_str));
    let trade = |id| AggregateTrade {
        id,
        price: "1.0".into(),
        quantity: "1.0".into(),
        last_raw: id as i64,
        time_ms: 0,
        buyer_is_maker: true,
    };
    let now = Instant::now();
    for symbol in &symbols {
        market.begin(symbol, Some(TradePosition { id: 1, time_ms: 0 }), now);
        for id in 5..9_900 {
            market.trade(symbol, &trade(id), now);
        }
    }
    assert!(market.held() <= 100_000, "{}", market.held());
}

/// The clock of this machine jumps: it is only used to date books.
#[test]
fn a_clock_jump_does_not_change_the_order() {
    let (vectors, mut market, now) = (vectors(), market(), Instant::now());
    let frame = vectors["depth20"]["frame"].as_str().unwrap();
    let Ok(MarketFrame::Book(book)) = parse(frame) else { panic!() };
    assert_eq!(market.book(&book, 1_790_000_000_000, now).len(), 1);
    let next = frame.replace(&book.update_id.to_string(), &(book.update_id + 1).to_string());
    let Ok(MarketFrame::Book(book)) = parse(&next) else { panic!() };
    let an_hour_earlier = 1_789_996_400_000;
    assert_eq!(market.book(&book, an_hour_earlier, now + Duration::from_secs(1)).len(), 1);
    assert!(market.stale().iter().all(|symbol| symbol != "BTCUSDT"));
}
