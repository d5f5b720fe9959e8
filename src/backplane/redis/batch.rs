//! Encodes a pipeline of publications, several per script call, and decodes its responses. Never decides when to send,
//! and never changes the order.

use std::{borrow::Cow, collections::VecDeque, time::Instant};

use redis::{Cmd, Pipeline, ServerError, Value};
use tickgate_wire::model::Publication;
use tokio::sync::oneshot;

use super::{acknowledge::PublishOutcome, ledger::TopicLedger, word};
use crate::{
    backplane::{LeaseTurn, PublishAck, PublishError, PublishRefusal},
    redis_link::{Keys, Placement, RedisFailure},
};

/// Maximum number of publications per call. They share the fixed cost of a call; more than 16 would save almost
/// nothing. Other clients of Redis wait until the call ends, about 70 µs.
const CALL_MAX: usize = 16;
/// Maximum payload bytes of a call with several publications: large ones are sent alone, because the server hashes
/// every byte of a call twice.
const CALL_BYTES_MAX: usize = 16 << 10;

/// The script's response if a `msg_id` belongs to another publication.
const REUSED: &str = "REUSED";
/// The script's response if the turn is over, followed by the number of the later turn.
const FENCED: &str = "FENCED";

/// A pending publication and its publisher.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) publication: Publication,
    /// The lease under which it is published, if any.
    pub(super) turn: Option<LeaseTurn>,
    pub(super) answer: oneshot::Sender<Result<PublishAck, PublishError>>,
    pub(super) taken: Instant,
    pub(super) published_ms: u64,
    /// Its position in the order of submission; assigned when it is first sent.
    pub(super) number: u64,
    /// It is sent again because Redis had lost the script.
    pub(super) again: bool,
}

impl Job {
    pub(super) fn bytes(&self) -> usize {
        self.publication.payload.len()
    }

    /// Sends the result to the publisher, who may have disconnected.
    pub(super) fn answer(self, result: Result<PublishAck, PublishError>) {
        let _ = self.answer.send(result);
    }

    pub(super) fn refuse(self, refusal: PublishRefusal) {
        self.answer(Err(PublishError::Refused(refusal)));
    }
}

/// Encodes publications for Redis.
pub(super) struct Encoder<'a> {
    pub(super) keys: &'a Keys,
    pub(super) placement: Placement,
    pub(super) script: &'a str,
    /// The key of the generation.
    pub(super) gen_key: String,
    pub(super) generation: u64,
}

/// The fields of a publication in a call that its job does not have.
struct PublicationFields {
    epoch: u64,
    keep: bool,
}

impl Encoder<'_> {
    /// Encodes a pipeline of the publications in order. Also returns how many each of its commands has.
    pub(super) fn encode(&self, jobs: &[Job], ledger: &mut TopicLedger) -> (Pipeline, Vec<usize>) {
        let now = Instant::now();
        let mut pipe = Pipeline::with_capacity(jobs.len() / CALL_MAX + 2);
        let (mut counts, mut rest) = (Vec::with_capacity(jobs.len() / CALL_MAX + 1), jobs);
        while let Some(first) = rest.first() {
            let count = if is_plain(first) {
                let publication = &first.publication;
                let account = ledger.open(self.keys, &publication.topic);
                let channel = channel_word(publication);
                let header = format!("- - {} {} {channel}\n", self.generation, first.published_ms);
                let mut message = header.into_bytes();
                message.extend_from_slice(&publication.payload);
                pipe.cmd("PUBLISH").arg(&*account.stream).arg(message);
                1
            } else {
                let count = self.call_len(rest);
                pipe.add_command(self.call(&rest[..count], ledger, now));
                count
            };
            counts.push(count);
            rest = &rest[count..];
        }
        (pipe, counts)
    }

    /// How many of the publications one call takes: at least the first, and those of the same kind after it that may
    /// share a call.
    fn call_len(&self, jobs: &[Job]) -> usize {
        let (mut bytes, first) = (0, &jobs[0]);
        let fits = |job: &&Job| {
            bytes += job.bytes();
            bytes <= CALL_BYTES_MAX
                && has_msg_id(job) == has_msg_id(first)
                && number(job) == number(first)
                && !is_plain(job)
                && self.placement.same_call(&first.publication.topic, &job.publication.topic)
        };
        jobs.iter().take(CALL_MAX).take_while(fits).count().max(1)
    }

    /// Encodes one call of the script.
    fn call(&self, jobs: &[Job], ledger: &mut TopicLedger, now: Instant) -> Cmd {
        let bytes: usize = jobs.iter().map(|job| job.bytes() + 256).sum();
        let deduped = has_msg_id(&jobs[0]);
        let mut command = Cmd::with_capacity(5 + 10 * jobs.len(), bytes);
        command.arg("EVALSHA").arg(self.script).arg(1 + if deduped { 2 * jobs.len() } else { jobs.len() });
        command.arg(&*self.gen_key);
        let mut named = Vec::with_capacity(jobs.len());
        for job in jobs {
            let publication = &job.publication;
            let account = ledger.open(self.keys, &publication.topic);
            command.arg(&*account.stream);
            if let Some(once) = &publication.once {
                command.arg(self.keys.dedupe(&publication.topic, once));
            }
            named.push(PublicationFields {
                epoch: account.epoch,
                keep: account.must_keep(now, publication.rule.retain_ttl),
            });
        }
        match jobs[0].turn {
            None => command.arg(self.generation),
            Some(turn) => command.arg(format!("{} {} {}", self.generation, turn.of, turn.number)),
        };
        for (job, named) in jobs.iter().zip(named) {
            let publication = &job.publication;
            command
                .arg(&publication.payload[..])
                .arg(publication.rule.retain_max)
                .arg(named.epoch)
                .arg(job.published_ms)
                .arg(&*channel_word(publication))
                .arg(u8::from(named.keep));
            if let Some(once) = &publication.once {
                let ttl_ms = u64::try_from(publication.rule.dedupe_ttl.as_millis()).unwrap_or(u64::MAX).max(1);
                command.arg(ttl_ms).arg(format!("{:016x}", once.content));
            }
        }
        command
    }
}

fn channel_word(publication: &Publication) -> Cow<'_, str> {
    publication.channel.as_deref().map_or(Cow::Borrowed(word::NONE), word::of_channel)
}

fn has_msg_id(job: &Job) -> bool {
    job.publication.once.is_some()
}

/// The turn of a publication.
fn number(job: &Job) -> Option<(&str, u64)> {
    job.turn.map(|turn| (turn.of, turn.number))
}

/// Whether it needs no script.
fn is_plain(job: &Job) -> bool {
    job.publication.rule.retain_max == 0 && !has_msg_id(job) && job.turn.is_none()
}

/// The results of a pipeline's publications in order, as far as there are responses. `counts`: how many each command
/// had.
pub(super) fn outcomes(values: VecDeque<Value>, counts: Vec<usize>) -> impl Iterator<Item = PublishOutcome> {
    values.into_iter().zip(counts).flat_map(|(value, count)| match value {
        value if count == 1 => vec![outcome(value)],
        Value::Array(answers) if answers.len() == count => answers.into_iter().map(outcome).collect(),
        Value::ServerError(error) if error.code() == FENCED => vec![superseded(&error); count],
        // Refused before it ran, unless the script was aborted: then the first ones may be stored.
        Value::ServerError(error) => match RedisFailure::of(&error.into()) {
            RedisFailure::Other(_) => vec![PublishOutcome::STRANGE; count],
            refused => vec![PublishOutcome::Failed(refused); count],
        },
        _ => vec![PublishOutcome::STRANGE; count],
    })
}

/// Decodes the response for one publication.
fn outcome(value: Value) -> PublishOutcome {
    match value {
        Value::BulkString(bytes) => PublishOutcome::parse(&String::from_utf8_lossy(&bytes)),
        Value::SimpleString(text) => PublishOutcome::parse(&text),
        Value::Int(_) => PublishOutcome::Sent,
        Value::ServerError(error) if error.code() == REUSED => PublishOutcome::Reused,
        Value::ServerError(error) if error.code() == FENCED => superseded(&error),
        Value::ServerError(error) => PublishOutcome::Failed(RedisFailure::of(&error.into())),
        _ => PublishOutcome::STRANGE,
    }
}

fn superseded(error: &ServerError) -> PublishOutcome {
    let by = error.details().and_then(|text| text.split(' ').next()?.parse().ok());
    PublishOutcome::Superseded { by: by.unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tickgate_wire::model::{Once, StreamId};

    use super::*;
    use crate::backplane::redis::for_tests::{publication, rule};

    fn job(topic: &str, payload: usize, retain_max: u32, msg_id: Option<u128>) -> Job {
        let publication = Publication {
            payload: Bytes::from(vec![b'x'; payload]),
            once: msg_id.map(|name| Once { name, content: 0 }),
            ..publication(topic, rule(retain_max, Duration::ZERO))
        };
        let (answer, _) = oneshot::channel();
        Job { publication, turn: None, answer, taken: Instant::now(), published_ms: 0, number: 0, again: false }
    }

    /// The number of publications in each call of the pipeline.
    fn lens(placement: Placement, jobs: &[Job]) -> Vec<usize> {
        let encoder =
            Encoder { keys: &Keys::new("x:"), placement, script: "s", gen_key: "x:{gen}".into(), generation: 1 };
        encoder.encode(jobs, &mut TopicLedger::default()).1
    }

    #[test]
    fn a_call_takes_limited_publications_of_one_kind() {
        let lens = |jobs: Vec<Job>| lens(Placement::ONE, &jobs);
        let job = |payload, retain_max, msg_id| job("orders", payload, retain_max, msg_id);
        let (plain, kept, named) = (|| job(9, 0, None), || job(9, 5, None), || job(9, 5, Some(1)));
        assert_eq!(lens((0..40).map(|_| kept()).collect()), [16, 16, 8]);
        assert_eq!(lens(vec![kept(), kept(), plain(), plain(), kept(), named(), named()]), [2, 1, 1, 1, 2]);
        assert_eq!(lens(vec![job(9, 0, Some(1)), named()]), [2], "a msg_id needs the script also without a stream");
        let turn = |number| Some(LeaseTurn { of: "feed:a", number, until: Instant::now() });
        let held = |number| Job { turn: turn(number), ..job(9, 0, None) };
        assert_eq!(
            lens(vec![held(1), held(1), held(2), kept(), plain()]),
            [2, 1, 1, 1],
            "a turn needs the script too, and a separate call"
        );
        let large = || job(CALL_BYTES_MAX, 5, None);
        assert_eq!(lens(vec![large(), kept(), kept(), large(), large()]), [1, 2, 1, 1]);
    }

    #[test]
    fn a_call_takes_only_topics_that_may_share_one() {
        let jobs: Vec<_> = (0..16).map(|n| job(&format!("ticker:{n}"), 9, 5, None)).collect();
        assert_eq!(lens(Placement::ONE, &jobs), [16]);
        let placement = Placement::over(2);
        let lens = lens(placement, &jobs);
        assert!(lens.len() > 1 && lens.iter().sum::<usize>() == 16, "{lens:?}");
        let mut rest = &jobs[..];
        for len in lens {
            let (call, later) = rest.split_at(len);
            let shard = |job: &Job| placement.shard(job.publication.topic.as_str());
            assert!(call.iter().all(|job| shard(job) == shard(&call[0])));
            assert!(later.first().is_none_or(|next| shard(next) != shard(&call[0])));
            rest = later;
        }
    }

    #[test]
    fn the_response_of_a_call_contains_its_publications_responses() {
        let read = |values: Vec<Value>, counts: &[usize]| -> Vec<String> {
            outcomes(values.into(), counts.to_vec()).map(|outcome| format!("{outcome:?}")).collect()
        };
        let (id, error) = (
            || Value::BulkString("5-6".into()),
            |text: &[u8]| redis::parse_redis_value(&[b"-", text, b"\r\n"].concat()).unwrap(),
        );
        let (stored, oom) = (
            format!("{:?}", PublishOutcome::Stored(StreamId::new(5, 6))),
            "Failed(Refused { kind: Oom, text: \"OOM full\" })",
        );
        assert_eq!(read(vec![Value::Array(vec![id(), error(b"OOM full")]), id()], &[2, 1]), [&stored, oom, &stored]);
        assert_eq!(read(vec![error(b"OOM full"), id()], &[2, 1]), [oom, oom, &stored]);
        // The script was aborted: it is unknown after which publication.
        assert_eq!(read(vec![error(b"ERR user_script:1: broken")], &[2]), ["Failed(Closed)", "Failed(Closed)"]);
        assert_eq!(read(vec![Value::Array(vec![id()])], &[2]), ["Failed(Closed)", "Failed(Closed)"]);
        assert_eq!(read(vec![id(), error(b"REUSED so"), id()], &[1, 1, 2])[..2], [stored.clone(), "Reused".into()]);
        assert_eq!(read(vec![id()], &[1, 2]), [stored]);
    }
}
