//! The replica's own lease to its end, and sweeping after replicas whose lease has ended.
//!
//! Never touches the sessions of another replica that renews its lease.

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::{Pipeline, Value};
use tickgate_wire::model::{ReplicaId, SessionId};
use tokio::time::sleep;

use super::{
    Inner,
    scripts::call,
    sessions::BUCKETS,
    wire::{Slot, member},
};
use crate::{
    defect::{self, Defect},
    redis_link::Failure,
    tasks::Stop,
};

/// How long one replica may sweep before another one takes over.
const SWEEP_TTL: Duration = Duration::from_secs(10);
/// Index entries read per step of a sweep.
const SWEEP_PAGE: usize = 500;
/// Pause after a failed renewal: short, for until the lease stands nobody would sweep after this replica.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Renews until the replica stops or leaves.
pub(super) async fn keep(inner: Arc<Inner>, mut stop: Stop) {
    let third = inner.local.session.replica_ttl / 3;
    let mut renewed_before = false;
    let mut generations = inner.link.generations();
    while !stop.stopping() && !inner.has_left() {
        let pause = match renew(&inner).await {
            Ok(renewal) => {
                if renewed_before && !renewal.was_running {
                    tracing::warn!("this replica's lease had ended; telling redis about all sessions again");
                    inner.queue.mark_stale();
                }
                renewed_before = true;
                for replica in renewal.ended {
                    sweep_logged(&inner, &replica).await;
                }
                third
            }
            Err(failure) => {
                tracing::debug!(%failure, "the replica's lease was not renewed");
                third.min(RETRY_PAUSE)
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            // A new server does not know this replica.
            Ok(()) = generations.changed() => {}
            () = stop.wait() => {}
        }
    }
}

/// Takes everything of this replica out of Redis, except the records of its sessions.
pub(super) async fn end_all(inner: &Inner) -> Result<(), Failure> {
    for bucket in 0..BUCKETS {
        let mut pipeline = Pipeline::new();
        for lease in inner.sessions.leases(bucket) {
            if let Some(user) = &lease.user {
                let member = member(lease.stamp, &inner.local.replica, lease.session);
                pipeline.cmd("ZREM").arg(inner.keys().user_sessions(user)).arg(member).ignore();
            }
        }
        inner.tell_all(&pipeline).await?;
    }
    let index = inner.keys().replica_sessions(&inner.local.replica);
    let _: Value = inner.ask(redis::cmd("UNLINK").arg(index)).await?;
    let mut bury = call(&inner.scripts.bury, &[&inner.keys().replicas(), &inner.keys().replica_figures()]);
    bury.arg(inner.local.replica.as_str()).arg("now");
    let _: Value = inner.run(&inner.scripts.bury, &bury).await?;
    let held: Vec<String> = inner.held.lock().drain().collect();
    for name in held {
        inner.release(&name).await?;
    }
    Ok(())
}

struct Renewal {
    was_running: bool,
    /// Other replicas whose lease has ended.
    ended: Vec<ReplicaId>,
}

async fn renew(inner: &Inner) -> Result<Renewal, Failure> {
    let figures = serde_json::to_string(&(inner.local.figures)()).unwrap_or_default();
    let index_life = inner.index_ttl_ms();
    let mut renewal = call(&inner.scripts.replica, &[&inner.keys().replicas(), &inner.keys().replica_figures()]);
    renewal.arg(inner.local.replica.as_str()).arg(figures).arg(inner.replica_ttl_ms()).arg(index_life);
    let answer = inner.run(&inner.scripts.replica, &renewal).await?;
    let (now_us, running, ended, alive): (u64, u8, Vec<String>, i64) = answer;
    inner.clock.set(now_us);
    inner.link.metrics().replicas.set(alive);
    let mut expire = redis::cmd("PEXPIRE");
    expire.arg(inner.keys().replica_sessions(&inner.local.replica)).arg(index_life);
    let _: Value = inner.ask(&expire).await?;
    let ended = ended.iter().filter_map(|name| ReplicaId::new(name).ok());
    let ended = ended.filter(|_| !defect::is(Defect::NoSweep));
    Ok(Renewal { was_running: running == 1, ended: ended.filter(|other| *other != inner.local.replica).collect() })
}

async fn sweep_logged(inner: &Inner, replica: &ReplicaId) {
    match sweep(inner, replica).await {
        Ok(None) => {}
        Ok(Some(sessions)) => {
            inner.link.metrics().sessions_swept_total.inc_by(sessions as u64);
            tracing::info!(%replica, sessions, "swept after a replica that is gone");
        }
        Err(failure) => tracing::debug!(%replica, %failure, "a sweep was interrupted"),
    }
}

/// Takes the sessions of a replica that is gone out of their users' sets. `None` when another replica is at it.
async fn sweep(inner: &Inner, replica: &ReplicaId) -> Result<Option<usize>, Failure> {
    if !inner.try_hold(&format!("sweep:{replica}"), SWEEP_TTL).await? {
        return Ok(None);
    }
    let (index, swept) = (inner.keys().replica_sessions(replica), inner.keys().replica_swept(replica));
    // Moved aside first: a replica that only slept and wakes up now writes a new index, which stays.
    let moved: Result<bool, _> = inner.ask(redis::cmd("RENAMENX").arg(&index).arg(&swept)).await;
    let left_over = matches!(moved, Ok(false));
    let mut sessions = 0;
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(&swept).arg(cursor).arg("COUNT").arg(SWEEP_PAGE);
        let (next, page): (u64, HashMap<String, String>) = inner.ask(&scan).await?;
        sessions += page.len();
        remove_members(inner, replica, &page).await?;
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let _: Value = inner.ask(redis::cmd("UNLINK").arg(&swept)).await?;
    if !left_over {
        let mut bury = call(&inner.scripts.bury, &[&inner.keys().replicas(), &inner.keys().replica_figures()]);
        bury.arg(replica.as_str()).arg("");
        let _: Value = inner.run(&inner.scripts.bury, &bury).await?;
    }
    inner.release(&format!("sweep:{replica}")).await?;
    Ok(Some(sessions))
}

async fn remove_members(inner: &Inner, replica: &ReplicaId, page: &HashMap<String, String>) -> Result<(), Failure> {
    let mut pipeline = Pipeline::new();
    for (session, slot) in page {
        let Some(session) = SessionId::parse(session) else { continue };
        let Ok(slot) = serde_json::from_str::<Slot>(slot) else { continue };
        if let Some(user) = slot.user() {
            let key = inner.keys().user_sessions(&user);
            pipeline.cmd("ZREM").arg(key).arg(member(slot.stamp, replica, session)).ignore();
        }
    }
    inner.tell_all(&pipeline).await
}
