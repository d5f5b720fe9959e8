//! One server's part of the backplane: the lanes that publish to it, the books of what it acknowledged, and the task that
//! verifies them when the server has changed. Never gives up a verification before every claim is answered or the replica
//! stops. A claim that is refused alone, as where its key is of another type, keeps no other waiting.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{Cmd, Pipeline, Value};
use tickgate_wire::model::Publication;
use tokio::time::sleep;

use super::{
    books::Books,
    claims::Claim,
    durable::Dedicated,
    lane::{self, Lane, LaneParts, Route},
    ledger,
    verify::{Finding, Tally},
};
use crate::{
    backplane::Ticket,
    clock,
    redis_link::{Attached, Failure, Placement, RedisLink},
    tasks::{Stop, Tasks},
};

/// Claims checked by one pipeline: about 2 ms of the server.
const CHUNK: usize = 256;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The same for what will not pass by itself, such as a key of another type.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

const SCRIPT: &str = include_str!("scripts/lost.lua");

/// The server of a part of the topics, as publishers see it.
#[derive(Debug)]
pub(super) struct BackplaneShard {
    lane: Lane,
    /// For topics that are acknowledged only when copies or the disk have them. No topic uses both lanes.
    durable: Lane,
}

impl BackplaneShard {
    /// Starts the tasks of one of `shards` shards.
    pub(super) fn start(link: &RedisLink, placement: Placement, shards: usize, tasks: &Tasks) -> Self {
        link.preload(lane::SCRIPT);
        link.preload(SCRIPT);
        let books = Arc::<Books>::default();
        let lane = |route| {
            let parts = LaneParts { link: link.clone(), placement, route, books: Arc::clone(&books), shards };
            Lane::start(parts, tasks)
        };
        let shard = Self { lane: lane(Route::Shared), durable: lane(Route::Dedicated(Dedicated::default())) };
        tasks.spawn_vital("redis verification", verify(link.clone(), books, tasks.stop()));
        shard
    }

    pub(super) fn publish(&self, publication: Publication) -> Ticket {
        let rule = &publication.rule;
        let durable = rule.retain_max > 0 && (rule.wait_replicas > 0 || rule.wait_aof);
        if durable { self.durable.publish(publication) } else { self.lane.publish(publication) }
    }
}

/// The generation of a server, and what it says of each claim.
type Answers = (u64, Vec<Result<Finding, Failure>>);

/// Claims that could not be answered alone, and when they are asked about again.
#[derive(Default)]
struct Again {
    claims: Vec<Claim>,
    pause: Duration,
}

/// Verifies claims as they come.
async fn verify(link: RedisLink, books: Arc<Books>, mut stop: Stop) {
    let mut again = Again::default();
    loop {
        tokio::select! {
            () = books.claimed.notified() => {}
            () = sleep(again.pause) , if !again.claims.is_empty() => {}
            () = stop.wait() => return,
        }
        let claims = {
            let mut ledger = books.ledger.lock();
            ledger.claims.add(mem::take(&mut again.claims));
            ledger.claims.take()
        };
        again = tokio::select! {
            again = verify_all(&link, &claims, &books) => again,
            () = stop.wait() => return,
        };
    }
}

async fn verify_all(link: &RedisLink, claims: &[Claim], books: &Books) -> Again {
    let script = redis::Script::new(SCRIPT);
    let (mut tally, mut again) = (Tally::default(), Again { claims: Vec::new(), pause: REFUSED_PAUSE });
    for chunk in claims.chunks(CHUNK) {
        let (generation, answers) = loop {
            match check(link, script.get_hash(), chunk).await {
                Ok(found) => break found,
                Err(failure) => {
                    link.report(&failure);
                    sleep(RETRY_PAUSE).await;
                }
            }
        };
        let (mut ledger, now) = (books.ledger.lock(), Instant::now());
        for (claim, answer) in chunk.iter().zip(answers) {
            match answer {
                Ok(finding) => ledger.settle_claim(claim, finding, generation, &mut tally, now),
                Err(failure) => {
                    link.report(&failure);
                    if failure.is_passing() {
                        again.pause = RETRY_PAUSE;
                    }
                    again.claims.push(claim.clone());
                }
            }
        }
    }
    let Tally { lost, doubtful } = tally;
    if !again.claims.is_empty() && again.pause == REFUSED_PAUSE {
        let topics = again.claims.len();
        tracing::error!(topics, "redis refuses to verify acknowledged publications: see tickgate_redis_errors_total");
    }
    link.metrics().lost_publications_total.inc_by(lost);
    if doubtful > 0 {
        tracing::warn!(
            topics = doubtful,
            "streams were trimmed before acknowledged publications could be verified; a gap is reported to their \
            subscribers"
        );
    }
    match lost {
        0 if claims.len() == again.claims.len() => {}
        0 => {
            tracing::info!(topics = claims.len() - again.claims.len(), "redis still has all acknowledged publications");
        }
        _ => tracing::error!(lost, "redis lost acknowledged publications; their subscribers receive a gap"),
    }
    again
}

/// One pipeline: the generation of the server that answered, and its answers in the order of the claims. Fails when
/// nothing was answered, or not by the script.
async fn check(link: &RedisLink, script: &str, claims: &[Claim]) -> Result<Answers, Failure> {
    let Attached { mut connection, generation } = link.attached()?;
    if generation < link.generation() {
        // Still the server before: it has everything, and will be gone.
        return Err(Failure::Disconnected);
    }
    let values = connection.send_packed_commands(&encode(link, script, generation, claims), 0, claims.len()).await?;
    let mut answers = Vec::with_capacity(claims.len());
    for value in values {
        match answer(value) {
            Err(failure) if failure.is_no_script() => {
                let load = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).to_owned();
                load.query_async::<Value>(&mut connection).await?;
                return Err(failure);
            }
            answer => answers.push(answer),
        }
    }
    Ok((generation, answers))
}

fn answer(value: Value) -> Result<Finding, Failure> {
    let finding = match value {
        Value::BulkString(bytes) => Finding::parse(&String::from_utf8_lossy(&bytes)),
        Value::ServerError(error) => return Err(Failure::of(&error.into())),
        _ => None,
    };
    finding.ok_or_else(|| Failure::Other("unexpected answer to a verification".into()))
}

fn encode(link: &RedisLink, script: &str, generation: u64, claims: &[Claim]) -> Pipeline {
    let mut pipe = Pipeline::with_capacity(claims.len());
    for claim in claims {
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(script).arg(1_u8).arg(link.keys().stream(&claim.topic));
        command.arg(claim.id.to_string()).arg(generation).arg(claim.rule.retain_max.max(1));
        command.arg(ledger::expiry(claim.rule.retain_ttl).as_secs()).arg(format!("{}!", clock::unix_ms()));
        command.arg(claim.marker.map_or("-".to_owned(), |marker| marker.to_string()));
        command.arg(claim.proof());
        pipe.add_command(command);
    }
    pipe
}
