//! After the server changed: whether what was acknowledged is still there, and a marker where it is not. Never gives up
//! before every claim is answered or the replica stops.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tickgate_wire::model::{Class, StreamId, Topic};
use tokio::{sync::Notify, time::sleep};

use super::ledger::{self, Claim, Ledger};
use crate::{
    clock,
    redis_link::{Attached, Failure, RedisLink},
    tasks::Stop,
};

/// Checks of one pipeline: about 2 ms of the server.
const CHUNK: usize = 256;
const PAUSE: Duration = Duration::from_millis(200);
/// Greater than any epoch, and a whole number in Lua as well.
const EPOCH_MAX: u64 = 1 << 53;

pub(super) const SCRIPT: &str = include_str!("scripts/lost.lua");

/// Claims that wait for their verification: the greatest id per topic and epoch, since a server loses its newest
/// writes. An epoch that a later server began proves nothing of the one before it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    waiting: Mutex<HashMap<(Topic, u64), Claim>>,
    added: Notify,
}

impl Claims {
    pub(super) fn add(&self, claims: impl IntoIterator<Item = Claim>) {
        let mut waiting = self.waiting.lock();
        for claim in claims {
            match waiting.entry((claim.topic.clone(), claim.id.epoch)) {
                Entry::Vacant(entry) => drop(entry.insert(claim)),
                Entry::Occupied(mut entry) if (entry.get().id, entry.get().marker) < (claim.id, claim.marker) => {
                    drop(entry.insert(claim));
                }
                Entry::Occupied(_) => {}
            }
        }
        drop(waiting);
        self.added.notify_one();
    }

    fn take(&self) -> Vec<Claim> {
        self.waiting.lock().drain().map(|(_, claim)| claim).collect()
    }
}

/// Verifies claims as they come, and tells every subscriber of what was lost.
pub(super) async fn verify(link: RedisLink, claims: Arc<Claims>, ledger: Arc<Mutex<Ledger>>, mut stop: Stop) {
    loop {
        tokio::select! {
            () = claims.added.notified() => {}
            () = stop.wait() => return,
        }
        let claims = claims.take();
        tokio::select! {
            () = verify_all(&link, &claims, &ledger) => {}
            () = stop.wait() => return,
        }
    }
}

async fn verify_all(link: &RedisLink, claims: &[Claim], ledger: &Mutex<Ledger>) {
    let script = redis::Script::new(SCRIPT);
    let (mut lost, mut doubted) = (0_u64, 0_u64);
    for chunk in claims.chunks(CHUNK) {
        let verdicts = loop {
            match check(link, script.get_hash(), chunk).await {
                Ok(verdicts) => break verdicts,
                Err(failure) => {
                    link.report(&failure);
                    sleep(PAUSE).await;
                }
            }
        };
        let mut ledger = ledger.lock();
        for (claim, verdict) in verdicts {
            match verdict {
                Verdict::Found(generation) => ledger.found(claim, generation),
                Verdict::Lost { marker, after, how } => {
                    match how {
                        // A marker that was lost itself is no further loss.
                        Told::Now if claim.marker.is_none() => lost += lost_count(after, claim.id),
                        Told::InDoubt => doubted += 1,
                        Told::Now | Told::Before => {}
                    }
                    ledger.told(&claim.topic, claim.id, marker);
                }
            }
        }
    }
    link.metrics().lost_publications_total.inc_by(lost);
    if doubted > 0 {
        tracing::warn!(
            topics = doubted,
            "streams were trimmed before anybody could look for what was acknowledged; \
            their subscribers are told"
        );
    }
    match lost {
        0 if claims.is_empty() => {}
        0 => tracing::info!(topics = claims.len(), "everything acknowledged is still in redis"),
        _ => tracing::error!(lost, "redis lost acknowledged publications; their subscribers are told"),
    }
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The server of this generation has it, or had it before it was trimmed.
    Found(u64),
    /// The server could not honour it.
    Lost {
        /// What tells of it now.
        marker: StreamId,
        /// The last entry that was not lost.
        after: StreamId,
        how: Told,
    },
}

/// Who told of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Now,
    /// Another replica had, and counts it.
    Before,
    /// It may be no loss: the stream was trimmed to behind it.
    InDoubt,
}

/// How many publications were lost with the one that was claimed: of an epoch that began after what is left, all.
const fn lost_count(after: StreamId, claimed: StreamId) -> u64 {
    match StreamId::missing_between(after, claimed) {
        Some(between) => between + 1,
        None => claimed.seq.saturating_add(1),
    }
}

/// `<marker> <after>`, with ` told` or ` doubted` or neither; or `-`.
fn answer(value: Value, generation: u64) -> Result<Verdict, Failure> {
    let text = match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Value::ServerError(error) => return Err(Failure::of(&error.into())),
        _ => String::new(),
    };
    let words: Vec<_> = text.split(' ').collect();
    let (marker, after, how) = match words[..] {
        ["-"] => return Ok(Verdict::Found(generation)),
        [marker, after] => (marker, after, Told::Now),
        [marker, after, "told"] => (marker, after, Told::Before),
        [marker, after, "doubted"] => (marker, after, Told::InDoubt),
        _ => ("", "", Told::Now),
    };
    match (marker.parse(), after.parse()) {
        (Ok(marker), Ok(after)) => Ok(Verdict::Lost { marker, after, how }),
        _ => Err(Failure::Other("unexpected answer to a verification".into())),
    }
}

/// One pipeline.
async fn check<'a>(link: &RedisLink, script: &str, claims: &'a [Claim]) -> Result<Vec<(&'a Claim, Verdict)>, Failure> {
    let Attached { mut connection, generation } = link.attached()?;
    if generation < link.generation() {
        // Still the server before: it has everything, and will be gone.
        return Err(Failure::Disconnected);
    }
    let values = connection.send_packed_commands(&encode(link, script, generation, claims), 0, claims.len()).await?;
    let mut verdicts = Vec::with_capacity(claims.len());
    for (claim, value) in claims.iter().zip(values) {
        match answer(value, generation) {
            Ok(verdict) => verdicts.push((claim, verdict)),
            Err(Failure::NoScript) => {
                let load = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).to_owned();
                load.query_async::<Value>(&mut connection).await?;
                return Err(Failure::NoScript);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(verdicts)
}

fn encode(link: &RedisLink, script: &str, generation: u64, claims: &[Claim]) -> redis::Pipeline {
    let mut pipe = redis::Pipeline::with_capacity(claims.len());
    for claim in claims {
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(script).arg(1_u8).arg(link.keys().stream(&claim.topic));
        command.arg(claim.id.to_string()).arg(generation).arg(claim.rule.retain_max.max(1));
        command.arg(ledger::expiry(claim.rule.retain_ttl).as_secs()).arg(format!("{}!", clock::unix_ms()));
        command.arg(claim.marker.map_or("-".to_owned(), |marker| marker.to_string()));
        // Of values only the newest is owed, and old ones are trimmed at once: that is no reason for doubt.
        command.arg(if claim.rule.class == Class::State { EPOCH_MAX } else { claim.proven });
        pipe.add_command(command);
    }
    pipe
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::{Pattern, TopicRule};

    use super::*;

    #[test]
    fn what_an_earlier_server_acknowledged_waits_beside_what_a_later_one_did() {
        let rule = Arc::new(TopicRule {
            pattern: Pattern::new("*").unwrap(),
            class: Class::Reliable,
            retain_max: 100,
            retain_ttl: Duration::ZERO,
            wait_replicas: 0,
            wait_aof: false,
        });
        let claim = |epoch, seq| Claim {
            topic: Topic::public("orders").unwrap(),
            id: StreamId::new(epoch, seq),
            marker: None,
            proven: epoch,
            rule: Arc::clone(&rule),
        };
        let claims = Claims::default();
        claims.add([claim(5, 8), claim(6, 3)]);
        claims.add([claim(5, 9), claim(6, 2)]);
        let mut waiting: Vec<_> = claims.take().iter().map(|claim| claim.id).collect();
        waiting.sort_unstable();
        assert_eq!(waiting, [StreamId::new(5, 9), StreamId::new(6, 3)]);
    }

    #[test]
    fn a_loss_is_counted_from_what_is_left() {
        let claimed = StreamId::new(5, 9);
        assert_eq!(lost_count(StreamId::new(5, 6), claimed), 3);
        assert_eq!(lost_count(StreamId::new(4, 6), claimed), 10);
        assert_eq!(lost_count(StreamId::ZERO, claimed), 10);
    }

    #[test]
    fn only_the_scripts_own_answers_count() {
        let read = |text: &str| answer(Value::BulkString(text.into()), 9);
        let lost = |how| Ok(Verdict::Lost { marker: StreamId::new(7, 0), after: StreamId::new(5, 6), how });
        assert_eq!(read("-"), Ok(Verdict::Found(9)));
        assert_eq!(read("7-0 5-6"), lost(Told::Now));
        assert_eq!(read("7-0 5-6 told"), lost(Told::Before));
        assert_eq!(read("7-0 5-6 doubted"), lost(Told::InDoubt));
        assert!(["7-0", "", "- -", "7-0 5-6 x", "7-0 5-6 told x"].iter().all(|text| read(text).is_err()));
    }
}
