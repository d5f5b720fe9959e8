//! A Redis that follows another one, and takes over from it: consistently, or lagging and permanently. Never chooses
//! when.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    cast,
    redis_line::{answer, rewritten, say, told},
    stage::ChaosStage,
    support::{
        proxy::{Proxy, Weather},
        redis::RedisServer,
    },
};

pub struct Standby {
    server: RedisServer,
    /// Between the two servers.
    replication: Proxy,
}

impl Standby {
    /// Follows the server and waits until it has all of its data.
    pub async fn of(redis: &RedisServer) -> Self {
        let replication = Proxy::start(redis.port()).await;
        let server = cast::durable();
        say(server.port(), &format!("REPLICAOF 127.0.0.1 {}", replication.address.port())).await;
        told(server.port(), "INFO replication", |info| info.contains("master_link_status:up")).await;
        rewritten(server.port()).await;
        Self { server, replication }
    }

    /// Waits until this server has everything that the other one has now.
    pub async fn catch_up_with(&self, redis: &RedisServer) {
        let all = offset(&answer(redis.port(), "INFO replication").await, "master_repl_offset:");
        assert!(all.is_some(), "the other one replicates");
        told(self.server.port(), "INFO replication", |info| offset(info, "slave_repl_offset:") >= all).await;
    }

    /// Receives nothing from now on.
    pub fn fall_behind(&self) {
        self.replication.set(Weather::BlackHole);
    }

    /// The other server is killed, and what this one has not received is lost.
    pub async fn take_over_from_the_dead(self, stage: &ChaosStage, redis: &mut RedisServer) {
        redis.kill();
        say(self.server.port(), "REPLICAOF NO ONE").await;
        for place in &stage.places {
            place.to_redis.retarget(self.server.port());
            place.to_redis.change_old(Weather::Refuse);
        }
        *redis = self.server;
    }

    /// Both servers are equal before the roles change: nothing is lost, and writes to the old one get READONLY.
    pub async fn take_over(self, stage: &ChaosStage, redis: &mut RedisServer) {
        say(redis.port(), "CLIENT PAUSE 10000 WRITE").await;
        self.catch_up_with(redis).await;
        say(self.server.port(), "REPLICAOF NO ONE").await;
        say(redis.port(), &format!("REPLICAOF 127.0.0.1 {}", self.server.port())).await;
        say(redis.port(), "CLIENT UNPAUSE").await;
        sleep(Duration::from_millis(300)).await;
        for place in &stage.places {
            place.to_redis.retarget(self.server.port());
        }
        let mut old = std::mem::replace(redis, self.server);
        // Long enough for every replica to detect that its server was demoted.
        sleep(Duration::from_millis(1_500)).await;
        old.kill();
    }
}

fn offset(info: &str, field: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}
