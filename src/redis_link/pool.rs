//! The pool for reads of history and for housekeeping. Never used on the hot path: a checkout costs a round trip.

use std::{sync::Arc, time::Instant};

use deadpool_redis::{Connection, Hook, HookError, Manager, Pool, PoolError, Runtime};
use parking_lot::Mutex;

use super::{Failure, connect};
use crate::{
    config::{self, Secret},
    metrics::Metrics,
};

/// A bounded pool that is made when it is first needed, and again when the address changed, and for as long as its
/// settings can't be used (a certificate file that is not there yet).
pub(super) struct Reads {
    config: config::Redis,
    metrics: Arc<Metrics>,
    pool: Mutex<Option<Made>>,
    /// Connections made before this may lead to a server that is no longer the one.
    valid_since: Arc<Mutex<Instant>>,
}

/// A pool, and the address it connects to.
#[derive(Clone)]
struct Made {
    pool: Pool,
    url: Secret,
}

impl Reads {
    pub(super) fn new(config: &config::Redis, metrics: Arc<Metrics>) -> Self {
        Self {
            config: config.clone(),
            metrics,
            pool: Mutex::new(None),
            valid_since: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Waits for a free connection, at most for the configured time.
    pub(super) async fn get(&self) -> Result<Connection, Failure> {
        let Made { pool, url } = self.pool()?;
        let timer = self.metrics.redis_pool_wait_seconds.start_timer();
        let mut connection = pool.get().await;
        if matches!(connection, Err(PoolError::Backend(_))) && self.forget_changed(&url) {
            connection = self.pool()?.pool.get().await;
        }
        timer.observe_duration();
        Ok(connection?)
    }

    /// Whether the address is another one than before: then the pool is made anew.
    fn forget_changed(&self, url: &Secret) -> bool {
        let changed = self.config.address().is_ok_and(|now| now != *url);
        if changed {
            self.pool.lock().take_if(|made| made.url == *url);
        }
        changed
    }

    /// The server changed, or a link to it was torn down: no connection made until now is used again.
    pub(super) fn renew(&self) {
        *self.valid_since.lock() = Instant::now();
        if let Some(made) = &*self.pool.lock() {
            let _ = made.pool.retain(|_, _| false);
        }
    }

    fn pool(&self) -> Result<Made, Failure> {
        let mut slot = self.pool.lock();
        if let Some(made) = &*slot {
            return Ok(made.clone());
        }
        let config = &self.config;
        let settings = connect::connection_config(config, config.response_timeout * READ_PATIENCE);
        let (info, url) = connect::connection_info(config)?;
        let manager = Manager::new_with_config(info, settings)?;
        let valid_since = Arc::clone(&self.valid_since);
        let fresh = Hook::sync_fn(move |_, metrics| match metrics.created >= *valid_since.lock() {
            true => Ok(()),
            false => Err(HookError::message("made before the server changed")),
        });
        let pool = Pool::builder(manager)
            .max_size(config.pool_size)
            .wait_timeout(Some(config.pool_wait_timeout))
            .create_timeout(Some(config.connect_timeout))
            .recycle_timeout(Some(config.response_timeout))
            .pre_recycle(fresh)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Failure::Other(error.to_string().into()))?;
        Ok(slot.insert(Made { pool, url }).clone())
    }
}

/// A page of history may take this many times as long as a small command.
const READ_PATIENCE: u32 = 4;
