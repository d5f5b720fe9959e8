//! The control messages of one connection: which streams are subscribed, in messages of bounded size, at a limited
//! rate, each confirmed or repeated. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::defect::{self, Defect};

/// Minimum time between any message and the next control message. The exchange disconnects clients that send more than
/// five per second, including pongs.
const SPACING: Duration = Duration::from_millis(300);
/// Names in one message.
const NAMES_MAX: usize = 100;
/// Maximum size of a message, in bytes: the exchange silently drops messages larger than 4,096 bytes.
const BYTES_MAX: usize = 3_500;
/// Timeout of a response.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Timeout of a response after data of a requested stream arrived.
const ANSWER_TIME_AFTER_DATA_MAX: Duration = Duration::from_secs(1);
/// How long nothing must change before the list of subscriptions is compared.
const LIST_DELAY: Duration = Duration::from_secs(5);

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ControlAction {
    Send(String),
    Nothing,
    /// The exchange does not respond, and sends no data for the request either.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Subscribe,
    Unsubscribe,
    List,
}

#[derive(Debug)]
struct ControlRequest {
    id: u64,
    method: Method,
    names: Vec<String>,
    sent: Instant,
    repeated: bool,
}

/// The subscriptions of one connection.
#[derive(Debug, Default)]
pub(super) struct StreamControl {
    last_id: u64,
    last_sent: Option<Instant>,
    /// Streams that were requested, and whether they delivered data.
    requested: HashMap<String, bool>,
    /// Streams to request again.
    again: BTreeSet<String>,
    waiting: Option<ControlRequest>,
    /// The last change that has not been compared with the exchange's list.
    changed: Option<Instant>,
}

impl StreamControl {
    /// Records that something was sent: a message, or a pong.
    pub(super) fn sent(&mut self, at: Instant) {
        self.last_sent = self.last_sent.max(Some(at));
    }

    /// Records that a stream delivers data.
    pub(super) fn received(&mut self, stream: &str) {
        if let Some(received) = self.requested.get_mut(stream) {
            *received = true;
        }
    }

    fn is_received(&self, stream: &str) -> bool {
        self.requested.get(stream).copied().unwrap_or(false)
    }

    /// Requested streams.
    #[cfg(test)]
    pub(super) fn requested(&self) -> usize {
        self.requested.len()
    }

    /// Streams that have delivered data.
    pub(super) fn live(&self) -> usize {
        self.requested.values().filter(|received| **received).count()
    }

    /// Whether everything desired was requested and confirmed.
    pub(super) fn is_settled(&self, desired: &BTreeSet<String>) -> bool {
        self.waiting.is_none() && desired.iter().all(|name| self.requested.contains_key(name))
    }

    /// Resubscribes a stream.
    pub(super) fn again(&mut self, stream: &str) {
        if self.requested.contains_key(stream) {
            self.again.insert(stream.to_owned());
        }
    }

    /// The next message, if one is due.
    pub(super) fn next(&mut self, desired: &BTreeSet<String>, now: Instant) -> ControlAction {
        let spacing = if defect::is(Defect::FeedBursts) { Duration::ZERO } else { SPACING };
        if self.last_sent.is_some_and(|sent| now < sent + spacing) {
            return ControlAction::Nothing;
        }
        if let Some(request) = &self.waiting {
            let is_received =
                request.method == Method::Subscribe && request.names.iter().any(|name| self.is_received(name));
            if now < request.sent + if is_received { ANSWER_TIME_AFTER_DATA_MAX } else { ANSWER_TIME_MAX } {
                return ControlAction::Nothing;
            }
            if !is_received {
                return self.unanswered(now);
            }
            // Data is the better confirmation.
            self.waiting = None;
        }
        let (method, names) = self.due(desired, now);
        if names.is_empty() && method != Method::List {
            return ControlAction::Nothing;
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

    fn request(&mut self, method: Method, names: Vec<String>, repeated: bool, now: Instant) -> ControlAction {
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
        self.waiting = Some(ControlRequest { id: self.last_id, method, names, sent: now, repeated });
        ControlAction::Send(text.to_string())
    }

    fn unanswered(&mut self, now: Instant) -> ControlAction {
        let Some(request) = self.waiting.take() else { return ControlAction::Nothing };
        if !request.repeated {
            return self.request(request.method, request.names, true, now);
        }
        // Neither an acknowledgement nor a missing one is conclusive: only data confirms a subscription.
        if request.method == Method::Subscribe {
            return ControlAction::GiveUp;
        }
        self.settle(&request);
        ControlAction::Nothing
    }

    /// Handles a response; false if it belongs to no request.
    pub(super) fn answered(&mut self, id: u64, list: Option<Vec<String>>) -> bool {
        let Some(request) = self.waiting.take_if(|request| request.id == id) else { return false };
        self.settle(&request);
        if let (Method::List, Some(list)) = (request.method, list) {
            let listed: BTreeSet<_> = list.into_iter().collect();
            self.requested.retain(|name, _| listed.contains(name));
            // Existing but undesired subscriptions will be removed.
            for name in listed {
                self.requested.entry(name).or_insert(false);
            }
        }
        true
    }

    /// Handles a refusal. The exchange closes the connection after serious ones; the list resolves the others.
    pub(super) fn refused(&mut self, id: Option<u64>) {
        if let Some(request) = self.waiting.take_if(|request| id.is_none_or(|id| request.id == id)) {
            self.settle(&request);
        }
    }

    fn settle(&mut self, request: &ControlRequest) {
        if request.method == Method::Unsubscribe {
            for name in &request.names {
                self.requested.remove(name);
                self.again.remove(name);
            }
        }
    }
}

/// As many names as fit in one message.
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

    /// Sends and confirms what is due until nothing is due: the messages with their times in milliseconds.
    fn settled(control: &mut StreamControl, desired: &BTreeSet<String>, from: Instant) -> Vec<(u64, String)> {
        let mut sent = Vec::new();
        for ms in (0..10_000).step_by(50) {
            if let ControlAction::Send(text) = control.next(desired, from + Duration::from_millis(ms)) {
                let id = control.last_id;
                let list = text.contains("LIST").then(|| desired.iter().cloned().collect());
                assert!(control.answered(id, list));
                sent.push((ms, text));
            }
        }
        sent
    }

    #[test]
    fn messages_are_small_and_keep_the_minimum_spacing() {
        let (mut control, desired, now) = (StreamControl::default(), desired(250), Instant::now());
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
    fn an_unanswered_request_is_repeated_once_and_data_counts_as_an_answer() {
        let (now, desired) = (Instant::now(), desired(2));
        let later = |count: u32| now + ANSWER_TIME_MAX * count;
        let (mut silent, mut alive) = (StreamControl::default(), StreamControl::default());
        for control in [&mut silent, &mut alive] {
            assert!(matches!(control.next(&desired, now), ControlAction::Send(_)));
            assert!(matches!(control.next(&desired, later(1)), ControlAction::Send(_)));
        }
        assert_eq!(silent.next(&desired, later(2)), ControlAction::GiveUp);
        alive.received("sim0usdt@depth20@100ms");
        assert_eq!(alive.next(&desired, later(1) + SPACING), ControlAction::Nothing, "a response may still arrive");
        assert!(matches!(
            alive.next(&desired, later(1) + ANSWER_TIME_AFTER_DATA_MAX),
            ControlAction::Nothing | ControlAction::Send(_)
        ));
        assert!(
            alive.is_settled(&desired) || matches!(alive.waiting, Some(ControlRequest { method: Method::List, .. }))
        );
        assert_eq!((alive.requested(), alive.live()), (2, 1));
    }

    #[test]
    fn an_unsolicited_response_is_ignored_and_a_list_corrects_the_state() {
        let (mut control, desired, now) = (StreamControl::default(), desired(2), Instant::now());
        control.next(&desired, now);
        assert!(!control.answered(999, None) && control.answered(1, None));
        let now = now + LIST_DELAY;
        assert!(matches!(control.next(&desired, now), ControlAction::Send(text) if text.contains("LIST")));
        assert!(control.answered(2, Some(vec!["sim0usdt@depth20@100ms".into(), "other@ticker".into()])));
        let ControlAction::Send(text) = control.next(&desired, now + SPACING) else { panic!() };
        assert!(text.contains("SUBSCRIBE") && text.contains("sim1usdt") && !text.contains("sim0usdt"), "{text}");
        control.answered(3, None);
        let ControlAction::Send(text) = control.next(&desired, now + SPACING * 2) else { panic!() };
        assert!(text.contains("UNSUBSCRIBE") && text.contains("other@ticker"), "{text}");
    }

    #[test]
    fn a_stream_is_resubscribed_after_unsubscribing_it() {
        let (mut control, desired, now) = (StreamControl::default(), desired(1), Instant::now());
        settled(&mut control, &desired, now);
        control.again("sim0usdt@depth20@100ms");
        let sent = settled(&mut control, &desired, now + Duration::from_secs(20));
        assert!(sent[0].1.contains("UNSUBSCRIBE") && sent[1].1.contains("\"SUBSCRIBE"), "{sent:?}");
    }
}
