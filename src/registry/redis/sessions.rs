//! Sessions over Redis: opening and closing connections, records for resuming, and the operator's view of all replicas,
//! accurate to within a replica's lease.
//!
//! Never waits for Redis when a connection opens, changes or closes: that goes through the queues to the writers.

use std::collections::HashMap;

use tickgate_wire::model::{ReplicaId, SessionId, Topic};

use super::{
    Redis, RedisRegistryShared,
    batch::Op,
    commands::{ask, ask_all, failed},
    leases::IndexEntry,
    owner::Owner,
    replica::cluster,
};
use crate::{
    redis_link::{PooledConnection, RedisFailure, RedisLink},
    registry::{ClusterFigures, ConnectionInfo, RegistryUnavailable, SessionRecord},
};

/// Index entries read per step.
const PAGE: usize = 1_000;

impl Redis {
    #[expect(clippy::needless_pass_by_value, reason = "the contract's form")]
    pub(in crate::registry) fn opened(&self, info: ConnectionInfo) {
        let inner = &*self.0;
        let Some(session) = SessionId::parse(&info.session) else { return };
        let opened = inner.leases.opened(session, &info, inner.stamp());
        let shard = inner.session_shard(session, opened.user.as_ref());
        // An anonymous session was indexed by its own id until now.
        let former = if opened.was_anonymous { inner.record_shard(session) } else { shard };
        inner.push_both(shard, former, Op::Opened(session));
        inner.close_if_revoked(session);
    }

    pub(in crate::registry) fn closed(&self, session: SessionId) {
        let inner = &*self.0;
        if let Some(mut ended) = inner.leases.closed(session) {
            inner.followers.set(session, Vec::new());
            ended.leaves_record = ended.leaves_record && inner.leave_record(session, ended.stamp);
            let shard = inner.session_shard(session, ended.user());
            inner.push_both(shard, inner.record_shard(session), Op::Closed(session, ended));
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "the contract's form")]
    pub(in crate::registry) fn record(&self, session: SessionId, record: SessionRecord) {
        let Ok(json) = serde_json::to_string(&record) else { return };
        if self.0.leases.record(session, json.into()) {
            self.0.push(self.0.record_shard(session), Op::Record(session));
        }
    }

    pub(in crate::registry) fn follows(&self, session: SessionId, topics: Vec<Topic>) {
        if self.0.leases.has(session) {
            self.0.followers.set(session, topics);
        }
    }

    pub(in crate::registry) async fn recall(
        &self,
        session: SessionId,
    ) -> Result<Option<SessionRecord>, RegistryUnavailable> {
        let inner = &*self.0;
        let ((seconds, micros), value) = match inner.time_and_record(session).await {
            Ok(found) => found,
            // A client with a session of this replica can resume it without Redis.
            Err(failure) => {
                let own = inner.leases.own_record(session).ok_or(failure)?;
                return Ok(serde_json::from_str(&own).ok());
            }
        };
        // The connection that resumes the session must be newer than all that wrote its record, or are about to.
        inner.clock.saw(seconds * 1_000_000 + micros);
        let Some((owner, json)) = value.as_deref().and_then(Owner::split) else {
            // The record of a connection that was just admitted may not be written yet.
            let own = inner.leases.own_record(session);
            return Ok(own.and_then(|own| serde_json::from_str(&own).ok()));
        };
        inner.clock.saw(owner.stamp);
        Ok(serde_json::from_str(json).ok())
    }

    pub(in crate::registry) async fn cluster(&self) -> Result<ClusterFigures, RegistryUnavailable> {
        Ok(cluster(&self.0).await?)
    }

    pub(in crate::registry) async fn connections(
        &self,
        limit: usize,
    ) -> Result<Vec<ConnectionInfo>, RegistryUnavailable> {
        let inner = &*self.0;
        let mut found = Vec::new();
        let replicas = cluster(inner).await?.replicas;
        for link in inner.topology.links() {
            let mut pooled = link.pooled().await?;
            for (replica, _) in &replicas {
                if found.len() >= limit {
                    return Ok(found);
                }
                let slots = index_of(link, &mut pooled, replica, limit - found.len()).await?;
                found.extend(slots.into_iter().map(|(session, slot)| slot.into_info(session, replica)));
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

impl RedisRegistryShared {
    /// Whether the record of a closed connection may stay. If there are too many, the oldest is removed.
    fn leave_record(&self, session: SessionId, stamp: u64) -> bool {
        let link = &self.topology.links()[self.record_shard(session)];
        if link.is_tight() {
            return false;
        }
        let now_ms = self.uptime_us() / 1_000;
        if let Some((session, stamp)) = self.left_records.add((session, stamp), now_ms + self.lifetimes.resume, now_ms)
        {
            self.push(self.record_shard(session), Op::EndRecord(session, stamp));
        }
        true
    }

    /// Ends the records of all closed connections, because publications need the memory.
    pub(super) fn make_room(&self) {
        for (session, stamp) in self.left_records.take() {
            self.push(self.record_shard(session), Op::EndRecord(session, stamp));
        }
    }

    /// The time of the clock that determines stamps, and a session's record: together if both are on one server.
    async fn time_and_record(&self, session: SessionId) -> Result<((u64, u64), Option<String>), RedisFailure> {
        let (clock, link) = (self.replicas_link(), &self.topology.links()[self.record_shard(session)]);
        let (time, get) = (redis::cmd("TIME"), redis::cmd("GET").arg(self.keys().session(session)).to_owned());
        if self.topology.links().len() == 1 {
            let mut both = redis::pipe();
            both.add_command(time).add_command(get);
            return ask_all(link, &both).await;
        }
        tokio::try_join!(ask(clock, &time), ask(link, &get))
    }
}

/// Up to `limit` sessions of a replica's index on one shard.
async fn index_of(
    link: &RedisLink,
    pooled: &mut PooledConnection,
    replica: &ReplicaId,
    limit: usize,
) -> Result<Vec<(String, IndexEntry)>, RedisFailure> {
    // A map, because a scan may return an entry twice.
    let mut slots: HashMap<String, IndexEntry> = HashMap::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(link.keys().replica_sessions(replica)).arg(cursor).arg("COUNT").arg(PAGE);
        let (next, page): (u64, HashMap<String, String>) =
            scan.query_async(&mut **pooled).await.map_err(|error| failed(link, &error))?;
        let parse = |(session, slot): (String, String)| Some((session, serde_json::from_str(&slot).ok()?));
        slots.extend(page.into_iter().filter_map(parse));
        cursor = next;
        if cursor == 0 || slots.len() >= limit {
            return Ok(slots.into_iter().take(limit).collect());
        }
    }
}
