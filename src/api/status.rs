//! `/ws/status`: figures of all replicas and of this one. Public, so the registry is queried at most once a second.
//! Never shows a user's id without a key.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{Json, extract::State, http::HeaderMap};
use serde::Serialize;
use tickgate_wire::time::Timestamp;
use tokio::sync::Mutex;

use super::{ApiShared, LifecyclePhase, Problem, access};
use crate::{problem::millis, registry::ClusterFigures};

/// How long all requests share the figures of the cluster.
const CLUSTER_TTL: Duration = Duration::from_secs(1);
/// How long a probe waits for the figures of other replicas.
const CLUSTER_WAIT: Duration = Duration::from_millis(300);
/// Maximum number of connections counted for `user_connections`.
const CONNECTIONS_MAX: usize = 10_000;

/// The cached figures of the cluster (`None`: not available), with the time of the query.
#[derive(Debug, Default)]
pub(super) struct ClusterCache(Mutex<Option<(Instant, Option<ClusterFigures>)>>);

impl ApiShared {
    /// Figures of the cluster, at most [`CLUSTER_TTL`] old; `None` if the registry does not respond or does not list
    /// this replica.
    async fn cluster_figures(&self) -> Option<ClusterFigures> {
        // Held during the query on purpose: concurrent requests wait for one result.
        let mut kept = self.cluster.0.lock().await;
        match &*kept {
            Some((at, figures)) if at.elapsed() < CLUSTER_TTL => figures.clone(),
            _ => {
                // A registry that accepts no writes (a full Redis) responds, but omits replicas whose leases could not
                // be renewed.
                let knows_us = |cluster: &ClusterFigures| cluster.replicas.iter().any(|(id, _)| *id == self.replica);
                let figures = self.registry.cluster().await.ok().filter(knows_us);
                *kept = Some((Instant::now(), figures.clone()));
                figures
            }
        }
    }
}

impl ApiShared {
    /// Open connections of all replicas, or of this one if the others' are not available at once.
    pub(super) async fn connections_of_all(&self) -> u64 {
        let own = self.figures.connections() as u64;
        let cluster = tokio::time::timeout(CLUSTER_WAIT, self.cluster_figures()).await.ok().flatten();
        let others = cluster.into_iter().flat_map(|cluster| cluster.replicas);
        own + others.filter(|(id, _)| *id != self.replica).map(|(_, figures)| figures.connections).sum::<u64>()
    }
}

#[derive(Serialize)]
pub(super) struct ReplicaSummary {
    /// `active`, `degraded` if only this replica's figures are known, or `draining`.
    status: &'static str,
    active_connections: u64,
    user_connections: HashMap<String, u32>,
    total_subscriptions: u64,
    replicas: usize,
    backplane: &'static str,
    replica: ReplicaStatus,
    timestamp: Timestamp,
}

#[derive(Serialize)]
struct ReplicaStatus {
    id: String,
    name: String,
    phase: &'static str,
    active_connections: u64,
    total_subscriptions: u64,
}

pub(super) async fn status(State(shared): State<Arc<ApiShared>>, headers: HeaderMap) -> Json<ReplicaSummary> {
    let own = ReplicaStatus {
        id: shared.replica.to_string(),
        name: shared.config.server.name.clone(),
        phase: shared.lifecycle.phase().as_str(),
        active_connections: shared.figures.connections() as u64,
        total_subscriptions: shared.figures.subscriptions() as u64,
    };
    let cluster = shared.cluster_figures().await;
    let status = match (shared.lifecycle.phase(), &cluster) {
        (LifecyclePhase::Draining, _) => "draining",
        (_, None) => "degraded",
        _ => "active",
    };
    // The others' figures are as old as their last renewal; this replica's are current.
    let others: Vec<_> = cluster.into_iter().flat_map(|cluster| cluster.replicas).collect();
    let others: Vec<_> =
        others.into_iter().filter(|(id, _)| *id != shared.replica).map(|(_, figures)| figures).collect();
    let names_allowed = shared.config.development || access::may_read(&shared, &headers);
    let users = if names_allowed { shared.registry.users(CONNECTIONS_MAX).await.ok() } else { None };
    Json(ReplicaSummary {
        status,
        active_connections: own.active_connections + others.iter().map(|figures| figures.connections).sum::<u64>(),
        user_connections: users.unwrap_or_default(),
        total_subscriptions: own.total_subscriptions + others.iter().map(|f| f.subscriptions).sum::<u64>(),
        replicas: others.len() + 1,
        backplane: shared.backplane.health().kind,
        replica: own,
        timestamp: timestamp(),
    })
}

#[derive(Serialize)]
struct ListedReplica {
    id: String,
    /// Empty if the replica reports none.
    name: String,
    active_connections: u64,
    total_subscriptions: u64,
    started_at: Timestamp,
    draining: bool,
}

/// Lists all live replicas by name.
pub(super) async fn replicas(State(shared): State<Arc<ApiShared>>) -> Result<Json<serde_json::Value>, Problem> {
    let found = shared.registry.cluster().await?.replicas;
    let mut replicas: Vec<_> = found
        .into_iter()
        .map(|(id, figures)| ListedReplica {
            id: id.to_string(),
            name: figures.name,
            active_connections: figures.connections,
            total_subscriptions: figures.subscriptions,
            started_at: Timestamp::from_ms(figures.started_ms),
            draining: figures.draining,
        })
        .collect();
    replicas.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
    Ok(Json(serde_json::json!({ "replicas": replicas })))
}

/// The current time in the wire format.
pub(super) fn timestamp() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_ms(millis(since_1970))
}
