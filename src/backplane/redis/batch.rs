//! One pipeline of publications: how each is asked of Redis, and what its answer means. Never decides when to send.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use redis::{Cmd, Pipeline, Value};
use tokio::sync::oneshot;

use super::ledger::{self, Known};
use crate::{
    backplane::{PublishError, Published, Refusal},
    model::{Publication, StreamId},
    redis_link::{Failure, Keys},
};

/// A publication on its way, with the publisher's ear.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) publication: Publication,
    pub(super) answer: oneshot::Sender<Result<Published, PublishError>>,
    pub(super) taken: Instant,
    pub(super) published_ms: u64,
    /// Place in the order of the hand-over; given when it is first sent.
    pub(super) number: u64,
    /// Sent again after Redis had forgotten the script.
    pub(super) again: bool,
}

impl Job {
    pub(super) fn bytes(&self) -> usize {
        self.publication.payload.len()
    }

    /// Answers the publisher, who may have gone.
    pub(super) fn answer(self, result: Result<Published, PublishError>) {
        let _ = self.answer.send(result);
    }

    pub(super) fn refuse(self, refusal: Refusal) {
        self.answer(Err(PublishError::Refused(refusal)));
    }
}

/// What an answer says of one publication.
#[derive(Debug)]
pub(super) enum Outcome {
    Stored(StreamId),
    /// Published without a stream.
    Sent,
    Duplicate(Option<StreamId>),
    Failed(Failure),
}

/// How a publication is asked of Redis.
pub(super) struct Encoder<'a> {
    pub(super) keys: &'a Keys,
    pub(super) script: &'a str,
    pub(super) generation: u64,
    pub(super) dedupe_ms: u64,
}

impl Encoder<'_> {
    /// Adds the publication to the pipeline.
    pub(super) fn add(&self, pipe: &mut Pipeline, job: &Job, known: &mut Known, now: Instant) {
        let publication = &job.publication;
        let channel = publication.channel.as_deref().unwrap_or("-");
        if publication.rule.retain_max == 0 && publication.msg_id.is_none() {
            let mut message = format!("- - {}! {channel} ", job.published_ms).into_bytes();
            message.extend_from_slice(&publication.payload);
            pipe.cmd("PUBLISH").arg(&*known.channel).arg(message);
            return;
        }
        let ttl = publication.rule.retain_ttl;
        let renew = !ttl.is_zero() && known.renew(now, ttl);
        let mut command = Cmd::with_capacity(14, publication.payload.len() + 256);
        command.arg("EVALSHA").arg(self.script);
        match &publication.msg_id {
            None => command.arg(2_u8).arg(&*known.stream).arg(&*known.channel),
            Some(msg_id) => {
                let dedupe = self.keys.dedupe(&publication.topic, msg_id);
                command.arg(3_u8).arg(&*known.stream).arg(&*known.channel).arg(dedupe)
            }
        };
        command
            .arg(&publication.payload[..])
            .arg(publication.rule.retain_max)
            .arg(known.epoch.max(self.generation))
            .arg(format!("{}!", job.published_ms))
            .arg(channel)
            .arg(ledger::expiry(ttl).as_secs())
            .arg(u8::from(renew));
        if publication.msg_id.is_some() {
            command.arg(self.dedupe_ms);
        }
        pipe.add_command(command);
    }
}

/// Reads the answer to one publication.
pub(super) fn outcome(value: Value) -> Outcome {
    let text = match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Value::SimpleString(text) => text,
        Value::Int(_) => return Outcome::Sent,
        Value::ServerError(error) => return Outcome::Failed(Failure::of(&error.into())),
        _ => return Outcome::Failed(strange()),
    };
    let (id, duplicate) = match text.strip_suffix(" duplicate") {
        Some(id) => (id, true),
        None => (&*text, false),
    };
    match (id, id.parse()) {
        ("-", _) if duplicate => Outcome::Duplicate(None),
        ("-", _) => Outcome::Sent,
        (_, Ok(id)) if duplicate => Outcome::Duplicate(Some(id)),
        (_, Ok(id)) => Outcome::Stored(id),
        _ => Outcome::Failed(strange()),
    }
}

/// An answer that no script of ours gives: whatever ran, its effect is not known.
fn strange() -> Failure {
    Failure::Closed
}

/// What a failure means to the publisher. `sent`: it may have reached the server.
pub(super) fn verdict(failure: &Failure, sent: bool) -> PublishError {
    if sent && failure.in_doubt() {
        return PublishError::Unknown(Arc::from(failure.to_string()));
    }
    PublishError::Refused(match failure {
        Failure::Disconnected | Failure::Closed | Failure::TimedOut => Refusal::Disconnected,
        Failure::Loading => Refusal::Loading,
        Failure::ReadOnly | Failure::Moved => Refusal::ReadOnly,
        Failure::OutOfMemory => Refusal::OutOfMemory,
        Failure::Busy => Refusal::Busy,
        Failure::PoolWait => Refusal::Overloaded,
        Failure::NoScript | Failure::Denied(_) | Failure::TooOld(_) | Failure::Other(_) => Refusal::Denied,
    })
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Outcome {
        outcome(Value::BulkString(text.into()))
    }

    #[test]
    fn each_answer_has_one_meaning() {
        assert!(matches!(reply("5-6"), Outcome::Stored(id) if id == StreamId::new(5, 6)));
        assert!(matches!(reply("5-6 duplicate"), Outcome::Duplicate(Some(id)) if id == StreamId::new(5, 6)));
        assert!(matches!(reply("-"), Outcome::Sent));
        assert!(matches!(reply("- duplicate"), Outcome::Duplicate(None)));
        assert!(matches!(outcome(Value::Int(0)), Outcome::Sent));
        for strange in ["", "hello", "5", " duplicate"] {
            assert!(matches!(reply(strange), Outcome::Failed(failure) if failure.in_doubt()), "{strange}");
        }
    }

    #[test]
    fn only_what_may_have_run_is_unknown() {
        assert!(matches!(verdict(&Failure::TimedOut, true), PublishError::Unknown(_)));
        assert!(matches!(verdict(&Failure::Closed, true), PublishError::Unknown(_)));
        assert!(matches!(verdict(&Failure::Closed, false), PublishError::Refused(Refusal::Disconnected)));
        assert!(matches!(verdict(&Failure::OutOfMemory, true), PublishError::Refused(Refusal::OutOfMemory)));
    }
}
