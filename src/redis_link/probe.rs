//! One attempt to reach Redis, for `check-config --connect` and after a reload.

use tokio::time::timeout;

use super::{RedisFailure, connect, sentinels};
use crate::config;

/// Asks the sentinels, if there are any, connects once, and checks that the server is a master with a supported
/// version. Writes nothing.
///
/// # Errors
/// Why no replica could work with it now.
pub async fn probe(config: &config::Redis) -> Result<(), RedisFailure> {
    let place = sentinels::find(config).await?;
    let bound = config.connect_timeout + config.response_timeout * 4;
    let attempt = connect::establish(config, &place, "tickgate-probe", |_| {});
    timeout(bound, attempt).await.map_err(|_| RedisFailure::TimedOut)?.map(drop)
}
