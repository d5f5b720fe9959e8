//! One pipeline of publications: how they are asked of Redis, several in one call of the script, and what its answers
//! mean. Never decides when to send, never changes their order.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use redis::{Cmd, Pipeline, Value};
use tickgate_wire::model::{Publication, StreamId};
use tokio::sync::oneshot;

use super::ledger::{self, Ledger};
use crate::{
    backplane::{PublishError, Published, Refusal},
    redis_link::{Failure, Keys},
};

/// Publications of one call. What a call costs beside its publications is shared by them: with 16, another 16 would save
/// nothing more. Other clients of Redis wait for its end, about 70 µs.
const CALL_MAX: usize = 16;
/// Bytes of payload in a call of several: a great one goes alone, since the server hashes every byte of it twice.
const CALL_BYTES_MAX: usize = 16 << 10;

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

/// How publications are asked of Redis.
pub(super) struct Encoder<'a> {
    pub(super) keys: &'a Keys,
    pub(super) script: &'a str,
    pub(super) generation: u64,
    pub(super) dedupe_ms: u64,
}

/// What a call says of one publication beside what its job has.
struct Named {
    epoch: u64,
    renew: bool,
}

impl Encoder<'_> {
    /// One pipeline of the publications, in their order; how many each of its commands has.
    pub(super) fn encode(&self, jobs: &[Job], ledger: &mut Ledger) -> (Pipeline, Vec<usize>) {
        let now = Instant::now();
        let mut pipe = Pipeline::with_capacity(jobs.len() / CALL_MAX + 2);
        let (mut counts, mut rest) = (Vec::with_capacity(jobs.len() / CALL_MAX + 1), jobs);
        while let Some(first) = rest.first() {
            let count = if is_plain(first) {
                let publication = &first.publication;
                let known = ledger.know(self.keys, &publication.topic, &publication.rule);
                let channel = publication.channel.as_deref().unwrap_or("-");
                let mut message = format!("- - {}! {channel} ", first.published_ms).into_bytes();
                message.extend_from_slice(&publication.payload);
                pipe.cmd("PUBLISH").arg(&*known.stream).arg(message);
                1
            } else {
                let count = call_len(rest);
                pipe.add_command(self.call(&rest[..count], ledger, now));
                count
            };
            counts.push(count);
            rest = &rest[count..];
        }
        (pipe, counts)
    }

    /// One call of the script.
    fn call(&self, jobs: &[Job], ledger: &mut Ledger, now: Instant) -> Cmd {
        let bytes: usize = jobs.iter().map(|job| job.bytes() + 256).sum();
        let deduped = has_msg_id(&jobs[0]);
        let mut command = Cmd::with_capacity(3 + 9 * jobs.len(), bytes);
        command.arg("EVALSHA").arg(self.script).arg(if deduped { 2 * jobs.len() } else { jobs.len() });
        let mut named = Vec::with_capacity(jobs.len());
        for job in jobs {
            let publication = &job.publication;
            let known = ledger.know(self.keys, &publication.topic, &publication.rule);
            command.arg(&*known.stream);
            if let Some(msg_id) = &publication.msg_id {
                command.arg(self.keys.dedupe(&publication.topic, msg_id));
            }
            let ttl = publication.rule.retain_ttl;
            let renew = !ttl.is_zero() && known.renew(now, ttl);
            named.push(Named { epoch: known.epoch.max(self.generation), renew });
        }
        for (job, named) in jobs.iter().zip(named) {
            let publication = &job.publication;
            let ttl = ledger::expiry(publication.rule.retain_ttl).as_secs();
            command
                .arg(&publication.payload[..])
                .arg(publication.rule.retain_max)
                .arg(named.epoch)
                .arg(format!("{}!", job.published_ms))
                .arg(publication.channel.as_deref().unwrap_or("-"));
            if named.renew || ttl == 0 {
                command.arg(ttl)
            } else {
                command.arg(format!("-{ttl}"))
            };
            if deduped {
                command.arg(self.dedupe_ms);
            }
        }
        command
    }
}

fn has_msg_id(job: &Job) -> bool {
    job.publication.msg_id.is_some()
}

/// Needs no script.
fn is_plain(job: &Job) -> bool {
    job.publication.rule.retain_max == 0 && !has_msg_id(job)
}

/// How many of the publications one call takes: at least the first, and those behind it that are of its kind.
fn call_len(jobs: &[Job]) -> usize {
    let (mut bytes, deduped) = (0, has_msg_id(&jobs[0]));
    let fits = |job: &&Job| {
        bytes += job.bytes();
        bytes <= CALL_BYTES_MAX && has_msg_id(job) == deduped && !is_plain(job)
    };
    jobs.iter().take(CALL_MAX).take_while(fits).count().max(1)
}

/// The outcomes of a pipeline's publications, in their order, as far as there are answers. `counts`: how many each
/// command had.
pub(super) fn outcomes(values: VecDeque<Value>, counts: Vec<usize>) -> impl Iterator<Item = Outcome> {
    values.into_iter().zip(counts).flat_map(|(value, count)| match value {
        value if count == 1 => vec![outcome(value)],
        Value::Array(answers) if answers.len() == count => answers.into_iter().map(outcome).collect(),
        // Refused before it ran, unless the script itself broke off: then the first ones may be stored.
        Value::ServerError(error) => match Failure::of(&error.into()) {
            Failure::Other(_) => all_failed(&strange(), count),
            refused => all_failed(&refused, count),
        },
        _ => all_failed(&strange(), count),
    })
}

fn all_failed(failure: &Failure, count: usize) -> Vec<Outcome> {
    (0..count).map(|_| Outcome::Failed(failure.clone())).collect()
}

/// Reads the answer to one publication.
fn outcome(value: Value) -> Outcome {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tickgate_wire::model::{Class, MsgId, Pattern, Topic, TopicRule};

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

    fn job(payload: usize, retain_max: u32, msg_id: Option<&str>) -> Job {
        let rule = TopicRule {
            pattern: Pattern::new("*").unwrap(),
            class: Class::Reliable,
            retain_max,
            retain_ttl: Duration::ZERO,
            wait_replicas: 0,
            wait_aof: false,
        };
        let publication = Publication {
            topic: Topic::public("orders").unwrap(),
            rule: Arc::new(rule),
            payload: Bytes::from(vec![b'x'; payload]),
            channel: None,
            msg_id: msg_id.map(|id| MsgId::new(id).unwrap()),
        };
        let (answer, _) = oneshot::channel();
        Job { publication, answer, taken: Instant::now(), published_ms: 0, number: 0, again: false }
    }

    #[test]
    fn a_call_takes_those_of_one_kind_and_not_too_much() {
        let lens = |jobs: Vec<Job>| {
            let encoder = Encoder { keys: &Keys::new("x:"), script: "s", generation: 1, dedupe_ms: 1 };
            encoder.encode(&jobs, &mut Ledger::default()).1
        };
        let (plain, kept, named) = (|| job(9, 0, None), || job(9, 5, None), || job(9, 5, Some("m")));
        assert_eq!(lens((0..40).map(|_| kept()).collect()), [16, 16, 8]);
        assert_eq!(lens(vec![kept(), kept(), plain(), plain(), kept(), named(), named()]), [2, 1, 1, 1, 2]);
        assert_eq!(lens(vec![job(9, 0, Some("m")), named()]), [2], "a msg_id needs the script also without a stream");
        let great = || job(CALL_BYTES_MAX, 5, None);
        assert_eq!(lens(vec![great(), kept(), kept(), great(), great()]), [1, 2, 1, 1]);
    }

    #[test]
    fn a_calls_answer_is_its_publications_answers() {
        let read = |values: Vec<Value>, counts: &[usize]| -> Vec<String> {
            outcomes(values.into(), counts.to_vec()).map(|outcome| format!("{outcome:?}")).collect()
        };
        let (id, error) = (
            || Value::BulkString("5-6".into()),
            |text: &[u8]| redis::parse_redis_value(&[b"-", text, b"\r\n"].concat()).unwrap(),
        );
        let (stored, oom) = (format!("{:?}", Outcome::Stored(StreamId::new(5, 6))), "Failed(OutOfMemory)");
        assert_eq!(read(vec![Value::Array(vec![id(), error(b"OOM full")]), id()], &[2, 1]), [&stored, oom, &stored]);
        assert_eq!(read(vec![error(b"OOM full"), id()], &[2, 1]), [oom, oom, &stored]);
        // The script broke off: nobody knows after which of them.
        assert_eq!(read(vec![error(b"ERR user_script:1: broken")], &[2]), ["Failed(Closed)", "Failed(Closed)"]);
        assert_eq!(read(vec![Value::Array(vec![id()])], &[2]), ["Failed(Closed)", "Failed(Closed)"]);
        assert_eq!(read(vec![id()], &[1, 2]), [stored]);
    }

    #[test]
    fn only_what_may_have_run_is_unknown() {
        assert!(matches!(verdict(&Failure::TimedOut, true), PublishError::Unknown(_)));
        assert!(matches!(verdict(&Failure::Closed, true), PublishError::Unknown(_)));
        assert!(matches!(verdict(&Failure::Closed, false), PublishError::Refused(Refusal::Disconnected)));
        assert!(matches!(verdict(&Failure::OutOfMemory, true), PublishError::Refused(Refusal::OutOfMemory)));
    }
}
