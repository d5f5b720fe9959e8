//! Where an attack happens: one Redis, one gateway, and nobody else on the machine's clock: attacks run one by one.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use crate::{
    cost::Usage,
    gateway::{self, Gateway},
    support::{
        proxy::{Proxy, Weather},
        redis::RedisServer,
    },
};

/// Set to `long`: attacks as they were found.
const FORM: &str = "TICKGATE_SECURITY";

static TURN: Mutex<()> = Mutex::const_new(());

/// How long an attack may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Some seconds, for the gate.
    Short,
    /// As long as it took when it was found, at the default settings.
    Long,
}

pub struct Scene {
    pub gateway: Gateway,
    pub redis: RedisServer,
    /// Between the two.
    pub network: Proxy,
    _turn: MutexGuard<'static, ()>,
}

impl Form {
    /// The form that was asked for.
    pub fn asked() -> Self {
        match std::env::var(FORM).as_deref() {
            Err(_) | Ok("") => Self::Short,
            Ok("long") => Self::Long,
            Ok(other) => panic!("{FORM} is \"{other}\"; it may be \"long\""),
        }
    }
}

/// Waits until nobody else has the machine's clock.
pub async fn turn(title: &str) -> MutexGuard<'static, ()> {
    let turn = TURN.lock().await;
    println!("{title} ({:?} form of {})", Form::asked(), gateway::program());
    turn
}

impl Scene {
    /// Waits for its turn, and starts both. `settings` as in a configuration file; `distance` is how long 16 KiB take
    /// between the gateway and Redis.
    pub async fn set(title: &str, settings: &str, distance: Duration) -> Self {
        let turn = turn(title).await;
        let redis = RedisServer::start();
        let network = Proxy::start(redis.port()).await;
        network.set(Weather::Pass { delay: distance });
        let gateway = Gateway::start(&network.url(), settings).await;
        Self { gateway, redis, network, _turn: turn }
    }

    pub async fn usage(&self) -> Usage {
        Usage::now(&self.gateway, &self.redis).await
    }
}
