//! The environment of an attack: one Redis, one gateway, and nothing else on the machine, because attacks run one at a
//! time.

use std::time::Duration;

use crate::{
    cost::ProcessesUsage,
    gateway::{AttackedGateway, Oddity},
    support::{
        proxy::{Proxy, Weather},
        redis::RedisServer,
    },
};

/// Set to `long`: attacks as they were found.
const FORM: &str = "TICKGATE_SECURITY";

/// The length of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackLength {
    /// A few seconds with a debug build, for the gate.
    Short,
    /// As long as when it was found, with default settings.
    Long,
}

pub struct AttackScene {
    pub gateway: AttackedGateway,
    pub redis: RedisServer,
}

impl AttackLength {
    /// The requested form.
    pub fn asked() -> Self {
        match std::env::var(FORM).as_deref() {
            Err(_) | Ok("") => Self::Short,
            Ok("long") => Self::Long,
            Ok(other) => panic!("{FORM} is \"{other}\"; it may be \"long\""),
        }
    }

    /// One of two values, by the form.
    pub fn or<T>(self, short: T, long: T) -> T {
        match self {
            Self::Short => short,
            Self::Long => long,
        }
    }

    /// How long other users are measured at rest.
    pub fn rest(self) -> Duration {
        self.or(Duration::from_secs(1), Duration::from_secs(5))
    }

    /// Latency at rest that has no significance: a debug build is ten times slower, on processors that it shares with
    /// the attacker.
    pub fn noise(self) -> Duration {
        self.or(Duration::from_millis(200), Duration::from_millis(2))
    }
}

impl AttackScene {
    /// Starts both. `settings` as in a configuration file.
    pub async fn set(settings: &str) -> Self {
        Self::oddly(settings, Oddity::default()).await
    }

    /// The same with unusual conditions for the gateway.
    pub async fn oddly(settings: &str, oddity: Oddity) -> Self {
        let redis = RedisServer::start();
        let gateway = AttackedGateway::start_oddly(&redis.url(), settings, oddity).await;
        Self { gateway, redis }
    }

    /// Starts both, with a network in between on which every 16 KiB take this long.
    pub async fn apart(settings: &str, distance: Duration) -> (Self, Proxy) {
        let redis = RedisServer::start();
        let network = Proxy::start(redis.port()).await;
        network.set(Weather::Pass { delay: distance });
        let gateway = AttackedGateway::start(&network.url(), settings).await;
        (Self { gateway, redis }, network)
    }

    pub async fn usage(&self) -> ProcessesUsage {
        ProcessesUsage::now(&self.gateway, &self.redis).await
    }
}
