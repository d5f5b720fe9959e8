//! What a Redis server says about itself, and what follows: whether it is the one known before, and above which epoch its
//! ids are safe. Pure: `connect` asks, this decides.

use std::sync::Arc;

/// Oldest servers that have everything the gateway uses: `<epoch>-*` ids need Redis 7.0, which Valkey forked from at 7.2.
const VERSION_MIN: (u32, u32) = (7, 0);
/// The year 2200, in milliseconds since 1970.
const EPOCH_MAX: u64 = 7_258_118_400_000;

/// The answer to `INFO server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) run_id: String,
    /// False: the id was made up for this one connection.
    pub(super) has_run_id: bool,
    pub(super) version: Arc<str>,
    pub(super) is_supported: bool,
    /// False: the server took no writes (full, disk, replicas) when the link was made, so it did not store the generation.
    pub(super) has_stored: bool,
}

impl Server {
    /// Reads the answer to `INFO server`.
    pub(super) fn parse(info: &str) -> Self {
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
        };
        let (name, version) = match field("valkey_version") {
            "" => ("redis", field("redis_version")),
            valkey => ("valkey", valkey),
        };
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Self {
            run_id: field("run_id").to_owned(),
            has_run_id: true,
            version: format!("{name} {version}").into(),
            is_supported: found >= VERSION_MIN,
            has_stored: true,
        }
    }

    /// A server that denies INFO. Every connection counts as one to a new server: safe, with more comparisons than needed.
    pub(super) fn anonymous(run_id: String) -> Self {
        Self { run_id, has_run_id: false, version: "unknown".into(), is_supported: true, has_stored: true }
    }

    /// Whether the server still has the generation that a connection learned. One that was emptied (`FLUSHALL`) was not
    /// restarted, and is a new server all the same.
    pub(super) fn keeps(&self, generation: u64, stored: Option<u64>) -> bool {
        if !self.has_stored {
            // A later link stored a greater one as soon as the server took writes.
            return stored.is_none_or(|stored| stored <= generation);
        }
        stored.is_some_and(|stored| stored == generation || !self.has_run_id)
    }
}

/// What a connection's generation means, compared with the newest one known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adoption {
    /// The first server of this process.
    First,
    /// Not newer: the same server, or a connection that still leads to the one before.
    Known,
    /// Another server, or the same one restarted or emptied: it may have lost its last writes.
    Changed { before: u64 },
}

/// Takes a generation over if it is newer; says what that means. 0: none is known.
pub(super) fn adopt(known: &mut u64, learned: u64) -> Adoption {
    let before = *known;
    *known = before.max(learned);
    match before {
        _ if *known == before => Adoption::Known,
        0 => Adoption::First,
        _ => Adoption::Changed { before },
    }
}

/// A round trip that took longer says too little of the clock.
const CLOCK_TRIP_MAX_US: u64 = 100_000;

/// By how many seconds this replica's clock is ahead of the server's, which was asked at `sent_us` and answered by
/// `received_us`; all in microseconds since 1970. Wrong by at most half of the round trip, 50 ms.
pub(super) fn clock_skew(sent_us: u64, received_us: u64, server_us: u64) -> Option<f64> {
    let trip_us = received_us.checked_sub(sent_us).filter(|trip| *trip <= CLOCK_TRIP_MAX_US)?;
    Some(((sent_us + trip_us / 2) as f64 - server_us as f64) / 1e6)
}

/// Whether a clock can have given this epoch. A greater one, written by mistake, would push all later epochs beyond it.
pub(super) const fn is_plausible(epoch: u64) -> bool {
    epoch < EPOCH_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_both_servers() {
        let redis = Server::parse("# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n");
        assert_eq!(
            redis,
            Server {
                run_id: "abc".into(),
                has_run_id: true,
                version: "redis 7.0.15".into(),
                is_supported: true,
                has_stored: true
            }
        );
        assert!(!Server::parse("redis_version:6.2.14\r\nrun_id:x\r\n").is_supported);
        let valkey = Server::parse("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n");
        assert_eq!((&*valkey.version, valkey.is_supported), ("valkey 8.0.1", true));
        assert!(!Server::parse("").is_supported);
    }

    #[test]
    fn a_server_changes_only_to_a_greater_generation() {
        let mut known = 0;
        assert_eq!(adopt(&mut known, 7), Adoption::First);
        assert_eq!(adopt(&mut known, 7), Adoption::Known);
        assert_eq!(adopt(&mut known, 9), Adoption::Changed { before: 7 });
        assert_eq!(adopt(&mut known, 8), Adoption::Known, "a connection to the server before");
        assert_eq!(known, 9);
    }

    #[test]
    fn an_emptied_server_is_not_the_one_before() {
        let server = Server::parse("redis_version:7.0.15\r\nrun_id:abc\r\n");
        assert!(server.keeps(7, Some(7)));
        assert!(!server.keeps(7, None), "emptied");
        assert!(!server.keeps(7, Some(8)), "emptied, and met by somebody else since");
        let anonymous = Server::anonymous("x".into());
        assert!(anonymous.keeps(7, Some(8)), "each connection to it has a generation of its own");
        assert!(!anonymous.keeps(7, None));
        let full = Server { has_stored: false, ..server };
        assert!(full.keeps(7, None) && full.keeps(7, Some(3)), "it could not be stored");
        assert!(!full.keeps(7, Some(8)), "another link stored a greater one since");
    }

    #[test]
    fn the_servers_clock_is_compared_with_the_middle_of_the_round_trip() {
        let second = 1_763_700_000_000_000;
        assert_eq!(clock_skew(second, second + 10_000, second + 5_000), Some(0.0));
        assert_eq!(clock_skew(second + 300_000, second + 310_000, second + 5_000), Some(0.3));
        assert_eq!(clock_skew(second, second + 10_000, second + 205_000), Some(-0.2));
        assert_eq!(clock_skew(second, second + 100_001, second), None, "too slow to tell");
        assert_eq!(clock_skew(second, second - 1, second), None, "the clock was set back meanwhile");
    }

    #[test]
    fn an_epoch_that_no_clock_gave_is_not_plausible() {
        assert!(is_plausible(1_763_700_000_000));
        assert!(!is_plausible(u64::MAX));
    }
}
