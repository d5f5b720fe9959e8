//! What one connection asks of the exchange: which streams, in messages of bounded size, never in a burst, each answered
//! or repeated. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::defect::{self, Defect};

/// The least time between anything sent and the next control message. The exchange cuts at more than five in a second,
/// pongs counted.
const SPACING: Duration = Duration::from_millis(300);
/// Names in one message.
const NAMES_MAX: usize = 100;
/// Bytes of one message: what is longer than 4,096 bytes on the wire is swallowed.
const BYTES_MAX: usize = 3_500;
/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take when data of a requested stream came.
const HEARD_TIME: Duration = Duration::from_secs(1);
/// How long nothing must have changed before the list of subscriptions is compared.
const LIST_DELAY: Duration = Duration::from_secs(5);

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Send(String),
    Nothing,
    /// The exchange does not answer, and sends nothing of what was asked for either.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Subscribe,
    Unsubscribe,
    List,
}

#[derive(Debug)]
struct Request {
    id: u64,
    method: Method,
    names: Vec<String>,
    sent: Instant,
    repeated: bool,
}

/// The subscriptions of one connection.
#[derive(Debug, Default)]
pub(super) struct Control {
    last_id: u64,
    last_sent: Option<Instant>,
    /// Streams that the exchange was asked for, and whether they brought anything.
    requested: HashMap<String, bool>,
    /// Streams to be asked for again.
    again: BTreeSet<String>,
    waiting: Option<Request>,
    /// When something was changed that has not been compared with the exchange's list.
    changed: Option<Instant>,
}

impl Control {
    /// Notes that something was sent: a message, or a pong.
    pub(super) fn sent(&mut self, at: Instant) {
        self.last_sent = self.last_sent.max(Some(at));
    }

    /// Notes that a stream brings data.
    pub(super) fn heard(&mut self, stream: &str) {
        if let Some(heard) = self.requested.get_mut(stream) {
            *heard = true;
        }
    }

    fn is_heard(&self, stream: &str) -> bool {
        self.requested.get(stream).copied().unwrap_or(false)
    }

    /// Streams that the exchange was asked for.
    #[cfg(test)]
    pub(super) fn requested(&self) -> usize {
        self.requested.len()
    }

    /// Streams that have brought something.
    pub(super) fn live(&self) -> usize {
        self.requested.values().filter(|heard| **heard).count()
    }

    /// Whether everything desired was asked for and answered.
    pub(super) fn is_settled(&self, desired: &BTreeSet<String>) -> bool {
        self.waiting.is_none() && desired.iter().all(|name| self.requested.contains_key(name))
    }

    /// Subscribes a stream again.
    pub(super) fn again(&mut self, stream: &str) {
        if self.requested.contains_key(stream) {
            self.again.insert(stream.to_owned());
        }
    }

    /// The next message, if one is due.
    pub(super) fn next(&mut self, desired: &BTreeSet<String>, now: Instant) -> Act {
        let spacing = if defect::is(Defect::FeedBursts) { Duration::ZERO } else { SPACING };
        if self.last_sent.is_some_and(|sent| now < sent + spacing) {
            return Act::Nothing;
        }
        if let Some(request) = &self.waiting {
            let is_heard = request.method == Method::Subscribe && request.names.iter().any(|name| self.is_heard(name));
            if now < request.sent + if is_heard { HEARD_TIME } else { ANSWER_TIME_MAX } {
                return Act::Nothing;
            }
            if !is_heard {
                return self.unanswered(now);
            }
            // Data is the better answer.
            self.waiting = None;
        }
        let (method, names) = self.due(desired, now);
        if names.is_empty() && method != Method::List {
            return Act::Nothing;
        }
        self.request(method, names, false, now)
    }

    fn due(&self, desired: &BTreeSet<String>, now: Instant) -> (Method, Vec<String>) {
        let missing = bounded(desired.iter().filter(|name| !self.requested.contains_key(*name)));
        if !missing.is_empty() {
            return (Method::Subscribe, missing);
        }
        let superfluous = self.requested.keys().filter(|name| !desired.contains(*name) || self.again.contains(*name));
        let superfluous = bounded(superfluous);
        let is_list_due = self.changed.is_some_and(|changed| now >= changed + LIST_DELAY);
        if superfluous.is_empty() && is_list_due {
            return (Method::List, Vec::new());
        }
        (Method::Unsubscribe, superfluous)
    }

    fn request(&mut self, method: Method, names: Vec<String>, repeated: bool, now: Instant) -> Act {
        self.last_id += 1;
        let text = match method {
            Method::Subscribe => json!({"method": "SUBSCRIBE", "params": names, "id": self.last_id}),
            Method::Unsubscribe => json!({"method": "UNSUBSCRIBE", "params": names, "id": self.last_id}),
            Method::List => json!({"method": "LIST_SUBSCRIPTIONS", "id": self.last_id}),
        };
        match method {
            Method::Subscribe => {
                for name in &names {
                    self.requested.entry(name.clone()).or_insert(false);
                }
                self.changed = Some(now);
            }
            Method::Unsubscribe => self.changed = Some(now),
            Method::List => self.changed = None,
        }
        self.last_sent = Some(now);
        self.waiting = Some(Request { id: self.last_id, method, names, sent: now, repeated });
        Act::Send(text.to_string())
    }

    fn unanswered(&mut self, now: Instant) -> Act {
        let Some(request) = self.waiting.take() else { return Act::Nothing };
        if !request.repeated {
            return self.request(request.method, request.names, true, now);
        }
        // An acknowledgement proves nothing, and neither does its absence: what counts is the data.
        if request.method == Method::Subscribe {
            return Act::GiveUp;
        }
        self.settle(&request);
        Act::Nothing
    }

    /// Takes an answer; false when nobody asked for it.
    pub(super) fn answered(&mut self, id: u64, list: Option<Vec<String>>) -> bool {
        let Some(request) = self.waiting.take_if(|request| request.id == id) else { return false };
        self.settle(&request);
        if let (Method::List, Some(list)) = (request.method, list) {
            let listed: BTreeSet<_> = list.into_iter().collect();
            self.requested.retain(|name, _| listed.contains(name));
            // What is there and not desired will be unsubscribed.
            for name in listed {
                self.requested.entry(name).or_insert(false);
            }
        }
        true
    }

    /// Takes a refusal. The exchange closes the connection after those that count; the others are settled by the list.
    pub(super) fn refused(&mut self, id: Option<u64>) {
        if let Some(request) = self.waiting.take_if(|request| id.is_none_or(|id| request.id == id)) {
            self.settle(&request);
        }
    }

    fn settle(&mut self, request: &Request) {
        if request.method == Method::Unsubscribe {
            for name in &request.names {
                self.requested.remove(name);
                self.again.remove(name);
            }
        }
    }
}

/// As many names as fit one message.
fn bounded<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut bytes = 64;
    names
        .take(NAMES_MAX)
        .take_while(|name| {
            bytes += name.len() + 3;
            bytes <= BYTES_MAX
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(count: usize) -> BTreeSet<String> {
        (0..count).map(|number| format!("sim{number}usdt@depth20@100ms")).collect()
    }

    /// Sends what is due and answers it at once, until nothing is due: the messages with their times in milliseconds.
    fn settled(control: &mut Control, desired: &BTreeSet<String>, from: Instant) -> Vec<(u64, String)> {
        let mut sent = Vec::new();
        for ms in (0..10_000).step_by(50) {
            if let Act::Send(text) = control.next(desired, from + Duration::from_millis(ms)) {
                let id = control.last_id;
                let list = text.contains("LIST").then(|| desired.iter().cloned().collect());
                assert!(control.answered(id, list));
                sent.push((ms, text));
            }
        }
        sent
    }

    #[test]
    fn messages_are_small_and_never_closer_than_they_may() {
        let (mut control, desired, now) = (Control::default(), desired(250), Instant::now());
        control.sent(now);
        let sent = settled(&mut control, &desired, now);
        assert_eq!(sent[0].0, 300, "a pong was sent before");
        assert!(sent.windows(2).all(|pair| pair[1].0 >= pair[0].0 + 300), "{sent:?}");
        assert!(sent.iter().all(|(_, text)| text.len() <= BYTES_MAX && text.matches('@').count() <= 2 * NAMES_MAX));
        assert!(sent.last().unwrap().1.contains("LIST_SUBSCRIPTIONS"), "compared in the end");
        assert!(control.is_settled(&desired) && control.requested() == 250);
        let fewer = desired.iter().take(10).cloned().collect();
        let sent = settled(&mut control, &fewer, now + Duration::from_secs(20));
        assert!(sent[0].1.contains("UNSUBSCRIBE") && control.requested() == 10);
    }

    #[test]
    fn without_an_answer_a_request_is_repeated_once_and_data_counts_for_one() {
        let (now, desired) = (Instant::now(), desired(2));
        let later = |count: u32| now + ANSWER_TIME_MAX * count;
        let (mut silent, mut alive) = (Control::default(), Control::default());
        for control in [&mut silent, &mut alive] {
            assert!(matches!(control.next(&desired, now), Act::Send(_)));
            assert!(matches!(control.next(&desired, later(1)), Act::Send(_)));
        }
        assert_eq!(silent.next(&desired, later(2)), Act::GiveUp);
        alive.heard("sim0usdt@depth20@100ms");
        assert_eq!(alive.next(&desired, later(1) + SPACING), Act::Nothing, "an answer may still come");
        assert!(matches!(alive.next(&desired, later(1) + HEARD_TIME), Act::Nothing | Act::Send(_)));
        assert!(alive.is_settled(&desired) || matches!(alive.waiting, Some(Request { method: Method::List, .. })));
        assert_eq!((alive.requested(), alive.live()), (2, 1));
    }

    #[test]
    fn an_answer_to_nothing_is_none_and_a_list_corrects_what_was_believed() {
        let (mut control, desired, now) = (Control::default(), desired(2), Instant::now());
        control.next(&desired, now);
        assert!(!control.answered(999, None) && control.answered(1, None));
        let now = now + LIST_DELAY;
        assert!(matches!(control.next(&desired, now), Act::Send(text) if text.contains("LIST")));
        assert!(control.answered(2, Some(vec!["sim0usdt@depth20@100ms".into(), "other@ticker".into()])));
        let Act::Send(text) = control.next(&desired, now + SPACING) else { panic!() };
        assert!(text.contains("SUBSCRIBE") && text.contains("sim1usdt") && !text.contains("sim0usdt"), "{text}");
        control.answered(3, None);
        let Act::Send(text) = control.next(&desired, now + SPACING * 2) else { panic!() };
        assert!(text.contains("UNSUBSCRIBE") && text.contains("other@ticker"), "{text}");
    }

    #[test]
    fn a_stream_is_subscribed_again_by_leaving_it_first() {
        let (mut control, desired, now) = (Control::default(), desired(1), Instant::now());
        settled(&mut control, &desired, now);
        control.again("sim0usdt@depth20@100ms");
        let sent = settled(&mut control, &desired, now + Duration::from_secs(20));
        assert!(sent[0].1.contains("UNSUBSCRIBE") && sent[1].1.contains("\"SUBSCRIBE"), "{sent:?}");
    }
}
