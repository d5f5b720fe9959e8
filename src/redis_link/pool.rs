//! The pool for history reads and maintenance commands. Never used on the hot path: a checkout costs a round trip.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Instant,
};

use deadpool::{
    Runtime,
    managed::{self, Hook, HookError, Metrics as Usage, Object, PoolError, RecycleResult},
};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, ConnectionInfo, RedisError, aio::MultiplexedConnection};

#[cfg(feature = "simulation")]
use super::transport;
use super::{
    RedisFailure, connect,
    primary::{Primary, PrimaryAddress},
};
use crate::{
    config::{self, Access},
    metrics::Metrics,
};

/// Timeout of a page of history, as a multiple of that of a small command.
const READ_PATIENCE: u32 = 4;

type Pool = managed::Pool<Manager>;

/// Creates the pool's connections, as `deadpool-redis` does, over the network that the links use.
pub(super) struct Manager {
    #[cfg_attr(not(feature = "simulation"), expect(dead_code, reason = "only for a simulated network"))]
    info: ConnectionInfo,
    #[cfg_attr(not(feature = "simulation"), expect(dead_code, reason = "only for a simulated network"))]
    settings: AsyncConnectionConfig,
    redis: deadpool_redis::Manager,
}

impl managed::Manager for Manager {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        #[cfg(feature = "simulation")]
        if let Some(connection) = transport::simulated(&self.info, &self.settings, "tickgate-reads").await? {
            return Ok(connection);
        }
        self.redis.create().await
    }

    /// Probes before each use.
    async fn recycle(&self, connection: &mut MultiplexedConnection, usage: &Usage) -> RecycleResult<RedisError> {
        self.redis.recycle(connection, usage).await
    }
}

/// A connection of the pool, returned when it is dropped.
pub struct PooledConnection(Object<Manager>);

impl PooledConnection {
    /// Closes the connection: a late response on it must not reach the next reader.
    pub(crate) fn discard(self) {
        drop(Object::take(self.0));
    }
}

impl Deref for PooledConnection {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.0
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.0
    }
}

/// A bounded pool that is created on first use, and again when the server, its address or certificates change.
pub(super) struct ReadPool {
    config: config::Redis,
    metrics: Arc<Metrics>,
    primary: Arc<Primary>,
    pool: Mutex<Option<BuiltPool>>,
    /// Connections established before this may lead to a replaced server.
    valid_since: Arc<Mutex<Instant>>,
}

/// A pool, and the settings of its connections.
#[derive(Clone)]
struct BuiltPool {
    pool: Pool,
    access: Arc<Access>,
    place: PrimaryAddress,
}

impl ReadPool {
    pub(super) fn new(config: &config::Redis, primary: Arc<Primary>, metrics: Arc<Metrics>) -> Self {
        Self {
            config: config.clone(),
            metrics,
            primary,
            pool: Mutex::new(None),
            valid_since: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Waits for a free connection, at most for the configured time.
    pub(super) async fn get(&self) -> Result<PooledConnection, RedisFailure> {
        let BuiltPool { pool, access, .. } = self.pool()?;
        let timer = self.metrics.redis_pool_wait_seconds.start_timer();
        let mut connection = pool.get().await;
        if matches!(connection, Err(PoolError::Backend(_))) && self.forget_changed(&access) {
            connection = self.pool()?.pool.get().await;
        }
        timer.observe_duration();
        Ok(PooledConnection(connection?))
    }

    /// Whether the settings of connections changed: then the pool is created again.
    fn forget_changed(&self, access: &Access) -> bool {
        let changed = *self.config.access() != *access;
        if changed {
            self.pool.lock().take_if(|made| *made.access == *access);
        }
        changed
    }

    /// The server changed, or a link to it was closed: no existing connection is used again.
    pub(super) fn renew(&self) {
        *self.valid_since.lock() = Instant::now();
        if let Some(made) = &*self.pool.lock() {
            let _ = made.pool.retain(|_, _| false);
        }
    }

    fn pool(&self) -> Result<BuiltPool, RedisFailure> {
        let place = self.primary.place()?;
        let mut slot = self.pool.lock();
        if let Some(made) = &*slot
            && made.place == place
        {
            return Ok(made.clone());
        }
        let config = &self.config;
        let settings = connect::connection_config(config, config.response_timeout * READ_PATIENCE);
        let access = config.access();
        let info = connect::connection_info(config, &access, &place)?;
        let redis = deadpool_redis::Manager::new_with_config(info.clone(), settings.clone())?;
        let manager = Manager { info, settings, redis };
        let valid_since = Arc::clone(&self.valid_since);
        let fresh = Hook::sync_fn(move |_, metrics| match metrics.created >= *valid_since.lock() {
            true => Ok(()),
            false => Err(HookError::message("established before the server changed")),
        });
        let pool = Pool::builder(manager)
            .max_size(config.pool_size)
            .wait_timeout(Some(config.pool_wait_timeout))
            .create_timeout(Some(config.connect_timeout))
            .recycle_timeout(Some(config.response_timeout))
            .pre_recycle(fresh)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| RedisFailure::Other(error.to_string().into()))?;
        Ok(slot.insert(BuiltPool { pool, access, place }).clone())
    }
}
