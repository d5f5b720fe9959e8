//! The cost of an attack: processor time and memory of the gateway and of Redis, and bytes sent to Redis.

use std::time::{Duration, Instant};

use crate::{
    gateway::{AttackedGateway, KernelUsage},
    support::redis::RedisServer,
};

/// The resources that both processes have used so far.
#[derive(Clone, Copy, Debug)]
pub struct ProcessesUsage {
    at: Instant,
    gateway: KernelUsage,
    redis: RedisUsage,
}

#[derive(Clone, Copy, Debug)]
struct RedisUsage {
    processor: Duration,
    received_bytes: u64,
    memory_bytes: u64,
}

/// The resources used between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    before: ProcessesUsage,
    after: ProcessesUsage,
}

impl ProcessesUsage {
    pub async fn now(gateway: &AttackedGateway, redis: &RedisServer) -> Self {
        let info: String = redis.run(&["INFO"]).await;
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} in INFO"))
        };
        let processor = Duration::from_secs_f64(field("used_cpu_user") + field("used_cpu_sys"));
        let received_bytes = field("total_net_input_bytes") as u64;
        let redis = RedisUsage { processor, received_bytes, memory_bytes: field("used_memory") as u64 };
        Self { at: Instant::now(), gateway: gateway.footprint(), redis }
    }
}

impl Cost {
    pub const fn between(before: ProcessesUsage, after: ProcessesUsage) -> Self {
        Self { before, after }
    }

    /// Bytes sent to Redis.
    pub const fn received_bytes(&self) -> u64 {
        self.after.redis.received_bytes.saturating_sub(self.before.redis.received_bytes)
    }

    /// Bytes that Redis would have received in this time at the same rate.
    pub fn received_in(&self, time: Duration) -> u64 {
        (self.received_bytes() as f64 / self.time().as_secs_f64().max(0.001) * time.as_secs_f64()) as u64
    }

    /// The duration.
    pub fn time(&self) -> Duration {
        self.after.at - self.before.at
    }

    /// The maximum growth of the gateway, in bytes.
    pub const fn grown_bytes(&self) -> u64 {
        self.after.gateway.peak_bytes.saturating_sub(self.before.gateway.resident_bytes)
    }

    /// The growth of Redis, in bytes.
    pub const fn redis_grown_bytes(&self) -> u64 {
        self.after.redis.memory_bytes.saturating_sub(self.before.redis.memory_bytes)
    }

    /// The gateway's load, as a share of one processor.
    pub fn gateway_load(&self) -> f64 {
        self.load(self.before.gateway.processor, self.after.gateway.processor)
    }

    /// Redis's load, as a share of one processor.
    pub fn redis_load(&self) -> f64 {
        self.load(self.before.redis.processor, self.after.redis.processor)
    }

    fn load(&self, before: Duration, after: Duration) -> f64 {
        after.saturating_sub(before).as_secs_f64() / self.time().as_secs_f64().max(0.001)
    }
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
