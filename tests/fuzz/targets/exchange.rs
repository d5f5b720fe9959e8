//! Data from an exchange: frames of its stream and responses to requests.

use serde_json::{Map, Value};
use tickgate::feeds::exchange_text;
use tickgate_wire::model::check_name;

use super::object;

/// Whatever an exchange sends, each resulting publication is a documented message with decimals as plain text, has a
/// valid topic name, and can be marked as stale.
pub(super) fn texts(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(Some((topic, message))) = exchange_text::messages(text) {
        let message_of = object(&message);
        checked(&topic, &message_of);
        let marked = exchange_text::stale(&message).expect("a message that is not marked yet");
        let mut marked = object(&marked);
        assert_eq!(marked.remove("stale"), Some(true.into()));
        assert_eq!(marked, message_of);
    }
    for trade in exchange_text::trades("BTCUSDT", text).into_iter().flatten() {
        checked("trades:BTCUSDT", &object(&trade));
    }
    let _ = exchange_text::skipped(text);
    let _ = exchange_text::stale(data);
}

fn checked(topic: &str, message: &Map<String, Value>) {
    check_name(topic).expect("a legal name");
    let (kind, symbol) = topic.split_once(':').expect("a kind and a symbol");
    assert_eq!(message["symbol"], symbol);
    let decimals: Vec<&Value> = match kind {
        "ticker" => ["price", "price_change", "price_change_percent", "high_price", "low_price", "volume"]
            .map(|key| &message[key])
            .into(),
        "trades" => vec![&message["price"], &message["quantity"]],
        "orderbook" => {
            let sides = [&message["bids"], &message["asks"]].map(|side| side.as_array().expect("levels"));
            assert!(sides.iter().all(|levels| levels.len() <= 20));
            sides.into_iter().flatten().flat_map(|level| level.as_array().expect("a level")).collect()
        }
        other => panic!("a topic of kind {other}"),
    };
    for decimal in decimals {
        let text = decimal.as_str().expect("text");
        let digits = text.strip_prefix('-').unwrap_or(text);
        assert!(!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "{text:?}");
    }
}
