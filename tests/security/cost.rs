//! What an attack costs: processor time and memory of the gateway and of Redis, and the bytes that Redis is sent.

use std::{fmt, time::Duration};

use crate::{
    gateway::{Footprint, Gateway},
    support::redis::RedisServer,
};

/// Bytes that Redis may be sent for each byte of a stranger.
const AMPLIFICATION_MAX: f64 = 20.0;

/// What both processes have used up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    gateway: Footprint,
    redis: RedisUsage,
}

#[derive(Clone, Copy, Debug)]
struct RedisUsage {
    processor: Duration,
    received_bytes: u64,
    memory_bytes: u64,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    before: Usage,
    after: Usage,
}

impl Usage {
    pub async fn now(gateway: &Gateway, redis: &RedisServer) -> Self {
        let info: String = redis.run(&["INFO"]).await;
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} in INFO"))
        };
        let processor = Duration::from_secs_f64(field("used_cpu_user") + field("used_cpu_sys"));
        let received_bytes = field("total_net_input_bytes") as u64;
        let redis = RedisUsage { processor, received_bytes, memory_bytes: field("used_memory") as u64 };
        Self { gateway: gateway.footprint(), redis }
    }
}

impl Cost {
    pub const fn between(before: Usage, after: Usage) -> Self {
        Self { before, after }
    }

    /// Bytes that Redis was sent for each byte that the attacker sent.
    pub fn amplification(&self, sent_bytes: u64) -> f64 {
        self.received_bytes() as f64 / sent_bytes.max(1) as f64
    }

    /// As it is printed beside what the attacker sent.
    pub fn beside(&self, sent_bytes: u64) -> String {
        let amplification = self.amplification(sent_bytes);
        format!("{self}\n             {amplification:.1} bytes to Redis for each byte of the attacker")
    }

    /// Fails where Redis was sent too much for what the attacker sent.
    pub fn check_amplification(&self, sent_bytes: u64) {
        let amplification = self.amplification(sent_bytes);
        assert!(amplification < AMPLIFICATION_MAX, "{amplification:.1} bytes to Redis for each byte of the attacker");
    }

    /// What the gateway took more than before, at the most.
    pub const fn grown_bytes(&self) -> u64 {
        self.after.gateway.peak_bytes.saturating_sub(self.before.gateway.resident_bytes)
    }

    /// What Redis took more than before.
    pub const fn redis_grown_bytes(&self) -> u64 {
        self.after.redis.memory_bytes.saturating_sub(self.before.redis.memory_bytes)
    }

    const fn received_bytes(&self) -> u64 {
        self.after.redis.received_bytes - self.before.redis.received_bytes
    }
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, after } = self;
        let processor = (after.gateway.processor - before.gateway.processor).as_secs_f64();
        let (from, to) = (megabytes(before.gateway.resident_bytes), megabytes(after.gateway.resident_bytes));
        let peak = megabytes(after.gateway.peak_bytes);
        writeln!(f, "  gateway    {processor:.1} s of processor, resident {from} before, {to} after, {peak} at most")?;
        let processor = (after.redis.processor - before.redis.processor).as_secs_f64();
        let (from, to) = (megabytes(before.redis.memory_bytes), megabytes(after.redis.memory_bytes));
        let received = megabytes(self.received_bytes());
        write!(f, "  redis      {processor:.1} s of processor, {received} received, memory {from} before, {to} after")
    }
}
