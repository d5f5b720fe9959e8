//! A Redis server's description of itself. Pure: `connect` queries it, this module parses it.

use std::sync::Arc;

/// Oldest servers with everything that the gateway uses: `<epoch>-*` ids require Redis 7.0; Valkey forked later and
/// starts at 7.2.
const VERSION_MIN: (u32, u32) = (7, 0);

/// The responses to `INFO server` and `INFO replication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerInfo {
    pub(super) version: Arc<str>,
    pub(super) is_supported: bool,
    pub(super) mode: ServerKind,
}

/// What kind of server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerKind {
    Standalone,
    Cluster,
    Sentinel,
}

impl ServerInfo {
    /// Parses the response to `INFO server`.
    pub(super) fn parse(info: &str) -> Self {
        let (name, version) = match field(info, "valkey_version") {
            "" => ("redis", field(info, "redis_version")),
            valkey => ("valkey", valkey),
        };
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Self {
            version: format!("{name} {version}").into(),
            is_supported: found >= VERSION_MIN,
            mode: ServerKind::of(info),
        }
    }
}

impl ServerKind {
    /// Parses the response to `INFO server`.
    fn of(info: &str) -> Self {
        // Valkey writes `server_mode` once its compatibility with Redis is switched off.
        match (field(info, "redis_mode"), field(info, "server_mode")) {
            ("cluster", _) | ("", "cluster") => Self::Cluster,
            ("sentinel", _) | ("", "sentinel") => Self::Sentinel,
            _ => Self::Standalone,
        }
    }
}

/// Identifies the server and its dataset: its replication id, which changes with a restart, a promotion, or another
/// dataset. `None`: it is not a master.
pub(super) fn identity(replication: &str) -> Option<Arc<str>> {
    let identity = field(replication, "master_replid");
    (field(replication, "role") == "master" && !identity.is_empty()).then(|| identity.into())
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

/// A longer round trip gives no useful estimate of the clock.
const CLOCK_TRIP_MAX_US: u64 = 100_000;

/// By how many seconds this replica's clock is ahead of the server's, which was asked at `sent_us` and responded by
/// `received_us`; all in microseconds since 1970. The error is at most half of the round trip, 50 ms.
pub(super) fn clock_skew(sent_us: u64, received_us: u64, server_us: u64) -> Option<f64> {
    let trip_us = received_us.checked_sub(sent_us).filter(|trip| *trip <= CLOCK_TRIP_MAX_US)?;
    Some(((sent_us + trip_us / 2) as f64 - server_us as f64) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both_servers_are_parsed() {
        let redis = ServerInfo::parse("# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n");
        let expected = ServerInfo { version: "redis 7.0.15".into(), is_supported: true, mode: ServerKind::Standalone };
        assert_eq!(redis, expected);
        assert!(!ServerInfo::parse("redis_version:6.2.14\r\nrun_id:x\r\n").is_supported);
        let valkey = ServerInfo::parse("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n");
        assert_eq!((&*valkey.version, valkey.is_supported), ("valkey 8.0.1", true));
        assert!(!ServerInfo::parse("").is_supported);
    }

    #[test]
    fn the_kind_of_server_is_parsed() {
        let mode = |line: &str| ServerInfo::parse(&format!("redis_version:7.0.15\r\n{line}\r\nos:Linux\r\n")).mode;
        assert_eq!(mode("redis_mode:standalone"), ServerKind::Standalone);
        assert_eq!(
            (mode("redis_mode:cluster"), mode("server_mode:cluster")),
            (ServerKind::Cluster, ServerKind::Cluster)
        );
        assert_eq!(mode("redis_mode:sentinel"), ServerKind::Sentinel);
    }

    #[test]
    fn only_a_master_has_an_identity() {
        let info = |role| format!("# Replication\r\nrole:{role}\r\nmaster_replid:abc\r\nmaster_replid2:def\r\n");
        assert_eq!(identity(&info("master")).as_deref(), Some("abc"));
        assert_eq!(identity(&info("slave")), None);
        assert_eq!(identity("role:master\r\n"), None);
    }

    #[test]
    fn the_servers_clock_is_compared_with_the_middle_of_the_round_trip() {
        let second = 1_763_700_000_000_000;
        assert_eq!(clock_skew(second, second + 10_000, second + 5_000), Some(0.0));
        assert_eq!(clock_skew(second + 300_000, second + 310_000, second + 5_000), Some(0.3));
        assert_eq!(clock_skew(second, second + 10_000, second + 205_000), Some(-0.2));
        assert_eq!(clock_skew(second, second + 100_001, second), None, "too slow for an estimate");
        assert_eq!(clock_skew(second, second - 1, second), None, "the clock was set back in the meantime");
    }
}
