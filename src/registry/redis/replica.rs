//! The replica's own lease, the statistics renewed with it, named leases, and sweeping after replicas whose lease has
//! expired.
//!
//! Never touches the sessions of another replica that renews its lease.

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::{Pipeline, Value};
use tickgate_wire::model::ReplicaId;
use tokio::time::sleep;

use super::{
    RedisRegistryShared,
    batch::ShardPart,
    commands::{ask, call, run, tell_all},
    leases::BUCKETS,
    owner::member,
    pulse::BEAT,
    sweep::{OwnLease, Sweep, SweepStep},
    times::millis,
};
use crate::{
    defect::{self, Defect},
    redis_link::{RedisFailure, RedisLink},
    registry::{ClusterFigures, UserPlaces},
    tasks::Stop,
};

/// How long one replica may sweep before another one takes over.
const SWEEP_TTL: Duration = Duration::from_secs(10);
/// Index entries read per step of a sweep.
const SWEEP_PAGE: usize = 500;

/// Renews until the replica stops or leaves.
pub(super) async fn keep(inner: Arc<RedisRegistryShared>, mut stop: Stop) {
    let mut lease = OwnLease::new(inner.local.session.replica_ttl);
    let mut changes = inner.replicas_link().changes();
    while !stop.stopping() && !inner.has_left() {
        let renewed = match renew(&inner).await {
            Ok(renewal) => {
                let renewed = lease.renewed(renewal.was_running);
                if renewed.rewrite {
                    tracing::warn!("this replica's lease had ended; re-registering all sessions in redis");
                    inner.queues.iter().for_each(super::writer::ShardQueue::mark_stale);
                }
                for replica in renewal.ended {
                    sweep_logged(&inner, &replica).await;
                }
                renewed
            }
            Err(failure) => {
                tracing::debug!(%failure, "the replica's lease was not renewed");
                lease.failed()
            }
        };
        tokio::select! {
            () = sleep(renewed.pause) => {}
            // A new server does not know this replica.
            Ok(()) = changes.changed() => {}
            () = stop.wait() => {}
        }
    }
}

/// Records that this process runs, until it stops.
pub(super) async fn beat(inner: Arc<RedisRegistryShared>, mut stop: Stop) {
    while !stop.stopping() {
        inner.pulse.beat(inner.uptime_us());
        tokio::select! {
            () = sleep(BEAT) => {}
            () = stop.wait() => {}
        }
    }
}

/// The replicas with a valid lease, and their statistics.
pub(super) async fn cluster(inner: &RedisRegistryShared) -> Result<ClusterFigures, RedisFailure> {
    let call = call(&inner.scripts.cluster, &[&inner.keys().replicas(), &inner.keys().replica_figures()]);
    let found: Vec<(String, String)> = run(inner.replicas_link(), &inner.scripts.cluster, &call).await?;
    let parse = |(replica, figures): &(String, String)| {
        Some((ReplicaId::new(replica).ok()?, serde_json::from_str(figures).ok()?))
    };
    Ok(ClusterFigures { replicas: found.iter().filter_map(parse).collect() })
}

/// Takes or renews a named lease. Returns the number of its turn, which exceeds `above`; `None` while another replica
/// holds it.
pub(super) async fn hold(
    inner: &RedisRegistryShared,
    name: &str,
    ttl: Duration,
    above: u64,
) -> Result<Option<u64>, RedisFailure> {
    let mut hold = call(&inner.scripts.hold, &[&inner.keys().lease(name)]);
    hold.arg(inner.local.replica.as_str()).arg(millis(ttl)).arg(above);
    run(inner.topology.at(name), &inner.scripts.hold, &hold).await
}

/// Registers under a lease what this replica requests from a feed, and returns what any replica requests, if asked for.
pub(super) async fn want(
    inner: &RedisRegistryShared,
    feed: &str,
    names: &[String],
    ttl: Duration,
    read: bool,
) -> Result<Vec<String>, RedisFailure> {
    let mut want = call(&inner.scripts.want, &[&inner.keys().wanted(feed)]);
    want.arg(millis(ttl)).arg(u8::from(read)).arg(names);
    run(inner.topology.at(feed), &inner.scripts.want, &want).await
}

async fn release(inner: &RedisRegistryShared, name: &str) -> Result<(), RedisFailure> {
    let mut release = call(&inner.scripts.release, &[&inner.keys().lease(name)]);
    release.arg(inner.local.replica.as_str());
    let _: Value = run(inner.topology.at(name), &inner.scripts.release, &release).await?;
    Ok(())
}

/// Removes everything of this replica from Redis, except the records of its sessions.
pub(super) async fn end_all(inner: &RedisRegistryShared) -> Result<(), RedisFailure> {
    let own = &inner.local.replica;
    for (shard, link) in inner.topology.links().iter().enumerate() {
        let part = ShardPart::new(inner.topology.placement(), shard);
        for bucket in 0..BUCKETS {
            let renewals = inner.leases.renewals(bucket).into_iter();
            let leases = renewals.filter_map(|renewal| {
                Some((
                    renewal.places.filter(|places| part.has_user(&places.user))?,
                    member(renewal.stamp, own, renewal.session),
                ))
            });
            remove(inner, link, &leases.collect::<Vec<_>>()).await?;
        }
        let index = inner.keys().replica_sessions(own);
        let _: Value = ask(link, redis::cmd("UNLINK").arg(index)).await?;
    }
    bury(inner, own, "now").await?;
    let held: Vec<String> = inner.held.lock().drain().collect();
    for name in held {
        release(inner, &name).await?;
    }
    Ok(())
}

/// Removes a replica; `how`: "now" to remove it although its lease is valid.
async fn bury(inner: &RedisRegistryShared, replica: &ReplicaId, how: &str) -> Result<(), RedisFailure> {
    let mut bury = call(&inner.scripts.bury, &[&inner.keys().replicas(), &inner.keys().replica_figures()]);
    bury.arg(replica.as_str()).arg(how);
    let _: Value = run(inner.replicas_link(), &inner.scripts.bury, &bury).await?;
    Ok(())
}

struct ReplicaRenewal {
    was_running: bool,
    /// Other replicas whose lease has expired.
    ended: Vec<ReplicaId>,
}

async fn renew(inner: &RedisRegistryShared) -> Result<ReplicaRenewal, RedisFailure> {
    let figures = serde_json::to_string(&(inner.local.figures)()).unwrap_or_default();
    let times = &inner.lifetimes;
    let mut renewal = call(&inner.scripts.replica, &[&inner.keys().replicas(), &inner.keys().replica_figures()]);
    renewal.arg(inner.local.replica.as_str()).arg(figures).arg(times.replica).arg(times.index());
    let link = inner.replicas_link();
    let (now_us, running, ended, alive): (u64, u8, Vec<String>, i64) =
        run(link, &inner.scripts.replica, &renewal).await?;
    inner.clock.set(now_us, inner.uptime_us());
    link.metrics().replicas.set(alive);
    for link in inner.topology.links() {
        let mut expire = redis::cmd("PEXPIRE");
        expire.arg(inner.keys().replica_sessions(&inner.local.replica)).arg(times.index());
        // A dead shard has no index anyway; its writer creates a new one.
        let _ = ask::<Value>(link, &expire).await;
    }
    let ended = ended.iter().filter_map(|name| ReplicaId::new(name).ok());
    let ended = ended.filter(|_| !defect::is(Defect::NoSweep));
    Ok(ReplicaRenewal {
        was_running: running == 1,
        ended: ended.filter(|other| *other != inner.local.replica).collect(),
    })
}

async fn sweep_logged(inner: &RedisRegistryShared, replica: &ReplicaId) {
    match sweep(inner, replica).await {
        Ok(None) => {}
        Ok(Some(sessions)) => {
            inner.replicas_link().metrics().sessions_swept_total.inc_by(sessions as u64);
            tracing::info!(%replica, sessions, "removed the sessions of a replica that has ended");
        }
        Err(failure) => tracing::debug!(%replica, %failure, "a sweep was interrupted"),
    }
}

/// Removes the sessions of an ended replica from their users' sets. `None` while another replica does.
async fn sweep(inner: &RedisRegistryShared, replica: &ReplicaId) -> Result<Option<usize>, RedisFailure> {
    let name = format!("sweep:{replica}");
    if hold(inner, &name, SWEEP_TTL, 0).await?.is_none() {
        return Ok(None);
    }
    let (mut sessions, mut is_clean, mut failed) = (0, true, None);
    for link in inner.topology.links() {
        match sweep_shard(inner, link, replica).await {
            Ok((swept, clean)) => (sessions, is_clean) = (sessions + swept, is_clean && clean),
            // A dead shard must not delay releases on the other shards.
            Err(failure) => failed = Some(failure),
        }
    }
    if let Some(failure) = failed {
        return Err(failure);
    }
    if is_clean {
        bury(inner, replica, "").await?;
    }
    release(inner, &name).await?;
    Ok(Some(sessions))
}

/// Sweeps one shard. Returns the number of sessions, and whether nothing is left there.
async fn sweep_shard(
    inner: &RedisRegistryShared,
    link: &RedisLink,
    replica: &ReplicaId,
) -> Result<(usize, bool), RedisFailure> {
    let (index, swept) = (inner.keys().replica_sessions(replica), inner.keys().replica_swept(replica));
    let mut sweep = Sweep::new(replica.clone());
    loop {
        match sweep.next() {
            // Fails if there is no index.
            SweepStep::MoveAside => sweep.moved(ask(link, redis::cmd("RENAMENX").arg(&index).arg(&swept)).await.ok()),
            SweepStep::Scan { cursor } => {
                let mut scan = redis::cmd("HSCAN");
                scan.arg(&swept).arg(cursor).arg("COUNT").arg(SWEEP_PAGE);
                let (next, page): (u64, HashMap<String, String>) = ask(link, &scan).await?;
                sweep.scanned(next, &page);
            }
            SweepStep::Remove { leases, cursor } => {
                remove(inner, link, &leases).await?;
                sweep.removed(cursor);
            }
            SweepStep::Drop => {
                let _: Value = ask(link, redis::cmd("UNLINK").arg(&swept)).await?;
                sweep.dropped();
            }
            SweepStep::Done { sessions, is_clean } => return Ok((sessions, is_clean)),
        }
    }
}

/// Removes leases from the sets of their users on that shard.
async fn remove(
    inner: &RedisRegistryShared,
    link: &RedisLink,
    leases: &[(UserPlaces, String)],
) -> Result<(), RedisFailure> {
    let mut pipeline = Pipeline::new();
    for (places, member) in leases {
        pipeline
            .cmd("ZREM")
            .arg(inner.keys().user_sessions(&places.user, places.apart.as_deref()))
            .arg(member)
            .ignore();
    }
    tell_all(link, &pipeline).await
}
