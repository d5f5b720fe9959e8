//! Redis statistics for operators: memory, persistence, replicas, blocked clients. Draws one conclusion only: whether
//! its memory is almost full.

use std::time::Duration;

use super::RedisLink;
use crate::{metrics::Metrics, tasks::Stop};

/// Sampling interval.
const INTERVAL: Duration = Duration::from_secs(5);

/// One sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ServerFigures {
    used_bytes: i64,
    max_bytes: i64,
    is_persisted: bool,
    blocked: i64,
    replicas: i64,
    lag_s: i64,
}

impl ServerFigures {
    /// Parses the response to `INFO memory persistence clients replication`.
    fn parse(info: &str) -> Self {
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let number = |name: &str| field(name).and_then(|text| text.parse().ok()).unwrap_or_default();
        let is_ok = |name: &str| field(name).is_none_or(|text| text == "ok");
        // slave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0
        let is_replica = |line: &&str| {
            line.strip_prefix("slave").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        };
        let lag = |line: &str| line.split(',').find_map(|part| part.trim().strip_prefix("lag=")?.parse().ok());
        Self {
            used_bytes: number("used_memory"),
            max_bytes: number("maxmemory"),
            is_persisted: ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"]
                .iter()
                .all(|name| is_ok(name)),
            blocked: number("blocked_clients"),
            replicas: number("connected_slaves"),
            lag_s: info.lines().filter(is_replica).filter_map(lag).max().unwrap_or_default(),
        }
    }

    /// Nine tenths of the memory are used: Redis will soon refuse publications.
    const fn is_tight(self) -> bool {
        self.max_bytes > 0 && self.used_bytes > self.max_bytes / 10 * 9
    }

    fn export(self, metrics: &Metrics) {
        metrics.redis_memory_used_bytes.set(self.used_bytes);
        metrics.redis_memory_max_bytes.set(self.max_bytes);
        metrics.redis_persistence_ok.set(self.is_persisted.into());
        metrics.redis_blocked_clients.set(self.blocked);
        metrics.redis_replicas.set(self.replicas);
        metrics.redis_replication_lag_seconds.set(self.lag_s);
    }
}

/// Samples until the replica stops. If Redis does not respond or denies `INFO`, the previous values stay.
pub async fn watch_server(link: RedisLink, mut stop: Stop) {
    link.metrics().redis_persistence_ok.set(1);
    loop {
        if let Ok(mut connection) = link.command() {
            let mut info = redis::cmd("INFO");
            info.arg(&["memory", "persistence", "clients", "replication"]);
            if let Ok(text) = info.query_async::<String>(&mut connection).await {
                let figures = ServerFigures::parse(&text);
                figures.export(link.metrics());
                link.set_tight(figures.is_tight());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.wait() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_info_is_parsed() {
        let info = "# Memory\r\nused_memory:1048576\r\nused_memory_rss:9\r\nmaxmemory:4194304\r\n# Persistence\r\n\
                    rdb_last_bgsave_status:ok\r\naof_last_write_status:err\r\n# Clients\r\nblocked_clients:3\r\n\
                    # Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=10.0.0.2,port=6379,state=online,offset=5,lag=1\r\n\
                    slave1:ip=10.0.0.3,port=6379,state=online,offset=4,lag=7\r\nslave_read_only:1\r\n";
        let expected = ServerFigures {
            used_bytes: 1 << 20,
            max_bytes: 4 << 20,
            is_persisted: false,
            blocked: 3,
            replicas: 2,
            lag_s: 7,
        };
        assert_eq!(ServerFigures::parse(info), expected);
        assert!(
            ServerFigures::parse("").is_persisted
                && !ServerFigures::parse("used_memory:9\r\nmaxmemory:0\r\n").is_tight()
        );
        assert!(!expected.is_tight() && ServerFigures { used_bytes: 3_800_000, ..expected }.is_tight());
    }
}
