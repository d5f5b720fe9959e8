//! Pending requests of the application: sent while there is a connection, repeated if that is safe, abandoned at their
//! deadline. Never reads a clock: the time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    defect::{OmittedRule, is},
    error::RequestError,
    server_error::ServerError,
};

/// Maximum number of pending requests.
const OUTGOING_MAX: usize = 1024;

/// The reply to a request, or why there is none.
pub(crate) type RequestResult = Result<String, RequestError>;

/// The fields of a request as JSON text, so that numbers are sent exactly as written.
#[derive(Clone, Debug)]
pub(crate) struct RequestFields(String);

impl RequestFields {
    pub(crate) fn new(kind: &str) -> Self {
        Self(String::from("{")).text("type", kind)
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.json(name, &quoted(value))
    }

    pub(crate) fn json(mut self, name: &str, json: &str) -> Self {
        let mark = if self.0.len() > 1 { "," } else { "" };
        self.0.push_str(&format!("{mark}{}:{json}", quoted(name)));
        self
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn quoted(text: &str) -> String {
    // Serializing a string cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// A request with a deadline.
#[derive(Debug)]
pub(crate) struct OutgoingRequest {
    /// Without `id` and `msg_id`.
    pub fields: RequestFields,
    /// With a `msg_id`, the request can be repeated safely.
    pub msg_id: Option<String>,
    pub deadline: Instant,
    pub answer: oneshot::Sender<RequestResult>,
}

#[derive(Debug)]
struct PendingRequest {
    request: OutgoingRequest,
    /// The number under which it was sent on the current connection.
    sent: Option<u64>,
    not_before: Option<Instant>,
    /// The gateway may have executed an earlier attempt.
    maybe_done: bool,
    /// Why the last attempt was refused.
    refused: Option<ServerError>,
}

impl PendingRequest {
    /// The request under this number.
    fn text(&self, number: u64) -> String {
        let mut fields = self.request.fields.clone().json("id", &number.to_string());
        if let Some(msg_id) = &self.request.msg_id {
            let again = is(OmittedRule::NewMsgId) && (self.maybe_done || self.not_before.is_some());
            let new = format!("{msg_id}-{number}");
            fields = fields.text("msg_id", if again { &new } else { msg_id });
        }
        fields.end()
    }

    /// Completes a request that is not sent any more; if it was never sent, for this reason.
    fn give_up(self, why: &str) {
        let error = match (self.maybe_done || self.sent.is_some(), self.refused) {
            (true, _) => RequestError::Unknown,
            (false, Some(error)) => RequestError::Refused(error),
            (false, None) => RequestError::NotSent(why.into()),
        };
        answer(self.request, Err(error));
    }
}

/// All pending requests, oldest first.
#[derive(Debug, Default)]
pub(crate) struct PendingRequests(VecDeque<PendingRequest>);

impl PendingRequests {
    pub(crate) fn add(&mut self, request: OutgoingRequest) {
        if self.0.len() == OUTGOING_MAX {
            answer(request, Err(RequestError::NotSent("too many requests are pending".into())));
            return;
        }
        self.0.push_back(PendingRequest { request, sent: None, not_before: None, maybe_done: false, refused: None });
    }

    /// When a deadline passes or, with a connection, a request must be sent.
    pub(crate) fn due(&self, now: Instant, connected: bool) -> Option<Instant> {
        let deadlines = self.0.iter().map(|pending| pending.request.deadline).filter(|_| !is(OmittedRule::NoDeadline));
        let sends = self.0.iter().filter(|pending| connected && pending.sent.is_none());
        deadlines.chain(sends.map(|pending| pending.not_before.unwrap_or(now))).min()
    }

    /// Completes the requests whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        if is(OmittedRule::NoDeadline) {
            return;
        }
        while let Some(at) = self.0.iter().position(|pending| pending.request.deadline <= now) {
            let Some(pending) = self.0.remove(at) else { return };
            pending.give_up("the deadline has passed");
        }
    }

    /// The next request that is due, to be sent under this number. A request larger than the gateway accepts is
    /// completed here: sending it would close the connection permanently.
    pub(crate) fn next(&mut self, now: Instant, number: u64, bytes_max: usize) -> Option<String> {
        let is_due = |pending: &PendingRequest| {
            pending.sent.is_none() && pending.not_before.is_none_or(|not_before| not_before <= now)
        };
        while let Some(at) = self.0.iter().position(is_due) {
            let pending = &mut self.0[at];
            let text = pending.text(number);
            if text.len() <= bytes_max || is(OmittedRule::SendsAnySize) {
                pending.sent = Some(number);
                return Some(text);
            }
            let unsent =
                || RequestError::NotSent(format!("{} bytes, but the gateway accepts at most {bytes_max}", text.len()));
            let error = if pending.maybe_done { RequestError::Unknown } else { unsent() };
            self.finish(at, Err(error));
        }
        None
    }

    /// Handles a reply; false if it belongs to no request.
    pub(crate) fn reply(&mut self, now: Instant, number: u64, reply: Result<&str, ServerError>) -> bool {
        let Some(at) = self.0.iter().position(|pending| pending.sent == Some(number)) else { return false };
        let error = match reply {
            Ok(text) => return self.finish(at, Ok(text.to_owned())),
            Err(error) => error,
        };
        let pending = &mut self.0[at];
        pending.sent = None;
        pending.maybe_done |= error.details.outcome.as_deref() == Some("unknown");
        match error.retry_after().filter(|_| pending.request.msg_id.is_some()) {
            Some(after) => {
                let after = if is(OmittedRule::AsksAtOnce) { Duration::ZERO } else { after };
                // On overflow the time is later than any deadline.
                pending.not_before = Some(now.checked_add(after).unwrap_or(pending.request.deadline));
                pending.refused = Some(error);
                true
            }
            None if pending.maybe_done && !is(OmittedRule::LastErrorCounts) => {
                self.finish(at, Err(RequestError::Unknown))
            }
            None => self.finish(at, Err(RequestError::Refused(error))),
        }
    }

    /// The connection has ended. The outcome of requests without a reply is unknown.
    pub(crate) fn disconnected(&mut self) {
        let mut at = 0;
        while let Some(pending) = self.0.get_mut(at) {
            let was_sent = pending.sent.take().is_some();
            pending.maybe_done |= was_sent;
            if was_sent && pending.request.msg_id.is_none() {
                self.finish(at, Err(RequestError::Unknown));
            } else {
                at += 1;
            }
        }
    }

    /// Completes all pending requests, because nothing is sent any more for this reason.
    pub(crate) fn end(&mut self, why: &str) {
        if is(OmittedRule::EndAnswersNothing) {
            return self.0.clear();
        }
        self.0.drain(..).for_each(|pending| pending.give_up(why));
    }

    fn finish(&mut self, at: usize, with: RequestResult) -> bool {
        if let Some(pending) = self.0.remove(at) {
            answer(pending.request, with);
        }
        true
    }
}

fn answer(request: OutgoingRequest, with: RequestResult) {
    // The receiver may have been dropped.
    let _ = request.answer.send(with);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(now: Instant, seconds: u64, repeats: bool) -> (OutgoingRequest, oneshot::Receiver<RequestResult>) {
        let (answer, answered) = oneshot::channel();
        let fields = RequestFields::new("publish").json("data", r#"{"price": 1.50}"#);
        let msg_id = repeats.then(|| "m".to_owned());
        (OutgoingRequest { fields, msg_id, deadline: now + Duration::from_secs(seconds), answer }, answered)
    }

    fn error(details: &Value) -> ServerError {
        serde_json::from_value(json!({ "code": 1013, "error": "try_again_later", "details": details })).unwrap()
    }

    #[test]
    fn a_request_without_a_reply_is_unknown_and_repeated() {
        let (now, mut outbox) = (Instant::now(), PendingRequests::default());
        let (publish, mut answered) = request(now, 5, true);
        outbox.add(publish);
        assert_eq!(
            outbox.next(now, 7, usize::MAX).unwrap(),
            r#"{"type":"publish","data":{"price": 1.50},"id":7,"msg_id":"m"}"#
        );
        assert_eq!(outbox.next(now, 8, usize::MAX), None);
        outbox.disconnected();
        assert!(outbox.next(now, 1, usize::MAX).unwrap().contains(r#""msg_id":"m""#));
        outbox.expire(now + Duration::from_secs(5));
        assert!(matches!(answered.try_recv().unwrap(), Err(RequestError::Unknown)));
    }

    #[test]
    fn a_request_that_cannot_be_repeated_ends_with_its_connection() {
        let (now, mut outbox) = (Instant::now(), PendingRequests::default());
        let (history, mut answered) = request(now, 5, false);
        outbox.add(history);
        outbox.next(now, 1, usize::MAX).unwrap();
        outbox.disconnected();
        assert!(matches!(answered.try_recv().unwrap(), Err(RequestError::Unknown)));
        assert_eq!(outbox.due(now, true), None);
    }

    #[test]
    fn a_refusal_with_a_delay_is_retried_and_one_without_is_final() {
        let (now, mut outbox) = (Instant::now(), PendingRequests::default());
        let (publish, mut answered) = request(now, 5, true);
        outbox.add(publish);
        outbox.next(now, 1, usize::MAX).unwrap();
        assert!(outbox.reply(now, 1, Err(error(&json!({ "retry_after_ms": 400, "outcome": "refused" })))));
        assert_eq!(outbox.next(now, 2, usize::MAX), None);
        let later = now + Duration::from_millis(400);
        assert_eq!(outbox.due(now, true), Some(later));
        outbox.next(later, 2, usize::MAX).unwrap();
        assert!(!outbox.reply(later, 9, Ok("{}")), "a reply to no request");
        assert!(outbox.reply(later, 2, Err(error(&json!({})))));
        assert!(matches!(answered.try_recv().unwrap(), Err(RequestError::Refused(_))));
    }

    #[test]
    fn stopping_completes_requests_like_a_deadline() {
        let (now, mut outbox) = (Instant::now(), PendingRequests::default());
        let (refused, mut refusal) = request(now, 5, true);
        outbox.add(refused);
        outbox.next(now, 1, usize::MAX).unwrap();
        assert!(outbox.reply(now, 1, Err(error(&json!({ "retry_after_ms": 400 })))));
        let (sent, mut unknown) = request(now, 5, true);
        outbox.add(sent);
        outbox.next(now, 2, usize::MAX).unwrap();
        let (unsent, mut never) = request(now, 5, true);
        outbox.add(unsent);
        outbox.end("over");
        assert!(matches!(refusal.try_recv().unwrap(), Err(RequestError::Refused(_))));
        assert!(matches!(unknown.try_recv().unwrap(), Err(RequestError::Unknown)));
        assert!(matches!(never.try_recv().unwrap(), Err(RequestError::NotSent(why)) if why == "over"));
    }

    #[test]
    fn nothing_is_sent_after_its_deadline() {
        let (now, mut outbox) = (Instant::now(), PendingRequests::default());
        let (publish, mut answered) = request(now, 1, true);
        outbox.add(publish);
        assert_eq!(outbox.due(now, false), Some(now + Duration::from_secs(1)));
        outbox.expire(now + Duration::from_secs(1));
        assert!(matches!(answered.try_recv().unwrap(), Err(RequestError::NotSent(_))));
        assert_eq!(outbox.next(now, 1, usize::MAX), None);
    }
}
