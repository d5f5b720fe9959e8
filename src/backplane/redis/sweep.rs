//! Empties streams that were not published to within their topic's retention. Their last ids are kept, so that no false
//! gap is reported. One replica at a time sweeps. The script repeats the check.

use std::time::Duration;

use redis::Value;
use tickgate_wire::model::Topic;
use tokio::time::sleep;

use super::ReplicaIdentity;
use crate::{
    redis_link::{RedisFailure, RedisLink},
    tasks::Stop,
};

/// Minimum and maximum interval; in between, an eighth of the shortest retention of a topic.
const INTERVAL: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(60)];
/// How long an empty stream is kept: older cursors receive a gap.
const EMPTY_KEPT: Duration = Duration::from_hours(30 * 24);
/// Number of keys examined in one step, and of streams per script call.
const SCAN: usize = 500;
const CALL: usize = 100;

const SCRIPT: &str = include_str!("scripts/sweep.lua");

/// Sweeps until the replica stops.
pub(super) async fn run(link: RedisLink, identity: ReplicaIdentity, mut stop: Stop) {
    let lives = identity.rules.all().map(|rule| rule.retain_ttl).filter(|ttl| !ttl.is_zero());
    let interval = lives.min().unwrap_or(INTERVAL[1]) / 8;
    let interval = interval.clamp(INTERVAL[0], INTERVAL[1]);
    loop {
        tokio::select! {
            () = sleep(interval) => {}
            () = stop.wait() => return,
        }
        if let Err(failure) = sweep(&link, &identity, interval).await {
            tracing::debug!(%failure, "streams were not swept");
        }
    }
}

async fn sweep(link: &RedisLink, identity: &ReplicaIdentity, interval: Duration) -> Result<(), RedisFailure> {
    let mut connection = link.pooled().await?;
    let lease = link.keys().lease("streams");
    let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    // Expires before the next round, in which any replica may be first.
    let mut take = redis::cmd("SET");
    take.arg(&lease).arg(identity.replica.as_str()).arg("NX").arg("PX").arg(ms - ms / 8);
    if take.query_async::<Value>(&mut *connection).await? == Value::Nil {
        return Ok(());
    }
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(link.keys().all_streams()).arg("COUNT").arg(SCAN).arg("TYPE").arg("stream");
        let (next, keys): (u64, Vec<String>) = scan.query_async(&mut *connection).await?;
        let life = |key: &String| {
            let topic = Topic::from_wire(&link.keys().topic_of_channel(key)?);
            Some(identity.rules.of_topic(&topic).retain_ttl).filter(|ttl| !ttl.is_zero())
        };
        let streams: Vec<_> = keys.iter().filter_map(|key| Some((key, life(key)?))).collect();
        for streams in streams.chunks(CALL) {
            let mut call = redis::cmd("EVAL");
            call.arg(SCRIPT).arg(streams.len());
            for (key, _) in streams {
                call.arg(key);
            }
            call.arg(u64::try_from(EMPTY_KEPT.as_millis()).unwrap_or(u64::MAX));
            for (_, ttl) in streams {
                call.arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            }
            call.query_async::<Value>(&mut *connection).await?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}
