//! After the server changed: whether what was acknowledged is still there, and a marker where it is not. Never gives up
//! before every claim is answered or the replica stops.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::{sync::Notify, time::sleep};

use super::{
    batch::{Outcome, outcome, wall_ms},
    ledger::{self, Claim, Ledger},
};
use crate::{
    model::{StreamId, Topic},
    redis_link::{Attached, Failure, RedisLink},
    tasks::Stop,
};

/// Checks of one pipeline: about 2 ms of the server.
const CHUNK: usize = 256;
const PAUSE: Duration = Duration::from_millis(200);

pub(super) const SCRIPT: &str = include_str!("scripts/lost.lua");

/// Claims that wait for their verification: the greatest id per topic, since a server loses its newest writes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    waiting: Mutex<HashMap<Topic, Claim>>,
    added: Notify,
}

impl Claims {
    pub(super) fn add(&self, claims: impl IntoIterator<Item = Claim>) {
        let mut waiting = self.waiting.lock();
        for claim in claims {
            match waiting.entry(claim.topic.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(claim)),
                Entry::Occupied(mut entry) if entry.get().id < claim.id => drop(entry.insert(claim)),
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
    let mut lost = 0_u64;
    for chunk in claims.chunks(CHUNK) {
        let found = loop {
            match check(link, script.get_hash(), chunk).await {
                Ok(found) => break found,
                Err(failure) => {
                    link.report(&failure);
                    sleep(PAUSE).await;
                }
            }
        };
        let mut ledger = ledger.lock();
        for (claim, marker) in found {
            lost += 1;
            ledger.replace(&claim.topic, claim.id, marker);
        }
    }
    link.metrics().lost_publications_total.inc_by(lost);
    match lost {
        0 if claims.is_empty() => {}
        0 => tracing::info!(topics = claims.len(), "everything acknowledged is still in redis"),
        _ => tracing::error!(topics = lost, "redis lost acknowledged publications; their subscribers are told"),
    }
}

/// One pipeline; the claims that were lost, with the markers that stand for them.
async fn check<'a>(link: &RedisLink, script: &str, claims: &'a [Claim]) -> Result<Vec<(&'a Claim, StreamId)>, Failure> {
    let Attached { mut connection, generation } = link.attached()?;
    if generation < link.generation() {
        // Still the server before: it has everything, and will be gone.
        return Err(Failure::Disconnected);
    }
    let values = connection.send_packed_commands(&encode(link, script, generation, claims), 0, claims.len()).await?;
    let mut found = Vec::new();
    for (claim, value) in claims.iter().zip(values) {
        match outcome(value) {
            Outcome::Stored(marker) => found.push((claim, marker)),
            Outcome::Failed(Failure::NoScript) => {
                let load = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).to_owned();
                load.query_async::<Value>(&mut connection).await?;
                return Err(Failure::NoScript);
            }
            Outcome::Failed(failure) => return Err(failure),
            Outcome::Sent | Outcome::Duplicate(_) => {}
        }
    }
    Ok(found)
}

fn encode(link: &RedisLink, script: &str, generation: u64, claims: &[Claim]) -> redis::Pipeline {
    let mut pipe = redis::Pipeline::with_capacity(claims.len());
    for claim in claims {
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(script).arg(2_u8);
        command.arg(link.keys().stream(&claim.topic)).arg(link.keys().channel(&claim.topic));
        command.arg(claim.id.to_string()).arg(generation).arg(claim.rule.retain_max.max(1));
        command.arg(ledger::expiry(claim.rule.retain_ttl).as_secs()).arg(format!("{}!", wall_ms()));
        pipe.add_command(command);
    }
    pipe
}
