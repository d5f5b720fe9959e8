//! Faults that last for a while or affect a number of events, and their effect on the events of a connection. Pure.

use serde_json::Value;

use crate::{random::SplitMix, switches::time};

/// The kinds of faults. One-time faults are executed immediately by the connection or the market.
pub(crate) const KINDS: &[&str] = &[
    "cut",
    "shutdown",
    "half-open",
    "mute",
    "freeze-all",
    "gap",
    "duplicate",
    "reorder",
    "crossed",
    "locked",
    "unsorted",
    "one-sided",
    "empty-book",
    "zero-price",
    "garbage",
    "unknown-event",
    "unknown-field",
    "null-field",
    "number-for-string",
    "exponent",
    "rsv",
    "fragment",
    "burst",
    "slow-drip",
    "status",
    "list",
    "delist",
    "rename",
    "lag",
    "rest-lag",
    "overlap",
];

/// One requested fault.
#[derive(Clone, Debug)]
pub(crate) struct RequestedFault {
    pub id: u64,
    pub kind: String,
    /// The affected streams; `*` stands for any run of characters.
    pub streams: String,
    /// When it ends, by the process's own clock; `None`: when it is deleted or used up.
    pub until_ms: Option<u64>,
    pub chance: f64,
    /// The number of events that it still affects.
    pub left: u64,
    /// A factor, a number of trades, or milliseconds.
    pub amount: u64,
    pub keep_pings: bool,
    pub symbol: String,
    pub value: String,
    /// `newest`, `all`, or a connection's number.
    pub connection: String,
    /// For `reorder`: a stream, and its event that waits for the next one.
    held_back: Option<(String, Vec<Sent>)>,
}

impl RequestedFault {
    /// Parses `{"kind":"mute","streams":"btcusdt@*","for":"5s"}`.
    ///
    /// # Errors
    /// A sentence that states what is expected.
    pub(crate) fn read(id: u64, body: &Value, now_ms: u64) -> Result<Self, String> {
        let text = |key: &str, instead: &str| body[key].as_str().unwrap_or(instead).to_owned();
        let kind = text("kind", "");
        if !KINDS.contains(&&*kind) {
            return Err(format!("unknown fault {kind:?}; known are {}", KINDS.join(", ")));
        }
        let until_ms = match body["for"].as_str() {
            Some(length) => Some(now_ms + time(length)?),
            None => None,
        };
        let left = body["n"].as_u64().unwrap_or(u64::MAX);
        Ok(Self {
            id,
            kind,
            streams: text("streams", "*"),
            until_ms,
            chance: body["chance"].as_f64().unwrap_or(1.0),
            left,
            amount: body["amount"].as_u64().unwrap_or(10),
            keep_pings: body["keep-pings"].as_bool().unwrap_or(true),
            symbol: text("symbol", ""),
            value: text("value", ""),
            connection: body["connection"].as_u64().map_or_else(|| text("connection", "all"), |n| n.to_string()),
            held_back: None,
        })
    }

    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        let is_due = self.left == 0 || self.until_ms.is_some_and(|until| until <= now_ms);
        is_due && self.held_back.is_none()
    }

    fn hits(&mut self, stream: &str, random: &mut SplitMix) -> bool {
        if self.left == 0 || !matches(&self.streams, stream) || !random.happens(self.chance) {
            return false;
        }
        self.left = self.left.saturating_sub(u64::from(self.left != u64::MAX));
        true
    }
}

/// What is sent in place of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Text(String),
    /// Bytes of a text frame that are not UTF-8.
    Binary(Vec<u8>),
    Fragments(String),
}

/// Applies the faults to an event of a stream, given as its payload.
pub(crate) fn apply(faults: &mut [RequestedFault], stream: &str, payload: &str, random: &mut SplitMix) -> Vec<Sent> {
    let mut payload = payload.to_owned();
    let (mut copies, mut whole, mut garbage) = (1, true, None);
    for fault in &mut *faults {
        let changes = matches!(
            &*fault.kind,
            "mute"
                | "freeze-all"
                | "gap"
                | "duplicate"
                | "crossed"
                | "locked"
                | "unsorted"
                | "one-sided"
                | "empty-book"
                | "zero-price"
                | "garbage"
                | "unknown-event"
                | "unknown-field"
                | "null-field"
                | "number-for-string"
                | "exponent"
                | "fragment"
        );
        if !changes || !fault.hits(stream, random) {
            continue;
        }
        match &*fault.kind {
            "mute" | "freeze-all" | "gap" => return Vec::new(),
            "duplicate" => copies = 2,
            "fragment" => whole = false,
            "garbage" => garbage = Some(rubbish(random)),
            kind => payload = changed(kind, &payload),
        }
    }
    let wrapped = format!(r#"{{"stream":"{stream}","data":{payload}}}"#);
    let event = if whole { Sent::Text(wrapped) } else { Sent::Fragments(wrapped) };
    let sent = garbage.into_iter().chain(std::iter::repeat_n(event, copies)).collect();
    reordered(faults, stream, sent, random)
}

/// Holds an event back until the next one of its stream is sent.
fn reordered(faults: &mut [RequestedFault], stream: &str, mut sent: Vec<Sent>, random: &mut SplitMix) -> Vec<Sent> {
    for fault in faults.iter_mut().filter(|fault| fault.kind == "reorder") {
        match fault.held_back.take_if(|(held, _)| held == stream) {
            Some((_, held)) => sent.extend(held),
            None if fault.held_back.is_none() && fault.hits(stream, random) => {
                fault.held_back = Some((stream.to_owned(), std::mem::take(&mut sent)));
            }
            None => {}
        }
    }
    sent
}

/// A payload with unknown fields, or an invalid one.
fn changed(kind: &str, payload: &str) -> String {
    let is_book = payload.contains("lastUpdateId");
    match kind {
        "unknown-field" => payload.replacen('{', r#"{"zz":{"deep":[1,null]},"#, 1),
        "unknown-event" => r#"{"e":"somethingNew","E":1790000005000,"s":"BTCUSDT"}"#.into(),
        "null-field" => {
            payload.replacen(r#""p":""#, r#""p":null,"pp":""#, 1).replacen(r#""bids":["#, r#""bids":null,"b":["#, 1)
        }
        "number-for-string" if !is_book => number_for_string(payload),
        "exponent" if !is_book => {
            payload.replacen(r#""c":""#, r#""c":"8.2E+4","cc":""#, 1).replacen(r#""p":""#, r#""p":"8.2E+4","pp":""#, 1)
        }
        "zero-price" if payload.contains("24hrTicker") => payload.replacen(r#""c":""#, r#""c":"0.00000000","cc":""#, 1),
        "crossed" | "locked" | "unsorted" | "one-sided" | "empty-book" if is_book => book(kind, payload),
        _ => payload.to_owned(),
    }
}

fn number_for_string(payload: &str) -> String {
    payload.replacen(r#""p":""#, r#""p":1.5,"pp":""#, 1)
}

fn book(kind: &str, payload: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(payload) else { return payload.to_owned() };
    match kind {
        "crossed" => value["bids"][0] = value["asks"][1].clone(),
        "locked" => value["bids"][0] = value["asks"][0].clone(),
        "empty-book" => {
            value["lastUpdateId"] = (-1).into();
            (value["bids"], value["asks"]) = (Value::Array(Vec::new()), Value::Array(Vec::new()));
        }
        "unsorted" => {
            if let Some(bids) = value["bids"].as_array_mut() {
                bids.reverse();
            }
        }
        _ => value["asks"] = Value::Array(Vec::new()),
    }
    value.to_string()
}

fn rubbish(random: &mut SplitMix) -> Sent {
    match random.below(9) {
        0 => Sent::Text(r#"{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":17900"#.into()),
        1 => Sent::Text("<html><head><title>403 Forbidden</title></head></html>".into()),
        2 => Sent::Text(String::new()),
        3 => Sent::Text(format!("{}{}", "[".repeat(200), "]".repeat(200))),
        4 => Sent::Text(r#"{"stream":"a","stream":"b","data":{}}"#.into()),
        5 => Sent::Text("null".into()),
        6 => Sent::Text(r#"{"stream":"btcusdt@ticker","data":[]}"#.into()),
        7 => Sent::Text(format!(r#"{{"stream":"btcusdt@ticker","data":"{}"}}"#, "x".repeat(100_000))),
        _ => Sent::Binary(vec![0, 159, 146, 150]),
    }
}

/// Whether a name matches a pattern, where `*` stands for any run of characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(kind: &str, more: &Value) -> RequestedFault {
        let mut body = json!({"kind": kind});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        RequestedFault::read(1, &body, 0).unwrap()
    }

    #[test]
    fn a_fault_affects_its_streams_and_its_number_of_events() {
        let mut faults = [one("gap", &json!({"streams": "*@aggTrade", "n": 2}))];
        let mut random = SplitMix::new(1);
        let mut sent = |stream: &str| apply(&mut faults, stream, "{}", &mut random).len();
        assert_eq!([sent("a@ticker"), sent("a@aggTrade"), sent("b@aggTrade"), sent("a@aggTrade")], [1, 0, 0, 1]);
    }

    #[test]
    fn a_reordered_event_follows_the_next_one_of_its_stream_and_is_not_lost() {
        let mut faults = [one("reorder", &json!({"n": 1}))];
        let mut random = SplitMix::new(1);
        let mut sent = |stream: &str, payload: &str| {
            let texts = apply(&mut faults, stream, payload, &mut random).into_iter().map(|sent| match sent {
                Sent::Text(text) => text,
                other => panic!("{other:?}"),
            });
            (texts.collect::<Vec<_>>(), faults[0].is_over(0))
        };
        let text = |stream: &str, payload: &str| format!(r#"{{"stream":"{stream}","data":{payload}}}"#);
        assert_eq!(sent("a@ticker", "1"), (vec![], false), "held back");
        assert_eq!(sent("b@ticker", "2"), (vec![text("b@ticker", "2")], false));
        assert_eq!(sent("a@ticker", "3"), (vec![text("a@ticker", "3"), text("a@ticker", "1")], true));
    }

    #[test]
    fn a_crossed_book_is_crossed() {
        let payload = r#"{"lastUpdateId":1,"bids":[["1.0","1"]],"asks":[["2.0","3"],["3.0","4"]]}"#;
        for (kind, bids) in [("crossed", r#"[["3.0","4"]]"#), ("locked", r#"[["2.0","3"]]"#), ("empty-book", "[]")] {
            let sent = apply(&mut [one(kind, &json!({}))], "a@depth20", payload, &mut SplitMix::new(1));
            let bids = format!(r#""bids":{bids}"#);
            assert!(matches!(&sent[..], [Sent::Text(text)] if text.contains(&bids)), "{kind}: {sent:?}");
        }
    }

    #[test]
    fn patterns_match_any_run_of_characters() {
        for (pattern, name) in [("*", ""), ("btc*@ticker", "btcusdt@ticker"), ("*@*", "测试@x"), ("a", "a")] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        assert!(!matches("btc*@ticker", "ethusdt@ticker") && !matches("a", "ab"));
    }

    #[test]
    fn an_unknown_fault_is_refused() {
        assert!(RequestedFault::read(1, &json!({"kind": "x"}), 0).unwrap_err().contains("half-open"));
        assert!(RequestedFault::read(1, &json!({"kind": "mute", "for": "5"}), 0).is_err());
    }
}
