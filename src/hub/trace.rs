//! Live traces of one user or topic on this replica, sent to operators as events happen. Without a trace, the cost is
//! one atomic read. Never includes payloads or tokens, and never waits for a reader.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tickgate_wire::{
    model::{Message, StreamId, Topic, UserId},
    time::Timestamp,
};
use tokio::sync::{mpsc, watch};

use super::outbox::Outbox;
use crate::clock;

/// Maximum number of concurrent traces on one replica.
const TRACES_MAX: usize = 4;
/// Maximum number of lines queued for a reader. Further lines are dropped and counted.
const LINES_MAX: usize = 1_024;

/// The user or topic of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TracedSubject {
    /// All connections of a user on this replica.
    User(UserId),
    /// Arrivals and deliveries of a topic on this replica.
    Topic(Topic),
}

/// All traces of a replica.
#[derive(Debug, Default)]
pub struct Traces {
    count: AtomicUsize,
    state: Mutex<TraceTable>,
    over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct TraceTable {
    begun: u64,
    traces: Vec<ActiveTrace>,
}

#[derive(Debug)]
struct ActiveTrace {
    number: u64,
    subject: TracedSubject,
    /// Open connections of the user. Weak, so that nothing is kept open; the address cannot be reused while it is here.
    clients: Vec<(Weak<Outbox>, Arc<str>)>,
    lines: mpsc::Sender<Bytes>,
    lost: u64,
}

/// A started trace.
#[derive(Debug)]
pub struct StartedTrace {
    /// Identifies the trace in the log of operators.
    pub number: u64,
    /// Closed when the lines are no longer read.
    pub sender: mpsc::Sender<Bytes>,
    /// One JSON object per line. Ends with the trace.
    pub lines: mpsc::Receiver<Bytes>,
}

#[derive(Serialize)]
struct TraceLine<'a> {
    at: Timestamp,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(flatten)]
    fields: &'a Value,
}

impl TraceLine<'_> {
    fn of<'a>(event: &'a str, fields: &'a Value) -> TraceLine<'a> {
        let at = Timestamp::from_ms(clock::unix_ms());
        TraceLine { at, event, connection_id: None, topic: None, fields }
    }
}

impl ActiveTrace {
    fn tell(&mut self, line: &TraceLine<'_>) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        if self.lines.try_send(text.into()).is_err() {
            self.lost += 1;
        }
    }

    fn client(&self, outbox: &Arc<Outbox>) -> Option<Arc<str>> {
        let found = self.clients.iter().find(|(client, _)| std::ptr::eq(client.as_ptr(), Arc::as_ptr(outbox)));
        found.map(|(_, id)| id.clone())
    }

    fn is_of(&self, topic: &Topic) -> bool {
        match &self.subject {
            TracedSubject::User(user) => topic.owner() == Some(user.as_str()),
            TracedSubject::Topic(own) => own == topic,
        }
    }
}

impl Traces {
    /// Whether any trace is running: to be checked before collecting data for one.
    #[must_use]
    pub fn are_active(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Starts a trace. `None` if the maximum number is running.
    #[must_use]
    pub fn begin(&self, subject: TracedSubject) -> Option<StartedTrace> {
        let mut state = self.state.lock();
        if state.traces.len() >= TRACES_MAX {
            return None;
        }
        state.begun += 1;
        let (number, (sender, lines)) = (state.begun, mpsc::channel(LINES_MAX));
        let (lost, clients) = (0, Vec::new());
        state.traces.push(ActiveTrace { number, subject, clients, lines: sender.clone(), lost });
        self.count.store(state.traces.len(), Ordering::Relaxed);
        Some(StartedTrace { number, sender, lines })
    }

    /// Ends a trace with a last line that contains the number of dropped lines.
    pub fn end(&self, number: u64) {
        self.end_where(|trace| trace.number == number);
    }

    /// Ends all traces permanently, because the replica is shutting down.
    pub fn end_all(&self) {
        self.over.send_replace(true);
        self.end_where(|_| true);
    }

    /// Resolves when all traces were ended.
    pub async fn over(&self) {
        // An error means that the sender was dropped, which is also an end.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    fn end_where(&self, ends: impl Fn(&ActiveTrace) -> bool) {
        let mut state = self.state.lock();
        state.traces.retain_mut(|trace| {
            let ended = ends(trace);
            if ended {
                let fields = json!({ "lines_lost": trace.lost });
                trace.tell(&TraceLine::of("ended", &fields));
            }
            !ended
        });
        self.count.store(state.traces.len(), Ordering::Relaxed);
    }

    /// Records a user's open connection, which is traced with its user from here on.
    pub fn opened(&self, user: &UserId, (outbox, id): (&Arc<Outbox>, &str), fields: &Value) {
        let mut state = self.state.lock();
        for trace in state.traces.iter_mut().filter(|trace| trace.subject == TracedSubject::User(user.clone())) {
            if trace.client(outbox).is_none() {
                trace.clients.push((Arc::downgrade(outbox), id.into()));
                trace.tell(&TraceLine { connection_id: Some(id), ..TraceLine::of("connected", fields) });
            }
        }
    }

    /// Records the end of a connection.
    pub fn closed(&self, outbox: &Arc<Outbox>, fields: &Value) {
        self.client(outbox, "disconnected", None, fields);
        let is_other = |(client, _): &(Weak<Outbox>, Arc<str>)| !std::ptr::eq(client.as_ptr(), Arc::as_ptr(outbox));
        self.state.lock().traces.iter_mut().for_each(|trace| trace.clients.retain(is_other));
    }

    /// Reports an event of a connection to traces of its user and to traces of the topic.
    pub fn client(&self, outbox: &Arc<Outbox>, event: &str, topic: Option<&Topic>, fields: &Value) {
        for trace in &mut self.state.lock().traces {
            let id = trace.client(outbox);
            let is_its =
                matches!(trace.subject, TracedSubject::Topic(_)) && topic.is_some_and(|topic| trace.is_of(topic));
            if id.is_some() || is_its {
                let topic = topic.map(Topic::as_str);
                trace.tell(&TraceLine { connection_id: id.as_deref(), topic, ..TraceLine::of(event, fields) });
            }
        }
    }

    /// Reports a publication that arrived at this replica.
    pub(super) fn arrived(&self, topic: &Topic, message: &Message) {
        let age_ms = clock::unix_ms().saturating_sub(message.published_ms);
        let fields = json!({
            "id": message.id.map(|id| id.to_string()),
            "bytes": message.payload_bytes(),
            "age_ms": (message.published_ms > 0).then_some(age_ms),
        });
        for trace in self.state.lock().traces.iter_mut().filter(|trace| trace.is_of(topic)) {
            trace.tell(&TraceLine { topic: Some(topic.as_str()), ..TraceLine::of("arrived", &fields) });
        }
    }

    /// Reports that publications up to `last` were put into the outboxes of these subscribers.
    pub(super) fn fanned_out<'a>(
        &self,
        topic: &Topic,
        (messages, last): (usize, Option<StreamId>),
        subscribers: &(impl Iterator<Item = &'a Arc<Outbox>> + Clone),
    ) {
        let last = last.map(|last| last.to_string());
        for trace in &mut self.state.lock().traces {
            let to = Some(topic.as_str());
            if trace.is_of(topic) && matches!(trace.subject, TracedSubject::Topic(_)) {
                let subscribers = subscribers.clone().count();
                let fields = json!({ "messages": messages, "last": last, "subscribers": subscribers });
                trace.tell(&TraceLine { topic: to, ..TraceLine::of("delivered", &fields) });
            }
            if trace.clients.is_empty() {
                continue;
            }
            for outbox in subscribers.clone() {
                let Some(id) = trace.client(outbox) else { continue };
                let detail = outbox.detail();
                let (waiting, behind) = (detail.waiting_bytes, detail.behind);
                let fields = json!({ "messages": messages, "last": last, "waiting_bytes": waiting, "behind": behind });
                trace.tell(&TraceLine { connection_id: Some(&id), topic: to, ..TraceLine::of("delivered", &fields) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_traces_and_of_queued_lines_is_limited() {
        let (traces, topic) = (Traces::default(), Topic::public("a").unwrap());
        assert!(!traces.are_active());
        let mut begun: Vec<_> =
            (0..TRACES_MAX).map(|_| traces.begin(TracedSubject::Topic(topic.clone())).unwrap()).collect();
        assert!(traces.are_active() && traces.begin(TracedSubject::Topic(topic.clone())).is_none());
        let other = Topic::public("b").unwrap();
        (0..LINES_MAX + 7).for_each(|_| traces.fanned_out(&topic, (1, None), &std::iter::empty()));
        traces.fanned_out(&other, (1, None), &std::iter::empty());
        let mut first = begun.remove(0);
        let line: Value = serde_json::from_slice(&first.lines.try_recv().unwrap()).unwrap();
        assert_eq!(
            (&line["event"], &line["topic"], &line["subscribers"]),
            (&json!("delivered"), &json!("a"), &json!(0))
        );
        traces.end(first.number);
        drop(first.sender);
        let rest: Vec<_> = std::iter::from_fn(|| first.lines.try_recv().ok()).collect();
        assert_eq!(rest.len(), LINES_MAX, "the last one contains the number of dropped lines");
        let last: Value = serde_json::from_slice(rest.last().unwrap()).unwrap();
        assert_eq!((&last["event"], &last["lines_lost"]), (&json!("ended"), &json!(7)));
        traces.end_all();
        assert!(!traces.are_active());
    }
}
