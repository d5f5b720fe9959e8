//! The operator's view over all replicas: figures and connections. Right to within a replica's lease.
//!
//! Never on a client's path.

use std::collections::HashMap;

use redis::Pipeline;
use tickgate_wire::model::{ReplicaId, UserId};

use super::{
    Inner,
    scripts::call,
    wire::{Slot, split_member},
};
use crate::{
    redis_link::Failure,
    registry::{ClusterFigures, ConnectionInfo},
};

/// Index entries read per step.
const PAGE: usize = 1_000;

pub(super) async fn cluster(inner: &Inner) -> Result<ClusterFigures, Failure> {
    let call = call(&inner.scripts.cluster, &[&inner.keys().replicas(), &inner.keys().replica_figures()]);
    let found: Vec<(String, String)> = inner.run(&inner.scripts.cluster, &call).await?;
    let parse = |(replica, figures): &(String, String)| {
        Some((ReplicaId::new(replica).ok()?, serde_json::from_str(figures).ok()?))
    };
    Ok(ClusterFigures { replicas: found.iter().filter_map(parse).collect() })
}

pub(super) async fn connections(inner: &Inner, limit: usize) -> Result<Vec<ConnectionInfo>, Failure> {
    let mut found = Vec::new();
    let mut pooled = inner.link.pooled().await?;
    for (replica, _) in cluster(inner).await?.replicas {
        if found.len() >= limit {
            break;
        }
        // A map, because a scan may give an entry twice.
        let mut slots: HashMap<String, Slot> = HashMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(inner.keys().replica_sessions(&replica)).arg(cursor).arg("COUNT").arg(PAGE);
            let (next, page): (u64, HashMap<String, String>) =
                scan.query_async(&mut pooled).await.map_err(|error| inner.failed(&error))?;
            let parse = |(session, slot): (String, String)| Some((session, serde_json::from_str(&slot).ok()?));
            slots.extend(page.into_iter().filter_map(parse));
            cursor = next;
            if cursor == 0 || found.len() + slots.len() >= limit {
                break;
            }
        }
        let room = limit - found.len();
        found.extend(slots.into_iter().take(room).map(|(session, slot)| slot.into_info(session, &replica)));
    }
    Ok(found)
}

/// By the user's own leases, each looked up in the index of its replica: work by the user's connections, not by all.
pub(super) async fn connections_of(inner: &Inner, user: &UserId, limit: usize) -> Result<Vec<ConnectionInfo>, Failure> {
    let mut range = redis::cmd("ZRANGE");
    range.arg(inner.keys().user_sessions(user)).arg(inner.clock.now_ms()).arg("+inf");
    range.arg("BYSCORE").arg("LIMIT").arg(0).arg(limit);
    let members: Vec<String> = inner.ask(&range).await?;
    let members: Vec<_> = members.iter().filter_map(|member| split_member(member)).collect();
    if members.is_empty() {
        return Ok(Vec::new());
    }
    let mut lookups = Pipeline::new();
    for (owner, session) in &members {
        lookups.cmd("HGET").arg(inner.keys().replica_sessions(&owner.replica)).arg(session.to_string());
    }
    let slots: Vec<Option<String>> =
        lookups.query_async(&mut inner.commands()?).await.map_err(|error| inner.failed(&error))?;
    let found = members.into_iter().zip(slots).filter_map(|((owner, session), slot)| {
        let slot: Slot = serde_json::from_str(&slot?).ok()?;
        // Another stamp: the session has a newer connection there, which has a lease of its own.
        (slot.stamp == owner.stamp).then(|| slot.into_info(session.to_string(), &owner.replica))
    });
    Ok(found.collect())
}
