//! A gateway whose clock is set at runtime (A14). `clock.c` replaces the gateway's system clock.

use std::{
    fs::{self, File},
    io::Write,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;

use crate::{
    audience::{FeedClient, ms},
    exchange::ExchangeProcess,
    nothing,
    stage::{SYMBOLS, settings, unless},
    support::{redis::RedisServer, replica::TestReplica},
};

/// A movable system clock for one process.
struct MovableClock(TempDir);

impl MovableClock {
    /// Builds it with the C compiler that Rust links with.
    fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("offset"), 0_i64.to_ne_bytes()).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/feed/clock.c");
        let library = folder.path().join("clock.so");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(source).status();
        assert!(built.expect("cc: install it (apt-get install build-essential)").success(), "{source}");
        Self(folder)
    }

    fn path(&self, file: &str) -> String {
        self.0.path().join(file).display().to_string()
    }

    /// Moves it this many seconds away from the real time.
    fn set(&self, seconds: i64) {
        let mut file = File::options().write(true).open(self.path("offset")).unwrap();
        file.write_all(&seconds.to_ne_bytes()).unwrap();
    }
}

/// A14: the clock jumps forwards, backwards, and back. Order, staleness and timeouts do not depend on it.
pub async fn a14_a_clock_that_jumps_changes_only_timestamps() {
    let clock = MovableClock::build();
    let (exchange, redis) = (ExchangeProcess::start(&[]), RedisServer::start());
    let environment = [("LD_PRELOAD", &*clock.path("clock.so")), ("CLOCK_OFFSET", &*clock.path("offset"))];
    let replica = TestReplica::process_in(&redis, &settings(&exchange, ""), &environment).await;
    let mut audience = FeedClient::of(&replica, SYMBOLS).await;
    let is_live = |seen: &FeedClient| SYMBOLS.iter().all(|symbol| seen.is_live(symbol));
    let mut wrong = audience.until("data flows", 25, is_live).await;
    let from = audience.statuses.len();
    for seconds in [3_600, -3_600, 0] {
        clock.set(seconds);
        audience.watch(1.0).await;
        let count = audience.count("BTCUSDT") + 60;
        wrong.extend(audience.until("more trades", 15, |seen| seen.count("BTCUSDT") >= count).await);
        let book = audience.books["BTCUSDT"].last().map_or(0, ms);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let ahead = book as i64 - now;
        let is_by_the_clock = (ahead - seconds * 1_000).abs() < 5_000;
        wrong.extend(unless(is_by_the_clock, format!("a book is {ahead} ms ahead, the clock {seconds} s")));
    }
    wrong.extend(audience.troubles_since(from));
    wrong.extend(audience.judged(&exchange).await);
    wrong.extend(exchange.violations().await);
    let connects = exchange.connects().await;
    wrong.extend(unless(connects == 1, format!("{connects} connections")));
    nothing(wrong);
}
